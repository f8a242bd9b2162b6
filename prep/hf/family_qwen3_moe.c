/*
 * family_qwen3_moe: Qwen3-MoE. Queries and keys are normed by head; dense layers by rule.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 151936},
    {KEY_DIM, 2048},
    {KEY_MLP_DIM, 6144},
    {KEY_LAYERS, 24},
    {KEY_HEADS, 32},
    {KEY_KV_HEADS, 4},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 32768},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_EXPERTS, 128},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 768},
    {KEY_SPARSE_STEP, 1},
    {KEY_NORM_TOPK, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_QK_NORM, 1}, /* publishers write down that it has its norm */
    {KEY_WINDOW, 4096},
    {KEY_USE_WINDOW, 0},
    {KEY_MAX_WINDOW_LAYERS, 0}, /* without meaning here */
    {KEY_END},
};

static const char *const reads[] = {"layer_types", "mlp_only_layers", NULL};

static int settle(struct settle *s, struct err *err) {
    uint32_t window = 0;
    if ((settle_u32(s, KEY_USE_WINDOW) && settle_window_key(s, &window, err) < 0) ||
        settle_windows(s, window, NULL, false, err) < 0) {
        return -1;
    }
    return settle_head_norms(s, err);
}

const struct family family_qwen3_moe = {
    .name = "qwen3_moe",
    .types = {"qwen3_moe"},
    .architectures = {"Qwen3MoeForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .settle = settle,
};
