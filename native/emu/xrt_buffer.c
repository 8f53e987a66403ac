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

struct xrt_buffer *xrt_buffer_make(struct xrt_device *d, void *user, size_t size, uint64_t flags, uint32_t group)
{
    if (check(d, user, size, flags, group))
        return NULL;
    struct xrt_buffer *b = make(d, size);
    int rc = b ? xrt_memory_take(&d->memory, group, size, b) : ENOMEM;
    if (rc == 0 && !map_memory(b, user, flags))
        rc = ENOMEM;
    if (rc == 0)
        return b;
    if (b)
        xrt_unpublish(&b->object);
    if (rc == EINVAL)
        xrt_fail(d->board, rc, "memory group %u is not a bank of the loaded xclbin", group);
    else
        xrt_fail(d->board, rc, "no room for %zu bytes in memory group %u", size, group);
    return NULL;
}

struct xrt_buffer *xrt_buffer_part(struct xrt_buffer *whole, size_t size, size_t offset)
{
    struct xrt_buffer *b = make(whole->object.device, size);
    if (!b) {
        xrt_fail(whole->object.device->board, ENOMEM, "out of memory");
        return NULL;
    }
    xrt_retain(&whole->object);
    b->parent = whole;
    b->address = whole->address + offset;
    b->card = whole->card + offset;
    b->host = whole->host ? whole->host + offset : NULL;
    return b;
}

/* ---- transfers ------------------------------------------------------------------------------------- */

int xrt_buffer_outside(const struct xrt_buffer *b, size_t size, size_t offset, const char *call)
{
    if (offset <= b->size && size <= b->size - offset)
        return 0;
    return xrt_fail(b->object.device->board, EINVAL, "%s: %zu bytes at %zu are outside the buffer of %zu bytes", call,
                    size, offset, b->size);
}

void *xrt_buffer_host(const struct xrt_buffer *b, const char *call)
{
    if (!b->host)
        xrt_fail(b->object.device->board, EINVAL, "%s: a device-only buffer has no host memory", call);
    return b->host;
}

int xrt_buffer_sync(struct xrt_buffer *b, int direction, size_t size, size_t offset, const char *call)
{
    struct emu_board *board = b->object.device->board;
    if (direction != XCL_BO_SYNC_BO_TO_DEVICE && direction != XCL_BO_SYNC_BO_FROM_DEVICE)
        return xrt_fail(board, EINVAL, "%s: unknown direction %d", call, direction);
    if (xrt_buffer_outside(b, size, offset, call) || !xrt_buffer_host(b, call))
        return -1;
    if (b->host == b->card)
        return 0;
    uint64_t started = board->link_bytes_per_s ? emu_now_ns() : 0;
    if (direction == XCL_BO_SYNC_BO_TO_DEVICE)
        memcpy(b->card + offset, b->host + offset, size);
    else
        memcpy(b->host + offset, b->card + offset, size);
    bool up = direction == XCL_BO_SYNC_BO_TO_DEVICE;
    if (started && !emu_link(board, up ? size : 0, up ? 0 : size, started, NULL))
        return xrt_fail(board, ENODEV, "%s: the device is gone", call);
    return 0;
}

/* On the card, as its memory-to-memory engine does it: the host's copies stay as they are. */
int xrt_buffer_copy(struct xrt_buffer *to, const struct xrt_buffer *from, size_t size, size_t to_offset,
                    size_t from_offset, const char *call)
{
    if (from->object.device != to->object.device)
        return xrt_fail(to->object.device->board, EINVAL, "%s: the buffers are on different devices", call);
    if (xrt_buffer_outside(to, size, to_offset, call) || xrt_buffer_outside(from, size, from_offset, call))
        return -1;
    memmove(to->card + to_offset, from->card + from_offset, size);
    return 0;
}
