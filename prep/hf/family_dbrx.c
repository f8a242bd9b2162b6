/*
 * family_dbrx: DBRX. Norms are LayerNorms without biases; queries, keys and values lie in one
 * tensor and are clipped; experts lie below one another in matrices of two axes. Half of the keys
 * are in two objects of their own.
 */
#include <string.h>

#include "prep/hf/hf_keys.h"
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 32000},  {KEY_DIM, 2048},        {KEY_LAYERS, 24},
    {KEY_HEADS, 16},     {KEY_KV_HEADS, 1},      {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 2048}, {KEY_NORM_EPS, 1e-5}, /* which files do not have */
    {KEY_TIED, 0},       {KEY_CLIP_QKV, 0},      {KEY_EXPERTS, 4},
    {KEY_ACTIVE, 1},     {KEY_EXPERT_DIM, 3584}, {KEY_END},
};

static const char *const reads[] = {"moe_normalize_expert_weights", "ffn_act_fn",
                                    /* of training */
                                    "moe_jitter_eps", "moe_loss_weight",
                                    "uniform_expert_assignment", "attn_pdrop", "emb_pdrop",
                                    "resid_pdrop", NULL};

static const char *const folded[] = {"attn_config", "ffn_config", NULL};

#define BLOCK "transformer.blocks.{L}."
#define ATTENTION BLOCK "norm_attn_norm.attn."
#define EXPERTS BLOCK "ffn.experts.mlp."
static const struct family_name names[] = {
    {SLOT_EMBED, "transformer.wte.weight"},
    {SLOT_OUT_NORM, "transformer.norm_f.weight"},
    {SLOT_ATTN_NORM, BLOCK "norm_attn_norm.norm_1.weight"},
    {SLOT_FFN_NORM, BLOCK "norm_attn_norm.norm_2.weight"},
    {SLOT_Q, ATTENTION "Wqkv.weight", HF_QKV_Q},
    {SLOT_K, ATTENTION "Wqkv.weight", HF_QKV_K},
    {SLOT_V, ATTENTION "Wqkv.weight", HF_QKV_V},
    {SLOT_O, ATTENTION "out_proj.weight"},
    {SLOT_ROUTER, BLOCK "ffn.router.layer.weight"},
    {SLOT_EXPERT_GATE, EXPERTS "w1", HF_FLAT},
    {SLOT_EXPERT_UP, EXPERTS "v1", HF_FLAT},
    {SLOT_EXPERT_DOWN, EXPERTS "w2", HF_FLAT_TURNED},
    {.pattern = NULL},
};

/* Weights are divided by their p-norm, of which only the first is a sum; null: by nothing. */
static int find_renorm(const struct settle *s, uint32_t *renorm, struct err *err) {
    static const char key[] = "moe_normalize_expert_weights";
    const json_t *v = json_object_get(s->root, key);
    *renorm = v && json_is_null(v) ? ROUTE_RENORM_NONE : ROUTE_RENORM_SUM;
    return !v || json_is_null(v) || json_number_value(v) == 1
               ? 0
               : settle_refuse(s, key, v, "1 or null", err);
}

static int settle(struct settle *s, struct err *err) {
    const json_t *act = json_object_get(s->root, "ffn_act_fn");
    const json_t *name = json_object_get(act, "name");
    uint32_t renorm;
    if (act && !hf_keys_neutral(act, 0) &&
        !(json_is_string(name) && strcmp(json_string_value(name), "silu") == 0)) {
        return settle_refuse(s, "ffn_act_fn", act, "{\"name\":\"silu\"}", err);
    }
    if (find_renorm(s, &renorm, err) < 0) {
        return -1;
    }
    s->arch->norm = ARCH_NORM_LAYER;
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].att.clip_qkv = settle_f32(s, KEY_CLIP_QKV);
        s->kinds[l].route.renorm = renorm;
    }
    return settle_rope(s, err);
}

const struct family family_dbrx = {
    .name = "dbrx",
    .types = {"dbrx"},
    .architectures = {"DbrxForCausalLM"},
    .folded = folded,
    .eos = -1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = names,
    .settle = settle,
};
