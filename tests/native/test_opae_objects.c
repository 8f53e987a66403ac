/* SPDX-License-Identifier: Apache-2.0 */
/* test_opae_objects.c: tokens, handles, registers, buffers. */
#include "opae_rig.h"

#include <sys/mman.h>

/* ---- objects ---------------------------------------------------------------------------------------------- */

void descriptions(void)
{
    static const char *const wrong[] = {
        "bdf=0000:00:00.0\n", "[board]\n", "[board]\nbdf=0000:3b:00.0\nmodel=x\n", "[board]\nbdf=3b:00.0\n",
        "[board]\nbdf=0000:3b:00.9\n", "[board]\nfamily=other\n", "[board]\ncolour=red\n", "[board]\nmodel\n",
        "[board]\nafu=12345\n", "[board]\nvendor=12345\n", "[board]\nprogram_ns=-1\n", "[board]\nbank=DDR 1 0\n",
        "[board]\nbdf=0000:3b:00.0\nmodel=x\nfamily=opae\n[board]\nbdf=0000:3b:00.0\nmodel=x\nfamily=xrt\n",
    };
    char dir[300], path[320], line[1000];
    snprintf(dir, sizeof dir, "%s/other", rack);
    snprintf(path, sizeof path, "%s/rack.bin", dir);
    CHECK(mkdir(dir, 0777) == 0);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        CHECK(emu_create(dir, wrong[i]) != 0);
        CHECK(strstr(emu_error(), "description") && access(path, F_OK) != 0);
    }
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = 0;
    CHECK(emu_create(dir, line) != 0 && emu_create(dir, NULL) != 0 && emu_create("/nowhere", "") != 0);
    CHECK(emu_attach(dir) != 0);
    FILE *f = fopen(path, "w"); /* not a rack */
    fwrite(line, 1, sizeof line, f);
    fclose(f);
    CHECK(emu_attach(dir) != 0 && emu_create(dir, "") != 0);
    CHECK(unlink(path) == 0 && emu_create(dir, "") == 0 && emu_attach(dir) == 0);
    CHECK(emu_create(dir, "") != 0); /* a rack in use is not replaced */
    uint32_t n = 9;
    OK(opae.fpgaEnumerate(NULL, 0, NULL, 0, &n));
    CHECK(n == 0);
    CHECK(emu_attach(NULL) == 0 && opae.fpgaEnumerate(NULL, 0, NULL, 0, &n) == FPGA_NO_DRIVER);
    CHECK(setenv("FPGAHAL_EMU_RACK", rack, 1) == 0);
    OK(opae.fpgaEnumerate(NULL, 0, NULL, 0, &n));
    CHECK(n == 6 && unsetenv("FPGAHAL_EMU_RACK") == 0 && emu_attach(rack) == 0);
}

void enumerate(void)
{
    uint32_t n = 0;
    fpga_token t[8];
    fpga_properties p;
    fpga_guid guid, want;
    OK(opae.fpgaEnumerate(NULL, 0, NULL, 0, &n));
    CHECK(n == 6);
    OK(opae.fpgaEnumerate(NULL, 0, t, 1, &n));
    CHECK(n == 6);
    OK(opae.fpgaDestroyToken(&t[0]));
    CHECK(opae.fpgaEnumerate(NULL, 0, NULL, 0, NULL) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaEnumerate(NULL, 0, NULL, 3, &n) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaEnumerate(NULL, 1, NULL, 0, &n) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaEnumerate(&p, 0, NULL, 0, &n) == FPGA_INVALID_PARAM);
    t[0] = find_token(FPGA_DEVICE, 0x3b);
    OK(opae.fpgaGetProperties(t[0], &p));
    OK(opae.fpgaPropertiesGetGUID(p, &guid));
    parse_id(INTERFACE, want);
    CHECK(memcmp(guid, want, 16) == 0);
    OK(opae.fpgaDestroyProperties(&p));
    OK(opae.fpgaDestroyToken(&t[0]));
    t[0] = find_token(FPGA_ACCELERATOR, 0x3c);
    OK(opae.fpgaGetProperties(t[0], &p));
    OK(opae.fpgaPropertiesGetGUID(p, &guid));
    parse_id(HELLO, want);
    CHECK(memcmp(guid, want, 16) == 0);
    OK(opae.fpgaDestroyProperties(&p));
    OK(opae.fpgaDestroyToken(&t[0]));
    CHECK(find_token(FPGA_DEVICE, 0x77) == NULL);
    OK(opae.fpgaGetProperties(NULL, &p));
    CHECK(opae.fpgaPropertiesGetGUID(p, &guid) == FPGA_NOT_FOUND);
    OK(opae.fpgaDestroyProperties(&p));
    CHECK(strcmp(opae.fpgaErrStr(FPGA_BUSY), "resource busy") == 0);
}

