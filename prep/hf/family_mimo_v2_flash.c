/*
 * family_mimo_v2_flash: MiMo-V2-Flash. Values are narrower than keys, and smaller by a factor. Most
 * layers slide, with sinks, twice as many key heads and RoPE of their own; the first layer is
 * dense, the others have experts that are chosen by biased sigmoids, and no shared ones.
 *
 * Published files say in lists of 0 and 1 which layers slide and which have experts, and in keys of
 * their own what sliding layers have. What predicts further tokens (model.mtp) is not read.
 */
#include "prep/hf/settle.h"

#include <stdlib.h>

#include "prep/hf/hf_rope.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 152576},
    {KEY_DIM, 4096},
    {KEY_MLP_DIM, 16384},
    {KEY_LAYERS, 48},
    {KEY_HEADS, 64},
    {KEY_KV_HEADS, 4},
    {KEY_HEAD_DIM, 192},
    {KEY_V_DIM, 128},
    {KEY_VALUE_SCALE, 0.707},
    {KEY_CONTEXT, 131072},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_EXPERTS, 256},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 2048},
    {KEY_GROUPS, 1},
    {KEY_TOP_GROUPS, 1},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 1},
    {KEY_FURTHER_LAYERS, 0}, /* they have names of their own */
    {KEY_END},
};

static const char *const reads[] = {"layer_types",
                                    "hybrid_layer_pattern",
                                    "mlp_layer_types",
                                    "moe_layer_freq",
                                    "sliding_window",
                                    "sliding_window_size",
                                    "attention_chunk_size", /* the window once more */
                                    "swa_num_attention_heads",
                                    "swa_num_key_value_heads",
                                    "swa_head_dim",
                                    "swa_v_head_dim",
                                    "swa_rope_theta",
                                    "add_swa_attention_sink_bias",
                                    "scoring_func",
                                    "topk_method",
                                    NULL};

#define LAYER FAMILY_LAYER
static const struct family_name names[] = {
    {SLOT_SINKS, LAYER "self_attn.attention_sink_bias"},
    {SLOT_SINKS, LAYER "self_attn.sinks"}, /* as transformers has them while it runs */
    {.pattern = NULL},
};

static const char *const skipped[] = {"model.mtp.*", NULL};

/* A whole number, of at least 1, under a key; `missing` where it is not there, or null. */
static int read_count(const struct settle *s, const char *key, uint32_t missing, uint32_t *out,
                      struct err *err) {
    const json_t *v = json_object_get(s->root, key);
    const json_int_t n = json_integer_value(v);
    *out = missing;
    if (!v || json_is_null(v)) {
        return 0;
    }
    if (!json_is_integer(v) || n < 1 || n >= INT32_MAX) {
        return settle_refuse(s, key, v, "a positive integer", err);
    }
    *out = (uint32_t)n;
    return 0;
}

/* The window counts the token itself; sliding_window_size, which comes first, does not. */
static int read_window(const struct settle *s, uint32_t *window, struct err *err) {
    uint32_t before = 0;
    if (read_count(s, "sliding_window", 129, window, err) < 0 ||
        read_count(s, "sliding_window_size", 0, &before, err) < 0) {
        return -1;
    }
    *window = before > 0 ? before + 1 : *window;
    return 0;
}

/* Of layers that slide: by layer_types, by the publisher's list, or all but the first and every
 * sixth. */
static int read_slides(const struct settle *s, uint32_t *slides, struct err *err) {
    static const char *const words[] = {"full_attention", "sliding_attention", NULL};
    const uint32_t n = s->arch->n_layers;
    bool typed, listed, *flags = mem_calloc(n, sizeof *flags);
    int rc = settle_flags(s, "hybrid_layer_pattern", flags, &listed, err) < 0
                 ? -1
                 : settle_layer_types(s, words, slides, &typed, err);
    for (uint32_t l = 0; rc == 0 && l < n; l++) {
        const uint32_t rule = listed ? flags[l] : l > 0 && (l + 1) % 6 != 0;
        if (typed && listed && slides[l] != rule) {
            rc = err_set(err, "%s: layer_types and hybrid_layer_pattern contradict each other",
                         s->path);
        }
        slides[l] = typed ? slides[l] : rule;
    }
    free(flags);
    return rc;
}

/* Of layers with experts: the same by mlp_layer_types, by the publisher's list, or all but the
 * first. */
