# SPDX-License-Identifier: Apache-2.0
"""``train``: xgboost's exact greedy boosting with the split finding on boards."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fpgahal import ArgumentError, ArgumentRangeError, Device, UnsupportedError
from fpgahal.kernels._open import Image
from fpgahal.kernels.xgboost import _grow
from fpgahal.kernels.xgboost._train_board import Boards
from fpgahal.kernels.xgboost._train_inaccel import InaccelBoards
from fpgahal.kernels.xgboost._train_model import assemble
from fpgahal.kernels.xgboost._train_params import LOGISTIC, SOFTMAX, SQUARED, Params, Settings, settings
from fpgahal.kernels.xgboost._train_tree import Floats, Rows, Tree, grow

if TYPE_CHECKING:
    import xgboost


_GRADIENTS = {
    SQUARED: _grow.squared_gradients,
    LOGISTIC: _grow.logistic_gradients,
    SOFTMAX: _grow.softmax_gradients,
}


def train(
    params: Params,
    dtrain: xgboost.DMatrix | tuple[Any, Any],
    num_boost_round: int = 10,
    *,
    devices: Device | Sequence[Device],
    evals: Sequence[tuple[xgboost.DMatrix, str]] = (),
    early_stopping_rounds: int | None = None,
    evals_result: dict[str, dict[str, list[float]]] | None = None,
    verbose_eval: bool | int = True,
    progress: bool | None = None,
    image: Image | None = None,
) -> xgboost.Booster:
    """Boost trees as ``xgboost.train`` does with ``tree_method="exact"``, with the split finding on boards.

    The trees are those of xgboost with ``nthread=1``, bit for bit: features, thresholds, default directions, leaf
    values, gains and hessians.  With ``tree_method="fpga_exact"`` they are those of InAccel's accelerator of 2019,
    whose 16.16 fixed-point sums overflow; ``nRequests`` shares the features out as it did.

    Parameters
    ----------
    params : dict, or list of pairs
        xgboost's parameters.  Objectives: ``reg:squarederror``, ``reg:logistic``, ``binary:logistic``,
        ``binary:logitraw``, ``multi:softprob``, ``multi:softmax``.  What the board can't honour is refused.
    dtrain : xgboost.DMatrix, or (X, y)
        Numeric features; missing values are missing.  Labels, weights and base margins count.
    num_boost_round : int
    devices : Device, or sequence of Device
        Open boards; they are programmed if they run something else.  Several boards share the features; the trees
        are the same.
    evals : sequence of (DMatrix, str)
        What xgboost's metrics are computed on after each round.
    early_stopping_rounds : int, optional
        Stop when the last metric of the last of `evals` has not improved for so many rounds; the Booster knows its
        ``best_iteration`` and ``best_score``, and has all trees.
    evals_result : dict, optional
        Gets the metrics: ``{"name": {"rmse": [...]}}``.
    verbose_eval : bool or int
        Print the metrics of each, or each n-th, round.
    progress : bool, optional
        Show a progress bar; by default if stderr is a terminal.
    image : path or bytes, optional
        What to program; without it, an image is looked for as :func:`fpgahal.kernels.open_kernel` does.

    Returns
    -------
    xgboost.Booster
        A real one: predicts, saves, explains.

    Raises
    ------
    UnsupportedError
        Something in `params` or `dtrain` that would need other trees than a board can grow.
    ArgumentError, ArgumentRangeError
        A wrong type, or a value out of range (also a TypeError, a ValueError).
    xgboost.core.XGBoostError
        xgboost refuses the parameters or labels.
    DeviceLostError, RunError
        A board failed; the message names it.  The devices stay open, and what was allocated on them is freed.

    Notes
    -----
    Needs xgboost 3.0 or newer.  Ctrl-C ends it after the level that is being searched.
    """
    boards = [devices] if isinstance(devices, Device) else list(devices)
    if not boards or not all(isinstance(dev, Device) for dev in boards):
        raise ArgumentError("devices= names no board.", hint="Pass an open Device, or several: fpgahal.open().")
    if len({dev.info.address for dev in boards}) < len(boards):
        raise ArgumentError("devices= names a board twice.")
    if not isinstance(num_boost_round, int) or num_boost_round < 1:
        raise ArgumentRangeError(f"num_boost_round is {num_boost_round!r}, expected 1 or more.")
    if early_stopping_rounds is not None and (early_stopping_rounds < 1 or not evals):
        raise ArgumentError(
            f"early_stopping_rounds={early_stopping_rounds} needs 1 or more, and something in evals= to watch."
        )
    chosen = settings(params)
    booster = _Training(chosen, dtrain, evals)
    with ExitStack() as stack:
        rows = stack.enter_context(booster.boards(boards, image))
        bar = stack.enter_context(_bar(num_boost_round, progress))
        period = int(verbose_eval) if evals else 0
        for number in range(num_boost_round):
            booster.round(rows)
            text, stop = booster.evaluate(number, early_stopping_rounds)
            if period and (number % period == 0 or stop or number + 1 == num_boost_round):
                bar.say(text)
            bar.advance()
            if stop:
                break
    if evals_result is not None:
        evals_result.clear()
        evals_result.update(booster.history)
    return booster.finish()


class _Matrix:
    """A DMatrix, as arrays."""

    def __init__(self, data: xgboost.DMatrix, what: str, n_features: int | None = None) -> None:
        import xgboost

        if not isinstance(data, xgboost.DMatrix):
            raise ArgumentError(f"{what} is a {type(data).__name__}, expected an xgboost.DMatrix.")
        if isinstance(data, xgboost.QuantileDMatrix | xgboost.ExtMemQuantileDMatrix):
            raise UnsupportedError(
                f"{what} is a {type(data).__name__}: it holds quantiles, and exact splits need the values.",
                hint="Make an xgboost.DMatrix of the data.",
            )
        if any(kind == "c" for kind in data.feature_types or ()):
            raise UnsupportedError(f"{what} has categorical features; the exact method splits numbers only.")
        if data.get_uint_info("group_ptr").size:
            raise UnsupportedError(f"{what} has query groups; no objective here ranks.")
        self.n_rows, self.n_features = data.num_row(), data.num_col()
        if n_features is not None and self.n_features > n_features:
            raise ArgumentError(f"{what} has {self.n_features} features, the training data {n_features}.")
        if n_features is None and (self.n_rows == 0 or self.n_features == 0):
            raise ArgumentRangeError(f"{what} has {self.n_rows} rows and {self.n_features} features.")
        csr = data.get_data()
        self.indptr = np.ascontiguousarray(csr.indptr, np.int64)
        self.indices = np.ascontiguousarray(csr.indices, np.int32)
        self.data = np.ascontiguousarray(csr.data, np.float32)
        if not _grow.strictly_ascending(self.indptr, self.indices):
            csr.sort_indices()
            self.indices, self.data = np.ascontiguousarray(csr.indices, np.int32), np.ascontiguousarray(csr.data)
            if not _grow.strictly_ascending(self.indptr, self.indices):
                raise UnsupportedError(f"{what} has two values for one feature of one row.")
        self.label = np.ascontiguousarray(data.get_label(), np.float32)
        self.weight = np.ascontiguousarray(data.get_weight(), np.float32)
        if self.label.size != self.n_rows:
            raise UnsupportedError(f"{what} has {self.label.size} labels for {self.n_rows} rows, expected one each.")

    def columns(self) -> Floats | None:
        """The values, column after column; None if that takes more memory than `indices` and `data` do."""
        if self.n_rows * self.n_features > 2 * self.data.size:
            return None
        return _grow.columns(self.indptr, self.indices, self.data, self.n_features)

    def add(self, tree: Tree, margin: Floats, column: int) -> None:
        """Add a tree's leaves to the margins."""
        _grow.add_tree(
            self.indptr,
            self.indices,
            self.data,
            self.n_features,
            tree.left,
            tree.right,
            tree.feature,
            tree.value,
            tree.default_left,
            margin,
            column,
        )


