/* SPDX-License-Identifier: Apache-2.0 */
/*
 * image_affine.c: compute kernel image_affine, one tile of an affinely transformed image.
 *
 * Pixel (x, y) of the result is pixel (sx, sy) of the image, in float32, each step rounded but for the product
 * that is added to (fma):
 *   sx = fma(m0, x, m1 * y + m2)      sy = fma(m3, x, m4 * y + m5)
 * Nearest: the pixel at (rint(sx), rint(sy)).  Linear: with ix = floor(sx), ax = sx - ix and so for y,
 *   top = fma(ax, p01 - p00, p00)   bottom = fma(ax, p11 - p10, p10)   result = rint(fma(ay, bottom - top, top))
 * A coordinate beyond 2^30 counts as 2^30.  This is what OpenCV 5 computes.
 *
 * `src` is the rectangle (src_x, src_y, src_width, src_height) of the image, and must hold what the tile needs.
 * `value` has the border's colour, 16 bits a channel.
 */
#include "../../include/board.h"
#include "image_paths.h"

#include <errno.h>
#include <math.h>

enum { SRC = 0x10, DST = 0x1c, SRC_X = 0x28, SRC_Y = 0x30, SRC_WIDTH = 0x38, SRC_HEIGHT = 0x40, WIDTH = 0x48,
       HEIGHT = 0x50, DST_X = 0x58, DST_Y = 0x60, DST_WIDTH = 0x68, DST_HEIGHT = 0x70, CHANNELS = 0x78, DEPTH = 0x80,
       INTERPOLATION = 0x88, BORDER = 0x90, VALUE = 0x98, MATRIX = 0xa4, END = 0xd0 };
enum { NEAREST = 0, LINEAR = 1 };
enum { CONSTANT = 0, REPLICATE = 1, REFLECT = 2, REFLECT101 = 3 };
enum { MAX_SIDE = 1 << 24 /* whole numbers in float32 */, MAX_CHANNELS = 4 };
#define FAR 1073741824.0f

struct job {
    int32_t x, y, width, height; /* what src holds */
    int32_t image_width, image_height;
    int32_t dst_x, dst_y, dst_width, dst_height;
    uint32_t channels, depth, interpolation, border;
    uint64_t value;
    float m[6];
    const unsigned char *src;
    unsigned char *dst;
};

static uint64_t pointer(const struct emu_call *c, unsigned offset)
{
    return c->regs[offset / 4] | (uint64_t)c->regs[offset / 4 + 1] << 32;
}

/* ---- where a pixel comes from -------------------------------------------------------------------------- */

/* The coordinate inside [0, n) that stands for `i`. */
static int32_t inside(int64_t i, int32_t n, uint32_t border)
{
    if (border == REPLICATE)
        return (int32_t)(i < 0 ? 0 : i < n ? i : n - 1);
    int64_t period = border == REFLECT ? 2 * (int64_t)n : n > 1 ? 2 * (int64_t)n - 2 : 1;
    i %= period;
    if (i < 0)
        i += period;
    return (int32_t)(i < n ? i : border == REFLECT ? period - 1 - i : period - i);
}

INLINED uint32_t sample(const unsigned char *at, uint32_t channel, uint32_t depth)
{
    return depth == 1 ? at[channel] : ((const uint16_t *)(const void *)at)[channel];
}

/* A pixel near or beyond the edge.  False if src does not hold it, but should. */
static bool fetch(const struct job *j, int64_t x, int64_t y, float *out)
{
    if (x < 0 || x >= j->image_width || y < 0 || y >= j->image_height) {
        if (j->border == CONSTANT) {
            for (uint32_t c = 0; c < j->channels; c++)
                out[c] = (float)(j->value >> 16 * c & 0xffff);
            return true;
        }
        x = inside(x, j->image_width, j->border);
        y = inside(y, j->image_height, j->border);
    }
    x -= j->x;
    y -= j->y;
    if (x < 0 || x >= j->width || y < 0 || y >= j->height)
        return false;
    const unsigned char *at = j->src + ((size_t)y * (size_t)j->width + (size_t)x) * j->channels * j->depth;
    for (uint32_t c = 0; c < j->channels; c++)
        out[c] = (float)sample(at, c, j->depth);
    return true;
}

