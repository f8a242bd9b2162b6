/*
 * Every operation of every backend: against the scalar one within named tolerances, and, for the
 * CPU, to the bit against itself for other thread counts, row splits and chunkings.
 */
#include <float.h>
#include <math.h>

#include "format/corm_exponents.h"
#include "prep/calib/blas.h"
#include "tests/util/test_util_kernels.h"

/* ---- backends under test -------------------------------------------------------------------- */

enum { MAX_BACKENDS = 16 };

/* OpenBLAS is not built with the thread sanitizer, which so takes its hand-overs for races. */
#ifndef __has_feature
#define __has_feature(x) 0
#endif
#if defined(__SANITIZE_THREAD__) || __has_feature(thread_sanitizer)
enum { BLAS_THREADS = 1 };
#else
enum { BLAS_THREADS = 2 };
#endif

struct group {
    struct backend scalar;
    struct backend cpu[MAX_BACKENDS]; /* every usable ISA times 1, 2 and 3 threads */
    size_t n_cpu;
    struct backend blas;
};

static struct group group;

static int open_backends(void **state) {
    static const uint32_t threads[] = {1, 2, 3};
    struct backend_limits limits = kernels_limits();
    struct err err = {0};
    (void)state;
    backend_cpu_open(&group.scalar, "scalar", 1, &limits, &err);
    group.n_cpu = kernels_open_cpus(group.cpu, MAX_BACKENDS, threads, TEST_COUNT(threads));
    backend_blas_open(&group.blas, BLAS_THREADS, &limits, &err);
    assert_no_err(&err);
    return 0;
}

static int close_backends(void **state) {
    (void)state;
    backend_close(&group.scalar);
    backend_close(&group.blas);
    for (size_t i = 0; i < group.n_cpu; i++) {
        backend_close(&group.cpu[i]);
    }
    return 0;
}

/* Backend i of all that are compared with the scalar one; NULL past the end. */
static struct backend *backend_at(size_t i) {
    return i < group.n_cpu ? &group.cpu[i] : i == group.n_cpu ? &group.blas : NULL;
}

#define check_close(b, what, got, want, tolerance, n)                                              \
    check_close_at(b, what, got, want, tolerance, n, __FILE__, __LINE__)
static void check_close_at(const struct backend *b, const char *what, const float *got,
                           const float *want, const double *tolerance, size_t n, const char *file,
                           int line) {
    for (size_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance[i])) {
            print_error("%s %s: %s: element %zu of %zu is %.9g, scalar has %.9g, tolerance %.3g\n",
                        b->name, b->isa, what, i, n, (double)got[i], (double)want[i], tolerance[i]);
            _fail(file, line);
        }
    }
}

#define check_same(b, what, got, want, n) check_same_at(b, what, got, want, n, __FILE__, __LINE__)
static void check_same_at(const struct backend *b, const char *what, const float *got,
                          const float *want, size_t n, const char *file, int line) {
    for (size_t i = 0; i < n; i++) {
        if (memcmp(&got[i], &want[i], sizeof *got) != 0) {
            print_error("%s %s: %s: element %zu of %zu is %a, expected the bits of %a\n", b->name,
                        b->isa, what, i, n, (double)got[i], (double)want[i]);
            _fail(file, line);
        }
    }
}

static float *zeros(size_t n) {
    return mem_calloc(n, sizeof(float));
}

/* `n` tolerances: relative to each wanted value, plus an absolute one. */
static double *tolerances(const float *want, size_t n, double relative, double absolute) {
    double *t = mem_calloc(n, sizeof *t);
    for (size_t i = 0; i < n; i++) {
        t[i] = relative * fabs((double)want[i]) + absolute;
    }
    return t;
}

/* ---- matmul --------------------------------------------------------------------------------- */

static const struct kernels_shape shapes[] = {{1, 32}, {3, 64},  {17, 96},  {64, 256}, {130, 160},
                                              {33, 7}, {5, 100}, {70, 544}, {9, 2080}, {256, 1024}};
static const uint32_t row_counts[] = {1, 2, 3, 4, 5, 7, 8, 33};

/* With these weights a CPU quantises its inputs, BLAS does not. */
static bool quantises(const struct codec *codec) {
    return codec->id >= CODEC_Q8;
}

