/*
 * Fit: what was planted is found again: low-rank maps, ridge, principal directions; sums that come
 * in pieces; the same input gives the same bits.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/calib/fit.h"

enum { ROWS = 3000, D = 24, E = 10, RANK = 3 };

static float *random_floats(struct test_rng *rng, size_t n) {
    float *v = mem_alloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++) {
        v[i] = test_f32(rng);
    }
    return v;
}

static double worst(const float *a, const float *b, size_t n) {
    double most = 0;
    for (size_t i = 0; i < n; i++) {
        most = fabs((double)(a[i] - b[i])) > most ? fabs((double)(a[i] - b[i])) : most;
    }
    return most;
}

static void products(void **state) {
    (void)state;
    static const float a[2 * 3] = {1, 2, 3, 4, 5, 6}, b[2 * 3] = {1, 0, -1, 2, 2, 2};
    static const float c[3 * 2] = {1, 0, 0, 1, 1, 1};
    float nt[4], nn[4];
    fit_mul_nt(a, b, 2, 2, 3, nt);
    const float want_nt[4] = {-2, 12, -2, 30};
    assert_true(worst(nt, want_nt, 4) == 0);
    fit_mul_nn(a, c, 2, 2, 3, nn);
    const float want_nn[4] = {4, 5, 10, 11};
    assert_true(worst(nn, want_nn, 4) == 0);
}

static void sums_may_come_in_pieces(void **state) {
    (void)state;
    struct test_rng rng = {1};
    float *x = random_floats(&rng, ROWS * D), *y = random_floats(&rng, ROWS * E);
    struct fit_gram g;
    struct fit_cross c;
    fit_gram_open(&g, D);
    fit_cross_open(&c, D, E);
    for (uint32_t first = 0, n = 7; first < ROWS; first += n, n = n * 3 % 1999 + 1) {
        n = ROWS - first < n ? ROWS - first : n;
        fit_gram_add(&g, x + first * D, n);
        fit_cross_add(&c, x + first * D, y + first * E, n);
    }
    assert_true(g.n == ROWS);
    for (uint32_t i = 0; i < D; i++) {
        double sum = 0;
        for (uint32_t r = 0; r < ROWS; r++) {
            sum += (double)x[r * D + i];
        }
        assert_true(fabs(sum - g.sum[i]) < 1e-9);
        for (uint32_t j = 0; j < D; j++) {
            double gram = 0, cross = 0;
            for (uint32_t r = 0; r < ROWS; r++) {
                gram += (double)x[r * D + i] * (double)x[r * D + j];
                cross += j < E ? (double)x[r * D + i] * (double)y[r * E + j] : 0;
            }
            assert_true(j < i || fabs(gram - g.gram[i * D + j]) < 1e-2);
            assert_true(j >= E || fabs(cross - c.cross[i * E + j]) < 1e-2);
        }
    }
    fit_gram_close(&g);
    fit_cross_close(&c);
    free(x);
    free(y);
}

/* y = B A x + c with A [RANK, D], B [E, RANK], and noise. */
static float *planted(struct test_rng *rng, const float *x, float noise) {
    float *a = random_floats(rng, RANK * D), *b = random_floats(rng, E * RANK);
    float *c = random_floats(rng, E), *y = mem_alloc(ROWS * E * sizeof *y);
    for (uint32_t r = 0; r < ROWS; r++) {
        for (uint32_t e = 0; e < E; e++) {
            double v = (double)c[e];
            for (uint32_t k = 0; k < RANK; k++) {
                for (uint32_t i = 0; i < D; i++) {
                    v += (double)b[e * RANK + k] * (double)a[k * D + i] * (double)x[r * D + i];
                }
            }
            y[r * E + e] = (float)v + noise * test_f32(rng);
        }
    }
    free(a);
    free(b);
    free(c);
    return y;
}

/* Mean square of y - (out (in x) + bias), over that of y about its mean. */
static double unexplained(const float *x, const float *y, uint32_t rank, const float *in,
                          const float *out, const float *bias) {
    double rest = 0, all = 0;
    for (uint32_t e = 0; e < E; e++) {
        double mean = 0;
        for (uint32_t r = 0; r < ROWS; r++) {
            mean += (double)y[r * E + e] / ROWS;
        }
        for (uint32_t r = 0; r < ROWS; r++) {
            double v = (double)bias[e];
            for (uint32_t k = 0; k < rank; k++) {
                double low = 0;
                for (uint32_t i = 0; i < D; i++) {
                    low += (double)in[k * D + i] * (double)x[r * D + i];
                }
                v += (double)out[e * rank + k] * low;
            }
            rest += ((double)y[r * E + e] - v) * ((double)y[r * E + e] - v);
            all += ((double)y[r * E + e] - mean) * ((double)y[r * E + e] - mean);
        }
    }
    return rest / all;
}

