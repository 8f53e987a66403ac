# SPDX-License-Identifier: Apache-2.0
"""Training with ``com.inaccel.xgboost.exact`` v0, as InAccel's library of 2019 does it (``tree_method=fpga_exact``).

Its host part is xgboost 0.90 with node sums in float32, summed as eight threads do it: the figures that InAccel
published come from a machine with eight.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fpgahal import ArgumentRangeError, Device
from fpgahal.kernels._open import Image
from fpgahal.kernels.xgboost import _grow
from fpgahal.kernels.xgboost._train_board import Board, Group
from fpgahal.kernels.xgboost._train_contracts import (
    INACCEL_EXACT,
    INACCEL_MAX_NODES,
    INACCEL_MAX_ROWS,
    LANES,
    SPLIT,
)
from fpgahal.kernels.xgboost._train_params import Settings
from fpgahal.kernels.xgboost._train_tree import Floats

NOTHING = 0xFFFFFFFF  # row of a padding entry


class InaccelBoards(Group):
    """The same as :class:`Boards`, for the old kernel: features go out in requests, one run each."""

    def __init__(
        self,
        devices: Sequence[Device],
        image: Image | None,
        entries: NDArray[np.void],
        col_ptr: NDArray[np.uint64],
        n_rows: int,
        settings: Settings,
    ) -> None:
        if n_rows > INACCEL_MAX_ROWS:
            raise ArgumentRangeError(
                f"dtrain has {n_rows} rows; com.inaccel.xgboost.exact takes {INACCEL_MAX_ROWS}.",
                hint='tree_method="exact" has no such limit.',
            )
        self._settings, self._n_devices = settings, len(devices)
        self.rows, self.work = np.empty(n_rows, _grow.ROW), np.empty(n_rows, np.int32)
        offsets = col_ptr.astype(np.int64)
        sizes = np.diff(offsets)
        self._batch = int(sizes.max())
        super().__init__()
        n_features, n_parts = len(sizes), min(max(settings.n_requests, len(devices)), len(sizes))
        self._first = [part * (n_features // n_parts) + min(part, n_features % n_parts) for part in range(n_parts)]
        self._sizes = np.diff([*self._first, n_features]).tolist()
        nodes = min(1 << (settings.max_depth - 1), INACCEL_MAX_NODES, n_rows) + LANES
        beats = -(-n_rows // LANES) * LANES
        try:
            for part, (first, size) in enumerate(zip(self._first, self._sizes, strict=True)):
                board = Board(devices[part % len(devices)], INACCEL_EXACT, image)
                self._boards.append(board)
                blocks = -(-size // LANES)
                lanes = board.array("entries", blocks * self._batch * LANES, _grow.ENTRY)
                lanes = lanes.reshape(blocks, self._batch, LANES)
                lanes["row"] = NOTHING
                lanes["value"] = 0
                for at in range(size):
                    low, high = offsets[first + at : first + at + 2]
                    lanes[at // LANES, : high - low, at % LANES] = entries[low:high]
                board.array("fvalid", blocks, np.uint8)[:] = 0xFF
                board.send("entries")
                board.send("fvalid")
                self._views.append(
                    {
                        "gpairs": board.array("gpairs", beats * 2, np.float32).reshape(-1, 2),
                        "node_idxs": board.array("node_idxs", beats, np.uint16),
                        "node_stats": board.array("node_stats", nodes * 2, np.float32).reshape(-1, 2),
                        "root_gain": board.array("root_gain", nodes, np.float32),
                        "best": board.array("best", nodes, SPLIT),
                    }
                )
        except BaseException:
            self.close()
            raise

    def search(self, sums: NDArray[np.float64], gains: Floats) -> NDArray[np.void]:
        """Best splits of the nodes of a level."""
        n = len(sums)
        if n > INACCEL_MAX_NODES:
            raise ArgumentRangeError(
                f"A level has {n} nodes; com.inaccel.xgboost.exact takes {INACCEL_MAX_NODES}.",
                hint="Reduce max_depth.",
            )
        best = np.zeros(n, SPLIT)
        for wave in range(0, len(self._boards), self._n_devices):
            chosen = range(wave, min(wave + self._n_devices, len(self._boards)))
            for part in chosen:
                self._start(part, sums, gains)
            for part in chosen:
                self._boards[part].wait()
        for board, views, first in zip(self._boards, self._views, self._first, strict=True):
            board.fetch("best")
            found = views["best"][:n]
            better = found["loss"] > best["loss"]
            best[better] = found[better]
            best["index"][better] += np.uint32(first)
        return best

    def _start(self, part: int, sums: NDArray[np.float64], gains: Floats) -> None:
        board, views, n, s = self._boards[part], self._views[part], len(sums), self._settings
        if n == 1:  # a new tree
            views["gpairs"][: len(self.rows), 0] = self.rows["g"]
            views["gpairs"][: len(self.rows), 1] = self.rows["h"]
            board.send("gpairs")
        views["node_idxs"][: len(self.work)] = self.work.astype(np.uint16)
        views["node_stats"][:n] = sums
        views["root_gain"][:n] = gains
        for name in ("node_idxs", "node_stats", "root_gain"):
            board.send(name)
        board.start(
            len(self.rows),
            self._sizes[part],
            n,
            self._batch,
            "gpairs",
            "node_idxs",
            "entries",
            "fvalid",
            "node_stats",
            "root_gain",
            "best",
            s.min_child_weight,
            s.max_delta_step,
            s.reg_alpha,
            s.reg_lambda,
        )
