# SPDX-License-Identifier: Apache-2.0
"""Spin: look again and again for some microseconds before going to sleep, as long as that pays.

To be woken up takes a process longer than a small request does.  Where what is awaited does not come in time (the other
side computes for longer, or has no processor of its own), looking is given up, and tried again ever less often.  Not at
once: if both sides go to sleep for one late answer, each wakes up too late for the other, again and again.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

_FREE, _MOST = 4, 10  # times in a row that it may be in vain; after more, it is left out 1, 3, 7, ... 63 times

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
        self._seconds = seconds if len(os.sched_getaffinity(0)) > 1 else 0.0  # the other side needs the only one
        self._misses = 0
        self._skip = 0

    def look(self, look: Callable[[int, float], Found], fd: int) -> Found | None:
        """Call ``look(fd, seconds)``, with 0 seconds where looking for longer does not pay now; give what it gives."""
        if self._skip:
            self._skip -= 1
            return look(fd, 0.0)
        found = look(fd, self._seconds)
        if found:
            self._misses = 0
        else:
            self._misses = min(self._misses + 1, _MOST)
            self._skip = (1 << max(0, self._misses - _FREE)) - 1
        return found


__all__ = ["Spin"]
