/*
 * family_step3p7: Step 3.5 Flash and the text model of Step 3.7 Flash. Layers that slide have heads
 * of their own number and are turned by another base; heads' outputs are multiplied by the sigmoid
 * of a gate; norms count as 1 + w. Experts are chosen by biased sigmoids; a shared one is added.
 * SwiGLUs of some layers are cut off. Published files spell most of it in lists with an entry for
 * each layer, those behind the model's included, which are brought into the newer form first.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prep/hf/hf_keys.h"
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 128815},    {KEY_DIM, 4096},      {KEY_MLP_DIM, 11264},    {KEY_LAYERS, 45},
    {KEY_HEADS, 64},        {KEY_KV_HEADS, 8},    {KEY_HEAD_DIM, 128},     {KEY_CONTEXT, 128000},
    {KEY_NORM_EPS, 1e-5},   {KEY_TIED, 0},        {KEY_ATTENTION_BIAS, 0}, {KEY_QK_NORM, 1},
    {KEY_WINDOW, 0},        {KEY_EXPERTS, 288},   {KEY_ACTIVE, 8},         {KEY_EXPERT_DIM, 1280},
    {KEY_SHARED_DIM, 1280}, {KEY_ROUTE_SCALE, 1}, {KEY_FURTHER_LAYERS, 0}, {KEY_END},
};

#define SLIDING_HEADS "num_sliding_attention_heads"
#define OTHER "attention_other_setting"
static const char *const reads[] = {"layer_types",
                                    "mlp_layer_types",
                                    "moe_layers_enum",
                                    SLIDING_HEADS,
                                    OTHER,
                                    "swiglu_limits",
                                    "swiglu_limits_shared",
                                    "partial_rotary_factors",
                                    "yarn_only_types",
                                    "use_rope_layers",
                                    "query_pre_attn_scalar",
                                    "moe_router_activation",
                                    "att_impl_type",
                                    "norm_expert_weight",
                                    "use_moe_router_bias",
                                    "use_head_wise_attn_gate",
                                    "zero_centered",
                                    "use_moe",
                                    "moe_every_n_layer",
                                    "moe_layer_offset", /* which moe_layers_enum is instead of */
                                    "need_fp32_gate",   /* so are logits here, always */
                                    NULL};

