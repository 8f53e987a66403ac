/* SPDX-License-Identifier: Apache-2.0 */
/*
 * nlb.c: native loopback, mode 0 (lpbk1) and mode 3 (read, write, trput).
 *
 * Registers are the board's, the memory is the process's that started the run.  A run ends by writing
 * the device status line (DSM), after all data; a run that was stopped by CTL, a port reset or a new
 * image writes none, also when another process did that: so the job looks at CTL and the epoch itself.
 */
#define _GNU_SOURCE 1
#include "../port.h"

#include <string.h>
#include <time.h>

#define LINE 64u
#define MHZ 400u /* the clock behind the tick counts */
#define PIECE_LINES 8192u /* between two looks at cancel, and at who waits for the memory map */
#define INLINE_BYTES (256u << 10) /* a job of this size costs less than waking the engine's thread */
#define OVERHEAD_START 4u /* clocks that the DSM reports as overhead, and that it adds to the count */
#define OVERHEAD_END 2u
#define MAX_ADDRESS_LINE (1ull << 42) /* 48-bit byte addresses */

enum { DSM_BASE = 0x110, SRC = 0x120, DST = 0x128, NUM_LINES = 0x130, CTL = 0x138, CFG = 0x140, STATUS0 = 0x160,
       STATUS1 = 0x168, ERROR = 0x170, STRIDE = 0x178, SEQUENCE = 0x3f8 /* no register: the DSM's serial number */ };
enum { CTL_RUN = 1, CTL_GO = 2, CTL_FORCE = 4 };
enum { MODE_LPBK1 = 0, MODE_READ = 1, MODE_WRITE = 2, MODE_TRPUT = 3 };
#define CFG_CONTINUOUS (1ull << 1)
#define CFG_ALTERNATE (1ull << 15)
#define CFG_IRQ_ERROR (1ull << 28)
#define CFG_IRQ_TEST (1ull << 29)
#define ERROR_RESPONSE 1u /* error vector: unexpected response */
#define PORT_ERROR_READ (1ull << 1) /* port errors: invalid request on the read and on the write channel */
#define PORT_ERROR_WRITE (1ull << 17)

struct run {
    struct emu_board *board;
    uint64_t src, dst, dsm; /* byte addresses */
    uint64_t started; /* ns */
    uint64_t across; /* ns: when the data so far was over the link */
    uint64_t reads, writes; /* lines, so far */
    uint32_t epoch, mode, lines, per_request, step; /* step: lines from one request to the next */
    uint32_t error;
    uint64_t cfg;
    bool reading, writing, hang, bad;
};

static uint64_t get(struct emu_board *b, uint32_t offset) { return atomic_load(&b->csr[offset / 8]); }
static void put(struct emu_board *b, uint32_t offset, uint64_t v) { atomic_store(&b->csr[offset / 8], v); }

static bool stopped(const struct run *r, _Atomic int *cancel)
{
    return atomic_load(cancel) || !(get(r->board, CTL) & CTL_RUN) || atomic_load(&r->board->epoch) != r->epoch;
}

/* ---- data ----------------------------------------------------------------------------------------- */

/* The AFU reads lines and keeps nothing: all that must be true is that every byte was fetched. */
static void read_lines(const uint64_t *at, uint64_t lines)
{
    uint64_t a = 0, b = 0;
    for (uint64_t i = 0; i < lines; i++, at += 8) {
        a ^= at[0] ^ at[1] ^ at[2] ^ at[3];
        b ^= at[4] ^ at[5] ^ at[6] ^ at[7];
    }
    __asm__ volatile("" : : "r"(a ^ b));
}

static void write_lines(uint64_t *at, uint64_t index, uint64_t lines, bool alternate)
{
    for (uint64_t end = index + lines; index < end; index++, at += 8) {
        at[0] = (index & 0xfffff) | (~index & 0xfffff) << 20;
        at[1] = at[2] = at[3] = at[4] = at[5] = at[6] = 0;
        at[7] = (uint64_t)alternate << (487 - 448);
    }
}

static void *reach(struct emu_port *p, struct run *r, uint64_t iova, uint64_t bytes, bool write)
{
    void *at = emu_port_dma_at(p, iova, bytes, write);
    if (!at) {
        emu_error(r->board, true, "NLB %s of %llu bytes at device address 0x%llx, which no buffer covers",
                  write ? "write" : "read", (unsigned long long)bytes, (unsigned long long)iova);
        r->error |= ERROR_RESPONSE;
    }
    return at;
}

