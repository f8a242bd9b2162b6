/*
 * family_sarvam_mla: Sarvam-105B, which computes what DeepSeek-V3 does, with one group of experts.
 * The first layer is dense. Its publisher's files have some of Ling's words.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 262144},
    {KEY_DIM, 4096},
    {KEY_MLP_DIM, 16384},
    {KEY_LAYERS, 32},
    {KEY_HEADS, 64},
    {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 64},
    {KEY_CONTEXT, 4096},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_LATENT_RANK, 512},
    {KEY_LATENT_Q_RANK, 0},
    {KEY_LATENT_NOPE_DIM, 128},
    {KEY_LATENT_ROPE_DIM, 64},
    {KEY_V_DIM, 128},
    {KEY_DENSE_FIRST, 1},
    {KEY_EXPERTS, 128},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 2048},
    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 1},
    {KEY_TOP_GROUPS, 1},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 2.5},
    {KEY_FURTHER_LAYERS, 0},
    {KEY_END},
};

static const char *const reads[] = {SETTLE_DEEPSEEK_READS,
                                    "default_theta", /* rope_theta, where nobody gives another */
                                    "moe_router_enable_expert_bias",
                                    "moe_shared_expert_intermediate_size",
                                    "router_dtype", /* the router is exact whatever it says */
                                    "score_function",
                                    "use_qk_norm", /* of latents, which are normed always */
                                    "use_rmsnorm",
                                    NULL};

static int settle(struct settle *s, struct err *err) {
    return settle_ling_words(s, err) < 0 || settle_true(s, "use_qk_norm", err) < 0
               ? -1
               : settle_deepseek(s, err);
}

const struct family family_sarvam_mla = {
    .name = "sarvam_mla",
    .types = {"sarvam_mla"},
    .architectures = {"SarvamMLAForCausalLM", "DeepseekV3ForCausalLM"},
    .eos = 1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .settle = settle,
};
