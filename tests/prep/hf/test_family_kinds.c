/*
 * family_kinds: what the keys of a config.json become in the families that have no part in
 * test_family: kinds of layers, rotary sets, refusals.
 */
#include "tests/util/test.h"

#include "prep/hf/family.h"
#include "tests/util/test_util_config.h"

#define GOLDEN "tests/golden/"
#define MINIMAX "{\"model_type\":\"minimax_m2\","
#define DOTS "{\"model_type\":\"dots1\",\"n_routed_experts\":8,\"num_experts_per_tok\":2,"
#define ERNIE "{\"model_type\":\"ernie4_5_moe\","
#define HUNYUAN "{\"model_type\":\"hunyuan_v1_moe\",\"num_experts\":8,"
#define AFMOE "{\"model_type\":\"afmoe\","
#define MELLUM "{\"model_type\":\"mellum\","
#define SARVAM "{\"model_type\":\"sarvam_moe\","

/* ---- kinds ---- */

static void minimax_m2(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/minimaxm2-tiny");
    const struct arch *a = &c.arch;
    const struct route_rule want = {
        .score = ROUTE_SIGMOID, .selection_bias = 1, .renorm = ROUTE_RENORM_SUM, .scale = 1};
    assert_int_equal(a->n_kinds, 1);
    assert_memory_equal(&a->kinds->route, &want, sizeof want);
    assert_int_equal(a->kinds->att.qk_norm, ARCH_QK_NORM_FULL);
    assert_int_equal(arch_rope(a, 0).dim, 16);
    assert_int_equal(a->ffn_dim, 32);
    assert_int_equal(arch_mlp_dim(a, 0), 0);
    assert_int_equal(c.further_layers, 1);
    hf_config_free(&c);
    /* without rotary_dim the whole head is turned; the object's own part counts before it */
    c = config_parse_ok(MINIMAX "\"num_hidden_layers\":1}");
    assert_int_equal(arch_rope(a, 0).dim, 128);
    hf_config_free(&c);
    c = config_parse_ok(MINIMAX "\"num_hidden_layers\":1,\"rotary_dim\":64,"
                                "\"rope_parameters\":{\"partial_rotary_factor\":0.25}}");
    assert_int_equal(arch_rope(a, 0).dim, 32);
    hf_config_free(&c);
}

static void dots1(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/dots1-tiny");
    const struct arch *a = &c.arch;
    for (uint32_t l = 0; l < 3; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->moe, l > 0);
        assert_int_equal(arch_mlp_dim(a, l), l > 0 ? 64 : 96);
        assert_int_equal(k->att.window, l == 2 ? 12 : 0);
        assert_int_equal(k->att.qkv_bias + k->att.o_bias, 2);
        assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_HEAD);
        assert_int_equal(k->route.score, ROUTE_SIGMOID);
        assert_true(k->route.scale == 2.5f && k->route.eps == 1e-20f && k->route.renorm == 1);
    }
    hf_config_free(&c);
    /* no layer is dense, none slides, none is shared, weights stay as they are */
    c = config_parse_ok(DOTS "\"scoring_func\":\"sigmoid\",\"topk_method\":\"noaux_tc\"}");
    assert_int_equal(a->n_kinds, 1);
    assert_int_equal(a->kinds->shared_dim + a->kinds->dense_dim + a->kinds->att.window, 0);
    assert_int_equal(a->kinds->route.renorm, 0);
    hf_config_free(&c);
    c = config_parse_ok(DOTS "\"num_hidden_layers\":2,\"layer_types\":[\"sliding_attention\","
                             "\"full_attention\"]}");
    assert_int_equal(arch_kind(a, 0)->att.window, 4096);
    hf_config_free(&c);
}

