/*
 * test_util_cuda: see test_util_cuda.h.
 */
#include "tests/test_util_cuda.h"

#include <float.h>
#include <math.h>

/* ---- device memory and comparisons ---------------------------------------------------------- */

static void *to_device(const struct backend *b, const void *host, size_t bytes) {
    void *p = b->ops->alloc(b->self, bytes);
    b->ops->write(b->self, p, host, bytes);
    return p;
}

static void from_device(const struct backend *b, float *host, const float *device, size_t n) {
    b->ops->read(b->self, host, device, n * sizeof *host);
}

static void release(const struct backend *b, void *p) {
    b->ops->free(b->self, p);
}

static float *zeros(size_t n) {
    return mem_calloc(n, sizeof(float));
}

#define check_close(what, got, want, tolerance, n)                                                 \
    check_close_at(what, got, want, tolerance, n, __FILE__, __LINE__)
static void check_close_at(const char *what, const float *got, const float *want,
                           const double *tolerance, size_t n, const char *file, int line) {
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance[i])) {
            print_error("%s: element %zu of %zu is %.9g, scalar has %.9g, tolerance %.3g\n", what,
                        i, n, (double)got[i], (double)want[i], tolerance[i]);
            _fail(file, line);
        }
    }
}

#define check_same(what, got, want, n) check_same_at(what, got, want, n, __FILE__, __LINE__)
static void check_same_at(const char *what, const float *got, const float *want, size_t n,
                          const char *file, int line) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) != 0) {
            print_error("%s: element %zu of %zu is %a, expected the bits of %a\n", what, i, n,
                        (double)got[i], (double)want[i]);
            _fail(file, line);
        }
    }
}

static void set_variant(const struct cuda_rig *g, int variant) {
    if (g->set_variant) {
        g->set_variant(variant);
    }
}

/* Compute `got` [n] by `run` with every variant: close to `want`, and always the same bits. */
typedef void run_fn(const struct backend *b, const void *ctx, float *out);
static void check_variants(const struct cuda_rig *g, const char *what, run_fn *run, const void *ctx,
                           float *got, const float *want, const double *tolerance, size_t n) {
    float *first = zeros(n);
    for (int v = 0; v < g->n_variants; v++) {
        set_variant(g, v);
        memset(got, 0xff, n * sizeof *got);
        run(&g->device, ctx, got);
        if (v == 0) {
            memcpy(first, got, n * sizeof *got);
            check_close(what, got, want, tolerance, n);
        }
        check_same(what, got, first, n);
    }
    set_variant(g, 0);
    free(first);
}

static double *tolerances(const float *want, size_t n, double relative, double absolute) {
    double *t = mem_calloc(n, sizeof *t);
    for (size_t i = 0; i < n; i++) {
        t[i] = relative * fabs((double)want[i]) + absolute;
    }
    return t;
}

/* ---- memory --------------------------------------------------------------------------------- */

void cuda_test_memory(void **state) {
    const struct cuda_rig *g = *state;
    const struct backend *b = &g->device;
    struct test_rng rng = {31};
    for (size_t n = 1; n < 300000; n = n * 7 + 3) {
        uint8_t *host = mem_alloc(n), *back = mem_alloc(n);
        for (size_t i = 0; i < n; i++) {
            host[i] = (uint8_t)test_u64(&rng);
        }
        uint8_t *p = b->ops->alloc(b->self, n);
        assert_int_equal((uintptr_t)p % 64, 0);
        b->ops->read(b->self, back, p, n);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(back[i], 0);
        }
        b->ops->write(b->self, p, host, n);
        b->ops->read(b->self, back, p, n);
        assert_memory_equal(back, host, n);
        release(b, p);
        free(host);
        free(back);
    }
    struct weight none = {0};
    assert_null(b->ops->place(b->self, &none).data);
}

/* ---- elements ------------------------------------------------------------------------------- */

struct elements {
    int op;
    uint32_t rows, dim;
    const float *x, *y, *per_row, *per_col;
};
enum { RMSNORM, RMSNORM_IN_PLACE, CLAMP, SILU_MUL, ADD, GATE_ROWS, COMBINE, N_OPS };
static const char *const op_names[] = {"rmsnorm", "rmsnorm in place", "clamp",  "silu_mul",
                                       "add",     "gate_rows",        "combine"};