/* The scalar result of a product and how far another may be from it: both round. */
static double *matmul_tolerances(const struct weight *w, const float *bias, const float *x,
                                 uint32_t rows) {
    double *t = mem_calloc((size_t)rows * w->rows, sizeof *t);
    for (uint32_t o = 0; o < w->rows; o++) {
        float *row = kernels_decode(w, o);
        for (uint32_t r = 0; r < rows; r++) {
            double size;
            kernels_dot(row, x + (size_t)r * w->cols, w->cols, &size);
            size += bias ? fabs((double)bias[o]) : 0;
            size *= w->codec->id == CODEC_Q4 ? 64 : 1; /* a difference of two greater sums */
            double *at = &t[(size_t)r * w->rows + o];
            *at = 2 * kernels_dot_tolerance(w->cols, size);
            *at += quantises(w->codec) ? kernels_quant_error(row, x + (size_t)r * w->cols, w->cols)
                                       : 0;
        }
        free(row);
    }
    return t;
}

static void check_matmul(void *ctx, struct test_rng *rng, const struct weight *w,
                         const struct weight *bias, enum kind kind, uint32_t rows) {
    (void)ctx;
    size_t n_out = (size_t)rows * w->rows, n_in = (size_t)rows * w->cols;
    float *x = kernels_vector(rng, kind, n_in), *got = test_guard(n_out * sizeof *got);
    float *want = zeros(n_out), *same = zeros(n_out);
    const struct backend *b = &group.scalar;
    b->ops->matmul(b->self, w, bias, x, rows, want);
    double *t = matmul_tolerances(w, (const float *)(const void *)bias->data, x, rows);
    char *what = mem_printf("matmul %s %ux%u, %u rows, %s", w->codec->name, w->rows, w->cols, rows,
                            kind_name(kind));
    for (size_t i = 0; (b = backend_at(i)); i++) {
        b->ops->matmul(b->self, w, bias, x, rows, got);
        if (i < group.n_cpu && quantises(w->codec)) {
            check_same(b, what, got, want, n_out);
        } else {
            check_close(b, what, got, want, t, n_out);
        }
        if (i < group.n_cpu) {
            /* Row by row, on the one-threaded backend of the same ISA. */
            const struct backend *one = &group.cpu[i - i % 3];
            for (uint32_t r = 0; r < rows; r++) {
                one->ops->matmul(one->self, w, bias, x + (size_t)r * w->cols, 1,
                                 same + (size_t)r * w->rows);
            }
            check_same(b, what, got, same, n_out);
        }
    }
    free(what);
    free(t);
    free(want);
    free(same);
    test_guard_free(x, n_in * sizeof *x);
    test_guard_free(got, n_out * sizeof *got);
}

static void test_matmul(void **state) {
    struct test_rng rng = {11};
    (void)state;
    kernels_each_product(&rng,
                         &(struct kernels_products){shapes, TEST_COUNT(shapes), row_counts,
                                                    TEST_COUNT(row_counts), check_matmul, NULL});
}

/* ---- experts -------------------------------------------------------------------------------- */

/* Outputs are sums over neurons of silu(g) * u * down: g and u carry the tolerance of a dot product
 * and enter a product, exp adds 2 ulp, the sum over neurons rounds as a dot does. Relative to the
 * sum of the neurons' magnitudes that is some hundred ulp at these sizes. */
static const double experts_tolerance = 256 * (double)FLT_EPSILON;

struct packed_block {
    uint8_t *data;
    uint32_t bytes;
};

/* A layer of experts with random weights, and rows that chose among them. */
struct layer {
    const struct codec *codec;
    uint32_t dim, n_experts, n_active, rows, ffn;
    struct weight *experts; /* [n_experts]: matrices [3 * ffn, dim] */
    float *x;
    int32_t *ids; /* [rows, n_active] */
    /* bf16: each block of 32 neurons as it would be stored, [n_experts, ffn / 32 rounded up]; else
     * NULL. */
    struct packed_block *packed;
};
enum { PACKED = 0 }; /* chunks of 32 neurons, packed */

static uint32_t n_blocks(const struct layer *l) {
    return (l->ffn + FFN_BLOCK - 1) / FFN_BLOCK;
}

