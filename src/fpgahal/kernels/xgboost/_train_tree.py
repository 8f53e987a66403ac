# SPDX-License-Identifier: Apache-2.0
"""One tree, level by level: what xgboost's updaters ``grow_colmaker`` and ``prune`` do around split finding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fpgahal.kernels.xgboost import _grow
from fpgahal.kernels.xgboost._train_contracts import DEFAULT_LEFT
from fpgahal.kernels.xgboost._train_params import Settings

EPSILON = np.float32(1e-6)  # a split must gain more
NO_PARENT = 2**31 - 1
THREADS = 8  # in whose order InAccel's published figures sum
DELETED = 2**31 - 1  # feature of a node that was pruned away

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


class Searching(Protocol):
    """Boards that find splits."""

    rows: NDArray[np.void]  # of _grow.ROW: what they see of each row
    work: Ints  # each row's node of the level, -1 if in a leaf

    def search(self, sums: NDArray[np.float64], gains: Floats) -> NDArray[np.void]:
        """Best splits (BEST or SPLIT) of a level's nodes, given their gradients and hessians, and their gains."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The training rows: the matrix (CSR, column numbers ascending in each row), and where each row is."""

    indptr: NDArray[np.int64]
    indices: Ints
    data: Floats
    n_features: int
    columns: Floats | None  # the matrix again, (n_features, n_rows), NaN: missing; None if it is too sparse
    position: Ints  # node of the tree
    boards: Searching  # their memory may be freed when training is over: nobody else keeps their arrays


@dataclass(slots=True)
class Tree:
    """Arrays over the nodes, as xgboost's model has them; a parent comes before its children."""

    left: Ints
    right: Ints
    parent: Ints
    feature: Ints
    value: Floats  # threshold, or leaf value
    default_left: NDArray[np.uint8]
    loss: Floats
    weight: Floats
    hessian: Floats
    n_deleted: int = 0

    @classmethod
    def leaf(cls, value: float) -> Tree:
        """One that is a leaf."""
        none, whole = np.full(1, -1, np.int32), np.zeros(1, np.int32)
        real, flag = np.full(1, value, np.float32), np.zeros(1, np.uint8)
        return cls(none, none, np.full(1, NO_PARENT, np.int32), whole, real, flag, real, real, real)

    def leaves(self) -> Floats:
        """For each node the value of the leaf in which rows of that node end; meaningless for inner nodes."""
        values = self.value.copy()
        if self.n_deleted:
            for node in np.flatnonzero(self.feature == DELETED):
                values[node] = values[self.parent[node]]
        return values


def node_values(sums: NDArray[np.float64], settings: Settings, variant: int) -> tuple[Floats, Floats]:
    """Weights and gains of nodes with xgboost's roundings; `sums` (n, 2) are their gradients and hessians."""
    weight, gain = np.empty(len(sums), np.float32), np.empty(len(sums), np.float32)
    s = settings
    _grow.node_values(sums, variant, s.min_child_weight, s.max_delta_step, s.reg_alpha, s.reg_lambda, weight, gain)
    return weight, gain


def grow(rows: Rows, gradients: Floats, settings: Settings, variant: int) -> Tree:
    """Grow one tree, and leave each row's node in ``rows.position``.

    Parameters
    ----------
    rows : Rows
    gradients : ndarray of float32, shape (n_rows, 2)
        Gradient and hessian.
    settings : Settings
    variant : int
        How gains are computed: one of ``_grow.GAIN_FLOAT32``, ``GAIN_FLOAT64``, ``GAIN_OLD``.
    """
    boards = rows.boards
    levels: list[dict[str, Any]] = []
    parents = [np.array([NO_PARENT], np.int32)]
    sums = np.empty((1, 2))
    _grow.begin_tree(gradients, boards.rows, boards.work, sums)
    first = 0
    for depth in range(settings.max_depth + 1):
        if variant == _grow.GAIN_OLD:
            _grow.float_sums(boards.rows, THREADS, sums)
        weight, gain = node_values(sums, settings, variant)
        level = _leaves(weight, settings, sums)
        levels.append(level)
        if depth == settings.max_depth:
            break
        best = boards.search(sums, gain)
        split = best["loss"] > EPSILON
        level["loss"] = best["loss"].copy()
        n_split = int(np.count_nonzero(split))
        if not n_split:
            break
        child = np.where(split, 2 * np.cumsum(split) - 2, -1).astype(np.int32)
        level["feature"] = np.where(split, best["index"] & ~DEFAULT_LEFT, 0).astype(np.int32)
        level["value"] = np.where(split, best["value"], level["value"])
        level["default_left"] = (split & (best["index"] >= DEFAULT_LEFT)).astype(np.uint8)
        below = first + len(weight)
        level["left"] = np.where(split, below + child, -1).astype(np.int32)
        level["right"] = np.where(split, below + child + 1, -1).astype(np.int32)
        parents.append((first + np.repeat(np.flatnonzero(split), 2)).astype(np.int32))
        sums = np.zeros((2 * n_split, 2))
        _grow.descend(
            rows.indptr,
            rows.indices,
            rows.data,
            rows.n_features,
            rows.columns,
            boards.rows,
            rows.position,
            boards.work,
            level["feature"],
            level["value"],
            level["default_left"],
            child,
            first,
            sums,
        )
        first = below
    _grow.end_tree(boards.work, first, rows.position)
    columns: dict[str, Any] = {name: np.concatenate([level[name] for level in levels]) for name in levels[0]}
    tree = Tree(parent=np.concatenate(parents), **columns)
    if settings.gamma > 0:
        _prune(tree, settings)
    return tree


def _leaves(weight: Floats, settings: Settings, sums: NDArray[np.float64]) -> dict[str, Any]:
    n = len(weight)
    return {
        "left": np.full(n, -1, np.int32),
        "right": np.full(n, -1, np.int32),
        "feature": np.zeros(n, np.int32),
        "value": weight * settings.eta,
        "default_left": np.zeros(n, np.uint8),
        "loss": np.zeros(n, np.float32),
        "weight": weight,
        "hessian": sums[:, 1].astype(np.float32),
    }


def _prune(tree: Tree, settings: Settings) -> None:
    """Make leaves of nodes that gain less than gamma, from the bottom up, as long as both children are leaves."""
    for node in np.flatnonzero((tree.left >= 0) & (tree.loss < settings.gamma))[::-1]:
        children = tree.left[node], tree.right[node]
        if tree.left[children[0]] >= 0 or tree.left[children[1]] >= 0:
            continue
        for child in children:
            tree.feature[child], tree.default_left[child] = DELETED, 1
        tree.left[node] = tree.right[node] = -1
        tree.value[node] = settings.eta * tree.weight[node]
        tree.n_deleted += 2
