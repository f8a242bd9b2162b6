/*
 * dot_avx2: the tables of dot.h for AVX2 with FMA and F16C. The loops are in the files
 * dot_simd*.inc; this file is their primitives, on vectors of 8 floats.
 */
#include "kernels/cpu/dot.h"

#include <cpuid.h>
#include <immintrin.h>
#include <math.h>
#include <string.h>

/* q * d - m rounds twice, as codec.h defines; the Makefile's flags say so to gcc. */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

#include "kernels/cpu/vector_avx2.inc"

enum { TILE_X = 3, TOGETHER = 2, SHORT_COLS = 256, SHORT_ROWS = 1, SHORT_X = 4, SHORT_SUMS = 2 };

static inline V v_zero(void) {
    return _mm256_setzero_ps();
}
static inline V v_fma(V a, V b, V c) {
    return _mm256_fmadd_ps(a, b, c);
}

/* Ones in the first n of 8 lanes. */
static inline __m256i first_lanes(uint32_t n) {
    static const int32_t ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(const void *)(ones + 8 - n));
}
static inline V v_load_part(const float *p, uint32_t n) {
    return _mm256_maskload_ps(p, first_lanes(n));
}
static inline void v_store_part(float *p, V v, uint32_t n) {
    _mm256_maskstore_ps(p, first_lanes(n), v);
}

static inline float v_sum(V v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}

/* The tree of v_sum for 8 vectors at once: halves of them, then quarters, meet in one. */
static inline V v_sums(const V *const v[2]) {
    V half[4], pair[2];
    for (int i = 0; i < 4; i++) {
        V a = v[0][i], b = v[1][i];
        half[i] = v_add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
    }
    for (int i = 0; i < 2; i++) {
        __m256d a = _mm256_castps_pd(half[2 * i]), b = _mm256_castps_pd(half[2 * i + 1]);
        pair[i] = v_add(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)),
                        _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
    }
    return v_add(_mm256_shuffle_ps(pair[0], pair[1], 0x88),
                 _mm256_shuffle_ps(pair[0], pair[1], 0xdd));
}

/* Where exp is 0 or infinite anyway. max and min give their second operand for a NaN. */
static inline V v_clamp_exp(V x) {
    return _mm256_max_ps(v_set(-105.0f), _mm256_min_ps(v_set(90.0f), x));
}
/* 2^n for |n| <= 126. */
static inline V power_of_2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
/* p * 2^n, in two steps that both stay in range. */
static inline V v_scale_exp(V p, V n) {
    __m256i i = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(i, 1);
    return v_mul(v_mul(p, power_of_2(half)), power_of_2(_mm256_sub_epi32(i, half)));
}

static inline __m128i load_128(const void *p) {
    return _mm_loadu_si128((const __m128i *)p);
}
static inline __m256i load_256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}
static inline __m128i load_64(const void *p) {
    return _mm_loadl_epi64((const __m128i *)p);
}
static inline V v_bf16(const uint8_t *p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16));
}
static inline V v_f16(const uint8_t *p) {
    return _mm256_cvtph_ps(load_128(p));
}
static inline V v_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_64(p)));
}
static inline void v_to_f16(uint16_t *p, V v) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

static inline void q8_group(const uint8_t *q, float d, V w[4]) {
    for (int v = 0; v < 4; v++) {
        __m256i i = _mm256_cvtepi8_epi32(load_64(q + v * 8));
        w[v] = v_mul(_mm256_cvtepi32_ps(i), v_set(d));
    }
}

/* Low nibbles are columns 0 .. 15, high nibbles 16 .. 31. */
static inline void q4_group(const uint8_t *q, float d, float m, V w[4]) {
    const __m256i low = _mm256_set1_epi32(15);
    __m256i a = _mm256_cvtepu8_epi32(load_64(q)), b = _mm256_cvtepu8_epi32(load_64(q + 8));
    const __m256i n[4] = {_mm256_and_si256(a, low), _mm256_and_si256(b, low),
                          _mm256_srli_epi32(a, 4), _mm256_srli_epi32(b, 4)};
    for (int v = 0; v < 4; v++) {
        w[v] = v_sub(v_mul(_mm256_cvtepi32_ps(n[v]), v_set(d)), v_set(m));
    }
}

#include "kernels/cpu/dot_simd.inc"
#include "kernels/cpu/dot_simd_floats.inc"
#include "kernels/cpu/dot_simd_tiles.inc"

/* ---- integers ------------------------------------------------------------------------------- */

typedef __m256i W;
enum { CODES_UP = 0, STRIPS = 1, STRIP_X = 4 };

/* Sums of two products of a byte and a byte of 127 at most fit 16 bits: signed codes go in as
 * magnitudes, their signs to x. */
static inline __m256i dot_codes(enum codec_id c, __m256i acc, __m256i w, __m256i x) {
    __m256i pairs = codec_has_minimums(c)
                        ? _mm256_maddubs_epi16(w, x)
                        : _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
static inline W w_set(int32_t x) {
    return _mm256_set1_epi32(x);
}
static inline W w_load(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
static inline V w_float(W w) {
    return _mm256_cvtepi32_ps(w);
}
static inline W w_dot(enum codec_id c, W acc, W w, W x) {
    return dot_codes(c, acc, w, x);
}

/* ---- sums of groups ------------------------------------------------------------------------- */

/* Lane i: the sum of v[i]'s lanes. */
static inline __m256i sum8(const __m256i v[8]) {
    __m256i t[4], u[2];
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    }
    for (int i = 0; i < 2; i++) {
        u[i] = _mm256_add_epi32(_mm256_unpacklo_epi64(t[2 * i], t[2 * i + 1]),
                                _mm256_unpackhi_epi64(t[2 * i], t[2 * i + 1]));
    }
    return _mm256_add_epi32(_mm256_permute2x128_si256(u[0], u[1], 0x20),
                            _mm256_permute2x128_si256(u[0], u[1], 0x31));
}

INLINE __m256i codes_load(enum codec_id c, const uint8_t *row, size_t g);

enum { STEP = 1 };

static inline void group_sums(enum codec_id c, const uint8_t *row, uint32_t g, uint32_t n,
                              const int8_t *x, __m256i sums[STEP]) {
    W v[8];
    for (uint32_t i = 0; i < 8; i++) {
        v[i] = _mm256_setzero_si256();
        if (i < n) {
            v[i] = dot_codes(c, v[i], codes_load(c, row, g + i),
                             w_load((const uint8_t *)x + i * CODEC_GROUP));
        }
    }
    sums[0] = sum8(v);
}

#include "kernels/cpu/dot_simd_quant.inc"

INLINE __m256i mix_dot(enum codec_id c, __m256i acc, __m256i w, __m256i x) {
    return dot_codes(c, acc, w, x);
}

#include "kernels/cpu/dot_simd_mix.inc"

static bool usable(void) {
    unsigned a, b, c, d;
    /* The builtin's answers include the operating system's support for the wide registers; F16C it
     * does not know in every compiler. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

const struct dot_isa dot_avx2 = DOT_TABLE("avx2", usable);
