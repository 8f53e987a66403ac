/* SPDX-License-Identifier: Apache-2.0 */
/*
 * emu_control.h: the emulator's own functions, beside the vendor ABI.  Both emulated libraries export
 * them; emu.py calls them.  Every one returns 0 or an errno, and leaves a text for fpgahal_emu_error.
 */
#ifndef FPGAHAL_EMU_CONTROL_H
#define FPGAHAL_EMU_CONTROL_H

#include <stdint.h>

#ifndef FPGAHAL_EMU_API /* the interposer exports none of them: it is in front of everything */
#define FPGAHAL_EMU_API __attribute__((visibility("default")))
#endif

struct fpgahal_emu_status {
    uint32_t size; /* of this struct, set by the caller */
    uint32_t state; /* enum emu_state */
    uint32_t vanished;
    uint32_t index;
    uint8_t afu_id[16];
    uint64_t programmed;
};

/* Make `<dir>/rack.bin` from a description: lines "key=value"; "[board]" starts a board.
 * Keys: bdf model name family(opae|xrt) vendor device subvendor subdevice (hex) interface afu (uuid text)
 * vbnv timestamp identity link_bytes_per_s launch_ns program_ns; bank=TAG TYPE BASE SIZE (repeats).
 * Unknown keys are errors.  The file appears whole or not at all (written aside, renamed). */
FPGAHAL_EMU_API int fpgahal_emu_create(const char *dir, const char *description);
/* Use the rack in `dir` for calls of this process that name none; NULL goes back to $FPGAHAL_EMU_RACK. */
FPGAHAL_EMU_API int fpgahal_emu_attach(const char *dir);
/* Inject a fault: kind "program", "wrong-afu", "hang", "flip", "vanish", "run-error", or "call" with the
 * ABI function's name and its result (OPAE) or errno (XRT).  count < 0: until cleared. */
FPGAHAL_EMU_API int fpgahal_emu_fault(const char *dir, const char *bdf, const char *kind, const char *call, int code, int count);
/* Take all faults of a board (bdf NULL: of all boards) away.  A vanished board comes back, empty. */
FPGAHAL_EMU_API int fpgahal_emu_clear(const char *dir, const char *bdf);
FPGAHAL_EMU_API int fpgahal_emu_status(const char *dir, const char *bdf, struct fpgahal_emu_status *out);
FPGAHAL_EMU_API const char *fpgahal_emu_error(void);

struct emu_call; /* fpgahal_emu.h */
/* Let a function of this process be a compute kernel, on XRT boards by its name, on OPAE boards by an AFU id (NULL:
 * none).  It is called on the emulator's own thread and returns 0 or an errno.  Or take it away again. */
FPGAHAL_EMU_API int fpgahal_emu_register(const char *kernel, const uint8_t *afu_id, int (*execute)(struct emu_call *));
FPGAHAL_EMU_API int fpgahal_emu_unregister(int (*execute)(struct emu_call *));

#endif
