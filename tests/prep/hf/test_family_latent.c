/*
 * family_latent: what the keys of a config.json become in families with latent attention: kinds of
 * layers, factors on scores, rotary sets, refusals.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/hf/family.h"
#include "tests/util/test_util_config.h"
#include "tests/util/test_util_family.h"

#define GOLDEN "tests/golden/"
#define V2 "{\"model_type\":\"deepseek_v2\",\"num_experts_per_tok\":6,"
#define V3 "{\"model_type\":\"deepseek_v3\","
#define LITE "{\"model_type\":\"glm4_moe_lite\","
#define LITE3 LITE "\"num_hidden_layers\":3,"
#define V32 "{\"model_type\":\"deepseek_v32\","
#define DSA3 "{\"model_type\":\"glm_moe_dsa\",\"num_hidden_layers\":3,"
#define AXK1 "{\"model_type\":\"AXK1\","
#define SARVAM "{\"model_type\":\"sarvam_mla\","
#define MISTRAL "{\"model_type\":\"mistral4\","

/* ---- kinds ---- */

static void check_rule(const struct arch *a, uint32_t layer, struct latent_rule want) {
    const struct layer_kind *k = arch_kind(a, layer);
    static const struct attention_rule none = {0};
    want.scale = k->latent.scale; /* which is compared by itself */
    assert_int_equal(k->mixer, MIXER_LATENT);
    assert_memory_equal(&k->att, &none, sizeof none);
    assert_memory_equal(&k->latent, &want, sizeof want);
}

/* Within an ulp of a scale that transformers computes in double precision. */
static void check_scale(const struct arch *a, double want) {
    const float scale = latent_scale(&arch_kind(a, 0)->latent, 0);
    assert_true(fabs((double)scale / want - 1) < 1.2e-7);
}

static void deepseek_v2(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/deepseekv2-tiny");
    const struct arch *a = &c.arch;
    const struct route_rule want = {.groups = 4, .top_groups = 2, .scale = 2};
    for (uint32_t l = 0; l < 3; l++) {
        check_rule(a, l,
                   (struct latent_rule){.n_heads = 4,
                                        .rank = 64,
                                        .nope_dim = 32,
                                        .rope_dim = 16,
                                        .v_dim = 64,
                                        .norm_eps = 1e-6f});
        assert_int_equal(arch_kind(a, l)->moe, l > 0);
    }
    assert_memory_equal(&arch_kind(a, 1)->route, &want, sizeof want);
    assert_int_equal(arch_mlp_dim(a, 0) + arch_mlp_dim(a, 1), 96 + 64);
    const double m = 0.1 * 0.707 * log(40) + 1;
    check_scale(a, m * m / sqrt(48));
    assert_true(arch_rope(a, 0).scale == 1);
    assert_int_equal(arch_rope(a, 0).dim, 16);
    hf_config_free(&c);
    /* by the greedy method groups are not looked at; without YaRN scores have no further factor */
    c = config_parse_ok(V2 "\"n_group\":8,\"topk_group\":3,\"q_lora_rank\":null,\"head_dim\":64}");
    assert_int_equal(arch_kind(a, 0)->route.groups, 0);
    assert_int_equal(arch_kind(a, 0)->latent.q_rank, 0);
    assert_int_equal(arch_kind(a, 0)->moe, 1);
    check_scale(a, 1 / sqrt(192));
    hf_config_free(&c);
    c = config_parse_ok(V2 "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4}}");
    check_scale(a, 1 / sqrt(192));
    assert_int_equal(arch_kind(a, 0)->latent.q_rank, 1536);
    hf_config_free(&c);
}

