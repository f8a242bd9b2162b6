/*
 * family_granitemoe: Granite with experts: 3.0 and 3.1 (granitemoe), with a shared expert
 * (granitemoeshared), with windows and sinks besides (granitemoe_swa). Factors on the embedding,
 * the scores of attention, what each branch adds, and the logits. Experts are in one tensor, gate
 * before up, and so is the shared one.
 */
#include <stdlib.h>

#include "prep/hf/hf_keys.h"
#include "prep/hf/hf_rope.h"
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 32000},
    {KEY_DIM, 4096},
    {KEY_MLP_DIM, 11008},
    {KEY_LAYERS, 32},
    {KEY_HEADS, 32},
    {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 2048},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_EXPERTS, 8},
    {KEY_ACTIVE, 2},
    {KEY_SHARED_DIM, 0},
    {KEY_EMBED_SCALE, 1},
    {KEY_ATTENTION_SCALE, 1},
    {KEY_BRANCH_SCALE, 1},
    {KEY_LOGIT_DIVISOR, 1},
    {KEY_WINDOW, 128}, /* of granitemoe_swa */
    {KEY_END},
};

#define MOE FAMILY_LAYER "block_sparse_moe."
#define SHARED FAMILY_LAYER "shared_mlp."
static const struct family_name names[] = {
    {SLOT_SINKS, FAMILY_LAYER "self_attn.sinks"},
    {SLOT_ROUTER, MOE "router.layer.weight"},
    {SLOT_EXPERT_GATE, MOE "input_linear.weight", HF_EXPERTS_FIRST},
    {SLOT_EXPERT_UP, MOE "input_linear.weight", HF_EXPERTS_SECOND},
    {SLOT_EXPERT_DOWN, MOE "output_linear.weight", HF_EXPERTS},
    {SLOT_ROUTER, MOE "router.weight"},
    {SLOT_EXPERT_GATE, MOE "experts.gate_up_proj", HF_EXPERTS_FIRST},
    {SLOT_EXPERT_UP, MOE "experts.gate_up_proj", HF_EXPERTS_SECOND},
    {SLOT_EXPERT_DOWN, MOE "experts.down_proj", HF_EXPERTS},
    {SLOT_MLP_GATE, SHARED "input_linear.weight", HF_FIRST},
    {SLOT_MLP_UP, SHARED "input_linear.weight", HF_SECOND},
    {SLOT_MLP_DOWN, SHARED "output_linear.weight"},
    {.pattern = NULL},
};

/* A factor as an archive has it, where one that changes nothing is left out. */
static float factor_of(const struct settle *s, enum family_key_id key) {
    return s->value[key] != 1 ? settle_f32(s, key) : 0;
}

static void settle_factors(struct settle *s) {
    s->arch->ffn_dim = settle_u32(s, KEY_MLP_DIM);
    s->arch->embed_scale = settle_f32(s, KEY_EMBED_SCALE);
    if (s->value[KEY_LOGIT_DIVISOR] != 1) {
        s->arch->logit_scale = (float)(1 / s->value[KEY_LOGIT_DIVISOR]);
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.scale = settle_f32(s, KEY_ATTENTION_SCALE);
        k->block.branch_scale = factor_of(s, KEY_BRANCH_SCALE);
        k->shared_dim = settle_u32(s, KEY_SHARED_DIM);
        /* The softmax of the chosen logits alone, which is the same. */
        k->route.renorm = ROUTE_RENORM_SUM;
    }
}

/* granitemoe and granitemoeshared know no window, and the former no shared expert. */
static int settle_shared(struct settle *s, struct err *err) {
    if (s->given[KEY_WINDOW] && settle_only(s, KEY_WINDOW, 0, err) < 0) {
        return -1;
    }
    settle_factors(s);
    return settle_rope(s, err);
}

static int settle_alone(struct settle *s, struct err *err) {
    return settle_only(s, KEY_SHARED_DIM, 0, err) < 0 ? -1 : settle_shared(s, err);
}

static bool slides(const struct settle *s, uint32_t layer) {
    (void)s;
    return layer % 4 != 0;
}

/* layer_rope_theta: the base of each layer's rotary set, 0 for a layer that turns nothing; without
 * it all layers have the model's. Layers of one base share a set. */
static int settle_thetas(struct settle *s, struct err *err) {
    static const char key[] = "layer_rope_theta", expected[] = "a number for each layer, or null";
    const json_t *list = json_object_get(s->root, key);
    if (!list || json_is_null(list)) {
        return settle_rope(s, err);
    }
    if (!json_is_array(list) || json_array_size(list) != s->arch->n_layers) {
        return settle_refuse(s, key, list, expected, err);
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        const json_t *v = json_array_get(list, l);
        struct hf_rope_ask ask = {.head_dim = s->kinds[0].att.head_dim,
                                  .key = KEY_HEAD_DIM,
                                  .theta = json_number_value(v)};
        uint32_t first = 0, *rope = &s->kinds[l].att.rope;
        if (!json_is_number(v) || ask.theta < 0) {
            return settle_refuse(s, key, list, expected, err);
        }
        while (first < l && json_number_value(json_array_get(list, first)) != ask.theta) {
            first++;
        }
        if (first < l) {
            *rope = s->kinds[first].att.rope;
        } else if (ask.theta == 0) {
            *rope = settle_no_rope(s);
        } else if (hf_rope_add(s, &ask, rope, err) < 0) {
            return -1;
        }
    }
    return 0;
}

static int settle_swa(struct settle *s, struct err *err) {
    uint32_t window;
    if (settle_window_key(s, &window, err) < 0 ||
        settle_windows(s, window, slides, true, err) < 0) {
        return -1;
    }
    settle_factors(s);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].att.sinks = 1;
    }
    return settle_thetas(s, err);
}

const struct family family_granitemoe = {
    .name = "granitemoe",
    .types = {"granitemoe"},
    .architectures = {"GraniteMoeForCausalLM"},
    .eos = 2,
    .rope = {.theta = 1e4},
    .keys = keys,
    .names = names,
    .settle = settle_alone,
};

const struct family family_granitemoeshared = {
    .name = "granitemoeshared",
    .types = {"granitemoeshared"},
    .architectures = {"GraniteMoeSharedForCausalLM"},
    .eos = 2,
    .rope = {.theta = 1e4},
    .keys = keys,
    .names = names,
    .settle = settle_shared,
};

static const char *const reads[] = {"layer_types", "layer_rope_theta", NULL};

const struct family family_granitemoe_swa = {
    .name = "granitemoe_swa",
    .types = {"granitemoe_swa"},
    .architectures = {"GraniteMoeSWAForCausalLM"},
    .eos = 2,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = names,
    .settle = settle_swa,
};
