/*
 * test_util_cuda_fuse: see test_util_cuda.h. Operations that a device makes one kernel of leave the
 * bits that they leave one by one: each chain runs with a read behind every operation, which
 * separates them, and without.
 */
#include "tests/util/test_util_cuda.h"

#include <math.h>

enum { MAX_BUFFERS = 12 };

/* One run of a chain: its buffers, which are compared at the end. */
struct chain {
    const struct backend *b;
    bool apart;
    float *buffers[MAX_BUFFERS];
    size_t len[MAX_BUFFERS];
    uint32_t n;
    uint64_t launches; /* that it took, without those of its preparation */
};

/* A buffer of `n` random floats; the same ones in every run. */
static float *buffer(struct chain *c, size_t n) {
    struct test_rng rng = {c->n + 7};
    float *host = kernels_vector(&rng, KIND_NORMAL, n);
    assert_true(c->n < MAX_BUFFERS);
    c->len[c->n] = n;
    c->buffers[c->n] = cuda_rig_put(c->b, host, n * sizeof *host);
    test_guard_free(host, n * sizeof *host);
    return c->buffers[c->n++];
}

static uint64_t launches(const struct backend *b) {
    struct backend_work w = {0};
    b->ops->work(b->self, &w);
    return w.launches;
}

/* Behind each operation. */
static void step(struct chain *c) {
    float word;
    if (c->apart) {
        cuda_rig_get(c->b, &word, c->buffers[0], 1);
    }
}

/* Run a chain both ways, in all variants. `most` is the number of kernels that it may take. */
typedef void run_chain(struct chain *c, const void *ctx);
static void check_chain(const struct cuda_rig *g, const char *what, run_chain *run, const void *ctx,
                        uint64_t most) {
    float *want[MAX_BUFFERS] = {NULL};
    for (int v = -1; v < g->n_variants; v++) {
        struct chain c = {.b = &g->device, .apart = v < 0};
        cuda_rig_variant(g, v < 0 ? 0 : v);
        run(&c, ctx);
        if (v >= 0 && c.launches > most) {
            fail_msg("%s: %u kernels, expected %u", what, (unsigned)c.launches, (unsigned)most);
        }
        for (uint32_t i = 0; i < c.n; i++) {
            float *got = cuda_rig_zeros(c.len[i]);
            char *name = mem_printf("%s, buffer %u", what, i);
            cuda_rig_get(c.b, got, c.buffers[i], c.len[i]);
            want[i] =
                want[i] ? want[i] : memcpy(cuda_rig_zeros(c.len[i]), got, c.len[i] * sizeof *got);
            check_same(name, got, want[i], c.len[i]);
            cuda_rig_release(c.b, c.buffers[i]);
            free(name);
            free(got);
        }
    }
    for (int i = 0; i < MAX_BUFFERS; i++) {
        free(want[i]);
    }
    cuda_rig_variant(g, 0);
}

/* ---- products ------------------------------------------------------------------------------- */

struct projection {
    const struct codec *codec;
    uint32_t cols, outs[3], rows;
    bool plain; /* the norm has no weight */
};

static void project(struct chain *c, const void *ctx) {
    const struct projection *p = ctx;
    const struct backend_ops *op = c->b->ops;
    void *be = c->b->self;
    struct test_rng rng = {70};
    static const struct weight none = {0};
    float *x = buffer(c, (size_t)p->rows * p->cols), *norm = buffer(c, (size_t)p->rows * p->cols);
    struct weight w[3], bias[3];
    float *y[3], ones[1024];
    for (int i = 0; i < 3; i++) {
        struct weight host = kernels_weight(&rng, p->codec, KIND_NORMAL, p->outs[i], p->cols, 0);
        kernels_fill(&rng, KIND_NORMAL, ones, p->outs[i]);
        w[i] = cuda_rig_place_weight(c->b, &host);
        bias[i] = i == 1 ? cuda_rig_place(c->b, ones, 1, p->outs[i]) : none;
        y[i] = buffer(c, (size_t)p->rows * p->outs[i]);
        kernels_free_weight(&host);
    }
    float *sum = buffer(c, (size_t)p->rows * p->outs[2]);
    kernels_fill(&rng, KIND_NORMAL, ones, p->cols);
    const struct weight gain = p->plain ? none : cuda_rig_place(c->b, ones, 1, p->cols);
    uint64_t before = launches(c->b);
    op->rmsnorm(be, x, &gain, 1e-5f, p->rows, p->cols, norm);
    step(c);
    for (int i = 0; i < 3; i++) {
        op->matmul(be, &w[i], &bias[i], norm, p->rows, y[i]);
        step(c);
    }
    /* The same product once more: it does not join those that have its result. */
    op->matmul(be, &w[2], &none, norm, p->rows, y[2]);
    step(c);
    op->add(be, sum, y[2], (size_t)p->rows * p->outs[2]);
    step(c);
    cuda_rig_get(c->b, ones, sum, 1);
    c->launches = launches(c->b) - before;
}

