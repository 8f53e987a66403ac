/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_driver_command.c: command packets for the driver of the real XRT.
 *
 * A packet is words of 32 bits: a header (state 3:0, extra mask words 11:10, count 22:12, opcode 27:23), masks of
 * the compute units that may run it, then the unit's register file as it should be.  Its end is a final state in
 * the header.
 */
#define _GNU_SOURCE 1
#include "xrt_driver_private.h"

#include <errno.h>
#include <string.h>

enum { START_CU = 0 };
#define GLANCE_NS 50000000ull /* how often a waiter looks whether the board is still there */

/* Called once for each start that succeeded, on whatever thread ends the run. */
static void ended(xrtRunHandle handle, enum ert_cmd_state state, void *data)
{
    struct drv_buffer *b = data;
    struct drv_device *d = b->owner;
    (void)handle;
    pthread_mutex_lock(&d->lock);
    b->busy = false;
    d->ended++;
    pthread_cond_broadcast(&d->changed);
    /* Who sees this may free the buffer, which waits for the lock. */
    __atomic_store_n(b->packet, (*b->packet & ~0xfu) | (uint32_t)state, __ATOMIC_RELEASE);
    pthread_mutex_unlock(&d->lock);
}

static struct xrt_kernel *choose(struct drv_device *d, const uint32_t *masks, unsigned nmasks)
{
    for (unsigned w = 0; w < nmasks; w++)
        for (unsigned i = 0; i < 32; i++)
            if (masks[w] >> i & 1 && d->cus[32 * w + i].kernel)
                return d->cus[32 * w + i].kernel;
    xrt_fail(d->board->board, EINVAL, "a command names no compute unit that has an open context");
    return NULL;
}

/* With the device's lock: the run of this packet, or NULL and errno. */
static struct xrt_run *prepare(struct drv_device *d, struct drv_buffer *b)
{
    const uint32_t *p = b->packet;
    unsigned nmasks = 1 + (p[0] >> 10 & 3), count = p[0] >> 12 & 0x7ff, opcode = p[0] >> 23 & 0x1f;
    if (opcode != START_CU || count < nmasks || 4 * (1 + count) > b->size) {
        xrt_fail(d->board->board, EOPNOTSUPP, "command %u of %u words is not emulated", opcode, count);
        return NULL;
    }
    struct xrt_kernel *k = choose(d, p + 1, nmasks);
    if (!k)
        return NULL;
    if (b->run && b->run->kernel != k) {
        xrt_unpublish(&b->run->object);
        b->run = NULL;
    }
    if (!b->run) {
        if (!(b->run = xrt_run_make(k))) {
            xrt_fail(d->board->board, ENOMEM, "out of memory");
            return NULL;
        }
        b->run->complete = true; /* XRT's matter */
        b->run->callback = ended;
        b->run->callback_inline = true;
        b->run->callback_data = b;
    }
    size_t sent = 4 * (size_t)(count - nmasks), has = k->meta->reg_bytes;
    memcpy(b->run->regs, p + 1 + nmasks, sent < has ? sent : has);
    return b->run;
}

int drv_command_start(struct drv_device *d, unsigned number)
{
    struct xrt_run *r = NULL;
    if (drv_fault(d, "xrtRunStart"))
        return -1;
    pthread_mutex_lock(&d->lock);
    struct drv_buffer *b = drv_buffer_find(d, number);
    if (b && !b->packet)
        xrt_fail(d->board->board, EINVAL, "buffer %u is not a command buffer", number);
    else if (b && b->busy)
        xrt_fail(d->board->board, EBUSY, "this command is still in flight: its run was closed before it ended");
    else if (b && (r = prepare(d, b)))
        b->busy = true;
    pthread_mutex_unlock(&d->lock);
    if (!r)
        return -1;
    if (xrt_run_start(r) == 0)
        return 0;
    int saved = errno;
    pthread_mutex_lock(&d->lock);
    b->busy = false;
    pthread_mutex_unlock(&d->lock);
    errno = saved;
    return -1;
}

void drv_command_stop(struct drv_device *d, struct drv_buffer *b)
{
    while (b->busy) {
        struct xrt_run *r = b->run;
        pthread_mutex_unlock(&d->lock);
        xrt_queue_cancel(r);
        pthread_mutex_lock(&d->lock);
        if (b->busy)
            pthread_cond_wait(&d->changed, &d->lock);
    }
}

void drv_command_stop_all(struct drv_device *d)
{
    pthread_mutex_lock(&d->lock);
    for (unsigned i = 0; i < d->nbuffers; i++)
        if (d->buffers[i])
            drv_command_stop(d, d->buffers[i]);
    pthread_mutex_unlock(&d->lock);
}

/* True when a command ended that this thread has not been told of.  Waiters look at their packets first, so one
 * answer may stand for many ends, but none may be lost to another thread's wait. */
int drv_command_wait(struct drv_device *d, int milliseconds)
{
    static _Thread_local struct { uint64_t device, ended; } told;
    uint64_t now = emu_now_ns(), end = milliseconds < 0 ? UINT64_MAX : now + (uint64_t)milliseconds * 1000000u;
    if (told.device != d->id) {
        told.device = d->id;
        told.ended = 0;
    }
    pthread_mutex_lock(&d->lock);
    while (d->ended == told.ended && now < end) {
        if (atomic_load(&d->board->board->vanished)) { /* set by any process, which cannot wake us */
            pthread_mutex_unlock(&d->lock);
            drv_command_stop_all(d);
            pthread_mutex_lock(&d->lock);
            if (d->ended != told.ended)
                break;
        }
        uint64_t until = end - now < GLANCE_NS ? end : now + GLANCE_NS;
        struct timespec at = { (time_t)(until / 1000000000u), (long)(until % 1000000000u) };
        pthread_cond_timedwait(&d->changed, &d->lock, &at);
        now = emu_now_ns();
    }
    int any = d->ended != told.ended;
    told.ended = d->ended;
    pthread_mutex_unlock(&d->lock);
    return any;
}
