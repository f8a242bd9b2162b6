/*
 * logits: the logarithm of a softmax's sum, beside sums that are known in closed form.
 */
#include <math.h>

#include "kernels/logits.h"
#include "tests/util/test.h"

static void equal_logits(void **state) {
    (void)state;
    float z[1000];
    for (uint32_t n = 1; n <= 1000; n *= 10) {
        for (uint32_t i = 0; i < n; i++) {
            z[i] = -3.5f;
        }
        assert_true(fabs(logits_log_sum_exp(z, n) - (log(n) - 3.5)) < 1e-12);
    }
}

static void a_geometric_series(void **state) {
    (void)state;
    float z[40];
    for (uint32_t i = 0; i < 40; i++) {
        z[(i * 7) % 40] = -(float)i; /* the greatest is not the first */
    }
    double sum = (1 - exp(-40)) / (1 - exp(-1));
    assert_true(fabs(logits_log_sum_exp(z, 40) - log(sum)) < 1e-12);
}

/* exp of any of these is infinite, or zero, by itself. */
static void far_from_zero(void **state) {
    (void)state;
    float high[] = {3e38f, 3e38f}, low[] = {-3e4f, -3e4f - 1}, one[] = {-INFINITY, 1e4f};
    assert_true(logits_log_sum_exp(high, 2) == (double)high[0]);
    assert_true(fabs(logits_log_sum_exp(low, 2) - (log(1 + exp(-1)) - 3e4)) < 1e-9);
    assert_true(logits_log_sum_exp(one, 2) == 1e4);
}

static void finite_rows(void **state) {
    (void)state;
    float z[100] = {3e38f, -3e38f};
    const float bad[] = {INFINITY, -INFINITY, NAN};
    assert_true(logits_finite(z, 100));
    for (uint32_t i = 0; i < 100; i += 33) {
        for (size_t k = 0; k < TEST_COUNT(bad); k++) {
            float held = z[i];
            z[i] = bad[k];
            assert_false(logits_finite(z, 100));
            assert_true(logits_finite(z, i));
            z[i] = held;
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finite_rows),
        cmocka_unit_test(equal_logits),
        cmocka_unit_test(a_geometric_series),
        cmocka_unit_test(far_from_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