static void ernie4_5_moe(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/ernie45-tiny");
    const struct arch *a = &c.arch;
    const struct route_rule want = {.score = ROUTE_SOFTMAX,
                                    .selection_bias = 1,
                                    .renorm = ROUTE_RENORM_FLOOR,
                                    .eps = 1e-12f,
                                    .scale = 1};
    for (uint32_t l = 0; l < 4; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->moe, l == 1 || l == 2);
        assert_int_equal(arch_mlp_dim(a, l), k->moe ? 64 : 96);
        assert_memory_equal(&k->route, &want, sizeof want);
    }
    assert_int_equal(a->tied, 1);
    hf_config_free(&c);
    c = config_parse_ok(ERNIE "\"num_hidden_layers\":8,\"moe_layer_interval\":2,"
                              "\"moe_layer_start_index\":3,\"moe_layer_end_index\":-1}");
    for (uint32_t l = 0; l < 8; l++) {
        assert_int_equal(arch_is_moe(a, l), l >= 3 && l % 2 == 1);
    }
    hf_config_free(&c);
}

static void hunyuan_v1_moe(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/hunyuan-tiny");
    const struct arch *a = &c.arch;
    const struct layer_kind *k = a->kinds;
    assert_int_equal(a->n_kinds, 1);
    assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_HEAD);
    assert_int_equal(k->att.qk_norm_late, 1);
    assert_int_equal(k->route.renorm, ROUTE_RENORM_SUM);
    assert_int_equal(k->shared_dim, 32);
    assert_int_equal(a->ffn_dim, 32);
    assert_int_equal(a->n_active, 3);
    hf_config_free(&c);
    c = config_parse_ok(HUNYUAN
                        "\"moe_topk\":4,\"num_shared_expert\":1,\"moe_intermediate_size\":null}");
    assert_int_equal(a->n_active, 4);
    assert_int_equal(a->kinds->shared_dim, 11008);
    hf_config_free(&c);
}

static void afmoe(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/afmoe-tiny");
    const struct arch *a = &c.arch;
    assert_true(a->embed_scale == 8.0f);
    for (uint32_t l = 0; l < 4; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->att.window, l == 2 ? 0 : 12);
        assert_int_equal(arch_rope(a, k->att.rope).dim, l == 2 ? 0 : 16);
        assert_int_equal(k->moe, l > 0);
        assert_int_equal(arch_mlp_dim(a, l), l > 0 ? 32 : 96);
        assert_int_equal(k->att.gate + k->block.post_norm, 2);
        assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_HEAD);
        assert_int_equal(k->route.score, ROUTE_SIGMOID);
        assert_true(k->route.renorm == 1 && k->route.groups == 0 && k->route.scale == 2.5f);
    }
    hf_config_free(&c);
    c = config_parse_ok(AFMOE "\"num_hidden_layers\":2,\"layer_types\":[\"sliding_attention\","
                              "\"sliding_attention\"],\"mup_enabled\":false}");
    assert_int_equal(a->n_ropes, 1);
    assert_true(a->embed_scale == 1.0f);
    hf_config_free(&c);
}

static void mellum(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/mellum-tiny");
    const struct arch *a = &c.arch;
    assert_int_equal(a->n_ropes, 2);
    for (uint32_t l = 0; l < 3; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->att.window, l == 1 ? 0 : 12);
        assert_int_equal(arch_rope(a, k->att.rope).scale > 1, l == 1);
        assert_int_equal(k->moe, l > 0);
        assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_HEAD);
        assert_int_equal(k->route.renorm, 1);
    }
    hf_config_free(&c);
    /* by themselves all layers are full, and sparse */
    c = config_parse_ok(MELLUM "\"num_hidden_layers\":2}");
    assert_int_equal(a->n_kinds, 1);
    assert_int_equal(a->n_ropes, 1);
    assert_int_equal(a->kinds->att.window + a->kinds->dense_dim, 0);
    assert_true(a->rope_inv_freq[1] < 0.82f && a->rope_inv_freq[1] > 0.81f); /* 5e5^(-1/64) */
    hf_config_free(&c);
}

