/*
 * The small operations of the CPU backend, on every instruction set, against their formulas in
 * double precision; memory; and the choice of an instruction set. One thread and three give the
 * same bits.
 */
#include <float.h>
#include <math.h>

#include "kernels/cpu/cpu.h"
#include "tests/util/test_util_kernels.h"

enum { MAX_BACKENDS = 16 };

static struct backend backends[MAX_BACKENDS]; /* each usable ISA with one thread, then with three */
static size_t n_backends;

static int open_backends(void **state) {
    static const uint32_t threads[] = {1, 3};
    (void)state;
    n_backends = kernels_open_cpus(backends, MAX_BACKENDS, threads, TEST_COUNT(threads));
    return 0;
}

static int close_backends(void **state) {
    (void)state;
    for (size_t i = 0; i < n_backends; i++) {
        backend_close(&backends[i]);
    }
    return 0;
}

/* Shapes: rows times dim, from a single number to more than one pool item, with odd tails. */
static const struct {
    uint32_t rows, dim;
} shapes[] = {{1, 1}, {1, 7}, {3, 8}, {5, 33}, {2, 2080}, {40, 1003}, {96, 512}};

/* Inputs of one check, all ending at guard pages. `got` is what the operation wrote; `first` what
 * the one-threaded backend of the same ISA wrote. */
struct inputs {
    uint32_t rows, dim;
    size_t n;
    enum kind kind;
    float *x, *y, *got, *first, *per_row, *per_col;
};

static struct inputs make_inputs(struct test_rng *rng, size_t shape, enum kind kind) {
    struct inputs in = {.rows = shapes[shape].rows, .dim = shapes[shape].dim, .kind = kind};
    in.n = (size_t)in.rows * in.dim;
    in.x = kernels_vector(rng, kind, in.n);
    in.y = kernels_vector(rng, kind, in.n);
    in.got = test_guard(in.n * sizeof(float));
    in.first = mem_calloc(in.n, sizeof(float));
    in.per_row = kernels_vector(rng, KIND_SPIKY, in.rows);
    in.per_col = kernels_vector(rng, KIND_NORMAL, in.dim);
    return in;
}

static void free_inputs(struct inputs *in) {
    test_guard_free(in->x, in->n * sizeof(float));
    test_guard_free(in->y, in->n * sizeof(float));
    test_guard_free(in->got, in->n * sizeof(float));
    test_guard_free(in->per_row, in->rows * sizeof(float));
    test_guard_free(in->per_col, in->dim * sizeof(float));
    free(in->first);
}

/* An operation: run it, and say what element i should be and how far from that it may be. */
struct op {
    const char *name;
    void (*run)(const struct backend *b, const struct inputs *in, float *out);
    double (*want)(const struct inputs *in, size_t i, double *tolerance);
};

static void rmsnorm_run(const struct backend *b, const struct inputs *in, float *out) {
    struct weight w = kernels_row(in->per_col, in->dim);
    b->ops->rmsnorm(b->self, in->x, &w, 1e-6f, in->rows, in->dim, out);
}

static void rmsnorm_in_place_run(const struct backend *b, const struct inputs *in, float *out) {
    struct weight w = kernels_row(in->per_col, in->dim);
    memcpy(out, in->x, in->n * sizeof *out);
    b->ops->rmsnorm(b->self, out, &w, 1e-6f, in->rows, in->dim, out);
}

/* The sum has a dot product's error, whose half reaches the root; a few roundings beside it. */
static double normed(const struct inputs *in, size_t i, double weight, double *tolerance) {
    double size;
    const float *row = in->x + i / in->dim * in->dim;
    double mean = kernels_dot(row, row, in->dim, &size) / in->dim;
    double want = in->x[i] / sqrt(mean + (double)1e-6f) * weight;
    *tolerance = fabs(want) * FLT_EPSILON * (4 + in->dim / 8.0) + 0x1p-126;
    return want;
}

