/*
 * family_deepseek_v2: DeepSeek-V2, its Lite and Coder forms, V2.5. Latent attention. The first
 * layers are dense, the others have shared experts beside those that are chosen by a softmax, from
 * the best groups where topk_method says so.
 */
#include "prep/hf/settle.h"

#include <string.h>

static const struct family_key keys[] = {
    {KEY_VOCAB, 102400},       {KEY_DIM, 4096},
    {KEY_MLP_DIM, 11008},      {KEY_LAYERS, 32},
    {KEY_HEADS, 32},           {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 64},        {KEY_CONTEXT, 2048},
    {KEY_NORM_EPS, 1e-6},      {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},   {KEY_LATENT_RANK, 512},
    {KEY_LATENT_Q_RANK, 1536}, {KEY_LATENT_NOPE_DIM, 128},
    {KEY_LATENT_ROPE_DIM, 64}, {KEY_V_DIM, 128},
    {KEY_DENSE_FIRST, 0},      {KEY_EXPERTS, 64},
    {KEY_ACTIVE, 0},           {KEY_EXPERT_DIM, 1407},
    {KEY_SHARED_EXPERTS, 2},   {KEY_GROUPS, 1},
    {KEY_TOP_GROUPS, 1},       {KEY_NORM_TOPK, 0},
    {KEY_ROUTE_SCALE, 1},      {KEY_END},
};

static const char *const reads[] = {SETTLE_DEEPSEEK_READS, NULL};

static int settle(struct settle *s, struct err *err) {
    const json_t *method = json_object_get(s->root, "topk_method");
    const char *word = json_string_value(method);
    bool grouped = word && strcmp(word, "group_limited_greedy") == 0;
    if (method && !json_is_null(method) && !grouped && !(word && strcmp(word, "greedy") == 0)) {
        return settle_refuse(s, "topk_method", method, "\"greedy\" or \"group_limited_greedy\"",
                             err);
    }
    if (settle_word(s, "scoring_func", "softmax", err) < 0 ||
        settle_only(s, KEY_NORM_TOPK, 0, err) < 0) {
        return -1;
    }
    settle_dense_first(s);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct route_rule *r = &s->kinds[l].route;
        r->groups = grouped ? settle_u32(s, KEY_GROUPS) : 0;
        r->top_groups = grouped ? settle_u32(s, KEY_TOP_GROUPS) : 0;
        r->scale = settle_f32(s, KEY_ROUTE_SCALE);
    }
    return settle_latent(s, err);
}

const struct family family_deepseek_v2 = {
    .name = "deepseek_v2",
    .types = {"deepseek_v2"},
    .architectures = {"DeepseekV2ForCausalLM"},
    .eos = 2,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .settle = settle,
};
