# SPDX-License-Identifier: Apache-2.0
"""Naming schemes: under which resource names a node offers its boards, and what a container is told in each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from fpgahal import DeviceInfo
from fpgahal.k8s.plugin.unit import Skipped, Unit
from fpgahal.k8s.schemes import bcom, inaccel, intel, own, xilinx
from fpgahal.k8s.schemes.settings import Settings

#: Says for each board that it takes part with a Unit that has it, or with a Skipped; other boards it ignores.
Scheme: TypeAlias = Callable[[Sequence[DeviceInfo], Settings], Iterator[Unit | Skipped]]

SCHEMES: Mapping[str, Scheme] = {
    "own": own.units,
    "intel": intel.units,
    "xilinx": xilinx.units,
    "inaccel": inaccel.units,
    "bcom": bcom.units,
    "bcom-counter": bcom.counted_units,
}
