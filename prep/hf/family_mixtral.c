/*
 * family_mixtral: Mixtral. Always renormalises; without an attention bias; every layer has experts.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 32000}, {KEY_DIM, 4096},       {KEY_MLP_DIM, 14336},
    {KEY_LAYERS, 32},   {KEY_HEADS, 32},       {KEY_KV_HEADS, 8},
    {KEY_HEAD_DIM, 0},  {KEY_CONTEXT, 131072}, {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},      {KEY_EXPERTS, 8},      {KEY_ACTIVE, 2},
    {KEY_NORM_TOPK, 1}, {KEY_WINDOW, 0},       {KEY_END},
};

static const char *const reads[] = {"layer_types", NULL};

static int settle(struct settle *s, struct err *err) {
    uint32_t window;
    if (settle_only(s, KEY_NORM_TOPK, 1, err) < 0 || settle_window_key(s, &window, err) < 0 ||
        settle_windows(s, window, NULL, false, err) < 0) {
        return -1;
    }
    s->arch->ffn_dim = settle_u32(s, KEY_MLP_DIM);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].route.renorm = ROUTE_RENORM_SUM;
    }
    return settle_rope(s, err);
}

const struct family family_mixtral = {
    .name = "mixtral",
    .types = {"mixtral"},
    .architectures = {"MixtralForCausalLM"},
    .eos = 2,
    .rope = {.theta = 1e6},
    .keys = keys,
    .reads = reads,
    .names = family_block_sparse,
    .settle = settle,
};
