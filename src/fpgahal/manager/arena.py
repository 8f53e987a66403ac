# SPDX-License-Identifier: Apache-2.0
"""Arena: the client's memory that the manager can read and write.

Small arrays share files, because each file has to be registered, which takes longer than many a request.  Memory goes
back when the last NumPy array that shows it is gone.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import math
import mmap
import os
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from fpgahal import ArgumentError
from fpgahal.manager.memory import CONSTANT_SEALS, PAGE, SIZE_SEALS

_ALIGN = 64
_SMALL = 1 << 17  # bytes: arrays up to here share a file
_FILE = 1 << 20  # bytes of such a file
_KEPT = 64 << 20  # bytes of larger files that nobody uses, kept for those who will


class Segment:
    """A sealed memfd; `handle` is its name on the wire.

    Attributes
    ----------
    fd, handle, nbytes : int
    constant : bool
    """

    def __init__(self, handle: int, nbytes: int, content: bytes | None = None) -> None:
        self.handle = handle
        self.nbytes = nbytes
        self.constant = content is not None
        self.fd = os.memfd_create("fpgahal", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.fd, nbytes)
            if content is None:
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, SIZE_SEALS)
                self._map = mmap.mmap(self.fd, nbytes)
                self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
            else:
                at = 0
                while at < nbytes:
                    at += os.pwrite(self.fd, memoryview(content)[at : at + (1 << 30)], at)
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, CONSTANT_SEALS)
        except BaseException:
            os.close(self.fd)
            raise

    def close(self) -> None:
        """Close the file; arrays that show it stay good."""
        os.close(self.fd)


class Block:
    """A piece of a segment: what a shared array's memory belongs to."""

    __slots__ = ("__array_interface__", "_freed", "nbytes", "offset", "segment")

    def __init__(self, segment: Segment, offset: int, nbytes: int, freed: deque[tuple[Segment, int, int]]) -> None:
        self.segment = segment
        self.offset = offset
        self.nbytes = nbytes
        self._freed = freed
        self.__array_interface__ = {
            "data": (segment.address + offset, False),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        self._freed.append((self.segment, self.offset, self.nbytes))


class Arena:
    """Where shared arrays come from.

    Parameters
    ----------
    register, release : callable
        Called with each new segment, and with each that is not used any more.
    """

    def __init__(self, register: Callable[[Segment], None], release: Callable[[Segment], None]) -> None:
        self._register = register
        self._release = release
        self._handles = itertools.count(1)
        self._freed: deque[tuple[Segment, int, int]] = deque()  # destructors may run in any thread, at any time
        self._free: defaultdict[int, list[tuple[Segment, int]]] = defaultdict(list)  # by size
        self._kept = 0
        self._current: Segment | None = None
        self._used = 0  # bytes of the current segment

    def allocate(self, shape: int | tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        """Make an array; what is in it is undefined.  One thread at a time."""
        kind = np.dtype(dtype)
        count = math.prod(shape) if isinstance(shape, tuple) else int(shape)
        nbytes = count * kind.itemsize
        block = self._block(nbytes)
        memory: npt.NDArray[Any] = np.asarray(block)
        values: npt.NDArray[Any] = memory[:nbytes].view(kind).reshape(shape)
        return values

    def constant(self, content: bytes) -> Segment:
        """Share bytes that nobody will change."""
        segment = Segment(next(self._handles), len(content), content)
        self._register(segment)
        return segment

    def _block(self, nbytes: int) -> Block:
        self._collect()
        size = max(_ALIGN, 1 << (nbytes - 1).bit_length()) if nbytes <= _SMALL else -(-nbytes // PAGE) * PAGE
        free = self._free.get(size)
        if free:
            segment, offset = free.pop()
            self._kept -= size if size > _SMALL else 0
        elif size > _SMALL:
            segment, offset = self._new(size), 0
        else:
            if self._current is None or self._used + size > _FILE:
                self._current, self._used = self._new(_FILE), 0
            segment, offset = self._current, self._used
            self._used += size
        return Block(segment, offset, size, self._freed)

    def _new(self, nbytes: int) -> Segment:
        segment = Segment(next(self._handles), nbytes)
        try:
            self._register(segment)
        except BaseException:
            segment.close()
            raise
        return segment

    def _collect(self) -> None:
        """Take back what arrays have left."""
        while self._freed:
            segment, offset, size = self._freed.popleft()
            if size > _SMALL and self._kept + size > _KEPT:
                self._release(segment)
                segment.close()
                continue
            self._kept += size if size > _SMALL else 0
            self._free[size].append((segment, offset))


def shared(values: npt.NDArray[Any]) -> tuple[Segment, int] | None:
    """Where an array lies, if it is a shared one in C order."""
    base: Any = values
    while isinstance(base, np.ndarray):
        base = base.base
    if type(base) is not Block or not values.flags.c_contiguous:
        return None
    return base.segment, values.__array_interface__["data"][0] - base.segment.address


def content(value: Any) -> bytes:
    """The bytes of what a constant is made of: bytes, a path, or what has ``save_raw`` (a Booster of xgboost).

    Raises
    ------
    ArgumentError
        It is none of these, or empty.
    """
    if hasattr(value, "get_booster"):
        value = value.get_booster()
    if hasattr(value, "save_raw"):
        value = bytes(value.save_raw("ubj"))
    elif isinstance(value, str | os.PathLike):
        with open(value, "rb") as file:
            value = file.read()
    if not isinstance(value, bytes | bytearray | memoryview) or not len(value):
        raise ArgumentError(f"A constant is made of bytes, a path or a Booster, not of {type(value).__name__}.")
    return bytes(value)


__all__ = ["Arena", "Block", "Segment", "content", "shared"]
