/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt.c: the emulated XRT's devices.  Opening a board that this process has open gives the same device,
 * counted.
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

/* ---- start of a call ------------------------------------------------------------------------------ */

static int no_such_handle(const void *handle, enum xrt_kind kind, const char *call)
{
    uint64_t h = (uintptr_t)handle, epoch = atomic_load(&xrt_epoch);
    if (h >> 60 == kind && (h >> 52 & 0xff) != epoch && epoch)
        return xrt_fail(NULL, ESTALE, "%s: the handle belongs to the process that forked this one", call);
    return xrt_fail(NULL, EINVAL, "%s: No such handle %p", call, handle);
}

void *xrt_enter_slow(struct xrt_object *o, const void *handle, enum xrt_kind kind, const char *call, bool closing)
{
    if (!o) {
        no_such_handle(handle, kind, call);
        return NULL;
    }
    if (!o->device)
        return o;
    struct emu_board *board = o->device->board;
    int code = EIO;
    if (emu_fault(o->device->rack, board, EMU_FAULT_CALL, call, &code))
        xrt_fail(board, code, "%s: injected fault (%s)", call, strerror(code));
    else if (!closing && atomic_load(&board->vanished))
        xrt_fail(board, ENODEV, "%s: the device is gone", call);
    else
        return o;
    int saved = errno;
    xrt_unpin(o);
    errno = saved;
    return NULL;
}

/* For calls without a device: a fault of any board counts. */
bool xrt_fault_anywhere(const char *call)
{
    int code = EIO, saved = errno;
    struct emu_rack *r = emu_rack_current();
    errno = saved; /* no rack: nothing to inject */
    if (!r || !atomic_load(&r->shared->armed))
        return false;
    for (uint32_t i = 0; i < r->shared->nboards; i++) {
        struct emu_board *b = &r->shared->boards[i];
        if (b->family == EMU_XRT && emu_fault(r, b, EMU_FAULT_CALL, call, &code)) {
            xrt_fail(b, code, "%s: injected fault (%s)", call, strerror(code));
            return true;
        }
    }
    return false;
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

static xrtDeviceHandle open_board(struct emu_rack *rack, struct emu_board *board, const char *call)
{
    int code = EIO;
    if (emu_fault(rack, board, EMU_FAULT_CALL, call, &code)) {
        xrt_fail(board, code, "%s: injected fault (%s)", call, strerror(code));
        return NULL;
    }
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
    xrtDeviceHandle handle = d ? xrt_handle(&d->object) : NULL;
    pthread_mutex_unlock(&list_lock);
    if (!handle)
        xrt_fail(board, ENOMEM, "%s: out of memory", call);
    return handle;
}

static struct emu_rack *rack(const char *call)
{
    struct emu_rack *r = emu_rack_current();
    if (!r)
        xrt_fail(NULL, ENODEV, "%s: no emulated boards: %s", call, emu_error_text());
    return r;
}

/* XRT's index counts from the highest address down: each ready board is put before those found earlier. */
static xrtDeviceHandle open_index(unsigned long index, const char *call)
{
    struct emu_rack *r = rack(call);
    if (!r)
        return NULL;
    struct emu_shared *s = r->shared;
    for (uint32_t i = 0; i < s->nboards; i++) {
        struct emu_board *b = &s->boards[i];
        if (b->family != EMU_XRT || atomic_load(&b->vanished))
            continue;
        unsigned long above = 0;
        for (uint32_t k = 0; k < s->nboards; k++)
            above += s->boards[k].family == EMU_XRT && !atomic_load(&s->boards[k].vanished) &&
                     strcmp(s->boards[k].bdf, b->bdf) > 0;
        if (above == index)
            return open_board(r, b, call);
    }
    xrt_fail(NULL, ENODEV, "%s: Could not open device with index '%lu'", call, index);
    return NULL;
}

xrtDeviceHandle xrtDeviceOpen(unsigned int index)
{
    return open_index(index, __func__);
}

xrtDeviceHandle xrtDeviceOpenByBDF(const char *bdf)
{
    char full[16];
    if (!bdf || !*bdf) {
        xrt_fail(NULL, EINVAL, "%s: no BDF", __func__);
        return NULL;
    }
    if (strspn(bdf, "0123456789") == strlen(bdf) && strlen(bdf) < 10)
        return open_index(strtoul(bdf, NULL, 10), __func__);
    struct emu_rack *r = rack(__func__);
    if (!r)
        return NULL;
    snprintf(full, sizeof full, "%s%s", strlen(bdf) == 7 ? "0000:" : "", bdf); /* "bb:dd.f" means domain 0 */
    struct emu_board *board = strlen(bdf) == 7 || strlen(bdf) == 12 ? emu_rack_find(r, EMU_XRT, full) : NULL;
    if (!board) {
        xrt_fail(NULL, ENODEV, "%s: Could not open device with BDF '%s'", __func__, bdf);
        return NULL;
    }
    return open_board(r, board, __func__);
}

int xrtDeviceClose(xrtDeviceHandle handle)
{
    struct xrt_device *d = xrt_enter_closing(handle, XRT_DEVICE, __func__);
    if (!d)
        return -1;
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
        xrt_unpublish(&d->object);
        xrt_queue_close(d);
    }
    xrt_leave(d);
    return known ? 0 : no_such_handle(handle, XRT_DEVICE, __func__);
}

/* ---- what is loaded -------------------------------------------------------------------------------- */

int xrtDeviceGetXclbinUUID(xrtDeviceHandle handle, unsigned char out[16])
{
    struct xrt_device *d = xrt_enter(handle, XRT_DEVICE, __func__);
    if (!d)
        return -1;
    int rc = 0;
    if (!out) {
        rc = xrt_fail(d->board, EINVAL, "%s: no place for the UUID", __func__);
    } else {
        emu_lock(d->board);
        bool ready = atomic_load(&d->board->state) == EMU_READY;
        memcpy(out, d->board->afu_id, 16);
        emu_unlock(d->board);
        if (!ready)
            rc = xrt_fail(d->board, EBUSY, "%s: the slot is held in reset: its last reconfiguration did not end well",
                          __func__);
    }
    xrt_leave(d);
    return rc;
}

int fpgahal_emu_xrt_reset(xrtDeviceHandle handle)
{
    struct xrt_device *d = xrt_enter(handle, XRT_DEVICE, __func__);
    if (!d)
        return -1;
    int rc = xrt_queue_abort(d);
    if (rc)
        rc = xrt_fail(d->board, rc, "%s: a run does not stop", __func__);
    xrt_leave(d);
    return rc;
}

int xrtIniStringSet(const char *key, const char *value)
{
    return xrt_fault_anywhere(__func__) ? -1 : xrt_ini_set(key, value);
}

int xrtIniUintSet(const char *key, unsigned int value)
{
    char text[16];
    snprintf(text, sizeof text, "%u", value);
    return xrt_fault_anywhere(__func__) ? -1 : xrt_ini_set(key, text);
}
