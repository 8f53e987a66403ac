/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xrt_private.h: the objects of the emulated XRT, and what its files ask of each other.
 *
 * XRT's C functions, of the stand-alone library:
 *   xrt.c         on devices              xrt_kernel.c  on kernels
 *   xrt_bo.c      on buffers              xrt_run.c     on runs
 *   xrt_xclbin.c  on files                xrt_log.c     ini keys and messages
 *
 * What stands behind them, and behind the driver of the real XRT (xrt_driver*) as well:
 *   xrt_device.c  open boards             xrt_load.c    xclbin onto a board
 *   xrt_cu.c      compute units           xrt_buffer.c  buffers
 *   xrt_execute.c what a run does         xrt_queue.c   a device's worker
 *   xrt_memory.c  device addresses        xrt_pages.c   the memory behind them
 *   xrt_object.c  handles
 *
 * Locks, outermost first: the list of devices, a device's queue, a device's lock, a device's memory and pages,
 * the table of handles, the log.  No lock is held while a model executes or a callback is called.
 */
#ifndef FPGAHAL_XRT_PRIVATE_H
#define FPGAHAL_XRT_PRIVATE_H

#include "../include/board.h"
#include "../include/xrt_abi.h"
#include "xclbin.h"
#include "xrt_log.h"
#include "xrt_object.h"

#include <stdarg.h>
#include <sys/queue.h>

#define XRT_LOAD_WAIT_NS 2000000000ull /* how long, beyond a reconfiguration's time, another loader is waited for */
#define XRT_REG_BYTES 4096u /* a CU's register file, as large as a command packet */

/* Functions of the ABI that fpgahal does not call, for programs and tests that do. */
#define XRT_MORE_FUNCTIONS(F)                                                                                          \
    F(0, int, xrtIniUintSet, (const char *key, unsigned int value))                                                    \
    F(0, xrtDeviceHandle, xrtDeviceOpen, (unsigned int index))                                                         \
    F(0, int, xrtDeviceLoadXclbinFile, (xrtDeviceHandle device, const char *path))                                     \
    F(0, int, xrtDeviceLoadXclbinHandle, (xrtDeviceHandle device, void *xclbin))                                       \
    F(0, xrtRunHandle, xrtKernelRun, (xrtKernelHandle kernel, ...))                                                    \
    F(0, enum ert_cmd_state, xrtRunWait, (xrtRunHandle run))                                                           \
    F(0, int, xrtRunUpdateArg, (xrtRunHandle run, int index, ...))                                                     \
    F(0, xrtBufferHandle, xrtBOSubAlloc, (xrtBufferHandle parent, size_t size, size_t offset))                         \
    F(0, int, xrtBOWrite, (xrtBufferHandle buffer, const void *from, size_t size, size_t seek))                        \
    F(0, int, xrtBORead, (xrtBufferHandle buffer, void *to, size_t size, size_t skip))                                 \
    F(0, void *, xrtXclbinAllocFilename, (const char *path))                                                           \
    F(0, void *, xrtXclbinAllocRawData, (const char *data, int size))                                                  \
    F(0, int, xrtXclbinFreeHandle, (void *xclbin))                                                                     \
    F(0, int, xrtXclbinGetUUID, (void *xclbin, unsigned char out[16]))                                                 \
    F(0, int, xrtXclbinGetXSAName, (void *xclbin, char *name, int size, int *ret_size))                                \
    F(0, size_t, xrtXclbinGetNumKernels, (void *xclbin))                                                               \
    F(0, size_t, xrtXclbinGetNumKernelComputeUnits, (void *xclbin))

XRT_FUNCTIONS(ABI_PROTOTYPE)
XRT_MORE_FUNCTIONS(ABI_PROTOTYPE)

/* ---- memory: addresses of this process's buffers on a board ------------------------------------- */

struct xrt_bank { /* an entry of the loaded image's topology */
    bool usable;
    uint64_t base, end;
    uint64_t full_below; /* nothing is free in [base, full_below) */
};

struct xrt_block {
    uint64_t base, end;
    struct xrt_buffer *owner;
};

struct xrt_memory {
    pthread_mutex_t lock;
    bool loaded; /* an image was loaded by this process: banks are known */
    struct xrt_bank *banks;
    uint32_t nbanks;
    struct xrt_block *blocks; /* sorted */
    size_t nblocks, room;
};

#define XRT_KEPT_PAGES 16
struct xrt_pages {
    pthread_mutex_t lock;
    unsigned count;
    struct xrt_kept {
        void *at;
        size_t size;
    } kept[XRT_KEPT_PAGES];
};

