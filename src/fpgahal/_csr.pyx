# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False, embedsignature=True
"""Registers: single accesses that keep the GIL (a PCIe read costs about 1 µs), and polling in C that drops it."""
from cpython.exc cimport PyErr_CheckSignals
from cpython.long cimport PyLong_CheckExact
from libc.stdint cimport uint32_t, uint64_t

from fpgahal._session cimport KernelSession, Session
from fpgahal._wait cimport backoff, seconds_now

import operator

from fpgahal._errors import ClosedError, CsrError, PollTimeoutError

cdef double SLICE = 0.05  # seconds between two looks for Ctrl-C


cdef inline uint64_t u64(value) except? 0xFFFFFFFFFFFFFFFF:
    # Cython alone would take 1.5 for 1.
    return <uint64_t>value if PyLong_CheckExact(value) else <uint64_t>operator.index(value)


cdef inline uint32_t u32(value) except? 0xFFFFFFFF:
    cdef uint64_t wide = u64(value)
    if wide > 0xFFFFFFFF:
        raise OverflowError(f"{value:#x} has more than 32 bits")
    return <uint32_t>wide


cdef class Csr:
    """The registers of the loaded AFU (``Device.csr``).

    Offsets are bytes from the start of the register space; values are unsigned.

    Attributes
    ----------
    nbytes : int
        Size of the register space, bytes (OPAE: 256 KiB, MMIO region 0); 0 if the board has none.

    Raises
    ------
    CsrError
        An offset is misaligned or out of range.  The vendors' libraries check neither reliably (libxfpga
        accepts offset == size and faults), so it is checked here.
    UnsupportedError
        The driver has no device-wide registers (XRT); use ``Kernel.csr``.
    """
    cdef Session session

    def __init__(self, Session session not None):
        self.session = session

    @property
    def nbytes(self):
        return self.session.csr_bytes

    def read32(self, offset):
        """Read 32 bits."""
        cdef uint64_t at = u64(offset)
        cdef uint32_t seen = 0
        if at & 3 or at > self.session.csr_bytes - 4 or self.session.closed:
            self.refuse(at, 4)
        self.session.csr_read32(at, &seen)
        return seen

    def read64(self, offset):
        """Read 64 bits."""
        cdef uint64_t at = u64(offset), seen = 0
        if at & 7 or at > self.session.csr_bytes - 8 or self.session.closed:
            self.refuse(at, 8)
        self.session.csr_read64(at, &seen)
        return seen

    def write32(self, offset, value):
        """Write 32 bits."""
        cdef uint64_t at = u64(offset)
        if at & 3 or at > self.session.csr_bytes - 4 or self.session.closed:
            self.refuse(at, 4)
        self.session.csr_write32(at, u32(value))

    def write64(self, offset, value):
        """Write 64 bits."""
        cdef uint64_t at = u64(offset)
        if at & 7 or at > self.session.csr_bytes - 8 or self.session.closed:
            self.refuse(at, 8)
        self.session.csr_write64(at, u64(value))

    def poll(self, offset, mask, value, timeout=None, *, int width=64):
        """Read until ``register & mask == value``; the loop runs in C without the GIL.

        Parameters
        ----------
        offset, mask, value : int
        timeout : float, optional
            Seconds; None waits until Ctrl-C.
        width : {64, 32}
            Bits of the register.

        Returns
        -------
        int
            The register's value that matched.

        Raises
        ------
        PollTimeoutError
            It did not match in time; the message holds the last value.
        """
        cdef uint64_t at = u64(offset), bits = u64(mask), wanted = u64(value), seen = 0
        cdef uint32_t half = 0
        cdef double limit = -1.0 if timeout is None else float(timeout)
        cdef double start = seconds_now(), now = start, slice_end
        cdef unsigned int round = 0
        cdef bint match = False
        if width != 32 and width != 64:
            raise CsrError(f"A register is 32 or 64 bits wide, not {width}.")
        if at & (width // 8 - 1) or at > self.session.csr_bytes - width // 8 or self.session.closed:
            self.refuse(at, width // 8)
        while True:
            slice_end = now + SLICE
            if limit >= 0 and start + limit < slice_end:
                slice_end = start + limit
            self.session.enter()
            try:
                with nogil:
                    while True:
                        self.session.check()
                        if width == 64:
                            self.session.csr_read64(at, &seen)
                        else:
                            self.session.csr_read32(at, &half)
                            seen = half
                        match = seen & bits == wanted
                        if match:
                            break
                        round = backoff(round)
                        now = seconds_now()
                        if now >= slice_end:
                            break
            finally:
                self.session.leave()
            if match:
                return seen
            if limit >= 0 and now - start >= limit:
                raise PollTimeoutError(
                    f"{self.session.info.address}: register {at:#x} & {bits:#x} did not become {wanted:#x} in "
                    f"{limit:g} s (last value {seen:#x}).",
                    hint="Is the accelerator running?  dev.reset() brings it back to a known state.")
            PyErr_CheckSignals()

    cdef refuse(self, uint64_t offset, int width):
        self.session.check()
        if self.session.csr_bytes == 0:
            self.session.csr_read32(0, NULL)  # says what to use instead
        if offset % width:
            raise CsrError(f"{self.session.info.address}: register offset {offset:#x} is not a multiple of {width}.")
        raise CsrError(f"{self.session.info.address}: register offset {offset:#x} is outside the register space "
                       f"(0 to {self.session.csr_bytes - width:#x}).")


cdef class KernelCsr:
    """The registers of one compute unit (``Kernel.csr``, XRT).  32 bits wide; needs ``exclusive=True``.

    Raises
    ------
    CsrError
        An offset is misaligned or outside the compute unit's address range.
    """
    cdef KernelSession kernel
    cdef object owner  # the Kernel: it must not be collected, and so closed, while its registers are in use

    def __init__(self, KernelSession kernel not None, owner=None):
        self.kernel, self.owner = kernel, owner

    @property
    def nbytes(self):
        """Size of the compute unit's register space, bytes."""
        return self.kernel.csr_bytes

    def read32(self, offset):
        """Read 32 bits."""
        cdef uint32_t at = self.check(u64(offset)), seen = 0
        self.kernel.csr_read32(at, &seen)
        return seen

    def write32(self, offset, value):
        """Write 32 bits."""
        cdef uint32_t at = self.check(u64(offset))
        self.kernel.csr_write32(at, u32(value))

    def poll(self, offset, mask, value, timeout=None):
        """Read until ``register & mask == value``, or PollTimeoutError after `timeout` seconds."""
        cdef uint32_t at = self.check(u64(offset)), bits = u32(mask), wanted = u32(value), seen = 0
        cdef double limit = -1.0 if timeout is None else float(timeout)
        cdef double start = seconds_now(), now = start, slice_end
        cdef unsigned int round = 0
        while True:
            slice_end = now + SLICE
            if limit >= 0 and start + limit < slice_end:
                slice_end = start + limit
            with nogil:
                while True:
                    if self.kernel.closed or self.kernel.session.closed:
                        with gil:
                            self.check(at)
                    self.kernel.csr_read32(at, &seen)
                    if seen & bits == wanted:
                        break
                    round = backoff(round)
                    now = seconds_now()
                    if now >= slice_end:
                        break
            if seen & bits == wanted:
                return seen
            if limit >= 0 and now - start >= limit:
                raise PollTimeoutError(
                    f"{self.kernel.session.info.address}: register {at:#x} of {self.kernel.info.name} & {bits:#x} "
                    f"did not become {wanted:#x} in {limit:g} s (last value {seen:#x}).")
            PyErr_CheckSignals()

    cdef uint32_t check(self, uint64_t offset) except? 0xFFFFFFFF:
        self.kernel.session.check()
        if self.kernel.closed:
            raise ClosedError(f"Kernel {self.kernel.info.name} is closed.", hint="Open it again: dev.kernel(name).")
        if offset & 3:
            raise CsrError(f"Register offset {offset:#x} of {self.kernel.info.name} is not a multiple of 4.")
        if offset + 4 > self.kernel.csr_bytes:
            raise CsrError(f"Register offset {offset:#x} is outside {self.kernel.info.name} "
                           f"(0 to {max(<long long>self.kernel.csr_bytes - 4, 0):#x}).")
        return <uint32_t>offset