static void deepseek_v3(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/deepseekv3-tiny");
    const struct arch *a = &c.arch;
    const struct route_rule want = {.score = ROUTE_SIGMOID,
                                    .selection_bias = 1,
                                    .renorm = 1,
                                    .groups = 2,
                                    .top_groups = 1,
                                    .group_score = ROUTE_GROUP_TOP_TWO,
                                    .eps = 1e-20f,
                                    .scale = 2.5f};
    for (uint32_t l = 0; l < 3; l++) {
        check_rule(a, l,
                   (struct latent_rule){.n_heads = 4,
                                        .q_rank = 32,
                                        .rank = 64,
                                        .nope_dim = 64,
                                        .rope_dim = 32,
                                        .v_dim = 32,
                                        .norm_eps = 1e-6f});
    }
    assert_memory_equal(&arch_kind(a, 2)->route, &want, sizeof want);
    assert_int_equal(c.further_layers, 1);
    const double m = 0.1 * log(40) + 1;
    check_scale(a, m * m / sqrt(96));
    hf_config_free(&c);

    c = config_read_ok(GOLDEN "configs/moonlight-16b-a3b");
    assert_int_equal(arch_kind(a, 0)->latent.q_rank, 0);
    assert_true(a->norm_eps == 1e-5f && arch_kind(a, 0)->latent.norm_eps == 1e-6f);
    check_scale(a, 1 / sqrt(192));
    hf_config_free(&c);

    /* inside the model that sees */
    c = config_read_ok(GOLDEN "configs/kimi-k2.5");
    assert_string_equal(a->family, "deepseek_v3");
    assert_int_equal(a->n_experts + arch_kind(a, 60)->latent.n_heads, 384 + 64);
    assert_int_equal(a->stop_ids[0], 163586);
    hf_config_free(&c);
}

static void glm4_moe_lite(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/glm4moelite-tiny");
    const struct arch *a = &c.arch;
    const struct route_rule want = {.score = ROUTE_SIGMOID,
                                    .selection_bias = 1,
                                    .renorm = 1,
                                    .groups = 1,
                                    .top_groups = 1,
                                    .group_score = ROUTE_GROUP_TOP_TWO,
                                    .eps = 1e-20f,
                                    .scale = 1.75f};
    for (uint32_t l = 0; l < 3; l++) {
        check_rule(a, l,
                   (struct latent_rule){.n_heads = 5,
                                        .q_rank = 32,
                                        .rank = 64,
                                        .nope_dim = 32,
                                        .rope_dim = 16,
                                        .v_dim = 64,
                                        .norm_eps = 1e-6f});
        assert_int_equal(arch_kind(a, l)->moe, l > 0);
    }
    assert_memory_equal(&arch_kind(a, 1)->route, &want, sizeof want);
    assert_int_equal(arch_mlp_dim(a, 0) + arch_mlp_dim(a, 1), 96 + 32);
    assert_int_equal(c.further_layers, 1);
    assert_true(a->norm_eps == 0.1f);
    assert_float_equal(arch_rope(a, 0).inv_freq[1], pow(1e6, -2.0 / 16), 1e-7);
    check_scale(a, 1 / sqrt(48));
    hf_config_free(&c);

    c = config_read_ok(GOLDEN "configs/glm-4.7-flash");
    assert_int_equal(arch_kind(a, 46)->latent.v_dim + arch_rope(a, 0).dim, 256 + 64);
    assert_int_equal(a->stop_ids[1], 154827);
    check_scale(a, 1 / sqrt(256));
    hf_config_free(&c);

    /* the list says which layers are dense, and its word counts more than the number */
    c = config_parse_ok(LITE3 "\"mlp_layer_types\":[\"sparse\",\"dense\",\"sparse\"],"
                              "\"first_k_dense_replace\":2}");
    for (uint32_t l = 0; l < 3; l++) {
        assert_int_equal(arch_kind(a, l)->moe, l != 1);
    }
    hf_config_free(&c);
    c = config_parse_ok(LITE3 "\"mlp_layer_types\":null}");
    assert_int_equal(arch_kind(a, 0)->moe, 0);
    assert_int_equal(arch_kind(a, 1)->moe, 1);
    hf_config_free(&c);
}