static struct packed_block *packed_block(const struct layer *l, uint32_t expert, uint32_t neuron) {
    return &l->packed[expert * n_blocks(l) + neuron / FFN_BLOCK];
}

static void pack_layer(struct layer *l) {
    size_t neuron = (size_t)3 * l->dim;
    l->packed = mem_calloc((size_t)l->n_experts * n_blocks(l), sizeof *l->packed);
    for (uint32_t e = 0; e < l->n_experts; e++) {
        for (uint32_t i = 0; i < l->ffn; i += FFN_BLOCK) {
            uint32_t rest = l->ffn - i < FFN_BLOCK ? l->ffn - i : FFN_BLOCK;
            struct packed_block *b = packed_block(l, e, i);
            b->data = mem_alloc(corm_exponents_bound(rest * neuron));
            b->bytes = (uint32_t)corm_exponents_pack(l->experts[e].data + i * neuron * 2,
                                                     rest * neuron, b->data);
            b->data = mem_realloc(b->data, b->bytes); /* nothing behind it is to be read */
        }
    }
}

static struct layer make_layer(struct test_rng *rng, const struct codec *codec, uint32_t dim,
                               uint32_t ffn, uint32_t rows) {
    struct layer l = {
        .codec = codec, .dim = dim, .n_experts = 6, .n_active = 2, .rows = rows, .ffn = ffn};
    l.experts = mem_calloc(l.n_experts, sizeof *l.experts);
    for (uint32_t e = 0; e < l.n_experts; e++) {
        l.experts[e] = kernels_weight(rng, codec, KIND_NORMAL, 3 * ffn, dim, 0);
    }
    l.x = kernels_vector(rng, KIND_NORMAL, (size_t)rows * dim);
    l.ids = mem_calloc((size_t)rows * l.n_active, sizeof *l.ids);
    for (uint32_t r = 0; r < rows; r++) {
        /* Expert 0 is everybody's, expert 5 nobody's. */
        l.ids[r * 2] = (int32_t)(test_u64(rng) % 4 + 1);
        l.ids[r * 2 + 1] = 0;
    }
    if (codec->id == CODEC_BF16) {
        pack_layer(&l);
    }
    return l;
}

static void free_layer(struct layer *l) {
    for (uint32_t e = 0; e < l->n_experts; e++) {
        kernels_free_weight(&l->experts[e]);
    }
    test_guard_free(l->x, (size_t)l->rows * l->dim * sizeof *l->x);
    free(l->experts);
    free(l->ids);
    for (uint32_t i = 0; l->packed && i < l->n_experts * n_blocks(l); i++) {
        free(l->packed[i].data);
    }
    free(l->packed);
}

/* Run rows first .. first + n - 1 with experts cut into chunks of `chunk` neurons, or PACKED. */
static void run_layer(const struct backend *b, const struct layer *l, uint32_t first, uint32_t n,
                      uint32_t chunk, float *parts) {
    struct expert_job jobs[8];
    struct ffn_chunk chunks[8][64];
    uint32_t uses[8][96 * 2], n_jobs = 0;
    size_t neuron_bytes = 3 * codec_row_bytes(l->codec, l->dim);
    for (uint32_t e = 0; e < l->n_experts; e++) {
        struct expert_job *job = &jobs[n_jobs];
        *job = (struct expert_job){.chunks = chunks[n_jobs], .uses = uses[n_jobs]};
        for (uint32_t u = 0; u < n * l->n_active; u++) {
            if (l->ids[first * l->n_active + u] == (int32_t)e) {
                uses[n_jobs][job->n_uses++] = u;
            }
        }
        uint32_t step = chunk == PACKED ? FFN_BLOCK : chunk;
        for (uint32_t i = 0; i < l->ffn; i += step) {
            uint32_t rest = l->ffn - i < step ? l->ffn - i : step;
            chunks[n_jobs][job->n_chunks++] =
                chunk == PACKED
                    ? (struct ffn_chunk){packed_block(l, e, i)->data, rest,
                                         packed_block(l, e, i)->bytes}
                    : (struct ffn_chunk){l->experts[e].data + i * neuron_bytes, rest, 0};
        }
        n_jobs += job->n_uses > 0 || e == 5;
    }
    b->ops->experts(b->self, l->codec, l->dim, jobs, n_jobs, l->n_active,
                    l->x + (size_t)first * l->dim, parts);
}

