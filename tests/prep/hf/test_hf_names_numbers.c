/*
 * hf_names_numbers: numbers of the golden families' slots are those of the tensors that they should
 * come from, each at its place.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/hf/hf.h"
#include "tests/util/test_util_family.h"

static float bf16_at(const struct st_tensor *t, uint64_t element) {
    float x;
    st_read_f32(t, element, 1, &x);
    return x;
}

static float as_is(float w) {
    return w;
}
static float plus_one(float w) {
    return 1 + w;
}
static float exp_of(float w) {
    return (float)exp((double)w);
}
static float eighth(float w) { /* dim is 64 */
    return w * 0.125f;
}

#define L(n) "model.layers." #n "."
#define T(n) "model.language_model.layers." #n "."
#define H(n) "thinker.model.layers." #n "."
#define M(n) "language_model.model.layers." #n "."
#define B(n) "transformer.blocks." #n "."
static const struct number {
    const char *checkpoint;
    enum slot_id slot;
    uint32_t layer, expert, row, col;
    const char *tensor;
    uint64_t element;
    float (*change)(float w);
} numbers[] = {
    /* [8, 64, 64] (in, out), gate and up in turn along out */
    {"gptoss-bf16", SLOT_EXPERT_GATE, 1, 3, 5, 7, L(1) "mlp.experts.gate_up_proj",
     (3 * 64 + 7) * 64 + 10, as_is},
    {"gptoss-bf16", SLOT_EXPERT_UP, 1, 3, 5, 7, L(1) "mlp.experts.gate_up_proj",
     (3 * 64 + 7) * 64 + 11, as_is},
    /* [8, 32, 64] (in, out) */
    {"gptoss-bf16", SLOT_EXPERT_DOWN, 2, 7, 60, 31, L(2) "mlp.experts.down_proj",
     (7 * 32 + 31) * 64 + 60, as_is},
    {"gptoss-tiny", SLOT_EXPERT_GATE_BIAS, 3, 0, 6, 60, L(3) "mlp.experts.gate_up_proj_bias",
     6 * 128 + 120, as_is},
    {"gptoss-tiny", SLOT_EXPERT_UP_BIAS, 3, 0, 6, 60, L(3) "mlp.experts.gate_up_proj_bias",
     6 * 128 + 121, as_is},
    {"gptoss-tiny", SLOT_EXPERT_DOWN_BIAS, 0, 0, 2, 9, L(0) "mlp.experts.down_proj_bias",
     2 * 64 + 9, as_is},
    {"gptoss-tiny", SLOT_SINKS, 2, 0, 0, 5, L(2) "self_attn.sinks", 5, as_is},
    {"gptoss-tiny", SLOT_ROUTER_BIAS, 2, 0, 0, 7, L(2) "mlp.router.bias", 7, as_is},
    {"gptoss-tiny", SLOT_Q_BIAS, 1, 0, 0, 99, L(1) "self_attn.q_proj.bias", 99, as_is},
    /* attention heads: [q 32 | gate 32] */
    {"qwen3next-tiny", SLOT_Q, 3, 0, 33, 9, L(3) "self_attn.q_proj.weight", 65 * 64 + 9, as_is},
    {"qwen3next-tiny", SLOT_ATTN_GATE, 3, 0, 33, 9, L(3) "self_attn.q_proj.weight", 97 * 64 + 9,
     as_is},
    /* key heads: [q 16 | k 16 | v 64 | z 64] */
    {"qwen3next-tiny", SLOT_DELTA_QKV, 0, 0, 17, 3, L(0) "linear_attn.in_proj_qkvz.weight",
     161 * 64 + 3, as_is},
    {"qwen3next-tiny", SLOT_DELTA_QKV, 0, 0, 32, 3, L(0) "linear_attn.in_proj_qkvz.weight",
     16 * 64 + 3, as_is},
    {"qwen3next-tiny", SLOT_DELTA_QKV, 0, 0, 129, 3, L(0) "linear_attn.in_proj_qkvz.weight",
     193 * 64 + 3, as_is},
    {"qwen3next-tiny", SLOT_DELTA_Z, 2, 0, 65, 3, L(2) "linear_attn.in_proj_qkvz.weight",
     257 * 64 + 3, as_is},
    /* key heads: [b 2 | a 2] */
    {"qwen3next-tiny", SLOT_DELTA_B, 2, 0, 3, 1, L(2) "linear_attn.in_proj_ba.weight", 5 * 64 + 1,
     as_is},
    {"qwen3next-tiny", SLOT_DELTA_A, 2, 0, 1, 1, L(2) "linear_attn.in_proj_ba.weight", 3 * 64 + 1,
     as_is},
    {"qwen3next-tiny", SLOT_DELTA_CONV, 1, 0, 40, 2, L(1) "linear_attn.conv1d.weight", 40 * 4 + 2,
     as_is},
    {"qwen3next-tiny", SLOT_DELTA_RATE, 1, 0, 0, 3, L(1) "linear_attn.A_log", 3, exp_of},
    {"qwen3next-tiny", SLOT_DELTA_NORM, 1, 0, 0, 3, L(1) "linear_attn.norm.weight", 3, as_is},
    {"qwen3next-tiny", SLOT_ATTN_NORM, 1, 0, 0, 3, L(1) "input_layernorm.weight", 3, plus_one},
    {"qwen3next-tiny", SLOT_K_NORM, 3, 0, 0, 3, L(3) "self_attn.k_norm.weight", 3, plus_one},
    {"qwen3next-tiny", SLOT_OUT_NORM, 0, 0, 0, 3, "model.norm.weight", 3, plus_one},
    {"qwen3next-tiny", SLOT_MLP_UP, 1, 0, 95, 3, L(1) "mlp.up_proj.weight", 95 * 64 + 3, as_is},
    {"qwen3next-tiny", SLOT_MLP_UP, 2, 0, 63, 3, L(2) "mlp.shared_expert.up_proj.weight",
     63 * 64 + 3, as_is},
    {"qwen3next-tiny", SLOT_EXPERT_UP, 2, 5, 8, 3, L(2) "mlp.experts.5.up_proj.weight", 8 * 64 + 3,
     as_is},
    {"qwen35moe-tiny", SLOT_DELTA_QKV, 2, 0, 70, 3, T(2) "linear_attn.in_proj_qkv.weight",
     70 * 64 + 3, as_is},
    {"qwen35moe-tiny", SLOT_DELTA_A, 2, 0, 5, 3, T(2) "linear_attn.in_proj_a.weight", 5 * 64 + 3,
     as_is},
    {"qwen35moe-tiny", SLOT_EXPERT_UP, 1, 6, 4, 3, T(1) "mlp.experts.gate_up_proj",
     (6 * 64 + 36) * 64 + 3, as_is},
    {"qwen35moe-tiny", SLOT_FFN_NORM, 1, 0, 0, 3, T(1) "post_attention_layernorm.weight", 3,
     plus_one},
    {"gemma4-tiny", SLOT_ROUTER_NORM, 3, 0, 0, 3, T(3) "router.scale", 3, eighth},
    {"gemma4-tiny", SLOT_ROUTER_FACTOR, 3, 0, 0, 3, T(3) "router.per_expert_scale", 3, as_is},
    {"gemma4-tiny", SLOT_FFN_NORM, 3, 0, 0, 3, T(3) "pre_feedforward_layernorm_2.weight", 3, as_is},
    {"gemma4-tiny", SLOT_MLP_NORM, 3, 0, 0, 3, T(3) "pre_feedforward_layernorm.weight", 3, as_is},
    {"gemma4-tiny", SLOT_MLP_POST_NORM, 3, 0, 0, 3, T(3) "post_feedforward_layernorm_1.weight", 3,
     as_is},
    {"gemma4-tiny", SLOT_MOE_POST_NORM, 3, 0, 0, 3, T(3) "post_feedforward_layernorm_2.weight", 3,
     as_is},
    {"gemma4-tiny", SLOT_FFN_POST_NORM, 3, 0, 0, 3, T(3) "post_feedforward_layernorm.weight", 3,
     as_is},
    {"gemma4-tiny", SLOT_ATTN_POST_NORM, 3, 0, 0, 3, T(3) "post_attention_layernorm.weight", 3,
     as_is},
    {"gemma4-tiny", SLOT_LAYER_SCALE, 4, 0, 0, 0, T(4) "layer_scalar", 0, as_is},
    {"gemma4-tiny", SLOT_K, 2, 0, 31, 3, T(2) "self_attn.k_proj.weight", 31 * 64 + 3, as_is},
    {"gemma4-shared", SLOT_V, 1, 0, 63, 3, L(1) "self_attn.v_proj.weight", 63 * 64 + 3, as_is},
    {"gemma4-shared", SLOT_EXPERT_DOWN, 1, 2, 63, 31, L(1) "experts.down_proj",
     (2 * 64 + 63) * 32 + 31, as_is},
    {"glm4moe-tiny", SLOT_ROUTER_SELECT, 2, 0, 0, 5, L(2) "mlp.gate.e_score_correction_bias", 5,
     as_is},
    {"glm4moe-tiny", SLOT_MLP_UP, 0, 0, 95, 3, L(0) "mlp.up_proj.weight", 95 * 64 + 3, as_is},
    {"glm4moe-tiny", SLOT_MLP_DOWN, 3, 0, 60, 63, L(3) "mlp.shared_experts.down_proj.weight",
     60 * 64 + 63, as_is},
    /* heads: [q_nope 32 | q_rope 16], [keys 32 | values 64]; [latent 64 | k_rope 16]; pairs */
    {"deepseekv2-tiny", SLOT_LATENT_Q_NOPE, 1, 0, 33, 3, L(1) "self_attn.q_proj.weight",
     49 * 64 + 3, as_is},
    {"deepseekv2-tiny", SLOT_LATENT_Q_ROPE, 1, 0, 17, 3, L(1) "self_attn.q_proj.weight",
     (48 + 32 + 2) * 64 + 3, as_is},
    {"deepseekv2-tiny", SLOT_LATENT_Q_ROPE, 1, 0, 24, 3, L(1) "self_attn.q_proj.weight",
     (48 + 32 + 1) * 64 + 3, as_is},
    {"deepseekv2-tiny", SLOT_LATENT_KV, 2, 0, 63, 3, L(2) "self_attn.kv_a_proj_with_mqa.weight",
     63 * 64 + 3, as_is},
    {"deepseekv2-tiny", SLOT_LATENT_K_ROPE, 2, 0, 9, 3, L(2) "self_attn.kv_a_proj_with_mqa.weight",
     (64 + 3) * 64 + 3, as_is},
    {"deepseekv2-tiny", SLOT_LATENT_K_UP, 0, 0, 64 + 5, 7, L(0) "self_attn.kv_b_proj.weight",
     (96 + 7) * 64 + 5, as_is},
    {"deepseekv2-tiny", SLOT_LATENT_V_UP, 0, 0, 64 + 5, 7, L(0) "self_attn.kv_b_proj.weight",
     (96 + 32 + 5) * 64 + 7, as_is},
    {"deepseekv2-tiny", SLOT_LATENT_OUT, 0, 0, 63, 255, L(0) "self_attn.o_proj.weight",
     63 * 256 + 255, as_is},
    {"deepseekv3-tiny", SLOT_LATENT_Q_A, 1, 0, 31, 3, L(1) "self_attn.q_a_proj.weight", 31 * 64 + 3,
     as_is},
    {"deepseekv3-tiny", SLOT_LATENT_Q_NORM, 1, 0, 0, 31, L(1) "self_attn.q_a_layernorm.weight", 31,
     as_is},
    {"deepseekv3-tiny", SLOT_LATENT_Q_NOPE, 1, 0, 64, 3, L(1) "self_attn.q_b_proj.weight",
     96 * 32 + 3, as_is},
    {"deepseekv3-tiny", SLOT_LATENT_KV_NORM, 1, 0, 0, 63, L(1) "self_attn.kv_a_layernorm.weight",
     63, as_is},
    /* the same with heads of [32 | 16], [32 | 64], whose number is odd */
    {"glm4moelite-tiny", SLOT_LATENT_Q_ROPE, 1, 0, 4 * 16 + 8, 3, L(1) "self_attn.q_b_proj.weight",
     (4 * 48 + 32 + 1) * 32 + 3, as_is},
    {"glm4moelite-tiny", SLOT_LATENT_V_UP, 2, 0, 4 * 64 + 5, 7, L(2) "self_attn.kv_b_proj.weight",
     (4 * 96 + 32 + 5) * 64 + 7, as_is},
    {"glm4moelite-tiny", SLOT_MLP_UP, 2, 0, 31, 3, L(2) "mlp.shared_experts.up_proj.weight",
     31 * 64 + 3, as_is},
    {"deepseekv32-tiny", SLOT_LATENT_Q_NOPE, 2, 0, 64, 3, L(2) "self_attn.q_b_proj.weight",
     96 * 32 + 3, as_is},
    {"glmmoedsa-tiny", SLOT_LATENT_K_UP, 1, 0, 4 * 64 + 5, 7, L(1) "self_attn.kv_b_proj.weight",
     (4 * 96 + 7) * 64 + 5, as_is},
    {"sarvammla-tiny", SLOT_LATENT_Q_ROPE, 1, 0, 24, 3, L(1) "self_attn.q_proj.weight",
     (48 + 32 + 1) * 64 + 3, as_is},
    {"sarvammla-tiny", SLOT_ROUTER_SELECT, 2, 0, 0, 5, L(2) "mlp.gate.e_score_correction_bias", 5,
     as_is},
    {"axk1-tiny", SLOT_FFN_POST_NORM, 2, 0, 0, 3, L(2) "post_mlp_layernorm.weight", 3, as_is},
    {"axk1-tiny", SLOT_FFN_NORM, 2, 0, 0, 3, L(2) "post_attention_layernorm.weight", 3, as_is},
    {"mistral4-tiny", SLOT_EXPERT_UP, 2, 6, 4, 3, L(2) "mlp.experts.gate_up_proj",
     (6 * 64 + 36) * 64 + 3, as_is},
    {"mistral4-tiny", SLOT_LATENT_V_UP, 1, 0, 64 + 5, 7, L(1) "self_attn.kv_b_proj.weight",
     (96 + 32 + 5) * 64 + 7, as_is},
    /* values of 32 beside keys of 48; one key head in full layers, two where they slide */
    {"mimov2flash-tiny", SLOT_V, 1, 0, 63, 3, L(1) "self_attn.v_proj.weight", 63 * 64 + 3, as_is},
    {"mimov2flash-tiny", SLOT_O, 3, 0, 60, 127, L(3) "self_attn.o_proj.weight", 60 * 128 + 127,
     as_is},
    {"mimov2flash-tiny", SLOT_SINKS, 2, 0, 0, 3, L(2) "self_attn.attention_sink_bias", 3, as_is},
    {"minimaxm2-tiny", SLOT_ROUTER_SELECT, 2, 0, 0, 5,
     L(2) "block_sparse_moe.e_score_correction_bias", 5, as_is},
    {"minimaxm2-tiny", SLOT_EXPERT_UP, 1, 6, 31, 3, L(1) "block_sparse_moe.experts.6.w3.weight",
     31 * 64 + 3, as_is},
    {"minimaxm2-tiny", SLOT_K_NORM, 1, 0, 0, 63, L(1) "self_attn.k_norm.weight", 63, as_is},
    {"dots1-tiny", SLOT_O_BIAS, 2, 0, 0, 63, L(2) "self_attn.o_proj.bias", 63, as_is},
    {"ernie45-tiny", SLOT_ROUTER_SELECT, 2, 0, 0, 5, L(2) "mlp.moe_statics.e_score_correction_bias",
     5, as_is},
    /* heads of 16: pairs 2i, 2i + 1 become i, i + 8 */
    {"ernie45-tiny", SLOT_Q, 1, 0, 17, 3, L(1) "self_attn.q_proj.weight", 18 * 64 + 3, as_is},
    {"ernie45-tiny", SLOT_Q, 1, 0, 24, 3, L(1) "self_attn.q_proj.weight", 17 * 64 + 3, as_is},
    {"ernie45-tiny", SLOT_K, 1, 0, 15, 3, L(1) "self_attn.k_proj.weight", 15 * 64 + 3, as_is},
    {"ernie45-tiny", SLOT_V, 1, 0, 17, 3, L(1) "self_attn.v_proj.weight", 17 * 64 + 3, as_is},
    {"hunyuan-tiny", SLOT_Q_NORM, 1, 0, 0, 31, L(1) "self_attn.query_layernorm.weight", 31, as_is},
    {"hunyuan-tiny", SLOT_MLP_UP, 1, 0, 31, 3, L(1) "mlp.shared_mlp.up_proj.weight", 31 * 64 + 3,
     as_is},
    {"afmoe-tiny", SLOT_ATTN_GATE, 2, 0, 63, 3, L(2) "self_attn.gate_proj.weight", 63 * 64 + 3,
     as_is},
    {"afmoe-tiny", SLOT_FFN_NORM, 2, 0, 0, 3, L(2) "pre_mlp_layernorm.weight", 3, as_is},
    {"afmoe-tiny", SLOT_ATTN_POST_NORM, 2, 0, 0, 3, L(2) "post_attention_layernorm.weight", 3,
     as_is},
    {"afmoe-tiny", SLOT_FFN_POST_NORM, 2, 0, 0, 3, L(2) "post_mlp_layernorm.weight", 3, as_is},
    {"afmoe-tiny", SLOT_ROUTER_SELECT, 2, 0, 0, 5, L(2) "mlp.expert_bias", 5, as_is},
    {"mellum-tiny", SLOT_MLP_UP, 0, 0, 95, 3, L(0) "mlp.up_proj.weight", 95 * 64 + 3, as_is},
    {"sarvam-tiny", SLOT_Q, 1, 0, 63, 3, L(1) "attention.query_key_value.weight", 63 * 64 + 3,
     as_is},
    {"sarvam-tiny", SLOT_K, 1, 0, 1, 3, L(1) "attention.query_key_value.weight", 65 * 64 + 3,
     as_is},
    {"sarvam-tiny", SLOT_V, 1, 0, 1, 3, L(1) "attention.query_key_value.weight", 97 * 64 + 3,
     as_is},
    {"sarvam-tiny", SLOT_O, 1, 0, 1, 3, L(1) "attention.dense.weight", 64 + 3, as_is},
    {"sarvam-tiny", SLOT_EMBED, 0, 0, 9, 3, "model.word_embeddings.weight", 9 * 64 + 3, as_is},
    /* [8, 64, 96] (in, out), gate before up; [8, 48, 64] (in, out) */
    {"qwen3vlmoe-tiny", SLOT_EXPERT_GATE, 2, 3, 5, 7, T(2) "mlp.experts.gate_up_proj",
     (3 * 64 + 7) * 96 + 5, as_is},
    {"qwen3vlmoe-tiny", SLOT_EXPERT_UP, 2, 3, 5, 7, T(2) "mlp.experts.gate_up_proj",
     (3 * 64 + 7) * 96 + 53, as_is},
    {"qwen3vlmoe-tiny", SLOT_EXPERT_DOWN, 0, 7, 60, 31, T(0) "mlp.experts.down_proj",
     (7 * 48 + 31) * 64 + 60, as_is},
    {"qwen3vlmoe-tiny", SLOT_O_BIAS, 1, 0, 0, 9, T(1) "self_attn.o_proj.bias", 9, as_is},
    {"qwen3omnimoe-tiny", SLOT_EXPERT_UP, 1, 6, 4, 3, H(1) "mlp.experts.6.up_proj.weight",
     4 * 64 + 3, as_is},
    {"qwen3omnimoe-tiny", SLOT_HEAD, 0, 0, 9, 3, "thinker.lm_head.weight", 9 * 64 + 3, as_is},
    {"glm4vmoe-tiny", SLOT_ROUTER_SELECT, 2, 0, 0, 5, T(2) "mlp.gate.e_score_correction_bias", 5,
     as_is},
    {"glm4vmoe-tiny", SLOT_MLP_UP, 1, 0, 31, 3, T(1) "mlp.shared_experts.up_proj.weight",
     31 * 64 + 3, as_is},
    /* [8, 64, 64], gate before up */
    {"granitemoe-tiny", SLOT_EXPERT_UP, 2, 3, 5, 7, L(2) "block_sparse_moe.input_linear.weight",
     (3 * 64 + 37) * 64 + 7, as_is},
    {"granitemoe-tiny", SLOT_EXPERT_DOWN, 1, 7, 60, 31,
     L(1) "block_sparse_moe.output_linear.weight", (7 * 64 + 60) * 32 + 31, as_is},
    {"granitemoe-tiny", SLOT_ROUTER, 1, 0, 7, 3, L(1) "block_sparse_moe.router.layer.weight",
     7 * 64 + 3, as_is},
    {"granitemoeshared-tiny", SLOT_MLP_GATE, 2, 0, 47, 3, L(2) "shared_mlp.input_linear.weight",
     47 * 64 + 3, as_is},
    {"granitemoeshared-tiny", SLOT_MLP_UP, 2, 0, 47, 3, L(2) "shared_mlp.input_linear.weight",
     95 * 64 + 3, as_is},
    {"granitemoeswa-tiny", SLOT_SINKS, 3, 0, 0, 3, L(3) "self_attn.sinks", 3, as_is},
    {"granitemoeswa-tiny", SLOT_EXPERT_GATE, 3, 6, 4, 3,
     L(3) "block_sparse_moe.experts.gate_up_proj", (6 * 64 + 4) * 64 + 3, as_is},
    {"exaonemoe-tiny", SLOT_ROUTER_SELECT, 2, 0, 0, 5, L(2) "mlp.e_score_correction_bias", 5,
     as_is},
    {"exaonemoe-tiny", SLOT_MLP_DOWN, 3, 0, 60, 31, L(3) "mlp.shared_experts.down_proj.weight",
     60 * 32 + 31, as_is},
    {"solaropen-tiny", SLOT_MLP_UP, 0, 0, 63, 3, L(0) "mlp.shared_experts.up_proj.weight",
     63 * 64 + 3, as_is},
    {"hyv3-tiny", SLOT_ROUTER, 1, 0, 7, 3, L(1) "mlp.router.gate.weight", 7 * 64 + 3, as_is},
    {"hyv3-tiny", SLOT_ROUTER_SELECT, 2, 0, 0, 5, L(2) "mlp.expert_bias", 5, as_is},
    {"hyv3-tiny", SLOT_MLP_GATE, 2, 0, 31, 3, L(2) "mlp.shared_mlp.gate_proj.weight", 31 * 64 + 3,
     as_is},
    /* heads of 16 in pairs; but not in the layer that is not turned */
    {"llama4-tiny", SLOT_K, 1, 0, 17, 3, M(1) "self_attn.k_proj.weight", 18 * 64 + 3, as_is},
    {"llama4-tiny", SLOT_K, 2, 0, 17, 3, M(2) "self_attn.k_proj.weight", 17 * 64 + 3, as_is},
    /* [8, 64, 64] (in, out), gate before up; [8, 32, 64] (in, out) */
    {"llama4-tiny", SLOT_EXPERT_UP, 3, 5, 5, 7, M(3) "feed_forward.experts.gate_up_proj",
     (5 * 64 + 7) * 64 + 37, as_is},
    {"llama4-tiny", SLOT_EXPERT_DOWN, 1, 5, 60, 31, M(1) "feed_forward.experts.down_proj",
     (5 * 32 + 31) * 64 + 60, as_is},
    {"llama4-tiny", SLOT_MLP_UP, 0, 0, 95, 3, M(0) "feed_forward.up_proj.weight", 95 * 64 + 3,
     as_is},
    {"llama4-tiny", SLOT_HEAD, 0, 0, 9, 3, "language_model.lm_head.weight", 9 * 64 + 3, as_is},
    {"cohere2moe-tiny", SLOT_Q, 1, 0, 24, 3, L(1) "self_attn.q_proj.weight", 17 * 64 + 3, as_is},
    {"cohere2moe-tiny", SLOT_Q, 2, 0, 24, 3, L(2) "self_attn.q_proj.weight", 24 * 64 + 3, as_is},
    {"cohere2moe-tiny", SLOT_MLP_UP, 1, 0, 63, 3, L(1) "mlp.shared_experts.up_proj.weight",
     63 * 64 + 3, as_is},
    {"phimoe-tiny", SLOT_ATTN_NORM_BIAS, 1, 0, 0, 3, L(1) "input_layernorm.bias", 3, as_is},
    {"phimoe-tiny", SLOT_FFN_NORM_BIAS, 1, 0, 0, 3, L(1) "post_attention_layernorm.bias", 3, as_is},
    {"phimoe-tiny", SLOT_OUT_NORM_BIAS, 0, 0, 0, 3, "model.norm.bias", 3, as_is},
    {"phimoe-tiny", SLOT_HEAD_BIAS, 0, 0, 0, 9, "lm_head.bias", 9, as_is},
    {"phimoe-tiny", SLOT_EXPERT_UP, 1, 6, 31, 3, L(1) "block_sparse_moe.experts.6.w3.weight",
     31 * 64 + 3, as_is},
    {"flexolmo-tiny", SLOT_ATTN_POST_NORM, 2, 0, 0, 3, L(2) "post_attention_layernorm.weight", 3,
     as_is},
    {"flexolmo-tiny", SLOT_FFN_POST_NORM, 2, 0, 0, 3, L(2) "post_feedforward_layernorm.weight", 3,
     as_is},
    {"kolibri1-tiny", SLOT_FFN_POST_NORM, 2, 0, 0, 3, L(2) "post_ffn_norm.weight", 3, as_is},
    {"laguna-elements", SLOT_ATTN_GATE, 1, 0, 127, 3, L(1) "self_attn.g_proj.weight", 127 * 64 + 3,
     as_is},
    {"laguna-tiny", SLOT_ATTN_GATE, 1, 0, 7, 3, L(1) "self_attn.g_proj.weight", 7 * 64 + 3, as_is},
    {"deepseek-tiny", SLOT_MLP_DOWN, 2, 0, 60, 63, L(2) "mlp.shared_experts.down_proj.weight",
     60 * 64 + 63, as_is},
    {"bailingmoe-tiny", SLOT_V, 1, 0, 1, 3, L(1) "attention.query_key_value.weight", 193 * 64 + 3,
     as_is},
    {"bailingmoev2-tiny", SLOT_K_NORM, 1, 0, 0, 3, L(1) "attention.key_layernorm.weight", 3, as_is},
    {"smallthinker-tiny", SLOT_ROUTER, 1, 0, 7, 3, L(1) "block_sparse_moe.primary_router.weight",
     7 * 64 + 3, as_is},
    {"smallthinker-tiny", SLOT_EXPERT_UP, 1, 6, 31, 3, L(1) "block_sparse_moe.experts.6.up.weight",
     31 * 64 + 3, as_is},
    {"dbrx-tiny", SLOT_K, 1, 0, 1, 3, B(1) "norm_attn_norm.attn.Wqkv.weight", 65 * 64 + 3, as_is},
    {"dbrx-tiny", SLOT_FFN_NORM, 1, 0, 0, 3, B(1) "norm_attn_norm.norm_2.weight", 3, as_is},
    /* [8 * 32, 64] each, of down a row for each neuron */
    {"dbrx-tiny", SLOT_EXPERT_UP, 2, 6, 31, 3, B(2) "ffn.experts.mlp.v1", (6 * 32 + 31) * 64 + 3,
     as_is},
    {"step3p7-tiny", SLOT_ATTN_NORM, 1, 0, 0, 3, L(1) "input_layernorm.weight", 3, plus_one},
    {"step3p7-tiny", SLOT_EXPERT_UP, 2, 6, 31, 3, L(2) "moe.up_proj.weight", (6 * 32 + 31) * 64 + 3,
     as_is},
    {"step3p7-tiny", SLOT_MLP_DOWN, 0, 0, 5, 90, L(0) "mlp.down_proj.weight", 5 * 96 + 90, as_is},
    {"step3p7-tiny", SLOT_MLP_DOWN, 3, 0, 5, 40, L(3) "share_expert.down_proj.weight", 5 * 48 + 40,
     as_is},
    {"dbrx-tiny", SLOT_EXPERT_DOWN, 2, 6, 60, 31, B(2) "ffn.experts.mlp.w2",
     (6 * 32 + 31) * 64 + 60, as_is},
};

