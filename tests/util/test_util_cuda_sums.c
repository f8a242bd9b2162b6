/*
 * test_util_cuda: see test_util_cuda.h. Products, experts, attention.
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
    float *y = b->ops->alloc(b->self, n * sizeof *y);
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
    p.w = b->ops->place(b->self, w);
    p.bias = b->ops->place(b->self, bias);
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
    float *x = cuda_rig_put(b, l->x, (size_t)l->rows * l->dim * sizeof *x);
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
    cuda_rig_get(b, out, parts, n);
    cuda_rig_release(b, x);
    cuda_rig_release(b, parts);
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
    float *want = cuda_rig_zeros(n), *got = cuda_rig_zeros(n), *first = cuda_rig_zeros(n);
    char *what = mem_printf("experts %s, dim %u, %u neurons, %u rows", l->codec->name, l->dim,
                            l->ffn, l->rows);
    double *t = cuda_rig_tolerances(want, n, 0, experts_tolerance * compute_layer(l, want));
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        l->data[e] =
            cuda_rig_put(b, l->experts[e].data, l->experts[e].rows * l->experts[e].stride_bytes);
    }
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
    for (uint32_t e = 0; e < N_EXPERTS; e++) {
        cuda_rig_release(b, l->data[e]);
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
        float *dx = cuda_rig_put(b, x, sizeof x), *parts = cuda_rig_put(b, x, sizeof x);
        b->ops->experts(b->self, codec_by_id(CODEC_Q8), DIM, &job, 1, 1, dx, parts);
        b->ops->experts(b->self, codec_by_id(CODEC_Q8), DIM, &job, 0, 1, dx, parts);
        cuda_rig_get(b, got, parts, 20 * DIM);
        for (uint32_t i = 0; i < 20 * DIM; i++) {
            assert_true(got[i] == (i / DIM < n_uses ? 0 : x[i]));
        }
        cuda_rig_release(b, dx);
        cuda_rig_release(b, parts);
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
    float *q = cuda_rig_put(b, s->q, s->len * q_row * sizeof *q);
    float *k = cuda_rig_put(b, s->k, s->len * kv_row * sizeof *k);
    float *v = cuda_rig_put(b, s->v, s->len * kv_row * sizeof *v);
    float *o = b->ops->alloc(b->self, s->len * q_row * sizeof *o);
    kv.k = b->ops->alloc(b->self, kv_bytes(&kv));
    kv.v = b->ops->alloc(b->self, kv_bytes(&kv));
    for (uint32_t pos = 0; pos < s->len; pos += s->step) {
        uint32_t rows = s->len - pos < s->step ? s->len - pos : s->step;
        b->ops->kv_store(b->self, &kv, k + pos * kv_row, v + pos * kv_row, pos, rows);
        b->ops->attention(b->self, q + pos * q_row, s->n_heads, &kv, pos, rows, s->window,
                          1.0f / sqrtf((float)s->head_dim), o + pos * q_row);
    }
    cuda_rig_get(b, out, o, s->len * q_row);
    void *all[] = {q, k, v, o, kv.k, kv.v};
    for (size_t i = 0; i < TEST_COUNT(all); i++) {
        cuda_rig_release(b, all[i]);
    }
}

static void check_sequence(const struct cuda_rig *g, struct sequence *s) {
    size_t n = (size_t)s->len * s->n_heads * s->head_dim;
    float *want = cuda_rig_zeros(n), *got = cuda_rig_zeros(n), *first = cuda_rig_zeros(n);
    char *what = mem_printf("attention %s, %u/%u heads of %u, %u tokens, window %u",
                            s->type == KV_F16 ? "f16" : "f32", s->n_heads, s->n_kv_heads,
                            s->head_dim, s->len, s->window);
    s->step = s->len < MAX_ROWS ? s->len : MAX_ROWS;
    run_sequence(&g->scalar, s, want);
    double *t = cuda_rig_tolerances(want, n, 0, attention_tolerance);
    cuda_rig_check(g, what, run_sequence, s, first, want, t, n);
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
        {.n_heads = 3, .n_kv_heads = 1, .head_dim = 16, .len = 270},
        {.n_heads = 2, .n_kv_heads = 2, .head_dim = 16, .len = 240, .window = 100},
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
