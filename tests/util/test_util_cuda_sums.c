/*
 * test_util_cuda: see test_util_cuda.h. Products, experts.
 */
#include "tests/util/test_util_cuda.h"

#include <float.h>
#include <math.h>

/* ---- matmul --------------------------------------------------------------------------------- */

struct product {
    struct weight w, bias; /* on the backend that runs */
    const float *x;
    uint32_t rows;
};

static void run_matmul(const struct backend *b, const void *ctx, float *out) {
    const struct product *p = ctx;
    size_t n = (size_t)p->rows * p->w.rows;
    float *x = cuda_rig_put(b, p->x, (size_t)p->rows * p->w.cols * sizeof *x);
    float *y = b->ops->alloc(b->self, n * sizeof *y, NULL);
    b->ops->matmul(b->self, &p->w, &p->bias, x, p->rows, y);
    cuda_rig_get(b, out, y, n);
    cuda_rig_release(b, x);
    cuda_rig_release(b, y);
}

/* The product in double precision: the CPU's own way quantises inputs. The device sums at most all
 * products one after the other, each sum rounded by half an ulp. */
static double *multiply(const struct weight *w, const struct weight *bias, const float *x,
                        uint32_t rows, float *want) {
    double *t = mem_calloc((size_t)rows * w->rows, sizeof *t);
    for (uint32_t o = 0; o < w->rows; o++) {
        float *row = kernels_decode(w, o), b = 0;
        if (bias->data) {
            memcpy(&b, bias->data + o * sizeof b, sizeof b);
        }
        for (uint32_t r = 0; r < rows; r++) {
            double size, sum = kernels_dot(row, x + (size_t)r * w->cols, w->cols, &size);
            size += fabs((double)b);
            want[(size_t)r * w->rows + o] = (float)(sum + (double)b);
            t[(size_t)r * w->rows + o] =
                (double)FLT_EPSILON * (w->cols / 2 + 5) * size + w->cols * 0x1p-149;
        }
        free(row);
    }
    return t;
}

static void check_matmul(void *ctx, struct test_rng *rng, const struct weight *w,
                         const struct weight *bias, enum kind kind, uint32_t rows) {
    const struct cuda_rig *g = ctx;
    const struct backend *b = &g->device;
    size_t n_out = (size_t)rows * w->rows, n_in = (size_t)rows * w->cols;
    float *x = kernels_vector(rng, kind, n_in), *want = cuda_rig_zeros(n_out),
          *got = cuda_rig_zeros(n_out);
    float *one = cuda_rig_zeros(w->rows);
    struct product p = {*w, *bias, x, rows};
    char *what = mem_printf("matmul %s %ux%u, %u rows, %s", w->codec->name, w->rows, w->cols, rows,
                            kind_name(kind));
    double *t = multiply(w, bias, x, rows, want);
    p.w = cuda_rig_place_weight(b, w);
    p.bias = cuda_rig_place_weight(b, bias);
    cuda_rig_check(g, what, run_matmul, &p, got, want, t, n_out);
    /* Calls of few rows give each row the bits that it gets alone. */
    for (uint32_t r = 0; r < rows && rows <= 8; r++) {
        p.x = x + (size_t)r * w->cols;
        p.rows = 1;
        run_matmul(b, &p, one);
        check_same(what, got + (size_t)r * w->rows, one, w->rows);
    }
    free(what);
    free(t);
    free(want);
    free(got);
    free(one);
    test_guard_free(x, n_in * sizeof *x);
}

void cuda_test_matmul(void **state) {
    static const struct kernels_shape shapes[] = {{1, 32},    {3, 64},    {17, 96}, {64, 256},
                                                  {130, 160}, {33, 7},    {5, 100}, {70, 544},
                                                  {9, 2080},  {37, 1024}, {3, 9216}};
    static const uint32_t row_counts[] = {1, 2, 3, 5, 8, 9, 70};
    struct test_rng rng = {36};
    kernels_each_product(&rng,
                         &(struct kernels_products){shapes, TEST_COUNT(shapes), row_counts,
                                                    TEST_COUNT(row_counts), check_matmul, *state});
}

/* ---- experts -------------------------------------------------------------------------------- */

/* As in test_kernels.c: some hundred ulp of the greatest possible output. */
static const double experts_tolerance = 256 * (double)FLT_EPSILON;
enum { N_EXPERTS = 6, N_ACTIVE = 2, MAX_ROWS = 96 };

