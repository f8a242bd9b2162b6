/*
 * calib_sample: text for calibration that the model itself writes.
 *
 * Owns: choosing how texts begin, drawing them at temperature 1 with seeds of their own, what is
 * saved of it.
 * Leaves to others: running the model (runtime/engine, from an archive that pack writes), what the
 * text is for (calib).
 * Threads: called by one thread.
 *
 * A model cannot be sampled layer by layer, so the checkpoint is first written as an archive, as
 * the output will be but for calibration, into the state directory, and run from there: within the
 * memory that corm-run would take by itself, whatever the size of the model. Each text is a
 * sequence of at most `seq_tok` tokens. Text i begins, where i is even or there is no other text,
 * with what begins any text (BOS, or where a model has none, the token that ends one); else with
 * the first tokens of some sequence of `train`. It ends with the model's stop token (not kept) or
 * at its greatest length. Text i depends on model, options and i alone: an interrupted run goes on
 * after the last whole text.
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

/* Append at most n_tok tokens (fewer only by less than CORPUS_MIN_SEQ_TOK) to `train`. `pack` says
 * how the archive is written; its calibration is not looked at. *resumed_tok: of them, those that
 * an earlier run had saved. */
int calib_sample(const struct hf_model *m, const struct pack_options *pack,
                 const struct calib_sample_options *opt, struct progress *progress,
                 const volatile sig_atomic_t *stop, struct corpus *train, uint32_t *resumed_tok,
                 struct err *err);
/* Remove what calib_sample keeps in `state_dir`. */
void calib_sample_remove(const char *state_dir);

#endif
