/*
 * sample: see sample.h.
 */
#include "runtime/sample.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/base.h"

/* -- random numbers ------------------------------------------------------------------------- */

static uint64_t mix64(uint64_t z) {
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

double sample_uniform(uint64_t seed, uint64_t position) {
    const uint64_t gamma = UINT64_C(0x9e3779b97f4a7c15);
    uint64_t start = mix64(seed + gamma);
    return (double)(mix64(start + (position + 1) * gamma) >> 11) * 0x1p-53;
}

/* -- workspace ------------------------------------------------------------------------------ */

void sample_open(struct sample *s, uint32_t vocab) {
    *s = (struct sample){.vocab = vocab};
    s->ids = mem_calloc(vocab, sizeof *s->ids);
    s->logits = mem_calloc(vocab, sizeof *s->logits);
    s->weights = mem_calloc(vocab, sizeof *s->weights);
}

void sample_close(struct sample *s) {
    free(s->ids);
    free(s->logits);
    free(s->weights);
    *s = (struct sample){0};
}

size_t sample_bytes(uint32_t vocab) {
    struct sample *s = NULL;
    return vocab * (sizeof *s->ids + sizeof *s->logits + sizeof *s->weights);
}

/* -- candidates ----------------------------------------------------------------------------- */

/* Makes the token less likely whatever the sign (Keskar et al., "CTRL", 2019, section 4.1). */
static float penalised(float logit, float penalty) {
    return logit > 0 ? logit / penalty : logit * penalty;
}

/* Fill the candidates. Each penalised value comes from the original, so an id counts once however
 * often it was said. */
static void collect(struct sample *s, const struct corm_sampling *how, const float *logits,
                    uint32_t n_valid, const int32_t *history, size_t n_history) {
    memcpy(s->logits, logits, n_valid * sizeof *logits);
    if (how->repeat_penalty > 0 && how->repeat_penalty != 1) {
        size_t n = n_history < how->repeat_last_tok ? n_history : how->repeat_last_tok;
        for (size_t i = n_history - n; i < n_history; i++) {
            int32_t id = history[i];
            if (id >= 0 && (uint32_t)id < n_valid) {
                s->logits[id] = penalised(logits[id], how->repeat_penalty);
            }
        }
    }
    s->n = 0;
    for (uint32_t id = 0; id < n_valid; id++) {
        float v = s->logits[id];
        if (v > -INFINITY) { /* false for NaN */
            s->ids[s->n] = id;
            s->logits[s->n++] = v + 0.0f; /* -0 becomes 0: equal numbers must have equal bits */
        }
    }
}

/* Index of the greatest logit, the first among equals; n >= 1. */
static uint32_t greatest(const struct sample *s) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < s->n; i++) {
        if (s->logits[i] > s->logits[best]) {
            best = i;
        }
    }
    return best;
}

/* Candidate `from` becomes candidate number `to`, to <= from. */
static void keep(struct sample *s, uint32_t to, uint32_t from) {
    s->ids[to] = s->ids[from];
    s->logits[to] = s->logits[from];
    s->weights[to] = s->weights[from];
}

/* weights = exp((logit - greatest) / temperature); returns their sum. Equals of the greatest are
 * set apart because inf - inf is no number; beside inf all else has weight 0. */
static double weigh(struct sample *s, double temperature) {
    double top = s->logits[greatest(s)], sum = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        s->weights[i] = s->logits[i] == top ? 1 : exp((s->logits[i] - top) / temperature);
        sum += s->weights[i];
    }
    return sum;
}

/* -- selection ------------------------------------------------------------------------------ */

/* Unsigned numbers in the order of the floats (no NaN, no -0). */
static uint32_t order_key(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits & UINT32_C(0x80000000) ? ~bits : bits | UINT32_C(0x80000000);
}

/* The bucket in which the sum from the top reaches *left; *left becomes what it needs of that
 * bucket. Where the sum never does (a target too great, or rounding), the lowest bucket, whole. */
static uint32_t find_bucket(const double *histogram, uint32_t n, double *left) {
    uint32_t lowest = 0;
    for (uint32_t b = n; b-- > 0;) {
        if (histogram[b] >= *left) {
            return b;
        }
        if (histogram[b] > 0) {
            lowest = b;
            *left -= histogram[b];
        }
    }
    *left = histogram[lowest];
    return lowest;
}

/*
 * Keep the shortest run of candidates from the greatest down whose measure reaches `target` > 0:
 * each counts one, or its weight where `by_weight`. The key of the last one kept is found digit by
 * digit, from the top: the histogram of a digit says in which of its values the target is reached.
 */
static void keep_top(struct sample *s, double target, bool by_weight) {
    static const struct {
        unsigned shift, bits;
    } digits[] = {{21, 11}, {10, 11}, {0, 10}};
    uint32_t key = 0; /* of the last candidate kept: its digits so far */
    double left = target;
    for (size_t d = 0; d < sizeof digits / sizeof digits[0]; d++) {
        unsigned shift = digits[d].shift, above = shift + digits[d].bits;
        uint32_t buckets = UINT32_C(1) << digits[d].bits;
        memset(s->histogram, 0, buckets * sizeof *s->histogram);
        for (uint32_t i = 0; i < s->n; i++) {
            uint32_t k = order_key(s->logits[i]);
            if (d == 0 || k >> above == key) {
                s->histogram[k >> shift & (buckets - 1)] += by_weight ? s->weights[i] : 1;
            }
        }
        key = key << digits[d].bits | find_bucket(s->histogram, buckets, &left);
    }
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        uint32_t k = order_key(s->logits[i]);
        if (k > key) {
            keep(s, n++, i);
        } else if (k == key && left > 0) { /* equals: the lowest ids, until the target is reached */
            left -= by_weight ? s->weights[i] : 1;
            keep(s, n++, i);
        }
    }
    s->n = n;
}

/* Keep what has at least `part` of the greatest probability. */
static void keep_min(struct sample *s, double part) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->weights[i] >= part) {
            keep(s, n++, i);
        }
    }
    s->n = n;
}

/* -- the draw ------------------------------------------------------------------------------- */

int32_t sample_draw(struct sample *s, const struct corm_sampling *how, const float *logits,
                    uint32_t n_valid, const int32_t *history, size_t n_history, uint64_t position) {
    if (n_valid > s->vocab) {
        die("%u rows of logits, the workspace holds %u", n_valid, s->vocab);
    }
    collect(s, how, logits, n_valid, history, n_history);
    if (s->n == 0) {
        return -1;
    }
    if (!(how->temperature > 0)) {
        return (int32_t)s->ids[greatest(s)];
    }
    if (how->top_k > 0 && how->top_k < s->n) {
        keep_top(s, how->top_k, false);
    }
    bool top_p = how->top_p<1, min_p = how->min_p> 0;
    if (top_p || min_p) {
        double sum = weigh(s, 1);
        if (top_p) {
            keep_top(s, how->top_p > 0 ? how->top_p * sum : DBL_MIN, true);
        }
        if (min_p) {
            keep_min(s, how->min_p < 1 ? how->min_p : 1);
        }
    }
    double left = sample_uniform(how->seed, position) * weigh(s, how->temperature);
    uint32_t chosen = 0; /* the last one with any weight, where rounding leaves a rest */
    for (uint32_t i = 0; i < s->n; i++) {
        if (s->weights[i] > 0) {
            chosen = i;
            left -= s->weights[i];
            if (left < 0) {
                break;
            }
        }
    }
    return (int32_t)s->ids[chosen];
}