enum { ACTIVE = 3 };

static void run_elements(const struct backend *b, const void *ctx, float *out) {
    const struct elements *e = ctx;
    const struct backend_ops *op = b->ops;
    const size_t n = (size_t)e->rows * e->dim, uses = e->op == COMBINE ? ACTIVE : 1;
    float *x = to_device(b, e->x, n * uses * sizeof *x);
    float *y = to_device(b, e->y, n * sizeof *y);
    float *row = to_device(b, e->per_row, e->rows * uses * sizeof *row);
    float *got = op->alloc(b->self, n * sizeof *got), *result = got;
    struct weight w = {codec_by_id(CODEC_F32), 1, e->dim, e->dim * sizeof(float),
                       (const uint8_t *)(const void *)e->per_col};
    if (e->op == RMSNORM || e->op == RMSNORM_IN_PLACE) {
        w = op->place(b->self, &w);
    }
    switch (e->op) {
    case RMSNORM:
        op->rmsnorm(b->self, x, &w, 1e-6f, e->rows, e->dim, got);
        break;
    case RMSNORM_IN_PLACE:
        op->rmsnorm(b->self, x, &w, 1e-6f, e->rows, e->dim, x);
        result = x;
        break;
    case CLAMP:
        op->clamp(b->self, x, n, 0.25f);
        result = x;
        break;
    case SILU_MUL:
        op->silu_mul(b->self, x, y, n);
        result = x;
        break;
    case ADD:
        op->add(b->self, x, y, n);
        result = x;
        break;
    case GATE_ROWS:
        op->gate_rows(b->self, x, row, e->rows, e->dim);
        result = x;
        break;
    default:
        op->combine(b->self, x, row, e->rows, ACTIVE, e->dim, got);
        break;
    }
    from_device(b, out, result, n);
    release(b, x);
    release(b, y);
    release(b, row);
    release(b, got);
}

void cuda_test_elements(void **state) {
    static const struct {
        uint32_t rows, dim;
    } shapes[] = {{1, 1}, {1, 7}, {3, 8}, {5, 33}, {2, 2080}, {40, 1003}};
    const struct cuda_rig *g = *state;
    struct test_rng rng = {32};
    for (size_t s = 0; s < TEST_COUNT(shapes) * KIND_COUNT; s++) {
        struct elements e = {.rows = shapes[s / KIND_COUNT].rows,
                             .dim = shapes[s / KIND_COUNT].dim};
        enum kind kind = (enum kind)(s % KIND_COUNT);
        size_t n = (size_t)e.rows * e.dim;
        float *x = kernels_vector(&rng, kind, n * ACTIVE), *y = kernels_vector(&rng, kind, n);
        float *row = kernels_vector(&rng, KIND_SPIKY, e.rows * ACTIVE);
        float *col = kernels_vector(&rng, KIND_NORMAL, e.dim);
        float *want = zeros(n), *got = test_guard(n * sizeof *got);
        e.x = x;
        e.y = y;
        e.per_row = row;
        e.per_col = col;
        for (e.op = 0; e.op < N_OPS; e.op++) {
            char *what =
                mem_printf("%s %u x %u, %s", op_names[e.op], e.rows, e.dim, kind_name(kind));
            run_elements(&g->scalar, &e, want);
            /* Sums of squares as a dot product; exp some ulp on both sides, its overflow to
             * infinity as on the CPU; the rest is exact. */
            bool exact = e.op == CLAMP || e.op == ADD || e.op == COMBINE;
            double relative = exact ? 0 : FLT_EPSILON * (16 + e.dim / 8.0);
            double absolute = exact ? 0 : e.op == SILU_MUL ? 0x1p-105 : 0x1p-120;
            double *t = tolerances(want, n, relative, absolute);
            check_variants(g, what, run_elements, &e, got, want, t, n);
            free(t);
            free(what);
        }
        test_guard_free(x, n * ACTIVE * sizeof *x);
        test_guard_free(y, n * sizeof *y);
        test_guard_free(row, e.rows * ACTIVE * sizeof *row);
        test_guard_free(col, e.dim * sizeof *col);
        test_guard_free(got, n * sizeof *got);
        free(want);
    }
    float odd[] = {NAN, INFINITY, -INFINITY};
    float *x = to_device(&g->device, odd, sizeof odd);
    g->device.ops->clamp(g->device.self, x, 3, 8);
    from_device(&g->device, odd, x, 3);
    assert_true(isnan(odd[0]) && odd[1] == 8 && odd[2] == -8);
    release(&g->device, x);
}

