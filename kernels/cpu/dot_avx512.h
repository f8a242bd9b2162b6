/*
 * dot_avx512: what files for AVX-512 share. Private to kernels/cpu, and to files that are compiled
 * for it.
 */
#ifndef KERNELS_CPU_DOT_AVX512_H
#define KERNELS_CPU_DOT_AVX512_H

#include <immintrin.h>

/* The sum of the lanes, by the tree that every sum of products here ends with (dot.h). */
static inline float avx512_sum(__m512 v) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    s = _mm_add_ss(s, _mm_movehdup_ps(s));
    return _mm_cvtss_f32(s);
}

#endif