static double rmsnorm_want(const struct inputs *in, size_t i, double *tolerance) {
    return normed(in, i, in->per_col[i % in->dim], tolerance);
}

static void clamp_run(const struct backend *b, const struct inputs *in, float *out) {
    memcpy(out, in->x, in->n * sizeof *out);
    b->ops->clamp(b->self, out, in->n, 0.25f);
}

static double clamp_want(const struct inputs *in, size_t i, double *tolerance) {
    *tolerance = 0;
    return in->x[i] < -0.25f ? -0.25f : in->x[i] > 0.25f ? 0.25f : in->x[i];
}

static void rmsnorm_plain_run(const struct backend *b, const struct inputs *in, float *out) {
    struct weight none = kernels_row(NULL, in->dim);
    b->ops->rmsnorm(b->self, in->x, &none, 1e-6f, in->rows, in->dim, out);
}

static double rmsnorm_plain_want(const struct inputs *in, size_t i, double *tolerance) {
    return normed(in, i, 1, tolerance);
}

static void layernorm_run(const struct backend *b, const struct inputs *in, float *out) {
    struct weight w = kernels_row(in->per_col, in->dim), none = kernels_row(NULL, in->dim);
    b->ops->layernorm(b->self, in->x, &w, &none, 1e-6f, in->rows, in->dim, out);
}

static void layernorm_bias_run(const struct backend *b, const struct inputs *in, float *out) {
    struct weight w = kernels_row(in->per_col, in->dim), bias = kernels_row(in->y, in->dim);
    memcpy(out, in->x, in->n * sizeof *out);
    b->ops->layernorm(b->self, out, &w, &bias, 1e-6f, in->rows, in->dim, out);
}

/* Beside rmsnorm's error: the mean is rounded, and so is the distance from it, both by half an ulp
 * of the greatest number. */
static double layernormed(const struct inputs *in, size_t i, double bias, double *tolerance) {
    const float *row = in->x + i / in->dim * in->dim;
    double mean = 0, variance = 0, greatest = 0;
    for (uint32_t k = 0; k < in->dim; k++) {
        mean += (double)row[k] / in->dim;
        greatest = fmax(greatest, fabs((double)row[k]));
    }
    for (uint32_t k = 0; k < in->dim; k++) {
        variance += ((double)row[k] - mean) * ((double)row[k] - mean) / in->dim;
    }
    const double scale = in->per_col[i % in->dim] / sqrt(variance + (double)1e-6f);
    const double want = (in->x[i] - mean) * scale;
    *tolerance = (fabs(want) + fabs(bias)) * FLT_EPSILON * (4 + in->dim / 8.0) + 0x1p-126 +
                 2 * FLT_EPSILON * greatest * fabs(scale) * (1 + fabs(want));
    return want + bias;
}

static double layernorm_want(const struct inputs *in, size_t i, double *tolerance) {
    return layernormed(in, i, 0, tolerance);
}

static double layernorm_bias_want(const struct inputs *in, size_t i, double *tolerance) {
    return layernormed(in, i, in->y[i % in->dim], tolerance);
}

static void scale_run(const struct backend *b, const struct inputs *in, float *out) {
    memcpy(out, in->x, in->n * sizeof *out);
    b->ops->scale(b->self, out, in->n, 1.7f);
}

static double scale_want(const struct inputs *in, size_t i, double *tolerance) {
    *tolerance = 0;
    return in->x[i] * 1.7f;
}

static void scale_by_run(const struct backend *b, const struct inputs *in, float *out) {
    struct weight factor = kernels_row(in->per_row, 1);
    memcpy(out, in->x, in->n * sizeof *out);
    b->ops->scale_by(b->self, out, in->n, &factor);
}

static double scale_by_want(const struct inputs *in, size_t i, double *tolerance) {
    *tolerance = 0;
    return in->x[i] * in->per_row[0];
}

