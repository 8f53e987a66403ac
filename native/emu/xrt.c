/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt.c: the emulated XRT's functions on devices.  What stands behind them is in xrt_device.c and xrt_load.c.
 */
#include "xrt_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

static xrtDeviceHandle open_board(struct emu_rack *rack, struct emu_board *board, const char *call)
{
    int code = EIO;
    if (emu_fault(rack, board, EMU_FAULT_CALL, call, &code)) {
        xrt_fail(board, code, "%s: injected fault (%s)", call, strerror(code));
        return NULL;
    }
    struct xrt_device *d = xrt_device_open(rack, board);
    return d ? xrt_handle(&d->object) : NULL;
}

static xrtDeviceHandle open_index(unsigned long index, const char *call)
{
    struct emu_rack *r = xrt_rack(call);
    struct emu_board *b = r ? xrt_board_at(r, index) : NULL;
    if (b)
        return open_board(r, b, call);
    if (r)
        xrt_fail(NULL, ENODEV, "%s: Could not open device with index '%lu'", call, index);
    return NULL;
}

xrtDeviceHandle xrtDeviceOpen(unsigned int index)
{
    return open_index(index, __func__);
}

xrtDeviceHandle xrtDeviceOpenByBDF(const char *bdf)
{
    if (!bdf || !*bdf) {
        xrt_fail(NULL, EINVAL, "%s: no BDF", __func__);
        return NULL;
    }
    if (strspn(bdf, "0123456789") == strlen(bdf) && strlen(bdf) < 10)
        return open_index(strtoul(bdf, NULL, 10), __func__);
    struct emu_rack *r = xrt_rack(__func__);
    struct emu_board *b = r ? xrt_board_named(r, bdf, NULL) : NULL;
    if (b)
        return open_board(r, b, __func__);
    if (r)
        xrt_fail(NULL, ENODEV, "%s: Could not open device with BDF '%s'", __func__, bdf);
    return NULL;
}

int xrtDeviceClose(xrtDeviceHandle handle)
{
    struct xrt_device *d = xrt_enter_closing(handle, XRT_DEVICE, __func__);
    if (!d)
        return -1;
    bool known = xrt_device_close(d);
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
