/*
 * family_phimoe: Phi-3.5-MoE and its smaller kin. Norms are LayerNorms with biases. Two experts are
 * chosen by the sparse mixer, whose threshold is the key that others have for noise in training.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 32064},    {KEY_DIM, 4096},
    {KEY_MLP_DIM, 6400}, /* of an expert */
    {KEY_LAYERS, 32},      {KEY_HEADS, 32},
    {KEY_KV_HEADS, 8},     {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 131072}, {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},         {KEY_ATTENTION_BIAS, 0},
    {KEY_HEAD_BIAS, 0},    {KEY_WINDOW, 0},
    {KEY_EXPERTS, 16},     {KEY_ACTIVE, 2},
    {KEY_MIXER_EPS, 0.01}, {KEY_END},
};

static int settle(struct settle *s, struct err *err) {
    struct arch *a = s->arch;
    uint32_t window;
    if (settle_only(s, KEY_ACTIVE, 2, err) < 0 || settle_window_key(s, &window, err) < 0) {
        return -1;
    }
    a->norm = ARCH_NORM_LAYER_BIAS;
    a->head_bias = settle_u32(s, KEY_HEAD_BIAS);
    a->ffn_dim = settle_u32(s, KEY_MLP_DIM);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.window = window;
        k->route.score = ROUTE_SPARSE_MIXER;
        k->route.eps = settle_f32(s, KEY_MIXER_EPS);
    }
    return settle_rope(s, err);
}

const struct family family_phimoe = {
    .name = "phimoe",
    .types = {"phimoe"},
    .architectures = {"PhiMoEForCausalLM", "PhimoeForCausalLM"},
    .eos = 2,
    .rope = {.theta = 1e6, .mscaled = true},
    .keys = keys,
    .names = family_block_sparse,
    .settle = settle,
};
