/*
 * Which experts a row uses, by every rule: the same ids and weights, to the bit, on every
 * instruction set and for any number of threads, as a plain reference chooses from the scores; and
 * the scores against the formulas in double precision.
 */
#include <float.h>
#include <math.h>

#include "kernels/route.h"
#include "tests/util/test_util_backends.h"

enum { MAX_EXPERTS = 256, MAX_CHOSEN = 64 };

/* ---- scores --------------------------------------------------------------------------------- */

static double softplus(double x) {
    return x > 0 ? x + log1p(exp(-x)) : log1p(exp(x));
}

static void check_ulps(const char *what, float x, float got, double want, double most) {
    if (!(kernels_ulps(got, want) <= most)) {
        print_error("%s(%a) is %a, expected %a: %.2f ulp\n", what, (double)x, (double)got, want,
                    kernels_ulps(got, want));
        fail();
    }
}

/* Floats of all sizes and both signs: where results are normal numbers. exp is within 1 ulp here,
 * of which a sigmoid and a logarithm make a few. */
static void test_scores(void **state) {
    (void)state;
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += QUICK ? 99991 : 4999) {
        float x = route_float((uint32_t)bits);
        if (!(x > -87 && x < 87)) {
            continue;
        }
        check_ulps("exp", x, route_exp(x), exp((double)x), 1);
        check_ulps("sigmoid", x, route_sigmoid(x), 1 / (1 + exp(-(double)x)), 3);
        check_ulps("softplus", x, route_softplus(x), softplus(x), 4);
    }
}

static void test_scores_at_the_ends(void **state) {
    (void)state;
    static const float tiny[] = {-87.33655f, -88, -103, -104, -1e30f, -INFINITY},
                       huge[] = {88.722845f, 89, 1e30f, INFINITY};
    for (size_t i = 0; i < TEST_COUNT(tiny); i++) {
        assert_true(route_exp(tiny[i]) == 0);
        assert_true(route_softplus(tiny[i]) == 0);
        assert_true(route_sigmoid(tiny[i]) >= 0 && route_sigmoid(tiny[i]) < 1.2e-38f);
    }
    for (size_t i = 0; i < TEST_COUNT(huge); i++) {
        assert_true(isinf(route_exp(huge[i])));
        assert_true(route_softplus(huge[i]) == huge[i]);
        assert_true(route_sigmoid(huge[i]) == 1);
    }
    check_ulps("exp", 88.72283f, route_exp(88.72283f), exp(88.72283172607421875), 1);
    float least = nextafterf(-87.33654f, 0);
    check_ulps("exp", least, route_exp(least), exp((double)least), 1);
    assert_true(route_exp(0) == 1 && route_exp(-0.0f) == 1);
    assert_true(isnan(route_exp(NAN)) && isnan(route_softplus(NAN)) && isnan(route_sigmoid(NAN)));
}

/* ---- the plain reference -------------------------------------------------------------------- */

/* Rows of logits and a rule, with the vectors that it asks for. */
struct routing {
    struct route_rule rule;
    const float *select, *factor; /* [n_experts], or NULL */
    const float *logits;          /* [rows, n_experts] */
    uint32_t rows, n_experts, n;
};

/* The index of the best of `n` numbers that are not taken: the first of the greatest; a NaN only
 * where nothing else is left. */
static uint32_t best_of(const float *x, const bool *taken, uint32_t n) {
    uint32_t best = n;
    for (int nans = 0; nans < 2 && best == n; nans++) {
        for (uint32_t i = 0; i < n; i++) {
            if (!taken[i] && isnan(x[i]) == (nans == 1) && (best == n || x[i] > x[best])) {
                best = i;
            }
        }
    }
    return best;
}

