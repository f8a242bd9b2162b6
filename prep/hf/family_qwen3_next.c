/*
 * family_qwen3_next: Qwen3-Next. Most layers mix by a gated delta net, others by gated attention; a
 * shared expert behind a gate; norms of 1 + w, but for the delta net's own.
 *
 * Queries and their gate are one projection, by head; so are the delta net's queries, keys, values
 * and output gate, and its strength and decay, by key head.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 151936},
    {KEY_DIM, 2048},
    {KEY_MLP_DIM, 5632},
    {KEY_LAYERS, 48},
    {KEY_HEADS, 16},
    {KEY_KV_HEADS, 2},
    {KEY_HEAD_DIM, 256},
    {KEY_CONTEXT, 32768},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_EXPERTS, 512},
    {KEY_ACTIVE, 10},
    {KEY_EXPERT_DIM, 512},
    {KEY_SHARED_DIM, 512},
    {KEY_SPARSE_STEP, 1},
    {KEY_NORM_TOPK, 1},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_FULL_INTERVAL, 4},
    {KEY_DELTA_K_HEADS, 16},
    {KEY_DELTA_V_HEADS, 32},
    {KEY_DELTA_K_DIM, 128},
    {KEY_DELTA_V_DIM, 128},
    {KEY_DELTA_CONV, 4},
    {KEY_QK_NORM, 1},
    {KEY_OUTPUT_GATE, 1},
    {KEY_WINDOW, 0},
    {KEY_USE_WINDOW, 0},
    {KEY_MAX_WINDOW_LAYERS, 0}, /* without meaning here */
    {KEY_END},
};

static const char *const reads[] = {"layer_types", "mlp_only_layers", "output_gate_type", NULL};

#define LAYER FAMILY_LAYER
#define DELTA FAMILY_LAYER "linear_attn."
static const struct family_name names[] = {
    {SLOT_OUT_NORM, "model.norm.weight", .value = HF_PLUS_ONE},
    {SLOT_ATTN_NORM, LAYER "input_layernorm.weight", .value = HF_PLUS_ONE},
    {SLOT_FFN_NORM, LAYER "post_attention_layernorm.weight", .value = HF_PLUS_ONE},
    {SLOT_Q_NORM, LAYER "self_attn.q_norm.weight", .value = HF_PLUS_ONE},
    {SLOT_K_NORM, LAYER "self_attn.k_norm.weight", .value = HF_PLUS_ONE},
    {SLOT_Q, LAYER "self_attn.q_proj.weight", HF_HEADS_FIRST},
    {SLOT_ATTN_GATE, LAYER "self_attn.q_proj.weight", HF_HEADS_SECOND},
    {SLOT_DELTA_QKV, DELTA "in_proj_qkvz.weight", HF_DELTA_QKV},
    {SLOT_DELTA_Z, DELTA "in_proj_qkvz.weight", HF_DELTA_Z},
    {SLOT_DELTA_B, DELTA "in_proj_ba.weight", HF_DELTA_B},
    {SLOT_DELTA_A, DELTA "in_proj_ba.weight", HF_DELTA_A},
    {SLOT_DELTA_CONV, DELTA "conv1d.weight", HF_CONV},
    {SLOT_DELTA_RATE, DELTA "A_log", .value = HF_EXP},
    {SLOT_DELTA_DT_BIAS, DELTA "dt_bias"},
    {SLOT_DELTA_NORM, DELTA "norm.weight"},
    {SLOT_DELTA_OUT, DELTA "out_proj.weight"},
    {.pattern = NULL},
};

static const char *const skipped[] = {"mtp.*", NULL};

/* Nothing slides: keys of windows may stand beside one that says so, as other Qwen models have
 * them. */
static int check_windows(const struct settle *s, struct err *err) {
    if (!s->given[KEY_USE_WINDOW]) {
        return settle_only(s, KEY_WINDOW, 0, err) < 0
                   ? -1
                   : settle_only(s, KEY_MAX_WINDOW_LAYERS, 0, err);
    }
    return settle_only(s, KEY_USE_WINDOW, 0, err);
}

static int settle(struct settle *s, struct err *err) {
    if (settle_only(s, KEY_ATTENTION_BIAS, 0, err) < 0 || check_windows(s, err) < 0 ||
        settle_sparse(s, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].route.renorm = settle_u32(s, KEY_NORM_TOPK);
    }
    return settle_gated_delta(s, err);
}

const struct family family_qwen3_next = {
    .name = "qwen3_next",
    .types = {"qwen3_next"},
    .architectures = {"Qwen3NextForCausalLM"},
    .eos = -1,
    .rope = {.theta = 1e4, .partial = 0.25},
    .keys = keys,
    .reads = reads,
    .names = names,
    .skipped = skipped,
    .settle = settle,
};
