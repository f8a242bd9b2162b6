/*
 * family: what each family's rows and function make of its config.json: kinds of layers, rotary
 * sets (beside values that transformers computed), wrappers, refusals; counts of parameters beside
 * those of transformers.
 */
#include "tests/util/test.h"

#include <dirent.h>
#include <inttypes.h>
#include <math.h>

#include "prep/hf/family.h"
#include "tests/util/test_util_config.h"

#define GOLDEN "tests/golden/"

#define GLM4 "{\"model_type\":\"glm4_moe\","
#define OSS "{\"model_type\":\"gpt_oss\","
#define NEXT "{\"model_type\":\"qwen3_next\","
#define QWEN35 "{\"model_type\":\"qwen3_5_moe_text\","
#define GEMMA_KEYS                                                                                 \
    "\"enable_moe_block\":true,\"hidden_size_per_layer_input\":0,\"num_experts\":16,"              \
    "\"top_k_experts\":4,\"moe_intermediate_size\":32"
#define GEMMA "{\"model_type\":\"gemma4_text\"," GEMMA_KEYS ","

/* ---- counts ---- */

/* num_parameters() of transformers, for published models and for the golden ones, and all of them
 * less the routed experts that a token does not use. */
static void counts(void **state) {
    (void)state;
    static const char *const folders[] = {GOLDEN "configs", GOLDEN "families"};
    uint32_t n = 0;
    for (size_t i = 0; i < TEST_COUNT(folders); i++) {
        DIR *d = opendir(folders[i]);
        assert_non_null(d);
        for (struct dirent *e; (e = readdir(d)) != NULL;) {
            if (e->d_name[0] == '.') {
                continue;
            }
            char *dir = mem_printf("%s/%s", folders[i], e->d_name);
            char *path = mem_printf("%s/params.txt", dir);
            struct hf_config c = config_read_ok(dir);
            FILE *f = fopen(path, "r");
            uint64_t want = 0, active = 0;
            assert_true(f && fscanf(f, "%" SCNu64 "%" SCNu64, &want, &active) == 2);
            if (arch_params(&c.arch) != want || arch_params_active(&c.arch) != active) {
                fail_msg("%s: %" PRIu64 " parameters, %" PRIu64 " used, expected %" PRIu64
                         " and %" PRIu64,
                         dir, arch_params(&c.arch), arch_params_active(&c.arch), want, active);
            }
            fclose(f);
            free(dir);
            free(path);
            hf_config_free(&c);
            n++;
        }
        closedir(d);
    }
    assert_true(n >= 32);
}

/* Those that a token uses, as publishers round them: of gpt-oss-20b 3.6 B without the embedding, of
 * Qwen3-30B-A3B 3 B, of gemma-4-26B-A4B 4 B with it, of GLM-4.5-Air 12 B. */
static void counts_of_a_token(void **state) {
    (void)state;
    static const struct {
        const char *dir;
        uint64_t with, without;
    } rows[] = {
        {GOLDEN "configs/gpt-oss-20b", 4187440704, 3608307264},
        {GOLDEN "configs/qwen3-30b-a3b", 3353032704, 3041867776},
        {GOLDEN "configs/gemma-4-26b-a4b", 3822530560, 3084333056},
        {GOLDEN "configs/mixtral-8x7b", 12879925248, 12748853248},
        {GOLDEN "configs/glm-4.5-air", 13424123904, 12803366912},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct hf_config c = config_read_ok(rows[i].dir);
        assert_int_equal(arch_params_active(&c.arch), rows[i].with);
        assert_int_equal(arch_params_active(&c.arch) - arch_params_embedding(&c.arch),
                         rows[i].without);
        hf_config_free(&c);
    }
}

/* ---- kinds ---- */

