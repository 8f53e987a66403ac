/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_cu.c: compute units of the loaded image: who uses them, and their registers.
 */
#define _GNU_SOURCE 1
#include "xrt_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { AP_START = 1, AP_DONE = 2, AP_IDLE = 4, AP_READY = 8 };

/* ---- use ------------------------------------------------------------------------------------------- */

static int choose_readers(struct xrt_kernel *k, const struct xrt_device *d)
{
    static const struct { const char *type; enum xrt_reader reader; } named[] = {
        { "int", XRT_READ_INT }, { "uint", XRT_READ_UINT }, { "float", XRT_READ_FLOAT }, { "double", XRT_READ_DOUBLE },
        { "int*", XRT_READ_POINTER }, { "uint*", XRT_READ_POINTER },
    };
    for (uint32_t i = 0; i < k->meta->nargs; i++) {
        const struct xclbin_argument *a = &k->meta->args[i];
        if (a->qualifier == XCLBIN_GLOBAL || a->qualifier == XCLBIN_CONSTANT) {
            k->readers[i] = XRT_READ_BUFFER;
            continue;
        }
        if (a->qualifier != XCLBIN_SCALAR) {
            k->readers[i] = XRT_READ_NOTHING;
            continue;
        }
        if (strcmp(a->type, "float*") == 0)
            return xrt_fail(d->board, EINVAL, "argument %s of kernel %s is a scalar of type float*", a->name,
                            k->meta->name);
        k->readers[i] = a->size == 4 ? XRT_READ_U32 : a->size == 8 ? XRT_READ_U64 : XRT_READ_SIZE;
        for (size_t n = 0; n < sizeof named / sizeof *named; n++)
            if (strcmp(a->type, named[n].type) == 0)
                k->readers[i] = named[n].reader;
    }
    return 0;
}

/* Only a loader has the context for itself: wait for it.  Whether it loaded our image is checked after. */
static int hold_context(struct xrt_device *d)
{
    uint64_t give_up = emu_now_ns() + d->board->program_ns + XRT_LOAD_WAIT_NS;
    int rc;
    while ((rc = emu_hold(d->rack, d->board, "context", EMU_HOLD_SHARED, &d->context_fd, NULL)) == EBUSY &&
           emu_now_ns() < give_up)
        nanosleep(&(struct timespec){ 0, 200000 }, NULL);
    return rc;
}

int xrt_context_take(struct xrt_device *d)
{
    int rc = d->contexts ? 0 : hold_context(d);
    if (rc)
        return xrt_fail(d->board, rc, "cannot open a context: %s", rc == EBUSY ? "an xclbin is being loaded" :
                        strerror(rc));
    d->contexts++;
    return 0;
}

void xrt_context_drop(struct xrt_device *d)
{
    if (--d->contexts == 0)
        emu_hold_release(d->context_fd);
}

/* Register as a user of the CUs; the first one takes the board's context.  With the device's lock. */
static int take_cus(struct xrt_kernel *k, struct xrt_device *d)
{
    for (uint32_t i = 0; i < k->ncus; i++) {
        const struct xrt_cu *cu = &d->cus[k->cus[i]];
        if (cu->users && cu->exclusive != k->exclusive)
            return xrt_fail(d->board, EBUSY, "Conflicting access mode for compute unit %s: it is open in %s mode",
                            k->image->cus[k->cus[i]].name, cu->exclusive ? "exclusive" : "shared");
    }
    if (xrt_context_take(d))
        return -1;
    for (uint32_t i = 0; i < k->ncus; i++) {
        struct xrt_cu *cu = &d->cus[k->cus[i]];
        cu->users++;
        cu->exclusive = k->exclusive;
        if (k->exclusive && !cu->regs && (cu->regs = calloc(1, XRT_REG_BYTES)))
            cu->regs[0] = AP_IDLE;
    }
    return 0;
}

static void drop_cus(struct xrt_kernel *k, struct xrt_device *d)
{
    pthread_mutex_lock(&d->lock);
    for (uint32_t i = 0; i < k->ncus; i++)
        if (d->cus[k->cus[i]].users)
            d->cus[k->cus[i]].users--;
    xrt_context_drop(d);
    pthread_mutex_unlock(&d->lock);
}

/* While the context is held the image cannot change: what is loaded now, stays. */
static int check_loaded(struct xrt_kernel *k, struct xrt_device *d)
{
    emu_lock(d->board);
    bool same = atomic_load(&d->board->state) == EMU_READY && memcmp(d->board->afu_id, k->image->uuid, 16) == 0;
    k->epoch = atomic_load(&d->board->epoch);
    emu_unlock(d->board);
    if (same)
        return 0;
    return xrt_fail(d->board, EINVAL,
                    "the xclbin that this process loaded is not what the board holds now; load it again");
}

static void destroy(struct xrt_object *o)
{
    struct xrt_kernel *k = (struct xrt_kernel *)o;
    drop_cus(k, o->device);
    xclbin_release(k->image);
    xrt_unpin(&o->device->object);
    free(k);
}

