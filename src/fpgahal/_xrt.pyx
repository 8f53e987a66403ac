# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, freethreading_compatible=True
"""The XRT driver: the C entry points of libxrt_coreutil.so.2, through a table of function pointers.

This file and ``native/include/xrt_abi.h`` are all that knows XRT.  Facts: XRT 2.13 (Debian 12) to master of 2026.
"""
cimport cython
from libc.errno cimport errno
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from fpgahal._session cimport (
    ARG_BUFFER, ARG_F32, ARG_F64, ARG_NONE, ARG_U32, RUN_ABORTED, RUN_COMPLETED, RUN_ERROR, RUN_RUNNING,
    KernelSession, Session, arg, memory,
)

import ctypes
import os
import threading
import uuid
from contextlib import suppress

from fpgahal import _library
from fpgahal._errors import (
    ArgumentRangeError, DeviceLostError, DeviceMemoryError, DeviceStateError, KernelNotFoundError,
    LibraryError, ProgramError, RunError,
    UnsupportedError, errno_error,
)
from fpgahal._lock import OpenLock

cdef extern from "xrt_abi.h":
    ctypedef void *xrtDeviceHandle
    ctypedef void *xrtKernelHandle
    ctypedef void *xrtRunHandle
    ctypedef void *xrtBufferHandle
    ctypedef struct xrt_abi:
        int (*xrtIniStringSet)(const char *, const char *) noexcept nogil
        xrtDeviceHandle (*xrtDeviceOpenByBDF)(const char *) noexcept nogil
        int (*xrtDeviceClose)(xrtDeviceHandle) noexcept nogil
        int (*xrtDeviceLoadXclbin)(xrtDeviceHandle, const void *) noexcept nogil
        int (*xrtDeviceGetXclbinUUID)(xrtDeviceHandle, unsigned char *) noexcept nogil
        xrtKernelHandle (*xrtPLKernelOpen)(xrtDeviceHandle, const unsigned char *, const char *) noexcept nogil
        xrtKernelHandle (*xrtPLKernelOpenExclusive)(xrtDeviceHandle, const unsigned char *, const char *) noexcept nogil
        int (*xrtKernelClose)(xrtKernelHandle) noexcept nogil
        int (*xrtKernelReadRegister)(xrtKernelHandle, uint32_t, uint32_t *) noexcept nogil
        int (*xrtKernelWriteRegister)(xrtKernelHandle, uint32_t, uint32_t) noexcept nogil
        xrtRunHandle (*xrtRunOpen)(xrtKernelHandle) noexcept nogil
        int (*xrtRunSetArg)(xrtRunHandle, int, ...) noexcept nogil
        int (*xrtRunStart)(xrtRunHandle) noexcept nogil
        int (*xrtRunWaitFor)(xrtRunHandle, unsigned int) noexcept nogil
        int (*xrtRunState)(xrtRunHandle) noexcept nogil
        int (*xrtRunClose)(xrtRunHandle) noexcept nogil
        xrtBufferHandle (*xrtBOAlloc)(xrtDeviceHandle, size_t, uint64_t, uint32_t) noexcept nogil
        int (*xrtBOFree)(xrtBufferHandle) noexcept nogil
        uint64_t (*xrtBOAddress)(xrtBufferHandle) noexcept nogil
        void *(*xrtBOMap)(xrtBufferHandle) noexcept nogil
        int (*xrtBOSync)(xrtBufferHandle, int, size_t, size_t) noexcept nogil
        int (*fpgahal_emu_xrt_reset)(xrtDeviceHandle) noexcept nogil
    const char *xrt_abi_fill(void *library, xrt_abi *table)
    void *dlsym(void *library, const char *name)
    enum: ERT_CMD_STATE_COMPLETED, ERT_CMD_STATE_ABORT, ERT_CMD_STATE_TIMEOUT
    enum: XCL_BO_SYNC_BO_TO_DEVICE, XCL_BO_SYNC_BO_FROM_DEVICE