static void gpt_oss(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/gptoss-tiny");
    const struct arch *a = &c.arch;
    const struct layer_kind *k = arch_kind(a, 0);
    assert_string_equal(a->family, "gpt_oss");
    assert_int_equal(a->n_kinds, 2);
    assert_int_equal(k->att.window, 12);
    assert_int_equal(arch_kind(a, 1)->att.window, 0);
    assert_int_equal(a->ffn_dim, 64);
    assert_int_equal(k->att.sinks + k->att.qkv_bias + k->att.o_bias, 3);
    assert_int_equal(k->route.logit_bias + k->route.renorm + k->ffn.bias, 3);
    assert_int_equal(k->ffn.act, FFN_SWIGLU_OAI);
    assert_true(k->ffn.limit == 2.5f && k->ffn.alpha == 1.702f);
    assert_true(attention_scale(&k->att) == 0.25f);
    hf_config_free(&c);
    c = config_parse_ok(OSS
                        "\"num_hidden_layers\":2,\"attention_bias\":false,\"swiglu_alpha\":1.5}");
    k = arch_kind(&c.arch, 1);
    assert_int_equal(k->att.qkv_bias + k->att.o_bias, 0);
    assert_true(k->ffn.limit == 7.0f && k->ffn.alpha == 1.5f);
    assert_int_equal(c.arch.n_active, 4);
    hf_config_free(&c);
}

static void glm4_moe(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/glm4moe-tiny");
    const struct arch *a = &c.arch;
    const struct route_rule want = {.score = ROUTE_SIGMOID,
                                    .selection_bias = 1,
                                    .renorm = 1,
                                    .groups = 2,
                                    .top_groups = 1,
                                    .group_score = ROUTE_GROUP_TOP_TWO,
                                    .eps = 1e-20f,
                                    .scale = 2.5f};
    for (uint32_t l = 0; l < 4; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->moe, l > 0);
        assert_int_equal(arch_mlp_dim(a, l), l > 0 ? 64 : 96);
        assert_int_equal(k->shared_gate, 0);
        assert_memory_equal(&k->route, &want, sizeof want);
        assert_int_equal(k->att.qkv_bias, 1);
        assert_int_equal(k->att.o_bias, 0);
        assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_HEAD);
    }
    assert_int_equal(arch_rope(a, 0).dim, 16);
    assert_int_equal(c.further_layers, 1);
    hf_config_free(&c);

    c = config_parse_ok(GLM4
                        "\"num_hidden_layers\":3,\"head_dim\":128,\"first_k_dense_replace\":0,"
                        "\"n_shared_experts\":0,\"norm_topk_prob\":false,\"num_mtp_layers\":2}");
    assert_int_equal(a->n_kinds, 1);
    assert_int_equal(arch_mlp_dim(a, 0) + a->kinds->dense_dim + a->kinds->route.renorm, 0);
    assert_int_equal(a->kinds->att.qk_norm, ARCH_QK_NORM_NONE);
    assert_int_equal(arch_rope(a, 0).dim, 64);
    assert_int_equal(c.further_layers, 2);
    hf_config_free(&c);
}

static void delta_nets(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/qwen3next-tiny");
    const struct arch *a = &c.arch;
    const struct layer_kind *k = arch_kind(a, 3);
    for (uint32_t l = 0; l < 4; l++) {
        assert_int_equal(arch_kind(a, l)->mixer, l == 3 ? MIXER_ATTENTION : MIXER_DELTA_NET);
        assert_int_equal(arch_is_moe(a, l), l != 1);
    }
    assert_int_equal(k->att.gate, 1);
    assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_HEAD);
    assert_int_equal(k->shared_dim, 64);
    assert_int_equal(k->shared_gate + k->route.renorm, 2);
    assert_int_equal(arch_kind(a, 1)->dense_dim, 96);
    const struct delta_rule want = {2, 4, 16, 32, 4};
    assert_memory_equal(&arch_kind(a, 0)->delta, &want, sizeof want);
    assert_int_equal(arch_rope(a, 0).dim, 8);
    hf_config_free(&c);

    c = config_read_ok(GOLDEN "families/qwen35moe-tiny");
    for (uint32_t l = 0; l < 4; l++) {
        assert_int_equal(arch_kind(a, l)->mixer, l % 2 ? MIXER_ATTENTION : MIXER_DELTA_NET);
        assert_true(arch_is_moe(a, l) && arch_kind(a, l)->route.renorm);
    }
    assert_int_equal(a->tied, 0);
    hf_config_free(&c);

    c = config_parse_ok(QWEN35 "\"num_hidden_layers\":8}");
    for (uint32_t l = 0; l < 8; l++) {
        assert_int_equal(arch_kind(a, l)->mixer, l % 4 == 3 ? MIXER_ATTENTION : MIXER_DELTA_NET);
    }
    assert_int_equal(a->n_experts, 256);
    assert_int_equal(arch_rope(a, 0).dim, 64);
    hf_config_free(&c);
}