void invalid_objects(void)
{
    uint64_t word[8] = { 0 }, v;
    void *none = word;
    fpga_handle h = open_afu();
    OK(opae.fpgaClose(h));
    CHECK(opae.fpgaClose(h) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaReadMMIO64(h, 0, 0, &v) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaReadMMIO64(NULL, 0, 0, &v) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaReset(none) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaOpen(none, &h, 0) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaDestroyToken(&none) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaDestroyProperties(&none) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaDestroyEventHandle(&none) == FPGA_INVALID_PARAM);
}

void open_busy(void)
{
    fpga_handle a, b, c;
    OK(try_open(FPGA_ACCELERATOR, 0x3b, 0, &a));
    CHECK(try_open(FPGA_ACCELERATOR, 0x3b, 0, &b) == FPGA_BUSY);
    CHECK(try_open(FPGA_ACCELERATOR, 0x3b, FPGA_OPEN_SHARED, &b) == FPGA_BUSY);
    OK(try_open(FPGA_DEVICE, 0x3b, 0, &c));
    OK(opae.fpgaClose(c));
    OK(opae.fpgaClose(a));
    OK(try_open(FPGA_ACCELERATOR, 0x3b, FPGA_OPEN_SHARED, &a));
    OK(try_open(FPGA_ACCELERATOR, 0x3b, FPGA_OPEN_SHARED, &b));
    CHECK(try_open(FPGA_ACCELERATOR, 0x3b, 0, &c) == FPGA_BUSY);
    wr64(a, 0x108, 5);
    CHECK(rd64(b, 0x108) == 5);
    OK(opae.fpgaClose(a));
    CHECK(rd64(b, 0x108) == 5);
    OK(opae.fpgaClose(b));
    a = open_afu();
    CHECK(rd64(a, 0x108) == 0); /* the last close reset the port */
    OK(opae.fpgaClose(a));
}

/* ---- registers -------------------------------------------------------------------------------------------- */

void mmio(void)
{
    fpga_handle h = open_afu();
    uint64_t v, *pointer;
    uint32_t w;
    CHECK(rd64(h, 0) == 0x1000010000000000);
    CHECK(rd64(h, 8) == 0xf89e433683f9040b && rd64(h, 0x10) == 0xd8424dc4a4a3c413);
    CHECK(opae.fpgaMapMMIO(h, 0, &pointer) == FPGA_NOT_SUPPORTED);
    OK(opae.fpgaMapMMIO(h, 0, NULL));
    CHECK(opae.fpgaMapMMIO(h, 1, NULL) == FPGA_INVALID_PARAM);
    wr32(h, 0x100, 0x11111111);
    wr32(h, 0x104, 0x22222222);
    CHECK(rd64(h, 0x100) == 0x2222222211111111);
    wr64(h, 0x100, 0x3333333344444444);
    OK(opae.fpgaReadMMIO32(h, 0, 0x104, &w));
    CHECK(w == 0x33333333);
    CHECK(opae.fpgaReadMMIO64(h, 0, 0x104, &v) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaReadMMIO32(h, 0, 0x102, &w) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaReadMMIO64(h, 0, 0x40000, &v) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaReadMMIO32(h, 0, 0x3fffe, &w) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaReadMMIO64(h, 0, UINT64_MAX - 7, &v) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaWriteMMIO64(h, 0, 0x40000, 0) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaReadMMIO64(h, 1, 0, &v) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaReadMMIO64(h, 0, 0x200, &v) == FPGA_EXCEPTION);
    CHECK(opae.fpgaReadMMIO64(h, 0, 0x3fff8, &v) == FPGA_EXCEPTION);
    CHECK(opae.fpgaWriteMMIO32(h, 0, 0x200, 1) == FPGA_EXCEPTION);
    wr64(h, 0x160, 99); /* read-only: lost */
    CHECK(rd64(h, 0x160) == 0);
    wr64(h, 0x120, 7); /* locked while CTL is 0 */
    CHECK(rd64(h, 0x120) == 0);
    wr32(h, 0x138, 1);
    wr64(h, 0x120, 7);
    CHECK(rd64(h, 0x120) == 7);
    CHECK(rd64(h, 0x170) == 400ull << 32);
    OK(opae.fpgaReset(h));
    CHECK(rd64(h, 0x120) == 0 && rd64(h, 0x138) == 0);
    OK(opae.fpgaClose(h));
}

