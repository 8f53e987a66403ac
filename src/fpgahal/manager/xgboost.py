# SPDX-License-Identifier: Apache-2.0
"""The accelerator ``xgboost.predict``: ``model``, a constant buffer with what ``Booster.save_model`` writes; ``x``,
float32 rows; ``y``, float32, gets what :meth:`fpgahal.kernels.xgboost.Model.predict` returns.

Options, all numbers: ``output_margin``, ``iteration_begin``, ``iteration_end``, ``missing``.  Not here: base_margin and
pred_leaf.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fpgahal import ArgumentError, ArgumentRangeError, Device, FpgaError
from fpgahal.kernels import xgboost
from fpgahal.manager.accelerators import Arguments, Job, Opened
from fpgahal.manager.memory import Array, Segment
from fpgahal.manager.wire import Spec

MODELS = 64  #: that are kept, parsed
KEPT = 256 << 20  #: bytes of the files that they come from
MAX_MODEL = 64 << 20  #: bytes of one
_TOGETHER = 1024  # rows of requests that run together
_FLOAT = np.dtype(np.float32)


class _Detail(NamedTuple):
    forest: xgboost.Forest
    table: xgboost.Rows
    out: npt.NDArray[np.float32]
    trees: tuple[int, int]
    transform: int
    missing: float


class Predict:
    """Predictions of XGBoost models."""

    name = "xgboost.predict"
    contract = xgboost.PREDICT
    _options = ("output_margin", "iteration_begin", "iteration_end", "missing")

    def __init__(self) -> None:
        self._models: OrderedDict[bytes, tuple[xgboost.Forest | FpgaError, int]] = OrderedDict()

    def prepare(self, arguments: Arguments) -> Callable[[], None] | None:
        """Read the model, if it is a new one."""
        segment = self._segment(arguments)
        return None if segment.digest in self._models else lambda: self._read(segment)

    def _segment(self, arguments: Arguments) -> Segment:
        model = arguments.get("model")
        if not isinstance(model, Array):
            raise ArgumentError(f"{self.name}: model is to be a constant buffer with a model.")
        if not model.segment.constant or model.nbytes != model.segment.nbytes or model.nbytes > MAX_MODEL:
            raise ArgumentRangeError(
                f"{self.name}: the model has to be the whole of a constant buffer, of {MAX_MODEL >> 20} MiB at most."
            )
        return model.segment

    def _read(self, segment: Segment) -> None:
        data = segment.data.tobytes()
        segment.digest = segment.digest or hashlib.sha256(data).digest()
        if segment.digest not in self._models:
            found: xgboost.Forest | FpgaError
            try:
                found = xgboost.read(data)
                xgboost.pack(found)
            except FpgaError as error:
                found = type(error)(error.message, hint=error.hint)  # without what the traceback holds
            self._models[segment.digest] = found, len(data)
            while len(self._models) > MODELS or sum(nbytes for _, nbytes in self._models.values()) > KEPT:
                self._models.popitem(last=False)

    def _forest(self, arguments: Arguments) -> tuple[bytes, xgboost.Forest]:
        segment = self._segment(arguments)
        found, _ = self._models.get(segment.digest, (None, 0))
        if isinstance(found, FpgaError):
            raise type(found)(found.message, hint=found.hint)
        if found is None:
            raise ArgumentError(f"{self.name}: the model was not prepared.")
        return segment.digest, found

    def _rows(self, arguments: Arguments, forest: xgboost.Forest) -> npt.NDArray[np.float32]:
        x = arguments.get("x")
        if not isinstance(x, Array) or x.dtype != _FLOAT:
            raise ArgumentError(f"{self.name}: x is to be an array of float32.")
        shape = x.shape if len(x.shape) != 1 else (1, *x.shape)
        if len(shape) != 2 or shape[1] != forest.n_features:
            raise ArgumentRangeError(
                f"{self.name}: x has the shape {x.shape}; the model has {forest.n_features} features."
            )
        return x.values.reshape(shape)

    def _result(self, arguments: Arguments, forest: xgboost.Forest, rows: int) -> tuple[tuple[int, ...], int]:
        plain = bool(self._number(arguments, "output_margin", 0, int))
        transform = xgboost.IDENTITY if plain else forest.objective.transform
        one = forest.n_outputs == 1 or transform == xgboost.ARGMAX
        return ((rows,) if one else (rows, forest.n_outputs)), transform

    def _number(self, arguments: Arguments, name: str, default: Any, kind: Any) -> Any:
        value = arguments.get(name, default)
        if not isinstance(value, kind):
            raise ArgumentError(f"{self.name}: {name} is to be a number.")
        return value

    def outputs(self, arguments: Arguments) -> tuple[Spec, ...]:
        """Describe `y`."""
        forest = self._forest(arguments)[1]
        shape, _ = self._result(arguments, forest, len(self._rows(arguments, forest)))
        return (Spec("y", _FLOAT, shape),)

    def job(self, arguments: Arguments) -> Job:
        """Check a request."""
        for name in arguments.keys() - {"model", "x", "y", *self._options}:
            raise ArgumentError(f"{self.name} has no argument {name!r}; it has x, y, {', '.join(self._options)}.")
        digest, forest = self._forest(arguments)
        rows = self._rows(arguments, forest)
        shape, transform = self._result(arguments, forest, len(rows))
        y = arguments.get("y")
        if not isinstance(y, Array) or y.dtype != _FLOAT:
            raise ArgumentError(f"{self.name}: y is to be an array of float32.")
        if y.shape != shape or y.segment.constant:
            raise ArgumentRangeError(f"{self.name}: y has the shape {y.shape}, expected {shape}, and not constant.")
        last = len(forest.iterations) - 1
        begin = self._number(arguments, "iteration_begin", 0, int)
        end = self._number(arguments, "iteration_end", 0, int) or last
        if not 0 <= begin <= end <= last:
            raise ArgumentRangeError(f"{self.name}: iterations {begin} to {end}; the model has {last}.")
        trees = int(forest.iterations[begin]), int(forest.iterations[end])
        missing = float(self._number(arguments, "missing", math.nan, int | float))
        batch = (digest, transform, trees, str(missing))  # NaN is not equal to itself
        table = xgboost.Rows(rows, forest.n_features)
        return Job(len(rows), batch, _TOGETHER, digest, _Detail(forest, table, y.values, trees, transform, missing))

    def open(self, dev: Device, job: Job) -> Opened:
        """Bring the model to the board."""
        return OpenedModel(xgboost.Model([dev], job.detail.forest))


class OpenedModel:
    """A model on a board."""

    def __init__(self, model: xgboost.Model) -> None:
        self._model = model
        self._board = model.boards[0]
        self.kernel = self._board.kernel

    def run(self, jobs: Sequence[Job], user: Hashable) -> Generator[tuple[Any, ...]]:
        """Predict, a slot's rows at a time; the kernel reads and writes what was uploaded and asked for, no more."""
        detail = jobs[0].detail
        board = self._board
        table, out = detail.table, detail.out
        if len(jobs) > 1:
            rows = np.concatenate([job.detail.table.table for job in jobs])
            table, out = xgboost.Rows(rows, detail.forest.n_features), np.empty((len(rows), *out.shape[1:]), _FLOAT)
        slot = board.slot()
        for at in range(0, table.n, board.rows):
            count = min(board.rows, table.n - at)
            try:
                slot.upload(table, at, count, detail.missing)
            except ArgumentRangeError:
                board.give(slot)
                raise
            yield slot.args(count, *detail.trees)
            slot.finish(out, at, count, detail.transform)
        board.give(slot)  # after any other error it may be in use, and goes with the board
        if len(jobs) > 1:
            at = 0
            for job in jobs:
                job.detail.out[:] = out[at : at + job.size]
                at += job.size

    def close(self) -> None:
        """Take it off the board."""
        self._model.close()
