/*
 * family_solar_open: Solar Open. GLM-4.5 without norms on queries and keys; all layers have
 * experts.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] =
    {
        {KEY_VOCAB, 196608},
        {KEY_DIM, 4096},
        {KEY_MLP_DIM, 0}, /* publishers write down what no layer has */
        {KEY_LAYERS, 48},
        {KEY_HEADS, 64},
        {KEY_KV_HEADS, 8},
        {KEY_HEAD_DIM, 128},
        {KEY_CONTEXT, 131072},
        {KEY_NORM_EPS, 1e-5},
        {KEY_TIED, 0},
        {KEY_ATTENTION_BIAS, 0},
        {KEY_QK_NORM, 0},
        {KEY_DENSE_FIRST, 0},
        {KEY_EXPERTS, 128},
        {KEY_ACTIVE, 8},
        {KEY_EXPERT_DIM, 1280},
        {KEY_SHARED_EXPERTS, 1},
        {KEY_GROUPS, 1},
        {KEY_TOP_GROUPS, 1},
        {KEY_NORM_TOPK, 1},
        {KEY_ROUTE_SCALE, 1},
        {KEY_END},
};

static int settle(struct settle *s, struct err *err) {
    if (settle_only(s, KEY_QK_NORM, 0, err) < 0 || settle_only(s, KEY_DENSE_FIRST, 0, err) < 0) {
        return -1;
    }
    return settle_shared_experts(s, err);
}

const struct family family_solar_open = {
    .name = "solar_open",
    .types = {"solar_open"},
    .architectures = {"SolarOpenForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e6, .partial = 1},
    .keys = keys,
    .names = family_common,
    .settle = settle,
};
