# SPDX-License-Identifier: Apache-2.0
# The driver contract: what Device, Buffer, Kernel and Csr ask of a vendor's binding.
#
# Hot verbs are cdef, fail with -1 and an exception set, and may be called without the GIL.  Cold verbs are
# ordinary Python methods (see _session.pyx).  A driver is one file with a Session and a KernelSession.
from libc.stdint cimport uint32_t, uint64_t

cdef struct memory:              # one buffer object
    void *host                   # where the host sees it; NULL if it can't
    uint64_t address             # where the device sees it
    uint64_t handle              # the vendor's
    size_t size                  # bytes, as asked for
    int bank                     # BankInfo.index
    uint64_t serial              # never used twice, as addresses and handles are
    int users                    # calls that use it now (a driver may count them, so that a free can wait)

cdef enum arg_kind:              # how a kernel argument is handed over
    ARG_NONE                     # a stream: nothing
    ARG_U32
    ARG_U64
    ARG_F32
    ARG_F64
    ARG_BUFFER

cdef union arg_value:
    uint64_t u
    double f
    memory *buffer

cdef struct arg:
    int kind
    arg_value value

cdef enum run_state:
    RUN_RUNNING
    RUN_COMPLETED
    RUN_ERROR
    RUN_ABORTED

cdef class Session:
    """One opened slot."""
    cdef object __weakref__
    cdef readonly object info            # DeviceInfo
    cdef readonly bint closed
    cdef bint forked                     # closed because this process is the child of a fork
    cdef Py_ssize_t views                # of its buffers, alive: a driver that frees memory on close waits for them
    cdef readonly uint64_t epoch         # counts resets: runs of an earlier epoch were aborted
    cdef uint64_t csr_bytes              # size of the device-wide register space; 0: there is none
    cdef void *job                       # the run that has the AFU behind those registers (see RegisterKernel)
    cdef object turn                     # the lock of that AFU, for threads that take turns
    cdef int resetting                   # threads that reset: no run may start or end
    cdef int users                       # calls of the vendor's without the GIL, now: close() waits for them

    cdef int enter(self) except -1 nogil                                     # check(), and count a call
    cdef void leave(self) noexcept nogil
    cdef void await_users(self) noexcept
    cdef int check(self) except -1 nogil                                     # open, and this process's
    cdef bint lost(self) noexcept nogil                                      # it dropped off the bus
    cdef int csr_read32(self, uint64_t offset, uint32_t *value) except -1 nogil
    cdef int csr_read64(self, uint64_t offset, uint64_t *value) except -1 nogil
    cdef int csr_write32(self, uint64_t offset, uint32_t value) except -1 nogil
    cdef int csr_write64(self, uint64_t offset, uint64_t value) except -1 nogil
    cdef int memory_allocate(self, size_t size, int bank, memory *out) except -1
    cdef int memory_free(self, memory *m) noexcept nogil                     # 0, or the vendor's code
    cdef int memory_sync(self, memory *m, bint to_device, size_t offset, size_t size) except -1 nogil

cdef class KernelSession:
    """One opened kernel.  A run is the vendor's reusable handle: opened once, started many times."""
    cdef readonly Session session
    cdef readonly object info            # KernelInfo
    cdef readonly bint closed
    cdef uint32_t csr_bytes              # size of its own register space, if it may be touched
    cdef int max_in_flight               # 0: as many as you like
    cdef object turn                     # what a thread holds during a run, so that others wait for theirs

    cdef void *run_open(self) except NULL
    cdef void run_close(self, void *run) noexcept                            # only when it is not running
    cdef int run_start(self, void *run, const arg *args, int n) except -1 nogil
    cdef int run_poll(self, void *run) except -1 nogil                       # a run_state, at once
    cdef int run_wait(self, void *run, double seconds) except -1 nogil       # a run_state, after that long at most
    cdef object failure(self, void *run)                                     # why it ended badly; None: not known
    cdef int csr_read32(self, uint32_t offset, uint32_t *value) except -1 nogil
    cdef int csr_write32(self, uint32_t offset, uint32_t value) except -1 nogil