static int read_experts(struct settle *s, struct err *err) {
    const uint32_t n = s->arch->n_layers;
    bool listed, *flags = mem_calloc(n, sizeof *flags);
    int rc = settle_flags(s, "moe_layer_freq", flags, &listed, err);
    uint32_t n_moe = 0;
    for (uint32_t l = 0; l < n; l++) {
        s->kinds[l].moe = listed ? flags[l] : l > 0;
        n_moe += s->kinds[l].moe;
    }
    for (uint32_t l = 0; l < n; l++) {
        s->kinds[l].dense_dim = n_moe < n ? settle_u32(s, KEY_MLP_DIM) : 0;
    }
    free(flags);
    return rc < 0 ? -1 : settle_mlp_types(s, err);
}

/* A rotary set for each type. Files without a map from types to objects may name the bases. */
static int add_ropes(struct settle *s, uint32_t rope[2], struct err *err) {
    static const char *const types[] = {"full_attention", "sliding_attention"};
    static const char *const bases[] = {"rope_theta", "swa_rope_theta"};
    const bool mapped = json_is_object(json_object_get(s->root, "rope_parameters"));
    for (int i = 0; i < 2; i++) {
        const json_t *v = json_object_get(s->root, bases[i]);
        const double theta = json_number_value(v);
        if (v && !json_is_null(v) && !(theta > 0)) {
            return settle_refuse(s, bases[i], v, "a positive number", err);
        }
        const struct hf_rope_ask ask = {.theta = mapped ? 0 : theta,
                                        .head_dim = settle_u32(s, KEY_HEAD_DIM),
                                        .key = KEY_HEAD_DIM,
                                        .layer_type = types[i]};
        if (hf_rope_add(s, &ask, &rope[i], err) < 0) {
            return -1;
        }
    }
    return 0;
}

/* What layers that slide may not have otherwise, and their key heads. */
static int read_sliding(const struct settle *s, uint32_t *kv_heads, struct err *err) {
    const uint32_t twice = 2 * settle_u32(s, KEY_KV_HEADS);
    return settle_only_number(s, "swa_num_attention_heads", settle_u32(s, KEY_HEADS), err) < 0 ||
                   settle_only_number(s, "swa_head_dim", settle_u32(s, KEY_HEAD_DIM), err) < 0 ||
                   settle_only_number(s, "swa_v_head_dim", settle_u32(s, KEY_V_DIM), err) < 0 ||
                   settle_true(s, "add_swa_attention_sink_bias", err) < 0 ||
                   settle_word(s, "scoring_func", "sigmoid", err) < 0 ||
                   settle_word(s, "topk_method", "noaux_tc", err) < 0
               ? -1
               : read_count(s, "swa_num_key_value_heads", twice, kv_heads, err);
}

static int settle(struct settle *s, struct err *err) {
    const uint32_t n = s->arch->n_layers;
    uint32_t window, kv_heads, rope[2], *slides = mem_calloc(n, sizeof *slides);
    int rc = read_window(s, &window, err) < 0 || read_slides(s, slides, err) < 0 ||
                     read_sliding(s, &kv_heads, err) < 0 || read_experts(s, err) < 0
                 ? -1
                 : add_ropes(s, rope, err);
    for (uint32_t l = 0; rc == 0 && l < n; l++) {
        struct attention_rule *r = &s->kinds[l].att;
        r->v_dim = settle_u32(s, KEY_V_DIM);
        r->v_scale = settle_f32(s, KEY_VALUE_SCALE);
        r->qkv_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        r->n_kv_heads = slides[l] ? kv_heads : r->n_kv_heads;
        r->window = slides[l] ? window : 0;
        r->sinks = slides[l];
        r->rope = rope[slides[l]];
        s->kinds[l].route = settle_sigmoid_route(s);
    }
    free(slides);
    return rc;
}

const struct family family_mimo_v2_flash = {
    .name = "mimo_v2_flash",
    .types = {"mimo_v2_flash"},
    .architectures = {"MiMoV2FlashForCausalLM"},
    .eos = -1,
    .rope = {.theta = 5e6,
             .partial = 0.334,
             .fallback = "{\"full_attention\": {\"rope_theta\": 5000000.0,"
                         " \"partial_rotary_factor\": 0.334}, "
                         "\"sliding_attention\": {\"rope_theta\": 10000.0,"
                         " \"partial_rotary_factor\": 0.334}}",
             .by_type = true},
    .keys = keys,
    .reads = reads,
    .names = names,
    .skipped = skipped,
    .settle = settle,
};
