/*
 * family_ernie4_5_moe: ERNIE 4.5 with experts. Components 2i and 2i + 1 of a head are turned
 * together, so that queries and keys are put in order as they are read. A range of the layers has
 * experts, and beside these shared ones. Experts are chosen by their softmax with a bias, and their
 * weights divided by no less than moe_norm_min.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 103424},
    {KEY_DIM, 2560},
    {KEY_MLP_DIM, 12288},
    {KEY_LAYERS, 28},
    {KEY_HEADS, 20},
    {KEY_KV_HEADS, 4},
    {KEY_HEAD_DIM, 0},
    {KEY_CONTEXT, 131072},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 1},
    {KEY_EXPERTS, 64},
    {KEY_ACTIVE, 6},
    {KEY_EXPERT_DIM, 1536},
    {KEY_SHARED_EXPERTS, 2},
    {KEY_MOE_START, 1},
    {KEY_MOE_INTERVAL, 1},
    {KEY_NORM_MIN, 1e-12},
    {KEY_FURTHER_LAYERS, 0}, /* which are not under the model's layers */
    {KEY_END},
};

static const char *const reads[] = {"moe_layer_end_index",
                                    "moe_gate",
                                    "moe_use_aux_free",
                                    "use_rmsnorm",
                                    "moe_capacity", /* of training */
                                    NULL};

#define LAYER FAMILY_LAYER
static const struct family_name names[] = {
    {SLOT_Q, LAYER "self_attn.q_proj.weight", HF_PAIRS},
    {SLOT_K, LAYER "self_attn.k_proj.weight", HF_PAIRS},
    {SLOT_ROUTER_SELECT, LAYER "mlp.moe_statics.e_score_correction_bias"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.gate.moe_statics.e_score_correction_bias"},
    {.pattern = NULL},
};

static const char *const skipped[] = {"model.mtp_*", NULL};

/* The last layer that may have experts; -1 is the last of all. */
static int read_end(const struct settle *s, uint32_t *end, struct err *err) {
    const char *key = "moe_layer_end_index";
    const json_t *v = json_object_get(s->root, key);
    json_int_t last = json_integer_value(v);
    *end = s->arch->n_layers - 1;
    if (v && (!json_is_integer(v) || last < -1 || last > INT32_MAX)) {
        return settle_refuse(s, key, v, "a layer, or -1 for the last one", err);
    }
    *end = v && last >= 0 ? (uint32_t)last : *end;
    return 0;
}

static int settle(struct settle *s, struct err *err) {
    uint32_t end, interval = settle_u32(s, KEY_MOE_INTERVAL);
    if (read_end(s, &end, err) < 0 || settle_word(s, "moe_gate", "topk", err) < 0 ||
        settle_true(s, "moe_use_aux_free", err) < 0 || settle_true(s, "use_rmsnorm", err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->moe = (l + 1) % interval == 0 && l >= settle_u32(s, KEY_MOE_START) && l <= end;
        k->dense_dim = settle_u32(s, KEY_MLP_DIM);
        k->shared_dim = settle_shared_dim(s);
        k->route = (struct route_rule){.score = ROUTE_SOFTMAX,
                                       .selection_bias = 1,
                                       .renorm = ROUTE_RENORM_FLOOR,
                                       .eps = settle_f32(s, KEY_NORM_MIN),
                                       .scale = 1};
    }
    return settle_rope(s, err);
}

const struct family family_ernie4_5_moe = {
    .name = "ernie4_5_moe",
    .types = {"ernie4_5_moe"},
    .architectures = {"Ernie4_5_MoeForCausalLM"},
    .eos = 2,
    .rope = {.theta = 5e5},
    .keys = keys,
    .reads = reads,
    .names = names,
    .skipped = skipped,
    .settle = settle,
};
