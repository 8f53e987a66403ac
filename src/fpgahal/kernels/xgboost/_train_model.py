# SPDX-License-Identifier: Apache-2.0
"""From trees to a real ``xgboost.Booster``, through xgboost's own model format (UBJSON: floats keep every bit)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from fpgahal.kernels.xgboost._train_tree import Tree

_TYPED = {np.dtype(np.float32): b"d", np.dtype(np.int32): b"l", np.dtype(np.int64): b"L", np.dtype(np.uint8): b"U"}


def ubjson(value: Any) -> bytes:
    """Encode dicts, lists, str, int, float, bool and one-dimensional arrays as xgboost reads them."""
    if isinstance(value, dict):
        return b"{" + b"".join(_text(key) + ubjson(item) for key, item in value.items()) + b"}"
    if isinstance(value, np.ndarray):
        data = value.astype(value.dtype.newbyteorder(">")).tobytes()
        return b"[$" + _TYPED[value.dtype] + b"#L" + struct.pack(">q", len(value)) + data
    if isinstance(value, list):
        return b"[#L" + struct.pack(">q", len(value)) + b"".join(map(ubjson, value))
    if isinstance(value, str):
        return b"S" + _text(value)
    if isinstance(value, bool):
        return b"T" if value else b"F"
    if isinstance(value, int):
        return b"L" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"d" + struct.pack(">f", value)
    raise TypeError(type(value))


def _text(text: str) -> bytes:
    data = text.encode()
    return b"L" + struct.pack(">q", len(data)) + data


def _tree(number: int, tree: Tree, n_features: int) -> dict[str, Any]:
    nothing = np.empty(0, np.int32)
    return {
        "base_weights": tree.weight,
        "categories": nothing,
        "categories_nodes": nothing,
        "categories_segments": nothing.astype(np.int64),
        "categories_sizes": nothing.astype(np.int64),
        "default_left": tree.default_left,
        "id": number,
        "left_children": tree.left,
        "loss_changes": tree.loss,
        "parents": tree.parent,
        "right_children": tree.right,
        "split_conditions": tree.value,
        "split_indices": tree.feature,
        "split_type": np.zeros(len(tree.left), np.uint8),
        "sum_hessian": tree.hessian,
        "tree_param": {
            "num_deleted": str(tree.n_deleted),
            "num_feature": str(n_features),
            "num_nodes": str(len(tree.left)),
            "size_leaf_vector": "1",
        },
    }


def assemble(
    skeleton: dict[str, Any],
    trees: Sequence[Tree],
    n_groups: int,
    n_features: int,
    names: list[str] | None,
    types: list[str] | None,
    attributes: dict[str, str],
) -> bytearray:
    """Model with these trees, in rounds of `n_groups`.

    Parameters
    ----------
    skeleton : dict
        A model of the same parameters and labels: objective, base score and version are taken from it.
    """
    learner = skeleton["learner"]
    booster = learner["gradient_booster"]
    model = booster["model"] | {
        "gbtree_model_param": booster["model"]["gbtree_model_param"] | {"num_trees": str(len(trees))},
        "iteration_indptr": list(range(0, len(trees) + 1, n_groups)),
        "tree_info": [number % n_groups for number in range(len(trees))],
        "trees": [_tree(number, tree, n_features) for number, tree in enumerate(trees)],
    }
    learner = learner | {
        "attributes": attributes,
        "feature_names": list(names or []),
        "feature_types": list(types or []),
        "gradient_booster": booster | {"model": model},
        "learner_model_param": learner["learner_model_param"] | {"num_feature": str(n_features)},
    }
    return bytearray(ubjson(skeleton | {"learner": learner}))
