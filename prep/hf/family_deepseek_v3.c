/*
 * family_deepseek_v3: DeepSeek-V3, R1 and V3.1, Moonlight, Kimi-K2 and the text model of Kimi-K2.5.
 * Latent attention; the first layers are dense, the others have shared experts beside those that
 * are chosen by biased sigmoids, from the best groups.
 *
 * Behind the model's layers files have further ones, which predict further tokens. What sees is not
 * read.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 129280},
    {KEY_DIM, 7168},
    {KEY_MLP_DIM, 18432},
    {KEY_LAYERS, 61},
    {KEY_HEADS, 128},
    {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 64},
    {KEY_CONTEXT, 4096},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_LATENT_RANK, 512},
    {KEY_LATENT_Q_RANK, 1536},
    {KEY_LATENT_NOPE_DIM, 128},
    {KEY_LATENT_ROPE_DIM, 64},
    {KEY_V_DIM, 128},
    {KEY_DENSE_FIRST, 3},
    {KEY_EXPERTS, 256},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 2048},
    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 8},
    {KEY_TOP_GROUPS, 4},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 2.5},
    {KEY_FURTHER_LAYERS, 1},
    {KEY_END},
};

static const char *const reads[] = {SETTLE_DEEPSEEK_READS, NULL};

static const char *const skipped[] = {"vision_tower.*", "mm_projector.*", "model.vision_tower.*",
                                      "model.mm_projector.*", NULL};

const struct family family_deepseek_v3 = {
    .name = "deepseek_v3",
    .types = {"deepseek_v3", "kimi_k2", "kimi_k25"},
    .architectures = {"DeepseekV3ForCausalLM", "KimiK25ForConditionalGeneration",
                      "Kimi_K25ForConditionalGeneration"},
    .wrapped = true,
    .eos = 1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .skipped = skipped,
    .settle = settle_deepseek,
};