/* ---- objects ------------------------------------------------------------------------------------ */

struct xrt_cu { /* of the image that is loaded; under the device's lock */
    unsigned users;
    bool exclusive;
    uint32_t *regs; /* NULL until opened exclusively; word 0 is AP_CTRL */
};

TAILQ_HEAD(xrt_runs, xrt_run);

struct xrt_device {
    struct xrt_object object;
    struct emu_rack *rack;
    struct emu_board *board;
    struct xrt_device *next; /* with `opens`: under the lock of the list of devices */
    unsigned opens;
    atomic_bool closed; /* the last handle was closed */

    pthread_mutex_t lock; /* of what follows */
    struct xclbin *image; /* that this process loaded */
    bool use_groups; /* GROUP_ sections count, if the image has them */
    unsigned contexts; /* open kernels */
    int context_fd; /* the hold that keeps others from reprogramming */
    struct xrt_cu cus[XCLBIN_MAX_CUS];

    struct xrt_memory memory;
    struct xrt_pages pages;

    struct { /* xrt_queue.c */
        pthread_mutex_t lock;
        pthread_cond_t changed;
        struct xrt_runs waiting, hung;
        struct xrt_run *current;
        pthread_t thread;
        bool threaded, stop;
    } queue;
};

enum xrt_reader { /* how an argument is read from the variable arguments of a call */
    XRT_READ_BUFFER, XRT_READ_NOTHING, XRT_READ_INT, XRT_READ_UINT, XRT_READ_FLOAT, XRT_READ_DOUBLE,
    XRT_READ_POINTER, XRT_READ_U32, XRT_READ_U64, XRT_READ_SIZE
};

struct xrt_kernel {
    struct xrt_object object;
    struct xclbin *image;
    const struct xclbin_kernel *meta;
    const struct emu_model *model;
    bool exclusive, use_groups;
    uint32_t epoch; /* the board's, while the image is what was loaded */
    uint32_t ncus;
    uint8_t cus[XCLBIN_MAX_CUS];
    uint8_t readers[XCLBIN_MAX_ARGS];
};

struct xrt_argument { /* of a run */
    bool set;
    void *buffer; /* handle of the buffer it was set to: a hint where its address leads */
};

enum xrt_place { XRT_NOWHERE, XRT_WAITING, XRT_EXECUTING, XRT_HUNG };

struct xrt_run {
    struct xrt_object object;
    struct xrt_kernel *kernel;
    _Atomic uint32_t state; /* enum ert_cmd_state */
    _Atomic int cancel;
    _Atomic uint32_t waiters;
    pthread_mutex_t lock; /* with `done`: for who waits */
    pthread_cond_t done;
    void (*callback)(xrtRunHandle, enum ert_cmd_state, void *);
    bool callback_inline; /* the callback is fit to be called from within the start */
    void *callback_data, *handle;
    bool complete; /* every argument was set once */
    bool started;
    atomic_bool spent; /* a start failed: 2.13 takes it for one in flight ever after */
    atomic_bool orphan; /* its handle was closed in flight */
    bool fail, flip; /* injected faults of this start */
    enum xrt_place place; /* under the queue's lock */
    TAILQ_ENTRY(xrt_run) link;
    struct xrt_argument *args;
    uint32_t regs[];
};

struct xrt_buffer {
    struct xrt_object object;
    struct xrt_buffer *parent; /* of a sub-buffer; keeps it alive */
    uint8_t *host; /* NULL: device only */
    uint8_t *card; /* the device's memory; == host for HOST_ONLY */
    size_t size;
    uint64_t address;
    void *mapping;
    size_t mapping_size;
};

/* ---- calls -------------------------------------------------------------------------------------- */

void *xrt_enter_slow(struct xrt_object *, const void *handle, enum xrt_kind, const char *call, bool closing);

/* Start of a call: the object behind a handle, with a reference; NULL and errno if it must fail. */
static inline void *xrt_enter(const void *handle, enum xrt_kind kind, const char *call)
{
    struct xrt_object *o = xrt_pin(handle, kind);
    if (__builtin_expect(!o, 0))
        return xrt_enter_slow(o, handle, kind, call, false);
    const struct xrt_device *d = o->device;
    if (__builtin_expect(atomic_load_explicit(&d->rack->shared->armed, memory_order_relaxed) ||
                         atomic_load_explicit(&d->board->vanished, memory_order_relaxed), 0))
        return xrt_enter_slow(o, handle, kind, call, false);
    return o;
}

