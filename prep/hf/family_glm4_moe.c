/*
 * family_glm4_moe: GLM-4.5 and GLM-4.6. The first layers are dense, the others have shared experts
 * beside the chosen ones. Experts are scored by a sigmoid, and chosen by these scores with a bias,
 * from the best groups. Half of each head is turned; queries and keys may be normed by head.
 *
 * Behind the model's layers files have further ones, which predict further tokens.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 151552},
    {KEY_DIM, 4096},
    {KEY_MLP_DIM, 10944},
    {KEY_LAYERS, 46},
    {KEY_HEADS, 96},
    {KEY_KV_HEADS, 8},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 131072},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_QK_NORM, 0},
    {KEY_DENSE_FIRST, 1},
    {KEY_EXPERTS, 128},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 1408},
    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 1},
    {KEY_TOP_GROUPS, 1},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 1},
    {KEY_FURTHER_LAYERS, 1},
    {KEY_END},
};

const struct family family_glm4_moe = {
    .name = "glm4_moe",
    .types = {"glm4_moe"},
    .architectures = {"Glm4MoeForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4, .partial = 0.5},
    .keys = keys,
    .names = family_common,
    .settle = settle_shared_experts,
};