/* Contexts in which an indexer chooses all, and layers that are dense by a number or by a list. */
static void indexed(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/deepseekv32-tiny");
    const struct arch *a = &c.arch;
    for (uint32_t l = 0; l < 3; l++) {
        check_rule(a, l,
                   (struct latent_rule){.n_heads = 4,
                                        .q_rank = 32,
                                        .rank = 64,
                                        .nope_dim = 64,
                                        .rope_dim = 32,
                                        .v_dim = 32,
                                        .norm_eps = 1e-6f});
        assert_int_equal(arch_kind(a, l)->moe, l > 0);
    }
    assert_int_equal(a->ctx_limit_tok, 128);
    assert_int_equal(a->ctx_max_tok, 256);
    const double m = 0.1 * log(40) + 1;
    check_scale(a, m * m / sqrt(96));
    hf_config_free(&c);
    c = config_read_ok(GOLDEN "configs/deepseek-v3.2-exp");
    assert_int_equal(a->ctx_limit_tok, 2048);
    assert_int_equal(c.further_layers, 1);
    assert_int_equal(c.quant.blocks.rows, 128);
    hf_config_free(&c);
    c = config_read_ok(GOLDEN "configs/glm-5");
    assert_int_equal(a->ctx_limit_tok, 2048);
    assert_int_equal(arch_kind(a, 3)->route.groups, 1);
    check_scale(a, 1 / sqrt(256));
    hf_config_free(&c);
    c = config_parse_ok(DSA3 "\"index_topk\":64,\"index_topk_pattern\":\"FSF\",\"layer_types\":"
                             "[\"indexed_attention\",\"deepseek_sparse_attention\","
                             "\"indexed_attention\"],"
                             "\"mlp_layer_types\":[\"sparse\",\"dense\",\"sparse\"]}");
    for (uint32_t l = 0; l < 3; l++) {
        assert_int_equal(arch_kind(a, l)->moe, l != 1);
    }
    assert_int_equal(a->ctx_limit_tok, 64);
    hf_config_free(&c);
    c = config_parse_ok(V3 "\"num_hidden_layers\":4}"); /* without an indexer there is no limit */
    assert_int_equal(a->ctx_limit_tok, 0);
    hf_config_free(&c);
}

static void axk1(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/axk1-tiny");
    const struct arch *a = &c.arch;
    for (uint32_t l = 0; l < 3; l++) {
        assert_int_equal(arch_kind(a, l)->block.post_norm,
                         l > 0 ? ARCH_POST_NORM_FFN : ARCH_POST_NORM_NONE);
    }
    assert_int_equal(arch_kind(a, 1)->route.selection_bias, 1);
    assert_int_equal(arch_kind(a, 1)->route.groups, 4);
    check_scale(a, 1 / sqrt(96));
    hf_config_free(&c);
    /* which its files lack */
    struct family_model f = family_open("axk1-tiny");
    assert_int_equal(arch_kind(hf_arch(&f.m), 1)->route.selection_bias, 0);
    family_close(&f);
    c = config_parse_ok(AXK1 "\"num_hidden_layers\":2}");
    assert_int_equal(a->n_experts + arch_kind(a, 1)->latent.n_heads, 192 + 64);
    hf_config_free(&c);
}

static void sarvam_mla(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/sarvammla-tiny");
    const struct arch *a = &c.arch;
    const struct route_rule want = {.score = ROUTE_SIGMOID,
                                    .selection_bias = 1,
                                    .renorm = 1,
                                    .groups = 1,
                                    .top_groups = 1,
                                    .group_score = ROUTE_GROUP_TOP_TWO,
                                    .eps = 1e-20f,
                                    .scale = 2.5f};
    check_rule(a, 2,
               (struct latent_rule){.n_heads = 4,
                                    .rank = 64,
                                    .nope_dim = 32,
                                    .rope_dim = 16,
                                    .v_dim = 32,
                                    .norm_eps = 1e-6f});
    assert_memory_equal(&arch_kind(a, 1)->route, &want, sizeof want);
    assert_int_equal(arch_mlp_dim(a, 0) + arch_mlp_dim(a, 1), 96 + 32);
    const double m = 0.1 * log(4) + 1;
    check_scale(a, m * m / sqrt(48));
    hf_config_free(&c);
    c = config_parse_ok(SARVAM "\"num_mtp_layers\":1,\"n_routed_experts\":64}");
    assert_int_equal(a->n_experts + c.further_layers, 65);
    hf_config_free(&c);
}

