/*
 * family_sarvam_moe: Sarvam-30B, which computes what GLM-4.5 does, turns whole heads, and has
 * Ling's names.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 262144},     {KEY_DIM, 4096},         {KEY_MLP_DIM, 8192}, {KEY_LAYERS, 19},
    {KEY_HEADS, 64},         {KEY_KV_HEADS, 4},       {KEY_HEAD_DIM, 64},  {KEY_CONTEXT, 131072},
    {KEY_NORM_EPS, 1e-6},    {KEY_TIED, 0},           {KEY_QKV_BIAS, 0},   {KEY_QK_NORM, 1},
    {KEY_DENSE_FIRST, 1},    {KEY_EXPERTS, 128},      {KEY_ACTIVE, 6},     {KEY_EXPERT_DIM, 1024},
    {KEY_SHARED_EXPERTS, 1}, {KEY_GROUPS, 1},         {KEY_TOP_GROUPS, 1}, {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 2.5},  {KEY_FURTHER_LAYERS, 0}, {KEY_END},
};

static const char *const reads[] = {"moe_router_enable_expert_bias",
                                    "moe_shared_expert_intermediate_size",
                                    "router_dtype", /* the router is exact whatever it says */
                                    "score_function",
                                    "use_rmsnorm",
                                    NULL};

/* Weights are renormalised as Ling's are: whatever norm_topk_prob says. */
static int settle(struct settle *s, struct err *err) {
    return settle_ling_words(s, err) < 0 ? -1 : settle_ling(s, err);
}

const struct family family_sarvam_moe = {
    .name = "sarvam_moe",
    .types = {"sarvam_moe"},
    .architectures = {"SarvamMoEForCausalLM", "Glm4MoeForCausalLM"},
    .eos = 1,
    .rope = {.theta = 8e6, .partial = 1},
    .keys = keys,
    .reads = reads,
    .names = family_bailing,
    .settle = settle,
};
