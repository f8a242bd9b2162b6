/*
 * test_util_cuda_delta: see test_util_cuda.h. The gated delta net: close to the CPU's, and the same
 * bits however rows are shared out over calls.
 */
#include "tests/util/test_util_cuda.h"

#include <float.h>
#include <math.h>

enum { ROWS = 9 };

struct net {
    struct delta_rule rule;
    uint32_t step; /* rows of a call */
    const float *kernel, *x, *tail;
    const float *rate, *dt_bias, *norm, *qkv, *z, *a, *b, *state;
};

static const struct delta_rule shapes[] = {
    {1, 1, 4, 8, 2},     {1, 3, 20, 33, 4},   {2, 4, 8, 40, 1},
    {3, 6, 128, 128, 4}, {1, 2, 256, 64, 16}, {2, 2, 33, 1, 3},
};

static uint32_t rows_at(const struct net *s, uint32_t r) {
    return ROWS - r < s->step ? ROWS - r : s->step;
}

/* out: y [ROWS, cols], then the tail [conv - 1, cols]. */
static void run_conv(const struct backend *b, const void *ctx, float *out) {
    const struct net *s = ctx;
    const uint32_t cols = delta_qkv_dim(&s->rule), keep = s->rule.conv - 1;
    struct weight kernel = cuda_rig_place(b, s->kernel, cols, s->rule.conv);
    float *x = cuda_rig_put(b, s->x, (size_t)ROWS * cols * sizeof *x);
    float *tail = cuda_rig_put(b, s->tail, (size_t)keep * cols * sizeof *tail);
    float *y = b->ops->alloc(b->self, (size_t)ROWS * cols * sizeof *y, NULL);
    for (uint32_t r = 0; r < ROWS; r += s->step) {
        b->ops->delta_conv(b->self, &s->rule, &kernel, x + (size_t)r * cols, rows_at(s, r), tail,
                           y + (size_t)r * cols);
    }
    cuda_rig_get(b, out, y, (size_t)ROWS * cols);
    cuda_rig_get(b, out + (size_t)ROWS * cols, tail, (size_t)keep * cols);
    cuda_rig_release(b, x);
    cuda_rig_release(b, tail);
    cuda_rig_release(b, y);
}

/* out [ROWS, n_v_heads, v_dim], then the state. */
static void run_net(const struct backend *b, const void *ctx, float *out) {
    const struct net *s = ctx;
    const struct delta_rule *d = &s->rule;
    const uint32_t cols = delta_qkv_dim(d), v_cols = delta_v_dim(d), heads = d->n_v_heads;
    const size_t n_state = (size_t)v_cols * d->k_dim;
    const struct delta_weights w = {cuda_rig_place(b, s->rate, 1, heads),
                                    cuda_rig_place(b, s->dt_bias, 1, heads),
                                    cuda_rig_place(b, s->norm, 1, d->v_dim)};
    float *qkv = cuda_rig_put(b, s->qkv, (size_t)ROWS * cols * sizeof *qkv);
    float *z = cuda_rig_put(b, s->z, (size_t)ROWS * v_cols * sizeof *z);
    float *pa = cuda_rig_put(b, s->a, (size_t)ROWS * heads * sizeof *pa);
    float *pb = cuda_rig_put(b, s->b, (size_t)ROWS * heads * sizeof *pb);
    float *state = cuda_rig_put(b, s->state, n_state * sizeof *state);
    float *o = b->ops->alloc(b->self, (size_t)ROWS * v_cols * sizeof *o, NULL);
    for (uint32_t r = 0; r < ROWS; r += s->step) {
        size_t v = (size_t)r * v_cols, h = (size_t)r * heads;
        b->ops->delta_net(b->self, d, &w, 1e-6f, qkv + (size_t)r * cols, z + v, pa + h, pb + h,
                          rows_at(s, r), state, o + v);
    }
    cuda_rig_get(b, out, o, (size_t)ROWS * v_cols);
    cuda_rig_get(b, out + (size_t)ROWS * v_cols, state, n_state);
    void *all[] = {qkv, z, pa, pb, state, o};
    for (size_t i = 0; i < TEST_COUNT(all); i++) {
        cuda_rig_release(b, all[i]);
    }
}