/* The same for calls that close: they work on a board that vanished, too. */
static inline void *xrt_enter_closing(const void *handle, enum xrt_kind kind, const char *call)
{
    return xrt_enter_slow(xrt_pin(handle, kind), handle, kind, call, true);
}

bool xrt_fault_anywhere(const char *call);

#define xrt_leave(o) xrt_unpin(&(o)->object)

bool xrt_in_flight(uint32_t state);

/* xrt_device.c */
struct xrt_device *xrt_device_open(struct emu_rack *, struct emu_board *); /* NULL and errno */
bool xrt_device_close(struct xrt_device *); /* false: it was not open */
struct emu_rack *xrt_rack(const char *call); /* the current one, or NULL and errno */
uint32_t xrt_board_count(struct emu_rack *); /* XRT boards that answer */
struct emu_board *xrt_board_at(struct emu_rack *, unsigned long index); /* in XRT's order, or NULL */
struct emu_board *xrt_board_named(struct emu_rack *, const char *bdf, uint32_t *index); /* or NULL */

/* xrt_load.c */
int xrt_load(struct xrt_device *, const uint8_t *data, size_t size);

/* xrt_cu.c */
/* Fill meta, cus and ncus of a new kernel (its image is there); 0, or -1 and errno. */
typedef int (*xrt_find_cus)(struct xrt_kernel *, const struct xrt_device *, const void *what);
struct xrt_kernel *xrt_kernel_make(struct xrt_device *, const unsigned char *uuid, bool exclusive, xrt_find_cus,
                                   const void *what); /* published; NULL and errno */
int xrt_context_take(struct xrt_device *); /* with the device's lock: keep others from reprogramming */
void xrt_context_drop(struct xrt_device *);
void xrt_cu_started(struct xrt_run *);
void xrt_cu_finished(struct xrt_run *, uint32_t state);
uint32_t xrt_cu_read(struct xrt_kernel *, uint32_t offset);
int xrt_cu_write(struct xrt_kernel *, uint32_t offset, uint32_t value);

/* xrt_buffer.c: NULL or -1, and errno, when it fails */
struct xrt_buffer *xrt_buffer_make(struct xrt_device *, void *user, size_t size, uint64_t flags, uint32_t group);
struct xrt_buffer *xrt_buffer_part(struct xrt_buffer *, size_t size, size_t offset);
int xrt_buffer_outside(const struct xrt_buffer *, size_t size, size_t offset, const char *call);
void *xrt_buffer_host(const struct xrt_buffer *, const char *call);
int xrt_buffer_sync(struct xrt_buffer *, int direction, size_t size, size_t offset, const char *call);
int xrt_buffer_copy(struct xrt_buffer *to, const struct xrt_buffer *from, size_t size, size_t to_offset,
                    size_t from_offset, const char *call);

/* xrt_execute.c */
struct xrt_run *xrt_run_make(struct xrt_kernel *); /* published */
int xrt_run_start(struct xrt_run *);
void xrt_run_execute(struct xrt_run *, bool inline_);
void xrt_run_finish(struct xrt_run *, uint32_t state);

/* xrt_queue.c */
int xrt_queue_init(struct xrt_device *);
int xrt_queue_push(struct xrt_run *); /* 0 or errno */
void xrt_queue_hang(struct xrt_run *);
void xrt_queue_cancel(struct xrt_run *); /* it ends soon, in state ABORT */
void xrt_queue_forget(struct xrt_run *); /* its handle is being closed */
int xrt_queue_abort(struct xrt_device *); /* 0, or ETIMEDOUT if a run does not stop */
void xrt_queue_close(struct xrt_device *);

/* xrt_pages.c */
void *xrt_pages_take(struct xrt_pages *, size_t size); /* zeroed; NULL: out of memory */
void xrt_pages_give(struct xrt_pages *, void *, size_t size);
void xrt_pages_free(struct xrt_pages *);

/* xrt_memory.c */
int xrt_memory_load(struct xrt_memory *, const struct xclbin_memories *); /* 0 or ENOMEM */
/* Sets owner->address, which must be published.  0, EINVAL (no such bank) or ENOMEM (bank full). */
int xrt_memory_take(struct xrt_memory *, uint32_t bank, uint64_t size, struct xrt_buffer *owner);
void xrt_memory_give(struct xrt_memory *, uint64_t address);
/* The buffer that holds [address, address+size), with a reference, or NULL. */
struct xrt_buffer *xrt_memory_find(struct xrt_memory *, uint64_t address, uint64_t size);
void xrt_memory_free(struct xrt_memory *);

#endif