/* Requests `first` .. `first + n` of the test; false on a DMA error. */
static bool move_piece(struct emu_port *p, struct run *r, uint64_t first, uint64_t n)
{
    uint64_t at = first * r->step * LINE, span = ((n - 1) * r->step + r->per_request) * LINE;
    bool strided = r->step != r->per_request;
    uint64_t requests = strided ? n : 1, lines = strided ? r->per_request : n * r->per_request;
    emu_port_dma_begin(p);
    unsigned char *src = r->reading ? reach(p, r, r->src + at, span, false) : NULL;
    unsigned char *dst = r->writing ? reach(p, r, r->dst + at, span, true) : NULL;
    bool ok = (src || !r->reading) && (dst || !r->writing);
    for (uint64_t i = 0; ok && i < requests; i++) {
        size_t skip = i * r->step * LINE;
        if (r->mode == MODE_LPBK1) {
            memmove(dst + skip, src + skip, lines * LINE); /* the two may overlap: that is the user's business */
            continue;
        }
        if (src)
            read_lines((const uint64_t *)(src + skip), lines);
        if (dst)
            write_lines((uint64_t *)(dst + skip), (first + i) * r->per_request, lines, r->cfg & CFG_ALTERNATE);
    }
    emu_port_dma_end(p);
    if (!ok) {
        emu_port_raise(p, (r->reading && !src ? PORT_ERROR_READ : 0) | (r->writing && !dst ? PORT_ERROR_WRITE : 0));
        return false;
    }
    r->reads += r->reading ? n * r->per_request : 0;
    r->writes += r->writing ? n * r->per_request : 0;
    return true;
}

/* False when the run was stopped: then nobody waits for its end. */
static bool move(struct emu_port *p, struct run *r, _Atomic int *cancel)
{
    uint64_t requests = r->lines / r->per_request, piece = PIECE_LINES / r->per_request;
    r->across = r->started + r->board->launch_ns;
    if (r->board->launch_ns && !emu_wait_until(r->board, r->across, cancel))
        return false;
    do {
        for (uint64_t done = 0, n; done < requests; done += n) {
            n = requests - done < piece ? requests - done : piece;
            if (stopped(r, cancel))
                return false;
            if (!move_piece(p, r, done, n))
                return true;
            put(r->board, STATUS0, r->reads << 32 | (uint32_t)r->writes);
            uint64_t bytes = n * r->per_request * LINE;
            if (!(r->across = emu_link(r->board, r->reading ? bytes : 0, r->writing ? bytes : 0, r->across, cancel)))
                return false;
            if (get(r->board, CTL) & CTL_FORCE)
                return !stopped(r, cancel);
        }
    } while (r->cfg & CFG_CONTINUOUS);
    return !stopped(r, cancel);
}

/* ---- the end of a run ------------------------------------------------------------------------------- */

static void apply_faults(struct emu_port *p, struct run *r)
{
    if (emu_fault(p->rack, r->board, EMU_FAULT_RUN_ERROR, NULL, NULL))
        r->error |= ERROR_RESPONSE;
    if (r->writes && emu_fault(p->rack, r->board, EMU_FAULT_FLIP, NULL, NULL)) {
        emu_port_dma_begin(p);
        uint32_t *word = emu_port_dma_at(p, r->dst, 4, true);
        if (word)
            *word = ~*word;
        emu_port_dma_end(p);
    }
}

static void write_dsm(struct emu_port *p, struct run *r)
{
    uint64_t ticks = (emu_now_ns() - r->started) * MHZ / 1000;
    uint64_t clocks = (ticks ? ticks : 1) + OVERHEAD_START + OVERHEAD_END;
    uint64_t serial = atomic_fetch_add(&r->board->csr[SEQUENCE / 8], 1);
    struct {
        uint32_t complete, error;
        uint64_t clocks;
        uint32_t reads, writes, start, end;
        uint64_t more[4];
    } line = {
        .complete = 1 | (uint32_t)(serial & 0x7fff) << 1,
        .error = r->error,
        .clocks = clocks & 0xffffffffffull,
        .reads = (uint32_t)r->reads,
        .writes = (uint32_t)r->writes,
        .start = OVERHEAD_START,
        .end = OVERHEAD_END,
    };
    _Static_assert(sizeof line == LINE, "the DSM is one line");
    emu_port_dma_begin(p);
    unsigned char *at = emu_port_dma_at(p, r->dsm + LINE, LINE, true);
    if (at) { /* the word that is polled comes last */
        memcpy(at + 4, (char *)&line + 4, LINE - 4);
        __atomic_store_n((uint32_t *)at, line.complete, __ATOMIC_RELEASE);
    }
    emu_port_dma_end(p);
    if (!at) {
        emu_error(r->board, true, "NLB status line (DSM) at device address 0x%llx, which no buffer covers",
                  (unsigned long long)r->dsm);
        put(r->board, ERROR, (uint64_t)MHZ << 32 | r->error | ERROR_RESPONSE);
        emu_port_raise(p, PORT_ERROR_WRITE);
    }
}

