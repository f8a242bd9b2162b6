/*
 * family_qwen2_moe: Qwen1.5-MoE and Qwen2-MoE. A shared expert behind a gate; biases on queries,
 * keys and values; dense layers by rule; windows in every other of the first layers.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 151936},
    {KEY_DIM, 2048},
    {KEY_MLP_DIM, 5632},
    {KEY_LAYERS, 24},
    {KEY_HEADS, 16},
    {KEY_KV_HEADS, 16},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 32768},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_EXPERTS, 60},
    {KEY_ACTIVE, 4},
    {KEY_EXPERT_DIM, 1408},
    {KEY_SHARED_DIM, 5632},
    {KEY_SPARSE_STEP, 1},
    {KEY_NORM_TOPK, 0},
    {KEY_QKV_BIAS, 1},
    {KEY_WINDOW, 4096},
    {KEY_USE_WINDOW, 0},
    {KEY_MAX_WINDOW_LAYERS, 28},
    {KEY_END},
};

static const char *const reads[] = {"layer_types", "mlp_only_layers", NULL};

static bool slides(const struct settle *s, uint32_t layer) {
    return layer % 2 == 0 && layer < settle_u32(s, KEY_MAX_WINDOW_LAYERS);
}

static int settle(struct settle *s, struct err *err) {
    uint32_t window = 0;
    if ((settle_u32(s, KEY_USE_WINDOW) && settle_window_key(s, &window, err) < 0) ||
        settle_sparse(s, err) < 0 || settle_windows(s, window, slides, true, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.qkv_bias = settle_u32(s, KEY_QKV_BIAS);
        k->route.renorm = settle_u32(s, KEY_NORM_TOPK);
        k->shared_dim = settle_u32(s, KEY_SHARED_DIM);
        k->shared_gate = k->shared_dim > 0;
    }
    return settle_rope(s, err);
}

const struct family family_qwen2_moe = {
    .name = "qwen2_moe",
    .types = {"qwen2_moe"},
    .architectures = {"Qwen2MoeForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .settle = settle,
};
