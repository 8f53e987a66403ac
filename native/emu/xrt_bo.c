/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_bo.c: the emulated XRT's functions on buffers.  What stands behind them is in xrt_buffer.c. */
#include "xrt_private.h"

#include <errno.h>
#include <string.h>

/* ---- allocation ------------------------------------------------------------------------------------ */

static xrtBufferHandle allocate(xrtDeviceHandle device, void *user, size_t size, uint64_t flags, uint32_t group,
                                const char *call)
{
    struct xrt_device *d = xrt_enter(device, XRT_DEVICE, call);
    if (!d)
        return NULL;
    struct xrt_buffer *b = xrt_buffer_make(d, user, size, flags, group);
    xrt_leave(d);
    return b ? xrt_handle(&b->object) : NULL;
}

xrtBufferHandle xrtBOAlloc(xrtDeviceHandle device, size_t size, uint64_t flags, uint32_t group)
{
    return allocate(device, NULL, size, flags, group, __func__);
}

xrtBufferHandle xrtBOAllocUserPtr(xrtDeviceHandle device, void *pointer, size_t size, uint64_t flags, uint32_t group)
{
    if (!pointer) {
        xrt_fail(NULL, EINVAL, "%s: null pointer", __func__);
        return NULL;
    }
    return allocate(device, pointer, size, flags, group, __func__);
}

xrtBufferHandle xrtBOSubAlloc(xrtBufferHandle parent, size_t size, size_t offset)
{
    struct xrt_buffer *p = xrt_enter(parent, XRT_BUFFER, __func__), *b = NULL;
    if (!p)
        return NULL;
    if (!size)
        xrt_fail(p->object.device->board, EINVAL, "%s: a sub-buffer of 0 bytes cannot be", __func__);
    else if (xrt_buffer_outside(p, size, offset, __func__) == 0)
        b = xrt_buffer_part(p, size, offset);
    xrt_leave(p);
    return b ? xrt_handle(&b->object) : NULL;
}

int xrtBOFree(xrtBufferHandle handle)
{
    struct xrt_buffer *b = xrt_enter_closing(handle, XRT_BUFFER, __func__);
    if (!b)
        return -1;
    xrt_unpublish(&b->object);
    xrt_leave(b);
    return 0;
}

/* ---- properties ------------------------------------------------------------------------------------ */

size_t xrtBOSize(xrtBufferHandle handle)
{
    struct xrt_buffer *b = xrt_enter(handle, XRT_BUFFER, __func__);
    if (!b)
        return SIZE_MAX;
    size_t size = b->size;
    xrt_leave(b);
    return size;
}

uint64_t xrtBOAddress(xrtBufferHandle handle)
{
    struct xrt_buffer *b = xrt_enter(handle, XRT_BUFFER, __func__);
    if (!b)
        return UINT64_MAX;
    uint64_t address = b->address;
    xrt_leave(b);
    return address;
}

void *xrtBOMap(xrtBufferHandle handle)
{
    struct xrt_buffer *b = xrt_enter(handle, XRT_BUFFER, __func__);
    if (!b)
        return NULL;
    void *host = xrt_buffer_host(b, __func__);
    xrt_leave(b);
    return host;
}

/* ---- transfers ------------------------------------------------------------------------------------- */

int xrtBOSync(xrtBufferHandle handle, enum xclBOSyncDirection dir, size_t size, size_t offset)
{
    struct xrt_buffer *b = xrt_enter(handle, XRT_BUFFER, __func__);
    if (!b)
        return -1;
    int rc = xrt_buffer_sync(b, (int)dir, size, offset, __func__);
    xrt_leave(b);
    return rc;
}

static int transfer(xrtBufferHandle handle, void *to, const void *from, size_t size, size_t offset, const char *call)
{
    struct xrt_buffer *b = xrt_enter(handle, XRT_BUFFER, call);
    if (!b)
        return -1;
    int rc = 0;
    if (!to && !from && size)
        rc = xrt_fail(b->object.device->board, EINVAL, "%s: null pointer", call);
    else if (xrt_buffer_outside(b, size, offset, call) || !xrt_buffer_host(b, call))
        rc = -1;
    else if (to)
        memmove(to, b->host + offset, size);
    else if (from)
        memmove(b->host + offset, from, size);
    xrt_leave(b);
    return rc;
}

int xrtBOWrite(xrtBufferHandle handle, const void *from, size_t size, size_t seek)
{
    return transfer(handle, NULL, from, size, seek, __func__);
}

int xrtBORead(xrtBufferHandle handle, void *to, size_t size, size_t skip)
{
    return transfer(handle, to, NULL, size, skip, __func__);
}

int xrtBOCopy(xrtBufferHandle dst, xrtBufferHandle src, size_t size, size_t dst_offset, size_t src_offset)
{
    struct xrt_buffer *to = xrt_enter(dst, XRT_BUFFER, __func__);
    if (!to)
        return -1;
    struct xrt_buffer *from = (struct xrt_buffer *)xrt_pin(src, XRT_BUFFER);
    int rc = from ? xrt_buffer_copy(to, from, size, dst_offset, src_offset, __func__)
                  : xrt_fail(to->object.device->board, EINVAL, "%s: No such handle %p", __func__, src);
    if (from)
        xrt_leave(from);
    xrt_leave(to);
    return rc;
}
