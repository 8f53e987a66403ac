# SPDX-License-Identifier: Apache-2.0
"""From the boards that sysfs shows to what the node offers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fpgahal import ArgumentRangeError, DeviceInfo
from fpgahal.k8s.names import check_device_id, check_resource
from fpgahal.k8s.plugin.unit import Inventory, Skipped, Unit
from fpgahal.k8s.schemes import SCHEMES
from fpgahal.k8s.schemes.settings import Settings


def take(devices: Sequence[DeviceInfo], settings: Settings) -> Inventory:
    """Offer each board under the first scheme that takes it.

    A board that a scheme skips is not left to the next one: what made it skip may pass, and a pod may still have
    the board under the first one's name.

    Parameters
    ----------
    devices : sequence of DeviceInfo
        As :func:`fpgahal.devices` lists them.
    settings : Settings

    Returns
    -------
    Inventory
        Never an exception for what a board is like: it is in ``skipped``, with the reason.
    """
    resources: dict[str, dict[str, Unit]] = {}
    skipped: list[Skipped] = []
    left = list(devices)
    for name in settings.schemes:
        taken: set[str] = set()
        for found in SCHEMES[name](left, settings):
            if isinstance(found, Skipped):
                taken.add(found.address)
                skipped.append(found)
                continue
            taken.update(info.address for info in found.slots)
            problem = _unusable(found, resources)
            if problem:
                skipped += [Skipped(info.address, problem) for info in found.slots] or [Skipped(found.id, problem)]
            else:
                resources.setdefault(found.resource, {})[found.id] = found
        left = [info for info in left if info.address not in taken]
    schemes = ", ".join(settings.schemes)
    skipped += [Skipped(info.address, f"no scheme takes it (configured: {schemes})") for info in left]
    return Inventory(resources, tuple(skipped))


def _unusable(unit: Unit, resources: dict[str, dict[str, Unit]]) -> str:
    """Say why kubelet would refuse a unit; empty if it would not."""
    try:
        check_resource(unit.resource)
        check_device_id(unit.id)
    except ArgumentRangeError as error:
        return error.message
    if unit.id in resources.get(unit.resource, {}):
        return f"{unit.resource} already has a device {unit.id}"
    return ""


_INTEL, _AMD = frozenset({"dfl", "intel-fpga"}), frozenset({"xocl"})
_DRIVERS = {"own": _INTEL | _AMD, "intel": _INTEL, "xilinx": _AMD, "inaccel": _INTEL | _AMD, "bcom": _INTEL | _AMD}


def driver_problems(loaded: Iterable[str], settings: Settings) -> tuple[str, ...]:
    """Say for which schemes no kernel driver is loaded, so that nothing will ever be offered under them.

    Parameters
    ----------
    loaded : iterable of str
        As :func:`fpgahal.kernel_drivers` lists them.
    settings : Settings
    """
    drivers = frozenset(loaded)
    return tuple(
        f"scheme {name}: kernel driver not loaded; expected {' or '.join(sorted(_DRIVERS[name]))}"
        for name in settings.schemes
        if name in _DRIVERS and not drivers & _DRIVERS[name]
    )


__all__ = ["Settings", "driver_problems", "take"]