static void count(struct emu_port *p, struct run *r)
{
    emu_lock(r->board);
    uint64_t *perf = r->board->perf;
    perf[EMU_PERF_RD_MISS] += r->reads;
    perf[EMU_PERF_WR_MISS] += r->writes;
    perf[EMU_PERF_PCIE0_READ] += r->reads;
    perf[EMU_PERF_PCIE0_WRITE] += r->writes;
    emu_unlock(r->board);
    emu_counters_show(emu_port_rack(p), r->board);
}

static void job(struct emu_port *p, void *arg, _Atomic int *cancel)
{
    struct run *r = arg;
    while (r->hang && !stopped(r, cancel))
        nanosleep(&(struct timespec) { 0, 1000000 }, NULL);
    r->started = emu_now_ns(); /* an AFU does not wait for this computer to find a processor for its thread */
    bool ended = !r->hang && (r->bad || move(p, r, cancel));
    if (!ended) {
        if (atomic_load(&r->board->epoch) == r->epoch) /* else the registers are another image's */
            put(r->board, STATUS1, 0);
        return;
    }
    apply_faults(p, r);
    put(r->board, STATUS0, r->reads << 32 | (uint32_t)r->writes);
    put(r->board, ERROR, (uint64_t)MHZ << 32 | r->error);
    put(r->board, STATUS1, 0);
    count(p, r);
    write_dsm(p, r);
    if ((r->cfg & CFG_IRQ_TEST) || (r->error && (r->cfg & CFG_IRQ_ERROR)))
        emu_port_irq(p, 0);
}

/* ---- control ---------------------------------------------------------------------------------------- */

/* What the AFU can't do ends at once, with an error: a user should see it, not wait for it. */
static const char *objection(const struct run *r, unsigned modes, uint64_t encoding)
{
    if (r->mode > MODE_TRPUT || !(modes & 1u << r->mode))
        return "a mode that this AFU does not implement";
    if (encoding == 2)
        return "a request length that does not exist";
    if (r->lines % r->per_request)
        return "NUM_LINES that is no multiple of the lines per request";
    if (r->src >= MAX_ADDRESS_LINE * LINE || r->dst >= MAX_ADDRESS_LINE * LINE)
        return "an address beyond 48 bits";
    return NULL;
}

static uint64_t byte_address(uint64_t line) { return line < MAX_ADDRESS_LINE ? line * LINE : UINT64_MAX; }

static void start(struct emu_port *p, unsigned modes)
{
    struct emu_board *b = emu_port_board(p);
    struct run *r = emu_port_space(p);
    _Static_assert(sizeof *r <= EMU_JOB_BYTES, "the port's space for a job is too small");
    if (emu_port_running(p))
        return; /* go is already set as far as this engine is concerned */
    uint64_t cfg = get(b, CFG), encoding = cfg >> 5 & 3;
    memset(r, 0, sizeof *r);
    r->board = b;
    r->cfg = cfg;
    r->epoch = atomic_load(&b->epoch);
    r->mode = cfg >> 2 & 7;
    r->lines = get(b, NUM_LINES) & 0xfffff;
    r->per_request = (uint32_t)encoding + 1;
    r->step = r->per_request + (get(b, STRIDE) & 0x7f);
    r->src = byte_address(get(b, SRC));
    r->dst = byte_address(get(b, DST));
    r->dsm = get(b, DSM_BASE) & ~(uint64_t)(LINE - 1);
    r->reading = r->mode != MODE_WRITE;
    r->writing = r->mode != MODE_READ;
    if (r->mode == MODE_LPBK1 && r->lines == 0)
        return; /* as in the RTL: it never starts */
    const char *why = objection(r, modes, encoding);
    if (why) {
        emu_error(b, true, "NLB started with %s (CFG 0x%llx, NUM_LINES %u)", why, (unsigned long long)cfg, r->lines);
        r->error |= ERROR_RESPONSE;
        r->bad = true;
    }
    r->hang = !r->bad && emu_fault(p->rack, b, EMU_FAULT_HANG, NULL, NULL);
    bool small = r->bad || (uint64_t)r->lines * LINE <= INLINE_BYTES;
    bool endless = r->hang || ((cfg & CFG_CONTINUOUS) && r->lines);
    if (!r->lines)
        r->cfg &= ~CFG_CONTINUOUS; /* nothing to repeat */
    put(b, STATUS1, 1ull << 32 | 1);
    if (emu_port_start(p, job, r, small && !endless) != 0)
        put(b, STATUS1, 0);
}