void cuda_test_fuse_products(void **state) {
    static const struct projection shapes[] = {{.cols = 96, .outs = {40, 17, 3}},
                                               {.cols = 544, .outs = {1, 130, 64}, .plain = true}};
    static const uint32_t rows[] = {1, 2, 5, 8};
    const struct cuda_rig *g = *state;
    const struct codec *codec;
    for (size_t i = 0; (codec = codec_at(i)); i++) {
        for (size_t s = 0; s < TEST_COUNT(shapes); s++) {
            for (size_t r = 0; r < TEST_COUNT(rows); r++) {
                struct projection p = shapes[s];
                p.codec = codec;
                p.rows = rows[r];
                char *what = mem_printf("products in %s, %u rows", codec->name, rows[r]);
                check_chain(g, what, project, &p, 2);
                free(what);
            }
        }
    }
}

/* ---- routes --------------------------------------------------------------------------------- */

struct choice {
    struct route_rule rule;
    uint32_t experts, n;
};

static void choose(struct chain *c, const void *ctx) {
    enum { COLS = 64 };
    const struct choice *k = ctx;
    const struct backend_ops *op = c->b->ops;
    void *be = c->b->self;
    struct test_rng rng = {71};
    static const struct weight none = {0};
    float *x = buffer(c, COLS), *norm = buffer(c, COLS), *logits = buffer(c, k->experts);
    float *weights = buffer(c, k->n), *ids = buffer(c, k->n), *told = buffer(c, k->n);
    struct weight host =
        kernels_weight(&rng, codec_by_name("bf16"), KIND_NORMAL, k->experts, COLS, 0);
    const struct weight w = cuda_rig_place_weight(c->b, &host);
    int32_t got[64];
    kernels_free_weight(&host);
    uint64_t before = launches(c->b);
    op->rmsnorm(be, x, &none, 1e-5f, 1, COLS, norm);
    step(c);
    op->matmul(be, &w, &none, norm, 1, logits);
    step(c);
    op->route(be, &k->rule, &none, &none, logits, 1, k->experts, k->n, (int32_t *)(void *)ids,
              weights);
    step(c);
    op->read(be, got, ids, k->n * sizeof *got);
    c->launches = launches(c->b) - before;
    op->write(be, told, got, k->n * sizeof *got);
}

void cuda_test_fuse_route(void **state) {
    static const struct choice choices[] = {
        {.rule = {.score = ROUTE_SOFTMAX, .scale = 1}, .experts = 128, .n = 8},
        {.rule = {.score = ROUTE_SIGMOID, .scale = 2.5f, .groups = 4, .top_groups = 2},
         .experts = 16,
         .n = 3},
        {.rule = {.score = ROUTE_SOFTMAX, .scale = 1}, .experts = 6, .n = 6}};
    for (size_t i = 0; i < TEST_COUNT(choices); i++) {
        check_chain(*state, "route", choose, &choices[i], 1);
    }
}

/* ---- heads ---------------------------------------------------------------------------------- */

enum { LATER = 5 }; /* tokens from the first on */

struct heads {
    uint32_t n_heads, n_kv_heads, head_dim, half, window, first;
    enum kv_type type;
    bool norm, keys, sinks;
};

