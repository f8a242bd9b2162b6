/*
 * Codecs: layouts, tolerances and exactness of the scalar definitions, on usual, adversarial and
 * senseless rows.
 */
#include "tests/util/test.h"

#include <math.h>

#include "format/codec.h"

enum { COLS = 2048 };

static void test_table(void **state) {
    (void)state;
    static const struct {
        const char *name;
        uint32_t id;
        size_t row_bytes; /* of 64 columns */
    } rows[] = {{"f32", 1, 256}, {"bf16", 2, 128}, {"f16", 3, 128}, {"q8", 4, 68}, {"q4", 5, 44}};
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        const struct codec *c = codec_by_name(rows[i].name);
        assert_non_null(c);
        assert_ptr_equal(c, codec_by_id(rows[i].id));
        assert_ptr_equal(c, codec_at(i));
        assert_int_equal(codec_row_bytes(c, 64), rows[i].row_bytes);
        assert_int_equal(codec_fits(c, 33), c->block_cols == 1);
        assert_true((uint32_t)c->id < CODEC_IDS);
    }
    assert_null(codec_at(TEST_COUNT(rows)));
    assert_null(codec_by_id(0));
    assert_null(codec_by_id(6));
    assert_null(codec_by_name("q5"));
}

/* ---- layouts, from bytes made by hand ---- */

static void test_q8_layout(void **state) {
    (void)state;
    uint8_t row[68];
    for (int i = 0; i < 64; i++) {
        row[i] = (uint8_t)(int8_t)(i - 32);
    }
    memcpy(row + 64, (const uint8_t[]){0x00, 0x38, 0x00, 0xc0}, 4); /* f16 0.5, -2.0 */
    float x[64];
    codec_by_name("q8")->decode_row(row, 64, x);
    for (int i = 0; i < 64; i++) {
        assert_float_equal(x[i], (float)(i - 32) * (i < 32 ? 0.5f : -2.0f), 0.0f);
    }
}

static void test_q4_layout(void **state) {
    (void)state;
    uint8_t row[44];
    for (int i = 0; i < 32; i++) {
        row[i] = (uint8_t)(i % 16 | (15 - i % 16) << 4); /* low: i, high: 15 - i, in both groups */
    }
    memcpy(row + 32, (const uint8_t[]){3, 10, 7, 0}, 4);                     /* sc, sc, mn, mn */
    memcpy(row + 36, (const uint8_t[]){0, 0, 0, 0x3f, 0, 0, 0x80, 0x3e}, 8); /* f32 0.5, 0.25 */
    float x[64];
    codec_by_name("q4")->decode_row(row, 64, x);
    for (int g = 0; g < 2; g++) {
        float d = g ? 5.0f : 1.5f, m = g ? 0.0f : 1.75f;
        for (int j = 0; j < 16; j++) {
            assert_float_equal(x[g * 32 + j], (float)j * d - m, 0.0f);
            assert_float_equal(x[g * 32 + 16 + j], (float)(15 - j) * d - m, 0.0f);
        }
    }
}

/* ---- exactness ---- */

static void test_lossless(void **state) {
    (void)state;
    for (size_t i = 0; codec_at(i); i++) {
        const struct codec *c = codec_at(i);
        for (uint32_t base = 0; c->lossless_bf16 && base < 0x10000; base += 64) {
            float x[64], y[64];
            uint8_t row[256];
            for (uint32_t k = 0; k < 64; k++) {
                uint16_t h = (uint16_t)(base + k);
                x[k] = (h & 0x7f80) == 0x7f80 ? 0.0f : bf16_to_f32(h);
            }
            c->encode_row(x, 64, row);
            c->decode_row(row, 64, y);
            assert_memory_equal(x, y, sizeof x);
        }
    }
    const struct codec *f16 = codec_by_name("f16");
    for (uint32_t h = 0; h < 0x10000; h++) {
        uint16_t in = (uint16_t)h, out;
        float x;
        if ((in & 0x7c00) != 0x7c00) {
            f16->decode_row(&in, 1, &x);
            f16->encode_row(&x, 1, &out);
            assert_int_equal(in, out);
        }
    }
}

/* ---- tolerance ---- */

static float normal(struct test_rng *r) {
    double u = ((double)(test_u64(r) >> 11) + 0.5) * 0x1p-53;
    double v = ((double)(test_u64(r) >> 11) + 0.5) * 0x1p-53;
    return (float)(sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v));
}

