# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""RegisterKernel: runs what a RegisterContract describes.  Knows no vendor: registers and memory are the session's."""
cimport cython
from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free

from fpgahal._session cimport (
    ARG_BUFFER, ARG_F32, RUN_ABORTED, RUN_COMPLETED, RUN_ERROR, RUN_RUNNING, KernelSession, Session, arg, memory,
)
from fpgahal._wait cimport backoff, seconds_now

from fpgahal._contract import KernelContract, Register, RegisterContract, contracts_for
from fpgahal._errors import ArgumentRangeError, DeviceBusyError, KernelNotFoundError

cdef extern from *:
    """
    #define fence() __sync_synchronize()
    typedef volatile uint32_t volatile_u32;
    """
    ctypedef uint32_t volatile_u32
    void fence() noexcept nogil

cdef struct write:
    uint32_t offset
    int bits
    int source      # argument index, or CONSTANT, or DSM
    int shift
    uint64_t value

cdef struct condition:
    bint register   # of the AFU, not a word of the DSM
    uint32_t offset, mask, value

cdef enum:
    MAX_WRITES = 256
    CONSTANT = -1
    DSM = -2

cdef struct run:
    uint64_t epoch
    int state       # a run_state
    PyObject *kernel


@cython.no_gc_clear
cdef class RegisterKernel(KernelSession):
    """A kernel that a RegisterContract describes, on any session with device-wide registers.

    All kernels and threads of a session share one AFU: ``session.job`` is the run that has it.  The GIL is the lock:
    registers of a start and of an end are written under it, and nobody writes while a reset goes on.
    """
    cdef memory dsm
    cdef write start[MAX_WRITES]
    cdef write finish[MAX_WRITES]
    cdef int starts, finishes
    cdef condition done, good
    cdef bint has_error
    cdef uint32_t polls

    def __init__(self, Session session not None, contract):
        super().__init__(session, contract.info)
        self.max_in_flight = 1
        self.starts = self.compile(contract.start, contract, self.start)
        self.finishes = self.compile(contract.finish, contract, self.finish)
        self.condition(contract.done, contract, &self.done)
        self.has_error = contract.error is not None
        if self.has_error:
            self.condition(contract.error, contract, &self.good)
        if contract.dsm_bytes:
            session.memory_allocate(contract.dsm_bytes, 0, &self.dsm)

    cdef int condition(self, word, contract, condition *out) except -1:
        out.register = isinstance(word, Register)
        size = self.session.csr_bytes if out.register else contract.dsm_bytes
        if not (0 <= word.offset <= size - 4 and word.offset % 4 == 0):
            where = "the AFU's registers" if out.register else "its DSM"
            raise ArgumentRangeError(f"Contract {contract.name}: {word} is not inside {where} of {size} bytes.")
        out.offset, out.mask, out.value = word.offset, word.mask, word.value
        return 0

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
            if item.value == "dsm" and contract.dsm_bytes:
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
        cdef float real
        for i in range(count):
            if writes[i].source == CONSTANT:
                value = writes[i].value
            elif writes[i].source == DSM:
                value = self.dsm.address
            elif args[writes[i].source].kind == ARG_BUFFER:
                value = args[writes[i].source].value.buffer.address
            elif args[writes[i].source].kind == ARG_F32:
                real = <float>args[writes[i].source].value.f
                value = (<uint32_t *>&real)[0]
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
        if self.session.job == r:
            self.session.job = NULL
        free(r)

    cdef int run_start(self, void *handle, const arg *args, int n) except -1 nogil:
        with gil:
            return self.begin(<run *>handle, args)

    cdef int begin(self, run *r, const arg *args) except -1:
        cdef run *holder = <run *>self.session.job
        self.session.check()
        if self.session.resetting:
            raise DeviceBusyError(f"{self.session.info.address} is being reset.", hint="Try again.")
        if holder != NULL and holder != r and (<RegisterKernel>holder.kernel).run_poll(holder) == RUN_RUNNING:
            raise DeviceBusyError(
                f"{self.info.name} on {self.session.info.address} runs one job at a time, and one is running.",
                hint="Wait for that run first, or stop it with dev.reset().")
        if not self.done.register:
            (<uint32_t *>(<char *>self.dsm.host + self.done.offset))[0] = ~self.done.value & self.done.mask
        fence()
        r.state = RUN_ABORTED  # what it is if a write fails
        r.epoch = self.session.epoch
        self.emit(self.start, self.starts, args)
        r.state = RUN_RUNNING
        self.session.job = r
        return 0

    cdef int run_poll(self, void *handle) except -1 nogil:
        cdef run *r = <run *>handle
        if r.state != RUN_RUNNING:
            return r.state
        if r.epoch == self.session.epoch and not self.reported(&self.done):
            self.polls += 1
            if self.polls & 0x3FF or not self.session.lost():
                return RUN_RUNNING
            r.state = RUN_ABORTED  # a card that is gone never reports
            return RUN_ABORTED
        with gil:
            return self.end(r)

    cdef int end(self, run *r) except -1:
        cdef int state = RUN_ABORTED
        if r.state != RUN_RUNNING or self.session.resetting:
            return r.state  # another thread saw it first; or a reset is about to abort it
        if self.session.job == r:
            self.session.job = NULL
        try:
            if r.epoch == self.session.epoch:
                fence()
                self.emit(self.finish, self.finishes, NULL)
                good = not self.has_error or self.reported(&self.good)
                state = RUN_COMPLETED if good else RUN_ERROR
        finally:
            r.state = state  # once and for all: others look at it without the GIL
        return state

    cdef bint reported(self, const condition *c) except? -1 nogil:
        cdef uint32_t word = 0
        cdef bint answered = False
        if not c.register:
            return (<volatile_u32 *>(<char *>self.dsm.host + c.offset))[0] & c.mask == c.value
        try:
            self.session.csr_read32(c.offset, &word)
            answered = True
        finally:
            if not answered and self.session.lost():
                self.polls = 0xFFFFFFFF  # run_poll looks, too
                return False
        return word & c.mask == c.value

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
            if self.dsm.host != NULL and not self.session.closed:
                self.session.memory_free(&self.dsm)
            self.dsm.host = NULL


# --- which kernels there are -----------------------------------------------------------------------------------

def known_kernels(session):
    """Kernels of what `session` runs (tuple of KernelInfo): those that a contract describes."""
    return tuple(contract.info for contract in contracts_for(session.loaded_id()))


def open_register_kernel(session, name):
    """A RegisterKernel by its name, or of a contract; KernelNotFoundError lists what there is."""
    loaded = session.loaded_id()
    if isinstance(name, KernelContract):
        name = name.registers
    if isinstance(name, RegisterContract):
        if name.afu_id != loaded:
            raise KernelNotFoundError(f"{session.info.address} runs {loaded}; contract {name.name} is for "
                                      f"{name.afu_id}.", hint="Load its image first: dev.program(path).")
        return RegisterKernel(session, name)
    contracts = contracts_for(loaded)
    for contract in contracts:
        if contract.name == name:
            return RegisterKernel(session, contract)
    known = ", ".join(contract.name for contract in contracts) or "none"
    raise KernelNotFoundError(
        f"{session.info.address}: no kernel {name!r} for AFU {loaded} (known: {known}).",
        hint="A GBS does not describe its registers: pass a KernelContract or RegisterContract, or use dev.csr.")