static void attend(struct chain *c, const void *ctx) {
    const struct heads *h = ctx;
    const struct backend_ops *op = c->b->ops;
    void *be = c->b->self;
    struct test_rng rng = {72};
    const size_t q_row = (size_t)h->n_heads * h->head_dim,
                 kv_row = (size_t)h->n_kv_heads * h->head_dim;
    struct attention_rule rule = {.n_heads = h->n_heads,
                                  .n_kv_heads = h->n_kv_heads,
                                  .head_dim = h->head_dim,
                                  .window = h->window,
                                  .sinks = h->sinks};
    struct kv kv = {.type = h->type,
                    .n_kv_heads = h->n_kv_heads,
                    .head_dim = h->head_dim,
                    .capacity_tok = h->window ? h->window + h->first + 8 : h->first + LATER};
    float gain[512], inv_freq[256];
    kernels_fill(&rng, KIND_NORMAL, gain, 512);
    for (uint32_t i = 0; i < h->half; i++) {
        inv_freq[i] = powf(10000, -(float)i / (float)h->half);
    }
    const struct weight q_norm = cuda_rig_place(c->b, gain, 1, h->head_dim);
    const struct weight k_norm = cuda_rig_place(c->b, gain + 3, 1, h->head_dim);
    const struct weight sinks = cuda_rig_place(c->b, gain + 9, 1, h->n_heads);
    float *q = buffer(c, LATER * q_row), *k = buffer(c, LATER * kv_row),
          *v = buffer(c, LATER * kv_row);
    float *old = buffer(c, (h->first + 1) * kv_row), *out = buffer(c, LATER * q_row);
    float *cs = buffer(c, 2 * (size_t)h->half + 1);
    const size_t stored = kv_bytes(&kv) / sizeof(float) + 1;
    kv.k = buffer(c, stored);
    kv.v = buffer(c, stored);
    op->clear(be, kv.k, stored * sizeof(float));
    op->clear(be, kv.v, stored * sizeof(float));
    if (h->first > 0) {
        op->kv_store(be, &kv, old, old, 0, h->first);
    }
    for (uint32_t t = 0; t < LATER; t++, q += q_row, k += kv_row, v += kv_row, out += q_row) {
        op->rope_angles(be, h->first + t, 1, inv_freq, h->half, 1, cs);
        cuda_rig_get(c->b, inv_freq + 255, cs, 1);
        uint64_t before = launches(c->b);
        if (h->norm) {
            op->rmsnorm(be, q, &q_norm, 1e-6f, h->n_heads, h->head_dim, q);
            step(c);
        }
        op->rope(be, q, 1, h->n_heads, h->head_dim, cs, h->half);
        step(c);
        if (h->keys) {
            if (h->norm) {
                op->rmsnorm(be, k, &k_norm, 1e-6f, h->n_kv_heads, h->head_dim, k);
                step(c);
            }
            op->rope(be, k, 1, h->n_kv_heads, h->head_dim, cs, h->half);
            step(c);
            op->kv_store(be, &kv, k, v, h->first + t, 1);
            step(c);
        }
        op->attention(be, &rule, &kv, &sinks, q, h->keys ? h->first + t : h->first - 1, 1, out);
        step(c);
        cuda_rig_get(c->b, inv_freq + 255, cs, 1);
        c->launches += launches(c->b) - before;
    }
}

void cuda_test_fuse_heads(void **state) {
    static const struct heads all[] = {
        {8, 1, 32, 16, 0, 0, KV_F16, true, true, false},
        {4, 4, 20, 8, 0, 126, KV_F32, true, true, true},
        {8, 2, 64, 32, 0, 300, KV_F16, false, true, true},
        {6, 2, 36, 0, 0, 3, KV_F16, true, true, false},
        {4, 1, 16, 8, 130, 140, KV_F16, true, true, false},
        {4, 2, 24, 12, 0, 200, KV_F32, true, false, false},
        {2, 1, 8, 4, 0, 2046, KV_F16, true, true, false}, /* with the last splits: a kernel more */
        {9, 1, 16, 8, 0, 4, KV_F16, true, true, false},   /* too many heads: apart */
        {2, 1, 300, 150, 0, 4, KV_F32, true, true, false} /* too wide */};
    for (size_t i = 0; i < TEST_COUNT(all); i++) {
        const bool apart = all[i].n_heads == 9 || all[i].head_dim == 300;
        const uint64_t most = apart ? 7 * LATER : all[i].first > 2000 ? 2 * LATER : LATER;
        char *what = mem_printf("heads %u", (unsigned)i);
        check_chain(*state, what, attend, &all[i], most);
        free(what);
    }
}

/* ---- experts -------------------------------------------------------------------------------- */

struct uses {
    const struct codec *codec;
    uint32_t dim, ffn, n_active;
    struct ffn_rule rule;
    uint32_t n_first; /* of the first call; the others are of the second one */
    bool put, added;  /* the last use is put; the sum is added */
};

enum { USES_EXPERTS = 5, USES_MOST = 4 };