static void mistral4(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/mistral4-tiny");
    const struct arch *a = &c.arch;
    const struct route_rule want = {.renorm = 1,
                                    .groups = 4,
                                    .top_groups = 2,
                                    .group_score = ROUTE_GROUP_TOP_TWO,
                                    .eps = 1e-20f,
                                    .scale = 1.5f};
    check_rule(a, 1,
               (struct latent_rule){.n_heads = 4,
                                    .q_rank = 32,
                                    .rank = 64,
                                    .nope_dim = 32,
                                    .rope_dim = 16,
                                    .v_dim = 64,
                                    .norm_eps = 1e-6f,
                                    .query_beta = 0.25f,
                                    .query_tok = 16});
    assert_memory_equal(&arch_kind(a, 1)->route, &want, sizeof want);
    const double m = 0.1 * log(16) + 1;
    check_scale(a, m * m / sqrt(48));
    hf_config_free(&c);
    /* inside the model that sees; and without an object of RoPE the class's own */
    c = config_read_ok(GOLDEN "configs/mistral-small-4-119b");
    assert_string_equal(a->family, "mistral4");
    const struct latent_rule published = arch_kind(a, 35)->latent;
    assert_true(published.query_beta == 0.1f && published.query_tok == 8192);
    hf_config_free(&c);
    c = config_parse_ok(MISTRAL "\"num_hidden_layers\":2}");
    assert_memory_equal(&arch_kind(a, 1)->latent, &published, sizeof published);
    assert_true(arch_rope(a, 0).dim == 64 && arch_rope(a, 0).scale == 1);
    hf_config_free(&c);
    c = config_parse_ok(MISTRAL "\"num_hidden_layers\":2,\"rope_parameters\":{\"rope_type\":"
                                "\"default\",\"rope_theta\":1e4}}");
    assert_true(arch_kind(a, 1)->latent.query_beta == 0);
    hf_config_free(&c);
}

/* ---- refusals ---- */

