/*
 * family_glm4v_moe: the text model of GLM-4.5V and GLM-4.6V, which is GLM-4.5. Positions in
 * pictures have three axes, which are the same number in text. What sees is not read.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 151424},
    {KEY_DIM, 4096},
    {KEY_MLP_DIM, 10944},
    {KEY_LAYERS, 46},
    {KEY_HEADS, 96},
    {KEY_KV_HEADS, 8},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 65536},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 1},
    {KEY_QK_NORM, 0}, /* publishers write down that it has none */
    {KEY_DENSE_FIRST, 1},
    {KEY_EXPERTS, 128},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 1408},
    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 1},
    {KEY_TOP_GROUPS, 1},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 1},
    {KEY_FURTHER_LAYERS, 0},
    {KEY_END},
};

static const char *const skipped[] = {"model.visual.*", "visual.*", NULL};

static int settle(struct settle *s, struct err *err) {
    return settle_only(s, KEY_QK_NORM, 0, err) < 0 ? -1 : settle_shared_experts(s, err);
}

const struct family family_glm4v_moe = {
    .name = "glm4v_moe",
    .types = {"glm4v_moe", "glm4v_moe_text"},
    .architectures = {"Glm4vMoeForConditionalGeneration"},
    .wrapped = true,
    .eos = -1,
    .rope = {.theta = 1e4, .partial = 0.5, .mrope = true},
    .keys = keys,
    .names = family_common,
    .skipped = skipped,
    .settle = settle,
};
