/*
 * family_kin: what the keys of a config.json become in families that have much of another one:
 * text models inside models that see, hear and speak, Granite and its kin, families with
 * experts as glm4_moe has them:
 * kinds of layers, rotary sets, refusals.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/hf/family.h"
#include "tests/util/test_util_config.h"

#define GOLDEN "tests/golden/"
#define VL "{\"model_type\":\"qwen3_vl_moe_text\","
#define OMNI "{\"model_type\":\"qwen3_omni_moe_text\",\"head_dim\":64,"
#define GLM4V "{\"model_type\":\"glm4v_moe_text\",\"head_dim\":128,"
#define GRANITE "{\"model_type\":\"granitemoe\","
#define GRANITE_SHARED "{\"model_type\":\"granitemoeshared\","
#define GRANITE_SWA "{\"model_type\":\"granitemoe_swa\","
#define EXAONE "{\"model_type\":\"exaone_moe\","
#define SOLAR "{\"model_type\":\"solar_open\","
#define HY "{\"model_type\":\"hy_v3\","
#define GEMMA_KEYS                                                                                 \
    "\"enable_moe_block\":true,\"hidden_size_per_layer_input\":0,\"num_experts\":16,"              \
    "\"top_k_experts\":4,\"moe_intermediate_size\":32"

/* ---- kinds ---- */

/* Text models that are published inside others. */
static void inside(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/qwen3vlmoe-tiny");
    const struct arch *a = &c.arch;
    for (uint32_t l = 0; l < 3; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->moe, l != 1);
        assert_int_equal(k->dense_dim, 96);
        assert_int_equal(k->att.qkv_bias + k->att.o_bias + k->route.renorm, 3);
        assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_HEAD);
    }
    assert_int_equal(a->n_active, 3);
    hf_config_free(&c);
    c = config_parse_ok(VL "\"norm_topk_prob\":true}"); /* which the class has no key for */
    assert_int_equal(a->kinds->route.renorm, 1);
    assert_int_equal(a->n_experts + a->n_active + a->ffn_dim, 60 + 4 + 1408);
    hf_config_free(&c);

    c = config_read_ok(GOLDEN "families/qwen3omnimoe-tiny");
    assert_string_equal(a->family, "qwen3_omni_moe");
    assert_int_equal(a->n_kinds, 1);
    assert_int_equal(a->kinds->route.renorm + a->kinds->att.qkv_bias + a->kinds->shared_dim, 0);
    assert_int_equal(a->kinds->att.qk_norm, ARCH_QK_NORM_HEAD);
    hf_config_free(&c);
    c = config_parse_ok(OMNI "\"num_hidden_layers\":2}");
    assert_int_equal(a->kinds->route.renorm, 1);
    hf_config_free(&c);

    c = config_read_ok(GOLDEN "families/glm4vmoe-tiny");
    assert_int_equal(arch_kind(a, 0)->moe, 0);
    assert_int_equal(arch_mlp_dim(a, 1), 32);
    assert_int_equal(arch_kind(a, 2)->route.groups, 2);
    assert_true(arch_kind(a, 2)->route.scale == 1.5f);
    assert_int_equal(arch_rope(a, 0).dim, 16);
    hf_config_free(&c);
    c = config_parse_ok(GLM4V "\"num_hidden_layers\":2}");
    assert_int_equal(a->kinds->att.qkv_bias, 1);
    assert_int_equal(a->kinds->att.qk_norm, ARCH_QK_NORM_NONE);
    hf_config_free(&c);
}

