/*
 * encode: rows are, on every instruction set, byte for byte what codec->encode_row makes of them:
 * whatever the weights, finite or not, whatever the width, wherever the row lies; nothing outside
 * of a row is read or written.
 */
#include "tests/util/test.h"

#include <math.h>

#include "kernels/cpu/encode.h"

enum { MOST_GROUPS = 1100 }; /* past twice the fits that a row of q4 keeps */

/* ---- groups of weights ---- */

static float any_float(struct test_rng *r) {
    uint32_t bits = (uint32_t)test_u64(r);
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float normal(struct test_rng *r) {
    double u = ((double)(test_u64(r) >> 11) + 0.5) * 0x1p-53;
    double v = ((double)(test_u64(r) >> 11) + 0.5) * 0x1p-53;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

/* Each fills one group; the row's own scale is `s`. */
static void of_normal(struct test_rng *r, float s, float *x) {
    for (int i = 0; i < CODEC_GROUP; i++) {
        x[i] = s * normal(r);
    }
}
/* As checkpoints have them: few significant bits, so that products are exact and ties happen. */
static void of_bf16(struct test_rng *r, float s, float *x) {
    for (int i = 0; i < CODEC_GROUP; i++) {
        x[i] = bf16_to_f32(f32_to_bf16(s * normal(r)));
    }
}
static void of_uniform(struct test_rng *r, float s, float *x) {
    for (int i = 0; i < CODEC_GROUP; i++) {
        x[i] = s * test_f32(r);
    }
}
/* One weight far out: the narrower fit would cost it more than is allowed, or not quite. */
static void of_spike(struct test_rng *r, float s, float *x) {
    of_normal(r, 0.1f * s, x);
    x[test_u64(r) % CODEC_GROUP] = s * (1.0f + test_f32(r)) * (test_u64(r) % 2 ? 1.0f : -1.0f);
}
/* All of one sign, so that the minimum is at its bound. */
static void of_one_sign(struct test_rng *r, float s, float *x) {
    float sign = test_u64(r) % 2 ? 1.0f : -1.0f;
    for (int i = 0; i < CODEC_GROUP; i++) {
        x[i] = sign * s * (1.0f + 0.1f * fabsf(normal(r)));
    }
}
static void of_few_values(struct test_rng *r, float s, float *x) {
    const float values[] = {s, -s, 0.5f * s, 0.0f, -0.0f};
    uint64_t n = 1 + test_u64(r) % TEST_COUNT(values), first = test_u64(r);
    for (int i = 0; i < CODEC_GROUP; i++) {
        x[i] = values[(first + test_u64(r) % n) % TEST_COUNT(values)];
    }
}
/* On the steps of a fit and halfway between them, where rounding decides. */
static void of_steps(struct test_rng *r, float s, float *x) {
    float step = s / (float)(test_u64(r) % 2 ? 15 : 127), from = (float)(test_u64(r) % 16);
    for (int i = 0; i < CODEC_GROUP; i++) {
        x[i] = step * (0.5f * (float)(test_u64(r) % 31) - from);
    }
}
static void of_zeros(struct test_rng *r, float s, float *x) {
    for (int i = 0; i < CODEC_GROUP; i++) {
        x[i] = test_u64(r) % 8 ? 0.0f : s * -0.0f;
    }
}
static void of_subnormals(struct test_rng *r, float s, float *x) {
    (void)s;
    for (int i = 0; i < CODEC_GROUP; i++) {
        x[i] = 0x1p-149f * (float)(int32_t)(test_u64(r) % 2001 - 1000);
    }
}
/* Every magnitude that there is, and some infinities and NaN. */
static void of_any_bits(struct test_rng *r, float s, float *x) {
    (void)s;
    for (int i = 0; i < CODEC_GROUP; i++) {
        x[i] = any_float(r);
    }
}
static void of_not_finite(struct test_rng *r, float s, float *x) {
    static const float odd[] = {INFINITY, -INFINITY, NAN, -NAN, 3.4e38f, -3.4e38f, 1e-45f};
    of_normal(r, s, x);
    for (uint64_t k = 1 + test_u64(r) % 4; k > 0; k--) {
        x[test_u64(r) % CODEC_GROUP] = odd[test_u64(r) % TEST_COUNT(odd)];
    }
}

static void (*const kinds[])(struct test_rng *r, float s, float *x) = {
    of_normal, of_bf16,  of_uniform,    of_spike,    of_one_sign,   of_few_values,
    of_steps,  of_zeros, of_subnormals, of_any_bits, of_not_finite,
};

/* A row of groups of kind `kind`, or each of its own where that is TEST_COUNT(kinds). One of two
 * rows is of usual weights, the others reach to the ends of the range. */
static void fill_row(struct test_rng *r, size_t kind, uint32_t groups, float *x) {
    float s = test_u64(r) % 2 ? 0.02f : ldexpf(1.0f, (int)(test_u64(r) % 277) - 149);
    for (uint32_t g = 0; g < groups; g++) {
        size_t k = kind < TEST_COUNT(kinds) ? kind : test_u64(r) % TEST_COUNT(kinds);
        kinds[k](r, s, x + (size_t)g * CODEC_GROUP);
    }
}

/* ---- tests ---- */

static const struct encode_isa *isas[8];

static int find_isas(void **state) {
    (void)state;
    const struct encode_isa *isa;
    size_t n = 0;
    for (size_t i = 0; (isa = encode_isa_at(i)); i++) {
        if (isa->usable()) {
            assert_true(n + 1 < TEST_COUNT(isas));
            isas[n++] = isa;
        }
    }
    assert_ptr_equal(isas[0], encode_isa_best(NULL));
    return n > 0 ? 0 : -1;
}

/* The row `x`, at the end of its memory, by each instruction set. */
static void check_row(const struct codec *c, const float *x, uint32_t cols, const char *what) {
    size_t bytes = codec_row_bytes(c, cols);
    uint8_t *wanted = mem_alloc(bytes), *got = test_guard(bytes);
    c->encode_row(x, cols, wanted);
    for (size_t i = 0; isas[i]; i++) {
        memset(got, 0xa5, bytes);
        encode_row(isas[i], c, x, cols, got);
        for (size_t k = 0; k < bytes; k++) {
            if (got[k] != wanted[k]) {
                print_error("%s, %s, %u columns of %s: byte %zu is %02x, expected %02x\n", c->name,
                            isas[i]->name, cols, what, k, got[k], wanted[k]);
                fail();
            }
        }
    }
    free(wanted);
    test_guard_free(got, bytes);
}

/* Every width up to some dozens of groups, each with all kinds. */
static void test_widths(void **state) {
    (void)state;
    struct test_rng rng = {2};
    for (uint32_t groups = 1; groups <= 70; groups++) {
        size_t bytes = (size_t)groups * CODEC_GROUP * sizeof(float);
        float *x = test_guard(bytes);
        for (size_t kind = 0; kind <= TEST_COUNT(kinds); kind++) {
            fill_row(&rng, kind, groups, x);
            for (size_t i = 0; codec_at(i); i++) {
                check_row(codec_at(i), x, groups * CODEC_GROUP, "some kind");
            }
        }
        test_guard_free(x, bytes);
    }
}

/* Many rows of few groups: the fits of a group are what differs most. */
static void test_groups(void **state) {
    (void)state;
    enum { GROUPS = 35, ROWS = 600 };
    static float x[GROUPS * CODEC_GROUP];
    struct test_rng rng = {3};
    for (size_t kind = 0; kind <= TEST_COUNT(kinds); kind++) {
        char what[32];
        snprintf(what, sizeof what, "kind %zu", kind);
        for (int row = 0; row < ROWS; row++) {
            fill_row(&rng, kind, GROUPS, x);
            check_row(codec_by_id(CODEC_Q8), x, GROUPS * CODEC_GROUP, what);
            check_row(codec_by_id(CODEC_Q4), x, GROUPS * CODEC_GROUP, what);
        }
    }
}

/* Longer than the fits that are kept, to the group. */
static void test_long(void **state) {
    (void)state;
    static const uint32_t groups[] = {511, 512, 513, 527, 529, MOST_GROUPS};
    float *x = mem_alloc((size_t)MOST_GROUPS * CODEC_GROUP * sizeof *x);
    struct test_rng rng = {4};
    for (size_t k = 0; k < TEST_COUNT(groups); k++) {
        for (size_t kind = 0; kind <= TEST_COUNT(kinds); kind++) {
            fill_row(&rng, kind, groups[k], x);
            check_row(codec_by_id(CODEC_Q8), x, groups[k] * CODEC_GROUP, "a long row");
            check_row(codec_by_id(CODEC_Q4), x, groups[k] * CODEC_GROUP, "a long row");
        }
    }
    free(x);
}

/* Rows begin at any byte. */
static void test_alignment(void **state) {
    (void)state;
    enum { COLS = 40 * CODEC_GROUP };
    static uint8_t from[COLS * sizeof(float) + 64], to[COLS * sizeof(float) + 64];
    static float x[COLS];
    struct test_rng rng = {5};
    for (size_t shift = 0; shift < 64; shift += 4) {
        fill_row(&rng, TEST_COUNT(kinds), COLS / CODEC_GROUP, x);
        memcpy(from + shift, x, sizeof x);
        for (size_t c = 0; codec_at(c); c++) {
            uint8_t wanted[COLS * sizeof(float)];
            size_t bytes = codec_row_bytes(codec_at(c), COLS);
            codec_at(c)->encode_row(x, COLS, wanted);
            for (size_t i = 0; isas[i]; i++) {
                uint8_t *dst = to + (shift * 7 + 1) % 64;
                encode_row(isas[i], codec_at(c), (const float *)(const void *)(from + shift), COLS,
                           dst);
                assert_memory_equal(dst, wanted, bytes);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widths),
        cmocka_unit_test(test_groups),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_alignment),
    };
    return cmocka_run_group_tests_name("encode", tests, find_isas, NULL);
}
