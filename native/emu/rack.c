/* SPDX-License-Identifier: Apache-2.0 */
/* rack.c: the mapping of a rack, its boards' locks, and the texts of errors. */
#define _GNU_SOURCE 1
#include "../include/board.h"
#include "../include/emu_control.h"
#include "rack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- texts -------------------------------------------------------------------------------------- */

static _Thread_local char error_text[640];

void emu_error(const struct emu_board *board, bool loud, const char *fmt, ...)
{
    int saved = errno; /* for %m, and for callers that report errno next */
    size_t n = 0;
    if (board)
        n = (size_t)snprintf(error_text, sizeof error_text, "EMULATED %s: ", board->bdf);
    va_list args;
    va_start(args, fmt);
    errno = saved;
    vsnprintf(error_text + n, sizeof error_text - n, fmt, args);
    va_end(args);
    if (loud)
        fprintf(stderr, "%s%s\n", board ? "" : "EMULATED: ", error_text);
    errno = saved;
}

const char *emu_error_text(void) { return error_text; }
const char *fpgahal_emu_error(void) { return error_text; }

/* ---- mappings ----------------------------------------------------------------------------------- */

/* A mapping is known by its file, not by its name: a rack that was deleted and made anew under the same
 * name is another rack.  The inode can't be used again while we map it. */