/* Which experts are in the groups that the rule chooses. */
static void choose_groups(const struct routing *r, const float *rank, bool *in) {
    const uint32_t groups = r->rule.groups, size = groups ? r->n_experts / groups : 0;
    float of_group[ARCH_MAX_GROUPS];
    bool chosen[ARCH_MAX_GROUPS] = {false};
    for (uint32_t g = 0; g < groups; g++) {
        bool taken[MAX_EXPERTS] = {false};
        const float *own = rank + (size_t)g * size;
        uint32_t first = best_of(own, taken, size);
        taken[first] = true;
        uint32_t second = best_of(own, taken, size);
        of_group[g] = own[first];
        if (r->rule.group_score == ROUTE_GROUP_TOP_TWO && second < size && !isnan(own[second])) {
            of_group[g] = own[first] + own[second];
        }
    }
    for (uint32_t k = 0; k < r->rule.top_groups; k++) {
        chosen[best_of(of_group, chosen, groups)] = true;
    }
    for (uint32_t i = 0; i < r->n_experts; i++) {
        in[i] = groups == 0 || chosen[i / size];
    }
}

/* The sparse mixer's score of choice j. */
static float mix_plainly(const struct routing *r, const float *logits, const int32_t *ids,
                         uint32_t j) {
    const float own = logits[ids[j]];
    float sum = 0;
    for (uint32_t i = 0; i < r->n_experts; i++) {
        bool before = false;
        for (uint32_t k = 0; k < j; k++) {
            before |= (uint32_t)ids[k] == i;
        }
        const float size = fmaxf(fabsf(logits[i]), own);
        if (!before && !((own - logits[i]) / size > 2 * r->rule.eps)) {
            sum += route_exp(logits[i] - own);
        }
    }
    return 1 / sum;
}

/* The same by the formula, in double. */
static double mix_exactly(const struct routing *r, const float *logits, const int32_t *ids,
                          uint32_t j) {
    const double own = logits[ids[j]];
    double sum = 0;
    for (uint32_t i = 0; i < r->n_experts; i++) {
        bool counts = true;
        for (uint32_t k = 0; k < j; k++) {
            counts &= (uint32_t)ids[k] != i;
        }
        /* As floats, so that what is at the threshold is on the same side of it. */
        const float size = fmaxf(fabsf(logits[i]), logits[ids[j]]);
        counts &= !((logits[ids[j]] - logits[i]) / size > 2 * r->rule.eps);
        sum += counts ? exp((double)logits[i] - own) : 0;
    }
    return 1 / sum;
}

/* One row. */
static void route_plainly(const struct routing *r, const float *logits, int32_t *ids,
                          float *weights) {
    const uint32_t n_experts = r->n_experts;
    const bool softmax = r->rule.score == ROUTE_SOFTMAX,
               mixer = r->rule.score == ROUTE_SPARSE_MIXER;
    float score[MAX_EXPERTS], rank[MAX_EXPERTS] = {0}, greatest = -INFINITY, sum = 0, chosen = 0;
    bool in[MAX_EXPERTS], taken[MAX_EXPERTS];
    const bool sums = r->rule.groups > 1 && r->rule.group_score == ROUTE_GROUP_TOP_TWO;
    const bool by_logits = r->rule.by_logits || mixer || (softmax && !r->select && !sums);
    for (uint32_t i = 0; i < n_experts; i++) {
        greatest = fmaxf(greatest, logits[i]);
    }
    for (uint32_t i = 0; i < n_experts; i++) {
        sum += route_exp(logits[i] - greatest);
    }
    for (uint32_t i = 0; i < n_experts; i++) {
        score[i] = softmax                          ? route_exp(logits[i] - greatest) / sum
                   : r->rule.score == ROUTE_SIGMOID ? route_sigmoid(logits[i])
                                                    : sqrtf(route_softplus(logits[i]));
        rank[i] = (by_logits ? logits[i] : score[i]) + (r->select ? r->select[i] : 0);
    }
    choose_groups(r, rank, in);
    for (uint32_t i = 0; i < n_experts; i++) {
        taken[i] = !in[i];
    }
    for (uint32_t j = 0; j < r->n; j++) {
        uint32_t best = best_of(rank, taken, n_experts);
        if (best == n_experts) { /* the groups do not hold as many: on with the others */
            for (uint32_t i = 0; i < n_experts; i++) {
                taken[i] = in[i];
            }
            best = best_of(rank, taken, n_experts);
        }
        taken[best] = true;
        ids[j] = (int32_t)best;
        score[best] = mixer ? mix_plainly(r, logits, ids, j) : score[best];
        chosen += score[best];
    }
    for (uint32_t j = 0; j < r->n; j++) {
        weights[j] = score[ids[j]];
        weights[j] = r->rule.renorm == ROUTE_RENORM_SUM ? weights[j] / (chosen + r->rule.eps)
                     : r->rule.renorm == ROUTE_RENORM_FLOOR
                         ? weights[j] / (chosen < r->rule.eps ? r->rule.eps : chosen)
                         : weights[j];
        weights[j] *= r->rule.scale;
        weights[j] *= r->factor ? r->factor[ids[j]] : 1;
    }
}

