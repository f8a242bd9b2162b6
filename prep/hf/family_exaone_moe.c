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
    /* Beside layer_types it is not read, and has letters, 0 or nothing in published files. */
    if (pattern && !listed && !(json_is_integer(pattern) && json_integer_value(pattern) > 0)) {
        return settle_refuse(s, PATTERN, pattern,
                             "a positive integer, where layer_types is not there", err);
    }
    if (settle_only(s, KEY_QK_NORM, 1, err) < 0 || settle_window_key(s, &window, err) < 0 ||
        settle_windows(s, window, slides, true, err) < 0 || settle_shared_experts(s, err) < 0 ||
        settle_mlp_types(s, err) < 0) {
        return -1;
    }
    if (window > 0) {
        settle_unturned(s);
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
