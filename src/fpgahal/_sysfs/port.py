# SPDX-License-Identifier: Apache-2.0
"""What sysfs says of one port or FME, for a session that talks to the driver itself."""

from __future__ import annotations

import glob
import os
import uuid
from contextlib import suppress

from fpgahal._info import DeviceInfo
from fpgahal._sysfs import read

_CONTAINERS = ("fpga_region/region*", "fpga/intel-fpga-dev.*")  # DFL, intel-fpga: below the PCI function


def folder(info: DeviceInfo, node: str) -> str:
    """Return the folder of the port or FME with that device node; empty if there is none (now)."""
    root = "" if info.root == "/" else info.root.rstrip("/")
    name = os.path.basename(node)
    for bdf in filter(None, (info.bdf, info.management_bdf)):
        function = glob.escape(f"{root}/sys/bus/pci/devices/{bdf}")
        for container in _CONTAINERS:
            for path in glob.iglob(f"{function}/{container}/{name}"):
                return path
    return ""


def answers(port: str) -> bool:
    """Whether an AFU is behind a port: while it is held in reset, reading ``afu_id`` fails (EBUSY)."""
    value: uuid.UUID | read.Unreadable | None = read.guid(f"{port}/afu_id")
    # No such file: some boards show none on their physical function; then only a register read can tell.
    return not isinstance(value, read.Unreadable) or value.missing


def number(port: str) -> int:
    """Return the port's number as its FME counts it; 0 if sysfs does not say."""
    value = read.number(f"{port}/id", 10)
    return value if isinstance(value, int) and value >= 0 else 0


def errors(port: str, fme: str) -> dict[str, int]:
    """Return the error registers of a port and its FME: name -> value."""
    found: dict[str, int] = {}
    for kind, start in (("port", port), ("fme", fme)):
        paths = glob.glob(f"{glob.escape(start)}/errors/*") + glob.glob(f"{glob.escape(start)}/errors/fme-errors/*")
        for path in sorted(paths) if start else ():
            name = os.path.basename(path)
            if os.path.isfile(path) and name not in ("clear", "revision") and not name.startswith("inject"):
                value = read.number(path, 16)
                if isinstance(value, int):
                    found[f"{kind}/{name}"] = value
    return found


def clear_errors(port: str) -> None:
    """Clear a port's errors, by writing the value just read: to ``clear`` (intel-fpga), else to itself (DFL)."""
    value = read.text(f"{port}/errors/errors")
    if isinstance(value, str) and value:
        for name in ("clear", "errors"):
            with suppress(OSError):
                fd = os.open(f"{port}/errors/{name}", os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    os.write(fd, value.encode())
                finally:
                    os.close(fd)
                return


def has_user_clock(port: str) -> bool:
    """Whether the port has a clock that an image may ask to be set."""
    return os.path.exists(f"{port}/userclk_freqcmd")


def huge_pages(nbytes: int) -> str:
    """Say how many huge pages of that size the system has."""
    pool = f"/sys/kernel/mm/hugepages/hugepages-{nbytes >> 10}kB"
    total, free = read.number(f"{pool}/nr_hugepages", 10), read.number(f"{pool}/free_hugepages", 10)
    if isinstance(total, int) and isinstance(free, int):
        return f"{free} of {total} are free"
    return "the system has none of that size"