static void numbers_of_tensors(void **state) {
    (void)state;
    size_t n_checked = 0;
    char *name;
    for (size_t c = 0; (name = family_folder(c)) != NULL; c++) {
        struct family_model f = family_open(name);
        for (size_t i = 0; i < TEST_COUNT(numbers); i++) {
            const struct number *n = &numbers[i];
            if (strcmp(n->checkpoint, name) != 0) {
                continue;
            }
            struct err err = {0};
            float row[1024];
            const struct st_tensor *t = st_find(f.m.st, n->tensor);
            assert_non_null(t);
            hf_tensor_rows(&f.m, n->slot, n->layer, n->expert, n->row, 1, row, &err);
            assert_no_err(&err);
            if (row[n->col] != n->change(bf16_at(t, n->element))) {
                fail_msg("%s: %s of layer %u", n->checkpoint, slot_at(n->slot)->name, n->layer);
            }
            n_checked++;
        }
        free(name);
        family_close(&f);
    }
    assert_int_equal(n_checked, TEST_COUNT(numbers));
}

/* MXFP4 experts beside their blocks and scales, in rows and as neurons. */
static void numbers_of_blocks(void **state) {
    (void)state;
    static const float e2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    struct family_model f = family_open("gptoss-tiny");
    const struct st_tensor *blocks = st_find(f.m.st, L(2) "mlp.experts.gate_up_proj_blocks");
    const struct st_tensor *scales = st_find(f.m.st, L(2) "mlp.experts.gate_up_proj_scales");
    struct err err = {0};
    const uint32_t expert = 5, dim = 64, ffn = 64;
    float *x = mem_calloc(3 * (size_t)dim * ffn, sizeof *x);
    hf_expert_neurons(&f.m, 2, expert, 10, 20, x, x + dim * ffn, x + 2 * dim * ffn, &err);
    assert_no_err(&err);
    for (uint32_t i = 0; i < 20; i++) {
        for (uint32_t part = 0; part < 2; part++) {
            uint64_t row = expert * 128 + 2 * (10 + i) + part;
            for (uint32_t c = 0; c < dim; c++) {
                uint8_t byte = blocks->data[(row * dim + c) / 2];
                uint32_t code = c % 2 ? byte >> 4 : byte & 15;
                float want = ldexpf(code & 8 ? -e2m1[code & 7] : e2m1[code & 7],
                                    scales->data[row * 2 + c / 32] - 127);
                assert_true(x[part * dim * ffn + i * dim + c] == want);
            }
        }
    }
    float *down = mem_calloc((size_t)dim * ffn, sizeof *down);
    hf_tensor_rows(&f.m, SLOT_EXPERT_DOWN, 2, expert, 0, dim, down, &err);
    assert_no_err(&err);
    for (uint32_t i = 0; i < 20; i++) {
        for (uint32_t d = 0; d < dim; d++) {
            assert_true(x[2 * dim * ffn + i * dim + d] == down[d * ffn + 10 + i]);
        }
    }
    assert_int_equal(hf_weight(&f.m, SLOT_EXPERT_GATE, 2, 0).codec->id, CODEC_BF16);
    assert_null(hf_weight(&f.m, SLOT_EXPERT_GATE, 2, 0).data);
    free(x);
    free(down);
    family_close(&f);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_of_tensors),
        cmocka_unit_test(numbers_of_blocks),
    };
    return cmocka_run_group_tests_name("hf_names_numbers", tests, NULL, NULL);
}
