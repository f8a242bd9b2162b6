/*
 * family_deepseek: DeepSeek-MoE, the first DeepSeek with experts, which attends as others do. The
 * first layers are dense, the others have shared experts beside the chosen ones.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 102400},
    {KEY_DIM, 4096},
    {KEY_MLP_DIM, 11008},
    {KEY_LAYERS, 30},
    {KEY_HEADS, 32},
    {KEY_KV_HEADS, 32},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 2048},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_DENSE_FIRST, 0},
    {KEY_MOE_FREQ, 1},
    {KEY_EXPERTS, 0},
    {KEY_ACTIVE, 0},
    {KEY_EXPERT_DIM, 1407},
    {KEY_SHARED_EXPERTS, 0},
    {KEY_NORM_TOPK, 0},
    {KEY_END},
};

static const char *const reads[] = {"scoring_func", "seq_aux" /* of training */, NULL};

static int settle(struct settle *s, struct err *err) {
    if (settle_word(s, "scoring_func", "softmax", err) < 0) {
        return -1;
    }
    settle_dense_first(s);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->moe = k->moe && l % settle_u32(s, KEY_MOE_FREQ) == 0;
        k->dense_dim = settle_u32(s, KEY_MLP_DIM);
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->route.renorm = settle_renorm_many(s);
        k->route.eps = k->route.renorm ? 1e-20f : 0;
    }
    return settle_rope(s, err);
}

const struct family family_deepseek = {
    .name = "deepseek",
    .types = {"deepseek"},
    .architectures = {"DeepseekForCausalLM"},
    .eos = 100001,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .settle = settle,
};
