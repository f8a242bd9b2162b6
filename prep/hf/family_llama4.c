/*
 * family_llama4: the text model of Llama 4, which is published inside one that sees. Layers that
 * are turned attend in chunks, and norm queries and keys without weights after they are turned; the
 * others see all, do not know positions, and sharpen their scores as the text grows. Components 2i
 * and 2i + 1 of a head are turned together. One expert is chosen by its logit, and what it reads is
 * multiplied by the logit's sigmoid; a shared one is added.
 */
#include <stdlib.h>

#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 202048},     {KEY_DIM, 5120},
    {KEY_MLP_DIM, 8192}, /* of an expert, and of the shared one */
    {KEY_DENSE_DIM, 16384},  {KEY_LAYERS, 48},
    {KEY_HEADS, 40},         {KEY_KV_HEADS, 8},
    {KEY_HEAD_DIM, 128},     {KEY_CONTEXT, 131072},
    {KEY_NORM_EPS, 1e-5},    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0}, {KEY_QK_NORM, 1},
    {KEY_CHUNK, 8192},       {KEY_UNTURNED_INTERVAL, 4},
    {KEY_TEMPER, 0.1},       {KEY_TEMPER_TOK, 8192},
    {KEY_EXPERTS, 16},       {KEY_ACTIVE, 1},
    {KEY_MOE_STEP, 1},       {KEY_END},
};

static const char *const reads[] = {"attn_temperature_tuning", "layer_types", "moe_layers",
                                    "no_rope_layers", NULL};

#define LAYER FAMILY_LAYER
#define MOE LAYER "feed_forward."
static const struct family_name names[] = {
    {SLOT_Q, LAYER "self_attn.q_proj.weight", HF_PAIRS},
    {SLOT_K, LAYER "self_attn.k_proj.weight", HF_PAIRS},
    {SLOT_ROUTER, MOE "router.weight"},
    {SLOT_EXPERT_GATE, MOE "experts.gate_up_proj", HF_EXPERTS_FIRST_TURNED},
    {SLOT_EXPERT_UP, MOE "experts.gate_up_proj", HF_EXPERTS_SECOND_TURNED},
    {SLOT_EXPERT_DOWN, MOE "experts.down_proj", HF_EXPERTS_TURNED},
    {SLOT_MLP_GATE, MOE "gate_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_UP, MOE "up_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_DOWN, MOE "down_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_GATE, MOE "shared_expert.gate_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_UP, MOE "shared_expert.up_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_DOWN, MOE "shared_expert.down_proj.weight", .when = FAMILY_MOE_LAYER},
    {.pattern = NULL},
};

static const char *const skipped[] = {"vision_model.*", "multi_modal_projector.*", NULL};

/* no_rope_layers has 1 for each layer that is turned, for all that its name says. */
static int find_turned(const struct settle *s, bool *turned, struct err *err) {
    bool given;
    if (settle_flags(s, "no_rope_layers", turned, &given, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; !given && l < s->arch->n_layers; l++) {
        turned[l] = (l + 1) % settle_u32(s, KEY_UNTURNED_INTERVAL) != 0;
    }
    return 0;
}

/* attn_temperature_tuning is a flag, but older files have a number there. */
static int is_tempered(const struct settle *s, bool *tempered, struct err *err) {
    static const char key[] = "attn_temperature_tuning";
    const json_t *v = json_object_get(s->root, key);
    *tempered = !v || json_is_true(v) || json_integer_value(v) > 0;
    return !v || json_is_boolean(v) || json_is_integer(v)
               ? 0
               : settle_refuse(s, key, v, "true or false", err);
}

static int settle_attention(struct settle *s, const bool *turned, const uint32_t *type, bool given,
                            struct err *err) {
    const uint32_t chunk = settle_u32(s, KEY_CHUNK), none = settle_no_rope(s);
    bool tempered;
    if (is_tempered(s, &tempered, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct attention_rule *r = &s->kinds[l].att;
        if (given && type[l] == 1 && chunk == 0) {
            return err_set(err,
                           "%s: layer_types entry %u is chunked_attention, but "
                           "attention_chunk_size is null",
                           s->path, l);
        }
        r->chunk = (given ? type[l] == 1 : turned[l]) ? chunk : 0;
        if (turned[l] && settle_u32(s, KEY_QK_NORM)) {
            r->qk_norm = ARCH_QK_NORM_PLAIN;
            r->qk_norm_late = 1;
        } else if (!turned[l]) {
            r->rope = none;
            r->temper = tempered ? settle_f32(s, KEY_TEMPER) : 0;
            r->temper_tok = tempered ? settle_f32(s, KEY_TEMPER_TOK) : 0;
        }
    }
    return 0;
}

/* moe_layers lists the layers with experts; without it every so many layers has them. */
static int settle_moe(struct settle *s, struct err *err) {
    static const char key[] = "moe_layers";
    const json_t *list = json_object_get(s->root, key);
    const bool listed = list && !json_is_null(list);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->moe = !listed && (l + 1) % settle_u32(s, KEY_MOE_STEP) == 0;
        k->dense_dim = settle_u32(s, KEY_DENSE_DIM);
        k->shared_dim = settle_u32(s, KEY_MLP_DIM);
        k->route =
            (struct route_rule){.score = ROUTE_SIGMOID, .by_logits = 1, .on_input = 1, .scale = 1};
    }
    for (size_t i = 0; listed && i < (json_is_array(list) ? json_array_size(list) : 1); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 ||
            json_integer_value(v) >= (json_int_t)s->arch->n_layers) {
            return settle_refuse(s, key, list, "a list of layers", err);
        }
        s->kinds[json_integer_value(v)].moe = 1;
    }
    s->arch->ffn_dim = settle_u32(s, KEY_MLP_DIM);
    return 0;
}

static int settle(struct settle *s, struct err *err) {
    static const char *const words[] = {"full_attention", "chunked_attention", NULL};
    const uint32_t n = s->arch->n_layers;
    uint32_t *type = mem_calloc(n, sizeof *type);
    bool *turned = mem_calloc(n, sizeof *turned), given;
    int rc = settle_only(s, KEY_ATTENTION_BIAS, 0, err) < 0 ||
                     settle_only(s, KEY_ACTIVE, 1, err) < 0 ||
                     settle_layer_types(s, words, type, &given, err) < 0 ||
                     find_turned(s, turned, err) < 0 || settle_rope(s, err) < 0 ||
                     settle_attention(s, turned, type, given, err) < 0
                 ? -1
                 : settle_moe(s, err);
    free(type);
    free(turned);
    return rc;
}

const struct family family_llama4 = {
    .name = "llama4",
    .types = {"llama4", "llama4_text"},
    .architectures = {"Llama4ForConditionalGeneration", "Llama4ForCausalLM"},
    .wrapped = true,
    .eos = 2,
    .rope = {.theta = 5e5},
    .keys = keys,
    .reads = reads,
    .names = names,
    .skipped = skipped,
    .settle = settle,
};
