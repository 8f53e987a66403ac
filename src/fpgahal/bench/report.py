# SPDX-License-Identifier: Apache-2.0
"""How results are printed: every line about an emulated board says so."""

from __future__ import annotations

from collections.abc import Sequence

from fpgahal.cli.output import Output


class Report:
    """Lines about one board.

    Parameters
    ----------
    out : Output
    emulated : bool
        Put EMULATED in front of each line.
    quiet : bool
        Print nothing (the document says it all).
    """

    def __init__(self, out: Output, emulated: bool, quiet: bool = False) -> None:
        self.out = out
        self.mark = "EMULATED  " if emulated else ""
        self.quiet = quiet

    def line(self, text: str = "") -> None:
        """Print a line."""
        if not self.quiet:
            self.out.line(f"{self.mark}{text}" if text else "")

    def raw(self, lines: Sequence[str]) -> None:
        """Print lines that say EMULATED themselves."""
        if not self.quiet:
            for line in lines:
                self.out.line(line)


def duration(nanoseconds: float) -> str:
    """``3.21 us``."""
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.2f} {unit}"
    return f"{nanoseconds:.0f} ns"