cdef extern from "xrt_guard.h":
    int xrt_guard(void *library, char *why, unsigned long size)

cdef extern from *:
    """
    #include <errno.h>
    #include <time.h>
    static inline void set_errno(int value) { errno = value; }
    /* A count of calls in progress.  Who closes says so first, then looks here; who begins looks the other way. */
    static inline void begin_use(int *users) { __atomic_fetch_add(users, 1, __ATOMIC_SEQ_CST); }
    static inline void end_use(int *users) { __atomic_fetch_sub(users, 1, __ATOMIC_RELEASE); }
    static inline int in_use(int *users) { return __atomic_fetch_add(users, 0, __ATOMIC_SEQ_CST); }
    static inline void breathe(void) { nanosleep(&(struct timespec){ 0, 200000 }, NULL); }
    """
    void set_errno(int value) noexcept nogil
    void begin_use(int *users) noexcept nogil
    void end_use(int *users) noexcept nogil
    int in_use(int *users) noexcept nogil
    void breathe() noexcept nogil

cdef int MAX_ARGS = 64


# --- the library ----------------------------------------------------------------------------------------------

cdef class Xrt:
    """libxrt_coreutil, or an emulated board's stand-in for it.

    Emulated boards have two ways: the stand-in (the default), and our driver under the real library
    (``FPGAHAL_EMU_XRT=real``).
    """
    cdef xrt_abi abi
    cdef readonly object library
    cdef int (*attach)(const char *) noexcept nogil  # emulated: which rack
    cdef object lock                                 # 2.13 reads its device and scheduler maps unlocked
    cdef int log                                     # a file in memory to which XRT writes its error texts
    cdef object log_lock
    cdef Py_ssize_t log_read
    cdef int map_users                               # calls that look a device up: with `lock`, opens wait for them

    @staticmethod
    cdef Xrt load(bint emulated):
        cdef Xrt self = Xrt.__new__(Xrt)
        cdef bint stand_in = emulated and not _library.wants_real_xrt()
        self.log = -1
        self.lock, self.log_lock = threading.RLock(), threading.Lock()
        if stand_in:
            path = _library.emulator("xrt")
            self.library = _library.Library(path, "emulated", ctypes.CDLL(path)._handle)
        else:
            self.library = _library.load(
                "FPGAHAL_XRT_LIBRARY", ("libxrt_coreutil.so.2",), ("/opt/xilinx/xrt/lib", "/opt/amd/xrt/lib"),
                install="Install XRT (Debian: apt install libxrt1)")
        self.fill()
        if stand_in:
            self.use_emulator(self.library.handle)
        elif emulated:
            self.preflight_emulated()
        else:
            self.preflight()
        self.capture_log()
        return self

    cdef int fill(self) except -1:
        cdef const char *missing = xrt_abi_fill(<void *><uintptr_t>self.library.handle, &self.abi)
        if missing != NULL:
            raise LibraryError(
                f"{self.library.path} ({self.library.found_via}) has no function {missing.decode()}: it is not "
                "libxrt_coreutil, or a release that dropped its C functions.",
                hint="Install XRT 2.13 or newer, or name another file in FPGAHAL_XRT_LIBRARY.")
        return 0

    cdef int use_emulator(self, uintptr_t handle) except -1:
        """Take the emulator's own functions from the stand-in or the driver."""
        self.attach = <int (*)(const char *) noexcept nogil>dlsym(<void *>handle, b"fpgahal_emu_attach")
        self.abi.fpgahal_emu_xrt_reset = <int (*)(xrtDeviceHandle) noexcept nogil>dlsym(
            <void *>handle, b"fpgahal_emu_xrt_reset")
        if self.attach == NULL:
            raise LibraryError("The library of emulated XRT boards has no function fpgahal_emu_attach.",
                               hint="FPGAHAL_XRT_DRIVER and FPGAHAL_EMU_LIBDIR must name files of this fpgahal.")
        return 0

    cdef bint has_driver(self):
        # The object that a driver registers.  Releases that do not export the variable find drivers without help.
        cdef void **singleton = <void **>dlsym(<void *><uintptr_t>self.library.handle, b"_ZN8xrt_core9singletonE")
        return singleton != NULL and singleton[0] != NULL

    def preflight_emulated(self):
        """Load our driver into the real library; one driver a process, for life.

        Raises
        ------
        LibraryError
            Another driver is there already, or the driver was built for another release of XRT.
        """
        cdef char why[256]
        path = _library.xrt_driver()
        if xrt_guard(<void *><uintptr_t>self.library.handle, why, sizeof(why)):
            raise LibraryError(f"{self.library.path}: {why.decode()}.",
                               hint="Unset FPGAHAL_EMU_XRT: the stand-in for libxrt_coreutil needs no XRT at all.")
        with suppress(OSError):  # XRT itself may have loaded it, from $XILINX_XRT/lib
            self.use_emulator(ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_NOLOAD)._handle)
            return
        if self.has_driver():
            raise LibraryError(
                "XRT has a driver in this process already, and can have only one: emulated boards cannot be added.",
                hint="Use emulated and real boards in different processes, or unset FPGAHAL_EMU_XRT.")
        try:
            driver = ctypes.CDLL(path, mode=os.RTLD_NOW | os.RTLD_GLOBAL)
        except OSError as error:
            raise LibraryError(f"{path} does not load: {error}.",
                               hint="Build it anew for the XRT that is here.") from None
        self.use_emulator(driver._handle)
        if not self.has_driver():
            raise LibraryError(f"{path} was loaded, but XRT in {self.library.path} does not know it.",
                               hint="Build it anew for the XRT that is here.")

    def preflight(self):
        """Make sure that XRT will find its driver: without one, 2.13 aborts the process at the first error.

        XRT looks for ``$XILINX_XRT/lib/lib<driver>.so.2``.  A driver that is loaded already is taken as it is, unless
        it is ours: then there are no real boards in this process.
        """
        if emulated_driver_loaded():
            raise LibraryError("XRT drives emulated boards in this process, and can have only one driver.",
                               hint="Use emulated and real boards in different processes, or unset FPGAHAL_EMU_XRT.")
        if self.has_driver():
            return
        if self.library.version and not self.library.version.startswith(("2.13", "2")):
            return  # another release: its own search is better than ours
        # "null" turns the aborts into error returns for as long as there is no driver.
        self.abi.xrtIniStringSet(b"Runtime.runtime_log", b"null")
        driver = driver_file()
        prefix = os.environ.get("XILINX_XRT", "")
        beside = os.path.join(prefix, "lib", driver) if prefix else ""
        if beside and os.path.exists(beside):
            return
        try:  # Debian installs the driver on the loader's path, where XRT itself does not look
            ctypes.CDLL(self.library.path, mode=os.RTLD_NOW | os.RTLD_GLOBAL)
            ctypes.CDLL(driver, mode=os.RTLD_NOW | os.RTLD_GLOBAL)
        except OSError as error:
            where = f"XILINX_XRT={prefix} has no lib/{driver}" if prefix else "XILINX_XRT is not set"
            raise LibraryError(
                f"XRT would abort this process: {where}, and the system loader says: {error}.",
                hint="Source XRT's setup.sh, or set XILINX_XRT to the folder that holds lib/" + driver + ".") from None

    cdef capture_log(self):
        # XRT's C functions return -1; the reason only goes to its log.  A private file in memory keeps it for us.
        try:
            self.log = os.memfd_create("fpgahal-xrt-log")
        except OSError:
            return
        if self.abi.xrtIniStringSet(b"Runtime.runtime_log", f"/proc/self/fd/{self.log}".encode()) != 0:
            os.close(self.log)
            self.log = -1

    cdef reason(self):
        """What XRT wrote to its log since the last look: the last error's text."""
        if self.log < 0:
            return ""
        text = ""
        with self.log_lock:
            size = os.fstat(self.log).st_size
            if size < self.log_read:
                self.log_read = 0
            text = os.pread(self.log, min(size - self.log_read, 1 << 16), self.log_read).decode(errors="replace")
            self.log_read = size
        # 2.13: "[date] [XRT] Tid: N,  ERROR: text".  Other threads' errors are not ours.
        mine = f"Tid: {threading.get_ident()},"
        lines = [line for line in text.splitlines() if "ERROR:" in line and (mine in line or "Tid:" not in line)]
        return lines[-1].partition("ERROR:")[2].strip() if lines else ""

    cdef error(self, what, info, default=ProgramError):
        number = errno
        return errno_error(number if number > 0 else 0, self.reason(), what, info.address, default=default)

    cdef int await_map(self) noexcept:
        """With `lock`: let the calls end that read the map of devices, which 2.13 changes without a lock."""
        with nogil:
            while in_use(&self.map_users):
                breathe()
        return 0

    cdef int select(self, info) except -1:
        if self.attach != NULL and self.attach(info.root.encode()):
            raise DeviceLostError(f"{info.address}: the rack in {info.root} is gone.",
                                  hint="Keep `with fpgahal.emu.rack(...)` open while its boards are in use.")
        return 0


