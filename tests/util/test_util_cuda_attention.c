/*
 * test_util_cuda_attention: see test_util_cuda.h. Attention over stored keys: close to the CPU's,
 * and the same bits however rows are shared out over calls, and wherever the ring of stored
 * positions begins anew.
 */
#include "tests/util/test_util_cuda.h"

#include <math.h>

enum { MAX_ROWS = 96 };

/* See test_kernels.c. */
static const double attention_tolerance = 2e-5;

struct sequence {
    enum kv_type type;
    uint32_t n_heads, n_kv_heads, head_dim, len, window, step;
    uint32_t spare_tok; /* positions that are kept beyond those that are visible */
    uint32_t chunk;
    float scale, temper;
    float *q, *k, *v; /* [len, heads, head_dim] */
    float *sinks;     /* [n_heads], or NULL */
    bool ring;        /* no more is kept than has to be */
};

static uint32_t capacity_of(const struct sequence *s) {
    return s->ring ? s->window + s->chunk + s->step - 1 + s->spare_tok : s->len + 3;
}

static void run_sequence(const struct backend *b, const void *ctx, float *out) {
    const struct sequence *s = ctx;
    struct kv kv = {.type = s->type,
                    .n_kv_heads = s->n_kv_heads,
                    .head_dim = s->head_dim,
                    .capacity_tok = capacity_of(s)};
    struct attention_rule rule = {.n_heads = s->n_heads,
                                  .n_kv_heads = s->n_kv_heads,
                                  .head_dim = s->head_dim,
                                  .sinks = s->sinks ? 1 : 0,
                                  .window = s->window,
                                  .chunk = s->chunk,
                                  .temper = s->temper,
                                  .temper_tok = 5,
                                  .scale = s->scale};
    struct weight sinks = {0};
    size_t q_row = (size_t)s->n_heads * s->head_dim, kv_row = (size_t)s->n_kv_heads * s->head_dim;
    float *q = cuda_rig_put(b, s->q, s->len * q_row * sizeof *q);
    float *k = cuda_rig_put(b, s->k, s->len * kv_row * sizeof *k);
    float *v = cuda_rig_put(b, s->v, s->len * kv_row * sizeof *v);
    float *o = b->ops->alloc(b->self, s->len * q_row * sizeof *o, NULL);
    if (s->sinks) {
        sinks = cuda_rig_place(b, s->sinks, 1, s->n_heads);
    }
    kv.k = b->ops->alloc(b->self, kv_bytes(&kv), NULL);
    kv.v = b->ops->alloc(b->self, kv_bytes(&kv), NULL);
    for (uint32_t pos = 0; pos < s->len; pos += s->step) {
        uint32_t rows = s->len - pos < s->step ? s->len - pos : s->step;
        b->ops->kv_store(b->self, &kv, k + pos * kv_row, v + pos * kv_row, pos, rows);
        b->ops->attention(b->self, &rule, &kv, &sinks, q + pos * q_row, pos, rows, o + pos * q_row);
    }
    cuda_rig_get(b, out, o, s->len * q_row);
    void *all[] = {q, k, v, o, kv.k, kv.v};
    for (size_t i = 0; i < TEST_COUNT(all); i++) {
        cuda_rig_release(b, all[i]);
    }
}

