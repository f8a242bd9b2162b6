/*
 * calib_experts: fitting and scoring the guess of a layer's experts from the layers before it.
 *
 * The guess is the one that runtime/predict evaluates: the layer's router applied to an earlier
 * state, plus a low-rank correction of the logits, which is fitted to what the router really said.
 * The first layer that is guessed from a source settles whether the source's mean outputs are
 * stored.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prep/calib/calib_layer.h"
#include "runtime/model/router.h"

/* Relative ridge strengths that are tried; the best on held-out rows is kept. */
static const double LAMBDAS[] = {1e-3, 1e-2, 1e-1, 1};
/* A learned part must gain this much recall to be worth its bytes. */
static const float WORTH = 0.002f;

/* ---- scores ---- */

static bool used(const struct calib *c, uint32_t row, uint32_t expert) {
    const int32_t *ids = c->routes + (size_t)row * c->arch->n_active;
    for (uint32_t j = 0; j < c->arch->n_active; j++) {
        if ((uint32_t)ids[j] == expert) {
            return true;
        }
    }
    return false;
}

static uint32_t wide(const struct calib *c) {
    uint32_t w = (3 * c->arch->n_active + 1) / 2;
    return w < c->arch->n_experts ? w : c->arch->n_experts;
}

static uint32_t widest(const struct calib *c) {
    uint32_t w = 2 * c->arch->n_active;
    return w < c->arch->n_experts ? w : c->arch->n_experts;
}

/* Share of held-out rows in which the expert at each rank of z was used: hits [widest]. Returns
 * recall at k; *at_wide (may be NULL) at 1.5 k. */
static float recall(struct calib *c, const float *z, float *at_wide, float *hits) {
    const struct forward_site at = {c->arch, &c->be, c->layer, &c->weights};
    uint32_t e = c->arch->n_experts, k = c->arch->n_active, w = widest(c);
    uint32_t n = c->n_rows - c->n_train;
    int32_t *best = mem_alloc(w * sizeof *best);
    double *sum = mem_calloc(w, sizeof *sum), narrow = 0, broad = 0;
    for (uint32_t r = c->n_train; r < c->n_rows; r++) {
        router_rank(&at, z + (size_t)r * e, 1, w, best);
        for (uint32_t i = 0; i < w; i++) {
            sum[i] += used(c, r, (uint32_t)best[i]);
        }
    }
    for (uint32_t i = 0; i < w; i++) {
        narrow += i < k ? sum[i] : 0;
        broad += i < wide(c) ? sum[i] : 0;
        if (hits) {
            hits[i] = n > 0 ? (float)(sum[i] / n) : 0;
        }
    }
    if (at_wide) {
        *at_wide = n > 0 ? (float)(broad / n / k) : -1;
    }
    free(best);
    free(sum);
    return n > 0 ? (float)(narrow / n / k) : -1;
}

static float previous_token_recall(const struct calib *c) {
    uint32_t k = c->arch->n_active;
    uint64_t hits = 0, n = 0;
    for (uint32_t s = 0; s < c->n_seqs; s++) {
        for (uint32_t i = 1; i < c->seqs[s].n && c->seqs[s].first >= c->n_train; i++) {
            uint32_t row = c->seqs[s].first + i;
            for (uint32_t j = 0; j < k; j++) {
                hits += used(c, row - 1, (uint32_t)c->routes[(size_t)row * k + j]);
            }
            n += k;
        }
    }
    return n > 0 ? (float)hits / (float)n : -1;
}

/* How much the least and the most used expert are used, 1 = fair: on held-out rows, or on all rows
 * where there are none. */
