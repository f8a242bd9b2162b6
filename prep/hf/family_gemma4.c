/*
 * family_gemma4: Gemma 4 with experts. A dense MLP beside the experts, norms before and behind each
 * branch, a router with a norm of its own; heads of two sizes; values from keys in full layers;
 * the last layers may read the keys and values of earlier ones. Mostly inside a model that sees and
 * hears.
 */
#include "prep/hf/settle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "prep/hf/hf_keys.h"
#include "prep/hf/hf_rope.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 262144},
    {KEY_DIM, 2304},
    {KEY_MLP_DIM, 9216},
    {KEY_LAYERS, 30},
    {KEY_HEADS, 8},
    {KEY_KV_HEADS, 4},
    {KEY_HEAD_DIM, 256},
    {KEY_CONTEXT, 131072},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 1},
    {KEY_MOE_BLOCK, 0},
    {KEY_EXPERTS, 0},
    {KEY_ACTIVE, 0},
    {KEY_EXPERT_DIM, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_QK_NORM, 1},
    {KEY_WINDOW, 512},
    {KEY_LAYER_INPUT_DIM, 256},
    {KEY_GLOBAL_HEAD_DIM, 512},
    {KEY_GLOBAL_KV_HEADS, 0},
    {KEY_K_EQ_V, 0},
    {KEY_SHARED_KV_LAYERS, 0},
    {KEY_DOUBLE_MLP, 0},
    {KEY_LOGIT_CAP, 0},
    {KEY_END},
};

static const char *const reads[] = {"layer_types", "per_layer_config",
                                    "use_bidirectional_attention", NULL};

#define LAYER FAMILY_LAYER
static const struct family_name names[] = {
    {SLOT_ATTN_POST_NORM, LAYER "post_attention_layernorm.weight"},
    {SLOT_FFN_NORM, LAYER "pre_feedforward_layernorm_2.weight"},
    {SLOT_FFN_POST_NORM, LAYER "post_feedforward_layernorm.weight"},
    {SLOT_MLP_NORM, LAYER "pre_feedforward_layernorm.weight"},
    {SLOT_MLP_POST_NORM, LAYER "post_feedforward_layernorm_1.weight"},
    {SLOT_MOE_POST_NORM, LAYER "post_feedforward_layernorm_2.weight"},
    {SLOT_MLP_GATE, LAYER "mlp.gate_proj.weight"},
    {SLOT_MLP_UP, LAYER "mlp.up_proj.weight"},
    {SLOT_MLP_DOWN, LAYER "mlp.down_proj.weight"},
    {SLOT_ROUTER, LAYER "router.proj.weight"},
    {SLOT_ROUTER_NORM, LAYER "router.scale", .value = HF_PER_ROOT_DIM},
    {SLOT_ROUTER_FACTOR, LAYER "router.per_expert_scale"},
    {SLOT_EXPERT_GATE, LAYER "experts.gate_up_proj", HF_EXPERTS_FIRST},
    {SLOT_EXPERT_UP, LAYER "experts.gate_up_proj", HF_EXPERTS_SECOND},
    {SLOT_EXPERT_DOWN, LAYER "experts.down_proj", HF_EXPERTS},
    {SLOT_LAYER_SCALE, LAYER "layer_scalar"},
    {.pattern = NULL},
};

static const char *const skipped[] = {
    "model.vision_tower.*", "model.embed_vision.*", "model.audio_tower.*",
    "model.embed_audio.*",  "vision_tower.*",       "embed_vision.*",
    "audio_tower.*",        "embed_audio.*",        NULL};

enum { FULL, SLIDING };
static const char *const types[] = {"full_attention", "sliding_attention", NULL};

/* Types of layers: five that slide, then a full one, where the file does not say; the last one is
 * full whatever the file says. */
