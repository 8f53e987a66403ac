/* SPDX-License-Identifier: Apache-2.0 */
/* forest_avx2.c: eight rows at a time; otherwise as forest_avx512.c. */
#include "forest.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define INLINE static inline __attribute__((always_inline)) AVX2

/* All ones where the value is less than the threshold of node h. */
INLINE __m256 less(const union forest_word *thresholds, const union forest_word *columns, const float *x, int h)
{
    return _mm256_cmp_ps(_mm256_load_ps(x + columns[h].index), _mm256_broadcast_ss(&thresholds[h].value), _CMP_LT_OQ);
}

INLINE __m256i pick8(const union forest_word *table, __m256i i)
{
    return _mm256_permutevar8x32_epi32(_mm256_load_si256((const __m256i *)table), i);
}

/* The first or the second, as bit `bit` of i is 0 or 1: blendv looks at the sign. */
INLINE __m256i choose(__m256i zero, __m256i one, __m256i i, int bit)
{
    __m256 sign = _mm256_castsi256_ps(_mm256_slli_epi32(i, 31 - bit));
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(zero), _mm256_castsi256_ps(one), sign));
}

INLINE __m256i pick16(const union forest_word *table, __m256i i)
{
    return choose(pick8(table, i), pick8(table + 8, i), i, 3);
}

INLINE __m256i pick32(const union forest_word *table, __m256i i)
{
    return choose(pick16(table, i), pick16(table + 16, i), i, 4);
}

/* Entries i of a table, of which the low `bits` bits of i count. */
INLINE __m256i pick(const union forest_word *table, int bits, __m256i i)
{
    if (bits == 3)
        return pick8(table, i);
    if (bits == 4)
        return pick16(table, i);
    if (bits == 5)
        return pick32(table, i);
    if (bits == 6)
        return choose(pick32(table, i), pick32(table + 32, i), i, 5);
    return _mm256_i32gather_epi32((const int *)table, _mm256_and_si256(i, _mm256_set1_epi32((1 << bits) - 1)), 4);
}

/* 2 * i, and 1 more where `left` is not set. */
INLINE __m256i child(__m256i i, __m256 left)
{
    i = _mm256_add_epi32(_mm256_add_epi32(i, i), _mm256_set1_epi32(1));
    return _mm256_add_epi32(i, _mm256_castps_si256(left));
}

/* The ends of a top that eight rows reach. */
INLINE __m256i descend(const union forest_word *thresholds, const float *x, const int levels)
{
    const union forest_word *columns = thresholds + (1 << levels), *ends = columns + (1 << levels);
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const int tested = levels < 4 ? levels : 4;
    __m256 left[16];
    __m256i i = _mm256_set1_epi32(1);
#pragma GCC unroll 15
    for (int h = 1; h < 1 << tested; h++)
        left[h] = less(thresholds, columns, x, h);
#pragma GCC unroll 4
    for (int level = 0; level < tested; level++) {
        /* the tests of the node that a row is at come to be those of node 1 */
        __m256 went = left[1];
        i = child(i, went);
#pragma GCC unroll 7
        for (int h = 1; h < 1 << (tested - level - 1); h++) {
            int top = h < 2 ? 1 : h < 4 ? 2 : 4; /* first node of h's level, and how many it has */
            left[h] = _mm256_blendv_ps(left[h + 2 * top], left[h + top], went);
        }
    }
#pragma GCC unroll 4
    for (int level = tested; level < levels; level++) {
        __m256 threshold = _mm256_castsi256_ps(pick(thresholds + (1 << level), level, i));
        __m256i column = _mm256_add_epi32(pick(columns + (1 << level), level, i), lane);
        i = child(i, _mm256_cmp_ps(_mm256_i32gather_ps(x, column, 4), threshold, _CMP_LT_OQ));
    }
    return pick(ends, levels, i);
}

/* The leaves below the nodes `i` of `walk`. */
INLINE __m256 walk(const struct forest *f, const float *x, __m256i i)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m128i shift = _mm_cvtsi32_si128((int)f->shift);
    for (;;) {
        __m256 value = _mm256_i32gather_ps(&f->walk->value, i, 8);
        __m256i meta = _mm256_i32gather_epi32((const int *)&f->walk->meta, i, 8);
        __m256i left = _mm256_and_si256(meta, _mm256_set1_epi32(0xffff));
        __m256i inner = _mm256_cmpgt_epi32(left, _mm256_setzero_si256());
        if (_mm256_testz_si256(inner, inner))
            return value;
        __m256i column = _mm256_add_epi32(_mm256_sll_epi32(_mm256_srli_epi32(meta, 16), shift), lane);
        __m256 seen = _mm256_mask_i32gather_ps(value, x, column, _mm256_castsi256_ps(inner), 4);
        __m256i right = _mm256_castps_si256(_mm256_cmp_ps(seen, value, _CMP_NLT_UQ));
        i = _mm256_sub_epi32(_mm256_add_epi32(i, left), _mm256_and_si256(right, inner));
    }
}

INLINE void add(const struct forest *f, const struct forest_top *t, const float *x, uint32_t lanes, float *out,
                const int levels)
{
    const union forest_word *top = f->tops + t->at;
    if (t->deep) {
        for (uint32_t lane = 0; lane < lanes; lane += 8) {
            __m256 leaf = walk(f, x + lane, descend(top, x + lane, levels));
            _mm256_store_ps(out + lane, _mm256_add_ps(_mm256_load_ps(out + lane), leaf));
        }
        return;
    }
    for (uint32_t lane = 0; lane < lanes; lane += 8) {
        __m256 leaf = _mm256_castsi256_ps(descend(top, x + lane, levels));
        _mm256_store_ps(out + lane, _mm256_add_ps(_mm256_load_ps(out + lane), leaf));
    }
}

AVX2 void forest_add_avx2(const struct forest *f, uint32_t first, uint32_t last, const float *x, uint32_t lanes,
                          float *sums)
{
    FOREST_ADD_TREES(add)
}
#else
void forest_add_avx2(const struct forest *f, uint32_t first, uint32_t last, const float *x, uint32_t lanes,
                     float *sums)
{
    forest_add_portable(f, first, last, x, lanes, sums);
}
#endif
