/* SPDX-License-Identifier: Apache-2.0 */
/* test_opae_hls.c: a compute kernel behind HLS's registers, and models that are added at run time. */
#include "opae_rig.h"

#include "../../native/include/fpgahal_emu.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#define VADD "6b33dc51-1ead-5d64-97fb-48d000d2673d"
#define OURS "00c0ffee-0000-4000-8000-000000000001"
enum { STATUS = 0x20, CTRL = 0x40, GIE = 0x44, IER = 0x48, ISR = 0x4c, ARGUMENTS = 0x50 };
enum { START = 1, ENDED = 0xe, IDLE = 4 };

static uint32_t rd32(fpga_handle h, uint64_t at)
{
    uint32_t v = 0;
    OK(opae.fpgaReadMMIO32(h, 0, at, &v));
    return v;
}

static uint32_t run(fpga_handle h)
{
    wr32(h, CTRL, START);
    double end = now() + 10;
    while ((rd32(h, CTRL) & (START | IDLE)) != IDLE) {
        CHECK(now() < end);
        nap(1e-5); /* valgrind runs one thread at a time */
    }
    return rd32(h, STATUS);
}

static void pointer(fpga_handle h, uint64_t at, uint64_t address)
{
    wr32(h, at, (uint32_t)address);
    wr32(h, at + 4, (uint32_t)(address >> 32));
}

static void vadd(const struct nlb *n, uint32_t count)
{
    for (int i = 0; i < 3; i++)
        pointer(n->h, ARGUMENTS + 0xc * (uint64_t)i, n->io[i]);
    wr32(n->h, ARGUMENTS + 0x24, count);
}

static bool added(const struct nlb *n, uint32_t count)
{
    const uint32_t *a = (uint32_t *)n->dsm, *b = (uint32_t *)n->src, *out = (uint32_t *)n->dst;
    for (uint32_t i = 0; i < count; i++) {
        if (out[i] != a[i] + b[i])
            return false;
    }
    return true;
}

void hls_registers(void)
{
    uint8_t id[16];
    uint64_t value;
    OK(program_afu(VADD));
    fpga_handle h = open_afu();
    parse_id(VADD, id);
    CHECK(rd64(h, 0) == 0x1000010000000000 && rd64(h, 8) >> 56 == id[8] && rd64(h, 0x10) >> 56 == id[0]);
    CHECK(rd32(h, CTRL) == IDLE && rd32(h, STATUS) == 0);
    wr32(h, STATUS, 5);
    wr64(h, 8, 0);
    CHECK(rd32(h, STATUS) == 0 && rd64(h, 8) >> 56 == id[8]);
    for (uint64_t at = ARGUMENTS; at < 0x400; at += 4)
        wr32(h, at, (uint32_t)at * 3);
    for (uint64_t at = ARGUMENTS; at < 0x400; at += 4)
        CHECK(rd32(h, at) == (uint32_t)at * 3);
    wr32(h, CTRL, 0);
    wr32(h, CTRL, 0xfe); /* bits that are not the host's */
    wr32(h, GIE, 1);
    CHECK(rd32(h, CTRL) == IDLE && rd32(h, GIE) == 1);
    CHECK(opae.fpgaReadMMIO32(h, 0, 0x400, (uint32_t *)&value) == FPGA_EXCEPTION);
    CHECK(opae.fpgaReadMMIO32(h, 0, 0x28, (uint32_t *)&value) == FPGA_EXCEPTION);
    OK(opae.fpgaReset(h));
    CHECK(rd32(h, CTRL) == IDLE && rd32(h, GIE) == 0 && rd32(h, ARGUMENTS) == 0);
    OK(opae.fpgaClose(h));
}