static const float cap = 3;

static void softcap_run(const struct backend *b, const struct inputs *in, float *out) {
    memcpy(out, in->x, in->n * sizeof *out);
    b->ops->softcap(b->self, out, in->n, cap);
}

/* A quotient and a product of half an ulp each, and what a library's tanhf may have. */
static double softcap_want(const struct inputs *in, size_t i, double *tolerance) {
    double want = cap * tanh((double)in->x[i] / cap);
    *tolerance = 4 * FLT_EPSILON * fabs(want) + 4 * 0x1p-149;
    return want;
}

static void sigmoid_mul_run(const struct backend *b, const struct inputs *in, float *out) {
    memcpy(out, in->x, in->n * sizeof *out);
    b->ops->sigmoid_mul(b->self, out, in->y, in->n);
}

static double sigmoid_mul_want(const struct inputs *in, size_t i, double *tolerance) {
    double want = in->x[i] / (1 + exp(-(double)in->y[i]));
    *tolerance = 4 * FLT_EPSILON * fabs(want) + 0x1p-127 * fabs((double)in->x[i]) + 0x1p-149;
    return want;
}

/* Activations, of both inputs and of the gate alone; bounds are test_dot's. */
static const struct ffn_rule silu = {.act = FFN_SILU};
static const struct ffn_rule gelu = {.act = FFN_GELU_TANH};
static const struct ffn_rule swiglu = {.act = FFN_SWIGLU_OAI, .limit = 0.75f, .alpha = 1.702f};

static const struct ffn_rule relu = {.act = FFN_RELU};
static const struct ffn_rule limited = {.act = FFN_SILU_LIMIT, .limit = 0.5f};

static double gated(double g, double z, double factor, double *tolerance) {
    double want = g / (1 + exp(-z)) * factor;
    *tolerance =
        FLT_EPSILON * (4 * fabs(want) + 2 * fabs(g * factor)) + 0x1p-121 * fabs(factor) + 0x1p-149;
    return want;
}

static double gelu_of(double g, double factor, double *tolerance) {
    return gated(g, 2 * sqrt(2 / 3.14159265358979323846) * (g + 0.044715 * g * g * g), factor,
                 tolerance);
}

static double swiglu_of(double g, double factor, double *tolerance) {
    g = fmin(g, swiglu.limit);
    return gated(g, (double)swiglu.alpha * g, factor, tolerance);
}

static double relu_of(double g, double factor, double *tolerance) {
    double want = fmax(g, 0) * factor;
    *tolerance = FLT_EPSILON * fabs(want) + 0x1p-149;
    return want;
}

static double limited_of(double g, double factor, double *tolerance) {
    factor = fmax(fmin(factor, limited.limit), -limited.limit);
    gated(g, g, factor, tolerance);
    return fmin(g / (1 + exp(-g)), limited.limit) * factor;
}

#define ACT_RUN(name, rule, u)                                                                     \
    static void name(const struct backend *b, const struct inputs *in, float *out) {               \
        memcpy(out, in->x, in->n * sizeof *out);                                                   \
        b->ops->act_mul(b->self, &(rule), out, u, in->n);                                          \
    }
ACT_RUN(silu_mul_run, silu, in->y)
ACT_RUN(silu_run, silu, NULL)
ACT_RUN(gelu_mul_run, gelu, in->y)
ACT_RUN(gelu_run, gelu, NULL)
ACT_RUN(swiglu_run, swiglu, in->y)
ACT_RUN(swiglu_gate_run, swiglu, NULL)
ACT_RUN(relu_run, relu, in->y)
ACT_RUN(limited_run, limited, in->y)

#define ACT_WANT(name, of)                                                                         \
    static double name(const struct inputs *in, size_t i, double *tolerance) {                     \
        const double g = in->x[i], u = in->y[i];                                                   \
        (void)u;                                                                                   \
        return of;                                                                                 \
    }
