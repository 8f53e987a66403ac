# SPDX-License-Identifier: Apache-2.0
"""Model: an XGBoost model on one board or several, used as ``xgboost.Booster`` is."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fpgahal import ArgumentRangeError, ClosedError, Device, UnsupportedError
from fpgahal.kernels import Pipeline
from fpgahal.kernels.xgboost import _numbers
from fpgahal.kernels.xgboost._board import Board, Slot
from fpgahal.kernels.xgboost._contract import CONTINUE, LEAVES
from fpgahal.kernels.xgboost._forest import Forest, read
from fpgahal.kernels.xgboost._lane import Options, RowsLane
from fpgahal.kernels.xgboost._objective import Floats
from fpgahal.kernels.xgboost._pack import pack
from fpgahal.kernels.xgboost._rows import Rows

_SHARD = 4096  # rows that are worth another board

Tile = Callable[[Slot, int, int], None]  #: of a slot, the first row, and how many


class Model:
    """A model whose trees are on a board; made by :func:`load`.

    Any number of threads may use it.  Close it, or the device, when it is no longer needed.

    Attributes
    ----------
    forest : Forest
        The model as arrays.
    boards : list of Board
        Where it is loaded.
    n_features_in_ : int
    feature_names_in_ : numpy.ndarray
        Names of the features; only there if the model has some.
    classes_ : numpy.ndarray
        0 to the number of classes; only there if the model is a classifier.
    best_iteration : int or None
        What early stopping found.
    """

    def __init__(
        self, devices: Sequence[Device], forest: Forest, *, missing: float = math.nan, image: Any = None
    ) -> None:
        if not devices:
            raise ArgumentRangeError("A model needs a device; the list is empty.")
        self.forest = forest
        self.missing = missing
        self._packed = pack(forest)
        self._rounds = forest.iterations.tolist()
        self._names = forest.feature_names
        self._closed = False
        self._pool: ThreadPoolExecutor | None = None
        self._guard = threading.Lock()
        self.boards: list[Board] = []
        try:
            for dev in devices:
                self.boards.append(Board(dev, forest, self._packed, image))
        except BaseException:
            self.close()
            raise
        self.n_features_in_ = forest.n_features
        self.best_iteration = forest.best_iteration
        if self._names is not None:
            self.feature_names_in_ = np.array(self._names, object)
        if forest.n_classes:
            self.classes_ = np.arange(forest.n_classes)

    def num_features(self) -> int:
        """As of ``xgboost.Booster``."""
        return self.forest.n_features

    def num_boosted_rounds(self) -> int:
        """As of ``xgboost.Booster``."""
        return len(self._rounds) - 1

    @property
    def feature_names(self) -> list[str] | None:
        """As of ``xgboost.Booster``."""
        return None if self._names is None else list(self._names)

    def predict(
        self,
        X: Any,
        output_margin: bool = False,
        iteration_range: tuple[int, int] = (0, 0),
        base_margin: Any = None,
        pred_leaf: bool = False,
        out: Floats | None = None,
        *,
        missing: float | None = None,
        validate_features: bool = True,
        timeout: float | None = None,
    ) -> npt.NDArray[Any]:
        """Predict, as ``Booster.predict`` and ``Booster.inplace_predict`` do, to the last bit.

        Parameters
        ----------
        X : array or data frame, shape (n, n_features)
            Any numeric type, any strides; one dimension is one row.  float32 in C order is copied once, into the
            board's buffer.
        output_margin : bool
            Margins instead of predictions.
        iteration_range : (int, int)
            Boosting rounds [begin, end); end 0: all.
        base_margin : array, shape (n,) or (n, outputs), optional
            Where each row's sums begin, instead of the model's base score.
        pred_leaf : bool
            The leaf that each row reaches in each tree, as XGBoost numbers them.
        out : numpy.ndarray, optional
            float32 in C order, of the result's shape: where to put the result.
        missing : float, optional
            The value that stands for a missing one, besides NaN.
        validate_features : bool
            Compare a data frame's columns with the model's features.
        timeout : float, optional
            Seconds that a run of the board, one slot's rows, may take.

        Returns
        -------
        numpy.ndarray
            float32, shape (n,), or (n, outputs) where the model has several.

        Raises
        ------
        ArgumentError
            X holds something else than real numbers (also a TypeError).
        ArgumentRangeError
            Wrong number of features, an infinite value, wrong rounds, shape of `base_margin` or `out` (also a
            ValueError).
        ClosedError
            The model or its device was closed.
        RunError
            The board reported an error, or was reset.
        RunTimeoutError
            A run took longer than `timeout`.
        """
        rows = Rows(X, self.n_features_in_, self._names if validate_features else None)
        begin, end = self._trees(iteration_range)
        missing = self.missing if missing is None else float(missing)
        if self._closed:
            self._refuse()
        if pred_leaf:
            return self._leaves(rows, begin, end, missing, out, timeout)
        forest = self.forest
        transform = _numbers.IDENTITY if output_margin else forest.objective.transform
        columns = forest.n_outputs
        shape = (rows.n,) if columns == 1 or transform == _numbers.ARGMAX else (rows.n, columns)
        result = np.empty(shape, np.float32) if out is None else _checked(out, shape)
        margins = None if base_margin is None else _margins(base_margin, rows.n, columns)
        flags = 0 if margins is None else CONTINUE

        def tile(slot: Slot, at: int, count: int) -> None:
            slot.upload(rows, at, count, missing, margins)
            slot.run(count, begin, end, flags, timeout)
            slot.finish(result, at, count, transform)

        self._spread(rows.n, self.boards[0].rows, tile)
        return result

    def predict_proba(self, X: Any, **options: Any) -> Floats:
        """Probabilities of the classes, shape (n, classes): as ``xgboost.XGBClassifier.predict_proba``.

        Parameters
        ----------
        X : array or data frame
        **options
            Of :meth:`predict`: iteration_range, base_margin, missing, validate_features, timeout.

        Raises
        ------
        UnsupportedError
            The model is no classifier with probabilities.
        """
        kind = self.forest.objective
        if kind.transform == _numbers.SIGMOID and kind.classifies:
            found = self.predict(X, **options)
            return np.stack([np.float32(1) - found, found], axis=1)
        if kind.name.startswith("multi:"):
            margins = self.predict(X, output_margin=True, **options)
            result = np.empty_like(margins)
            _numbers.finish(_numbers.SOFTMAX, margins, result, 0, *margins.shape)
            return result
        raise UnsupportedError(f"A model with objective {kind.name} has no probabilities.", hint="Use predict.")

    def pipeline(
        self,
        rows: int = 16_384,
        depth: int = 3,
        *,
        output_margin: bool = False,
        iteration_range: tuple[int, int] = (0, 0),
        missing: float | None = None,
        validate_features: bool = True,
        timeout: float | None = None,
    ) -> Pipeline:
        """Predict many batches: while one is computed, the next is sent and the last fetched, on all of its boards.

        Parameters
        ----------
        rows : int
            That a batch may have.  A batch is 1 to 2 MB best: 16,384 rows of 28 features are 1.8 MB.
        depth : int
            Batches under way on each board.
        output_margin, iteration_range, missing, validate_features
            As for :meth:`predict`.
        timeout : float, optional
            Seconds that a run may take, waiting for its turn included.

        Returns
        -------
        Pipeline
            Use it in ``with``; ``pipe.map(batches)`` takes what :meth:`predict` takes as X, up to `rows` rows each,
            and yields what :meth:`predict` returns, in order.

        Examples
        --------
        >>> with model.pipeline() as pipe:  # doctest: +SKIP
        ...     for y in pipe.map(X[i : i + 16_384] for i in range(0, len(X), 16_384)):
        ...         save(y)
        """
        if self._closed:
            self._refuse()
        if rows < 1:
            raise ArgumentRangeError(f"rows={rows}: a batch has a row at least.")
        begin, end = self._trees(iteration_range)
        options = Options(
            rows,
            begin,
            end,
            self.missing if missing is None else float(missing),
            self._names if validate_features else None,
            _numbers.IDENTITY if output_margin else self.forest.objective.transform,
        )
        return Pipeline([partial(RowsLane, board, options) for board in self.boards], depth=depth, timeout=timeout)

    # --- one call ---------------------------------------------------------------------------------------------

    def _trees(self, rounds: tuple[int, int]) -> tuple[int, int]:
        begin, end = rounds
        last = len(self._rounds) - 1
        if end == 0:
            end = last
        if not 0 <= begin <= end <= last:
            raise ArgumentRangeError(
                f"iteration_range={tuple(rounds)}: the model has {last} rounds; expected 0 <= begin <= end <= {last}, "
                "or end 0 for all."
            )
        return self._rounds[begin], self._rounds[end]

    def _spread(self, n: int, step: int, tile: Tile) -> None:
        """Do `tile` for all rows, at most `step` at a time: on one board here, on several each in a thread.

        Boards take what is left, so that one that is slow for a while does less; and less and less at a time, so that
        they end together.
        """
        boards = self.boards
        count = max(1, min(len(boards), n // _SHARD))
        left = iter(_pieces(n, step, count))  # its next() is atomic
        if count == 1:
            _tiles(boards[0], left, tile, [])
            return
        stop: list[bool] = []
        submit = self._threads().submit
        others = [submit(_tiles, board, left, tile, stop) for board in boards[1:count]]
        try:
            _tiles(boards[0], left, tile, stop)
        except BaseException:
            stop.append(True)
            raise
        finally:
            failures = [error for other in others if (error := other.exception()) is not None]
        if failures:
            raise failures[0]

    def _threads(self) -> ThreadPoolExecutor:
        with self._guard:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(8 * len(self.boards), "fpgahal-xgboost")
            return self._pool

    def _leaves(
        self, rows: Rows, begin: int, end: int, missing: float, out: Floats | None, timeout: float | None
    ) -> npt.NDArray[Any]:
        trees = end - begin
        result = np.empty((rows.n, trees), np.float32) if out is None else _checked(out, (rows.n, trees))
        roots = self._packed.trees["root"][begin:end].astype(np.int64)

        def tile(slot: Slot, at: int, count: int) -> None:
            slot.upload(rows, at, count, missing)
            slot.run(count, begin, end, LEAVES, timeout)
            result[at : at + count] = self._packed.origin[slot.leaves(count, trees) + roots]

        self._spread(rows.n, min(self.boards[0].rows, max(1, self.boards[0].words // max(1, trees))), tile)
        return result[:, 0] if trees == 1 and out is None else result

    # --- life -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Give kernels and memory back; the devices stay open.  Closing twice is fine.

        Raises
        ------
        DeviceBusyError
            Another thread predicts.
        """
        self._closed = True
        while self.boards:
            board = self.boards[-1]
            if not board.dev.closed:
                board.close()
            self.boards.pop()
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def _refuse(self) -> None:
        raise ClosedError("This model was closed.", hint="Load it again: fpgahal.kernels.xgboost.load(dev, model).")

    def __enter__(self) -> Self:
        if self._closed:
            self._refuse()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        forest = self.forest
        where = ", ".join(board.dev.info.address for board in self.boards) or "closed"
        return (
            f"<fpgahal.kernels.xgboost.Model {forest.objective.name}: {forest.n_trees} trees, {forest.n_features} "
            f"features, on {where}>"
        )


