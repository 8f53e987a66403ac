/* SPDX-License-Identifier: Apache-2.0 */
/*
 * dma.c: the DMA AFU of the Intel PAC: a queue of descriptors in front of an mSGDMA engine, between host memory
 * and the memory of the board.
 *
 * A feature header at 0x100 leads to the block.  The host pushes a descriptor by writing its last word with the
 * go bit; the engine takes them in order.  An address says by its upper bits whose memory it means.  The window at
 * 0x1100 shows 4 KiB of the board's memory, for what is not a whole line.
 *
 * Registers and addresses: OPAE's DMA AFU (its driver's fpga_dma_internal.h); the position of the block, the depth
 * of the queue and the size of the memory are this board's choice.
 *
 * The board's memory is a sparse file in the rack, so it stays what it is when a process ends.  It is read and
 * written, not mapped: a full disk is an error here, and would kill the process there.
 */
#define _GNU_SOURCE 1
#include "../port.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE 64u
#define PIECE (256u << 10) /* bytes between two looks at cancel, and at who waits for the memory map */
#define MEMORY_BYTES (1ull << 30)
#define PAGE_MASK 0xfffull

enum { BLOCK = 0x100, CSR = BLOCK + 0x40, FILL = CSR + 8, SEQUENCE = CSR + 0x10, DESCRIPTOR = BLOCK + 0x60,
       WINDOW_PAGE = BLOCK + 0x200, WINDOW = BLOCK + 0x1000, WINDOW_END = WINDOW + 0x1000 };
enum { BUSY = 1, EMPTY = 2, FULL = 4, RESPONSES_EMPTY = 8, STOPPED = 0x20, STOPPED_ON_ERROR = 0x80, IRQ = 0x200 };
enum { STOP = 1, RESET = 2, IRQ_ENABLE = 0x10, STOP_DESCRIPTORS = 0x20 };
#define GO 0x80000000u
#define TRANSFER_IRQ (1u << 14)
#define ERROR_IRQ (0xffu << 16)
#define PORT_ERROR_READ (1ull << 1)
#define PORT_ERROR_WRITE (1ull << 17)

/* What an address means: bits 49 and 48. */
#define SPACE (3ull << 48)
#define BOARD 0ull
#define ROM (1ull << 48) /* a line that begins with MAGIC */
#define HOST (2ull << 48)
#define HOST_FENCED (3ull << 48) /* after all writes before it */
#define MAGIC 0x5772745f53796e63ull

enum { DEPTH = 32 };

struct descriptor {
    uint32_t read_low, write_low, length;
    uint16_t sequence;
    uint8_t read_burst, write_burst;
    uint16_t read_stride, write_stride;
    uint32_t read_high, write_high, control;
};
_Static_assert(sizeof(struct descriptor) == 32, "as the AFU has it");

struct engine { /* in the port's space */
    pthread_mutex_t lock;
    uint64_t epoch; /* the board's epoch + 1 that this belongs to; 0: nobody's */
    unsigned first, count;
    bool busy, irq, failed;
    struct descriptor queue[DEPTH];
};
_Static_assert(sizeof(struct engine) <= EMU_JOB_BYTES, "the port's space for a job is too small");

static uint64_t get(struct emu_board *b, unsigned offset) { return atomic_load(&b->csr[offset / 8]); }

/* ---- the board's memory --------------------------------------------------------------------------------- */

static int memory_open(struct emu_port *p)
{
    char path[600];
    snprintf(path, sizeof path, "%s/memory-%u", p->rack->dir, p->board->index);
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
}

static bool memory_read(int fd, void *to, uint64_t size, uint64_t address)
{
    if (address > MEMORY_BYTES || size > MEMORY_BYTES - address)
        return false;
    for (char *at = to; size;) {
        ssize_t n = pread(fd, at, size, (off_t)address);
        if (n < 0 && errno != EINTR)
            return false;
        if (n == 0) { /* nothing was written there yet */
            memset(at, 0, size);
            break;
        }
        if (n > 0) {
            at += n;
            address += (uint64_t)n;
            size -= (uint64_t)n;
        }
    }
    return true;
}

static bool memory_write(int fd, const void *from, uint64_t size, uint64_t address)
{
    if (address > MEMORY_BYTES || size > MEMORY_BYTES - address)
        return false;
    for (const char *at = from; size;) {
        ssize_t n = pwrite(fd, at, size, (off_t)address);
        if (n < 0 && errno != EINTR)
            return false;
        if (n > 0) {
            at += n;
            address += (uint64_t)n;
            size -= (uint64_t)n;
        }
    }
    return true;
}

