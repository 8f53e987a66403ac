/* SPDX-License-Identifier: Apache-2.0 */
/*
 * port.h: the inside of a port, for port.c and for what must be fast: a register read through opae.c
 * should cost little more than the load itself.
 */
#ifndef FPGAHAL_EMU_PORT_H
#define FPGAHAL_EMU_PORT_H

#include "../include/board.h"

enum emu_access_kind { EMU_UNDEFINED, EMU_READABLE, EMU_WRITABLE, EMU_LOCKABLE, EMU_INVERTED };

/* Which registers an AFU has: one table a model, built once and never changed. */
struct emu_access {
    const struct emu_model *model;
    uint8_t access[EMU_CSR_BYTES / 4]; /* enum emu_access_kind, for each 32-bit half */
    uint8_t word[EMU_CSR_BYTES / 8]; /* 1: at least one half exists */
};
const struct emu_access *emu_access_of(const uint8_t afu_id[16]);

struct emu_mapping { /* host memory that the AFU may reach */
    uint64_t iova, size;
    unsigned char *host;
    size_t mapped; /* bytes to munmap when it is released; 0: the memory is the caller's */
    uint64_t owner; /* the handle that made it */
    bool readonly; /* for the AFU */
    unsigned pins; /* jobs that hold a pointer into it */
};

enum { EMU_VECTORS = 4, EMU_JOB_BYTES = 2048 };

struct emu_port {
    struct emu_rack *rack;
    struct emu_board *board;
    _Atomic(const struct emu_access *) access;
    _Atomic uint64_t epoch; /* the board's epoch that `access` belongs to; EMU_NO_EPOCH: none */

    unsigned references; /* open handles; under the lock of the list of ports */
    struct emu_port *next;

    pthread_mutex_t mmio; /* one register write, or reset, at a time */

    pthread_mutex_t dma; /* the map; held by a job while it touches memory, a piece at a time */
    pthread_cond_t unpinned;
    _Atomic int dma_wanted; /* how many wait for it outside of jobs */
    struct emu_mapping *mappings; /* sorted by iova */
    size_t count, room;
    uint64_t next_iova;

    pthread_mutex_t engine; /* the job, and the thread that runs it */
    pthread_cond_t changed;
    pthread_t thread;
    bool threaded, quit;
    void (*job)(struct emu_port *, void *arg, _Atomic int *cancel);
    void *arg;
    _Atomic int running, cancel;
    _Alignas(16) unsigned char space[EMU_JOB_BYTES]; /* for the model's description of the running job */

    pthread_mutex_t irq;
    int eventfd[EMU_VECTORS], error_eventfd; /* -1: none */
};
#define EMU_NO_EPOCH UINT64_MAX

/* True and the value, when nothing is out of the ordinary: else ask emu_port_read what is. */
static inline bool emu_port_read_fast(struct emu_port *p, uint64_t offset, unsigned bytes, uint64_t *value)
{
    if (atomic_load_explicit(&p->epoch, memory_order_acquire)
            != atomic_load_explicit(&p->board->epoch, memory_order_acquire)
        || offset >= EMU_CSR_BYTES || (offset & (bytes - 1)))
        return false;
    const struct emu_access *a = atomic_load_explicit(&p->access, memory_order_relaxed);
    if (bytes == 8 ? !a->word[offset / 8] : !a->access[offset / 4])
        return false;
    uint64_t v = atomic_load_explicit(&p->board->csr[offset / 8], memory_order_acquire);
    *value = bytes == 8 ? v : (uint32_t)(v >> (offset & 4) * 8);
    return true;
}

/* A mapping with its owner; `m->iova` is filled in. */
int emu_port_map_as(struct emu_port *, struct emu_mapping *m);
/* Take a mapping out if `owner` made it.  ENOENT if not.  The memory is the caller's again. */
int emu_port_take(struct emu_port *, uint64_t iova, uint64_t owner, struct emu_mapping *out);
bool emu_port_find(struct emu_port *, uint64_t iova, uint64_t owner, struct emu_mapping *out);

/* Between these a pointer from emu_port_dma stays good: memory that the host takes back meanwhile is
 * waited for.  Not longer than a piece of work of about 0.1 ms. */
void emu_port_dma_begin(struct emu_port *);
void emu_port_dma_end(struct emu_port *);
void *emu_port_dma_at(struct emu_port *, uint64_t iova, uint64_t size, bool write);

/* The mapping that covers a range, held until it is given back: a host that wants the memory waits. */
bool emu_port_dma_pin(struct emu_port *, uint64_t iova, uint64_t size, struct emu_mapping *out);
void emu_port_dma_unpin(struct emu_port *, uint64_t iova_of_mapping);

void emu_port_each(void (*visit)(struct emu_port *, void *), void *context);
/* EMU_JOB_BYTES for what describes the job: there is only one at a time. */
void *emu_port_space(struct emu_port *);

/* Error events: -1 takes it away. */
void emu_port_set_error_event(struct emu_port *, int eventfd);
void emu_port_forget_event(int eventfd); /* everywhere in this process */
/* Record port errors (bits of the port error register) and tell who asked. */
void emu_port_raise(struct emu_port *, uint64_t errors);

/* module.c: load the shared objects that FPGAHAL_EMU_MODELS names now. */
void emu_modules_load(void);

/* models/hls.c: the registers of a compute kernel that has none of its own. */
extern const struct emu_reg emu_hls_regs[];
bool emu_hls_unlocked(struct emu_port *);
void emu_hls_written(struct emu_port *, uint32_t offset, uint64_t old, uint64_t value);

#endif
