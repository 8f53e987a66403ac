# SPDX-License-Identifier: Apache-2.0
"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")

SECONDS = 15.0


def until(condition: Callable[[], T], say: Callable[[], str] = str, seconds: float = SECONDS) -> T:
    """Wait until something is so, and give it; fail with what is said when it stays otherwise."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {say()}"
        time.sleep(0.005)
    return found


soon = partial(until, seconds=10.0)
