/*
 * route: which experts a row uses, and with what weights: THE definition, shared by all backends
 * and instruction sets.
 *
 * Owns: scores from logits (struct route_rule of format/arch.h), the choice, the weights; an exp
 * and a log of fixed order.
 * Leaves to others: logits (a product), how rows are shared out.
 * Threads: pure functions, for the host and for a device.
 *
 * A choice that goes by computed scores is the same everywhere only where the scores are, to the
 * bit: a library's exp is not the same on two processors. So all is written out in sums, products
 * and quotients of f32, each rounded by itself, in a fixed order. The host is compiled without
 * contraction; for a device, a product or sum that a compiler might fuse goes through ROUTE_MUL and
 * ROUTE_ADD.
 */
#ifndef KERNELS_ROUTE_H
#define KERNELS_ROUTE_H

#include <math.h>
#include <string.h>

#include "format/arch.h"

#ifndef ROUTE_FUNCTION /* CUDA has its own of these three */
#define ROUTE_FUNCTION static inline
#define ROUTE_MUL(a, b) ((a) * (b))
#define ROUTE_ADD(a, b) ((a) + (b))
#endif

ROUTE_FUNCTION float route_float(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

ROUTE_FUNCTION uint32_t route_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

/* e^x within 2 ulp where the result is a normal number; 0 below, infinity above; NaN stays NaN.
 * x = n ln 2 + r with |r| <= ln 2 / 2, and e^r by its Taylor polynomial to r^7. */
ROUTE_FUNCTION float route_exp(float x) {
    const float log2e = 1.44269504f;
    const float ln2_hi = 0.693359375f; /* 9 bits: n * ln2_hi is exact */
    const float ln2_lo = -2.12194440e-4f;
    const float to_integer =
        0x1.8p23f; /* floats of that size have no fraction: it is rounded off */
    if (!(x > -87.33654f)) {
        return x < 0.0f ? 0.0f : x; /* a NaN */
    }
    if (x > 88.72283f) {
        return INFINITY;
    }
    float n = ROUTE_ADD(ROUTE_ADD(ROUTE_MUL(x, log2e), to_integer), -to_integer);
    float r = ROUTE_ADD(x, -ROUTE_MUL(n, ln2_hi));
    r = ROUTE_ADD(r, -ROUTE_MUL(n, ln2_lo));
    float p = 1.0f / 5040;
    p = ROUTE_ADD(ROUTE_MUL(p, r), 1.0f / 720);
    p = ROUTE_ADD(ROUTE_MUL(p, r), 1.0f / 120);
    p = ROUTE_ADD(ROUTE_MUL(p, r), 1.0f / 24);
    p = ROUTE_ADD(ROUTE_MUL(p, r), 1.0f / 6);
    p = ROUTE_ADD(ROUTE_MUL(p, r), 0.5f);
    p = ROUTE_ADD(ROUTE_MUL(ROUTE_MUL(r, r), p), r);
    p = ROUTE_ADD(p, 1.0f);
    /* 2^n in two halves, as 2^128 alone is out of range. */
    int32_t half = (int32_t)n / 2, rest = (int32_t)n - half;
    p = ROUTE_MUL(p, route_float((uint32_t)(half + 127) << 23));
    return ROUTE_MUL(p, route_float((uint32_t)(rest + 127) << 23));
}

/* log(1 + e^x). For 1 + e^x = m 2^n with m in [sqrt(1/2), sqrt(2)): log m = 2 atanh((m - 1) / (m +
 * 1)), by its series; what 1 + e^x loses of a small e^x is made up for. */
ROUTE_FUNCTION float route_softplus(float x) {
    if (x > 20.0f || x != x) {
        return x;
    }
    float e = route_exp(x), u = ROUTE_ADD(1.0f, e);
    if (u == 1.0f) {
        return e;
    }
    uint32_t bits = route_bits(u);
    int32_t n = (int32_t)(bits >> 23) - 127;
    float m = route_float((bits & 0x7fffffu) | 0x3f800000u);
    if (m > 1.41421356f) {
        m = ROUTE_MUL(m, 0.5f);
        n++;
    }
    float s = ROUTE_ADD(m, -1.0f) / ROUTE_ADD(m, 1.0f), s2 = ROUTE_MUL(s, s);
    float p = 1.0f / 9;
    p = ROUTE_ADD(ROUTE_MUL(p, s2), 1.0f / 7);
    p = ROUTE_ADD(ROUTE_MUL(p, s2), 1.0f / 5);
    p = ROUTE_ADD(ROUTE_MUL(p, s2), 1.0f / 3);
    p = ROUTE_ADD(ROUTE_MUL(p, s2), 1.0f);
    p = ROUTE_MUL(ROUTE_MUL(2.0f, s), p);
    float log_u = ROUTE_ADD(p, ROUTE_MUL((float)n, 0.693147181f));
    return ROUTE_MUL(log_u, e / ROUTE_ADD(u, -1.0f));
}

ROUTE_FUNCTION float route_sigmoid(float x) {
    return 1.0f / ROUTE_ADD(1.0f, route_exp(-x));
}

/* Whether a choice goes by the logits: they have the order of their softmax, and two that differ
 * may round to one probability. Sums of two have another order, so that groups by these do not. */
ROUTE_FUNCTION bool route_by_logits(const struct route_rule *rule) {
    const bool sums = rule->groups > 1 && rule->group_score == ROUTE_GROUP_TOP_TWO;
    return rule->by_logits || rule->score == ROUTE_SPARSE_MIXER ||
           (rule->score == ROUTE_SOFTMAX && !rule->selection_bias && !sums);
}

/* What a softmax needs of all logits: the greatest (NaN does not count; of the two zeros either
 * will do), ... */
ROUTE_FUNCTION float route_greatest(const float *logits, uint32_t n) {
    float greatest = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        greatest = logits[i] > greatest ? logits[i] : greatest;
    }
    return greatest;
}