/* `n` numbers that are `tolerance` from the CPU's; calls of any number of rows give the same. */
static void check_net(const struct cuda_rig *g, const char *op, struct net *s, cuda_rig_run *run,
                      size_t n, double tolerance) {
    static const uint32_t steps[] = {1, 4};
    const struct delta_rule *d = &s->rule;
    float *want = cuda_rig_zeros(n), *first = cuda_rig_zeros(n), *got = cuda_rig_zeros(n);
    char *what = mem_printf("%s, %u key heads of %u, %u of %u, %u tokens", op, d->n_k_heads,
                            d->k_dim, d->n_v_heads, d->v_dim, d->conv);
    s->step = ROWS;
    run(&g->scalar, s, want);
    double *t = cuda_rig_tolerances(want, n, tolerance, tolerance);
    cuda_rig_check(g, what, run, s, first, want, t, n);
    for (size_t i = 0; i < TEST_COUNT(steps); i++) {
        s->step = steps[i];
        run(&g->device, s, got);
        check_same(what, got, first, n);
    }
    free(what);
    free(t);
    free(want);
    free(first);
    free(got);
}

void cuda_test_delta_conv(void **state) {
    const struct cuda_rig *g = *state;
    struct test_rng rng = {44};
    for (size_t i = 0; i < TEST_COUNT(shapes); i++) {
        struct net s = {.rule = shapes[i]};
        const size_t cols = delta_qkv_dim(&s.rule), n_kernel = cols * s.rule.conv;
        const size_t n_x = ROWS * cols, n_tail = cols * (s.rule.conv - 1);
        float *kernel = kernels_vector(&rng, KIND_NORMAL, n_kernel);
        float *x = kernels_vector(&rng, KIND_NORMAL, n_x);
        float *tail = kernels_vector(&rng, KIND_NORMAL, n_tail);
        s.kernel = kernel;
        s.x = x;
        s.tail = tail;
        check_net(g, "delta_conv", &s, run_conv, n_x + n_tail,
                  16 * (double)FLT_EPSILON * s.rule.conv);
        test_guard_free(kernel, n_kernel * sizeof *kernel);
        test_guard_free(x, n_x * sizeof *x);
        test_guard_free(tail, n_tail * sizeof *tail);
    }
}

void cuda_test_delta_net(void **state) {
    const struct cuda_rig *g = *state;
    struct test_rng rng = {45};
    for (size_t i = 0; i < TEST_COUNT(shapes); i++) {
        struct net s = {.rule = shapes[i]};
        const size_t heads = s.rule.n_v_heads, v_cols = delta_v_dim(&s.rule);
        const size_t sizes[] = {
            heads,         heads,        s.rule.v_dim, ROWS * delta_qkv_dim(&s.rule),
            ROWS * v_cols, ROWS * heads, ROWS * heads, v_cols * s.rule.k_dim};
        float *parts[TEST_COUNT(sizes)];
        for (size_t k = 0; k < TEST_COUNT(sizes); k++) {
            parts[k] = kernels_vector(&rng, KIND_NORMAL, sizes[k]);
        }
        for (size_t h = 0; h < heads; h++) {
            parts[0][h] = fabsf(parts[0][h]) * (h % 2 ? 1 : 0.01f); /* a rate is positive */
        }
        parts[5][0] = 40; /* where softplus is what it is of */
        s.rate = parts[0];
        s.dt_bias = parts[1];
        s.norm = parts[2];
        s.qkv = parts[3];
        s.z = parts[4];
        s.a = parts[5];
        s.b = parts[6];
        s.state = parts[7];
        /* Heads are divided by their length, and an output by its own, which may be small beside
         * what it is the sum of. */
        check_net(g, "delta_net", &s, run_net, ROWS * v_cols + v_cols * s.rule.k_dim, 1e-4);
        for (size_t k = 0; k < TEST_COUNT(sizes); k++) {
            test_guard_free(parts[k], sizes[k] * sizeof *parts[k]);
        }
    }
}
