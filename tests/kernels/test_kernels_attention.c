/*
 * The KV store and attention of every backend: against the formula in double precision, and to the
 * bit against itself for other thread counts, row splits, and rings of keys of any size that holds
 * what is seen.
 */
#include <math.h>

#include "tests/util/test_util_backends.h"

/* Scores carry a dot product's error d, which exp turns into a factor e^d of each weight; then sums
 * over the keys. Scores stay below 8 here; 1e-5 of the greatest value is twice what that can add up
 * to. */
static const double attention_tolerance = 1e-5;

struct sequence {
    enum kv_type type;
    struct attention_rule rule;
    uint32_t len;
    float *q, *k, *v; /* [len, heads, head_dim], v [len, n_kv_heads, width of a value] */
    float *sinks;     /* [n_heads] */
};

/* How positions are cut into calls: `prefill` rows first, then `step` at a time; `capacity_tok`
 * places in the ring. */
struct calls {
    uint32_t prefill, step, capacity_tok;
};

/* Store, then attend. What lies in the ring before that is not to be looked at. */
static void run_sequence(const struct backend *b, const struct sequence *s,
                         const struct calls *calls, float *out) {
    const struct attention_rule *rule = &s->rule;
    struct kv kv = {.type = s->type,
                    .n_kv_heads = rule->n_kv_heads,
                    .head_dim = rule->head_dim,
                    .v_dim = rule->v_dim,
                    .capacity_tok = calls->capacity_tok};
    struct weight sinks = kernels_row(rule->sinks ? s->sinks : NULL, rule->n_heads);
    size_t q_row = attention_q_dim(rule), out_row = attention_out_dim(rule);
    size_t k_row = attention_k_dim(rule), v_row = attention_v_dim(rule);
    kv.k = test_guard(kv_bytes(&kv));
    kv.v = test_guard(kv_value_bytes(&kv));
    memset(kv.k, 0xff, kv_bytes(&kv)); /* NaN */
    memset(kv.v, 0xff, kv_value_bytes(&kv));
    for (uint32_t pos = 0, rows; pos < s->len; pos += rows) {
        rows = pos == 0 ? calls->prefill : calls->step;
        rows = s->len - pos < rows ? s->len - pos : rows;
        b->ops->kv_store(b->self, &kv, s->k + pos * k_row, s->v + pos * v_row, pos, rows);
        b->ops->attention(b->self, rule, &kv, &sinks, s->q + pos * q_row, pos, rows,
                          out + pos * out_row);
    }
    test_guard_free(kv.k, kv_bytes(&kv));
    test_guard_free(kv.v, kv_value_bytes(&kv));
}

/* The formula, in double precision, on keys and values as the cache's type holds them. */
static double *attend_simply(const struct sequence *s) {
    const struct attention_rule *rule = &s->rule;
    const uint32_t dim = rule->head_dim, heads = rule->n_heads, v_dim = attention_head_out(rule);
    const double plain = rule->scale != 0 ? (double)rule->scale : 1 / sqrt(dim);
    double *out = backends_all((size_t)s->len * heads * v_dim, 0), unused;
    double *weights = mem_calloc(s->len, sizeof *weights);
    const struct codec *codec = kv_codec(s->type);
    const uint32_t widest = dim > v_dim ? dim : v_dim;
    float *key = mem_calloc(widest, sizeof *key), *stored = mem_calloc(widest, sizeof *stored);
    for (uint32_t i = 0; i < s->len; i++) {
        const double temper = rule->temper > 0 ? floor((i + 1) / (double)rule->temper_tok) : 0;
        const double scale = plain * (1 + (double)rule->temper * log(1 + temper));
        for (uint32_t h = 0; h < heads; h++) {
            uint32_t kv_head = h / (heads / rule->n_kv_heads);
            size_t at = (size_t)i * heads + h;
            double sum = rule->sinks ? exp((double)s->sinks[h]) : 0;
            for (int pass = 0; pass < 2; pass++) {
                for (uint32_t j = 0; j <= i; j++) {
                    if ((rule->window && j + rule->window <= i) ||
                        (rule->chunk && j / rule->chunk != i / rule->chunk)) {
                        continue;
                    }
                    const uint32_t n = pass ? v_dim : dim;
                    const float *row =
                        (pass ? s->v : s->k) + ((size_t)j * rule->n_kv_heads + kv_head) * n;
                    codec->encode_row(row, n, stored);
                    codec->decode_row(stored, n, key);
                    if (pass == 0) {
                        weights[j] = exp(kernels_dot(s->q + at * dim, key, dim, &unused) * scale);
                        sum += weights[j];
                    }
                    for (uint32_t c = 0; pass == 1 && c < v_dim; c++) {
                        out[at * v_dim + c] += weights[j] / sum * (double)key[c];
                    }
                }
            }
        }
    }
    free(weights);
    free(key);
    free(stored);
    return out;
}

