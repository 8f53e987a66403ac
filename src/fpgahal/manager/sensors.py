# SPDX-License-Identifier: Apache-2.0
"""Sensors: temperatures and power of a board, where its kernel driver has them in hwmon.

Linux, Documentation/hwmon/sysfs-interface.rst: temp*_input is in thousandths of a degree Celsius, power*_input in
millionths of a watt, *_label says of what.  Intel's drivers have hwmon below the FPGA's management engine or its board
controller, xocl below one of its sub-devices: all are somewhere below the PCI function.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fpgahal import DeviceInfo

_SCALE = {"temp": 1e-3, "power": 1e-6}


class Reading(NamedTuple):
    """Degrees Celsius (``"temp"``) or watts (``"power"``), and of what."""

    kind: str
    sensor: str
    value: float


def readings(info: DeviceInfo) -> list[Reading]:
    """What a board's sensors say now; nothing, if it has none that Linux knows of."""
    found = []
    for bdf in filter(None, (info.bdf, info.management_bdf)):
        top = os.path.join(info.root, "sys/bus/pci/devices", bdf)
        for folder, below, _ in os.walk(os.path.realpath(top)):  # links lead to other devices: they are not followed
            if os.path.basename(folder) == "hwmon":
                found += [reading for name in sorted(below) for reading in _of(Path(folder, name))]
                below.clear()
    return found


def _of(folder: Path) -> Iterator[Reading]:
    for path in sorted(folder.glob("*_input")):
        name = path.name.removesuffix("_input")
        kind = name.rstrip("0123456789")
        if kind in _SCALE:
            try:
                value = int(path.read_text()) * _SCALE[kind]
                label = path.with_name(f"{name}_label")
                yield Reading(kind, label.read_text().strip() if label.exists() else name, value)
            except (OSError, ValueError):  # the board is away, or does not know now
                continue


__all__ = ["Reading", "readings"]
