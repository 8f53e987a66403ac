# SPDX-License-Identifier: Apache-2.0
"""Board: a forest resident on one device, and the slots through which rows go.

A slot is a pair of buffers, one for rows and one for margins.  Its life is ``upload``, ``run``, ``finish``; several
slots can be at different points of it.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from fpgahal import Buffer, Device, Kernel, Run
from fpgahal.kernels import open_kernel
from fpgahal.kernels._left import settle
from fpgahal.kernels.xgboost import _numbers
from fpgahal.kernels.xgboost._contract import PREDICT
from fpgahal.kernels.xgboost._forest import Forest
from fpgahal.kernels.xgboost._objective import Floats
from fpgahal.kernels.xgboost._pack import Packed
from fpgahal.kernels.xgboost._rows import Rows

SLOT_BYTES = 2 << 20  #: of the rows that a slot holds, about: more would not stay in the host's caches
MOST_ROWS = 1 << 16
LEAST_ROWS = 64
PATIENCE = 10.0  # seconds: a run is a slot's rows, some milliseconds


class Board:
    """A device with the kernel and the forest on it.

    Parameters
    ----------
    dev : Device
    forest : Forest
    packed : Packed
    image : image, optional
        What to program if the board has another one loaded.

    Attributes
    ----------
    rows : int
        That a slot holds.
    words : int
        Results that a slot holds: margins, or leaves.
    """

    def __init__(self, dev: Device, forest: Forest, packed: Packed, image: Any = None) -> None:
        self.dev = dev
        self.forest = forest
        self.model_id = packed.model_id
        self.kernel: Kernel = open_kernel(dev, PREDICT, image)
        self._banks = [arg.banks[0] if arg.banks else None for arg in self.kernel.info.args]
        width = 4 * max(1, forest.n_features, forest.n_outputs)
        self.rows = max(LEAST_ROWS, min(MOST_ROWS, SLOT_BYTES // width))
        self.words = max(self.rows * forest.n_outputs, forest.n_trees)
        self.nodes = self._resident(2, packed.nodes)
        self.trees = self._resident(3, packed.trees)
        self.base = self._resident(4, forest.base_margin)
        self._free: list[Slot] = []  # append and pop are atomic
        self._left: Run | None = None  # of a call that was interrupted
        self._settling = threading.Lock()

    def _resident(self, argument: int, data: npt.NDArray[Any]) -> Buffer:
        buffer = self.dev.allocate(max(64, -(-data.nbytes // 64) * 64), bank=self._banks[argument])
        np.asarray(buffer)[: data.nbytes] = data.view(np.uint8).ravel()
        buffer.sync_to_device()
        return buffer

    def slot(self) -> Slot:
        """Take a slot that nobody uses; give it back with :meth:`give`."""
        try:
            return self._free.pop()
        except IndexError:
            return Slot(self)

    def give(self, slot: Slot) -> None:
        """Give a slot back whose run has ended."""
        self._free.append(slot)

    def allocate(self, argument: int, floats: int) -> Buffer:
        """A buffer for an argument of the kernel."""
        return self.dev.allocate(floats, "float32", bank=self._banks[argument])

    def leave(self, run: Run) -> None:
        """Remember the run of a call that was interrupted: it may still write its buffers."""
        self._left = None if run.done else run

    def settle(self, timeout: float | None = None) -> None:
        """Wait for the run that was left, if there is one, some seconds.

        Raises
        ------
        RunTimeoutError
            It does not end.
        """
        if self._left is None:
            return
        with self._settling:
            if self._left is not None:
                settle(self._left, PATIENCE if timeout is None else timeout)
                self._left = None

    def close(self) -> None:
        """Give the kernel and the memory back."""
        self.kernel.close()
        for buffer in (self.nodes, self.trees, self.base):
            buffer.close()
        while self._free:
            self._free.pop().close()


class Slot:
    """A pair of buffers of a board."""

    __slots__ = ("board", "x", "y")

    def __init__(self, board: Board, rows: int = 0) -> None:
        forest = board.forest
        rows = rows or board.rows
        self.board = board
        self.x = board.allocate(0, rows * max(1, forest.n_features))
        self.y = board.allocate(1, max(rows * forest.n_outputs, forest.n_trees))

    def upload(self, rows: Rows, first: int, count: int, missing: float, margins: Floats | None = None) -> None:
        """Bring rows ``[first, first + count)`` to the board; with `margins`, where their sums begin.

        Raises
        ------
        ArgumentRangeError
            An infinite value.
        """
        rows.fill(self.x, first, count, missing)
        self.x.sync_to_device(0, 4 * count * rows.n_features)
        if margins is not None:
            columns = self.board.forest.n_outputs
            _numbers.fill(margins, self.y, first * columns, count * columns, np.nan, True)
            self.y.sync_to_device(0, 4 * count * columns)

    def args(self, count: int, begin: int, end: int, flags: int = 0) -> tuple[Any, ...]:
        """The kernel's arguments for the rows that were uploaded, with trees ``[begin, end)``."""
        board, forest = self.board, self.board.forest
        width = max(1, forest.n_features)
        return (
            self.x,
            self.y,
            board.nodes,
            board.trees,
            board.base,
            count,
            width,
            width,
            begin,
            end,
            forest.n_outputs,
            flags,
            board.model_id,
        )

    def run(self, count: int, begin: int, end: int, flags: int = 0, timeout: float | None = None) -> None:
        """Start it, and wait for the end.

        Raises
        ------
        RunTimeoutError
            It took more than `timeout` seconds; the next call waits for its end first.
        """
        board = self.board
        with board.kernel.turn:
            board.settle(timeout)
            run = board.kernel.start(*self.args(count, begin, end, flags))
            try:
                run.wait(timeout)
            except BaseException:  # Ctrl-C, or it is late
                board.leave(run)
                raise

    def finish(self, out: Floats, first: int, count: int, transform: int) -> None:
        """Bring the results to ``out[first:first+count]``, turned into predictions."""
        columns = self.board.forest.n_outputs
        self.y.sync_from_device(0, 4 * count * columns)
        _numbers.finish(transform, self.y, out, first, count, columns)

    def leaves(self, count: int, trees: int) -> npt.NDArray[np.uint32]:
        """The results of a run with flag LEAVES: a copy, ``[count, trees]``."""
        self.y.sync_from_device(0, 4 * count * trees)
        found = np.asarray(self.y)[: count * trees].view(np.uint32)
        return np.array(found.reshape(count, trees))

    def close(self) -> None:
        """Free both buffers."""
        self.x.close()
        self.y.close()


__all__ = ["Board", "Slot"]
