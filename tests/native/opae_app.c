/* SPDX-License-Identifier: Apache-2.0 */
/*
 * opae_app.c: a program as anybody writes it against libopae-c, linked with that library and unaware of
 * fpgahal.  It finds NLB mode 0, copies with it, and looks at what programs look at.  Exit codes: 0 good,
 * 4 no such accelerator, 1 anything else.
 */
#include "../../native/include/opae_abi.h"

#include <stdio.h>
#include <string.h>

#define LINES 1024

OPAE_FUNCTIONS(ABI_PROTOTYPE)
fpga_result fpgaGetOPAECVersionString(char *, size_t);
fpga_result fpgaPropertiesSetGUID(fpga_properties, fpga_guid);
fpga_result fpgaPropertiesGetParent(const fpga_properties, fpga_token *);
fpga_result fpgaTokenGetObject(fpga_token, const char *, fpga_object *, int);
fpga_result fpgaObjectRead64(fpga_object, uint64_t *, int);
fpga_result fpgaDestroyObject(fpga_object *);
fpga_result fpgaGetChildren(fpga_handle, uint32_t, fpga_handle *, uint32_t *);
fpga_result fpgaGetNumUmsg(fpga_handle, uint64_t *);
fpga_result fpgaBindSVA(fpga_handle, uint32_t *);
fpga_result fpgaSetUserClock(fpga_handle, uint64_t, uint64_t, int);
fpga_result fpgaGetUserClock(fpga_handle, uint64_t *, uint64_t *, int);

#define IS(expected, call)                                                                                             \
    do {                                                                                                               \
        fpga_result result_ = (call);                                                                                  \
        if (result_ != (expected)) {                                                                                   \
            fprintf(stderr, "line %d: %s: %s\n", __LINE__, #call, fpgaErrStr(result_));                                \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)
#define OK(call) IS(FPGA_OK, call)

static uint8_t nlb0[16] = { 0xd8, 0x42, 0x4d, 0xc4, 0xa4, 0xa3, 0xc4, 0x13, 0xf8, 0x9e, 0x43, 0x36, 0x83, 0xf9, 0x04, 0x0b };

struct buffer {
    uint8_t *at;
    uint64_t wsid, io;
};

static int buffer(fpga_handle h, struct buffer *b)
{
    OK(fpgaPrepareBuffer(h, LINES * 64, (void **)&b->at, &b->wsid, 0));
    OK(fpgaGetIOAddress(h, b->wsid, &b->io));
    return 0;
}

static int copy(fpga_handle h)
{
    struct buffer dsm, in, out;
    if (buffer(h, &dsm) || buffer(h, &in) || buffer(h, &out))
        return 1;
    for (int i = 0; i < LINES * 64; i++)
        in.at[i] = (uint8_t)(i * 7);
    OK(fpgaReset(h));
    OK(fpgaWriteMMIO64(h, 0, 0x110, dsm.io));
    OK(fpgaWriteMMIO32(h, 0, 0x138, 0));
    OK(fpgaWriteMMIO32(h, 0, 0x138, 1));
    OK(fpgaWriteMMIO64(h, 0, 0x120, in.io >> 6));
    OK(fpgaWriteMMIO64(h, 0, 0x128, out.io >> 6));
    OK(fpgaWriteMMIO32(h, 0, 0x130, LINES));
    OK(fpgaWriteMMIO32(h, 0, 0x140, 0));
    OK(fpgaWriteMMIO32(h, 0, 0x138, 3));
    while (!(*(volatile uint32_t *)(dsm.at + 0x40) & 1))
        ;
    OK(fpgaWriteMMIO32(h, 0, 0x138, 7));
    printf("copied: %s\n", memcmp(in.at, out.at, LINES * 64) == 0 ? "identical" : "different");
    OK(fpgaReleaseBuffer(h, dsm.wsid));
    OK(fpgaReleaseBuffer(h, in.wsid));
    OK(fpgaReleaseBuffer(h, out.wsid));
    IS(FPGA_NOT_FOUND, fpgaGetIOAddress(h, 12345678, &in.io));
    return 0;
}

/* What is not there says so, and what is there can be read. */
static int look(fpga_token token, fpga_handle h)
{
    uint64_t value = 0, high = 0, low = 0;
    uint32_t count = 1;
    fpga_object object = NULL;
    IS(FPGA_NOT_FOUND, fpgaTokenGetObject(token, "no_such_thing", &object, 0));
    IS(FPGA_INVALID_PARAM, fpgaTokenGetObject(token, "../afu_id", &object, 0));
    OK(fpgaTokenGetObject(token, "errors/errors", &object, 0));
    OK(fpgaObjectRead64(object, &value, 1));
    OK(fpgaDestroyObject(&object));
    printf("errors: %llu\n", (unsigned long long)value);
    OK(fpgaGetChildren(h, 0, NULL, &count));
    IS(FPGA_NOT_SUPPORTED, fpgaGetNumUmsg(h, &value));
    IS(FPGA_NOT_SUPPORTED, fpgaBindSVA(h, &count));
    OK(fpgaSetUserClock(h, 312, 156, 0));
    OK(fpgaGetUserClock(h, &high, &low, 0));
    IS(FPGA_INVALID_PARAM, fpgaSetUserClock(h, 1, 1, 0));
    printf("clock: %llu %llu\n", (unsigned long long)high, (unsigned long long)low);
    return 0;
}

/* The device's counters, found as a program finds them: by a pattern. */
static int counters(void)
{
    fpga_properties filter = NULL;
    fpga_token fme = NULL;
    fpga_object object = NULL;
    uint32_t found = 0;
    uint64_t lines = 0;
    OK(fpgaGetProperties(NULL, &filter));
    OK(fpgaPropertiesSetObjectType(filter, FPGA_DEVICE));
    OK(fpgaEnumerate(&filter, 1, &fme, 1, &found));
    OK(fpgaDestroyProperties(&filter));
    if (found < 1)
        return 4;
    if (fpgaTokenGetObject(fme, "*perf/fabric/pcie0_read", &object, 2) == FPGA_OK) {
        OK(fpgaObjectRead64(object, &lines, 1));
        OK(fpgaDestroyObject(&object));
    }
    printf("lines read: %llu\n", (unsigned long long)lines);
    return fpgaDestroyToken(&fme) != FPGA_OK;
}

int main(void)
{
    fpga_properties filter = NULL;
    fpga_token token = NULL;
    fpga_handle h = NULL;
    uint32_t found = 0;
    char version[16] = "";
    OK(fpgaGetOPAECVersionString(version, sizeof version));
    printf("version: %s\n", version);
    OK(fpgaGetProperties(NULL, &filter));
    OK(fpgaPropertiesSetObjectType(filter, FPGA_ACCELERATOR));
    OK(fpgaPropertiesSetGUID(filter, nlb0));
    OK(fpgaEnumerate(&filter, 1, &token, 1, &found));
    OK(fpgaDestroyProperties(&filter));
    printf("found: %u\n", found);
    if (found == 0)
        return 4;
    OK(fpgaOpen(token, &h, 0));
    fpga_handle again = NULL;
    IS(FPGA_BUSY, fpgaOpen(token, &again, 0));
    OK(fpgaMapMMIO(h, 0, NULL));
    int failed = copy(h) || look(token, h);
    OK(fpgaUnmapMMIO(h, 0));
    OK(fpgaClose(h));
    OK(fpgaDestroyToken(&token));
    return failed ? 1 : counters();
}