static void sarvam_moe(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/sarvam-tiny");
    const struct arch *a = &c.arch;
    for (uint32_t l = 0; l < 3; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->moe, l > 0);
        assert_int_equal(arch_mlp_dim(a, l), l > 0 ? 32 : 96);
        assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_HEAD);
        assert_int_equal(k->route.score, ROUTE_SIGMOID);
        assert_true(k->route.scale == 2.5f && k->route.renorm == 1);
    }
    assert_int_equal(arch_rope(a, 0).dim, 16);
    hf_config_free(&c);
    /* the class that runs it is another family's, too */
    c = config_parse_ok(SARVAM "\"architectures\":[\"Glm4MoeForCausalLM\"]}");
    assert_string_equal(a->family, "sarvam_moe");
    assert_int_equal(arch_rope(a, 0).dim, 64);
    hf_config_free(&c);
    /* one expert that is chosen alone keeps its weight */
    c = config_parse_ok(SARVAM "\"num_experts_per_tok\":1}");
    assert_int_equal(arch_kind(a, 1)->route.renorm, ROUTE_RENORM_NONE);
    hf_config_free(&c);
}

/* ---- refusals ---- */

static void refusals(void **state) {
    (void)state;
    static const struct config_refusal bad[] = {
        /* minimax_m2 */
        {MINIMAX "\"num_hidden_layers\":2,\"attn_type_list\":[1,0]}", "attn_type_list is [1,0]",
         "1 in every layer"},
        {MINIMAX "\"attn_type_list\":[1,1]}", "attn_type_list is [1,1]", "for each layer"},
        {MINIMAX "\"attn_type_list\":7}", "attn_type_list is 7", "a list of 1"},
        {MINIMAX "\"qk_norm_type\":\"per_head\"}", "qk_norm_type is \"per_head\"", "per_layer"},
        {MINIMAX "\"scoring_func\":\"softmax\"}", "scoring_func is \"softmax\"", "sigmoid"},
        {MINIMAX "\"use_routing_bias\":false}", "use_routing_bias is false", "expected true"},
        {MINIMAX "\"use_qk_norm\":false}", "use_qk_norm is 0, expected 1", "minimax_m2"},
        {MINIMAX "\"rotary_dim\":256}", "partial_rotary_factor 2", "up to 1"},
        {MINIMAX "\"shared_intermediate_size\":64}", "shared_intermediate_size is 64",
         "minimax_m2"},
        {MINIMAX "\"layernorm_mlp_beta\":2.0}", "layernorm_mlp_beta is 2", "minimax_m2"},
        /* dots1 */
        {"{\"model_type\":\"dots1\"}", "no layer has routed experts", ""},
        {DOTS "\"scoring_func\":\"softmax\"}", "scoring_func is \"softmax\"", "sigmoid"},
        {DOTS "\"topk_method\":\"greedy\"}", "topk_method is \"greedy\"", "noaux_tc"},
        {DOTS "\"moe_layer_freq\":2}", "moe_layer_freq is 2", "dots1"},
        {DOTS "\"sliding_window\":0}", "sliding_window is 0", "positive"},
        /* ernie4_5_moe */
        {ERNIE "\"use_bias\":true}", "use_bias is true", "ernie4_5_moe"},
        {ERNIE "\"moe_gate\":\"top2\"}", "moe_gate is \"top2\"", "topk"},
        {ERNIE "\"moe_use_aux_free\":false}", "moe_use_aux_free is false", "expected true"},
        {ERNIE "\"use_rmsnorm\":false}", "use_rmsnorm is false", "expected true"},
        {ERNIE "\"moe_layer_interval\":0}", "moe_layer_interval is 0", "positive"},
        {ERNIE "\"moe_layer_end_index\":[3]}", "moe_layer_end_index is [3]", "-1 for the last"},
        {ERNIE "\"moe_layer_end_index\":0}", "no layer has routed experts", ""},
        {ERNIE "\"moe_norm_min\":-1}", "moe_norm_min is -1", "non-negative"},
        /* hunyuan_v1_moe */
        {HUNYUAN "\"moe_topk\":[8,4]}", "moe_topk is [8,4]", "integer"},
        {HUNYUAN "\"moe_topk\":[8,8]}", "moe_topk is [8,8]", "integer"}, /* of 32 layers */
        {HUNYUAN "\"moe_topk\":[]}", "moe_topk is []", "integer"},
        {HUNYUAN "\"num_hidden_layers\":2,\"num_shared_expert\":[1,2]}",
         "num_shared_expert is [1,2]", "1 in every layer"},
        {HUNYUAN "\"num_shared_expert\":[1,1]}", "num_shared_expert is [1,1]", "for each layer"},
        {HUNYUAN "\"num_hidden_layers\":1,\"moe_intermediate_size\":[3072]}",
         "moe_intermediate_size is [3072]", "11008"},
        {HUNYUAN "\"attention_head_dim\":64}", "attention_head_dim is 64", "128 in every layer"},
        {HUNYUAN "\"use_qk_norm\":false}", "use_qk_norm is 0, expected 1", "hunyuan_v1_moe"},
        {HUNYUAN "\"norm_topk_prob\":false}", "norm_topk_prob is 0, expected 1", ""},
        {HUNYUAN "\"norm_type\":\"fused\"}", "norm_type is \"fused\"", "rms"},
        {HUNYUAN "\"use_mixed_mlp_moe\":false}", "use_mixed_mlp_moe is false", "expected true"},
        {HUNYUAN "\"use_rotary_pos_emb\":false}", "use_rotary_pos_emb is false", ""},
        {HUNYUAN "\"use_cla\":true}", "unknown key use_cla is true", "hunyuan_v1_moe"},
        /* afmoe */
        {AFMOE "\"score_func\":\"softmax\"}", "score_func is \"softmax\"", "sigmoid"},
        {AFMOE "\"route_norm\":false}", "route_norm is 0, expected 1", "afmoe"},
        {AFMOE "\"global_attn_every_n_layers\":0}", "global_attn_every_n_layers is 0", "positive"},
        {AFMOE "\"sliding_window\":null}", "sliding_window is null", "window"},
        {AFMOE "\"n_group\":2}", "n_group is 2", "afmoe"},
        {AFMOE "\"num_limited_groups\":2}", "num_limited_groups is 2", "afmoe"},
        /* mellum */
        {MELLUM "\"num_hidden_layers\":1,\"mlp_layer_types\":[\"moe\"]}",
         "mlp_layer_types entry 0 (\"moe\") is neither dense nor sparse", "dense"},
        {MELLUM "\"num_hidden_layers\":2,\"mlp_layer_types\":[\"dense\"]}",
         "mlp_layer_types must be a list of 2", ""},
        {MELLUM "\"num_hidden_layers\":1,\"mlp_layer_types\":[\"dense\"]}",
         "no layer has routed experts", ""},
        {MELLUM "\"rope_parameters\":{\"rope_theta\":1e4}}", "no object for full_attention", ""},
        /* sarvam_moe */
        {SARVAM "\"use_qkv_bias\":true}", "use_qkv_bias is 1, expected 0", "sarvam_moe"},
        {SARVAM "\"norm_topk_prob\":false}", "norm_topk_prob is 0, expected 1", "sarvam_moe"},
        {SARVAM "\"score_function\":\"softmax\"}", "score_function is \"softmax\"", "sigmoid"},
        {SARVAM "\"moe_router_enable_expert_bias\":false}", "enable_expert_bias is false", ""},
        {SARVAM "\"moe_shared_expert_intermediate_size\":2048}", "intermediate_size is 2048",
         "for each shared one"},
        {SARVAM "\"architectures\":[\"MixtralForCausalLM\"]}", "\"sarvam_moe\" does not belong",
         "MixtralForCausalLM"},
    };
    config_refused(bad, TEST_COUNT(bad));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(minimax_m2),   cmocka_unit_test(dots1),
        cmocka_unit_test(ernie4_5_moe), cmocka_unit_test(hunyuan_v1_moe),
        cmocka_unit_test(afmoe),        cmocka_unit_test(mellum),
        cmocka_unit_test(sarvam_moe),   cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("family_kinds", tests, NULL, NULL);
}
