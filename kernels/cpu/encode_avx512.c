/*
 * encode_avx512: the table of encode.h for AVX-512. The loops are in encode_simd.inc; this file is
 * their primitives, on vectors of 16 floats.
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

#include "kernels/cpu/vector_avx512.inc"

typedef __mmask16 M;

static inline V v_abs(V v) {
    return _mm512_abs_ps(v);
}
static inline M m_less(V a, V b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ);
}
static inline M m_at_most(V a, V b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_LE_OQ);
}
static inline V v_where(M m, V a, V b) {
    return _mm512_mask_blend_ps(m, b, a);
}
static inline bool m_all(M m) {
    return m == 0xffff;
}
static inline void v_store_i8(int8_t *p, V v) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
}
static inline void v_store_i32(int32_t *p, V v) {
    _mm512_storeu_si512(p, _mm512_cvtps_epi32(v));
}

#include "kernels/cpu/encode_simd.inc"

static bool usable(void) {
    return dot_avx512.usable();
}

const struct encode_isa encode_avx512 = {
    "avx512", usable, {[CODEC_Q8] = q8_row, [CODEC_Q4] = q4_row}};
