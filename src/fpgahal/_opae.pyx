# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""The OPAE driver: libopae-c, soname .so.2 or .so.1, through a table of function pointers.

This file and ``native/include/opae_abi.h`` are all that knows libopae-c.  Facts: OPAE C API 1.0.0 to 2.14.
"""
cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from fpgahal._port cimport PortSession
from fpgahal._session cimport memory
from fpgahal._use cimport begin_use, end_use

import ctypes
import threading

from fpgahal import _library, _opae_plugin
from fpgahal._errors import (
    ArgumentRangeError, DeviceLostError, FpgaError, LibraryError, UnsupportedError, opae_error,
)
from fpgahal._lock import ProgramLock

cdef extern from "opae_abi.h":
    ctypedef void *fpga_properties
    ctypedef void *fpga_token
    ctypedef void *fpga_handle
    ctypedef void *fpga_event_handle
    ctypedef int fpga_result
    ctypedef int fpga_objtype
    ctypedef struct fpga_version:
        uint8_t major
        uint8_t minor
        uint16_t patch
    ctypedef struct opae_abi:
        fpga_result (*fpgaGetOPAECVersion)(fpga_version *) noexcept nogil
        const char *(*fpgaErrStr)(fpga_result) noexcept nogil
        fpga_result (*fpgaEnumerate)(const fpga_properties *, uint32_t, fpga_token *, uint32_t,
                                     uint32_t *) noexcept nogil
        fpga_result (*fpgaDestroyToken)(fpga_token *) noexcept nogil
        fpga_result (*fpgaGetProperties)(fpga_token, fpga_properties *) noexcept nogil
        fpga_result (*fpgaDestroyProperties)(fpga_properties *) noexcept nogil
        fpga_result (*fpgaPropertiesSetObjectType)(fpga_properties, fpga_objtype) noexcept nogil
        fpga_result (*fpgaPropertiesSetSegment)(fpga_properties, uint16_t) noexcept nogil
        fpga_result (*fpgaPropertiesSetBus)(fpga_properties, uint8_t) noexcept nogil
        fpga_result (*fpgaPropertiesSetDevice)(fpga_properties, uint8_t) noexcept nogil
        fpga_result (*fpgaPropertiesSetFunction)(fpga_properties, uint8_t) noexcept nogil
        fpga_result (*fpgaPropertiesGetObjectID)(const fpga_properties, uint64_t *) noexcept nogil
        fpga_result (*fpgaOpen)(fpga_token, fpga_handle *, int) noexcept nogil
        fpga_result (*fpgaClose)(fpga_handle) noexcept nogil
        fpga_result (*fpgaReset)(fpga_handle) noexcept nogil
        fpga_result (*fpgaMapMMIO)(fpga_handle, uint32_t, uint64_t **) noexcept nogil
        fpga_result (*fpgaReadMMIO64)(fpga_handle, uint32_t, uint64_t, uint64_t *) noexcept nogil
        fpga_result (*fpgaWriteMMIO64)(fpga_handle, uint32_t, uint64_t, uint64_t) noexcept nogil
        fpga_result (*fpgaReadMMIO32)(fpga_handle, uint32_t, uint64_t, uint32_t *) noexcept nogil
        fpga_result (*fpgaWriteMMIO32)(fpga_handle, uint32_t, uint64_t, uint32_t) noexcept nogil
        fpga_result (*fpgaPrepareBuffer)(fpga_handle, uint64_t, void **, uint64_t *, int) noexcept nogil
        fpga_result (*fpgaReleaseBuffer)(fpga_handle, uint64_t) noexcept nogil
        fpga_result (*fpgaGetIOAddress)(fpga_handle, uint64_t, uint64_t *) noexcept nogil
        fpga_result (*fpgaCreateEventHandle)(fpga_event_handle *) noexcept nogil
        fpga_result (*fpgaDestroyEventHandle)(fpga_event_handle *) noexcept nogil
        fpga_result (*fpgaRegisterEvent)(fpga_handle, int, fpga_event_handle, uint32_t) noexcept nogil
        fpga_result (*fpgaUnregisterEvent)(fpga_handle, int, fpga_event_handle) noexcept nogil
        fpga_result (*fpgaGetOSObjectFromEventHandle)(const fpga_event_handle, int *) noexcept nogil
        fpga_result (*fpgaReconfigureSlot)(fpga_handle, uint32_t, const uint8_t *, size_t, int) noexcept nogil
    const char *opae_abi_fill(void *library, opae_abi *table)
    enum: FPGA_OPEN_SHARED, FPGA_RECONF_FORCE
    enum: FPGA_DEVICE, FPGA_ACCELERATOR
    enum: FPGA_EVENT_INTERRUPT
    enum: FPGA_NOT_FOUND, FPGA_NO_DRIVER

# MMIO region 0 of a port: 256 KiB (libopae-c's own bound check is off by one, so ours must be right).
cdef uint64_t MMIO_BYTES = 0x40000
cdef uint64_t AFU_ID_L = 0x08                   # device feature header: the id, low half
cdef uint64_t ALL_ONES = 0xFFFFFFFFFFFFFFFF     # what a PCIe read returns when nobody answers


# --- the library ----------------------------------------------------------------------------------------------

cdef class Opae:
    """libopae-c, or an emulated board's stand-in for it."""
    cdef opae_abi abi
    cdef readonly object library
    cdef int (*attach)(const char *) noexcept nogil  # emulated: which rack
    cdef object lock

    @staticmethod
    cdef Opae load(bint emulated):
        cdef Opae self = Opae.__new__(Opae)
        cdef const char *missing
        if emulated:
            if _opae_plugin.wanted():
                self.library, dll = _opae_plugin.load_real()
            else:
                path = _library.emulator("opae")
                dll = ctypes.CDLL(path)
                self.library = _library.Library(path, "emulated", dll._handle)
            self.attach = <int (*)(const char *) noexcept nogil><uintptr_t>ctypes.cast(
                dll.fpgahal_emu_attach, ctypes.c_void_p).value
        else:
            self.library = _library.load("FPGAHAL_OPAE_LIBRARY", ("libopae-c.so.2", "libopae-c.so.1"),
                                         install="Install OPAE (libopae-c)")
        missing = opae_abi_fill(<void *><uintptr_t>self.library.handle, &self.abi)
        if missing != NULL:
            raise LibraryError(
                f"{self.library.path} ({self.library.found_via}) has no function {missing.decode()}: it is not "
                "libopae-c, or not a whole one.",
                hint="Install libopae-c 1.0 or newer, or name another file in FPGAHAL_OPAE_LIBRARY.")
        self.lock = threading.Lock()
        return self

    cdef error(self, fpga_result result, what, info):
        return opae_error(result, self.abi.fpgaErrStr(result).decode(errors="replace"), what, info.address)

    cdef fpga_token find(self, info, fpga_objtype type) except? NULL:
        """The token of a slot's port or FME; NULL if there is none."""
        cdef fpga_properties filter = NULL
        cdef fpga_token tokens[64]
        cdef uint32_t found = 0, i, wanted = 0
        cdef fpga_token token = NULL
        address = info.bdf if type == FPGA_ACCELERATOR else info.management_bdf or info.bdf
        segment, bus, rest = address.split(":")
        device, function = rest.split(".")
        result = self.abi.fpgaGetProperties(NULL, &filter)
        if result:
            raise self.error(result, "fpgaGetProperties", info)
        try:
            for result in (self.abi.fpgaPropertiesSetObjectType(filter, type),
                           self.abi.fpgaPropertiesSetSegment(filter, int(segment, 16)),
                           self.abi.fpgaPropertiesSetBus(filter, int(bus, 16)),
                           self.abi.fpgaPropertiesSetDevice(filter, int(device, 16)),
                           self.abi.fpgaPropertiesSetFunction(filter, int(function, 16)),
                           self.abi.fpgaEnumerate(&filter, 1, tokens, 64, &found)):
                if result:
                    raise self.error(result, "fpgaEnumerate", info)
        finally:
            self.abi.fpgaDestroyProperties(&filter)
        found = min(found, 64)
        # Several ports of one function come in the order of their object ids, which is that of their slots.
        if found > 1 and type == FPGA_ACCELERATOR:
            order = sorted(range(found), key=lambda at: self.object_id(<uintptr_t>tokens[<int>at]))
            if info.slot < found:
                wanted = order[info.slot]
        for i in range(found):
            if i == wanted:
                token = tokens[i]
            else:
                self.abi.fpgaDestroyToken(&tokens[i])
        return token

    cdef object_id(self, uintptr_t token):
        cdef fpga_properties properties = NULL
        cdef uint64_t value = 0
        if self.abi.fpgaPropertiesGetObjectID == NULL or self.abi.fpgaGetProperties(<fpga_token>token, &properties):
            return 0
        self.abi.fpgaPropertiesGetObjectID(properties, &value)
        self.abi.fpgaDestroyProperties(&properties)
        return value

    cdef fpga_handle open(self, info, fpga_objtype type, int flags) except? NULL:
        """Open a slot's port or FME; NULL if it is not there."""
        cdef fpga_handle handle = NULL
        cdef fpga_token token = NULL
        cdef fpga_result result
        with self.lock:
            if self.attach != NULL and self.attach(info.root.encode()):
                raise DeviceLostError(f"{info.address}: the rack in {info.root} is gone.",
                                      hint="Keep `with fpgahal.emu.rack(...)` open while its boards are in use.")
            token = self.find(info, type)
        if token == NULL:
            return NULL
        with nogil:
            result = self.abi.fpgaOpen(token, &handle, flags)
            self.abi.fpgaDestroyToken(&token)
        if result:
            raise self.error(result, "fpgaOpen", info)
        return handle


