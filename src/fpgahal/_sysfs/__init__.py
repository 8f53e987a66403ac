# SPDX-License-Identifier: Apache-2.0
"""Devices from sysfs alone: opens no device, loads no library, needs no driver's permission.

One file a driver: :mod:`dfl`, :mod:`intel_fpga` (both over :mod:`opae`), :mod:`xocl`.
"""

from __future__ import annotations

import os

from fpgahal._info import DeviceInfo
from fpgahal._sysfs import dfl, intel_fpga, xocl
from fpgahal._sysfs.tree import Tree


def scan(root: str | os.PathLike[str] = "/") -> list[DeviceInfo]:
    """Return every slot below `root`, ordered by PCI address, then slot.

    Never raises for what it finds: a broken device is listed with the reason in its ``health``, and does not hide
    the others.  A root that does not exist has no devices.

    Parameters
    ----------
    root : str or os.PathLike
        The folder that stands for ``/``: an emulated rack, or the host's root as mounted in a container.
    """
    text = os.path.abspath(os.fspath(root))
    if "\0" in text or not os.path.isdir(text):
        return []
    tree = Tree(text)
    found = dfl.scan(tree) + intel_fpga.scan(tree) + xocl.scan(tree)
    # a PCI domain may have more than four digits (VMD): the longer is the higher
    return sorted(found, key=lambda info: (len(info.bdf), info.bdf, info.slot))


_SIGNS = {
    "dfl": (dfl.LAYOUT.class_folder,),
    "intel-fpga": (intel_fpga.LAYOUT.class_folder,),
    "xocl": tuple(f"{xocl.DRIVERS}/{driver}" for driver in xocl.USER_DRIVERS),
}


def kernel_drivers(root: str | os.PathLike[str] = "/") -> list[str]:
    """Return which of the boards' kernel drivers are loaded, by their ``DeviceInfo.kernel_driver``."""
    text = os.path.abspath(os.fspath(root)).rstrip("/")
    return [name for name, folders in _SIGNS.items() if any(os.path.isdir(text + folder) for folder in folders)]


__all__ = ["kernel_drivers", "scan"]
