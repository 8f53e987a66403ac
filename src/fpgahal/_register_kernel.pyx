# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, freethreading_compatible=True
"""RegisterKernel: runs what a RegisterContract describes.  Knows no vendor: registers and memory are the session's."""
cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fpgahal._session cimport (
    ARG_BUFFER, RUN_ABORTED, RUN_COMPLETED, RUN_ERROR, RUN_RUNNING, KernelSession, Session, arg, memory,
)
from fpgahal._wait cimport backoff, seconds_now

from fpgahal._errors import ArgumentRangeError, DeviceBusyError

cdef extern from *:
    """
    #define fence() __sync_synchronize()
    #define take_over(where, old, fresh) __sync_bool_compare_and_swap(where, old, fresh)
    typedef volatile uint32_t volatile_u32;
    """
    ctypedef uint32_t volatile_u32
    void fence() noexcept nogil
    bint take_over(void *where, ...) noexcept nogil  # atomically: if *where is old, make it fresh

cdef struct write:
    uint32_t offset
    int bits
    int source      # argument index, or CONSTANT, or DSM
    int shift
    uint64_t value

cdef enum:
    MAX_WRITES = 32
    CONSTANT = -1
    DSM = -2
    FINISHING = 100  # a state of a run: somebody does the last register writes, until then it has the AFU

cdef struct run:
    uint64_t epoch
    int state       # a run_state, or FINISHING
    PyObject *kernel


