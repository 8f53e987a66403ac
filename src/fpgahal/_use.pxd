# SPDX-License-Identifier: Apache-2.0
# A count of calls in progress.  Who closes says so first, then looks at the count; who begins looks the other way.
cdef extern from *:
    """
    #include <time.h>
    static inline void begin_use(int *users) { __atomic_fetch_add(users, 1, __ATOMIC_SEQ_CST); }
    static inline void end_use(int *users) { __atomic_fetch_sub(users, 1, __ATOMIC_RELEASE); }
    static inline int in_use(int *users) { return __atomic_fetch_add(users, 0, __ATOMIC_SEQ_CST); }
    static inline void breathe(void) { nanosleep(&(struct timespec){ 0, 200000 }, NULL); }
    """
    void begin_use(int *users) noexcept nogil
    void end_use(int *users) noexcept nogil
    int in_use(int *users) noexcept nogil
    void breathe() noexcept nogil
