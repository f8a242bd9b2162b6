/*
 * exponents_avx512: the decoder for AVX-512 with VBMI2, which has byte expansion for literals and a
 * rotation of 16-bit numbers.
 */
#include "kernels/exponents.h"

#include <immintrin.h>
#include <string.h>

#include "kernels/dot.h"

struct tables {
    __m512i exponents;     /* four times */
    __m512i first, second; /* the order that unpacking by 128 bits leaves to mend */
};

static inline struct tables make_tables(const uint8_t exponents[16]) {
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)exponents);
    return (struct tables){_mm512_broadcast_i32x4(x), _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11),
                           _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15)};
}

/* 64 literals are read, however many are used: the low plane lies behind them. */
static inline void decode_block(const struct tables *t, const uint64_t index[4], uint64_t escaped,
                                const uint8_t *low, const uint8_t *literals, uint8_t *dst) {
    __m512i x = _mm512_maskz_set1_epi8(index[0], 1);
    x = _mm512_mask_add_epi8(x, index[1], x, _mm512_set1_epi8(2));
    x = _mm512_mask_add_epi8(x, index[2], x, _mm512_set1_epi8(4));
    x = _mm512_mask_add_epi8(x, index[3], x, _mm512_set1_epi8(8));
    x = _mm512_shuffle_epi8(t->exponents, x);
    x = _mm512_mask_expand_epi8(x, escaped, _mm512_loadu_si512(literals));
    __m512i l = _mm512_loadu_si512(low);
    __m512i a = _mm512_unpacklo_epi8(l, x), b = _mm512_unpackhi_epi8(l, x);
    a = _mm512_shrdi_epi16(a, a, 1); /* rotates right by one */
    b = _mm512_shrdi_epi16(b, b, 1);
    _mm512_storeu_si512(dst, _mm512_permutex2var_epi64(a, t->first, b));
    _mm512_storeu_si512(dst + 64, _mm512_permutex2var_epi64(a, t->second, b));
}

#include "kernels/exponents_simd.inc"

static bool usable(void) {
    return dot_avx512.usable() && __builtin_cpu_supports("avx512vbmi2") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}

const struct exponents_isa exponents_avx512 = {"avx512", usable, decode};