INLINED float bounded(float v)
{
    v = v > -FAR ? v : -FAR; /* also what is not a number */
    return v < FAR ? v : FAR;
}

INLINED float mix(float a, float b, float weight) { return fmaf(weight, b - a, a); }

INLINED void put(unsigned char *out, uint32_t channel, uint32_t depth, float v)
{
    if (depth == 1)
        out[channel] = (uint8_t)lrintf(v);
    else
        ((uint16_t *)(void *)out)[channel] = (uint16_t)lrintf(v);
}

static bool pixel_at_edge(const struct job *j, int32_t x, int32_t y, float ax, float ay, unsigned char *out)
{
    float p[4][MAX_CHANNELS];
    bool linear = j->interpolation == LINEAR;
    for (int i = 0; i < (linear ? 4 : 1); i++) {
        if (!fetch(j, (int64_t)x + (i & 1), (int64_t)y + (i >> 1), p[i]))
            return false;
    }
    for (uint32_t c = 0; c < j->channels; c++)
        put(out, c, j->depth, linear ? mix(mix(p[0][c], p[1][c], ax), mix(p[2][c], p[3][c], ax), ay) : p[0][c]);
    return true;
}

/* ---- one row ------------------------------------------------------------------------------------------- */

INLINED bool row_of(const struct job *j, int32_t line, uint32_t channels, uint32_t depth, bool linear)
{
    const float y = (float)(j->dst_y + line);
    const float cx = j->m[1] * y + j->m[2], cy = j->m[4] * y + j->m[5];
    const size_t pixel = channels * depth, pitch = (size_t)j->width * pixel;
    /* Left upper corners of squares that src holds as a whole. */
    const uint32_t columns = (uint32_t)(j->width - linear), rows = (uint32_t)(j->height - linear);
    unsigned char *out = j->dst + (size_t)line * (size_t)j->dst_width * pixel;
    bool whole = true;
    for (int32_t i = 0; i < j->dst_width; i++, out += pixel) {
        const float x = (float)(j->dst_x + i);
        const float sx = bounded(fmaf(j->m[0], x, cx)), sy = bounded(fmaf(j->m[3], x, cy));
        const float fx = linear ? floorf(sx) : rintf(sx), fy = linear ? floorf(sy) : rintf(sy);
        const int32_t ix = (int32_t)fx, iy = (int32_t)fy;
        const uint32_t left = (uint32_t)ix - (uint32_t)j->x, top = (uint32_t)iy - (uint32_t)j->y;
        if (left >= columns || top >= rows) {
            whole &= pixel_at_edge(j, ix, iy, sx - fx, sy - fy, out);
            continue;
        }
        const unsigned char *at = j->src + top * pitch + left * pixel;
        for (uint32_t c = 0; c < channels; c++) {
            if (linear) {
                const float a = mix((float)sample(at, c, depth), (float)sample(at + pixel, c, depth), sx - fx);
                const float b = mix((float)sample(at + pitch, c, depth), (float)sample(at + pitch + pixel, c, depth),
                                    sx - fx);
                put(out, c, depth, mix(a, b, sy - fy));
            } else {
                memcpy(out + c * depth, at + c * depth, depth);
            }
        }
    }
    return whole;
}

INLINED bool row(const struct job *j, int32_t line)
{
    bool linear = j->interpolation == LINEAR;
    if (j->channels == 1 && j->depth == 1)
        return linear ? row_of(j, line, 1, 1, true) : row_of(j, line, 1, 1, false);
    if (j->channels == 3 && j->depth == 1)
        return linear ? row_of(j, line, 3, 1, true) : row_of(j, line, 3, 1, false);
    if (j->channels == 1)
        return linear ? row_of(j, line, 1, 2, true) : row_of(j, line, 1, 2, false);
    return row_of(j, line, j->channels, j->depth, linear);
}