/* ---- checks --------------------------------------------------------------------------------- */

/* The weights of the chosen ones by the formulas, in double. Scores have some ulp, the sum of a
 * softmax up to one for each expert, but far from all of one sign; below e^-87 it is nothing. */
static void check_weights(const struct routing *r, const float *logits, const int32_t *ids,
                          const float *weights) {
    double greatest = -INFINITY, all = 0, chosen = 0, score[MAX_CHOSEN];
    for (uint32_t i = 0; i < r->n_experts; i++) {
        greatest = fmax(greatest, (double)logits[i]);
    }
    for (uint32_t i = 0; i < r->n_experts; i++) {
        all += exp((double)logits[i] - greatest);
    }
    for (uint32_t j = 0; j < r->n; j++) {
        double l = logits[ids[j]];
        score[j] = r->rule.score == ROUTE_SIGMOID         ? 1 / (1 + exp(-l))
                   : r->rule.score == ROUTE_SQRT_SOFTPLUS ? sqrt(softplus(l))
                   : r->rule.score == ROUTE_SPARSE_MIXER  ? mix_exactly(r, logits, ids, j)
                                                          : exp(l - greatest) / all;
        chosen += score[j];
    }
    for (uint32_t j = 0; j < r->n; j++) {
        double eps = (double)r->rule.eps;
        double want = r->rule.renorm == ROUTE_RENORM_SUM ? score[j] / (chosen + eps)
                      : r->rule.renorm == ROUTE_RENORM_FLOOR
                          ? score[j] / (chosen < eps ? eps : chosen)
                          : score[j];
        want *= (double)r->rule.scale * (r->factor ? (double)r->factor[ids[j]] : 1);
        assert_true(fabs(weights[j] - want) <= 64 * FLT_EPSILON * fabs(want) + 0x1p-60);
    }
}

