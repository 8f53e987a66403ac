/* SPDX-License-Identifier: Apache-2.0 */
/* opae_rig.h: a rack in a temporary folder, and an NLB on it, for the files of test_opae.  The variables are in
 * test_opae.c. */
#ifndef FPGAHAL_OPAE_RIG_H
#define FPGAHAL_OPAE_RIG_H

#define _GNU_SOURCE 1
#include "../../native/include/emu_control.h"
#include "../../native/include/opae_abi.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n  last error: %s\n", __FILE__, __LINE__, #condition, emu_error());             \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)
#define OK(call) CHECK((call) == FPGA_OK)

extern opae_abi opae;
extern __typeof__(&fpgahal_emu_create) emu_create;
extern __typeof__(&fpgahal_emu_attach) emu_attach;
extern __typeof__(&fpgahal_emu_fault) emu_fault;
extern __typeof__(&fpgahal_emu_clear) emu_clear;
extern __typeof__(&fpgahal_emu_status) emu_status;
extern __typeof__(&fpgahal_emu_error) emu_error;
extern __typeof__(&fpgahal_emu_register) emu_register;
extern __typeof__(&fpgahal_emu_unregister) emu_unregister;
extern char rack[256];
extern pid_t rack_owner;

#define BDF "0000:3b:00.0"
#define BDF2 "0000:3c:00.0"
#define INTERFACE "69528db6-eb31-577a-8c36-68f9faa081f6"
#define NLB0 "d8424dc4-a4a3-c413-f89e-433683f9040b"
#define NLB3 "f7df405c-bd7a-cf72-22f1-44b0b93acd18"
#define HELLO "850adcc2-6ceb-4b22-9722-d43375b61c66"

static inline void parse_id(const char *text, uint8_t out[16])
{
    int n = 0;
    for (; *text && n < 16; text++) {
        if (*text != '-') {
            sscanf(text++, "%2hhx", &out[n++]);
        }
    }
}

static inline double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static inline void nap(double s)
{
    struct timespec t = { (time_t)s, (long)((s - (double)(time_t)s) * 1e9) };
    nanosleep(&t, NULL);
}

/* ---- rack ------------------------------------------------------------------------------------------------- */

static inline void load_library(const char *path)
{
    void *lib = dlopen(path, RTLD_NOW);
    if (!lib) {
        fprintf(stderr, "%s\n", dlerror());
        exit(2);
    }
    const char *missing = opae_abi_fill(lib, &opae);
    if (missing) {
        fprintf(stderr, "missing: %s\n", missing);
        exit(2);
    }
    for (const struct abi_symbol *s = opae_symbols; s->name; s++) /* the emulator has all of them */
        if (!dlsym(lib, s->name))
            exit(2);
    *(void **)&emu_create = dlsym(lib, "fpgahal_emu_create");
    *(void **)&emu_attach = dlsym(lib, "fpgahal_emu_attach");
    *(void **)&emu_fault = dlsym(lib, "fpgahal_emu_fault");
    *(void **)&emu_clear = dlsym(lib, "fpgahal_emu_clear");
    *(void **)&emu_status = dlsym(lib, "fpgahal_emu_status");
    *(void **)&emu_error = dlsym(lib, "fpgahal_emu_error");
    *(void **)&emu_register = dlsym(lib, "fpgahal_emu_register");
    *(void **)&emu_unregister = dlsym(lib, "fpgahal_emu_unregister");
}

static inline void remove_rack(void)
{
    char command[400];
    if (getpid() != rack_owner) /* a forked child that failed must not take it from under the others */
        return;
    snprintf(command, sizeof command, "rm -rf '%s'", rack);
    if (system(command) != 0)
        fprintf(stderr, "%s is left behind\n", rack);
}

