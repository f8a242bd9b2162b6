/*
 * calib_layer: the inside of calib: what is gathered while one layer runs, and what is fitted from
 * it.
 *
 * Owns: struct calib, the rows and the per-expert activations of the layer at hand, the history of
 * the three layers before it, fitting and scoring (calib_fit_*).
 * Leaves to others: driving and saving (calib.c).
 * Threads: the calibrating thread.
 */
#ifndef PREP_CALIB_CALIB_LAYER_H
#define PREP_CALIB_CALIB_LAYER_H

#include "prep/calib/calib.h"
#include "prep/calib/fit.h"
#include "prep/hf/hf_forward.h"
#include "runtime/model/state.h"

enum { CALIB_HISTORY = PREDICT_MAX_AHEAD + 1, CALIB_SPILL_USES = 512 };

/* What is kept of a layer so that later layers' experts can be guessed from it: rows in bf16,
 * [n_rows, dim] each, and more. */
struct calib_past {
    bool filled, moe;
    bool mean_decided;    /* it is settled whether `quasi` has mean outputs in it */
    uint16_t *feature;    /* FFN input */
    uint16_t *residual;   /* residual stream before the FFN */
    uint16_t *quasi;      /* what guesses start from: `residual` plus the mean outputs of the
                             chosen experts, where adding these was found to help */
    float *mean_out;      /* [n_experts, dim] */
    struct fit_gram gram; /* of `feature`, training rows */
};

/* Where the energies of some uses lie in the spill file. */
struct calib_spill {
    uint64_t offset;
    uint32_t n;
};

/* What one expert of the layer at hand did. */
struct calib_expert {
    uint32_t n, n_train; /* uses in all, and uses by training rows */
    uint32_t *rows;      /* [n] row of each use */
    size_t cap;          /* of rows */
    /* The energy of each neuron in each use, in bf16, [n, ffn_dim]: the square of what its gate and
     * up give times the length of its down row. This is by far the largest thing that a layer
     * makes, so it lies in a file, in pieces of at most CALIB_SPILL_USES. */
    struct calib_spill *spills;
    uint32_t n_spills;
    size_t cap_spills;
    double *energy;  /* [ffn_dim] sum of it over training rows */
    double *sum_out; /* [dim] outputs over training rows */
};

struct calib {
    const struct hf_model *model;
    const struct arch *arch;
    const struct calib_options *opt;
    struct calib_result *result;
    struct backend be;
    struct hf_forward source;
    struct forward forward;
    /* What sequences leave behind. `state` is that of the layer at hand, used for one sequence
     * after the other. `kept` [n_seqs] is that of the layers whose keys and values later layers
     * read, for each sequence. */
    struct state state, *kept;
    struct state_size state_size;
    bool *is_kept;                     /* [n_layers] */
    struct layer_weights top, weights; /* of the model, of the layer at hand */

    /* All rows, training rows first. */
    uint32_t n_rows, n_train, batch_rows;
    int32_t *ids;
    struct corpus_seq *seqs;
    uint32_t n_seqs;
    float *x;        /* [n_rows, dim] residual stream */
    float *before;   /* [n_rows, dim] the same before the layer, of models that look back */
    int32_t *routes; /* [n_rows, n_active] of the layer at hand */
    float *route_w;  /* [n_rows, n_active] */
    float *router;   /* [n_rows, n_experts] logits */
    struct calib_past
        past[CALIB_HISTORY];      /* by layer modulo CALIB_HISTORY; the layer at hand included */
    struct calib_past embedded;   /* layer 0's own source */
    struct calib_expert *experts; /* [n_experts] */

    uint32_t batch_first; /* first row of the batch that runs now */
    uint32_t layer;
    float *gate, *up, *down;          /* one expert, [ffn_dim, dim] each */
    float *gathered;                  /* [batch rows, dim] */
    float *act, *act_up, *expert_out; /* [CALIB_SPILL_USES, .] */
    uint16_t *energy; /* [CALIB_SPILL_USES, ffn_dim] on its way to the file or back */
    uint32_t *first_use, *uses;
    int spill_fd;         /* of a file without a name */
    uint64_t spill_bytes; /* of the layer at hand */
};

/* Hooks for the forward pass; ctx is the struct calib. */
struct experts_hook calib_experts_hook(struct calib *c);
void calib_tap(void *ctx, enum tap tap, uint32_t layer, const float *data, const struct batch *b,
               uint32_t cols, const int32_t *ids);

/* Nothing is measured yet. */
void calib_scores_clear(struct calib_scores *s);
void calib_layer_begin(struct calib *c, uint32_t layer);
/* Fit all that the finished layer allows, into `builder` and the result's rows of this layer. */
int calib_layer_fit(struct calib *c, struct corm_predict_builder *builder, struct err *err);
/* The two halves of it. */
int calib_fit_chunks(struct calib *c, struct corm_predict_builder *builder, struct err *err);
int calib_fit_experts(struct calib *c, struct corm_predict_builder *builder, struct err *err);

static inline struct calib_past *calib_past_of(struct calib *c, uint32_t layer) {
    return &c->past[layer % CALIB_HISTORY];
}
void calib_past_alloc(struct calib_past *p, uint32_t rows, uint32_t dim, uint32_t n_experts);
void calib_past_free(struct calib_past *p);
/* Bring a piece of energies back from the file, into c->energy [s->n, ffn_dim]. */
int calib_unspill(struct calib *c, const struct calib_spill *s, struct err *err);
/* Mean outputs of the layer's experts, and the states that later layers are guessed from. */
void calib_finish_past(struct calib *c);
/* f32 copy of bf16 rows [first, first + n) of width dim. */
void calib_widen(const uint16_t *rows, uint32_t dim, uint32_t first, uint32_t n, float *out);

#endif
