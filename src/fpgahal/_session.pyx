# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""The driver contract: one Session per opened slot, one KernelSession per opened kernel.

A driver subclasses both in one file.  See ``_session.pxd`` for the verbs that must be fast.
"""
from fpgahal._use cimport begin_use, breathe, end_use, in_use

import atexit
import os
import threading
import weakref
from contextlib import nullcontext
from functools import lru_cache
from uuid import UUID

from fpgahal._errors import ClosedError, UnsupportedError

_open_sessions = weakref.WeakSet()


cdef class Session:
    def __init__(self, info):
        self.info = info
        self.turn = threading.Lock()
        _open_sessions.add(self)

    cdef int check(self) except -1 nogil:
        if self.closed:
            with gil:
                refuse(self)
        return 0

    cdef int enter(self) except -1 nogil:
        begin_use(&self.users)
        if self.closed:
            end_use(&self.users)
            self.check()
        return 0

    cdef void leave(self) noexcept nogil:
        end_use(&self.users)

    cdef void await_users(self) noexcept:
        with nogil:
            while in_use(&self.users) and not self.forked:
                breathe()

    cdef bint lost(self) noexcept nogil:
        return False

    # --- hot verbs: a driver overrides those that it has -------------------------------------------------
    cdef int csr_read32(self, uint64_t offset, uint32_t *value) except -1 nogil:
        with gil:
            raise no_csr(self)

    cdef int csr_read64(self, uint64_t offset, uint64_t *value) except -1 nogil:
        with gil:
            raise no_csr(self)

    cdef int csr_write32(self, uint64_t offset, uint32_t value) except -1 nogil:
        with gil:
            raise no_csr(self)

    cdef int csr_write64(self, uint64_t offset, uint64_t value) except -1 nogil:
        with gil:
            raise no_csr(self)

    cdef int memory_allocate(self, size_t size, int bank, memory *out) except -1:
        raise NotImplementedError

    cdef int memory_free(self, memory *m) noexcept nogil:
        return 0

    cdef int memory_sync(self, memory *m, bint to_device, size_t offset, size_t size) except -1 nogil:
        return 0

    # --- cold verbs --------------------------------------------------------------------------------------
    def loaded_id(self):
        """What the slot says that it runs (uuid.UUID), or None if nothing answers."""
        raise NotImplementedError

    def program(self, bitstream, force):
        """Load a checked Bitstream.  Blocks until the driver is done; called on a thread of its own."""
        raise NotImplementedError

    def attach(self, bitstream):
        """Take up an image that the board already runs (XRT wants a load call in each process)."""

    def kernels(self):
        """Kernels that can be opened now (tuple of KernelInfo)."""
        return ()

    def banks(self):
        """Memory banks that can be allocated from now (tuple of BankInfo)."""
        return ()

    def default_bank(self):
        """The bank for ``allocate(bank=None)``."""
        return 0

    def open_kernel(self, name, exclusive):
        """A KernelSession; KernelNotFoundError lists what there is."""
        raise NotImplementedError

    def interrupt(self, vector):
        """An eventfd that counts the interrupts of one of the AFU's vectors; it is the session's."""
        raise UnsupportedError(
            f"{self.info.address}: driver {self.info.driver} hands no interrupts to programs.",
            hint="Wait for runs instead: run.wait(), or await run.",
        )

    def reset(self):
        """Stop what runs; registers go back to their reset values; buffers stay."""
        raise NotImplementedError

    def stop(self):
        """Stop what runs, because the slot is about to be closed."""
        self.reset()

    def close(self):
        """Let go of the slot.  Must be idempotent."""
        self.closed = True


cdef class KernelSession:
    def __init__(self, Session session, info):
        self.session = session
        self.info = info
        self.turn = nullcontext()

    cdef void *run_open(self) except NULL:
        raise NotImplementedError

    cdef void run_close(self, void *run) noexcept:
        pass

    cdef int run_start(self, void *run, const arg *args, int n) except -1 nogil:
        with gil:
            raise NotImplementedError

    cdef int run_poll(self, void *run) except -1 nogil:
        with gil:
            raise NotImplementedError

    cdef int run_wait(self, void *run, double seconds) except -1 nogil:
        with gil:
            raise NotImplementedError

    cdef object failure(self, void *run):
        return None

    cdef int csr_read32(self, uint32_t offset, uint32_t *value) except -1 nogil:
        with gil:
            raise no_csr(self.session)

    cdef int csr_write32(self, uint32_t offset, uint32_t value) except -1 nogil:
        with gil:
            raise no_csr(self.session)

    def close(self):
        """Let go of the kernel; every run was closed before."""
        self.closed = True


@lru_cache(64)
def id_of(number):
    """The UUID of this number: boards are asked for their few ids before each run."""
    return UUID(int=number)


cdef refuse(Session session):
    why = ("belongs to the parent of this process: open it again after a fork" if session.forked
           else "is closed: open it again with fpgahal.open()")
    raise ClosedError(f"Device {session.info.address} {why}.")


cdef no_csr(Session session):
    return UnsupportedError(
        f"{session.info.address} has no device-wide registers (driver {session.info.driver}).",
        hint="On XRT boards each compute unit has its own: dev.kernel(name, exclusive=True).csr.",
    )


def _after_fork_in_child():
    # The vendors' handles belong to the parent.  Using or closing them here would disturb it.
    cdef Session session
    for item in list(_open_sessions):
        session = item
        session.closed = session.forked = True


def _at_exit():
    # Vendor libraries abort when their static destructors meet open handles, so close while Python still lives.
    cdef Session session
    for session in list(_open_sessions):
        session.views = 0  # nobody will look at them
        try:
            session.close()
        except Exception:
            pass


os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
