/*
 * convert_calib: the calibration stage of `corm-prep convert`.
 * Owns: which text is taken (what the user names, the project's own, the model's own), what a saved
 * state must agree with, handing the result to pack.
 * Leaves to others: reading text (corpus), sampling it (calib_sample), calibrating (calib).
 * Threads: the main thread.
 */
#ifndef PREP_CONVERT_CALIB_H
#define PREP_CONVERT_CALIB_H

#include "prep/convert.h"
#include "prep/pack.h"

struct calibration {
    bool ran;
    struct calib_result result;
    struct corpus held;     /* what was learned is scored on it, and loss measured */
    struct buf predictors;  /* the finished section */
    char text[96];          /* which text, for provenance */
    uint32_t generated_tok; /* those of result.train_tok that the model itself wrote */
    char *state_dir;        /* has the state from which an interrupted run goes on */
};

/* Calibrate where the options ask for it, and put what was found into `pack`, which borrows from
 * `c`. The call zeroes `c`; call calibration_free in any case. */
int calibration_run(struct calibration *c, const struct convert_options *o,
                    const struct hf_model *model, struct pack_options *pack,
                    struct progress *progress, struct err *err);
/* The archive is finished: remove the saved state. */
void calibration_done(const struct calibration *c);
/* Remove the state that a run left which was killed after its archive had its name. It is removed
 * where `output` is a calibrated archive and nothing in the state is younger than that. (A younger
 * state belongs to a run that was to replace the archive, and stays.) The caller holds the
 * claim. */
void calibration_tidy(const char *output);
void calibration_free(struct calibration *c);

#endif
