/*
 * test_util_cuda_route: see test_util_cuda.h. The choice of experts and their weights, which are
 * those of the CPU to the bit.
 */
#include "tests/util/test_util_cuda.h"

#include <math.h>

struct route {
    const char *name;
    struct route_rule rule;
    uint32_t n_experts, n, rows;
    const float *logits;
    struct weight select, factor; /* of the host, and on the device */
    struct weight select_there, factor_there;
    bool only_ids;
};

static void place_vectors(const struct cuda_rig *g, struct route *r, const float *select,
                          const float *factor) {
    const struct backend *b = &g->device;
    if (r->rule.selection_bias) {
        r->select = cuda_rig_place(&g->scalar, select, 1, r->n_experts);
        r->select_there = cuda_rig_place(b, select, 1, r->n_experts);
    }
    if (r->rule.factor) {
        r->factor = cuda_rig_place(&g->scalar, factor, 1, r->n_experts);
        r->factor_there = cuda_rig_place(b, factor, 1, r->n_experts);
    }
}

static void run_route(const struct backend *b, const struct route *r, const struct weight *select,
                      const struct weight *factor, int32_t *ids, float *weights) {
    const size_t n = (size_t)r->rows * r->n;
    float *logits = cuda_rig_put(b, r->logits, (size_t)r->rows * r->n_experts * sizeof *logits);
    float *w = cuda_rig_put(b, weights, n * sizeof *w);
    int32_t *chosen = b->ops->alloc(b->self, n * sizeof *chosen, NULL);
    b->ops->route(b->self, &r->rule, select, factor, logits, r->rows, r->n_experts, r->n, chosen,
                  r->only_ids ? NULL : w);
    cuda_rig_get(b, weights, w, n);
    b->ops->read(b->self, ids, chosen, n * sizeof *ids);
    cuda_rig_release(b, logits);
    cuda_rig_release(b, w);
    cuda_rig_release(b, chosen);
}

static void check_route(const struct cuda_rig *g, const struct route *r) {
    const size_t n = (size_t)r->rows * r->n;
    int32_t *ids = mem_calloc(n, sizeof *ids), *got_ids = mem_calloc(n, sizeof *ids);
    float *want = cuda_rig_zeros(n), *got = cuda_rig_zeros(n);
    char *what = mem_printf("route %s, %u of %u, %u rows", r->name, r->n, r->n_experts, r->rows);
    run_route(&g->scalar, r, &r->select, &r->factor, ids, want);
    for (int v = 0; v < g->n_variants; v++) {
        cuda_rig_variant(g, v);
        memset(got, 0, n * sizeof *got);
        run_route(&g->device, r, &r->select_there, &r->factor_there, got_ids, got);
        for (size_t i = 0; i < n; i++) {
            if (ids[i] != got_ids[i]) {
                fail_msg("%s: choice %zu is %d, scalar has %d", what, i, got_ids[i], ids[i]);
            }
        }
        check_same(what, got, want, n);
    }
    cuda_rig_variant(g, 0);
    free(what);
    free(ids);
    free(got_ids);
    free(want);
    free(got);
}

