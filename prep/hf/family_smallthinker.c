/*
 * family_smallthinker: SmallThinker. The router reads what the layer is given, before attention, so
 * that experts are known early. Gates are cut off at zero. Layers slide and are turned as two lists
 * say.
 */
#include <stdlib.h>

#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 151936},   {KEY_DIM, 1536},        {KEY_LAYERS, 32},
    {KEY_HEADS, 12},       {KEY_KV_HEADS, 2},      {KEY_HEAD_DIM, 128},
    {KEY_CONTEXT, 32768},  {KEY_NORM_EPS, 1e-6},   {KEY_TIED, 1},
    {KEY_WINDOW, 4096},    {KEY_EXPERTS, 32},      {KEY_ACTIVE, 4},
    {KEY_EXPERT_DIM, 768}, {KEY_ROUTE_SOFTMAX, 0}, {KEY_END},
};

static const char *const reads[] = {"rope_layout",      "sliding_window_layout",
                                    "moe_layer_layout", "moe_enable_early_router",
                                    "norm_topk_prob", /* sigmoids always sum to one */
                                    "model_name",       NULL};

#define MOE FAMILY_LAYER "block_sparse_moe."
static const struct family_name names[] = {
    {SLOT_ROUTER, MOE "primary_router.weight"},
    {SLOT_EXPERT_GATE, MOE "experts.{E}.gate.weight"},
    {SLOT_EXPERT_UP, MOE "experts.{E}.up.weight"},
    {SLOT_EXPERT_DOWN, MOE "experts.{E}.down.weight"},
    {.pattern = NULL},
};

static int settle(struct settle *s, struct err *err) {
    const uint32_t n = s->arch->n_layers, none = UINT32_MAX;
    bool *slides = mem_calloc(n, sizeof *slides), *turned = mem_calloc(n, sizeof *turned), given;
    int rc = settle_flags(s, "sliding_window_layout", slides, &given, err) < 0 ||
                     settle_flags(s, "rope_layout", turned, &given, err) < 0 ||
                     settle_only_number(s, "moe_layer_layout", 1, err) < 0 ||
                     settle_true(s, "moe_enable_early_router", err) < 0
                 ? -1
                 : settle_rope(s, err);
    uint32_t still = none;
    for (uint32_t l = 0; rc == 0 && l < n; l++) {
        struct layer_kind *k = &s->kinds[l];
        const bool softmax = settle_u32(s, KEY_ROUTE_SOFTMAX);
        k->att.window = slides[l] ? settle_u32(s, KEY_WINDOW) : 0;
        if (given && !turned[l]) {
            still = still == none ? settle_no_rope(s) : still;
            k->att.rope = still;
        }
        k->ffn.act = FFN_RELU;
        k->route = (struct route_rule){.input = ROUTE_LAYER_INPUT,
                                       .score = softmax ? ROUTE_SOFTMAX : ROUTE_SIGMOID,
                                       .by_logits = !softmax,
                                       .renorm = ROUTE_RENORM_SUM,
                                       .scale = 1};
    }
    free(slides);
    free(turned);
    return rc;
}

const struct family family_smallthinker = {
    .name = "smallthinker",
    .types = {"smallthinker"},
    .architectures = {"SmallThinkerForCausalLM"},
    .act = "relu",
    .eos = -1,
    .rope = {.theta = 1e6},
    .keys = keys,
    .reads = reads,
    .names = names,
    .settle = settle,
};