/* Splits into calls, and rings: with a window or chunks a ring needs no more than what the rows of
 * a call see; without, it holds everything. */
static void check_calls(const struct backend *b, const struct sequence *s, const char *what,
                        const float *same, float *got) {
    static const uint32_t steps[] = {1, 2, 3, 5, 12, 20};
    const size_t n = (size_t)s->len * attention_out_dim(&s->rule);
    const uint32_t window = attention_span(&s->rule);
    for (size_t i = 0; i < TEST_COUNT(steps); i += QUICK ? 2 : 1) {
        uint32_t step = steps[i] < s->len ? steps[i] : s->len;
        uint32_t least = window ? window - 1 + step : s->len;
        least = least < s->len ? least : s->len;
        struct calls calls[] = {
            {step, step, s->len}, {step, step, least}, {step, 1, least}, {step, step, least + 3}};
        for (size_t k = 0; k < (window ? TEST_COUNT(calls) : 1); k++) {
            memset(got, 0xff, n * sizeof *got);
            run_sequence(b, s, &calls[k], got);
            backends_same(b, what, got, same, n);
        }
    }
}

static void check_sequence(const struct sequence *s) {
    const struct attention_rule *rule = &s->rule;
    const size_t n = (size_t)s->len * attention_out_dim(rule);
    const struct calls whole = {s->len, s->len, s->len + 3};
    float *got = backends_zeros(n), *same = backends_zeros(n);
    double *t = backends_all(n, attention_tolerance), *want = attend_simply(s);
    char *what = mem_printf(
        "attention %s, %u/%u heads of %u and %u, %u tokens, window %u, chunk %u, sinks %u",
        kv_codec(s->type)->name, rule->n_heads, rule->n_kv_heads, rule->head_dim,
        attention_head_out(rule), s->len, rule->window, rule->chunk, rule->sinks);
    const struct backend *b;
    for (size_t i = 0; (b = backends_at(i)); i++) {
        run_sequence(b, s, &whole, got);
        backends_close_to(b, what, got, want, t, n);
        if (backends_one(i) == b || !backends_one(i)) {
            memcpy(same, got, n * sizeof *got);
        }
        backends_same(b, what, got, same, n);
        check_calls(b, s, what, same, got);
    }
    free(what);
    free(t);
    free(want);
    free(got);
    free(same);
}

static void test_attention(void **state) {
    static const struct {
        struct attention_rule rule;
        uint32_t len;
    } cases[] = {
        {{.n_heads = 1, .n_kv_heads = 1, .head_dim = 8}, 5},
        {{.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .scale = 0.2f}, 70},
        {{.n_heads = 4, .n_kv_heads = 4, .head_dim = 20, .window = 7}, 33},
        {{.n_heads = 24, .n_kv_heads = 2, .head_dim = 32}, 20},
        {{.n_heads = 6, .n_kv_heads = 2, .head_dim = 128, .window = 64}, 140},
        {{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16, .window = 1}, 12},
        {{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .chunk = 7}, 33},
        {{.n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .chunk = 1}, 9},
        {{.n_heads = 2,
          .n_kv_heads = 1,
          .head_dim = 64,
          .chunk = 64,
          .temper = 0.5f,
          .temper_tok = 30},
         140},
        {{.n_heads = 3, .n_kv_heads = 1, .head_dim = 16, .temper = 0.25f, .temper_tok = 4}, 50},
        {{.n_heads = 16, .n_kv_heads = 2, .head_dim = 32, .window = 5, .scale = 0.1f}, 90},
        {{.n_heads = 4, .n_kv_heads = 2, .head_dim = 48, .v_dim = 32}, 70},
        {{.n_heads = 4, .n_kv_heads = 2, .head_dim = 96, .v_dim = 64}, 30},
        {{.n_heads = 8, .n_kv_heads = 2, .head_dim = 24, .v_dim = 16, .window = 12}, 50},
        {{.n_heads = 2, .n_kv_heads = 1, .head_dim = 16, .v_dim = 40, .chunk = 9}, 40},
    };
    struct test_rng rng = {14};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct sequence s = {.rule = cases[i].rule, .len = cases[i].len};
        size_t q = (size_t)s.len * attention_q_dim(&s.rule),
               k = (size_t)s.len * attention_k_dim(&s.rule),
               v = (size_t)s.len * attention_v_dim(&s.rule);
        s.q = kernels_vector(&rng, KIND_NORMAL, q);
        s.k = kernels_vector(&rng, KIND_NORMAL, k);
        s.v = kernels_vector(&rng, KIND_NORMAL, v);
        s.sinks = kernels_vector(&rng, KIND_NORMAL, s.rule.n_heads);
        /* A head whose sink is above all its scores, and one whose sink is nothing beside them. */
        s.sinks[0] = 12;
        s.sinks[s.rule.n_heads - 1] -= s.rule.n_heads > 1 ? 200 : 0;
        for (uint32_t form = 0; form < 2 * KV_TYPES; form += QUICK ? KV_TYPES + 1 : 1) {
            s.type = (enum kv_type)(form % KV_TYPES);
            s.rule.sinks = form / KV_TYPES;
            if (codec_fits(kv_codec(s.type), s.rule.head_dim) &&
                codec_fits(kv_codec(s.type), attention_head_out(&s.rule))) {
                check_sequence(&s);
            }
        }
        test_guard_free(s.q, q * sizeof *s.q);
        test_guard_free(s.k, k * sizeof *s.k);
        test_guard_free(s.v, v * sizeof *s.v);
        test_guard_free(s.sinks, s.rule.n_heads * sizeof *s.sinks);
    }
}