/* ... and the sum of all terms, which are added in order. */
ROUTE_FUNCTION float route_term(float logit, float greatest) {
    return route_exp(ROUTE_ADD(logit, -greatest));
}

ROUTE_FUNCTION float route_sum(const float *x, uint32_t n) {
    float sum = 0.0f;
    for (uint32_t i = 0; i < n; i++) {
        sum = ROUTE_ADD(sum, x[i]);
    }
    return sum;
}

/* The score of one expert; `greatest` and `sum` are of a softmax, and else not looked at. */
ROUTE_FUNCTION float route_score_of(const struct route_rule *rule, float logit, float greatest,
                                    float sum) {
    switch (rule->score) {
    case ROUTE_SIGMOID:
        return route_sigmoid(logit);
    case ROUTE_SQRT_SOFTPLUS:
        return sqrtf(route_softplus(logit));
    default:
        return route_term(logit, greatest) / sum;
    }
}

/* Whether one of the first `n` of ids is `id`. */
ROUTE_FUNCTION bool route_among(const int32_t *ids, uint32_t n, uint32_t id) {
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] == (int32_t)id) {
            return true;
        }
    }
    return false;
}

/* The sparse mixer's score of ids[j], which has its own logit's term, 1, above it. */
ROUTE_FUNCTION float route_mixer_score(const struct route_rule *rule, const float *logits,
                                       uint32_t n_experts, const int32_t *ids, uint32_t j) {
    const float own = logits[ids[j]], most = ROUTE_MUL(2.0f, rule->eps);
    float sum = 0.0f;
    for (uint32_t i = 0; i < n_experts; i++) {
        const float size = fabsf(logits[i]) < own ? own : fabsf(logits[i]);
        if (!route_among(ids, j, i) && !(ROUTE_ADD(own, -logits[i]) / size > most)) {
            sum = ROUTE_ADD(sum, route_term(logits[i], own));
        }
    }
    return 1.0f / sum;
}

/* Whether a score is better than another one: a number is better than a NaN. Among equals the lower
 * id goes first. */
ROUTE_FUNCTION bool route_better(float a, float b) {
    return a > b || (b != b && a == a);
}

/* Put `id` where it belongs among the `have` best so far, ids [first .. have), at most n of which
 * are kept. Ids come in increasing order. Returns the new `have`. */
ROUTE_FUNCTION uint32_t route_insert(const float *rank, int32_t id, uint32_t first, uint32_t have,
                                     uint32_t n, int32_t *ids) {
    uint32_t at = have;
    while (at > first && route_better(rank[id], rank[ids[at - 1]])) {
        at--;
    }
    if (at == n) {
        return have;
    }
    have += have < n;
    for (uint32_t i = have - 1; i > at; i--) {
        ids[i] = ids[i - 1];
    }
    ids[at] = id;
    return have;
}