static void granite(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/granitemoeshared-tiny");
    const struct arch *a = &c.arch;
    const struct layer_kind *k = arch_kind(a, 0);
    assert_int_equal(a->n_kinds, 1);
    assert_true(a->embed_scale == 1.5f && a->logit_scale == 1 / 1.5f);
    assert_true(attention_scale(&k->att) == 0.375f && k->block.branch_scale == 0.5f);
    assert_int_equal(k->shared_dim, 48);
    assert_int_equal(k->att.qkv_bias + k->att.o_bias + k->route.renorm, 3);
    hf_config_free(&c);
    /* without factors, all of them are 1, that of attention too */
    c = config_parse_ok(GRANITE "\"num_hidden_layers\":1}");
    k = arch_kind(a, 0);
    assert_true(a->embed_scale == 1 && a->logit_scale == 0 && k->block.branch_scale == 0);
    assert_true(attention_scale(&k->att) == 1);
    assert_int_equal(a->ffn_dim, 11008);
    assert_int_equal(a->stop_ids[0], 2);
    hf_config_free(&c);

    c = config_read_ok(GOLDEN "families/granitemoeswa-tiny");
    static const uint32_t dims[] = {0, 16, 16, 16}, windows[] = {0, 12, 12, 0};
    for (uint32_t l = 0; l < 4; l++) {
        k = arch_kind(a, l);
        assert_int_equal(k->att.window, windows[l]);
        assert_int_equal(arch_rope(a, k->att.rope).dim, dims[l]);
        assert_int_equal(k->att.sinks, 1);
    }
    assert_int_equal(a->n_ropes, 3);
    assert_int_equal(arch_kind(a, 1)->att.rope, arch_kind(a, 3)->att.rope);
    assert_true(fabsf(arch_rope(a, arch_kind(a, 1)->att.rope).inv_freq[1] - 0.316227764f) < 1e-6f);
    assert_true(fabsf(arch_rope(a, arch_kind(a, 2)->att.rope).inv_freq[1] - 0.193922745f) < 1e-6f);
    hf_config_free(&c);
    c = config_parse_ok(GRANITE_SWA "\"num_hidden_layers\":6}");
    for (uint32_t l = 0; l < 6; l++) {
        assert_int_equal(arch_kind(a, l)->att.window, l % 4 ? 128 : 0);
    }
    assert_int_equal(a->n_ropes, 1);
    hf_config_free(&c);
}

static void exaone_moe(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/exaonemoe-tiny");
    const struct arch *a = &c.arch;
    for (uint32_t l = 0; l < 4; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->moe, l > 0);
        assert_int_equal(k->att.window, l == 2 ? 0 : 12);
        assert_int_equal(arch_rope(a, k->att.rope).dim, l == 2 ? 0 : 32);
        assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_HEAD);
        assert_int_equal(k->att.qkv_bias, 0);
    }
    assert_int_equal(arch_mlp_dim(a, 0) + arch_mlp_dim(a, 1), 96 + 32);
    hf_config_free(&c);
    c = config_parse_ok(EXAONE "\"num_hidden_layers\":6,\"sliding_window_pattern\":3,"
                               "\"mlp_layer_types\":[\"sparse\",\"sparse\",\"dense\",\"sparse\","
                               "\"sparse\",\"sparse\"]}");
    for (uint32_t l = 0; l < 6; l++) {
        assert_int_equal(arch_kind(a, l)->att.window, l % 3 == 2 ? 0 : 4096);
        assert_int_equal(arch_kind(a, l)->moe, l != 2);
    }
    assert_true(arch_kind(a, 0)->route.scale == 2.5f);
    assert_int_equal(a->stop_ids[0], 53);
    hf_config_free(&c);
    /* without a window all layers are turned */
    c = config_parse_ok(EXAONE "\"num_hidden_layers\":2,\"sliding_window\":null,\"layer_types\":"
                               "[\"full_attention\",\"full_attention\"]}");
    assert_int_equal(a->n_ropes, 1);
    assert_int_equal(arch_rope(a, 0).dim, 128);
    hf_config_free(&c);
}

