/* SPDX-License-Identifier: Apache-2.0 */
/* test_opae_nlb.c: the loopback AFUs: data, status line, errors, endless runs, events. */
#include "opae_rig.h"

#include <poll.h>

/* ---- NLB -------------------------------------------------------------------------------------------------- */

void nlb0_copy(void)
{
    static const uint32_t sizes[] = { 1, 3, 4096, 16384 };
    struct nlb n;
    fpga_handle h = open_afu();
    uint64_t clocks;
    nlb_buffers(&n, h, 1 << 20);
    for (int i = 0; i < 4; i++) {
        fill(&n);
        nlb_run(&n, sizes[i], 0x42000, 0);
        CHECK(memcmp(n.src, n.dst, sizes[i] * 64) == 0);
        CHECK(sizes[i] == 16384 || n.dst[sizes[i] * 64 + 1] == 0);
        memcpy(&clocks, n.dsm + 0x48, 8);
        CHECK(dsm32(&n, 0x44) == 0 && dsm32(&n, 0x50) == sizes[i] && dsm32(&n, 0x54) == sizes[i]);
        CHECK(clocks > dsm32(&n, 0x58) + dsm32(&n, 0x5c) && dsm_word(&n) >> 1 == (uint32_t)i);
        CHECK(rd64(h, 0x160) == ((uint64_t)sizes[i] << 32 | sizes[i]) && rd64(h, 0x170) == 400ull << 32);
    }
    fill(&n);
    nlb_run(&n, 512, 0x60, 4); /* 4 lines a request, 4 skipped */
    CHECK(memcmp(n.src, n.dst, 256) == 0 && n.dst[256 + 1] == 0 && memcmp(n.src + 512, n.dst + 512, 256) == 0);
    nlb_start(&n, 0, 0, 0);
    CHECK(!nlb_wait(&n, 0.01)); /* no lines: never starts */
    nlb_free(&n);
    OK(opae.fpgaClose(h));
}

void nlb0_errors(void)
{
    struct nlb n;
    uint64_t errors = 0;
    fpga_handle h = open_afu();
    nlb_buffers(&n, h, 1 << 20);
    uint64_t good = n.io[1];
    n.io[1] = (uint64_t)(uintptr_t)n.src; /* a host pointer is no device address */
    nlb_run(&n, 16, 0, 0);
    CHECK(dsm32(&n, 0x44) == 1 && (uint32_t)rd64(h, 0x170) == 1 && dsm32(&n, 0x54) == 0);
    fpga_token t = find_token(FPGA_ACCELERATOR, 0x3b);
    OK(opae.fpgaReadError(t, 0, &errors));
    CHECK(errors != 0);
    OK(opae.fpgaClearAllErrors(t));
    OK(opae.fpgaReadError(t, 0, &errors));
    CHECK(errors == 0);
    OK(opae.fpgaDestroyToken(&t));
    n.io[1] = good;
    nlb_run(&n, 16385, 0, 0); /* one line too many */
    CHECK(dsm32(&n, 0x44) == 1);
    nlb_run(&n, 16, NLB_READ, 0); /* not a mode of this AFU */
    CHECK(dsm32(&n, 0x44) == 1);
    nlb_run(&n, 15, 0x20, 0); /* no multiple of the request */
    CHECK(dsm32(&n, 0x44) == 1);
    n.io[0] += 1 << 30; /* status line nowhere */
    nlb_start(&n, 16, 0, 0);
    CHECK(!nlb_wait(&n, 0.02) && (uint32_t)rd64(h, 0x170) == 1 && rd64(h, 0x168) == 0);
    wr32(h, 0x138, 0);
    CHECK((uint32_t)rd64(h, 0x170) == 0);
    nlb_free(&n);
    OK(opae.fpgaClose(h));
}

void nlb3_modes(void)
{
    struct nlb n;
    OK(program_afu(NLB3));
    fpga_handle h = open_afu();
    nlb_buffers(&n, h, 1 << 20);
    fill(&n);
    nlb_run(&n, 16384, NLB_READ, 0);
    CHECK(dsm32(&n, 0x50) == 16384 && dsm32(&n, 0x54) == 0 && n.dst[0] == 0);
    nlb_run(&n, 16384, NLB_WRITE | 0x8000, 0);
    CHECK(dsm32(&n, 0x50) == 0 && dsm32(&n, 0x54) == 16384);
    for (uint64_t i = 0; i < 16384; i++) {
        uint64_t line[8] = { i | (~i & 0xfffff) << 20, 0, 0, 0, 0, 0, 0, 1ull << 39 };
        CHECK(memcmp(n.dst + i * 64, line, 64) == 0);
    }
    nlb_run(&n, 512, NLB_TRPUT, 0);
    CHECK(dsm32(&n, 0x50) == 512 && dsm32(&n, 0x54) == 512 && dsm32(&n, 0x44) == 0);
    nlb_run(&n, 0, NLB_READ, 0); /* no lines: complete at once */
    CHECK(dsm32(&n, 0x50) == 0);
    nlb_run(&n, 16, 0, 0); /* lpbk1 is not a mode of this AFU */
    CHECK(dsm32(&n, 0x44) == 1);
    nlb_free(&n);
    OK(opae.fpgaClose(h));
    OK(program_afu(NLB0));
}