static bool same_weight(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

/* On every backend: the reference's ids and weights, and the ids alone where no weights are asked
 * for. */
static void check_routing(const struct routing *r, bool finite) {
    const size_t n = (size_t)r->rows * r->n;
    int32_t *ids = test_guard(n * sizeof *ids), *want_ids = mem_calloc(n, sizeof *ids);
    float *weights = test_guard(n * sizeof *weights), *want = backends_zeros(n);
    struct weight select = kernels_row(r->select, r->n_experts),
                  factor = kernels_row(r->factor, r->n_experts);
    for (uint32_t k = 0; k < r->rows; k++) {
        const float *logits = r->logits + (size_t)k * r->n_experts;
        route_plainly(r, logits, want_ids + (size_t)k * r->n, want + (size_t)k * r->n);
        if (finite) {
            check_weights(r, logits, want_ids + (size_t)k * r->n, want + (size_t)k * r->n);
        }
    }
    const struct backend *b;
    for (size_t i = 0; (b = backends_at(i)); i++) {
        for (int form = 0; form < 2; form++) {
            memset(ids, 0xff, n * sizeof *ids);
            memset(weights, 0xff, n * sizeof *weights);
            b->ops->route(b->self, &r->rule, &select, &factor, r->logits, r->rows, r->n_experts,
                          r->n, ids, form ? NULL : weights);
            for (size_t k = 0; k < n; k++) {
                if (ids[k] != want_ids[k] || (form == 0 && !same_weight(weights[k], want[k]))) {
                    print_error("%s: score %u, %u of %u experts, %u groups: choice %zu is %d %a, "
                                "expected %d %a\n",
                                b->isa, r->rule.score, r->n, r->n_experts, r->rule.groups, k,
                                ids[k], (double)weights[k], want_ids[k], (double)want[k]);
                    fail();
                }
            }
        }
    }
    free(want_ids);
    free(want);
    test_guard_free(ids, n * sizeof *ids);
    test_guard_free(weights, n * sizeof *weights);
}

/* Of `groups` the groups of one expert, and more experts than the best groups hold, come with the
 * numbers of experts below. */
static const struct route_rule rules[] = {
    {.score = ROUTE_SOFTMAX, .scale = 1},
    {.score = ROUTE_SOFTMAX, .scale = 1, .renorm = 1},
    {.score = ROUTE_SOFTMAX, .scale = 1.5f, .renorm = 1, .selection_bias = 1, .eps = 1e-2f},
    {.score = ROUTE_SOFTMAX, .scale = 1, .renorm = 2, .selection_bias = 1, .eps = 0.25f},
    {.score = ROUTE_SOFTMAX, .scale = 16, .groups = 8, .top_groups = 3},
    {.score = ROUTE_SOFTMAX,
     .scale = 1,
     .groups = 4,
     .top_groups = 2,
     .group_score = ROUTE_GROUP_TOP_TWO},
    {.score = ROUTE_SOFTMAX,
     .scale = 1,
     .groups = 1,
     .top_groups = 1,
     .group_score = ROUTE_GROUP_TOP_TWO},
    {.score = ROUTE_SOFTMAX, .scale = 1, .renorm = 1, .factor = 1},
    {.score = ROUTE_SIGMOID, .scale = 1},
    {.score = ROUTE_SIGMOID,
     .scale = 2.5f,
     .renorm = 1,
     .eps = 1e-20f,
     .selection_bias = 1,
     .groups = 8,
     .top_groups = 4,
     .group_score = ROUTE_GROUP_TOP_TWO},
    {.score = ROUTE_SIGMOID,
     .scale = 1,
     .selection_bias = 1,
     .factor = 1,
     .groups = 4,
     .top_groups = 1},
    {.score = ROUTE_SQRT_SOFTPLUS, .scale = 1.5f, .renorm = 1, .selection_bias = 1},
    {.score = ROUTE_SQRT_SOFTPLUS,
     .scale = 1,
     .groups = 2,
     .top_groups = 1,
     .group_score = ROUTE_GROUP_TOP_TWO},
    {.score = ROUTE_SIGMOID, .by_logits = 1, .scale = 1},
    {.score = ROUTE_SIGMOID, .by_logits = 1, .selection_bias = 1, .renorm = 1, .scale = 1},
    {.score = ROUTE_SPARSE_MIXER, .eps = 0.25f, .scale = 1},
};

/* Patterns of kernels_logits: of these only a softmax has scores that are not all below the least
 * float. */
enum { HUGE_LOGITS = 4 };

static void check_counts(struct routing *r, bool finite) {
    const uint32_t counts[] = {1, r->n_experts < 8 ? r->n_experts : 8,
                               r->n_experts < MAX_CHOSEN ? r->n_experts : MAX_CHOSEN};
    for (size_t i = 0; i < TEST_COUNT(counts); i++) {
        r->n = counts[i];
        check_routing(r, finite);
    }
}

static void test_rules(void **state) {
    static const uint32_t experts[] = {1, 2, 7, 8, 16, 60, 64, 128, MAX_EXPERTS};
    struct test_rng rng = {25};
    (void)state;
    for (size_t e = 0; e < TEST_COUNT(experts); e++) {
        for (int pattern = 0; pattern <= KERNELS_LOGITS_NAN; pattern++) {
            uint32_t n = experts[e], rows = pattern % 2 ? 1 : 37;
            float *logits = test_guard((size_t)rows * n * sizeof *logits);
            float *select = kernels_vector(&rng, KIND_NORMAL, n),
                  *factor = kernels_vector(&rng, KIND_SPIKY, n);
            kernels_logits(&rng, pattern, logits, (size_t)rows * n);
            for (size_t i = 0; i < TEST_COUNT(rules); i++) {
                struct routing r = {rules[i], NULL, NULL, logits, rows, n, 0};
                r.select = r.rule.selection_bias ? select : NULL;
                r.factor = r.rule.factor ? factor : NULL;
                if (r.rule.groups == 0 || n % r.rule.groups == 0) {
                    check_counts(
                        &r, pattern < HUGE_LOGITS ||
                                (pattern == HUGE_LOGITS && (r.rule.score == ROUTE_SOFTMAX ||
                                                            r.rule.score == ROUTE_SPARSE_MIXER)));
                }
            }
            test_guard_free(logits, (size_t)rows * n * sizeof *logits);
            test_guard_free(select, n * sizeof *select);
            test_guard_free(factor, n * sizeof *factor);
        }
    }
}

/* By hand: neighbouring floats whose probabilities are equal, NaN last, equal ones in their order,
 * distinct ids whatever comes, as they index memory. */
static void test_choices(void **state) {
    static const struct {
        float logits[6];
        int32_t ids[6];
    } cases[] = {
        {{NAN, 1, NAN, 2, -INFINITY, 0}, {3, 1, 5, 4, 0, 2}},
        {{NAN, NAN, NAN, NAN, NAN, NAN}, {0, 1, 2, 3, 4, 5}},
        {{7, 7, 7, 7, 7, 7}, {0, 1, 2, 3, 4, 5}},
        {{0x1p-24f, 0x1.000002p-24f, 0, -0.0f, -0x1p-24f, 0x1p-24f}, {1, 0, 5, 2, 3, 4}},
        {{-INFINITY, -INFINITY, INFINITY, 0, INFINITY, NAN}, {2, 4, 3, 0, 1, 5}},
    };
    const struct route_rule softmax = {.scale = 1, .renorm = 1};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct routing r = {softmax, NULL, NULL, cases[i].logits, 1, 6, 6};
        int32_t ids[6];
        float weights[6];
        route_plainly(&r, cases[i].logits, ids, weights);
        assert_memory_equal(ids, cases[i].ids, sizeof ids);
        check_routing(&r, false);
    }
}