void hello(void)
{
    fpga_handle h;
    OK(try_open(FPGA_ACCELERATOR, 0x3c, 0, &h));
    CHECK(rd64(h, 0) == 0x1000010000000000 && rd64(h, 0x18) == 0 && rd64(h, 0x3fff8) == 0);
    wr64(h, 0x80, 0x0123456789abcdef);
    CHECK(rd64(h, 0x80) == 0x0123456789abcdef);
    OK(opae.fpgaReset(h));
    CHECK(rd64(h, 0x80) == 0);
    OK(opae.fpgaClose(h));
}

/* ---- buffers ---------------------------------------------------------------------------------------------- */

void buffers(void)
{
    enum { N = 3000 };
    static void *at[N];
    static uint64_t wsid[N], io[N];
    fpga_handle h = open_afu();
    OK(opae.fpgaPrepareBuffer(h, 0, NULL, &wsid[0], FPGA_BUF_PREALLOCATED));
    CHECK(opae.fpgaPrepareBuffer(h, 0, &at[0], &wsid[0], 0) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaPrepareBuffer(h, (1ull << 30) + 1, &at[0], &wsid[0], 0) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaPrepareBuffer(h, UINT64_MAX, &at[0], &wsid[0], 0) == FPGA_INVALID_PARAM);
    for (int i = 0; i < N; i++) {
        OK(opae.fpgaPrepareBuffer(h, 1 + (unsigned)i, &at[i], &wsid[i], 0));
        OK(opae.fpgaGetIOAddress(h, wsid[i], &io[i]));
        CHECK(io[i] != 0 && io[i] != (uint64_t)(uintptr_t)at[i] && (i == 0 || io[i] != io[i - 1]));
        memset(at[i], i, 1 + (unsigned)i + 7);
    }
    for (int i = 0; i < N; i += 2)
        OK(opae.fpgaReleaseBuffer(h, wsid[i]));
    CHECK(opae.fpgaReleaseBuffer(h, wsid[0]) == FPGA_NOT_FOUND);
    CHECK(opae.fpgaGetIOAddress(h, wsid[0], &io[0]) == FPGA_NOT_FOUND);
    CHECK(opae.fpgaReleaseBuffer(h, 0) == FPGA_NOT_FOUND);
    for (int i = 1; i < N; i += 2)
        OK(opae.fpgaReleaseBuffer(h, wsid[i]));
    void *own = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    OK(opae.fpgaPrepareBuffer(h, 8192, &own, &wsid[0], FPGA_BUF_PREALLOCATED));
    CHECK(opae.fpgaPrepareBuffer(h, 100, &own, &wsid[1], FPGA_BUF_PREALLOCATED) == FPGA_INVALID_PARAM);
    void *wild = (void *)0x1000;
    CHECK(opae.fpgaPrepareBuffer(h, 4096, &wild, &wsid[1], FPGA_BUF_PREALLOCATED) == FPGA_INVALID_PARAM);
    OK(opae.fpgaReleaseBuffer(h, wsid[0]));
    memset(own, 1, 8192); /* still the caller's */
    munmap(own, 8192);
    OK(opae.fpgaClose(h));
}
