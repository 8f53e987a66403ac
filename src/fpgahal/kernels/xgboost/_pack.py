# SPDX-License-Identifier: Apache-2.0
"""Packed: a Forest in the layout that the board reads."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fpgahal import UnsupportedError
from fpgahal.kernels.xgboost._contract import MAX_DEPTH, MAX_OFFSET, NODE, TREE
from fpgahal.kernels.xgboost._errors import ModelError
from fpgahal.kernels.xgboost._forest import Forest, Ints


@dataclass(frozen=True, slots=True)
class Packed:
    """What goes into the board's buffers.

    Attributes
    ----------
    nodes, trees : numpy.ndarray
        Of the dtypes NODE and TREE.
    origin : numpy.ndarray
        int32 ``[n_nodes]``: the number that XGBoost gives to each node, within its tree.
    model_id : int
        From the SHA-256 of nodes and trees; never 0.
    """

    nodes: npt.NDArray[np.void]
    trees: npt.NDArray[np.void]
    origin: npt.NDArray[np.int32]
    model_id: int


def pack(forest: Forest) -> Packed:
    """Put the nodes of each tree in breadth-first order, leaving out those that nothing leads to.

    Raises
    ------
    ModelError
        A tree that is none: a child outside it, two ways to a node, a circle.
    UnsupportedError
        A tree too deep or too wide for the layout.
    """
    levels, depth = _levels(forest)
    place = np.concatenate(levels) if levels else np.empty(0, np.int64)
    tree_of = np.searchsorted(forest.offsets, place, "right") - 1
    order = place[np.argsort(tree_of, kind="stable")]  # by tree; within it, by level and from left to right
    counts = np.bincount(tree_of, minlength=forest.n_trees)
    roots = np.concatenate([[0], np.cumsum(counts)])

    where = np.empty(len(forest.left), np.int64)
    where[order] = np.arange(len(order))
    tree_of = np.repeat(np.arange(forest.n_trees), counts)
    first = forest.offsets[tree_of]
    inner = forest.left[order] != -1
    wrong = np.flatnonzero(inner & ((forest.feature[order] < 0) | (forest.feature[order] >= forest.n_features)))
    if wrong.size:
        why = f"it splits feature {forest.feature[order[wrong[0]]]}, and the model has {forest.n_features}"
        raise _not_a_tree(forest, tree_of[wrong[0]], order[wrong[0]], why)
    offset = np.where(inner, where[np.where(inner, first + forest.left[order], order)] - np.arange(len(order)), 0)
    if offset.size and offset.max() > MAX_OFFSET:
        tree = int(tree_of[offset.argmax()])
        raise UnsupportedError(
            f"Tree {tree} is too wide: a node's children are {offset.max()} nodes away, and the layout reaches "
            f"{MAX_OFFSET}.",
            hint="Limit max_depth or max_leaves (32,768 leaves are always fine).",
        )
    nodes = np.zeros(len(order), NODE)
    nodes["value"] = forest.value[order]
    meta = offset | forest.feature[order] << 16 | (forest.default_left[order] != 0).astype(np.int64) << 31
    nodes["meta"] = np.where(inner, meta, 0)
    trees = np.zeros(forest.n_trees, TREE)
    trees["root"], trees["n_nodes"] = roots[:-1], counts
    trees["depth"], trees["out"] = depth, forest.outputs
    digest = hashlib.sha256(nodes.tobytes() + trees.tobytes()).digest()
    return Packed(nodes, trees, (order - first).astype(np.int32), int.from_bytes(digest[:8], "little") or 1)


def _levels(forest: Forest) -> tuple[list[Ints], Ints]:
    """The nodes of all trees, level by level; and how deep each tree is."""
    n_nodes = len(forest.left)
    tree_of = np.repeat(np.arange(forest.n_trees), np.diff(forest.offsets))
    sizes = np.diff(forest.offsets)[tree_of]
    seen = np.zeros(n_nodes, np.bool_)
    depth = np.zeros(forest.n_trees, np.int64)
    frontier = forest.offsets[:-1].copy()
    levels: list[Ints] = []
    while frontier.size:
        seen[frontier] = True
        levels.append(frontier)
        depth[tree_of[frontier]] = len(levels) - 1
        inner = frontier[(forest.left[frontier] != -1) | (forest.right[frontier] != -1)]
        children = np.stack([forest.left[inner], forest.right[inner]], axis=1)
        bad = ((children < 1) | (children >= sizes[inner, None])).any(axis=1)
        if bad.any():
            at = int(bad.argmax())
            raise _not_a_tree(forest, tree_of[inner[at]], inner[at], f"its children are {children[at].tolist()}")
        apart = children[:, 1] != children[:, 0] + 1
        if apart.any():  # XGBoost takes it for granted, and goes to left + 1
            at = int(apart.argmax())
            why = f"its children {children[at].tolist()} are not next to each other"
            raise _not_a_tree(forest, tree_of[inner[at]], inner[at], why)
        frontier = (children + forest.offsets[tree_of[inner], None]).ravel()
        again = seen[frontier]
        if again.any():
            node = frontier[int(again.argmax())]
            raise _not_a_tree(forest, tree_of[node], node, "something below it leads back to it")
        ordered = np.sort(frontier)
        twice = np.flatnonzero(ordered[1:] == ordered[:-1])
        if twice.size:
            raise _not_a_tree(forest, tree_of[ordered[twice[0]]], ordered[twice[0]], "two nodes have it as a child")
        if len(levels) > MAX_DEPTH:
            raise UnsupportedError(
                f"Tree {tree_of[frontier[0]]} is deeper than {MAX_DEPTH} levels; no kernel would run it well.",
                hint="Train with a max_depth.",
            )
    return levels, depth


def _not_a_tree(forest: Forest, tree: np.int64, node: np.int64, why: str) -> ModelError:
    return ModelError(f"Tree {tree}, node {node - forest.offsets[tree]}: {why}; that is no tree.")


__all__ = ["Packed", "pack"]
