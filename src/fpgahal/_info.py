# SPDX-License-Identifier: Apache-2.0
"""What a look at a board gives: frozen, comparable, printable, no device behind it.  All that a scan imports."""

from __future__ import annotations

import enum
import uuid
from dataclasses import dataclass, field


class HealthStatus(enum.Enum):
    """What the operating system says of a device, without opening it."""

    OK = "ok"
    DEGRADED = "degraded"  #: usable, but something is wrong: read the reason
    FAILED = "failed"  #: not usable as it is


@dataclass(frozen=True, slots=True)
class Health:
    """State of a device and why.

    Attributes
    ----------
    status : HealthStatus
    reason : str
        What is wrong and where it was read; empty when the status is OK.
    needs_image : bool
        FAILED for no other reason than that no working image is loaded: programming one mends it.
    """

    status: HealthStatus = HealthStatus.OK
    reason: str = ""
    needs_image: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.status is HealthStatus.OK

    def __str__(self) -> str:
        return f"{self.status.value}: {self.reason}" if self.reason else self.status.value


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """One programmable slot of a board, as sysfs describes it.

    Attributes
    ----------
    bdf : str
        PCI address of the function that an application opens, ``"0000:3b:00.0"``; or ``"manager:/path"`` (a scheme).
    slot : int
        Port number within that function; 0 where there is one.
    driver : str
        ``"opae"`` or ``"xrt"``: which binding opens it; or the name of a scheme, ``"manager"``.
    name : str
        The board's name for people; says EMULATED on an emulated board.
    vendor_id, device_id, subvendor_id, subdevice_id : int
        PCI ids; 0 where they could not be read.
    afu_id : uuid.UUID or None
        What is loaded: the AFU id (OPAE) or the xclbin's UUID (XRT); None if nothing, or unreadable.
    interface_id : uuid.UUID or None
        What an image must have been built for: PR interface id (OPAE), interface UUID (XRT, two-stage
        shells); None where the board has none.
    platform : str
        The shell's name: VBNV (XRT), or the board's short name (OPAE).
    timestamp : int
        Feature ROM time stamp of the shell (XRT, one-stage shells); 0 if it has none.
    kernel_driver : str
        The Linux driver's layout: ``"dfl"``, ``"intel-fpga"``, ``"xocl"``.
    numa_node : int
        -1 if the machine does not say.
    health : Health
    emulated : bool
    device_nodes : tuple of str
        The device files that a container needs for it, application node first.
    management_bdf : str
        The PCI function that programs it, if it is another one; else empty.
    serial : str
        The board's serial number; empty if unknown.
    board : str
        The board's family in one word, the same whatever the shell: ``"pac-a10"``, ``"u250"``; empty if unknown.
    pci_class : int
        ``0x120000`` is a processing accelerator; 0 if unknown.
    logic_id : uuid.UUID or None
        What the shell itself is (XRT: logic UUID); None where the board has none.
    missing_nodes : tuple of str
        Those of `device_nodes` that are not there.
    answers : bool
        False if an id reads all ones: the card is there, but dead.
    root : str
        The folder that stands for ``/``: ``"/"``, or an emulated rack's folder.
    """

    bdf: str
    slot: int = 0
    driver: str = ""
    name: str = ""
    vendor_id: int = 0
    device_id: int = 0
    subvendor_id: int = 0
    subdevice_id: int = 0
    afu_id: uuid.UUID | None = None
    interface_id: uuid.UUID | None = None
    platform: str = ""
    timestamp: int = 0
    kernel_driver: str = ""
    numa_node: int = -1
    health: Health = field(default_factory=Health)
    emulated: bool = False
    device_nodes: tuple[str, ...] = ()
    management_bdf: str = ""
    serial: str = ""
    board: str = ""
    pci_class: int = 0
    logic_id: uuid.UUID | None = None
    missing_nodes: tuple[str, ...] = ()
    answers: bool = True
    root: str = field(default="/", repr=False)

    @property
    def address(self) -> str:
        """``bdf/slot``: the shortest text that names this slot."""
        return self.bdf if "/" in self.bdf else f"{self.bdf}/{self.slot}"

    def __str__(self) -> str:
        loaded = f"afu {self.afu_id}" if self.afu_id else "empty"
        health = "" if self.health.ok else f"  [{self.health}]"
        return f"{self.address}  {self.driver}  {self.name}  {loaded}{health}"


__all__ = ["DeviceInfo", "Health", "HealthStatus"]
