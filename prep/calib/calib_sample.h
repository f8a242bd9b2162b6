/*
 * calib_sample: text for calibration that the model writes itself.
 *
 * Owns: how texts begin, drawing them at temperature 1 with seeds of their own, and saving them.
 * Leaves to others: running the model (runtime/engine, from an archive that pack writes), what the
 * text is for (calib).
 * Threads: called by one thread.
 *
 * A model cannot be sampled layer by layer. So the checkpoint is first written as an archive into
 * the state directory, as the output will be, but without calibration, and run from there. That
 * takes the memory that corm-run would take by itself, whatever the size of the model. Each text is
 * a sequence of at most `seq_tok` tokens. Where i is even, or where there is no other text, text i
 * begins as any text begins: with BOS, or where a model has none, with the token that ends a text.
 * Else it begins with the first tokens of some sequence of `train`. It ends with the model's stop
 * token (which is not kept) or at its greatest length. Text i depends only on the model, the
 * options and i, so that an interrupted run can go on after the last whole text.
 */
#ifndef PREP_CALIB_CALIB_SAMPLE_H
#define PREP_CALIB_CALIB_SAMPLE_H

#include "prep/corpus.h"
#include "prep/pack.h"

enum { CALIB_SAMPLE_OPENING_TOK = 6 };

struct calib_sample_options {
    uint32_t n_tok;   /* of all texts together, openings included */
    uint32_t seq_tok; /* of one, >= CORPUS_MIN_SEQ_TOK */
    uint32_t threads;
    const char *state_dir; /* made where it is not there; its state files stay */
    const char *state_key; /* what else a saved text must agree with: checkpoint, options */
};

/* Append at most n_tok tokens to `train`; fewer only by less than CORPUS_MIN_SEQ_TOK. `pack` says
 * how the archive is written; its calibration is ignored. *resumed_tok becomes the number of those
 * tokens that an earlier run had saved. */
int calib_sample(const struct hf_model *m, const struct pack_options *pack,
                 const struct calib_sample_options *opt, struct progress *progress,
                 const volatile sig_atomic_t *stop, struct corpus *train, uint32_t *resumed_tok,
                 struct err *err);
/* Remove what calib_sample keeps in `state_dir`. */
void calib_sample_remove(const char *state_dir);

#endif
