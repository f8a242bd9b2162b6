/*
 * sample: drawn frequencies against probabilities computed here the plain way (sort, then cut),
 * edge cases, and the random numbers.
 */
#include "tests/util/test.h"

#include <math.h>

#include "runtime/sample.h"

static struct corm_sampling plain(float temperature) {
    return (struct corm_sampling){
        .temperature = temperature, .top_p = 1, .repeat_penalty = 1, .seed = 1};
}

/* ---- the definition, slow: sort by logit, cut, take the exponential ---- */

struct item {
    double logit, p;
    uint32_t id;
};

static int best_first(const void *a, const void *b) {
    const struct item *x = a, *y = b;
    if (x->logit != y->logit) {
        return x->logit < y->logit ? 1 : -1;
    }
    return x->id < y->id ? -1 : 1;
}

/* probability[id] of every draw, as corm.h orders the filters. */
static void oracle(const struct corm_sampling *how, const float *logits, uint32_t n,
                   double *probability) {
    struct item *items = mem_calloc(n, sizeof *items);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < n; i++) {
        probability[i] = 0;
        if (isfinite(logits[i])) {
            items[kept++] = (struct item){logits[i], 0, i};
        }
    }
    qsort(items, kept, sizeof *items, best_first);
    if (how->top_k && how->top_k < kept) {
        kept = how->top_k;
    }
    double sum = 0, cumulative = 0;
    for (uint32_t i = 0; i < kept; i++) {
        items[i].p = exp(items[i].logit - items[0].logit);
        sum += items[i].p;
    }
    uint32_t nucleus = 0;
    while (nucleus < kept && (nucleus == 0 || cumulative < how->top_p * sum)) {
        cumulative += items[nucleus++].p;
    }
    kept = how->top_p < 1 ? nucleus : kept;
    while (kept > 1 && items[kept - 1].p < how->min_p) {
        kept--;
    }
    double total = 0;
    for (uint32_t i = 0; i < kept; i++) {
        items[i].p = exp((items[i].logit - items[0].logit) / how->temperature);
        total += items[i].p;
    }
    for (uint32_t i = 0; i < kept; i++) {
        probability[items[i].id] = items[i].p / total;
    }
    free(items);
}

/* Draw often, and compare the counts with the oracle: no id that it excludes, and a chi-square that
 * a true sampler exceeds once in 10^6 times (Wilson-Hilferty bound; z = 4.75). The seed is fixed,
 * so the result is the same every time. */
static void check_distribution(const struct corm_sampling *how, const float *logits, uint32_t n) {
    enum { DRAWS = 10000 };
    struct sample s;
    sample_open(&s, n);
    double *probability = mem_calloc(n, sizeof *probability);
    uint32_t *counts = mem_calloc(n, sizeof *counts);
    oracle(how, logits, n, probability);
    for (uint64_t i = 0; i < DRAWS; i++) {
        int32_t id = sample_draw(&s, how, logits, n, NULL, 0, i);
        assert_in_range(id, 0, n - 1);
        counts[id]++;
    }
    double chi2 = 0, rare_expected = 0, rare_seen = 0;
    int cells = 0;
    for (uint32_t i = 0; i < n; i++) {
        double expected = probability[i] * DRAWS;
        if (probability[i] == 0) {
            assert_int_equal(counts[i], 0);
        } else if (expected < 5) { /* too few for a cell of its own */
            rare_expected += expected;
            rare_seen += counts[i];
        } else {
            chi2 += (counts[i] - expected) * (counts[i] - expected) / expected;
            cells++;
        }
    }
    if (rare_expected >= 5) {
        chi2 += (rare_seen - rare_expected) * (rare_seen - rare_expected) / rare_expected;
        cells++;
    }
    double k = cells > 1 ? cells - 1 : 1, t = 1 - 2 / (9 * k) + 4.75 * sqrt(2 / (9 * k));
    if (chi2 > k * t * t * t) {
        print_error("chi-square %g with %g degrees of freedom\n", chi2, k);
        fail();
    }
    free(probability);
    free(counts);
    sample_close(&s);
}

