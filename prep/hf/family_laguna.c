/*
 * family_laguna: Poolside's Laguna. The number of heads is each layer's own, and so is what turns
 * them, by type; queries and keys are normed by head, and heads' outputs multiplied by the softplus
 * of a gate. Experts are scored by a sigmoid of capped logits and chosen by these scores with a
 * bias; a shared one is added.
 */
#include <string.h>

#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 100352},
    {KEY_DIM, 2048},
    {KEY_MLP_DIM, 8192},
    {KEY_LAYERS, 40},
    {KEY_HEADS, 48},
    {KEY_KV_HEADS, 8},
    {KEY_HEAD_DIM, 128},
    {KEY_CONTEXT, 131072},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_WINDOW, 512},
    {KEY_EXPERTS, 256},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 512},
    {KEY_SHARED_DIM, 512},
    {KEY_ROUTE_SCALE, 1},
    {KEY_ROUTE_CAP, 0},
    {KEY_END},
};

#define HEADS "num_attention_heads_per_layer"
static const char *const reads[] = {"layer_types", "mlp_layer_types", "gating", HEADS, NULL};

#define LAYER FAMILY_LAYER
static const struct family_name names[] = {
    {SLOT_ATTN_GATE, LAYER "self_attn.g_proj.weight"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.experts.e_score_correction_bias"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.gate.e_score_correction_bias"},
    {.pattern = NULL},
};

static bool slides(const struct settle *s, uint32_t layer) {
    (void)s;
    (void)layer;
    return false;
}

static int settle_gates(struct settle *s, struct err *err) {
    const json_t *v = json_object_get(s->root, "gating");
    const char *word = json_string_value(v);
    const bool by_head = !v || json_is_true(v) || (word && strcmp(word, "per-head") == 0);
    if (!by_head && !(word && strcmp(word, "per-element") == 0)) {
        return settle_refuse(s, "gating", v, "true, \"per-head\" or \"per-element\"", err);
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].att.gate = by_head ? ARCH_GATE_HEAD_SOFTPLUS : ARCH_GATE_SOFTPLUS;
    }
    return 0;
}

static int settle(struct settle *s, struct err *err) {
    uint32_t window;
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->moe = l > 0;
        k->dense_dim = settle_u32(s, KEY_MLP_DIM);
        k->shared_dim = settle_u32(s, KEY_SHARED_DIM);
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.qk_norm = ARCH_QK_NORM_HEAD;
        k->route = (struct route_rule){.score = ROUTE_SIGMOID,
                                       .selection_bias = 1,
                                       .renorm = ROUTE_RENORM_SUM,
                                       .scale = settle_f32(s, KEY_ROUTE_SCALE),
                                       .logit_cap = settle_f32(s, KEY_ROUTE_CAP)};
    }
    return settle_window_key(s, &window, err) < 0 ||
                   settle_windows(s, window, slides, true, err) < 0 ||
                   settle_mlp_types(s, err) < 0 || settle_heads_by_layer(s, HEADS, err) < 0 ||
                   settle_gates(s, err) < 0
               ? -1
               : settle_rope_types(s, NULL, KEY_HEAD_DIM, err);
}

const struct family family_laguna = {
    .name = "laguna",
    .types = {"laguna"},
    .architectures = {"LagunaForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4,
             .partial = 1,
             .fallback = "{\"full_attention\": {\"rope_theta\": 500000.0, "
                         "\"partial_rotary_factor\": 0.5}, "
                         "\"sliding_attention\": {\"rope_theta\": 10000.0}}",
             .by_type = true},
    .keys = keys,
    .reads = reads,
    .names = names,
    .settle = settle,
};
