/* SPDX-License-Identifier: Apache-2.0 */
/*
 * board.h: the emulated board, as both vendor ABIs see it.
 *
 * A rack is a folder.  `rack.bin` in it is mapped by every process that uses the rack and holds what a
 * card would hold: which image is loaded, its registers, injected faults.  Everything that belongs to
 * one process (open handles, pinned buffers, runs in flight) stays in that process, as it would in a
 * driver, and is gone with it: holds are OFD file locks, which the kernel drops when a process dies.
 *
 * opae.c and xrt.c translate a vendor's ABI to the functions here.  Neither knows the other.
 */
#ifndef FPGAHAL_BOARD_H
#define FPGAHAL_BOARD_H

#include "fpgahal_emu.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EMU_CSR_BYTES 0x400 /* the part of the register space that a model may define */
#define EMU_MMIO_BYTES 0x40000 /* the whole of region 0: 256 KiB (UG for the PAC: port MMIO) */
#define EMU_MAX_BANKS 48
#define EMU_MAX_CORES 256
#define EMU_MAX_FAULTS 64
#define EMU_PAGE 4096u

enum emu_family { EMU_OPAE = 1, EMU_XRT = 2 };

/* What a slot is doing.  FAILED is what a broken reconfiguration leaves: no AFU answers. */
enum emu_state { EMU_READY = 0, EMU_PROGRAMMING = 1, EMU_FAILED = 2 };

struct emu_bank {
    char tag[16];
    uint32_t type; /* xclbin memory type: 1 DDR4, 6 HBM, ... */
    uint32_t index; /* position in MEM_TOPOLOGY */
    uint64_t base, size; /* bytes, in the board's address space */
};

/* One board with one reconfigurable slot.  Lives in shared memory: no pointers. */
struct emu_board {
    /* description: written once by fpgahal_emu_create */
    char bdf[16];
    char model[32]; /* "pac-a10" */
    char name[64]; /* "Intel PAC Arria 10 GX" */
    char vbnv[64];
    char identity[256]; /* the sysfs file that shows the loaded id, relative to the rack */
    uint32_t family;
    uint32_t index; /* position in the rack */
    uint16_t segment;
    uint8_t bus, device, function;
    uint16_t vendor_id, device_id, subvendor_id, subdevice_id;
    uint8_t interface_id[16]; /* text order */
    uint64_t timestamp; /* feature ROM time stamp; 0 if the shell has none */
    uint64_t link_bytes_per_s; /* of each direction; 0: as fast as the host's memory */
    uint64_t launch_ns; /* added to each run; 0: none */
    uint64_t program_ns; /* how long a reconfiguration takes; 0: as fast as it can */
    uint32_t cores; /* host threads that a kernel may use; 0 is 1 */
    uint8_t initial_afu_id[16]; /* what was loaded at creation, and is again when a vanished board comes back */
    uint32_t nbanks;
    struct emu_bank banks[EMU_MAX_BANKS];

    /* state: changed under `lock` (robust and process-shared: see emu_lock) */
    pthread_mutex_t lock;
    _Atomic uint32_t state; /* enum emu_state */
    _Atomic uint32_t vanished;
    _Atomic uint32_t epoch; /* changes with state, vanished and afu_id: what a cached view of them is good for */
    uint8_t afu_id[16]; /* OPAE: AFU id; XRT: xclbin uuid; text order; zero: empty */
    uint64_t programmed; /* how many times the fabric was really reconfigured */
    uint64_t errors; /* port error register */
    uint32_t user_clock[2]; /* MHz: high and low; 0: never set */
    uint64_t perf[16]; /* FME counters, in the order of enum emu_perf */
    _Atomic uint64_t link_free_ns[2]; /* by direction: when what is queued will be across (CLOCK_MONOTONIC) */
    _Atomic uint64_t csr[EMU_CSR_BYTES / 8]; /* registers of the loaded AFU */
};

enum emu_direction { EMU_UP, EMU_DOWN }; /* of the link: from the host to the board, and back */

enum emu_perf { EMU_PERF_RD_HIT, EMU_PERF_WR_HIT, EMU_PERF_RD_MISS, EMU_PERF_WR_MISS, EMU_PERF_EVICTION,
                EMU_PERF_PCIE0_READ, EMU_PERF_PCIE0_WRITE };

