/*
 * family_spelled: keys that mean something in one family and nothing, or something else, in others:
 * whose spelling is read where, what null and lists of nothing say, keys beside objects by type,
 * and that an expert that is chosen alone keeps its weight.
 */
#include "tests/util/test.h"

#include "prep/hf/family.h"
#include "tests/util/test_util_config.h"

#define OF(type) "{\"model_type\":\"" type "\","
#define COHERE2 OF("cohere2_moe")
#define DEEPSEEK OF("deepseek") "\"n_routed_experts\":8,"
#define BAILING OF("bailing_moe") "\"moe_intermediate_size\":32,"
#define BAILING_V2 OF("bailing_moe_v2")
#define LAGUNA OF("laguna") "\"num_hidden_layers\":2,\"mlp_layer_types\":[\"sparse\",\"sparse\"],"
#define MINIMAX OF("minimax_m2") "\"num_hidden_layers\":2,"
#define PHIMOE OF("phimoe") "\"head_dim\":4,"
#define FACTORS "\"short_factor\":[1,2],\"long_factor\":[1,4]"

/* What a family counts in its own way is a key of that family alone. */
static void spellings_of_others(void **state) {
    (void)state;
    static const struct config_refusal bad[] = {
        {OF("qwen3_next") "\"sliding_window_pattern\":2}", "unknown key sliding_window_pattern",
         "qwen3_next"},
        {OF("qwen3_5_moe") "\"global_attn_every_n_layers\":2}",
         "unknown key global_attn_every_n_layers", ""},
        {OF("afmoe") "\"sliding_window_pattern\":2}", "unknown key sliding_window_pattern", ""},
        {OF("afmoe") "\"full_attention_interval\":2}", "full_attention_interval is 2",
         "changes the arithmetic"},
        {COHERE2 "\"full_attention_interval\":2}", "full_attention_interval is 2", ""},
        {OF("ernie4_5_moe") "\"moe_layer_freq\":2}", "moe_layer_freq is 2", "ernie4_5_moe"},
        {OF("llama4_text") "\"moe_layer_interval\":2}", "unknown key moe_layer_interval", ""},
        {DEEPSEEK "\"interleave_moe_layer_step\":2}", "unknown key interleave_moe_layer_step", ""},
        {OF("llama4_text") "\"prefix_dense_intermediate_size\":64}",
         "unknown key prefix_dense_intermediate_size", ""},
        {COHERE2 "\"intermediate_size_mlp\":64}", "unknown key intermediate_size_mlp", ""},
        {OF("qwen3_moe") "\"use_qkv_bias\":true}", "unknown key use_qkv_bias", ""},
        {BAILING "\"attention_bias\":true}", "unknown key attention_bias", ""},
    };
    config_refused(bad, TEST_COUNT(bad));
}

static void ties(void **state) {
    static const struct {
        const char *config;
        uint32_t tied;
        bool given;
    } cases[] = {
        {COHERE2 "\"tie_word_embeddings\":null}", 1, false},
        {COHERE2 "\"tie_word_embeddings\":false}", 0, true},
        {OF("qwen3_moe") "\"tie_word_embeddings\":null}", 0, false},
        {OF("llama4") "\"tie_word_embeddings\":true,\"text_config\":{\"tie_word_embeddings\":null,"
                      "\"model_type\":\"llama4_text\"}}",
         1, true},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct hf_config c = config_parse_ok(cases[i].config);
        assert_int_equal(c.arch.tied, cases[i].tied);
        assert_int_equal(c.tied_given, cases[i].given);
        hf_config_free(&c);
    }
}

static void chosen_alone(void **state) {
    static const struct {
        const char *config;
        uint32_t renorm;
    } cases[] = {
        {DEEPSEEK "\"num_experts_per_tok\":2,\"norm_topk_prob\":true}", 1},
        {DEEPSEEK "\"num_experts_per_tok\":1,\"norm_topk_prob\":true}", 0},
        {BAILING "\"num_experts_per_tok\":2}", 1},
        {BAILING "\"num_experts_per_tok\":2,\"norm_topk_prob\":false}", 0},
        {BAILING "\"num_experts_per_tok\":1}", 0},
        {BAILING_V2 "\"num_experts_per_tok\":8}", 1},
        {BAILING_V2 "\"num_experts_per_tok\":1}", 0},
    };
    static const struct config_refusal bad[] = {
        {BAILING_V2 "\"norm_topk_prob\":false}", "norm_topk_prob is 0, expected 1",
         "bailing_moe_v2"},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct hf_config c = config_parse_ok(cases[i].config);
        assert_int_equal(arch_kind(&c.arch, c.arch.n_layers - 1)->route.renorm, cases[i].renorm);
        hf_config_free(&c);
    }
    config_refused(bad, TEST_COUNT(bad));
}

