# SPDX-License-Identifier: Apache-2.0
"""What every slot has in common: the PCI function's ids and state, the verdict on its health, the final record."""

from __future__ import annotations

import functools
import re
import uuid
from typing import NamedTuple

from fpgahal._info import DeviceInfo, Health, HealthStatus
from fpgahal._sysfs import boards, read
from fpgahal._sysfs.tree import Tree, parent


class Ids(NamedTuple):
    """PCI ids and class (0 where unreadable) and the NUMA node of a function."""

    vendor: int = 0
    device: int = 0
    subvendor: int = 0
    subdevice: int = 0
    pci_class: int = 0
    numa_node: int = -1


class Verdict:
    """Collects what is wrong with a slot; the worst finding decides the status."""

    def __init__(self) -> None:
        self._failed: list[str] = []
        self._degraded: list[str] = []
        self._needs_image = True
        self.answers = True

    def failed(self, reason: str, *, needs_image: bool = False, dead: bool = False) -> None:
        """Note a reason why the slot can't be used; whether an image mends it, or the card does not answer at all."""
        self._failed.append(reason)
        self._needs_image &= needs_image
        self.answers &= not dead

    def degraded(self, reason: str, *, dead: bool = False) -> None:
        """Note a flaw that leaves the slot usable; or seems to, though a part of the card does not answer."""
        self._degraded.append(reason)
        self.answers &= not dead

    def absorb(self, other: Verdict) -> None:
        """Take over the findings of `other`."""
        self._failed += other._failed
        self._degraded += other._degraded
        self._needs_image &= other._needs_image
        self.answers &= other.answers

    def health(self) -> Health:
        """Return the sum of it."""
        if self._failed:
            return Health(HealthStatus.FAILED, "; ".join(self._failed + self._degraded), self._needs_image)
        if self._degraded:
            return Health(HealthStatus.DEGRADED, "; ".join(self._degraded))
        return _OK


_OK = Health()


# one file instead of five
_UEVENT = re.compile(
    rb"PCI_CLASS=([0-9A-F]{1,8})\nPCI_ID=([0-9A-F]{4}):([0-9A-F]{4})\nPCI_SUBSYS_ID=([0-9A-F]{4}):([0-9A-F]{4})\n"
)
_FATAL = re.compile(rb"TOTAL_ERR_FATAL ([1-9][0-9]*)\s*$")
_ALL_ONES = b"\xff" * 8


def ids(folder: str, verdict: Verdict) -> Ids:
    """Read the ids of the PCI function in `folder` (a real path)."""
    node = read.number(f"{folder}/numa_node", 10)
    numa_node = node if isinstance(node, int) and node >= 0 else -1
    event = read.start(f"{folder}/uevent")
    known = _of_uevent(event, numa_node) if isinstance(event, bytes) else None
    if known:
        return known
    found = [0, 0, 0, 0]
    for position, name in enumerate(("vendor", "device", "subsystem_vendor", "subsystem_device")):
        value = read.number(f"{folder}/{name}", 16)
        if isinstance(value, int) and 0 <= value <= 0xFFFF:
            found[position] = value
        elif position < 2:  # subsystem ids are a refinement; without vendor and device nobody knows the board
            reason = value.reason if isinstance(value, read.Unreadable) else f"it holds {value:#x}, not a PCI id"
            verdict.degraded(f"the PCI {name} id can't be read ({reason})")
    of_class = read.number(f"{folder}/class", 16)
    vendor, device, subvendor, subdevice = found
    return Ids(vendor, device, subvendor, subdevice, of_class if isinstance(of_class, int) else 0, numa_node)


@functools.lru_cache(1024)  # each scan reads the same again
def _of_uevent(event: bytes, numa_node: int) -> Ids | None:
    known = _UEVENT.search(event)
    if known is None:
        return None
    kind, vendor, device, subvendor, subdevice = (int(value, 16) for value in known.groups())
    return Ids(vendor, device, subvendor, subdevice, kind, numa_node)


def judge_bus(folder: str, verdict: Verdict) -> None:
    """Judge the PCI function's connection: does it answer, is its link as wide as it could be, did it fail before.

    A virtual function has no link of its own: there the width is 0.
    """
    if read.start(f"{folder}/config", 8) == _ALL_ONES:  # ids and status; a live virtual function has a status, too
        verdict.failed(
            "the card is off the bus (its PCI configuration reads all ones): power-cycle it, or remove and rescan it",
            dead=True,
        )
        return
    errors = read.start(f"{folder}/aer_dev_fatal")
    fatal = _FATAL.search(errors) if isinstance(errors, bytes) else None
    if fatal:
        count = int(fatal[1])
        verdict.degraded(f"{count} fatal PCIe errors since the machine started (aer_dev_fatal): dmesg says which")
    width = read.number(f"{folder}/current_link_width", 10)
    if not isinstance(width, int) or width <= 0:
        return
    most = read.number(f"{folder}/max_link_width", 10)
    if isinstance(most, int) and width < most:
        slot = read.number(f"{parent(folder)}/max_link_width", 10)
        if isinstance(slot, int) and width < slot:
            verdict.degraded(f"the PCIe link has {width} of {min(most, slot)} possible lanes: reseat the card")


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
            "reconfiguration: program a known good image",
            needs_image=True,
        )
    else:
        verdict.failed(
            f"{what} is garbled ({value.reason}): program a known good image, or power-cycle the card",
            dead=value.dead,
        )
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
    logic_id: uuid.UUID | None = None,
) -> DeviceInfo:
    """Make the record of one slot and fill in what follows from the rest: names, root, the mark of an emulated board.

    `nodes` are names below ``/dev``; `name` overrides the table of boards.
    """
    short, title = boards.lookup(found.vendor, found.device, found.subdevice, vbnv)
    if not title and tree.emulated and folder:  # a board from the user's own data file: the tree says what it is
        short, _, title = read.line(f"{folder}/fpgahal_board").partition(" ")
    title = name or title or boards.generic(found.vendor, found.device)
    return _info(
        bdf,
        slot,
        driver,
        f"EMULATED {title}" if tree.emulated else title,
        found.vendor,
        found.device,
        found.subvendor,
        found.subdevice,
        afu_id,
        interface_id,
        vbnv or short,
        timestamp,
        kernel_driver,
        found.numa_node,
        verdict.health(),
        tree.emulated,
        tuple([tree.node(node) for node in nodes]),
        management_bdf,
        serial,
        short,
        found.pci_class,
        logic_id,
        tuple([tree.node(node) for node in nodes if not tree.has_node(node)]),
        verdict.answers,
        tree.root or "/",
    )


# Most scans find what the last one found: then they give the same records, which also compare faster.
_info = functools.lru_cache(1024)(DeviceInfo)
