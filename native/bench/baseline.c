/* SPDX-License-Identifier: Apache-2.0 */
/*
 * baseline.c: the benchmark loops in plain C, over the same tables that the bindings use: what zero overhead
 * looks like.  Each function does `n` rounds and returns the nanoseconds that they took, or -1.
 * Compiled and loaded by benchmarks/; not part of a wheel.
 */
#include "opae_abi.h"
#include "xrt_abi.h"
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))

static opae_abi opae;
static xrt_abi xrt;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

/* Both libraries by path; 0 if whole. */
EXPORT int baseline_load(const char *opae_path, const char *xrt_path)
{
    void *o = dlopen(opae_path, RTLD_NOW | RTLD_LOCAL), *x = dlopen(xrt_path, RTLD_NOW | RTLD_LOCAL);
    return !o || !x || opae_abi_fill(o, &opae) || xrt_abi_fill(x, &xrt);
}

/* Open the first accelerator of the current rack, shared. */
EXPORT void *baseline_opae_open(void)
{
    fpga_properties filter = NULL;
    fpga_token token = NULL;
    fpga_handle handle = NULL;
    uint32_t found = 0;
    if (opae.fpgaGetProperties(NULL, &filter) || opae.fpgaPropertiesSetObjectType(filter, FPGA_ACCELERATOR))
        return NULL;
    opae.fpgaEnumerate((const fpga_properties *)&filter, 1, &token, 1, &found);
    opae.fpgaDestroyProperties(&filter);
    if (!found)
        return NULL;
    if (opae.fpgaOpen(token, &handle, FPGA_OPEN_SHARED))
        handle = NULL;
    opae.fpgaDestroyToken(&token);
    if (handle)
        opae.fpgaMapMMIO(handle, 0, NULL);
    return handle;
}

EXPORT void baseline_opae_close(void *handle)
{
    opae.fpgaClose(handle);
}

EXPORT double baseline_read64(void *handle, uint64_t offset, int n)
{
    uint64_t value, sum = 0;
    double start = now();
    for (int i = 0; i < n; i++) {
        if (opae.fpgaReadMMIO64(handle, 0, offset, &value))
            return -1;
        sum += value;
    }
    double spent = now() - start;
    return sum == 1 ? -1 : spent; /* the sum keeps the loop */
}

/* A device with an image loaded and a kernel of it: what one process needs before it can run anything. */
EXPORT void *baseline_xrt_open(const char *bdf, const void *image)
{
    void *device = xrt.xrtDeviceOpenByBDF(bdf);
    if (device && xrt.xrtDeviceLoadXclbin(device, image)) {
        xrt.xrtDeviceClose(device);
        return NULL;
    }
    return device;
}

EXPORT void *baseline_xrt_kernel(void *device, const char *name)
{
    unsigned char id[16];
    return xrt.xrtDeviceGetXclbinUUID(device, id) ? NULL : xrt.xrtPLKernelOpen(device, id, name);
}

EXPORT void *baseline_xrt_buffer(void *device, size_t size, uint32_t bank)
{
    return xrt.xrtBOAlloc(device, size, 0, bank);
}

EXPORT void *baseline_xrt_map(void *buffer)
{
    return xrt.xrtBOMap(buffer);
}

EXPORT void baseline_xrt_close(void *device, void *kernel, void **buffers, int n)
{
    while (n--)
        xrt.xrtBOFree(buffers[n]);
    xrt.xrtKernelClose(kernel);
    xrt.xrtDeviceClose(device);
}

/* vadd: set four arguments, start, wait; one run object, as a careful C program would. */
EXPORT double baseline_vadd(void *kernel, void *a, void *b, void *out, unsigned int count, int n)
{
    void *run = xrt.xrtRunOpen(kernel);
    int bad = run == NULL;
    double start = now();
    for (int i = 0; i < n && !bad; i++) {
        bad |= xrt.xrtRunSetArg(run, 0, a) | xrt.xrtRunSetArg(run, 1, b) | xrt.xrtRunSetArg(run, 2, out);
        bad |= xrt.xrtRunSetArg(run, 3, count);
        bad |= xrt.xrtRunStart(run);
        bad |= xrt.xrtRunWaitFor(run, 1000) != ERT_CMD_STATE_COMPLETED;
    }
    double spent = now() - start;
    xrt.xrtRunClose(run);
    return bad ? -1 : spent;
}

/* The same, but only start and wait: arguments were set once. */
EXPORT double baseline_restart(void *kernel, void *a, void *b, void *out, unsigned int count, int n)
{
    void *run = xrt.xrtRunOpen(kernel);
    int bad = run == NULL;
    bad |= xrt.xrtRunSetArg(run, 0, a) | xrt.xrtRunSetArg(run, 1, b) | xrt.xrtRunSetArg(run, 2, out);
    bad |= xrt.xrtRunSetArg(run, 3, count);
    double start = now();
    for (int i = 0; i < n && !bad; i++) {
        bad |= xrt.xrtRunStart(run);
        bad |= xrt.xrtRunWaitFor(run, 1000) != ERT_CMD_STATE_COMPLETED;
    }
    double spent = now() - start;
    xrt.xrtRunClose(run);
    return bad ? -1 : spent;
}

EXPORT double baseline_sync(void *buffer, size_t size, int to_device, int n)
{
    int bad = 0;
    double start = now();
    for (int i = 0; i < n; i++)
        bad |= xrt.xrtBOSync(buffer, to_device ? XCL_BO_SYNC_BO_TO_DEVICE : XCL_BO_SYNC_BO_FROM_DEVICE, size, 0);
    return bad ? -1 : now() - start;
}

EXPORT double baseline_memcpy(void *to, const void *from, size_t size, int n)
{
    double start = now();
    for (int i = 0; i < n; i++) {
        memcpy(to, from, size);
        __asm__ volatile("" ::: "memory"); /* every round is done */
    }
    return now() - start;
}
