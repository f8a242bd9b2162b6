/*
 * family_glm4_moe: GLM-4.5 and GLM-4.6. The first layers are dense, the others have shared experts
 * beside the chosen ones. Experts are scored by a sigmoid, and chosen by these scores with a bias,
 * from the best groups. Half of each head is turned; queries and keys may be normed by head.
 *
 * Behind the model's layers files have further ones, which predict further tokens.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 151552},
    {KEY_DIM, 4096},
    {KEY_MLP_DIM, 10944},
    {KEY_LAYERS, 46},
    {KEY_HEADS, 96},
    {KEY_KV_HEADS, 8},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 131072},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_QK_NORM, 0},
    {KEY_DENSE_FIRST, 1},
    {KEY_EXPERTS, 128},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 1408},
    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 1},
    {KEY_TOP_GROUPS, 1},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 1},
    {KEY_FURTHER_LAYERS, 1},
    {KEY_END},
};

#define LAYER FAMILY_LAYER
static const struct family_name names[] = {
    {SLOT_ROUTER_SELECT, LAYER "mlp.gate.e_score_correction_bias"},
    {SLOT_MLP_GATE, LAYER "mlp.gate_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_UP, LAYER "mlp.up_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_DOWN, LAYER "mlp.down_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_GATE, LAYER "mlp.shared_experts.gate_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_UP, LAYER "mlp.shared_experts.up_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_DOWN, LAYER "mlp.shared_experts.down_proj.weight", .when = FAMILY_MOE_LAYER},
    {.pattern = NULL},
};

/* The shared experts are one MLP. A size that 32 bits do not hold stays too large for a model. */
static uint32_t shared_dim(const struct settle *s) {
    double dim = s->value[KEY_SHARED_EXPERTS] * s->value[KEY_EXPERT_DIM];
    return dim < UINT32_MAX ? (uint32_t)dim : UINT32_MAX;
}

static int settle(struct settle *s, struct err *err) {
    const struct route_rule route = {.score = ROUTE_SIGMOID,
                                     .selection_bias = 1,
                                     .renorm = settle_u32(s, KEY_NORM_TOPK),
                                     .groups = settle_u32(s, KEY_GROUPS),
                                     .top_groups = settle_u32(s, KEY_TOP_GROUPS),
                                     .group_score = ROUTE_GROUP_TOP_TWO,
                                     .eps = 1e-20f,
                                     .scale = settle_f32(s, KEY_ROUTE_SCALE)};
    uint32_t dense = settle_u32(s, KEY_DENSE_FIRST);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.qkv_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.qk_norm = settle_u32(s, KEY_QK_NORM) ? ARCH_QK_NORM_HEAD : ARCH_QK_NORM_NONE;
        k->moe = l >= dense;
        k->dense_dim = dense > 0 ? settle_u32(s, KEY_MLP_DIM) : 0;
        k->shared_dim = shared_dim(s);
        k->route = route;
    }
    return settle_rope(s, err);
}

const struct family family_glm4_moe = {
    .name = "glm4_moe",
    .types = {"glm4_moe"},
    .architectures = {"Glm4MoeForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4, .partial = 0.5},
    .keys = keys,
    .names = names,
    .settle = settle,
};