struct low_rank {
    float in[E * D], out[E * E], bias[E];
};

static void fit(const float *x, const float *y, double lambda, uint32_t rank, struct low_rank *f) {
    struct fit_gram g;
    struct fit_cross c;
    struct err err = {0};
    fit_gram_open(&g, D);
    fit_cross_open(&c, D, E);
    fit_gram_add(&g, x, ROWS);
    fit_cross_add(&c, x, y, ROWS);
    fit_low_rank(&g, &c, lambda, rank, f->in, f->out, f->bias, &err);
    assert_no_err(&err);
    fit_gram_close(&g);
    fit_cross_close(&c);
}

static void a_planted_low_rank_map_is_found(void **state) {
    (void)state;
    struct test_rng rng = {2};
    float *x = random_floats(&rng, ROWS * D);
    for (uint32_t r = 0; r < ROWS; r++) {
        x[r * D] += 3; /* means that are not zero */
    }
    float *y = planted(&rng, x, 0), *noisy = planted(&rng, x, 0.5f);
    struct low_rank f;
    fit(x, y, 1e-9, RANK, &f);
    assert_true(unexplained(x, y, RANK, f.in, f.out, f.bias) < 1e-6);
    /* One rank less leaves something; each more than planted brings nothing, and does no harm. */
    fit(x, y, 1e-9, RANK - 1, &f);
    double less = unexplained(x, y, RANK - 1, f.in, f.out, f.bias);
    assert_true(less > 0.01 && less < 0.5);
    fit(x, y, 1e-9, E, &f);
    assert_true(unexplained(x, y, E, f.in, f.out, f.bias) < 1e-6);
    /* Under noise the fit is at least as good as the map itself. */
    fit(x, noisy, 1e-6, RANK, &f);
    double rest = unexplained(x, noisy, RANK, f.in, f.out, f.bias);
    assert_true(rest > 0.001 && rest < 0.2);
    /* A strong ridge shrinks towards the mean. */
    fit(x, y, 1e6, RANK, &f);
    assert_true(unexplained(x, y, RANK, f.in, f.out, f.bias) > 0.99);
    free(x);
    free(y);
    free(noisy);
}

static void columns_that_never_vary_do_no_harm(void **state) {
    (void)state;
    struct test_rng rng = {3};
    float *x = random_floats(&rng, ROWS * D);
    for (uint32_t r = 0; r < ROWS; r++) {
        x[r * D + 4] = 2;
        x[r * D + 5] = x[r * D + 6]; /* and twins */
    }
    float *y = planted(&rng, x, 0);
    struct low_rank f;
    fit(x, y, 1e-6, RANK, &f);
    assert_true(unexplained(x, y, RANK, f.in, f.out, f.bias) < 1e-4);
    for (uint32_t i = 0; i < RANK * D; i++) {
        assert_true(isfinite(f.in[i]));
    }
    free(x);
    free(y);
}

static void the_same_rows_give_the_same_bits(void **state) {
    (void)state;
    struct test_rng rng = {4};
    float *x = random_floats(&rng, ROWS * D), *y = planted(&rng, x, 0.3f);
    struct low_rank a, b;
    memset(&a, 0, sizeof a);
    memset(&b, 0, sizeof b);
    fit(x, y, 1e-3, RANK, &a);
    fit(x, y, 1e-3, RANK, &b);
    assert_memory_equal(&a, &b, sizeof a);
    free(x);
    free(y);
}

static void rows_that_are_not_finite_are_an_error(void **state) {
    (void)state;
    struct test_rng rng = {5};
    float *x = random_floats(&rng, ROWS * D), basis[2 * D];
    x[17] = NAN;
    struct fit_gram g;
    struct err err = {0};
    fit_gram_open(&g, D);
    fit_gram_add(&g, x, ROWS);
    assert_int_equal(fit_principal(&g, 2, basis, &err), -1);
    assert_err(&err, "LAPACK");
    fit_gram_close(&g);
    free(x);
}

