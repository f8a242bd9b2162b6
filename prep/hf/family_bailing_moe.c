/*
 * family_bailing_moe: Ling and Ring, lite and plus (bailing_moe), and their second generation
 * (bailing_moe_v2), which computes what GLM-4.5 does. Queries, keys and values lie in one tensor.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 30592},
    {KEY_DIM, 1024},
    {KEY_MLP_DIM, 2048},
    {KEY_LAYERS, 24},
    {KEY_HEADS, 16},
    {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 16384},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},
    {KEY_QKV_BIAS, 0},
    {KEY_WINDOW, 4096},
    {KEY_USE_WINDOW, 0},
    {KEY_MAX_WINDOW_LAYERS, 28}, /* without a meaning where no layer slides */
    {KEY_DENSE_FIRST, 0},
    {KEY_EXPERTS, 16},
    {KEY_ACTIVE, 2},
    {KEY_EXPERT_DIM, 0},
    {KEY_SHARED_EXPERTS, 0},
    {KEY_NORM_TOPK, 1},
    {KEY_UNIT_HEAD, 0},
    {KEY_END},
};

static const struct family_key keys_v2[] = {
    {KEY_VOCAB, 157184},
    {KEY_DIM, 2048},
    {KEY_MLP_DIM, 5120},
    {KEY_LAYERS, 20},
    {KEY_HEADS, 16},
    {KEY_KV_HEADS, 4},
    {KEY_HEAD_DIM, 128},
    {KEY_CONTEXT, 32768},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_QKV_BIAS, 0},
    {KEY_QK_NORM, 1},
    {KEY_ROTARY_DIM, 0},
    {KEY_WINDOW, 4096},
    {KEY_USE_WINDOW, 0},
    {KEY_MAX_WINDOW_LAYERS, 28},
    {KEY_DENSE_FIRST, 1},
    {KEY_EXPERTS, 256},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 512},
    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 8},
    {KEY_TOP_GROUPS, 4},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 2.5},
    {KEY_FURTHER_LAYERS, 0},
    {KEY_END},
};

#define LAYER FAMILY_LAYER
#define ATTENTION LAYER "attention."
const struct family_name family_bailing[] = {
    {SLOT_EMBED, "model.word_embeddings.weight"},
    {SLOT_EMBED, "model.embed_tokens.weight"},
    {SLOT_Q, ATTENTION "query_key_value.weight", HF_QKV_Q},
    {SLOT_K, ATTENTION "query_key_value.weight", HF_QKV_K},
    {SLOT_V, ATTENTION "query_key_value.weight", HF_QKV_V},
    {SLOT_O, ATTENTION "dense.weight"},
    {SLOT_Q_NORM, ATTENTION "query_layernorm.weight"},
    {SLOT_K_NORM, ATTENTION "key_layernorm.weight"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.gate.expert_bias"},
    /* as transformers has them while it runs, of the family of which it has a class */
    {SLOT_Q, LAYER "self_attn.q_proj.weight"},
    {SLOT_K, LAYER "self_attn.k_proj.weight"},
    {SLOT_V, LAYER "self_attn.v_proj.weight"},
    {SLOT_O, LAYER "self_attn.o_proj.weight"},
    {SLOT_Q_NORM, LAYER "self_attn.q_norm.weight"},
    {SLOT_K_NORM, LAYER "self_attn.k_norm.weight"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.gate.e_score_correction_bias"},
    {.pattern = NULL},
};

static int settle(struct settle *s, struct err *err) {
    if (settle_only(s, KEY_QKV_BIAS, 0, err) < 0 || settle_only(s, KEY_USE_WINDOW, 0, err) < 0) {
        return -1;
    }
    settle_dense_first(s);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].route.renorm = settle_renorm_many(s);
    }
    return settle_rope(s, err);
}

static int settle_v2(struct settle *s, struct err *err) {
    return settle_ling_words(s, err) < 0 || settle_only(s, KEY_USE_WINDOW, 0, err) < 0
               ? -1
               : settle_ling(s, err);
}

const struct family family_bailing_moe = {
    .name = "bailing_moe",
    .types = {"bailing_moe"},
    .architectures = {"BailingMoeForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .names = family_bailing,
    .settle = settle,
};

static const char *const reads[] = {"moe_router_enable_expert_bias",
                                    "moe_shared_expert_intermediate_size",
                                    "mtp_loss_scaling_factor", /* of training */
                                    "router_dtype", /* the router is exact whatever it says */
                                    "score_function",
                                    "use_rmsnorm",
                                    NULL};

const struct family family_bailing_moe_v2 = {
    .name = "bailing_moe_v2",
    .types = {"bailing_moe_v2", "bailing_moe"}, /* the latter in published files */
    .architectures = {"BailingMoeV2ForCausalLM"},
    .eos = -1,
    .rope = {.theta = 6e5, .partial = 0.5},
    .keys = keys_v2,
    .reads = reads,
    .names = family_bailing,
    .settle = settle_v2,
};