void cuda_test_embed(void **state) {
    static const int32_t ids[] = {3, 0, 4, 4, 1};
    const struct cuda_rig *g = *state;
    const struct backend *b = &g->device;
    struct test_rng rng = {33};
    const struct codec *codec;
    for (size_t c = 0; (codec = codec_at(c)); c++) {
        for (uint32_t cols = 32; cols < 9000; cols += 2976) {
            struct weight table = kernels_weight(&rng, codec, KIND_SPIKY, 5, cols, c % 2 * 2);
            struct weight placed = b->ops->place(b->self, &table);
            size_t n = TEST_COUNT(ids) * cols;
            float *out = b->ops->alloc(b->self, n * sizeof *out), *got = zeros(n);
            b->ops->embed(b->self, &placed, ids, TEST_COUNT(ids), out);
            from_device(b, got, out, n);
            for (size_t i = 0; i < TEST_COUNT(ids); i++) {
                float *want = kernels_decode(&table, (uint32_t)ids[i]);
                check_same(codec->name, got + i * cols, want, cols);
                free(want);
            }
            release(b, out);
            free(got);
            kernels_free_weight(&table);
        }
    }
}

/* ---- rope, route ---------------------------------------------------------------------------- */

enum { ROPE_ROWS = 9, ROPE_HEADS = 3, ROPE_DIM = 20, ROPE_HALF = 8 };

static void run_rope(const struct backend *b, const void *ctx, float *out) {
    float inv_freq[ROPE_HALF];
    size_t n = ROPE_ROWS * ROPE_HEADS * ROPE_DIM, n_cs = (size_t)ROPE_ROWS * ROPE_HALF * 2;
    float *x = to_device(b, ctx, n * sizeof *x), *cs = b->ops->alloc(b->self, n_cs * sizeof *cs);
    for (int i = 0; i < ROPE_HALF; i++) {
        inv_freq[i] = powf(10000, (float)-i / ROPE_HALF);
    }
    b->ops->rope_angles(b->self, 4090, ROPE_ROWS, inv_freq, ROPE_HALF, 1.25f, cs);
    memset(inv_freq, 0xff, sizeof inv_freq); /* free to change when the operation returns */
    b->ops->rope(b->self, x, ROPE_ROWS, ROPE_HEADS, ROPE_DIM, cs, ROPE_HALF);
    from_device(b, out, x, n);
    release(b, x);
    release(b, cs);
}

void cuda_test_rope(void **state) {
    enum { N = ROPE_ROWS * ROPE_HEADS * ROPE_DIM };
    const struct cuda_rig *g = *state;
    struct test_rng rng = {34};
    float x[N], want[N], got[N];
    kernels_fill(&rng, KIND_NORMAL, x, N);
    run_rope(&g->scalar, x, want);
    double *t = tolerances(want, N, 0, 16 * FLT_EPSILON);
    check_variants(g, "rope", run_rope, x, got, want, t, N);
    free(t);
}

/* Logits of a row: random, equal, neighbouring floats, many ties, huge, NaN among them. */
static void fill_logits(struct test_rng *rng, int pattern, float *logits, size_t n) {
    float near = 3.0f;
    for (size_t i = 0; i < n; i++) {
        float x = test_f32(rng);
        near = nextafterf(near, x < 0 ? -INFINITY : INFINITY);
        logits[i] = pattern == 0   ? x * 8
                    : pattern == 1 ? 1.5f
                    : pattern == 2 ? near
                    : pattern == 3 ? floorf(x * 2)
                    : pattern == 4 ? x * 1e4f
                    : x < 0        ? NAN
                                   : x;
    }
}

struct route {
    const float *logits;
    uint32_t rows, n, n_active;
    bool normalise;
    int32_t *ids;
};

