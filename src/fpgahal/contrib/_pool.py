# SPDX-License-Identifier: Apache-2.0
"""Pool: the boards of one worker process, lent to one thread each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

from fpgahal import Device, DeviceBusyError, FpgaError
from fpgahal.contrib._claim import GONE, RESOURCE, claim
from fpgahal.kernels import xgboost


class Held:
    """A board, and the model that is on it."""

    def __init__(self, dev: Device) -> None:
        self.dev = dev
        self._forest: xgboost.Forest | None = None
        self._model: xgboost.Model | None = None

    def model(self, forest: xgboost.Forest) -> xgboost.Model:
        """The model of these trees; loaded if it is another one than last time."""
        if self._model is None or self._forest is not forest:
            self.unload()
            self._forest, self._model = forest, xgboost.Model([self.dev], forest)
        return self._model

    def unload(self) -> None:
        """Free the board's memory."""
        if self._model is not None:
            self._model.close()
        self._forest = self._model = None


class Pool:
    """Boards for threads.

    Parameters
    ----------
    count : int
    changed : callable
        Told how many there are after one was lost, or all were found again; at least 1 (see :meth:`lease`).
    timeout : float
        Seconds to wait for boards of other processes, and for one that gets free here.
    **select
        As for :func:`fpgahal.contrib._claim.claim`.
    """

    def __init__(self, count: int, changed: Callable[[int], None], timeout: float, **select: Any) -> None:
        self._count, self._changed, self._timeout, self._select = count, changed, timeout, select
        self._held: list[Held] = []
        self._free: SimpleQueue[Held] = SimpleQueue()
        self._guard = threading.Lock()

    def open(self, least: int | None = None) -> None:
        """Claim the boards.  Errors as of ``claim``; then :meth:`lease` tries again."""
        self._claim(self._count, least=least, timeout=self._timeout)

    def _claim(self, count: int, **options: Any) -> None:
        for dev in claim(count, **options, **self._select):
            self._held.append(Held(dev))
            self._free.put(self._held[-1])

    def close(self) -> None:
        """Let all boards go."""
        with self._guard:
            while self._held:
                self._held.pop().dev.close()

    @contextmanager
    def lease(self) -> Iterator[Held]:
        """A board that is nobody else's for a while.

        One that fails meanwhile, or is closed, is opened again, or another one instead; if there is none, the others
        are lent.  When none is left, who comes next looks again and fails: better than to wait for ever.
        """
        with self._guard:
            if not self._held:
                self.open(least=1)
                self._changed(len(self._held))
        try:
            held = self._free.get(timeout=self._timeout)
        except Empty:
            raise DeviceBusyError(
                f"No board of this worker got free (waited {self._timeout:g} s; it has {len(self._held)}).",
                hint=f'Every task that uses a board must ask for it: resources={{"{RESOURCE}": 1}}.',
            ) from None
        failed = False
        try:
            yield held
        except GONE:
            failed = True
            raise
        finally:
            if failed or held.dev.closed:
                self._replace(held)
            else:
                self._free.put(held)

    def _replace(self, held: Held) -> None:
        with self._guard, suppress(FpgaError):
            if held in self._held:  # not after close()
                self._held.remove(held)
            try:
                held.dev.close()
                self._claim(self._count - len(self._held), least=1, timeout=0.0)
            finally:
                self._changed(max(1, len(self._held)))


__all__ = ["Held", "Pool"]
