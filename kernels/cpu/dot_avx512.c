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

#include "kernels/cpu/vector_avx512.inc"

enum { TILE_X = 6, TOGETHER = 4, SHORT_COLS = 512, SHORT_ROWS = 2, SHORT_X = 3, SHORT_SUMS = 4 };

static inline V v_zero(void) {
    return _mm512_setzero_ps();
}
static inline V v_fma(V a, V b, V c) {
    return _mm512_fmadd_ps(a, b, c);
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

/* The tree of avx512_sum for 16 vectors at once: halves of them, then quarters, meet in one. */
static inline V v_sums(const V *const v[4]) {
    V half[4][2], quarter[4], pair[2];
    for (int i = 0; i < 4; i++) {
        for (int j = 0; j < 2; j++) {
            V a = v[2 * j][i], b = v[2 * j + 1][i];
            half[i][j] = v_add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
        }
        V a = half[i][0], b = half[i][1];
        quarter[i] = v_add(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
    }
    for (int i = 0; i < 2; i++) {
        __m512d a = _mm512_castps_pd(quarter[2 * i]), b = _mm512_castps_pd(quarter[2 * i + 1]);
        pair[i] = v_add(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
                        _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    return v_add(_mm512_shuffle_ps(pair[0], pair[1], 0x88),
                 _mm512_shuffle_ps(pair[0], pair[1], 0xdd));
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
#include "kernels/cpu/dot_simd_tiles.inc"

/* ---- integers ------------------------------------------------------------------------------- */

typedef __m512i W;
enum { CODES_UP = 1, STRIPS = 2, STRIP_X = 6 };

static inline __m128i load_64(const void *p) {
    return _mm_loadl_epi64((const __m128i *)p);
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

/* ---- sums of groups ------------------------------------------------------------------------- */

/* The bytes of a vector that are among the first n of them, of bytes of which `before` came in
 * earlier vectors. */
static inline __mmask64 bytes_left(uint32_t n, uint32_t before) {
    uint32_t left = n > before ? n - before : 0;
    return left >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << left) - 1;
}
static inline W load_left(const void *p, uint32_t n, uint32_t before) {
    const uint8_t *from = (const uint8_t *)p + before;
    return before + 64 <= n ? _mm512_loadu_si512(from)
                            : _mm512_maskz_loadu_epi8(bytes_left(n, before), from);
}

/* Sums of pairs of lanes: a's and b's in turn, within 128 bits. */
static inline W add_pairs_32(W a, W b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
}
static inline W add_pairs_64(W a, W b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

/* v[i] has lanes 4 k .. 4 k + 3 for group 4 i + k, which are to be added. */
static inline W sums_of_fours(const W v[4]) {
    const W order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    W sums = add_pairs_64(add_pairs_32(v[0], v[1]), add_pairs_32(v[2], v[3]));
    return _mm512_permutexvar_epi32(order, sums);
}

/* v[i] has lanes 8 k .. 8 k + 7 for group 2 i + k. */
static inline W sums_of_eights(const W v[8]) {
    const W order = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    W low = add_pairs_64(add_pairs_32(v[0], v[1]), add_pairs_32(v[2], v[3]));
    W high = add_pairs_64(add_pairs_32(v[4], v[5]), add_pairs_32(v[6], v[7]));
    W sums = _mm512_add_epi32(_mm512_shuffle_i64x2(low, high, 0x88),
                              _mm512_shuffle_i64x2(low, high, 0xdd));
    return _mm512_permutexvar_epi32(order, sums);
}

enum { STEP = 2 };

static inline void group_sums(enum codec_id c, const uint8_t *row, uint32_t g, uint32_t n,
                              const int8_t *x, __m256i sums[STEP]) {
    const W zero = _mm512_setzero_si512(), up = _mm512_set1_epi8((char)0x80);
    const W nibble = _mm512_set1_epi8(15);
    const uint32_t n_x = n * CODEC_GROUP;
    W v[8], all;
    if (c == CODEC_Q8) {
        for (uint32_t i = 0; i < 8; i++) {
            W codes = load_left(row + (size_t)g * CODEC_GROUP, n_x, i * 64);
            v[i] =
                _mm512_dpbusd_epi32(zero, _mm512_xor_si512(codes, up), load_left(x, n_x, i * 64));
        }
        all = sums_of_eights(v);
    } else {
        /* 64 bytes have the codes of four groups: low nibbles are the first half of columns. */
        for (uint32_t i = 0; i < 4; i++) {
            W codes = load_left(row + (size_t)g * (CODEC_GROUP / 2), n_x / 2, i * 64);
            W x0 = load_left(x, n_x, i * 128), x1 = load_left(x, n_x, i * 128 + 64);
            W low = _mm512_and_si512(codes, nibble);
            W high = _mm512_and_si512(_mm512_srli_epi16(codes, 4), nibble);
            v[i] = _mm512_dpbusd_epi32(zero, low, _mm512_shuffle_i64x2(x0, x1, 0x88));
            v[i] = _mm512_dpbusd_epi32(v[i], high, _mm512_shuffle_i64x2(x0, x1, 0xdd));
        }
        all = sums_of_fours(v);
    }
    sums[0] = _mm512_castsi512_si256(all);
    sums[1] = _mm512_extracti64x4_epi64(all, 1);
}

#include "kernels/cpu/dot_simd_quant.inc"

/* Signed codes go in as magnitudes, their signs to x. */
INLINE __m256i mix_dot(enum codec_id c, __m256i acc, __m256i w, __m256i x) {
    return codec_has_minimums(c)
               ? _mm256_dpbusd_epi32(acc, w, x)
               : _mm256_dpbusd_epi32(acc, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}

#include "kernels/cpu/dot_simd_mix.inc"

static bool usable(void) {
    /* The builtin's answers include the operating system's support for the wide registers. */
    return dot_avx2.usable() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni");
}

const struct dot_isa dot_avx512 = DOT_TABLE("avx512", usable);
