/*
 * family_flint: Flint. Every head has a sink; layers that slide are turned, full ones do not know
 * positions. Queries and keys are normed by head. Experts are scored by a sigmoid without a bias,
 * and a shared one is added.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 150144},
    {KEY_DIM, 2048},
    {KEY_MLP_DIM, 6144},
    {KEY_LAYERS, 49},
    {KEY_HEADS, 32},
    {KEY_KV_HEADS, 4},
    {KEY_HEAD_DIM, 128},
    {KEY_CONTEXT, 262144},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_WINDOW, 513},
    {KEY_SPARSE_STEP, 1},
    {KEY_EXPERTS, 256},
    {KEY_ACTIVE, 6},
    {KEY_EXPERT_DIM, 512},
    {KEY_SHARED_DIM, 1024},
    {KEY_NORM_TOPK, 1},
    {KEY_END},
};

static const char *const reads[] = {"layer_types", "mlp_only_layers", NULL};

static const struct family_name names[] = {
    {SLOT_SINKS, FAMILY_LAYER "self_attn.softmax_offset"},
    {SLOT_SINKS, FAMILY_LAYER "self_attn.sinks"},
    {.pattern = NULL},
};

static bool slides(const struct settle *s, uint32_t layer) {
    return layer >= 2 && layer % 4 != 1 && layer + 1 != s->arch->n_layers;
}

static int settle(struct settle *s, struct err *err) {
    const json_t *dense = json_object_get(s->root, "mlp_only_layers");
    const bool listed = dense && !json_is_null(dense);
    uint32_t window;
    if (settle_window_key(s, &window, err) < 0 ||
        settle_windows(s, window, slides, true, err) < 0 || settle_sparse(s, err) < 0 ||
        settle_rope(s, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->moe = k->moe && (listed || l >= 2);
        k->dense_dim = settle_u32(s, KEY_MLP_DIM);
        k->shared_dim = settle_u32(s, KEY_SHARED_DIM);
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.qk_norm = ARCH_QK_NORM_HEAD;
        k->att.sinks = 1;
        k->route.score = ROUTE_SIGMOID;
        k->route.renorm = settle_u32(s, KEY_NORM_TOPK);
    }
    settle_unturned(s);
    return 0;
}

const struct family family_flint = {
    .name = "flint",
    .types = {"flint"},
    .architectures = {"FlintForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = names,
    .settle = settle,
};
