/*
 * hf_names: the golden families' tensors as slots: every slot is bound, numbers are those of the
 * tensors that they should come from, what is not the text model's is left out, and whatever is
 * missing or left over is named.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/hf/hf.h"
#include "tests/util/test_util_family.h"

#define FAMILIES "tests/golden/families/"

static const char *const checkpoints[] = {"gptoss-tiny",
                                          "gptoss-bf16",
                                          "qwen3next-tiny",
                                          "qwen35moe-tiny",
                                          "gemma4-tiny",
                                          "gemma4-shared",
                                          "glm4moe-tiny",
                                          "minimaxm2-tiny",
                                          "dots1-tiny",
                                          "ernie45-tiny",
                                          "hunyuan-tiny",
                                          "afmoe-tiny",
                                          "mellum-tiny",
                                          "sarvam-tiny",
                                          "qwen3vlmoe-tiny",
                                          "qwen3omnimoe-tiny",
                                          "glm4vmoe-tiny",
                                          "granitemoe-tiny",
                                          "granitemoeshared-tiny",
                                          "granitemoeswa-tiny",
                                          "exaonemoe-tiny",
                                          "solaropen-tiny",
                                          "hyv3-tiny",
                                          "llama4-tiny",
                                          "cohere2moe-tiny",
                                          "phimoe-tiny",
                                          "flexolmo-tiny",
                                          "flint-tiny",
                                          "kolibri1-tiny",
                                          "laguna-tiny",
                                          "laguna-elements",
                                          "deepseek-tiny",
                                          "bailingmoe-tiny",
                                          "bailingmoev2-tiny",
                                          "smallthinker-tiny",
                                          "dbrx-tiny",
                                          "step3p7-tiny",
                                          "deepseekv2-tiny",
                                          "deepseekv3-tiny",
                                          "glm4moelite-tiny"};

/* A checkpoint of a family, opened, in a directory of its own. */
struct family_model {
    char *temp, *dir;
    struct hf_model m;
};

static struct family_model open_family(const char *name) {
    struct family_model f = {.temp = test_mkdir()};
    struct err err = {0};
    char *golden = mem_printf(FAMILIES "%s", name);
    f.dir = family_checkpoint(golden, f.temp);
    hf_open(&f.m, f.dir, &err);
    assert_no_err(&err);
    free(golden);
    return f;
}

static void close_family(struct family_model *f) {
    hf_close(&f->m);
    free(f->dir);
    test_rmdir(f->temp);
}

/* Every matrix is read whole; codecs hold what is read. */
static void binds_all(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(checkpoints); i++) {
        struct family_model f = open_family(checkpoints[i]);
        const struct arch *a = hf_arch(&f.m);
        struct err err = {0};
        assert_int_equal(f.m.warnings.len, 0);
        for (struct slot_place at = {0}; slot_next(a, &at);) {
            struct weight w = hf_weight(&f.m, at.slot, at.layer, 0);
            assert_non_null(w.codec);
            assert_int_equal(w.rows, slot_at(at.slot)->rows(a, at.layer));
            float *rows = mem_calloc((size_t)w.rows * w.cols, sizeof *rows);
            float *row = mem_calloc(w.cols, sizeof *row);
            uint8_t *encoded = mem_alloc(codec_row_bytes(w.codec, w.cols));
            hf_tensor_rows(&f.m, at.slot, at.layer, 0, 0, w.rows, rows, &err);
            assert_no_err(&err);
            for (uint32_t r = 0; r < w.rows; r++) {
                w.codec->encode_row(rows + (size_t)r * w.cols, w.cols, encoded);
                w.codec->decode_row(w.data ? weight_row(&w, r) : encoded, w.cols, row);
                assert_memory_equal(row, rows + (size_t)r * w.cols, w.cols * sizeof *row);
            }
            free(rows);
            free(row);
            free(encoded);
        }
        size_t n = (size_t)a->ffn_dim * a->dim;
        float *x = mem_calloc(3 * n, sizeof *x);
        for (uint32_t l = 0; l < a->n_layers; l++) {
            for (uint32_t e = 0; arch_is_moe(a, l) && e < a->n_experts; e++) {
                hf_expert(&f.m, l, e, x, x + n, x + 2 * n, &err);
                assert_no_err(&err);
                hf_expert_want(&f.m, l, e);
                hf_expert_done(&f.m, l, e);
            }
        }
        free(x);
        close_family(&f);
    }
}

