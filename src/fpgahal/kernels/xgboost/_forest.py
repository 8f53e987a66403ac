# SPDX-License-Identifier: Apache-2.0
"""Forest: an XGBoost model as arrays, read from what ``Booster.save_model`` writes (JSON or UBJSON)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fpgahal import UnsupportedError
from fpgahal.kernels.xgboost import _json, _ubj
from fpgahal.kernels.xgboost._contract import MAX_FEATURES, MAX_OUTPUTS
from fpgahal.kernels.xgboost._errors import ModelError
from fpgahal.kernels.xgboost._objective import Floats, Objective, objective

Ints = npt.NDArray[np.int64]

_TREE_FIELDS = {  # of the arrays that prediction needs: kind of number, dtype
    "left_children": ("iu", np.int64),
    "right_children": ("iu", np.int64),
    "split_indices": ("iu", np.int64),
    "split_conditions": ("fiu", np.float32),
    "default_left": ("iu", np.int64),
}


@dataclass(frozen=True, slots=True)
class Forest:
    """A model: trees after each other in flat arrays.

    Attributes
    ----------
    n_features, n_outputs : int
    objective : Objective
    base_score : numpy.ndarray
        float32 ``[n_outputs]``, as the model has it (a probability for ``binary:logistic``).
    offsets : numpy.ndarray
        int64 ``[n_trees + 1]``: where each tree's nodes begin.
    left, right, feature, default_left : numpy.ndarray
        int64 ``[n_nodes]``; children are numbers within the tree, -1 in a leaf.
    value : numpy.ndarray
        float32 ``[n_nodes]``: threshold, or the leaf's value.
    outputs : numpy.ndarray
        int64 ``[n_trees]``: which output a tree adds to.
    iterations : numpy.ndarray
        int64 ``[n_iterations + 1]``: the first tree of each boosting round.
    feature_names : tuple of str or None
    best_iteration : int or None
        What early stopping found.
    """

    n_features: int
    n_outputs: int
    objective: Objective
    base_score: Floats
    offsets: Ints
    left: Ints
    right: Ints
    feature: Ints
    default_left: Ints
    value: Floats
    outputs: Ints
    iterations: Ints
    feature_names: tuple[str, ...] | None
    best_iteration: int | None

    @property
    def n_trees(self) -> int:
        """Number of trees."""
        return len(self.outputs)

    @property
    def base_margin(self) -> Floats:
        """float32 ``[n_outputs]``: where a row's sums begin."""
        return self.objective.margins(self.base_score)

    @property
    def n_classes(self) -> int:
        """Classes of a classifier; 0 if it is none."""
        return 0 if not self.objective.classifies else max(2, self.n_outputs)


def read(model: Any) -> Forest:
    """Read a model.

    Parameters
    ----------
    model : path, bytes, xgboost.Booster or a scikit-learn estimator of xgboost

    Raises
    ------
    ModelError
        Not a whole, consistent model.
    UnsupportedError
        A sound model, of a kind that the kernel can't run; the message says which.
    OSError
        The file can't be read.
    """
    if hasattr(model, "get_booster"):
        model = model.get_booster()
    if hasattr(model, "save_raw"):
        data = bytes(model.save_raw("ubj"))
    elif isinstance(model, bytes | bytearray | memoryview):
        data = bytes(model)
    elif isinstance(model, str | os.PathLike):
        data = Path(model).read_bytes()
    else:
        raise TypeError(f"A model is a path, bytes or an xgboost.Booster, not {type(model).__name__}.")
    return _forest(_parse(data))


def _parse(data: bytes) -> _Node:
    start = data.lstrip()[:2]
    if start[:1] != b"{":
        raise ModelError(
            "Not an XGBoost model in JSON or UBJSON" + (": the file is empty." if not data else "."),
            hint="Models in the old binary form: load them with xgboost < 3.1, then save_model('model.ubj').",
        )
    # XGBoost tells them apart in this way, too: UBJSON keys begin with the type of their length
    if start[1:2] in b"iUIlL" and len(start) == 2:
        return _Node(_ubj.loads(data), "model")
    return _Node(_json.loads(data), "model")


class _Node:
    """A place in the document, and its name for messages."""

    def __init__(self, value: Any, name: str) -> None:
        if not isinstance(value, Mapping):
            raise ModelError(f"{name} is {_shown(value)}, expected an object.")
        self.value = value
        self.name = name

    def get(self, key: str) -> Any:
        if key not in self.value:
            raise ModelError(f"{self.name} has no {key!r}.", hint="Was the file written by Booster.save_model?")
        return self.value[key]

    def node(self, key: str) -> _Node:
        return _Node(self.get(key), f"{self.name}.{key}")

    def number(self, key: str, default: int | None = None) -> int:
        value = self.value.get(key, default) if default is not None else self.get(key)
        try:
            if isinstance(value, str) and len(value) < 20:
                value = int(value)
            if type(value) is int:
                return value
        except ValueError:
            pass
        raise ModelError(f"{self.name}.{key} is {_shown(value)}, expected a whole number.")

    def text(self, key: str) -> str:
        value = self.get(key)
        if not isinstance(value, str):
            raise ModelError(f"{self.name}.{key} is {_shown(value)}, expected a text.")
        return value

    def array(self, key: str, kinds: str, dtype: Any) -> npt.NDArray[Any]:
        value = self.get(key)
        if isinstance(value, list) and not value:
            return np.empty(0, dtype)
        if not isinstance(value, np.ndarray) or value.dtype.kind not in kinds:
            raise ModelError(f"{self.name}.{key} is {_shown(value)}, expected an array of numbers.")
        return value.astype(dtype)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{type(value).__name__} {text[:40]}..."


