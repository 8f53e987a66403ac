# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""The driver for boards that somebody else owns: an Owner (see ``_scheme.py``) stands where a vendor's library does.

Memory is the host's, and the owner reads it in place; so there is nothing to sync.  A call takes the GIL, because an
Owner is Python, and a run's way to it takes longer than that.
"""
cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

from fpgahal._session cimport (
    ARG_BUFFER, ARG_F32, ARG_F64, ARG_NONE, RUN_ABORTED, RUN_COMPLETED, RUN_ERROR, RUN_RUNNING, KernelSession, Session,
    arg, memory,
)

import itertools

from fpgahal._contract import RegisterContract
from fpgahal._errors import ArgumentRangeError
from fpgahal._scheme import scheme


@cython.no_gc_clear
cdef class RemoteSession(Session):
    cdef object owner
    cdef object image                # the last one that program() checked
    cdef dict arrays                 # memory by handle
    cdef object handles
    cdef bint stopped

    def __init__(self, info):
        super().__init__(info)
        self.closed = True
        self.arrays, self.handles = {}, itertools.count(1)
        self.owner = scheme(info.driver).connect(info)
        self.closed = False

    cdef int deny(self, what) except -1:
        self.check()
        raise self.owner.unsupported(what)

    cdef int csr_read32(self, uint64_t offset, uint32_t *value) except -1 nogil:
        with gil:
            self.deny("Registers")

    cdef int csr_read64(self, uint64_t offset, uint64_t *value) except -1 nogil:
        with gil:
            self.deny("Registers")

    cdef int csr_write32(self, uint64_t offset, uint32_t value) except -1 nogil:
        with gil:
            self.deny("Registers")

    cdef int csr_write64(self, uint64_t offset, uint64_t value) except -1 nogil:
        with gil:
            self.deny("Registers")

    cdef int memory_allocate(self, size_t size, int bank, memory *out) except -1:
        cdef unsigned char[::1] view
        self.check()
        if bank:
            raise ArgumentRangeError(f"{self.info.address} has no memory bank {bank}: who runs the kernel chooses.",
                                     hint="Leave bank out.")
        array = self.owner.allocate(max(size, <size_t>1))
        view = array
        memset(out, 0, sizeof(memory))
        out.size, out.host, out.handle = size, &view[0], next(self.handles)
        self.arrays[out.handle] = array
        return 0

    cdef int memory_free(self, memory *m) noexcept nogil:
        with gil:
            self.arrays.pop(m.handle, None)
        return 0

    cdef int memory_sync(self, memory *m, bint to_device, size_t offset, size_t size) except -1 nogil:
        return self.check()

    def loaded_id(self):
        self.check()
        return None if self.image is None else self.image.afu_id

    def program(self, bitstream, force):
        self.check()
        self.owner.check_image(bitstream, force)
        self.image = bitstream

    def kernels(self):
        self.check()
        return self.owner.kernels()

    def open_kernel(self, name, exclusive):
        self.check()
        if exclusive:
            raise self.owner.unsupported("A compute unit for this process alone")
        if isinstance(name, RegisterContract):
            raise self.owner.unsupported(f"Driving {name.name} by its registers")
        return RemoteKernel(self, self.owner.kernel(name))

    def interrupt(self, vector):
        self.deny("Interrupts")

    def reset(self):
        self.deny("A reset")

    def stop(self):
        self.stopped = True  # the owner may still run what was asked for: it keeps the memory until then

    def close(self):
        if not self.closed:
            self.closed = True
            self.owner.close()


cdef class Handle:
    """A run that may be started again."""
    cdef object job


@cython.no_gc_clear
cdef class RemoteKernel(KernelSession):
    cdef RemoteSession slot
    cdef list handles                # all of them, until the end: a thread may still wait for one that was closed
    cdef tuple signed

    def __init__(self, RemoteSession session, info):
        super().__init__(session, info)
        self.slot, self.handles = session, []
        self.signed = tuple(argument.type in ("int", "long") for argument in info.args)

    cdef void *run_open(self) except NULL:
        handle = Handle()
        self.handles.append(handle)
        return <void *>handle

    cdef int run_start(self, void *run, const arg *args, int n) except -1 nogil:
        with gil:
            return self.start(<Handle>run, args, n)

    cdef int start(self, Handle handle, const arg *args, int n) except -1:
        cdef list values = [None] * n
        cdef int i
        self.slot.check()
        for i in range(n):
            if args[i].kind == ARG_BUFFER:
                values[i] = self.slot.arrays[args[i].value.buffer.handle]
            elif args[i].kind == ARG_F32 or args[i].kind == ARG_F64:
                values[i] = args[i].value.f
            elif args[i].kind != ARG_NONE:
                values[i] = self.integer(i, args[i].value.u)
        handle.job = self.slot.owner.start(self.info, values)
        return 0

    cdef integer(self, int i, uint64_t bits):
        if not self.signed[i]:
            return bits
        return <int32_t>bits if self.info.args[i].size == 4 else <int64_t>bits

    cdef int state(self, Handle handle, double seconds) except -1:
        job = handle.job
        self.slot.check()
        if self.slot.stopped or job is None:
            return RUN_ABORTED
        if not job.wait(seconds):
            return RUN_RUNNING
        return RUN_COMPLETED if job.failure() is None else RUN_ERROR

    cdef int run_poll(self, void *run) except -1 nogil:
        with gil:
            return self.state(<Handle>run, 0)

    cdef int run_wait(self, void *run, double seconds) except -1 nogil:
        with gil:
            return self.state(<Handle>run, seconds)

    cdef object failure(self, void *run):
        job = (<Handle>run).job
        return None if job is None or self.slot.stopped or self.slot.closed else job.failure()


def open_session(info, shared):
    """Open what an owner offers; it is always shared."""
    return RemoteSession(info)
