/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hls.c: a compute kernel as an AFU.  On XRT the image gives a kernel its registers; on OPAE nobody does, so
 * every model that has a kernel and an AFU id, but no registers, gets these: a header, and the control block
 * that HLS makes (ap_ctrl_hs), at 0x40.  The map is in fpgahal_emu.h.
 */
#include "../port.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

enum { STATUS = 0x20, CTRL = 0x40, GIE = 0x44, IER = 0x48, ISR = 0x4c, ARGUMENTS = 0x50 };
enum { AP_START = 1, AP_DONE = 2, AP_IDLE = 4, AP_READY = 8 };
enum { REG_BYTES = EMU_CSR_BYTES - CTRL, MAX_PINS = 32 };
#define INLINE_BYTES (256u << 10)

const struct emu_reg emu_hls_regs[] = {
    { 0x00, 8, EMU_RO, 0x1000010000000000, "DFH" }, /* an AFU, and the end of the list */
    { 0x08, 8, EMU_RO, 0, "AFU_ID_L" },
    { 0x10, 8, EMU_RO, 0, "AFU_ID_H" },
    { 0x18, 8, EMU_RO, 0, "DFH_RSVD0" },
    { STATUS, 4, EMU_RO, 0, "STATUS" },
    { CTRL, 4, EMU_LOCKED, AP_IDLE, "CTRL" },
    { GIE, 4, EMU_RW, 0, "GIE" },
    { IER, 4, EMU_RW, 0, "IER" },
    { ISR, 4, EMU_TOGGLE, 0, "ISR" },
    { ARGUMENTS, EMU_CSR_BYTES - ARGUMENTS, EMU_RW, 0, "ARGUMENTS" },
    { 0, 0, 0, 0, NULL },
};

struct pin {
    uint64_t address, size;
    unsigned char *host;
};

struct job {
    struct emu_call call;
    const struct emu_model *model;
    struct emu_port *port;
    uint64_t started, epoch, asked; /* bytes */
    uint64_t out; /* what the last pointer argument points to, of those that the kernel asked for */
    unsigned out_at;
    unsigned npins;
    bool hang, bad;
    struct pin pins[MAX_PINS];
    _Alignas(8) uint32_t regs[REG_BYTES / 4]; /* as they were at the start */
};
_Static_assert(sizeof(struct job) <= EMU_JOB_BYTES, "the port's space for a job is too small");

static uint32_t get(struct emu_board *b, unsigned offset)
{
    return (uint32_t)(atomic_load(&b->csr[offset / 8]) >> (offset & 4) * 8);
}

static void put(struct emu_board *b, unsigned offset, uint32_t value)
{
    unsigned shift = (offset & 4) * 8;
    uint64_t old = atomic_load(&b->csr[offset / 8]);
    while (!atomic_compare_exchange_weak(&b->csr[offset / 8], &old,
                                         (old & ~(0xffffffffull << shift)) | (uint64_t)value << shift))
        ;
}

static void *within(const struct pin *pin, uint64_t address, uint64_t size)
{
    uint64_t offset = address - pin->address;
    return address >= pin->address && offset <= pin->size && size <= pin->size - offset ? pin->host + offset : NULL;
}

/* The host's memory at an address of the AFU's side; a buffer stays pinned until the run ends. */
static void *memory(struct emu_call *call, uint64_t address, uint64_t size)
{
    struct job *j = call->context;
    struct emu_mapping m;
    void *at = NULL;
    for (unsigned i = 0; i < j->npins && !at; i++)
        at = within(&j->pins[i], address, size);
    if (!at && j->npins < MAX_PINS && emu_port_dma_pin(j->port, address, size, &m)) {
        j->pins[j->npins] = (struct pin) { m.iova, m.size, m.host };
        at = within(&j->pins[j->npins++], address, size);
    }
    if (!at) {
        j->bad = true;
        emu_error(call->board, true, "kernel %s: device memory [0x%" PRIx64 ", +0x%" PRIx64 ") is not inside one "
                  "buffer", j->model->kernel, address, size);
        return NULL;
    }
    j->asked += size;
    for (unsigned offset = REG_BYTES - 8; offset > j->out_at; offset -= 4) {
        if ((j->regs[offset / 4] | (uint64_t)j->regs[offset / 4 + 1] << 32) == address) {
            j->out_at = offset;
            j->out = address;
        }
    }
    return at;
}

