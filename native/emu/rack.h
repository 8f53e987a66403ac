/* SPDX-License-Identifier: Apache-2.0 */
/* rack.h: what the files behind the control functions share. */
#ifndef FPGAHAL_EMU_RACK_H
#define FPGAHAL_EMU_RACK_H

#include "../include/board.h"

struct emu_rack *emu_rack_named(const char *dir); /* NULL: the current one */
/* Like emu_rack_find, but finds vanished boards, too. */
struct emu_board *emu_rack_find_any(struct emu_rack *, uint32_t family, const char *bdf);

#endif