static float from_normal(struct test_rng *r) {
    return 0.02f * normal(r);
}
static float from_heavy_tail(struct test_rng *r) {
    float a = normal(r), b = normal(r), c = normal(r), d = normal(r);
    return 0.02f * normal(r) / sqrtf((a * a + b * b + c * c + d * d) / 4.0f + 1e-4f);
}
static float from_uniform(struct test_rng *r) {
    return test_f32(r);
}
static float from_spikes(struct test_rng *r) {
    return test_u64(r) % 40 ? 0.001f * normal(r) : test_u64(r) % 2 ? 1.0f : -1.0f;
}
static float from_powers(struct test_rng *r) {
    float x = normal(r);
    return x * x * x * x * x;
}
static float from_shifted(struct test_rng *r) {
    return 5.0f + 0.1f * normal(r);
}
static float from_negative(struct test_rng *r) {
    return -1.0f - fabsf(normal(r));
}
static float from_tiny(struct test_rng *r) {
    return 1e-7f * normal(r);
}
static float from_huge(struct test_rng *r) {
    return 15000.0f * test_f32(r);
}
static float from_two_values(struct test_rng *r) {
    return test_u64(r) % 2 ? 0.3f : -0.1f;
}

static const struct {
    const char *name;
    float (*draw)(struct test_rng *r);
} sources[] = {
    {"normal", from_normal},     {"heavy tail", from_heavy_tail},
    {"uniform", from_uniform},   {"spikes", from_spikes},
    {"powers", from_powers},     {"shifted", from_shifted},
    {"negative", from_negative}, {"tiny", from_tiny},
    {"huge", from_huge},         {"two values", from_two_values},
};

/* Encode and decode `rows` rows; the greatest error in units of the tolerance, and the relative
 * RMS. */
static void measure(const struct codec *c, float (*draw)(struct test_rng *), int rows,
                    double *worst, double *rms) {
    struct test_rng rng = {77};
    size_t row_bytes = codec_row_bytes(c, COLS);
    uint8_t *row = test_guard(row_bytes);
    float *x = test_guard(COLS * sizeof *x), *y = test_guard(COLS * sizeof *y);
    double power = 0.0, noise = 0.0;
    *worst = 0.0;
    for (int r = 0; r < rows; r++) {
        float amax = 0.0f;
        for (int i = 0; i < COLS; i++) {
            x[i] = draw(&rng);
            amax = fmaxf(amax, fabsf(x[i]));
        }
        c->encode_row(x, COLS, row);
        c->decode_row(row, COLS, y);
        for (int i = 0; i < COLS; i++) {
            double e = fabs((double)x[i] - (double)y[i]);
            power += (double)x[i] * (double)x[i];
            noise += e * e;
            if (e > 0.0) {
                *worst = fmax(*worst, e / (double)codec_tolerance(c, amax));
            }
        }
    }
    *rms = sqrt(noise / power);
    test_guard_free(row, row_bytes);
    test_guard_free(x, COLS * sizeof *x);
    test_guard_free(y, COLS * sizeof *y);
}

static void test_tolerance(void **state) {
    (void)state;
    for (size_t i = 0; codec_at(i); i++) {
        for (size_t s = 0; s < TEST_COUNT(sources); s++) {
            double worst, rms;
            measure(codec_at(i), sources[s].draw, 40, &worst, &rms);
            if (worst > 1.0) {
                print_error("%s of %s: greatest error is %.3f of what is allowed\n",
                            codec_at(i)->name, sources[s].name, worst);
                fail();
            }
        }
    }
}

/* A row that reaches to the end of the range is held as well as any other. */
static void test_range(void **state) {
    (void)state;
    for (size_t k = 0; codec_at(k); k++) {
        const struct codec *c = codec_at(k);
        for (size_t s = 0; s < TEST_COUNT(sources); s++) {
            struct test_rng rng = {78};
            float x[COLS], y[COLS], amax = 0;
            uint8_t row[COLS * 4];
            for (int i = 0; i < COLS; i++) {
                x[i] = sources[s].draw(&rng);
                amax = fmaxf(amax, fabsf(x[i]));
            }
            for (int i = 0; i < COLS; i++) {
                x[i] = x[i] / amax * c->max_abs;
            }
            c->encode_row(x, COLS, row);
            c->decode_row(row, COLS, y);
            for (int i = 0; i < COLS; i++) {
                assert_true(isfinite(y[i]));
                assert_true(fabs((double)x[i] - (double)y[i]) <=
                            (double)codec_tolerance(c, c->max_abs));
            }
        }
        if (c->id == CODEC_F16 || c->id == CODEC_Q8) { /* what lies beyond becomes another number */
            float beyond[CODEC_GROUP] = {1.01f * c->max_abs}, back[CODEC_GROUP];
            uint8_t encoded[CODEC_GROUP * 4];
            c->encode_row(beyond, CODEC_GROUP, encoded);
            c->decode_row(encoded, CODEC_GROUP, back);
            assert_true(fabs((double)back[0] - (double)beyond[0]) >
                        (double)codec_tolerance(c, beyond[0]));
        }
    }
}

