/*
 * exponents_avx512: the decoder, and products with rows, for AVX-512 with VBMI and VBMI2, which
 * have byte permutation, byte expansion and a rotation of 16-bit numbers.
 */
#include "kernels/exponents.h"

#include <immintrin.h>
#include <string.h>

#include "kernels/dot.h"
#include "kernels/dot_avx512.h"

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

/* ---- products with rows --------------------------------------------------------------------- */

typedef __m512 V;
typedef __m512i W;

/* How far ahead of use the low plane is asked for: here it is used faster. */
enum { ROWS_AHEAD_LOW = 2 * AHEAD_LOW, ROWS_AHEAD_LIST = ROWS_AHEAD_LOW / 4 };

/* Exponents of 64 codes of a list beyond the first; 0 for code 3. */
static inline W list_exponents(const struct corm_exponents *e, int list, uint64_t low,
                               uint64_t high) {
    int32_t four;
    memcpy(&four, e->exponents + 4 * list, sizeof four);
    W x = _mm512_maskz_set1_epi8(low, 1);
    x = _mm512_mask_add_epi8(x, high, x, _mm512_set1_epi8(2));
    return _mm512_shuffle_epi8(_mm512_set1_epi32(four), x);
}

/* Decode list 2 or 3 to `out`, a byte a code; those of the list behind it are at `behind`. Both may
 * be written, and read, up to the end of a block. */
static void list_decode(const struct corm_exponents *e, int list, const uint8_t *behind,
                        uint8_t *out) {
    const uint8_t *pair = e->lists[list];
    const size_t n = e->said[list - 1];
    for (size_t i = 0; i < n; i += 64, pair += 16) {
        _mm_prefetch((const char *)pair + AHEAD_LOW, _MM_HINT_T0);
        uint64_t low = corm_exponents_word(pair), high = corm_exponents_word(pair + 8);
        uint64_t left = _bzhi_u64(low & high, n - i < 64 ? (unsigned)(n - i) : 64);
        W x = list_exponents(e, list, low, high);
        _mm512_storeu_si512(out + i, _mm512_mask_expand_epi8(x, left, _mm512_loadu_si512(behind)));
        behind += _mm_popcnt_u64(left);
    }
}

static struct exponents_rows rows_open(const struct corm_exponents *e, uint8_t *scratch) {
    uint8_t *third = scratch + align_up(e->n, CORM_EXPONENTS_BLOCK);
    list_decode(e, 2, e->literals, third);
    list_decode(e, 1, third, scratch);
    return (struct exponents_rows){*e, scratch};
}

/* What all blocks of a row need. */
struct row {
    const uint8_t *pair, *low, *later; /* of the next block */
    W common[3];
    W order;
};

/* Unpacking and splitting 16-bit numbers into two vectors of floats takes bytes from here, so that
 * each vector is of 16 columns in a row. */
static const uint8_t float_order[64] = {
    0,  16, 1,  17, 2,  18, 3,  19, 32, 48, 33, 49, 34, 50, 35, 51, 4,  20, 5,  21, 6,  22,
    7,  23, 36, 52, 37, 53, 38, 54, 39, 55, 8,  24, 9,  25, 10, 26, 11, 27, 40, 56, 41, 57,
    42, 58, 43, 59, 12, 28, 13, 29, 14, 30, 15, 31, 44, 60, 45, 61, 46, 62, 47, 63};

static inline struct row row_begin(const struct exponents_rows *r) {
    const struct corm_exponents *e = &r->at;
    return (struct row){
        .pair = e->lists[0] + e->at / 4,
        .low = e->low + e->at,
        .later = r->later,
        .common = {_mm512_set1_epi8((char)e->exponents[0]), _mm512_set1_epi8((char)e->exponents[1]),
                   _mm512_set1_epi8((char)e->exponents[2])},
        .order = _mm512_loadu_si512(float_order),
    };
}

static inline void row_end(struct exponents_rows *r, uint32_t cols, const struct row *row) {
    r->at.at += cols;
    r->later = row->later;
}

/* The next 64 weights. */
static inline void row_block(struct row *r, V w[4]) {
    _mm_prefetch((const char *)r->low + ROWS_AHEAD_LOW, _MM_HINT_T0);
    _mm_prefetch((const char *)r->pair + ROWS_AHEAD_LIST, _MM_HINT_T0);
    uint64_t low = corm_exponents_word(r->pair), high = corm_exponents_word(r->pair + 8);
    uint64_t later = low & high;
    W x = _mm512_mask_mov_epi8(r->common[0], low, r->common[1]);
    x = _mm512_mask_mov_epi8(x, high, r->common[2]);
    x = _mm512_mask_expand_epi8(x, later, _mm512_loadu_si512(r->later));
    x = _mm512_permutexvar_epi8(r->order, x);
    W l = _mm512_permutexvar_epi8(r->order, _mm512_loadu_si512(r->low));
    W a = _mm512_unpacklo_epi8(l, x), b = _mm512_unpackhi_epi8(l, x);
    a = _mm512_shrdi_epi16(a, a, 1); /* rotates right by one */
    b = _mm512_shrdi_epi16(b, b, 1);
    const W upper = _mm512_set1_epi32((int)0xffff0000);
    w[0] = _mm512_castsi512_ps(_mm512_slli_epi32(a, 16));
    w[1] = _mm512_castsi512_ps(_mm512_and_si512(a, upper));
    w[2] = _mm512_castsi512_ps(_mm512_slli_epi32(b, 16));
    w[3] = _mm512_castsi512_ps(_mm512_and_si512(b, upper));
    r->pair += 16;
    r->low += CORM_EXPONENTS_BLOCK;
    r->later += _mm_popcnt_u64(later);
}

static float row_dot(struct exponents_rows *rows, uint32_t cols, const float *x) {
    struct row r = row_begin(rows);
    V sum = _mm512_setzero_ps(), w[4];
    for (uint32_t k = 0; k < cols; k += CORM_EXPONENTS_BLOCK) {
        row_block(&r, w);
        for (uint32_t i = 0; i < 4; i++) {
            sum = _mm512_fmadd_ps(w[i], _mm512_loadu_ps(x + k + 16 * i), sum);
        }
    }
    row_end(rows, cols, &r);
    return avx512_sum(sum);
}

static void row_axpy(struct exponents_rows *rows, uint32_t cols, float a, float *y) {
    struct row r = row_begin(rows);
    V factor = _mm512_set1_ps(a), w[4];
    for (uint32_t k = 0; k < cols; k += CORM_EXPONENTS_BLOCK) {
        row_block(&r, w);
        for (uint32_t i = 0; i < 4; i++) {
            float *at = y + k + 16 * i;
            _mm512_storeu_ps(at, _mm512_fmadd_ps(factor, w[i], _mm512_loadu_ps(at)));
        }
    }
    row_end(rows, cols, &r);
}

/* ---- the table ------------------------------------------------------------------------------ */

static bool usable(void) {
    return dot_avx512.usable() && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("bmi2") &&
           __builtin_cpu_supports("popcnt");
}

const struct exponents_isa exponents_avx512 = {.name = "avx512",
                                               .usable = usable,
                                               .decode = decode,
                                               .rows_open = rows_open,
                                               .dot = row_dot,
                                               .axpy = row_axpy};
