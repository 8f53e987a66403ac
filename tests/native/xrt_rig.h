/* SPDX-License-Identifier: Apache-2.0 */
/* xrt_rig.h: the library under test, a rack of its own, and helpers for test_xrt.c. */
#ifndef XRT_RIG_H
#define XRT_RIG_H

#include "../../native/include/emu_control.h"
#include "../../native/include/xrt_abi.h"
#include "xclbin_builder.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static xrt_abi xrt;
static struct { /* functions that fpgahal does not call */
    xrtDeviceHandle (*DeviceOpen)(unsigned);
    int (*DeviceLoadXclbinFile)(xrtDeviceHandle, const char *);
    int (*DeviceLoadXclbinHandle)(xrtDeviceHandle, void *);
    xrtRunHandle (*KernelRun)(xrtKernelHandle, ...);
    int (*RunWait)(xrtRunHandle);
    int (*RunUpdateArg)(xrtRunHandle, int, ...);
    xrtBufferHandle (*BOSubAlloc)(xrtBufferHandle, size_t, size_t);
    int (*BOWrite)(xrtBufferHandle, const void *, size_t, size_t);
    int (*BORead)(xrtBufferHandle, void *, size_t, size_t);
    void *(*XclbinAllocFilename)(const char *);
    void *(*XclbinAllocRawData)(const char *, int);
    int (*XclbinFreeHandle)(void *);
    int (*XclbinGetUUID)(void *, unsigned char *);
    int (*XclbinGetXSAName)(void *, char *, int, int *);
    size_t (*XclbinGetNumKernels)(void *);
} more;
static struct {
    int (*create)(const char *, const char *);
    int (*attach)(const char *);
    int (*fault)(const char *, const char *, const char *, const char *, int, int);
    int (*clear)(const char *, const char *);
    int (*status)(const char *, const char *, struct fpgahal_emu_status *);
    const char *(*error)(void);
} emu;

#if defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static unsigned passed, failed;
static const char *const BDF = "0000:5e:00.1", *const BDF2 = "0000:5f:00.1", *const SLOW = "0000:60:00.1";
static char rack_dir[64], log_path[96];
static const uint8_t U1[16] = { 0x11, 0x22, 3 }, U2[16] = { 0x99, 0x88, 7 };
static const uint8_t INTERFACE[16] = { 0xc0, 0xff, 0xee, 1 };

#define CHECK(x)                                                                                                       \
    do {                                                                                                               \
        if (!(x)) {                                                                                                    \
            int e_ = errno;                                                                                            \
            printf("  %s:%d: %s   (errno %d, \"%s\")\n", __FILE__, __LINE__, #x, e_, emu.error());                     \
            case_failed = true;                                                                                        \
        }                                                                                                              \
    } while (0)
/* The expression fails with this errno. */
#define REFUSED(x, code)                                                                                               \
    do {                                                                                                               \
        errno = 0;                                                                                                     \
        CHECK((x) && errno == (code));                                                                                 \
    } while (0)
static _Atomic bool case_failed;

static void *symbol(void *library, const char *name)
{
    void *f = dlsym(library, name);
    if (!f) {
        printf("missing: %s\n", name);
        exit(1);
    }
    return f;
}

static void load_library(const char *path)
{
    void *l = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!l) {
        printf("%s\n", dlerror());
        exit(1);
    }
    const char *missing = xrt_abi_fill(l, &xrt);
    if (missing) {
        printf("missing: %s\n", missing);
        exit(1);
    }
#define TAKE(to, prefix, name) *(void **)&to.name = symbol(l, prefix #name)
    TAKE(more, "xrt", DeviceOpen), TAKE(more, "xrt", DeviceLoadXclbinFile), TAKE(more, "xrt", DeviceLoadXclbinHandle);
    TAKE(more, "xrt", KernelRun), TAKE(more, "xrt", RunWait), TAKE(more, "xrt", RunUpdateArg);
    TAKE(more, "xrt", BOSubAlloc), TAKE(more, "xrt", BOWrite), TAKE(more, "xrt", BORead);
    TAKE(more, "xrt", XclbinAllocFilename), TAKE(more, "xrt", XclbinAllocRawData), TAKE(more, "xrt", XclbinFreeHandle);
    TAKE(more, "xrt", XclbinGetUUID), TAKE(more, "xrt", XclbinGetXSAName), TAKE(more, "xrt", XclbinGetNumKernels);
    TAKE(emu, "fpgahal_emu_", create), TAKE(emu, "fpgahal_emu_", attach), TAKE(emu, "fpgahal_emu_", fault);
    TAKE(emu, "fpgahal_emu_", clear), TAKE(emu, "fpgahal_emu_", status), TAKE(emu, "fpgahal_emu_", error);
}