static inline void make_rack(void)
{
    char path[400];
    snprintf(rack, sizeof rack, "%s/fpgahal-test-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    if (!mkdtemp(rack))
        exit(2);
    rack_owner = getpid();
    atexit(remove_rack);
    snprintf(path, sizeof path, "%s/sys", rack);
    mkdir(path, 0777);
    CHECK(emu_create(rack, "[board]\nbdf=" BDF "\nmodel=pac-a10\nname=PAC\nfamily=opae\nvendor=8086\ndevice=09c4\n"
                           "interface=" INTERFACE "\nafu=" NLB0 "\nidentity=sys/afu_id\nprogram_ns=20000000\n"
                           "[board]\nbdf=" BDF2 "\nmodel=pac-a10\nname=PAC\nfamily=opae\nvendor=8086\ndevice=09c4\n"
                           "interface=" INTERFACE "\nafu=" HELLO "\n"
                           "[board]\nbdf=0000:3d:00.0\nmodel=slow\nfamily=opae\nafu=" NLB0 "\n"
                           "link_bytes_per_s=100000000\nlaunch_ns=2000000\n")
          == 0);
    CHECK(emu_attach(rack) == 0);
}

/* The text of the identity file, or "" when it can't be read. */
static inline void identity(char out[64])
{
    char path[400];
    snprintf(path, sizeof path, "%s/sys/afu_id", rack);
    FILE *f = fopen(path, "r");
    out[0] = 0;
    if (f) {
        if (!fgets(out, 64, f))
            out[0] = 0;
        fclose(f);
    }
}

/* ---- objects ---------------------------------------------------------------------------------------------- */

static inline fpga_token find_token(fpga_objtype type, uint8_t bus)
{
    fpga_properties p;
    fpga_token t = NULL;
    uint32_t n = 0;
    OK(opae.fpgaGetProperties(NULL, &p));
    OK(opae.fpgaPropertiesSetObjectType(p, type));
    OK(opae.fpgaPropertiesSetBus(p, bus));
    OK(opae.fpgaEnumerate(&p, 1, &t, 1, &n));
    OK(opae.fpgaDestroyProperties(&p));
    return n ? t : NULL;
}

static inline fpga_result try_open(fpga_objtype type, uint8_t bus, int flags, fpga_handle *h)
{
    fpga_token t = find_token(type, bus);
    if (!t)
        return FPGA_NOT_FOUND;
    fpga_result r = opae.fpgaOpen(t, h, flags);
    OK(opae.fpgaDestroyToken(&t));
    return r;
}

static inline fpga_handle open_afu(void)
{
    fpga_handle h = NULL;
    OK(try_open(FPGA_ACCELERATOR, 0x3b, 0, &h));
    return h;
}

static inline size_t make_gbs(uint8_t *out, const char *interface, const char *afu, bool emulated)
{
    static const uint8_t guid[16] = "XeonFPGA\xb7GBSv00" "1";
    int n = snprintf((char *)out + 20, 900,
                     "{\"version\": 1, \"afu-image\": {\"magic-no\": 488605312, "
                     "\"interface-uuid\": \"%s\", \"power\": 0, "
                     "\"accelerator-clusters\": [{\"name\": \"x\", \"total-contexts\": 1, "
                     "\"accelerator-type-uuid\": \"%s\"}]}}",
                     interface, afu);
    memcpy(out, guid, 16);
    uint32_t length = (uint32_t)n;
    memcpy(out + 16, &length, 4);
    uint8_t *image = out + 20 + n;
    memset(image, 0x5a, 64);
    if (emulated) {
        memcpy(image, "FPGAHAL EMULATED", 16);
        parse_id(interface, image + 16);
        parse_id(afu, image + 32);
        uint32_t crc = ~0u;
        for (int i = 0; i < 48 * 8; i++) {
            if (i % 8 == 0)
                crc ^= image[i / 8];
            crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1)));
        }
        crc = ~crc;
        memcpy(image + 48, &crc, 4);
    }
    return 20 + (size_t)n + 64;
}

