/*
 * Rounding with error feedback: what a plain scalar definition gives; never worse than the nearest
 * codes, whatever the Gram matrix; the nearest codes' own bytes where nothing goes together; the
 * same for any number of threads.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/calib/rounding.h"

enum { MOST_ROWS = 40 };

/* A matrix of weights, the factors of its inputs' Gram matrix, and where its rows go. */
struct rig {
    const struct codec *codec;
    uint32_t n, cols, rows; /* of factors, of a row, of all */
    float *w, *coef, *gain;
    struct fit_gram gram;
    uint8_t *bytes, *out[512];
};

/* Rows of `n_inputs` inputs of which `rank` directions vary most; 0 inputs: the identity. */
static void make_gram(struct fit_gram *g, struct test_rng *rng, uint32_t n, uint32_t n_inputs,
                      uint32_t rank) {
    fit_gram_open(g, n);
    for (uint32_t i = 0; i < n && n_inputs == 0; i++) {
        g->gram[(size_t)i * n + i] = 1;
    }
    float *x = mem_calloc((size_t)n_inputs * n + 1, sizeof *x);
    float *directions = mem_alloc((size_t)(rank + 1) * n * sizeof *directions);
    for (uint32_t i = 0; i < rank * n; i++) {
        directions[i] = test_f32(rng);
    }
    for (uint32_t r = 0; r < n_inputs; r++) {
        for (uint32_t k = 0; k < rank; k++) {
            const float v = test_f32(rng);
            for (uint32_t i = 0; i < n; i++) {
                x[(size_t)r * n + i] += v * directions[k * n + i] + 0.1f * test_f32(rng);
            }
        }
    }
    if (n_inputs > 0) {
        fit_gram_add(g, x, n_inputs);
    }
    free(x);
    free(directions);
}

static void rig_open(struct rig *r, uint64_t seed, uint32_t n, uint32_t cols, uint32_t rows,
                     uint32_t n_inputs, uint32_t rank) {
    struct test_rng rng = {seed};
    struct err err = {0};
    *r = (struct rig){.codec = codec_by_id(CODEC_Q4), .n = n, .cols = cols, .rows = rows};
    size_t row = codec_row_bytes(r->codec, cols);
    r->w = mem_alloc((size_t)rows * cols * sizeof *r->w);
    for (uint32_t i = 0; i < rows * cols; i++) {
        r->w[i] = test_f32(&rng) + test_f32(&rng) + test_f32(&rng);
    }
    make_gram(&r->gram, &rng, n, n_inputs, rank);
    r->coef = mem_alloc((size_t)n * n * sizeof *r->coef);
    r->gain = mem_alloc(n * sizeof *r->gain);
    fit_feedback(&r->gram, 0, n, n_inputs ? 0.01 : 0, r->coef, r->gain, &err);
    assert_no_err(&err);
    r->bytes = mem_calloc(rows, row);
    assert_in_range(rows, 1, TEST_COUNT(r->out));
    for (uint32_t i = 0; i < rows; i++) {
        r->out[i] = r->bytes + i * row;
    }
}

static void rig_close(struct rig *r) {
    fit_gram_close(&r->gram);
    free(r->w);
    free(r->coef);
    free(r->gain);
    free(r->bytes);
}

static struct rounding_error round_all(struct rig *r, bool across, uint32_t threads) {
    const struct rounding_factors f = {r->n, r->coef, r->gain};
    struct rounding_error e = {0};
    struct err err = {0};
    struct pool *pool = pool_new(threads, &err);
    assert_no_err(&err);
    memset(r->bytes, 0x55, r->rows * codec_row_bytes(r->codec, r->cols));
    if (across) {
        rounding_across(pool, r->codec, &f, r->w, r->cols, r->out, &e);
    } else {
        rounding_along(pool, r->codec, &f, r->w, r->rows, r->out, &e);
    }
    pool_free(pool);
    return e;
}

/* e H e^T of one error [n], in double, by H as it is factored. */
static double objective(const struct rig *r, const double *e) {
    double mean = 0, sum = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        mean += r->gram.gram[(size_t)i * r->n + i] / r->n;
    }
    for (uint32_t i = 0; i < r->n; i++) {
        for (uint32_t j = 0; j < r->n; j++) {
            double h = r->gram.gram[(size_t)(i < j ? i : j) * r->n + (i < j ? j : i)];
            sum += e[i] * e[j] * (i == j ? h + (r->gram.n > 0 ? 0.01 * mean : 0) : h);
        }
    }
    return sum;
}

