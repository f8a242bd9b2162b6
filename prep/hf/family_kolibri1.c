/*
 * family_kolibri1: Kolibri 1. A norm before and behind each branch; queries and keys are normed by
 * head; layers that slide are turned, full ones do not know positions. Experts are chosen by their
 * logits with a bias and weighted by the sigmoids of these without it; a shared one is added.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 128000},   {KEY_DIM, 2560},       {KEY_LAYERS, 50},      {KEY_HEADS, 48},
    {KEY_KV_HEADS, 4},     {KEY_HEAD_DIM, 128},   {KEY_CONTEXT, 262144}, {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},         {KEY_WINDOW, 513},     {KEY_EXPERTS, 384},    {KEY_ACTIVE, 6},
    {KEY_EXPERT_DIM, 512}, {KEY_SHARED_DIM, 512}, {KEY_NORM_TOPK, 0},    {KEY_END},
};

static const char *const reads[] = {"head_dtype", "layer_types", "use_sliding_window", NULL};

#define LAYER FAMILY_LAYER
static const struct family_name names[] = {
    {SLOT_ATTN_POST_NORM, LAYER "post_attn_norm.weight"},
    {SLOT_ATTN_POST_NORM, LAYER "post_self_attn_layernorm.weight"},
    {SLOT_FFN_POST_NORM, LAYER "post_ffn_norm.weight"},
    {SLOT_FFN_POST_NORM, LAYER "post_mlp_layernorm.weight"},
    {SLOT_ROUTER_SELECT, LAYER "moe.router.expert_bias"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.gate.e_score_correction_bias"},
    {.pattern = NULL},
};

static bool slides(const struct settle *s, uint32_t layer) {
    (void)s;
    return (layer + 1) % 5 != 0;
}

static int settle(struct settle *s, struct err *err) {
    uint32_t window;
    if (settle_word(s, "head_dtype", "float32", err) < 0 ||
        settle_true(s, "use_sliding_window", err) < 0 || settle_window_key(s, &window, err) < 0 ||
        settle_windows(s, window, slides, true, err) < 0 || settle_rope(s, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->block.post_norm = ARCH_POST_NORM_TOO;
        k->att.qk_norm = ARCH_QK_NORM_HEAD;
        k->shared_dim = settle_u32(s, KEY_SHARED_DIM);
        k->route = (struct route_rule){.score = ROUTE_SIGMOID,
                                       .by_logits = 1,
                                       .selection_bias = 1,
                                       .renorm = settle_u32(s, KEY_NORM_TOPK),
                                       .scale = 1};
    }
    if (window > 0) {
        settle_unturned(s);
    }
    return 0;
}

const struct family family_kolibri1 = {
    .name = "kolibri1",
    .types = {"kolibri1"},
    .architectures = {"Kolibri1ForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = names,
    .settle = settle,
};
