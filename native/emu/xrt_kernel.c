/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_kernel.c: kernels of the loaded image, their arguments' places, and the registers of a CU.
 */
#define _GNU_SOURCE 1
#include "xrt_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { AP_START = 1, AP_DONE = 2, AP_IDLE = 4, AP_READY = 8, AP_CTRL_NONE = 2 };

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

static int find_cus(struct xrt_kernel *k, const struct xrt_device *d, const char *name)
{
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

/* Register as a user of the CUs; the first one takes the board's context.  With the device's lock. */
static int take_context(struct xrt_kernel *k, struct xrt_device *d)
{
    for (uint32_t i = 0; i < k->ncus; i++) {
        const struct xrt_cu *cu = &d->cus[k->cus[i]];
        if (cu->users && cu->exclusive != k->exclusive)
            return xrt_fail(d->board, EBUSY, "Conflicting access mode for compute unit %s: it is open in %s mode",
                            k->image->cus[k->cus[i]].name, cu->exclusive ? "exclusive" : "shared");
    }
    int rc = d->contexts ? 0 : hold_context(d);
    if (rc)
        return xrt_fail(d->board, rc, "cannot open a context: %s", rc == EBUSY ? "an xclbin is being loaded" :
                        strerror(rc));
    d->contexts++;
    for (uint32_t i = 0; i < k->ncus; i++) {
        struct xrt_cu *cu = &d->cus[k->cus[i]];
        cu->users++;
        cu->exclusive = k->exclusive;
        if (k->exclusive && !cu->regs && (cu->regs = calloc(1, XRT_REG_BYTES)))
            cu->regs[0] = AP_IDLE;
    }
    return 0;
}

static void drop_context(struct xrt_kernel *k, struct xrt_device *d)
{
    pthread_mutex_lock(&d->lock);
    for (uint32_t i = 0; i < k->ncus; i++)
        if (d->cus[k->cus[i]].users)
            d->cus[k->cus[i]].users--;
    if (--d->contexts == 0)
        emu_hold_release(d->context_fd);
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
    drop_context(k, o->device);
    xclbin_release(k->image);
    xrt_unpin(&o->device->object);
    free(k);
}

/* With the device's lock: opening a kernel and loading an image exclude each other. */
static int prepare(struct xrt_kernel *k, struct xrt_device *d, const unsigned char *uuid, const char *name)
{
    if (!uuid || !name || !*name)
        return xrt_fail(d->board, EINVAL, "a kernel needs the UUID of its xclbin and a name");
    if (!d->image)
        return xrt_fail(d->board, EINVAL, "No xclbin is loaded by this process: load one before kernels are opened");
    if (memcmp(d->image->uuid, uuid, 16) != 0)
        return xrt_fail(d->board, EINVAL, "the UUID is not that of the xclbin that this process loaded");
    k->image = xclbin_retain(d->image);
    k->use_groups = d->use_groups;
    if (find_cus(k, d, name) || choose_readers(k, d))
        return -1;
    k->model = emu_model_by_kernel(k->meta->name);
    if (!k->model)
        return xrt_fail(d->board, ENOSYS, "the emulator has no model of kernel %s", k->meta->name);
    return take_context(k, d);
}

static xrtKernelHandle open_kernel(xrtDeviceHandle device, const unsigned char *uuid, const char *name, bool exclusive,
                                   const char *call)
{
    struct xrt_device *d = xrt_enter(device, XRT_DEVICE, call);
    if (!d)
        return NULL;
    struct xrt_kernel *k = calloc(1, sizeof *k);
    void *handle = NULL;
    if (!k) {
        xrt_fail(d->board, ENOMEM, "out of memory");
    } else {
        k->object = (struct xrt_object){ .device = d, .destroy = destroy };
        k->exclusive = exclusive;
        pthread_mutex_lock(&d->lock);
        int rc = prepare(k, d, uuid, name);
        pthread_mutex_unlock(&d->lock);
        if (rc == 0 && check_loaded(k, d) == 0) {
            xrt_retain(&d->object);
            handle = xrt_publish(&k->object, XRT_KERNEL);
            if (!handle) {
                destroy(&k->object);
                xrt_fail(d->board, ENOMEM, "out of handles");
            }
        } else {
            int saved = errno;
            if (rc == 0)
                drop_context(k, d);
            xclbin_release(k->image);
            free(k);
            errno = saved;
        }
    }
    xrt_leave(d);
    return handle;
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
    struct xrt_device *d = k->object.device;
    int rc = data ? check_access(k, offset, __func__) : xrt_fail(d->board, EINVAL, "%s: no place for the data",
                                                                 __func__);
    if (rc == 0) {
        struct xrt_cu *cu = &d->cus[k->cus[0]];
        pthread_mutex_lock(&d->lock);
        *data = cu->regs && offset < XRT_REG_BYTES ? cu->regs[offset / 4] : 0;
        if (offset == 0 && cu->regs)
            cu->regs[0] &= ~(uint32_t)(AP_DONE | AP_READY); /* these clear when read */
        pthread_mutex_unlock(&d->lock);
    }
    xrt_leave(k);
    return rc;
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

int xrtKernelWriteRegister(xrtKernelHandle handle, uint32_t offset, uint32_t data)
{
    struct xrt_kernel *k = xrt_enter(handle, XRT_KERNEL, __func__);
    if (!k)
        return -1;
    struct xrt_device *d = k->object.device;
    int rc = check_access(k, offset, __func__);
    if (rc == 0 && offset == 0) {
        rc = data & AP_START ? start_by_register(k) : 0;
    } else if (rc == 0 && offset < XRT_REG_BYTES) {
        pthread_mutex_lock(&d->lock);
        if (d->cus[k->cus[0]].regs)
            d->cus[k->cus[0]].regs[offset / 4] = data;
        pthread_mutex_unlock(&d->lock);
    }
    xrt_leave(k);
    return rc;
}
