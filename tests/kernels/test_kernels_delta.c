/*
 * The gated delta net of the CPU backend: its convolution and its recurrence against their formulas
 * in double precision, and to the bit against itself for other thread counts and for rows that are
 * split over calls in other ways.
 */
#include <math.h>

#include "tests/util/test_util_backends.h"

struct net {
    struct delta_rule rule;
    uint32_t rows;
    float *kernel, *x; /* [cols, conv], [rows, cols] */
    float *z, *a, *b;  /* [rows, n_v_heads, v_dim], [rows, n_v_heads] twice */
    float *rate, *dt_bias, *norm;
    float *state0, *tail0; /* what came before */
};

/* What an implementation made of it. */
struct made {
    float *qkv, *out, *state, *tail;
};

static const float eps = 1e-6f;

static size_t state_floats(const struct net *n) {
    return (size_t)n->rule.n_v_heads * n->rule.k_dim * n->rule.v_dim;
}
static size_t tail_floats(const struct net *n) {
    return (size_t)(n->rule.conv - 1) * delta_qkv_dim(&n->rule);
}
static size_t qkv_floats(const struct net *n) {
    return (size_t)n->rows * delta_qkv_dim(&n->rule);
}
static size_t out_floats(const struct net *n) {
    return (size_t)n->rows * delta_v_dim(&n->rule);
}

/* All that a net takes, one after the other: makes it, or frees it where there is no generator. */
static void each_vector(struct test_rng *rng, struct net *n) {
    const uint32_t heads = n->rule.n_v_heads;
    const struct {
        float **p;
        size_t n;
    } vectors[] = {
        {&n->kernel, (size_t)delta_qkv_dim(&n->rule) * n->rule.conv},
        {&n->x, qkv_floats(n)},
        {&n->z, out_floats(n)},
        {&n->a, (size_t)n->rows * heads},
        {&n->b, (size_t)n->rows * heads},
        {&n->rate, heads},
        {&n->dt_bias, heads},
        {&n->norm, n->rule.v_dim},
        {&n->state0, state_floats(n)},
        {&n->tail0, tail_floats(n)},
    };
    for (size_t i = 0; i < TEST_COUNT(vectors); i++) {
        if (rng) {
            *vectors[i].p = kernels_vector(rng, KIND_NORMAL, vectors[i].n);
        } else {
            test_guard_free(*vectors[i].p, vectors[i].n * sizeof(float));
        }
    }
}

static struct net make_net(struct test_rng *rng, const struct delta_rule *rule, uint32_t rows) {
    struct net n = {.rule = *rule, .rows = rows};
    each_vector(rng, &n);
    for (uint32_t h = 0; h < rule->n_v_heads; h++) { /* heads that forget slowly, and at once */
        n.rate[h] = expf(4 * n.rate[h]);
    }
    for (size_t i = 0; i < (size_t)rows * rule->n_v_heads; i++) {
        n.a[i] *= i % 7 == 0 ? 30 : 4; /* softplus at both ends */
        n.b[i] *= 6;
        n.z[i] *= i % 5 == 0 ? 100 : 3;
    }
    return n;
}

static struct made make_room(const struct net *n) {
    struct made m = {
        test_guard(qkv_floats(n) * sizeof(float)), test_guard(out_floats(n) * sizeof(float)),
        test_guard(state_floats(n) * sizeof(float)), test_guard(tail_floats(n) * sizeof(float))};
    return m;
}

static void free_made(const struct net *n, struct made *m) {
    test_guard_free(m->qkv, qkv_floats(n) * sizeof(float));
    test_guard_free(m->out, out_floats(n) * sizeof(float));
    test_guard_free(m->state, state_floats(n) * sizeof(float));
    test_guard_free(m->tail, tail_floats(n) * sizeof(float));
}

