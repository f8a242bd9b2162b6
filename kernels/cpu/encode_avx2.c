/*
 * encode_avx2: the table of encode.h for AVX2 with F16C. The loops are in encode_simd.inc; this
 * file is their primitives, on vectors of 8 floats.
 */
#include "kernels/cpu/encode.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/dot.h"

/* A product and a sum round twice, as codec.h defines; the Makefile's flags say so to gcc. */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#include "kernels/cpu/vector_avx2.inc"

typedef __m256 M;

static inline V v_abs(V v) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v);
}
static inline M m_less(V a, V b) {
    return _mm256_cmp_ps(a, b, _CMP_LT_OQ);
}
static inline M m_at_most(V a, V b) {
    return _mm256_cmp_ps(a, b, _CMP_LE_OQ);
}
static inline V v_where(M m, V a, V b) {
    return _mm256_blendv_ps(b, a, m);
}
static inline bool m_all(M m) {
    return _mm256_movemask_ps(m) == 0xff;
}
static inline void v_store_i8(int8_t *p, V v) {
    __m256i i = _mm256_cvtps_epi32(v);
    __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(i), _mm256_extracti128_si256(i, 1));
    _mm_storel_epi64((__m128i *)(void *)p, _mm_packs_epi16(words, words));
}
static inline void v_store_i32(int32_t *p, V v) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_cvtps_epi32(v));
}

#include "kernels/cpu/encode_simd.inc"

static bool usable(void) {
    return dot_avx2.usable();
}

const struct encode_isa encode_avx2 = {"avx2", usable, {[CODEC_Q8] = q8_row, [CODEC_Q4] = q4_row}};
