# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing: machines are shared and noisy, so contenders take turns and medians are compared."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

Timed = Callable[[int], float]  # rounds -> seconds


def loop(function: Callable[..., Any], *args: Any) -> Timed:
    """A contender that calls `function(*args)`; the cost of Python's loop is part of it, as in a user's program."""

    def timed(rounds: int) -> float:
        clock = time.perf_counter
        start = clock()
        for _ in repeat(None, rounds):
            function(*args)
        return clock() - start

    return timed


def interleave(contenders: Mapping[str, Timed], *, slice_seconds: float = 0.01, slices: int = 41) -> dict[str, float]:
    """Median seconds per call of each contender; they take turns, slice by slice."""
    rounds = {}
    for name, timed in contenders.items():
        count = 1
        while (spent := timed(count)) < slice_seconds / 4 and count < 1 << 24:
            count *= 2
        rounds[name] = max(1, int(count * slice_seconds / max(spent, 1e-9)))
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    gc.disable()
    try:
        for _ in range(slices):
            for name, timed in contenders.items():
                samples[name].append(timed(rounds[name]) / rounds[name])
    finally:
        gc.enable()
    return {name: statistics.median(values) for name, values in samples.items()}