static void run_route(const struct backend *b, const void *ctx, float *out) {
    const struct route *r = ctx;
    size_t n = (size_t)r->rows * r->n_active;
    float *logits = to_device(b, r->logits, (size_t)r->rows * r->n * sizeof *logits);
    float *weights = b->ops->alloc(b->self, n * sizeof *weights);
    int32_t *ids = b->ops->alloc(b->self, n * sizeof *ids);
    b->ops->route(b->self, logits, r->rows, r->n, r->n_active, r->normalise, ids, weights);
    from_device(b, out, weights, n);
    b->ops->read(b->self, r->ids, ids, n * sizeof *ids);
    release(b, logits);
    release(b, weights);
    release(b, ids);
}

void cuda_test_route(void **state) {
    static const uint32_t experts[] = {1, 2, 7, 8, 60, 64, 128, 256};
    const struct cuda_rig *g = *state;
    struct test_rng rng = {35};
    for (size_t i = 0; i < TEST_COUNT(experts) * 6; i++) {
        uint32_t n = experts[i / 6], rows = i % 2 ? 1 : 37;
        float *logits = zeros((size_t)rows * n);
        fill_logits(&rng, (int)(i % 6), logits, (size_t)rows * n);
        struct route r = {logits, rows, n, n < 8 ? n : 8, i % 2, NULL};
        size_t n_out = (size_t)rows * r.n_active;
        int32_t *ids = mem_calloc(n_out, sizeof *ids), *got_ids = mem_calloc(n_out, sizeof *ids);
        float *want = zeros(n_out), *got = zeros(n_out);
        r.ids = ids;
        run_route(&g->scalar, &r, want);
        r.ids = got_ids;
        if (i % 6 == 5) { /* weights are NaN then */
            run_route(&g->device, &r, got);
        } else {
            double *t = tolerances(want, n_out, 64 * FLT_EPSILON, 0x1p-120);
            check_variants(g, "route", run_route, &r, got, want, t, n_out);
            free(t);
        }
        assert_memory_equal(ids, got_ids, n_out * sizeof *ids);
        free(ids);
        free(got_ids);
        free(want);
        free(got);
        free(logits);
    }
}

/* ---- matmul --------------------------------------------------------------------------------- */

struct product {
    struct weight w, bias; /* on the backend that runs */
    const float *x;
    uint32_t rows;
};