/* How good group g of `size` experts is. */
ROUTE_FUNCTION float route_group_rank(const struct route_rule *rule, const float *rank, uint32_t g,
                                      uint32_t size) {
    float best = NAN, second = NAN;
    for (uint32_t i = g * size; i < (g + 1) * size; i++) {
        if (route_better(rank[i], best)) {
            second = best;
            best = rank[i];
        } else if (route_better(rank[i], second)) {
            second = rank[i];
        }
    }
    return rule->group_score == ROUTE_GROUP_TOP_TWO && second == second ? ROUTE_ADD(best, second)
                                                                        : best;
}

/* The n best of rank [n_experts], best first: those of the chosen groups, and where these do not
 * hold as many, the best of the others after them. */
ROUTE_FUNCTION void route_choose(const struct route_rule *rule, const float *rank,
                                 uint32_t n_experts, uint32_t n, int32_t *ids) {
    const uint32_t groups = rule->groups > 0 ? rule->groups : 1, size = n_experts / groups;
    const uint32_t top = rule->groups > 0 ? rule->top_groups : 1;
    float group_rank[ARCH_MAX_GROUPS];
    int32_t chosen[ARCH_MAX_GROUPS];
    uint32_t n_chosen = 0, have = 0;
    uint64_t in = groups == 1 ? 1 : 0;
    for (uint32_t g = 0; g < groups && groups > 1; g++) {
        group_rank[g] = route_group_rank(rule, rank, g, size);
        n_chosen = route_insert(group_rank, (int32_t)g, 0, n_chosen, top, chosen);
    }
    for (uint32_t i = 0; i < n_chosen; i++) {
        in |= (uint64_t)1 << chosen[i];
    }
    for (int pass = 0; pass < 2; pass++) {
        const uint32_t first = have;
        for (uint32_t i = 0; i < n_experts && first < n; i++) {
            if ((in >> i / size & 1) == (pass == 0)) {
                have = route_insert(rank, (int32_t)i, first, have, n, ids);
            }
        }
    }
}

/* The weights of the chosen experts: scores [n] are theirs. In place. */
ROUTE_FUNCTION void route_weigh(const struct route_rule *rule, const float *factor,
                                const int32_t *ids, uint32_t n, float *scores) {
    const float chosen = route_sum(scores, n), floor = rule->eps;
    const float sum = rule->renorm == ROUTE_RENORM_FLOOR ? (chosen < floor ? floor : chosen)
                                                         : ROUTE_ADD(chosen, rule->eps);
    for (uint32_t j = 0; j < n; j++) {
        scores[j] = rule->renorm ? scores[j] / sum : scores[j];
        scores[j] = rule->scale != 1.0f ? ROUTE_MUL(scores[j], rule->scale) : scores[j];
        scores[j] = factor ? ROUTE_MUL(scores[j], factor[ids[j]]) : scores[j];
    }
}

/* One row, all of the above: rank [n_experts] is scratch, `weights` [n] may be NULL. */
ROUTE_FUNCTION void route_row(const struct route_rule *rule, const float *select,
                              const float *factor, const float *logits, uint32_t n_experts,
                              uint32_t n, float *rank, int32_t *ids, float *weights) {
    const bool softmax = rule->score == ROUTE_SOFTMAX, by_logits = route_by_logits(rule);
    float greatest = 0.0f, sum = 0.0f;
    if (softmax && (weights || !by_logits)) {
        greatest = route_greatest(logits, n_experts);
        for (uint32_t i = 0; i < n_experts; i++) {
            rank[i] = route_term(logits[i], greatest);
        }
        sum = route_sum(rank, n_experts);
    }
    for (uint32_t i = 0; i < n_experts && (!by_logits || select); i++) {
        float score = by_logits ? logits[i] : route_score_of(rule, logits[i], greatest, sum);
        rank[i] = select ? ROUTE_ADD(score, select[i]) : score;
    }
    route_choose(rule, by_logits && !select ? logits : rank, n_experts, n, ids);
    if (weights) {
        for (uint32_t j = 0; j < n; j++) {
            weights[j] = rule->score == ROUTE_SPARSE_MIXER
                             ? route_mixer_score(rule, logits, n_experts, ids, j)
                             : route_score_of(rule, logits[ids[j]], greatest, sum);
        }
        route_weigh(rule, factor, ids, n, weights);
    }
}

#endif