ACT_WANT(silu_mul_want, gated(g, g, u, tolerance))
ACT_WANT(silu_want, gated(g, g, 1, tolerance))
ACT_WANT(gelu_mul_want, gelu_of(g, u, tolerance))
ACT_WANT(gelu_want, gelu_of(g, 1, tolerance))
ACT_WANT(swiglu_want, swiglu_of(g, fmax(fmin(u, swiglu.limit), -swiglu.limit) + 1, tolerance))
ACT_WANT(swiglu_gate_want, swiglu_of(g, 1, tolerance))
ACT_WANT(relu_want, relu_of(g, u, tolerance))
ACT_WANT(limited_want, limited_of(g, u, tolerance))

static void add_run(const struct backend *b, const struct inputs *in, float *out) {
    memcpy(out, in->x, in->n * sizeof *out);
    b->ops->add(b->self, out, in->y, in->n);
}

static double add_want(const struct inputs *in, size_t i, double *tolerance) {
    *tolerance = 0;
    return in->x[i] + in->y[i];
}

static void gate_rows_run(const struct backend *b, const struct inputs *in, float *out) {
    memcpy(out, in->x, in->n * sizeof *out);
    b->ops->gate_rows(b->self, GATE_SIGMOID, out, in->per_row, in->rows, in->dim);
}

static void softplus_rows_run(const struct backend *b, const struct inputs *in, float *out) {
    memcpy(out, in->x, in->n * sizeof *out);
    b->ops->gate_rows(b->self, GATE_SOFTPLUS, out, in->per_row, in->rows, in->dim);
}

static void scale_rows_run(const struct backend *b, const struct inputs *in, float *out) {
    memcpy(out, in->x, in->n * sizeof *out);
    b->ops->gate_rows(b->self, GATE_PLAIN, out, in->per_row, in->rows, in->dim);
}

static double gate_rows_want(const struct inputs *in, size_t i, double *tolerance) {
    double want = in->x[i] / (1 + exp(-(double)in->per_row[i / in->dim]));
    /* exp(-x) is infinite, and the sigmoid 0 instead of below 2^-128, from x = -89 on. */
    *tolerance = 4 * FLT_EPSILON * fabs(want) + 0x1p-127 * fabs((double)in->x[i]) + 0x1p-149;
    return want;
}

static double softplus_rows_want(const struct inputs *in, size_t i, double *tolerance) {
    const double s = in->per_row[i / in->dim];
    double want = in->x[i] * (s > 0 ? s + log1p(exp(-s)) : log1p(exp(s)));
    *tolerance = 4 * FLT_EPSILON * fabs(want) + 0x1p-127 * fabs((double)in->x[i]) + 0x1p-149;
    return want;
}

static double scale_rows_want(const struct inputs *in, size_t i, double *tolerance) {
    *tolerance = 0;
    return in->x[i] * in->per_row[i / in->dim];
}

/* Parts are the rows of x, one for each row of the output; test_combine adds several. */
static void combine_one_run(const struct backend *b, const struct inputs *in, float *out) {
    b->ops->combine(b->self, in->x, in->per_row, in->rows, 1, in->dim, out);
}

static double combine_one_want(const struct inputs *in, size_t i, double *tolerance) {
    *tolerance = 0;
    return in->per_row[i / in->dim] * in->x[i];
}

static void sum_one_run(const struct backend *b, const struct inputs *in, float *out) {
    b->ops->combine(b->self, in->x, NULL, in->rows, 1, in->dim, out);
}

static double sum_one_want(const struct inputs *in, size_t i, double *tolerance) {
    *tolerance = 0;
    return in->x[i];
}

