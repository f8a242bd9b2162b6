/*
 * dot_avx512: the tables of dot.h for AVX-512 (F, BW, VL, DQ, VNNI). The loops are in
 * the files dot_simd*.inc; this file is their primitives, on vectors of 16 floats.
 */
#include "kernels/cpu/dot.h"

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/cpu/dot_avx512.h"

/* q * d - m rounds twice, as codec.h defines; the Makefile's flags say so to gcc. */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

typedef __m512 V;
enum { LANES = 16, TILE_X = 6 };

static inline V v_zero(void) {
    return _mm512_setzero_ps();
}
static inline V v_set(float x) {
    return _mm512_set1_ps(x);
}
static inline V v_load(const float *p) {
    return _mm512_loadu_ps(p);
}
static inline void v_store(float *p, V v) {
    _mm512_storeu_ps(p, v);
}
static inline V v_fma(V a, V b, V c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline V v_add(V a, V b) {
    return _mm512_add_ps(a, b);
}
static inline V v_sub(V a, V b) {
    return _mm512_sub_ps(a, b);
}
static inline V v_mul(V a, V b) {
    return _mm512_mul_ps(a, b);
}
static inline V v_div(V a, V b) {
    return _mm512_div_ps(a, b);
}
static inline V v_max(V a, V b) {
    return _mm512_max_ps(a, b);
}

static inline __mmask16 first_lanes(uint32_t n) {
    return (__mmask16)((1u << n) - 1);
}
static inline V v_load_part(const float *p, uint32_t n) {
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}
static inline void v_store_part(float *p, V v, uint32_t n) {
    _mm512_mask_storeu_ps(p, first_lanes(n), v);
}

static inline float v_sum(V v) {
    return avx512_sum(v);
}

static inline V v_round(V v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* Where exp is 0 or infinite anyway. max and min give their second operand for a NaN. */
static inline V v_clamp_exp(V x) {
    return _mm512_max_ps(v_set(-105.0f), _mm512_min_ps(v_set(90.0f), x));
}
static inline V v_scale_exp(V p, V n) {
    return _mm512_scalef_ps(p, n);
}

static inline __m128i load_128(const void *p) {
    return _mm_loadu_si128((const __m128i *)p);
}
static inline __m256i load_256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
static inline V v_bf16(const uint8_t *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(load_256(p)), 16));
}
static inline V v_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(load_256(p));
}
static inline V v_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(load_128(p)));
}
static inline void v_to_f16(uint16_t *p, V v) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

static inline void q8_group(const uint8_t *q, float d, V w[2]) {
    for (int v = 0; v < 2; v++) {
        __m512i i = _mm512_cvtepi8_epi32(load_128(q + v * 16));
        w[v] = v_mul(_mm512_cvtepi32_ps(i), v_set(d));
    }
}

/* The 16 values that a nibble of this group can stand for, looked up: the permutation takes the low
 * four bits of each index. Low nibbles are columns 0 .. 15, high nibbles 16 .. 31. */
static inline void q4_group(const uint8_t *q, float d, float m, V w[2]) {
    const V steps = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    V values = v_sub(v_mul(steps, v_set(d)), v_set(m));
    __m512i bytes = _mm512_cvtepu8_epi32(load_128(q));
    w[0] = _mm512_permutexvar_ps(bytes, values);
    w[1] = _mm512_permutexvar_ps(_mm512_srli_epi32(bytes, 4), values);
}

#include "kernels/cpu/dot_simd.inc"
#include "kernels/cpu/dot_simd_floats.inc"

/* ---- integers ------------------------------------------------------------------------------- */

typedef __m512i W;
enum { CODES_UP = 1, STRIPS = 2, STRIP_X = 6 };

static inline __m128i load_64(const void *p) {
    return _mm_loadl_epi64((const __m128i *)p);
}
static inline __m256i dot_codes(enum codec_id c, __m256i acc, __m256i w, __m256i x) {
    (void)c;
    return _mm256_dpbusd_epi32(acc, w, x);
}
static inline W w_set(int32_t x) {
    return _mm512_set1_epi32(x);
}
static inline W w_load(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}
static inline V w_float(W w) {
    return _mm512_cvtepi32_ps(w);
}
static inline W w_dot(enum codec_id c, W acc, W w, W x) {
    (void)c;
    return _mm512_dpbusd_epi32(acc, w, x);
}

#include "kernels/cpu/dot_simd_quant.inc"

static bool usable(void) {
    /* The builtin's answers include the operating system's support for the wide registers. */
    return dot_avx2.usable() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

const struct dot_isa dot_avx512 = DOT_TABLE("avx512", usable);
