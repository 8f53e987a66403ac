/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_buffer.c: buffers.  A normal one has two memories, the host's and the device's, as on a card: a
 * missing sync shows.
 */
#include "xrt_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define FLAGS_TYPE 0xff000000ull
#define INDEX_MASK 0xffffffu
#define MAX_SIZE (UINT64_C(1) << 46)

static const struct emu_board *board_of(const struct xrt_buffer *b)
{
    return b->object.device->board;
}

/* ---- allocation ------------------------------------------------------------------------------------ */

static void destroy(struct xrt_object *o)
{
    struct xrt_buffer *b = (struct xrt_buffer *)o;
    if (b->parent) {
        xrt_leave(b->parent);
    } else {
        if (b->address)
            xrt_memory_give(&o->device->memory, b->address);
        if (b->mapping)
            xrt_pages_give(&o->device->pages, b->mapping, b->mapping_size);
    }
    xrt_unpin(&o->device->object);
    free(b);
}

static struct xrt_buffer *make(struct xrt_device *d, size_t size)
{
    struct xrt_buffer *b = calloc(1, sizeof *b);
    if (!b)
        return NULL;
    b->object = (struct xrt_object){ .device = d, .destroy = destroy };
    b->size = size;
    xrt_retain(&d->object);
    if (xrt_publish(&b->object, XRT_BUFFER))
        return b;
    xrt_unpin(&d->object);
    free(b);
    return NULL;
}

static bool map_memory(struct xrt_buffer *b, void *user, uint64_t flags)
{
    size_t pages = (b->size + EMU_PAGE - 1) & ~(size_t)(EMU_PAGE - 1);
    bool two = !user && !(flags & (XRT_BO_FLAGS_DEV_ONLY | XRT_BO_FLAGS_HOST_ONLY));
    b->mapping_size = two ? 2 * pages : pages;
    b->mapping = b->card = xrt_pages_take(&b->object.device->pages, b->mapping_size);
    if (!b->mapping)
        return false;
    b->host = user ? user : two ? b->card + pages : flags & XRT_BO_FLAGS_HOST_ONLY ? b->card : NULL;
    return true;
}

static int check(struct xrt_device *d, const void *user, size_t size, uint64_t flags, uint32_t group)
{
    uint64_t type = flags & FLAGS_TYPE;
    if (!size || size > MAX_SIZE)
        return xrt_fail(d->board, EINVAL, "a buffer of %zu bytes cannot be", size);
    if (flags & ~FLAGS_TYPE || type & (type - 1))
        return xrt_fail(d->board, EINVAL, "Unknown buffer type: flags 0x%" PRIx64, flags);
    if (type & ~(XRT_BO_FLAGS_CACHEABLE | XRT_BO_FLAGS_DEV_ONLY | XRT_BO_FLAGS_HOST_ONLY))
        return xrt_fail(d->board, EOPNOTSUPP, "buffer type 0x%" PRIx64 " is not emulated", type);
    if (group > INDEX_MASK)
        return xrt_fail(d->board, EINVAL, "memory group %u does not exist", group);
    if (user && ((uintptr_t)user % EMU_PAGE || type & (XRT_BO_FLAGS_HOST_ONLY | XRT_BO_FLAGS_DEV_ONLY)))
        return xrt_fail(d->board, EINVAL, "a user pointer must be page aligned, and the buffer a normal one");
    pthread_mutex_lock(&d->memory.lock);
    bool loaded = d->memory.loaded;
    pthread_mutex_unlock(&d->memory.lock);
    if (!loaded)
        return xrt_fail(d->board, EINVAL, "no xclbin was loaded by this process: load one before buffers are allocated "
                                          "(on a card this ends in wrong results)");
    return 0;
}