@_library.once
def opae(emulated):
    return Opae.load(emulated)


def library(emulated=False):
    """The library that would be used (``_library.Library``), with its version as it says itself.

    Raises
    ------
    LibraryNotFoundError, LibraryError
    """
    cdef Opae found = opae(emulated)
    cdef fpga_version version
    memset(&version, 0, sizeof(version))
    if found.abi.fpgaGetOPAECVersion != NULL:
        found.abi.fpgaGetOPAECVersion(&version)
    return found.library, f"{version.major}.{version.minor}.{version.patch}"


# --- a slot ---------------------------------------------------------------------------------------------------

@cython.no_gc_clear  # __dealloc__ needs the library, also when the collector breaks a cycle
cdef class OpaeSession(PortSession):
    cdef Opae opae
    cdef fpga_handle port            # NULL while no AFU answers (a failed reconfiguration)
    cdef int flags
    cdef dict events                 # vector -> (fpga_event_handle, eventfd)

    def __init__(self, info, shared):
        super().__init__(info)
        self.events = {}
        self.opae = opae(info.emulated)
        self.flags = FPGA_OPEN_SHARED if shared else 0
        self.csr_bytes = MMIO_BYTES
        try:
            self.open_port()
            if self.port == NULL:  # nothing to talk to, but perhaps something to program
                with ProgramLock(info, 0):  # or somebody else's program() is just at it: then it is busy
                    self.require_fme()
        except BaseException:
            self.closed = True
            raise

    cdef int open_port(self) except -1:
        self.port = self.opae.open(self.info, FPGA_ACCELERATOR, self.flags)
        if self.port != NULL:
            result = self.opae.abi.fpgaMapMMIO(self.port, 0, NULL)
            if result:
                self.close_port()
                raise self.opae.error(result, "fpgaMapMMIO", self.info)
        return 0

    cdef void close_port(self) noexcept:
        # Who keeps the GIL during its call can't be in one now; who lets it go is counted: the vendor frees the handle.
        cdef fpga_handle port = self.port
        cdef fpga_event_handle event
        self.port = NULL
        if port != NULL and not self.forked:
            self.await_users()
            for handle, _ in self.events.values():
                event = <fpga_event_handle><uintptr_t>handle
                self.opae.abi.fpgaUnregisterEvent(port, FPGA_EVENT_INTERRUPT, event)
                self.opae.abi.fpgaDestroyEventHandle(&event)
            self.events.clear()
            with nogil:
                self.opae.abi.fpgaClose(port)

    cdef int require_fme(self) except -1:
        cdef fpga_token token = NULL
        with self.opae.lock:
            token = self.opae.find(self.info, FPGA_DEVICE)
        if token == NULL:
            raise DeviceLostError(f"{self.info.address} is not there any more: neither its port nor its FME answers.",
                                  hint="`fpgahal list` shows the devices that answer now.")
        self.opae.abi.fpgaDestroyToken(&token)
        return 0

    cdef bint answers(self) noexcept nogil:
        return self.port != NULL

    cdef bint lost(self) noexcept nogil:
        """Whether the card dropped off the bus: the driver says so, or every bit reads as one."""
        cdef uint64_t value = 0
        cdef fpga_handle port = self.port
        if port == NULL:
            return False
        cdef fpga_result result = self.opae.abi.fpgaReadMMIO64(port, 0, AFU_ID_L, &value)
        return result == FPGA_NOT_FOUND or result == FPGA_NO_DRIVER or (result == 0 and value == ALL_ONES)

    cdef int fail(self, fpga_result result, const char *what) except -1 nogil:
        with gil:
            raise self.error(result, what.decode())

    cdef error(self, fpga_result result, what):
        self.check()  # perhaps another thread has closed it meanwhile
        return self.opae.error(result, what, self.info)

    # --- registers: the GIL is kept, a read takes about as long as releasing it would; who polls enter()s ----
    cdef int csr_read64(self, uint64_t offset, uint64_t *value) except -1 nogil:
        cdef fpga_handle port = self.port
        if port == NULL:
            self.ready()
        cdef fpga_result result = self.opae.abi.fpgaReadMMIO64(port, 0, offset, value)
        return 0 if result == 0 else self.fail(result, b"fpgaReadMMIO64")

    cdef int csr_read32(self, uint64_t offset, uint32_t *value) except -1 nogil:
        cdef fpga_handle port = self.port
        if port == NULL:
            self.ready()
        cdef fpga_result result = self.opae.abi.fpgaReadMMIO32(port, 0, offset, value)
        return 0 if result == 0 else self.fail(result, b"fpgaReadMMIO32")

    cdef int csr_write64(self, uint64_t offset, uint64_t value) except -1 nogil:
        cdef fpga_handle port = self.port
        if port == NULL:
            self.ready()
        cdef fpga_result result = self.opae.abi.fpgaWriteMMIO64(port, 0, offset, value)
        return 0 if result == 0 else self.fail(result, b"fpgaWriteMMIO64")

    cdef int csr_write32(self, uint64_t offset, uint32_t value) except -1 nogil:
        cdef fpga_handle port = self.port
        if port == NULL:
            self.ready()
        cdef fpga_result result = self.opae.abi.fpgaWriteMMIO32(port, 0, offset, value)
        return 0 if result == 0 else self.fail(result, b"fpgaWriteMMIO32")

    # --- memory: pinned host memory that the AFU reaches through an IO address ------------------------------
    cdef int memory_allocate(self, size_t size, int bank, memory *out) except -1:
        cdef uint64_t wsid = 0
        cdef fpga_handle port
        cdef fpga_result result
        cdef const char *what = b"fpgaPrepareBuffer"
        self.ready()
        if bank != 0:
            raise ArgumentRangeError(f"{self.info.address} has no bank {bank}: its buffers are host memory (bank 0).")
        memset(out, 0, sizeof(memory))
        out.size = size
        self.enter()
        port = self.port
        with nogil:
            result = self.opae.abi.fpgaPrepareBuffer(port, max(size, <size_t>1), &out.host, &wsid, 0)
            if result == 0:
                what = b"fpgaGetIOAddress"
                result = self.opae.abi.fpgaGetIOAddress(port, wsid, &out.address)
                if result:
                    self.opae.abi.fpgaReleaseBuffer(port, wsid)
            self.leave()
        if result == 1 and size > 1 << 30:
            raise ArgumentRangeError(f"{self.info.address}: OPAE gives at most 1 GiB in one buffer, not {size} bytes.",
                                     hint="Allocate several buffers.")
        if result:
            raise self.error(result, f"{what.decode()} of {size} bytes")
        out.handle = wsid
        return 0

    cdef int memory_free(self, memory *m) noexcept nogil:
        cdef int result = 0
        begin_use(&self.users)
        if self.port != NULL and not self.forked:  # a closed port has dropped its mappings already
            result = self.opae.abi.fpgaReleaseBuffer(self.port, m.handle)
        end_use(&self.users)
        return result

    # --- cold ----------------------------------------------------------------------------------------------
    def program(self, bitstream, force):
        cdef const uint8_t[::1] data = bitstream.data
        cdef fpga_handle fme
        cdef fpga_result result
        cdef int flags = FPGA_RECONF_FORCE if force else 0
        cdef uint32_t slot = self.info.slot
        self.check()
        self.close_port()  # libopae-c opens it itself, exclusively, to know that nobody uses it
        try:
            fme = self.opae.open(self.info, FPGA_DEVICE, 0)
            if fme == NULL:
                self.require_fme()
            with nogil:
                result = self.opae.abi.fpgaReconfigureSlot(fme, slot, &data[0], data.shape[0], flags)
                self.opae.abi.fpgaClose(fme)
            if result:
                raise self.opae.error(result, "fpgaReconfigureSlot", self.info)
        except BaseException:
            try:
                self.open_port()
            except FpgaError:
                pass  # the first error says more
            raise
        self.open_port()

    def interrupt(self, vector):
        cdef fpga_event_handle event = NULL
        cdef fpga_result result
        cdef int fd = -1
        self.ready()
        if vector in self.events:
            return self.events[vector][1]
        if self.opae.abi.fpgaCreateEventHandle == NULL:
            raise UnsupportedError(f"{self.opae.library.path} has no events.", hint="Install a newer libopae-c.")
        result = self.opae.abi.fpgaCreateEventHandle(&event)
        if result:
            raise self.error(result, "fpgaCreateEventHandle")
        result = self.opae.abi.fpgaRegisterEvent(self.port, FPGA_EVENT_INTERRUPT, event, vector)
        if result == 0:
            result = self.opae.abi.fpgaGetOSObjectFromEventHandle(event, &fd)
        if result:
            self.opae.abi.fpgaDestroyEventHandle(&event)
            raise self.error(result, f"fpgaRegisterEvent of interrupt {vector}")
        self.events[vector] = <uintptr_t>event, fd
        return fd

    cdef int reset_port(self) except -1:
        cdef fpga_result result
        self.enter()
        port = self.port
        with nogil:
            result = self.opae.abi.fpgaReset(port)
            self.leave()
        return 0 if result == 0 else self.fail(result, b"fpgaReset")

    def __dealloc__(self):
        self.close_port()


def open_session(info, shared):
    """Open a slot through libopae-c (or the emulated one, if `info` says so)."""
    return OpaeSession(info, shared)
