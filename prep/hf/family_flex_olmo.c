/*
 * family_flex_olmo: FlexOlmo. Branches read the residual stream as it is, and what they give is
 * normed. Queries and keys are normed over the whole projection.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 100352}, {KEY_DIM, 4096},      {KEY_MLP_DIM, 11008}, /* of an expert */
    {KEY_LAYERS, 32},    {KEY_HEADS, 32},      {KEY_KV_HEADS, 0},       {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 4096}, {KEY_NORM_EPS, 1e-6}, {KEY_TIED, 0},           {KEY_EXPERTS, 7},
    {KEY_ACTIVE, 5},     {KEY_NORM_TOPK, 0},   {KEY_ATTENTION_BIAS, 0}, {KEY_END},
};

static const struct family_name names[] = {
    {SLOT_ATTN_POST_NORM, FAMILY_LAYER "post_attention_layernorm.weight"},
    {SLOT_FFN_POST_NORM, FAMILY_LAYER "post_feedforward_layernorm.weight"},
    {.pattern = NULL},
};

static int settle(struct settle *s, struct err *err) {
    s->arch->ffn_dim = settle_u32(s, KEY_MLP_DIM);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->block.post_norm = ARCH_POST_NORM_ONLY;
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.qk_norm = ARCH_QK_NORM_FULL;
        k->route.renorm = settle_u32(s, KEY_NORM_TOPK);
    }
    return settle_rope(s, err);
}

const struct family family_flex_olmo = {
    .name = "flex_olmo",
    .types = {"flex_olmo"},
    .architectures = {"FlexOlmoForCausalLM"},
    .eos = 100257,
    .rope = {.theta = 5e5},
    .keys = keys,
    .names = names,
    .settle = settle,
};
