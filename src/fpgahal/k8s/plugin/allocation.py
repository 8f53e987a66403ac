# SPDX-License-Identifier: Apache-2.0
"""What a container gets with the units that kubelet chose for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from fpgahal import DeviceStateError
from fpgahal.k8s.plugin.cdi import needs_cdi, qualified_name, variable
from fpgahal.k8s.schemes.settings import Settings
from fpgahal.k8s.unit import DeviceNode, Mount, Unit


class Allocation(NamedTuple):
    """One container's share.

    Attributes
    ----------
    env, annotations : mapping of str to str
    mounts, nodes : tuple
    cdi : tuple of str
        Qualified names of CDI devices, whose files must be there before the container is made.
    """

    env: Mapping[str, str] = MappingProxyType({})
    annotations: Mapping[str, str] = MappingProxyType({})
    mounts: tuple[Mount, ...] = ()
    nodes: tuple[DeviceNode, ...] = ()
    cdi: tuple[str, ...] = ()


def allocate(units: Sequence[Unit], settings: Settings) -> Allocation:
    """Put together what a container gets.

    Where several units set the same variable or annotation, the values are joined with commas, in order of the ids:
    kubelet hands ids over in any order.

    Raises
    ------
    DeviceStateError
        A unit is unhealthy; the message says which and why.
    """
    for unit in units:
        if not unit.healthy:
            raise DeviceStateError(f"Device {unit.id} of {unit.resource} can't be used now: {unit.reason}.")
    units = sorted(units, key=lambda unit: (len(unit.id), unit.id))
    slots = [info for unit in units for info in unit.slots]
    return Allocation(
        # Kubelet asks for each resource of a container by itself, and one answer's list would hide the other's.
        {variable(info): info.address for info in slots} | _joined(unit.env for unit in units),
        _joined(unit.annotations for unit in units),
        tuple(dict.fromkeys(mount for unit in units for mount in unit.mounts)),
        tuple(dict.fromkeys(node for unit in units for node in unit.nodes)),
        tuple(qualified_name(unit) for unit in units if needs_cdi(unit, settings)),
    )


def _joined(values: Iterable[Mapping[str, str]]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for mapping in values:
        for name, value in mapping.items():
            known = found.setdefault(name, [])
            if value not in known:
                known.append(value)
    return {name: ",".join(known) for name, known in found.items()}