/* ---- registers ------------------------------------------------------------------------------------------ */

/* Make status, fill level and sequence number what they are.  With the lock. */
static void publish(struct emu_port *p, const struct engine *e, uint16_t sequence)
{
    struct emu_board *b = p->board;
    uint64_t old = get(b, CSR);
    uint32_t status = (e->busy ? BUSY : 0) | (e->count == 0 ? EMPTY : 0) | (e->count == DEPTH ? FULL : 0)
                      | RESPONSES_EMPTY | (e->irq ? IRQ : 0) | (e->failed ? STOPPED_ON_ERROR : 0);
    if (old >> 32 & (STOP | STOP_DESCRIPTORS))
        status |= STOPPED;
    while (!atomic_compare_exchange_weak(&b->csr[CSR / 8], &old, (old & ~0xffffffffull) | status))
        ;
    atomic_store(&b->csr[FILL / 8], (uint64_t)(e->count << 16 | e->count));
    if (sequence)
        atomic_store(&b->csr[SEQUENCE / 8], (uint64_t)sequence << 16 | sequence);
}

/* ---- one descriptor ------------------------------------------------------------------------------------- */

/* Host memory; the map is held. */
static void *host(struct emu_port *p, uint64_t address, uint64_t size, bool write)
{
    void *at = emu_port_dma_at(p, address & ~SPACE, size, write);
    if (!at)
        emu_error(p->board, true, "DMA %s of %llu bytes at device address 0x%llx, which no buffer covers",
                  write ? "write" : "read", (unsigned long long)size, (unsigned long long)(address & ~SPACE));
    return at;
}

static bool failed_memory(struct emu_port *p, const char *what, uint64_t address)
{
    emu_error(p->board, true, "DMA %s of the board's memory at 0x%llx failed: it has %llu MiB, and space on the "
              "host's disk as needed", what, (unsigned long long)address, MEMORY_BYTES >> 20);
    return false;
}

static bool move_piece(struct emu_port *p, int fd, uint64_t from, uint64_t to, uint64_t size)
{
    _Alignas(16) unsigned char line[4096]; /* from board to board, and from the ROM */
    if ((from & SPACE) == HOST && (to & SPACE) >= HOST) {
        void *out = host(p, to, size, true), *in = host(p, from, size, false);
        if (in && out)
            memmove(out, in, size);
        return in && out;
    }
    if ((from & SPACE) == HOST) {
        void *in = host(p, from, size, false);
        return in && (memory_write(fd, in, size, to) || failed_memory(p, "write", to));
    }
    if ((from & SPACE) == BOARD && (to & SPACE) >= HOST) {
        void *out = host(p, to, size, true);
        return out && (memory_read(fd, out, size, from) || failed_memory(p, "read", from));
    }
    memset(line, 0, sizeof line);
    for (uint64_t done = 0, n; done < size; done += n) {
        n = size - done < sizeof line ? size - done : sizeof line;
        if ((from & SPACE) == ROM)
            memcpy(line, &(uint64_t) { MAGIC }, 8);
        else if (!memory_read(fd, line, n, from + done))
            return failed_memory(p, "read", from + done);
        if ((to & SPACE) == BOARD) {
            if (!memory_write(fd, line, n, to + done))
                return failed_memory(p, "write", to + done);
        } else {
            unsigned char *out = host(p, to + done, n, true);
            if (!out)
                return false;
            memcpy(out + 8, line + 8, n - 8);
            uint64_t first;
            memcpy(&first, line, 8); /* the word that is polled comes last */
            __atomic_store_n((uint64_t *)(void *)out, first, __ATOMIC_RELEASE);
        }
    }
    return true;
}

static bool stopped(struct emu_port *p, const struct engine *e, _Atomic int *cancel)
{
    return atomic_load(cancel) || (uint64_t)atomic_load(&p->board->epoch) + 1 != e->epoch;
}