static void run_matmul(const struct backend *b, const void *ctx, float *out) {
    const struct product *p = ctx;
    size_t n = (size_t)p->rows * p->w.rows;
    float *x = to_device(b, p->x, (size_t)p->rows * p->w.cols * sizeof *x);
    float *y = b->ops->alloc(b->self, n * sizeof *y);
    b->ops->matmul(b->self, &p->w, &p->bias, x, p->rows, y);
    from_device(b, out, y, n);
    release(b, x);
    release(b, y);
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

static void check_matmul(const struct cuda_rig *g, struct test_rng *rng, const struct weight *w,
                         const struct weight *bias, enum kind kind, uint32_t rows) {
    const struct backend *b = &g->device;
    size_t n_out = (size_t)rows * w->rows, n_in = (size_t)rows * w->cols;
    float *x = kernels_vector(rng, kind, n_in), *want = zeros(n_out), *got = zeros(n_out);
    float *one = zeros(w->rows);
    struct product p = {*w, *bias, x, rows};
    char *what = mem_printf("matmul %s %ux%u, %u rows, %s", w->codec->name, w->rows, w->cols, rows,
                            kind_name(kind));
    double *t = multiply(w, bias, x, rows, want);
    p.w = b->ops->place(b->self, w);
    p.bias = b->ops->place(b->self, bias);
    check_variants(g, what, run_matmul, &p, got, want, t, n_out);
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
    static const struct {
        uint32_t rows, cols;
    } shapes[] = {{1, 32},  {3, 64},   {17, 96},  {64, 256},  {130, 160}, {33, 7},
                  {5, 100}, {70, 544}, {9, 2080}, {37, 1024}, {3, 9216}};
    static const uint32_t row_counts[] = {1, 2, 3, 5, 8, 9, 70};
    const struct cuda_rig *g = *state;
    struct test_rng rng = {36};
    const struct codec *codec;
    for (size_t c = 0; (codec = codec_at(c)); c++) {
        for (size_t s = 0; s < TEST_COUNT(shapes); s++) {
            for (size_t n = 0; n < TEST_COUNT(row_counts); n++) {
                enum kind kind = (enum kind)((s + n) % KIND_COUNT);
                if (!codec_fits(codec, shapes[s].cols)) {
                    continue;
                }
                struct weight none = {0}, w = kernels_weight(&rng, codec, kind, shapes[s].rows,
                                                             shapes[s].cols, 3 * (s % 2));
                struct weight bias =
                    kernels_weight(&rng, codec_by_id(CODEC_F32), kind, 1, w.rows, 0);
                check_matmul(g, &rng, &w, n % 2 ? &bias : &none, kind, row_counts[n]);
                kernels_free_weight(&w);
                kernels_free_weight(&bias);
            }
        }
    }
}

/* ---- experts -------------------------------------------------------------------------------- */

/* As in test_kernels.c: some hundred ulp of the greatest possible output. */
static const double experts_tolerance = 256 * (double)FLT_EPSILON;
enum { N_EXPERTS = 6, N_ACTIVE = 2, MAX_ROWS = 96 };

struct layer {
    const struct codec *codec;
    uint32_t dim, rows, ffn, chunk;
    struct weight experts[N_EXPERTS]; /* [3 * ffn, dim] */
    uint8_t *data[N_EXPERTS];         /* on the backend that runs */
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
    float *x = to_device(b, l->x, (size_t)l->rows * l->dim * sizeof *x);
    float *parts = b->ops->alloc(b->self, n * sizeof *parts);
    memset(out, 0xff, n * sizeof *out);
    b->ops->write(b->self, parts, out, n * sizeof *parts); /* NaN: all must be written */
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        struct expert_job *job = &jobs[n_jobs];
        *job = (struct expert_job){.chunks = chunks[n_jobs], .uses = uses[n_jobs]};
        for (uint32_t u = 0; u < l->rows * N_ACTIVE; u++) {
            if (l->ids[u] == (int32_t)e) {
                uses[n_jobs][job->n_uses++] = u;
            }
        }
        for (uint32_t i = 0; i < l->ffn; i += l->chunk) {
            uint32_t rest = l->ffn - i;
            chunks[n_jobs][job->n_chunks++] = (struct ffn_chunk){l->data[e] + i * neuron_bytes,
                                                                 rest < l->chunk ? rest : l->chunk};
        }
        n_jobs += job->n_uses > 0 || e == 5;
    }
    b->ops->experts(b->self, l->codec, l->dim, jobs, n_jobs, N_ACTIVE, x, parts);
    memset(jobs, 0xff, sizeof jobs); /* free to change when the operation returns */
    memset(chunks, 0xff, sizeof chunks);
    memset(uses, 0xff, sizeof uses);
    from_device(b, out, parts, n);
    release(b, x);
    release(b, parts);
}

/* parts in double precision, into `want`; returns the greatest possible |output|. */
static double compute_layer(const struct layer *l, float *want) {
    double greatest = 0, *sum = mem_calloc(l->dim, sizeof *sum);
    for (uint32_t u = 0; u < l->rows * N_ACTIVE; u++) {
        const struct weight *e = &l->experts[l->ids[u]];
        const float *x = l->x + (size_t)(u / N_ACTIVE) * l->dim;
        double size = 0, g_size, u_size;
        memset(sum, 0, l->dim * sizeof *sum);
        for (uint32_t i = 0; i < l->ffn; i++) {
            double peak = 0;
            float *w[3];
            for (uint32_t k = 0; k < 3; k++) {
                w[k] = kernels_decode(e, 3 * i + k);
            }
            double gate = kernels_dot(w[0], x, l->dim, &g_size);
            double up = kernels_dot(w[1], x, l->dim, &u_size);
            for (uint32_t c = 0; c < l->dim; c++) {
                peak = fmax(peak, fabs((double)w[2][c]));
                sum[c] += gate / (1 + exp(-gate)) * up * (double)w[2][c];
            }
            size += g_size * u_size * peak;
            for (uint32_t k = 0; k < 3; k++) {
                free(w[k]);
            }
        }
        greatest = fmax(greatest, size);
        for (uint32_t c = 0; c < l->dim; c++) {
            want[(size_t)u * l->dim + c] = (float)sum[c];
        }
    }
    free(sum);
    return greatest;
}

