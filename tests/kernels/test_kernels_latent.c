/*
 * Latent attention of every backend, and the product for each head: against their formulas in
 * double precision, and to the bit against themselves for other thread counts and for rows that are
 * split over calls in other ways.
 */
#include <math.h>

#include "tests/util/test_util_backends.h"

/* As of attention (test_kernels_attention), of scores that stay below 8. */
static const double attention_tolerance = 1e-5;

struct sequence {
    enum kv_type type;
    struct latent_rule rule;
    uint32_t len;
    float *q, *q_rest;     /* [len, n_heads, rank], [len, n_heads, rope_dim] */
    float *latents, *rest; /* [len, rank], [len, rope_dim] */
};

static size_t out_floats(const struct sequence *s) {
    return (size_t)s->len * s->rule.n_heads * s->rule.rank;
}

/* Store, then attend, `step` positions at a time. What lies there before that is not to be looked
 * at. */
static void run_sequence(const struct backend *b, const struct sequence *s, uint32_t step,
                         float *out) {
    const struct latent_rule *rule = &s->rule;
    const size_t rank = rule->rank, rest = rule->rope_dim, heads = rule->n_heads;
    struct kv kv = {.type = s->type,
                    .n_kv_heads = 1,
                    .head_dim = latent_key_dim(rule),
                    .latent_dim = rule->rank,
                    .capacity_tok = s->len};
    kv.k = test_guard(kv_bytes(&kv));
    memset(kv.k, 0xff, kv_bytes(&kv)); /* NaN */
    for (uint32_t pos = 0, rows; pos < s->len; pos += rows) {
        rows = s->len - pos < step ? s->len - pos : step;
        b->ops->latent_store(b->self, &kv, s->latents + pos * rank, s->rest + pos * rest, pos,
                             rows);
        b->ops->latent_attention(b->self, rule, &kv, s->q + pos * heads * rank,
                                 s->q_rest + pos * heads * rest, pos, rows,
                                 out + pos * heads * rank);
    }
    test_guard_free(kv.k, kv_bytes(&kv));
}

/* All keys [len, rank + rope_dim], as the cache's type holds them; to free(). */
static float *held_keys(const struct sequence *s) {
    const uint32_t rank = s->rule.rank, rest = s->rule.rope_dim, dim = rank + rest;
    const struct codec *codec = kv_codec(s->type);
    float *keys = mem_calloc((size_t)s->len * dim, sizeof *keys);
    float *key = mem_calloc(dim, sizeof *key), *stored = mem_calloc(dim, sizeof *stored);
    for (uint32_t i = 0; i < s->len; i++) {
        memcpy(key, s->latents + (size_t)i * rank, rank * sizeof *key);
        memcpy(key + rank, s->rest + (size_t)i * rest, rest * sizeof *key);
        codec->encode_row(key, dim, stored);
        codec->decode_row(stored, dim, keys + (size_t)i * dim);
    }
    free(key);
    free(stored);
    return keys;
}

/* The formula, in double precision, on latents and keys as the cache's type holds them. */
static double *attend_simply(const struct sequence *s) {
    const struct latent_rule *r = &s->rule;
    const uint32_t rank = r->rank, rest = r->rope_dim;
    const double plain = r->scale > 0 ? (double)r->scale : 1 / sqrt(r->nope_dim + r->rope_dim);
    double *out = backends_all(out_floats(s), 0), *weights = mem_calloc(s->len, sizeof *weights);
    float *keys = held_keys(s);
    for (uint32_t i = 0; i < s->len; i++) {
        double by_position = r->query_beta > 0 ? floor((double)i / r->query_tok) : 0, sum;
        double scale = plain * (1 + (double)r->query_beta * log(1 + by_position));
        for (uint32_t h = 0; h < r->n_heads; h++) {
            const size_t at = (size_t)i * r->n_heads + h;
            sum = 0;
            for (uint32_t j = 0; j <= i; j++) {
                const float *key = keys + (size_t)j * (rank + rest);
                double score = 0;
                for (uint32_t c = 0; c < rank; c++) {
                    score += (double)s->q[at * rank + c] * (double)key[c];
                }
                for (uint32_t c = 0; c < rest; c++) {
                    score += (double)s->q_rest[at * rest + c] * (double)key[rank + c];
                }
                weights[j] = exp(score * scale);
                sum += weights[j];
            }
            for (uint32_t j = 0; j <= i; j++) {
                for (uint32_t c = 0; c < rank; c++) {
                    out[at * rank + c] +=
                        weights[j] / sum * (double)keys[(size_t)j * (rank + rest) + c];
                }
            }
        }
    }
    free(weights);
    free(keys);
    return out;
}