static void load_range(const struct calib *c, struct calib_scores *s) {
    uint32_t n_experts = c->arch->n_experts, most = 0, least = UINT32_MAX;
    bool held = c->n_rows > c->n_train;
    uint64_t all = 0;
    for (uint32_t e = 0; e < n_experts; e++) {
        uint32_t n = c->experts[e].n - (held ? c->experts[e].n_train : 0);
        most = n > most ? n : most;
        least = n < least ? n : least;
        all += n;
    }
    double fair = (double)all / n_experts;
    s->load_min = (float)(least / fair);
    s->load_max = (float)(most / fair);
}

/* ---- guesses ---- */

/* z [n_rows, E] = what the router of the layer at hand says of `states` (bf16 [n_rows, dim]). */
static void stale_gate(struct calib *c, const uint16_t *states, float *z) {
    const struct arch *a = c->arch;
    const struct forward_site at = {a, &c->be, c->layer, &c->weights};
    for (uint32_t first = 0; first < c->n_rows; first += c->batch_rows) {
        uint32_t n = c->n_rows - first < c->batch_rows ? c->n_rows - first : c->batch_rows;
        calib_widen(states, a->dim, first, n, c->gathered);
        const float *in = router_input(&at, c->gathered, n, c->gathered);
        router_logits(&at, in, n, z + (size_t)first * a->n_experts);
    }
}

/* One low-rank correction, and the guess that it gives together with the uncorrected one. */
struct fix {
    uint32_t rank;
    float *in, *out, *bias; /* [r, dim], [E, r], [E] */
};

static void fix_open(struct fix *f, const struct calib *c) {
    f->rank = c->opt->rank < c->arch->n_experts ? c->opt->rank : c->arch->n_experts;
    f->in = mem_alloc((size_t)f->rank * c->arch->dim * sizeof(float));
    f->out = mem_alloc((size_t)f->rank * c->arch->n_experts * sizeof(float));
    f->bias = mem_alloc(c->arch->n_experts * sizeof(float));
}

static void fix_close(struct fix *f) {
    free(f->in);
    free(f->out);
    free(f->bias);
}

/* z = z0 + out . (in . feature) + bias */
static void fix_apply(struct calib *c, const struct fix *f, const uint16_t *feature,
                      const float *z0, float *z) {
    uint32_t dim = c->arch->dim, e = c->arch->n_experts;
    float *low = mem_alloc((size_t)c->batch_rows * f->rank * sizeof *low);
    for (uint32_t first = 0; first < c->n_rows; first += c->batch_rows) {
        uint32_t n = c->n_rows - first < c->batch_rows ? c->n_rows - first : c->batch_rows;
        float *at = z + (size_t)first * e;
        calib_widen(feature, dim, first, n, c->gathered);
        fit_mul_nt(c->gathered, f->in, n, f->rank, dim, low);
        fit_mul_nt(low, f->out, n, e, f->rank, at);
        for (size_t i = 0; i < (size_t)n * e; i++) {
            at[i] += z0[(size_t)first * e + i] + f->bias[i % e];
        }
    }
    free(low);
}

/* Sums of the feature against the error of the uncorrected guess, over training rows. Adding a
 * constant to all logits of a row changes nothing, so the mean of each row is taken out. */
static void miss_cross(struct calib *c, const uint16_t *feature, const float *z0,
                       struct fit_cross *x) {
    uint32_t dim = c->arch->dim, e = c->arch->n_experts;
    float *miss = mem_alloc((size_t)c->batch_rows * e * sizeof *miss);
    for (uint32_t first = 0; first < c->n_train; first += c->batch_rows) {
        uint32_t n = c->n_train - first < c->batch_rows ? c->n_train - first : c->batch_rows;
        calib_widen(feature, dim, first, n, c->gathered);
        for (uint32_t r = 0; r < n; r++) {
            const float *want = c->router + (size_t)(first + r) * e,
                        *got = z0 + (size_t)(first + r) * e;
            double mean = 0;
            for (uint32_t i = 0; i < e; i++) {
                mean += (double)(want[i] - got[i]);
            }
            for (uint32_t i = 0; i < e; i++) {
                miss[(size_t)r * e + i] = want[i] - got[i] - (float)(mean / e);
            }
        }
        fit_cross_add(x, c->gathered, miss, n);
    }
    free(miss);
}