static void check_layer(const struct cuda_rig *g, struct layer *l) {
    static const uint32_t chunk_sizes[] = {32, 64, 1024};
    const struct backend *b = &g->device;
    size_t n = (size_t)l->rows * N_ACTIVE * l->dim;
    float *want = zeros(n), *got = zeros(n), *first = zeros(n);
    char *what = mem_printf("experts %s, dim %u, %u neurons, %u rows", l->codec->name, l->dim,
                            l->ffn, l->rows);
    double *t = tolerances(want, n, 0, experts_tolerance * compute_layer(l, want));
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        l->data[e] =
            to_device(b, l->experts[e].data, l->experts[e].rows * l->experts[e].stride_bytes);
    }
    for (size_t i = 0; i < TEST_COUNT(chunk_sizes); i++) {
        l->chunk = chunk_sizes[i];
        check_variants(g, what, run_layer, l, got, want, t, n);
        if (i == 0) {
            memcpy(first, got, n * sizeof *got);
        }
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
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        release(b, l->data[e]);
    }
    free(what);
    free(t);
    free(want);
    free(got);
    free(first);
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
    for (size_t c = 0; (codec = codec_at(c)); c++) {
        for (size_t i = 0; i < TEST_COUNT(cases); i++) {
            struct layer l = {codec, cases[i].dim, cases[i].rows, cases[i].ffn};
            if (!codec_fits(codec, l.dim)) {
                continue;
            }
            for (uint32_t e = 0; e < N_EXPERTS; e++) {
                l.experts[e] = kernels_weight(&rng, codec, KIND_NORMAL, 3 * l.ffn, l.dim, 0);
            }
            l.x = kernels_vector(&rng, KIND_NORMAL, (size_t)l.rows * l.dim);
            l.ids = mem_calloc((size_t)l.rows * N_ACTIVE, sizeof *l.ids);
            for (uint32_t r = 0; r < l.rows; r++) { /* expert 0 is everybody's, expert 5 nobody's */
                l.ids[r * 2] = (int32_t)(test_u64(&rng) % 4 + 1);
                l.ids[r * 2 + 1] = 0;
            }
            check_layer(g, &l);
            for (uint32_t e = 0; e < N_EXPERTS; e++) {
                kernels_free_weight(&l.experts[e]);
            }
            test_guard_free(l.x, (size_t)l.rows * l.dim * sizeof *l.x);
            free(l.ids);
        }
    }
}

/* Uses whose chunks are all left out give zeros; a call without uses does nothing. */
void cuda_test_experts_empty(void **state) {
    enum { DIM = 32 };
    const struct cuda_rig *g = *state;
    const struct backend *b = &g->device;
    for (uint32_t n_uses = 0; n_uses <= 20; n_uses += 5) {
        uint32_t uses[20];
        float got[20 * DIM], x[20 * DIM];
        kernels_fill(&(struct test_rng){38}, KIND_NORMAL, x, 20 * DIM);
        for (uint32_t u = 0; u < 20; u++) {
            uses[u] = u;
        }
        struct expert_job job = {NULL, 0, uses, n_uses};
        float *dx = to_device(b, x, sizeof x), *parts = to_device(b, x, sizeof x);
        b->ops->experts(b->self, codec_by_id(CODEC_Q8), DIM, &job, 1, 1, dx, parts);
        b->ops->experts(b->self, codec_by_id(CODEC_Q8), DIM, &job, 0, 1, dx, parts);
        from_device(b, got, parts, 20 * DIM);
        for (uint32_t i = 0; i < 20 * DIM; i++) {
            assert_true(got[i] == (i / DIM < n_uses ? 0 : x[i]));
        }
        release(b, dx);
        release(b, parts);
    }
}

/* ---- attention ------------------------------------------------------------------------------ */

/* See test_kernels.c. */
static const double attention_tolerance = 2e-5;

struct sequence {
    enum kv_type type;
    uint32_t n_heads, n_kv_heads, head_dim, len, window, step;
    float *q, *k, *v; /* [len, heads, head_dim] */
};