static void check_sequence(const struct cuda_rig *g, struct sequence *s) {
    static const uint32_t steps[] = {7, 1};
    size_t n = (size_t)s->len * s->n_heads * s->head_dim;
    float *want = cuda_rig_zeros(n), *got = cuda_rig_zeros(n), *first = cuda_rig_zeros(n);
    char *what = mem_printf("attention %s, %u/%u heads of %u, %u tokens, window %u, chunk %u%s",
                            s->type == KV_F16 ? "f16" : "f32", s->n_heads, s->n_kv_heads,
                            s->head_dim, s->len, s->window, s->chunk, s->sinks ? ", sinks" : "");
    s->step = s->len < MAX_ROWS ? s->len : MAX_ROWS;
    s->ring = false;
    run_sequence(&g->scalar, s, want);
    double *t = cuda_rig_tolerances(want, n, 0, attention_tolerance);
    cuda_rig_check(g, what, run_sequence, s, first, want, t, n);
    s->ring = s->window + s->chunk > 0;
    for (size_t i = 0; i < TEST_COUNT(steps); i++) { /* one result, however many rows a call */
        s->step = steps[i];
        run_sequence(&g->device, s, got);
        check_same(what, got, first, n);
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
        {.n_heads = 5, .n_kv_heads = 1, .head_dim = 512, .len = 9, .scale = 0.25f},
        {.n_heads = 2, .n_kv_heads = 1, .head_dim = 8, .len = 262, .window = 130},
        {.n_heads = 4, .n_kv_heads = 2, .head_dim = 8, .len = 140, .window = 3, .spare_tok = 2},
        {.n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .len = 50, .chunk = 7, .temper = 0.5f},
        {.n_heads = 2, .n_kv_heads = 1, .head_dim = 8, .len = 262, .chunk = 130},
    };
    const struct cuda_rig *g = *state;
    struct test_rng rng = {39};
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct sequence s = cases[i];
        size_t q = (size_t)s.len * s.n_heads * s.head_dim;
        size_t kv = (size_t)s.len * s.n_kv_heads * s.head_dim;
        float *sinks = kernels_vector(&rng, i % 4 == 1 ? KIND_SPIKY : KIND_NORMAL, s.n_heads);
        s.q = kernels_vector(&rng, KIND_NORMAL, q);
        s.k = kernels_vector(&rng, KIND_NORMAL, kv);
        s.v = kernels_vector(&rng, KIND_NORMAL, kv);
        for (int type = KV_F16; type <= KV_F32; type++) {
            s.type = (enum kv_type)type;
            s.sinks = ((int)i + type) % 2 ? sinks : NULL;
            check_sequence(g, &s);
        }
        test_guard_free(sinks, s.n_heads * sizeof *sinks);
        test_guard_free(s.q, q * sizeof *s.q);
        test_guard_free(s.k, kv * sizeof *s.k);
        test_guard_free(s.v, kv * sizeof *s.v);
    }
}

/* Keys and values that f16 cannot hold are told as the CPU tells them. */
void cuda_test_beyond_f16(void **state) {
    enum { ROWS = 40, HEADS = 2, DIM = 16, N = ROWS * HEADS * DIM, BLOCK = HEADS * DIM };
    static const uint32_t steps[] = {ROWS, 7, 1};
    const struct cuda_rig *g = *state;
    float *k = cuda_rig_zeros(N), *v = cuda_rig_zeros(N);
    k[0] = v[0] = INFINITY;
    k[1] = v[2] = NAN;
    k[3] = 65519.99f;
    k[9 * BLOCK + 5] = -65520;
    k[30 * BLOCK] = v[22 * BLOCK + BLOCK - 1] = 3e38f;
    v[39 * BLOCK] = -1e5f;
    const struct backend *b = &g->device;
    for (size_t i = 0; i < TEST_COUNT(steps); i++) {
        const uint32_t want[2] = {UINT32_MAX - 109, UINT32_MAX - 122};
        uint32_t told[2];
        struct kv kv = {
            .type = KV_F16, .n_kv_heads = HEADS, .head_dim = DIM, .capacity_tok = ROWS + 3};
        float *on_k = cuda_rig_put(b, k, N * sizeof *k), *on_v = cuda_rig_put(b, v, N * sizeof *v);
        kv.k = b->ops->alloc(b->self, kv_bytes(&kv), NULL);
        kv.v = b->ops->alloc(b->self, kv_bytes(&kv), NULL);
        kv.beyond = b->ops->alloc(b->self, sizeof want, NULL);
        for (uint32_t r = 0; r < ROWS; r += steps[i]) {
            uint32_t rows = ROWS - r < steps[i] ? ROWS - r : steps[i];
            b->ops->kv_store(b->self, &kv, on_k + r * BLOCK, on_v + r * BLOCK, 100 + r, rows);
        }
        b->ops->read(b->self, told, kv.beyond, sizeof told);
        assert_memory_equal(told, want, sizeof want);
        void *all[] = {on_k, on_v, kv.k, kv.v, kv.beyond};
        for (size_t j = 0; j < TEST_COUNT(all); j++) {
            cuda_rig_release(b, all[j]);
        }
    }
    free(k);
    free(v);
}