#define LAYER FAMILY_LAYER
#define MOE FAMILY_LAYER "moe."
#define SHARED FAMILY_LAYER "share_expert."
static const struct family_name names[] = {
    {SLOT_OUT_NORM, "model.norm.weight", .value = HF_PLUS_ONE},
    {SLOT_ATTN_NORM, LAYER "input_layernorm.weight", .value = HF_PLUS_ONE},
    {SLOT_FFN_NORM, LAYER "post_attention_layernorm.weight", .value = HF_PLUS_ONE},
    {SLOT_Q_NORM, LAYER "self_attn.q_norm.weight", .value = HF_PLUS_ONE},
    {SLOT_K_NORM, LAYER "self_attn.k_norm.weight", .value = HF_PLUS_ONE},
    {SLOT_ATTN_GATE, LAYER "self_attn.g_proj.weight"},
    {SLOT_ROUTER, MOE "gate.weight"},
    {SLOT_ROUTER_SELECT, MOE "router_bias"},
    {SLOT_EXPERT_GATE, MOE "gate_proj.weight", HF_EXPERTS},
    {SLOT_EXPERT_UP, MOE "up_proj.weight", HF_EXPERTS},
    {SLOT_EXPERT_DOWN, MOE "down_proj.weight", HF_EXPERTS},
    {SLOT_MLP_GATE, SHARED "gate_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_UP, SHARED "up_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_DOWN, SHARED "down_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_GATE, LAYER "mlp.gate_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_UP, LAYER "mlp.up_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_DOWN, LAYER "mlp.down_proj.weight", .when = FAMILY_DENSE_LAYER},
    {.pattern = NULL},
};

static const char *const skipped[] = {"vision_model.*", "model.vision_model.*",
                                      "vit_large_projector.*", "model.multi_modal_projector.*",
                                      NULL};

/* A list that has entries for the layers behind the model's loses these. */
static void cut(const struct settle *s, json_t *root, const char *key) {
    const json_t *list = json_object_get(root, key);
    const size_t n = s->arch->n_layers, further = settle_u32(s, KEY_FURTHER_LAYERS);
    if (further > 0 && json_array_size(list) == n + further) {
        json_t *first = json_array();
        for (size_t l = 0; l < n; l++) {
            json_array_append(first, json_array_get(list, l));
        }
        json_object_set_new(root, key, first);
    }
}

/* A value of the layers that are `at`, where each layer's stands in a list. */
static json_t *of_layer(json_t *v, uint32_t at) {
    return json_is_array(v) ? json_array_get(v, at) : v;
}

/* A list under `key` has an entry for each layer, the same for all of one type. */
static int check_by_type(const struct settle *s, const char *key, const uint32_t first[2],
                         struct err *err) {
    json_t *list = json_object_get(s->root, key);
    for (uint32_t l = 0; json_is_array(list) && l < s->arch->n_layers; l++) {
        const uint32_t at = first[s->kinds[l].att.window > 0];
        if (json_array_size(list) != s->arch->n_layers ||
            !json_equal(json_array_get(list, l), json_array_get(list, at))) {
            return settle_refuse(s, key, list,
                                 "a number for each layer, the same for layers of one type", err);
        }
    }
    return 0;
}

/* rope_theta and partial_rotary_factors, by layer, and rope_scaling, of full layers, become
 * rope_parameters, by type. Windows are known. */
static int gather_rope(struct settle *s, json_t *root, struct err *err) {
    static const char *const types[] = {"full_attention", "sliding_attention"};
    static const char by_layer[] = "partial_rotary_factors", only[] = "yarn_only_types";
    json_t *theta = json_object_get(root, "rope_theta"), *parts = json_object_get(root, by_layer);
    json_t *scaling = json_object_get(root, "rope_scaling"), *v = json_object_get(root, only);
    const char *scaled = json_string_value(json_array_get(v, 0));
    uint32_t first[2] = {UINT32_MAX, UINT32_MAX};
    if (v && !hf_keys_neutral(v, 0) &&
        (json_array_size(v) != 1 || !scaled || strcmp(scaled, types[0]) != 0)) {
        return settle_refuse(s, only, v, "[\"full_attention\"]", err);
    }
    const json_t *given = json_object_get(root, "rope_parameters");
    if (given && !hf_keys_neutral(given, 0)) {
        return 0;
    }
    for (uint32_t l = s->arch->n_layers; l-- > 0;) {
        first[s->kinds[l].att.window > 0] = l;
    }
    if (parts && !json_is_null(parts) && !json_is_array(parts)) {
        return settle_refuse(s, by_layer, parts, "a list of numbers, one a layer", err);
    }
    if (check_by_type(s, "rope_theta", first, err) < 0 || check_by_type(s, by_layer, first, err)) {
        return -1;
    }
    json_t *map = json_object();
    for (uint32_t t = 0; t < 2; t++) {
        json_t *of_type = json_object();
        if (first[t] != UINT32_MAX && theta) {
            json_object_set(of_type, "rope_theta", of_layer(theta, first[t]));
        }
        if (first[t] != UINT32_MAX && parts) {
            json_object_set(of_type, "partial_rotary_factor", of_layer(parts, first[t]));
        }
        if (t == 0 && json_is_object(scaling)) {
            json_object_update(of_type, scaling);
        }
        json_object_set_new(map, types[t], of_type);
    }
    json_object_set_new(root, "rope_parameters", map);
    json_object_del(root, "rope_theta");
    if (!scaling || json_is_object(scaling) || json_is_null(scaling)) {
        json_object_del(root, "rope_scaling"); /* anything else is refused where it is read */
    }
    return 0;
}

/* The layers with experts: a list of them, or a text of numbers with commas; else from the fourth
 * on. Numbers of layers behind the model's may be among them. */
static int settle_enum(struct settle *s, struct err *err) {
    static const char key[] = "moe_layers_enum";
    static const char expected[] = "layers: a list, or numbers with commas";
    const json_t *v = json_object_get(s->root, key);
    const char *text = json_string_value(v);
    const bool given = v && !json_is_null(v);
    const uint32_t n = s->arch->n_layers;
    for (uint32_t l = 0; l < n; l++) {
        s->kinds[l].moe = !given && l >= 3;
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *e = json_array_get(v, i);
        if (!json_is_integer(e) || json_integer_value(e) < 0) {
            return settle_refuse(s, key, v, expected, err);
        }
        if (json_integer_value(e) < (json_int_t)n) {
            s->kinds[json_integer_value(e)].moe = 1;
        }
    }
    while (text && *text) {
        char *end;
        text += strspn(text, " ");
        const unsigned long l = strtoul(text, &end, 10);
        if (*text < '0' || *text > '9' || (*end != '\0' && *end != ',')) {
            return settle_refuse(s, key, v, expected, err);
        }
        if (l < n) {
            s->kinds[l].moe = 1;
        }
        text = *end ? end + 1 : end;
    }
    return !given || text || json_is_array(v) ? 0 : settle_refuse(s, key, v, expected, err);
}

/* Heads of the layers that slide. The older object repeats what else they have. */
static int settle_sliding_heads(struct settle *s, struct err *err) {
    const json_t *other = json_object_get(s->root, OTHER);
    const json_t *v = json_object_get(s->root, SLIDING_HEADS);
    const struct {
        const char *key;
        enum family_key_id same;
    } repeats[] = {{"num_attention_groups", KEY_KV_HEADS},
                   {"num_key_value_heads", KEY_KV_HEADS},
                   {"head_dim", KEY_HEAD_DIM},
                   {"true_head_dim", KEY_HEAD_DIM}};
    if (other && !json_is_object(other) && !json_is_null(other)) {
        return settle_refuse(s, OTHER, other, "an object", err);
    }
    for (size_t i = 0; i < sizeof repeats / sizeof *repeats; i++) {
        const json_t *r = json_object_get(other, repeats[i].key);
        if (r && json_integer_value(r) != (json_int_t)settle_u32(s, repeats[i].same)) {
            return settle_refuse(s, repeats[i].key, r, "what full layers have", err);
        }
    }
    const char *type = json_string_value(json_object_get(other, "attention_type"));
    if (type && strcmp(type, "sliding_attention") != 0) {
        return settle_refuse(s, OTHER, other, "those of sliding_attention", err);
    }
    v = v && !json_is_null(v) ? v : json_object_get(other, "num_attention_heads");
    if (v &&
        (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > INT32_MAX)) {
        return settle_refuse(s, SLIDING_HEADS, v, "a positive integer", err);
    }
    for (uint32_t l = 0; v && l < s->arch->n_layers; l++) {
        if (s->kinds[l].att.window > 0) {
            s->kinds[l].att.n_heads = (uint32_t)json_integer_value(v);
        }
    }
    return 0;
}

/* A layer's entry in a list of limits; 0 and null are none. */
static int find_limit(const struct settle *s, const char *key, uint32_t layer, float *limit,
                      struct err *err) {
    static const char expected[] = "a list of limits or nulls, one a layer";
    const json_t *list = json_object_get(s->root, key), *v = json_array_get(list, layer);
    *limit = (float)json_number_value(v);
    if (!list || hf_keys_neutral(list, 0)) {
        return 0;
    }
    return json_array_size(list) == s->arch->n_layers && (json_is_number(v) || json_is_null(v)) &&
                   isfinite(*limit) && *limit >= 0
               ? 0
               : settle_refuse(s, key, list, expected, err);
}

static int settle_limits(struct settle *s, struct err *err) {
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        if (find_limit(s, "swiglu_limits", l, &k->ffn.limit, err) < 0 ||
            find_limit(s, "swiglu_limits_shared", l, &k->shared_limit, err) < 0) {
            return -1;
        }
        k->ffn.limit = k->moe ? k->ffn.limit : 0;
        k->ffn.act = k->ffn.limit > 0 || k->shared_limit > 0 ? FFN_SILU_LIMIT : FFN_SILU;
    }
    return 0;
}