/* The same for all rows, or groups of columns, of encoded `bytes`: objectives [rows] or [groups].
 * Returns their number. */
static uint32_t measure(const struct rig *r, bool across, const uint8_t *bytes,
                        double *objectives) {
    const size_t row = codec_row_bytes(r->codec, r->cols);
    float *seen = mem_alloc((size_t)r->rows * r->cols * sizeof *seen);
    double *e = mem_alloc(r->n * sizeof *e);
    uint32_t n = across ? r->cols / CODEC_GROUP : r->rows;
    for (uint32_t i = 0; i < r->rows; i++) {
        r->codec->decode_row(bytes + i * row, r->cols, seen + (size_t)i * r->cols);
    }
    for (uint32_t at = 0; at < n; at++) {
        objectives[at] = 0;
        for (uint32_t c = 0; c < (across ? CODEC_GROUP : 1); c++) {
            for (uint32_t k = 0; k < r->n; k++) {
                size_t i =
                    across ? (size_t)k * r->cols + at * CODEC_GROUP + c : (size_t)at * r->cols + k;
                e[k] = (double)r->w[i] - (double)seen[i];
            }
            objectives[at] += objective(r, e);
        }
    }
    free(seen);
    free(e);
    return n;
}

static uint8_t *nearest(const struct rig *r) {
    const size_t row = codec_row_bytes(r->codec, r->cols);
    uint8_t *bytes = mem_alloc(r->rows * row);
    for (uint32_t i = 0; i < r->rows; i++) {
        r->codec->encode_row(r->w + (size_t)i * r->cols, r->cols, bytes + i * row);
    }
    return bytes;
}

/* ---- the factors ---- */

static void factors_give_the_matrix_again(void **state) {
    (void)state;
    static const uint32_t sizes[] = {1, 2, 63, 64, 65, 150};
    for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
        struct rig r;
        const uint32_t n = sizes[s];
        rig_open(&r, s, n, 32, 1, 2 * n + 3, 2);
        double mean = 0;
        for (uint32_t i = 0; i < n; i++) {
            mean += r.gram.gram[(size_t)i * n + i] / n;
        }
        for (uint32_t i = 0; i < n; i++) {
            assert_true(r.gain[i] > 0 && r.coef[(size_t)i * n + i] == 1.0f);
            for (uint32_t j = i; j < n; j++) {
                double sum = 0; /* A D A^T, A_ik at coef[k][i] */
                for (uint32_t k = j; k < n; k++) {
                    sum += (double)r.coef[(size_t)k * n + i] * (double)r.gain[k] *
                           (double)r.coef[(size_t)k * n + j];
                }
                double h = r.gram.gram[(size_t)i * n + j] + (i == j ? 0.01 * mean : 0);
                assert_true(fabs(sum - h) < 1e-4 * mean);
                assert_true(i == j || r.coef[(size_t)i * n + j] == 0.0f);
            }
        }
        rig_close(&r);
    }
}

static void a_part_of_a_matrix_has_its_own_factors(void **state) {
    (void)state;
    struct rig r;
    struct fit_gram part;
    struct err err = {0};
    float coef[2][20 * 20], gain[2][20];
    rig_open(&r, 9, 64, 32, 1, 100, 3);
    fit_gram_open(&part, 20);
    for (uint32_t i = 0; i < 20; i++) {
        for (uint32_t j = i; j < 20; j++) {
            part.gram[i * 20 + j] = r.gram.gram[(size_t)(30 + i) * 64 + 30 + j];
        }
    }
    fit_feedback(&r.gram, 30, 20, 0.1, coef[0], gain[0], &err);
    fit_feedback(&part, 0, 20, 0.1, coef[1], gain[1], &err);
    assert_no_err(&err);
    assert_memory_equal(coef[0], coef[1], sizeof coef[0]);
    assert_memory_equal(gain[0], gain[1], sizeof gain[0]);
    fit_gram_close(&part);
    rig_close(&r);
}

