/*
 * family_afmoe: Arcee's Trinity. A norm before and behind each branch; the heads' outputs are
 * gated. Layers that slide are turned, full ones do not know positions. The first layers are dense,
 * the others have shared experts beside the chosen ones, which are scored by a sigmoid and chosen
 * by these scores with a bias.
 */
#include <math.h>

#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 200192},
    {KEY_DIM, 2048},
    {KEY_MLP_DIM, 6144},
    {KEY_LAYERS, 32},
    {KEY_HEADS, 16},
    {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 128},
    {KEY_CONTEXT, 16384},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_WINDOW, 1024},
    {KEY_GLOBAL_INTERVAL, 4},
    {KEY_DENSE_FIRST, 1},
    {KEY_EXPERTS, 64},
    {KEY_ACTIVE, 6},
    {KEY_EXPERT_DIM, 1408},
    {KEY_SHARED_EXPERTS, 2},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 1},
    {KEY_MUP, 0},
    {KEY_END},
};

static const char *const reads[] = {"layer_types", "score_func", NULL};

#define LAYER FAMILY_LAYER
static const struct family_name names[] = {
    {SLOT_ATTN_GATE, LAYER "self_attn.gate_proj.weight"},
    {SLOT_ATTN_POST_NORM, LAYER "post_attention_layernorm.weight"},
    {SLOT_FFN_NORM, LAYER "pre_mlp_layernorm.weight"},
    {SLOT_FFN_POST_NORM, LAYER "post_mlp_layernorm.weight"},
    {SLOT_ROUTER, LAYER "mlp.router.gate.weight"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.expert_bias"},
    {.pattern = NULL},
};

static bool slides(const struct settle *s, uint32_t layer) {
    return (layer + 1) % settle_u32(s, KEY_GLOBAL_INTERVAL) != 0;
}

static int settle_attention(struct settle *s, struct err *err) {
    uint32_t window;
    if (settle_window_key(s, &window, err) < 0) {
        return -1;
    }
    if (window == 0) {
        return settle_refuse(s, "sliding_window", json_null(), "a window, as layers slide", err);
    }
    if (settle_windows(s, window, slides, true, err) < 0 || settle_rope(s, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct attention_rule *r = &s->kinds[l].att;
        r->qkv_bias = r->o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        r->qk_norm = ARCH_QK_NORM_HEAD;
        r->gate = 1;
    }
    settle_unturned(s);
    return 0;
}

static int settle(struct settle *s, struct err *err) {
    struct arch *a = s->arch;
    if (settle_word(s, "score_func", "sigmoid", err) < 0 ||
        settle_only(s, KEY_NORM_TOPK, 1, err) < 0 || settle_attention(s, err) < 0) {
        return -1;
    }
    a->embed_scale = settle_u32(s, KEY_MUP) ? sqrtf((float)a->dim) : 1;
    settle_dense_first(s);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        s->kinds[l].block.post_norm = 1;
        s->kinds[l].route = settle_sigmoid_route(s);
    }
    return 0;
}

const struct family family_afmoe = {
    .name = "afmoe",
    .types = {"afmoe"},
    .architectures = {"AfmoeForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = names,
    .settle = settle,
};
