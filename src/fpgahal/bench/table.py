# SPDX-License-Identifier: Apache-2.0
"""The table that OPAE's nlb3 prints: the same columns, widths and formula, so that its readers can read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fpgahal.kernels import NLBResult

CACHE_COUNTERS = ("read_hit", "write_hit", "read_miss", "write_miss", "rx_eviction")
FABRIC_COUNTERS = ("pcie0_read", "pcie0_write", "pcie1_read", "pcie1_write", "upi_read", "upi_write")
FIRST = (
    "Cachelines",
    "Read_Count",
    "Write_Count",
    "Cache_Rd_Hit",
    "Cache_Wr_Hit",
    "Cache_Rd_Miss",
    "Cache_Wr_Miss",
    "Eviction",
)
SECOND = ("VH0_Rd_Count", "VH0_Wr_Count", "VH1_Rd_Count", "VH1_Wr_Count", "VL0_Rd_Count", "VL0_Wr_Count")
FIRST_WIDTHS = (10, 10, 11, 12, 12, 13, 13, 10, 16, 14, 14)


@dataclass(frozen=True, slots=True)
class Row:
    """One test: its result, and what the board's counters counted meanwhile (missing ones print 0)."""

    result: NLBResult
    counters: Mapping[str, int] = field(default_factory=dict)

    def cells(self, units: bool = True) -> tuple[list[str], list[str]]:
        """The cells of both tables."""
        result, unit = self.result, " GB/s" if units else ""
        numbers = [result.cachelines, result.reads, result.writes, *self._counts(CACHE_COUNTERS), result.ticks]
        bandwidths = [f"{gbps:.3f}{unit}" for gbps in (result.read_gbps, result.write_gbps)]
        return [*map(str, numbers), *bandwidths], [*map(str, self._counts(FABRIC_COUNTERS))]

    def _counts(self, names: tuple[str, ...]) -> list[int]:
        return [self.counters.get(name, 0) for name in names]


def frequency(hz: int) -> str:
    """``400 MHz``: whole numbers, cut off."""
    for unit, size in (("GHz", 1_000_000_000), ("MHz", 1_000_000), ("KHz", 1_000)):
        if hz >= size:
            return f"{hz // size} {unit}"
    return f"{hz} Hz"


def lines(row: Row, *, emulated: bool, header: bool = True) -> list[str]:
    """Both tables for one test.  Every line that is not blank ends with EMULATED on an emulated board."""
    first, second = row.cells()
    clocks = f"'Clocks(@{frequency(row.result.frequency_hz)})'"
    # nlb3's headings: "Eviction" is as wide as its column, the clock is wider than its own.
    heads = [f"{name:>{width}}" for name, width in zip(FIRST, FIRST_WIDTHS, strict=False)]
    bandwidths = [f"{name:>14}" for name in ("Rd_Bandwidth", "Wr_Bandwidth")]
    text = [
        "",
        " ".join([*heads, clocks, *bandwidths]),
        " ".join(f"{cell:>{width}}" for cell, width in zip(first, FIRST_WIDTHS, strict=True)),
        "",
        " ".join(SECOND) + " ",
        "".join(f"{cell:>12} " for cell in second),
        "",
    ]
    if not header:
        del text[4], text[1]
    return [f"{line.rstrip()} EMULATED" if emulated and line else line for line in text]


def csv_lines(row: Row, *, emulated: bool, header: bool = True) -> list[str]:
    """Both tables for one test as comma-separated values; a further column says EMULATED."""
    first, second = row.cells(units=header)
    clocks = f"'Clocks(@{frequency(row.result.frequency_hz)})'"
    text = [",".join([*first, *second])]
    if header:
        text.insert(0, ",".join([*FIRST, clocks, "Rd_Bandwidth", "Wr_Bandwidth", *SECOND]))
    return [f"{line},EMULATED" if emulated else line for line in text]
