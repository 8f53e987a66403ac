/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_execute.c: what a run does.  A short one executes inside xrtRunStart; a long one, or one with a
 * callback, on the device's worker (xrt_queue.c).
 */
#include "xrt_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define INLINE_BYTES (256u << 10)
#define MAX_PINS 16

bool xrt_in_flight(uint32_t state)
{
    return state == ERT_CMD_STATE_QUEUED || state == ERT_CMD_STATE_RUNNING;
}

/* ---- a run ----------------------------------------------------------------------------------------- */

static void destroy(struct xrt_object *o)
{
    struct xrt_run *r = (struct xrt_run *)o;
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->done);
    xrt_leave(r->kernel);
    free(r->args);
    free(r);
}

struct xrt_run *xrt_run_make(struct xrt_kernel *k)
{
    /* Models may read a little past the last argument: pad to whole 64-bit words. */
    size_t reg_bytes = ((size_t)k->meta->reg_bytes + 15) & ~(size_t)7;
    struct xrt_run *r = calloc(1, sizeof *r + (reg_bytes < 32 ? 32 : reg_bytes));
    if (!r)
        return NULL;
    r->args = calloc((size_t)k->meta->nargs + 1, sizeof *r->args);
    r->object = (struct xrt_object){ .device = k->object.device, .destroy = destroy };
    r->kernel = k;
    r->state = ERT_CMD_STATE_NEW;
    r->complete = k->meta->nargs == 0;
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->done, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&r->lock, NULL);
    xrt_retain(&k->object);
    if (!r->args || !(r->handle = xrt_publish(&r->object, XRT_RUN))) {
        destroy(&r->object);
        return NULL;
    }
    return r;
}

/* ---- execution ------------------------------------------------------------------------------------- */

struct execution {
    struct emu_call call;
    struct xrt_run *run;
    unsigned npins;
    struct xrt_buffer *pins[MAX_PINS]; /* buffers in use: a free waits for them */
    uint64_t bad_address, bad_size;
    bool bad;
};

static void *within(const struct xrt_buffer *b, uint64_t address, uint64_t size)
{
    uint64_t offset = address - b->address;
    return address >= b->address && offset <= b->size && size <= b->size - offset ? b->card + offset : NULL;
}

/* A kernel asks for what an address argument points to: most likely the buffers of SetArg, in order. */
static void *run_memory(struct emu_call *call, uint64_t address, uint64_t size)
{
    struct execution *e = call->context;
    struct xrt_run *r = e->run;
    struct xrt_buffer *b;
    void *at;
    for (unsigned i = 0; i < e->npins; i++)
        if ((at = within(e->pins[i], address, size)))
            return at;
    if (e->npins < MAX_PINS) {
        for (uint32_t i = 0; i < r->kernel->meta->nargs; i++) {
            const struct xrt_argument *arg = &r->args[i];
            const struct xclbin_argument *meta = &r->kernel->meta->args[i];
            uint64_t value;
            if (!arg->buffer || meta->size != 8)
                continue;
            memcpy(&value, (const uint8_t *)r->regs + meta->offset, 8);
            if (value != address || !(b = (struct xrt_buffer *)xrt_pin(arg->buffer, XRT_BUFFER)))
                continue;
            if ((at = within(b, address, size))) {
                e->pins[e->npins++] = b;
                return at;
            }
            xrt_leave(b);
        }
        if ((b = xrt_memory_find(&r->object.device->memory, address, size))) {
            e->pins[e->npins++] = b;
            return within(b, address, size);
        }
    }
    e->bad = true;
    e->bad_address = address;
    e->bad_size = size;
    emu_error(r->object.device->board, false, "device memory [0x%" PRIx64 ", +0x%" PRIx64 ") is not allocated",
              address, size);
    return NULL;
}

/* Fault "flip": one word of the output, which is what the last pointer argument points to. */
static void flip(struct execution *e)
{
    const struct xclbin_kernel *meta = e->run->kernel->meta;
    for (uint32_t i = meta->nargs; i-- > 0;) {
        if (e->run->kernel->readers[i] != XRT_READ_BUFFER || meta->args[i].size != 8)
            continue;
        uint64_t address;
        memcpy(&address, (const uint8_t *)e->run->regs + meta->args[i].offset, 8);
        uint32_t word, *at = run_memory(&e->call, address, 4);
        if (at) {
            memcpy(&word, at, 4);
            word = ~word;
            memcpy(at, &word, 4);
        }
        return;
    }
}