static void principal_directions_are_those_of_greatest_spread(void **state) {
    (void)state;
    struct test_rng rng = {6};
    /* Spread 5 along (1, 1, 0, ...), 3 along (1, -1, 0, ...), 0.1 elsewhere; a mean far away. */
    float *x = random_floats(&rng, ROWS * D), basis[3 * D];
    for (uint32_t r = 0; r < ROWS; r++) {
        float p = 5 * test_f32(&rng), q = 3 * test_f32(&rng);
        for (uint32_t i = 0; i < D; i++) {
            x[r * D + i] = 100 + 0.1f * x[r * D + i];
        }
        x[r * D] += (p + q) * (float)M_SQRT1_2;
        x[r * D + 1] += (p - q) * (float)M_SQRT1_2;
    }
    struct fit_gram g;
    struct err err = {0};
    fit_gram_open(&g, D);
    fit_gram_add(&g, x, ROWS);
    fit_principal(&g, 3, basis, &err);
    assert_no_err(&err);
    for (uint32_t k = 0; k < 2; k++) {
        double first = (double)basis[k * D], second = (double)basis[k * D + 1];
        assert_true(fabs(fabs(first) - M_SQRT1_2) < 0.02);
        assert_true((first * second > 0) == (k == 0));
    }
    for (uint32_t k = 0; k < 3; k++) {
        double most = 0, product = 0, length = 0;
        for (uint32_t i = 0; i < D; i++) {
            most = fabs((double)basis[k * D + i]) > fabs(most) ? (double)basis[k * D + i] : most;
            length += (double)basis[k * D + i] * (double)basis[k * D + i];
            product += (double)basis[k * D + i] * (double)basis[(k + 1) % 3 * D + i];
        }
        assert_true(most > 0); /* the sign is settled */
        assert_true(fabs(length - 1) < 1e-5 && fabs(product) < 1e-5);
    }
    fit_gram_close(&g);
    free(x);
}

static void ridge_finds_coefficients_and_what_is_left(void **state) {
    (void)state;
    enum { M = 4 };
    struct test_rng rng = {7};
    float *z = random_floats(&rng, ROWS * M), *y = mem_alloc(ROWS * 2 * sizeof *y);
    static const float beta_planted[2 * M] = {1, -2, 0.5f, 0, 0, 3, -1, 0.25f};
    for (uint32_t r = 0; r < ROWS; r++) {
        for (uint32_t e = 0; e < 2; e++) {
            y[r * 2 + e] = e ? -4 : 7;
            for (uint32_t i = 0; i < M; i++) {
                y[r * 2 + e] += beta_planted[e * M + i] * z[r * M + i];
            }
            y[r * 2 + e] += e ? test_f32(&rng) : 0; /* uniform noise: mean square 1 / 3 */
        }
    }
    float beta[2 * M], intercept[2], residual[2];
    struct err err = {0};
    fit_ridge(z, y, ROWS, M, 2, 1e-9, beta, intercept, residual, &err);
    assert_no_err(&err);
    assert_true(worst(beta, beta_planted, M) < 1e-4);
    assert_true(worst(beta + M, beta_planted + M, M) < 0.1);
    assert_true(fabsf(intercept[0] - 7) < 1e-4f && fabsf(intercept[1] + 4) < 0.05f);
    assert_true(residual[0] < 1e-8f && fabsf(residual[1] - 1 / 3.0f) < 0.03f);
    /* Infinite ridge: the mean, and all of the variance left. */
    fit_ridge(z, y, ROWS, M, 2, 1e9, beta, intercept, residual, &err);
    assert_no_err(&err);
    for (uint32_t i = 0; i < 2 * M; i++) {
        assert_true(fabsf(beta[i]) < 1e-6f);
    }
    assert_true(residual[0] > 1);
    free(z);
    free(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products),
        cmocka_unit_test(sums_may_come_in_pieces),
        cmocka_unit_test(a_planted_low_rank_map_is_found),
        cmocka_unit_test(columns_that_never_vary_do_no_harm),
        cmocka_unit_test(the_same_rows_give_the_same_bits),
        cmocka_unit_test(rows_that_are_not_finite_are_an_error),
        cmocka_unit_test(principal_directions_are_those_of_greatest_spread),
        cmocka_unit_test(ridge_finds_coefficients_and_what_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
