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

/* Entries i of a table, of which the low `bits` bits of i count. */
INLINE __m256i pick(const union forest_word *table, int bits, __m256i i)
{
    if (bits == 3)
        return _mm256_permutevar8x32_epi32(_mm256_load_si256((const __m256i *)table), i);
    if (bits == 4) { /* blendv looks at the sign: bring bit 3 there */
        __m256 low = _mm256_castsi256_ps(pick(table, 3, i)), high = _mm256_castsi256_ps(pick(table + 8, 3, i));
        return _mm256_castps_si256(_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(i, 28))));
    }
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
    __m256 left[8];
#pragma GCC unroll 7
    for (int h = 1; h < 8; h++)
        left[h] = less(thresholds, columns, x, h);
    __m256 first = left[1], second = _mm256_blendv_ps(left[3], left[2], first);
    __m256 third = _mm256_blendv_ps(_mm256_blendv_ps(left[7], left[6], second),
                                    _mm256_blendv_ps(left[5], left[4], second), first);
    __m256i i = child(child(child(_mm256_set1_epi32(1), first), second), third);
#pragma GCC unroll 5
    for (int level = 3; level < levels; level++) {
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
void forest_add_avx2(const struct forest *f, uint32_t first, uint32_t last, const float *x, uint32_t lanes,
                     float *sums)
{
    forest_add_portable(f, first, last, x, lanes, sums);
}
#endif
