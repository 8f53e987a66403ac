/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hold.c: who uses a board.  A hold is an OFD lock on a file of the rack: it conflicts between two opens
 * of one process as it does between processes, and the kernel drops it when its owner dies.
 *
 * Byte 0 of the file is the hold.  Byte 1 is a gate, held for the few steps of taking or testing a hold,
 * so that nobody sees the steps in between.
 */
#define _GNU_SOURCE 1
#include "../include/board.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HOLD = 0, GATE = 1 };

/* The holds of this process.  A forked child closes its copies: otherwise a child that outlives its
 * parent would keep the board busy without knowing it. */
static struct {
    pthread_mutex_t lock;
    int *fds;
    size_t count, room;
} held = { .lock = PTHREAD_MUTEX_INITIALIZER };
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void before_fork(void) { pthread_mutex_lock(&held.lock); }
static void after_fork(void) { pthread_mutex_unlock(&held.lock); }
static void in_child(void)
{
    for (size_t i = 0; i < held.count; i++)
        close(held.fds[i]); /* closing a copy leaves the parent's lock alone */
    held.count = 0;
    pthread_mutex_unlock(&held.lock);
}
static void watch_fork(void) { pthread_atfork(before_fork, after_fork, in_child); }

static int lock_byte(int fd, short type, off_t byte, bool wait)
{
    struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1 };
    while (fcntl(fd, wait ? F_OFD_SETLKW : F_OFD_SETLK, &l) != 0) {
        if (errno != EINTR)
            return errno == EAGAIN || errno == EACCES ? EBUSY : errno;
    }
    return 0;
}

static int open_file(const struct emu_rack *rack, const struct emu_board *board, const char *what)
{
    char path[640];
    snprintf(path, sizeof path, "%s/lock", rack->dir);
    char file[sizeof path + 64];
    snprintf(file, sizeof file, "%s/%u.%s", path, board->index, what);
    int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (fd < 0 && errno == ENOENT && (mkdir(path, 0777) == 0 || errno == EEXIST))
        fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    return fd;
}

static bool remember(int fd)
{
    pthread_once(&once, watch_fork);
    pthread_mutex_lock(&held.lock);
    if (held.count == held.room) {
        size_t room = held.room ? 2 * held.room : 16;
        int *fds = realloc(held.fds, room * sizeof *fds);
        if (!fds) {
            pthread_mutex_unlock(&held.lock);
            return false;
        }
        held.fds = fds;
        held.room = room;
    }
    held.fds[held.count++] = fd;
    pthread_mutex_unlock(&held.lock);
    return true;
}

/* False in a forked child: there the number may long belong to another file. */
static bool forget(int fd)
{
    bool found = false;
    pthread_mutex_lock(&held.lock);
    for (size_t i = 0; i < held.count && !found; i++) {
        if (held.fds[i] == fd) {
            held.fds[i] = held.fds[--held.count];
            found = true;
        }
    }
    pthread_mutex_unlock(&held.lock);
    return found;
}

int emu_hold(struct emu_rack *rack, struct emu_board *board, const char *what, enum emu_hold_mode mode, int *out,
             bool *first)
{
    int fd = open_file(rack, board, what);
    if (fd < 0) {
        int e = errno;
        emu_error(board, false, "cannot open the hold file %s/lock/%u.%s", rack->dir, board->index, what);
        return e;
    }
    int rc = lock_byte(fd, F_WRLCK, GATE, true);
    if (rc == 0) {
        rc = lock_byte(fd, F_WRLCK, HOLD, false);
        if (first)
            *first = rc == 0;
        if (mode == EMU_HOLD_SHARED) /* from exclusive down to shared, or behind others that share */
            rc = lock_byte(fd, F_RDLCK, HOLD, false);
        lock_byte(fd, F_UNLCK, GATE, false);
    }
    if (rc == 0 && !remember(fd))
        rc = ENOMEM;
    if (rc != 0) {
        close(fd);
        return rc;
    }
    *out = fd;
    return 0;
}

void emu_hold_release(int fd)
{
    if (fd < 0 || !forget(fd))
        return;
    lock_byte(fd, F_UNLCK, HOLD, false); /* a copy that some fork left open must not keep it */
    lock_byte(fd, F_UNLCK, GATE, false);
    close(fd);
}

bool emu_hold_only(int fd)
{
    if (lock_byte(fd, F_WRLCK, GATE, true) != 0)
        return false;
    bool only = lock_byte(fd, F_WRLCK, HOLD, false) == 0;
    if (!only) /* else the gate stays shut until the release: who opens now waits, and is not told "busy" */
        lock_byte(fd, F_UNLCK, GATE, false);
    return only;
}

bool emu_held(struct emu_rack *rack, const struct emu_board *board, const char *what)
{
    int fd = open_file(rack, board, what);
    if (fd < 0)
        return false;
    struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = HOLD, .l_len = 1 };
    bool yes = fcntl(fd, F_OFD_GETLK, &l) == 0 && l.l_type != F_UNLCK;
    close(fd);
    return yes;
}
