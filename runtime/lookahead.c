#include "runtime/lookahead.h"

#include <stdlib.h>
#include <string.h>

enum { AHEADS = PREDICT_MAX_AHEAD + 1, QUIET_TOK = 16 };
/* How fast the measured chance of a rank follows what happens: within a few hundred tokens. */
static const float LEARN = 0.01f;
/* The chances of ranks where calibration left no table: the best ranks of a stale gate are right
 * four times in five, the last ones seldom. The run corrects them. */
static float initial_prob(uint32_t rank, uint32_t n_active) {
    return rank < n_active ? 0.8f - 0.4f * (float)rank / (float)n_active : 0.15f;
}

static size_t at(const struct lookahead *la, uint32_t layer, uint32_t ahead) {
    return ((size_t)layer * AHEADS + ahead) * la->predict->width;
}

/* Where the guesses of a target's rows are, and their number. */
static size_t rows_at(const struct lookahead *la, uint32_t layer, uint32_t ahead) {
    return at(la, layer, ahead) * la->predict->max_rows;
}
static uint32_t *guessed_rows(const struct lookahead *la, uint32_t layer, uint32_t ahead) {
    return &la->guess_rows[(size_t)layer * AHEADS + ahead];
}

size_t lookahead_bytes(const struct corm *archive, uint32_t max_rows, bool leaves_out) {
    const struct arch *a = &archive->arch;
    size_t ranks = (size_t)a->n_layers * AHEADS * predict_width(a);
    return ranks * (sizeof(float) + max_rows * sizeof(int32_t)) +
           (size_t)a->n_layers * AHEADS * sizeof(uint32_t) +
           a->n_experts * (sizeof(int32_t) + sizeof(float) + sizeof(struct prefetch_need)) +
           (leaves_out ? (size_t)archive->n_records * corm_chunks_per_expert(archive) : 0);
}

