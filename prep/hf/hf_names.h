/*
 * hf_names: which of a checkpoint's tensors hold which slots.
 *
 * Owns: walking a family's rows of names, what stands before names inside wrappers, the check that
 * every tensor is there and that none is left over, which tensors are left out.
 * Leaves to others: the rows (family), layouts and shapes (hf_matrix).
 * Threads: pure functions.
 */
#ifndef PREP_HF_HF_NAMES_H
#define PREP_HF_HF_NAMES_H

#include "prep/hf/hf_config.h"

enum { HF_EXPERT_PARTS = 3 }; /* gate, up, down */

/* A checkpoint, and what its names begin with. */
struct hf_names {
    const struct family *family;
    const struct safetensors *st;
    const char *dir;         /* for messages, borrowed */
    uint32_t further_layers; /* behind the model's, whose tensors are left out */
    bool unit_head;          /* the output head counts with columns of length one */
    bool quantised;          /* so that what says how activations are rounded is left out, too */
    struct hf_blocks blocks; /* that share a scale, as the configuration says */
    const char *body, *head; /* in place of "model." and before "lm_head." */
    /* Rows of names; slots that `own` has none for have those of `common`. */
    const struct family_name *own, *common;
    const char *layers; /* what names of layers begin with, as a pattern of a row */
};

/* Of names as Hugging Face has them; and of others, with the family's arch alone. */
struct hf_names hf_names_of(const struct hf_config *c, const struct safetensors *st,
                            const char *dir);
struct hf_names hf_names_by(const struct hf_config *c, const struct safetensors *st,
                            const char *dir, const struct family_name *own,
                            const struct family_name *common, const char *layers);

/* What holds a slot of model scope, or of a layer with experts, as hf_numbers_find has it: 1; 0
 * where there is nothing; -1 where it cannot be read. `layer` counts in the latter case. */
int hf_names_find(const struct hf_names *n, enum slot_id slot, uint32_t layer,
                  struct hf_numbers *numbers, struct err *err);

/* Lay out every matrix of the model. trunk [1 + n_layers, SLOT_COUNT], model scope first; experts
 * [n_layers, n_experts, HF_EXPERT_PARTS]; both zeroed. */
int hf_names_bind(const struct hf_names *n, const struct arch *a, struct hf_matrix *trunk,
                  struct hf_matrix *experts, struct err *err);

#endif
