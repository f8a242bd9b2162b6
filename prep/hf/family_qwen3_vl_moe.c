/*
 * family_qwen3_vl_moe: the text model of Qwen3-VL-MoE: Qwen3-MoE with experts in one tensor, (in,
 * out), and weights of the chosen ones that always sum to 1. Positions in pictures have three axes,
 * which are the same number in text. What sees is not read.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] =
    {
        {KEY_VOCAB, 151936},
        {KEY_DIM, 2048},
        {KEY_MLP_DIM, 5632},
        {KEY_LAYERS, 24},
        {KEY_HEADS, 16},
        {KEY_KV_HEADS, 16},
        {KEY_HEAD_DIM, 0},
        {KEY_CONTEXT, 128000},
        {KEY_NORM_EPS, 1e-6},
        {KEY_TIED, 0}, /* as the wrapper has it, which rules; the text's own default is another */
        {KEY_EXPERTS, 60},
        {KEY_ACTIVE, 4},
        {KEY_EXPERT_DIM, 1408},
        {KEY_SPARSE_STEP, 1},
        {KEY_NORM_TOPK, 1},
        {KEY_ATTENTION_BIAS, 0},
        {KEY_QK_NORM, 1},
        {KEY_END},
};

static const char *const reads[] = {"mlp_only_layers", NULL};

static const struct family_name names[] = {
    {SLOT_EXPERT_GATE, FAMILY_LAYER "mlp.experts.gate_up_proj", HF_EXPERTS_FIRST_TURNED},
    {SLOT_EXPERT_UP, FAMILY_LAYER "mlp.experts.gate_up_proj", HF_EXPERTS_SECOND_TURNED},
    {SLOT_EXPERT_DOWN, FAMILY_LAYER "mlp.experts.down_proj", HF_EXPERTS_TURNED},
    {.pattern = NULL},
};

static const char *const skipped[] = {"model.visual.*", "visual.*", NULL};

static int settle(struct settle *s, struct err *err) {
    return settle_only(s, KEY_NORM_TOPK, 1, err) < 0 ? -1 : settle_head_norms(s, err);
}

const struct family family_qwen3_vl_moe = {
    .name = "qwen3_vl_moe",
    .types = {"qwen3_vl_moe", "qwen3_vl_moe_text"},
    .architectures = {"Qwen3VLMoeForConditionalGeneration"},
    .wrapped = true,
    .eos = -1,
    .rope = {.theta = 5e5, .mrope = true},
    .keys = keys,
    .reads = reads,
    .names = names,
    .skipped = skipped,
    .settle = settle,
};