/* See struct lookahead_options. */
static void leave_out(struct lookahead *la, const float *drop) {
    const struct corm *a = la->archive;
    uint32_t n = la->predict->chunks_per_expert;
    la->skip = mem_calloc(a->n_records, n);
    for (uint32_t l = 0; l < a->arch.n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(&a->arch, l) && e < a->arch.n_experts; e++) {
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

void lookahead_open(struct lookahead *la, struct predict *predict, struct prefetch *prefetch,
                    const struct corm *archive, const struct lookahead_options *opt) {
    uint32_t n_layers = archive->arch.n_layers;
    size_t n = (size_t)n_layers * AHEADS * predict->width;
    *la = (struct lookahead){
        .predict = predict, .prefetch = prefetch, .archive = archive, .opt = *opt};
    la->prob = mem_calloc(n, sizeof *la->prob);
    la->guess = mem_calloc(n * predict->max_rows, sizeof *la->guess);
    la->guess_rows = mem_calloc((size_t)n_layers * AHEADS, sizeof *la->guess_rows);
    trial_open(&la->trial);
    la->joined = mem_calloc(archive->arch.n_experts, sizeof *la->joined);
    la->joined_prob = mem_calloc(archive->arch.n_experts, sizeof *la->joined_prob);
    la->needs = mem_calloc(archive->arch.n_experts, sizeof *la->needs);
    for (uint32_t l = 0; l < n_layers; l++) {
        for (uint32_t a = 0; a < AHEADS; a++) {
            for (uint32_t i = 0; i < predict->width; i++) {
                float p = predict_rank_p(predict, l, a, i);
                la->prob[at(la, l, a) + i] = p >= 0 ? p : initial_prob(i, archive->arch.n_active);
            }
        }
    }
    if (opt->drop) {
        leave_out(la, opt->drop);
    }
}

void lookahead_close(struct lookahead *la) {
    free(la->prob);
    free(la->guess);
    free(la->guess_rows);
    free(la->joined);
    free(la->joined_prob);
    free(la->skip);
    free(la->needs);
    *la = (struct lookahead){0};
}

/* A token begins: decide whether to guess in it. Where nothing was read for a while there is no
 * need. */
static void begin_token(struct lookahead *la, uint32_t rows) {
    /* What is left of a token that was broken off says nothing of this one. */
    memset(la->guess_rows, 0, (size_t)la->archive->arch.n_layers * AHEADS * sizeof *la->guess_rows);
    if (rows != la->rows_before) {
        trial_interrupt(
            &la->trial); /* the times of larger batches are no measure of smaller ones */
    }
    la->rows_before = rows;
    uint64_t read = prefetch_read_bytes(la->prefetch);
    la->quiet_tok = read == la->read_before ? la->quiet_tok + 1 : 0;
    la->read_before = read;
    bool quiet = la->quiet_tok >= QUIET_TOK;
    if (la->opt.always || quiet) {
        trial_interrupt(&la->trial);
    }
    la->guessing =
        la->opt.on_guess || (!quiet && (la->opt.always || trial_token(&la->trial, clock_ns())));
}

/* Join the guess that a row uses an expert with chance p to those of the rows before: the expert is
 * needed unless none of them uses it. The joined guess stays in order of chance. */
static void join(struct lookahead *la, int32_t expert, float p) {
    uint32_t i = 0;
    while (i < la->n_joined && la->joined[i] != expert) {
        i++;
    }
    if (i < la->n_joined) {
        p = 1 - (1 - p) * (1 - la->joined_prob[i]);
    } else {
        la->n_joined++;
    }
    for (; i > 0 && la->joined_prob[i - 1] < p; i--) {
        la->joined[i] = la->joined[i - 1];
        la->joined_prob[i] = la->joined_prob[i - 1];
    }
    la->joined[i] = expert;
    la->joined_prob[i] = p;
}

/* Ask for the experts that were guessed for layer source + ahead: `ids` [rows, width]. */
static void ask_guessed(struct lookahead *la, uint32_t source, uint32_t ahead, uint32_t rows,
                        const int32_t *ids) {
    struct predict *p = la->predict;
    const uint32_t target = source + ahead;
    memcpy(&la->guess[rows_at(la, target, ahead)], ids, (size_t)rows * p->width * sizeof *ids);
    *guessed_rows(la, target, ahead) = rows;
    const float *prob = &la->prob[at(la, source, ahead)];
    la->n_joined = 0;
    for (uint32_t i = 0; i < rows * p->width; i++) {
        join(la, ids[i], prob[i % p->width]);
    }
    for (uint32_t i = 0; i < la->n_joined; i++) {
        const struct corm_record *rec =
            corm_record_of(la->archive, target, (uint32_t)la->joined[i]);
        const uint8_t *skip =
            la->skip ? &la->skip[(size_t)(rec - la->archive->records) * p->chunks_per_expert]
                     : NULL;
        la->needs[i] = (struct prefetch_need){rec->first_chunk, rec->n_chunks, skip};
    }
    if (la->opt.on_guess) {
        la->opt.on_guess(la->opt.on_guess_ctx, target, ahead, la->n_joined, la->joined,
                         la->joined_prob);
    }
    prefetch_guess(la->prefetch, la->needs, la->joined_prob, la->n_joined, ahead ? ahead : 1);
}

/* Guess and ask for the experts of layers source + first .. source + last: one after the other, but
 * on a device together, which is then waited for once. */
static void guess_layers(struct lookahead *la, uint32_t source, uint32_t first, uint32_t last,
                         uint32_t rows, const int32_t *host_ids) {
    struct predict *p = la->predict;
    const bool together = backend_needs_landing(p->be);
    uint32_t waiting[AHEADS], n = 0;
    for (uint32_t ahead = first; ahead <= last; ahead++) {
        if (predict_has_target(p, source, ahead)) {
            predict_begin(p, n, source, ahead, la->residual, la->feature, host_ids, la->weights,
                          rows, PREDICT_USE_ALL);
            waiting[n++] = ahead;
        }
        if (n == 0 || (together && ahead < last)) {
            continue;
        }
        predict_read(p, n, rows);
        for (uint32_t i = 0; i < n; i++) {
            ask_guessed(la, source, waiting[i], rows, p->host_ids + (size_t)i * rows * p->width);
        }
        n = 0;
    }
}

/* Compare the guess for one row with what the row's router chose. */
static void learn_row(struct lookahead *la, const int32_t *guess, uint32_t ahead, float *prob,
                      const int32_t *ids, uint32_t n_active) {
    for (uint32_t i = 0; i < la->predict->width; i++) {
        bool hit = false;
        for (uint32_t j = 0; j < n_active; j++) {
            hit |= ids[j] == guess[i];
        }
        prob[i] += LEARN * ((hit ? 1.0f : 0.0f) - prob[i]);
        la->count.hits[ahead] += hit && i < n_active;
    }
    la->count.routed[ahead] += n_active;
}

/* Compare the guesses for `layer` with what its router chose: ids [rows, n_active]. */
static void learn(struct lookahead *la, uint32_t layer, uint32_t rows, const int32_t *ids,
                  uint32_t n_active) {
    for (uint32_t ahead = 0; ahead < AHEADS && ahead <= layer; ahead++) {
        uint32_t *guessed = guessed_rows(la, layer, ahead);
        for (uint32_t r = 0; r < rows && *guessed == rows; r++) {
            learn_row(la, &la->guess[rows_at(la, layer, ahead) + (size_t)r * la->predict->width],
                      ahead, &la->prob[at(la, layer - ahead, ahead)], ids + (size_t)r * n_active,
                      n_active);
        }
        *guessed = 0;
    }
}

void lookahead_tap(void *ctx, enum tap tap, uint32_t layer, const float *data,
                   const struct batch *b, uint32_t cols, const int32_t *ids) {
    struct lookahead *la = ctx;
    if (la->opt.max_ahead == 0) {
        return;
    }
    if (!b->decode) {
        /* A prompt. The rows of which logits are asked belong to no batch: they say nothing. */
        if (tap == TAP_EMBED) {
            trial_interrupt(&la->trial);
        }
        return;
    }
    switch (tap) {
    case TAP_EMBED:
        begin_token(la, b->rows);
        la->residual = data;
        break;
    case TAP_ATTN_IN:
        if (layer == 0 && la->guessing) {
            la->feature = data;
            guess_layers(la, 0, 0, 0, b->rows, NULL);
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
        learn(la, layer, b->rows, ids, cols);
        break;
    default:
        break;
    }
}

void lookahead_demanded(void *ctx, uint32_t layer, const struct batch *b) {
    struct lookahead *la = ctx;
    if (la->opt.max_ahead == 0 || !b->decode || !la->guessing) {
        return;
    }
    prefetch_drop_guesses(la->prefetch);
    guess_layers(la, layer, 1, la->opt.max_ahead, b->rows, la->host_ids);
}
