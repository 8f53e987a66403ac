# SPDX-License-Identifier: Apache-2.0
"""Relay: runs of several threads, one after the other, without a gap between them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any, NamedTuple

from fpgahal import Run

IN_A_ROW = 16  # runs, before whoever else wants the accelerator gets a chance


class _Waiting(NamedTuple):
    begin: Callable[[], Run]
    begun: SimpleQueue[Run | BaseException | None]  # None: the turn was given back, take it yourself


class Relay:
    """Where an accelerator takes one run at a time, who sees a run end starts the next one.

    The thread that waits for the next one takes some 0.1 ms to wake up, and the board would be idle.

    Parameters
    ----------
    turn : context manager
        ``Kernel.turn``; where it is no lock, runs begin at once, because the driver has a queue.
    """

    def __init__(self, turn: Any) -> None:
        self._turn = turn
        self._queued = not hasattr(turn, "acquire")
        self._lock = threading.Lock()
        self._line: deque[_Waiting] = deque()
        self._running = False
        self._in_a_row = 0

    @contextmanager
    def run(self, begin: Callable[[], Run]) -> Iterator[Run]:
        """Within it, the run that `begin` starts, maybe in another thread, has the accelerator."""
        if self._queued:
            yield begin()
            return
        try:
            yield self._enter(begin)
        finally:
            self._leave()

    def _enter(self, begin: Callable[[], Run]) -> Run:
        with self._lock:
            waiting = _Waiting(begin, SimpleQueue()) if self._running else None
            self._running = True
            if waiting is not None:
                self._line.append(waiting)
        if waiting is not None and (begun := waiting.begun.get()) is not None:
            if isinstance(begun, BaseException):
                raise begun
            return begun
        self._turn.acquire()
        return begin()

    def _leave(self) -> None:
        with self._lock:
            following = self._line.popleft() if self._line else None
            self._running = following is not None
            self._in_a_row = 0 if self._in_a_row == IN_A_ROW or following is None else self._in_a_row + 1
            keep = self._in_a_row > 0
        if not keep:
            self._turn.release()
        if following is None:
            return
        try:
            following.begun.put(following.begin() if keep else None)
        except BaseException as error:
            following.begun.put(error)


__all__ = ["Relay"]