static void solar_and_hy(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/solaropen-tiny");
    const struct arch *a = &c.arch;
    const struct layer_kind *k = arch_kind(a, 0);
    assert_int_equal(a->n_kinds, 1);
    assert_int_equal(k->moe + k->att.qkv_bias, 2);
    assert_int_equal(k->att.o_bias + k->att.qk_norm, 0);
    assert_int_equal(k->shared_dim, 64);
    assert_int_equal(arch_rope(a, 0).dim, 32);
    hf_config_free(&c);

    c = config_read_ok(GOLDEN "families/hyv3-tiny");
    const struct route_rule want = {.score = ROUTE_SIGMOID,
                                    .selection_bias = 1,
                                    .renorm = 1,
                                    .group_score = ROUTE_GROUP_TOP_TWO,
                                    .eps = 1e-20f,
                                    .scale = 1.75f};
    assert_int_equal(arch_kind(a, 0)->moe, 0);
    assert_memory_equal(&arch_kind(a, 1)->route, &want, sizeof want);
    assert_int_equal(arch_kind(a, 1)->att.qk_norm, ARCH_QK_NORM_HEAD);
    assert_int_equal(c.further_layers, 1);
    hf_config_free(&c);
    c = config_parse_ok(HY "\"num_hidden_layers\":2,\"attention_bias\":true,"
                           "\"mlp_layer_types\":[\"sparse\",\"sparse\"]}");
    k = arch_kind(a, 1);
    assert_int_equal(a->n_kinds, 1);
    assert_int_equal(k->att.qkv_bias + k->att.o_bias, 2);
    assert_int_equal(k->dense_dim, 0);
    hf_config_free(&c);
}

/* ---- rotary sets ---- */

/* transformers 5.24.0: inv_freq of the rotary embeddings of Qwen3VLMoeText, Qwen3OmniMoeThinkerText
 * and Glm4vMoeText. */
