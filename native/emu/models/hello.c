/* SPDX-License-Identifier: Apache-2.0 */
/* hello.c: the HELLO AFU: a header, a scratch register, and zeros everywhere else. */
#include "../../include/board.h"

static const struct emu_reg regs[] = {
    { 0x00, 8, EMU_RO, 0x1000010000000000, "DFH" }, /* an AFU, and the end of the list */
    { 0x08, 8, EMU_RO, 0, "AFU_ID_L" },
    { 0x10, 8, EMU_RO, 0, "AFU_ID_H" },
    { 0x80, 8, EMU_RW, 0, "SCRATCH" },
    { 0, 0, 0, 0, NULL },
};

extern const struct emu_model emu_model_hello;
const struct emu_model emu_model_hello = {
    .name = "hello",
    .afu_id = { 0x85, 0x0a, 0xdc, 0xc2, 0x6c, 0xeb, 0x4b, 0x22, 0x97, 0x22, 0xd4, 0x33, 0x75, 0xb6, 0x1c, 0x66 },
    .regs = regs,
    .zero_elsewhere = true,
};
