/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_driver_buffer.c: buffers by number, and command buffers, for the driver of the real XRT. */
#define _GNU_SOURCE 1
#include "xrt_driver_private.h"

#include <errno.h>
#include <stdlib.h>

#define INDEX_MASK 0xffffffu
#define COMMAND_BYTES 4096u

struct drv_buffer *drv_buffer_find(struct drv_device *d, unsigned number)
{
    if (number < d->nbuffers && d->buffers[number])
        return d->buffers[number];
    xrt_fail(d->board->board, EINVAL, "there is no buffer %u", number);
    return NULL;
}

/* The lowest free number. */
static int add(struct drv_device *d, struct drv_buffer *b, unsigned *number)
{
    int rc = 0;
    unsigned at = 0;
    pthread_mutex_lock(&d->lock);
    while (at < d->nbuffers && d->buffers[at])
        at++;
    if (at == d->nbuffers) {
        unsigned room = d->nbuffers ? 2 * d->nbuffers : 64;
        struct drv_buffer **grown = realloc(d->buffers, room * sizeof *grown);
        if (grown) {
            for (unsigned i = d->nbuffers; i < room; i++)
                grown[i] = NULL;
            d->buffers = grown;
            d->nbuffers = room;
        } else {
            rc = xrt_fail(d->board->board, ENOMEM, "out of memory");
        }
    }
    if (rc == 0) {
        d->buffers[at] = b;
        *number = at;
    }
    pthread_mutex_unlock(&d->lock);
    return rc;
}

static void destroy(struct drv_buffer *b)
{
    if (b->buffer)
        xrt_unpublish(&b->buffer->object);
    if (b->run)
        xrt_unpublish(&b->run->object);
    free(b->packet);
    free(b);
}

int drv_buffer_make(struct drv_device *d, void *user, size_t size, uint32_t flags, unsigned *number)
{
    bool command = flags & DRV_COMMAND;
    if (!command && drv_fault(d, "xrtBOAlloc"))
        return -1;
    struct drv_buffer *b = calloc(1, sizeof *b);
    int rc = b ? 0 : xrt_fail(d->board->board, ENOMEM, "out of memory");
    if (rc == 0) {
        *b = (struct drv_buffer){ .owner = d, .flags = flags, .size = size };
        if (command && size != COMMAND_BYTES)
            rc = xrt_fail(d->board->board, EINVAL, "a command buffer of %zu bytes cannot be", size);
        else if (command && !(b->packet = aligned_alloc(COMMAND_BYTES, COMMAND_BYTES)))
            rc = xrt_fail(d->board->board, ENOMEM, "out of memory");
        else if (!command && !(b->buffer = xrt_buffer_make(d->board, user, size, flags & ~INDEX_MASK,
                                                           flags & INDEX_MASK)))
            rc = -1;
        if (rc == 0)
            rc = add(d, b, number);
    }
    if (rc && b) {
        int saved = errno;
        destroy(b);
        errno = saved;
    }
    return rc;
}

int drv_buffer_free(struct drv_device *d, unsigned number)
{
    pthread_mutex_lock(&d->lock);
    struct drv_buffer *b = drv_buffer_find(d, number);
    if (b) {
        drv_command_stop(d, b);
        d->buffers[number] = NULL;
    }
    pthread_mutex_unlock(&d->lock);
    if (b)
        destroy(b);
    return b ? 0 : -1;
}

void drv_buffer_free_all(struct drv_device *d)
{
    for (unsigned i = 0; i < d->nbuffers; i++)
        if (d->buffers[i])
            drv_buffer_free(d, i);
    free(d->buffers);
}

/* With a reference: a free in another thread must not take it away meanwhile. */
static struct xrt_buffer *pin(struct drv_device *d, unsigned number)
{
    struct xrt_buffer *x = NULL;
    pthread_mutex_lock(&d->lock);
    struct drv_buffer *b = drv_buffer_find(d, number);
    if (b && (x = b->buffer))
        xrt_retain(&x->object);
    else if (b)
        xrt_fail(d->board->board, EINVAL, "buffer %u is a command buffer", number);
    pthread_mutex_unlock(&d->lock);
    return x;
}

void *drv_buffer_map(struct drv_device *d, unsigned number)
{
    void *at = NULL;
    pthread_mutex_lock(&d->lock);
    struct drv_buffer *b = drv_buffer_find(d, number);
    if (b)
        at = b->packet ? b->packet : xrt_buffer_host(b->buffer, "xrtBOMap");
    pthread_mutex_unlock(&d->lock);
    return at;
}

int drv_buffer_sync(struct drv_device *d, unsigned number, int direction, size_t size, size_t offset)
{
    struct xrt_buffer *b = drv_fault(d, "xrtBOSync") ? NULL : pin(d, number);
    if (!b)
        return -1;
    int rc = xrt_buffer_sync(b, direction, size, offset, "xrtBOSync");
    xrt_leave(b);
    return rc;
}

int drv_buffer_copy(struct drv_device *d, unsigned to, unsigned from, size_t size, size_t to_offset, size_t from_offset)
{
    struct xrt_buffer *a = drv_fault(d, "xrtBOCopy") ? NULL : pin(d, to);
    struct xrt_buffer *b = a ? pin(d, from) : NULL;
    int rc = b ? xrt_buffer_copy(a, b, size, to_offset, from_offset, "xrtBOCopy") : -1;
    if (a)
        xrt_leave(a);
    if (b)
        xrt_leave(b);
    return rc;
}

int drv_buffer_properties(struct drv_device *d, unsigned number, struct drv_properties *out)
{
    pthread_mutex_lock(&d->lock);
    struct drv_buffer *b = drv_buffer_find(d, number);
    if (b)
        *out = (struct drv_properties){ number, b->flags, b->size, b->buffer ? b->buffer->address : 0 };
    pthread_mutex_unlock(&d->lock);
    return b ? 0 : -1;
}
