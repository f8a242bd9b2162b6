/*
 * pack_cost: what it costs to store experts in another codec than what they are in.
 *
 * Owns: how many bits a weight has in the checkpoint, the codec for experts in blocks of GGUF where
 * nobody chose one, the error of a codec on a sample of the model's own neurons.
 * Leaves to others: storing them (pack).
 * Threads: pure functions.
 */
#ifndef PREP_PACK_COST_H
#define PREP_PACK_COST_H

#include "prep/hf/hf.h"

struct pack_cost {
    struct buf numbers; /* what experts in blocks are in: "Q4_K, Q6_K"; empty: none is */
    double bits;        /* of a weight of experts in the checkpoint, on average */
    double error;       /* root mean square of what changes, as a part of that of the weights */
};

/* Fill in `numbers` and `bits`; buf_free(&cost->numbers) afterwards. */
void pack_cost_read(struct pack_cost *cost, const struct hf_model *m);
/* q8 above 5 bits, q4 below. */
const struct codec *pack_cost_codec(const struct pack_cost *cost);
/* Fill in `error` of `codec`. A weight that is not finite is an error. */
int pack_cost_measure(struct pack_cost *cost, const struct hf_model *m, const struct codec *codec,
                      struct err *err);

#endif
