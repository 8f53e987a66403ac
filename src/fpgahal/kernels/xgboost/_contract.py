# SPDX-License-Identifier: Apache-2.0
"""How the board sees a forest: the kernel's arguments, and the layout of nodes and trees, version 1.

``native/emu/models/xgboost_predict.c`` is what the emulated boards execute.
"""

from __future__ import annotations

import uuid

import numpy as np

from fpgahal import Array, KernelContract, Scalar

#: Flags: `y` gets leaf indices (uint32, ``[n_rows, tree_end - tree_begin]``, counted from the tree's first node).
LEAVES = 1
#: Flags: a row's sums begin with what `y` holds, and not with `base`.
CONTINUE = 2

#: Margins of a forest.  A row of `x` goes left where it is less than the node's value, compared as float32; NaN goes
#: where bit 31 says.  Its sum begins with ``base[out]`` and takes the leaves in the order of the trees, in float32.
#: `model_id` lets the board keep the forest from run to run: another id at the same addresses makes it load again, and
#: 0 at each run.
PREDICT = KernelContract(
    "xgboost_predict",
    (
        Array("x", "float32", ("n_rows", "x_stride")),
        Array("y", "float32", ("n_rows", "n_out"), access="rw"),
        Array("nodes", "uint64"),
        Array("trees", "void"),
        Array("base", "float32", ("n_out",)),
        Scalar("n_rows", "uint32"),
        Scalar("n_features", "uint32"),
        Scalar("x_stride", "uint32"),
        Scalar("tree_begin", "uint32"),
        Scalar("tree_end", "uint32"),
        Scalar("n_out", "uint32"),
        Scalar("flags", "uint32"),
        Scalar("model_id", "uint64"),
    ),
    afu_id=uuid.UUID("c3eec1d8-2084-57bd-bcee-e0ab173e310e"),
    summary="margins of a forest of regression trees, equal to XGBoost's",
)

#: A node.  `meta`: 15:0 offset of the left child, the right one follows it, 0 in a leaf; 30:16 feature; 31 missing
#: values go left.  `value`: the threshold, in a leaf its value.  Children come after their parents.
NODE = np.dtype([("value", "<f4"), ("meta", "<u4")])
#: A tree: its first node, how deep it is at most, which output it adds to.
TREE = np.dtype([("root", "<u4"), ("depth", "<u2"), ("out", "<u2"), ("n_nodes", "<u4"), ("reserved", "<u4")])

MAX_FEATURES = 32767
MAX_OFFSET = 0xFFFF  # from a node to its left child
MAX_DEPTH = 4096  # our limit, far beyond what anybody trains: the layout's is 65,535
MAX_OUTPUTS = 65535

__all__ = ["CONTINUE", "LEAVES", "MAX_DEPTH", "MAX_FEATURES", "MAX_OFFSET", "MAX_OUTPUTS", "NODE", "PREDICT", "TREE"]
