/*
 * family_glm4_moe_lite: GLM-4.7-Flash, which computes what DeepSeek-V3 does. The first layer is
 * dense where no list says otherwise.
 *
 * Behind the model's layers files have one that predicts further tokens.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 154880},
    {KEY_DIM, 2048},
    {KEY_MLP_DIM, 10240},
    {KEY_LAYERS, 47},
    {KEY_HEADS, 20},
    {KEY_KV_HEADS, 20},
    {KEY_HEAD_DIM, 64},
    {KEY_CONTEXT, 202752},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_LATENT_RANK, 512},
    {KEY_LATENT_Q_RANK, 768},
    {KEY_LATENT_NOPE_DIM, 192},
    {KEY_LATENT_ROPE_DIM, 64},
    {KEY_V_DIM, 256},
    {KEY_DENSE_FIRST, 1},
    {KEY_EXPERTS, 64},
    {KEY_ACTIVE, 4},
    {KEY_EXPERT_DIM, 1536},
    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 1},
    {KEY_TOP_GROUPS, 1},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 1.8},
    {KEY_FURTHER_LAYERS, 1},
    {KEY_END},
};

static const char *const reads[] = {"mlp_layer_types", SETTLE_DEEPSEEK_READS, NULL};

/* Without the list transformers takes one dense layer, whatever first_k_dense_replace says. */
static int settle(struct settle *s, struct err *err) {
    if (!json_is_array(json_object_get(s->root, "mlp_layer_types")) &&
        settle_only(s, KEY_DENSE_FIRST, 1, err) < 0) {
        return -1;
    }
    return settle_deepseek(s, err) < 0 ? -1 : settle_mlp_types(s, err);
}

const struct family family_glm4_moe_lite = {
    .name = "glm4_moe_lite",
    .types = {"glm4_moe_lite"},
    .architectures = {"Glm4MoeLiteForCausalLM"},
    .eos = 1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .settle = settle,
};
