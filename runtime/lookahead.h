/*
 * lookahead: turns predictions of later layers' experts into prefetch requests.
 *
 * Owns: when to predict (while decoding, where experts were read lately and where guessing pays),
 * how sure each guess is (measured as the run goes, starting from what calibration found), and the
 * counters of guesses and hits.
 * Leaves to others: the prediction (predict), whether a single guess pays (prefetch), eviction
 * (cache).
 * Threads: the forward thread.
 *
 * A guess for layer t that is made at layer s only moves bytes. Which experts layer t computes with
 * is decided by its router alone.
 *
 * The guesses for the rows of a decoding batch are joined: the chance that an expert is needed is
 * the chance that at least one of the rows uses it.
 */
#ifndef RUNTIME_LOOKAHEAD_H
#define RUNTIME_LOOKAHEAD_H

#include "runtime/predict.h"
#include "runtime/prefetch.h"
#include "runtime/trial.h"

struct lookahead_counters {
    uint64_t routed[PREDICT_MAX_AHEAD + 1]; /* experts that layers chose while there was a guess */
    uint64_t hits[PREDICT_MAX_AHEAD + 1];   /* of them, guessed among the n_active best */
};

struct lookahead_options {
    uint32_t max_ahead; /* layers whose experts are guessed; 0 = off */
    bool always;        /* guess whether it pays or not: for comparison */
    /* Guesses leave chunks out too, as experts does by its `drop` [n_layers]: those chunks that
     * matter least before anything is known of the token. Predicting them for each guess would take
     * longer than it saves, because twice as many experts are guessed as are used. NULL = guesses
     * leave nothing out. */
    const float *drop;
    /* As in corm_mechanisms; may be NULL. */
    void (*on_guess)(void *ctx, uint32_t layer, uint32_t ahead, uint32_t n, const int32_t *ids,
                     const float *prob);
    void *on_guess_ctx;
};

struct lookahead {
    struct predict *predict;
    struct prefetch *prefetch;
    const struct corm *archive;
    struct lookahead_options opt;
    bool guessing; /* whether this token guesses */
    struct trial trial;
    float *prob; /* [n_layers, 1 + PREDICT_MAX_AHEAD, width] by source: chance that the rank is
                    used */
    /* By target layer, what was guessed for each row: [n_layers, 1 + PREDICT_MAX_AHEAD, max_rows,
     * width]; and for how many rows: [n_layers, 1 + PREDICT_MAX_AHEAD], 0 = none. */
    int32_t *guess;
    uint32_t *guess_rows;
    /* A joined guess, likeliest first: [n_experts]. */
    uint32_t n_joined;
    int32_t *joined;
    float *joined_prob;
    struct prefetch_need *needs;
    uint8_t *skip; /* [n_records, chunks of an expert]: what guesses leave out; NULL = nothing */
    const float *residual, *feature, *weights; /* of the layer at hand, from the taps */
    const int32_t *host_ids;
    uint64_t read_before; /* bytes read when the token began */
    uint32_t quiet_tok;   /* tokens in a row for which nothing was read */
    uint32_t rows_before; /* of the batch before */
    struct lookahead_counters count;
};

void lookahead_open(struct lookahead *la, struct predict *predict, struct prefetch *prefetch,
                    const struct corm *archive, const struct lookahead_options *opt);
/* Memory that lookahead_open takes; max_rows is the predictor's. */
size_t lookahead_bytes(const struct corm *archive, uint32_t max_rows, bool leaves_out);
void lookahead_close(struct lookahead *la); /* accepts a zeroed struct */

/* The hooks: forward's tap, and experts' on_demanded; ctx is `la`. */
void lookahead_tap(void *ctx, enum tap tap, uint32_t layer, const float *data,
                   const struct batch *b, uint32_t cols, const int32_t *ids);
void lookahead_demanded(void *ctx, uint32_t layer, const struct batch *b);

#endif