static void run_sequence(const struct backend *b, const void *ctx, float *out) {
    const struct sequence *s = ctx;
    struct kv kv = {s->type, s->n_kv_heads, s->head_dim, s->len + 3, NULL, NULL};
    size_t q_row = (size_t)s->n_heads * s->head_dim, kv_row = (size_t)s->n_kv_heads * s->head_dim;
    float *q = to_device(b, s->q, s->len * q_row * sizeof *q);
    float *k = to_device(b, s->k, s->len * kv_row * sizeof *k);
    float *v = to_device(b, s->v, s->len * kv_row * sizeof *v);
    float *o = b->ops->alloc(b->self, s->len * q_row * sizeof *o);
    kv.k = b->ops->alloc(b->self, kv_bytes(&kv));
    kv.v = b->ops->alloc(b->self, kv_bytes(&kv));
    for (uint32_t pos = 0; pos < s->len; pos += s->step) {
        uint32_t rows = s->len - pos < s->step ? s->len - pos : s->step;
        b->ops->kv_store(b->self, &kv, k + pos * kv_row, v + pos * kv_row, pos, rows);
        b->ops->attention(b->self, q + pos * q_row, s->n_heads, &kv, pos, rows, s->window,
                          1.0f / sqrtf((float)s->head_dim), o + pos * q_row);
    }
    from_device(b, out, o, s->len * q_row);
    void *all[] = {q, k, v, o, kv.k, kv.v};
    for (size_t i = 0; i < TEST_COUNT(all); i++) {
        release(b, all[i]);
    }
}

static void check_sequence(const struct cuda_rig *g, struct sequence *s) {
    size_t n = (size_t)s->len * s->n_heads * s->head_dim;
    float *want = zeros(n), *got = zeros(n), *first = zeros(n);
    char *what = mem_printf("attention %s, %u/%u heads of %u, %u tokens, window %u",
                            s->type == KV_F16 ? "f16" : "f32", s->n_heads, s->n_kv_heads,
                            s->head_dim, s->len, s->window);
    s->step = s->len < MAX_ROWS ? s->len : MAX_ROWS;
    run_sequence(&g->scalar, s, want);
    double *t = tolerances(want, n, 0, attention_tolerance);
    check_variants(g, what, run_sequence, s, first, want, t, n);
    for (s->step = 7; s->step >= 1; s->step -= 6) { /* one result, however many rows a call */
        run_sequence(&g->device, s, got);
        check_same(what, got, first, n);
        if (s->step == 1) {
            break;
        }
    }
    free(what);
    free(t);
    free(want);
    free(got);
    free(first);
}

void cuda_test_attention(void **state) {
    static const struct sequence cases[] = {
        {.n_heads = 1, .n_kv_heads = 1, .head_dim = 8, .len = 5},
        {.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .len = 70},
        {.n_heads = 4, .n_kv_heads = 4, .head_dim = 20, .len = 33, .window = 7},
        {.n_heads = 24, .n_kv_heads = 2, .head_dim = 32, .len = 20},
        {.n_heads = 6, .n_kv_heads = 2, .head_dim = 128, .len = 70, .window = 64},
        {.n_heads = 2, .n_kv_heads = 1, .head_dim = 16, .len = 12, .window = 1},
        {.n_heads = 3, .n_kv_heads = 1, .head_dim = 16, .len = 300},
        {.n_heads = 2, .n_kv_heads = 2, .head_dim = 16, .len = 300, .window = 100},
        {.n_heads = 5, .n_kv_heads = 1, .head_dim = 512, .len = 9},
    };
    const struct cuda_rig *g = *state;
    struct test_rng rng = {39};
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct sequence s = cases[i];
        size_t q = (size_t)s.len * s.n_heads * s.head_dim;
        size_t kv = (size_t)s.len * s.n_kv_heads * s.head_dim;
        s.q = kernels_vector(&rng, KIND_NORMAL, q);
        s.k = kernels_vector(&rng, KIND_NORMAL, kv);
        s.v = kernels_vector(&rng, KIND_NORMAL, kv);
        for (int type = KV_F16; type <= KV_F32; type++) {
            s.type = (enum kv_type)type;
            check_sequence(g, &s);
        }
        test_guard_free(s.q, q * sizeof *s.q);
        test_guard_free(s.k, kv * sizeof *s.k);
        test_guard_free(s.v, kv * sizeof *s.v);
    }
}

