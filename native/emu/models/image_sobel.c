/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_sobel.c: compute kernel image_sobel, derivatives of a tile of an image, or the strength of its edges.
 *
 * `src` is the tile with a frame of `r` pixels on each side, r = max(1, ksize / 2): (height + 2r, width + 2r,
 * channels) samples of `depth` bytes.  All sums are whole numbers of 32 bits, which they can't exceed.
 *   norm 0: dst is int32, the derivative of order (dx, dy)
 *   norm 1: dst is as src, min(largest, |gx| + |gy|), of the first derivatives
 *   norm 2: dst is as src, min(largest, round(sqrt(gx^2 + gy^2)))
 */
#include "../../include/board.h"
#include "image_paths.h"

#include <errno.h>
#include <math.h>

enum { SRC = 0x10, DST = 0x1c, WIDTH = 0x28, HEIGHT = 0x30, CHANNELS = 0x38, DEPTH = 0x40, KSIZE = 0x48, DX = 0x50,
       DY = 0x58, NORM = 0x60, END = 0x64 };
enum { DERIVATIVE = 0, L1 = 1, L2 = 2 };
enum { MAX_TAPS = 7, MAX_SIDE = 1 << 16, MAX_CHANNELS = 4 };

struct tile {
    uint32_t width, height, channels, depth, norm, taps; /* taps: 2r + 1 */
    int32_t across[2][MAX_TAPS], down[2][MAX_TAPS]; /* one derivative, or gx and gy */
    const unsigned char *src;
    unsigned char *dst;
    int32_t *rows; /* work space: two rows with the frame, two without */
};

static uint32_t scalar(const struct emu_call *c, unsigned offset) { return c->regs[offset / 4]; }

static uint64_t pointer(const struct emu_call *c, unsigned offset)
{
    return c->regs[offset / 4] | (uint64_t)c->regs[offset / 4 + 1] << 32;
}

/* A row of Pascal's triangle, differentiated `order` times; in the middle of `taps` numbers. */
static void coefficients(int32_t *out, unsigned taps, unsigned ksize, unsigned order)
{
    unsigned size = ksize == 1 && order ? 3 : ksize, first = (taps - size) / 2;
    memset(out, 0, MAX_TAPS * sizeof *out);
    out[first] = 1;
    for (unsigned n = 1; n < size; n++) {
        int32_t sign = n <= order ? -1 : 1;
        for (unsigned i = n; i > 0; i--)
            out[first + i] = out[first + i - 1] + sign * out[first + i];
        out[first] *= sign;
    }
}

/* ---- one row ------------------------------------------------------------------------------------------ */

INLINED void down(const struct tile *t, const unsigned char *src, size_t n, const int32_t *taps, int32_t *out)
{
    memset(out, 0, n * sizeof *out);
    for (unsigned k = 0; k < t->taps; k++, src += n * t->depth) {
        const int32_t tap = taps[k];
        const uint16_t *wide = (const uint16_t *)(const void *)src;
        if (tap == 0)
            continue;
        if (t->depth == 1)
            for (size_t i = 0; i < n; i++)
                out[i] += tap * src[i];
        else
            for (size_t i = 0; i < n; i++)
                out[i] += tap * wide[i];
    }
}

INLINED void across(const struct tile *t, const int32_t *row, size_t n, const int32_t *taps, int32_t *restrict out)
{
    memset(out, 0, n * sizeof *out);
    for (unsigned k = 0; k < t->taps; k++, row += t->channels) {
        const int32_t tap = taps[k];
        for (size_t i = 0; tap && i < n; i++)
            out[i] += tap * row[i];
    }
}

INLINED uint32_t strength(int32_t gx, int32_t gy, bool l1, uint32_t largest)
{
    if (l1) {
        uint32_t sum = (uint32_t)(gx < 0 ? -gx : gx) + (uint32_t)(gy < 0 ? -gy : gy);
        return sum < largest ? sum : largest;
    }
    double length = sqrt((double)gx * gx + (double)gy * gy) + 0.5;
    return (uint32_t)(int32_t)(length < largest ? length : largest);
}

INLINED void store(const struct tile *t, const int32_t *gx, const int32_t *gy, size_t n, bool l1, void *out)
{
    uint8_t *narrow = out;
    uint16_t *wide = out;
    if (t->depth == 1)
        for (size_t i = 0; i < n; i++)
            narrow[i] = (uint8_t)strength(gx[i], gy[i], l1, UINT8_MAX);
    else
        for (size_t i = 0; i < n; i++)
            wide[i] = (uint16_t)strength(gx[i], gy[i], l1, UINT16_MAX);
}