static void gemma4(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/gemma4-tiny");
    const struct arch *a = &c.arch;
    const struct layer_kind *sliding = arch_kind(a, 0), *full = arch_kind(a, 2);
    assert_int_equal(a->n_kinds, 2);
    assert_true(a->embed_scale == 8.0f && a->logit_cap == 6.0f);
    assert_int_equal(a->tied, 1);
    assert_int_equal(a->n_stop, 1); /* generation_config.json wins */
    assert_int_equal(sliding->att.head_dim, 16);
    assert_int_equal(sliding->att.n_kv_heads, 2);
    assert_int_equal(sliding->att.window, 12);
    assert_int_equal(sliding->att.v_from_k, 0);
    assert_int_equal(full->att.head_dim, 32);
    assert_int_equal(full->att.n_kv_heads, 1);
    assert_int_equal(full->att.window, 0);
    assert_int_equal(full->att.v_from_k, 1);
    for (uint32_t i = 0; i < 2; i++) {
        const struct layer_kind *k = &a->kinds[i];
        const struct block_rule want = {1, 1, 1};
        assert_memory_equal(&k->block, &want, sizeof want);
        assert_true(k->att.scale == 1.0f && k->att.v_norm == 1);
        assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_HEAD);
        assert_int_equal(k->route.input, ROUTE_OWN_NORM);
        assert_int_equal(k->route.renorm + k->route.factor, 2);
        assert_int_equal(k->ffn.act, FFN_GELU_TANH);
        assert_int_equal(k->shared_dim, 96);
        assert_int_equal(k->att.rope, i);
    }
    hf_config_free(&c);

    c = config_read_ok(GOLDEN "families/gemma4-shared");
    static const uint32_t from[5] = {0, 1, 2, 2, 1};
    assert_memory_equal(a->kv_layer, from, sizeof from);
    assert_int_equal(arch_kind(a, 1)->att.head_dim, 32);
    assert_int_equal(arch_kind(a, 1)->att.n_kv_heads, 2);
    assert_int_equal(arch_kind(a, 1)->att.v_from_k, 0);
    hf_config_free(&c);
}

