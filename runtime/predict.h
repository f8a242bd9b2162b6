/*
 * predict: guesses which experts later layers will route to, and which of an expert's neurons
 * matter.
 *
 * Owns: evaluating the predictors of an archive at the taps where prep fitted them. (prep/calib
 * computes the same formula over many rows at once, before there is an archive.)
 * Leaves to others: fitting (prep), what is done with a guess (prefetch), leaving chunks out
 * (experts).
 * Threads: the forward thread.
 *
 * Experts. At source layer s, with x the residual stream before the FFN and n(x) the FFN input, the
 * router logits of layer t = s + ahead are guessed as
 *
 *   z = router_t(x + sum_j w_j mu_{s,e_j})  +  B . (A . n(x)) + c
 *
 * where e_j, w_j are the experts that s has just chosen and their weights, mu are the mean outputs
 * of experts, and router_t is layer t's own router behind the norm that it reads through. The first
 * term is the "stale gate", which needs no parameters of its own; the second one is a low-rank fit
 * of what the stale gate misses. Each part that the archive does not hold is left out. For layer 0
 * the source is the embedding: then x is the embedding, n(x) the input of layer 0's attention, and
 * ahead is 0.
 *
 * Chunks. The energy that chunk b of expert e adds is guessed as exp(prior_{e,b} + beta_{e,b} . (P
 * . n(x)) + gamma_{e,b} . act(G_e . n(x))). G_e are the gate rows of a few of the expert's neurons,
 * and act is what the layer's activation makes of a gate alone.
 */
#ifndef RUNTIME_PREDICT_H
#define RUNTIME_PREDICT_H

#include "format/corm_predict.h"
#include "runtime/model/forward.h"

struct predict {
    struct corm_predict view;
    const struct arch *arch;
    struct backend *be;
    const struct layer_weights *layers; /* [n_layers], bound */
    uint32_t max_rows, width; /* width: experts guessed a row, 2 n_active at most n_experts */
    uint32_t chunks_per_expert;
    /* The matrices of the predictors in backend memory, by layer and lookahead or by layer. */
    struct weight *expert_in, *expert_out, *expert_bias; /* [n_layers, 1 + PREDICT_MAX_AHEAD] */
    struct weight *mean_out, *chunk_basis, *chunk_prior, *chunk_beta; /* [n_layers] */
    struct weight *chunk_gates, *chunk_gate_beta, *chunk_gate_bias;   /* [n_layers] */
    /* Scratch. */
    float *parts, *state, *norm, *low, *logits, *fix, *scores; /* backend memory */
    float *gated, *more;
    int32_t *ids;
    /* [places, rows, width] of the last predict_read: the guesses, best first. */
    int32_t *host_ids;
    float *host_scores; /* [max_rows * n_active, chunks_per_expert] */
};

/* `layers` outlive it. Fails where the backend has no memory left; predict_close is due in any
 * case. */
int predict_open(struct predict *p, const struct corm_predict *view, const struct arch *arch,
                 struct backend *be, const struct layer_weights *layers, uint32_t chunks_per_expert,
                 uint32_t max_rows, struct err *err);
void predict_close(struct predict *p); /* accepts a zeroed struct */
/* Memory that it takes, beside the matrices. */
size_t predict_scratch_bytes(const struct corm_predict *view, const struct arch *arch,
                             uint32_t chunks_per_expert, uint32_t max_rows);
/* Experts that are guessed a row. */
uint32_t predict_width(const struct arch *arch);

/* Whether there is a layer to guess: `source` + `ahead` has experts (ahead 0: layer 0 from the
 * embedding). */
bool predict_has_target(const struct predict *p, uint32_t source, uint32_t ahead);

/* Which parts of the formula to use. Fewer than all are for comparing (prep report); the engine
 * uses all. */
enum predict_parts { PREDICT_USE_MEAN = 1, PREDICT_USE_FIX = 2, PREDICT_USE_ALL = 3 };

/* Guess for `rows` tokens. `x`, `feature` [rows, dim] and `weights` [rows, n_active] are backend
 * memory; `host_ids` [rows, n_active] are the experts chosen at the source, NULL (with weights)
 * where the source has none. The guess is made when predict_read returns, which brings those of
 * places 0 .. n - 1, at most 1 + PREDICT_MAX_AHEAD, of as many rows: so a device is waited for
 * once. p->logits [rows, n_experts] are the last one's. */
void predict_begin(struct predict *p, uint32_t place, uint32_t source, uint32_t ahead,
                   const float *x, const float *feature, const int32_t *host_ids,
                   const float *weights, uint32_t rows, unsigned parts);
void predict_read(struct predict *p, uint32_t places, uint32_t rows);
/* Both, of one guess. */
void predict_experts(struct predict *p, uint32_t source, uint32_t ahead, const float *x,
                     const float *feature, const int32_t *host_ids, const float *weights,
                     uint32_t rows, unsigned parts);
/* Probability that the expert guessed at `rank` is used, as calibration found it; negative where
 * the archive does not store it. */
float predict_rank_p(const struct predict *p, uint32_t source, uint32_t ahead, uint32_t rank);

/* Whether chunk energies of `layer` can be guessed. */
bool predict_has_chunks(const struct predict *p, uint32_t layer);
/* Log energy of every chunk of the experts host_ids [rows, n_active], for rows of `feature` [rows,
 * dim] of `layer`: host_scores [rows * n_active, chunks_per_expert]. */
void predict_chunk_energies(struct predict *p, uint32_t layer, const float *feature,
                            const int32_t *host_ids, uint32_t rows);
/* Those of one expert where nothing is known of the token, the prior alone: the first of
 * host_scores. */
void predict_chunk_prior(struct predict *p, uint32_t layer, uint32_t expert);

/* Which chunks to leave out: skip[b] = 1 for the cold chunks (b >= n_hot) of least energy whose sum
 * stays at or below `drop` (0..1) of the whole. `log_energy` [n]. Returns how many. */
uint32_t predict_choose_skip(const float *log_energy, uint32_t n, uint32_t n_hot, float drop,
                             uint8_t *skip);

#endif
