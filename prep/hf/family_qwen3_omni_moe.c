/*
 * family_qwen3_omni_moe: the text model of Qwen3-Omni-MoE's thinker, which is Qwen3-MoE. Positions
 * of what is seen and heard have three axes, which are the same number in text. What sees, hears
 * and speaks is not read.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 3584},       {KEY_DIM, 2048},      {KEY_MLP_DIM, 18944},
    {KEY_LAYERS, 28},        {KEY_HEADS, 28},      {KEY_KV_HEADS, 4},
    {KEY_HEAD_DIM, 0},       {KEY_CONTEXT, 32768}, {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},           {KEY_EXPERTS, 128},   {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 768},   {KEY_SPARSE_STEP, 1}, {KEY_NORM_TOPK, 1},
    {KEY_ATTENTION_BIAS, 0}, {KEY_QK_NORM, 1},     {KEY_END},
};

static const char *const reads[] = {"mlp_only_layers", NULL};

/* Names as published, and as the thinker has them by itself. */
#define PART(name) "thinker." name ".*", "thinker.model." name ".*", "model." name ".*", name ".*"
static const char *const skipped[] = {"talker.*", "code2wav.*", PART("visual"), PART("audio_tower"),
                                      NULL};

const struct family family_qwen3_omni_moe = {
    .name = "qwen3_omni_moe",
    .types = {"qwen3_omni_moe", "qwen3_omni_moe_thinker", "qwen3_omni_moe_text"},
    .architectures = {"Qwen3OmniMoeForConditionalGeneration",
                      "Qwen3OmniMoeThinkerForConditionalGeneration"},
    .wrapped = true,
    .part = "thinker_config",
    .eos = -1,
    .rope = {.theta = 1e6, .mrope = true},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .skipped = skipped,
    .settle = settle_head_norms,
};