class _Training:
    """The model so far."""

    def __init__(
        self, chosen: Settings, data: xgboost.DMatrix | tuple[Any, Any], evals: Sequence[tuple[xgboost.DMatrix, str]]
    ) -> None:
        import xgboost

        self._xgboost = xgboost
        version = tuple(int(part) for part in xgboost.__version__.split(".")[:2])
        if version < (3, 0):
            raise UnsupportedError(f"xgboost {xgboost.__version__} is too old: 3.0 or newer is needed.")
        self._settings = chosen
        self.inaccel = chosen.tree_method == "fpga_exact"
        self._variant = _grow.GAIN_FLOAT64 if version >= (3, 4) else _grow.GAIN_FLOAT32
        if self.inaccel:
            self._variant = _grow.GAIN_OLD
        if isinstance(data, tuple):
            data = xgboost.DMatrix(data[0], label=data[1])
        self.matrix = _Matrix(data, "dtrain")
        self._names, self._types = list(data.feature_names or []) or None, list(data.feature_types or []) or None
        self.skeleton = self._make_skeleton(data)
        self.trees: list[Tree] = []
        self.history: dict[str, dict[str, list[float]]] = {}
        # xgboost takes the base score of a model without trees for not yet estimated
        self._watch = self._booster([Tree.leaf(0)] * chosen.n_groups)
        self.margin = self._start(data, self.matrix)
        label, n = self.matrix.label, self.matrix.n_rows
        self._weight = self.matrix.weight if self.matrix.weight.size else np.ones(n, np.float32)
        if chosen.kind != SOFTMAX and chosen.scale_pos_weight != 1:
            self._weight = np.where(label == 1, self._weight * chosen.scale_pos_weight, self._weight)
        self._gradients = np.empty((chosen.n_groups, n, 2), np.float32)
        self._watched = [self._watched_data(data, one, name) for one, name in evals]
        self._stopper: Any = None

    # --- what xgboost knows better ------------------------------------------------------------------------------
    def _make_skeleton(self, data: xgboost.DMatrix) -> dict[str, Any]:
        """One round of xgboost on the labels alone: it checks parameters and labels, and estimates the base score."""
        alone = self._xgboost.DMatrix(np.zeros((self.matrix.n_rows, 1), np.float32), label=data.get_label())
        if self.matrix.weight.size:
            alone.set_weight(self.matrix.weight)
        params = self._settings.xgboost | {"max_depth": 1, "verbosity": 0}
        if self.inaccel:  # of the time when the base score was not estimated
            params.setdefault("base_score", 0.5)
        skeleton: dict[str, Any] = json.loads(self._xgboost.train(params, alone, 1).save_raw("json"))
        return skeleton

    def _booster(self, trees: list[Tree], attributes: dict[str, str] | None = None) -> xgboost.Booster:
        model = assemble(
            self.skeleton,
            trees,
            self._settings.n_groups,
            self.matrix.n_features,
            self._names,
            self._types,
            attributes or {},
        )
        return self._xgboost.Booster(self._settings.xgboost, model_file=model)

    def _start(self, data: xgboost.DMatrix, matrix: _Matrix) -> Floats:
        """Margins before the first tree."""
        shape = matrix.n_rows, self._settings.n_groups
        margin = data.get_base_margin()
        if not margin.size:
            row = np.zeros((1, self.matrix.n_features), np.float32)
            one = self._xgboost.DMatrix(row, feature_names=self._names, feature_types=self._types)
            margin = np.tile(self._watch.predict(one, output_margin=True).reshape(1, -1), (matrix.n_rows, 1))
        if margin.size != shape[0] * shape[1]:
            raise ArgumentError(f"There are {margin.size} base margins, expected {shape[0]} x {shape[1]}.")
        return np.array(margin, np.float32, order="C").reshape(shape)

    def _watched_data(self, train: xgboost.DMatrix, data: xgboost.DMatrix, name: str) -> tuple[Any, ...]:
        if data is train:
            matrix, margin = self.matrix, self.margin
        else:
            matrix = _Matrix(data, f"evals {name!r}", self.matrix.n_features)
            margin = self._start(data, matrix)
        # xgboost's metrics of these margins: those of a model that adds nothing, with the margins as its start.
        alone = self._xgboost.DMatrix(np.zeros((matrix.n_rows, 1), np.float32), label=matrix.label)
        if matrix.weight.size:
            alone.set_weight(matrix.weight)
        return name, matrix, margin, alone

    # --- training -----------------------------------------------------------------------------------------------
    @contextmanager
    def boards(self, devices: Sequence[Device], image: Image | None) -> Iterator[Rows]:
        """Load the boards; yields the rows that they search."""
        m, n = self.matrix, self.matrix.n_rows
        entries, col_ptr = _grow.sorted_columns(m.indptr, m.indices, m.data, m.n_features)
        boards: Boards | InaccelBoards
        if self.inaccel:
            boards = InaccelBoards(devices, image, entries, col_ptr, n, self._settings)
        else:
            float64 = self._variant == _grow.GAIN_FLOAT64
            boards = Boards(devices, image, entries, col_ptr, n, self._settings, float64=float64)
        del entries
        with boards:
            yield Rows(m.indptr, m.indices, m.data, m.n_features, m.columns(), np.empty(n, np.int32), boards)

    def round(self, rows: Rows) -> None:
        """Grow the trees of one round."""
        s = self._settings
        _GRADIENTS[s.kind](self.margin, self.matrix.label, self._weight, self._gradients)
        for group in range(s.n_groups):
            tree = grow(rows, self._gradients[group], s, self._variant)
            _grow.add_leaves(rows.position, tree.leaves(), self.margin, group)
            for _, matrix, margin, _ in self._watched:
                if matrix is not self.matrix:
                    matrix.add(tree, margin, group)
            self.trees.append(tree)

    def evaluate(self, number: int, patience: int | None) -> tuple[str, bool]:
        """Metrics after a round, as xgboost prints them, and whether to stop."""
        if not self._watched:
            return "", False
        for _, _, margin, alone in self._watched:
            alone.set_base_margin(margin)
        self._watch.reset()  # it would remember the margins of the round before
        text: str = self._watch.eval_set([(alone, name) for name, _, _, alone in self._watched], number)
        line = f"[{number}]"
        for part in text.split("\t")[1:]:
            what, _, value = part.rpartition(":")
            line += f"\t{what}:{float(value):.5f}"
            name, _, metric = what.partition("-")
            self.history.setdefault(name, {}).setdefault(metric, []).append(float(value))
        if patience is None:
            return line, False
        if self._stopper is None:
            self._stopper = self._xgboost.callback.EarlyStopping(rounds=patience)
        return line, bool(self._stopper.after_iteration(self._watch, number, self.history))

    def finish(self) -> xgboost.Booster:
        """The whole model."""
        return self._booster(self.trees, {key: str(value) for key, value in self._watch.attributes().items()})


class _Bar:
    """No progress bar: prints only."""

    def say(self, text: str) -> None:
        """Print a line."""
        print(text)

    def advance(self) -> None:
        """One round is done."""


class _RichBar(_Bar):
    def __init__(self, bar: Any, rounds: int) -> None:
        self._bar, self._task = bar, bar.add_task("boosting", total=rounds)

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def advance(self) -> None:
        self._bar.advance(self._task)


@contextmanager
def _bar(rounds: int, wanted: bool | None) -> Iterator[_Bar]:
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield _Bar()
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (*Progress.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _RichBar(bar, rounds)