static void check_sequence(const struct sequence *s) {
    static const uint32_t steps[] = {1, 2, 3, 5, 12, 20};
    const size_t n = out_floats(s);
    float *got = backends_zeros(n), *same = backends_zeros(n);
    double *t = backends_all(n, attention_tolerance), *want = attend_simply(s);
    const struct backend *b;
    for (size_t i = 0; (b = backends_at(i)); i++) {
        run_sequence(b, s, s->len, got);
        backends_close_to(b, "latent_attention", got, want, t, n);
        if (backends_one(i) == b || !backends_one(i)) {
            memcpy(same, got, n * sizeof *got);
        }
        backends_same(b, "latent_attention", got, same, n);
        for (size_t k = 0; k < TEST_COUNT(steps); k += QUICK ? 2 : 1) {
            memset(got, 0xff, n * sizeof *got);
            run_sequence(b, s, steps[k], got);
            backends_same(b, "latent_attention in steps", got, same, n);
        }
    }
    free(t);
    free(want);
    free(got);
    free(same);
}

static void test_attention(void **state) {
    static const struct {
        struct latent_rule rule;
        uint32_t len;
    } cases[] = {
        {{.n_heads = 1, .rank = 8, .nope_dim = 6, .rope_dim = 2}, 5},
        {{.n_heads = 4, .rank = 64, .nope_dim = 32, .rope_dim = 16, .scale = 0.1f}, 70},
        {{.n_heads = 3,
          .rank = 20,
          .nope_dim = 7,
          .rope_dim = 6,
          .query_beta = 0.5f,
          .query_tok = 8},
         33},
        {{.n_heads = 30, .rank = 32, .nope_dim = 16, .rope_dim = 8}, 20},
        {{.n_heads = 16, .rank = 512, .nope_dim = 128, .rope_dim = 64, .scale = 0.04f}, 80},
    };
    struct test_rng rng = {41};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct sequence s = {.rule = cases[i].rule, .len = cases[i].len};
        const size_t rank = s.rule.rank, rest = s.rule.rope_dim, rows = s.len,
                     queries = rows * s.rule.n_heads;
        s.q = kernels_vector(&rng, KIND_NORMAL, queries * rank);
        s.q_rest = kernels_vector(&rng, KIND_NORMAL, queries * rest);
        s.latents = kernels_vector(&rng, KIND_NORMAL, rows * rank);
        s.rest = kernels_vector(&rng, KIND_NORMAL, rows * rest);
        for (int type = 0; type < KV_TYPES; type++) {
            s.type = (enum kv_type)type;
            if (codec_fits(kv_codec(s.type), latent_key_dim(&s.rule))) {
                check_sequence(&s);
            }
        }
        test_guard_free(s.q, queries * rank * sizeof *s.q);
        test_guard_free(s.q_rest, queries * rest * sizeof *s.q_rest);
        test_guard_free(s.latents, rows * rank * sizeof *s.latents);
        test_guard_free(s.rest, rows * rest * sizeof *s.rest);
    }
}

