# SPDX-License-Identifier: Apache-2.0
"""Spin: look again and again for some microseconds before going to sleep, as long as that pays.

To be woken up takes a process longer than a small request does.  Where what is awaited does not come in time (the other
side computes for longer, or has no processor of its own), looking is given up, and tried again ever less often.
"""

from __future__ import annotations

import os
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
            self._skip = self._misses = min(2 * self._misses + 1, _MOST)
        return found


__all__ = ["Spin"]
