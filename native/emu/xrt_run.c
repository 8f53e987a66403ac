/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_run.c: runs as handles: open, arguments, wait, close.  What they do is in xrt_execute.c. */
#define _GNU_SOURCE 1
#include "xrt_private.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define GLANCE_NS 50000000ull /* how often a waiter looks whether the board is still there */

static struct emu_board *board_of(const struct xrt_run *r)
{
    return r->object.device->board;
}

/* ---- open ------------------------------------------------------------------------------------------ */

xrtRunHandle xrtRunOpen(xrtKernelHandle kernel)
{
    struct xrt_kernel *k = xrt_enter(kernel, XRT_KERNEL, __func__);
    if (!k)
        return NULL;
    struct xrt_run *r = xrt_run_make(k);
    if (!r)
        xrt_fail(k->object.device->board, ENOMEM, "%s: out of memory", __func__);
    void *handle = r ? r->handle : NULL;
    xrt_leave(k);
    return handle;
}

int xrtRunClose(xrtRunHandle handle)
{
    struct xrt_run *r = xrt_enter_closing(handle, XRT_RUN, __func__);
    if (!r)
        return -1;
    /* XRT hands the command back while the card may still use it.  Here the run is cancelled, and its
     * worker frees it when it has let go. */
    if (xrt_unpublish(&r->object) && xrt_in_flight(atomic_load(&r->state)))
        xrt_queue_forget(r);
    xrt_leave(r);
    return 0;
}

/* ---- arguments ------------------------------------------------------------------------------------- */

struct arguments { /* a va_list can be passed on portably only inside a struct */
    va_list ap;
};

static void store(struct xrt_run *r, const struct xclbin_argument *a, const void *value, size_t size)
{
    uint8_t *at = (uint8_t *)r->regs + a->offset;
    size_t n = a->size < size ? a->size : size;
    if (n == 8)
        memcpy(at, value, 8);
    else if (n == 4)
        memcpy(at, value, 4);
    else
        memcpy(at, value, n);
    if (a->size > n)
        memset(at + n, 0, a->size - n);
}

static int store_buffer(struct xrt_run *r, int index, void *handle)
{
    struct xrt_argument *arg = &r->args[index];
    struct xrt_buffer *b = (struct xrt_buffer *)xrt_pin(handle, XRT_BUFFER);
    if (!b)
        return xrt_fail(board_of(r), EINVAL, "argument %d of kernel %s: No such buffer handle %p", index,
                        r->kernel->meta->name, handle);
    int rc = 0;
    if (b->object.device != r->object.device)
        rc = xrt_fail(board_of(r), EINVAL, "argument %d of kernel %s: the buffer is on another device", index,
                      r->kernel->meta->name);
    else
        store(r, &r->kernel->meta->args[index], &b->address, sizeof b->address);
    arg->buffer = handle;
    xrt_leave(b);
    return rc;
}

