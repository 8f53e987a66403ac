# SPDX-License-Identifier: Apache-2.0
"""Rows: what users pass as X, and how it gets into a device buffer: as float32, row after row, missing values as NaN.

Data frames of pandas and polars are known by what they can do; neither is imported.  Columns of one type go in as one
array; a frame of several types goes in column by column, because each is rounded to float32 by itself (as in XGBoost),
and a common type would round twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fpgahal import ArgumentError, ArgumentRangeError, Buffer
from fpgahal.kernels.xgboost import _numbers

_F32 = np.dtype(np.float32)
_NUMERIC = "fiub"


class Rows:
    """X, checked: `n` rows of `n_features` numbers.

    Parameters
    ----------
    x : array, data frame, or sequence of rows
        One dimension is one row.
    n_features : int
        Of the model.
    names : tuple of str, optional
        Of the model's features: a data frame's columns must be these.

    Raises
    ------
    ArgumentError
        It holds something else than real numbers (also a TypeError).
    ArgumentRangeError
        Wrong number of features or dimensions, wrong columns (also a ValueError).
    """

    __slots__ = ("columns", "direct", "n", "n_features", "table")

    def __init__(self, x: Any, n_features: int, names: tuple[str, ...] | None = None) -> None:
        self.n_features = n_features
        self.columns: list[npt.NDArray[Any]] = []
        self.table: npt.NDArray[Any]
        if type(x) is not np.ndarray:
            x = self._open(x, names)
        if x is not None:
            self._take(x)

    def _take(self, x: npt.NDArray[Any]) -> None:
        if x.ndim == 1:
            x = x[None, :]
        if x.dtype.kind not in _NUMERIC:
            raise _not_numbers("X", x.dtype)
        if x.ndim != 2:
            raise ArgumentRangeError(f"X has {x.ndim} dimensions: expected rows of {self.n_features} features.")
        self.n, width = x.shape
        if width != self.n_features:
            raise _wrong_width(width, self.n_features)
        self.table = x
        self.direct = x.dtype == _F32 and x.flags.c_contiguous

    def _open(self, x: Any, names: tuple[str, ...] | None) -> npt.NDArray[Any] | None:
        if hasattr(x, "columns") and hasattr(x, "to_numpy"):
            return self._frame(x, names)
        if hasattr(x, "tocsr"):
            raise ArgumentError(
                f"X is a sparse {type(x).__name__}; the board takes dense rows.",
                hint="X.toarray() makes it dense (absent entries become 0, where XGBoost takes them for missing).",
            )
        if hasattr(x, "num_row"):
            raise ArgumentError(f"X is a {type(x).__name__}; pass the array or data frame that it was made of.")
        try:
            return np.asarray(x)
        except ValueError as error:  # rows of different lengths
            raise ArgumentRangeError(f"X is no table of numbers: {error}.") from None

    def _frame(self, x: Any, names: tuple[str, ...] | None) -> npt.NDArray[Any] | None:
        found = [str(name) for name in x.columns]
        if len(found) != self.n_features:
            raise _wrong_width(len(found), self.n_features)
        if names is not None and tuple(found) != names:
            _wrong_names(found, names)
        kinds = {str(x[name].dtype) for name in x.columns} if len(set(found)) == len(found) else {""}
        if len(kinds) == 1 and "category" not in kinds:
            whole = x.to_numpy()
            if whole.dtype.kind in _NUMERIC:
                return np.asarray(whole)
        self.columns = [_column(name, x.iloc[:, i] if hasattr(x, "iloc") else x[name]) for i, name in enumerate(found)]
        self.n = len(x)
        self.direct = False
        return None

    def fill(self, buffer: Buffer, first: int, count: int, missing: float) -> None:
        """Copy `count` rows from `first` on to the start of `buffer`.

        Raises
        ------
        ArgumentRangeError
            One of them has an infinity, or a number beyond float32, and `missing` is not infinite.
        """
        width = self.n_features
        infinite = missing in (np.inf, -np.inf)
        if self.direct:
            bad = _numbers.fill(self.table, buffer, first * width, count * width, missing, infinite)
        else:
            view = np.asarray(buffer)[: count * width].reshape(count, width)
            with np.errstate(over="ignore"):  # found below
                if self.columns:
                    for i, column in enumerate(self.columns):
                        np.copyto(view[:, i], column[first : first + count], casting="same_kind")
                else:
                    np.copyto(view, self.table[first : first + count], casting="same_kind")
            bad = _numbers.scan(buffer, count * width, missing, infinite)
        if bad >= 0:
            row, feature = divmod(bad, width)
            raise ArgumentRangeError(
                f"X[{first + row}, {feature}] is infinite, or too large for float32.",
                hint="Use NaN for what is missing, or pass missing=inf; xgboost.DMatrix refuses such data, too.",
            )


def _column(name: str, column: Any) -> npt.NDArray[Any]:
    """One column as an array; nulls become NaN."""
    found = column.to_numpy()
    if found.dtype.kind == "O" and _numeric_dtype(column.dtype):  # pandas: integers with pd.NA
        found = column.to_numpy(dtype="float32", na_value=np.nan)
    if found.dtype.kind not in _NUMERIC or str(column.dtype) == "category":
        raise _not_numbers(f"Column {name!r} of X", column.dtype)
    return np.asarray(found)


def _numeric_dtype(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in _NUMERIC


def _not_numbers(what: str, dtype: Any) -> ArgumentError:
    return ArgumentError(
        f"{what} is of dtype {dtype}: expected real numbers.",
        hint="Convert it: X.astype('float32'); encode categories and texts as numbers, as for training.",
    )


def _wrong_width(found: int, expected: int) -> ArgumentRangeError:
    return ArgumentRangeError(f"X has {found} features (columns); the model has {expected}.")


def _wrong_names(found: Sequence[str], expected: tuple[str, ...]) -> None:
    absent = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    if absent or extra:
        what = "; ".join(
            f"{label}: {', '.join(names[:5])}" for label, names in (("missing", absent), ("unknown", extra)) if names
        )
        raise ArgumentRangeError(f"X's columns are not the model's features: {what}.", hint="validate_features=False")
    raise ArgumentRangeError(
        "X's columns are the model's features in another order.", hint="X[list(model.feature_names_in_)] sorts them."
    )


__all__ = ["Rows"]