void hls_runs(void)
{
    static const uint32_t counts[] = { 0, 1, 7, 1024 };
    struct nlb n;
    fpga_handle h = open_afu();
    nlb_buffers(&n, h, 4096); /* its three buffers of a page: a, b, out */
    for (uint32_t i = 0; i < 1024; i++) {
        ((uint32_t *)n.dsm)[i] = i * 0x9e3779b9u;
        ((uint32_t *)n.src)[i] = ~i;
    }
    for (int i = 0; i < 4; i++) {
        memset(n.dst, 0, 4096);
        vadd(&n, counts[i]);
        CHECK(run(h) == 0 && rd32(h, CTRL) == ENDED && added(&n, counts[i]));
        CHECK(counts[i] == 1024 || ((uint32_t *)n.dst)[counts[i]] == 0);
    }
    vadd(&n, 1025); /* one too many */
    CHECK(run(h) == EFAULT && rd32(h, CTRL) == ENDED);
    vadd(&n, 1024);
    pointer(h, ARGUMENTS, (uint64_t)(uintptr_t)n.dsm); /* a host pointer is no device address */
    CHECK(run(h) == EFAULT);
    vadd(&n, 1024);
    CHECK(emu_fault(rack, BDF, "run-error", NULL, 0, 1) == 0);
    CHECK(run(h) == EIO && run(h) == 0);
    CHECK(emu_fault(rack, BDF, "flip", NULL, 0, 1) == 0);
    CHECK(run(h) == 0 && !added(&n, 1024) && run(h) == 0 && added(&n, 1024));
    CHECK(emu_fault(rack, BDF, "hang", NULL, 0, 1) == 0);
    wr32(h, CTRL, START);
    nap(0.02);
    wr32(h, CTRL, 0); /* does not stop it */
    CHECK(rd32(h, CTRL) == START);
    OK(opae.fpgaReset(h));
    CHECK(rd32(h, CTRL) == IDLE);
    vadd(&n, 1024);
    CHECK(run(h) == 0 && added(&n, 1024));
    CHECK(emu_fault(rack, BDF, "hang", NULL, 0, 1) == 0);
    wr32(h, CTRL, START);
    nlb_free(&n);
    OK(opae.fpgaClose(h)); /* in mid-run */
    h = open_afu();
    CHECK(rd32(h, CTRL) == IDLE);
    OK(opae.fpgaClose(h));
}

/* ---- our own kernel: it looks at two buffers for as long as it is told ---------------------------------------- */

static _Atomic int go, inside;
static int slow(struct emu_call *c)
{
    uint64_t address = c->regs[4] | (uint64_t)c->regs[5] << 32;
    unsigned char *at = c->memory(c, address, 4096);
    if (!at || c->memory(c, address + 64, 64) != at + 64 || c->memory(c, address + 1, 4096))
        return at ? 0 : EFAULT;
    atomic_store(&inside, 1);
    while (!atomic_load(&go) && !atomic_load(c->cancel))
        nap(1e-4);
    for (int i = 0; i < 4096; i++)
        at[i]++;
    atomic_store(&inside, 0);
    return atomic_load(c->cancel) ? ECANCELED : 0;
}

static int quick(struct emu_call *c)
{
    (void)c;
    return 0;
}

static void program_ours(int (*execute)(struct emu_call *))
{
    uint8_t id[16];
    parse_id(OURS, id);
    CHECK(emu_register("ours", id, execute) == 0);
    OK(program_afu(OURS));
}

static void *release(void *context)
{
    const struct nlb *n = context;
    OK(opae.fpgaReleaseBuffer(n->h, n->wsid[1]));
    return NULL;
}

/* Memory that a run uses is not taken away under it; other memory comes and goes. */
void hls_memory(void)
{
    struct nlb n;
    pthread_t thread;
    void *other;
    uint64_t wsid;
    program_ours(slow);
    fpga_handle h = open_afu();
    nlb_buffers(&n, h, 4096);
    pointer(h, ARGUMENTS, n.io[1]);
    atomic_store(&go, 0);
    wr32(h, CTRL, START);
    while (!atomic_load(&inside))
        nap(1e-4);
    OK(opae.fpgaPrepareBuffer(h, 4096, &other, &wsid, 0));
    OK(opae.fpgaReleaseBuffer(h, wsid));
    CHECK(pthread_create(&thread, NULL, release, &n) == 0);
    nap(0.05);
    CHECK(atomic_load(&inside) && rd32(h, CTRL) == START); /* the release waits */
    atomic_store(&go, 1);
    pthread_join(thread, NULL);
    CHECK(!atomic_load(&inside));
    while (!(rd32(h, CTRL) & IDLE)) /* its memory is free a little before it says that it has ended */
        nap(1e-4);
    atomic_store(&go, 0);
    pointer(h, ARGUMENTS, n.io[2]);
    wr32(h, CTRL, START);
    while (!atomic_load(&inside))
        nap(1e-4);
    OK(opae.fpgaReset(h)); /* ends it */
    CHECK(!atomic_load(&inside) && rd32(h, CTRL) == IDLE);
    OK(opae.fpgaReleaseBuffer(h, n.wsid[0]));
    OK(opae.fpgaReleaseBuffer(h, n.wsid[2]));
    OK(opae.fpgaClose(h));
    CHECK(emu_unregister(slow) == 0 && emu_unregister(slow) == ENOENT);
}