static const struct ffn_rule ffn_rules[] = {
    {.act = FFN_SILU},
    {.act = FFN_GELU_TANH},
    {.act = FFN_SWIGLU_OAI, .bias = 1, .limit = 2, .alpha = 1.702f},
    {.act = FFN_SILU, .bias = 1},
    {.act = FFN_RELU},
    {.act = FFN_SILU_LIMIT, .limit = 1.5f},
};

struct layer {
    const struct codec *codec;
    uint32_t dim, rows, ffn;
    uint32_t from, chunk; /* neurons from this one on are there; neurons of a chunk */
    struct ffn_rule rule;
    struct weight experts[N_EXPERTS]; /* [3 * ffn, dim] */
    float *gate_bias, *up_bias, *down_bias;
    uint8_t *data[N_EXPERTS]; /* on the backend that runs, as the biases in `placed` */
    struct expert_layer placed;
    float *x;
    int32_t *ids; /* [rows, N_ACTIVE] */
};

static void run_layer(const struct backend *b, const void *ctx, float *out) {
    const struct layer *l = ctx;
    struct expert_job jobs[N_EXPERTS];
    struct ffn_chunk chunks[N_EXPERTS][64];
    uint32_t uses[N_EXPERTS][MAX_ROWS * N_ACTIVE], n_jobs = 0;
    size_t neuron_bytes = 3 * codec_row_bytes(l->codec, l->dim);
    size_t n = (size_t)l->rows * N_ACTIVE * l->dim;
    float *x = cuda_rig_put(b, l->x, (size_t)l->rows * l->dim * sizeof *x);
    float *parts = b->ops->alloc(b->self, n * sizeof *parts, NULL);
    struct expert_layer layer = l->placed;
    memset(out, 0xff, n * sizeof *out);
    b->ops->write(b->self, parts, out, n * sizeof *parts); /* NaN: all must be written */
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        struct expert_job *job = &jobs[n_jobs];
        *job = (struct expert_job){.expert = e, .chunks = chunks[n_jobs], .uses = uses[n_jobs]};
        for (uint32_t u = 0; u < l->rows * N_ACTIVE; u++) {
            if (l->ids[u] == (int32_t)e) {
                uses[n_jobs][job->n_uses++] = u;
            }
        }
        for (uint32_t i = l->from; i < l->ffn; i += l->chunk) {
            uint32_t rest = l->ffn - i;
            chunks[n_jobs][job->n_chunks++] =
                (struct ffn_chunk){.data = l->data[e] + i * neuron_bytes,
                                   .codec = l->codec,
                                   .n_neurons = rest < l->chunk ? rest : l->chunk,
                                   .first = i};
        }
        n_jobs += job->n_uses > 0 || e == 5;
    }
    b->ops->experts(b->self, &layer, jobs, n_jobs, x, parts);
    memset(&layer, 0xff, sizeof layer); /* free to change when the operation returns */
    memset(jobs, 0xff, sizeof jobs);
    memset(chunks, 0xff, sizeof chunks);
    memset(uses, 0xff, sizeof uses);
    cuda_rig_get(b, out, parts, n);
    cuda_rig_release(b, x);
    cuda_rig_release(b, parts);
}

/* The activation, in double precision. */
static double act(const struct ffn_rule *rule, double g, double u) {
    const double limit = (double)rule->limit, alpha = (double)rule->alpha;
    switch (rule->act) {
    case FFN_GELU_TANH:
        return g / 2 * (1 + tanh(sqrt(2 / 3.14159265358979324) * (g + 0.044715 * g * g * g))) * u;
    case FFN_SWIGLU_OAI:
        g = fmin(g, limit);
        return g / (1 + exp(-alpha * g)) * (fmax(fmin(u, limit), -limit) + 1);
    case FFN_RELU:
        return fmax(g, 0) * u;
    case FFN_SILU_LIMIT:
        return fmin(g / (1 + exp(-g)), limit) * fmax(fmin(u, limit), -limit);
    default:
        return g / (1 + exp(-g)) * u;
    }
}

/* sum [dim] += what neuron i of expert `id` gives for the input x; returns how great it may be. */
static double add_neuron(const struct layer *l, int32_t id, uint32_t i, const float *x,
                         double *sum) {
    const size_t at = (size_t)id * l->ffn + i;
    const double more = l->rule.act == FFN_SWIGLU_OAI ? 1 : 0;
    double peak = 0, g_size, u_size, g_bias = 0, u_bias = 0;
    float *w[3];
    for (uint32_t k = 0; k < 3; k++) {
        w[k] = kernels_decode(&l->experts[id], 3 * i + k);
    }
    if (l->rule.bias) {
        g_bias = (double)l->gate_bias[at];
        u_bias = (double)l->up_bias[at];
    }
    double gate = kernels_dot(w[0], x, l->dim, &g_size) + g_bias;
    double up = kernels_dot(w[1], x, l->dim, &u_size) + u_bias;
    for (uint32_t c = 0; c < l->dim; c++) {
        peak = fmax(peak, fabs((double)w[2][c]));
        sum[c] += act(&l->rule, gate, up) * (double)w[2][c];
    }
    for (uint32_t k = 0; k < 3; k++) {
        free(w[k]);
    }
    return (g_size + fabs(g_bias)) * (u_size + fabs(u_bias) + more) * peak;
}