/* Rows in calls of `step`. */
static void run_net(const struct backend *be, const struct net *n, uint32_t step, struct made *m) {
    const struct delta_rule *rule = &n->rule;
    const size_t cols = delta_qkv_dim(rule), v_cols = delta_v_dim(rule), heads = rule->n_v_heads;
    struct weight kernel = kernels_row(n->kernel, (uint32_t)cols * rule->conv);
    struct delta_weights w = {kernels_row(n->rate, rule->n_v_heads),
                              kernels_row(n->dt_bias, rule->n_v_heads),
                              kernels_row(n->norm, rule->v_dim)};
    kernel.rows = (uint32_t)cols;
    kernel.cols = rule->conv;
    kernel.stride_bytes = rule->conv * sizeof(float);
    memset(m->qkv, 0xff, qkv_floats(n) * sizeof(float));
    memset(m->out, 0xff, out_floats(n) * sizeof(float));
    memcpy(m->state, n->state0, state_floats(n) * sizeof(float));
    memcpy(m->tail, n->tail0, tail_floats(n) * sizeof(float));
    for (uint32_t r = 0; r < n->rows; r += step) {
        uint32_t rows = n->rows - r < step ? n->rows - r : step;
        float *qkv = m->qkv + r * cols;
        be->ops->delta_conv(be->self, rule, &kernel, n->x + r * cols, rows, m->tail, qkv);
        be->ops->delta_net(be->self, rule, &w, eps, qkv, n->z + r * v_cols, n->a + r * heads,
                           n->b + r * heads, rows, m->state, m->out + r * v_cols);
    }
}

/* ---- the formulas --------------------------------------------------------------------------- */

static double silu(double x) {
    return x / (1 + exp(-x));
}

/* in[t][c], for t >= 1 - conv. */
static double input_at(const struct net *n, int64_t t, size_t c) {
    const int64_t cols = delta_qkv_dim(&n->rule), before = n->rule.conv - 1;
    return t >= 0 ? n->x[t * cols + (int64_t)c] : n->tail0[(t + before) * cols + (int64_t)c];
}

static double *convolve(const struct net *n) {
    const size_t cols = delta_qkv_dim(&n->rule), conv = n->rule.conv;
    double *y = backends_all(qkv_floats(n), 0);
    for (size_t i = 0; i < qkv_floats(n); i++) {
        for (size_t j = 0; j < conv; j++) {
            int64_t t = (int64_t)(i / cols) - (int64_t)(conv - 1 - j);
            y[i] += n->kernel[i % cols * conv + j] * input_at(n, t, i % cols);
        }
        y[i] = silu(y[i]);
    }
    return y;
}

static void unit(const double *x, uint32_t n, double factor, double *y) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += x[i] * x[i];
    }
    for (uint32_t i = 0; i < n; i++) {
        y[i] = x[i] / sqrt(sum + 1e-6) * factor;
    }
}

/* out [v_dim] = S^T x. */
static void times_state(const double *S, const double *x, uint32_t k_dim, uint32_t v_dim,
                        double *out) {
    for (uint32_t j = 0; j < v_dim; j++) {
        out[j] = 0;
        for (uint32_t i = 0; i < k_dim; i++) {
            out[j] += S[(size_t)i * v_dim + j] * x[i];
        }
    }
}

/* One token of one head; q, k, v, z are its own. */
static void recur(const struct net *n, uint32_t head, size_t token, const double *q,
                  const double *k, const double *v, double *S, double *out) {
    const uint32_t k_dim = n->rule.k_dim, v_dim = n->rule.v_dim;
    const size_t at = token * n->rule.n_v_heads + head;
    double x = (double)n->a[at] + (double)n->dt_bias[head], mean = 0;
    double decay = exp(-(double)n->rate[head] * (x > 30 ? x : log1p(exp(x))));
    double strength = 1 / (1 + exp(-(double)n->b[at]));
    double *unit_q = backends_all(k_dim, 0), *unit_k = backends_all(k_dim, 0),
           *m = backends_all(v_dim, 0);
    unit(q, k_dim, 1 / sqrt(k_dim), unit_q);
    unit(k, k_dim, 1, unit_k);
    for (size_t i = 0; i < (size_t)k_dim * v_dim; i++) {
        S[i] *= decay;
    }
    times_state(S, unit_k, k_dim, v_dim, m);
    for (size_t i = 0; i < (size_t)k_dim * v_dim; i++) {
        S[i] += unit_k[i / v_dim] * strength * (v[i % v_dim] - m[i % v_dim]);
    }
    times_state(S, unit_q, k_dim, v_dim, out);
    for (uint32_t j = 0; j < v_dim; j++) {
        mean += out[j] * out[j] / v_dim;
    }
    for (uint32_t j = 0; j < v_dim; j++) {
        out[j] = out[j] / sqrt(mean + (double)eps) * n->norm[j] * silu(n->z[at * v_dim + j]);
    }
    free(unit_q);
    free(unit_k);
    free(m);
}

/* From queries, keys and values as the backend's convolution left them. Returns the outputs, and
 * leaves *state behind. */