static bool row_portable(const struct job *j, int32_t line) { return row(j, line); }
WIDE static bool row_wide(const struct job *j, int32_t line) { return row(j, line); }

/* ---- the kernel ---------------------------------------------------------------------------------------- */

static bool side(const struct emu_call *c, unsigned offset, int32_t smallest, int32_t *out)
{
    uint32_t v = c->regs[offset / 4];
    *out = (int32_t)v;
    return v <= MAX_SIDE && (int32_t)v >= smallest;
}

/* False if the arguments are none that this kernel has. */
static bool describe(const struct emu_call *c, struct job *j, uint64_t *read, uint64_t *written)
{
    if (c->reg_bytes < END)
        return false; /* the image describes another image_affine */
    *j = (struct job) { .channels = c->regs[CHANNELS / 4], .depth = c->regs[DEPTH / 4], .border = c->regs[BORDER / 4],
                        .interpolation = c->regs[INTERPOLATION / 4], .value = pointer(c, VALUE) };
    if (!side(c, SRC_X, 0, &j->x) || !side(c, SRC_Y, 0, &j->y) || !side(c, SRC_WIDTH, 1, &j->width)
        || !side(c, SRC_HEIGHT, 1, &j->height) || !side(c, WIDTH, 1, &j->image_width)
        || !side(c, HEIGHT, 1, &j->image_height) || !side(c, DST_X, 0, &j->dst_x) || !side(c, DST_Y, 0, &j->dst_y)
        || !side(c, DST_WIDTH, 1, &j->dst_width) || !side(c, DST_HEIGHT, 1, &j->dst_height))
        return false;
    if (j->x + j->width > j->image_width || j->y + j->height > j->image_height || !j->channels
        || j->channels > MAX_CHANNELS || (j->depth != 1 && j->depth != 2) || j->interpolation > LINEAR
        || j->border > REFLECT101)
        return false;
    for (int i = 0; i < 6; i++)
        memcpy(&j->m[i], &c->regs[MATRIX / 4 + 2 * i], sizeof j->m[i]);
    *read = (uint64_t)j->width * (uint64_t)j->height * j->channels * j->depth;
    *written = (uint64_t)j->dst_width * (uint64_t)j->dst_height * j->channels * j->depth;
    return true;
}

static uint64_t bytes(const struct emu_call *c)
{
    struct job j;
    uint64_t read, written;
    return describe(c, &j, &read, &written) ? read + written : 0;
}

static int execute(struct emu_call *c)
{
    struct job j;
    uint64_t read, written;
    if (!describe(c, &j, &read, &written))
        return EINVAL;
    j.src = c->memory(c, pointer(c, SRC), read);
    j.dst = j.src ? c->memory(c, pointer(c, DST), written) : NULL;
    if (!j.dst)
        return EFAULT;
    if (((uintptr_t)j.src | (uintptr_t)j.dst) % j.depth)
        return EINVAL; /* an AXI master reaches no odd address */
    bool (*one)(const struct job *, int32_t) = image_wide() ? row_wide : row_portable;
    for (int32_t y = 0; y < j.dst_height; y++) {
        if (!one(&j, y))
            return ERANGE; /* src does not hold what this row needs */
        if (atomic_load_explicit(c->cancel, memory_order_relaxed))
            return ECANCELED;
    }
    return 0;
}

const struct emu_model emu_model_image_affine = {
    .name = "image_affine",
    .afu_id = { 0xb8, 0x34, 0x04, 0xaa, 0x76, 0x57, 0x59, 0x6c, 0x8f, 0x19, 0x2b, 0xd9, 0x3b, 0xc8, 0x39, 0xc7 },
    .kernel = "image_affine",
    .bytes = bytes,
    .execute = execute,
};