static float *random_logits(uint64_t seed, uint32_t n, float scale) {
    struct test_rng rng = {seed};
    float *logits = mem_calloc(n, sizeof *logits);
    for (uint32_t i = 0; i < n; i++) {
        logits[i] = scale * (test_f32(&rng) + test_f32(&rng) + test_f32(&rng));
    }
    return logits;
}

static void frequencies(void **state) {
    (void)state;
    static const struct {
        float temperature, top_p, min_p;
        uint32_t top_k;
    } cases[] = {
        {1, 1, 0, 0},
        {0.5f, 1, 0, 0},
        {2, 1, 0, 0},
        {1, 1, 0, 1},
        {1, 1, 0, 7},
        {1, 1, 0, 5000},
        {1, 0.9f, 0, 0},
        {0.7f, 0.5f, 0, 0},
        {1, 0.01f, 0, 0},
        {1, 0.9999f, 0, 0},
        {1, 1, 0.1f, 0},
        {3, 1, 0.5f, 0},
        {1, 1, 1, 0},
        {0.8f, 0.95f, 0.05f, 40},
        {1.5f, 0.8f, 0.02f, 20},
        {100, 0.3f, 0, 100},
    };
    static const uint32_t sizes[] = {2, 50, 400};
    for (size_t v = 0; v < TEST_COUNT(sizes); v++) {
        float *logits = random_logits(v, sizes[v], 4);
        for (size_t c = 0; c < TEST_COUNT(cases); c++) {
            struct corm_sampling how = plain(cases[c].temperature);
            how.top_p = cases[c].top_p;
            how.min_p = cases[c].min_p;
            how.top_k = cases[c].top_k;
            how.seed = c;
            check_distribution(&how, logits, sizes[v]);
        }
        free(logits);
    }
}

/* Many equal logits at the cut of top-k and top-p, and numbers around zero. */
static void frequencies_with_ties(void **state) {
    (void)state;
    enum { N = 400 };
    float logits[N];
    struct test_rng rng = {5};
    for (int i = 0; i < N; i++) {
        static const float values[] = {1, -0.0f, 0, -1, 2, NAN, -INFINITY, 1.0000001f};
        logits[i] = values[test_u64(&rng) % TEST_COUNT(values)];
    }
    struct corm_sampling how = plain(1);
    for (how.top_k = 0; how.top_k < 300; how.top_k += 37) {
        how.top_p = 1;
        check_distribution(&how, logits, N);
        how.top_p = 0.4f;
        check_distribution(&how, logits, N);
    }
}

/* ---- which ids are left ---- */

/* Bit i: id i was drawn at least once in many draws. n <= 32. */
static uint32_t drawn(const struct corm_sampling *how, const float *logits, uint32_t n,
                      const int32_t *history, size_t n_history) {
    struct sample s;
    sample_open(&s, n);
    uint32_t ids = 0;
    for (uint64_t i = 0; i < 2000; i++) {
        int32_t id = sample_draw(&s, how, logits, n, history, n_history, i);
        assert_in_range(id, 0, n - 1);
        ids |= UINT32_C(1) << id;
    }
    sample_close(&s);
    return ids;
}

static void cuts_are_exact(void **state) {
    (void)state;
    /* Probabilities 1/2, 1/4, 1/8, 1/16, 1/16, out of order. */
    const float ln2 = 0.69314718f;
    const float logits[] = {-4 * ln2, -1 * ln2, -3 * ln2, -2 * ln2, -4 * ln2};
    struct corm_sampling how = plain(1);
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x1f);
    how.top_k = 2;
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x0a);
    how.top_k = 4; /* one of two equals: the lower id */
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x0f);
    how.top_k = 0;
    how.top_p = 0.49f;
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x02);
    how.top_p = 0.51f;
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x0a);
    how.top_p = 0.90f;
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x0f);
    how.top_p = 0.95f;
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x1f);
    how.top_p = 1;
    how.min_p = 0.24f;
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x0e);
    how.min_p = 0.26f;
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x0a);
    /* Filters see temperature 1, whatever the temperature of the draw. */
    how.temperature = 50;
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x0a);
    /* top-p counts what top-k left: of {1/2, 1/4} two thirds are in the first. */
    how = plain(1);
    how.top_k = 2;
    how.top_p = 0.6f;
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x02);
    how.top_p = 0;
    assert_int_equal(drawn(&how, logits, 5, NULL, 0), 0x02);
}

