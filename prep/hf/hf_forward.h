/*
 * hf_forward: a Hugging Face checkpoint as the forward pass sees it: a weight source and an experts
 * hook.
 *
 * Owns: decoding what cannot be used as it lies: vectors, which are f32, and matrices that are
 * parts of others; whole experts as neuron rows, one at a time.
 * Leaves to others: tensor names and checks (hf), the forward pass (runtime/model/forward),
 * arithmetic (backend).
 * Memory: what was decoded of the layers that are bound; one expert twice in f32, from the first
 * call of the experts hook on.
 * Threads: the forward thread.
 */
#ifndef PREP_HF_HF_FORWARD_H
#define PREP_HF_HF_FORWARD_H

#include "prep/hf/hf.h"
#include "runtime/model/forward.h"

struct hf_forward {
    const struct hf_model *model;
    struct backend *be;
    struct arena decoded[2]; /* of the model, of its layers */
    float *parts[3];         /* gate, up, down rows of one expert: [ffn_dim, dim] each; or NULL */
    float *neurons;          /* the same, a neuron's three rows together */
    uint32_t *first_use, *uses;
};

void hf_forward_open(struct hf_forward *h, const struct hf_model *model, struct backend *be,
                     uint32_t max_rows);
void hf_forward_close(struct hf_forward *h); /* accepts a zeroed struct */

/* Matrices are views into the checkpoint's map in its own dtype where they can be, else copies in
 * a codec that holds them exactly; ctx is `h`. */
struct weight_source hf_forward_source(struct hf_forward *h);
/* The layers bound so far are not used any more: the memory of what was decoded of them is free
 * for the next. */
void hf_forward_drop_layers(struct hf_forward *h);
/* Whole experts, every neuron, read from the checkpoint at each call; ctx is `h`. */
struct experts_hook hf_forward_experts(struct hf_forward *h);

#endif