/* parts in double precision, into `want`; returns the greatest possible |output|. */
static double compute_layer(const struct layer *l, float *want) {
    double greatest = 0, *sum = mem_calloc(l->dim, sizeof *sum);
    for (uint32_t u = 0; u < l->rows * N_ACTIVE; u++) {
        const float *x = l->x + (size_t)(u / N_ACTIVE) * l->dim;
        double size = l->rule.bias ? 1 : 0;
        for (uint32_t c = 0; c < l->dim; c++) {
            sum[c] = l->rule.bias ? (double)l->down_bias[(size_t)l->ids[u] * l->dim + c] : 0;
        }
        for (uint32_t i = l->from; i < l->ffn; i++) {
            size += add_neuron(l, l->ids[u], i, x, sum);
        }
        greatest = fmax(greatest, size);
        for (uint32_t c = 0; c < l->dim; c++) {
            want[(size_t)u * l->dim + c] = (float)sum[c];
        }
    }
    free(sum);
    return greatest;
}

/* The experts' data and biases, on a backend and away from there. */
static void place_layer(const struct backend *b, struct layer *l) {
    const size_t n = (size_t)N_EXPERTS * l->ffn * sizeof(float);
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        l->data[e] =
            cuda_rig_put(b, l->experts[e].data, l->experts[e].rows * l->experts[e].stride_bytes);
    }
    l->placed = (struct expert_layer){
        .dim = l->dim, .ffn_dim = l->ffn, .n_active = N_ACTIVE, .rule = l->rule};
    if (l->rule.bias) {
        l->placed.gate_bias = cuda_rig_put(b, l->gate_bias, n);
        l->placed.up_bias = cuda_rig_put(b, l->up_bias, n);
        l->placed.down_bias =
            cuda_rig_put(b, l->down_bias, (size_t)N_EXPERTS * l->dim * sizeof(float));
    }
}

static void release_layer(const struct backend *b, struct layer *l) {
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        cuda_rig_release(b, l->data[e]);
    }
    cuda_rig_release(b, (float *)(uintptr_t)l->placed.gate_bias);
    cuda_rig_release(b, (float *)(uintptr_t)l->placed.up_bias);
    cuda_rig_release(b, (float *)(uintptr_t)l->placed.down_bias);
}

static void check_layer(const struct cuda_rig *g, struct layer *l) {
    static const uint32_t chunk_sizes[] = {32, 64, 1024};
    const struct backend *b = &g->device;
    size_t n = (size_t)l->rows * N_ACTIVE * l->dim;
    float *want = cuda_rig_zeros(n), *got = cuda_rig_zeros(n), *first = cuda_rig_zeros(n);
    char *what = mem_printf("experts %s, dim %u, neurons %u to %u, %u rows, activation %u%s",
                            l->codec->name, l->dim, l->from, l->ffn, l->rows, l->rule.act,
                            l->rule.bias ? " with biases" : "");
    double *t = cuda_rig_tolerances(want, n, 0, experts_tolerance * compute_layer(l, want));
    place_layer(b, l);
    for (size_t i = 0; i < TEST_COUNT(chunk_sizes); i++) {
        l->chunk = chunk_sizes[i];
        if (i == 0) {
            cuda_rig_check(g, what, run_layer, l, got, want, t, n);
            memcpy(first, got, n * sizeof *got);
        }
        run_layer(b, l, got);
        check_same(what, got, first, n); /* chunks change nothing */
    }
    if (l->rows <= 8) { /* nor do other rows, where rows are few */
        struct layer one = *l;
        one.rows = 1;
        for (uint32_t r = 0; r < l->rows; r++) {
            one.x = l->x + (size_t)r * l->dim;
            one.ids = l->ids + (size_t)r * N_ACTIVE;
            run_layer(b, &one, got);
            check_same(what, got, first + (size_t)r * N_ACTIVE * l->dim, (size_t)N_ACTIVE * l->dim);
        }
    }
    release_layer(b, l);
    free(what);
    free(t);
    free(want);
    free(got);
    free(first);
}

