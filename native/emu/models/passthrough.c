/* SPDX-License-Identifier: Apache-2.0 */
/* passthrough.c: compute kernel passthrough(src, dst, bytes): copies. */
#include "../../include/board.h"

#include <errno.h>
#include <string.h>

enum { SRC = 0x10, DST = 0x1c, BYTES = 0x28, END = 0x30 };
#define PIECE (1u << 18) /* bytes between two looks at `cancel` */

static uint64_t word(const struct emu_call *c, unsigned offset)
{
    return c->regs[offset / 4] | (uint64_t)c->regs[offset / 4 + 1] << 32;
}

static uint64_t bytes(const struct emu_call *c)
{
    uint64_t n = c->reg_bytes < END ? 0 : word(c, BYTES);
    return n > UINT64_MAX / 2 ? UINT64_MAX : 2 * n;
}

static void traffic(const struct emu_call *c, uint64_t *up, uint64_t *down) { *up = *down = word(c, BYTES); }

static int execute(struct emu_call *c)
{
    if (c->reg_bytes < END)
        return EINVAL; /* the image describes another kernel of this name */
    uint64_t n = word(c, BYTES);
    if (n == 0)
        return 0;
    const uint8_t *src = c->memory(c, word(c, SRC), n);
    uint8_t *dst = src ? c->memory(c, word(c, DST), n) : NULL;
    if (!dst)
        return EFAULT;
    for (uint64_t done = 0; done < n;) {
        uint64_t piece = n - done > PIECE ? PIECE : n - done;
        memmove(dst + done, src + done, piece);
        done += piece;
        if (atomic_load_explicit(c->cancel, memory_order_relaxed))
            return ECANCELED;
    }
    return 0;
}

extern const struct emu_model emu_model_passthrough;
const struct emu_model emu_model_passthrough = {
    .name = "passthrough",
    .afu_id = { 0x90, 0x7f, 0x1d, 0x42, 0xd5, 0x1d, 0x52, 0x6c, 0xbe, 0xa2, 0x4a, 0x71, 0xa4, 0xe1, 0x36, 0x5b },
    .kernel = "passthrough",
    .bytes = bytes,
    .traffic = traffic,
    .execute = execute,
};
