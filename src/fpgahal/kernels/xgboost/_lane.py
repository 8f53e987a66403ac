# SPDX-License-Identifier: Apache-2.0
"""Prediction in a pipeline: how a batch of rows goes through a slot of a board."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fpgahal import ArgumentRangeError
from fpgahal.kernels import Work
from fpgahal.kernels.xgboost import _numbers
from fpgahal.kernels.xgboost._board import Board, Slot
from fpgahal.kernels.xgboost._objective import Floats
from fpgahal.kernels.xgboost._rows import Rows


class Options(NamedTuple):
    """What is the same for all batches: room, trees ``[begin, end)``, and how rows and results are to be taken."""

    rows: int
    begin: int
    end: int
    missing: float
    names: tuple[str, ...] | None
    transform: int


class RowsLane:
    """A :class:`fpgahal.kernels.Lane`: rows in, predictions out."""

    def __init__(self, board: Board, options: Options) -> None:
        self.device = board.dev
        self.kernel = board.kernel
        self._forest = board.forest
        self._slot = Slot(board, options.rows)
        self._options = options
        self._n = 0

    def fill(self, batch: Any) -> Work:
        """Copy rows into the buffer, as :meth:`Model.predict` does."""
        options, forest, slot = self._options, self._forest, self._slot
        rows = Rows(batch, forest.n_features, options.names)
        if rows.n > options.rows:
            raise ArgumentRangeError(f"It has {rows.n} rows; this pipeline was made for {options.rows}.")
        rows.fill(slot.x, 0, rows.n, options.missing)
        self._n = n = rows.n
        return Work(
            slot.args(n, options.begin, options.end),
            ((slot.x, 4 * n * forest.n_features),),
            ((slot.y, 4 * n * forest.n_outputs),),
        )

    def batch(self) -> npt.NDArray[np.float32]:
        """The rows that are in the buffer."""
        width = self._forest.n_features
        return np.asarray(self._slot.x)[: self._n * width].reshape(self._n, width)

    def result(self) -> Floats:
        """The predictions."""
        n, columns, transform = self._n, self._forest.n_outputs, self._options.transform
        found = np.empty(n if columns == 1 or transform == _numbers.ARGMAX else (n, columns), np.float32)
        _numbers.finish(transform, self._slot.y, found, 0, n, columns)
        return found

    def close(self) -> None:
        """Free the buffers."""
        self._slot.close()


__all__ = ["Options", "RowsLane"]