static int find_types(const struct settle *s, uint32_t *type, struct err *err) {
    uint32_t n = s->arch->n_layers;
    bool given;
    if (settle_layer_types(s, types, type, &given, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < n && !given; l++) {
        type[l] = (l + 1) % 6 == 0 ? FULL : SLIDING;
    }
    type[n - 1] = FULL;
    return 0;
}

/* What one layer's object in per_layer_config says. */
static int override_layer(struct settle *s, uint32_t layer, const json_t *object, struct err *err) {
    struct attention_rule *r = &s->kinds[layer].att;
    const struct {
        const char *key;
        uint32_t *out;
    } known[] = {{"head_dim", &r->head_dim}, {"num_key_value_heads", &r->n_kv_heads}};
    const char *key;
    json_t *v;
    json_object_foreach((json_t *)object, key, v) {
        size_t i = 0;
        while (i < 2 && strcmp(known[i].key, key) != 0) {
            i++;
        }
        if (i == 2) {
            char text[64];
            return err_set(err,
                           "%s: per_layer_config of layer %u: %.64s is %s: only head_dim and "
                           "num_key_value_heads are supported there",
                           s->path, layer, key, hf_keys_text(v, text));
        }
        if (!json_is_integer(v) || json_integer_value(v) < 1 || json_integer_value(v) > 4096) {
            return settle_refuse(s, key, v, "a positive integer in per_layer_config", err);
        }
        *known[i].out = (uint32_t)json_integer_value(v);
    }
    return 0;
}

/* per_layer_config: a sparse map from layers, as text with or without leading zeros. */
static int override_layers(struct settle *s, const json_t *map, struct err *err) {
    const char *key;
    json_t *v;
    if (!json_is_object(map)) {
        return json_is_null(map) ? 0 : settle_refuse(s, "per_layer_config", map, "an object", err);
    }
    bool *seen = mem_calloc(s->arch->n_layers, sizeof *seen);
    int rc = 0;
    json_object_foreach((json_t *)map, key, v) {
        char *end;
        unsigned long layer = strtoul(key, &end, 10);
        if (*key < '0' || *key > '9' || *end || layer >= s->arch->n_layers || seen[layer] ||
            !json_is_object(v)) {
            rc = err_set(err,
                         "%s: per_layer_config has \"%.40s\": expected an object for each "
                         "layer, once, below %u",
                         s->path, key, s->arch->n_layers);
            break;
        }
        seen[layer] = true;
        rc = override_layer(s, (uint32_t)layer, v, err);
        if (rc < 0) {
            break;
        }
    }
    free(seen);
    return rc;
}

/* Heads: full layers have a size of their own, and a number of key heads where values come from
 * keys; or per_layer_config says it all. */
static int settle_heads(struct settle *s, const uint32_t *type, struct err *err) {
    const json_t *map = json_object_get(s->root, "per_layer_config");
    uint32_t kv_heads = settle_u32(s, KEY_K_EQ_V) ? settle_u32(s, KEY_GLOBAL_KV_HEADS) : 0;
    uint32_t window;
    if (settle_window_key(s, &window, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct attention_rule *r = &s->kinds[l].att;
        if (type[l] == FULL && !map) {
            r->head_dim = settle_u32(s, KEY_GLOBAL_HEAD_DIM);
            r->n_kv_heads = kv_heads ? kv_heads : r->n_kv_heads;
        }
        r->qkv_bias = r->o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        r->qk_norm = ARCH_QK_NORM_HEAD;
        r->v_norm = 1;
        r->v_from_k = type[l] == FULL && settle_u32(s, KEY_K_EQ_V);
        r->window = type[l] == SLIDING ? window : 0;
        r->scale = 1;
    }
    return map ? override_layers(s, map, err) : 0;
}

/* The last layers read the keys and values of the last layer of their type before them. */
static int settle_shared_kv(struct settle *s, const uint32_t *type, struct err *err) {
    struct arch *a = s->arch;
    uint32_t shared = settle_u32(s, KEY_SHARED_KV_LAYERS), last[2] = {UINT32_MAX, UINT32_MAX};
    if (shared == 0) {
        return 0;
    }
    if (shared >= a->n_layers) {
        return err_set(err, "%s: num_kv_shared_layers is %u, expected less than the %u layers",
                       s->path, shared, a->n_layers);
    }
    a->n_kv_layer = a->n_layers;
    a->kv_layer = mem_calloc(a->n_layers, sizeof *a->kv_layer);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        bool own = l < a->n_layers - shared;
        last[type[l]] = own ? l : last[type[l]];
        if (last[type[l]] == UINT32_MAX) {
            return err_set(err,
                           "%s: num_kv_shared_layers is %u: layer %u has no earlier layer of "
                           "its type to share with",
                           s->path, shared, l);
        }
        a->kv_layer[l] = last[type[l]];
        if (!own && settle_u32(s, KEY_DOUBLE_MLP)) {
            s->kinds[l].shared_dim *= 2;
        }
    }
    return 0;
}

static int check_text(const struct settle *s, struct err *err) {
    const json_t *both = json_object_get(s->root, "use_bidirectional_attention");
    const char *word = json_string_value(both);
    if (!settle_u32(s, KEY_MOE_BLOCK)) {
        return err_set(err,
                       "%s: enable_moe_block is not true: no layer has routed experts: this "
                       "is not a mixture-of-experts model",
                       s->path);
    }
    if (both && !hf_keys_neutral(both, 0) && !(word && strcmp(word, "vision") == 0)) {
        return settle_refuse(s, "use_bidirectional_attention", both, "null or \"vision\"", err);
    }
    return settle_only(s, KEY_QK_NORM, 1, err) < 0 ? -1
                                                   : settle_only(s, KEY_LAYER_INPUT_DIM, 0, err);
}

static int settle(struct settle *s, struct err *err) {
    if (check_text(s, err) < 0) {
        return -1;
    }
    struct arch *a = s->arch;
    a->embed_scale = sqrtf((float)a->dim);
    a->logit_cap = settle_f32(s, KEY_LOGIT_CAP);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->block = (struct block_rule){.post_norm = 1, .dense_beside = 1, .layer_scale = 1};
        k->route.input = ROUTE_OWN_NORM;
        k->route.renorm = ROUTE_RENORM_SUM;
        k->route.factor = 1;
        k->ffn.act = FFN_GELU_TANH;
        k->shared_dim = settle_u32(s, KEY_MLP_DIM);
    }
    uint32_t *type = mem_calloc(a->n_layers, sizeof *type);
    int rc = find_types(s, type, err);
    if (rc == 0) {
        rc = settle_heads(s, type, err);
    }
    if (rc == 0) {
        rc = settle_rope_types(s, type, KEY_GLOBAL_HEAD_DIM, err);
    }
    if (rc == 0) {
        rc = settle_shared_kv(s, type, err);
    }
    free(type);
    return rc;
}

const struct family family_gemma4 = {
    .name = "gemma4",
    .types = {"gemma4", "gemma4_text"},
    .architectures = {"Gemma4ForConditionalGeneration", "Gemma4ForCausalLM"},
    .wrapped = true,
    .act = "gelu_pytorch_tanh",
    .eos = 1,
    .rope = {.theta = 1e4,
             .partial = 1,
             .fallback = "{\"sliding_attention\": {\"rope_type\": \"default\"}, "
                         "\"full_attention\": {\"rope_type\": \"proportional\", "
                         "\"partial_rotary_factor\": 0.25, \"rope_theta\": 1000000.0}}",
             .by_type = true},
    .keys = keys,
    .reads = reads,
    .names = names,
    .skipped = skipped,
    .settle = settle,
};
