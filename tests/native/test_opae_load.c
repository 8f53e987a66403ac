/* SPDX-License-Identifier: Apache-2.0 */
/* test_opae_load.c: threads, ten thousand cycles, and what a call costs. */
#include "opae_rig.h"

#include <fcntl.h>
#include <pthread.h>

/* ---- threads and time ------------------------------------------------------------------------------------- */

static fpga_handle shared_handle;
static _Atomic int bad;

static void *reads_header(void *stop)
{
    uint64_t v;
    while (!*(_Atomic int *)stop)
        bad += opae.fpgaReadMMIO64(shared_handle, 0, 0x10, &v) != FPGA_OK || v != 0xd8424dc4a4a3c413;
    return NULL;
}

/* A reset returns registers to their values in one step each: the header never reads as anything else. */
void reset_under_readers(void)
{
    pthread_t t;
    _Atomic int stop = 0;
    int resets = getenv("CYCLES") ? 5000 : 200000;
    shared_handle = open_afu();
    CHECK(pthread_create(&t, NULL, reads_header, &stop) == 0);
    for (int i = 0; i < resets; i++)
        OK(opae.fpgaReset(shared_handle));
    stop = 1;
    pthread_join(t, NULL);
    CHECK(bad == 0);
    OK(opae.fpgaClose(shared_handle));
}


static void *hammer(void *arg)
{
    uint64_t wsid, io, v;
    void *at;
    int me = (int)(intptr_t)arg;
    for (int i = 0; i < 3000; i++) {
        bad += opae.fpgaReadMMIO64(shared_handle, 0, 0x10, &v) != FPGA_OK || v != 0xd8424dc4a4a3c413;
        bad += opae.fpgaWriteMMIO32(shared_handle, 0, me % 2 ? 0x100 : 0x104, (uint32_t)i) != FPGA_OK;
        bad += opae.fpgaPrepareBuffer(shared_handle, 4096, &at, &wsid, 0) != FPGA_OK;
        memset(at, me, 64);
        bad += opae.fpgaGetIOAddress(shared_handle, wsid, &io) != FPGA_OK || io == 0;
        bad += opae.fpgaReleaseBuffer(shared_handle, wsid) != FPGA_OK;
        if (me == 0 && i % 100 == 0)
            bad += opae.fpgaReset(shared_handle) != FPGA_OK;
        if (me == 1 && i % 10 == 0) {
            fpga_token t = find_token(FPGA_ACCELERATOR, 0x3b);
            bad += t == NULL || opae.fpgaDestroyToken(&t) != FPGA_OK;
        }
        if (me == 2 && i % 10 == 0)
            bad += opae.fpgaWriteMMIO32(shared_handle, 0, 0x138, (uint32_t)(i / 10 % 4)) != FPGA_OK;
    }
    return NULL;
}

void threads8(void)
{
    pthread_t t[8];
    struct nlb n;
    shared_handle = open_afu();
    nlb_buffers(&n, shared_handle, 1 << 20);
    nlb_start(&n, 16384, NLB_CONTINUOUS, 0);
    for (intptr_t i = 0; i < 8; i++)
        CHECK(pthread_create(&t[i], NULL, hammer, (void *)i) == 0);
    for (int i = 0; i < 8; i++)
        pthread_join(t[i], NULL);
    CHECK(bad == 0);
    OK(opae.fpgaReset(shared_handle));
    nlb_free(&n);
    OK(opae.fpgaClose(shared_handle));
}

static void *board_of_my_own(void *arg)
{
    uint8_t bus = arg ? 0x3c : 0x3b;
    for (int i = 0; i < 300; i++) {
        fpga_handle h;
        uint64_t v;
        bad += try_open(FPGA_ACCELERATOR, bus, 0, &h) != FPGA_OK || opae.fpgaReadMMIO64(h, 0, 8, &v) != FPGA_OK
               || opae.fpgaClose(h) != FPGA_OK;
    }
    return NULL;
}

void threads_open(void)
{
    pthread_t t;
    CHECK(pthread_create(&t, NULL, board_of_my_own, NULL) == 0);
    board_of_my_own("second");
    pthread_join(t, NULL);
    CHECK(bad == 0);
}

static long rss_pages(void)
{
    long size = 0, rss = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    CHECK(f && fscanf(f, "%ld %ld", &size, &rss) == 2);
    fclose(f);
    return rss;
}