static void repeat_penalty(void **state) {
    (void)state;
    const float logits[] = {2, 1.9f, -1, -1.1f};
    struct corm_sampling how = plain(0);
    how.repeat_penalty = 1.2f;
    how.repeat_last_tok = 3;
    struct sample s;
    sample_open(&s, 4);
    const int32_t far[] = {0, 3, 3, 3}, near[] = {3, 3, 3, 0}, both[] = {0, 1, 0},
                  odd[] = {-1, 4, 99};
    assert_int_equal(sample_draw(&s, &how, logits, 4, far, 4, 0), 0);
    assert_int_equal(sample_draw(&s, &how, logits, 4, near, 4, 0), 1);
    assert_int_equal(sample_draw(&s, &how, logits, 4, both, 3, 0), 0); /* twice counts once */
    assert_int_equal(sample_draw(&s, &how, logits, 4, odd, 3, 0), 0);
    how.repeat_last_tok = 0;
    assert_int_equal(sample_draw(&s, &how, logits, 4, near, 4, 0), 0);
    /* A negative logit falls. */
    const float negative[] = {-1, -1.1f};
    const int32_t first[] = {0};
    how.repeat_last_tok = 1;
    assert_int_equal(sample_draw(&s, &how, negative, 2, first, 1, 0), 1);
    how.repeat_penalty = 1;
    assert_int_equal(sample_draw(&s, &how, negative, 2, first, 1, 0), 0);
    sample_close(&s);
}

static void bias(void **state) {
    (void)state;
    const float logits[] = {2, 1.5f, 1, -1};
    const struct corm_logit_bias one[] = {{2, 1.25f}}, ban[] = {{0, -INFINITY}, {1, -INFINITY}},
                                 odd[] = {{-1, 100}, {4, 100}, {INT32_MAX, 100}},
                                 twice[] = {{3, 2}, {3, 1.5f}};
    const struct {
        const struct corm_logit_bias *bias;
        size_t n;
        int32_t id;
    } rows[] = {{NULL, 0, 0}, {one, 1, 2}, {ban, 2, 2}, {odd, 3, 0}, {twice, 2, 3}, {twice, 1, 0}};
    struct sample s;
    sample_open(&s, 4);
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct corm_sampling how = plain(0);
        how.bias = rows[i].bias;
        how.n_bias = rows[i].n;
        assert_int_equal(sample_draw(&s, &how, logits, 4, NULL, 0, 0), rows[i].id);
    }
    /* The bias comes before the repeat penalty, and before top-k. */
    struct corm_sampling how = plain(0);
    const int32_t said[] = {2};
    how.bias = one;
    how.n_bias = 1;
    how.repeat_penalty = 1.2f; /* 2.25 / 1.2 */
    how.repeat_last_tok = 1;
    assert_int_equal(sample_draw(&s, &how, logits, 4, said, 1, 0), 0);
    how.repeat_penalty = 1.1f;
    assert_int_equal(sample_draw(&s, &how, logits, 4, said, 1, 0), 2);
    how = plain(1);
    how.top_k = 1;
    how.bias = one;
    how.n_bias = 1;
    assert_int_equal(drawn(&how, logits, 4, NULL, 0), 0x04);
    sample_close(&s);
}

