/*
 * exponents_avx512: the decoder, and products with rows, for AVX-512 with VBMI, VBMI2 and
 * VPOPCNTDQ, which have byte permutation, byte expansion, a rotation of 16-bit numbers, and a count
 * of bits.
 */
#include "kernels/cpu/exponents.h"

#include <assert.h>
#include <immintrin.h>
#include <string.h>

#include "kernels/cpu/dot.h"
#include "kernels/cpu/dot_avx512.h"

typedef __m512 V;
typedef __m512i W;

/* How far ahead of use low bytes are asked for, and a quarter of that of a list: what a chunk is
 * read from may be memory that no cache has, and pages end too soon for the processor to guess on
 * by itself. */
enum { AHEAD = 2048 };

/* ---- lists 2 and 3 -------------------------------------------------------------------------- */

/* A list's three exponents, each 64 times. */
struct common {
    W x[3];
};

static inline struct common common_of(const uint8_t *exponents) {
    return (struct common){{_mm512_set1_epi8((char)exponents[0]),
                            _mm512_set1_epi8((char)exponents[1]),
                            _mm512_set1_epi8((char)exponents[2])}};
}

/* Exponents of 64 codes; of those in `later`, whose code is 3, the next ones at `behind`. */
static inline W exponents_of(const struct common *common, uint64_t low, uint64_t high,
                             uint64_t later, const uint8_t *behind) {
    W x = _mm512_mask_mov_epi8(common->x[0], low, common->x[1]);
    x = _mm512_mask_mov_epi8(x, high, common->x[2]);
    return _mm512_mask_expand_epi8(x, later, _mm512_loadu_si512(behind));
}

/* Of up to 64 codes, n - i of them: which are 3. */
static inline uint64_t threes_of(uint64_t low, uint64_t high, size_t i, size_t n) {
    return _bzhi_u64(low & high, n - i < 64 ? (unsigned)(n - i) : 64);
}

/* How many of the next n codes of list 2 are 3. */
static size_t second_threes(const struct corm_exponents *e, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i += 64) {
        uint64_t low = corm_exponents_bits(e->lists[1], e->used[0] + i, 0);
        uint64_t high = corm_exponents_bits(e->lists[1], e->used[0] + i, 1);
        count += (size_t)_mm_popcnt_u64(threes_of(low, high, i, n));
    }
    return count;
}

/* Decode up to 64 codes of a list to `out`, a byte a code; those of what comes behind the list are
 * at `behind`, of which 64 are read. Returns how many of them are these codes', as in `left`. */
static inline size_t list_block(const struct common *common, uint64_t low, uint64_t high,
                                uint64_t left, const uint8_t *behind, uint8_t *out) {
    _mm512_storeu_si512(out, exponents_of(common, low, high, left, behind));
    return (size_t)_mm_popcnt_u64(left);
}

/* Decode n codes of list 2 or 3 from code `at` on; list 3 or literals are at `behind`. Up to the
 * end of a block `out` may be written and `behind` read. Returns how many were taken of those. */
static size_t list_decode(const struct corm_exponents *e, int list, size_t at, size_t n,
                          const uint8_t *behind, uint8_t *out) {
    const struct common common = common_of(e->exponents + 4 * list);
    const uint8_t *pairs = e->lists[list];
    size_t taken = 0;
    for (size_t i = 0; i < n; i += 64) {
        _mm_prefetch((const char *)pairs + (at + i + AHEAD) / 4, _MM_HINT_T0);
        uint64_t low = corm_exponents_bits(pairs, at + i, 0);
        uint64_t high = corm_exponents_bits(pairs, at + i, 1);
        uint64_t left = threes_of(low, high, i, n);
        taken += list_block(&common, low, high, left, behind + taken, out + i);
    }
    return taken;
}

/* The same for a whole list, whose words lie as they are used. */
static inline void list_decode_all(const struct corm_exponents *e, int list, bool ask,
                                   const uint8_t *behind, uint8_t *out) {
    const struct common common = common_of(e->exponents + 4 * list);
    const uint8_t *pair = e->lists[list];
    for (size_t i = 0, n = e->said[list - 1]; i < n; i += 64, pair += 16) {
        if (ask) {
            _mm_prefetch((const char *)pair + AHEAD / 4, _MM_HINT_T0);
        }
        uint64_t low = corm_exponents_word(pair), high = corm_exponents_word(pair + 8);
        uint64_t left = threes_of(low, high, i, n);
        behind += list_block(&common, low, high, left, behind, out + i);
    }
}

/* ---- list 1 --------------------------------------------------------------------------------- */

