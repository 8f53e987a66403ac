/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_kernel.c: the emulated XRT's functions on kernels.  What stands behind them is in xrt_cu.c.
 */
#include "xrt_private.h"

#include <errno.h>
#include <string.h>

enum { AP_CTRL_NONE = 2 };

/* ---- open ------------------------------------------------------------------------------------------ */

/* "k" or "k:{cu1,cu2}": is this CU meant? */
static bool is_named(const char *list, const char *cu)
{
    if (!list)
        return true;
    size_t n = strlen(cu);
    for (const char *p = list; *p; p += *p == ',') {
        size_t part = strcspn(p, ",}");
        if (part == n && memcmp(p, cu, n) == 0)
            return true;
        p += part;
        if (*p == '}')
            break;
    }
    return false;
}

/* Number of names in "cu1,cu2}", or 0 if that is not how it looks. */
static uint32_t count_names(const char *list)
{
    uint32_t n = 0;
    for (;;) {
        size_t part = strcspn(list, ",}");
        if (!part || !list[part])
            return 0;
        n++;
        list += part + 1;
        if (list[-1] == '}')
            return *list ? 0 : n;
    }
}

static int find_cus(struct xrt_kernel *k, const struct xrt_device *d, const void *what)
{
    const char *name = what;
    const struct xclbin *x = k->image;
    size_t length = strcspn(name, ":");
    const char *list = name[length] ? name + length + 1 : NULL;
    if (list && *list == '{')
        list++;
    else if (list)
        return xrt_fail(d->board, EINVAL, "bad kernel name \"%s\": it must look like k or k:{cu1,cu2}", name);
    uint32_t wanted = list ? count_names(list) : 0;
    if (list && !wanted)
        return xrt_fail(d->board, EINVAL, "bad kernel name \"%s\": it must look like k or k:{cu1,cu2}", name);
    for (uint32_t i = 0; i < x->nkernels && !k->meta; i++)
        if (strlen(x->kernels[i].name) == length && memcmp(x->kernels[i].name, name, length) == 0)
            k->meta = &x->kernels[i];
    if (!k->meta)
        return xrt_fail(d->board, ENOENT, "No such kernel \"%.*s\" in the loaded xclbin", (int)length, name);
    for (uint32_t i = 0; i < x->ncus; i++) {
        if (&x->kernels[x->cus[i].kernel] != k->meta || !is_named(list, x->cus[i].name))
            continue;
        if ((x->cus[i].properties >> 8 & 0xff) == AP_CTRL_NONE)
            return xrt_fail(d->board, ENOTSUP, "compute unit %s is AP_CTRL_NONE: it cannot be started", x->cus[i].name);
        k->cus[k->ncus++] = (uint8_t)i;
    }
    if (!k->ncus || (list && k->ncus < wanted))
        return xrt_fail(d->board, ENOENT, "No compute units match \"%s\" in the loaded xclbin", name);
    return 0;
}

/* XRT asks the board for a unit's context once: a board that is gone is noticed only then. */
static bool is_first(struct xrt_kernel *k)
{
    struct xrt_device *d = k->object.device;
    bool first = false;
    pthread_mutex_lock(&d->lock);
    for (uint32_t i = 0; i < k->ncus; i++)
        first |= d->cus[k->cus[i]].users == 1;
    pthread_mutex_unlock(&d->lock);
    return first;
}

static xrtKernelHandle open_kernel(xrtDeviceHandle device, const unsigned char *uuid, const char *name, bool exclusive,
                                   const char *call)
{
    struct xrt_device *d = xrt_enter_closing(device, XRT_DEVICE, call);
    if (!d)
        return NULL;
    struct xrt_kernel *k = NULL;
    if (!uuid || !name || !*name)
        xrt_fail(d->board, EINVAL, "a kernel needs the UUID of its xclbin and a name");
    else
        k = xrt_kernel_make(d, uuid, exclusive, find_cus, name);
    if (k && atomic_load(&d->board->vanished) && is_first(k)) {
        xrt_unpublish(&k->object);
        xrt_fail(d->board, ENODEV, "%s: the device is gone", call);
        k = NULL;
    }
    xrt_leave(d);
    return k ? xrt_handle(&k->object) : NULL;
}

