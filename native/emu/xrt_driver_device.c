/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_driver_device.c: open boards, their image, contexts and registers, for the driver of the real XRT. */
#define _GNU_SOURCE 1
#include "xrt_driver_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what xrt_log.c is in the stand-alone library: here XRT itself writes the message of an exception ---- */

int xrt_fail(const struct emu_board *board, int code, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    emu_error(board, false, "%s", text);
    errno = code;
    return -1;
}

/* XRT's own ini keys, by its C++ name: in 2.13 it is there; without it keys have their default. */
bool xrt_ini_bool(const char *key, bool otherwise)
{
    static _Atomic(void *) found;
    void *f = atomic_load(&found);
    if (!f)
        atomic_store(&found, f = dlsym(RTLD_DEFAULT, "_ZN8xrt_core6config6detail14get_bool_valueEPKcb"));
    return f ? ((bool (*)(const char *, bool))f)(key, otherwise) : otherwise;
}

void xrt_log_before_fork(void) { }
void xrt_log_after_fork(void) { }

const char *drv_error(void)
{
    return emu_error_text();
}

int drv_fault(struct drv_device *d, const char *call)
{
    struct emu_board *b = d->board->board;
    int code = EIO;
    if (emu_fault(d->board->rack, b, EMU_FAULT_CALL, call, &code))
        return xrt_fail(b, code, "%s: injected fault (%s)", call, strerror(code));
    return atomic_load(&b->vanished) ? xrt_fail(b, ENODEV, "%s: the device is gone", call) : 0;
}

/* ---- open and close ------------------------------------------------------------------------------- */

unsigned drv_count(void)
{
    struct emu_rack *r = emu_rack_current();
    return r ? xrt_board_count(r) : 0;
}

int drv_index(const char *bdf, unsigned *index)
{
    struct emu_rack *r = xrt_rack("open");
    if (!r)
        return -1;
    return xrt_board_named(r, bdf, index) ? 0 : xrt_fail(NULL, ENODEV, "Could not open device with BDF '%s'", bdf);
}

struct drv_device *drv_open(unsigned index)
{
    static _Atomic uint64_t ids;
    struct emu_rack *r = xrt_rack("open");
    struct emu_board *b = r ? xrt_board_at(r, index) : NULL;
    int code = EIO;
    if (!b) {
        if (r)
            xrt_fail(NULL, ENODEV, "Could not open device with index '%u'", index);
        return NULL;
    }
    if (emu_fault(r, b, EMU_FAULT_CALL, "xrtDeviceOpenByBDF", &code)) {
        xrt_fail(b, code, "xrtDeviceOpenByBDF: injected fault (%s)", strerror(code));
        return NULL;
    }
    struct drv_device *d = calloc(1, sizeof *d);
    if (!d || !(d->board = xrt_device_open(r, b))) {
        free(d);
        return NULL;
    }
    d->id = atomic_fetch_add(&ids, 1) + 1;
    pthread_mutex_init(&d->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&d->changed, &attr);
    pthread_condattr_destroy(&attr);
    return d;
}

static void drop_virtual(struct drv_device *d)
{
    pthread_mutex_lock(&d->board->lock);
    xrt_context_drop(d->board);
    pthread_mutex_unlock(&d->board->lock);
}