static double *recur_simply(const struct net *n, const float *qkv, double **state) {
    const struct delta_rule *rule = &n->rule;
    const size_t cols = delta_qkv_dim(rule), k_cols = (size_t)rule->n_k_heads * rule->k_dim;
    double *in = backends_doubles(qkv, qkv_floats(n)), *out = backends_all(out_floats(n), 0);
    *state = backends_doubles(n->state0, state_floats(n));
    for (size_t r = 0; r < n->rows; r++) {
        for (uint32_t h = 0; h < rule->n_v_heads; h++) {
            const uint32_t k_head = h / (rule->n_v_heads / rule->n_k_heads);
            const double *q = in + r * cols + (size_t)k_head * rule->k_dim,
                         *v = in + r * cols + 2 * k_cols + (size_t)h * rule->v_dim;
            recur(n, h, r, q, q + k_cols, v, *state + (size_t)h * rule->k_dim * rule->v_dim,
                  out + (r * rule->n_v_heads + h) * rule->v_dim);
        }
    }
    free(in);
    return out;
}

/* ---- checks --------------------------------------------------------------------------------- */

/* Products of numbers below 1 are summed, up to conv of them, then silu: some ulp of conv. The last
 * rows that were seen stay as they were. */
static void check_conv(const struct backend *b, const struct net *n, const struct made *m) {
    const size_t cols = delta_qkv_dim(&n->rule);
    double *want = convolve(n), *t = backends_all(qkv_floats(n), 4e-7 * n->rule.conv);
    backends_close_to(b, "delta_conv", m->qkv, want, t, qkv_floats(n));
    for (size_t i = 0; i < tail_floats(n); i++) {
        int64_t at = (int64_t)n->rows - n->rule.conv + 1 + (int64_t)(i / cols);
        assert_true(m->tail[i] == (float)input_at(n, at, i % cols));
    }
    free(want);
    free(t);
}

/* Errors of a state are those of sums over k_dim, and fade as it does. An output is divided by its
 * size, which is about 1 / sqrt(k_dim) of the state's, and multiplied by up to silu(100). */
static void check_recurrence(const struct backend *b, const struct net *n, const struct made *m) {
    double *state, *want = recur_simply(n, m->qkv, &state);
    double *t = backends_all(out_floats(n), 0), *t_state = backends_all(state_floats(n), 4e-6);
    for (size_t i = 0; i < out_floats(n); i++) {
        t[i] = 4e-5 * fmax(1, fabs((double)n->z[i]));
    }
    backends_close_to(b, "delta_net", m->out, want, t, out_floats(n));
    backends_close_to(b, "state", m->state, state, t_state, state_floats(n));
    free(state);
    free(want);
    free(t);
    free(t_state);
}

static void check_net(const struct net *n) {
    static const uint32_t steps[] = {1, 2, 3, 5, 16, 17, 1000};
    struct made m = make_room(n), same = make_room(n);
    const struct backend *b;
    for (size_t i = 0; (b = backends_at(i)); i++) {
        if (backends_one(i) == b || !backends_one(i)) {
            run_net(b, n, n->rows, &same);
            check_conv(b, n, &same);
            check_recurrence(b, n, &same);
        }
        for (size_t s = 0; s < TEST_COUNT(steps); s++) {
            run_net(b, n, steps[s], &m);
            backends_same(b, "delta_conv in steps", m.qkv, same.qkv, qkv_floats(n));
            backends_same(b, "delta_net in steps", m.out, same.out, out_floats(n));
            backends_same(b, "state in steps", m.state, same.state, state_floats(n));
            backends_same(b, "tail in steps", m.tail, same.tail, tail_floats(n));
        }
    }
    free_made(n, &m);
    free_made(n, &same);
}

static void test_delta(void **state) {
    static const struct {
        struct delta_rule rule;
        uint32_t rows;
    } cases[] = {{{1, 1, 8, 8, 4}, 1},     {{2, 4, 16, 20, 4}, 33}, {{2, 6, 33, 40, 2}, 40},
                 {{1, 3, 5, 7, 1}, 18},    {{4, 4, 64, 96, 8}, 5},  {{2, 2, 128, 128, 4}, 70},
                 {{3, 3, 100, 131, 3}, 9}, {{16, 32, 24, 32, 4}, 2}};
    struct test_rng rng = {31};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct net n = make_net(&rng, &cases[i].rule, cases[i].rows);
        check_net(&n);
        each_vector(NULL, &n);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_delta),
    };
    return cmocka_run_group_tests(tests, backends_open, backends_close);
}
