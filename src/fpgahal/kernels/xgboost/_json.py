# SPDX-License-Identifier: Apache-2.0
"""JSON models, with every number as the float32 that XGBoost reads.

XGBoost turns decimal digits into the nearest float32 at once.  Python goes by way of a float64, and where that one
lies exactly between two float32, the second rounding may go the wrong way.  Such numbers are rare (XGBoost writes the
shortest digits that come back); a text that has one is read again, slowly.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from fpgahal.kernels.xgboost._errors import ModelError


class _RefusedError(ValueError):
    pass


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise _RefusedError(f"the key {twice[:40]!r} appears twice in one object")
    return found


def loads(data: bytes) -> Any:
    """Parse JSON; arrays of numbers become NumPy arrays (int64, or float32 where they have fractions).

    Raises
    ------
    ModelError
        Not UTF-8, not JSON, a key that appears twice, nested too deeply, or a number beyond float32.
    """
    try:
        text = data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique)
        try:
            return _arrays(value)
        except _DoubtfulError:
            return _arrays(json.loads(text, object_pairs_hook=_unique, parse_float=nearest))
    except UnicodeDecodeError as error:
        raise ModelError(f"Not a JSON model: not UTF-8 at byte {error.start}.") from None
    except RecursionError:
        raise ModelError("Not a JSON model: nested too deeply.") from None
    except json.JSONDecodeError as error:
        raise ModelError(
            f"Not a whole JSON model: {error.msg} at line {error.lineno} column {error.colno} of {len(data)} bytes."
        ) from None
    except ValueError as error:  # also: more digits than Python turns into an int
        raise ModelError(f"Not a sound JSON model: {error}.") from None


class _DoubtfulError(Exception):
    """A float64 lies exactly between two float32: the text has to decide."""


def _arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _arrays(item) for key, item in value.items()}
    if not isinstance(value, list):
        return value
    kinds = set(map(type, value))
    if kinds == {bool}:  # default_left, in old files
        return np.array(value, np.uint8)
    if kinds == {int}:
        if not all(-(1 << 63) <= item < 1 << 63 for item in (min(value), max(value))):
            raise _RefusedError("an integer of more than 64 bits")
        return np.array(value, np.int64)
    if kinds and kinds <= {int, float}:
        return _single(np.array(value, np.float64))
    return [_arrays(item) for item in value]


def _neighbour(wide: npt.NDArray[np.float64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The nearest float32, and the next one on the other side of the number."""
    with np.errstate(over="ignore"):
        near = wide.astype(np.float32)
        return near, np.nextafter(near, np.where(near < wide, np.inf, -np.inf).astype(np.float32))


def _single(wide: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    with np.errstate(invalid="ignore", over="ignore"):
        near, other = _neighbour(wide)
        if (np.isinf(near) & np.isfinite(wide)).any():
            raise _RefusedError("a number beyond the range of float32")
        middle = (near.astype(np.float64) + other.astype(np.float64)) / 2
    if ((wide == middle) & (near != wide)).any():
        raise _DoubtfulError
    return near


def nearest(text: str) -> float:
    """The float32 nearest to a decimal number, as a float.

    Raises
    ------
    ValueError
        It is no number, or beyond the range of float32.
    """
    wide = float(text)
    if not math.isfinite(wide):
        if text.strip().lstrip("+-").lower() in ("infinity", "inf", "nan"):
            return wide
        raise _RefusedError("a number beyond the range of float32")
    near, other = (float(one[0]) for one in _neighbour(np.array([wide])))
    if math.isinf(near):
        raise _RefusedError("a number beyond the range of float32")
    if near == wide or wide != (near + other) / 2:
        return near
    exact, middle = Fraction(text), Fraction(wide)
    return near if exact == middle else min(near, other) if exact < middle else max(near, other)


__all__ = ["loads", "nearest"]
