# SPDX-License-Identifier: Apache-2.0
"""Figures: how long requests waited, and runs took.  Counting costs 0.3 us; whoever reads them pays for the rest."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Any

from fpgahal.manager.backlog import Request

#: Upper ends of a Histogram's bins, in seconds; the last bin has none.
BOUNDS = tuple(float(f"{factor}e{power}") for power in range(-6, 2) for factor in (1, 2, 5))


class Histogram:
    """Durations.

    Attributes
    ----------
    counts : list of int
        How many were in each bin.
    sum : float
        Seconds, of all of them.
    """

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.sum = 0.0

    def add(self, seconds: float, times: int = 1) -> None:
        """Count one, or several that were as long."""
        self.counts[bisect_left(BOUNDS, seconds)] += times
        self.sum += seconds * times

    def document(self) -> dict[str, Any]:
        """For a report."""
        return {"counts": list(self.counts), "sum": self.sum}


class Figures:
    """Of one accelerator: a wait for each request, a run for each time that a board was started."""

    __slots__ = ("ran", "waited")

    def __init__(self) -> None:
        self.waited = Histogram()
        self.ran = Histogram()

    def done(self, requests: Iterable[Request], seconds: float) -> None:
        """Count a run of some requests together, in so many board-seconds."""
        for request in requests:
            self.waited.add(request.began - request.arrived, request.count)
        self.ran.add(seconds)

    def at_once(self, count: int, seconds: float) -> None:
        """Count a run of some requests that did not wait."""
        self.waited.add(0.0, count)
        self.ran.add(seconds)

    def document(self) -> dict[str, Any]:
        """For a report."""
        return {"waited": self.waited.document(), "ran": self.ran.document()}


def quantile(counts: Sequence[int], q: float) -> float | None:
    """The duration that a part `q` of them did not exceed, in seconds, within a bin's width; None of none."""
    left = q * sum(counts)
    if left <= 0:
        return None
    for number, count in enumerate(counts):
        if left <= count:
            low = BOUNDS[number - 1] if number else 0.0
            high = BOUNDS[number] if number < len(BOUNDS) else low
            return low + (high - low) * left / count
        left -= count
    raise AssertionError("the counts do not add up")


__all__ = ["BOUNDS", "Figures", "Histogram", "quantile"]