/* What older files say in words of what all models of the family do. */
static int check_words(const struct settle *s, struct err *err) {
    static const char *const truths[] = {"norm_expert_weight", "use_moe_router_bias",
                                         "use_head_wise_attn_gate", "zero_centered", "use_moe"};
    const json_t *turned = json_object_get(s->root, "use_rope_layers");
    const json_t *scalar = json_object_get(s->root, "query_pre_attn_scalar");
    for (size_t i = 0; i < sizeof truths / sizeof *truths; i++) {
        if (settle_true(s, truths[i], err) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < json_array_size(turned); i++) {
        const json_t *v = json_array_get(turned, i);
        if (!json_is_true(v) && json_integer_value(v) != 1) {
            return settle_refuse(s, "use_rope_layers", turned, "true for every layer", err);
        }
    }
    if (scalar && !json_is_null(scalar) && json_number_value(scalar) != s->value[KEY_HEAD_DIM]) {
        return settle_refuse(s, "query_pre_attn_scalar", scalar, "head_dim", err);
    }
    return settle_word(s, "moe_router_activation", "sigmoid", err) < 0 ||
                   settle_word(s, "att_impl_type", "GQA", err) < 0
               ? -1
               : settle_only(s, KEY_QK_NORM, 1, err);
}

static bool slides(const struct settle *s, uint32_t layer) {
    (void)s;
    (void)layer;
    return false;
}

static int settle_layers(struct settle *s, json_t *root, struct err *err) {
    uint32_t window;
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->dense_dim = settle_u32(s, KEY_MLP_DIM);
        k->shared_dim = settle_u32(s, KEY_SHARED_DIM);
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.qk_norm = ARCH_QK_NORM_HEAD;
        k->att.gate = ARCH_GATE_HEAD_SIGMOID;
        k->route = (struct route_rule){.score = ROUTE_SIGMOID,
                                       .selection_bias = 1,
                                       .renorm = ROUTE_RENORM_SUM,
                                       .scale = settle_f32(s, KEY_ROUTE_SCALE)};
    }
    return check_words(s, err) < 0 || settle_window_key(s, &window, err) < 0 ||
                   settle_windows(s, window, slides, true, err) < 0 || settle_enum(s, err) < 0 ||
                   settle_mlp_types(s, err) < 0 || settle_sliding_heads(s, err) < 0 ||
                   settle_limits(s, err) < 0 || gather_rope(s, root, err) < 0
               ? -1
               : settle_rope_types(s, NULL, KEY_HEAD_DIM, err);
}

static int settle(struct settle *s, struct err *err) {
    static const char *const by_layer[] = {"layer_types",   "mlp_layer_types",
                                           "swiglu_limits", "swiglu_limits_shared",
                                           "rope_theta",    "partial_rotary_factors"};
    struct settle newer = *s;
    json_t *root = json_copy((json_t *)s->root);
    newer.root = root;
    for (size_t i = 0; i < sizeof by_layer / sizeof *by_layer; i++) {
        cut(s, root, by_layer[i]);
    }
    const int rc = settle_layers(&newer, root, err);
    json_decref(root);
    return rc;
}

const struct family family_step3p7 = {
    .name = "step3p7",
    .types = {"step3p7", "step3p5"},
    .architectures = {"Step3p7ForConditionalGeneration", "Step3p5ForCausalLM"},
    .wrapped = true,
    .eos = -1,
    .rope = {.theta = 1e4, .partial = 1, .by_type = true},
    .keys = keys,
    .reads = reads,
    .names = names,
    .skipped = skipped,
    .settle = settle,
};
