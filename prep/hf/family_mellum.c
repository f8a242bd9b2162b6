/*
 * family_mellum: JetBrains' Mellum 2. Queries and keys are normed by head; layers slide or are
 * full, and have experts or are dense, each as a list says; those that slide are turned otherwise.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 98304},  {KEY_DIM, 2304},         {KEY_MLP_DIM, 7168},
    {KEY_LAYERS, 28},    {KEY_HEADS, 32},         {KEY_KV_HEADS, 4},
    {KEY_HEAD_DIM, 128}, {KEY_CONTEXT, 131072},   {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},       {KEY_ATTENTION_BIAS, 0}, {KEY_WINDOW, 1024},
    {KEY_EXPERTS, 64},   {KEY_ACTIVE, 8},         {KEY_EXPERT_DIM, 896},
    {KEY_NORM_TOPK, 1},  {KEY_FURTHER_LAYERS, 0}, /* which are not under the model's layers */
    {KEY_END},
};

static const char *const reads[] = {"layer_types", "mlp_layer_types", NULL};

static const char *const skipped[] = {"mtp.*", NULL};

static bool slides(const struct settle *s, uint32_t layer) {
    (void)s;
    (void)layer;
    return false;
}

static int settle(struct settle *s, struct err *err) {
    uint32_t window;
    if (settle_window_key(s, &window, err) < 0 ||
        settle_windows(s, window, slides, true, err) < 0 || settle_mlp_types(s, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.qk_norm = ARCH_QK_NORM_HEAD;
        k->route.renorm = settle_u32(s, KEY_NORM_TOPK);
    }
    return settle_rope_types(s, NULL, KEY_HEAD_DIM, err);
}

const struct family family_mellum = {
    .name = "mellum",
    .types = {"mellum"},
    .architectures = {"MellumForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4,
             .partial = 1,
             .fallback = "{\"full_attention\": {\"rope_theta\": 500000.0}, "
                         "\"sliding_attention\": {\"rope_theta\": 10000.0}}",
             .by_type = true},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .skipped = skipped,
    .settle = settle,
};
