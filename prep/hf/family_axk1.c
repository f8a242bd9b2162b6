/*
 * family_axk1: A.X-K1, which computes what DeepSeek-V3 does; what experts give goes through a norm.
 * Published files have that norm in dense layers, too, which have no use for it, and no bias on
 * what experts are chosen by.
 *
 * Behind the model's layers files may have one that predicts further tokens.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 163840},
    {KEY_DIM, 7168},
    {KEY_MLP_DIM, 18432},
    {KEY_LAYERS, 61},
    {KEY_HEADS, 64},
    {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 64},
    {KEY_CONTEXT, 32768},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_LATENT_RANK, 512},
    {KEY_LATENT_Q_RANK, 1536},
    {KEY_LATENT_NOPE_DIM, 128},
    {KEY_LATENT_ROPE_DIM, 64},
    {KEY_V_DIM, 128},
    {KEY_DENSE_FIRST, 1},
    {KEY_EXPERTS, 192},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 2048},
    {KEY_SHARED_EXPERTS, 1},
    {KEY_GROUPS, 8},
    {KEY_TOP_GROUPS, 4},
    {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 2.5},
    {KEY_FURTHER_LAYERS, 1},
    {KEY_END},
};

#define BEHIND FAMILY_LAYER "post_mlp_layernorm.weight"
static const struct family_name names[] = {
    {SLOT_FFN_POST_NORM, BEHIND},
    /* as transformers has it while it runs */
    {SLOT_FFN_POST_NORM, FAMILY_LAYER "mlp.post_mlp_layernorm.weight"},
    {.pattern = NULL},
};

static const char *const reads[] = {"mlp_layer_types", SETTLE_DEEPSEEK_READS, NULL};
static const char *const skipped[] = {"model.layers.*.post_mlp_layernorm.weight", NULL};

static int settle(struct settle *s, struct err *err) {
    if (settle_latent_queries(s, err) < 0 || settle_deepseek(s, err) < 0 ||
        settle_mlp_types(s, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].block.post_norm = s->kinds[l].moe ? ARCH_POST_NORM_FFN : ARCH_POST_NORM_NONE;
    }
    return 0;
}

const struct family family_axk1 = {
    .name = "axk1",
    .types = {"axk1", "AXK1"}, /* the latter in published files */
    .architectures = {"AXK1ForCausalLM"},
    .unbiased = true,
    .eos = 163691,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = names,
    .skipped = skipped,
    .settle = settle,
};