/* Groups by hand: the one with the best expert, or with the best pair; asked for more than a group
 * holds, others follow. */
static void test_groups(void **state) {
    static const float logits[6] = {5, -9, 4, 3, 1, 0};
    static const int32_t by_best[] = {0, 1, 2, 3}, by_pair[] = {2, 3, 0, 4};
    struct routing r = {{.score = ROUTE_SOFTMAX, .scale = 1, .groups = 3, .top_groups = 1},
                        NULL,
                        NULL,
                        logits,
                        1,
                        6,
                        4};
    int32_t ids[4];
    float weights[4];
    (void)state;
    route_plainly(&r, logits, ids, weights);
    assert_memory_equal(ids, by_best, sizeof ids);
    check_routing(&r, true);
    /* of probabilities the first pair has the greater sum, of logits the second one */
    r.rule.group_score = ROUTE_GROUP_TOP_TWO;
    route_plainly(&r, logits, ids, weights);
    assert_memory_equal(ids, by_best, sizeof ids);
    check_routing(&r, true);
    r.rule.by_logits = 1;
    route_plainly(&r, logits, ids, weights);
    assert_memory_equal(ids, by_pair, sizeof ids);
    check_routing(&r, true);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_scores), cmocka_unit_test(test_scores_at_the_ends),
        cmocka_unit_test(test_rules),  cmocka_unit_test(test_choices),
        cmocka_unit_test(test_groups),
    };
    return cmocka_run_group_tests(tests, backends_open, backends_close);
}
