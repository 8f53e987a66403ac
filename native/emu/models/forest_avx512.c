/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forest_avx512.c: 32 rows at a time, in two vectors.  In the first four levels every node is tested for every row,
 * which costs less than finding out which one a row needs; then the thresholds of a level are few enough to be picked
 * out of registers; then they are gathered.
 */
#include "forest.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))
#define INLINE static inline __attribute__((always_inline)) AVX512

INLINE __m512i pick32(const union forest_word *table, __m512i i)
{
    return _mm512_permutex2var_epi32(_mm512_load_si512(table), i, _mm512_load_si512(table + 16));
}

/* Entries i of a table, of which the low `bits` bits of i count. */
INLINE __m512i pick(const union forest_word *table, int bits, __m512i i)
{
    if (bits == 3)
        return _mm512_permutexvar_epi32(i, _mm512_broadcast_i32x8(_mm256_load_si256((const __m256i *)table)));
    if (bits == 4)
        return _mm512_permutexvar_epi32(i, _mm512_load_si512(table));
    if (bits == 5)
        return pick32(table, i);
    if (bits == 6)
        return _mm512_mask_blend_epi32(_mm512_test_epi32_mask(i, _mm512_set1_epi32(32)), pick32(table, i),
                                       pick32(table + 32, i));
    return _mm512_i32gather_epi32(_mm512_and_si512(i, _mm512_set1_epi32((1 << bits) - 1)), table, 4);
}

struct rows { /* some of 32 */
    __mmask16 a, b;
};

/* Of the rows `at` node h, those that go left; and this level's bit of their path, in i, is 0. */
INLINE struct rows test(const union forest_word *thresholds, const union forest_word *columns, const float *x, int h,
                        struct rows at, int bit, __m512i i[2])
{
    const __m512 threshold = _mm512_set1_ps(thresholds[h].value);
    const float *column = x + columns[h].index;
    struct rows left = { _mm512_mask_cmp_ps_mask(at.a, threshold, _mm512_load_ps(column), _CMP_GT_OQ),
                         _mm512_mask_cmp_ps_mask(at.b, threshold, _mm512_load_ps(column + 16), _CMP_GT_OQ) };
    i[0] = _mm512_mask_sub_epi32(i[0], left.a, i[0], _mm512_set1_epi32(bit));
    i[1] = _mm512_mask_sub_epi32(i[1], left.b, i[1], _mm512_set1_epi32(bit));
    return left;
}

INLINE struct rows rest(struct rows at, struct rows left)
{
    return (struct rows){ _kandn_mask16(left.a, at.a), _kandn_mask16(left.b, at.b) };
}

/* The ends of a top that 32 rows reach. */
INLINE void descend(const union forest_word *thresholds, const float *x, const int levels, __m512i i[2])
{
    const union forest_word *columns = thresholds + (1 << levels), *ends = columns + (1 << levels);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const int tested = levels < 4 ? levels : 4, bit = 1 << tested;
    const struct rows all = { 0xffff, 0xffff };
    i[0] = i[1] = _mm512_set1_epi32(2 * bit - 1);
    struct rows first = test(thresholds, columns, x, 1, all, bit / 2, i);
#pragma GCC unroll 2
    for (int a = 2; a < 4; a++) {
        struct rows at_a = a == 2 ? first : rest(all, first);
        struct rows left_a = test(thresholds, columns, x, a, at_a, bit / 4, i);
#pragma GCC unroll 2
        for (int b = 2 * a; b < 2 * a + 2; b++) {
            struct rows at_b = b == 2 * a ? left_a : rest(at_a, left_a);
            struct rows left_b = test(thresholds, columns, x, b, at_b, bit / 8, i);
            if (tested == 4) {
                test(thresholds, columns, x, 2 * b, left_b, 1, i);
                test(thresholds, columns, x, 2 * b + 1, rest(at_b, left_b), 1, i);
            }
        }
    }
#pragma GCC unroll 4
    for (int level = tested; level < levels; level++) {
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            __m512 threshold = _mm512_castsi512_ps(pick(thresholds + (1 << level), level, i[v]));
            __m512i column = _mm512_add_epi32(pick(columns + (1 << level), level, i[v]), lane);
            __mmask16 right = _mm512_cmp_ps_mask(_mm512_i32gather_ps(column, x + 16 * v, 4), threshold, _CMP_NLT_UQ);
            i[v] = _mm512_add_epi32(i[v], i[v]);
            i[v] = _mm512_mask_add_epi32(i[v], right, i[v], _mm512_set1_epi32(1));
        }
    }
    i[0] = pick(ends, levels, i[0]);
    i[1] = pick(ends, levels, i[1]);
}

/* The leaves below the nodes `i` of `walk`. */
INLINE __m512 walk(const struct forest *f, const float *x, __m512i i)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i one = _mm512_set1_epi32(1);
    const __m128i shift = _mm_cvtsi32_si128((int)f->shift);
    for (;;) {
        __m512 value = _mm512_i32gather_ps(i, &f->walk->value, 8);
        __m512i meta = _mm512_i32gather_epi32(i, &f->walk->meta, 8);
        __m512i left = _mm512_and_si512(meta, _mm512_set1_epi32(0xffff));
        __mmask16 inner = _mm512_test_epi32_mask(left, left);
        if (!inner)
            return value;
        __m512i column = _mm512_add_epi32(_mm512_sll_epi32(_mm512_srli_epi32(meta, 16), shift), lane);
        __m512 seen = _mm512_mask_i32gather_ps(value, inner, column, x, 4);
        i = _mm512_add_epi32(i, left);
        i = _mm512_mask_add_epi32(i, _mm512_mask_cmp_ps_mask(inner, seen, value, _CMP_NLT_UQ), i, one);
    }
}

INLINE void add(const struct forest *f, const struct forest_top *t, const float *x, uint32_t lanes, float *out,
                const int levels)
{
    const union forest_word *top = f->tops + t->at;
    for (uint32_t lane = 0; lane < lanes; lane += 32) {
        __m512i end[2];
        descend(top, x + lane, levels, end);
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            float *sum = out + lane + 16 * v;
            __m512 leaf = t->deep ? walk(f, x + lane + 16 * v, end[v]) : _mm512_castsi512_ps(end[v]);
            _mm512_store_ps(sum, _mm512_add_ps(_mm512_load_ps(sum), leaf));
        }
    }
}

AVX512 void forest_add_avx512(const struct forest *f, uint32_t first, uint32_t last, const float *x, uint32_t lanes,
                              float *sums)
{
    FOREST_ADD_TREES(add)
}
#else
void forest_add_avx512(const struct forest *f, uint32_t first, uint32_t last, const float *x, uint32_t lanes,
                       float *sums)
{
    forest_add_portable(f, first, last, x, lanes, sums);
}
#endif
