# SPDX-License-Identifier: Apache-2.0
"""The kernel's own driver (dfl-pci): ``/sys/class/fpga_region``."""

from __future__ import annotations

import re
import uuid

from fpgahal._info import DeviceInfo
from fpgahal._sysfs import opae, read
from fpgahal._sysfs.tree import Tree

_REGION = re.compile(r"region[0-9]{1,9}")
_FME_REGION = re.compile(r"dfl-fme-region\.[0-9]{1,9}")


def _interface_id(tree: Tree, fme: str) -> uuid.UUID | read.Unreadable | None:
    """Return ``compat_id`` of the first nested region that has one: all ports of an FME share it."""
    outer = tree.folders(fme)
    if isinstance(outer, read.Unreadable):
        return outer
    result: uuid.UUID | read.Unreadable | None = read.Unreadable(0, "there is no dfl-fme-region")
    for name in filter(_FME_REGION.fullmatch, outer):
        inner = tree.folders(f"{fme}/{name}/fpga_region")
        for region in filter(_REGION.fullmatch, [] if isinstance(inner, read.Unreadable) else inner):
            result = read.guid(f"{fme}/{name}/fpga_region/{region}/compat_id")
            if isinstance(result, uuid.UUID):
                return result
    return result


def _alarms(tree: Tree, fme: str) -> tuple[str, str] | None:
    monitors = tree.folders(f"{fme}/hwmon")
    if isinstance(monitors, read.Unreadable) or not monitors:
        return None
    start = f"{fme}/hwmon/{monitors[0]}/temp1"
    return f"{start}_max_alarm", f"{start}_crit_alarm"


LAYOUT = opae.Layout(
    kernel_driver="dfl",
    class_folder="/sys/class/fpga_region",
    container=_REGION,
    parent="fpga_region",
    port=re.compile(r"dfl-port\.[0-9]{1,9}"),
    fme=re.compile(r"dfl-fme\.[0-9]{1,9}"),
    interface_id=_interface_id,
    alarms=_alarms,
    modules="dfl-pci with dfl-afu, dfl-fme, dfl-fme-region, dfl-fme-mgr",
)


def scan(tree: Tree) -> list[DeviceInfo]:
    """Return the slots that the DFL driver shows."""
    return opae.scan(tree, LAYOUT)