static const struct op ops[] = {
    {"rmsnorm", rmsnorm_run, rmsnorm_want},
    {"rmsnorm in place", rmsnorm_in_place_run, rmsnorm_want},
    {"clamp", clamp_run, clamp_want},
    {"rmsnorm without weight", rmsnorm_plain_run, rmsnorm_plain_want},
    {"scale", scale_run, scale_want},
    {"scale_by", scale_by_run, scale_by_want},
    {"softcap", softcap_run, softcap_want},
    {"sigmoid_mul", sigmoid_mul_run, sigmoid_mul_want},
    {"silu_mul", silu_mul_run, silu_mul_want},
    {"silu", silu_run, silu_want},
    {"gelu_mul", gelu_mul_run, gelu_mul_want},
    {"gelu", gelu_run, gelu_want},
    {"swiglu_oai", swiglu_run, swiglu_want},
    {"swiglu_oai of the gate", swiglu_gate_run, swiglu_gate_want},
    {"relu", relu_run, relu_want},
    {"limited silu", limited_run, limited_want},
    {"add", add_run, add_want},
    {"gate_rows", gate_rows_run, gate_rows_want},
    {"gate_rows by the softplus", softplus_rows_run, softplus_rows_want},
    {"gate_rows by numbers", scale_rows_run, scale_rows_want},
    {"layernorm", layernorm_run, layernorm_want},
    {"layernorm in place, with a bias", layernorm_bias_run, layernorm_bias_want},
    {"combine of one", combine_one_run, combine_one_want},
    {"combine of one without weights", sum_one_run, sum_one_want},
};

static void check_op(const struct op *op, const struct inputs *in) {
    double *want = mem_alloc(2 * in->n * sizeof *want), *tolerance = want + in->n;
    for (size_t i = 0; i < in->n; i++) {
        want[i] = op->want(in, i, &tolerance[i]);
    }
    for (size_t b = 0; b < n_backends; b++) {
        memset(in->got, 0xff, in->n * sizeof *in->got);
        op->run(&backends[b], in, in->got);
        for (size_t i = 0; i < in->n; i++) {
            if (!(fabs((double)in->got[i] - want[i]) <= tolerance[i])) {
                print_error("%s %s, %u x %u, %s: element %zu is %.9g, expected %.9g +- %.3g\n",
                            backends[b].isa, op->name, in->rows, in->dim, kind_name(in->kind), i,
                            (double)in->got[i], want[i], tolerance[i]);
                fail();
            }
        }
        if (b % 2 == 0) {
            memcpy(in->first, in->got, in->n * sizeof *in->got);
        }
        assert_memory_equal(in->first, in->got, in->n * sizeof *in->got);
    }
    free(want);
}

static void test_elements(void **state) {
    struct test_rng rng = {21};
    (void)state;
    for (size_t s = 0; s < TEST_COUNT(shapes); s++) {
        for (int kind = 0; kind < KIND_COUNT; kind++) {
            struct inputs in = make_inputs(&rng, s, (enum kind)kind);
            for (size_t o = 0; o < TEST_COUNT(ops); o++) {
                check_op(&ops[o], &in);
            }
            free_inputs(&in);
        }
    }
}

/* A NaN is not lost, and no limit is taken for one. */
static void test_nan(void **state) {
    (void)state;
    for (size_t b = 0; b < n_backends; b++) {
        const struct backend_ops *o = backends[b].ops;
        void *self = backends[b].self;
        float x[] = {NAN, INFINITY, -INFINITY}, y[] = {1, 1, NAN}, g[] = {NAN, INFINITY, 1};
        o->clamp(self, x, 3, 8);
        assert_true(isnan(x[0]) && x[1] == 8 && x[2] == -8);
        x[1] = INFINITY;
        o->softcap(self, x, 3, 2);
        assert_true(isnan(x[0]) && x[1] == 2 && x[2] < -1.9f);
        o->sigmoid_mul(self, y, g, 3);
        assert_true(isnan(y[0]) && y[1] == 1 && isnan(y[2]));
        o->act_mul(self, &swiglu, g, y, 3);
        assert_true(isnan(g[0]) && isnan(g[2]));
        o->scale(self, x, 3, 2);
        assert_true(isnan(x[0]) && x[1] == 4);
    }
}

