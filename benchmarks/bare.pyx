# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3
# A bare Cython method that does the same C call as Csr.read64 and nothing else: no check, no vtable.
from libc.stdint cimport uint32_t, uint64_t, uintptr_t


cdef class Bare:
    cdef int (*call)(void *, uint32_t, uint64_t, uint64_t *) noexcept nogil
    cdef void *handle

    def __init__(self, uintptr_t function, uintptr_t handle):
        self.call = <int (*)(void *, uint32_t, uint64_t, uint64_t *) noexcept nogil>function
        self.handle = <void *>handle

    def read64(self, uint64_t offset):
        cdef uint64_t value = 0
        if self.call(self.handle, 0, offset, &value):
            raise OSError
        return value
