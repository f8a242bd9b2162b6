/*
 * calib_state: lets calibration that was interrupted go on at the layer that it had reached.
 *
 * Owns: three kinds of file in the state directory: `layer-NNNN` has what was found out about a
 * layer, `size-NNNN` the sizes of its parts, and `rows-NNNN` the hidden rows after it, of which
 * only the newest is kept. Each is written under a temporary name, synced and renamed, and ends in
 * a checksum, so that a kill at any time leaves whole files. They are no less strangers for that:
 * whatever is read from them is checked, and what does not fit is computed again.
 * Leaves to others: what is in a layer (calib_layer); files of rounded experts (rounded), without
 * which a layer is not taken up where it is to have them.
 *
 * The key (checkpoint, options, text) is part of every file, so that the state of another run is
 * not taken up.
 */
#ifndef PREP_CALIB_CALIB_STATE_H
#define PREP_CALIB_CALIB_STATE_H

#include "prep/calib/calib_layer.h"

/* A hash of the options' key and of the text. */
uint64_t calib_state_key(const struct calib *c);
/* Save the layer at hand. Nothing happens where opt->state_dir is NULL. */
int calib_state_save(struct calib *c, const struct corm_predict_builder *layer, struct err *err);
/* Take up a saved state: fills the result's rows and `builders` [n_layers] of the layers that are
 * done and the hidden rows after them. *n_done is their number, 0 where there is no usable state.
 * Where a file of this run's key was left alone because it is damaged, or holds what no run writes,
 * `refused` says which and why. */
void calib_state_load(struct calib *c, struct corm_predict_builder *builders, uint32_t *n_done,
                      struct err *refused);
/* Remove the files, and the directory if it is empty then: the archive is finished. */
void calib_state_remove(const char *state_dir, uint32_t n_layers);

#endif
