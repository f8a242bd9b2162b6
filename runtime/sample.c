/*
 * sample: see sample.h.
 */
#include "runtime/sample.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/base.h"
#include "kernels/logits.h"

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

uint64_t sample_choice_seed(uint64_t seed, uint32_t choice) {
    return choice == 0 ? seed : mix64(seed ^ mix64(choice));
}

/* -- workspace ------------------------------------------------------------------------------ */

void sample_open(struct sample *s, uint32_t vocab) {
    *s = (struct sample){.vocab = vocab};
    s->ids = mem_calloc(vocab, sizeof *s->ids);
    s->logits = mem_calloc(vocab, sizeof *s->logits);
    s->weights = mem_calloc(vocab, sizeof *s->weights);
    s->counts = mem_calloc(vocab, sizeof *s->counts);
}

void sample_close(struct sample *s) {
    free(s->ids);
    free(s->logits);
    free(s->weights);
    free(s->counts);
    *s = (struct sample){0};
}

size_t sample_bytes(uint32_t vocab) {
    struct sample *s = NULL;
    return vocab * (sizeof *s->ids + sizeof *s->logits + sizeof *s->weights + sizeof *s->counts);
}

/* -- candidates ----------------------------------------------------------------------------- */

/* Makes the token less likely whatever the sign (Keskar et al., "CTRL", 2019, section 4.1). */
static float penalised(float logit, float penalty) {
    return logit > 0 ? logit / penalty : logit * penalty;
}

static bool within(int32_t id, uint32_t n_valid) {
    return id >= 0 && (uint32_t)id < n_valid;
}

/* Each id among the last tokens, once however often it was said: logits that are penalised are
 * marked in counts. */
static void penalise_repeats(struct sample *s, const struct corm_sampling *how, uint32_t n_valid,
                             const int32_t *history, size_t n_history) {
    size_t n = n_history < how->repeat_last_tok ? n_history : how->repeat_last_tok;
    const int32_t *last = history + (n_history - n);
    if (!(how->repeat_penalty > 0) || how->repeat_penalty == 1) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        if (within(last[i], n_valid) && s->counts[last[i]]++ == 0) {
            s->logits[last[i]] = penalised(s->logits[last[i]], how->repeat_penalty);
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (within(last[i], n_valid)) {
            s->counts[last[i]] = 0;
        }
    }
}

/* What was generated becomes less likely, once for having been said and once for each time. */
static void penalise_generated(struct sample *s, const struct corm_sampling *how, uint32_t n_valid,
                               const int32_t *history, size_t n_history) {
    const bool presence = how->presence_penalty != 0 && !isnan(how->presence_penalty);
    const bool frequency = how->frequency_penalty != 0 && !isnan(how->frequency_penalty);
    if (!presence && !frequency) {
        return;
    }
    for (size_t i = how->prompt_tok; i < n_history; i++) {
        if (within(history[i], n_valid)) {
            s->counts[history[i]]++;
        }
    }
    for (size_t i = how->prompt_tok; i < n_history; i++) {
        int32_t id = history[i];
        if (within(id, n_valid) && s->counts[id] > 0) {
            s->logits[id] -= (presence ? how->presence_penalty : 0) +
                             (frequency ? how->frequency_penalty * (float)s->counts[id] : 0);
            s->counts[id] = 0;
        }
    }
}

/* Fill the candidates. */
static void collect(struct sample *s, const struct corm_sampling *how, const float *logits,
                    uint32_t n_valid, const int32_t *history, size_t n_history) {
    memcpy(s->logits, logits, n_valid * sizeof *logits);
    for (size_t i = 0; i < how->n_bias; i++) {
        if (within(how->bias[i].id, n_valid)) {
            s->logits[how->bias[i].id] += how->bias[i].bias;
        }
    }
    penalise_repeats(s, how, n_valid, history, n_history);
    penalise_generated(s, how, n_valid, history, n_history);
    s->n = 0;
    for (uint32_t id = 0; id < n_valid; id++) {
        float v = s->logits[id];
        if (how->allowed && !(how->allowed[id / 64] >> id % 64 & 1)) {
            continue;
        }
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
    const uint64_t seed = sample_choice_seed(how->seed, how->choice);
    double left = sample_uniform(seed, position) * weigh(s, how->temperature);
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

/* -- probabilities -------------------------------------------------------------------------- */

/* Put candidate `id` into the list of the n best, greatest first; of equals the one that came
 * first stays in front. Returns how many there are now. */
static size_t put_top(struct corm_logprob *top, size_t n, size_t most, int32_t id, float logit) {
    if (n == most && !(logit > top[n - 1].logprob)) {
        return n;
    }
    size_t i = n < most ? n++ : n - 1;
    for (; i > 0 && logit > top[i - 1].logprob; i--) {
        top[i] = top[i - 1];
    }
    top[i] = (struct corm_logprob){id, logit};
    return n;
}

size_t sample_logprobs(const float *logits, uint32_t vocab, uint32_t n_valid,
                       struct corm_logprob *chosen, struct corm_logprob *top, size_t n_top) {
    const double sum = logits_log_sum_exp(logits, vocab);
    size_t n = 0;
    if (chosen) {
        chosen->logprob = !isfinite(sum)               ? NAN
                          : !within(chosen->id, vocab) ? -INFINITY
                                                       : (float)(logits[chosen->id] - sum);
    }
    if (!isfinite(sum) || n_top == 0) {
        return 0;
    }
    for (uint32_t id = 0; id < n_valid; id++) {
        n = put_top(top, n, n_top, (int32_t)id, logits[id]);
    }
    for (size_t i = 0; i < n; i++) {
        top[i].logprob = (float)(top[i].logprob - sum);
    }
    return n;
}