/* What f16 cannot hold is told by the earliest position, of keys and of values, however rows are
 * cut into calls; what is infinite or NaN already is not f16's affair. */
static void test_beyond_f16(void **state) {
    enum { ROWS = 9, HEADS = 3, DIM = 24, N = ROWS * HEADS * DIM };
    static const struct {
        float value;
        uint32_t row, want; /* the position told; UINT32_MAX: none */
    } cases[] = {
        {65504, 3, UINT32_MAX},
        {65519.99f, 3, UINT32_MAX},
        {-65519.99f, 0, UINT32_MAX},
        {65520, 0, 7},
        {-65520, 8, 15},
        {3e38f, 4, 11},
        {INFINITY, 4, UINT32_MAX},
        {-INFINITY, 4, UINT32_MAX},
        {NAN, 4, UINT32_MAX},
    };
    const struct backend *b;
    (void)state;
    for (size_t i = 0; (b = backends_at(i)); i++) {
        for (size_t n = 0; n < 2 * TEST_COUNT(cases); n++) {
            static const uint32_t steps[] = {1, 2, ROWS};
            float k[N] = {0}, v[N] = {0}, *x = n % 2 ? v : k;
            uint16_t stored[2][16 * HEADS * DIM];
            const uint32_t row = cases[n / 2].row;
            x[(row * HEADS + n % HEADS) * DIM + n % DIM] = cases[n / 2].value;
            x[N - 1] = 1e5f; /* a later one, told where the case's is none or comes later */
            for (size_t c = 0; c < TEST_COUNT(steps); c++) {
                uint32_t beyond[2] = {0}, told[2] = {0},
                         first = cases[n / 2].want < 15 ? cases[n / 2].want : 15;
                struct kv kv = {.type = KV_F16,
                                .n_kv_heads = HEADS,
                                .head_dim = DIM,
                                .capacity_tok = 16,
                                .k = stored[0],
                                .v = stored[1],
                                .beyond = beyond};
                told[n % 2] = UINT32_MAX - first;
                for (uint32_t r = 0; r < ROWS; r += steps[c]) {
                    uint32_t rows = ROWS - r < steps[c] ? ROWS - r : steps[c];
                    b->ops->kv_store(b->self, &kv, k + r * HEADS * DIM, v + r * HEADS * DIM, 7 + r,
                                     rows);
                }
                assert_memory_equal(beyond, told, sizeof told);
            }
        }
    }
}

/* What q8 cannot hold, which is also what is not finite, and where it is. */
static void test_beyond_q8(void **state) {
    enum { ROWS = 3, DIM = 64 };
    static const struct {
        float value;
        bool told;
    } cases[] = {{8.3e6f, false},  {-8.3e6f, false}, {8.4e6f, true}, {-3e38f, true},
                 {INFINITY, true}, {NAN, true},      {0, false}};
    const struct backend *b;
    (void)state;
    for (size_t i = 0; (b = backends_at(i)); i++) {
        for (size_t n = 0; n < TEST_COUNT(cases); n++) {
            float k[ROWS * DIM] = {0}, v[ROWS * DIM] = {0};
            uint8_t stored[2][8 * DIM * 2];
            uint32_t beyond[2] = {0};
            struct kv kv = {.type = KV_Q8,
                            .n_kv_heads = 1,
                            .head_dim = DIM,
                            .capacity_tok = 8,
                            .k = stored[0],
                            .v = stored[1],
                            .beyond = beyond};
            v[DIM + n] = cases[n].value;
            b->ops->kv_store(b->self, &kv, k, v, 5, ROWS);
            assert_int_equal(beyond[0], 0);
            assert_int_equal(beyond[1], cases[n].told ? UINT32_MAX - 6 : 0);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_beyond_f16),
        cmocka_unit_test(test_beyond_q8),
    };
    return cmocka_run_group_tests(tests, backends_open, backends_close);
}
