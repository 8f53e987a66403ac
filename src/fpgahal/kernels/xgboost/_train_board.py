# SPDX-License-Identifier: Apache-2.0
"""Boards that find splits: the columns stay on them, a level's rows go down, the best splits come back."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fpgahal import Buffer, Device, FpgaError, KernelContract, Run
from fpgahal.kernels import open_kernel
from fpgahal.kernels._open import Image
from fpgahal.kernels.xgboost import _grow
from fpgahal.kernels.xgboost._train_contracts import BACKWARD, BEST, EXACT, FORWARD, GAIN_FLOAT64, MAX_NODES
from fpgahal.kernels.xgboost._train_params import Settings
from fpgahal.kernels.xgboost._train_tree import Floats

PATIENCE = 10.0  # seconds that a run may take to end after an error elsewhere


class Board:
    """A kernel, its buffers and the run in flight.  `array` makes a buffer and a view of it."""

    def __init__(self, dev: Device, contract: KernelContract, image: Image | None) -> None:
        self.address = dev.info.address
        self._dev = dev
        self._buffers: dict[str, Buffer] = {}
        self._views: dict[str, NDArray[Any]] = {}
        self._run: Run | None = None
        self._kernel = open_kernel(dev, contract, image)

    def array(self, name: str, count: int, dtype: DTypeLike) -> NDArray[Any]:
        """Allocate a buffer (at least 64 bytes) and view it as `count` elements."""
        dtype = np.dtype(dtype)
        size = max(count * dtype.itemsize, 64)
        self._buffers[name] = buffer = self._dev.allocate(-(-size // 64) * 64)
        self._views[name] = np.asarray(buffer)
        return self._views[name][: count * dtype.itemsize].view(dtype)

    def send(self, name: str, size: int | None = None) -> None:
        """Copy a buffer, or its first `size` bytes, to the board."""
        self._buffers[name].sync_to_device(0, size)

    def fetch(self, name: str, size: int | None = None) -> None:
        """Copy a buffer, or its first `size` bytes, from the board."""
        self._buffers[name].sync_from_device(0, size)

    def start(self, *args: Any) -> None:
        """Start a run; names stand for their buffers."""
        self._run = self._kernel.start(*(self._buffers[arg] if isinstance(arg, str) else arg for arg in args))

    def wait(self) -> None:
        """Wait for the run."""
        if self._run is not None:
            self._run.wait()
            self._run = None

    def close(self) -> None:
        """Free everything; a run that is still in flight (after an error) gets some time to end."""
        if self._run is not None:
            with suppress(FpgaError):
                self._run.wait(PATIENCE)
            self._run = None
        self._views.clear()
        with ExitStack() as stack:
            for buffer in self._buffers.values():
                stack.callback(buffer.close)
            stack.callback(self._kernel.close)


class Group:
    """Boards that search together: they are closed together, when the training ends or fails."""

    def __init__(self) -> None:
        self._boards: list[Board] = []
        self._views: list[dict[str, NDArray[Any]]] = []  # of each board's buffers

    def close(self) -> None:
        """Free the boards' memory and kernels; the devices stay open."""
        for views in self._views:
            views.clear()  # a view in a traceback's frame would keep the memory
        with ExitStack() as stack:
            for board in self._boards:
                stack.callback(board.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            with suppress(FpgaError):  # the first error says more
                self.close()


class Boards(Group):
    """All boards as one: features are shared out, and the best splits merged.

    Parameters
    ----------
    devices : sequence of Device
    image : path, bytes or None
        What to program if a board runs something else.
    entries, col_ptr
        Sorted columns, see :func:`fpgahal.kernels.xgboost._grow.sorted_columns`.
    n_rows : int
    settings : Settings
    float64 : bool
        Whether gains are those of xgboost >= 3.4.
    """

    def __init__(
        self,
        devices: Sequence[Device],
        image: Image | None,
        entries: NDArray[np.void],
        col_ptr: NDArray[np.uint64],
        n_rows: int,
        settings: Settings,
        *,
        float64: bool,
        page: int = MAX_NODES,
    ) -> None:
        self._settings, self._flags, self._page = settings, GAIN_FLOAT64 * float64, page
        super().__init__()
        self._first: list[int] = []
        self._n_rows = n_rows
        self.work = np.empty(n_rows, np.int32)
        dirs = directions(entries, col_ptr, n_rows)
        page = min(page, 1 << (settings.max_depth - 1), n_rows)
        try:
            for dev, (first, last) in zip(devices, shares(col_ptr, dirs, len(devices)), strict=False):
                board = Board(dev, EXACT, image)
                self._boards.append(board)
                low, high = int(col_ptr[first]), int(col_ptr[last])
                board.array("entries", high - low, _grow.ENTRY)[:] = entries[low:high]
                board.array("col_ptr", last - first + 1, np.uint64)[:] = col_ptr[first : last + 1] - col_ptr[first]
                board.array("dirs", last - first, np.uint8)[:] = dirs[first:last]
                for name in ("entries", "col_ptr", "dirs"):
                    board.send(name)
                self._first.append(first)
                self._views.append(
                    {
                        "rows": board.array("rows", n_rows, _grow.ROW),
                        "node_stats": board.array("node_stats", 2 * page, np.float64).reshape(-1, 2),
                        "root_gain": board.array("root_gain", page, np.float32),
                        "best": board.array("best", page, BEST),
                    }
                )
            self._n_features = np.diff([*self._first, len(dirs)]).tolist()
            self.rows = self._views[0]["rows"]
        except BaseException:
            self.close()
            raise

    def search(self, sums: NDArray[np.float64], gains: Floats) -> NDArray[np.void]:
        """Best splits of the nodes of a level, in which ``self.rows`` and ``self.work`` say where the rows are."""
        found = np.empty(len(sums), BEST)
        for first in range(0, len(sums), self._page):
            last = min(first + self._page, len(sums))
            if len(sums) > self._page:
                _grow.show_page(self.work, self.rows, first, last - first)
            found[first:last] = self._level(sums[first:last], gains[first:last])
        return found

    def _level(self, sums: NDArray[np.float64], gains: Floats) -> NDArray[np.void]:
        n, s = len(sums), self._settings
        for board, part, n_features in zip(self._boards, self._views, self._n_features, strict=True):
            if part["rows"] is not self.rows:
                part["rows"][:] = self.rows
            part["node_stats"][:n] = sums
            part["root_gain"][:n] = gains
            board.send("rows", self._n_rows * _grow.ROW.itemsize)
            board.send("node_stats", n * 16)
            board.send("root_gain", n * 4)
            board.start(
                self._n_rows,
                n_features,
                n,
                self._flags,
                "entries",
                "col_ptr",
                "dirs",
                "rows",
                "node_stats",
                "root_gain",
                "best",
                s.min_child_weight,
                s.max_delta_step,
                s.reg_alpha,
                s.reg_lambda,
            )
        for board in self._boards:
            board.wait()
        for board in self._boards:
            board.fetch("best", n * BEST.itemsize)
        best: NDArray[np.void] = self._views[0]["best"][:n].copy()
        for part, first in zip(self._views[1:], self._first[1:], strict=True):
            # The other board has later features: at a tie, the earlier one stays.
            better = part["best"]["loss"][:n] > best["loss"]
            best[better] = part["best"][:n][better]
            best["index"][better] += np.uint32(first)
        return best

    def close(self) -> None:
        """Free the boards' memory and kernels; the devices stay open."""
        self.__dict__.pop("rows", None)  # a view, too
        super().close()


def directions(entries: NDArray[np.void], col_ptr: NDArray[np.uint64], n_rows: int) -> NDArray[np.uint8]:
    """Which way each column is searched: xgboost leaves forward out where nothing is missing, or all is the same."""
    size = np.diff(col_ptr.astype(np.int64))
    density = np.float32(1) - (n_rows - size).astype(np.float32) / np.float32(n_rows)
    filled = size > 0
    same = np.zeros(len(size), bool)
    first, last = col_ptr[:-1][filled].astype(np.int64), col_ptr[1:][filled].astype(np.int64) - 1
    same[filled] = entries["value"][first] == entries["value"][last]
    return np.where((density < 1) & ~same, FORWARD | BACKWARD, BACKWARD).astype(np.uint8)


def shares(col_ptr: NDArray[np.uint64], dirs: NDArray[np.uint8], n: int) -> list[tuple[int, int]]:
    """Ranges of features with about the same work; at most one range a feature."""
    n = min(n, len(dirs))
    work = np.cumsum(np.diff(col_ptr.astype(np.int64)) * np.where(dirs == BACKWARD, 1, 2) + 1)
    bounds = [0]
    for part in range(1, n):
        at = int(np.searchsorted(work, work[-1] * part / n)) + 1
        bounds.append(min(max(at, bounds[-1] + 1), len(dirs) - (n - part)))
    bounds.append(len(dirs))
    return list(pairwise(bounds))