def driver_file():
    """Name of the driver library that XRT will ask for (XRT 2.13's rules)."""
    mode = os.environ.get("XCL_EMULATION_MODE")
    names = {None: "xrt_core", "noop": "xrt_noop", "sw_emu": "xrt_swemu", "hw_emu": "xrt_hwemu"}
    if mode not in names:
        raise LibraryError(f"XRT would abort this process: XCL_EMULATION_MODE={mode!r} is not one it knows "
                           "(noop, sw_emu, hw_emu).", hint="Unset XCL_EMULATION_MODE.")
    return f"lib{names[mode]}.so.2"


def emulated_driver_loaded():
    """Whether our driver is in this process (under any file name: XRT asks for libxrt_core.so.2)."""
    return dlsym(NULL, b"fpgahal_emu_xrt_reset") != NULL


_loaded = {}
_loading = threading.Lock()


cdef Xrt xrt(bint emulated):
    with _loading:
        if emulated not in _loaded:
            _loaded[emulated] = Xrt.load(emulated)
        return _loaded[emulated]


def library(emulated=False):
    """The library that would be used (``_library.Library``) and its version (from the file's name).

    Raises
    ------
    LibraryNotFoundError, LibraryError
    """
    cdef Xrt found = xrt(emulated)
    return found.library, found.library.version