static xrtBufferHandle allocate(xrtDeviceHandle device, void *user, size_t size, uint64_t flags, uint32_t group,
                                const char *call)
{
    struct xrt_device *d = xrt_enter(device, XRT_DEVICE, call);
    if (!d)
        return NULL;
    xrtBufferHandle handle = NULL;
    if (check(d, user, size, flags, group) == 0) {
        struct xrt_buffer *b = make(d, size);
        int rc = b ? xrt_memory_take(&d->memory, group, size, b) : ENOMEM;
        if (rc == 0 && !map_memory(b, user, flags))
            rc = ENOMEM;
        if (rc == 0)
            handle = xrt_handle(&b->object);
        else if (b)
            xrt_unpublish(&b->object);
        if (rc == EINVAL)
            xrt_fail(d->board, rc, "memory group %u is not a bank of the loaded xclbin", group);
        else if (rc)
            xrt_fail(d->board, rc, "no room for %zu bytes in memory group %u", size, group);
    }
    xrt_leave(d);
    return handle;
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

static bool inside(const struct xrt_buffer *b, size_t size, size_t offset)
{
    return offset <= b->size && size <= b->size - offset;
}

static int outside(const struct xrt_buffer *b, size_t size, size_t offset, const char *call)
{
    return xrt_fail(board_of(b), EINVAL, "%s: %zu bytes at %zu are outside the buffer of %zu bytes", call, size, offset,
                    b->size);
}

xrtBufferHandle xrtBOSubAlloc(xrtBufferHandle parent, size_t size, size_t offset)
{
    struct xrt_buffer *p = xrt_enter(parent, XRT_BUFFER, __func__);
    if (!p)
        return NULL;
    xrtBufferHandle handle = NULL;
    if (!size || !inside(p, size, offset)) {
        outside(p, size, offset, __func__);
    } else {
        struct xrt_buffer *b = make(p->object.device, size);
        if (b) {
            xrt_retain(&p->object);
            b->parent = p;
            b->address = p->address + offset;
            b->card = p->card + offset;
            b->host = p->host ? p->host + offset : NULL;
            handle = xrt_handle(&b->object);
        } else {
            xrt_fail(board_of(p), ENOMEM, "%s: out of memory", __func__);
        }
    }
    xrt_leave(p);
    return handle;
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

static void *host_of(const struct xrt_buffer *b, const char *call)
{
    if (!b->host)
        xrt_fail(board_of(b), EINVAL, "%s: a device-only buffer has no host memory", call);
    return b->host;
}

void *xrtBOMap(xrtBufferHandle handle)
{
    struct xrt_buffer *b = xrt_enter(handle, XRT_BUFFER, __func__);
    if (!b)
        return NULL;
    void *host = host_of(b, __func__);
    xrt_leave(b);
    return host;
}

/* ---- transfers ------------------------------------------------------------------------------------- */

int xrtBOSync(xrtBufferHandle handle, enum xclBOSyncDirection dir, size_t size, size_t offset)
{
    struct xrt_buffer *b = xrt_enter(handle, XRT_BUFFER, __func__);
    if (!b)
        return -1;
    int rc = 0;
    if (dir != XCL_BO_SYNC_BO_TO_DEVICE && dir != XCL_BO_SYNC_BO_FROM_DEVICE) {
        rc = xrt_fail(board_of(b), EINVAL, "%s: unknown direction %d", __func__, (int)dir);
    } else if (!inside(b, size, offset)) {
        rc = outside(b, size, offset, __func__);
    } else if (!host_of(b, __func__)) {
        rc = -1;
    } else if (b->host != b->card) {
        uint64_t started = b->object.device->board->link_bytes_per_s ? emu_now_ns() : 0;
        if (dir == XCL_BO_SYNC_BO_TO_DEVICE)
            memcpy(b->card + offset, b->host + offset, size);
        else
            memcpy(b->host + offset, b->card + offset, size);
        if (started)
            emu_pace(board_of(b), size, false, started, NULL);
    }
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
        rc = xrt_fail(board_of(b), EINVAL, "%s: null pointer", call);
    else if (!inside(b, size, offset))
        rc = outside(b, size, offset, call);
    else if (!host_of(b, call))
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

/* On the card, as its memory-to-memory engine does it: the host's copies stay as they are. */
int xrtBOCopy(xrtBufferHandle dst, xrtBufferHandle src, size_t size, size_t dst_offset, size_t src_offset)
{
    struct xrt_buffer *to = xrt_enter(dst, XRT_BUFFER, __func__);
    if (!to)
        return -1;
    struct xrt_buffer *from = (struct xrt_buffer *)xrt_pin(src, XRT_BUFFER);
    int rc = 0;
    if (!from)
        rc = xrt_fail(board_of(to), EINVAL, "%s: No such handle %p", __func__, src);
    else if (from->object.device != to->object.device)
        rc = xrt_fail(board_of(to), EINVAL, "%s: the buffers are on different devices", __func__);
    else if (!inside(to, size, dst_offset))
        rc = outside(to, size, dst_offset, __func__);
    else if (!inside(from, size, src_offset))
        rc = outside(from, size, src_offset, __func__);
    else
        memmove(to->card + dst_offset, from->card + src_offset, size);
    if (from)
        xrt_leave(from);
    xrt_leave(to);
    return rc;
}
