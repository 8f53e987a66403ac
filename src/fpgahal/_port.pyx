# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
"""What a port of an Intel board is, whoever opens it: one AFU behind registers, and host memory that it reaches."""
from fpgahal._errors import DeviceLostError, DeviceStateError
from fpgahal._register_kernel import known_kernels, open_register_kernel
from fpgahal._session import id_of
from fpgahal._types import BankInfo

cdef extern from *:
    """
    #define fence() __sync_synchronize()
    """
    void fence() noexcept nogil

cdef uint64_t AFU_ID_L = 0x08, AFU_ID_H = 0x10  # device feature header: the id, low and high half
cdef uint64_t ALL_ONES = 0xFFFFFFFFFFFFFFFF     # what a PCIe read returns when nobody answers


cdef class PortSession(Session):
    cdef bint answers(self) noexcept nogil:
        return False

    cdef int ready(self) except -1 nogil:
        self.check()
        if not self.answers():
            with gil:
                raise DeviceStateError(f"{self.info.address}: no AFU answers; its last reconfiguration failed.",
                                       hint="Program an image that is known to be good: dev.program(path).")
        return 0

    cdef int memory_sync(self, memory *m, bint to_device, size_t offset, size_t size) except -1 nogil:
        self.check()
        fence()  # host and AFU see the same memory: only the order matters
        return 0

    def loaded_id(self):
        cdef uint64_t low = 0, high = 0
        self.check()
        if not self.answers():
            return None
        self.csr_read64(AFU_ID_L, &low)
        self.csr_read64(AFU_ID_H, &high)
        if low == ALL_ONES and high == ALL_ONES:
            raise DeviceLostError(f"{self.info.address} does not answer: all its registers read as ones.",
                                  hint="`fpgahal list` shows the devices that answer now.")
        return id_of(<object>high << 64 | low)

    def banks(self):
        return (BankInfo(0, "host", "host", 0, 1 << 30),)

    def kernels(self):
        return known_kernels(self)

    def open_kernel(self, name, exclusive):
        self.ready()
        return open_register_kernel(self, name)

    cdef int reset_port(self) except -1:
        raise NotImplementedError

    cdef void close_port(self) noexcept:
        pass

    def reset(self):
        self.ready()
        self.resetting += 1
        try:
            self.reset_port()
        finally:
            self.epoch += 1
            self.resetting -= 1

    def close(self):
        if not self.closed:
            self.closed = True
            self.epoch += 1
        if self.views == 0 or self.forked:  # else the last view's end brings us here again
            self.close_port()
