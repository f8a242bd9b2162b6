/*
 * family_qwen3_5_moe: Qwen3.5-MoE and Qwen3.6-MoE. As qwen3_next, with the delta net's projections
 * apart; the weights of the chosen experts always sum to 1; every layer has experts. Mostly inside
 * a model that sees, and with a part that predicts further tokens, neither of which is read.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 248320},
    {KEY_DIM, 2048},
    {KEY_LAYERS, 40},
    {KEY_HEADS, 16},
    {KEY_KV_HEADS, 2},
    {KEY_HEAD_DIM, 256},
    {KEY_CONTEXT, 32768},
    {KEY_NORM_EPS, 1e-6},
    {KEY_TIED, 0},
    {KEY_EXPERTS, 256},
    {KEY_ACTIVE, 8},
    {KEY_EXPERT_DIM, 512},
    {KEY_SHARED_DIM, 512},
    {KEY_SPARSE_STEP, 1},
    {KEY_NORM_TOPK, 1},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_QK_NORM, 1},
    {KEY_OUTPUT_GATE, 1},
    {KEY_FULL_INTERVAL, 4},
    {KEY_DELTA_K_HEADS, 16},
    {KEY_DELTA_V_HEADS, 32},
    {KEY_DELTA_K_DIM, 128},
    {KEY_DELTA_V_DIM, 128},
    {KEY_DELTA_CONV, 4},
    {KEY_END},
};

static const char *const reads[] = {"layer_types", "output_gate_type", NULL};

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
    {SLOT_DELTA_QKV, DELTA "in_proj_qkv.weight"},
    {SLOT_DELTA_Z, DELTA "in_proj_z.weight"},
    {SLOT_DELTA_B, DELTA "in_proj_b.weight"},
    {SLOT_DELTA_A, DELTA "in_proj_a.weight"},
    {SLOT_DELTA_CONV, DELTA "conv1d.weight", HF_CONV},
    {SLOT_DELTA_RATE, DELTA "A_log", .value = HF_EXP},
    {SLOT_DELTA_DT_BIAS, DELTA "dt_bias"},
    {SLOT_DELTA_NORM, DELTA "norm.weight"},
    {SLOT_DELTA_OUT, DELTA "out_proj.weight"},
    {.pattern = NULL},
};

static const char *const skipped[] = {"mtp.*", "model.visual.*", "visual.*", NULL};

static int settle(struct settle *s, struct err *err) {
    if (settle_only(s, KEY_ATTENTION_BIAS, 0, err) < 0 ||
        settle_only(s, KEY_NORM_TOPK, 1, err) < 0 || settle_only(s, KEY_SPARSE_STEP, 1, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].route.renorm = ROUTE_RENORM_SUM;
    }
    return settle_gated_delta(s, err);
}

const struct family family_qwen3_5_moe = {
    .name = "qwen3_5_moe",
    .types = {"qwen3_5_moe", "qwen3_5_moe_text"},
    .architectures = {"Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"},
    .wrapped = true,
    .eos = -1,
    .rope = {.theta = 1e4, .partial = 0.25, .mrope = true},
    .keys = keys,
    .reads = reads,
    .names = names,
    .skipped = skipped,
    .settle = settle,
};