/* The greatest possible |output|: what errors are relative to. *quant_error becomes how far
 * quantised inputs may move one: silu is at most its argument, and its slope at most 1.1. */
static double layer_size(const struct layer *l, double *quant_error) {
    double greatest = 0;
    *quant_error = 0;
    float *w[3];
    for (uint32_t u = 0; u < l->rows * l->n_active; u++) {
        const struct weight *e = &l->experts[l->ids[u]];
        const float *x = l->x + (size_t)(u / l->n_active) * l->dim;
        double size = 0, error = 0, g_size, u_size;
        for (uint32_t i = 0; i < l->ffn; i++) {
            double peak = 0;
            for (uint32_t k = 0; k < 3; k++) {
                w[k] = kernels_decode(e, 3 * i + k);
            }
            kernels_dot(w[0], x, l->dim, &g_size);
            kernels_dot(w[1], x, l->dim, &u_size);
            for (uint32_t c = 0; c < l->dim; c++) {
                peak = fmax(peak, fabs((double)w[2][c]));
            }
            size += g_size * u_size * peak;
            double g_error = kernels_quant_error(w[0], x, l->dim),
                   u_error = kernels_quant_error(w[1], x, l->dim);
            error += (1.1 * g_error * (u_size + u_error) + g_size * u_error) * peak;
            for (uint32_t k = 0; k < 3; k++) {
                free(w[k]);
            }
        }
        greatest = fmax(greatest, size);
        *quant_error = fmax(*quant_error, error);
    }
    return greatest;
}

static void check_layer(const struct layer *l) {
    static const uint32_t chunk_sizes[] = {PACKED, 32, 64, 96, 1024};
    size_t n = (size_t)l->rows * l->n_active * l->dim;
    float *want = zeros(n), *got = test_guard(n * sizeof *got), *same = zeros(n);
    run_layer(&group.scalar, l, 0, l->rows, 1024, want);
    double quant_error, size = layer_size(l, &quant_error);
    double *t = tolerances(want, n, 0, experts_tolerance * size);
    double *t_blas =
        tolerances(want, n, 0, experts_tolerance * size + (quantises(l->codec) ? quant_error : 0));
    char *what = mem_printf("experts %s, dim %u, %u neurons, %u rows", l->codec->name, l->dim,
                            l->ffn, l->rows);
    const struct backend *b;
    for (size_t i = 0; (b = backend_at(i)); i++) {
        const struct backend *one = i < group.n_cpu ? &group.cpu[i - i % 3] : NULL;
        for (uint32_t r = 0; one && i % 3 == 0 && r < l->rows; r++) {
            run_layer(one, l, r, 1, 1024, same + (size_t)r * l->n_active * l->dim);
        }
        for (size_t k = one && l->packed ? 0 : 1; k < TEST_COUNT(chunk_sizes); k++) {
            memset(got, 0xff, n * sizeof *got);
            run_layer(b, l, 0, l->rows, chunk_sizes[k], got);
            check_close(b, what, got, want, one ? t : t_blas, n);
            if (one) {
                check_same(b, what, got, same, n);
            }
        }
        if (one && l->rows > 5) { /* a few rows a call */
            memset(got, 0xff, n * sizeof *got);
            for (uint32_t r = 0; r < l->rows; r += 5) {
                uint32_t rest = l->rows - r;
                run_layer(b, l, r, rest < 5 ? rest : 5, 64, got + (size_t)r * l->n_active * l->dim);
            }
            check_same(b, what, got, same, n);
        }
    }
    free(what);
    free(t);
    free(t_blas);
    free(want);
    free(same);
    test_guard_free(got, n * sizeof *got);
}