/* False if it could not be done. */
static bool transfer(struct emu_port *p, const struct engine *e, const struct descriptor *d, int fd,
                     _Atomic int *cancel)
{
    uint64_t from = d->read_low | (uint64_t)d->read_high << 32, to = d->write_low | (uint64_t)d->write_high << 32;
    uint64_t across = emu_now_ns() + p->board->launch_ns; /* ns: when the data so far was over the link */
    if (from % LINE || to % LINE || d->length % LINE || (to & SPACE) == ROM || (from & SPACE) == HOST_FENCED
        || (from | to) >> 50) {
        emu_error(p->board, true, "DMA of %u bytes from 0x%llx to 0x%llx: not whole lines, or no such address",
                  d->length, (unsigned long long)from, (unsigned long long)to);
        return false;
    }
    if (emu_fault(p->rack, p->board, EMU_FAULT_HANG, NULL, NULL)) {
        while (!stopped(p, e, cancel))
            nanosleep(&(struct timespec) { 0, 1000000 }, NULL);
    }
    if (p->board->launch_ns && !emu_wait_until(p->board, across, cancel))
        return true;
    for (uint64_t done = 0, n; done < d->length && !stopped(p, e, cancel); done += n) {
        n = d->length - done < PIECE ? d->length - done : PIECE;
        emu_port_dma_begin(p);
        bool ok = move_piece(p, fd, from + done, to + done, n);
        emu_port_dma_end(p);
        if (!ok) {
            emu_port_raise(p, (from & SPACE) == HOST ? PORT_ERROR_READ : PORT_ERROR_WRITE);
            return false;
        }
        across = emu_link(p->board, (from & SPACE) == HOST ? n : 0, (to & SPACE) >= HOST ? n : 0, across, cancel);
        if (!across)
            break;
    }
    if (emu_fault(p->rack, p->board, EMU_FAULT_FLIP, NULL, NULL) && (to & SPACE) >= HOST) {
        emu_port_dma_begin(p);
        uint32_t *word = emu_port_dma_at(p, to & ~SPACE, 4, true);
        if (word)
            *word = ~*word;
        emu_port_dma_end(p);
    }
    return !emu_fault(p->rack, p->board, EMU_FAULT_RUN_ERROR, NULL, NULL);
}

/* ---- the queue ------------------------------------------------------------------------------------------ */

static bool paused(struct emu_port *p) { return get(p->board, CSR) >> 32 & (STOP | STOP_DESCRIPTORS); }

static void job(struct emu_port *p, void *arg, _Atomic int *cancel)
{
    struct engine *e = arg;
    int fd = memory_open(p);
    for (;;) {
        pthread_mutex_lock(&e->lock);
        bool gone = stopped(p, e, cancel);
        if (gone || e->failed || e->count == 0 || paused(p)) {
            e->busy = false;
            if (!gone)
                publish(p, e, 0);
            pthread_mutex_unlock(&e->lock);
            break;
        }
        struct descriptor d = e->queue[e->first];
        e->first = (e->first + 1) % DEPTH;
        e->count--;
        publish(p, e, 0);
        pthread_mutex_unlock(&e->lock);

        bool ok = fd >= 0 && transfer(p, e, &d, fd, cancel);
        if (stopped(p, e, cancel))
            continue;
        bool ring = d.control & (ok ? TRANSFER_IRQ : ERROR_IRQ);
        pthread_mutex_lock(&e->lock);
        e->irq |= ring;
        e->failed |= !ok;
        publish(p, e, d.sequence);
        pthread_mutex_unlock(&e->lock);
        if (ring && get(p->board, CSR) >> 32 & IRQ_ENABLE)
            emu_port_irq(p, 0);
    }
    if (fd >= 0)
        close(fd);
}

/* The engine of this image; what another one left is gone.  With the port's mmio lock. */
static struct engine *engine(struct emu_port *p)
{
    struct engine *e = emu_port_space(p);
    uint64_t epoch = (uint64_t)atomic_load(&p->board->epoch) + 1;
    if (e->epoch != epoch) {
        emu_port_stop(p);
        memset(e, 0, sizeof *e);
        pthread_mutex_init(&e->lock, NULL);
        e->epoch = epoch;
    }
    return e;
}

/* With the lock. */
static void start(struct emu_port *p, struct engine *e)
{
    if (e->busy || e->failed || e->count == 0 || paused(p))
        return;
    e->busy = true;
    publish(p, e, 0);
    pthread_mutex_unlock(&e->lock);
    emu_port_stop(p); /* the last job has said that it ended, but may still be on its way out */
    int rc = emu_port_start(p, job, e, false);
    pthread_mutex_lock(&e->lock);
    if (rc) {
        e->busy = false;
        e->failed = true;
        publish(p, e, 0);
    }
}

