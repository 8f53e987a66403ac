/* SPDX-License-Identifier: Apache-2.0 */
/*
 * fpgahal_emu.h: what a model of an accelerator is, for the emulated boards and for those who write one.
 *
 * A compute kernel is one C file: `kernel`, `execute`, and an AFU id if it is to run on OPAE boards, too.
 * Build it as a shared object that exports `const struct emu_model fpgahal_emu_model` and name it in
 * FPGAHAL_EMU_MODELS (several: separated by ':'), or pass it to Rack.accelerator.
 *
 * Arguments lie in the register file as HLS lays them out: from 0x10 on; a pointer or another 64-bit argument
 * takes 0xC bytes, a 32-bit one 0x8.  On an OPAE board the same register file begins at offset 0x40 of the AFU:
 *   0x00 DFH   0x08, 0x10 AFU id   0x20 STATUS of the last run: 0, or an errno (32 bits)
 *   0x40 CTRL: 0 start, 1 done, 2 idle, 3 ready   0x44 GIE   0x48 IER   0x4C ISR (a written 1 inverts the bit)
 *   0x50 arguments
 * ap_done stays until the next start (HLS clears it when it is read).  Interrupts go to vector 0.
 */
#ifndef FPGAHAL_EMU_H
#define FPGAHAL_EMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#error "the emulator's models are C"
#endif

struct emu_rack;
struct emu_board;
struct emu_port;

enum emu_reg_flags { EMU_RO = 0, EMU_RW = 1, EMU_LOCKED = 2 /* RW, but only while the model says so */,
                     EMU_TOGGLE = 3 /* a written 1 inverts the bit */ };
struct emu_reg { /* one register, or several in a row; a table ends with bytes == 0 */
    uint32_t offset;
    uint16_t bytes; /* 4 or 8, or a multiple of 4 */
    uint16_t flags;
    uint64_t reset; /* value after a port reset */
    const char *name;
};

struct emu_call { /* one invocation of a compute kernel */
    struct emu_rack *rack;
    struct emu_board *board;
    const uint32_t *regs; /* the CU's register file, as the host wrote it; arguments from 0x10 */
    size_t reg_bytes;
    /* Memory at a device address: NULL (and a text) if [address, address+size) is not allocated.  It stays good
     * until the call returns. */
    void *(*memory)(struct emu_call *, uint64_t address, uint64_t size);
    void *context;
    _Atomic int *cancel; /* becomes non-zero when the run should stop */
};

struct emu_model { /* one accelerator */
    const char *name; /* "nlb0" */
    /* as an AFU behind registers */
    uint8_t afu_id[16]; /* text order; zero: not an AFU */
    const struct emu_reg *regs; /* NULL: a compute kernel, which gets those above */
    bool zero_elsewhere; /* undefined offsets read 0 (the HELLO AFU); else they are an error */
    void (*reset)(struct emu_port *); /* after the registers were set to their reset values */
    bool (*unlocked)(struct emu_port *); /* may EMU_LOCKED registers change now? */
    void (*written)(struct emu_port *, uint32_t offset, uint64_t old, uint64_t value); /* whole 64-bit word */
    /* as a compute kernel */
    const char *kernel; /* its name in EMBEDDED_METADATA; NULL: not a kernel */
    /* How many bytes of memory it will touch: a small run happens inside the host's call that starts it.
     * NULL: never there. */
    uint64_t (*bytes)(const struct emu_call *);
    /* OPAE: what a run that went well has moved over the link, from the host and to it; XRT boards have memory of
     * their own.  NULL: all that it asked `memory` for came from the host. */
    void (*traffic)(const struct emu_call *, uint64_t *up, uint64_t *down);
    int (*execute)(struct emu_call *); /* 0, or an errno */
    /* as an AFU again: a register from 0x400 on, which is no plain word.  0, or an errno; ENOENT: there is none. */
    int (*window)(struct emu_port *, uint32_t offset, unsigned bytes, bool write, uint64_t *value);
};

#endif
