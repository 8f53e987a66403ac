# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, freethreading_compatible=True
"""Find libxrt_coreutil, make sure that it has a driver, and catch the texts of its errors."""
from libc.errno cimport errno

from fpgahal._use cimport breathe, in_use

import ctypes
import os
import threading
import weakref
from contextlib import suppress

from fpgahal import _library
from fpgahal._errors import DeviceLostError, LibraryError, ProgramError, errno_error


cdef class Xrt:
    """libxrt_coreutil, or an emulated board's stand-in for it.

    Emulated boards have two ways: the stand-in (the default), and our driver under the real library
    (``FPGAHAL_EMU_XRT=real``).
    """
    @staticmethod
    cdef Xrt load(bint emulated):
        cdef Xrt self = Xrt.__new__(Xrt)
        cdef bint stand_in = emulated and not _library.wants_real_xrt()
        self.log = -1
        self.lock, self.log_lock = threading.RLock(), threading.Lock()
        self.sessions = weakref.WeakSet()
        if stand_in:
            path = _library.emulator("xrt")
            self.library = _library.Library(path, "emulated", ctypes.CDLL(path)._handle)
        else:
            self.library = _library.load(
                "FPGAHAL_XRT_LIBRARY", ("libxrt_coreutil.so.2",), ("/opt/xilinx/xrt/lib", "/opt/amd/xrt/lib"),
                install="Install XRT (Debian: apt install libxrt1)")
        if not stand_in:
            os.register_at_fork(after_in_child=_leave_at_once)
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


@_library.once
def loaded(emulated):
    return Xrt.load(emulated)


cdef Xrt xrt(bint emulated):
    return loaded(emulated)


def _leave_at_once():
    # 2.13 waits in its exit handlers for threads that only the parent has: a child that ends with exit() would hang.
    skip_exit_handlers()


def library(emulated=False):
    """The library that would be used (``_library.Library``) and its version (from the file's name).

    Raises
    ------
    LibraryNotFoundError, LibraryError
    """
    cdef Xrt found = xrt(emulated)
    return found.library, found.library.version