/* Layers of gemma4 as keys spell them. */
static void gemma4_layers(void **state) {
    (void)state;
    static const struct {
        const char *config;
        uint32_t layer, head_dim, kv_heads, window, shared_dim;
    } rows[] = {
        /* five that slide, one full; the last is full whatever the list says */
        {GEMMA "\"num_hidden_layers\":12}", 5, 512, 4, 0, 9216},
        {GEMMA "\"num_hidden_layers\":12}", 6, 256, 4, 512, 9216},
        {GEMMA "\"num_hidden_layers\":4}", 3, 512, 4, 0, 9216},
        {GEMMA "\"num_hidden_layers\":2,\"layer_types\":[\"sliding_attention\","
               "\"sliding_attention\"]}",
         1, 512, 4, 0, 9216},
        {GEMMA "\"global_head_dim\":64}", 5, 64, 4, 0, 9216},
        /* counts only where values come from keys */
        {GEMMA "\"num_global_key_value_heads\":2}", 5, 512, 4, 0, 9216},
        {GEMMA "\"num_global_key_value_heads\":2,\"attention_k_eq_v\":true}", 5, 512, 2, 0, 9216},
        {GEMMA "\"num_global_key_value_heads\":null,\"attention_k_eq_v\":true}", 5, 512, 4, 0,
         9216},
        /* per_layer_config takes their place; with zeros before its keys, or without */
        {GEMMA "\"num_hidden_layers\":6,\"per_layer_config\":{\"05\":{\"head_dim\":32,"
               "\"num_key_value_heads\":1}}}",
         5, 32, 1, 0, 9216},
        {GEMMA "\"num_hidden_layers\":6,\"per_layer_config\":{\"5\":{\"head_dim\":32}}}", 5, 32, 4,
         0, 9216},
        {GEMMA "\"num_hidden_layers\":6,\"per_layer_config\":{}}", 5, 256, 4, 0, 9216},
        {GEMMA "\"sliding_window\":64,\"intermediate_size\":7}", 0, 256, 4, 64, 7},
        /* wide MLPs where keys are shared */
        {GEMMA "\"num_kv_shared_layers\":6,\"use_double_wide_mlp\":true}", 23, 512, 4, 0, 9216},
        {GEMMA "\"num_kv_shared_layers\":6,\"use_double_wide_mlp\":true}", 24, 256, 4, 512, 18432},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct hf_config c = config_parse_ok(rows[i].config);
        const struct layer_kind *k = arch_kind(&c.arch, rows[i].layer);
        if (k->att.head_dim != rows[i].head_dim || k->att.n_kv_heads != rows[i].kv_heads ||
            k->att.window != rows[i].window || k->shared_dim != rows[i].shared_dim) {
            fail_msg("%s: %u %u %u %u", rows[i].config, k->att.head_dim, k->att.n_kv_heads,
                     k->att.window, k->shared_dim);
        }
        hf_config_free(&c);
    }
}

/* ---- rotary sets ---- */

/* transformers 5.24.0: inv_freq and attention_scaling of the rotary embeddings of Qwen3Next, GptOss
 * and Gemma4Text. */
static void ropes(void **state) {
    (void)state;
    static const struct {
        const char *config;
        uint32_t layer, dim;
        double scale;
        float inv_freq[16];
    } rows[] = {
        {NEXT "\"head_dim\":64,\"rope_theta\":10000000,\"rope_scaling\":null}",
         3,
         16,
         1,
         {1, 0.133352146f, 0.0177827943f, 0.00237137382f, 0.000316227786f, 4.21696532e-05f,
          5.62341347e-06f, 7.49894241e-07f}},
        {OSS "\"head_dim\":32}",
         0,
         32,
         1.3465735902799727,
         {1, 0.47478205f, 0.225418001f, 0.107024416f, 0.0508132726f, 0.0193350017f, 0.00679495931f,
          0.00209379266f, 0.000456483918f, 3.83088118e-05f, 1.8188337e-05f, 8.63549576e-06f,
          4.09997847e-06f, 1.94659629e-06f, 9.24208962e-07f, 4.38797855e-07f}},
        {OSS "\"head_dim\":32,\"rope_scaling\":null,\"rope_theta\":150000}",
         1,
         32,
         1.3465735902799727,
         {1, 0.47478205f, 0.225418001f, 0.107024416f, 0.0508132726f, 0.0193350017f, 0.00679495931f,
          0.00209379266f, 0.000456483918f, 3.83088118e-05f, 1.8188337e-05f, 8.63549576e-06f,
          4.09997847e-06f, 1.94659629e-06f, 9.24208962e-07f, 4.38797855e-07f}},
        {OSS "\"head_dim\":16,\"max_position_embeddings\":256,\"rope_theta\":10000,"
             "\"rope_scaling\":{\"beta_fast\":4.0,\"beta_slow\":0.5,\"factor\":8.0,"
             "\"original_max_position_embeddings\":32,\"rope_type\":\"yarn\",\"truncate\":false}}",
         0,
         16,
         1.2079441541679836,
         {1, 0.195175499f, 0.0132751297f, 0.00395284733f, 0.00124999997f, 0.000395284733f,
          0.000125000006f, 3.95284733e-05f}},
        {GEMMA "\"num_hidden_layers\":6,\"head_dim\":16,\"global_head_dim\":32}",
         5,
         32,
         1,
         {1, 0.421696514f, 0.177827939f, 0.0749894157f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}},
        {GEMMA "\"num_hidden_layers\":6,\"head_dim\":16,\"global_head_dim\":32}",
         0,
         16,
         1,
         {1, 0.316227764f, 0.100000001f, 0.0316227786f, 0.00999999978f, 0.00316227786f,
          0.00100000005f, 0.000316227786f}},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct hf_config c = config_parse_ok(rows[i].config);
        struct rope_set set = arch_rope(&c.arch, arch_kind(&c.arch, rows[i].layer)->att.rope);
        assert_int_equal(set.dim, rows[i].dim);
        assert_true(fabs((double)set.scale / rows[i].scale - 1) < 1e-6);
        for (uint32_t k = 0; k < set.dim / 2; k++) {
            double want = (double)rows[i].inv_freq[k];
            if (fabs((double)set.inv_freq[k] - want) > 1e-6 * want) {
                fail_msg("%s: pair %u: %.9g", rows[i].config, k, (double)set.inv_freq[k]);
            }
        }
        hf_config_free(&c);
    }
}