static void training_gram(struct calib *c, struct calib_past *p) {
    if (p->gram.gram) {
        return;
    }
    fit_gram_open(&p->gram, c->arch->dim);
    for (uint32_t first = 0; first < c->n_train; first += c->batch_rows) {
        uint32_t n = c->n_train - first < c->batch_rows ? c->n_train - first : c->batch_rows;
        calib_widen(p->feature, c->arch->dim, first, n, c->gathered);
        fit_gram_add(&p->gram, c->gathered, n);
    }
}

/* Add the mean outputs of the chosen experts to the residual stream. This is roughly the state that
 * the next layers will see. */
void calib_finish_past(struct calib *c) {
    const struct arch *a = c->arch;
    struct calib_past *p = calib_past_of(c, c->layer);
    training_gram(c, p);
    memcpy(p->quasi, p->residual, (size_t)c->n_rows * a->dim * sizeof *p->quasi);
    if (!p->moe) {
        return;
    }
    const float scale = arch_kind(a, c->layer)->block.branch_scale;
    const bool on_input = arch_kind(a, c->layer)->route.on_input; /* the outputs have the weights */
    for (uint32_t e = 0; e < a->n_experts; e++) {
        const double n = c->experts[e].n_train ? c->experts[e].n_train : 1;
        for (uint32_t i = 0; i < a->dim; i++) {
            p->mean_out[(size_t)e * a->dim + i] =
                (float)(c->experts[e].sum_out[i] / n) * (scale > 0 ? scale : 1);
        }
    }
    for (uint32_t r = 0; r < c->n_rows; r++) {
        const int32_t *ids = c->routes + (size_t)r * a->n_active;
        const float *w = c->route_w + (size_t)r * a->n_active;
        uint16_t *q = p->quasi + (size_t)r * a->dim;
        for (uint32_t i = 0; i < a->dim; i++) {
            float v = bf16_to_f32(q[i]);
            for (uint32_t j = 0; j < a->n_active; j++) {
                v += (on_input ? 1.0f : w[j]) * p->mean_out[(size_t)ids[j] * a->dim + i];
            }
            q[i] = f32_to_bf16(v);
        }
    }
}

/* Chances must not rise with rank. Neighbours that do are given their common mean (isotonic
 * regression). */
static void make_falling(float *p, uint32_t n) {
    for (uint32_t i = 1; i < n; i++) {
        for (uint32_t first = i; first > 0 && p[first] > p[first - 1];) {
            double sum = 0;
            first--;
            for (uint32_t j = first; j <= i; j++) {
                sum += (double)p[j];
            }
            for (uint32_t j = first; j <= i; j++) {
                p[j] = (float)(sum / (i - first + 1));
            }
        }
    }
}

/* Find the best correction among the ridge strengths. *best_recall becomes the recall that it
 * reaches. */
static int fit_fix(struct calib *c, struct calib_past *p, const float *z0, float *z,
                   struct fix *best, float *best_recall, struct err *err) {
    struct fit_cross cross;
    struct fix f;
    int status = 0;
    fix_open(&f, c);
    fit_cross_open(&cross, c->arch->dim, c->arch->n_experts);
    training_gram(c, p);
    miss_cross(c, p->feature, z0, &cross);
    *best_recall = -1;
    for (size_t i = 0; i < sizeof LAMBDAS / sizeof *LAMBDAS && status == 0; i++) {
        status = fit_low_rank(&p->gram, &cross, LAMBDAS[i], f.rank, f.in, f.out, f.bias, err);
        if (status < 0) {
            break;
        }
        fix_apply(c, &f, p->feature, z0, z);
        float got = recall(c, z, NULL, NULL);
        if (got > *best_recall) {
            struct fix swap = *best;
            *best_recall = got;
            *best = f;
            f = swap;
        }
    }
    fix_close(&f);
    fit_cross_close(&cross);
    return status;
}

