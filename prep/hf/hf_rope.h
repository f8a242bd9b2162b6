/*
 * hf_rope: the RoPE part of config.json -> frequencies and the factor on cos and sin.
 *
 * Owns: both spellings (rope_theta and rope_scaling; rope_parameters), one object or one for each
 * type of layers, the rope types default, linear, llama3, yarn and proportional. Every other type
 * is refused by name.
 * Leaves to others: everything else in the file (hf_config), which layer has which set (family).
 * Threads: pure functions.
 *
 * The frequencies are computed in the steps and the fp32 rounding of Hugging Face transformers
 * (modeling_rope_utils), so that long positions turn by the angle that the model was trained with.
 */
#ifndef PREP_HF_HF_ROPE_H
#define PREP_HF_HF_ROPE_H

#include "prep/hf/settle.h"

struct hf_rope_ask {
    double theta; /* in place of the file's; 0 = the file's */
    uint32_t head_dim;
    enum family_key_id key; /* that head_dim came from, for messages */
    const char *layer_type; /* whose object it is, in a family whose objects are by type */
    /* Not NULL: it gets the factors on scores that the object asks for; else there must be none.
     * Its dimensions are set, and a partial_rotary_factor that says the same of its heads is one of
     * 1. */
    struct latent_rule *latent;
};

/* Add to s->arch, whose ctx_max_tok is set, the rope set that the file describes. A head_dim
 * above ARCH_MAX_HEAD_DIM is an error: it is the file's, and sizes the set. */
int hf_rope_add(struct settle *s, const struct hf_rope_ask *ask, uint32_t *index, struct err *err);

#endif