/* ---- numbers ---- */

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
    for (size_t c = 0; c < TEST_COUNT(checkpoints); c++) {
        struct family_model f = open_family(checkpoints[c]);
        for (size_t i = 0; i < TEST_COUNT(numbers); i++) {
            const struct number *n = &numbers[i];
            if (strcmp(n->checkpoint, checkpoints[c]) != 0) {
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
        }
        close_family(&f);
    }
}

/* MXFP4 experts beside their blocks and scales, in rows and as neurons. */
static void numbers_of_blocks(void **state) {
    (void)state;
    static const float e2m1[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    struct family_model f = open_family("gptoss-tiny");
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
    close_family(&f);
}

/* ---- missing, left over ---- */

/* Replace text in a file of a checkpoint, once or everywhere; in weights only names are looked at,
 * whose length does not matter to the data behind them. */
static void edit(const char *dir, const char *file, const char *from, const char *to, bool all) {
    struct err err = {0};
    uint8_t *data;
    size_t bytes;
    char *path = mem_printf("%s/%s", dir, file);
    file_read(path, 1 << 24, &data, &bytes, &err);
    assert_no_err(&err);
    bool weights = strstr(file, "safetensors") != NULL;
    uint64_t head = 0, text_bytes = bytes;
    if (weights) {
        head = 8;
        memcpy(&text_bytes, data, 8);
    }
    struct buf text = {0};
    uint32_t found = 0;
    const char *at = (const char *)data + head, *end = at + text_bytes;
    for (const char *hit; (hit = memmem(at, (size_t)(end - at), from, strlen(from))) != NULL;) {
        buf_append(&text, at, (size_t)(hit - at));
        buf_append(&text, to, strlen(to));
        at = hit + strlen(from);
        found++;
        if (!all) {
            break;
        }
    }
    assert_true(found > 0);
    buf_append(&text, at, (size_t)(end - at));
    struct buf out = {0};
    uint64_t length = text.len;
    if (weights) {
        buf_append(&out, &length, 8);
    }
    buf_append(&out, text.data, text.len);
    buf_append(&out, end, bytes - head - text_bytes);
    free(test_write(dir, file, out.data, out.len));
    buf_free(&text);
    buf_free(&out);
    free(data);
    free(path);
}

/* Open a checkpoint in which one name, or one number of config.json, is another. */
static void refuses(const char *name, const char *file, const char *from, const char *to,
                    const char *say, const char *say_too) {
    struct family_model f = open_family(name);
    struct err err = {0};
    hf_close(&f.m);
    edit(f.dir, file, from, to, false);
    int rc = hf_open(&f.m, f.dir, &err);
    assert_int_equal(rc, say ? -1 : 0);
    if (say) {
        assert_err(&err, say, say_too);
    }
    close_family(&f);
}

static void refuses_tensors(void **state) {
    (void)state;
    static const char weights[] = "model.safetensors", config[] = "config.json";
    static const struct {
        const char *checkpoint, *file, *from, *to, *say, *say_too;
    } rows[] = {
        {"gptoss-tiny", weights, L(1) "self_attn.sinks", L(1) "self_attn.sunks",
         L(1) "self_attn.sinks", "is missing"},
        {"gptoss-tiny", weights, L(1) "mlp.experts.down_proj_scales",
         L(1) "mlp.experts.down_proj_scalez", L(1) "mlp.experts.down_proj_scales", "is missing"},
        {"gptoss-tiny", weights, L(1) "mlp.experts.down_proj_blocks",
         L(1) "mlp.experts.down_proj_blockz", L(1) "mlp.experts.down_proj_blocks\" or ",
         L(1) "mlp.experts.down_proj\" is missing"},
        {"qwen3next-tiny", weights, L(0) "linear_attn.A_log", L(0) "linear_attn.A_lag",
         L(0) "linear_attn.A_log", "is missing"},
        {"qwen3next-tiny", weights, L(2) "mlp.experts.3.up_proj.weight",
         L(2) "mlp.experts.9.up_proj.weight", L(2) "mlp.experts.3.up_proj.weight\" or ",
         "gate_up_proj\" is missing"},
        {"qwen35moe-tiny", weights, T(0) "linear_attn.dt_bias", T(0) "linear_attn.dt_bins",
         T(0) "linear_attn.dt_bias", "is missing"},
        {"gemma4-tiny", weights, T(1) "router.scale", T(1) "router.scape", T(1) "router.scale",
         "is missing"},
        /* a full layer without a projection of values that has one after all */
        {"gemma4-tiny", weights, "model.vision_tower.patch_embedder.input_proj.weight",
         "model.language_model.layers.2.self_attn.v_proj.weight",
         "self_attn.v_proj.weight\" has no", "gemma4 model with 5 layers"},
        /* what is left out is named by patterns, not by being unknown */
        {"qwen35moe-tiny", weights, "model.visual.patch_embed.proj.bias",
         "model.visuel.patch_embed.proj.bias", "model.visuel.patch_embed.proj.bias\" has no place",
         "qwen3_5_moe model"},
        {"qwen35moe-tiny", weights, "mtp.fc.weight", "mtq.fc.weight", "mtq.fc.weight", "no place"},
        {"gemma4-tiny", weights, "model.embed_vision.", "model.embed_vizion.", "no place",
         "gemma4"},
        /* of layers behind the model's only as many as the file says, and no others */
        {"glm4moe-tiny", config, "\"num_nextn_predict_layers\": 1",
         "\"num_nextn_predict_layers\": 0", L(4) "eh_proj.weight\" has no place",
         "glm4_moe model with 4 layers"},
        {"glm4moe-tiny", weights, L(4) "eh_proj.weight", L(5) "eh_proj.weight",
         L(5) "eh_proj.weight\" has no place", "4 layers"},
        {"glm4moe-tiny", weights, L(4) "eh_proj.weight", L(3) "eh_proj.weight",
         L(3) "eh_proj.weight\" has no place", "4 layers"},
        {"glm4moe-tiny", weights, L(4) "eh_proj.weight", "model.layers.4_eh_proj.weight",
         "model.layers.4_eh_proj.weight\" has no place", "4 layers"},
        {"minimaxm2-tiny", config, "\"num_mtp_modules\": 1", "\"num_mtp_modules\": 0",
         L(3) "enorm.weight\" has no place", "minimax_m2 model with 3 layers"},
        {"ernie45-tiny", weights, "model.mtp_block.0", "model.mtq_block.0", "mtq_block",
         "no place"},
        /* queries are made of a latent of their own, or they are not */
        {"deepseekv3-tiny", weights, L(1) "self_attn.q_b_proj", L(1) "self_attn.q_c_proj",
         L(1) "self_attn.q_b_proj.weight\" or ", "self_attn.q_proj.weight\" is missing"},
        {"deepseekv3-tiny", config, "\"num_nextn_predict_layers\": 1",
         "\"num_nextn_predict_layers\": 0", L(3) "eh_proj.weight\" has no place", "deepseek_v3"},
        {"glm4moelite-tiny", config, "\"num_nextn_predict_layers\": 1",
         "\"num_nextn_predict_layers\": 0", L(3) "eh_proj.weight\" has no place", "glm4_moe_lite"},
        {"deepseekv2-tiny", config, "\"v_head_dim\": 64", "\"v_head_dim\": 32",
         L(0) "self_attn.kv_b_proj.weight\": shape is [384, 64]", "implies [256, 64]"},
        /* names as transformers 5 has them */
        {"hyv3-tiny", weights, L(1) "mlp.expert_bias", L(1) "mlp.e_score_correction_bias", NULL,
         NULL},
        {"exaonemoe-tiny", weights, L(1) "mlp.e_score_correction_bias",
         L(1) "mlp.gate.e_score_correction_bias", NULL, NULL},
        {"exaonemoe-tiny", weights, "mtp.eh_proj", "mtq.eh_proj",
         "mtq.eh_proj.weight\" has no place", "exaone_moe"},
        {"hyv3-tiny", config, "\"num_nextn_predict_layers\": 1", "\"num_nextn_predict_layers\": 0",
         L(3) "eh_proj.weight\" has no place", "hy_v3"},
        /* only what sees, hears and speaks is left out of models that do */
        {"qwen3omnimoe-tiny", weights, "code2wav.pre_transformer", "code3wav.pre_transformer",
         "code3wav.pre_transformer.norm.weight\" has no place", "qwen3_omni_moe model"},
        {"qwen3omnimoe-tiny", weights, "thinker.audio_tower.", "thinker.radio_tower.",
         "thinker.radio_tower.ln_post.bias\" has no place", "3 layers"},
        {"qwen3omnimoe-tiny", weights, "thinker.audio_tower.", "thinker.model.audio_tower.", NULL,
         NULL},
        {"qwen3omnimoe-tiny", weights, H(1) "mlp.gate.weight", L(1) "mlp.gate.weight",
         H(1) "mlp.gate.weight", "is missing"},
        {"qwen3vlmoe-tiny", weights, "model.visual.", "model.visuel.", "no place", "qwen3_vl_moe"},
        {"glm4vmoe-tiny", weights, "model.visual.", "model.visuel.", "no place", "glm4v_moe"},
        /* keys of a layer that reads those of another are left out, queries are not */
        {"gemma4-shared", weights, L(3) "self_attn.k_proj.weight", L(3) "self_attn.q_proj.weighs",
         L(3) "self_attn.q_proj.weighs", "no place"},
        {"gemma4-shared", weights, L(3) "self_attn.k_proj.weight", L(4) "self_attn.k_proj.weight",
         NULL, NULL},
        /* shapes by head sizes of the layer */
        {"gemma4-tiny", config, "\"global_head_dim\": 32", "\"global_head_dim\": 16",
         "self_attn.q_proj.weight\": shape is [128, 64]", "config.json implies [64, 64]"},
        {"qwen3next-tiny", config, "\"linear_num_value_heads\": 4", "\"linear_num_value_heads\": 2",
         "in_proj_qkvz.weight\": shape is [320, 64]", "implies [192, 64]"},
        {"gptoss-bf16", config, "\"intermediate_size\": 32", "\"intermediate_size\": 64",
         "gate_up_proj_bias\": shape is [8, 64]", "implies [8, 128]"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        refuses(rows[i].checkpoint, rows[i].file, rows[i].from, rows[i].to, rows[i].say,
                rows[i].say_too);
    }
}

/* ---- what names begin with ---- */

/* The same checkpoint with the names that each kind of wrapper gives. */
static void prefixes(void **state) {
    (void)state;
    static const struct {
        const char *body, *head;
    } rows[] = {{"\"model.language_model.", "\"lm_head"},
                {"\"language_model.model.", "\"language_model.lm_head"},
                {"\"thinker.model.", "\"thinker.lm_head"},
                {"\"thinker.model.language_model.", "\"thinker.lm_head"}};
    struct family_model plain = open_family("qwen3next-tiny");
    struct err err = {0};
    float x[64], y[64];
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct family_model f = open_family("qwen3next-tiny");
        hf_close(&f.m);
        edit(f.dir, "model.safetensors", "\"model.", rows[i].body, true);
        edit(f.dir, "model.safetensors", "\"lm_head", rows[i].head, true);
        hf_open(&f.m, f.dir, &err);
        assert_no_err(&err);
        assert_int_equal(hf_tensor_rows(&f.m, SLOT_HEAD, 0, 0, 9, 1, x, &err), 0);
        assert_int_equal(hf_tensor_rows(&plain.m, SLOT_HEAD, 0, 0, 9, 1, y, &err), 0);
        assert_memory_equal(x, y, sizeof x);
        close_family(&f);
    }
    close_family(&plain);
    refuses("qwen3next-tiny", "model.safetensors", "\"model.embed", "\"modal.embed",
            "tensor \"model.embed_tokens.weight\" is missing", "");
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(binds_all),         cmocka_unit_test(numbers_of_tensors),
        cmocka_unit_test(numbers_of_blocks), cmocka_unit_test(refuses_tensors),
        cmocka_unit_test(prefixes),
    };
    return cmocka_run_group_tests_name("hf_names", tests, NULL, NULL);
}