def _forest(document: _Node) -> Forest:
    learner = document.node("learner")
    booster = learner.node("gradient_booster")
    kind = booster.text("name")
    if kind != "gbtree":
        reasons = {
            "dart": "DART weighs its trees, which the kernel does not",
            "gblinear": "a linear model has no trees",
        }
        raise UnsupportedError(f"The model's booster is {kind!r}: {reasons.get(kind, 'the kernel runs gbtree')}.")
    if "c" in _texts(learner, "feature_types"):
        raise UnsupportedError(
            "The model has categorical features; the kernel compares numbers.",
            hint="Encode categories as numbers (one-hot, ordinal) before training.",
        )
    parameters = learner.node("learner_model_param")
    n_features = parameters.number("num_feature")
    n_outputs = max(1, parameters.number("num_class", 0), parameters.number("num_target", 1))
    if not 0 <= n_features <= MAX_FEATURES or n_outputs > MAX_OUTPUTS:
        raise UnsupportedError(
            f"The model has {n_features} features and {n_outputs} outputs; the kernel takes {MAX_FEATURES} "
            f"features and {MAX_OUTPUTS} outputs at most."
        )
    model = booster.node("model")
    outputs, iterations, trees = _index(model, n_outputs)
    fields = [_tree(tree, index) for index, tree in enumerate(trees)]
    offsets = np.zeros(len(trees) + 1, np.int64)
    np.cumsum([len(one["left_children"]) for one in fields], out=offsets[1:])

    def flat(name: str) -> npt.NDArray[Any]:
        dtype = _TREE_FIELDS[name][1]
        return np.concatenate([one[name] for one in fields]) if fields else np.empty(0, dtype)

    names = _texts(learner, "feature_names")
    if names and len(names) != n_features:
        raise ModelError(f"The model has {n_features} features, but {len(names)} names of features.")
    attributes = learner.value.get("attributes")
    best = _Node(attributes, "model.learner.attributes").number("best_iteration", -1) if attributes else -1
    return Forest(
        n_features,
        n_outputs,
        objective(learner.node("objective").text("name")),
        _base_score(parameters, n_outputs),
        offsets,
        flat("left_children"),
        flat("right_children"),
        flat("split_indices"),
        flat("default_left"),
        flat("split_conditions"),
        outputs,
        iterations,
        tuple(names) or None,
        best if best >= 0 else None,
    )


def _texts(node: _Node, key: str) -> list[str]:
    value = node.value.get(key, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ModelError(f"{node.name}.{key} is {_shown(value)}, expected a list of texts.")
    return value


def _base_score(parameters: _Node, n_outputs: int) -> Floats:
    """Before XGBoost 3.1 one number; since then a list, of one or of all outputs."""
    text = parameters.text("base_score")
    try:
        scores = [_json.nearest(part) for part in text.strip().removeprefix("[").removesuffix("]").split(",")]
    except ValueError:
        scores = []
    if len(scores) not in (1, n_outputs) or not np.isfinite(scores).all():
        raise ModelError(f"base_score is {_shown(text)}, expected one number or {n_outputs}.")
    return np.array(scores * (n_outputs if len(scores) == 1 else 1), np.float32)


def _index(model: _Node, n_outputs: int) -> tuple[Ints, Ints, list[Any]]:
    """Which output each tree adds to, where the boosting rounds begin, and the trees themselves."""
    parameters = model.node("gbtree_model_param")
    n_trees = parameters.number("num_trees")
    trees = model.get("trees")
    outputs = model.array("tree_info", "iu", np.int64)
    if not isinstance(trees, list) or len(trees) != n_trees or len(outputs) != n_trees:
        raise ModelError(
            f"The model says that it has {n_trees} trees; there are {len(trees) if isinstance(trees, list) else 'none'}"
            f", with {len(outputs)} entries in tree_info."
        )
    if outputs.size and not 0 <= outputs.min() <= outputs.max() < n_outputs:
        raise ModelError(f"tree_info names output {outputs.max()}; the model has {n_outputs}.")
    if "iteration_indptr" in model.value:
        iterations = model.array("iteration_indptr", "iu", np.int64)
    else:  # before XGBoost 2.0
        step = n_outputs * max(1, parameters.number("num_parallel_tree", 1))
        iterations = np.arange(0, n_trees + 1, step)
    if not iterations.size and not n_trees:
        iterations = np.zeros(1, np.int64)
    if not iterations.size or iterations[0] != 0 or iterations[-1] != n_trees or (np.diff(iterations) < 0).any():
        raise ModelError(f"The boosting rounds do not go from tree 0 to tree {n_trees}: {_shown(iterations.tolist())}.")
    return outputs, iterations, trees


def _tree(value: Any, index: int) -> dict[str, npt.NDArray[Any]]:
    tree = _Node(value, f"tree {index}")
    parameters = tree.node("tree_param")
    if parameters.number("size_leaf_vector", 0) > 1 or "leaf_weights" in tree.value:
        raise UnsupportedError(
            f"Tree {index} has leaves with several outputs (multi_strategy='multi_output_tree'); the kernel's have "
            "one.",
            hint="Train with multi_strategy='one_output_per_tree'.",
        )
    if "split_type" in tree.value and tree.array("split_type", "iu", np.int64).any():
        raise UnsupportedError(
            f"Tree {index} has categorical splits; the kernel compares numbers.",
            hint="Encode categories as numbers (one-hot, ordinal) before training.",
        )
    fields = {name: tree.array(name, *how) for name, how in _TREE_FIELDS.items()}
    n_nodes = parameters.number("num_nodes")
    for name, array in fields.items():
        if len(array) != n_nodes or n_nodes < 1:
            raise ModelError(f"Tree {index} says that it has {n_nodes} nodes; {name} has {len(array)}.")
    return fields


__all__ = ["Forest", "read"]
