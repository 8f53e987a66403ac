# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""The drivers themselves: the kernel's DFL driver and Intel's older intel-fpga, with no vendor library between.

This file and ``native/include/dfl_abi.h`` are all that knows their ioctls.  What libxfpga does in user space is done
here: huge pages for large buffers, the exclusive open before a reconfiguration, the old driver's status word.
"""
cimport cython
from libc.errno cimport ENOMEM, ENOTTY, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memset
from posix.mman cimport (
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_READ, PROT_WRITE, mmap, munmap,
)
from posix.unistd cimport close as close_fd

from fpgahal._dfl_abi cimport (
    DFL_FME_PORT_PR, DFL_PORT_DMA_MAP, DFL_PORT_DMA_UNMAP, DFL_PORT_ERR_SET_IRQ, DFL_PORT_GET_INFO,
    DFL_PORT_GET_REGION_INFO, DFL_PORT_RESET, DFL_PORT_UINT_SET_IRQ, DFL_REGION_AFU, DFL_REGION_MMAP, EFD_CLOEXEC,
    EFD_NONBLOCK, MADV_DONTFORK, MAP_HUGETLB, OLD_FME_PORT_PR, OLD_PORT_DMA_MAP, OLD_PORT_DMA_UNMAP,
    OLD_PORT_ERR_SET_IRQ, OLD_PORT_GET_INFO, OLD_PORT_GET_REGION_INFO, OLD_PORT_RESET, OLD_PORT_UAFU_SET_IRQ,
    dfl_dma_map, dfl_dma_unmap, dfl_irq_set, dfl_port_info, dfl_port_pr, dfl_region_info, eventfd, ioctl, madvise,
    mmio_read32, mmio_read64, mmio_write32, mmio_write64, old_error_irq, old_port_info, old_port_pr, old_user_irq,
)
from fpgahal._port cimport PortSession
from fpgahal._session cimport memory
from fpgahal._use cimport begin_use, end_use

import os
import resource
import weakref

from fpgahal._errors import (
    ArgumentRangeError, DeviceLostError, DeviceMemoryError, DeviceStateError, DriverError, FpgaError, ProgramError,
    UnsupportedError, errno_error,
)
from fpgahal._lock import ProgramLock
from fpgahal._sysfs import port as sysfs

cdef uint64_t AFU_ID_L = 0x08                   # device feature header: the id, low half
cdef uint64_t ALL_ONES = 0xFFFFFFFFFFFFFFFF     # what a PCIe read returns when nobody answers
cdef size_t SMALL = 4096                        # the driver maps whole pages of this size
cdef int HUGE_SHIFT = 26                        # MAP_HUGE_SHIFT: mmap's flags hold the huge page's size from here on

# Bits of the old driver's status word after a reconfiguration; the new one says EIO, or ETIMEDOUT.
PR_STATUS = ("operation error", "CRC error", "incompatible bitstream", "IP protocol error", "FIFO overflow", "timeout",
             "secure load error")

_open_sessions = weakref.WeakSet()


cdef inline int page_shift(size_t size) noexcept nogil:
    # The driver wants each mapping physically contiguous, so it must lie in one page: 4 KiB, 2 MiB or 1 GiB.
    return 12 if size <= SMALL else 21 if size <= 1 << 21 else 30


@cython.no_gc_clear  # __dealloc__ closes what is open, also when the collector breaks a cycle
cdef class DflSession(PortSession):
    cdef int fd                      # of the port; -1: not open
    cdef char *mmio                  # of the AFU's registers: our address range, whatever is mapped there
    cdef bint attached               # the registers are; else plain memory, see detach()
    cdef bint old, exclusive
    cdef uint64_t region_offset      # of the registers, in the port's file
    cdef readonly str node, fme      # device files
    cdef str folder
    cdef dict events                 # vector (None: errors) -> eventfd

    def __cinit__(self):
        self.fd = -1
        self.events = {}

    def __init__(self, info, shared):
        super().__init__(info)
        self.old = info.kernel_driver == "intel-fpga"
        self.exclusive = not shared
        try:
            self.node = info.device_nodes[0] if info.device_nodes else ""
            if "port." not in self.node:
                raise DeviceStateError(f"{info.address} has no port that could be opened: {info.health.reason}.")
            self.fme = info.device_nodes[1] if len(info.device_nodes) > 1 else ""
            self.folder = sysfs.folder(info, self.node)
            self.open_port(self.exclusive)
            self.attach_registers()
            if not self.attached:
                with ProgramLock(info, 0):  # if somebody's program() is just at it, then it is busy
                    pass
        except BaseException:
            self.closed = True
            self.close_port()
            raise
        _open_sessions.add(self)

    # --- the port's file and its registers ------------------------------------------------------------------
    cdef int open_port(self, bint exclusive) except -1:
        self.fd = self.open_node(self.node, exclusive)
        if self.mmio == NULL:
            self.find_region()
        return 0

    cdef open_node(self, node, bint exclusive):
        try:
            return os.open(node, os.O_RDWR | os.O_CLOEXEC | (os.O_EXCL if exclusive else 0))
        except FileNotFoundError:
            raise DeviceLostError(f"{self.info.address}: there is no {node} (any more).",
                                  hint="`fpgahal list` shows the devices that answer now; a container needs the node: "
                                       f"--device {node}.") from None
        except OSError as error:
            raise errno_error(error.errno, "", f"opening {node}", self.info.address) from None

    cdef int find_region(self) except -1:
        cdef dfl_port_info new
        cdef old_port_info old
        cdef dfl_region_info region
        cdef void *at
        memset(&new, 0, sizeof(new))
        memset(&old, 0, sizeof(old))
        new.argsz, old.argsz = sizeof(new), sizeof(old)
        if self.old:
            self.call(OLD_PORT_GET_INFO, &old, "PORT_GET_INFO")
        else:
            self.call(DFL_PORT_GET_INFO, &new, "PORT_GET_INFO")
        if (old.num_regions if self.old else new.num_regions) < 1:
            raise UnsupportedError(f"{self.info.address}: its port has no register region.")
        memset(&region, 0, sizeof(region))
        region.argsz, region.index = sizeof(region), DFL_REGION_AFU
        self.call(OLD_PORT_GET_REGION_INFO if self.old else DFL_PORT_GET_REGION_INFO, &region,
                  "PORT_GET_REGION_INFO")
        if not region.flags & DFL_REGION_MMAP or region.size < 4096:
            raise UnsupportedError(f"{self.info.address}: the registers of its AFU can't be mapped.")
        at = mmap(NULL, region.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if at == MAP_FAILED:
            raise MemoryError()
        self.mmio, self.csr_bytes, self.region_offset = <char *>at, region.size, region.offset
        return 0

    cdef int attach_registers(self) except -1:
        """Map the registers, unless the port is held in reset: then touching them would raise port errors."""
        if self.folder and not sysfs.answers(self.folder):
            return 0
        if mmap(self.mmio, self.csr_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, self.fd,
                self.region_offset) == MAP_FAILED:
            raise self.error(errno, "mapping the AFU's registers")
        # A child that kept them mapped would keep the port open after its parent closed it.
        madvise(self.mmio, self.csr_bytes, MADV_DONTFORK)
        self.attached = True
        return 0

    cdef void detach_registers(self) noexcept:
        # Plain memory takes their place, in one step: a thread that is just polling them reads zeros until it looks
        # whether the session is still open, and does not crash.
        if self.attached and not self.forked:
            self.attached = False
            mmap(self.mmio, self.csr_bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0)

    cdef void close_port(self) noexcept:
        # Registers first: while they are mapped, the driver takes the port for open.
        cdef int port = self.fd
        self.detach_registers()
        self.fd = -1
        if port >= 0 and not self.forked:
            self.await_users()  # the number may be another file's as soon as it is closed
        for fd in self.events.values():
            close_fd(fd)
        self.events.clear()
        if port >= 0:
            close_fd(port)

    cdef int call(self, unsigned long request, void *argument, what) except -1:
        cdef int failed = 0
        begin_use(&self.users)
        with nogil:
            if ioctl(self.fd, request, argument) != 0:
                failed = errno
            end_use(&self.users)
        if failed:
            raise self.error(failed, what)
        return 0

    cdef error(self, int number, what):
        self.check()  # perhaps another thread has closed it meanwhile
        if number == ENOTTY:
            return DriverError(
                f"{self.info.address}: {what} failed: {self.node} is no device of the {self.info.kernel_driver} "
                "driver.",
                hint="Emulated boards are, for programs that run with libfpgahal-emu-dfl.so in LD_PRELOAD; otherwise "
                     "open them with driver=\"opae\"." if self.info.emulated else "", code=number)
        return errno_error(number, "", what, self.info.address)

    cdef bint answers(self) noexcept nogil:
        return self.attached

    cdef bint lost(self) noexcept nogil:
        """Whether the card dropped off the bus: then every bit reads as one."""
        return self.attached and mmio_read64(self.mmio + AFU_ID_L) == ALL_ONES

    cdef int present(self) except -1 nogil:
        if self.lost():
            with gil:
                raise DeviceLostError(f"{self.info.address} does not answer: all its registers read as ones.",
                                      hint="`fpgahal list` shows the devices that answer now.")
        return 0

    # --- registers: plain loads and stores; Csr has checked the bounds ---------------------------------------
    cdef int csr_read64(self, uint64_t offset, uint64_t *value) except -1 nogil:
        if not self.attached:
            self.ready()
        value[0] = mmio_read64(self.mmio + offset)
        return self.present() if value[0] == ALL_ONES else 0

    cdef int csr_read32(self, uint64_t offset, uint32_t *value) except -1 nogil:
        if not self.attached:
            self.ready()
        value[0] = mmio_read32(self.mmio + offset)
        return self.present() if value[0] == <uint32_t>ALL_ONES else 0

    cdef int csr_write64(self, uint64_t offset, uint64_t value) except -1 nogil:
        if not self.attached:
            self.ready()
        mmio_write64(self.mmio + offset, value)
        return 0

    cdef int csr_write32(self, uint64_t offset, uint32_t value) except -1 nogil:
        if not self.attached:
            self.ready()
        mmio_write32(self.mmio + offset, value)
        return 0

    # --- memory: pinned host memory that the AFU reaches through an IO address -------------------------------
    cdef int memory_allocate(self, size_t size, int bank, memory *out) except -1:
        cdef dfl_dma_map request
        cdef int failed = 0, shift
        cdef size_t length
        self.ready()
        if bank != 0:
            raise ArgumentRangeError(f"{self.info.address} has no bank {bank}: its buffers are host memory (bank 0).")
        if size > 1 << 30:
            raise ArgumentRangeError(f"{self.info.address}: OPAE gives at most 1 GiB in one buffer, not {size} bytes.",
                                     hint="Allocate several buffers.")
        memset(out, 0, sizeof(memory))
        shift = page_shift(size)
        length = <size_t>1 << shift
        # Shared, so that a fork does not leave the pinned page to the child and a copy of it to us.
        out.host = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS
                        | (0 if shift == 12 else MAP_HUGETLB | shift << HUGE_SHIFT), -1, 0)
        if out.host == MAP_FAILED:
            failed = errno
            out.host = NULL
            raise self.no_page(failed, size, length)
        memset(&request, 0, sizeof(request))
        request.argsz, request.user_addr = sizeof(request), <uintptr_t>out.host
        request.length = max((size + SMALL - 1) & ~(SMALL - 1), SMALL)
        begin_use(&self.users)
        with nogil:
            if ioctl(self.fd, OLD_PORT_DMA_MAP if self.old else DFL_PORT_DMA_MAP, &request) != 0:
                failed = errno
            end_use(&self.users)
        if failed:
            munmap(out.host, length)
            out.host = NULL
            raise self.not_mapped(failed, request.length)
        out.address = out.handle = request.iova
        out.size = size
        return 0

    cdef no_page(self, int number, size_t size, size_t length):
        unit = f"{length >> 20} MiB" if length < 1 << 30 else "1 GiB"
        if length == SMALL:
            return DeviceMemoryError(f"{self.info.address}: no memory for a page: {os.strerror(number)}.", code=number)
        count = 16 if length < 1 << 30 else 1
        return DeviceMemoryError(
            f"{self.info.address}: a buffer of {size} bytes needs one huge page of {unit}, and there is none: "
            f"{sysfs.huge_pages(length)} ({os.strerror(number)}).",
            hint=f"As root: echo {count} > /sys/kernel/mm/hugepages/hugepages-{length >> 10}kB/nr_hugepages",
            code=number)

    cdef not_mapped(self, int number, size_t length):
        what = f"PORT_DMA_MAP of {length} bytes"
        if number != ENOMEM:
            return self.error(number, what)
        limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        limit = "unlimited" if limit == resource.RLIM_INFINITY else f"{limit} bytes"
        return DeviceMemoryError(
            f"{self.info.address}: {what} failed: ENOMEM.  Pinned memory counts against RLIMIT_MEMLOCK, which is "
            f"{limit}.",
            hint="Raise it: `ulimit -l unlimited`, LimitMEMLOCK=infinity of a service, --ulimit memlock=-1 of a "
                 "container.", code=number)

    cdef int memory_free(self, memory *m) noexcept nogil:
        cdef dfl_dma_unmap request
        cdef int failed = 0
        begin_use(&self.users)
        if self.fd >= 0 and not self.forked:  # a closed port has dropped its mappings already
            memset(&request, 0, sizeof(request))
            request.argsz, request.iova = sizeof(request), m.handle
            if ioctl(self.fd, OLD_PORT_DMA_UNMAP if self.old else DFL_PORT_DMA_UNMAP, &request) != 0:
                failed = errno
        end_use(&self.users)
        munmap(m.host, <size_t>1 << page_shift(m.size))  # what the driver still has pinned stays pinned
        return failed

    # --- cold ------------------------------------------------------------------------------------------------
    def program(self, bitstream, force):
        self.check()
        if not self.fme:
            raise DeviceStateError(f"{self.info.address} can't be programmed from here: it has no FME.",
                                   hint="In a virtual machine the host programs it.")
        clock = max((mhz for _, mhz in bitstream.clocks), default=0)
        if clock > 0 and sysfs.has_user_clock(self.folder):
            raise UnsupportedError(
                f"{self.info.address}: {bitstream.name} asks for a user clock of {clock:g} MHz, which fpgahal sets "
                "only through libopae-c.  Nothing was written.", hint="Install libopae-c; FPGAHAL_OPAE_BINDING=opae.")
        failed = True
        self.detach_registers()
        try:
            if not self.exclusive:  # the driver would program a slot that others use, so have it alone first
                self.close_port()
                self.open_port(True)
            fme = self.open_node(self.fme, True)
            try:
                sysfs.clear_errors(self.folder)
                self.reconfigure(fme, bitstream)
            finally:
                os.close(fme)
            failed = False
        finally:
            try:
                if not self.exclusive:
                    self.close_port()
                    self.open_port(False)
                self.attach_registers()
            except FpgaError:
                if not failed:  # else the first error says more
                    raise

    cdef int reconfigure(self, int fme, bitstream) except -1:
        cdef const uint8_t[::1] data = bitstream.payload
        cdef dfl_port_pr new
        cdef old_port_pr old
        cdef int failed = 0
        memset(&new, 0, sizeof(new))
        memset(&old, 0, sizeof(old))
        new.argsz, old.argsz = sizeof(new), sizeof(old)
        new.port_id = old.port_id = sysfs.number(self.folder)
        new.buffer_size = old.buffer_size = data.shape[0]
        new.buffer_address = old.buffer_address = <uintptr_t>&data[0]
        with nogil:
            if (ioctl(fme, OLD_FME_PORT_PR, &old) if self.old else ioctl(fme, DFL_FME_PORT_PR, &new)) != 0:
                failed = errno
        if failed == 0 and old.status == 0:
            return 0
        reasons = [text for bit, text in enumerate(PR_STATUS) if old.status >> bit & 1]
        if old.status >> len(PR_STATUS):
            reasons.append(f"status {old.status:#x}")
        if failed:
            error = errno_error(failed, ", ".join(reasons), "FME_PORT_PR", self.info.address, default=ProgramError)
            if not isinstance(error, DeviceLostError):
                error = ProgramError(error.message, hint="Program an image that is known to be good.", code=failed)
        else:
            error = ProgramError(f"{self.info.address}: FME_PORT_PR failed: {', '.join(reasons)}.",
                                 hint="Program an image that is known to be good.")
        if not sysfs.answers(self.folder):
            error.message += "  The port is held in reset: no AFU answers until a good image is loaded."
        raise error

    cdef int reset_port(self) except -1:
        return self.call(OLD_PORT_RESET if self.old else DFL_PORT_RESET, NULL, "PORT_RESET")

    def errors(self):
        """Error registers of the port and the FME, from sysfs: name -> value."""
        self.check()
        return sysfs.errors(self.folder, sysfs.folder(self.info, self.fme) if self.fme else "")

    def interrupt(self, vector=None):
        """An eventfd that counts interrupts of one of the AFU's vectors; None: port errors.  It is the session's."""
        cdef dfl_irq_set new
        cdef old_error_irq old_error
        cdef old_user_irq old_user
        cdef int fd
        self.check()
        if vector in self.events:
            return self.events[vector]
        fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if fd < 0:
            raise self.error(errno, "eventfd")
        try:
            if not self.old:
                new.start, new.count, new.evtfd[0] = vector or 0, 1, fd
                self.call(DFL_PORT_ERR_SET_IRQ if vector is None else DFL_PORT_UINT_SET_IRQ, &new, "SET_IRQ")
            elif vector is None:
                memset(&old_error, 0, sizeof(old_error))
                old_error.argsz, old_error.evtfd = sizeof(old_error), fd
                self.call(OLD_PORT_ERR_SET_IRQ, &old_error, "SET_IRQ")
            else:
                memset(&old_user, 0, sizeof(old_user))
                old_user.argsz, old_user.start, old_user.count = sizeof(old_user), vector, 1
                old_user.evtfd[0] = fd
                self.call(OLD_PORT_UAFU_SET_IRQ, &old_user, "SET_IRQ")
        except BaseException:
            close_fd(fd)
            raise
        self.events[vector] = fd
        return fd

    def __dealloc__(self):
        if not self.forked:  # the child never had the registers mapped, and has closed its files
            self.close_port()
            if self.mmio != NULL:
                munmap(self.mmio, self.csr_bytes)


def _after_fork_in_child():
    # The driver takes a port for open until the last copy of its file is closed, so the child's must not linger.
    cdef DflSession session
    for item in list(_open_sessions):
        session = item
        session.close_port()


os.register_at_fork(after_in_child=_after_fork_in_child)


def open_session(info, shared):
    """Open a slot through the driver's own calls."""
    return DflSession(info, shared)
