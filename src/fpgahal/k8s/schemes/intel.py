# SPDX-License-Identifier: Apache-2.0
"""Intel's scheme: ``fpga.intel.com/af-...`` and ``fpga.intel.com/region-...``, as of its plugin's release 0.36."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from posixpath import basename

from fpgahal import ArgumentRangeError, DeviceInfo
from fpgahal.k8s.names import INTEL_DOMAIN, af_resource, af_resource_2018, region_resource
from fpgahal.k8s.plugin.unit import Skipped, Unit
from fpgahal.k8s.schemes import board
from fpgahal.k8s.schemes.settings import Settings

#: What Intel's hook looked for until release 0.30, and that asks ours for the same.
ANNOTATION = {"com.intel.fpga.mode": f"{INTEL_DOMAIN}/region"}

_PROCESSING_ACCELERATOR = 0x120000
_DEAD = "f" * 32  # what a card that does not answer reads, and so its name in Intel's plugin


def units(devices: Sequence[DeviceInfo], settings: Settings) -> Iterator[Unit | Skipped]:
    """Offer Intel's boards in the mode that is set; the id is the name of the port or management engine."""
    usable = []
    for info in devices:
        if info.driver != "opae":
            continue
        problem = _problem(info)
        if problem:
            yield Skipped(info.address, problem)
        else:
            usable.append(info)
    yield from _functions(usable, settings) if settings.mode == "af" else _regions(usable, settings)


def _problem(info: DeviceInfo) -> str:
    node = board.port(info)
    if info.pci_class not in (0, _PROCESSING_ACCELERATOR):
        return f"PCI class {info.pci_class:#08x} is not that of an FPGA board ({_PROCESSING_ACCELERATOR:#08x})"
    if node in info.missing_nodes:
        return info.health.reason or f"device node {node} is missing"
    return board.problem(info)


def _functions(devices: Sequence[DeviceInfo], settings: Settings) -> Iterator[Unit | Skipped]:
    for info in devices:
        afu_id = info.afu_id.hex if info.afu_id else "" if info.answers else _DEAD
        node = board.port(info)
        if not afu_id:
            yield Skipped(info.address, info.health.reason or "no function is programmed")
            continue
        try:
            name = af_resource(_interface(info), afu_id) if settings.intel_names == "2020" else af_resource_2018(afu_id)
        except ArgumentRangeError:
            yield Skipped(info.address, _unnamed(info))
            continue
        yield board.unit(basename(node), f"{INTEL_DOMAIN}/{name}", (info,), (node,), wanted=afu_id)


def _regions(devices: Sequence[DeviceInfo], settings: Settings) -> Iterator[Unit | Skipped]:
    managed: dict[str, list[DeviceInfo]] = {}
    for info in devices:
        manager = board.fme(info)
        if not manager:
            yield Skipped(info.address, info.health.reason or "it has no management engine (FME)")
        elif not _interface(info):
            yield Skipped(info.address, _unnamed(info))
        else:
            managed.setdefault(manager, []).append(info)
    orchestrated = settings.mode == "region"
    for manager, slots in managed.items():
        nodes = [board.port(info) for info in slots]
        if not orchestrated:
            nodes.append(manager)
        yield board.unit(
            basename(manager),
            f"{INTEL_DOMAIN}/{region_resource(_interface(slots[0]))}",
            slots,
            nodes,
            annotations=ANNOTATION if orchestrated and settings.intel_annotation else None,
            reason=f"device node {manager} is missing" if manager in slots[0].missing_nodes else "",
            programmed_by_pod=orchestrated,
        )


def _interface(info: DeviceInfo) -> str:
    return info.interface_id.hex if info.interface_id else "" if info.answers else _DEAD


def _unnamed(info: DeviceInfo) -> str:
    return info.health.reason or "it has no interface id, which this scheme's names are made of"
