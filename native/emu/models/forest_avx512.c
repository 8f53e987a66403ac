/* SPDX-License-Identifier: Apache-2.0 */
/*
 * forest_avx512.c: sixteen rows at a time.  In the first levels every node is tested for every row, which costs less
 * than finding out which one a row needs; then the thresholds of a level are few enough to be picked out of registers;
 * then they are gathered.
 */
#include "forest.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl")))
#define INLINE static inline __attribute__((always_inline)) AVX512

/* Rows of `among` whose value is less than the threshold of node h. */
INLINE __mmask16 less(const union forest_word *thresholds, const union forest_word *columns, const float *x, int h,
                      __mmask16 among)
{
    return _mm512_mask_cmp_ps_mask(among, _mm512_load_ps(x + columns[h].index), _mm512_set1_ps(thresholds[h].value),
                                   _CMP_LT_OQ);
}

/* Entries i of a table, of which the low `bits` bits of i count. */
INLINE __m512i pick(const union forest_word *table, int bits, __m512i i)
{
    if (bits == 3)
        return _mm512_permutexvar_epi32(i, _mm512_broadcast_i32x8(_mm256_load_si256((const __m256i *)table)));
    if (bits == 4)
        return _mm512_permutexvar_epi32(i, _mm512_load_si512(table));
    if (bits == 5)
        return _mm512_permutex2var_epi32(_mm512_load_si512(table), i, _mm512_load_si512(table + 16));
    if (bits == 6)
        return _mm512_mask_blend_epi32(_mm512_test_epi32_mask(i, _mm512_set1_epi32(32)), pick(table, 5, i),
                                       pick(table + 32, 5, i));
    return _mm512_i32gather_epi32(_mm512_and_si512(i, _mm512_set1_epi32((1 << bits) - 1)), table, 4);
}

/* The ends of a top that sixteen rows reach. */
INLINE __m512i descend(const union forest_word *thresholds, const float *x, const int levels)
{
    const union forest_word *columns = thresholds + (1 << levels), *ends = columns + (1 << levels);
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    __mmask16 at[16]; /* which rows are at node h */
    __m512i i = _mm512_set1_epi32(15);
    at[1] = 0xffff;
#pragma GCC unroll 3
    for (int level = 0; level < 3; level++) {
        __mmask16 lefts = 0;
#pragma GCC unroll 4
        for (int h = 1 << level; h < 2 << level; h++) {
            at[2 * h] = less(thresholds, columns, x, h, at[h]);
            at[2 * h + 1] = _kandn_mask16(at[2 * h], at[h]);
            lefts |= at[2 * h];
        }
        i = _mm512_mask_sub_epi32(i, lefts, i, _mm512_set1_epi32(4 >> level));
    }
#pragma GCC unroll 5
    for (int level = 3; level < levels; level++) {
        __m512 threshold = _mm512_castsi512_ps(pick(thresholds + (1 << level), level, i));
        __m512i column = _mm512_add_epi32(pick(columns + (1 << level), level, i), lane);
        __mmask16 right = _mm512_cmp_ps_mask(_mm512_i32gather_ps(column, x, 4), threshold, _CMP_NLT_UQ);
        i = _mm512_add_epi32(i, i);
        i = _mm512_mask_add_epi32(i, right, i, one);
    }
    return pick(ends, levels, i);
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
    if (t->deep) {
        for (uint32_t lane = 0; lane < lanes; lane += 16) {
            __m512 leaf = walk(f, x + lane, descend(top, x + lane, levels));
            _mm512_store_ps(out + lane, _mm512_add_ps(_mm512_load_ps(out + lane), leaf));
        }
        return;
    }
    for (uint32_t lane = 0; lane < lanes; lane += 16) {
        __m512 leaf = _mm512_castsi512_ps(descend(top, x + lane, levels));
        _mm512_store_ps(out + lane, _mm512_add_ps(_mm512_load_ps(out + lane), leaf));
    }
}

AVX512 void forest_add_avx512(const struct forest *f, uint32_t first, uint32_t last, const float *x, uint32_t lanes,
                              float *sums)
{
    for (const struct forest_top *t = f->trees + first; t < f->trees + last; t++) {
        float *out = sums + ((size_t)t->out << f->shift);
        switch (t->levels) {
        case 3:
            add(f, t, x, lanes, out, 3);
            break;
        case 4:
            add(f, t, x, lanes, out, 4);
            break;
        case 5:
            add(f, t, x, lanes, out, 5);
            break;
        case 6:
            add(f, t, x, lanes, out, 6);
            break;
        case 7:
            add(f, t, x, lanes, out, 7);
            break;
        default:
            add(f, t, x, lanes, out, 8);
        }
    }
}
#else
void forest_add_avx512(const struct forest *f, uint32_t first, uint32_t last, const float *x, uint32_t lanes,
                       float *sums)
{
    forest_add_portable(f, first, last, x, lanes, sums);
}
#endif