xrtKernelHandle xrtPLKernelOpen(xrtDeviceHandle device, const unsigned char uuid[16], const char *name)
{
    return open_kernel(device, uuid, name, false, __func__);
}

xrtKernelHandle xrtPLKernelOpenExclusive(xrtDeviceHandle device, const unsigned char uuid[16], const char *name)
{
    return open_kernel(device, uuid, name, true, __func__);
}

int xrtKernelClose(xrtKernelHandle handle)
{
    struct xrt_kernel *k = xrt_enter_closing(handle, XRT_KERNEL, __func__);
    if (!k)
        return -1;
    xrt_unpublish(&k->object);
    xrt_leave(k);
    return 0;
}

/* ---- arguments ------------------------------------------------------------------------------------- */

int xrtKernelArgGroupId(xrtKernelHandle handle, int argno)
{
    struct xrt_kernel *k = xrt_enter(handle, XRT_KERNEL, __func__);
    if (!k)
        return -1;
    int group = -1;
    if (argno >= 0 && (uint32_t)argno < k->meta->nargs)
        group = xclbin_group_id(k->image, &k->image->cus[k->cus[0]], (uint32_t)argno, k->use_groups);
    if (group < 0)
        xrt_fail(k->object.device->board, EINVAL, "argument %d of kernel %s is not connected to a memory", argno,
                 k->meta->name);
    xrt_leave(k);
    return group;
}

uint32_t xrtKernelArgOffset(xrtKernelHandle handle, int argno)
{
    struct xrt_kernel *k = xrt_enter(handle, XRT_KERNEL, __func__);
    if (!k)
        return UINT32_MAX;
    uint32_t offset = UINT32_MAX;
    if (argno >= 0 && (uint32_t)argno < k->meta->nargs)
        offset = k->meta->args[argno].offset;
    else
        xrt_fail(k->object.device->board, EINVAL, "kernel %s has no argument %d", k->meta->name, argno);
    xrt_leave(k);
    return offset;
}

/* ---- registers ------------------------------------------------------------------------------------- */

static int check_access(struct xrt_kernel *k, uint32_t offset, const char *call)
{
    const struct emu_board *b = k->object.device->board;
    if (!k->exclusive && !xrt_ini_bool("Runtime.rw_shared", false))
        return xrt_fail(b, EPERM, "%s: Cannot read or write kernel with shared access", call);
    if (k->ncus != 1)
        return xrt_fail(b, EINVAL, "%s: the kernel was opened with %u compute units; registers need exactly one", call,
                        k->ncus);
    if (offset % 4 || offset >= k->meta->range || k->meta->range - offset < 4)
        return xrt_fail(b, EINVAL, "%s: no register at 0x%x; the register space has 0x%x bytes", call, offset,
                        k->meta->range);
    return 0;
}

int xrtKernelReadRegister(xrtKernelHandle handle, uint32_t offset, uint32_t *data)
{
    struct xrt_kernel *k = xrt_enter(handle, XRT_KERNEL, __func__);
    if (!k)
        return -1;
    int rc = data ? check_access(k, offset, __func__)
                  : xrt_fail(k->object.device->board, EINVAL, "%s: no place for the data", __func__);
    if (rc == 0)
        *data = xrt_cu_read(k, offset);
    xrt_leave(k);
    return rc;
}

int xrtKernelWriteRegister(xrtKernelHandle handle, uint32_t offset, uint32_t data)
{
    struct xrt_kernel *k = xrt_enter(handle, XRT_KERNEL, __func__);
    if (!k)
        return -1;
    int rc = check_access(k, offset, __func__);
    if (rc == 0)
        rc = xrt_cu_write(k, offset, data);
    xrt_leave(k);
    return rc;
}
