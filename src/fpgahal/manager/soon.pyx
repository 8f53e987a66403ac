# SPDX-License-Identifier: Apache-2.0
# cython: language_level=3, binding=False
"""What comes soon: packets and events that are looked for again and again, because to be woken up takes longer than a
small request does.  Nobody holds the GIL meanwhile."""
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

import os

cdef double POLITE = 30e-6  # seconds of looking, after which others have this processor whenever they want it

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data:
        int fd
    struct epoll_event:
        uint32_t events
        epoll_data data
    int epoll_wait(int epoll, epoll_event *events, int most, int timeout)

cdef extern from *:
    """
    #include <string.h>
    #include <sys/socket.h>
    #include <sys/types.h>
    enum { PACKET = 1 << 16, FILES = 2, EVENTS = 256 };

    /* Read a packet, and the files that come with it; *cut: it was longer, or brought more of them. */
    static ssize_t read_packet(int fd, char *into, int files[FILES], int *count, int *cut)
    {
        union { struct cmsghdr align; char bytes[CMSG_SPACE(FILES * sizeof(int))]; } control;
        struct iovec piece = { into, PACKET };
        struct msghdr m = {
            .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control
        };
        ssize_t size = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
        *count = 0;
        if (size < 0)
            return size;
        *cut = (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0;
        for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
            if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS)
                for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len && *count < FILES; at += sizeof(int))
                    memcpy(&files[(*count)++], (char *)c + at, sizeof(int));
        return size;
    }

    /* Half a microsecond or less in which the other thread of this core, if it has two, is not held up. */
    static void relax(void)
    {
        for (int i = 0; i < 16; i++) {
    #if defined __x86_64__ || defined __i386__
            __builtin_ia32_pause();
    #elif defined __aarch64__
            __asm__ volatile("isb");
    #endif
        }
    }
    """
    void relax() noexcept nogil
    const int PACKET, FILES, EVENTS, MSG_DONTWAIT
    ssize_t recv(int fd, char *into, size_t room, int flags) nogil
    ssize_t read_packet(int fd, char *into, int *files, int *count, int *cut) nogil


cdef double clock() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return t.tv_sec + t.tv_nsec * 1e-9


cdef bint again(double began, double seconds) noexcept nogil:
    """Whether to look again, after a moment."""
    cdef double spent = clock() - began
    if spent >= seconds:
        return False
    if spent > POLITE:
        sched_yield()
    relax()
    return True


cdef class Room:
    """Room for a packet, for one thread at a time.  (Not on its stack: a program may give its threads small ones.)"""
    cdef char data[PACKET]

    def packet(self, int fd, double seconds):
        """Take the next packet of a socket, if it comes within so many seconds.

        Returns
        -------
        bytes or None
            Empty: the other side has hung up; None: nothing has come.

        Raises
        ------
        OSError
        """
        cdef ssize_t size
        cdef int why = 0
        cdef double began = clock()
        with nogil:
            while True:
                size = recv(fd, self.data, PACKET, MSG_DONTWAIT)
                why = errno if size < 0 else 0
                if size >= 0 or (why != EAGAIN and why != EINTR) or not again(began, seconds):
                    break
        return self.taken(size, why)

    def packet_and_files(self, int fd):
        """Take the next packet of a socket, if there is one, and the files that came with it: they are the caller's.

        Returns
        -------
        data : bytes or None
            As :meth:`packet` gives.
        files : list of int
            File descriptors; two at most.
        cut : bool
            The packet was longer, or brought more files.

        Raises
        ------
        OSError
        """
        cdef int files[FILES]
        cdef int count = 0, cut = 0, why
        cdef ssize_t size
        with nogil:
            size = read_packet(fd, self.data, files, &count, &cut)
            why = errno
        return self.taken(size, why), [files[at] for at in range(count)], cut != 0

    cdef object taken(self, ssize_t size, int why):
        if size >= 0:
            return self.data[:size]
        if why != EAGAIN and why != EINTR:
            raise OSError(why, os.strerror(why))
        return None


def events(int epoll, double seconds):
    """Give what ``select.epoll.poll(0)`` would, as soon as there is something, within so many seconds.

    Raises
    ------
    OSError
    """
    cdef epoll_event found[EVENTS]
    cdef int count, why
    cdef double began = clock()
    with nogil:
        while True:
            count = epoll_wait(epoll, found, EVENTS, 0)
            if count or not again(began, seconds):
                break
        why = errno
    if count < 0:
        raise OSError(why, os.strerror(why))
    return [(found[at].data.fd, found[at].events) for at in range(count)]