void xrt_run_execute(struct xrt_run *r, bool inline_)
{
    struct xrt_kernel *k = r->kernel;
    struct xrt_device *d = r->object.device;
    struct execution e;
    e.run = r;
    e.npins = 0;
    e.bad = false;
    e.call = (struct emu_call){ d->rack, d->board, r->regs, k->meta->reg_bytes, run_memory, &e, &r->cancel };
    bool launched = inline_ || !d->board->launch_ns ||
                    emu_wait_until(d->board, emu_now_ns() + d->board->launch_ns, &r->cancel);
    int rc = launched ? k->model->execute(&e.call) : ECANCELED;
    uint32_t state = ERT_CMD_STATE_COMPLETED;
    if (atomic_load_explicit(&r->cancel, memory_order_relaxed) || atomic_load(&d->board->vanished)) {
        state = ERT_CMD_STATE_ABORT;
    } else if (rc || e.bad) {
        state = ERT_CMD_STATE_ERROR;
        if (e.bad)
            xrt_fail(d->board, EFAULT, "run of kernel %s failed: device memory [0x%" PRIx64 ", +0x%" PRIx64 ") is not "
                     "inside one allocated buffer", k->meta->name, e.bad_address, e.bad_size);
        else
            xrt_fail(d->board, rc, "run of kernel %s failed: %s", k->meta->name, strerror(rc));
    } else if (r->fail) {
        state = ERT_CMD_STATE_ERROR;
        xrt_fail(d->board, EIO, "run of kernel %s failed: injected fault", k->meta->name);
    } else if (r->flip) {
        flip(&e);
    }
    while (e.npins)
        xrt_leave(e.pins[--e.npins]);
    xrt_run_finish(r, state);
}

/* The caller has a reference: once the state is there, another thread may close the run. */
void xrt_run_finish(struct xrt_run *r, uint32_t state)
{
    xrt_cu_finished(r, state);
    atomic_exchange(&r->state, state);
    if (atomic_load(&r->waiters)) {
        pthread_mutex_lock(&r->lock);
        pthread_cond_broadcast(&r->done);
        pthread_mutex_unlock(&r->lock);
    }
    if (r->callback && !r->orphan)
        r->callback(r->handle, (enum ert_cmd_state)state, r->callback_data);
}

/* ---- start ----------------------------------------------------------------------------------------- */

static int check_complete(struct xrt_run *r)
{
    for (uint32_t i = 0; i < r->kernel->meta->nargs; i++)
        if (!r->args[i].set && r->kernel->readers[i] != XRT_READ_NOTHING)
            return xrt_fail(r->object.device->board, EINVAL,
                            "xrtRunStart: argument %u (%s) of kernel %s was never set", i,
                            r->kernel->meta->args[i].name, r->kernel->meta->name);
    r->complete = true;
    return 0;
}

/* The board changed since the kernel was opened: is the image still there? */
static int check_board(struct xrt_run *r)
{
    struct emu_board *b = r->object.device->board;
    emu_lock(b);
    bool same = atomic_load(&b->state) == EMU_READY && memcmp(b->afu_id, r->kernel->image->uuid, 16) == 0;
    emu_unlock(b);
    if (same)
        return 0;
    return xrt_fail(b, ENODEV, "xrtRunStart: the xclbin of kernel %s is no longer on the board", r->kernel->meta->name);
}

int xrt_run_start(struct xrt_run *r)
{
    struct xrt_device *d = r->object.device;
    struct emu_board *b = d->board;
    if (!r->complete && check_complete(r))
        return -1;
    if (atomic_load_explicit(&d->closed, memory_order_relaxed))
        return xrt_fail(b, ENODEV, "xrtRunStart: the device was closed");
    if (atomic_load_explicit(&b->epoch, memory_order_relaxed) != r->kernel->epoch && check_board(r))
        return -1;
    uint32_t state = atomic_load(&r->state);
    if (xrt_in_flight(state) || !atomic_compare_exchange_strong(&r->state, &state, ERT_CMD_STATE_RUNNING))
        return xrt_fail(b, EBUSY, "xrtRunStart: bad command state: the run is still in flight");
    r->started = true;
    r->fail = r->flip = false;
    atomic_store_explicit(&r->cancel, 0, memory_order_relaxed);
    if (atomic_load_explicit(&d->rack->shared->armed, memory_order_relaxed)) {
        if (emu_fault(d->rack, b, EMU_FAULT_HANG, NULL, NULL)) {
            xrt_cu_started(r);
            xrt_queue_hang(r);
            return 0;
        }
        r->fail = emu_fault(d->rack, b, EMU_FAULT_RUN_ERROR, NULL, NULL);
        r->flip = emu_fault(d->rack, b, EMU_FAULT_FLIP, NULL, NULL);
    }
    if (r->kernel->exclusive)
        xrt_cu_started(r);
    struct emu_call call = { d->rack, b, r->regs, r->kernel->meta->reg_bytes, run_memory, NULL, &r->cancel };
    if ((!r->callback || r->callback_inline) && !b->launch_ns && r->kernel->model->bytes
        && r->kernel->model->bytes(&call) <= INLINE_BYTES) {
        xrt_run_execute(r, true);
        return 0;
    }
    int rc = xrt_queue_push(r);
    if (rc) {
        atomic_store(&r->state, ERT_CMD_STATE_ABORT);
        return xrt_fail(b, rc, "xrtRunStart: %s", rc == ENODEV ? "the device was closed" : strerror(rc));
    }
    return 0;
}