void hls_interrupts(void)
{
    fpga_event_handle event;
    int fd;
    uint64_t count;
    program_ours(quick);
    fpga_handle h = open_afu();
    OK(opae.fpgaCreateEventHandle(&event));
    OK(opae.fpgaRegisterEvent(h, FPGA_EVENT_INTERRUPT, event, 0));
    OK(opae.fpgaGetOSObjectFromEventHandle(event, &fd));
    struct pollfd p = { .fd = fd, .events = POLLIN };
    CHECK(run(h) == 0 && poll(&p, 1, 20) == 0 && rd32(h, ISR) == 0);
    wr32(h, IER, 1);
    CHECK(run(h) == 0 && poll(&p, 1, 20) == 0 && rd32(h, ISR) == 1); /* not enabled as a whole */
    wr32(h, ISR, 1);
    CHECK(rd32(h, ISR) == 0 && rd32(h, IER) == 1);
    wr32(h, GIE, 1);
    CHECK(run(h) == 0 && poll(&p, 1, 1000) == 1 && read(fd, &count, 8) == 8 && count == 1 && rd32(h, ISR) == 1);
    OK(opae.fpgaUnregisterEvent(h, FPGA_EVENT_INTERRUPT, event));
    OK(opae.fpgaDestroyEventHandle(&event));
    OK(opae.fpgaClose(h));
    CHECK(emu_unregister(quick) == 0);
}

/* Registers that share a word with CTRL are written while runs end: no end is lost, and nothing starts twice. */
static _Atomic int stop, runs;
static int counted(struct emu_call *c)
{
    (void)c;
    atomic_fetch_add(&runs, 1);
    return 0;
}

static void *disturb(void *h)
{
    for (uint32_t i = 0; !atomic_load(&stop); i++) {
        wr32(h, GIE, i & 1);
        wr32(h, IER, i >> 1 & 1);
    }
    return NULL;
}

void hls_threads(void)
{
    pthread_t thread;
    const char *text = getenv("CYCLES");
    int cycles = text ? atoi(text) : 20000;
    program_ours(counted);
    fpga_handle h = open_afu();
    atomic_store(&stop, 0);
    atomic_store(&runs, 0);
    CHECK(pthread_create(&thread, NULL, disturb, h) == 0);
    for (int i = 0; i < cycles; i++)
        CHECK(run(h) == 0);
    atomic_store(&stop, 1);
    pthread_join(thread, NULL);
    CHECK(atomic_load(&runs) == cycles);
    OK(opae.fpgaClose(h));
    CHECK(emu_unregister(counted) == 0);
}

void models_come_and_go(void)
{
    uint8_t id[16];
    parse_id(VADD, id);
    CHECK(program_afu(OURS) == FPGA_RECONF_ERROR);
    CHECK(emu_register(NULL, id, quick) == EINVAL && emu_register("ours", id, NULL) == EINVAL);
    CHECK(emu_register("vadd", id, counted) == 0); /* the newest counts */
    OK(program_afu(VADD));
    fpga_handle h = open_afu();
    atomic_store(&runs, 0);
    CHECK(run(h) == 0 && atomic_load(&runs) == 1);
    CHECK(emu_unregister(counted) == 0);
    OK(opae.fpgaReset(h));
    CHECK(run(h) == 0); /* no model was changed under an open port: the card keeps what it has loaded */
    OK(opae.fpgaClose(h));
    h = open_afu();
    int before = atomic_load(&runs);
    CHECK(run(h) == 0 && atomic_load(&runs) == before); /* vadd of 0 elements */
    OK(opae.fpgaClose(h));
    OK(program_afu(NLB0));
}
