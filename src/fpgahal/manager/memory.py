# SPDX-License-Identifier: Apache-2.0
"""Memory that clients share with the manager: memfds that can't change their size, so that neither side can be hurt.

Reading a mapping beyond its file's end kills the reader (SIGBUS).  Who could shrink a registered file could kill the
manager; so the seals are required, and they can't be taken off again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fpgahal import ArgumentRangeError
from fpgahal.manager.wire import Ref

SIZE_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
CONSTANT_SEALS = SIZE_SEALS | fcntl.F_SEAL_WRITE
PAGE = mmap.PAGESIZE


class Segment:
    """A registered buffer, as the manager sees it.

    Attributes
    ----------
    nbytes : int
    constant : bool
        Nobody can write it, ever again.
    data : numpy.ndarray
        uint8, the whole of it; read-only if it is constant.
    digest : bytes
        SHA-256 of a constant one, once somebody has computed it; else empty.
    """

    __slots__ = ("__weakref__", "constant", "data", "digest", "nbytes")

    def __init__(self, fd: int, nbytes: int, constant: bool) -> None:
        _check(fd, nbytes, constant)
        prot = mmap.PROT_READ if constant else mmap.PROT_READ | mmap.PROT_WRITE
        try:
            memory = mmap.mmap(fd, nbytes, prot=prot)
        except OSError as error:
            raise ArgumentRangeError(
                f"The memfd can't be mapped: {error.strerror}.", hint="It has to be open for reading and writing."
            ) from None
        self.nbytes = nbytes
        self.constant = constant
        self.digest = b""
        self.data: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8)


class Array(NamedTuple):
    """An array in a segment."""

    segment: Segment
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    nbytes: int

    @property
    def bytes(self) -> npt.NDArray[np.uint8]:
        """Its memory."""
        return self.segment.data[self.offset : self.offset + self.nbytes]

    @property
    def values(self) -> npt.NDArray[Any]:
        """The array itself, not a copy."""
        return self.bytes.view(self.dtype).reshape(self.shape)


def array(segment: Segment, ref: Ref) -> Array:
    """Find an array in its segment.

    Raises
    ------
    ArgumentRangeError
        It is not inside, or its elements are not aligned.
    """
    if ref.offset + ref.nbytes > segment.nbytes or ref.offset % ref.dtype.itemsize:
        raise ArgumentRangeError(
            f"{ref.nbytes} bytes of {ref.dtype} from {ref.offset} on are not inside a buffer of {segment.nbytes}, or "
            "not aligned."
        )
    return Array(segment, *ref[1:])


def _check(fd: int, nbytes: int, constant: bool) -> None:
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        raise ArgumentRangeError(
            "The file is no memfd that can be sealed.", hint="Make it with memfd_create(MFD_ALLOW_SEALING)."
        ) from None
    wanted = CONSTANT_SEALS if constant else SIZE_SEALS
    if seals & wanted != wanted:
        raise ArgumentRangeError(
            f"The memfd has the seals {seals:#x}, expected {wanted:#x}.",
            hint="Seal it against shrinking, growing and more seals (a constant one against writing, too), then "
            "register it.",
        )
    size = os.fstat(fd).st_size
    if size != nbytes:
        raise ArgumentRangeError(f"The memfd has {size} bytes; {nbytes} were announced.")
    if os.fstatvfs(fd).f_bsize != PAGE:  # touching it could fail for want of huge pages, which is SIGBUS again
        raise ArgumentRangeError("The memfd has huge pages.", hint="Make it without MFD_HUGETLB.")


__all__ = ["CONSTANT_SEALS", "PAGE", "SIZE_SEALS", "Array", "Segment", "array"]
