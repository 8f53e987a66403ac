/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_xclbin.c: xclbin files: as objects of their own, and the three ways to hand one to a device. */
#define _GNU_SOURCE 1
#include "xrt_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct xrt_xclbin {
    struct xrt_object object;
    struct xclbin *parsed;
    uint8_t *data;
    size_t size;
};

static void destroy(struct xrt_object *o)
{
    struct xrt_xclbin *x = (struct xrt_xclbin *)o;
    xclbin_release(x->parsed);
    free(x->data);
    free(x);
}

/* Takes `data` over. */
static void *make(uint8_t *data, size_t size)
{
    char why[256] = "out of memory";
    struct xrt_xclbin *x = calloc(1, sizeof *x);
    struct xclbin *parsed = x ? xclbin_parse(data, size, why, sizeof why) : NULL;
    if (!parsed) {
        free(x);
        free(data);
        xrt_fail(NULL, EINVAL, "Invalid xclbin: %s", why);
        return NULL;
    }
    *x = (struct xrt_xclbin){ { .destroy = destroy }, parsed, data, size };
    void *handle = xrt_publish(&x->object, XRT_XCLBIN);
    if (!handle) {
        destroy(&x->object);
        xrt_fail(NULL, ENOMEM, "out of memory");
    }
    return handle;
}

static struct xrt_xclbin *enter(const void *handle, const char *call)
{
    if (xrt_fault_anywhere(call))
        return NULL;
    struct xrt_object *o = xrt_pin(handle, XRT_XCLBIN);
    return o ? (struct xrt_xclbin *)o : xrt_enter_slow(NULL, handle, XRT_XCLBIN, call, false);
}

/* A file's bytes (malloc), or NULL and errno. */
static uint8_t *read_file(const char *path, size_t *size)
{
    struct stat st;
    uint8_t *data = NULL;
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (!path)
        errno = EINVAL;
    if (fd < 0)
        return NULL;
    errno = EINVAL;
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size <= XCLBIN_MAX_BYTES)
        data = malloc((size_t)st.st_size + 1);
    *size = 0;
    while (data && *size < (size_t)st.st_size) {
        ssize_t n = read(fd, data + *size, (size_t)st.st_size - *size);
        if (n <= 0)
            break; /* cut while it is read: the parser will say so */
        *size += (size_t)n;
    }
    int saved = errno;
    close(fd);
    errno = saved;
    return data;
}

void *xrtXclbinAllocFilename(const char *path)
{
    size_t size;
    if (xrt_fault_anywhere(__func__))
        return NULL;
    uint8_t *data = read_file(path, &size);
    if (data)
        return make(data, size);
    xrt_fail(NULL, errno, "cannot read xclbin %s: %s", path ? path : "(null)", strerror(errno));
    return NULL;
}

void *xrtXclbinAllocRawData(const char *data, int size)
{
    if (xrt_fault_anywhere(__func__))
        return NULL;
    uint8_t *copy = data && size > 0 ? malloc((size_t)size) : NULL;
    if (!copy) {
        xrt_fail(NULL, EINVAL, "Invalid xclbin: no data");
        return NULL;
    }
    memcpy(copy, data, (size_t)size);
    return make(copy, (size_t)size);
}

int xrtXclbinFreeHandle(void *handle)
{
    struct xrt_xclbin *x = enter(handle, __func__);
    if (!x)
        return -1;
    xrt_unpublish(&x->object);
    xrt_leave(x);
    return 0;
}

int xrtXclbinGetUUID(void *handle, unsigned char out[16])
{
    struct xrt_xclbin *x = enter(handle, __func__);
    if (!x)
        return -1;
    if (out)
        memcpy(out, x->parsed->uuid, 16);
    xrt_leave(x);
    return out ? 0 : xrt_fail(NULL, EINVAL, "%s: no place for the UUID", __func__);
}

int xrtXclbinGetXSAName(void *handle, char *name, int size, int *ret_size)
{
    struct xrt_xclbin *x = enter(handle, __func__);
    if (!x)
        return -1;
    size_t n = strlen(x->parsed->vbnv);
    if (ret_size)
        *ret_size = (int)n; /* without the NUL, which is missing in `name` when that is short */
    if (name && size > 0)
        memcpy(name, x->parsed->vbnv, (size_t)size < n + 1 ? (size_t)size : n + 1);
    xrt_leave(x);
    return 0;
}

size_t xrtXclbinGetNumKernels(void *handle)
{
    struct xrt_xclbin *x = enter(handle, __func__);
    if (!x)
        return SIZE_MAX;
    size_t n = x->parsed->nkernels;
    xrt_leave(x);
    return n;
}

size_t xrtXclbinGetNumKernelComputeUnits(void *handle)
{
    struct xrt_xclbin *x = enter(handle, __func__);
    if (!x)
        return SIZE_MAX;
    size_t n = x->parsed->ncus;
    xrt_leave(x);
    return n;
}

/* ---- onto a device ---------------------------------------------------------------------------------- */

int xrtDeviceLoadXclbinHandle(xrtDeviceHandle device, void *handle)
{
    struct xrt_device *d = xrt_enter(device, XRT_DEVICE, __func__);
    if (!d)
        return -1;
    struct xrt_xclbin *x = enter(handle, __func__);
    int rc = x ? xrt_load(d, x->data, x->size) : -1;
    if (x)
        xrt_leave(x);
    xrt_leave(d);
    return rc;
}

/* Can these bytes be read?  The C call has only the length that the header claims; the real library
 * reads past the end if it lies. */
static bool readable(const uint8_t *at, size_t size)
{
    enum { BATCH = 256 };
    struct iovec remote[BATCH];
    uint8_t bytes[BATCH];
    const uint8_t *end = at + size;
    while (at < end) {
        int n = 0;
        for (; n < BATCH && at < end; n++) { /* one byte of each page */
            remote[n] = (struct iovec){ (void *)(uintptr_t)at, 1 };
            size_t step = EMU_PAGE - ((uintptr_t)at & (EMU_PAGE - 1));
            at = step < (size_t)(end - at) ? at + step : end;
        }
        struct iovec local = { bytes, (size_t)n };
        ssize_t got = process_vm_readv(getpid(), &local, 1, remote, (unsigned long)n, 0);
        if (got < 0 && errno != EFAULT)
            return true; /* not allowed to ask */
        if (got != n)
            return false;
    }
    return true;
}

int xrtDeviceLoadXclbin(xrtDeviceHandle handle, const void *axlf)
{
    struct xrt_device *d = xrt_enter(handle, XRT_DEVICE, __func__);
    if (!d)
        return -1;
    int rc;
    uint64_t size = axlf && readable(axlf, XCLBIN_HEADER_BYTES) ? xclbin_length(axlf) : 0;
    if (size < XCLBIN_HEADER_BYTES || size > XCLBIN_MAX_BYTES || !readable(axlf, size))
        rc = xrt_fail(d->board, EINVAL, "Invalid xclbin: bad magic, or a length that is not so");
    else
        rc = xrt_load(d, axlf, size);
    xrt_leave(d);
    return rc;
}

int xrtDeviceLoadXclbinFile(xrtDeviceHandle handle, const char *path)
{
    struct xrt_device *d = xrt_enter(handle, XRT_DEVICE, __func__);
    if (!d)
        return -1;
    size_t size;
    uint8_t *data = read_file(path, &size);
    int rc = data ? xrt_load(d, data, size)
                  : xrt_fail(d->board, errno, "cannot read xclbin %s: %s", path ? path : "(null)", strerror(errno));
    free(data);
    xrt_leave(d);
    return rc;
}