@cython.no_gc_clear
cdef class RegisterKernel(KernelSession):
    """A kernel that a RegisterContract describes, on any session with device-wide registers.

    All kernels and threads of a session share one AFU: ``session.job`` is the run that has it, from the first
    register write of its start to the last one after its end.
    """
    cdef memory dsm
    cdef write start[MAX_WRITES]
    cdef write finish[MAX_WRITES]
    cdef int starts, finishes
    cdef uint32_t done_at, done_mask, done_value, error_at, error_mask, error_value
    cdef bint has_error
    cdef uint32_t polls

    def __init__(self, Session session not None, contract):
        super().__init__(session, contract.info)
        self.max_in_flight = 1
        self.starts = self.compile(contract.start, contract, self.start)
        self.finishes = self.compile(contract.finish, contract, self.finish)
        for word in (contract.done, contract.error):
            if word and not (0 <= word.offset <= contract.dsm_bytes - 4 and word.offset % 4 == 0):
                raise ArgumentRangeError(f"Contract {contract.name}: word {word.offset:#x} is not inside its DSM of "
                                         f"{contract.dsm_bytes} bytes.")
        self.done_at, self.done_mask, self.done_value = contract.done.offset, contract.done.mask, contract.done.value
        self.has_error = contract.error is not None
        if self.has_error:
            self.error_at, self.error_mask = contract.error.offset, contract.error.mask
            self.error_value = contract.error.value
        session.memory_allocate(contract.dsm_bytes, 0, &self.dsm)

    cdef int compile(self, writes, contract, write *out) except -1:
        names = {info.name: index for index, info in enumerate(contract.args)}
        if len(writes) > MAX_WRITES:
            raise ArgumentRangeError(f"Contract {contract.name} has {len(writes)} writes; {MAX_WRITES} is the most.")
        for at, item in enumerate(writes):
            if (item.bits not in (32, 64) or item.offset % (item.bits // 8)
                    or not 0 <= item.offset < self.session.csr_bytes):
                raise ArgumentRangeError(f"Contract {contract.name}: bad register {item}.")
            out[at].offset, out[at].bits, out[at].shift = item.offset, item.bits, item.shift
            out[at].value = 0
            if item.value == "dsm":
                out[at].source = DSM
            elif isinstance(item.value, str):
                if item.value not in names:
                    raise ArgumentRangeError(f"Contract {contract.name}: no argument {item.value!r} in {item}.")
                out[at].source = names[item.value]
            else:
                out[at].source, out[at].value = CONSTANT, item.value
        return len(writes)

    cdef int emit(self, const write *writes, int count, const arg *args) except -1 nogil:
        cdef int i
        cdef uint64_t value
        for i in range(count):
            if writes[i].source == CONSTANT:
                value = writes[i].value
            elif writes[i].source == DSM:
                value = self.dsm.address
            elif args[writes[i].source].kind == ARG_BUFFER:
                value = args[writes[i].source].value.buffer.address
            else:
                value = args[writes[i].source].value.u
            value >>= writes[i].shift
            if writes[i].bits == 64:
                self.session.csr_write64(writes[i].offset, value)
            else:
                self.session.csr_write32(writes[i].offset, <uint32_t>value)
        return 0

    cdef void *run_open(self) except NULL:
        cdef run *r = <run *>calloc(1, sizeof(run))
        if r == NULL:
            raise MemoryError()
        r.kernel = <PyObject *>self
        return r

    cdef void run_close(self, void *r) noexcept:
        take_over(&self.session.job, r, <void *>NULL)
        free(r)

    cdef int run_start(self, void *handle, const arg *args, int n) except -1 nogil:
        cdef run *r = <run *>handle
        self.session.check()
        if not take_over(&self.session.job, <void *>NULL, <void *>r):
            self.run_after(r)
        (<uint32_t *>(<char *>self.dsm.host + self.done_at))[0] = ~self.done_value & self.done_mask
        fence()
        r.epoch = self.session.epoch
        r.state = RUN_ABORTED  # if a write fails, nothing runs
        self.emit(self.start, self.starts, args)
        r.state = RUN_RUNNING
        return 0

    cdef int run_after(self, run *r) except -1 nogil:
        """Take the AFU from a run that has ended; DeviceBusyError if it has not."""
        cdef run *holder
        with gil:  # under the GIL no run is closed, so the holder's memory is good
            holder = <run *>self.session.job
            if holder == NULL or (<RegisterKernel>holder.kernel).run_poll(holder) != RUN_RUNNING:
                if take_over(&self.session.job, <void *>NULL, <void *>r) or (
                        holder != NULL and take_over(&self.session.job, <void *>holder, <void *>r)):
                    return 0
            raise DeviceBusyError(
                f"{self.info.name} on {self.session.info.address} runs one job at a time, and one is running.",
                hint="Wait for that run first, or stop it with dev.reset().")

    cdef int run_poll(self, void *handle) except -1 nogil:
        cdef run *r = <run *>handle
        cdef char *dsm = <char *>self.dsm.host
        cdef int state = r.state
        if state != RUN_RUNNING:
            return state if state != FINISHING else RUN_RUNNING if r.epoch == self.session.epoch else RUN_ABORTED
        if r.epoch != self.session.epoch:
            r.state = RUN_ABORTED
            return r.state
        if (<volatile_u32 *>(dsm + self.done_at))[0] & self.done_mask != self.done_value:
            self.polls += 1
            if self.polls & 0x3FF == 0 and self.session.lost():  # a card that is gone never writes its DSM
                r.state = RUN_ABORTED
            return r.state
        fence()
        state = RUN_COMPLETED
        if self.has_error and (<volatile_u32 *>(dsm + self.error_at))[0] & self.error_mask != self.error_value:
            state = RUN_ERROR
        if not take_over(&r.state, <int>RUN_RUNNING, <int>FINISHING):
            return RUN_RUNNING  # another thread saw it, too, and is at the last writes
        self.emit(self.finish, self.finishes, NULL)
        take_over(&self.session.job, <void *>r, <void *>NULL)
        r.state = state
        return state

    cdef int run_wait(self, void *handle, double seconds) except -1 nogil:
        cdef double end = seconds_now() + seconds
        cdef unsigned int round = 0
        cdef int state
        while True:
            state = self.run_poll(handle)
            if state != RUN_RUNNING or seconds_now() >= end:
                return state
            self.session.check()
            round = backoff(round)

    def close(self):
        if not self.closed:
            self.closed = True
            if not self.session.closed:
                self.session.memory_free(&self.dsm)
            self.dsm.host = NULL
