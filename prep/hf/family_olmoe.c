/*
 * family_olmoe: OLMoE. Queries and keys are normed over the whole projection, and clipped where the
 * file says so.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 50304},
    {KEY_DIM, 2048},
    {KEY_MLP_DIM, 2048},
    {KEY_LAYERS, 16},
    {KEY_HEADS, 16},
    {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 4096},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},
    {KEY_EXPERTS, 64},
    {KEY_ACTIVE, 8},
    {KEY_NORM_TOPK, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_QK_NORM, 1},
    {KEY_CLIP_QKV, 0},
    {KEY_END},
};

static int settle(struct settle *s, struct err *err) {
    if (settle_only(s, KEY_QK_NORM, 1, err) < 0) {
        return -1;
    }
    s->arch->ffn_dim = settle_u32(s, KEY_MLP_DIM);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.qk_norm = ARCH_QK_NORM_FULL;
        k->att.clip_qkv = settle_f32(s, KEY_CLIP_QKV);
        k->route.renorm = settle_u32(s, KEY_NORM_TOPK);
    }
    return settle_rope(s, err);
}

const struct family family_olmoe = {
    .name = "olmoe",
    .types = {"olmoe"},
    .architectures = {"OlmoeForCausalLM"},
    .eos = 50279,
    .rope = {.theta = 1e4},
    .keys = keys,
    .names = family_common,
    .settle = settle,
};