static void test_rms(void **state) {
    (void)state;
    /* Normal weights: bf16 and f16 by their significant bits, q8 a uniform quantizer of about 2.1
     * sigma in 127 steps; q4 without a search would be near 0.080. */
    static const struct {
        const char *name;
        double least, greatest;
    } rows[] = {{"f32", 0.0, 0.0},
                {"bf16", 0.0015, 0.0018},
                {"f16", 0.00019, 0.00023},
                {"q8", 0.0045, 0.0058},
                {"q4", 0.065, 0.074}};
    assert_null(codec_at(TEST_COUNT(rows)));
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        double worst, rms;
        const struct codec *c = codec_by_name(rows[i].name);
        measure(c, from_normal, 200, &worst, &rms);
        print_message("%-4s relative RMS error %.5f, %.2f bits a weight\n", c->name, rms,
                      8.0 * (double)codec_row_bytes(c, COLS) / COLS);
        assert_true(rms >= rows[i].least && rms <= rows[i].greatest);
    }
}

/* ---- senseless rows ---- */

static void test_zero(void **state) {
    (void)state;
    for (size_t i = 0; codec_at(i); i++) {
        float x[96] = {0}, y[96];
        uint8_t row[400];
        codec_at(i)->encode_row(x, 96, row);
        codec_at(i)->decode_row(row, 96, y);
        for (int k = 0; k < 96; k++) {
            assert_true(y[k] == 0.0f);
        }
    }
}

/* Infinite and NaN weights are refused long before; here they only must not break anything. */
static void test_not_finite(void **state) {
    (void)state;
    static const float odd[] = {INFINITY, -INFINITY, NAN, 3.4e38f, -3.4e38f, 1e-45f, 0.0f};
    for (size_t i = 0; codec_at(i); i++) {
        struct test_rng rng = {5};
        for (int rep = 0; rep < 2000; rep++) {
            float x[64], y[64];
            uint8_t row[256];
            for (int k = 0; k < 64; k++) {
                x[k] = test_u64(&rng) % 3 ? test_f32(&rng) : odd[test_u64(&rng) % TEST_COUNT(odd)];
            }
            codec_at(i)->encode_row(x, 64, row);
            codec_at(i)->decode_row(row, 64, y);
        }
    }
}

/* Finite weights stay finite, however large; f16 and q8 saturate. */
static void test_large_stays_finite(void **state) {
    (void)state;
    for (size_t i = 0; codec_at(i); i++) {
        for (float scale = 1e4f; scale < 1e37f; scale *= 10.0f) {
            float x[64], y[64];
            uint8_t row[256];
            struct test_rng rng = {9};
            for (int k = 0; k < 64; k++) {
                x[k] = scale * test_f32(&rng);
            }
            codec_at(i)->encode_row(x, 64, row);
            codec_at(i)->decode_row(row, 64, y);
            for (int k = 0; k < 64; k++) {
                assert_true(isfinite(y[k]));
                assert_true(x[k] * y[k] >= 0.0f || fabsf(x[k]) <= 0.11f * scale);
            }
        }
    }
}

/* Every byte string is some row: decoding it does no harm. */
static void test_any_bytes(void **state) {
    (void)state;
    struct test_rng rng = {3};
    for (size_t i = 0; codec_at(i); i++) {
        size_t bytes = codec_row_bytes(codec_at(i), 96);
        uint8_t *row = test_guard(bytes);
        for (int rep = 0; rep < 2000; rep++) {
            float y[96];
            for (size_t k = 0; k < bytes; k++) {
                row[k] = (uint8_t)test_u64(&rng);
            }
            codec_at(i)->decode_row(row, 96, y);
        }
        test_guard_free(row, bytes);
    }
}

/* A row of more groups than the encoder keeps fits for gives the same groups as a short one. */
static void test_long_row(void **state) {
    (void)state;
    enum { LONG = 32 * 700 };
    const struct codec *q4 = codec_by_name("q4");
    float *x = mem_alloc(LONG * sizeof *x), *y = mem_alloc(LONG * sizeof *y);
    uint8_t *row = mem_alloc(codec_row_bytes(q4, LONG));
    struct test_rng rng = {12};
    for (int i = 0; i < LONG; i++) {
        x[i] = x[i % 64] = i < 64 ? normal(&rng) : x[i % 64];
    }
    q4->encode_row(x, LONG, row);
    q4->decode_row(row, LONG, y);
    for (int i = 64; i < LONG; i++) {
        assert_true(y[i] == y[i % 64]);
    }
    free(x);
    free(y);
    free(row);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_q8_layout),
        cmocka_unit_test(test_q4_layout),
        cmocka_unit_test(test_lossless),
        cmocka_unit_test(test_tolerance),
        cmocka_unit_test(test_range),
        cmocka_unit_test(test_rms),
        cmocka_unit_test(test_zero),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_any_bytes),
        cmocka_unit_test(test_large_stays_finite),
        cmocka_unit_test(test_long_row),
    };
    return cmocka_run_group_tests_name("codec", tests, NULL, NULL);
}
