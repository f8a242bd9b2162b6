#include "runtime/lookahead.h"

#include <stdlib.h>
#include <string.h>

enum { AHEADS = PREDICT_MAX_AHEAD + 1, QUIET_TOK = 16 };
/* How fast the measured chance of a rank follows what happens: a few hundred tokens. */
static const float LEARN = 0.01f;
/* Where calibration left no table: the best ranks of a stale gate are right four times in five, the
 * tail seldom. The run corrects it. */
static float initial_prob(uint32_t rank, uint32_t n_active) {
    return rank < n_active ? 0.8f - 0.4f * (float)rank / (float)n_active : 0.15f;
}

static size_t at(const struct lookahead *la, uint32_t layer, uint32_t ahead) {
    return ((size_t)layer * AHEADS + ahead) * la->predict->width;
}

void lookahead_open(struct lookahead *la, struct predict *predict, struct prefetch *prefetch,
                    const struct corm *archive, uint32_t max_ahead) {
    uint32_t n_layers = archive->arch.n_layers;
    size_t n = (size_t)n_layers * AHEADS * predict->width;
    *la = (struct lookahead){
        .predict = predict, .prefetch = prefetch, .archive = archive, .max_ahead = max_ahead};
    la->prob = mem_calloc(n, sizeof *la->prob);
    la->guess = mem_calloc(n, sizeof *la->guess);
    trial_open(&la->trial);
    la->needs = mem_calloc(predict->width, sizeof *la->needs);
    memset(la->guess, 0xff, n * sizeof *la->guess);
    for (uint32_t l = 0; l < n_layers; l++) {
        for (uint32_t a = 0; a < AHEADS; a++) {
            for (uint32_t i = 0; i < predict->width; i++) {
                float p = predict_rank_p(predict, l, a, i);
                la->prob[at(la, l, a) + i] = p >= 0 ? p : initial_prob(i, archive->arch.n_active);
            }
        }
    }
}

void lookahead_close(struct lookahead *la) {
    free(la->prob);
    free(la->guess);
    free(la->skip);
    free(la->needs);
    *la = (struct lookahead){0};
}

size_t lookahead_skip_bytes(const struct corm *archive) {
    return (size_t)archive->n_records * corm_chunks_per_expert(archive);
}

void lookahead_leave_out(struct lookahead *la, const float *drop) {
    const struct corm *a = la->archive;
    uint32_t n = la->predict->chunks_per_expert;
    la->skip = mem_calloc(a->n_records, n);
    for (uint32_t l = 0; l < a->arch.n_layers; l++) {
        for (uint32_t e = 0; a->arch.moe[l] && e < a->arch.n_experts; e++) {
            const struct corm_record *rec = corm_record_of(a, l, e);
            if (!(drop[l] > 0) || !predict_has_chunks(la->predict, l)) {
                continue;
            }
            predict_chunk_prior(la->predict, l, e);
            predict_choose_skip(la->predict->host_scores, rec->n_chunks, rec->n_hot, drop[l],
                                &la->skip[(size_t)(rec - a->records) * n]);
        }
    }
}

/* A token begins: whether to guess in it. Where nothing was read for a while there is no need. */
static void begin_token(struct lookahead *la) {
    uint64_t read = prefetch_read_bytes(la->prefetch);
    la->quiet_tok = read == la->read_before ? la->quiet_tok + 1 : 0;
    la->read_before = read;
    bool quiet = la->quiet_tok >= QUIET_TOK;
    if (la->always || quiet) {
        trial_interrupt(&la->trial);
    }
    la->guessing = la->on_guess || (!quiet && (la->always || trial_token(&la->trial, clock_ns())));
}

/* Ask for what is guessed of layer source + ahead. */
static void guess_layer(struct lookahead *la, uint32_t source, uint32_t ahead,
                        const int32_t *host_ids) {
    struct predict *p = la->predict;
    uint32_t target = source + ahead;
    if (!predict_has_target(p, source, ahead)) {
        return;
    }
    predict_experts(p, source, ahead, la->residual, la->feature, host_ids, la->weights, 1,
                    PREDICT_USE_ALL);
    int32_t *guess = &la->guess[at(la, target, ahead)];
    memcpy(guess, p->host_ids, p->width * sizeof *p->host_ids);
    for (uint32_t i = 0; i < p->width; i++) {
        const struct corm_record *rec = corm_record_of(la->archive, target, (uint32_t)guess[i]);
        const uint8_t *skip =
            la->skip ? &la->skip[(size_t)(rec - la->archive->records) * p->chunks_per_expert]
                     : NULL;
        la->needs[i] = (struct prefetch_need){rec->first_chunk, rec->n_chunks, skip};
    }
    const float *prob = &la->prob[at(la, source, ahead)];
    if (la->on_guess) {
        la->on_guess(la->on_guess_ctx, target, ahead, p->width, guess, prob);
    }
    prefetch_guess(la->prefetch, la->needs, prob, p->width, ahead ? ahead : 1);
}

/* Compare the guesses for `layer` with what it chose. */
static void learn(struct lookahead *la, uint32_t layer, const int32_t *ids, uint32_t n_active) {
    for (uint32_t ahead = 0; ahead < AHEADS && ahead <= layer; ahead++) {
        int32_t *guess = &la->guess[at(la, layer, ahead)];
        if (guess[0] < 0) {
            continue;
        }
        float *prob = &la->prob[at(la, layer - ahead, ahead)];
        for (uint32_t i = 0; i < la->predict->width; i++) {
            bool hit = false;
            for (uint32_t j = 0; j < n_active; j++) {
                hit |= ids[j] == guess[i];
            }
            prob[i] += LEARN * ((hit ? 1.0f : 0.0f) - prob[i]);
            la->count.hits[ahead] += hit && i < n_active;
        }
        la->count.routed[ahead] += n_active;
        guess[0] = -1;
    }
}

void lookahead_tap(void *ctx, enum tap tap, uint32_t layer, const float *data, uint32_t rows,
                   uint32_t cols, const int32_t *ids) {
    struct lookahead *la = ctx;
    if (la->max_ahead == 0) {
        return;
    }
    if (rows != 1) {
        trial_interrupt(&la->trial);
        return;
    }
    switch (tap) {
    case TAP_EMBED:
        begin_token(la);
        la->residual = data;
        break;
    case TAP_ATTN_IN:
        if (layer == 0 && la->guessing) {
            la->feature = data;
            guess_layer(la, 0, 0, NULL);
        }
        break;
    case TAP_FFN_RESIDUAL:
        la->residual = data;
        break;
    case TAP_FFN_IN:
        la->feature = data;
        break;
    case TAP_EXPERT_WEIGHTS:
        la->weights = data;
        la->host_ids = ids;
        learn(la, layer, ids, cols);
        break;
    default:
        break;
    }
}

void lookahead_demanded(void *ctx, uint32_t layer, uint32_t rows) {
    struct lookahead *la = ctx;
    if (la->max_ahead == 0 || rows != 1 || !la->guessing) {
        return;
    }
    prefetch_drop_guesses(la->prefetch);
    for (uint32_t ahead = 1; ahead <= la->max_ahead; ahead++) {
        guess_layer(la, layer, ahead, la->host_ids);
    }
}
