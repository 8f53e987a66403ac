# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""Buffer: memory that host and device both reach."""
cimport cython
from cpython.buffer cimport PyBUF_FORMAT, PyBUF_ND, PyBUF_STRIDES
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport uint32_t

from fpgahal._session cimport Session
from fpgahal._wait cimport backoff, seconds_now

import itertools
import operator

import numpy as np

from fpgahal._errors import ArgumentRangeError, BufferInUseError, ClosedError, DriverError, PollTimeoutError

cdef extern from *:
    """
    typedef volatile uint32_t volatile_u32;
    """
    ctypedef uint32_t volatile_u32


@cython.no_gc_clear  # the session must outlive the memory, also when the collector breaks a cycle
cdef class Buffer:
    """A buffer object: memory that the device can reach, shown to Python without a copy.

    ``np.asarray(buffer)`` is a writable view.  On OPAE boards host and device see the same memory; on XRT boards
    the device has its own, so call :meth:`sync_to_device` before a run and :meth:`sync_from_device` after it
    (on OPAE both only order memory accesses, so the same code is right on both).

    Made by :meth:`Device.allocate`.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    nbytes : int
    device_address : int
        Where the device sees it, in bytes (OPAE: IO address; XRT: address in the bank).
    bank : int
        Index of the memory bank (BankInfo.index).
    closed : bool
    """

    def __init__(self, Session session not None, shape, dtype, int bank):
        cdef Py_ssize_t step, extent
        self.closed = True
        self.session = session
        self.dtype = np.dtype(dtype)
        try:
            dims = (operator.index(shape),)
        except TypeError:
            dims = tuple(operator.index(extent) for extent in shape)
        if self.dtype.hasobject:
            raise TypeError(f"A device can't hold Python objects: dtype {self.dtype}.")
        if len(dims) > 32 or any(extent < 0 for extent in dims):
            raise ValueError(f"Not a shape: {shape!r} (up to 32 dimensions, none negative).")
        self.format = format_of(self.dtype)
        self.itemsize, self.ndim = self.dtype.itemsize, len(dims)
        total = self.itemsize
        for extent in dims:
            total *= extent
        if total > 1 << 46:
            raise ValueError(f"{total} bytes are more than any board has.")
        self.shape, self.length = dims, total
        step = self.itemsize
        for at in range(self.ndim - 1, -1, -1):
            self.dims[at], self.steps[at] = dims[at], step
            step *= dims[at]
        session.memory_allocate(self.length, bank, &self.memory)
        self.memory.serial = next(_serials)
        self.closed = False

    @property
    def nbytes(self):
        return self.length

    @property
    def device_address(self):
        return self.memory.address

    @property
    def bank(self):
        return self.memory.bank

    @property
    def _views(self):
        return self.views

    def __len__(self):
        if not self.ndim:
            raise TypeError("len() of a buffer without dimensions")
        return self.shape[0]

    def __repr__(self):
        state = "closed" if self.closed else f"device_address={self.memory.address:#x}, bank={self.memory.bank}"
        return f"<fpgahal.Buffer shape={self.shape} dtype={self.dtype} {state} on {self.session.info.address}>"

    # --- views -----------------------------------------------------------------------------------------------
    def __getbuffer__(self, Py_buffer *view, int flags):
        if self.closed or self.session.closed:
            self.check()
        view.buf = self.memory.host
        view.obj = self
        view.len = self.length
        view.itemsize = self.itemsize
        view.readonly = 0
        view.ndim = self.ndim
        view.format = <char *>self.format if flags & PyBUF_FORMAT else NULL
        view.shape = self.dims if flags & PyBUF_ND else NULL
        view.strides = self.steps if flags & PyBUF_STRIDES == PyBUF_STRIDES else NULL
        view.suboffsets = NULL
        view.internal = NULL
        self.views += 1
        self.session.views += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.views -= 1
        self.session.views -= 1
        if self.session.closed and not self.session.views and not self.session.forked:
            self.session.close()  # it was put off: this view was taken while another thread closed the device

    def __array__(self, dtype=None, copy=None):
        # NumPy asks the buffer protocol first and forgets its error; here the error gets through.
        view = memoryview(self)
        return np.array(view, dtype=dtype, copy=copy) if copy is not None else np.asarray(view, dtype=dtype)

    def __dlpack__(self, **kwargs):
        """Share the memory through DLPack, as ``numpy.ndarray.__dlpack__`` does."""
        return np.asarray(self).__dlpack__(**kwargs)

    def __dlpack_device__(self):
        """(kDLCPU, 0): the memory is the host's."""
        return (1, 0)

    # --- host and device ----------------------------------------------------------------------------------------
    def sync_to_device(self, offset=0, size=None):
        """Make what the host wrote visible to the device.

        Parameters
        ----------
        offset, size : int
            Bytes; by default the whole buffer.

        Raises
        ------
        ArgumentRangeError
            The range is not inside the buffer.
        """
        self.sync(True, offset, size)

    def sync_from_device(self, offset=0, size=None):
        """Make what the device wrote visible to the host.  Parameters and errors as `sync_to_device`."""
        self.sync(False, offset, size)

    cdef int sync(self, bint to_device, offset, size) except -1:
        cdef size_t start = 0, count = 0
        self.range(offset, size, &start, &count)
        self.runs += 1  # the memory must not go away under it
        try:
            with nogil:
                self.session.memory_sync(&self.memory, to_device, start, count)
        finally:
            self.runs -= 1
        return 0

    def poll32(self, offset, uint32_t mask, uint32_t value, timeout=None):
        """Wait until the 32-bit word at `offset` of the host's memory satisfies ``word & mask == value``.

        For accelerators that report by writing to memory (NLB's DSM).  The loop runs in C without the GIL.

        Returns
        -------
        int
            The word that matched.

        Raises
        ------
        PollTimeoutError
            It did not match within `timeout` seconds (None: wait until Ctrl-C).
        """
        cdef size_t start = 0, count = 0
        cdef double limit = -1.0 if timeout is None else float(timeout)
        cdef double begin = 0, now = 0, slice_end
        cdef unsigned int round = 0
        cdef uint32_t seen
        cdef volatile_u32 *word
        self.range(offset, 4, &start, &count)
        if start & 3:
            raise ArgumentRangeError(f"Offset {start} is not a multiple of 4.")
        word = <volatile_u32 *>(<char *>self.memory.host + start)
        seen = word[0]
        if seen & mask == value:
            return seen
        begin = now = seconds_now()
        self.runs += 1  # the memory must not go away under the loop
        try:
            while True:
                slice_end = now + 0.05
                if limit >= 0 and begin + limit < slice_end:
                    slice_end = begin + limit
                self.session.enter()  # nor with its device
                with nogil:
                    while True:
                        seen = word[0]
                        if seen & mask == value:
                            break
                        round = backoff(round)
                        now = seconds_now()
                        if now >= slice_end:
                            break
                    self.session.leave()
                if seen & mask == value:
                    return seen
                if limit >= 0 and now - begin >= limit:
                    raise PollTimeoutError(
                        f"{self.session.info.address}: word {start:#x} of the buffer & {mask:#x} did not become "
                        f"{value:#x} in {limit:g} s (last value {seen:#x}).",
                        hint="Is the accelerator running?  dev.reset() brings it back to a known state.")
                PyErr_CheckSignals()
        finally:
            self.runs -= 1

    # --- life -----------------------------------------------------------------------------------------------
    def close(self):
        """Give the memory back.  Closing twice is fine.

        Raises
        ------
        BufferInUseError
            Views of it are alive, or a run in flight uses it (also a BufferError, as ``mmap`` raises).
        """
        if self.closed:
            return
        if self.views:
            raise BufferInUseError(
                f"{self.views} NumPy view{'s' if self.views > 1 else ''} or memoryview of this {human(self.length)} "
                f"buffer {'are' if self.views > 1 else 'is'} alive.",
                hint="Delete it before close(), or keep a copy: np.array(buffer).")
        if self.runs:
            raise BufferInUseError(f"A run or call in flight uses this {human(self.length)} buffer.",
                                   hint="Wait for the run first, or stop it with dev.reset().")
        self.closed = True
        if self.free():
            raise DriverError(f"{self.session.info.address}: the driver refused to release a buffer of "
                              f"{human(self.length)}.")

    cdef int free(self) noexcept:
        cdef int result
        with nogil:
            result = self.session.memory_free(&self.memory)
        self.memory.host = NULL
        return result

    def __enter__(self):
        self.check()
        return self

    def __exit__(self, type, value, traceback):
        if type is None or not (self.views or self.runs):
            self.close()

    def __dealloc__(self):
        if not self.closed:
            self.free()

    cdef int check(self) except -1:
        if self.closed:
            raise ClosedError(f"This {human(self.length)} buffer is closed.", hint="Allocate another one.")
        self.session.check()
        return 0

    cdef int range(self, offset, size, size_t *start, size_t *count) except -1:
        cdef Py_ssize_t first = 0, length = -1
        if self.closed or self.session.closed:
            self.check()
        try:
            first = offset
            length = self.length - first if size is None else size
        except OverflowError:
            pass  # further out than any buffer
        if first < 0 or length < 0 or first > self.length - length:
            raise ArgumentRangeError(f"Bytes {offset} to {offset + (self.length - offset if size is None else size)} "
                                     f"are not inside this buffer of {self.length}.")
        start[0], count[0] = first, length
        return 0


_formats = {}
_serials = itertools.count(1)


cdef bytes format_of(dtype):
    try:
        return _formats[dtype]
    except KeyError:
        pass
    try:
        text = memoryview(np.empty(0, dtype)).format.encode()
    except (ValueError, TypeError):
        raise TypeError(f"dtype {dtype} has no buffer format: use its bytes or integers instead.") from None
    if len(_formats) < 1000:
        _formats[dtype] = text
    return text


def human(size):
    """``"4 KiB"``: a size for people."""
    for unit, width in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= width:
            return f"{size / width:.4g} {unit}"
    return f"{size} bytes"
