# SPDX-License-Identifier: Apache-2.0
from libc.stdint cimport uint64_t

from fpgahal._session cimport Session, memory

cdef class PortSession(Session):
    cdef bint answers(self) noexcept nogil           # an AFU is there
    cdef int ready(self) except -1 nogil             # open, this process's, and with an AFU that answers
    cdef int reset_port(self) except -1
    cdef void close_port(self) noexcept              # when no call and no view of its buffers is left
