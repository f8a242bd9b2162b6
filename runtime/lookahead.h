/*
 * lookahead: turns predictions of later layers' experts into prefetch requests.
 *
 * Owns: when to predict (one row, experts read lately, and where it pays), how sure each guess is
 * (measured as the run goes, starting from what calibration found), the counters of guesses and
 * hits.
 * Leaves to others: the prediction (predict), whether a guess pays (prefetch), eviction (cache).
 * Threads: the forward thread.
 *
 * A guess of layer t made at layer s moves bytes and nothing else: what t computes with is its
 * router's choice.
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

struct lookahead {
    struct predict *predict;
    struct prefetch *prefetch;
    const struct corm *archive;
    uint32_t max_ahead; /* 0 = off */
    bool always;        /* guess whether it pays or not: for comparison */
    bool guessing;      /* in this token */
    struct trial trial;
    /* [n_layers, 1 + PREDICT_MAX_AHEAD, width]: */
    float *prob;                 /* by source: chance that the rank is used */
    int32_t *guess;              /* by target: what was guessed; -1 first = none */
    const float *drop;           /* [n_layers] as experts leaves out; NULL = nothing */
    struct prefetch_need *needs; /* [width] scratch: what guessed experts need */
    uint8_t *skip; /* [n_records, chunks of an expert]: what guesses leave out; NULL = nothing */
    const float *residual, *feature, *weights; /* of the layer at hand, from the taps */
    const int32_t *host_ids;
    uint64_t read_before; /* bytes read when the token began */
    uint32_t quiet_tok;   /* tokens in a row for which nothing was read */
    struct lookahead_counters count;
    /* As in corm_mechanisms; may be NULL. */
    void (*on_guess)(void *ctx, uint32_t layer, uint32_t ahead, uint32_t n, const int32_t *ids,
                     const float *prob);
    void *on_guess_ctx;
};

void lookahead_open(struct lookahead *la, struct predict *predict, struct prefetch *prefetch,
                    const struct corm *archive, uint32_t max_ahead);
/* Memory of lookahead_leave_out. */
size_t lookahead_skip_bytes(const struct corm *archive);
/* Guesses leave chunks out too, as experts do by `drop` [n_layers]: those that matter least before
 * anything is known of the token. To predict them for each guess would take longer than it saves:
 * twice as many experts are guessed as are used. */
void lookahead_leave_out(struct lookahead *la, const float *drop);
void lookahead_close(struct lookahead *la); /* accepts a zeroed struct */

/* The hooks: forward's tap, and experts' on_demanded; ctx is `la`. */
void lookahead_tap(void *ctx, enum tap tap, uint32_t layer, const float *data, uint32_t rows,
                   uint32_t cols, const int32_t *ids);
void lookahead_demanded(void *ctx, uint32_t layer, uint32_t rows);

#endif
