# SPDX-License-Identifier: Apache-2.0
"""Intel's older out-of-tree driver (intel-fpga-pci): ``/sys/class/fpga``."""

from __future__ import annotations

import re
import uuid

from fpgahal._info import DeviceInfo
from fpgahal._sysfs import opae, read
from fpgahal._sysfs.tree import Tree


def _interface_id(tree: Tree, fme: str) -> uuid.UUID | read.Unreadable | None:
    return read.guid(f"{fme}/pr/interface_id")


def _alarms(tree: Tree, fme: str) -> tuple[str, str]:
    start = f"{fme}/thermal_mgmt/threshold"
    return f"{start}1_reached", f"{start}2_reached"


LAYOUT = opae.Layout(
    kernel_driver="intel-fpga",
    class_folder="/sys/class/fpga",
    container=re.compile(r"intel-fpga-dev\.[0-9]{1,9}"),
    parent="fpga",
    port=re.compile(r"intel-fpga-port\.[0-9]{1,9}"),
    fme=re.compile(r"intel-fpga-fme\.[0-9]{1,9}"),
    interface_id=_interface_id,
    alarms=_alarms,
    modules="intel-fpga-pci with intel-fpga-afu and intel-fpga-fme",
)


def scan(tree: Tree) -> list[DeviceInfo]:
    """Return the slots that the intel-fpga driver shows."""
    return opae.scan(tree, LAYOUT)
