# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""The XRT driver: the C entry points of libxrt_coreutil.so.2, through a table of function pointers.

This file, ``_xrt_library`` and ``native/include/xrt_abi.h`` are all that knows XRT.
Facts: XRT 2.13 (Debian 12) to master of 2026.
"""
cimport cython
from libc.errno cimport ETIMEDOUT, errno
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fpgahal._session cimport (
    ARG_BUFFER, ARG_F32, ARG_F64, ARG_NONE, ARG_U32, RUN_ABORTED, RUN_COMPLETED, RUN_ERROR, RUN_RUNNING,
    KernelSession, Session, arg, memory,
)
from fpgahal._xrt_library cimport (
    ERT_CMD_STATE_ABORT, ERT_CMD_STATE_COMPLETED, ERT_CMD_STATE_TIMEOUT, XCL_BO_SYNC_BO_FROM_DEVICE,
    XCL_BO_SYNC_BO_TO_DEVICE, PyGILState_Check, Xrt, set_errno, xrt, xrtBufferHandle, xrtDeviceHandle,
    xrtKernelHandle, xrtRunHandle,
)
from fpgahal._use cimport begin_use, breathe, end_use, in_use

from fpgahal._contract import KernelContract
from fpgahal._errors import (
    ArgumentError, ArgumentRangeError, ClosedError, DeviceLostError, DeviceMemoryError, DeviceStateError,
    KernelNotFoundError, ProgramError, RunError, UnsupportedError,
)
from fpgahal._lock import OpenLock
from fpgahal._session import id_of
from fpgahal._xrt_library import driver_file, library  # no-cython-lint: for those who ask the driver

cdef int MAX_ARGS = 64


# --- a slot ---------------------------------------------------------------------------------------------------

@cython.no_gc_clear  # __dealloc__ needs the library, also when the collector breaks a cycle
cdef class XrtSession(Session):
    cdef Xrt xrt
    cdef xrtDeviceHandle device
    cdef object bitstream            # the image that this process has loaded
    cdef object lock                 # XRT itself shares every device: exclusive opens are ours
    cdef bint loading                # the vendor's call that programs the board has not returned
    cdef bint barred                 # new ones wait
    cdef bint scheduled              # XRT has a scheduler for this device
    cdef set runs, kernels_, buffers  # handles: 2.13 ends the process if one is closed after its device

    def __init__(self, info, shared):
        super().__init__(info)
        cdef bytes bdf = info.bdf.encode()
        self.closed = True
        self.runs, self.kernels_, self.buffers = set(), set(), set()
        self.xrt = xrt(info.emulated)
        lock = OpenLock(info, shared)
        try:
            with self.xrt.lock:
                self.xrt.select(info)
                self.xrt.await_map()
                set_errno(0)
                self.device = self.xrt.abi.xrtDeviceOpenByBDF(bdf)
                if self.device == NULL:
                    raise self.xrt.error("xrtDeviceOpenByBDF", info, DeviceLostError)
        except BaseException:
            lock.release()
            raise
        self.lock = lock
        self.closed = False
        with self.xrt.lock:
            self.xrt.sessions.add(self)

    cdef int fail(self, const char *what) except -1 nogil:
        with gil:
            raise self.error(what.decode(), RunError)

    cdef error(self, what, default):
        failure = self.xrt.error(what, self.info, default)
        self.check()  # perhaps another thread has closed it meanwhile
        return failure

    cdef int enter(self) except -1 nogil:
        begin_use(&self.users)
        while self.closed or (self.barred and not PyGILState_Check()):
            end_use(&self.users)
            self.check()
            breathe()
            begin_use(&self.users)
        return 0

    cdef int bar(self, bint shut) except -1:
        """With the library's lock: no device starts or awaits a run until this is undone.

        Who keeps the GIL during its call is not barred: while this thread has the GIL, no such call is under way.
        """
        cdef XrtSession other
        for other in list(self.xrt.sessions):
            other.barred = shut
        for other in list(self.xrt.sessions) if shut else ():
            other.await_users()

    # --- memory ----------------------------------------------------------------------------------------------
    cdef int memory_allocate(self, size_t size, int bank, memory *out) except -1:
        cdef xrtBufferHandle handle
        self.check()
        if self.bitstream is None:
            raise DeviceStateError(f"{self.info.address}: buffers need a loaded image (it defines the memory banks).",
                                   hint="Load one in this process first: dev.program(path).")
        if bank not in {item.index for item in self.bitstream.banks}:
            raise ArgumentRangeError(f"{self.info.address}: no memory bank {bank}; the image has "
                                     f"{', '.join(f'{b.index} ({b.name})' for b in self.bitstream.banks)}.")
        memset(out, 0, sizeof(memory))
        out.size, out.bank = size, bank
        with self.xrt.lock:
            begin_use(&self.xrt.map_users)
        self.enter_or_end_map()
        try:
            with nogil:
                set_errno(0)
                handle = self.xrt.abi.xrtBOAlloc(self.device, max(size, <size_t>64), 0, bank)
                end_use(&self.xrt.map_users)
                if handle != NULL:
                    out.handle = <uint64_t><uintptr_t>handle
                    out.host = self.xrt.abi.xrtBOMap(handle)
                    out.address = self.xrt.abi.xrtBOAddress(handle)
            if handle == NULL:
                raise self.error(f"xrtBOAlloc of {size} bytes in bank {bank}", DeviceMemoryError)
            self.buffers.add(<uintptr_t>handle)
        finally:
            self.leave()  # now who closes the device knows this buffer
        if out.host == NULL or out.address == <uint64_t>-1:
            error = self.error("xrtBOMap", DeviceMemoryError)
            self.memory_free(out)
            raise error
        return 0

    cdef int enter_or_end_map(self) except -1:
        try:
            return self.enter()
        except BaseException:
            end_use(&self.xrt.map_users)
            raise

    cdef int memory_free(self, memory *m) noexcept nogil:
        cdef bint ours
        cdef int result = 0
        while in_use(&m.users) and not self.forked:  # a handle must not be closed while another thread uses it
            breathe()
        begin_use(&self.users)
        with gil:
            ours = not self.closed and m.handle in self.buffers  # else it is closed with the device
            if ours:
                self.buffers.discard(m.handle)
        if ours:
            result = self.xrt.abi.xrtBOFree(<xrtBufferHandle><uintptr_t>m.handle)
        end_use(&self.users)
        return result

    cdef int memory_sync(self, memory *m, bint to_device, size_t offset, size_t size) except -1 nogil:
        self.check()
        if size == 0:
            return 0
        cdef int result
        self.enter()
        begin_use(&m.users)
        set_errno(0)
        result = self.xrt.abi.xrtBOSync(<xrtBufferHandle><uintptr_t>m.handle,
                                        XCL_BO_SYNC_BO_TO_DEVICE if to_device else XCL_BO_SYNC_BO_FROM_DEVICE, size,
                                        offset)
        end_use(&m.users)
        self.leave()
        if result:
            self.fail(b"xrtBOSync")
        return 0

    # --- cold ----------------------------------------------------------------------------------------------
    def loaded_id(self):
        cdef unsigned char raw[16]
        self.check()
        memset(raw, 0, sizeof(raw))
        with self.xrt.lock:
            self.check()
            set_errno(0)
            failed = self.xrt.abi.xrtDeviceGetXclbinUUID(self.device, raw) != 0
        if failed:
            error = self.xrt.error("xrtDeviceGetXclbinUUID", self.info, DeviceStateError)
            if isinstance(error, DeviceLostError):
                raise error
            return None  # nothing loaded, or its last load failed
        value = id_of(int.from_bytes((<char *>raw)[:16], "big"))
        return value if value.int else None

    def program(self, bitstream, force):
        self.check()
        self.loading = True
        try:
            self.load(bitstream)
        finally:
            self.loading = False
            if self.closed:
                self.close_device()

    cdef load(self, bitstream):
        cdef const unsigned char[::1] data = bitstream.data
        cdef int result
        self.bitstream = None
        with self.xrt.lock:
            self.check()
            begin_use(&self.xrt.map_users)
        with nogil:
            set_errno(0)
            result = self.xrt.abi.xrtDeviceLoadXclbin(self.device, &data[0])
            end_use(&self.xrt.map_users)
        if result:
            raise self.xrt.error("xrtDeviceLoadXclbin", self.info, ProgramError)
        if self.loaded_id() == bitstream.afu_id:  # else its banks and kernels are not those on the card
            self.bitstream = bitstream

    def attach(self, bitstream):
        if self.bitstream is None:
            self.load(bitstream)

    def banks(self):
        return self.bitstream.banks if self.bitstream is not None else ()

    def default_bank(self):
        banks = self.banks()
        return next((bank.index for bank in banks if bank.used), banks[0].index if banks else 0)

    def kernels(self):
        return self.bitstream.kernels if self.bitstream is not None else ()

    def open_kernel(self, name, exclusive):
        self.check()
        if self.bitstream is None:
            raise DeviceStateError(
                f"{self.info.address}: XRT wants the image loaded in each process before kernels open.",
                hint="dev.program(path) does it; a board that runs it already is not reprogrammed.")
        self.loaded_id()  # XRT opens a second kernel on the same units without asking the board
        contract = name if isinstance(name, KernelContract) else None
        name = contract.name if contract else name
        base, _, units = str(name).partition(":")
        for info in self.bitstream.kernels:
            # The text becomes a regular expression inside XRT: only names that the image has get through.
            if info.name == base and self.known_units(units, info):
                if contract and (difference := contract.difference(info)):
                    raise ArgumentError(f"{self.info.address}: kernel {base} of {self.bitstream.name} is not the one "
                                        f"of the contract: {difference}.", hint="Load an image that fits.")
                return XrtKernel(self, info, str(name), exclusive)
        offered = "; ".join(f"{k.name}:{{{','.join(k.compute_units)}}}" for k in self.bitstream.kernels) or "none"
        raise KernelNotFoundError(
            f"{self.info.address}: no kernel {name!r} in {self.bitstream.name} (it has {offered}).")

    def known_units(self, units, info):
        return not units or (units[0] == "{" and units[-1] == "}"
                             and all(unit in info.compute_units for unit in units[1:-1].split(",")))

    def reset(self):
        cdef int failed
        self.check()
        if self.xrt.abi.fpgahal_emu_xrt_reset == NULL:
            raise UnsupportedError(f"{self.info.address}: XRT's C API can't stop what runs on a card.",
                                   hint=f"Close the device, then `xbutil reset --device {self.info.bdf}`.")
        self.enter()
        with nogil:  # what runs may be a Python function
            failed = self.xrt.abi.fpgahal_emu_xrt_reset(self.device)
        self.leave()
        if failed:
            raise self.xrt.error("reset", self.info, DeviceStateError)

    def close(self):
        if not self.closed or self.device != NULL:
            self.closed = True
            self.close_device()
            self.lock.release(forked=self.forked)

    cdef void close_device(self) noexcept:
        cdef xrtDeviceHandle device = self.device
        if (self.views > 0 or self.loading) and not self.forked:
            return  # the last view's end, or that of program(), brings us here again
        self.device = NULL
        if device != NULL and not self.forked:
            self.await_users()
            self.abandon_runs(device)
            with self.xrt.lock:
                self.xrt.await_map()
                while self.runs:  # the GIL is kept: 2.13 changes its maps without a lock
                    self.xrt.abi.xrtRunClose(<xrtRunHandle><uintptr_t>self.runs.pop())
                while self.kernels_:
                    self.xrt.abi.xrtKernelClose(<xrtKernelHandle><uintptr_t>self.kernels_.pop())
                while self.buffers:  # Device.close has closed those that it knew
                    self.xrt.abi.xrtBOFree(<xrtBufferHandle><uintptr_t>self.buffers.pop())
                self.xrt.abi.xrtDeviceClose(device)

    cdef void abandon_runs(self, xrtDeviceHandle device) noexcept:
        """Stop what still runs (the program ends, or the board is gone), if that can be done.

        Each call waits some seconds; what runs may be a Python function, which takes as long as it takes, and the GIL.
        """
        if self.xrt.abi.fpgahal_emu_xrt_reset != NULL:
            with nogil:
                while self.xrt.abi.fpgahal_emu_xrt_reset(device) and errno == ETIMEDOUT:
                    pass

    def __dealloc__(self):
        if self.device != NULL and not self.forked:
            with nogil:
                self.xrt.abi.xrtDeviceClose(self.device)


# --- a kernel -------------------------------------------------------------------------------------------------

cdef struct run:
    xrtRunHandle handle
    int users                 # threads that wait for it
    int known                 # how many arguments XRT has been told
    uint64_t last[64]         # what it was told (a buffer's serial, a scalar's bits): only changes are set again


@cython.no_gc_clear
cdef class XrtKernel(KernelSession):
    cdef XrtSession slot
    cdef xrtKernelHandle kernel
    cdef int users                   # calls that use its registers now

    def __init__(self, XrtSession session, info, name, exclusive):
        super().__init__(session, info)
        cdef bytes text = name.encode()
        cdef bytes id = session.bitstream.afu_id.bytes
        self.slot = session
        if len(info.args) > MAX_ARGS:
            raise UnsupportedError(f"Kernel {info.name} has {len(info.args)} arguments; {MAX_ARGS} is the most.")
        with session.xrt.lock:
            session.check()
            if not session.scheduled:  # 2.13 adds to its map of schedulers, where every start and wait looks
                session.bar(True)
            try:
                set_errno(0)
                if exclusive:
                    self.kernel = session.xrt.abi.xrtPLKernelOpenExclusive(session.device, id, text)
                else:
                    self.kernel = session.xrt.abi.xrtPLKernelOpen(session.device, id, text)
                if self.kernel == NULL:
                    raise session.error(f"xrtPLKernelOpen({name})", DeviceStateError)
            finally:
                if not session.scheduled:
                    session.bar(False)
            session.scheduled = True
            session.kernels_.add(<uintptr_t>self.kernel)
        self.csr_bytes = (info.register_bytes or 0x10000) if exclusive else 0

    cdef void *run_open(self) except NULL:
        cdef run *r = <run *>calloc(1, sizeof(run))
        if r == NULL:
            raise MemoryError()
        try:
            self.open_handle(r)
        except BaseException:
            free(r)
            raise
        return r

    cdef int open_handle(self, run *r) except -1:
        self.slot.check()
        set_errno(0)
        r.handle = self.slot.xrt.abi.xrtRunOpen(self.kernel)
        if r.handle == NULL:
            raise self.slot.error(f"xrtRunOpen of {self.info.name}", RunError)
        self.slot.runs.add(<uintptr_t>r.handle)
        r.known = 0
        return 0

    cdef void close_handle(self, run *r) noexcept:
        cdef xrtRunHandle handle = r.handle
        r.handle = NULL
        with nogil:
            while in_use(&r.users) and not self.slot.forked:  # another thread still waits for what it ran before
                breathe()
        if not self.slot.closed and <uintptr_t>handle in self.slot.runs:  # else it is closed with the device
            self.slot.runs.discard(<uintptr_t>handle)
            self.slot.xrt.abi.xrtRunClose(handle)

    cdef void run_close(self, void *handle) noexcept:
        self.close_handle(<run *>handle)
        if self.slot.closed:
            self.slot.await_users()  # a thread that waits for it may not have counted itself yet
        free(handle)

    cdef int run_start(self, void *handle, const arg *args, int n) except -1 nogil:
        cdef run *r = <run *>handle
        cdef int result
        if r.handle == NULL:
            with gil:
                self.open_handle(r)
        self.slot.enter()
        try:
            self.set_args(r, args, n)
            set_errno(0)
            result = self.slot.xrt.abi.xrtRunStart(r.handle)
        finally:
            self.slot.leave()
        if result:
            self.start_failed(r)
        return 0

    cdef int start_failed(self, run *r) except -1 nogil:
        # After a start that failed, 2.13 takes the run for one in flight: it can't be started again, only replaced.
        with gil:
            try:
                self.slot.fail(b"xrtRunStart")
            finally:
                self.close_handle(r)

    cdef int set_args(self, run *r, const arg *args, int n) except -1 nogil:
        cdef uint64_t told
        cdef int i
        for i in range(n):
            told = args[i].value.buffer.serial if args[i].kind == ARG_BUFFER else args[i].value.u
            if i >= r.known or r.last[i] != told:
                self.set_arg(r, i, &args[i])
                r.last[i] = told
        if r.known < n:
            r.known = n
        return 0

    cdef int set_arg(self, run *r, int i, const arg *a) except -1 nogil:
        # The type that XRT takes from the variadic list follows the image's metadata, as `kind` does.
        cdef int result = 0
        set_errno(0)
        if a.kind == ARG_BUFFER:
            result = self.slot.xrt.abi.xrtRunSetArg(r.handle, i, <xrtBufferHandle><uintptr_t>a.value.buffer.handle)
        elif a.kind == ARG_U32:
            result = self.slot.xrt.abi.xrtRunSetArg(r.handle, i, <uint32_t>a.value.u)
        elif a.kind == ARG_F32 or a.kind == ARG_F64:
            result = self.slot.xrt.abi.xrtRunSetArg(r.handle, i, a.value.f)
        elif a.kind != ARG_NONE:
            result = self.slot.xrt.abi.xrtRunSetArg(r.handle, i, a.value.u)
        if result:
            r.known = 0
            self.slot.fail(b"xrtRunSetArg")
        return 0

    cdef int run_poll(self, void *handle) except -1 nogil:
        cdef int state
        self.slot.enter()
        state = self.slot.xrt.abi.xrtRunState((<run *>handle).handle)
        self.slot.leave()
        return outcome(state)

    cdef int run_wait(self, void *handle, double seconds) except -1 nogil:
        # 0 ms would mean "for ever"; TIMEOUT only says that our time is over, not that the run has ended.
        cdef run *r = <run *>handle
        cdef unsigned int ms = max(1, <unsigned int>(seconds * 1000))
        cdef int state
        self.slot.enter()
        begin_use(&r.users)
        state = self.slot.xrt.abi.xrtRunWaitFor(r.handle, ms)
        end_use(&r.users)
        self.slot.leave()
        self.slot.check()
        return RUN_RUNNING if state == ERT_CMD_STATE_TIMEOUT else outcome(state)

    cdef int enter(self) except -1 nogil:
        self.slot.enter()
        begin_use(&self.users)
        if self.closed:
            self.leave()
            with gil:
                raise ClosedError(f"Kernel {self.info.name} is closed.", hint="Open it again: dev.kernel(name).")
        return 0

    cdef void leave(self) noexcept nogil:
        end_use(&self.users)
        self.slot.leave()

    cdef int csr_read32(self, uint32_t offset, uint32_t *value) except -1 nogil:
        cdef int result
        self.enter()
        set_errno(0)
        result = self.slot.xrt.abi.xrtKernelReadRegister(self.kernel, offset, value)
        self.leave()
        if result:
            self.slot.fail(b"xrtKernelReadRegister")
        return 0

    cdef int csr_write32(self, uint32_t offset, uint32_t value) except -1 nogil:
        cdef int result
        self.enter()
        set_errno(0)
        result = self.slot.xrt.abi.xrtKernelWriteRegister(self.kernel, offset, value)
        self.leave()
        if result:
            self.slot.fail(b"xrtKernelWriteRegister")
        return 0

    def close(self):
        if not self.closed:
            self.closed = True
            with nogil:
                while in_use(&self.users) and not self.slot.forked:
                    breathe()
            with self.slot.xrt.lock:
                if not self.slot.closed and <uintptr_t>self.kernel in self.slot.kernels_:  # else it is closed already
                    self.slot.kernels_.discard(<uintptr_t>self.kernel)
                    self.slot.xrt.abi.xrtKernelClose(self.kernel)
            self.kernel = NULL


cdef inline int outcome(int state) noexcept nogil:
    if state < ERT_CMD_STATE_COMPLETED:
        return RUN_RUNNING
    if state == ERT_CMD_STATE_COMPLETED:
        return RUN_COMPLETED
    return RUN_ABORTED if state == ERT_CMD_STATE_ABORT else RUN_ERROR


def open_session(info, shared):
    """Open a card through libxrt_coreutil (or the emulated one, if `info` says so)."""
    return XrtSession(info, shared)
