# SPDX-License-Identifier: Apache-2.0
"""Waiting for what another process does."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 15.0


def until(true: Callable[[], object], say: Callable[[], str] = str, seconds: float = SECONDS) -> None:
    """Wait until something is true; fail with what is said when it stays false."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not within {seconds} s: {say()}"
        time.sleep(0.005)