/* What f16 cannot hold, in a latent or in the rest of a key, is told of the keys. */
static void test_beyond_f16(void **state) {
    enum { RANK = 24, REST = 8 };
    const struct backend *b;
    (void)state;
    for (size_t i = 0; (b = backends_at(i)); i++) {
        for (int in_rest = 0; in_rest < 2; in_rest++) {
            float latents[3 * RANK] = {0}, rest[3 * REST] = {0};
            uint16_t stored[16 * (RANK + REST)];
            uint32_t beyond[2] = {0}, told[2] = {UINT32_MAX - 8, 0};
            struct kv kv = {.type = KV_F16,
                            .n_kv_heads = 1,
                            .head_dim = RANK + REST,
                            .latent_dim = RANK,
                            .capacity_tok = 16,
                            .k = stored,
                            .beyond = beyond};
            *(in_rest ? &rest[REST + 5] : &latents[RANK + 5]) = 65520;
            b->ops->latent_store(b->self, &kv, latents, rest, 7, 3);
            assert_memory_equal(beyond, told, sizeof told);
        }
    }
}

/* ---- products ---- */

/* y [rows, n_heads, n]; *t, for free(), is how far off each may be. */
static double *multiply_simply(const struct weight *w, uint32_t n_heads, const float *x,
                               uint32_t rows, double **t) {
    const size_t n = w->rows / n_heads, cols = w->cols, all = rows * n_heads * n;
    double *y = backends_all(all, 0);
    *t = backends_all(all, 0);
    for (size_t i = 0; i < w->rows; i++) {
        float *row = kernels_decode(w, (uint32_t)i);
        for (uint32_t r = 0; r < rows; r++) {
            const float *in = x + (r * n_heads + i / n) * cols;
            const size_t at = (size_t)r * w->rows + i;
            double size;
            y[at] = kernels_dot(row, in, cols, &size);
            (*t)[at] = kernels_dot_tolerance(cols, size);
            (*t)[at] += codec_has_scales(w->codec->id) ? kernels_quant_error(row, in, cols) : 0;
        }
        free(row);
    }
    return y;
}

static void check_product(const struct weight *w, uint32_t n_heads, const float *x, uint32_t rows) {
    const size_t n = (size_t)rows * w->rows;
    float *got = backends_zeros(n), *same = backends_zeros(n), *alone = backends_zeros(n);
    double *t, *want = multiply_simply(w, n_heads, x, rows, &t);
    const struct backend *b;
    for (size_t i = 0; (b = backends_at(i)); i++) {
        b->ops->matmul_heads(b->self, w, n_heads, x, rows, got);
        backends_close_to(b, "matmul_heads", got, want, t, n);
        if (backends_one(i) == b || !backends_one(i)) {
            memcpy(same, got, n * sizeof *got);
        }
        backends_same(b, "matmul_heads", got, same, n);
        for (uint32_t r = 0; r < rows; r++) {
            b->ops->matmul_heads(b->self, w, n_heads, x + (size_t)r * n_heads * w->cols, 1,
                                 alone + (size_t)r * w->rows);
        }
        backends_same(b, "matmul_heads row by row", alone, same, n);
    }
    free(got);
    free(same);
    free(alone);
    free(want);
    free(t);
}

static void test_products(void **state) {
    static const struct {
        uint32_t n_heads, n, cols;
    } shapes[] = {{1, 3, 32}, {4, 64, 32}, {3, 33, 64}, {16, 40, 128}, {2, 7, 20}, {5, 128, 512}};
    static const uint32_t row_counts[] = {1, 3, 4, 17, 70};
    struct test_rng rng = {43};
    const struct codec *codec;
    (void)state;
    for (size_t c = 0; (codec = codec_at(c)); c++) {
        for (size_t s = 0; s < TEST_COUNT(shapes); s++) {
            const uint32_t n_heads = shapes[s].n_heads, cols = shapes[s].cols;
            for (size_t i = s % 2; i < TEST_COUNT(row_counts) && codec_fits(codec, cols); i += 2) {
                const size_t n = (size_t)row_counts[i] * n_heads * cols;
                struct weight w = kernels_weight(&rng, codec, KIND_NORMAL, n_heads * shapes[s].n,
                                                 cols, 3 * (s % 2));
                float *x = kernels_vector(&rng, KIND_NORMAL, n);
                check_product(&w, n_heads, x, row_counts[i]);
                test_guard_free(x, n * sizeof *x);
                kernels_free_weight(&w);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_beyond_f16),
        cmocka_unit_test(test_products),
    };
    return cmocka_run_group_tests(tests, backends_open, backends_close);
}