static void control(struct emu_port *p, uint32_t offset, uint64_t old, uint64_t value, unsigned modes)
{
    struct emu_board *b = emu_port_board(p);
    if (offset != CTL)
        return;
    if (!(value & CTL_RUN)) { /* held in reset: counters and errors are gone, the other registers stay */
        emu_port_stop(p);
        put(b, STATUS0, 0);
        put(b, STATUS1, 0);
        put(b, ERROR, (uint64_t)MHZ << 32);
    } else if ((value & CTL_GO) && !(old & CTL_GO)) {
        start(p, modes);
    }
}

static void written0(struct emu_port *p, uint32_t offset, uint64_t old, uint64_t value)
{
    control(p, offset, old, value, 1u << MODE_LPBK1);
}

static void written3(struct emu_port *p, uint32_t offset, uint64_t old, uint64_t value)
{
    control(p, offset, old, value, 1u << MODE_READ | 1u << MODE_WRITE | 1u << MODE_TRPUT);
}

static bool unlocked(struct emu_port *p)
{
    return (get(emu_port_board(p), CTL) & (CTL_RUN | CTL_GO)) == CTL_RUN;
}

static const struct emu_reg regs[] = {
    { 0x000, 8, EMU_RO, 0x1000010000000000, "DFH" }, /* an AFU, and the end of the list */
    { 0x008, 8, EMU_RO, 0, "AFU_ID_L" },
    { 0x010, 8, EMU_RO, 0, "AFU_ID_H" },
    { 0x018, 8, EMU_RO, 0, "DFH_RSVD0" },
    { 0x020, 8, EMU_RO, 0, "DFH_RSVD1" },
    { 0x100, 4, EMU_RW, 0, "SCRATCH0" },
    { 0x104, 4, EMU_RW, 0, "SCRATCH1" },
    { 0x108, 8, EMU_RW, 0, "SCRATCH2" },
    { 0x110, 4, EMU_RW, 0, "DSM_BASEL" },
    { 0x114, 4, EMU_RW, 0, "DSM_BASEH" },
    { 0x120, 8, EMU_LOCKED, 0, "SRC" },
    { 0x128, 8, EMU_LOCKED, 0, "DST" },
    { 0x130, 4, EMU_RW, 0, "NUM_LINES" },
    { 0x138, 4, EMU_RW, 0, "CTL" },
    { 0x140, 8, EMU_LOCKED, 0, "CFG" },
    { 0x148, 4, EMU_LOCKED, 0, "INACT_THRESH" },
    { 0x150, 4, EMU_RW, 0, "INTERRUPT0" },
    { 0x158, 4, EMU_RW, 0, "SW_NOTICE" },
    { 0x160, 8, EMU_RO, 0, "STATUS0" },
    { 0x168, 8, EMU_RO, 0, "STATUS1" },
    { 0x170, 8, EMU_RO, (uint64_t)MHZ << 32, "ERROR" },
    { 0x178, 4, EMU_RW, 0, "STRIDE" },
    { 0, 0, 0, 0, NULL },
};

extern const struct emu_model emu_model_nlb0, emu_model_nlb3;
const struct emu_model emu_model_nlb0 = {
    .name = "nlb0",
    .afu_id = { 0xd8, 0x42, 0x4d, 0xc4, 0xa4, 0xa3, 0xc4, 0x13, 0xf8, 0x9e, 0x43, 0x36, 0x83, 0xf9, 0x04, 0x0b },
    .regs = regs,
    .unlocked = unlocked,
    .written = written0,
};
const struct emu_model emu_model_nlb3 = {
    .name = "nlb3",
    .afu_id = { 0xf7, 0xdf, 0x40, 0x5c, 0xbd, 0x7a, 0xcf, 0x72, 0x22, 0xf1, 0x44, 0xb0, 0xb9, 0x3a, 0xcd, 0x18 },
    .regs = regs,
    .unlocked = unlocked,
    .written = written3,
};