static void presence_and_frequency(void **state) {
    (void)state;
    const float logits[] = {2, 1.5f, 1, -1};
    const int32_t said[] = {0, 0, 1, 0, -1, 99};
    struct sample s;
    sample_open(&s, 4);
    static const struct {
        float presence, frequency;
        uint32_t prompt_tok;
        int32_t id;
    } rows[] = {
        {0, 0, 0, 0},          {0.4f, 0, 0, 0}, /* 1.6, 1.1, 1 */
        {1.2f, 0, 0, 2},                        /* 0.8, 0.3, 1: however often 0 was said */
        {0, 0.2f, 0, 0},                        /* 1.4, 1.3, 1 */
        {0, 0.3f, 0, 1},                        /* 1.1, 1.2, 1 */
        {0, 0.3f, 2, 0},                        /* one 0 and one 1 count: 1.7, 1.2 */
        {0.4f, 0.3f, 0, 2},                     /* 0.7, 0.8, 1 */
        {1.2f, 0, 3, 1},                        /* the last 0 counts: 0.8, 1.5 */
        {1.2f, 0, 4, 0},                        /* none counts */
        {5, 5, UINT32_MAX, 0},                  /* none counts */
        {-4, 0, 0, 0},                          /* what was said is likelier */
        {NAN, NAN, 0, 0},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        for (int again = 0; again < 2; again++) { /* a draw leaves nothing behind */
            struct corm_sampling how = plain(0);
            how.presence_penalty = rows[i].presence;
            how.frequency_penalty = rows[i].frequency;
            how.prompt_tok = rows[i].prompt_tok;
            assert_int_equal(sample_draw(&s, &how, logits, 4, said, TEST_COUNT(said), 0),
                             rows[i].id);
        }
    }
    /* Before top-k. */
    struct corm_sampling how = plain(1);
    how.presence_penalty = 1.2f;
    how.top_k = 1;
    assert_int_equal(drawn(&how, logits, 4, said, 4), 0x04);
    sample_close(&s);
}

static void only_what_is_allowed(void **state) {
    (void)state;
    enum { N = 130 };
    struct sample s;
    uint64_t allowed[3] = {0};
    float *logits = random_logits(3, N, 1);
    struct corm_sampling how = plain(1);
    sample_open(&s, N);
    how.allowed = allowed;
    assert_int_equal(sample_draw(&s, &how, logits, N, NULL, 0, 0), -1);
    static const int32_t ids[] = {0, 63, 64, 129};
    for (size_t i = 0; i < TEST_COUNT(ids); i++) {
        memset(allowed, 0, sizeof allowed);
        allowed[ids[i] / 64] = UINT64_C(1) << ids[i] % 64;
        for (how.top_k = 0; how.top_k < 2; how.top_k++) { /* a filter before all others */
            assert_int_equal(sample_draw(&s, &how, logits, N, NULL, 0, 0), ids[i]);
        }
    }
    sample_close(&s);
    free(logits);
}

static void logprobs(void **state) {
    (void)state;
    /* Probabilities 1/2, 1/4, 1/8, 1/16, 1/16, out of order. */
    const float ln2 = 0.69314718f;
    const float logits[] = {-4 * ln2, -1 * ln2, -3 * ln2, -2 * ln2, -4 * ln2};
    static const int32_t best[] = {1, 3, 2, 0, 4};
    struct corm_logprob top[9], chosen;
    for (size_t n = 0; n < 9; n++) {
        size_t got = sample_logprobs(logits, 5, 5, NULL, top, n);
        assert_int_equal(got, n < 5 ? n : 5);
        for (size_t i = 0; i < got; i++) {
            assert_int_equal(top[i].id, best[i]);
            chosen.id = best[i];
            sample_logprobs(logits, 5, 5, &chosen, NULL, 0);
            assert_true(chosen.logprob == top[i].logprob);
            assert_float_equal(chosen.logprob, logits[best[i]], 1e-6);
        }
    }
    /* Rows that the tokenizer does not know have their share, but no place in the list. */
    assert_int_equal(sample_logprobs(logits, 5, 3, NULL, top, 9), 3);
    assert_int_equal(top[2].id, 0);
    assert_float_equal(top[0].logprob, -ln2, 1e-6);
    static const int32_t outside[] = {-1, 5, INT32_MIN};
    for (size_t i = 0; i < TEST_COUNT(outside); i++) {
        chosen.id = outside[i];
        sample_logprobs(logits, 5, 5, &chosen, NULL, 0);
        assert_true(chosen.logprob == -INFINITY);
    }
    const float nan[] = {0, NAN}, inf[] = {INFINITY, 0}, low[] = {-INFINITY, 0},
                huge[] = {3e38f, -3e38f};
    chosen.id = 0;
    assert_int_equal(sample_logprobs(nan, 2, 2, &chosen, top, 2), 0);
    assert_true(isnan(chosen.logprob));
    assert_int_equal(sample_logprobs(inf, 2, 2, &chosen, top, 2), 0);
    assert_int_equal(sample_logprobs(low, 2, 2, &chosen, top, 2), 2);
    assert_true(chosen.logprob == -INFINITY && top[0].id == 1 && top[0].logprob == 0);
    assert_int_equal(sample_logprobs(huge, 2, 2, &chosen, top, 2), 2);
    assert_true(chosen.logprob == 0);
}