/* What says nothing is accepted where a list of layers' numbers may stand. */
static void lists_of_nothing(void **state) {
    static const char *const good[] = {
        MINIMAX "\"attn_type_list\":[]}",
        MINIMAX "\"attn_type_list\":null}",
        MINIMAX "\"attn_type_list\":0}",
        MINIMAX "\"attn_type_list\":[1,1]}",
        OF("hunyuan_v1_moe") "\"num_shared_expert\":[]}",
    };
    static const struct config_refusal bad[] = {
        {MINIMAX "\"attn_type_list\":1}", "attn_type_list is 1", "a list of 1"},
        {MINIMAX "\"attn_type_list\":[1]}", "attn_type_list is [1]", "each layer"},
        {MINIMAX "\"attn_type_list\":[1,0]}", "attn_type_list is [1,0]", "1 in every layer"},
        {OF("hunyuan_v1_moe") "\"num_shared_expert\":false}", "num_shared_expert is false", ""},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(good); i++) {
        struct hf_config c = config_parse_ok(good[i]);
        hf_config_free(&c);
    }
    config_refused(bad, TEST_COUNT(bad));
}

/* Objects by type, and one key beside them. */
#define TYPES(full, sliding, beside)                                                               \
    LAGUNA "\"layer_types\":[\"full_attention\",\"sliding_attention\"],\"rope_parameters\":{"      \
           "\"full_attention\":{" full "},\"sliding_attention\":{" sliding "}}," beside "}"
#define HALF "\"partial_rotary_factor\":0.5"
#define YARN "\"rope_type\":\"yarn\",\"factor\":8"
#define ORIGINAL "\"original_max_position_embeddings\":64"

static void beside_types(void **state) {
    (void)state;
    static const struct config_refusal bad[] = {
        {TYPES(HALF, "", HALF), "partial_rotary_factor is 0.5 beside rope_parameters", ""},
        {TYPES(YARN, "", ORIGINAL), "original_max_position_embeddings is 64 beside", ""},
    };
    config_refused(bad, TEST_COUNT(bad));
    struct hf_config c = config_parse_ok(
        TYPES(HALF "," YARN "," ORIGINAL, "\"partial_rotary_factor\":1", HALF "," ORIGINAL));
    assert_int_equal(arch_rope(&c.arch, arch_kind(&c.arch, 0)->att.rope).dim, 64);
    assert_int_equal(arch_rope(&c.arch, arch_kind(&c.arch, 1)->att.rope).dim, 128);
    hf_config_free(&c);
}

static void mscales(void **state) {
    (void)state;
    static const struct config_refusal bad[] = {
        {PHIMOE "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2}}", "\"linear\"",
         "only default and longrope"},
        {PHIMOE "\"rope_scaling\":{\"type\":\"default\",\"short_mscale\":1.5}}", "short_mscale",
         "none without"},
        {PHIMOE "\"rope_scaling\":{\"type\":\"longrope\"," FACTORS "}}", "short_mscale",
         "expected both"},
        {PHIMOE "\"rope_scaling\":{\"type\":\"longrope\",\"short_mscale\":1.5," FACTORS "}}",
         "long_mscale", "expected both"},
    };
    config_refused(bad, TEST_COUNT(bad));
    struct hf_config c = config_parse_ok(
        PHIMOE "\"rope_scaling\":{\"type\":\"longrope\",\"short_mscale\":1.25,\"long_mscale\":1.5,"
               "\"original_max_position_embeddings\":64," FACTORS "}}");
    assert_true(arch_rope(&c.arch, 0).scale == 1.25f && c.arch.rope_long_scale[0] == 1.5f);
    hf_config_free(&c);
}