/* All zero: nothing goes together. Not finite: an error. */
static void matrices_that_say_nothing(void **state) {
    (void)state;
    struct fit_gram g;
    struct err err = {0};
    float coef[70 * 70], gain[70];
    fit_gram_open(&g, 70);
    assert_int_equal(fit_feedback(&g, 0, 70, 0.01, coef, gain, &err), 0);
    for (uint32_t i = 0; i < 70; i++) {
        assert_true(gain[i] == 1.0f);
        for (uint32_t j = 0; j < 70; j++) {
            assert_true(coef[i * 70 + j] == (i == j ? 1.0f : 0.0f));
        }
    }
    g.gram[3 * 70 + 3] = (double)INFINITY;
    assert_int_equal(fit_feedback(&g, 0, 70, 0.01, coef, gain, &err), -1);
    assert_err(&err, "not positive definite");
    fit_gram_close(&g);
}

/* ---- rounding ---- */

/* The definition, a row and a column at a time, in the order in which sums are made for a row that
 * is one panel. Returns its sum of D (target - value)^2. */
static double define_along(const struct rig *r, uint32_t row, uint8_t *out) {
    const struct codec_steps *s = codec_steps_of(r->codec);
    const float *w = r->w + (size_t)row * r->n;
    struct codec_row header;
    struct codec_grid grid = {0};
    float target[128], value;
    uint8_t codes[CODEC_GROUP];
    double sum = 0;
    memcpy(target, w, r->n * sizeof *target);
    s->begin(w, r->n, out, &header);
    for (uint32_t k = 0; k < r->n; k++) {
        if (k % CODEC_GROUP == 0) {
            s->fit(target + k, r->n, k / CODEC_GROUP, &header, out, &grid);
        }
        s->round(&target[k], &grid, 1, &codes[k % CODEC_GROUP], &value);
        if (k % CODEC_GROUP == CODEC_GROUP - 1) {
            s->put(codes, k / CODEC_GROUP, out);
        }
        float missed = target[k] - value, error = w[k] - value;
        sum += (double)r->gain[k] * (double)missed * (double)missed;
        for (uint32_t j = k + 1; j < r->n; j++) {
            target[j] += r->coef[(size_t)j * r->n + k] * error;
        }
    }
    return sum;
}

static void rows_are_those_of_the_definition(void **state) {
    (void)state;
    uint32_t other = 0;
    for (uint32_t n = 32; n <= 128; n += 32) {
        struct rig r;
        rig_open(&r, n, n, n, MOST_ROWS, n / 2, 4);
        const size_t row = codec_row_bytes(r.codec, n);
        uint8_t *want = mem_alloc(row), *plain = nearest(&r);
        round_all(&r, false, 2);
        for (uint32_t i = 0; i < r.rows; i++) {
            define_along(&r, i, want);
            bool kept = memcmp(want, r.out[i], row) == 0;
            assert_true(kept || memcmp(plain + i * row, r.out[i], row) == 0);
            other += kept && memcmp(plain + i * row, want, row) != 0;
        }
        free(want);
        free(plain);
        rig_close(&r);
    }
    assert_in_range(other, 4 * MOST_ROWS - 8, 4 * MOST_ROWS); /* mostly it is not the plain one */
}

/* What a Gram matrix may be: few inputs or many, of one direction or of all. */
static const struct {
    uint32_t n, n_inputs, rank;
    double at_most; /* of the plain error, over all rows */
} grams[] = {
    {64, 1, 1, 0.6},   {64, 20, 1, 0.6},    {64, 500, 2, 0.5},   {96, 500, 12, 0.9},
    {320, 40, 3, 0.4}, {320, 2000, 8, 0.7}, {64, 4000, 64, 1.0}, {64, 0, 0, 1.0},
};