/* Guess the layer at hand from source `p`, `ahead` layers before. */
static int fit_source(struct calib *c, struct calib_past *p, uint32_t source, uint32_t ahead,
                      struct corm_predict_builder *builder, struct err *err) {
    const struct arch *a = c->arch;
    struct calib_scores *s = &c->result->scores[c->layer];
    size_t cells = (size_t)c->n_rows * a->n_experts;
    float *z0 = mem_alloc(cells * sizeof *z0), *z = mem_alloc(cells * sizeof *z), wide_recall = 0;
    float *hits = mem_calloc(widest(c), sizeof *hits);
    struct fix fix;
    fix_open(&fix, c);
    stale_gate(c, p->residual, z0);
    s->stale[ahead] = recall(c, z0, &s->stale_wide[ahead], hits);
    s->corrected[ahead] = s->stale[ahead];
    if (memcmp(p->quasi, p->residual, (size_t)c->n_rows * a->dim * sizeof *p->quasi) != 0) {
        stale_gate(c, p->quasi, z);
        s->corrected[ahead] = recall(c, z, &wide_recall, NULL);
        if (!p->mean_decided && s->corrected[ahead] <= s->stale[ahead]) {
            /* Mean outputs do not help here, so guesses from this source do without them, now and
             * later. */
            memcpy(p->quasi, p->residual, (size_t)c->n_rows * a->dim * sizeof *p->quasi);
        } else {
            memcpy(z0, z, cells * sizeof *z0);
            if (!p->mean_decided) {
                corm_predict_add(builder, PREDICT_MEAN_OUT, source, 0, CODEC_BF16, p->mean_out,
                                 a->n_experts, a->dim);
            }
        }
    }
    p->mean_decided = true;
    float free_recall = recall(c, z0, &s->learned_wide[ahead], hits);
    int status = fit_fix(c, p, z0, z, &fix, &s->learned[ahead], err);
    s->stored[ahead] = status == 0 && s->learned[ahead] > free_recall + WORTH;
    if (s->stored[ahead]) {
        fix_apply(c, &fix, p->feature, z0, z);
        recall(c, z, &s->learned_wide[ahead], hits);
        corm_predict_add(builder, PREDICT_EXPERT_IN, source, ahead, CODEC_BF16, fix.in, fix.rank,
                         a->dim);
        corm_predict_add(builder, PREDICT_EXPERT_OUT, source, ahead, CODEC_BF16, fix.out,
                         a->n_experts, fix.rank);
        corm_predict_add(builder, PREDICT_EXPERT_BIAS, source, ahead, CODEC_F32, fix.bias, 1,
                         a->n_experts);
    }
    if (status == 0 && c->n_rows > c->n_train) {
        make_falling(hits, widest(c));
        corm_predict_add(builder, PREDICT_RANK_P, source, ahead, CODEC_F32, hits, 1, widest(c));
    }
    fix_close(&fix);
    free(z0);
    free(z);
    free(hits);
    return status;
}

int calib_fit_experts(struct calib *c, struct corm_predict_builder *builder, struct err *err) {
    struct calib_scores *s = &c->result->scores[c->layer];
    s->previous_token = previous_token_recall(c);
    load_range(c, s);
    if (c->layer == 0 && fit_source(c, &c->embedded, 0, 0, builder, err) < 0) {
        return -1;
    }
    for (uint32_t ahead = 1; ahead <= PREDICT_MAX_AHEAD && ahead <= c->layer; ahead++) {
        struct calib_past *p = calib_past_of(c, c->layer - ahead);
        if (p->filled && p->moe && fit_source(c, p, c->layer - ahead, ahead, builder, err) < 0) {
            return -1;
        }
    }
    return 0;
}
