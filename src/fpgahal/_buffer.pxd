# SPDX-License-Identifier: Apache-2.0
from fpgahal._session cimport Session, memory

cdef class Buffer:
    cdef object __weakref__
    cdef memory memory
    cdef readonly Session session
    cdef readonly tuple shape
    cdef readonly object dtype
    cdef readonly bint closed
    cdef bytes format
    cdef int ndim
    cdef Py_ssize_t itemsize, length
    cdef Py_ssize_t dims[32]
    cdef Py_ssize_t steps[32]
    cdef Py_ssize_t views                # NumPy views and memoryviews that are alive
    cdef Py_ssize_t runs                 # runs in flight that use it

    cdef int check(self) except -1
    cdef int range(self, offset, size, size_t *start, size_t *count) except -1
    cdef int sync(self, bint to_device, offset, size) except -1
    cdef int free(self) noexcept