/* Where blocks are read: of the next one, as in struct exponents_rows. */
struct blocks {
    const uint8_t *pair, *low, *later;
};

/* Exponents of the next 64 weights, and their low bytes. */
static inline W next_block(const struct common *common, struct blocks *b, size_t ahead,
                           W *low_bytes) {
    if (ahead > 0) {
        _mm_prefetch((const char *)b->low + ahead, _MM_HINT_T0);
        _mm_prefetch((const char *)b->pair + ahead / 4, _MM_HINT_T0);
    }
    uint64_t low = corm_exponents_word(b->pair), high = corm_exponents_word(b->pair + 8);
    uint64_t later = low & high;
    W x = exponents_of(common, low, high, later, b->later);
    *low_bytes = _mm512_loadu_si512(b->low);
    b->pair += 16;
    b->low += CORM_EXPONENTS_BLOCK;
    b->later += _mm_popcnt_u64(later);
    return x;
}

/* How many of the codes of whole blocks at `pair` are 3. */
static size_t blocks_threes(const uint8_t *pair, size_t n_blocks) {
    enum { A_VECTOR = 4 };
    W count = _mm512_setzero_si512();
    for (size_t i = 0; i < n_blocks; i += A_VECTOR) {
        unsigned left = n_blocks - i < A_VECTOR ? (unsigned)(n_blocks - i) : A_VECTOR;
        W x = _mm512_maskz_loadu_epi64((__mmask8)_bzhi_u32(0xff, 2 * left), pair + 16 * i);
        x = _mm512_and_si512(x, _mm512_permutex_epi64(x, 0xb1)); /* in both words of a pair */
        count = _mm512_add_epi64(count, _mm512_popcnt_epi64(x));
    }
    return (size_t)_mm512_reduce_add_epi64(count) / 2;
}

/* The same of a row; adding up a vector is not worth it for a short one. */
static inline size_t row_threes(const uint8_t *pair, size_t cols) {
    enum { SHORT = 8 };
    const size_t n_blocks = cols / CORM_EXPONENTS_BLOCK;
    if (n_blocks > SHORT) {
        return blocks_threes(pair, n_blocks);
    }
    size_t count = 0;
    for (const uint8_t *end = pair + 16 * n_blocks; pair < end; pair += 16) {
        count += (size_t)_mm_popcnt_u64(corm_exponents_word(pair) & corm_exponents_word(pair + 8));
    }
    return count;
}

/* 16-bit numbers, woven of both, within 128 bits; rotated right by one. */
static inline W weave_low(W low_bytes, W exponents) {
    W a = _mm512_unpacklo_epi8(low_bytes, exponents);
    return _mm512_shrdi_epi16(a, a, 1);
}
static inline W weave_high(W low_bytes, W exponents) {
    W b = _mm512_unpackhi_epi8(low_bytes, exponents);
    return _mm512_shrdi_epi16(b, b, 1);
}

/* ---- decoding ------------------------------------------------------------------------------- */

/* Weights whose exponents of lists 2 and 3 are decoded together. */
enum { SPAN = 64 * CORM_EXPONENTS_BLOCK };

/* The next n <= SPAN weights, a multiple of a block or all that are left. */
static void decode_span(struct corm_exponents *e, size_t n, uint8_t *dst) {
    uint8_t second[SPAN + CORM_EXPONENTS_BLOCK], third[SPAN + CORM_EXPONENTS_BLOCK];
    const W first_half = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const W second_half = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    size_t n_second = blocks_threes(e->lists[0] + e->at / 4,
                                    (n + CORM_EXPONENTS_BLOCK - 1) / CORM_EXPONENTS_BLOCK);
    size_t n_third = second_threes(e, n_second);
    size_t n_literals = list_decode(e, 2, e->used[1], n_third, e->literals + e->used[2], third);
    list_decode(e, 1, e->used[0], n_second, third, second);
    e->used[0] += n_second;
    e->used[1] += n_third;
    e->used[2] += n_literals;
    const struct common common = common_of(e->exponents);
    struct blocks b = {e->lists[0] + e->at / 4, e->low + e->at, second};
    for (size_t i = 0; i < n; i += CORM_EXPONENTS_BLOCK) {
        W low, x = next_block(&common, &b, AHEAD, &low);
        W l = weave_low(low, x), h = weave_high(low, x);
        uint8_t last[2 * CORM_EXPONENTS_BLOCK];
        uint8_t *to = n - i < CORM_EXPONENTS_BLOCK ? last : dst + 2 * i;
        _mm512_storeu_si512(to, _mm512_permutex2var_epi64(l, first_half, h));
        _mm512_storeu_si512(to + 64, _mm512_permutex2var_epi64(l, second_half, h));
        if (to == last) {
            memcpy(dst + 2 * i, last, 2 * (n - i));
        }
    }
    e->at += align_up(n, CORM_EXPONENTS_BLOCK);
}

