/*
 * family_sarvam_moe: Sarvam-30B, which computes what GLM-4.5 does, turns whole heads, and has names
 * of its own. Queries, keys and values lie in one tensor.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 262144},
    {KEY_DIM, 4096},
    {KEY_MLP_DIM, 8192},
    {KEY_LAYERS, 19},
    {KEY_HEADS, 64},
    {KEY_KV_HEADS, 4},
    {KEY_HEAD_DIM, 64},
    {KEY_CONTEXT, 131072},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_QK_NORM, 1},
    {KEY_DENSE_FIRST, 1},
    {KEY_EXPERTS, 128},
    {KEY_ACTIVE, 6},
    {KEY_EXPERT_DIM, 1024},
    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 1},
    {KEY_TOP_GROUPS, 1},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 2.5},
    {KEY_FURTHER_LAYERS, 0},
    {KEY_END},
};

static const char *const reads[] = {"moe_router_enable_expert_bias",
                                    "moe_shared_expert_intermediate_size",
                                    "router_dtype", /* the router is exact whatever it says */
                                    "score_function",
                                    "use_rmsnorm",
                                    NULL};

#define LAYER FAMILY_LAYER
#define ATTENTION LAYER "attention."
static const struct family_name names[] = {
    {SLOT_EMBED, "model.word_embeddings.weight"},
    {SLOT_EMBED, "model.embed_tokens.weight"},
    {SLOT_Q, ATTENTION "query_key_value.weight", HF_QKV_Q},
    {SLOT_K, ATTENTION "query_key_value.weight", HF_QKV_K},
    {SLOT_V, ATTENTION "query_key_value.weight", HF_QKV_V},
    {SLOT_O, ATTENTION "dense.weight"},
    {SLOT_Q_NORM, ATTENTION "query_layernorm.weight"},
    {SLOT_K_NORM, ATTENTION "key_layernorm.weight"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.gate.expert_bias"},
    /* as transformers has them while it runs */
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
    const char *shared = "moe_shared_expert_intermediate_size";
    const json_t *v = json_object_get(s->root, shared);
    if (v && json_integer_value(v) != (json_int_t)settle_shared_dim(s)) {
        return settle_refuse(s, shared, v, "that of an expert, for each shared one", err);
    }
    if (settle_word(s, "score_function", "sigmoid", err) < 0 ||
        settle_true(s, "moe_router_enable_expert_bias", err) < 0 ||
        settle_true(s, "use_rmsnorm", err) < 0 || settle_only(s, KEY_ATTENTION_BIAS, 0, err) < 0) {
        return -1;
    }
    return settle_shared_experts(s, err);
}

const struct family family_sarvam_moe = {
    .name = "sarvam_moe",
    .types = {"sarvam_moe"},
    .architectures = {"SarvamMoEForCausalLM", "Glm4MoeForCausalLM"},
    .eos = 1,
    .rope = {.theta = 8e6, .partial = 1},
    .keys = keys,
    .reads = reads,
    .names = names,
    .settle = settle,
};