static int set_argument(struct xrt_run *r, int index, struct arguments *from)
{
    const struct xclbin_kernel *meta = r->kernel->meta;
    if (index < 0 || (uint32_t)index >= meta->nargs)
        return xrt_fail(board_of(r), EINVAL, "kernel %s has no argument %d", meta->name, index);
    if (xrt_in_flight(atomic_load_explicit(&r->state, memory_order_relaxed)))
        return xrt_fail(board_of(r), EBUSY, "argument %d of kernel %s: the run is in flight", index, meta->name);
    const struct xclbin_argument *a = &meta->args[index];
    union { int64_t i; uint64_t u; float f; double d; } v = { 0 };
    int rc = 0;
    switch (r->kernel->readers[index]) {
    case XRT_READ_BUFFER: rc = store_buffer(r, index, va_arg(from->ap, void *)); break;
    case XRT_READ_NOTHING: (void)va_arg(from->ap, void *); break;
    case XRT_READ_INT: v.i = va_arg(from->ap, int); store(r, a, &v, 8); break;
    case XRT_READ_UINT: v.u = va_arg(from->ap, unsigned); store(r, a, &v, 8); break;
    case XRT_READ_FLOAT: v.f = (float)va_arg(from->ap, double); store(r, a, &v, 8); break;
    case XRT_READ_DOUBLE: v.d = va_arg(from->ap, double); store(r, a, &v, 8); break;
    case XRT_READ_U32: v.u = va_arg(from->ap, uint32_t); store(r, a, &v, 8); break;
    case XRT_READ_U64: v.u = va_arg(from->ap, uint64_t); store(r, a, &v, 8); break;
    case XRT_READ_SIZE: v.u = va_arg(from->ap, size_t); store(r, a, &v, 8); break;
    case XRT_READ_POINTER: {
        const void *p = va_arg(from->ap, const void *);
        if (!p)
            return xrt_fail(board_of(r), EINVAL, "argument %d of kernel %s: null pointer", index, meta->name);
        store(r, a, p, a->size);
        break;
    }
    }
    if (rc == 0)
        r->args[index].set = true;
    return rc;
}

int xrtRunSetArg(xrtRunHandle handle, int index, ...)
{
    struct xrt_run *r = xrt_enter(handle, XRT_RUN, __func__);
    if (!r)
        return -1;
    struct arguments from;
    va_start(from.ap, index);
    int rc = set_argument(r, index, &from);
    va_end(from.ap);
    xrt_leave(r);
    return rc;
}

int xrtRunUpdateArg(xrtRunHandle handle, int index, ...)
{
    struct xrt_run *r = xrt_enter(handle, XRT_RUN, __func__);
    if (!r)
        return -1;
    struct arguments from;
    va_start(from.ap, index);
    int rc = xrt_in_flight(atomic_load(&r->state))
                 ? xrt_fail(board_of(r), EOPNOTSUPP, "xrtRunUpdateArg: not on a PCIe board while the run is in flight")
                 : set_argument(r, index, &from);
    va_end(from.ap);
    xrt_leave(r);
    return rc;
}

/* ---- start ----------------------------------------------------------------------------------------- */

int xrtRunStart(xrtRunHandle handle)
{
    struct xrt_run *r = xrt_enter(handle, XRT_RUN, __func__);
    if (!r) {
        int saved = errno;
        if ((r = (struct xrt_run *)xrt_pin(handle, XRT_RUN))) { /* its board refused */
            atomic_store(&r->spent, true);
            xrt_leave(r);
        }
        errno = saved;
        return -1;
    }
    int rc = -1;
    if (atomic_load_explicit(&r->spent, memory_order_relaxed))
        xrt_fail(board_of(r), EBUSY, "%s: bad command state: an earlier start failed; open another run", __func__);
    else
        rc = xrt_run_start(r);
    if (rc && errno == ENODEV)
        atomic_store(&r->spent, true);
    xrt_leave(r);
    return rc;
}

xrtRunHandle xrtKernelRun(xrtKernelHandle kernel, ...)
{
    struct xrt_kernel *k = xrt_enter(kernel, XRT_KERNEL, __func__);
    if (!k)
        return NULL;
    struct xrt_run *r = xrt_run_make(k);
    int rc = r ? 0 : xrt_fail(k->object.device->board, ENOMEM, "%s: out of memory", __func__);
    struct arguments from;
    va_start(from.ap, kernel);
    for (uint32_t i = 0; rc == 0 && i < k->meta->nargs; i++)
        rc = set_argument(r, (int)i, &from);
    va_end(from.ap);
    void *handle = r ? r->handle : NULL;
    if (rc == 0)
        rc = xrt_run_start(r);
    if (rc && r)
        xrt_unpublish(&r->object);
    xrt_leave(k);
    return rc ? NULL : handle;
}

/* ---- wait ------------------------------------------------------------------------------------------ */