/* Keys of published files that say what every model of the family does: so, or not at all. */
#define SEES                                                                                       \
    "{\"model_type\":\"cohere2_vision\",\"architectures\":[\"Cohere2VisionForConditional"          \
    "Generation\"],\"tie_word_embeddings\":true,\"alignment_intermediate_size\":36864,"            \
    "\"downsample_factor\":2,\"image_token_id\":255036,\"vision_config\":{\"model_type\":"         \
    "\"siglip_vision_model\"},\"text_config\":"

static void published(void **state) {
    static const char *const good[] = {
        LAGUNA "\"decoder_sparse_step\":1,\"norm_topk_prob\":true,\"mlp_only_layers\":[],"
               "\"gating\":\"per-head\",\"gating_types\":[\"per_head\",\"per_head\"],"
               "\"qkv_bias\":null,\"swa_attention_sink_enabled\":false,"
               "\"moe_router_logit_softcapping\":null}",
        OF("laguna") "\"num_hidden_layers\":2,\"mlp_only_layers\":[0],\"gating\":\"per-element\","
                     "\"gating_types\":[\"per_element\",\"per_element\"]}",
        OF("kolibri1") "\"use_sliding_window\":true,\"head_dtype\":\"float32\"}",
        COHERE2 "\"use_parallel_block\":true,\"position_embedding_type\":\"rope_gptj\","
                "\"use_gated_activation\":true,\"use_qk_norm\":false,\"rotary_pct\":1.0,"
                "\"use_embedding_sharing\":true,\"tie_word_embeddings\":null,"
                "\"norm_type\":\"layer_norm\",\"transformer_block_type\":\"parallel\","
                "\"order_of_interleaved_layers\":\"local_attn_first\"}",
        SEES COHERE2 "\"use_parallel_block\":true}}",
    };
    static const struct config_refusal bad[] = {
        {LAGUNA "\"decoder_sparse_step\":2}", "decoder_sparse_step is 2, expected 1", "laguna"},
        {LAGUNA "\"norm_topk_prob\":false}", "norm_topk_prob is 0, expected 1", "laguna"},
        {LAGUNA "\"mlp_only_layers\":[0]}", "mlp_only_layers is [0]", "calls dense"},
        {OF("laguna") "\"mlp_only_layers\":[0,1]}", "mlp_only_layers is [0,1]", "calls dense"},
        {OF("laguna") "\"mlp_only_layers\":1}", "mlp_only_layers is 1", "calls dense"},
        {LAGUNA "\"gating_types\":[\"per_head\",\"per_element\"]}",
         "gating_types entry 1 is \"per_element\"", "gating says per-head"},
        {LAGUNA "\"gating_types\":[\"per_head\"]}", "gating_types must be a list", "one a layer"},
        {OF("kolibri1") "\"use_sliding_window\":false}", "use_sliding_window is false", "true"},
        {OF("kolibri1") "\"head_dtype\":\"bfloat16\"}", "head_dtype is \"bfloat16\"", "float32"},
        {COHERE2 "\"use_parallel_block\":false}", "use_parallel_block is false", "true"},
        {COHERE2 "\"position_embedding_type\":\"rope_neox\"}", "position_embedding_type is",
         "gptj"},
        {COHERE2 "\"use_gated_activation\":false}", "use_gated_activation is false", "true"},
        {COHERE2 "\"use_embedding_sharing\":false}", "use_embedding_sharing is false", "tie_word"},
        {COHERE2 "\"norm_type\":\"rms_norm\"}", "norm_type is \"rms_norm\"", "layer_norm"},
        {SEES OF("cohere2") "\"hidden_size\":64}}", "text_config is of model_type \"cohere2\"",
         "does not belong to the cohere2_moe family"},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(good); i++) {
        struct hf_config c = config_parse_ok(good[i]);
        hf_config_free(&c);
    }
    config_refused(bad, TEST_COUNT(bad));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(spellings_of_others), cmocka_unit_test(ties),
        cmocka_unit_test(chosen_alone),        cmocka_unit_test(lists_of_nothing),
        cmocka_unit_test(beside_types),        cmocka_unit_test(mscales),
        cmocka_unit_test(published),
    };
    return cmocka_run_group_tests_name("family_spelled", tests, NULL, NULL);
}