/* A layer of random numbers. */
static void make_layer(struct test_rng *rng, struct layer *l) {
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        l->experts[e] = kernels_weight(rng, l->codec, KIND_NORMAL, 3 * l->ffn, l->dim, 0);
    }
    l->gate_bias = kernels_vector(rng, KIND_NORMAL, (size_t)N_EXPERTS * l->ffn);
    l->up_bias = kernels_vector(rng, KIND_NORMAL, (size_t)N_EXPERTS * l->ffn);
    l->down_bias = kernels_vector(rng, KIND_NORMAL, (size_t)N_EXPERTS * l->dim);
    l->x = kernels_vector(rng, KIND_NORMAL, (size_t)l->rows * l->dim);
    l->ids = mem_calloc((size_t)l->rows * N_ACTIVE, sizeof *l->ids);
    for (uint32_t r = 0; r < l->rows; r++) { /* expert 0 is everybody's, expert 5 nobody's */
        l->ids[r * 2] = (int32_t)(test_u64(rng) % 4 + 1);
        l->ids[r * 2 + 1] = 0;
    }
}

static void free_layer(struct layer *l) {
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        kernels_free_weight(&l->experts[e]);
    }
    test_guard_free(l->gate_bias, (size_t)N_EXPERTS * l->ffn * sizeof(float));
    test_guard_free(l->up_bias, (size_t)N_EXPERTS * l->ffn * sizeof(float));
    test_guard_free(l->down_bias, (size_t)N_EXPERTS * l->dim * sizeof(float));
    test_guard_free(l->x, (size_t)l->rows * l->dim * sizeof *l->x);
    free(l->ids);
}

void cuda_test_experts(void **state) {
    static const struct {
        uint32_t dim, ffn, rows;
    } cases[] = {{32, 32, 1},   {96, 100, 1},   {64, 33, 2},  {160, 70, 3},
                 {544, 116, 7}, {288, 160, 40}, {32, 1, 9},   {1088, 40, 8},
                 {64, 40, 80},  {45, 40, 6},    {8224, 33, 1}};
    const struct cuda_rig *g = *state;
    struct test_rng rng = {37};
    const struct codec *codec;
    uint32_t n = 0;
    for (size_t c = 0; (codec = codec_at(c)); c++) {
        for (size_t i = 0; i < TEST_COUNT(cases); i++) {
            struct layer l = {
                .codec = codec, .dim = cases[i].dim, .rows = cases[i].rows, .ffn = cases[i].ffn};
            if (!codec_fits(codec, l.dim)) {
                continue;
            }
            l.rule = ffn_rules[n++ % TEST_COUNT(ffn_rules)];
            l.from = n % 3 == 0 && l.ffn > FFN_BLOCK ? FFN_BLOCK : 0;
            make_layer(&rng, &l);
            check_layer(g, &l);
            free_layer(&l);
        }
    }
}

/* Uses whose chunks are all left out give the bias, or zeros; a call without uses does nothing. */
void cuda_test_experts_empty(void **state) {
    enum { DIM = 32, EXPERT = 3 };
    const struct cuda_rig *g = *state;
    const struct backend *b = &g->device;
    for (uint32_t n_uses = 0; n_uses <= 40; n_uses += 5) {
        uint32_t uses[20], n = n_uses / 2 < 20 ? n_uses / 2 : 20;
        float got[20 * DIM], x[20 * DIM], bias[(EXPERT + 1) * DIM];
        kernels_fill(&(struct test_rng){38}, KIND_NORMAL, x, TEST_COUNT(x));
        kernels_fill(&(struct test_rng){39}, KIND_NORMAL, bias, TEST_COUNT(bias));
        for (uint32_t u = 0; u < 20; u++) {
            uses[u] = u;
        }
        struct expert_job job = {.expert = EXPERT, .uses = uses, .n_uses = n};
        float *dx = cuda_rig_put(b, x, sizeof x), *parts = cuda_rig_put(b, x, sizeof x);
        float *db = cuda_rig_put(b, bias, sizeof bias);
        struct expert_layer layer = {.dim = DIM,
                                     .n_active = 1,
                                     .rule = {.bias = n_uses % 2},
                                     .down_bias = n_uses % 2 ? db : NULL};
        b->ops->experts(b->self, &layer, &job, 1, dx, parts);
        b->ops->experts(b->self, &layer, &job, 0, dx, parts);
        cuda_rig_get(b, got, parts, TEST_COUNT(got));
        for (uint32_t i = 0; i < TEST_COUNT(got); i++) {
            float want = i / DIM >= n ? x[i] : n_uses % 2 ? bias[EXPERT * DIM + i % DIM] : 0;
            assert_true(got[i] == want);
        }
        cuda_rig_release(b, dx);
        cuda_rig_release(b, db);
        cuda_rig_release(b, parts);
    }
}