# --- a slot ---------------------------------------------------------------------------------------------------

@cython.no_gc_clear  # __dealloc__ needs the library, also when the collector breaks a cycle
cdef class XrtSession(Session):
    cdef Xrt xrt
    cdef xrtDeviceHandle device
    cdef object bitstream            # the image that this process has loaded
    cdef object lock                 # XRT itself shares every device: exclusive opens are ours
    cdef int users                   # calls without the GIL that use runs and buffers now
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

    cdef int fail(self, const char *what) except -1 nogil:
        with gil:
            raise self.error(what.decode(), RunError)

    cdef error(self, what, default):
        failure = self.xrt.error(what, self.info, default)
        self.check()  # perhaps another thread has closed it meanwhile
        return failure

    cdef int enter(self) except -1 nogil:
        begin_use(&self.users)
        if self.closed:
            end_use(&self.users)
            self.check()
        return 0

    cdef void leave(self) noexcept nogil:
        end_use(&self.users)

    # --- memory ----------------------------------------------------------------------------------------------
    cdef int memory_allocate(self, size_t size, int bank, memory *out) except -1:
        cdef xrtBufferHandle handle
        self.check()
        if self.bitstream is None:
            raise DeviceStateError(f"{self.info.address}: buffers need a loaded image (it defines the memory banks).",
                                   hint="Load one in this process first: dev.program(path).")
        known = {item.index for item in self.bitstream.banks}
        if bank not in known:
            raise ArgumentRangeError(f"{self.info.address}: no memory bank {bank}; the image has "
                                     f"{', '.join(f'{b.index} ({b.name})' for b in self.bitstream.banks)}.")
        memset(out, 0, sizeof(memory))
        out.size, out.bank = size, bank
        set_errno(0)
        with self.xrt.lock:
            begin_use(&self.xrt.map_users)
        self.enter_or_end_map()
        with nogil:
            handle = self.xrt.abi.xrtBOAlloc(self.device, max(size, <size_t>64), 0, bank)
            end_use(&self.xrt.map_users)
            self.leave()
        if handle == NULL:
            raise self.error(f"xrtBOAlloc of {size} bytes in bank {bank}", DeviceMemoryError)
        self.buffers.add(<uintptr_t>handle)
        out.handle = <uint64_t><uintptr_t>handle
        out.host = self.xrt.abi.xrtBOMap(handle)
        out.address = self.xrt.abi.xrtBOAddress(handle)
        if out.host == NULL or out.address == <uint64_t>-1:
            self.memory_free(out)
            raise self.error("xrtBOMap", DeviceMemoryError)
        return 0

    cdef int enter_or_end_map(self) except -1:
        try:
            return self.enter()
        except BaseException:
            end_use(&self.xrt.map_users)
            raise

    cdef int memory_free(self, memory *m) noexcept nogil:
        while in_use(&m.users):  # a handle must not be closed while another thread uses it
            breathe()
        with gil:
            if self.forked or m.handle not in self.buffers:  # closed with the device
                return 0
            self.buffers.discard(m.handle)
        return self.xrt.abi.xrtBOFree(<xrtBufferHandle><uintptr_t>m.handle)

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
        value = uuid.UUID(bytes=(<char *>raw)[:16])
        return value if value.int else None

    def program(self, bitstream, force):
        cdef const unsigned char[::1] data = bitstream.data
        cdef int result
        self.check()
        self.bitstream = None
        with self.xrt.lock:
            begin_use(&self.xrt.map_users)
        set_errno(0)
        with nogil:
            result = self.xrt.abi.xrtDeviceLoadXclbin(self.device, &data[0])
            end_use(&self.xrt.map_users)
        if result:
            raise self.xrt.error("xrtDeviceLoadXclbin", self.info, ProgramError)
        if self.loaded_id() == bitstream.afu_id:  # else its banks and kernels are not those on the card
            self.bitstream = bitstream

    def attach(self, bitstream):
        if self.bitstream is None:
            self.program(bitstream, False)

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
        base, _, units = str(name).partition(":")
        for info in self.bitstream.kernels:
            # The text becomes a regular expression inside XRT: only names that the image has get through.
            if info.name == base and self.known_units(units, info):
                return XrtKernel(self, info, str(name), exclusive)
        offered = "; ".join(f"{k.name}:{{{','.join(k.compute_units)}}}" for k in self.bitstream.kernels) or "none"
        raise KernelNotFoundError(
            f"{self.info.address}: no kernel {name!r} in {self.bitstream.name} (it has {offered}).")

    def known_units(self, units, info):
        return not units or (units[0] == "{" and units[-1] == "}"
                             and all(unit in info.compute_units for unit in units[1:-1].split(",")))

    def reset(self):
        self.check()
        if self.xrt.abi.fpgahal_emu_xrt_reset == NULL:
            raise UnsupportedError(f"{self.info.address}: XRT's C API can't stop what runs on a card.",
                                   hint=f"Close the device, then `xbutil reset --device {self.info.bdf}`.")
        if self.xrt.abi.fpgahal_emu_xrt_reset(self.device):
            raise self.xrt.error("reset", self.info, DeviceStateError)

    def close(self):
        if not self.closed or self.device != NULL:
            self.closed = True
            self.close_device()

    cdef void close_device(self) noexcept:
        cdef xrtDeviceHandle device = self.device
        self.device = NULL
        if device != NULL and not self.forked:
            with nogil:
                while in_use(&self.users):
                    breathe()
            self.abandon_runs(device)
            with self.xrt.lock:
                self.xrt.await_map()
                while self.runs:  # the GIL is kept: 2.13 changes its maps without a lock
                    self.xrt.abi.xrtRunClose(<xrtRunHandle><uintptr_t>self.runs.pop())
                while self.kernels_:
                    self.xrt.abi.xrtKernelClose(<xrtKernelHandle><uintptr_t>self.kernels_.pop())
                while self.buffers:  # only when the program ends: Device.close has closed them
                    self.xrt.abi.xrtBOFree(<xrtBufferHandle><uintptr_t>self.buffers.pop())
                self.xrt.abi.xrtDeviceClose(device)
        if self.lock is not None:
            self.lock.release(forked=self.forked)

    cdef void abandon_runs(self, xrtDeviceHandle device) noexcept:
        """The program ends with runs in flight (Device.close does not): stop them if that can be done."""
        if self.xrt.abi.fpgahal_emu_xrt_reset == NULL:
            return
        for handle in self.runs:
            if self.xrt.abi.xrtRunState(<xrtRunHandle><uintptr_t>handle) < ERT_CMD_STATE_COMPLETED:
                self.xrt.abi.fpgahal_emu_xrt_reset(device)
                break

    def __dealloc__(self):
        if self.device != NULL and not self.forked:
            self.xrt.abi.xrtDeviceClose(self.device)