static void make_rack(void)
{
    char text[4096], path[160];
    size_t n = 0;
    const char *const bdfs[] = { BDF, BDF2, SLOW };
    strcpy(rack_dir, "/tmp/fpgahal-test-xrt-XXXXXX");
    if (!mkdtemp(rack_dir))
        exit(1);
    for (int i = 0; i < 3; i++) {
        n += (size_t)snprintf(text + n, sizeof text - n,
                              "[board]\nbdf=%s\nmodel=u200\nname=test %d\nfamily=xrt\nvendor=10ee\ndevice=5001\n"
                              "vbnv=xilinx_u200_board\ntimestamp=%d\ninterface=c0ffee01000000000000000000000000\n"
                              "identity=sys/%d/xclbinuuid\nlaunch_ns=%d\nbank=DDR[0] 1 0 0x1000000\n"
                              "bank=DDR[1] 1 0x400000000 0x1000000\n",
                              bdfs[i], i, i == 1 ? 1234 : 0, i, i == 2 ? 30000000 : 0);
        snprintf(path, sizeof path, "%s/sys", rack_dir), mkdir(path, 0777);
        snprintf(path, sizeof path, "%s/sys/%d", rack_dir, i), mkdir(path, 0777);
    }
    if (emu.create(rack_dir, text) || emu.attach(rack_dir)) {
        printf("rack: %s\n", emu.error());
        exit(1);
    }
    setenv("FPGAHAL_EMU_RACK", rack_dir, 1);
    snprintf(log_path, sizeof log_path, "%s/log", rack_dir);
}

static bool log_has(const char *text)
{
    static char all[1 << 22];
    FILE *f = fopen(log_path, "r");
    size_t n = f ? fread(all, 1, sizeof all - 1, f) : 0;
    all[n] = '\0';
    if (f)
        fclose(f);
    return strstr(all, text) != NULL;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int load(xrtDeviceHandle d, const uint8_t uuid[16], struct options o)
{
    struct file f = build_xclbin(uuid, &o);
    int rc = xrt.xrtDeviceLoadXclbin(d, f.data);
    int saved = errno;
    free(f.data);
    errno = saved;
    return rc;
}

static xrtDeviceHandle open_loaded(const char *bdf, const uint8_t uuid[16])
{
    xrtDeviceHandle d = xrt.xrtDeviceOpenByBDF(bdf);
    CHECK(d);
    CHECK(load(d, uuid, (struct options){ 0 }) == 0);
    return d;
}

struct vadd { /* a vadd ready to run: a[i] = 3 i, b[i] = 1000 */
    xrtDeviceHandle device;
    xrtKernelHandle kernel;
    xrtRunHandle run;
    xrtBufferHandle a, b, out;
    uint32_t n, *pa, *pb, *po;
};

static struct vadd vadd_open(xrtDeviceHandle d, const uint8_t uuid[16], uint32_t n)
{
    struct vadd v = { .device = d, .n = n };
    v.kernel = xrt.xrtPLKernelOpen(d, uuid, "vadd");
    v.run = xrt.xrtRunOpen(v.kernel);
    CHECK(v.kernel && v.run);
    xrtBufferHandle *bos[] = { &v.a, &v.b, &v.out };
    uint32_t **host[] = { &v.pa, &v.pb, &v.po };
    for (int i = 0; i < 3; i++) {
        *bos[i] = xrt.xrtBOAlloc(d, 4 * (size_t)n, XRT_BO_FLAGS_NONE, (uint32_t)xrt.xrtKernelArgGroupId(v.kernel, i));
        CHECK(*bos[i]);
        *host[i] = xrt.xrtBOMap(*bos[i]);
        CHECK(*host[i]);
        CHECK(xrt.xrtRunSetArg(v.run, i, *bos[i]) == 0);
    }
    CHECK(xrt.xrtRunSetArg(v.run, 3, n) == 0);
    for (uint32_t i = 0; i < n; i++)
        v.pa[i] = 3 * i, v.pb[i] = 1000;
    CHECK(xrt.xrtBOSync(v.a, XCL_BO_SYNC_BO_TO_DEVICE, 4 * (size_t)n, 0) == 0);
    CHECK(xrt.xrtBOSync(v.b, XCL_BO_SYNC_BO_TO_DEVICE, 4 * (size_t)n, 0) == 0);
    return v;
}

/* How many words of the output are wrong? */
static uint32_t vadd_wrong(struct vadd *v)
{
    uint32_t wrong = 0;
    CHECK(xrt.xrtBOSync(v->out, XCL_BO_SYNC_BO_FROM_DEVICE, 4 * (size_t)v->n, 0) == 0);
    for (uint32_t i = 0; i < v->n; i++)
        wrong += v->po[i] != 3 * i + 1000;
    return wrong;
}

static void vadd_close(struct vadd *v)
{
    CHECK(xrt.xrtRunClose(v->run) == 0);
    CHECK(xrt.xrtKernelClose(v->kernel) == 0);
    CHECK(xrt.xrtBOFree(v->a) == 0 && xrt.xrtBOFree(v->b) == 0 && xrt.xrtBOFree(v->out) == 0);
}

static struct fpgahal_emu_status status_of(const char *bdf)
{
    struct fpgahal_emu_status s = { .size = sizeof s };
    CHECK(emu.status(rack_dir, bdf, &s) == 0);
    return s;
}

/* Run `body` in a child; true if it ended with 0. */
static bool in_child(void (*body)(void))
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        case_failed = false;
        alarm(30);
        body();
        fflush(stdout);
        _exit(case_failed);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

#endif