enum emu_fault_kind {
    EMU_FAULT_PROGRAM = 1, /* reconfiguration fails; the slot is left without an AFU */
    EMU_FAULT_WRONG_AFU, /* reconfiguration succeeds, but another id answers (last byte inverted) */
    EMU_FAULT_HANG, /* a run starts and never ends */
    EMU_FAULT_FLIP, /* one 32-bit word of a run's output is inverted */
    EMU_FAULT_VANISH, /* the device drops off the bus */
    EMU_FAULT_CALL, /* the ABI function named `call` fails with `code` */
    EMU_FAULT_RUN_ERROR, /* a run ends in the error state */
};

struct emu_fault {
    _Atomic uint32_t kind; /* 0: free */
    uint32_t board;
    char call[48];
    int32_t code; /* OPAE: fpga_result; XRT: errno */
    _Atomic int32_t count; /* how often it still fires; negative: always */
};

#define EMU_MAGIC 0x4b434152554d4530ull
#define EMU_VERSION 4u

struct emu_shared { /* rack.bin */
    uint64_t magic;
    uint32_t version, nboards;
    uint64_t size; /* of the file */
    _Atomic uint32_t armed; /* number of faults in use: the hot paths look only at this */
    struct emu_fault faults[EMU_MAX_FAULTS];
    struct emu_board boards[];
};

struct emu_rack { /* one process's mapping; never unmapped, so pointers into it stay good */
    char dir[512];
    struct emu_shared *shared;
    struct emu_rack *next;
};

/* ---- rack.c ------------------------------------------------------------------------------------ */

/* The rack that calls without a handle use: the last fpgahal_emu_attach, else $FPGAHAL_EMU_RACK, else
 * NULL with a text in fpgahal_emu_error. */
struct emu_rack *emu_rack_current(void);
/* Map `dir`, or find its mapping.  NULL with a text on failure. */
struct emu_rack *emu_rack_open(const char *dir);
/* By "dddd:bb:dd.f" and family (0: any); a vanished board is not found.  NULL if there is none. */
struct emu_board *emu_rack_find(struct emu_rack *, uint32_t family, const char *bdf);
struct emu_rack *emu_rack_of(const struct emu_board *);

/* Lock a board's shared state.  If the last owner died holding it, the lock is repaired, and a
 * reconfiguration that it left half done becomes EMU_FAILED. */
void emu_lock(struct emu_board *);
void emu_unlock(struct emu_board *);

/* Does an injected fault fire now?  Takes one count of it.  `call` only for EMU_FAULT_CALL. */
bool emu_fault_slow(struct emu_rack *, struct emu_board *, uint32_t kind, const char *call, int *code);
static inline bool emu_fault(struct emu_rack *r, struct emu_board *b, uint32_t kind, const char *call, int *code)
{
    return atomic_load_explicit(&r->shared->armed, memory_order_relaxed) != 0 && emu_fault_slow(r, b, kind, call, code);
}