void drv_close(struct drv_device *d)
{
    drv_buffer_free_all(d);
    for (unsigned i = 0; i < XCLBIN_MAX_CUS; i++)
        if (d->cus[i].kernel)
            xrt_unpublish(&d->cus[i].kernel->object);
    while (d->contexts && d->contexts--)
        drop_virtual(d);
    xrt_device_close(d->board);
    pthread_mutex_lock(&d->lock); /* who ended the last command may still be on its way out */
    pthread_mutex_unlock(&d->lock);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

/* ---- what it is, and what is loaded ------------------------------------------------------------------ */

void drv_describe(const struct drv_device *d, struct drv_info *out)
{
    static const uint8_t nothing[16];
    const struct emu_board *b = d->board->board;
    *out = (struct drv_info){
        .segment = b->segment, .bus = b->bus, .device = b->device, .function = b->function,
        .vendor_id = b->vendor_id, .device_id = b->device_id,
        .subvendor_id = b->subvendor_id, .subdevice_id = b->subdevice_id, .timestamp = b->timestamp,
    };
    memcpy(out->vbnv, b->vbnv, sizeof out->vbnv);
    memcpy(out->name, b->name, sizeof out->name);
    for (int i = 0; i < 16 && memcmp(b->interface_id, nothing, 16) != 0; i++)
        sprintf(out->interface_id + 2 * i, "%02x", b->interface_id[i]);
}

int drv_loaded(struct drv_device *d, char uuid[37])
{
    struct emu_board *b = d->board->board;
    uint8_t id[16];
    if (drv_fault(d, "xrtDeviceGetXclbinUUID"))
        return -1;
    emu_lock(b);
    bool ready = atomic_load(&b->state) == EMU_READY, any = false;
    memcpy(id, b->afu_id, 16);
    emu_unlock(b);
    if (!ready)
        return xrt_fail(b, EBUSY, "the slot is held in reset: its last reconfiguration did not end well");
    char *p = uuid;
    for (int i = 0; i < 16; i++) {
        p += sprintf(p, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", id[i]);
        any = any || id[i];
    }
    if (!any)
        *uuid = 0;
    return 0;
}

int drv_load(struct drv_device *d, const void *axlf)
{
    if (drv_fault(d, "xrtDeviceLoadXclbin"))
        return -1;
    return xrt_load(d->board, axlf, xclbin_length(axlf));
}

int drv_reset(struct drv_device *d)
{
    if (drv_fault(d, "reset")) { /* a board that is gone ends no run: without this they would be in flight for ever */
        int saved = errno;
        drv_command_stop_all(d);
        errno = saved;
        return -1;
    }
    int rc = xrt_queue_abort(d->board);
    return rc ? xrt_fail(d->board->board, rc, "reset: a run does not stop") : 0;
}

/* ---- contexts -------------------------------------------------------------------------------------- */

static int find_cu(struct xrt_kernel *k, const struct xrt_device *d, const void *what)
{
    uint32_t cu = *(const uint32_t *)what;
    if (cu >= k->image->ncus)
        return xrt_fail(d->board, EINVAL, "the loaded xclbin has no compute unit %u", cu);
    k->meta = &k->image->kernels[k->image->cus[cu].kernel];
    k->cus[k->ncus++] = (uint8_t)cu;
    return 0;
}

static int open_virtual(struct drv_device *d, const unsigned char *uuid)
{
    struct xrt_device *x = d->board;
    int rc = 0;
    pthread_mutex_lock(&x->lock);
    if (!x->image || memcmp(x->image->uuid, uuid, 16) != 0)
        rc = xrt_fail(x->board, EINVAL, "the UUID is not that of the xclbin that this process loaded");
    else
        rc = xrt_context_take(x);
    pthread_mutex_unlock(&x->lock);
    if (rc == 0)
        d->contexts++;
    return rc;
}

int drv_context_open(struct drv_device *d, const unsigned char *uuid, uint32_t cu, int shared)
{
    if (cu != DRV_VIRTUAL_CU && drv_fault(d, shared ? "xrtPLKernelOpen" : "xrtPLKernelOpenExclusive"))
        return -1;
    int rc = 0;
    pthread_mutex_lock(&d->lock);
    struct drv_cu *c = cu < XCLBIN_MAX_CUS ? &d->cus[cu] : NULL;
    if (cu == DRV_VIRTUAL_CU) {
        rc = open_virtual(d, uuid);
    } else if (!c) {
        rc = xrt_fail(d->board->board, EINVAL, "there is no compute unit %u", cu);
    } else if (c->kernel && c->kernel->exclusive == (bool)shared) {
        rc = xrt_fail(d->board->board, EBUSY, "Conflicting access mode for compute unit %u", cu);
    } else if (c->kernel || (c->kernel = xrt_kernel_make(d->board, uuid, !shared, find_cu, &cu))) {
        c->users++;
    } else {
        rc = -1;
    }
    pthread_mutex_unlock(&d->lock);
    return rc;
}

int drv_context_close(struct drv_device *d, uint32_t cu)
{
    int rc = 0;
    pthread_mutex_lock(&d->lock);
    if (cu == DRV_VIRTUAL_CU && d->contexts) {
        d->contexts--;
        drop_virtual(d);
    } else if (cu < XCLBIN_MAX_CUS && d->cus[cu].kernel) {
        if (--d->cus[cu].users == 0) {
            xrt_unpublish(&d->cus[cu].kernel->object);
            d->cus[cu].kernel = NULL;
        }
    } else {
        rc = xrt_fail(d->board->board, EINVAL, "no context is open on compute unit %u", cu);
    }
    pthread_mutex_unlock(&d->lock);
    return rc;
}

/* ---- registers ------------------------------------------------------------------------------------- */

/* With a reference, so that closing the context in another thread does not disturb. */
static struct xrt_kernel *kernel_of(struct drv_device *d, uint32_t cu, uint32_t offset)
{
    struct xrt_kernel *k = NULL;
    pthread_mutex_lock(&d->lock);
    if (cu < XCLBIN_MAX_CUS && (k = d->cus[cu].kernel))
        xrt_retain(&k->object);
    pthread_mutex_unlock(&d->lock);
    if (!k) {
        xrt_fail(d->board->board, EPERM, "no context is open on compute unit %u", cu);
    } else if (offset % 4) {
        xrt_fail(d->board->board, EINVAL, "no register at 0x%x", offset);
        xrt_leave(k);
        k = NULL;
    }
    return k;
}

int drv_register_read(struct drv_device *d, uint32_t cu, uint32_t offset, uint32_t *value)
{
    struct xrt_kernel *k = drv_fault(d, "xrtKernelReadRegister") ? NULL : kernel_of(d, cu, offset);
    if (!k)
        return -1;
    *value = xrt_cu_read(k, offset);
    xrt_leave(k);
    return 0;
}

int drv_register_write(struct drv_device *d, uint32_t cu, uint32_t offset, uint32_t value)
{
    struct xrt_kernel *k = drv_fault(d, "xrtKernelWriteRegister") ? NULL : kernel_of(d, cu, offset);
    if (!k)
        return -1;
    int rc = xrt_cu_write(k, offset, value);
    xrt_leave(k);
    return rc;
}
