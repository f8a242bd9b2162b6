/*
 * hf_names: the golden families' tensors as slots: every slot is bound, what is not the text
 * model's is left out, and whatever is missing or left over is named.
 */
#include "tests/util/test.h"

#include "prep/hf/hf.h"
#include "tests/util/test_util_family.h"

/* Every matrix is read whole; codecs hold what is read. */
static void binds_all(void **state) {
    (void)state;
    size_t n_folders = 0;
    for (char *name; (name = family_folder(n_folders)) != NULL; n_folders++) {
        struct family_model f = family_open(name);
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
        free(name);
        family_close(&f);
    }
    assert_true(n_folders >= 40);
}

/* ---- missing, left over ---- */

#define L(n) "model.layers." #n "."
#define T(n) "model.language_model.layers." #n "."
#define H(n) "thinker.model.layers." #n "."

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
    struct family_model f = family_open(name);
    struct err err = {0};
    hf_close(&f.m);
    edit(f.dir, file, from, to, false);
    int rc = hf_open(&f.m, f.dir, &err);
    assert_int_equal(rc, say ? -1 : 0);
    if (say) {
        assert_err(&err, say, say_too);
    }
    family_close(&f);
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
        /* only the indexer is left out, a norm behind experts is not, nor one of two biases */
        {"deepseekv32-tiny", weights, L(1) "self_attn.indexer.wk", L(1) "self_attn.indixer.wk",
         L(1) "self_attn.indixer.wk.weight\" has no place", "deepseek_v32"},
        {"glmmoedsa-tiny", config, "\"num_nextn_predict_layers\": 1",
         "\"num_nextn_predict_layers\": 0", L(3) "eh_proj.weight\" has no place", "glm_moe_dsa"},
        {"axk1-tiny", weights, L(1) "post_mlp_layernorm", L(1) "post_mlq_layernorm",
         L(1) "post_mlp_layernorm.weight\" or ", "mlp.post_mlp_layernorm.weight\" is missing"},
        {"axk1-tiny", weights, L(1) "post_mlp_layernorm", L(1) "mlp.post_mlp_layernorm", NULL,
         NULL},
        {"axk1-tiny", weights, L(3) "enorm.weight", L(2) "mlp.gate.e_score_correction_bias",
         L(1) "mlp.gate.e_score_correction_bias\" is missing", ""},
        {"sarvammla-tiny", weights, L(1) "mlp.gate.e_score", L(1) "mlp.gate.f_score",
         L(1) "mlp.gate.e_score_correction_bias\" is missing", ""},
        {"mimov2flash-tiny", weights, "model.mtp.layers.0.", "model.mtq.layers.0.",
         "model.mtq.layers.0.eh_proj.weight\" has no place", "mimo_v2_flash"},
        {"mimov2flash-tiny", config, "\"v_head_dim\": 32", "\"v_head_dim\": 48",
         "swa_v_head_dim is 32", "48 in every layer"},
        {"mimov2flash-tiny", config, "\"swa_num_key_value_heads\": 2",
         "\"swa_num_key_value_heads\": 4", "self_attn.k_proj.weight\": shape is [96, 64]",
         "implies [192, 64]"},
        {"mimov2flash-tiny", weights, L(1) "self_attn.attention_sink_bias", L(1) "self_attn.sinks",
         NULL, NULL},
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
         "self_attn.q_proj.weight\": shape is [128, 64]", "the configuration implies [64, 64]"},
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
    struct family_model plain = family_open("qwen3next-tiny");
    struct err err = {0};
    float x[64], y[64];
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct family_model f = family_open("qwen3next-tiny");
        hf_close(&f.m);
        edit(f.dir, "model.safetensors", "\"model.", rows[i].body, true);
        edit(f.dir, "model.safetensors", "\"lm_head", rows[i].head, true);
        hf_open(&f.m, f.dir, &err);
        assert_no_err(&err);
        assert_int_equal(hf_tensor_rows(&f.m, SLOT_HEAD, 0, 0, 9, 1, x, &err), 0);
        assert_int_equal(hf_tensor_rows(&plain.m, SLOT_HEAD, 0, 0, 9, 1, y, &err), 0);
        assert_memory_equal(x, y, sizeof x);
        family_close(&f);
    }
    family_close(&plain);
    refuses("qwen3next-tiny", "model.safetensors", "\"model.embed", "\"modal.embed",
            "tensor \"model.embed_tokens.weight\" is missing", "");
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(binds_all),
        cmocka_unit_test(refuses_tensors),
        cmocka_unit_test(prefixes),
    };
    return cmocka_run_group_tests_name("hf_names", tests, NULL, NULL);
}