/* ---- wrappers ---- */

/* The same model in a wrapper and by itself. */
static void wrappers(void **state) {
    (void)state;
    static const struct {
        const char *wrapped, *plain;
    } rows[] = {
        {"{\"model_type\":\"gemma4\",\"architectures\":[\"Gemma4ForConditionalGeneration\"],"
         "\"text_config\":{\"model_type\":\"gemma4_text\"," GEMMA_KEYS "},"
         "\"vision_config\":{\"hidden_size\":7},\"audio_config\":null,\"boi_token_id\":255999,"
         "\"image_token_id\":5,\"vision_soft_tokens_per_image\":280}",
         GEMMA "\"use_cache\":true}"},
        /* what the wrapper says of the whole counts where the text's object does not say it */
        {"{\"model_type\":\"gemma4\",\"tie_word_embeddings\":false,"
         "\"text_config\":{" GEMMA_KEYS "}}",
         GEMMA "\"tie_word_embeddings\":false}"},
        {"{\"model_type\":\"gemma4\",\"tie_word_embeddings\":false,"
         "\"text_config\":{" GEMMA_KEYS ",\"tie_word_embeddings\":true}}",
         GEMMA "\"tie_word_embeddings\":true}"},
        /* the wrapper has the fuller list of stop tokens */
        {"{\"model_type\":\"gemma4\",\"eos_token_id\":[1,106],"
         "\"text_config\":{" GEMMA_KEYS ",\"eos_token_id\":1}}",
         GEMMA "\"eos_token_id\":[1,106]}"},
        {"{\"model_type\":\"qwen3_5_moe\",\"text_config\":{\"num_hidden_layers\":4}}",
         QWEN35 "\"num_hidden_layers\":4}"},
        /* a key of the text's, once more */
        {"{\"model_type\":\"qwen3_5_moe\",\"num_hidden_layers\":4,\"rope_theta\":1e7,"
         "\"text_config\":{\"num_hidden_layers\":4,\"rope_theta\":1e7}}",
         QWEN35 "\"num_hidden_layers\":4,\"rope_theta\":1e7}"},
        {"{\"model_type\":\"qwen3_5_moe\",\"text_config\":null,\"num_hidden_layers\":4}",
         QWEN35 "\"num_hidden_layers\":4}"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct hf_config a = config_parse_ok(rows[i].wrapped), b = config_parse_ok(rows[i].plain);
        struct buf x = {0}, y = {0};
        arch_encode(&a.arch, &x);
        arch_encode(&b.arch, &y);
        assert_int_equal(x.len, y.len);
        assert_memory_equal(x.data, y.data, x.len);
        buf_free(&x);
        buf_free(&y);
        hf_config_free(&a);
        hf_config_free(&b);
    }
}

/* ---- refusals ---- */

static void refusals(void **state) {
    (void)state;
    static const struct config_refusal bad[] = {
        /* quantised checkpoints: only what is read */
        {OSS "\"quantization_config\":{\"quant_method\":\"awq\"}}", "AWQ", "which are not read"},
        {OSS "\"quantization_config\":{\"bits\":4}}", "quantization_config", "without a name"},
        {NEXT "\"quantization_config\":{\"quant_method\":\"mxfp4\"}}", "quantization_config",
         "MXFP4"},
        {"{\"model_type\":\"gemma4\",\"quantization_config\":{\"quant_method\":\"gptq\"},"
         "\"text_config\":{" GEMMA_KEYS "}}",
         "quantization_config", "GPTQ"},
        {"{\"model_type\":\"gemma4\",\"quantization\":{\"bits\":4},\"text_config\":{" GEMMA_KEYS
         "}}",
         "quantization: ", "MLX"},
        /* gpt_oss */
        {OSS "\"hidden_act\":\"gelu\"}", "hidden_act is \"gelu\"", "silu"},
        {OSS "\"swiglu_limit\":0}", "swiglu_limit is 0", "positive"},
        {OSS "\"experts_per_token\":3,\"num_experts_per_tok\":4}", "contradict", "experts_per_tok"},
        {OSS "\"num_hidden_layers\":1,\"layer_types\":[\"linear_attention\"]}",
         "\"linear_attention\") is neither", "sliding_attention"},
        {OSS "\"shared_expert_intermediate_size\":64}", "unknown key shared_expert", "gpt_oss"},
        {OSS "\"rope_parameters\":{\"mrope_section\":[1]}}", "unknown RoPE key mrope_section", ""},
        /* qwen3_next, qwen3_5_moe */
        {NEXT "\"attention_bias\":true}", "attention_bias is 1, expected 0", "qwen3_next"},
        {NEXT "\"full_attention_interval\":0}", "full_attention_interval is 0", "positive"},
        {NEXT "\"partial_rotary_factor\":1.5}", "partial_rotary_factor 1.5", ""},
        {NEXT "\"linear_num_value_heads\":17}", "delta_v_heads = 17", "config.json"},
        {NEXT "\"linear_conv_kernel_dim\":64}", "delta_conv", "64"},
        {NEXT "\"num_hidden_layers\":1,\"layer_types\":[\"sliding_attention\"]}",
         "\"sliding_attention\") is neither", "linear_attention"},
        {QWEN35 "\"norm_topk_prob\":false}", "norm_topk_prob is 0, expected 1", ""},
        {QWEN35 "\"attn_output_gate\":false}", "attn_output_gate is 0, expected 1", ""},
        {QWEN35 "\"mlp_only_layers\":[3]}", "unknown key mlp_only_layers", "qwen3_5_moe"},
        {QWEN35 "\"decoder_sparse_step\":2}", "decoder_sparse_step is 2, expected 1", ""},
        {QWEN35 "\"use_qk_norm\":false}", "use_qk_norm is 0, expected 1", "qwen3_5_moe"},
        {QWEN35 "\"output_gate_type\":\"sigmoid\"}", "output_gate_type is \"sigmoid\"", "swish"},
        {QWEN35 "\"output_gate_type\":false}", "output_gate_type is false", "silu"},
        {NEXT "\"output_gate_type\":\"tanh\"}", "output_gate_type is \"tanh\"", "silu"},
        {NEXT "\"attn_output_gate\":false}", "attn_output_gate is 0, expected 1", "qwen3_next"},
        {NEXT "\"use_qk_norm\":false}", "use_qk_norm is 0, expected 1", "qwen3_next"},
        {NEXT "\"use_sliding_window\":true}", "use_sliding_window is 1, expected 0", ""},
        {NEXT "\"sliding_window\":4096}", "sliding_window is 4096, expected 0", "qwen3_next"},
        {NEXT "\"max_window_layers\":9}", "max_window_layers is 9, expected 0", ""},
        /* glm4_moe */
        {GLM4 "\"head_dim\":128,\"first_k_dense_replace\":46}", "no layer has routed experts", ""},
        {GLM4 "\"head_dim\":128,\"n_group\":3}", "route_groups = 3", "divide n_experts = 128"},
        {GLM4 "\"head_dim\":128,\"topk_group\":2}", "route_top_groups = 2", "route_groups = 1"},
        {GLM4 "\"head_dim\":128,\"n_group\":0}", "n_group is 0", "positive"},
        {GLM4 "\"head_dim\":128,\"topk_group\":0}", "topk_group is 0", "positive"},
        {GLM4 "\"head_dim\":128,\"routed_scaling_factor\":0}", "routed_scaling_factor is 0", ""},
        {GLM4 "\"head_dim\":128,\"n_shared_experts\":2147483647}", "shared_dim", "4294967295"},
        {GLM4 "\"head_dim\":128,\"num_mtp_layers\":1,\"num_nextn_predict_layers\":2}", "contradict",
         "num_mtp_layers"},
        {GLM4 "\"head_dim\":128,\"scoring_func\":\"sigmoid\"}", "scoring_func is \"sigmoid\"",
         "glm4_moe"},
        {GLM4 "\"num_attention_heads\":7}", "must be a multiple of it", "head_dim"},
        /* gemma4 */
        {"{\"model_type\":\"gemma4_text\",\"num_experts\":8}", "enable_moe_block", "experts"},
        {"{\"model_type\":\"gemma4_text\",\"enable_moe_block\":true}",
         "hidden_size_per_layer_input is 256", "expected 0"},
        {"{\"model_type\":\"gemma4_text\",\"enable_moe_block\":true,"
         "\"hidden_size_per_layer_input\":0}",
         "no layer has routed experts", ""},
        {GEMMA "\"use_qk_norm\":false}", "use_qk_norm is 0, expected 1", "gemma4"},
        {GEMMA "\"use_bidirectional_attention\":\"all\"}", "use_bidirectional_attention", "vision"},
        {GEMMA "\"hidden_activation\":\"silu\"}", "hidden_activation", "gelu_pytorch_tanh"},
        {GEMMA "\"num_kv_shared_layers\":30}", "num_kv_shared_layers is 30", "less than"},
        {GEMMA "\"num_kv_shared_layers\":27}", "layer 5 has no earlier layer", ""},
        {GEMMA "\"per_layer_config\":{\"30\":{\"head_dim\":8}}}", "per_layer_config has \"30\"",
         ""},
        {GEMMA "\"per_layer_config\":{\"x\":{\"head_dim\":8}}}", "per_layer_config has \"x\"", ""},
        {GEMMA "\"per_layer_config\":{\"-1\":{}}}", "per_layer_config has \"-1\"", ""},
        {GEMMA "\"per_layer_config\":{\"5\":{},\"05\":{}}}", "per_layer_config has \"05\"", "once"},
        {GEMMA "\"per_layer_config\":{\"5\":7}}", "per_layer_config has \"5\"", ""},
        {GEMMA "\"per_layer_config\":[5]}", "per_layer_config is [5]", "an object"},
        {GEMMA "\"per_layer_config\":{\"5\":{\"intermediate_size\":7}}}", "intermediate_size is 7",
         "only head_dim"},
        {GEMMA "\"per_layer_config\":{\"5\":{\"head_dim\":0}}}", "head_dim is 0", "positive"},
        {GEMMA "\"per_layer_config\":{\"5\":{\"head_dim\":64}}}", "head_dim of layer 11 is 256",
         "of the same type 64"},
        {GEMMA "\"rope_parameters\":{\"rope_theta\":1e4}}", "no object for sliding_attention", ""},
        {GEMMA "\"rope_parameters\":{\"sliding_attention\":{}}}", "no object for full_attention",
         ""},
        {GEMMA "\"rope_parameters\":{\"sliding_attention\":{\"rope_type\":\"axial\"},"
               "\"full_attention\":{}}}",
         "\"axial\" is not supported", "proportional"},
        /* wrappers */
        {"{\"model_type\":\"gemma4\",\"text_config\":{\"model_type\":\"llama\"}}",
         "text_config is of model_type \"llama\"", "gemma4"},
        {"{\"model_type\":\"gemma4\",\"surprise\":1,\"text_config\":{" GEMMA_KEYS "}}",
         "unknown key surprise is 1", "gemma4"},
        {"{\"model_type\":\"gemma4\",\"text_config\":{\"surprise\":1," GEMMA_KEYS "}}",
         "unknown key surprise is 1", "gemma4"},
        {"{\"model_type\":\"gemma4\",\"hidden_size\":8,\"text_config\":{\"hidden_size\":"
         "16," GEMMA_KEYS "}}",
         "unknown key hidden_size is 8", "gemma4"},
        {"{\"model_type\":\"gemma4\",\"text_config\":7}", "text_config is 7", "an object"},
        {"{\"model_type\":\"gemma4\",\"text_config\":[]}", "text_config is []", "an object"},
    };
    config_refused(bad, TEST_COUNT(bad));
}

/* Every family has a name, a list of keys that holds what all need, and names that end. */
static void tables(void **state) {
    (void)state;
    static const enum family_key_id needed[] = {
        KEY_VOCAB,   KEY_DIM,      KEY_LAYERS, KEY_HEADS,   KEY_KV_HEADS, KEY_HEAD_DIM,
        KEY_CONTEXT, KEY_NORM_EPS, KEY_TIED,   KEY_EXPERTS, KEY_ACTIVE};
    const struct family *f;
    char *list = family_list();
    for (size_t i = 0; (f = family_at(i)) != NULL; i++) {
        assert_non_null(strstr(list, f->name));
        assert_true(i == 0 || strcmp(family_at(i - 1)->name, f->name) < 0);
        assert_non_null(f->types[0]);
        assert_non_null(f->architectures[0]);
        for (size_t n = 0; n < TEST_COUNT(needed); n++) {
            const struct family_key *k = f->keys;
            while (k->id != needed[n] && k->id != KEY_END) {
                k++;
            }
            assert_int_equal(k->id, needed[n]);
        }
        for (const struct family_key *k = f->keys; k->id != KEY_END; k++) {
            assert_non_null(hf_config_key(k->id));
        }
        for (const struct family_name *n = f->names; n->pattern; n++) {
            assert_true(n->slot < SLOT_COUNT && n->layout < HF_LAYOUT_COUNT);
        }
    }
    assert_int_equal(
        strlen(list),
        strlen(
            "afmoe, axk1, bailing_moe, bailing_moe_v2, cohere2_moe, dbrx, deepseek, deepseek_v2, "
            "deepseek_v3, deepseek_v32, dots1, ernie4_5_moe, exaone_moe, flex_olmo, flint, gemma4, "
            "glm4_moe, "
            "glm4_moe_lite, glm4v_moe, glm_moe_dsa, gpt_oss, granitemoe, granitemoe_swa, "
            "granitemoeshared, "
            "hunyuan_v1_moe, hy_v3, kolibri1, laguna, llama4, mellum, mimo_v2_flash, minimax_m2, "
            "mistral4, "
            "mixtral, "
            "olmoe, phimoe, qwen2_moe, qwen3_5_moe, qwen3_moe, qwen3_next, qwen3_omni_moe, "
            "qwen3_vl_moe, sarvam_mla, sarvam_moe, smallthinker, solar_open, step3p7"));
    free(list);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts),        cmocka_unit_test(counts_of_a_token),
        cmocka_unit_test(gpt_oss),       cmocka_unit_test(glm4_moe),
        cmocka_unit_test(delta_nets),    cmocka_unit_test(gemma4),
        cmocka_unit_test(gemma4_layers), cmocka_unit_test(ropes),
        cmocka_unit_test(wrappers),      cmocka_unit_test(refusals),
        cmocka_unit_test(tables),
    };
    return cmocka_run_group_tests_name("family", tests, NULL, NULL);
}
