# SPDX-License-Identifier: Apache-2.0
"""What every slot has in common: the PCI function's ids and node, the verdict on its health, the final record."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

from fpgahal._sysfs import boards, read
from fpgahal._sysfs.tree import Tree
from fpgahal._types import DeviceInfo, Health, HealthStatus


@dataclass(frozen=True, slots=True)
class Ids:
    """PCI ids (0 where unreadable) and the NUMA node of a function."""

    vendor: int = 0
    device: int = 0
    subvendor: int = 0
    subdevice: int = 0
    numa_node: int = -1


class Verdict:
    """Collects what is wrong with a slot; the worst finding decides the status."""

    def __init__(self) -> None:
        self._failed: list[str] = []
        self._degraded: list[str] = []

    def failed(self, reason: str) -> None:
        """Note a reason why the slot can't be used."""
        self._failed.append(reason)

    def degraded(self, reason: str) -> None:
        """Note a flaw that leaves the slot usable."""
        self._degraded.append(reason)

    def absorb(self, other: Verdict) -> None:
        """Take over the findings of `other`."""
        self._failed += other._failed
        self._degraded += other._degraded

    def health(self) -> Health:
        """Return the sum of it."""
        if self._failed:
            return Health(HealthStatus.FAILED, "; ".join(self._failed + self._degraded))
        if self._degraded:
            return Health(HealthStatus.DEGRADED, "; ".join(self._degraded))
        return _OK


_OK = Health()


def ids(folder: str, verdict: Verdict) -> Ids:
    """Read the ids of the PCI function in `folder` (a real path)."""
    found = [0, 0, 0, 0]
    for position, name in enumerate(("vendor", "device", "subsystem_vendor", "subsystem_device")):
        value = read.number(f"{folder}/{name}", 16)
        if isinstance(value, int) and 0 <= value <= 0xFFFF:
            found[position] = value
        elif position < 2:  # subsystem ids are a refinement; without vendor and device nobody knows the board
            reason = value.reason if isinstance(value, read.Unreadable) else f"it holds {value:#x}, not a PCI id"
            verdict.degraded(f"the PCI {name} id can't be read ({reason})")
    node = read.number(f"{folder}/numa_node", 10)
    vendor, device, subvendor, subdevice = found
    return Ids(vendor, device, subvendor, subdevice, node if isinstance(node, int) and node >= 0 else -1)


def loaded(value: uuid.UUID | read.Unreadable | None, what: str, verdict: Verdict, missing: str) -> uuid.UUID | None:
    """Judge the id of what a slot holds, `value` as read from `what`; `missing` is the advice if there is no file."""
    if not isinstance(value, read.Unreadable):
        return value
    if value.missing:
        verdict.failed(f"{what} is missing: {missing}")
    elif value.name in ("EACCES", "EPERM"):
        verdict.failed(f"{what} can't be read ({value.reason}): give this user read access to sysfs")
    elif value.number:
        verdict.failed(
            f"port held in reset ({value.name} from {what}), as after a failed or unfinished "
            "reconfiguration: program a known good image"
        )
    else:
        verdict.failed(f"{what} is garbled ({value.reason}): program a known good image, or power-cycle the card")
    return None


def missing_node(tree: Tree, name: str) -> str:
    """Return the text for a device node that is not there."""
    node = tree.node(name)
    return f"device node {node} is missing: in a container, pass it in (--device {node}); else check udev"


def record(
    tree: Tree,
    folder: str,
    found: Ids,
    verdict: Verdict,
    *,
    bdf: str,
    driver: str,
    kernel_driver: str,
    slot: int = 0,
    afu_id: uuid.UUID | None = None,
    interface_id: uuid.UUID | None = None,
    vbnv: str = "",
    name: str = "",
    timestamp: int = 0,
    nodes: tuple[str, ...] = (),
    management_bdf: str = "",
    serial: str = "",
) -> DeviceInfo:
    """Make the record of one slot and fill in what follows from the rest: names, root, the mark of an emulated board.

    `nodes` are names below ``/dev``; `name` overrides the table of boards.
    """
    short, title = boards.lookup(found.vendor, found.device, found.subdevice, vbnv)
    if not title and tree.emulated and folder:  # a board from the user's own data file: the tree says what it is
        short, _, title = read.line(f"{folder}/fpgahal_board").partition(" ")
    title = name or title or boards.generic(found.vendor, found.device)
    return DeviceInfo(
        bdf=bdf,
        slot=slot,
        driver=driver,
        name=f"EMULATED {title}" if tree.emulated else title,
        vendor_id=found.vendor,
        device_id=found.device,
        subvendor_id=found.subvendor,
        subdevice_id=found.subdevice,
        afu_id=afu_id,
        interface_id=interface_id,
        platform=vbnv or short,
        timestamp=timestamp,
        kernel_driver=kernel_driver,
        numa_node=found.numa_node,
        health=verdict.health(),
        emulated=tree.emulated,
        device_nodes=tuple(tree.node(node) for node in nodes),
        management_bdf=management_bdf,
        serial=serial,
        root=tree.root or "/",
    )