static int execute(struct job *j, _Atomic int *cancel)
{
    struct emu_board *b = j->call.board;
    uint64_t launched = j->started + b->launch_ns;
    int rc = !b->launch_ns || emu_wait_until(b, launched, cancel) ? j->model->execute(&j->call) : ECANCELED;
    uint64_t up = j->asked, down = 0;
    if (j->model->traffic)
        j->model->traffic(&j->call, &up, &down);
    if (rc == 0 && !emu_link(b, up, down, launched, cancel)) /* it was under way while the kernel computed */
        rc = ECANCELED;
    if (rc == 0 && j->bad)
        rc = EFAULT;
    if (rc == 0 && emu_fault(j->call.rack, b, EMU_FAULT_RUN_ERROR, NULL, NULL))
        rc = EIO;
    if (rc == 0 && j->out && emu_fault(j->call.rack, b, EMU_FAULT_FLIP, NULL, NULL)) {
        uint32_t word, *at = memory(&j->call, j->out, 4);
        if (at) {
            memcpy(&word, at, 4);
            word = ~word;
            memcpy(at, &word, 4);
        }
    }
    while (j->npins)
        emu_port_dma_unpin(j->port, j->pins[--j->npins].address);
    if (rc && rc != ECANCELED)
        emu_error(b, true, "run of kernel %s failed: %s", j->model->kernel, strerror(rc));
    return rc;
}

/* CTRL comes last: it is what the host looks at. */
static void end(struct job *j, int rc)
{
    struct emu_board *b = j->call.board;
    if (atomic_load(&b->epoch) != j->epoch)
        return; /* the registers are another image's, or the board is gone */
    put(b, STATUS, (uint32_t)rc);
    bool interrupt = get(b, IER) & 1;
    if (interrupt)
        put(b, ISR, get(b, ISR) | 1);
    put(b, CTRL, AP_DONE | AP_IDLE | AP_READY);
    if (interrupt && (get(b, GIE) & 1))
        emu_port_irq(j->port, 0);
}

static void job(struct emu_port *p, void *arg, _Atomic int *cancel)
{
    struct job *j = arg;
    (void)p;
    while (j->hang && !atomic_load(cancel) && atomic_load(&j->call.board->epoch) == j->epoch)
        nanosleep(&(struct timespec) { 0, 1000000 }, NULL);
    end(j, j->hang ? ECANCELED : execute(j, cancel));
}

/* With the port's mmio lock. */
static void start(struct emu_port *p)
{
    struct emu_board *b = p->board;
    struct job *j = emu_port_space(p);
    emu_port_stop(p); /* the last run has said that it ended, but it may still be on its way out */
    j->model = atomic_load(&p->access)->model;
    j->port = p;
    j->call = (struct emu_call) { p->rack, b, j->regs, REG_BYTES, memory, j, &p->cancel };
    j->started = emu_now_ns();
    j->epoch = atomic_load(&b->epoch);
    j->asked = j->out = 0;
    j->out_at = j->npins = 0;
    j->bad = false;
    for (unsigned i = 0; i < REG_BYTES / 8; i++) {
        uint64_t word = atomic_load_explicit(&b->csr[CTRL / 8 + i], memory_order_relaxed);
        memcpy(&j->regs[2 * i], &word, 8);
    }
    j->hang = emu_fault(p->rack, b, EMU_FAULT_HANG, NULL, NULL);
    put(b, STATUS, 0);
    bool small = !j->hang && j->model->bytes && j->model->bytes(&j->call) <= INLINE_BYTES;
    int rc = emu_port_start(p, job, j, small);
    if (rc)
        end(j, rc);
}

bool emu_hls_unlocked(struct emu_port *p) { return !(get(p->board, CTRL) & AP_START); }

/* CTRL can be written only while nothing runs.  Its other bits are the kernel's, not the host's. */
void emu_hls_written(struct emu_port *p, uint32_t offset, uint64_t old, uint64_t value)
{
    if (offset != CTRL)
        return;
    if (!(old & AP_START) && (value & AP_START)) {
        put(p->board, CTRL, AP_START);
        start(p);
    } else if ((uint32_t)old != (uint32_t)value) {
        put(p->board, CTRL, (uint32_t)old);
    }
}
