/*
 * exponents_avx2: the decoder for AVX2 with BMI2.
 */
#include "kernels/cpu/exponents.h"

#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/dot.h"

struct tables {
    __m256i exponents; /* twice */
};

static inline struct tables make_tables(const uint8_t exponents[16]) {
    __m128i x = _mm_loadu_si128((const __m128i *)(const void *)exponents);
    return (struct tables){_mm256_broadcastsi128_si256(x)};
}

/* `value` in the bytes whose bit is set, 0 in the others. */
static inline __m256i spread(uint64_t bits, char value) {
    const __m256i byte_of = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2,
                                             2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i bit_of = _mm256_set1_epi64x((long long)0x8040201008040201);
    __m256i x = _mm256_shuffle_epi8(_mm256_set1_epi32((int)(uint32_t)bits), byte_of);
    x = _mm256_cmpeq_epi8(_mm256_and_si256(x, bit_of), bit_of);
    return _mm256_and_si256(x, _mm256_set1_epi8(value));
}

static inline __m256i rotate_right(__m256i x) {
    return _mm256_or_si256(_mm256_srli_epi16(x, 1), _mm256_slli_epi16(x, 15));
}

static inline void store(uint8_t *p, __m256i x) {
    _mm256_storeu_si256((__m256i *)(void *)p, x);
}

static inline void decode_block(const struct tables *t, const uint64_t index[4], uint64_t escaped,
                                const uint8_t *low, const uint8_t *literals, uint8_t *dst) {
    for (int half = 0; half < 64; half += 32) {
        __m256i x = _mm256_or_si256(
            _mm256_or_si256(spread(index[0] >> half, 1), spread(index[1] >> half, 2)),
            _mm256_or_si256(spread(index[2] >> half, 4), spread(index[3] >> half, 8)));
        x = _mm256_shuffle_epi8(t->exponents, x);
        __m256i l = _mm256_loadu_si256((const __m256i *)(const void *)(low + half));
        __m256i a = rotate_right(_mm256_unpacklo_epi8(l, x));
        __m256i b = rotate_right(_mm256_unpackhi_epi8(l, x));
        store(dst + 2 * half, _mm256_permute2x128_si256(a, b, 0x20));
        store(dst + 2 * half + 32, _mm256_permute2x128_si256(a, b, 0x31));
    }
    /* Their exponent is 0 so far. One weight of a hundred: a loop costs less than an expansion. */
    for (uint64_t m = escaped; m; m &= m - 1) {
        uint8_t *weight = dst + 2 * __builtin_ctzll(m);
        uint16_t v;
        memcpy(&v, weight, sizeof v);
        v = (uint16_t)(v | *literals++ << 7);
        memcpy(weight, &v, sizeof v);
    }
}

struct codes {
    uint64_t index[4], escaped;
};

/* The codes of the next 64 weights; moves on in all lists. */
static inline struct codes next_codes(struct corm_exponents *e) {
    const uint8_t *pair = e->lists[0] + e->at / 64 * 16;
    uint64_t low = corm_exponents_word(pair), high = corm_exponents_word(pair + 8);
    uint64_t second = low & high;
    uint64_t low2 = _pdep_u64(corm_exponents_bits(e->lists[1], e->used[0], 0), second);
    uint64_t high2 = _pdep_u64(corm_exponents_bits(e->lists[1], e->used[0], 1), second);
    uint64_t third = low2 & high2;
    uint64_t low3 = _pdep_u64(corm_exponents_bits(e->lists[2], e->used[1], 0), third);
    uint64_t high3 = _pdep_u64(corm_exponents_bits(e->lists[2], e->used[1], 1), third);
    e->at += 64;
    e->used[0] += (size_t)_mm_popcnt_u64(second);
    e->used[1] += (size_t)_mm_popcnt_u64(third);
    /* A list's threes are ones in both words: taken away where the next list has the say. */
    return (struct codes){{low ^ second ^ low2 ^ third ^ low3,
                           high ^ second ^ high2 ^ third ^ high3, second ^ third, third},
                          low3 & high3};
}

/* How far ahead of use bytes are asked for: what a chunk is read from may be memory that no cache
 * has, and pages end too soon for the processor to guess on by itself. */
enum { AHEAD_LOW = 1024, AHEAD_LIST = AHEAD_LOW / 4 };

static void decode(struct corm_exponents *place, size_t n, uint8_t *dst) {
    struct corm_exponents e = *place; /* in registers, not where dst might point */
    const struct tables tables = make_tables(e.exponents);
    for (size_t i = 0; i < n; i += CORM_EXPONENTS_BLOCK) {
        const uint8_t *low = e.low + e.at, *literals = e.literals + e.used[2];
        _mm_prefetch((const char *)low + AHEAD_LOW, _MM_HINT_T0);
        _mm_prefetch((const char *)e.lists[0] + e.at / 4 + AHEAD_LIST, _MM_HINT_T0);
        struct codes codes = next_codes(&e);
        e.used[2] += (size_t)_mm_popcnt_u64(codes.escaped);
        if (n - i >= CORM_EXPONENTS_BLOCK) {
            decode_block(&tables, codes.index, codes.escaped, low, literals, dst + 2 * i);
        } else {
            uint8_t last[2 * CORM_EXPONENTS_BLOCK];
            decode_block(&tables, codes.index, codes.escaped, low, literals, last);
            memcpy(dst + 2 * i, last, 2 * (n - i));
        }
    }
    *place = e;
}

/* AMD's first and second Zen have pdep in microcode, with steps for each bit that is set. */
static bool has_fast_pdep(void) {
    return __builtin_cpu_supports("bmi2") && !__builtin_cpu_is("znver1") &&
           !__builtin_cpu_is("znver2");
}

static bool usable(void) {
    return dot_avx2.usable() && has_fast_pdep() && __builtin_cpu_supports("popcnt");
}

const struct exponents_isa exponents_avx2 = {.name = "avx2", .usable = usable, .decode = decode};