static void push(struct emu_port *p, struct engine *e)
{
    uint64_t words[4];
    for (unsigned i = 0; i < 4; i++)
        words[i] = get(p->board, DESCRIPTOR + 8 * i);
    if (e->count == DEPTH) {
        emu_error(p->board, true, "DMA descriptor written while the queue was full: it is lost");
        return;
    }
    memcpy(&e->queue[(e->first + e->count) % DEPTH], words, sizeof words);
    e->count++;
    publish(p, e, 0);
    start(p, e);
}

static void written(struct emu_port *p, uint32_t offset, uint64_t old, uint64_t value)
{
    struct engine *e = engine(p);
    pthread_mutex_lock(&e->lock);
    if (offset == DESCRIPTOR + 24 && value >> 32 & GO) {
        push(p, e);
    } else if (offset == CSR) {
        if ((old ^ value) & IRQ)
            e->irq = false; /* a written 1 clears it, and nothing sets it but the engine */
        if (value >> 32 & RESET) {
            pthread_mutex_unlock(&e->lock);
            emu_port_stop(p);
            pthread_mutex_lock(&e->lock);
            e->first = e->count = 0;
            e->busy = e->irq = e->failed = false;
            atomic_fetch_and(&p->board->csr[CSR / 8], ~((uint64_t)RESET << 32));
        }
        publish(p, e, 0);
        start(p, e);
    }
    pthread_mutex_unlock(&e->lock);
}

static void reset(struct emu_port *p)
{
    struct engine *e = emu_port_space(p);
    e->epoch = 0; /* begins anew with the next write */
}

static int window(struct emu_port *p, uint32_t offset, unsigned bytes, bool write, uint64_t *value)
{
    if (offset < WINDOW || offset >= WINDOW_END)
        return ENOENT;
    uint64_t address = (get(p->board, WINDOW_PAGE) & ~PAGE_MASK) + (offset - WINDOW);
    int fd = memory_open(p);
    if (fd < 0)
        return EIO;
    bool ok = write ? memory_write(fd, value, bytes, address) : memory_read(fd, value, bytes, address);
    close(fd);
    return ok || failed_memory(p, write ? "write" : "read", address) ? 0 : EIO;
}

static const struct emu_reg regs[] = {
    { 0x00, 8, EMU_RO, 0x1000000000000000 | BLOCK << 16, "DFH" }, /* an AFU; the next feature is at BLOCK */
    { 0x08, 8, EMU_RO, 0, "AFU_ID_L" },
    { 0x10, 8, EMU_RO, 0, "AFU_ID_H" },
    { 0x18, 8, EMU_RO, 0, "DFH_RSVD0" },
    { 0x20, 8, EMU_RO, 0, "DFH_RSVD1" },
    { BLOCK, 8, EMU_RO, 0x2000010000000765, "DMA_DFH" }, /* a building block; the end of the list */
    { BLOCK + 0x08, 8, EMU_RO, 0xa9149a35bace01ea, "DMA_ID_L" }, /* memory to memory */
    { BLOCK + 0x10, 8, EMU_RO, 0xef82def7f6ec40fc, "DMA_ID_H" },
    { CSR, 4, EMU_TOGGLE, EMPTY | RESPONSES_EMPTY, "STATUS" },
    { CSR + 4, 4, EMU_RW, 0, "CONTROL" },
    { FILL, 4, EMU_RO, 0, "FILL_LEVEL" },
    { FILL + 4, 4, EMU_RO, 0, "RESPONSE_FILL_LEVEL" },
    { SEQUENCE, 4, EMU_RO, 0, "SEQUENCE" },
    { DESCRIPTOR, 32, EMU_RW, 0, "DESCRIPTOR" },
    { WINDOW_PAGE, 8, EMU_RW, 0, "WINDOW_PAGE" },
    { 0, 0, 0, 0, NULL },
};

const struct emu_model emu_model_dma = {
    .name = "dma",
    .afu_id = { 0x33, 0x1d, 0xb3, 0x0c, 0x98, 0x85, 0x41, 0xea, 0x90, 0x81, 0xf8, 0x8b, 0x8f, 0x65, 0x5c, 0xaa },
    .regs = regs,
    .reset = reset,
    .written = written,
    .window = window,
};
