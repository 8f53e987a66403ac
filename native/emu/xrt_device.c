/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_device.c: a board that this process has open.  Opening it again gives the same device, counted: its buffers
 * share the board's memory.
 */
#include "xrt_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct xrt_device *devices;

/* ---- fork: a child starts with nothing; its parent's handles are stale there ---------------------- */

static void before_fork(void)
{
    pthread_mutex_lock(&list_lock);
    xrt_object_before_fork();
    xrt_log_before_fork();
}

static void after_fork(void)
{
    xrt_log_after_fork();
    xrt_object_after_fork(false);
    pthread_mutex_unlock(&list_lock);
}

static void in_child(void)
{
    devices = NULL; /* not freed: their locks may have been held by threads that are not here */
    xrt_log_after_fork();
    xrt_object_after_fork(true);
    pthread_mutex_unlock(&list_lock);
}

__attribute__((constructor)) static void watch_fork(void)
{
    pthread_atfork(before_fork, after_fork, in_child);
}

/* ---- open and close ------------------------------------------------------------------------------- */

static void destroy(struct xrt_object *o)
{
    struct xrt_device *d = (struct xrt_device *)o;
    xclbin_release(d->image);
    for (int i = 0; i < XCLBIN_MAX_CUS; i++)
        free(d->cus[i].regs);
    xrt_memory_free(&d->memory);
    xrt_pages_free(&d->pages);
    pthread_mutex_destroy(&d->queue.lock);
    pthread_cond_destroy(&d->queue.changed);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static struct xrt_device *make(struct emu_rack *rack, struct emu_board *board)
{
    struct xrt_device *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->object = (struct xrt_object){ .device = d, .destroy = destroy };
    d->rack = rack;
    d->board = board;
    d->opens = 1;
    d->context_fd = -1;
    pthread_mutex_init(&d->lock, NULL);
    pthread_mutex_init(&d->memory.lock, NULL);
    pthread_mutex_init(&d->pages.lock, NULL);
    xrt_queue_init(d);
    if (!xrt_publish(&d->object, XRT_DEVICE)) {
        destroy(&d->object);
        return NULL;
    }
    return d;
}

struct xrt_device *xrt_device_open(struct emu_rack *rack, struct emu_board *board)
{
    pthread_mutex_lock(&list_lock);
    struct xrt_device *d = devices;
    while (d && d->board != board)
        d = d->next;
    if (d) {
        d->opens++;
    } else if ((d = make(rack, board))) {
        d->next = devices;
        devices = d;
    }
    pthread_mutex_unlock(&list_lock);
    if (!d)
        xrt_fail(board, ENOMEM, "out of memory");
    return d;
}

bool xrt_device_close(struct xrt_device *d)
{
    pthread_mutex_lock(&list_lock);
    bool known = d->opens > 0, last = known && --d->opens == 0;
    for (struct xrt_device **at = &devices; last && *at; at = &(*at)->next) {
        if (*at == d) {
            *at = d->next;
            break;
        }
    }
    pthread_mutex_unlock(&list_lock);
    if (last) {
        xrt_retain(&d->object);
        xrt_unpublish(&d->object);
        xrt_queue_close(d);
        xrt_leave(d);
    }
    return known;
}

/* ---- which boards there are -------------------------------------------------------------------------- */

struct emu_rack *xrt_rack(const char *call)
{
    struct emu_rack *r = emu_rack_current();
    if (!r)
        xrt_fail(NULL, ENODEV, "%s: no emulated boards: %s", call, emu_error_text());
    return r;
}

static bool answers(const struct emu_board *b)
{
    return b->family == EMU_XRT && !atomic_load(&b->vanished);
}

uint32_t xrt_board_count(struct emu_rack *r)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->shared->nboards; i++)
        n += answers(&r->shared->boards[i]);
    return n;
}

/* The highest address comes first: XRT puts each board that it finds before those found earlier. */
static uint32_t index_of(struct emu_rack *r, const struct emu_board *b)
{
    uint32_t above = 0;
    for (uint32_t i = 0; i < r->shared->nboards; i++) {
        const struct emu_board *other = &r->shared->boards[i];
        above += answers(other) && strcmp(other->bdf, b->bdf) > 0;
    }
    return above;
}

struct emu_board *xrt_board_at(struct emu_rack *r, unsigned long index)
{
    for (uint32_t i = 0; i < r->shared->nboards; i++) {
        struct emu_board *b = &r->shared->boards[i];
        if (answers(b) && index_of(r, b) == index)
            return b;
    }
    return NULL;
}

struct emu_board *xrt_board_named(struct emu_rack *r, const char *bdf, uint32_t *index)
{
    char full[20];
    size_t n = bdf ? strlen(bdf) : 0;
    if (n != 7 && n != 12)
        return NULL;
    snprintf(full, sizeof full, "%s%s", n == 7 ? "0000:" : "", bdf); /* "bb:dd.f" means domain 0 */
    struct emu_board *b = emu_rack_find(r, EMU_XRT, full);
    if (b && index)
        *index = index_of(r, b);
    return b;
}