/* ---- experts, as many and as large as models have them --------------------------------------- */

/* Tables of jobs of this size, with rows so narrow, and chunks so much alike, that computing takes
 * no time. */
struct crowd {
    uint32_t n_experts, ffn, rows, n_active, chunk;
    const float *x;
};
enum { CROWD_DIM = 32 };

static void run_crowd(const struct backend *b, const struct crowd *c, const uint8_t *chunk_data,
                      float *out) {
    const size_t n_uses = (size_t)c->rows * c->n_active;
    const uint32_t n_chunks = (c->ffn + c->chunk - 1) / c->chunk;
    struct expert_job *jobs = mem_calloc(c->n_experts, sizeof *jobs);
    struct ffn_chunk *chunks = mem_calloc(n_chunks, sizeof *chunks);
    uint32_t *uses = mem_calloc(n_uses, sizeof *uses), n = 0;
    float *x = cuda_rig_put(b, c->x, (size_t)c->rows * CROWD_DIM * sizeof *x);
    float *parts = b->ops->alloc(b->self, n_uses * CROWD_DIM * sizeof *parts, NULL);
    for (uint32_t i = 0; i < n_chunks; i++) {
        chunks[i] =
            (struct ffn_chunk){chunk_data, codec_by_id(CODEC_F32), c->chunk, i * c->chunk, 0};
    }
    for (uint32_t e = 0; e < c->n_experts; e++) {
        jobs[e] = (struct expert_job){e, chunks, n_chunks, uses + n, 0};
        for (uint32_t u = 0; u < n_uses; u++) {
            if (u % c->n_experts == e) {
                uses[n++] = u;
                jobs[e].n_uses++;
            }
        }
    }
    struct expert_layer layer = {.dim = CROWD_DIM, .ffn_dim = c->ffn};
    layer.n_active = c->n_active;
    b->ops->experts(b->self, &layer, jobs, c->n_experts, x, parts);
    cuda_rig_get(b, out, parts, n_uses * CROWD_DIM);
    cuda_rig_release(b, x);
    cuda_rig_release(b, parts);
    free(jobs);
    free(chunks);
    free(uses);
}

static void check_crowd(const struct cuda_rig *g, const struct crowd *c) {
    const size_t n = (size_t)c->rows * c->n_active * CROWD_DIM;
    const size_t bytes = (size_t)c->chunk * 3 * CROWD_DIM * sizeof(float);
    struct backend_limits limits = {.max_rows = c->rows,
                                    .max_cols = CROWD_DIM,
                                    .max_ffn = c->ffn,
                                    .max_active = c->n_active,
                                    .max_experts = c->n_experts,
                                    .max_ctx_tok = 128,
                                    .n_heads = 1,
                                    .head_dim = 32};
    struct test_rng rng = {46};
    struct backend cpu, device;
    struct err err = {0};
    float *data = kernels_vector(&rng, KIND_NORMAL, bytes / sizeof(float));
    float *x = kernels_vector(&rng, KIND_NORMAL, (size_t)c->rows * CROWD_DIM);
    float *want = cuda_rig_zeros(n), *got = cuda_rig_zeros(n);
    struct crowd crowd = *c;
    crowd.x = x;
    backend_cpu_open(&cpu, "scalar", 1, &limits, &err);
    assert_no_err(&err);
    run_crowd(&cpu, &crowd, (const uint8_t *)data, want);
    backend_close(&cpu);
    g->open(&device, &limits);
    uint8_t *there = cuda_rig_put(&device, data, bytes);
    run_crowd(&device, &crowd, there, got);
    cuda_rig_release(&device, there);
    backend_close(&device);
    for (size_t i = 0; i < n; i++) {
        double tolerance = 1e-6 * c->ffn * (1 + fabs((double)want[i]) / c->ffn);
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance)) {
            fail_msg("%u experts of %u neurons: element %zu is %.9g, scalar has %.9g", c->n_experts,
                     c->ffn, i, (double)got[i], (double)want[i]);
        }
    }
    free(want);
    free(got);
    test_guard_free(data, bytes);
    test_guard_free(x, (size_t)c->rows * CROWD_DIM * sizeof *x);
}

void cuda_test_experts_tables(void **state) {
    check_crowd(*state, &(struct crowd){8, 14336, 4, 2, 64, NULL});
    check_crowd(*state, &(struct crowd){128, 768, 256, 8, 32, NULL});
}