static void test_experts(void **state) {
    /* Packed rows of whole blocks are multiplied as they are decoded, if the expert has one use: of
     * one block where dim is 64, of several in the last two. */
    static const struct {
        uint32_t dim, ffn, rows;
    } cases[] = {{32, 32, 1},    {96, 100, 1}, {64, 33, 2},  {160, 70, 3}, {544, 116, 7},
                 {288, 160, 40}, {32, 1, 9},   {192, 70, 1}, {1024, 33, 2}};
    struct test_rng rng = {12};
    const struct codec *codec;
    (void)state;
    for (size_t c = 0; (codec = codec_at(c)); c++) {
        for (size_t i = 0; i < TEST_COUNT(cases); i++) {
            struct layer l = make_layer(&rng, codec, cases[i].dim, cases[i].ffn, cases[i].rows);
            check_layer(&l);
            free_layer(&l);
        }
    }
    struct layer odd = make_layer(&rng, codec_by_id(CODEC_BF16), 45, 40, 6);
    check_layer(&odd);
    free_layer(&odd);
}

/* More blocks than one wave of the fused way holds: sums must go on where they stopped. The same
 * rows twice or more often over go the panel way, which has no waves, and must give the same bits.
 * */
static void check_waves(struct test_rng *rng, uint32_t dim, uint32_t ffn, uint32_t rows) {
    struct layer l = make_layer(rng, codec_by_id(CODEC_Q4), dim, ffn, rows), more = l;
    size_t n_x = (size_t)rows * dim, n = n_x * l.n_active;
    float *few = zeros(n), *many = zeros(4 * n);
    more.rows = 4 * rows;
    more.x = zeros(4 * n_x);
    more.ids = mem_calloc((size_t)more.rows * l.n_active, sizeof *more.ids);
    for (uint32_t r = 0; r < rows; r++) {
        l.ids[r * 2] = 3;
    }
    for (uint32_t i = 0; i < 4; i++) {
        memcpy(more.x + i * n_x, l.x, n_x * sizeof *l.x);
        memcpy(more.ids + i * rows * l.n_active, l.ids, rows * l.n_active * sizeof *l.ids);
    }
    for (size_t i = 0; i < group.n_cpu; i++) {
        run_layer(&group.cpu[i], &l, 0, rows, 2048, few);
        run_layer(&group.cpu[i], &more, 0, more.rows, ffn, many);
        for (uint32_t k = 0; k < 4; k++) {
            check_same(&group.cpu[i], "experts in waves", many + k * n, few, n);
        }
    }
    free(few);
    free(many);
    free(more.x);
    free(more.ids);
    free_layer(&l);
}

static void test_experts_waves(void **state) {
    struct test_rng rng = {13};
    (void)state;
    check_waves(&rng, 1024, 5760, 3); /* more floats than the scratch has */
    check_waves(&rng, 32, 70000, 1);  /* more blocks than the list has */
}

/* ---- attention ------------------------------------------------------------------------------ */

/* Scores carry a dot product's error d, which exp turns into a factor e^d of each weight; then sums
 * over the keys. Scores stay below 8 here; 1e-5 of the greatest value is twice what that can add up
 * to. */
static const double attention_tolerance = 1e-5;

struct sequence {
    enum kv_type type;
    uint32_t n_heads, n_kv_heads, head_dim, len, window;
    float *q, *k, *v; /* [len, heads, head_dim] */
};

/* Positions in calls of `step` rows: store, then attend. */
static void run_sequence(const struct backend *b, const struct sequence *s, uint32_t step,
                         float *out) {
    struct kv kv = {s->type, s->n_kv_heads, s->head_dim, s->len + 3, NULL, NULL};
    kv.k = b->ops->alloc(b->self, kv_bytes(&kv));
    kv.v = b->ops->alloc(b->self, kv_bytes(&kv));
    size_t q_row = (size_t)s->n_heads * s->head_dim, kv_row = (size_t)s->n_kv_heads * s->head_dim;
    for (uint32_t pos = 0; pos < s->len; pos += step) {
        uint32_t rows = s->len - pos < step ? s->len - pos : step;
        b->ops->kv_store(b->self, &kv, s->k + pos * kv_row, s->v + pos * kv_row, pos, rows);
        b->ops->attention(b->self, s->q + pos * q_row, s->n_heads, &kv, pos, rows, s->window,
                          1.0f / sqrtf((float)s->head_dim), out + pos * q_row);
    }
    b->ops->free(b->self, kv.k);
    b->ops->free(b->self, kv.v);
}

