# SPDX-License-Identifier: Apache-2.0
# libxrt_coreutil's C functions as a table of pointers (native/include/xrt_abi.h), and the library behind them.
from libc.stdint cimport uint32_t, uint64_t, uintptr_t

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

cdef extern from "Python.h":
    int PyGILState_Check() noexcept nogil

cdef extern from "xrt_guard.h":
    int xrt_guard(void *library, char *why, unsigned long size)

cdef extern from *:
    """
    #include <errno.h>
    static inline void set_errno(int value) { errno = value; }
    #include <stdio.h>
    #include <stdlib.h>
    #include <unistd.h>
    #ifdef __GLIBC__ /* as all that has the real libxrt */
    static inline void leave_at_once(int status, void *unused) { (void)unused; fflush(NULL); _exit(status); }
    static inline void skip_exit_handlers(void) { on_exit(leave_at_once, NULL); }
    #else
    static inline void skip_exit_handlers(void) { }
    #endif
    """
    void set_errno(int value) noexcept nogil
    void skip_exit_handlers() noexcept


cdef class Xrt:
    cdef xrt_abi abi
    cdef readonly object library
    cdef int (*attach)(const char *) noexcept nogil  # emulated: which rack
    cdef object lock                                 # 2.13 reads its device and scheduler maps unlocked
    cdef object sessions                             # open devices, weakly
    cdef int log                                     # a file in memory to which XRT writes its error texts
    cdef object log_lock
    cdef Py_ssize_t log_read
    cdef int map_users                               # calls that look a device up: with `lock`, opens wait for them

    @staticmethod
    cdef Xrt load(bint emulated)
    cdef int fill(self) except -1
    cdef int use_emulator(self, uintptr_t handle) except -1
    cdef bint has_driver(self)
    cdef capture_log(self)
    cdef reason(self)
    cdef error(self, what, info, default=*)
    cdef int await_map(self) noexcept
    cdef int select(self, info) except -1


cdef Xrt xrt(bint emulated)