void continuous(void)
{
    struct nlb n;
    fpga_handle h = open_afu();
    nlb_buffers(&n, h, 1 << 20);
    fill(&n);
    for (uint32_t lines = 1; lines <= 16384; lines *= 128) {
        nlb_start(&n, lines, NLB_CONTINUOUS, 0);
        CHECK(!nlb_wait(&n, 0.05));
        for (int i = 0; i < 20; i++) { /* the host is not starved by the running engine */
            uint64_t wsid;
            void *at;
            double from = now();
            OK(opae.fpgaPrepareBuffer(h, 4096, &at, &wsid, 0));
            OK(opae.fpgaReleaseBuffer(h, wsid));
            CHECK(now() - from < 0.5);
        }
        wr32(h, 0x138, 7);
        CHECK(nlb_wait(&n, 1));
        CHECK(dsm32(&n, 0x50) > lines && rd64(h, 0x168) == 0 && memcmp(n.src, n.dst, lines * 64) == 0);
    }
    nlb_start(&n, 16384, NLB_CONTINUOUS, 0);
    OK(opae.fpgaReleaseBuffer(h, n.wsid[1])); /* under the running engine: an error, not a crash */
    CHECK(nlb_wait(&n, 1) && dsm32(&n, 0x44) == 1);
    OK(opae.fpgaPrepareBuffer(h, 4096, (void **)&n.src, &n.wsid[1], 0));
    nlb_free(&n);
    OK(opae.fpgaClose(h));
}

void paced(void)
{
    struct nlb n;
    fpga_handle h;
    OK(try_open(FPGA_ACCELERATOR, 0x3d, 0, &h));
    nlb_buffers(&n, h, 8 << 20);
    fill(&n);
    double from = now();
    nlb_run(&n, 1, 0, 0); /* the launch alone: 2 ms */
    CHECK(now() - from >= 0.002);
    from = now();
    nlb_run(&n, 131072, 0, 0); /* 8 MiB at 100 MB/s */
    double took = now() - from;
    CHECK(took >= 0.0858 && took < 1 && memcmp(n.src, n.dst, 8 << 20) == 0);
    CHECK(dsm32(&n, 0x48) / 400e6 > 0.0858);
    nlb_start(&n, 131072, 0, 0);
    nap(0.01);
    from = now();
    OK(opae.fpgaReset(h));
    CHECK(now() - from < 0.05 && dsm_word(&n) == 0);
    nlb_free(&n);
    OK(opae.fpgaClose(h));
}

void hang_and_reset(void)
{
    struct nlb n;
    fpga_handle h = open_afu();
    nlb_buffers(&n, h, 4096);
    CHECK(emu_fault(rack, BDF, "hang", NULL, 0, 1) == 0);
    nlb_start(&n, 16, 0, 0);
    CHECK(!nlb_wait(&n, 0.05) && rd64(h, 0x168) != 0);
    double from = now();
    OK(opae.fpgaReset(h));
    CHECK(now() - from < 0.05 && rd64(h, 0x168) == 0);
    nlb_run(&n, 16, 0, 0);
    CHECK(emu_fault(rack, BDF, "hang", NULL, 0, 1) == 0);
    nlb_start(&n, 16, 0, 0);
    nlb_free(&n);
    from = now();
    OK(opae.fpgaClose(h)); /* stops it, too */
    CHECK(now() - from < 0.05);
}

void events(void)
{
    struct nlb n;
    fpga_event_handle e;
    fpga_handle h = open_afu();
    int fd;
    uint64_t count;
    OK(opae.fpgaCreateEventHandle(&e));
    CHECK(opae.fpgaGetOSObjectFromEventHandle(e, &fd) == FPGA_INVALID_PARAM);
    CHECK(opae.fpgaRegisterEvent(h, FPGA_EVENT_POWER_THERMAL, e, 0) == FPGA_NO_DAEMON);
    CHECK(opae.fpgaRegisterEvent(h, FPGA_EVENT_INTERRUPT, e, 99) == FPGA_INVALID_PARAM);
    OK(opae.fpgaRegisterEvent(h, FPGA_EVENT_INTERRUPT, e, 0));
    OK(opae.fpgaGetOSObjectFromEventHandle(e, &fd));
    nlb_buffers(&n, h, 1 << 20);
    nlb_run(&n, 16, 0, 0);
    struct pollfd p = { .fd = fd, .events = POLLIN };
    CHECK(poll(&p, 1, 0) == 0);
    nlb_run(&n, 16384, 1 << 29, 0);
    CHECK(poll(&p, 1, 1000) == 1 && read(fd, &count, 8) == 8 && count == 1);
    n.io[1] = 64;
    nlb_run(&n, 16, 1 << 28, 0);
    CHECK(poll(&p, 1, 1000) == 1);
    OK(opae.fpgaUnregisterEvent(h, FPGA_EVENT_INTERRUPT, e));
    OK(opae.fpgaRegisterEvent(h, FPGA_EVENT_ERROR, e, 0));
    CHECK(read(fd, &count, 8) == 8);
    nlb_run(&n, 16, 0, 0);
    CHECK(poll(&p, 1, 1000) == 1);
    nlb_free(&n);
    OK(opae.fpgaClose(h));
    OK(opae.fpgaDestroyEventHandle(&e));
}