static void decode(struct corm_exponents *place, size_t n, uint8_t *dst) {
    struct corm_exponents e = *place; /* in registers, not where dst might point */
    for (size_t i = 0; i < n; i += SPAN) {
        decode_span(&e, n - i < SPAN ? n - i : SPAN, dst + 2 * i);
    }
    *place = e;
}

/* ---- products with rows --------------------------------------------------------------------- */

/* Why scratch of 2 N bytes is enough, N being n rounded up to whole blocks, whatever the stored
 * bytes say: `said` is at most n, so that list 3 goes to the upper N and list 2 to the lower.
 * Before the codes from 64 i on at most 64 i were taken from behind them, so that 64 bytes from
 * there end within N. The same holds of the rows' blocks and what they take from the lower N: a
 * place moves by at most 64 a block, whether a walk moves it or a count before the walk, which may
 * have seen other bytes. */
static struct exponents_rows rows_open(const struct corm_exponents *e, uint32_t cols,
                                       uint8_t *scratch, bool ask) {
    assert(e->at == 0 && cols > 0 && cols % CORM_EXPONENTS_BLOCK == 0);
    uint8_t *third = scratch + align_up(e->n, CORM_EXPONENTS_BLOCK);
    list_decode_all(e, 2, ask, e->literals, third);
    list_decode_all(e, 1, ask, third, scratch);
    /* Rows are not met in order. Each asks for the same one of a neuron some runs later, of those
     * that are met at once: the nearest that is far enough, which for rows is twice as far, as
     * several are read side by side. */
    const uint32_t run = 3 * cols * exponents_together(cols);
    return (struct exponents_rows){
        .pair = e->lists[0],
        .low = e->low,
        .later = scratch,
        .cols = cols,
        .ahead = ask ? (2 * AHEAD + run - 1) / run * run : 0,
        .exponents = {e->exponents[0], e->exponents[1], e->exponents[2]},
    };
}

/* Weaving and splitting 16-bit numbers into two vectors of floats takes bytes from here, so that
 * each vector is of 16 columns in a row. */
static const uint8_t float_order[64] = {
    0,  16, 1,  17, 2,  18, 3,  19, 32, 48, 33, 49, 34, 50, 35, 51, 4,  20, 5,  21, 6,  22,
    7,  23, 36, 52, 37, 53, 38, 54, 39, 55, 8,  24, 9,  25, 10, 26, 11, 27, 40, 56, 41, 57,
    42, 58, 43, 59, 12, 28, 13, 29, 14, 30, 15, 31, 44, 60, 45, 61, 46, 62, 47, 63};

/* What a walk over blocks has in registers. */
struct walk {
    struct common common;
    W order;
    size_t ahead;
};

static inline struct walk walk_of(const struct exponents_rows *r) {
    return (struct walk){common_of(r->exponents), _mm512_loadu_si512(float_order), r->ahead};
}

/* The next 64 weights as floats. */
static inline void next_floats(const struct walk *walk, struct blocks *b, V w[4]) {
    W low, x = next_block(&walk->common, b, walk->ahead, &low);
    x = _mm512_permutexvar_epi8(walk->order, x);
    low = _mm512_permutexvar_epi8(walk->order, low);
    W l = weave_low(low, x), h = weave_high(low, x);
    const W upper = _mm512_set1_epi32((int)0xffff0000);
    w[0] = _mm512_castsi512_ps(_mm512_slli_epi32(l, 16));
    w[1] = _mm512_castsi512_ps(_mm512_and_si512(l, upper));
    w[2] = _mm512_castsi512_ps(_mm512_slli_epi32(h, 16));
    w[3] = _mm512_castsi512_ps(_mm512_and_si512(h, upper));
}

/* The blocks of the next row, which r goes past. */
static inline struct blocks row_next(struct exponents_rows *r) {
    struct blocks b = {r->pair, r->low, r->later};
    r->later += row_threes(r->pair, r->cols);
    r->pair += r->cols / 4;
    r->low += r->cols;
    return b;
}

/* The sums of a row's products: a block's vectors go to each in turn (dot.h). */
struct row_sums {
    V v[4];
};