static struct timespec at_ns(uint64_t ns)
{
    return (struct timespec){ (time_t)(ns / 1000000000u), (long)(ns % 1000000000u) };
}

static uint32_t wait_for(struct xrt_run *r, unsigned milliseconds, const char *call)
{
    uint32_t state = atomic_load_explicit(&r->state, memory_order_acquire);
    if (state >= ERT_CMD_STATE_COMPLETED)
        return state;
    if (state == ERT_CMD_STATE_NEW) { /* the real one would wait for ever */
        xrt_fail(board_of(r), EINVAL, "%s: the run was never started", call);
        return ERT_CMD_STATE_ABORT;
    }
    uint64_t deadline = milliseconds ? emu_now_ns() + milliseconds * UINT64_C(1000000) : UINT64_MAX;
    pthread_mutex_lock(&r->lock);
    atomic_fetch_add(&r->waiters, 1);
    while ((state = atomic_load(&r->state)) < ERT_CMD_STATE_COMPLETED) {
        uint64_t now = emu_now_ns();
        if (now >= deadline) {
            state = ERT_CMD_STATE_TIMEOUT;
            break;
        }
        if (atomic_load(&board_of(r)->vanished)) { /* set by any process, which cannot wake us */
            xrt_fail(board_of(r), ENODEV, "%s: the device is gone", call);
            state = ERT_CMD_STATE_ABORT;
            break;
        }
        struct timespec until = at_ns(deadline - now < GLANCE_NS ? deadline : now + GLANCE_NS);
        pthread_cond_timedwait(&r->done, &r->lock, &until);
    }
    atomic_fetch_sub(&r->waiters, 1);
    pthread_mutex_unlock(&r->lock);
    return state;
}

enum ert_cmd_state xrtRunWaitFor(xrtRunHandle handle, unsigned int milliseconds)
{
    struct xrt_run *r = xrt_enter(handle, XRT_RUN, __func__);
    if (!r)
        return ERT_CMD_STATE_ABORT;
    uint32_t state = wait_for(r, milliseconds, __func__);
    xrt_leave(r);
    return (enum ert_cmd_state)state;
}

enum ert_cmd_state xrtRunWait(xrtRunHandle handle)
{
    struct xrt_run *r = xrt_enter(handle, XRT_RUN, __func__);
    if (!r)
        return ERT_CMD_STATE_ABORT;
    uint32_t state = wait_for(r, 0, __func__);
    xrt_leave(r);
    return (enum ert_cmd_state)state;
}

enum ert_cmd_state xrtRunState(xrtRunHandle handle)
{
    struct xrt_run *r = xrt_enter(handle, XRT_RUN, __func__);
    if (!r)
        return ERT_CMD_STATE_ABORT;
    uint32_t state = atomic_load_explicit(&r->state, memory_order_acquire);
    xrt_leave(r);
    return (enum ert_cmd_state)state;
}

int xrtRunSetCallback(xrtRunHandle handle, enum ert_cmd_state state,
                      void (*callback)(xrtRunHandle, enum ert_cmd_state, void *), void *data)
{
    struct xrt_run *r = xrt_enter(handle, XRT_RUN, __func__);
    if (!r)
        return -1;
    int rc = 0;
    if (state != ERT_CMD_STATE_COMPLETED || !callback) {
        rc = xrt_fail(board_of(r), EINVAL, "%s: a callback can be set for the state COMPLETED only", __func__);
    } else if (r->started && !r->callback) {
        rc = xrt_fail(board_of(r), EINVAL, "%s: the run was already started without a callback", __func__);
    } else if (xrt_in_flight(atomic_load(&r->state))) {
        rc = xrt_fail(board_of(r), EBUSY, "%s: the run is in flight", __func__);
    } else {
        r->callback = callback;
        r->callback_data = data;
    }
    xrt_leave(r);
    return rc;
}
