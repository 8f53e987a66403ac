# SPDX-License-Identifier: Apache-2.0
"""Spin: look again and again for some microseconds before going to sleep, as long as that pays.

To be woken up takes a process longer than a small request does.  Where what is awaited does not come in time (the other
side computes for longer, or has no processor of its own), looking is given up, and tried again ever less often.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

_MOST = 63  # times that it is not tried, after it has not paid

Found = TypeVar("Found")


class Spin:
    """Spinning in one place.

    Parameters
    ----------
    seconds : float
        To look for.
    """

    __slots__ = ("_misses", "_seconds", "_skip")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._misses = 0
        self._skip = 0

    def look(self, look: Callable[[int], Found]) -> Found | None:
        """Call ``look(0)`` until it gives something, or for long enough; None if it was not tried, or in vain."""
        if self._skip:
            self._skip -= 1
            return None
        end = time.perf_counter() + self._seconds
        while True:
            found = look(0)
            if found:
                self._misses = 0
                return found
            if time.perf_counter() > end:
                self._skip = self._misses = min(2 * self._misses + 1, _MOST)
                return None


__all__ = ["Spin"]
