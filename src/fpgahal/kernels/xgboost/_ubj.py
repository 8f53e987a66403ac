# SPDX-License-Identifier: Apache-2.0
"""UBJSON, as far as XGBoost writes it (draft 12, big-endian), from files that nobody has checked."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from fpgahal.kernels.xgboost._errors import ModelError

MAX_DEPTH = 32  # a model has 9 levels

_NUMBERS = {
    "i": struct.Struct(">b"),
    "U": struct.Struct(">B"),
    "I": struct.Struct(">h"),
    "l": struct.Struct(">i"),
    "L": struct.Struct(">q"),
    "d": struct.Struct(">f"),
    "D": struct.Struct(">d"),
}
_ARRAYS = {"i": ">i1", "U": ">u1", "I": ">i2", "l": ">i4", "L": ">i8", "d": ">f4", "D": ">f8"}
_CONSTANTS = {"Z": None, "T": True, "F": False}


def loads(data: bytes) -> Any:
    """Parse one value: objects to dict, arrays of numbers to NumPy arrays, other arrays to lists.

    Raises
    ------
    ModelError
        The bytes end too soon or go on after the value, a count is larger than what is left, an unknown type, a key
        that appears twice, or more than 32 levels.
    """
    reader = _Reader(data)
    value = reader.value(reader.marker(), 0)
    if reader.at != len(data):
        raise reader.error(f"{len(data) - reader.at} bytes follow the model")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def error(self, what: str) -> ModelError:
        return ModelError(f"Not a whole UBJSON model: {what}, at byte {self.at} of {len(self.data)}.")

    def take(self, size: int) -> bytes:
        if size > len(self.data) - self.at:
            raise self.error(f"{size} bytes should follow, but the file ends")
        self.at += size
        return self.data[self.at - size : self.at]

    def marker(self) -> str:
        return self.take(1).decode("latin-1")

    def number(self, kind: str) -> Any:
        form = _NUMBERS.get(kind)
        if form is None:
            raise self.error(f"{kind!r} is no type of a number")
        return form.unpack(self.take(form.size))[0]

    def count(self) -> int:
        kind = self.marker()
        size = self.number(kind) if kind in "iUIlL" else -1
        if not 0 <= size <= len(self.data) - self.at:
            raise self.error(f"a length of {size}, which is more than what follows" if size >= 0 else "no length")
        return int(size)

    def text(self) -> str:
        try:
            return self.take(self.count()).decode()
        except UnicodeDecodeError:
            raise self.error("a text that is not UTF-8") from None

    def value(self, kind: str, depth: int) -> Any:
        if kind in _CONSTANTS:
            return _CONSTANTS[kind]
        if kind in _NUMBERS:
            return self.number(kind)
        if kind == "S":
            return self.text()
        if kind == "C":
            return self.marker()
        if kind not in "[{":
            raise self.error(f"{kind!r} is no type")
        if depth == MAX_DEPTH:
            raise self.error(f"nested deeper than {MAX_DEPTH} levels")
        return self.array(depth + 1) if kind == "[" else self.object(depth + 1)

    def array(self, depth: int) -> Any:
        kind = self.marker()
        if kind == "$":
            item = self.marker()
            if item not in _ARRAYS or self.marker() != "#":
                raise self.error("an array of a type that models do not have")
            form = np.dtype(_ARRAYS[item])
            raw = self.take(self.count() * form.itemsize)
            return np.frombuffer(raw, form).astype(form.newbyteorder("="))
        if kind == "#":
            return _array([self.value(self.marker(), depth) for _ in range(self.count())])
        found = []
        while kind != "]":
            found.append(self.value(kind, depth))
            kind = self.marker()
        return _array(found)

    def object(self, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.data[self.at : self.at + 1] != b"}":
            key = self.text()
            if key in found:
                raise self.error(f"the key {key[:40]!r} appears twice")
            found[key] = self.value(self.marker(), depth)
        self.at += 1
        return found


def _array(items: list[Any]) -> Any:
    """Numbers, each of which had its type before it, as an array."""
    kinds = set(map(type, items))
    if kinds == {int}:
        return np.array(items, np.int64)
    if kinds == {float}:
        return np.array(items, np.float32)
    return np.array(items, np.uint8) if kinds == {bool} else items


__all__ = ["loads"]
