/* SPDX-License-Identifier: Apache-2.0 */
/* vadd.c: compute kernel vadd(a, b, out, n): out[i] = a[i] + b[i], 32-bit, wrapping. */
#include "../../include/board.h"

#include <errno.h>
#include <string.h>

enum { A = 0x10, B = 0x1c, OUT = 0x28, N = 0x34, END = 0x38 };
#define PIECE (1u << 16) /* elements between two looks at `cancel` */

static uint64_t pointer(const struct emu_call *c, unsigned offset)
{
    return c->regs[offset / 4] | (uint64_t)c->regs[offset / 4 + 1] << 32;
}

static uint64_t bytes(const struct emu_call *c)
{
    return c->reg_bytes < END ? 0 : (uint64_t)c->regs[N / 4] * 12;
}

static void traffic(const struct emu_call *c, uint64_t *up, uint64_t *down)
{
    *up = (uint64_t)c->regs[N / 4] * 8;
    *down = (uint64_t)c->regs[N / 4] * 4;
}

static int execute(struct emu_call *c)
{
    if (c->reg_bytes < END)
        return EINVAL; /* the image describes another vadd */
    uint32_t n = c->regs[N / 4];
    if (n == 0)
        return 0;
    uint64_t size = (uint64_t)n * 4;
    const uint32_t *a = c->memory(c, pointer(c, A), size);
    const uint32_t *b = a ? c->memory(c, pointer(c, B), size) : NULL;
    uint32_t *out = b ? c->memory(c, pointer(c, OUT), size) : NULL;
    if (!out)
        return EFAULT;
    if (((uintptr_t)a | (uintptr_t)b | (uintptr_t)out) % 4)
        return EINVAL; /* an AXI master of 32-bit words reaches no odd address */
    for (uint32_t done = 0; done < n;) {
        uint32_t end = n - done > PIECE ? done + PIECE : n;
        for (; done < end; done++)
            out[done] = a[done] + b[done];
        if (atomic_load_explicit(c->cancel, memory_order_relaxed))
            return ECANCELED;
    }
    return 0;
}

extern const struct emu_model emu_model_vadd;
const struct emu_model emu_model_vadd = {
    .name = "vadd",
    .afu_id = { 0x6b, 0x33, 0xdc, 0x51, 0x1e, 0xad, 0x5d, 0x64, 0x97, 0xfb, 0x48, 0xd0, 0x00, 0xd2, 0x67, 0x3d },
    .kernel = "vadd",
    .bytes = bytes,
    .traffic = traffic,
    .execute = execute,
};
