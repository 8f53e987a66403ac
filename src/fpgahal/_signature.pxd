# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport int64_t, uint64_t

from fpgahal._session cimport KernelSession, Session, arg

cdef enum:
    MAX_ARGS = 64
    MAX_BANKS = 64

cdef struct spec:            # what one argument takes
    int kind                 # arg_kind
    int64_t low              # range of an integer: [low, high]
    uint64_t high
    int banks                # how many are allowed; 0: any
    int bank[MAX_BANKS]

cdef class Signature:
    cdef Session session
    cdef object info                     # KernelInfo
    cdef int n
    cdef spec specs[MAX_ARGS]

    cdef int convert(self, tuple args, arg *out) except -1
    cdef int hold(self, tuple args) except -1
    cdef int release(self, tuple args) except -1
    cdef int integer(self, int i, const spec *s, value, uint64_t *out) except -1
    cdef double real(self, int i, value) except? -1
    cdef int wrong_type(self, int i, value) except -1
    cdef int wrong_range(self, int i, const spec *s, value) except -1
    cdef label(self, int i)