# --- a kernel -------------------------------------------------------------------------------------------------

cdef struct run:
    xrtRunHandle handle
    int known                 # how many arguments XRT has been told
    uint64_t last[64]         # what it was told (a buffer's serial, a scalar's bits): only changes are set again


@cython.no_gc_clear
cdef class XrtKernel(KernelSession):
    cdef XrtSession slot
    cdef xrtKernelHandle kernel

    def __init__(self, XrtSession session, info, name, exclusive):
        super().__init__(session, info)
        cdef bytes text = name.encode()
        cdef bytes id = session.bitstream.afu_id.bytes
        self.slot = session
        if len(info.args) > MAX_ARGS:
            raise UnsupportedError(f"Kernel {info.name} has {len(info.args)} arguments; {MAX_ARGS} is the most.")
        set_errno(0)
        with session.xrt.lock:
            if exclusive:
                self.kernel = session.xrt.abi.xrtPLKernelOpenExclusive(session.device, id, text)
            else:
                self.kernel = session.xrt.abi.xrtPLKernelOpen(session.device, id, text)
        if self.kernel == NULL:
            raise session.error(f"xrtPLKernelOpen({name})", DeviceStateError)
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
        if r.handle != NULL and not self.slot.forked and <uintptr_t>r.handle in self.slot.runs:
            self.slot.runs.discard(<uintptr_t>r.handle)
            self.slot.xrt.abi.xrtRunClose(r.handle)
        r.handle = NULL

    cdef void run_close(self, void *handle) noexcept:
        self.close_handle(<run *>handle)
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
        cdef unsigned int ms = max(1, <unsigned int>(seconds * 1000))
        cdef int state
        self.slot.enter()
        state = self.slot.xrt.abi.xrtRunWaitFor((<run *>handle).handle, ms)
        self.slot.leave()
        self.slot.check()
        return RUN_RUNNING if state == ERT_CMD_STATE_TIMEOUT else outcome(state)

    cdef int csr_read32(self, uint32_t offset, uint32_t *value) except -1 nogil:
        set_errno(0)
        if self.slot.xrt.abi.xrtKernelReadRegister(self.kernel, offset, value):
            self.slot.fail(b"xrtKernelReadRegister")
        return 0

    cdef int csr_write32(self, uint32_t offset, uint32_t value) except -1 nogil:
        set_errno(0)
        if self.slot.xrt.abi.xrtKernelWriteRegister(self.kernel, offset, value):
            self.slot.fail(b"xrtKernelWriteRegister")
        return 0

    def close(self):
        if not self.closed:
            self.closed = True
            if self.kernel != NULL and not self.slot.forked:
                with self.slot.xrt.lock:
                    if <uintptr_t>self.kernel in self.slot.kernels_:
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