/* The formula, in double precision, on keys and values as the cache's type holds them. */
static void attend_simply(const struct sequence *s, float *out) {
    double *weights = mem_calloc(s->len, sizeof *weights), unused;
    float *key = zeros(s->head_dim);
    for (uint32_t i = 0; i < s->len; i++) {
        for (uint32_t h = 0; h < s->n_heads; h++) {
            uint32_t kv_head = h / (s->n_heads / s->n_kv_heads);
            size_t at = ((size_t)i * s->n_heads + h) * s->head_dim;
            double sum = 0;
            for (int pass = 0; pass < 2; pass++) {
                for (uint32_t j = 0; j <= i; j++) {
                    if (s->window && j + s->window <= i) {
                        continue;
                    }
                    const float *row =
                        (pass ? s->v : s->k) + ((size_t)j * s->n_kv_heads + kv_head) * s->head_dim;
                    for (uint32_t c = 0; c < s->head_dim; c++) {
                        key[c] = s->type == KV_F16 ? f16_to_f32(f32_to_f16(row[c])) : row[c];
                    }
                    if (pass == 0) {
                        weights[j] = exp(kernels_dot(s->q + at, key, s->head_dim, &unused) /
                                         sqrt(s->head_dim));
                        sum += weights[j];
                    }
                    for (uint32_t c = 0; pass == 1 && c < s->head_dim; c++) {
                        out[at + c] += (float)(weights[j] / sum * (double)key[c]);
                    }
                }
            }
        }
    }
    free(weights);
    free(key);
}

static void check_sequence(const struct sequence *s) {
    size_t n = (size_t)s->len * s->n_heads * s->head_dim;
    float *want = zeros(n), *simple = zeros(n), *got = zeros(n), *same = zeros(n);
    double *t = tolerances(want, n, 0, 2 * attention_tolerance);
    char *what = mem_printf("attention %s, %u/%u heads of %u, %u tokens, window %u",
                            s->type == KV_F16 ? "f16" : "f32", s->n_heads, s->n_kv_heads,
                            s->head_dim, s->len, s->window);
    const struct backend *b = &group.scalar;
    attend_simply(s, simple);
    run_sequence(b, s, s->len, want);
    check_close(b, what, want, simple, t, n);
    for (size_t i = 0; (b = backend_at(i)); i++) {
        run_sequence(b, s, s->len, got);
        check_close(b, what, got, want, t, n);
        if (i % 3 == 0) {
            memcpy(same, got, n * sizeof *got);
        }
        check_same(b, what, got, same, n);
        for (uint32_t step = 1; step < 9; step += 3) {
            run_sequence(b, s, step, got);
            check_same(b, what, got, same, n);
        }
    }
    free(what);
    free(t);
    free(want);
    free(simple);
    free(got);
    free(same);
}

static void test_attention(void **state) {
    static const struct sequence cases[] = {
        {.n_heads = 1, .n_kv_heads = 1, .head_dim = 8, .len = 5},
        {.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .len = 70},
        {.n_heads = 4, .n_kv_heads = 4, .head_dim = 20, .len = 33, .window = 7},
        {.n_heads = 24, .n_kv_heads = 2, .head_dim = 32, .len = 20},
        {.n_heads = 6, .n_kv_heads = 2, .head_dim = 128, .len = 70, .window = 64},
        {.n_heads = 2, .n_kv_heads = 1, .head_dim = 16, .len = 12, .window = 1},
    };
    struct test_rng rng = {14};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct sequence s = cases[i];
        size_t q = (size_t)s.len * s.n_heads * s.head_dim,
               kv = (size_t)s.len * s.n_kv_heads * s.head_dim;
        s.q = kernels_vector(&rng, KIND_NORMAL, q);
        s.k = kernels_vector(&rng, KIND_NORMAL, kv);
        s.v = kernels_vector(&rng, KIND_NORMAL, kv);
        for (int type = KV_F16; type <= KV_F32; type++) {
            s.type = (enum kv_type)type;
            check_sequence(&s);
        }
        test_guard_free(s.q, q * sizeof *s.q);
        test_guard_free(s.k, kv * sizeof *s.k);
        test_guard_free(s.v, kv * sizeof *s.v);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_experts_waves),
        cmocka_unit_test(test_attention),
    };
    return cmocka_run_group_tests(tests, open_backends, close_backends);
}