static void test_combine(void **state) {
    enum { ROWS = 40, ACTIVE = 3, DIM = 333 };
    struct test_rng rng = {22};
    (void)state;
    float *parts = kernels_vector(&rng, KIND_NORMAL, ROWS * ACTIVE * DIM);
    float *weights = kernels_vector(&rng, KIND_NORMAL, ROWS * ACTIVE);
    float *got = test_guard(ROWS * DIM * sizeof *got);
    for (size_t b = 0; b < n_backends; b++) {
        backends[b].ops->combine(backends[b].self, parts, weights, ROWS, ACTIVE, DIM, got);
        for (size_t i = 0; i < ROWS * DIM; i++) {
            const float *p = parts + i / DIM * ACTIVE * DIM + i % DIM,
                        *w = weights + i / DIM * ACTIVE;
            float want = w[0] * p[0];
            want += w[1] * p[DIM];
            want += w[2] * p[2 * DIM];
            assert_true(got[i] == want);
        }
    }
    test_guard_free(parts, ROWS * ACTIVE * DIM * sizeof *parts);
    test_guard_free(weights, ROWS * ACTIVE * sizeof *weights);
    test_guard_free(got, ROWS * DIM * sizeof *got);
}

static void test_embed(void **state) {
    static const int32_t ids[] = {3, 0, 4, 4, 1};
    struct test_rng rng = {23};
    const struct codec *codec;
    (void)state;
    for (size_t c = 0; (codec = codec_at(c)); c++) {
        struct weight table = kernels_weight(&rng, codec, KIND_SPIKY, 5, 8000 + 32, 0);
        size_t n = TEST_COUNT(ids) * table.cols;
        float *got = test_guard(n * sizeof *got);
        for (size_t b = 0; b < n_backends; b++) {
            backends[b].ops->embed(backends[b].self, &table, ids, TEST_COUNT(ids), got);
            for (size_t i = 0; i < TEST_COUNT(ids); i++) {
                float *want = kernels_decode(&table, (uint32_t)ids[i]);
                assert_memory_equal(got + i * table.cols, want, table.cols * sizeof *want);
                free(want);
            }
        }
        test_guard_free(got, n * sizeof *got);
        kernels_free_weight(&table);
    }
}

/* ---- rope ----------------------------------------------------------------------------------- */

static void test_rope(void **state) {
    enum { ROWS = 9, HEADS = 3, DIM = 20, HALF = 8, POS = 4090 };
    struct test_rng rng = {24};
    float inv_freq[HALF], cs[ROWS * HALF * 2];
    (void)state;
    for (int i = 0; i < HALF; i++) {
        inv_freq[i] = powf(10000, (float)-i / HALF);
    }
    float *x = kernels_vector(&rng, KIND_NORMAL, ROWS * HEADS * DIM);
    float *got = test_guard(ROWS * HEADS * DIM * sizeof *got);
    for (size_t b = 0; b < n_backends; b++) {
        backends[b].ops->rope_angles(backends[b].self, POS, ROWS, inv_freq, HALF, 1.25f, cs);
        memcpy(got, x, ROWS * HEADS * DIM * sizeof *got);
        backends[b].ops->rope(backends[b].self, got, ROWS, HEADS, DIM, cs, HALF);
        for (int i = 0; i < ROWS * HEADS * DIM; i++) {
            int k = i % DIM, row = i / DIM / HEADS, f = k % HALF;
            double angle = (float)(POS + row) * inv_freq[f], want = x[i];
            if (k < HALF) {
                want = 1.25 * (x[i] * cos(angle) - x[i + HALF] * sin(angle));
            } else if (k < 2 * HALF) {
                want = 1.25 * (x[i] * cos(angle) + x[i - HALF] * sin(angle));
            }
            /* Two products of numbers below 1.25, each with some ulp of cosf or sinf. */
            assert_true(fabs(got[i] - want) <= (k < 2 * HALF ? 8 * FLT_EPSILON : 0));
        }
    }
    test_guard_free(x, ROWS * HEADS * DIM * sizeof *x);
    test_guard_free(got, ROWS * HEADS * DIM * sizeof *got);
}

