/*
 * calib_round: rounds the experts of a calibrated layer so that what the layer gives stays close.
 *
 * Owns: whose inputs count how much, the order of the steps, the layer's file of rounded experts.
 * Leaves to others: rounding with error feedback (rounding), the file (rounded), what rows and uses
 * there are (calib_layer).
 * Threads: the calibrating thread; OpenBLAS and a pool run inside.
 *
 * For one expert after the other, from the training rows that use it, x what it reads, v the weight
 * of the use in the layer's output, h what its neurons give:
 *
 *   gate, up   errors go along each row, by the sum of v^2 x x^T over the uses, to which the same
 *              of all rows of the layer is added as if they were dim / 4 uses more. So an expert
 *              that saw few tokens, or none, is rounded for what its layer reads.
 *   down       errors go from neuron to neuron, the busy ones first, by the sum of v^2 h h^T, h by
 *              gate and up as they were rounded. They stay within the hot prefix, and within each
 *              cold chunk: what `--loss` leaves out takes errors and their compensation along.
 *
 * To the diagonals 3 % and 20 % of their mean are added. docs/SPEED.md has what else was tried: the
 * layer's Gram matrix for all of its experts, other dampings, errors of `down` that cross chunks.
 *
 * Rows are those of the unrounded model, so that layers do not depend on each other's rounding.
 * Memory: one expert as f32 and encoded, and four matrices [dim, dim], two of them in f64.
 */
#ifndef PREP_CALIB_CALIB_ROUND_H
#define PREP_CALIB_CALIB_ROUND_H

#include "prep/calib/calib_layer.h"

/* Round the layer at hand, whose order of neurons is known, into opt->round_codec. Nothing happens
 * where that is NULL, or where the layer has no experts. */
int calib_round_layer(struct calib *c, struct progress *progress, const volatile sig_atomic_t *stop,
                      struct err *err);

#endif
