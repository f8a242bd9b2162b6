/*
 * family_exaone_moe: K-EXAONE. Experts as GLM-4.5 has them; queries and keys are normed by head.
 * Some layers see a window and are turned by positions; the others see all and are not. A part that
 * predicts further tokens is not read.
 */
#include "prep/hf/settle.h"

#define PATTERN "sliding_window_pattern"

static const struct family_key keys[] = {
    {KEY_VOCAB, 102400},
    {KEY_DIM, 4096},
    {KEY_MLP_DIM, 16384},
    {KEY_LAYERS, 32},
    {KEY_HEADS, 32},
    {KEY_KV_HEADS, 32},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 2048},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},
    {KEY_QK_NORM, 1},
    {KEY_WINDOW, 4096},
    {KEY_DENSE_FIRST, 1},
    {KEY_EXPERTS, 64},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 1024},
    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 1},
    {KEY_TOP_GROUPS, 1},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 2.5},
    {KEY_FURTHER_LAYERS, 0},
    {KEY_END},
};

static const char *const reads[] = {"layer_types", "mlp_layer_types", PATTERN, NULL};

#define LAYER FAMILY_LAYER
static const struct family_name names[] = {
    {SLOT_ROUTER_SELECT, LAYER "mlp.e_score_correction_bias"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.gate.e_score_correction_bias"},
    {SLOT_MLP_GATE, LAYER "mlp.gate_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_UP, LAYER "mlp.up_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_DOWN, LAYER "mlp.down_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_GATE, LAYER "mlp.shared_experts.gate_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_UP, LAYER "mlp.shared_experts.up_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_DOWN, LAYER "mlp.shared_experts.down_proj.weight", .when = FAMILY_MOE_LAYER},
    {.pattern = NULL},
};

static const char *const skipped[] = {"mtp.*", NULL};

/* Every so many layers one sees all; a pattern of letters only says again what layer_types says. */
static bool slides(const struct settle *s, uint32_t layer) {
    const json_t *v = json_object_get(s->root, PATTERN);
    json_int_t period = json_is_integer(v) ? json_integer_value(v) : 4;
    return (layer + 1) % period != 0;
}

static int settle(struct settle *s, struct err *err) {
    const json_t *pattern = json_object_get(s->root, PATTERN);
    const json_t *types = json_object_get(s->root, "layer_types");
    uint32_t window;
    bool listed = types && !json_is_null(types);
    if (pattern && !(json_is_integer(pattern) && json_integer_value(pattern) > 0) &&
        !(json_is_string(pattern) && listed)) {
        return settle_refuse(s, PATTERN, pattern,
                             "a positive integer, or letters beside layer_types", err);
    }
    if (settle_only(s, KEY_QK_NORM, 1, err) < 0 || settle_window_key(s, &window, err) < 0 ||
        settle_windows(s, window, slides, true, err) < 0 || settle_shared_experts(s, err) < 0 ||
        settle_mlp_types(s, err) < 0) {
        return -1;
    }
    if (window > 0) {
        uint32_t none = arch_add_rope(s->arch, 0, NULL, 1);
        for (uint32_t l = 0; l < s->arch->n_layers; l++) {
            s->kinds[l].att.rope = s->kinds[l].att.window > 0 ? s->kinds[l].att.rope : none;
        }
    }
    return 0;
}

const struct family family_exaone_moe = {
    .name = "exaone_moe",
    .types = {"exaone_moe"},
    .architectures = {"ExaoneMoEForCausalLM", "ExaoneMoeForCausalLM"},
    .eos = 53,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = names,
    .skipped = skipped,
    .settle = settle,
};