static inline fpga_result program_afu(const char *afu)
{
    uint8_t gbs[1024];
    fpga_handle fme;
    OK(try_open(FPGA_DEVICE, 0x3b, 0, &fme));
    fpga_result r = opae.fpgaReconfigureSlot(fme, 0, gbs, make_gbs(gbs, INTERFACE, afu, true), 0);
    OK(opae.fpgaClose(fme));
    return r;
}

/* ---- NLB -------------------------------------------------------------------------------------------------- */

struct nlb {
    fpga_handle h;
    uint8_t *dsm, *src, *dst;
    uint64_t wsid[3], io[3], size;
};

/* CFG */
#define NLB_READ 0x4
#define NLB_WRITE 0x8
#define NLB_TRPUT 0xc
#define NLB_CONTINUOUS 0x2

static inline uint64_t rd64(fpga_handle h, uint64_t at)
{
    uint64_t v = 0;
    OK(opae.fpgaReadMMIO64(h, 0, at, &v));
    return v;
}
static inline void wr64(fpga_handle h, uint64_t at, uint64_t v) { OK(opae.fpgaWriteMMIO64(h, 0, at, v)); }
static inline void wr32(fpga_handle h, uint64_t at, uint32_t v) { OK(opae.fpgaWriteMMIO32(h, 0, at, v)); }

static inline void nlb_buffers(struct nlb *n, fpga_handle h, uint64_t size)
{
    uint8_t **at[3] = { &n->dsm, &n->src, &n->dst };
    n->h = h;
    n->size = size;
    for (int i = 0; i < 3; i++) {
        OK(opae.fpgaPrepareBuffer(h, i ? size : 4096, (void **)at[i], &n->wsid[i], 0));
        OK(opae.fpgaGetIOAddress(h, n->wsid[i], &n->io[i]));
    }
}

static inline void nlb_free(struct nlb *n)
{
    for (int i = 0; i < 3; i++)
        OK(opae.fpgaReleaseBuffer(n->h, n->wsid[i]));
}

static inline void nlb_start(struct nlb *n, uint32_t lines, uint64_t cfg, uint32_t stride)
{
    memset(n->dsm, 0, 4096);
    wr32(n->h, 0x138, 0);
    wr32(n->h, 0x138, 1);
    wr64(n->h, 0x110, n->io[0]);
    wr64(n->h, 0x120, n->io[1] >> 6);
    wr64(n->h, 0x128, n->io[2] >> 6);
    wr32(n->h, 0x130, lines);
    wr64(n->h, 0x140, cfg);
    wr32(n->h, 0x178, stride);
    wr32(n->h, 0x138, 3);
}

static inline uint32_t dsm_word(const struct nlb *n)
{
    return __atomic_load_n((uint32_t *)(n->dsm + 0x40), __ATOMIC_ACQUIRE);
}

static inline bool nlb_wait(struct nlb *n, double seconds)
{
    for (double end = now() + seconds; !(dsm_word(n) & 1);) {
        if (now() > end)
            return false;
        nap(2e-5);
    }
    return true;
}

static inline void nlb_run(struct nlb *n, uint32_t lines, uint64_t cfg, uint32_t stride)
{
    nlb_start(n, lines, cfg, stride);
    CHECK(nlb_wait(n, 10));
    wr32(n->h, 0x138, 7);
    CHECK(rd64(n->h, 0x168) == 0);
}

static inline uint32_t dsm32(const struct nlb *n, int at)
{
    uint32_t v;
    memcpy(&v, n->dsm + at, 4);
    return v;
}

static inline void fill(struct nlb *n)
{
    for (uint64_t i = 0; i < n->size; i++)
        n->src[i] = (uint8_t)(i * 31 + i / 251);
    memset(n->dst, 0, n->size);
}

static inline struct fpgahal_emu_status status(void)
{
    struct fpgahal_emu_status s = { .size = sizeof s };
    CHECK(emu_status(rack, BDF, &s) == 0);
    return s;
}

#endif