static void refusals(void **state) {
    (void)state;
    static const struct config_refusal bad[] = {
        {V2 "\"norm_topk_prob\":true}", "norm_topk_prob is 1, expected 0", "deepseek_v2"},
        {V2 "\"topk_method\":\"noaux_tc\"}", "topk_method is \"noaux_tc\"",
         "\"greedy\" or \"group_limited_greedy\""},
        {V2 "\"scoring_func\":\"sigmoid\"}", "scoring_func is \"sigmoid\"", "softmax"},
        {"{\"model_type\":\"deepseek_v2\"}", "n_active = 0", ""},
        {V2 "\"mlp_bias\":true}", "mlp_bias is true", "deepseek_v2"},
        {V2 "\"moe_layer_freq\":2}", "moe_layer_freq is 2", ""},
        {V3 "\"attention_bias\":true}", "attention_bias is 1, expected 0", "deepseek_v3"},
        {V3 "\"scoring_func\":\"softmax\"}", "scoring_func is \"softmax\"", "sigmoid"},
        {V3 "\"topk_method\":\"greedy\"}", "topk_method is \"greedy\"", "noaux_tc"},
        {V3 "\"rope_interleave\":false}", "rope_interleave is false", "true"},
        {V3 "\"num_key_value_heads\":8}", "num_key_value_heads is 8", "num_attention_heads = 128"},
        {V3 "\"head_dim\":128}", "head_dim is 128", "qk_rope_head_dim = 64"},
        {V3 "\"qk_head_dim\":64}", "qk_head_dim is 64", "qk_nope_head_dim + qk_rope_head_dim"},
        {V3 "\"q_head_dim\":\"x\"}", "q_head_dim is \"x\"", "qk_nope_head_dim + qk_rope_head_dim"},
        {V3 "\"kv_lora_rank\":0}", "kv_lora_rank is 0", "positive"},
        {V3 "\"q_lora_rank\":0}", "q_lora_rank is 0", "positive"},
        {V3 "\"kv_lora_rank\":8192}", "latent_rank[0] = 8192", "4096"},
        {V3 "\"qk_rope_head_dim\":63}", "latent_rope_dim", ""},
        {V3 "\"qk_rope_head_dim\":9999}", "qk_rope_head_dim is 9999", "at most 4096"},
        {V3 "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"llama_4_scaling_beta\":0.1}}",
         "unknown RoPE key llama_4_scaling_beta", ""},
        {V3 "\"rope_scaling\":{\"type\":\"yarn\",\"mscale_all_dim\":1}}", "needs a number",
         "factor"},
        {LITE "\"first_k_dense_replace\":3}", "first_k_dense_replace is 3, expected 1",
         "glm4_moe_lite"},
        {LITE3 "\"mlp_layer_types\":[\"dense\"]}", "mlp_layer_types must be a list of 3", ""},
        {LITE "\"mlp_layer_types\":\"dense\"}", "mlp_layer_types is \"dense\"", "a list"},
        {LITE "\"attention_bias\":true}", "attention_bias is 1, expected 0", "glm4_moe_lite"},
        {LITE "\"topk_method\":\"greedy\"}", "topk_method is \"greedy\"", "noaux_tc"},
        {LITE "\"partial_rotary_factor\":0.5}", "partial_rotary_factor", ""},
        {"{\"model_type\":\"olmoe\",\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,"
         "\"llama_4_scaling_beta\":0.1}}",
         "unknown RoPE key llama_4_scaling_beta", ""},
        {V32 "\"q_lora_rank\":null}", "q_lora_rank is null", "a positive integer"},
        {V32 "\"index_topk\":0}", "index_topk is 0", "positive"},
        {V32 "\"index_topk_freq\":2}", "index_topk_freq is 2", "deepseek_v32"},
        {V3 "\"index_topk\":2048}", "index_topk is 2048", "deepseek_v3"},
        {DSA3 "\"layer_types\":[\"full_attention\",\"full_attention\",\"full_attention\"]}",
         "layer_types entry 0 (\"full_attention\")", "indexed_attention"},
        {AXK1 "\"topk_method\":\"greedy\"}", "topk_method is \"greedy\"", "noaux_tc"},
        {AXK1 "\"q_lora_rank\":null}", "q_lora_rank is null", "a positive integer"},
        {SARVAM "\"use_qk_norm\":false}", "use_qk_norm is false", "true"},
        {SARVAM "\"moe_router_enable_expert_bias\":false}", "enable_expert_bias is false", "true"},
        {MISTRAL "\"rope_parameters\":{\"rope_type\":\"default\",\"llama_4_scaling_beta\":0.1}}",
         "needs a number >= 1", "original_max_position_embeddings"},
        {MISTRAL "\"topk_method\":\"greedy\"}", "topk_method is \"greedy\"", "mistral4"},
        {"{\"model_type\":\"mistral3\",\"text_config\":{\"model_type\":\"mistral\"}}",
         "text_config is of model_type \"mistral\"", "mistral4 family"},
        {"{\"model_type\":\"olmoe\",\"kv_lora_rank\":512}", "kv_lora_rank is 512", "olmoe"},
    };
    config_refused(bad, TEST_COUNT(bad));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(deepseek_v2),   cmocka_unit_test(deepseek_v3),
        cmocka_unit_test(glm4_moe_lite), cmocka_unit_test(indexed),
        cmocka_unit_test(axk1),          cmocka_unit_test(sarvam_mla),
        cmocka_unit_test(mistral4),      cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("family_latent", tests, NULL, NULL);
}