static void greedy(void **state) {
    (void)state;
    struct sample s;
    sample_open(&s, 3000);
    for (uint64_t seed = 0; seed < 50; seed++) {
        float *logits = random_logits(seed, 3000, 1);
        int32_t best = 0;
        for (int32_t i = 1; i < 3000; i++) {
            best = logits[i] > logits[best] ? i : best;
        }
        struct corm_sampling how = plain(0);
        assert_int_equal(sample_draw(&s, &how, logits, 3000, NULL, 0, seed), best);
        how.temperature = -1;
        assert_int_equal(sample_draw(&s, &how, logits, 3000, NULL, 0, seed), best);
        how = plain(5);
        how.top_k = 1;
        assert_int_equal(sample_draw(&s, &how, logits, 3000, NULL, 0, seed), best);
        how = plain(5);
        how.top_p = 1e-30f;
        assert_int_equal(sample_draw(&s, &how, logits, 3000, NULL, 0, seed), best);
        how = plain(1e-30f);
        assert_int_equal(sample_draw(&s, &how, logits, 3000, NULL, 0, seed), best);
        free(logits);
    }
    const float equal[] = {0, 3, 3, 3};
    struct corm_sampling how = plain(0);
    assert_int_equal(sample_draw(&s, &how, equal, 4, NULL, 0, 0), 1);
    sample_close(&s);
}

static void strange_logits(void **state) {
    (void)state;
    struct sample s;
    sample_open(&s, 5);
    struct corm_sampling how = plain(1), none = plain(0);
    const float mixed[] = {NAN, 1, -INFINITY, 1, NAN}, nothing[] = {NAN, -INFINITY, NAN};
    assert_int_equal(drawn(&how, mixed, 5, NULL, 0), 0x0a);
    assert_int_equal(sample_draw(&s, &none, mixed, 5, NULL, 0, 0), 1);
    assert_int_equal(sample_draw(&s, &how, nothing, 3, NULL, 0, 0), -1);
    assert_int_equal(sample_draw(&s, &none, nothing, 3, NULL, 0, 0), -1);
    assert_int_equal(sample_draw(&s, &how, nothing, 0, NULL, 0, 0), -1);
    const float infinite[] = {1, INFINITY, NAN, INFINITY, 5};
    assert_int_equal(drawn(&how, infinite, 5, NULL, 0), 0x0a);
    assert_int_equal(sample_draw(&s, &none, infinite, 5, NULL, 0, 0), 1);
    const float huge[] = {-3e38f, 3e38f, 3e38f, 0, -INFINITY};
    how.top_k = 4;
    how.top_p = 0.99f;
    assert_int_equal(drawn(&how, huge, 5, NULL, 0), 0x06);
    const float subnormal[] = {0, 1e-44f, -1e-44f, 0, 0};
    how = plain(0);
    assert_int_equal(sample_draw(&s, &how, subnormal, 5, NULL, 0, 0), 1);
    /* Rows past n_valid are not looked at. */
    const float padded[] = {0, 1, 2, 1e9f, INFINITY};
    assert_int_equal(sample_draw(&s, &how, padded, 3, NULL, 0, 0), 2);
    how = plain(1);
    assert_int_equal(drawn(&how, padded, 3, NULL, 0), 0x07);
    sample_close(&s);
}

