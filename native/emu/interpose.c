/* SPDX-License-Identifier: Apache-2.0 */
/*
 * interpose.c: the functions of libc that a program uses on device files.  What is not for an emulated
 * device goes to the kernel as it is, by a system call: so it does not matter how early libc itself needs
 * one of these functions.
 *
 * The descriptor is a real one, of the empty file that stands for the node: permissions, limits and
 * close-on-exec are the kernel's.  A duplicate of it (dup, a forked child's copy) is a plain file: no program
 * for these drivers makes one.
 */
#define _GNU_SOURCE 1
#include "interpose.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define HUGE_SHIFT 26 /* MAP_HUGE_SHIFT */

enum { FILES = 4096 };
static _Atomic(struct node *) files[FILES]; /* by descriptor */
static _Atomic unsigned open_files;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of counting references */
static pthread_once_t once = PTHREAD_ONCE_INIT;

/* ---- open files ------------------------------------------------------------------------------------------- */

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }
static void in_child(void)
{
    for (int i = 0; i < FILES; i++)
        atomic_store(&files[i], NULL);
    atomic_store(&open_files, 0);
    mmio_forget_all();
    pthread_mutex_unlock(&lock);
}
static void watch_fork(void) { pthread_atfork(before_fork, after_fork, in_child); }

void node_acquire(struct node *n)
{
    pthread_mutex_lock(&lock);
    n->references++;
    pthread_mutex_unlock(&lock);
}

void node_release(struct node *n)
{
    pthread_mutex_lock(&lock);
    bool last = --n->references == 0;
    pthread_mutex_unlock(&lock);
    if (last)
        node_close(n);
}

/* The node behind a descriptor, to be released; NULL if it is any other file.  A process between vfork and
 * exec shares our memory and closes what it inherited: those are copies, and not the business of this table. */
static struct node *node_of(int fd)
{
    if (fd < 0 || fd >= FILES || !atomic_load_explicit(&files[fd], memory_order_relaxed))
        return NULL;
    pthread_mutex_lock(&lock);
    struct node *n = atomic_load(&files[fd]);
    if (n && n->owner == getpid())
        n->references++;
    else
        n = NULL;
    pthread_mutex_unlock(&lock);
    return n;
}

static int fail(int error)
{
    errno = error;
    return -1;
}

/* ---- open and close ---------------------------------------------------------------------------------------- */

static int open_file(int at, const char *path, int flags, mode_t mode)
{
    struct node *n = NULL;
    if ((flags & O_CREAT) || !node_named(path))
        return (int)syscall(SYS_openat, at, path, flags, mode);
    pthread_once(&once, watch_fork);
    int fd = (int)syscall(SYS_openat, at, path, flags & ~O_EXCL, mode);
    if (fd < 0)
        return fd;
    int rc = fd < FILES ? node_open(path, flags & O_EXCL, &n) : EMFILE;
    if (rc) {
        syscall(SYS_close, fd);
        return fail(rc);
    }
    atomic_store(&files[fd], n);
    atomic_fetch_add(&open_files, 1);
    return fd;
}

#define MODE(flags, last)                                                                                              \
    mode_t mode = 0;                                                                                                   \
    if ((flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE) {                                                       \
        va_list args;                                                                                                  \
        va_start(args, last);                                                                                          \
        mode = va_arg(args, mode_t);                                                                                   \
        va_end(args);                                                                                                  \
    }

EXPORT int open(const char *path, int flags, ...) { MODE(flags, flags) return open_file(AT_FDCWD, path, flags, mode); }
EXPORT int open64(const char *path, int flags, ...)
{
    MODE(flags, flags)
    return open_file(AT_FDCWD, path, flags, mode);
}
EXPORT int openat(int at, const char *path, int flags, ...) { MODE(flags, flags) return open_file(at, path, flags, mode); }
EXPORT int openat64(int at, const char *path, int flags, ...)
{
    MODE(flags, flags)
    return open_file(at, path, flags, mode);
}
/* What fortified programs call. */
EXPORT int __open_2(const char *path, int flags) { return open_file(AT_FDCWD, path, flags, 0); }
EXPORT int __open64_2(const char *path, int flags) { return open_file(AT_FDCWD, path, flags, 0); }

EXPORT int close(int fd)
{
    struct node *n = node_of(fd);
    if (!n)
        return (int)syscall(SYS_close, fd);
    atomic_store(&files[fd], NULL);
    atomic_fetch_sub(&open_files, 1);
    node_release(n); /* the descriptor's */
    node_release(n); /* this call's */
    return (int)syscall(SYS_close, fd);
}

/* ---- ioctl --------------------------------------------------------------------------------------------------- */

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    va_list args;
    va_start(args, request);
    void *argument = va_arg(args, void *);
    va_end(args);
    struct node *n = node_of(fd);
    if (!n)
        return (int)syscall(SYS_ioctl, fd, request, argument);
    int rc = node_ioctl(n, request, argument);
    node_release(n);
    return rc ? fail(rc) : 0;
}