/* With the device's lock: opening a kernel and loading an image exclude each other. */
static int prepare(struct xrt_kernel *k, struct xrt_device *d, const unsigned char *uuid, xrt_find_cus find,
                   const void *what)
{
    if (!d->image)
        return xrt_fail(d->board, EINVAL, "No xclbin is loaded by this process: load one before kernels are opened");
    if (memcmp(d->image->uuid, uuid, 16) != 0)
        return xrt_fail(d->board, EINVAL, "the UUID is not that of the xclbin that this process loaded");
    k->image = xclbin_retain(d->image);
    k->use_groups = d->use_groups;
    if (find(k, d, what) || choose_readers(k, d))
        return -1;
    k->model = emu_model_by_kernel(k->meta->name);
    if (!k->model)
        return xrt_fail(d->board, ENOSYS, "the emulator has no model of kernel %s in this process", k->meta->name);
    return take_cus(k, d);
}

struct xrt_kernel *xrt_kernel_make(struct xrt_device *d, const unsigned char *uuid, bool exclusive, xrt_find_cus find,
                                   const void *what)
{
    struct xrt_kernel *k = calloc(1, sizeof *k);
    if (!k) {
        xrt_fail(d->board, ENOMEM, "out of memory");
        return NULL;
    }
    k->object = (struct xrt_object){ .device = d, .destroy = destroy };
    k->exclusive = exclusive;
    pthread_mutex_lock(&d->lock);
    int rc = prepare(k, d, uuid, find, what);
    pthread_mutex_unlock(&d->lock);
    if (rc == 0 && check_loaded(k, d) == 0) {
        xrt_retain(&d->object);
        if (xrt_publish(&k->object, XRT_KERNEL))
            return k;
        destroy(&k->object);
        xrt_fail(d->board, ENOMEM, "out of handles");
        return NULL;
    }
    int saved = errno;
    if (rc == 0)
        drop_cus(k, d);
    xclbin_release(k->image);
    free(k);
    errno = saved;
    return NULL;
}

/* ---- registers ------------------------------------------------------------------------------------- */

/* What the CU shows while and after a run: only an exclusive kernel of one CU can look. */
static struct xrt_cu *visible_cu(struct xrt_kernel *k)
{
    return k->exclusive && k->ncus == 1 ? &k->object.device->cus[k->cus[0]] : NULL;
}

void xrt_cu_started(struct xrt_run *r)
{
    struct xrt_kernel *k = r->kernel;
    struct xrt_cu *cu = visible_cu(k);
    if (!cu)
        return;
    struct xrt_device *d = k->object.device;
    pthread_mutex_lock(&d->lock);
    if (cu->regs) {
        cu->regs[0] = AP_START;
        if (k->meta->reg_bytes > 0x10)
            memcpy(cu->regs + 4, r->regs + 4, (k->meta->reg_bytes + 3 - 0x10) & ~3u);
    }
    pthread_mutex_unlock(&d->lock);
}

void xrt_cu_finished(struct xrt_run *r, uint32_t state)
{
    struct xrt_cu *cu = visible_cu(r->kernel);
    if (!cu)
        return;
    struct xrt_device *d = r->kernel->object.device;
    pthread_mutex_lock(&d->lock);
    if (cu->regs)
        cu->regs[0] = state == ERT_CMD_STATE_COMPLETED ? AP_DONE | AP_IDLE | AP_READY : AP_IDLE;
    pthread_mutex_unlock(&d->lock);
}

/* AP_START: the CU runs with the arguments that its registers hold. */
static int start_by_register(struct xrt_kernel *k)
{
    struct xrt_device *d = k->object.device;
    struct xrt_run *r = xrt_run_make(k);
    if (!r)
        return xrt_fail(d->board, ENOMEM, "out of memory");
    pthread_mutex_lock(&d->lock);
    const uint32_t *regs = d->cus[k->cus[0]].regs;
    if (regs && k->meta->reg_bytes > 0x10)
        memcpy(r->regs + 4, regs + 4, (k->meta->reg_bytes + 3 - 0x10) & ~3u);
    pthread_mutex_unlock(&d->lock);
    r->complete = true;
    int rc = xrt_run_start(r);
    xrt_unpublish(&r->object); /* if it still executes, the worker has a reference */
    return rc;
}

/* Registers as the host reads and writes them; the caller has checked the offset. */
uint32_t xrt_cu_read(struct xrt_kernel *k, uint32_t offset)
{
    struct xrt_device *d = k->object.device;
    struct xrt_cu *cu = &d->cus[k->cus[0]];
    pthread_mutex_lock(&d->lock);
    uint32_t value = cu->regs && offset < XRT_REG_BYTES ? cu->regs[offset / 4] : 0;
    if (offset == 0 && cu->regs)
        cu->regs[0] &= ~(uint32_t)(AP_DONE | AP_READY); /* these clear when read */
    pthread_mutex_unlock(&d->lock);
    return value;
}

int xrt_cu_write(struct xrt_kernel *k, uint32_t offset, uint32_t value)
{
    struct xrt_device *d = k->object.device;
    if (offset == 0)
        return value & AP_START ? start_by_register(k) : 0;
    if (offset < XRT_REG_BYTES) {
        pthread_mutex_lock(&d->lock);
        if (d->cus[k->cus[0]].regs)
            d->cus[k->cus[0]].regs[offset / 4] = value;
        pthread_mutex_unlock(&d->lock);
    }
    return 0;
}
