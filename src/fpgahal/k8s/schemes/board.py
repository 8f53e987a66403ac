# SPDX-License-Identifier: Apache-2.0
"""What a container needs of a board, whatever the scheme that names it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from posixpath import basename

from fpgahal import DeviceInfo
from fpgahal.k8s.names import DOMAIN
from fpgahal.k8s.plugin.health import reasons
from fpgahal.k8s.plugin.unit import DeviceNode, Mount, Unit

#: Tells a process in the container which folder is its (emulated) machine.
RACK = "FPGAHAL_EMU_RACK"
EMULATED = {f"{DOMAIN}/emulated": "true"}

# Listed is what is harmless to others: a management node (FME, xclmgmt) can rewrite the whole board.
_PORT = re.compile(r"(dfl|intel-fpga)-port\.[0-9]+")
_FME = re.compile(r"(dfl|intel-fpga)-fme\.[0-9]+")
_RENDER = re.compile(r"renderD[0-9]+|dma\.qdma\.u[0-9]+\.[0-9]+")


def port(info: DeviceInfo) -> str:
    """Give the device node of an Intel board's port; empty if it has none."""
    return _first(info, _PORT)


def fme(info: DeviceInfo) -> str:
    """Give the device node of an Intel board's management engine; empty if it is not to be seen from here."""
    return _first(info, _FME)


def problem(info: DeviceInfo) -> str:
    """Say why a board can never be offered as it is: what manages it is there, but nothing that could be used.

    One that is only not ready yet can be offered, unhealthy.
    """
    usable = bool(port(info)) if info.driver == "opae" else info.bdf != info.management_bdf
    return "" if usable else info.health.reason or "it has nothing that an application could open"


def _first(info: DeviceInfo, pattern: re.Pattern[str]) -> str:
    return next((node for node in info.device_nodes if pattern.fullmatch(basename(node))), "")


def application_nodes(info: DeviceInfo) -> tuple[str, ...]:
    """Give the device nodes with which an application works: never one that manages the board."""
    return tuple(
        node for node in info.device_nodes if _PORT.fullmatch(basename(node)) or _RENDER.fullmatch(basename(node))
    )


def slot_id(info: DeviceInfo) -> str:
    """Give a device id that stays: the PCI address, and behind it the port's number where that is not 0."""
    return f"{info.bdf}-{info.slot}" if info.slot else info.bdf


def unit(
    id: str,
    resource: str,
    slots: Iterable[DeviceInfo],
    nodes: Iterable[str],
    *,
    env: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    reason: str = "",
    wanted: str = "",
    programmed_by_pod: bool = False,
) -> Unit:
    """Make a unit of slots; an emulated board's nodes are plain files, so the container gets its machine's folder.

    `reason` adds to what is wrong with the slots themselves.
    """
    slots = tuple(slots)
    racks = tuple(dict.fromkeys(info.root for info in slots if info.emulated))
    nodes = tuple(nodes)
    found = (reasons(slots, to_be_programmed=programmed_by_pod), reason, "" if nodes else "it has no device node")
    return Unit(
        id,
        resource,
        slots,
        "; ".join(filter(None, found)),
        () if racks else tuple(DeviceNode(node, node) for node in nodes),
        tuple(Mount(rack, rack) for rack in racks),
        {**(env or {}), **({RACK: racks[0]} if racks else {})},
        {**(annotations or {}), **(EMULATED if racks else {})},
        tuple(sorted({info.numa_node for info in slots if info.numa_node >= 0})),
        wanted,
        programmed_by_pod,
    )