static int descriptors(void)
{
    int n = 0;
    for (int fd = 0; fd < 1000; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

void cycles(void)
{
    int count = getenv("CYCLES") ? atoi(getenv("CYCLES")) : 10000, fds = 0;
    long rss = 0;
    for (int i = 0; i < count; i++) {
        struct nlb n;
        fpga_handle h = open_afu();
        nlb_buffers(&n, h, 4096);
        n.src[100] = (uint8_t)i;
        nlb_run(&n, 64, 0, 0);
        CHECK(n.dst[100] == (uint8_t)i);
        nlb_free(&n);
        OK(opae.fpgaClose(h));
        if (i == count / 10) {
            rss = rss_pages();
            fds = descriptors();
        }
    }
    CHECK(descriptors() == fds);
    if (!getenv("CYCLES")) /* tools that set it keep memory of their own */
        CHECK(rss_pages() - rss < 64);
}

void speed(void)
{
    enum { N = 5000000, RUNS = 20000, COPIES = 40 };
    struct nlb n;
    uint64_t v;
    uint32_t w;
    fpga_handle h = open_afu();
    int times = getenv("CYCLES") ? 1000 : N, runs = getenv("CYCLES") ? 100 : RUNS;
    double best = 1e9, best32 = 1e9;
    for (int round = 0; round < 3; round++) {
        double from = now();
        for (int i = 0; i < times; i++)
            opae.fpgaReadMMIO64(h, 0, 0x108, &v);
        double t = (now() - from) / times * 1e9;
        best = t < best ? t : best;
        from = now();
        for (int i = 0; i < times; i++)
            opae.fpgaReadMMIO32(h, 0, 0x100, &w);
        t = (now() - from) / times * 1e9;
        best32 = t < best32 ? t : best32;
    }
    double from = now();
    for (int i = 0; i < times; i++)
        opae.fpgaWriteMMIO64(h, 0, 0x108, (uint64_t)i);
    double write = (now() - from) / times * 1e9;
    nlb_buffers(&n, h, 32 << 20);
    memset(n.src, 1, n.size);
    nlb_run(&n, 1, 0, 0);
    from = now();
    for (int i = 0; i < runs; i++) {
        wr32(h, 0x138, 0);
        wr32(h, 0x138, 1);
        wr32(h, 0x138, 3);
        while (!(dsm_word(&n) & 1))
            ;
    }
    double run = (now() - from) / runs * 1e9;
    double copy = 1e9, plain = 1e9; /* the best of each, in turns: other load hits both */
    for (int i = 0; i < COPIES; i++) {
        from = now();
        nlb_run(&n, 32 << 14, 0, 0);
        double t = now() - from;
        copy = t < copy ? t : copy;
        from = now();
        memcpy(n.dst, n.src, n.size);
        __asm__ volatile("" : : "r"(n.dst) : "memory");
        t = now() - from;
        plain = t < plain ? t : plain;
    }
    copy = (32 << 20) / copy / 1e9;
    plain = (32 << 20) / plain / 1e9;
    printf("     read64 %.1f ns, read32 %.1f ns, write64 %.1f ns, 64-byte run %.0f ns, copy %.2f GB/s (memcpy %.2f)\n",
           best, best32, write, run, copy, plain);
    nlb_free(&n);
    from = now();
    for (int i = 0; i < runs; i++) {
        uint64_t wsid, io;
        void *at;
        OK(opae.fpgaPrepareBuffer(h, 4096, &at, &wsid, 0));
        OK(opae.fpgaGetIOAddress(h, wsid, &io));
        OK(opae.fpgaReleaseBuffer(h, wsid));
    }
    double buffer = (now() - from) / runs * 1e6;
    OK(opae.fpgaClose(h));
    from = now();
    for (int i = 0; i < runs; i++) {
        fpga_token t = find_token(FPGA_ACCELERATOR, 0x3b);
        OK(opae.fpgaDestroyToken(&t));
    }
    double find = (now() - from) / runs * 1e6;
    from = now();
    for (int i = 0; i < runs; i++)
        OK(opae.fpgaClose(open_afu()));
    double open = (now() - from) / runs * 1e6;
    printf("     buffer %.1f us, enumerate %.1f us, enumerate+open+close %.1f us\n", buffer, find, open);
}