/* ---- uploads -------------------------------------------------------------------------------- */

void cuda_test_upload(void **state) {
    enum { BYTES = 3 << 20, PLACES = 4 };
    const struct cuda_rig *g = *state;
    const struct backend *b = &g->device;
    struct test_rng rng = {40};
    uint8_t *staging = b->ops->host_alloc(b->self, BYTES), *back = mem_alloc(BYTES);
    uint8_t *slots = b->ops->alloc(b->self, (size_t)BYTES * PLACES);
    assert_int_equal((uintptr_t)staging % 64, 0);
    assert_true(b->ops->uploaded(b->self, 0, false));
    for (uint32_t i = 0; i < 600; i++) { /* more than there are events */
        size_t n = i < 8 ? BYTES - i : 1 + test_u64(&rng) % 1000;
        uint8_t *to = slots + (size_t)(i % PLACES) * BYTES;
        for (size_t k = 0; k < n; k++) {
            staging[k] = (uint8_t)(k * 31 + i + (k >> 12));
        }
        uint64_t after = i % 3 ? b->ops->mark(b->self) : 0;
        uint64_t ticket = b->ops->upload(b->self, to, staging, n,
                                         i % 2 ? BACKEND_GUESSED : BACKEND_DEMANDED, after);
        while (!b->ops->uploaded(b->self, ticket, i % 5 != 0)) {
        }
        assert_true(b->ops->uploaded(b->self, ticket, false));
        b->ops->read(b->self, back, to, n);
        assert_memory_equal(back, staging, n);
    }
    release(b, slots);
    b->ops->host_free(b->self, staging);
    free(back);
}

/* Rows of the host among a device's, more at once than the ring of small tables holds; those not
 * named stay. The bytes of all uploads are counted. */
void cuda_test_put_rows(void **state) {
    enum { ROWS = 70, DIM = 9000 };
    static const uint32_t sizes[] = {1, 3, ROWS / 2};
    const struct cuda_rig *g = *state;
    const struct backend *b = &g->device;
    struct test_rng rng = {41};
    float *want = zeros((size_t)ROWS * DIM), *got = zeros((size_t)ROWS * DIM);
    float *rows = zeros((size_t)ROWS * DIM);
    float *y = b->ops->alloc(b->self, (size_t)ROWS * DIM * sizeof *y);
    for (size_t s = 0; s < TEST_COUNT(sizes); s++) {
        uint32_t ids[ROWS];
        kernels_fill(&rng, KIND_NORMAL, rows, (size_t)sizes[s] * DIM);
        for (uint32_t i = 0; i < sizes[s]; i++) {
            ids[i] = (2 * i + (uint32_t)s) % ROWS;
            memcpy(want + (size_t)ids[i] * DIM, rows + (size_t)i * DIM, DIM * sizeof *want);
        }
        b->ops->put_rows(b->self, y, DIM, rows, ids, sizes[s]);
        memset(rows, 0xff, (size_t)ROWS * DIM * sizeof *rows); /* free to change */
        memset(ids, 0xff, sizeof ids);
    }
    from_device(b, got, y, (size_t)ROWS * DIM);
    check_same("put_rows", got, want, (size_t)ROWS * DIM);
    release(b, y);
    struct backend_link before, after;
    uint8_t *staging = b->ops->host_alloc(b->self, 1000), *to = b->ops->alloc(b->self, 1000);
    memset(staging, 1, 1000);
    b->ops->link(b->self, &before);
    b->ops->uploaded(b->self, b->ops->upload(b->self, to, staging, 1000, BACKEND_GUESSED, 0), true);
    b->ops->link(b->self, &after);
    assert_int_equal(after.bytes[BACKEND_GUESSED] - before.bytes[BACKEND_GUESSED], 1000);
    assert_int_equal(after.bytes[BACKEND_DEMANDED], before.bytes[BACKEND_DEMANDED]);
    assert_true(after.hidden_ns <= after.copy_ns && (after.timed || after.copy_ns == 0));
    b->ops->host_free(b->self, staging);
    release(b, to);
    free(want);
    free(got);
    free(rows);
}
