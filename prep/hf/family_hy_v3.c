/*
 * family_hy_v3: Hunyuan 3. Experts are scored by a sigmoid and chosen with a bias, beside a shared
 * one; queries and keys are normed by head; the first layer is dense. Behind the model's layers
 * files have one that predicts further tokens.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 120832},
    {KEY_DIM, 4096},
    {KEY_MLP_DIM, 13312},
    {KEY_LAYERS, 80},
    {KEY_HEADS, 64},
    {KEY_KV_HEADS, 8},
    {KEY_HEAD_DIM, 128},
    {KEY_CONTEXT, 131072},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_QK_NORM, 1},
    {KEY_DENSE_FIRST, 1},
    {KEY_EXPERTS, 192},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 1536},
    {KEY_SHARED_EXPERTS, 1},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 2.826},
    {KEY_FURTHER_LAYERS, 1},
    {KEY_END},
};

/* The second says in which type two sums are added, both of which are f32 here. */
static const char *const reads[] = {"mlp_layer_types", "enable_moe_fp32_combine", NULL};

#define LAYER FAMILY_LAYER
static const struct family_name names[] = {
    {SLOT_ROUTER, LAYER "mlp.router.gate.weight"},
    {SLOT_ROUTER, LAYER "mlp.gate.weight"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.expert_bias"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.e_score_correction_bias"},
    {SLOT_MLP_GATE, LAYER "mlp.gate_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_UP, LAYER "mlp.up_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_DOWN, LAYER "mlp.down_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_GATE, LAYER "mlp.shared_mlp.gate_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_UP, LAYER "mlp.shared_mlp.up_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_DOWN, LAYER "mlp.shared_mlp.down_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_GATE, LAYER "mlp.shared_experts.gate_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_UP, LAYER "mlp.shared_experts.up_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_DOWN, LAYER "mlp.shared_experts.down_proj.weight", .when = FAMILY_MOE_LAYER},
    {.pattern = NULL},
};

static int settle(struct settle *s, struct err *err) {
    if (settle_only(s, KEY_QK_NORM, 1, err) < 0 || settle_only(s, KEY_NORM_TOPK, 1, err) < 0 ||
        (!json_is_array(json_object_get(s->root, "mlp_layer_types")) &&
         settle_only(s, KEY_DENSE_FIRST, 1, err) < 0) ||
        settle_shared_experts(s, err) < 0 || settle_mlp_types(s, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
    }
    return 0;
}

const struct family family_hy_v3 = {
    .name = "hy_v3",
    .types = {"hy_v3"},
    .architectures = {"HYV3ForCausalLM"},
    .eos = -1,
    .rope = {.theta = 11158840},
    .keys = keys,
    .reads = reads,
    .names = names,
    .settle = settle,
};