static inline void block_dot(const struct walk *walk, struct blocks *b, const float *x,
                             struct row_sums *sums) {
    V w[4];
    next_floats(walk, b, w);
    for (int i = 0; i < 4; i++) {
        sums->v[i] = _mm512_fmadd_ps(w[i], _mm512_loadu_ps(x + 16 * i), sums->v[i]);
    }
}

static inline float row_sum(const struct row_sums *sums) {
    const V *v = sums->v;
    return avx512_sum(_mm512_add_ps(_mm512_add_ps(v[0], v[1]), _mm512_add_ps(v[2], v[3])));
}

/* Of the next two neurons, all rows side by side. */
static void neurons_dot(struct exponents_rows *r, const float *x, float *gate, float *up,
                        struct exponents_rows *downs) {
    const struct walk walk = walk_of(r);
    const V zero = _mm512_setzero_ps();
    struct blocks gates[2], ups[2];
    struct row_sums g0 = {{zero, zero, zero, zero}}, u0 = g0, g1 = g0, u1 = g0;
    for (int i = 0; i < 2; i++) {
        gates[i] = row_next(r);
        ups[i] = row_next(r);
        downs[i] = *r;
        row_next(r);
    }
    for (uint32_t k = 0; k < r->cols; k += CORM_EXPONENTS_BLOCK) {
        block_dot(&walk, &gates[0], x + k, &g0);
        block_dot(&walk, &ups[0], x + k, &u0);
        block_dot(&walk, &gates[1], x + k, &g1);
        block_dot(&walk, &ups[1], x + k, &u1);
    }
    gate[0] = row_sum(&g0);
    up[0] = row_sum(&u0);
    gate[1] = row_sum(&g1);
    up[1] = row_sum(&u1);
}

/* Of the next row alone. */
static float row_dot(struct exponents_rows *r, const float *x) {
    const struct walk walk = walk_of(r);
    const V zero = _mm512_setzero_ps();
    struct row_sums sums = {{zero, zero, zero, zero}};
    struct blocks b = {r->pair, r->low, r->later};
    for (uint32_t k = 0; k < r->cols; k += CORM_EXPONENTS_BLOCK) {
        block_dot(&walk, &b, x + k, &sums);
    }
    r->pair = b.pair;
    r->low = b.low;
    r->later = b.later;
    return row_sum(&sums);
}

static void gates_ups(struct exponents_rows *r, uint32_t n, const float *x, float *gate, float *up,
                      struct exponents_rows *downs) {
    uint32_t i = 0;
    for (; i + 1 < n; i += 2) {
        neurons_dot(r, x, gate + i, up + i, downs + i);
    }
    if (i < n) {
        gate[i] = row_dot(r, x);
        up[i] = row_dot(r, x);
        downs[i] = *r;
        row_next(r);
    }
}

static inline void neurons_add(const struct exponents_rows *downs, bool two, const float *a,
                               float *y) {
    const struct walk walk = walk_of(downs);
    const struct exponents_rows *last = &downs[two];
    struct blocks b0 = {downs->pair, downs->low, downs->later};
    struct blocks b1 = {last->pair, last->low, last->later};
    V a0 = _mm512_set1_ps(a[0]), a1 = _mm512_set1_ps(a[two]), w0[4], w1[4];
    for (uint32_t k = 0; k < downs->cols; k += CORM_EXPONENTS_BLOCK) {
        next_floats(&walk, &b0, w0);
        if (two) {
            next_floats(&walk, &b1, w1);
        }
        for (uint32_t i = 0; i < 4; i++) {
            float *at = y + k + 16 * i;
            V sum = _mm512_fmadd_ps(a0, w0[i], _mm512_loadu_ps(at));
            if (two) {
                sum = _mm512_fmadd_ps(a1, w1[i], sum);
            }
            _mm512_storeu_ps(at, sum);
        }
    }
}

static void add_downs(const struct exponents_rows *downs, uint32_t n, const float *a, float *y) {
    uint32_t i = 0;
    for (; i + 1 < n; i += 2) {
        neurons_add(downs + i, true, a + i, y);
    }
    if (i < n) {
        neurons_add(downs + i, false, a + i, y);
    }
}

/* ---- the table ------------------------------------------------------------------------------ */

static bool usable(void) {
    return dot_avx512.usable() && __builtin_cpu_supports("avx512vbmi") &&
           __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vpopcntdq") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
}

const struct exponents_isa exponents_avx512 = {.name = "avx512",
                                               .usable = usable,
                                               .decode = decode,
                                               .rows_open = rows_open,
                                               .gates_ups = gates_ups,
                                               .add_downs = add_downs};
