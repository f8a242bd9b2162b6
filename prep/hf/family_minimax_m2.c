/*
 * family_minimax_m2: MiniMax-M2 and its successors. Experts are scored by a sigmoid, and chosen by
 * these scores with a bias. Queries and keys are normed over the whole projection; the first
 * `rotary_dim` components of each head are turned.
 *
 * Behind the model's layers files may have further ones, which predict further tokens.
 */
#include "prep/hf/hf_keys.h"
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 200064},
    {KEY_DIM, 3072},
    {KEY_MLP_DIM, 1536}, /* of an expert */
    {KEY_LAYERS, 62},
    {KEY_HEADS, 48},
    {KEY_KV_HEADS, 8},
    {KEY_HEAD_DIM, 128},
    {KEY_CONTEXT, 196608},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_QK_NORM, 1}, /* publishers write down that it has its norm */
    {KEY_ROTARY_DIM, 0},
    {KEY_EXPERTS, 256},
    {KEY_ACTIVE, 8},
    {KEY_FURTHER_LAYERS, 0},
    {KEY_END},
};

static const char *const reads[] = {"attn_type_list",
                                    "qk_norm_type",
                                    "scoring_func",
                                    "use_routing_bias",
                                    "shared_moe_mode",       /* of shared experts, which it has */
                                    "mlp_intermediate_size", /* none of */
                                    NULL};

/* The list names the layers' ways to attend, of which MiniMax's later models have one: 1. */
static int check_ways(const struct settle *s, struct err *err) {
    static const char key[] = "attn_type_list";
    const json_t *list = json_object_get(s->root, key);
    if (!list || hf_keys_neutral(list, 0)) {
        return 0;
    }
    return json_is_array(list) ? settle_only_number(s, key, 1, err)
                               : settle_refuse(s, key, list, "a list of 1", err);
}

static int settle(struct settle *s, struct err *err) {
    static const struct route_rule route = {
        .score = ROUTE_SIGMOID, .selection_bias = 1, .renorm = ROUTE_RENORM_SUM, .scale = 1};
    if (check_ways(s, err) < 0 || settle_word(s, "qk_norm_type", "per_layer", err) < 0 ||
        settle_word(s, "scoring_func", "sigmoid", err) < 0 ||
        settle_true(s, "use_routing_bias", err) < 0 || settle_only(s, KEY_QK_NORM, 1, err) < 0) {
        return -1;
    }
    s->arch->ffn_dim = settle_u32(s, KEY_MLP_DIM);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].att.qk_norm = ARCH_QK_NORM_FULL;
        s->kinds[l].route = route;
    }
    return settle_rope(s, err);
}

const struct family family_minimax_m2 = {
    .name = "minimax_m2",
    .types = {"minimax_m2"},
    .architectures = {"MiniMaxM2ForCausalLM"},
    .eos = 200020,
    .rope = {.theta = 5e6, .partial = 1},
    .keys = keys,
    .reads = reads,
    .names = family_block_sparse,
    .settle = settle,
};
