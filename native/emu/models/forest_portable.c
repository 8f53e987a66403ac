/* SPDX-License-Identifier: Apache-2.0 */
/* forest_portable.c: trees in plain C, and the choice between it and the faster paths. */
#include "forest.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define ROWS 16u /* that go through one tree at a time */
#define TREES 8u /* that one row goes through at a time */

static float walk(const struct forest *f, int32_t at, const float *x)
{
    for (;;) {
        const struct forest_walk *n = &f->walk[at];
        uint32_t left = n->meta & 0xffff;
        if (left == 0)
            return n->value;
        at += (int32_t)left + !(x[(size_t)(n->meta >> 16) << f->shift] < n->value);
    }
}

void forest_add_portable(const struct forest *f, uint32_t first, uint32_t last, const float *x, uint32_t lanes,
                         float *sums)
{
    for (const struct forest_top *t = f->trees + first; t < f->trees + last; t++) {
        const uint32_t size = 1u << t->levels;
        const union forest_word *thresholds = f->tops + t->at, *columns = thresholds + size, *ends = columns + size;
        float *out = sums + ((size_t)t->out << f->shift);
        for (uint32_t lane = 0; lane < lanes; lane += ROWS) {
            uint32_t h[ROWS];
            for (uint32_t k = 0; k < ROWS; k++)
                h[k] = 1;
            for (uint32_t level = 0; level < t->levels; level++) { /* sixteen chains that do not wait for each other */
#pragma GCC unroll 16
                for (uint32_t k = 0; k < ROWS; k++)
                    h[k] = 2 * h[k] + !(x[columns[h[k]].index + (int32_t)(lane + k)] < thresholds[h[k]].value);
            }
            for (uint32_t k = 0; k < ROWS; k++) {
                const union forest_word *end = &ends[h[k] - size];
                out[lane + k] += t->deep ? walk(f, end->index, x + lane + k) : end->value;
            }
        }
    }
}

void forest_add_row(const struct forest *f, uint32_t first, uint32_t last, const float *x, float *sums)
{
    while (first < last) {
        uint32_t n = 1, levels = f->trees[first].levels, size = 1u << levels, h[TREES];
        const union forest_word *top[TREES];
        while (n < TREES && first + n < last && f->trees[first + n].levels == levels)
            n++;
        for (uint32_t k = 0; k < TREES; k++) {
            top[k] = f->tops + f->trees[first + (k < n ? k : 0)].at;
            h[k] = 1;
        }
        for (uint32_t level = 0; level < levels; level++) {
#pragma GCC unroll 8
            for (uint32_t k = 0; k < TREES; k++)
                h[k] = 2 * h[k] + !(x[top[k][size + h[k]].index] < top[k][h[k]].value);
        }
        for (uint32_t k = 0; k < n; k++) {
            const struct forest_top *t = &f->trees[first + k];
            const union forest_word *end = &top[k][size + h[k]]; /* ends begin at 2 * size, and h at size */
            sums[(size_t)t->out << f->shift] += t->deep ? walk(f, end->index, x) : end->value;
        }
        first += n;
    }
}

forest_add *forest_path(void)
{
    const char *wanted = getenv("FPGAHAL_EMU_ISA");
    if (wanted && !*wanted)
        wanted = NULL;
#if defined(__x86_64__)
    __builtin_cpu_init();
    bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
                  && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    if (avx512 && (!wanted || strcmp(wanted, "avx512") == 0))
        return forest_add_avx512;
    if ((!wanted || strcmp(wanted, "avx2") == 0) && __builtin_cpu_supports("avx2"))
        return forest_add_avx2;
#endif
    return !wanted || strcmp(wanted, "portable") == 0 ? forest_add_portable : NULL;
}
