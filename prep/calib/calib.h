/*
 * calib: runs calibration text through a checkpoint, layer by layer, and fits what an archive
 * carries: the order of neurons, the hot prefix of each expert, the expert predictor and the chunk
 * predictor.
 *
 * Owns: the driver, which takes all rows through layer 0, then all through layer 1, and so on; the
 * statistics of one layer; the choice of what is worth storing; saved state for resuming.
 * Leaves to others: the forward pass (runtime/model/forward), numerics (fit), text (corpus),
 * writing (pack).
 *
 * Memory holds one layer of the checkpoint, the hidden rows of the text for this layer and the
 * three before it, and a constant. The activations of one layer's experts (2 bytes x uses x
 * ffn_dim) lie in a file without a name.
 *
 * Threads: called by one thread; OpenBLAS and the pool run inside.
 *
 * Two texts go through together: the predictors are fitted on the rows of `train` and scored on
 * those of `held`. A part that was learned is kept only where it scores better on `held` than what
 * needs no parameters.
 */
#ifndef PREP_CALIB_CALIB_H
#define PREP_CALIB_CALIB_H

#include "format/corm_predict.h"
#include "format/progress.h"
#include "prep/calib/rounded.h"
#include "prep/corpus.h"
#include "prep/hf/hf.h"

enum { CALIB_CUTS = 3 }; /* shares of the cold chunks that are scored: 25, 50, 75 % */

/* What is told where keys or values need more than f16 (state_check). */
#define CALIB_KV_ADVICE                                                                            \
    ": calibration keeps them in f16; convert without calibration, and run with corm-run --kv f32"

struct calib_options {
    uint32_t chunk_neurons;
    double hot_share; /* share of an expert's mean energy that the hot prefix holds */
    uint32_t rank;    /* rank of the expert predictor's correction */
    uint32_t basis;   /* directions of the FFN input that a layer's chunk predictor looks at */
    uint32_t gates;   /* gates of its own that an expert's chunk predictor looks at */
    uint32_t threads;
    const char *state_dir; /* where progress is saved after each layer, for resuming; or NULL. Where
                             layers share keys nothing is saved, and nothing resumed */
    const char *spill_path; /* a file of this name is made, and its name removed at once */
    const char *state_key;  /* what the saved state must agree with: checkpoint, options */
    /* Experts are rounded into it with error feedback (calib_round), and wait in state_dir, which
     * is given then; codec_steps_of says which codecs can be. NULL: pack rounds. */
    const struct codec *round_codec;
};

/* What was measured on held-out text for one target layer. Recalls are shares of the experts that
 * were used. Arrays are indexed by how many layers ahead the guess was made, 1..3; index 0 is layer
 * 0 guessed from the embedding. Negative = not measured. */
struct calib_scores {
    float load_min, load_max; /* use of the least and most used expert, 1 = fair */
    float previous_token;     /* recall of the previous token's experts */
    float stale[PREDICT_MAX_AHEAD + 1],
        stale_wide[PREDICT_MAX_AHEAD + 1];  /* stale gate, of k and 1.5 k guesses */
    float corrected[PREDICT_MAX_AHEAD + 1]; /* with mean outputs added */
    float learned[PREDICT_MAX_AHEAD + 1], learned_wide[PREDICT_MAX_AHEAD + 1];
    bool stored[PREDICT_MAX_AHEAD + 1]; /* the low-rank part is in the archive */
    float hot_fraction;                 /* neurons in the hot prefix, mean over experts */
    float hot_energy; /* share of an expert's energy that its hot prefix has, mean over uses */
    float energy_static[CALIB_CUTS], energy_learned[CALIB_CUTS], energy_oracle[CALIB_CUTS];
    /* Error of gate, up and down as they were rounded, 1 = rounded to the nearest; negative = they
     * were not. */
    float rounding[3];
    bool chunks_stored;
};

struct calib_result {
    uint32_t n_layers, n_experts, ffn_dim;
    uint32_t *order; /* [n_layers, n_experts, ffn_dim] neuron at each place; zero if dense */
    uint32_t *hot;   /* [n_layers, n_experts] neurons of the hot prefix, whole chunks */
    struct corm_predict_builder predictors;
    struct calib_scores *scores; /* [n_layers] */
    uint32_t train_tok, held_tok;
    uint32_t resumed_layers;
    struct rounded
        rounded;        /* where the rounded experts are; its codec is NULL where there are none */
    struct err refused; /* why saved state was not taken up further, where it is at fault */
};

/* `result` is zeroed by the call; calib_result_free accepts it after an error too. */
int calib_run(const struct hf_model *model, const struct corpus *train, const struct corpus *held,
              const struct calib_options *opt, struct progress *progress,
              const volatile sig_atomic_t *stop, struct calib_result *result, struct err *err);
void calib_result_free(struct calib_result *r);

#endif