struct mapping {
    struct emu_rack rack;
    dev_t device;
    ino_t inode;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the list and of `attached` */
static struct emu_rack *racks;
static struct emu_rack *attached;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void before_fork(void) { pthread_mutex_lock(&lock); }
static void after_fork(void) { pthread_mutex_unlock(&lock); }
static void watch_fork(void) { pthread_atfork(before_fork, after_fork, after_fork); }

static struct emu_rack *find_mapping(const struct stat *st)
{
    for (struct emu_rack *r = racks; r; r = r->next) {
        struct mapping *m = (struct mapping *)r;
        if (m->device == st->st_dev && m->inode == st->st_ino)
            return r;
    }
    return NULL;
}

static const char *why_not(const struct emu_shared *s, uint64_t size)
{
    if (s->magic != EMU_MAGIC)
        return "it is not a rack";
    if (s->version != EMU_VERSION)
        return "it was made by another version of fpgahal; make it anew";
    if (s->size != size || size < sizeof *s + (uint64_t)s->nboards * sizeof s->boards[0])
        return "it is cut short";
    for (uint32_t i = 0; i < s->nboards; i++) {
        if (s->boards[i].index != i)
            return "it is damaged";
    }
    return NULL;
}

static struct emu_rack *map(const char *dir, int fd, const struct stat *st)
{
    struct mapping *m = calloc(1, sizeof *m);
    char *real = realpath(dir, NULL);
    void *at = MAP_FAILED;
    const char *why = "out of memory";
    if (m && real) {
        size_t size = (size_t)st->st_size;
        why = "it is cut short";
        if (size >= sizeof(struct emu_shared)) {
            at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
            why = at == MAP_FAILED ? "it can't be mapped" : why_not(at, size);
        }
        if (!why && strlen(real) >= sizeof m->rack.dir)
            why = "its path is too long";
        if (!why) {
            strcpy(m->rack.dir, real);
            m->rack.shared = at;
            m->device = st->st_dev;
            m->inode = st->st_ino;
            m->rack.next = racks;
            racks = &m->rack;
        } else if (at != MAP_FAILED) {
            munmap(at, size);
        }
    }
    free(real);
    if (why) {
        emu_error(NULL, false, "%s/rack.bin can't be used: %s", dir, why);
        free(m);
        errno = EINVAL;
        return NULL;
    }
    return &m->rack;
}

struct emu_rack *emu_rack_open(const char *dir)
{
    char path[4096];
    struct stat st;
    pthread_once(&once, watch_fork);
    if (snprintf(path, sizeof path, "%s/rack.bin", dir) >= (int)sizeof path) {
        emu_error(NULL, false, "the rack's path is too long");
        errno = ENAMETOOLONG;
        return NULL;
    }
    pthread_mutex_lock(&lock);
    struct emu_rack *r = stat(path, &st) == 0 ? find_mapping(&st) : NULL;
    if (!r) {
        int fd = open(path, O_RDWR | O_CLOEXEC);
        if (fd < 0 || fstat(fd, &st) != 0)
            emu_error(NULL, false, "no rack: cannot open %s: %m", path);
        else
            r = map(dir, fd, &st);
        if (fd >= 0) {
            int e = errno;
            close(fd);
            errno = e;
        }
    }
    pthread_mutex_unlock(&lock);
    return r;
}

struct emu_rack *emu_rack_current(void)
{
    pthread_once(&once, watch_fork);
    pthread_mutex_lock(&lock);
    struct emu_rack *r = attached;
    pthread_mutex_unlock(&lock);
    if (r)
        return r;
    const char *dir = getenv("FPGAHAL_EMU_RACK");
    if (!dir || !*dir) {
        emu_error(NULL, false, "no rack: FPGAHAL_EMU_RACK is not set and fpgahal_emu_attach was not called");
        errno = ENODEV;
        return NULL;
    }
    return emu_rack_open(dir);
}

struct emu_rack *emu_rack_of(const struct emu_board *b)
{
    const char *shared = (const char *)(b - b->index) - offsetof(struct emu_shared, boards);
    pthread_mutex_lock(&lock);
    struct emu_rack *r = racks;
    while (r && (const char *)r->shared != shared)
        r = r->next;
    pthread_mutex_unlock(&lock);
    return r;
}

struct emu_rack *emu_rack_named(const char *dir) { return dir ? emu_rack_open(dir) : emu_rack_current(); }

struct emu_board *emu_rack_find_any(struct emu_rack *rack, uint32_t family, const char *bdf)
{
    for (uint32_t i = 0; bdf && i < rack->shared->nboards; i++) {
        struct emu_board *b = &rack->shared->boards[i];
        if ((family == 0 || b->family == family) && strcmp(b->bdf, bdf) == 0)
            return b;
    }
    emu_error(NULL, false, "no emulated board %s in %s", bdf ? bdf : "(null)", rack->dir);
    return NULL;
}

struct emu_board *emu_rack_find(struct emu_rack *rack, uint32_t family, const char *bdf)
{
    struct emu_board *b = emu_rack_find_any(rack, family, bdf);
    if (!b)
        return NULL;
    if (atomic_load(&b->vanished)) {
        emu_error(b, false, "the device is gone");
        return NULL;
    }
    if (atomic_load(&b->state) == EMU_PROGRAMMING) { /* perhaps its programmer is dead */
        emu_lock(b);
        emu_unlock(b);
    }
    return b;
}

/* ---- locks -------------------------------------------------------------------------------------- */

void emu_lock(struct emu_board *b)
{
    bool died = pthread_mutex_lock(&b->lock) == EOWNERDEAD;
    if (!died && atomic_load(&b->state) != EMU_PROGRAMMING)
        return;
    struct emu_rack *rack = emu_rack_of(b);
    if (died) { /* in the middle of an update: what follows from the state may not have followed yet */
        pthread_mutex_consistent(&b->lock);
        atomic_fetch_add(&b->epoch, 1);
        if (rack)
            emu_identity_write(rack->dir, b);
    }
    if (atomic_load(&b->state) != EMU_PROGRAMMING)
        return;
    if (rack && !emu_held(rack, b, "program")) { /* who programmed it died */
        memset(b->afu_id, 0, sizeof b->afu_id);
        emu_model_reset_registers(b);
        atomic_store(&b->state, EMU_FAILED);
        atomic_fetch_add(&b->epoch, 1);
        emu_identity_write(rack->dir, b);
    }
}

void emu_unlock(struct emu_board *b) { pthread_mutex_unlock(&b->lock); }

/* ---- control ------------------------------------------------------------------------------------ */

int fpgahal_emu_attach(const char *dir)
{
    struct emu_rack *r = NULL;
    if (dir && !(r = emu_rack_open(dir)))
        return errno ? errno : EINVAL;
    pthread_mutex_lock(&lock);
    attached = r;
    pthread_mutex_unlock(&lock);
    return 0;
}

int fpgahal_emu_status(const char *dir, const char *bdf, struct fpgahal_emu_status *out)
{
    struct emu_rack *rack = emu_rack_named(dir);
    struct emu_board *b = rack ? emu_rack_find_any(rack, 0, bdf) : NULL;
    if (!b)
        return ENODEV;
    if (!out || out->size < sizeof *out) {
        emu_error(b, false, "fpgahal_emu_status: the caller's structure is too small");
        return EINVAL;
    }
    emu_lock(b);
    out->state = atomic_load(&b->state);
    out->vanished = atomic_load(&b->vanished);
    out->index = b->index;
    memcpy(out->afu_id, b->afu_id, 16);
    out->programmed = b->programmed;
    emu_unlock(b);
    return 0;
}