static void no_row_is_worse_than_nearest(void **state) {
    (void)state;
    for (size_t i = 0; i < 2 * TEST_COUNT(grams); i++) {
        const bool across = i >= TEST_COUNT(grams);
        const size_t k = i % TEST_COUNT(grams);
        struct rig r;
        double got[MOST_ROWS], want[MOST_ROWS], sum[2] = {0};
        if (across) {
            rig_open(&r, 100 + i, grams[k].n, 96, grams[k].n, grams[k].n_inputs, grams[k].rank);
        } else {
            rig_open(&r, 100 + i, grams[k].n, grams[k].n, MOST_ROWS, grams[k].n_inputs,
                     grams[k].rank);
        }
        uint8_t *plain = nearest(&r);
        struct rounding_error e = round_all(&r, across, 2);
        uint32_t n = measure(&r, across, r.bytes, got);
        measure(&r, across, plain, want);
        for (uint32_t m = 0; m < n; m++) {
            assert_true(got[m] <= want[m] * (1 + 1e-4));
            sum[0] += got[m];
            sum[1] += want[m];
        }
        /* What is told is what the bytes give. */
        assert_true(fabs(e.kept - sum[0]) <= 1e-3 * sum[0]);
        assert_true(fabs(e.plain - sum[1]) <= 1e-3 * sum[1]);
        if (!(sum[0] <= grams[k].at_most * sum[1])) {
            fail_msg("Gram %zu, %s: %g of plain", k, across ? "across" : "along", sum[0] / sum[1]);
        }
        free(plain);
        rig_close(&r);
    }
}

/* A diagonal matrix passes nothing on. */
static void alone_weights_go_to_the_nearest(void **state) {
    (void)state;
    for (int i = 0; i < 4; i++) {
        const bool across = i % 2;
        const uint32_t n = i < 2 ? 64 : 192;
        struct rig r;
        struct err err = {0};
        rig_open(&r, 7, n, n, across ? n : MOST_ROWS, 0, 0);
        for (uint32_t k = 0; k < n && i >= 2; k++) {
            r.gram.gram[(size_t)k * n + k] = 1 + k % 5;
        }
        fit_feedback(&r.gram, 0, n, 0, r.coef, r.gain, &err);
        assert_no_err(&err);
        uint8_t *plain = nearest(&r);
        struct rounding_error e = round_all(&r, across, 2);
        assert_memory_equal(r.bytes, plain, r.rows * codec_row_bytes(r.codec, n));
        assert_true(e.plain > 0 && e.kept == e.plain);
        free(plain);
        rig_close(&r);
    }
}

static void threads_change_nothing(void **state) {
    (void)state;
    for (int across = 0; across < 2; across++) {
        struct rig r;
        rig_open(&r, 11, 320, across ? 160 : 320, across ? 320 : 37, 900, 5);
        const size_t bytes = r.rows * codec_row_bytes(r.codec, r.cols);
        uint8_t *want = mem_alloc(bytes);
        struct rounding_error a = round_all(&r, across, 1);
        memcpy(want, r.bytes, bytes);
        for (uint32_t threads = 2; threads <= 3; threads++) {
            struct rounding_error b = round_all(&r, across, threads);
            assert_memory_equal(r.bytes, want, bytes);
            assert_memory_equal(&a, &b, sizeof a);
        }
        free(want);
        rig_close(&r);
    }
}

/* Weights of one value, of zeros, and rows of greatly different size. */
static void odd_rows(void **state) {
    (void)state;
    for (int across = 0; across < 2; across++) {
        struct rig r;
        double got[64], want[64];
        rig_open(&r, 5, 64, 64, across ? 64 : 8, 80, 3);
        for (uint32_t k = 0; k < 64; k++) {
            r.w[k] = 0;
            r.w[64 + k] = 0.25f;
            r.w[128 + k] *= 1e-20f;
            r.w[192 + k] *= 1e10f;
        }
        uint8_t *plain = nearest(&r);
        round_all(&r, across, 1);
        uint32_t n = measure(&r, across, r.bytes, got);
        measure(&r, across, plain, want);
        for (uint32_t m = 0; m < n; m++) {
            assert_true(isfinite(got[m]) && got[m] <= want[m] * (1 + 1e-4));
        }
        free(plain);
        rig_close(&r);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factors_give_the_matrix_again),
        cmocka_unit_test(a_part_of_a_matrix_has_its_own_factors),
        cmocka_unit_test(matrices_that_say_nothing),
        cmocka_unit_test(rows_are_those_of_the_definition),
        cmocka_unit_test(no_row_is_worse_than_nearest),
        cmocka_unit_test(alone_weights_go_to_the_nearest),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(odd_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