def _pieces(n: int, step: int, boards: int) -> list[tuple[int, int]]:
    """First rows and numbers of rows: at most `step`, for several boards half of a fair share of what is left."""
    pieces, at = [], 0
    while at < n:
        share = step if boards == 1 else max(_SHARD, (n - at) // (2 * boards))
        pieces.append((at, min(step, share, n - at)))
        at += pieces[-1][1]
    return pieces


def _tiles(board: Board, left: Iterator[tuple[int, int]], tile: Tile, stop: list[bool]) -> None:
    slot = board.slot()
    try:
        for at, count in left:
            if stop:
                break
            tile(slot, at, count)
    except ArgumentRangeError:  # before the run; after any other error the board may still use the slot
        board.give(slot)
        raise
    board.give(slot)


def _checked(out: Any, shape: tuple[int, ...]) -> Any:
    if not isinstance(out, np.ndarray) or out.dtype != np.float32 or out.shape != shape or not out.flags.c_contiguous:
        described = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise ArgumentRangeError(f"out is {described}: expected a float32 array in C order, of shape {shape}.")
    if not out.flags.writeable:
        raise ArgumentRangeError("out is read-only.")
    return out


def _margins(values: Any, n: int, columns: int) -> Floats:
    found = np.ascontiguousarray(values, np.float32)
    if found.size != n * columns or found.shape[:1] not in ((n,), (n * columns,)):
        raise ArgumentRangeError(
            f"base_margin has shape {found.shape}: expected {(n,) if columns == 1 else (n, columns)}, one for each row."
        )
    return found


def load(dev: Device | Sequence[Device], model: Any, *, image: Any = None, missing: float | None = None) -> Model:
    """Bring an XGBoost model to a board.

    If the board has another image loaded, it is programmed: with `image`; else, an emulated board with the emulator's
    image of the kernel; else with one that is found in the folders of FPGAHAL_IMAGES.

    Parameters
    ----------
    dev : Device, or several
        With several, rows are shared out among them.
    model : path, bytes, xgboost.Booster, or a fitted estimator of xgboost.sklearn
        What ``Booster.save_model`` or ``save_raw`` wrote, JSON or UBJSON.  xgboost itself is not needed.
    image : path, bytes or Bitstream, optional
        An image with the kernel ``xgboost_predict``.
    missing : float, optional
        The value that stands for a missing one in each call, besides NaN; by default what an estimator was fitted with.

    Returns
    -------
    Model

    Raises
    ------
    ModelError
        The file is broken (is a ValueError).
    UnsupportedError
        A model of a kind that the kernel can't run: DART, gblinear, categorical splits, vector leaves.

    Examples
    --------
    >>> with fpgahal.open() as dev, xgboost.load(dev, "model.json") as model:  # doctest: +SKIP
    ...     model.predict(X)
    """
    forest = read(model)
    if missing is None:
        found = getattr(model, "missing", None)
        missing = math.nan if found is None else found
    devices = [dev] if isinstance(dev, Device) else list(dev)
    return Model(devices, forest, missing=float(missing), image=image)


__all__ = ["Model", "load"]