/* Options out of their range act as off or as the nearest bound; nothing crashes. */
static void strange_options(void **state) {
    (void)state;
    const float logits[] = {0, 1, 2};
    const int32_t history[] = {2};
    struct corm_sampling how = {.temperature = 1,
                                .top_p = NAN,
                                .min_p = NAN,
                                .repeat_penalty = NAN,
                                .top_k = UINT32_MAX,
                                .repeat_last_tok = UINT32_MAX};
    assert_int_equal(drawn(&how, logits, 3, history, 1), 0x07);
    how.temperature = INFINITY;
    assert_int_equal(drawn(&how, logits, 3, history, 1), 0x07);
    how.min_p = 2;
    assert_int_equal(drawn(&how, logits, 3, history, 1), 0x04);
    how.min_p = -1;
    how.top_p = -1;
    assert_int_equal(drawn(&how, logits, 3, history, 1), 0x04);
    how.top_p = 2;
    how.temperature = NAN; /* no temperature: greedy */
    assert_int_equal(drawn(&how, logits, 3, history, 1), 0x04);
}

/* ---- random numbers ---- */

static void draws_repeat(void **state) {
    (void)state;
    float *logits = random_logits(9, 500, 2);
    struct sample s, t;
    sample_open(&s, 500);
    sample_open(&t, 500);
    struct corm_sampling how = plain(1);
    int same_seed = 0, other_seed = 0;
    for (uint64_t i = 0; i < 1000; i++) {
        how.seed = 7;
        int32_t a = sample_draw(&s, &how, logits, 500, NULL, 0, i);
        same_seed += a == sample_draw(&t, &how, logits, 500, NULL, 0, i);
        how.seed = 8;
        other_seed += a == sample_draw(&t, &how, logits, 500, NULL, 0, i);
    }
    assert_int_equal(same_seed, 1000);
    assert_true(other_seed < 200);
    sample_close(&s);
    sample_close(&t);
    free(logits);
}

/* The answers to one prompt draw numbers that have nothing to do with each other. */
static void choices_differ(void **state) {
    (void)state;
    float *logits = random_logits(9, 500, 2);
    struct sample s;
    struct corm_sampling how = plain(1);
    sample_open(&s, 500);
    for (uint32_t choice = 1; choice < 6; choice++) {
        int same = 0, again = 0;
        for (uint64_t i = 0; i < 500; i++) {
            how.choice = 0;
            int32_t first = sample_draw(&s, &how, logits, 500, NULL, 0, i);
            how.choice = choice;
            int32_t id = sample_draw(&s, &how, logits, 500, NULL, 0, i);
            same += id == first;
            again += id == sample_draw(&s, &how, logits, 500, NULL, 0, i);
        }
        assert_int_equal(again, 500);
        assert_true(same < 100);
        for (uint64_t seed = 0; seed < 50; seed++) { /* nor with those of neighbouring seeds */
            assert_true(sample_choice_seed(7, choice) != sample_choice_seed(seed, 0));
            assert_true(sample_choice_seed(7, choice) != sample_choice_seed(seed, choice + 1));
        }
    }
    assert_true(sample_choice_seed(7, 0) == 7);
    sample_close(&s);
    free(logits);
}

/* Against SplitMix64 run as a stream, as its paper does. */
static void uniform_is_splitmix(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct test_rng start = {seed}, stream = {test_u64(&start)};
        for (uint64_t i = 0; i < 100; i++) {
            double expected = (double)(test_u64(&stream) >> 11) / 9007199254740992.0;
            assert_true(sample_uniform(seed, i) == expected);
            assert_true(expected >= 0 && expected < 1);
        }
    }
    assert_true(sample_uniform(UINT64_MAX, UINT64_MAX) < 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frequencies),
        cmocka_unit_test(frequencies_with_ties),
        cmocka_unit_test(cuts_are_exact),
        cmocka_unit_test(repeat_penalty),
        cmocka_unit_test(bias),
        cmocka_unit_test(presence_and_frequency),
        cmocka_unit_test(only_what_is_allowed),
        cmocka_unit_test(logprobs),
        cmocka_unit_test(greedy),
        cmocka_unit_test(strange_logits),
        cmocka_unit_test(strange_options),
        cmocka_unit_test(draws_repeat),
        cmocka_unit_test(choices_differ),
        cmocka_unit_test(uniform_is_splitmix),
    };
    return cmocka_run_group_tests_name("sample", tests, NULL, NULL);
}
