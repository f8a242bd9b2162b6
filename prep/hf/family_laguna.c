/*
 * family_laguna: Poolside's Laguna. The number of heads is each layer's own, and so is what turns
 * them, by type; queries and keys are normed by head, and heads' outputs multiplied by the softplus
 * of a gate. Experts are scored by a sigmoid of capped logits and chosen by these scores with a
 * bias; a shared one is added.
 */
#include <stdlib.h>

#include "prep/hf/hf_keys.h"
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 100352},   {KEY_DIM, 2048},         {KEY_MLP_DIM, 8192},
    {KEY_LAYERS, 40},      {KEY_HEADS, 48},         {KEY_KV_HEADS, 8},
    {KEY_HEAD_DIM, 128},   {KEY_CONTEXT, 131072},   {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},         {KEY_ATTENTION_BIAS, 0}, {KEY_WINDOW, 512},
    {KEY_EXPERTS, 256},    {KEY_ACTIVE, 8},         {KEY_EXPERT_DIM, 512},
    {KEY_SHARED_DIM, 512}, {KEY_ROUTE_SCALE, 1},    {KEY_ROUTE_CAP, 0},
    {KEY_SPARSE_STEP, 1},  {KEY_NORM_TOPK, 1},      {KEY_END},
};

#define HEADS "num_attention_heads_per_layer"
static const char *const reads[] = {
    "layer_types", "mlp_layer_types", "mlp_only_layers", "gating", "gating_types", HEADS, NULL};

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

/* `gating` is what transformers reads; gating_types, where it is there, says it for each layer. */
static int settle_gates(struct settle *s, struct err *err) {
    static const char *const words[] = {"per-head", "per-element", NULL};
    static const char *const by_layer[] = {"per_head", "per_element", NULL};
    const uint32_t n = s->arch->n_layers;
    uint32_t way = 0, *type = mem_calloc(n, sizeof *type);
    bool given = false;
    int rc = json_is_true(json_object_get(s->root, "gating"))
                 ? 0
                 : settle_choose(s, "gating", words, &way, err);
    rc = rc < 0 ? -1 : settle_layer_words(s, "gating_types", by_layer, type, &given, err);
    for (uint32_t l = 0; rc == 0 && l < n; l++) {
        if (given && type[l] != way) {
            rc = err_set(err, "%s: gating_types entry %u is \"%s\", but gating says %s", s->path, l,
                         by_layer[type[l]], words[way]);
        }
        s->kinds[l].att.gate = way == 0 ? ARCH_GATE_HEAD_SOFTPLUS : ARCH_GATE_SOFTPLUS;
    }
    free(type);
    return rc;
}

/* mlp_only_layers lists the dense layers again, which transformers does not read. */
static int check_dense(const struct settle *s, struct err *err) {
    static const char key[] = "mlp_only_layers";
    const json_t *list = json_object_get(s->root, key);
    const bool given = list && !hf_keys_neutral(list, HF_NO_NUMBER);
    for (uint32_t l = 0; given && l < s->arch->n_layers; l++) {
        bool listed = false;
        for (size_t i = 0; i < json_array_size(list); i++) {
            const json_t *v = json_array_get(list, i);
            listed |= json_is_integer(v) && json_integer_value(v) == (json_int_t)l;
        }
        if (listed == (s->kinds[l].moe != 0)) {
            return settle_refuse(s, key, list, "the layers that mlp_layer_types calls dense", err);
        }
    }
    return settle_only(s, KEY_SPARSE_STEP, 1, err) < 0 ? -1 : settle_only(s, KEY_NORM_TOPK, 1, err);
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
                   settle_mlp_types(s, err) < 0 || check_dense(s, err) < 0 ||
                   settle_heads_by_layer(s, HEADS, err) < 0 || settle_gates(s, err) < 0
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