static const struct route rules[] = {
    {"softmax", {.score = ROUTE_SOFTMAX, .scale = 1}},
    {"softmax, renormalised", {.score = ROUTE_SOFTMAX, .renorm = 1, .scale = 1}},
    {"softmax with a selection bias",
     {.score = ROUTE_SOFTMAX, .selection_bias = 1, .renorm = 1, .scale = 2.5f}},
    {"softmax, renormalised by no less than a number",
     {.score = ROUTE_SOFTMAX, .selection_bias = 1, .renorm = 2, .eps = 0.25f, .scale = 1}},
    {"softmax, best groups", {.score = ROUTE_SOFTMAX, .groups = 4, .top_groups = 2, .scale = 16}},
    {"softmax with factors", {.score = ROUTE_SOFTMAX, .renorm = 1, .factor = 1, .scale = 1}},
    {"sigmoid", {.score = ROUTE_SIGMOID, .scale = 1}},
    {"sigmoid, best pairs of groups",
     {.score = ROUTE_SIGMOID,
      .selection_bias = 1,
      .groups = 8,
      .top_groups = 4,
      .group_score = ROUTE_GROUP_TOP_TWO,
      .renorm = 1,
      .eps = 1e-20f,
      .scale = 2.5f}},
    {"sigmoid, one group of many",
     {.score = ROUTE_SIGMOID, .groups = 64, .top_groups = 1, .scale = 1}},
    {"square root of softplus",
     {.score = ROUTE_SQRT_SOFTPLUS, .selection_bias = 1, .renorm = 1, .scale = 1.5f}},
    {"square root of softplus, all groups",
     {.score = ROUTE_SQRT_SOFTPLUS,
      .groups = 2,
      .top_groups = 2,
      .group_score = ROUTE_GROUP_TOP_TWO,
      .factor = 1,
      .scale = 1}},
    {"sigmoid by logits with a bias",
     {.score = ROUTE_SIGMOID, .by_logits = 1, .selection_bias = 1, .renorm = 1, .scale = 1}},
    {"sparse mixer", {.score = ROUTE_SPARSE_MIXER, .eps = 0.25f, .scale = 1}},
};

void cuda_test_route(void **state) {
    static const uint32_t experts[] = {1, 2, 7, 8, 60, 64, 128, 256, 512};
    const struct cuda_rig *g = *state;
    struct test_rng rng = {35};
    for (size_t i = 0; i < TEST_COUNT(experts) * TEST_COUNT(rules); i++) {
        struct route r = rules[i % TEST_COUNT(rules)];
        r.n_experts = experts[i / TEST_COUNT(rules)];
        if (r.rule.groups > 0 && r.n_experts % r.rule.groups != 0) {
            continue;
        }
        float *logits = kernels_vector(&rng, KIND_NORMAL, (size_t)17 * r.n_experts);
        float *select = kernels_vector(&rng, KIND_NORMAL, r.n_experts);
        float *factor = kernels_vector(&rng, KIND_SPIKY, r.n_experts);
        r.logits = logits;
        place_vectors(g, &r, select, factor);
        for (int pattern = 0; pattern <= KERNELS_LOGITS_NAN; pattern++) {
            r.rows = pattern % 2 ? 1 : 17;
            kernels_logits(&rng, pattern, logits, (size_t)r.rows * r.n_experts);
            r.n = r.n_experts < 8 ? r.n_experts : 8;
            check_route(g, &r);
            /* More than the chosen groups hold, or all. */
            r.rows = 1;
            r.n = r.n_experts;
            r.only_ids = pattern % 2;
            check_route(g, &r);
            r.only_ids = false;
        }
        test_guard_free(logits, (size_t)17 * r.n_experts * sizeof *logits);
        test_guard_free(select, r.n_experts * sizeof *select);
        test_guard_free(factor, r.n_experts * sizeof *factor);
    }
}

/* Biases that take from each score what it has above one half, but for its last bits: the choice
 * among such near ties goes by how scores are rounded. */
void cuda_test_route_ties(void **state) {
    enum { N = 256 };
    const struct cuda_rig *g = *state;
    struct test_rng rng = {43};
    for (size_t i = 0; i < TEST_COUNT(rules) * 4; i++) {
        struct route r = rules[i / 4];
        float logits[N], select[N], factor[N];
        double sum = 0;
        kernels_logits(&rng, i % 2 ? 0 : 2, logits, N);
        for (uint32_t k = 0; k < N; k++) {
            sum += exp((double)logits[k]);
            factor[k] = 1.0f + 0x1p-20f * test_f32(&rng);
        }
        for (uint32_t k = 0; k < N; k++) {
            double x = (double)logits[k];
            double score = r.rule.score == ROUTE_SOFTMAX   ? exp(x) / sum
                           : r.rule.score == ROUTE_SIGMOID ? 1 / (1 + exp(-x))
                                                           : sqrt(log1p(exp(x)));
            select[k] = (float)(0.5 - score);
        }
        r.rule.selection_bias = 1;
        r.n_experts = N;
        r.n = i % 4 < 2 ? 8 : N;
        r.rows = 1;
        r.logits = logits;
        place_vectors(g, &r, select, factor);
        check_route(g, &r);
    }
}
