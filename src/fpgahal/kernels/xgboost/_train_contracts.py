# SPDX-License-Identifier: Apache-2.0
"""Kernels that find splits: ``xgboost_exact`` and ``com_inaccel_xgboost_exact``.

AFU ids are ``uuid5(fpgahal.kernels.vadd.NAMESPACE, name)``, fixed here.
"""

from __future__ import annotations

import uuid

import numpy as np

from fpgahal import Array, KernelContract, Scalar

#: Best split of a node, as EXACT writes it: `index` is the feature, bit 31 set if missing values go left.
BEST = np.dtype(
    [
        ("loss", "<f4"),
        ("index", "<u4"),
        ("value", "<f4"),
        ("reserved", "<u4"),
        ("left", "<f8", 2),
        ("right", "<f8", 2),
    ]
)
#: The same, as INACCEL_EXACT writes it.
SPLIT = np.dtype([("loss", "<f4"), ("index", "<u4"), ("value", "<f4"), ("left", "<f4", 2), ("unused", "<u4", 3)])
DEFAULT_LEFT = np.uint32(1 << 31)

FORWARD, BACKWARD = 1, 2  # bits of EXACT's `dirs`: missing values to the right, to the left; 0 masks a feature
GAIN_FLOAT64 = 1  # bit of EXACT's `flags`: gains as xgboost >= 3.4 computes them
MAX_NODES = 4096  # of one run of EXACT

EXACT = KernelContract(
    "xgboost_exact",
    (
        Scalar("n_rows", "uint32"),
        Scalar("n_features", "uint32"),
        Scalar("n_nodes", "uint32"),
        Scalar("flags", "uint32"),
        Array("entries", "void"),  # {uint32 row; float32 value}[nnz]: columns after each other, each sorted by value
        Array("col_ptr", "uint64"),  # [n_features + 1]
        Array("dirs", "uint8", ("n_features",)),
        Array("rows", "void"),  # {float32 g; float32 h; int32 node, -1 if in none; uint32 0}[n_rows]
        Array("node_stats", "float64", ("n_nodes", 2)),
        Array("root_gain", "float32", ("n_nodes",)),
        Array("best", "void", access="w"),  # BEST[n_nodes]
        Scalar("min_child_weight", "float32"),
        Scalar("max_delta_step", "float32"),
        Scalar("reg_alpha", "float32"),
        Scalar("reg_lambda", "float32"),
    ),
    afu_id=uuid.UUID("d27201bb-aae9-55ca-a0d4-932645a4c456"),
    summary="best splits of one tree level, exact greedy, bit for bit those of xgboost",
)

LANES = 8  # features that INACCEL_EXACT takes side by side
INACCEL_MAX_ROWS, INACCEL_MAX_NODES = 65536, 2048

INACCEL_EXACT = KernelContract(
    "com_inaccel_xgboost_exact",
    (
        Scalar("entry_num", "int32"),
        Scalar("feature_num", "int32"),
        Scalar("node_num", "int32"),
        Scalar("entry_num_batch", "int32"),
        Array("gpairs", "void"),  # {float32 g, h}[entry_num], whole beats of 8
        Array("node_idxs", "void"),  # uint16[entry_num], 0xFFFF: inactive
        Array("entries", "void"),  # {uint32 row; float32 value}[ceil(feature_num / 8), entry_num_batch, 8]
        Array("fvalid", "void"),  # one bit a feature
        Array("node_stats", "void"),  # {float32 g, h}[node_num]
        Array("node_root_gain", "void"),  # float32[node_num]
        Array("best_splits", "void", access="w"),  # SPLIT[node_num], whole beats of 2
        Scalar("min_child_weight", "float32"),
        Scalar("max_delta_step", "float32"),
        Scalar("reg_alpha", "float32"),
        Scalar("reg_lambda", "float32"),
    ),
    afu_id=uuid.UUID("c7241905-1548-5668-816d-11da7fdab590"),
    summary="best splits of one tree level in 16.16 fixed point, as InAccel's accelerator finds them",
)