/* ---- mmap ---------------------------------------------------------------------------------------------------- */

static void *map_registers(struct node *n, void *at, size_t size, int prot, int flags, off_t offset)
{
    int rc = node_fault(n, "mmap"), fixed = flags & (MAP_FIXED | MAP_FIXED_NOREPLACE);
    if (rc == 0 && (!n->port || !(flags & MAP_SHARED) || offset != 0 || size == 0 || size > EMU_MMIO_BYTES
                    || (prot & PROT_EXEC)))
        rc = EINVAL;
    if (rc == 0) {
        at = (void *)syscall(SYS_mmap, at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | fixed, -1, 0L);
        if (at != MAP_FAILED) {
            struct node *old = mmio_forget(at);
            mmio_watch(at, size, n); /* takes the caller's reference */
            if (old)
                node_release(old);
            return at;
        }
        rc = errno;
    }
    node_release(n);
    errno = rc;
    return MAP_FAILED;
}

/* Is memory for DMA to fail?  It belongs to no board yet, so any open one's fault will do. */
static int huge_fault(void)
{
    int rc = 0;
    for (int fd = 0; fd < FILES && rc == 0; fd++) {
        struct node *n = node_of(fd);
        if (n && n->port)
            rc = node_fault(n, "mmap");
        if (n)
            node_release(n);
    }
    return rc == ENODEV ? 0 : rc;
}

/* A huge page, of which test machines have none: as much plain memory, used as far as it is touched. */
static void *map_huge(void *at, size_t size, int prot, int flags)
{
    unsigned shift = (unsigned)flags >> HUGE_SHIFT & 0x3f;
    size_t page = (size_t)1 << (shift ? shift : 21);
    int rc = huge_fault();
    if (rc) {
        errno = rc;
        return MAP_FAILED;
    }
    size = (size + page - 1) & ~(page - 1); /* a program unmaps the whole of the page */
    flags = (flags & ~(MAP_HUGETLB | 0x3f << HUGE_SHIFT)) | MAP_NORESERVE;
    return (void *)syscall(SYS_mmap, at, size, prot, flags, -1, 0L);
}

EXPORT void *mmap(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
    struct node *n = (flags & MAP_ANONYMOUS) ? NULL : node_of(fd);
    if (n)
        return map_registers(n, at, size, prot, flags, offset);
    if ((flags & MAP_HUGETLB) && (flags & MAP_ANONYMOUS) && atomic_load(&open_files))
        return map_huge(at, size, prot, flags);
    void *mapped = (void *)syscall(SYS_mmap, at, size, prot, flags, fd, offset);
    if ((flags & MAP_FIXED) && mapped != MAP_FAILED && (n = mmio_forget(mapped)) != NULL)
        node_release(n); /* something else is there now */
    return mapped;
}

EXPORT void *mmap64(void *at, size_t size, int prot, int flags, int fd, off_t offset)
{
    return mmap(at, size, prot, flags, fd, offset);
}

EXPORT int munmap(void *at, size_t size)
{
    int rc = (int)syscall(SYS_munmap, at, size);
    struct node *n = rc == 0 ? mmio_forget(at) : NULL;
    if (n)
        node_release(n);
    return rc;
}