/* ---- memory, choice ------------------------------------------------------------------------- */

static void test_memory(void **state) {
    const struct backend *b = &backends[0];
    const char text[] = "some bytes";
    char back[sizeof text];
    (void)state;
    uint8_t *p = b->ops->alloc(b->self, 1000, NULL);
    assert_int_equal((uintptr_t)p % 64, 0);
    for (int i = 0; i < 1000; i++) {
        assert_int_equal(p[i], 0);
    }
    b->ops->write(b->self, p, text, sizeof text);
    b->ops->read(b->self, back, p, sizeof text);
    assert_string_equal(back, text);
    b->ops->write(b->self, p + 100, text, sizeof text);
    b->ops->clear(b->self, p + 1, 101);
    assert_int_equal(p[0], text[0]);
    for (int i = 1; i < 102; i++) {
        assert_int_equal(p[i], 0);
    }
    assert_int_equal(p[102], text[2]);
    b->ops->free(b->self, p);
}

static uint64_t taken(const struct backend *b) {
    return ((const struct cpu *)b->self)->arena.used_bytes;
}

static void test_isa(void **state) {
    struct backend_limits limits = kernels_limits();
    struct backend b = {0};
    struct err err = {0};
    const char *isa, *best = NULL;
    bool usable;
    (void)state;
    for (size_t i = 0; (isa = backend_cpu_isa_at(i, &usable)); i++) {
        best = usable ? isa : best;
        assert_ptr_equal(backend_cpu_isa_at(i, NULL), isa);
        err.set = false;
        if (usable) {
            assert_int_equal(backend_cpu_open(&b, isa, 1, &limits, &err), 0);
            assert_string_equal(b.isa, isa);
            assert_string_equal(b.name, "cpu");
            assert_int_equal(taken(&b), backend_cpu_scratch_bytes(1, &limits));
            backend_close(&b);
        } else {
            assert_int_equal(backend_cpu_open(&b, isa, 1, &limits, &err), -1);
            assert_err(&err, isa, "lacks");
        }
    }
    err.set = false;
    assert_int_equal(backend_cpu_open(&b, NULL, 1, &limits, &err), 0);
    assert_string_equal(b.isa, best);
    backend_close(&b);
    assert_int_equal(backend_cpu_open(&b, "mmx", 1, &limits, &err), -1);
    assert_err(&err, "mmx", "unknown", "scalar");
    backend_close(&b); /* a failed open leaves nothing to close */
    /* What is foretold is what is taken, however many threads and whatever the model is like. */
    for (uint32_t threads = 1; threads <= 3; threads++) {
        limits.max_ctx_tok = 1000 * threads;
        limits.max_cols = 70000 * threads;
        limits.max_packed_bytes = threads % 2 ? 6000 : 0;
        limits.delta_k_dim = 33 * threads;
        err.set = false;
        assert_int_equal(backend_cpu_open(&b, NULL, threads, &limits, &err), 0);
        assert_int_equal(taken(&b), backend_cpu_scratch_bytes(threads, &limits));
        backend_close(&b);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_elements), cmocka_unit_test(test_nan),
        cmocka_unit_test(test_combine),  cmocka_unit_test(test_embed),
        cmocka_unit_test(test_rope),     cmocka_unit_test(test_memory),
        cmocka_unit_test(test_isa),
    };
    return cmocka_run_group_tests(tests, open_backends, close_backends);
}