/* Use u's expert is number u; those of odd numbers lie in two places. */
static void compute(struct chain *c, const void *ctx) {
    const struct uses *s = ctx;
    const struct backend_ops *op = c->b->ops;
    void *be = c->b->self;
    struct test_rng rng = {73};
    const size_t row = codec_row_bytes(s->codec, s->dim), bytes = (size_t)s->ffn * 3 * row;
    struct weight host = kernels_weight(&rng, s->codec, KIND_NORMAL, 3 * s->ffn, s->dim, 0);
    uint8_t *packed = mem_alloc(bytes);
    for (uint32_t i = 0; i < 3 * s->ffn; i++) {
        memcpy(packed + i * row, weight_row(&host, i), row);
    }
    kernels_free_weight(&host);
    uint8_t *data = cuda_rig_put(c->b, packed, bytes);
    free(packed);
    float *x = buffer(c, s->dim), *parts = buffer(c, (size_t)s->n_active * s->dim);
    float *weights = buffer(c, s->n_active), *y = buffer(c, s->dim), *sum = buffer(c, s->dim);
    float *biases = buffer(c, (size_t)USES_EXPERTS * (2 * s->ffn + s->dim));
    const struct expert_layer layer = {.dim = s->dim,
                                       .ffn_dim = s->ffn,
                                       .n_active = s->n_active,
                                       .rule = s->rule,
                                       .gate_bias = biases,
                                       .up_bias = biases + (size_t)USES_EXPERTS * s->ffn,
                                       .down_bias = biases + (size_t)USES_EXPERTS * 2 * s->ffn};
    const uint32_t half = s->ffn / 2 / FFN_BLOCK * FFN_BLOCK;
    const struct ffn_chunk whole = {.data = data, .codec = s->codec, .n_neurons = s->ffn};
    const struct ffn_chunk parted[2] = {{.data = data, .codec = s->codec, .n_neurons = half},
                                        {.data = data + (size_t)half * 3 * row,
                                         .codec = s->codec,
                                         .n_neurons = s->ffn - half,
                                         .first = half}};
    struct expert_job jobs[USES_MOST];
    uint32_t uses[USES_MOST];
    const uint32_t n = s->n_active - s->put;
    for (uint32_t u = 0; u < n; u++) {
        uses[u] = u;
        jobs[u] = (struct expert_job){u, u % 2 ? parted : &whole, u % 2 ? 2 : 1, &uses[u], 1};
    }
    jobs[0].n_chunks = s->rule.bias ? 0 : jobs[0].n_chunks; /* nothing but its bias */
    float host_row[2100];
    kernels_fill(&rng, KIND_NORMAL, host_row, s->dim);
    const uint32_t last = s->n_active - 1;
    uint64_t before = launches(c->b);
    op->experts(be, &layer, jobs, s->n_first, x, parts);
    step(c);
    if (s->put) {
        op->put_rows(be, parts, s->dim, host_row, &last, 1);
        step(c);
    }
    if (s->n_first < n) {
        op->experts(be, &layer, jobs + s->n_first, n - s->n_first, x, parts);
        step(c);
    }
    op->combine(be, parts, weights, 1, s->n_active, s->dim, y);
    step(c);
    if (s->added) {
        op->add(be, sum, y, s->dim);
        step(c);
    }
    cuda_rig_get(c->b, host_row, y, 1);
    c->launches = launches(c->b) - before;
    cuda_rig_release(c->b, data);
}

void cuda_test_fuse_experts(void **state) {
    static const struct ffn_rule silu = {.act = FFN_SILU};
    static const struct ffn_rule oai = {
        .act = FFN_SWIGLU_OAI, .bias = 1, .limit = 2, .alpha = 1.702f};
    const struct cuda_rig *g = *state;
    const struct codec *codec;
    for (size_t i = 0; (codec = codec_at(i)); i++) {
        const struct uses all[] = {{codec, 96, 100, 4, silu, 4, false, true},
                                   {codec, 64, 70, 4, oai, 2, false, true},
                                   {codec, 32, 32, 3, oai, 1, true, true},
                                   {codec, 64, 160, 3, silu, 2, true, false}};
        for (size_t k = 0; k < TEST_COUNT(all); k++) {
            const struct uses *s = &all[k];
            const uint32_t calls = 1 + (s->n_first < s->n_active - s->put);
            char *what = mem_printf("experts in %s, %u", codec->name, (unsigned)k);
            check_chain(g, what, compute, s, calls + s->put + 1);
            free(what);
        }
    }
}