/* Text of the last error of this thread; also printed to stderr as "EMULATED <bdf>: ..." when `loud`. */
void emu_error(const struct emu_board *, bool loud, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
const char *emu_error_text(void);

/* ---- hold.c: who uses a board ------------------------------------------------------------------ */

enum emu_hold_mode { EMU_HOLD_SHARED, EMU_HOLD_EXCLUSIVE };
/* Take the hold `what` ("afu", "fme", "context") of a board.  0 and *fd; or EBUSY, or another errno.
 * *first is true when nobody held it before: the moment to do what a driver does at the last close,
 * because the last holder may have been killed. */
int emu_hold(struct emu_rack *, struct emu_board *, const char *what, enum emu_hold_mode, int *fd, bool *first);
void emu_hold_release(int fd);
/* Is this the only hold of its kind?  Then it becomes exclusive: what a driver does at the last close can
 * be done before it is released. */
bool emu_hold_only(int fd);
/* Does anybody, this process included, hold it? */
bool emu_held(struct emu_rack *, const struct emu_board *, const char *what);

/* ---- program.c --------------------------------------------------------------------------------- */

/* Load `id` into the slot: state PROGRAMMING, takes program_ns, applies faults, resets the registers,
 * writes the identity file.  0, EIO (reconfiguration failed, slot FAILED), EBUSY (somebody else is at it)
 * or ENODEV (vanished).  If `id` is what is loaded and the slot is READY it still reprograms: the caller
 * decides. */
int emu_program(struct emu_rack *, struct emu_board *, const uint8_t id[16]);
/* The same with an image that the card finds broken only while it is being loaded: ends in EIO. */
int emu_program_broken(struct emu_rack *, struct emu_board *);
/* Write the identity file from the board's state (caller holds the lock, or nobody else knows the board yet). */
void emu_identity_write(const char *dir, const struct emu_board *);
/* Emulated fabric image: what stands where a vendor's RBF or BITSTREAM would stand.
 * 0..15 "FPGAHAL EMULATED" 16..31 interface id 32..47 afu id 48..51 u32 LE CRC-32 (zlib) of bytes 0..47.
 * Longer is fine (padding).  0 and *afu_id, EBADMSG (CRC), or ENOMSG (not an emulated image). */
int emu_image_check(const uint8_t *data, size_t size, uint8_t interface_id[16], uint8_t afu_id[16]);

/* ---- model.c: accelerators --------------------------------------------------------------------- */

/* The structs of models are in fpgahal_emu.h, which is installed for those who write one outside this tree.  One
 * in it is a file in models/ and a line in model.c. */
const struct emu_model *emu_model_by_afu(const uint8_t afu_id[16]);
const struct emu_model *emu_model_by_kernel(const char *name);
/* Add a model, which goes before older ones of its id and name; or take those with that key away again: runs that
 * use one go on.  0, EINVAL, ENOMEM or ENOENT. */
int emu_model_add(const struct emu_model *, const void *key);
int emu_model_remove(const void *key);
/* Set a board's registers to the reset values of its AFU's model (caller holds the lock). */
void emu_model_reset_registers(struct emu_board *);

/* ---- team.c ------------------------------------------------------------------------------------ */

/* Split [0, n) into pieces of `grain`, and do them on the board's cores (struct emu_board), the caller's thread
 * among them.  0, or ECANCELED: some pieces were left out. */
int emu_team(const struct emu_call *, uint64_t n, uint64_t grain,
             void (*piece)(void *context, uint64_t begin, uint64_t end), void *context);

/* ---- port.c: MMIO and DMA of an AFU, used by opae.c and by the models ---------------------------- */

struct emu_port *emu_port_open(struct emu_rack *, struct emu_board *);
void emu_port_close(struct emu_port *); /* stops what runs; drops the DMA map */
int emu_port_reset(struct emu_port *); /* stops what runs, registers to reset values, models' reset */
struct emu_rack *emu_port_rack(struct emu_port *);
struct emu_board *emu_port_board(struct emu_port *);

/* MMIO.  bytes is 4 or 8.  0, EINVAL (misaligned or out of range), EIO (held in reset, undefined
 * register), ENODEV. */
int emu_port_read(struct emu_port *, uint64_t offset, unsigned bytes, uint64_t *value);
int emu_port_write(struct emu_port *, uint64_t offset, unsigned bytes, uint64_t value);

/* DMA map: host memory that the AFU may reach. */
int emu_port_map(struct emu_port *, void *host, uint64_t size, uint64_t *iova);
int emu_port_unmap(struct emu_port *, uint64_t iova);
void *emu_port_dma(struct emu_port *, uint64_t iova, uint64_t size); /* NULL if not mapped */

/* The port's engine: one job at a time, on a thread of the process that started it (or inline when the
 * job is small).  `cancel` turns non-zero on reset and close. */
int emu_port_start(struct emu_port *, void (*job)(struct emu_port *, void *arg, _Atomic int *cancel), void *arg, bool inline_ok);
bool emu_port_running(struct emu_port *);
void emu_port_stop(struct emu_port *); /* sets cancel and waits */
/* User interrupts: an eventfd a vector; -1 takes it away. */
int emu_port_set_irq(struct emu_port *, uint32_t vector, int eventfd);
void emu_port_irq(struct emu_port *, uint32_t vector);

/* ---- helpers ----------------------------------------------------------------------------------- */
/* Wait until then.  Returns early, false, when *cancel (NULL: never) or when the board vanishes. */
bool emu_wait_until(const struct emu_board *, uint64_t until_ns, _Atomic int *cancel);
/* Take `up` bytes to the board and `down` bytes to the host over its link, at the same time, behind what is
 * queued there, and wait until they are across.  They are ready since `from_ns`.  Returns when they were across
 * (`from_ns` if the link has no speed: then nothing waits), 0 if it gave up: see emu_wait_until. */
uint64_t emu_link(struct emu_board *, uint64_t up, uint64_t down, uint64_t from_ns, _Atomic int *cancel);
uint64_t emu_now_ns(void);
uint32_t emu_crc32(const uint8_t *, size_t);

#endif
