/*
 * router: which experts a layer would choose for a state of the residual stream. Used by the
 * forward pass, by the predictor (which asks a later layer's router early) and by calibration.
 *
 * Owns: what the router reads, its logits, the ranking of experts, and the choice with its weights.
 * Leaves to others: arithmetic (the route operation of kernels/backend.h).
 * Threads: the forward thread.
 *
 * All arrays are backend memory. `lw` are the weights of `layer`.
 */
#ifndef RUNTIME_MODEL_ROUTER_H
#define RUNTIME_MODEL_ROUTER_H

#include "runtime/model/forward.h"

/* What the layer's router reads where the residual stream before its feed-forward part is
 * `residual` [rows, dim]: made in out [rows, dim], or `residual` itself where it is not normed. For
 * most layers that is what the experts read. */
const float *router_input(const struct forward_site *at, const float *residual, uint32_t rows,
                          float *out);
/* logits [rows, n_experts] = the router of `in` [rows, dim], biases included. */
void router_logits(const struct forward_site *at, const float *in, uint32_t rows, float *logits);
/* The `width` likeliest experts, best first: ids [rows, width]. */
void router_rank(const struct forward_site *at, const float *logits, uint32_t rows, uint32_t width,
                 int32_t *ids);
/* The experts that the layer uses, and what their outputs are multiplied by: [rows, n_active]. */
void router_choose(const struct forward_site *at, const float *logits, uint32_t rows, int32_t *ids,
                   float *weights);

#endif
