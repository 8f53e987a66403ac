# SPDX-License-Identifier: Apache-2.0
# How C loops wait: spin a little, then sleep longer and longer (1 µs to 100 µs), so that a fast answer costs
# nanoseconds and a slow one no processor.
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, nanosleep, timespec

cdef inline double seconds_now() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9

cdef inline unsigned int backoff(unsigned int round) noexcept nogil:
    cdef timespec t
    if round >= 200:
        t.tv_sec = 0
        t.tv_nsec = 1000 if round < 300 else 20000 if round < 2000 else 100000
        nanosleep(&t, NULL)
    return round + 1
