/*
 * family_dots1: dots.llm1. Queries and keys are normed by head. The first layers are dense, the
 * others have shared experts beside the chosen ones. Experts are scored by a sigmoid, and chosen by
 * these scores with a bias, from the best groups. Layers from max_window_layers on slide.
 */
#include <string.h>

#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 152064},
    {KEY_DIM, 4608},
    {KEY_MLP_DIM, 10944},
    {KEY_LAYERS, 62},
    {KEY_HEADS, 32},
    {KEY_KV_HEADS, 32},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 2048},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_DENSE_FIRST, 0},
    {KEY_EXPERTS, 0},
    {KEY_ACTIVE, 0},
    {KEY_EXPERT_DIM, 1408},
    {KEY_SHARED_EXPERTS, 0},
    {KEY_GROUPS, 1},
    {KEY_TOP_GROUPS, 1},
    {KEY_NORM_TOPK, 0},
    {KEY_ROUTE_SCALE, 1},
    {KEY_WINDOW, 4096},
    {KEY_MAX_WINDOW_LAYERS, 62},
    {KEY_END},
};

/* The last two say of the router what the family does anyway. */
static const char *const reads[] = {"layer_types", "scoring_func", "topk_method", NULL};

static bool slides(const struct settle *s, uint32_t layer) {
    return layer >= settle_u32(s, KEY_MAX_WINDOW_LAYERS);
}

/* Published files name the way to choose where others name the scores. */
static int check_router(const struct settle *s, struct err *err) {
    static const char choice[] = "noaux_tc";
    const char *word = json_string_value(json_object_get(s->root, "scoring_func"));
    return settle_word(s, "topk_method", choice, err) < 0
               ? -1
               : settle_word(s, "scoring_func",
                             word && strcmp(word, choice) == 0 ? choice : "sigmoid", err);
}

static int settle(struct settle *s, struct err *err) {
    uint32_t window;
    if (check_router(s, err) < 0 || settle_window_key(s, &window, err) < 0 ||
        settle_windows(s, window, slides, true, err) < 0) {
        return -1;
    }
    settle_dense_first(s);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.qk_norm = ARCH_QK_NORM_HEAD;
        k->route = settle_sigmoid_route(s);
    }
    return settle_rope(s, err);
}

const struct family family_dots1 = {
    .name = "dots1",
    .types = {"dots1"},
    .architectures = {"Dots1ForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .settle = settle,
};