static void ropes(void **state) {
    (void)state;
    static const struct {
        const char *config;
        uint32_t layer, dim;
        double scale;
        float inv_freq[8];
    } rows[] = {
        {VL "\"head_dim\":16,\"rope_theta\":5000000,\"rope_scaling\":{\"mrope_interleaved\":true,"
            "\"mrope_section\":[3,3,2],\"rope_type\":\"default\"}}",
         0,
         16,
         1,
         {1, 0.14542155f, 0.0211474262f, 0.00307529117f, 0.000447213621f, 6.50344882e-05f,
          9.45741613e-06f, 1.37531208e-06f}},
        {"{\"model_type\":\"qwen3_omni_moe_text\",\"head_dim\":16,\"rope_theta\":1000000,"
         "\"rope_scaling\":{\"interleaved\":true,\"mrope_interleaved\":true,"
         "\"mrope_section\":[4,2,2],\"rope_type\":\"default\",\"type\":\"default\"}}",
         0,
         16,
         1,
         {1, 0.177827939f, 0.0316227786f, 0.00562341325f, 0.00100000005f, 0.00017782794f,
          3.16227743e-05f, 5.62341347e-06f}},
        {"{\"model_type\":\"glm4v_moe_text\",\"head_dim\":32,\"rope_scaling\":"
         "{\"mrope_section\":[2,3,3],\"rope_type\":\"default\"}}",
         2,
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
        {"{\"model_type\":\"qwen3_vl_moe\",\"tie_word_embeddings\":true,\"text_config\":"
         "{\"num_hidden_layers\":4}}",
         VL "\"num_hidden_layers\":4,\"tie_word_embeddings\":true}"},
        {"{\"model_type\":\"glm4v_moe\",\"video_start_token_id\":5,\"text_config\":"
         "{\"head_dim\":128}}",
         GLM4V "\"use_cache\":true}"},
        /* a text model inside what thinks inside what speaks */
        {"{\"model_type\":\"qwen3_omni_moe\",\"talker_config\":{\"hidden_size\":7},"
         "\"eos_token_id\":[3,4],\"thinker_config\":{\"model_type\":\"qwen3_omni_moe_thinker\","
         "\"tie_word_embeddings\":true,\"audio_config\":{},\"text_config\":{\"head_dim\":64,"
         "\"eos_token_id\":3}}}",
         OMNI "\"tie_word_embeddings\":true,\"eos_token_id\":[3,4]}"},
        {"{\"model_type\":\"qwen3_omni_moe_thinker\",\"text_config\":{\"head_dim\":64}}",
         OMNI "\"use_cache\":true}"},
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
    static const struct config_refusal rows[] = {
        /* qwen3_vl_moe, qwen3_omni_moe, glm4v_moe */
        {VL "\"norm_topk_prob\":false}", "norm_topk_prob is 0, expected 1", "qwen3_vl_moe"},
        {VL "\"use_qk_norm\":false}", "use_qk_norm is 0, expected 1", "qwen3_vl_moe"},
        {VL "\"sliding_window\":7}", "unknown key sliding_window is 7", "qwen3_vl_moe"},
        {OMNI "\"shared_expert_intermediate_size\":7}", "shared_expert_intermediate_size is 7", ""},
        {OMNI "\"rope_scaling\":{\"mrope\":[1]}}", "unknown RoPE key mrope", ""},
        {GLM4V "\"use_qk_norm\":true}", "use_qk_norm is 1, expected 0", "glm4v_moe"},
        {"{\"model_type\":\"qwen3_omni_moe\",\"thinker_config\":7}", "thinker_config is 7",
         "an object"},
        {"{\"model_type\":\"qwen3_omni_moe\",\"thinker_config\":{\"model_type\":\"gemma4\"}}",
         "thinker_config is of model_type \"gemma4\"", "qwen3_omni_moe"},
        {"{\"model_type\":\"qwen3_omni_moe\",\"surprise\":1,\"thinker_config\":{}}",
         "unknown key surprise is 1", "qwen3_omni_moe"},
        {"{\"model_type\":\"qwen3_omni_moe\",\"thinker_config\":{\"surprise\":1,\"text_config\":"
         "{}}}",
         "unknown key surprise is 1", "qwen3_omni_moe"},
        {"{\"model_type\":\"gemma4\",\"thinker_config\":{\"text_config\":{" GEMMA_KEYS "}}}",
         "enable_moe_block", "experts"},
        /* granitemoe and its kin */
        {GRANITE "\"shared_intermediate_size\":8}", "is 8, expected 0 in the granitemoe family",
         ""},
        {GRANITE_SHARED "\"sliding_window\":8}", "sliding_window is 8, expected 0", ""},
        {GRANITE "\"residual_multiplier\":0}", "residual_multiplier is 0", "positive"},
        {GRANITE "\"logits_scaling\":-1}", "logits_scaling is -1", "positive"},
        {GRANITE "\"layer_types\":[\"full_attention\"]}", "unknown key layer_types", "granitemoe"},
        {GRANITE_SWA "\"layer_rope_theta\":[0]}", "layer_rope_theta is [0]", "each layer"},
        {GRANITE_SWA "\"num_hidden_layers\":1,\"layer_rope_theta\":[\"0\"]}",
         "layer_rope_theta is [\"0\"]", "a number"},
        {GRANITE_SWA "\"num_hidden_layers\":1,\"layer_rope_theta\":[-1]}",
         "layer_rope_theta is [-1]", ""},
        {GRANITE_SWA "\"sliding_window\":0}", "sliding_window is 0", "null"},
        /* exaone_moe, solar_open, hy_v3 */
        {EXAONE "\"sliding_window_pattern\":\"LLLG\"}", "sliding_window_pattern is \"LLLG\"",
         "layer_types is not there"},
        {EXAONE "\"sliding_window_pattern\":0}", "sliding_window_pattern is 0", "positive"},
        {EXAONE "\"mlp_layer_types\":[\"dense\"]}", "mlp_layer_types must be a list of 32", ""},
        {EXAONE "\"num_hidden_layers\":1,\"mlp_layer_types\":[\"thin\"]}",
         "mlp_layer_types entry 0 (\"thin\") is neither dense", "sparse"},
        {EXAONE "\"attention_bias\":true}", "unknown key attention_bias", "exaone_moe"},
        {SOLAR "\"first_k_dense_replace\":1}", "first_k_dense_replace is 1, expected 0", ""},
        {SOLAR "\"use_qk_norm\":true}", "use_qk_norm is 1, expected 0", "solar_open"},
        {HY "\"norm_topk_prob\":false}", "norm_topk_prob is 0, expected 1", "hy_v3"},
        {HY "\"n_group\":2}", "n_group is 2", "hy_v3"},
        {HY "\"mlp_bias\":true}", "mlp_bias is true", "hy_v3"},
        {HY "\"routed_scaling_factor\":2,\"router_scaling_factor\":3}", "contradict", ""},
    };
    config_refused(rows, TEST_COUNT(rows));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(inside),       cmocka_unit_test(granite), cmocka_unit_test(exaone_moe),
        cmocka_unit_test(solar_and_hy), cmocka_unit_test(ropes),   cmocka_unit_test(wrappers),
        cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("family_kin", tests, NULL, NULL);
}