INLINED void row(const struct tile *t, uint32_t y)
{
    size_t framed = (size_t)(t->width + t->taps - 1) * t->channels, n = (size_t)t->width * t->channels;
    const unsigned char *src = t->src + y * framed * t->depth;
    int32_t *tall = t->rows, *gx = tall + framed, *gy = gx + n;
    if (t->norm == DERIVATIVE) {
        down(t, src, framed, t->down[0], tall);
        across(t, tall, n, t->across[0], (int32_t *)(void *)t->dst + y * n);
        return;
    }
    down(t, src, framed, t->down[0], tall);
    across(t, tall, n, t->across[0], gx);
    down(t, src, framed, t->down[1], tall);
    across(t, tall, n, t->across[1], gy);
    if (t->norm == L1)
        store(t, gx, gy, n, true, t->dst + y * n * t->depth);
    else
        store(t, gx, gy, n, false, t->dst + y * n * t->depth);
}

static void row_portable(const struct tile *t, uint32_t y) { row(t, y); }
WIDE static void row_wide(const struct tile *t, uint32_t y) { row(t, y); }

/* ---- the kernel --------------------------------------------------------------------------------------- */

/* False if the arguments are none that this kernel has. */
static bool describe(const struct emu_call *c, struct tile *t, uint64_t *read, uint64_t *written)
{
    if (c->reg_bytes < END)
        return false; /* the image describes another image_sobel */
    uint32_t ksize = scalar(c, KSIZE), dx = scalar(c, DX), dy = scalar(c, DY);
    uint32_t order = ksize == 1 ? 2 : ksize - 1; /* highest */
    *t = (struct tile) { .width = scalar(c, WIDTH), .height = scalar(c, HEIGHT), .channels = scalar(c, CHANNELS),
                         .depth = scalar(c, DEPTH), .norm = scalar(c, NORM), .taps = ksize == 1 ? 3 : ksize };
    if (!t->width || t->width > MAX_SIDE || !t->height || t->height > MAX_SIDE || !t->channels
        || t->channels > MAX_CHANNELS || (t->depth != 1 && t->depth != 2) || t->norm > L2
        || (ksize != 1 && ksize != 3 && ksize != 5 && ksize != 7))
        return false;
    if (t->norm != DERIVATIVE)
        dx = 1, dy = 0;
    else if (dx > order || dy > order || (dx == 0 && dy == 0))
        return false;
    coefficients(t->across[0], t->taps, ksize, dx);
    coefficients(t->down[0], t->taps, ksize, dy);
    coefficients(t->across[1], t->taps, ksize, 0); /* gy, where both are wanted */
    coefficients(t->down[1], t->taps, ksize, 1);
    uint64_t frame = t->taps - 1;
    *read = (t->width + frame) * (t->height + frame) * t->channels * t->depth;
    *written = (uint64_t)t->width * t->height * t->channels * (t->norm == DERIVATIVE ? 4 : t->depth);
    return true;
}

static uint64_t bytes(const struct emu_call *c)
{
    struct tile t;
    uint64_t read, written;
    return describe(c, &t, &read, &written) ? read + written : 0;
}

static int execute(struct emu_call *c)
{
    struct tile t;
    uint64_t read, written;
    if (!describe(c, &t, &read, &written))
        return EINVAL;
    t.src = c->memory(c, pointer(c, SRC), read);
    t.dst = t.src ? c->memory(c, pointer(c, DST), written) : NULL;
    if (!t.dst)
        return EFAULT;
    if ((uintptr_t)t.src % t.depth || (uintptr_t)t.dst % (t.norm == DERIVATIVE ? 4 : t.depth))
        return EINVAL; /* an AXI master reaches no odd address */
    t.rows = malloc((3 * (size_t)t.width + t.taps) * t.channels * sizeof *t.rows);
    if (!t.rows)
        return ENOMEM;
    void (*one)(const struct tile *, uint32_t) = image_wide() ? row_wide : row_portable;
    int rc = 0;
    for (uint32_t y = 0; y < t.height && rc == 0; y++) {
        one(&t, y);
        rc = atomic_load_explicit(c->cancel, memory_order_relaxed) ? ECANCELED : 0;
    }
    free(t.rows);
    return rc;
}

const struct emu_model emu_model_image_sobel = {
    .name = "image_sobel",
    .afu_id = { 0x52, 0x8c, 0x47, 0xcf, 0xa1, 0xd4, 0x58, 0xfd, 0x96, 0x55, 0x50, 0x07, 0xc8, 0xdb, 0xf2, 0xa8 },
    .kernel = "image_sobel",
    .bytes = bytes,
    .execute = execute,
};
