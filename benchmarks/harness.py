# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing: machines are shared and noisy, so contenders take turns and medians are compared."""

from __future__ import annotations

import gc
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import numpy as np

UNROLL = 10

Timed = Callable[[int], float]  # rounds -> seconds


def loop(call: str, **names: Any) -> Timed:
    """A contender that evaluates `call`, an expression of `names`, ten times a round of an unrolled loop."""
    body = "\n        ".join([call] * UNROLL)
    source = f"""def timed(rounds, _clock=_clock, _repeat=_repeat, {", ".join(f"{name}={name}" for name in names)}):
    _begin = _clock()
    for _ in _repeat(None, max(1, rounds // {UNROLL})):
        {body}
    return (_clock() - _begin) * rounds / (max(1, rounds // {UNROLL}) * {UNROLL})
"""
    space: dict[str, Any] = {**names, "_clock": time.perf_counter, "_repeat": repeat}
    exec(source, space)
    timed: Timed = space.pop("timed")  # no cycle: the names must go with it
    return timed


def interleave(
    contenders: Mapping[str, Timed], *, slice_seconds: float = 0.01, slices: int = 41, quantile: float = 0.5
) -> dict[str, float]:
    """Seconds per call of each contender (the median, or another quantile); they take turns, slice by slice."""
    rounds = {}
    for name, timed in contenders.items():
        count = 1
        while (spent := timed(count)) < slice_seconds / 4 and count < 1 << 24:
            count *= 2
        rounds[name] = max(1, int(count * slice_seconds / max(spent, 1e-9)))
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    gc.disable()
    try:
        order = list(contenders.items())
        shuffle = random.Random(1).shuffle
        for _ in range(slices):
            shuffle(order)  # nobody always finds the caches as the same neighbour left them
            for name, timed in order:
                samples[name].append(timed(rounds[name]) / rounds[name])
    finally:
        gc.enable()
    return {name: sorted(values)[int(len(values) * quantile)] for name, values in samples.items()}


def seconds(call: Callable[[], Any]) -> float:
    """Seconds that a call takes."""
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


@contextmanager
def undisturbed() -> Iterator[bool]:
    """Go before the machine's other users; gives whether that is allowed."""
    policy, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, policy, priority)


def settled(call: Callable[[], Any], calls: int = 6) -> float:
    """Seconds of a call, when the machine is used to it: a second core that slept is slow for some calls (100 ms)."""
    for _ in range(4):
        call()
    return statistics.median(seconds(call) for _ in range(calls))


def cores() -> float:
    """How many of two cores are free now: how much faster two threads do twice the work of one."""
    data = np.random.default_rng(2).normal(size=1 << 19)

    def both() -> None:
        threads = [threading.Thread(target=np.sort, args=(data,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return 2 * settled(lambda: np.sort(data)) / settled(both)
