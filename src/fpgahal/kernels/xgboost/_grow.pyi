# SPDX-License-Identifier: Apache-2.0
import numpy as np
from numpy.typing import NDArray

ENTRY: np.dtype[np.void]
ROW: np.dtype[np.void]
GAIN_FLOAT32: int
GAIN_FLOAT64: int
GAIN_OLD: int

_F32 = NDArray[np.float32]
_F64 = NDArray[np.float64]
_I32 = NDArray[np.int32]
_I64 = NDArray[np.int64]
_U8 = NDArray[np.uint8]
_Rows = NDArray[np.void]

def sorted_columns(
    indptr: _I64, indices: _I32, data: _F32, n_features: int
) -> tuple[NDArray[np.void], NDArray[np.uint64]]: ...
def columns(indptr: _I64, indices: _I32, data: _F32, n_features: int) -> _F32: ...
def strictly_ascending(indptr: _I64, indices: _I32) -> bool: ...
def squared_gradients(margin: _F32, label: _F32, weight: _F32, out: _F32) -> None: ...
def logistic_gradients(margin: _F32, label: _F32, weight: _F32, out: _F32) -> None: ...
def softmax_gradients(margin: _F32, label: _F32, weight: _F32, out: _F32) -> None: ...
def node_values(
    sums: _F64,
    variant: int,
    min_child_weight: np.float32,
    max_delta_step: np.float32,
    alpha: np.float32,
    lambda_: np.float32,
    weight: _F32,
    gain: _F32,
) -> None: ...
def begin_tree(gradients: _F32, rows: _Rows, work: _I32, sums: _F64) -> None: ...
def descend(
    indptr: _I64,
    indices: _I32,
    data: _F32,
    n_features: int,
    columns: _F32 | None,
    rows: _Rows,
    position: _I32,
    work: _I32,
    feature: _I32,
    threshold: _F32,
    default_left: _U8,
    child: _I32,
    first: int,
    sums: _F64,
) -> None: ...
def end_tree(work: _I32, first: int, position: _I32) -> None: ...
def show_page(work: _I32, rows: _Rows, first: int, count: int) -> None: ...
def add_leaves(position: _I32, leaf: _F32, margin: _F32, column: int) -> None: ...
def add_tree(
    indptr: _I64,
    indices: _I32,
    data: _F32,
    n_features: int,
    left: _I32,
    right: _I32,
    feature: _I32,
    value: _F32,
    default_left: _U8,
    margin: _F32,
    column: int,
) -> None: ...
def float_sums(rows: _Rows, threads: int, sums: _F64) -> None: ...
