/*
 * family_own: what the keys of a config.json become in families whose norms, masks or routers are
 * their own: llama4, cohere2_moe, phimoe, flex_olmo, flint, kolibri1, laguna, smallthinker, dbrx,
 * step3p7, mimo_v2_flash, and the first DeepSeek and Ling: kinds of layers, rotary sets, refusals.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/hf/family.h"
#include "tests/util/test_util_config.h"

#define GOLDEN "tests/golden/"
#define LLAMA4 "{\"model_type\":\"llama4_text\",\"num_hidden_layers\":4,"
#define COHERE2 "{\"model_type\":\"cohere2_moe\",\"num_hidden_layers\":4,"
#define PHIMOE "{\"model_type\":\"phimoe\","
#define FLINT "{\"model_type\":\"flint\","
#define KOLIBRI "{\"model_type\":\"kolibri1\","
#define LAGUNA "{\"model_type\":\"laguna\",\"num_hidden_layers\":2,"
#define DEEPSEEK "{\"model_type\":\"deepseek\",\"n_routed_experts\":8,\"num_experts_per_tok\":2,"
#define SMALL "{\"model_type\":\"smallthinker\","
#define STEP "{\"model_type\":\"step3p5\",\"num_hidden_layers\":2,"
#define MIMO "{\"model_type\":\"mimo_v2_flash\",\"num_hidden_layers\":7,"
#define DBRX "{\"model_type\":\"dbrx\","
#define BAILING "{\"model_type\":\"bailing_moe\",\"moe_intermediate_size\":32,"
#define BAILING_V2                                                                                 \
    "{\"model_type\":\"bailing_moe\",\"architectures\":[\"BailingMoeV2ForCausalLM\"],"

static void llama4(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/llama4-tiny");
    const struct arch *a = &c.arch;
    for (uint32_t l = 0; l < 4; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        const bool turned = l != 2;
        assert_int_equal(k->moe, l % 2);
        assert_int_equal(k->att.chunk, turned ? 16 : 0);
        assert_int_equal(k->att.qk_norm, turned ? ARCH_QK_NORM_PLAIN : ARCH_QK_NORM_NONE);
        assert_int_equal(arch_rope(a, k->att.rope).dim, turned ? 16 : 0);
        assert_true(k->att.temper == (turned ? 0 : 0.5f));
        assert_true(k->att.temper_tok == (turned ? 0 : 8));
        assert_int_equal(arch_mlp_dim(a, l), l % 2 ? 32 : 96);
        assert_int_equal(k->route.on_input + k->route.by_logits, 2);
    }
    /* Scores are turned by the angles of a text 8 times as short, from the wave of 32 on. */
    assert_true(arch_rope(a, 0).inv_freq[0] == 1);
    assert_true(attention_scale_at(&arch_kind(a, 2)->att, 6) == 0.25f);
    assert_true(attention_scale_at(&arch_kind(a, 2)->att, 7) > 0.33f);
    hf_config_free(&c);

    c = config_parse_ok(LLAMA4 "\"attn_temperature_tuning\":4,\"moe_layers\":[1],\"layer_types\":["
                               "\"full_attention\",\"chunked_attention\",\"chunked_attention\","
                               "\"full_attention\"],\"use_qk_norm\":false}");
    for (uint32_t l = 0; l < 4; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->moe, l == 1);
        assert_int_equal(k->att.chunk, l == 1 || l == 2 ? 8192 : 0);
        assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_NONE);
        assert_true(k->att.temper == (l == 3 ? 0.1f : 0));
    }
    hf_config_free(&c);
    c = config_parse_ok(LLAMA4 "\"attention_chunk_size\":null,\"attn_temperature_tuning\":false,"
                               "\"no_rope_layer_interval\":2}");
    for (uint32_t l = 0; l < 4; l++) {
        assert_int_equal(arch_kind(a, l)->att.chunk, 0);
        assert_int_equal(arch_rope(a, arch_kind(a, l)->att.rope).dim, l % 2 ? 0 : 128);
        assert_true(arch_kind(a, l)->att.temper == 0);
    }
    hf_config_free(&c);
}

static void cohere2_moe(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/cohere2moe-tiny");
    const struct arch *a = &c.arch;
    static const uint32_t windows[] = {0, 12, 0, 12}, turned[] = {16, 16, 0, 16};
    for (uint32_t l = 0; l < 4; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->moe, l > 0);
        assert_int_equal(k->block.parallel, 1);
        assert_int_equal(k->att.window, windows[l]);
        assert_int_equal(arch_rope(a, k->att.rope).dim, turned[l]);
        assert_int_equal(arch_mlp_dim(a, l), l > 0 ? 64 : 96);
        assert_true(k->shared_scale == 0.5f && k->route.scale == 0.5f);
        assert_int_equal(k->route.score, ROUTE_SIGMOID);
    }
    assert_int_equal(a->norm, ARCH_NORM_LAYER);
    assert_true(a->norm_eps == 1e-5f && a->logit_scale == 0.5f);
    hf_config_free(&c);
    /* no dense layers, no shared experts to average with, RMSNorms */
    c = config_parse_ok(COHERE2 "\"rms_norm_eps\":1e-6}");
    for (uint32_t l = 0; l < 4; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->att.window, l < 3 ? 4096 : 0);
        assert_int_equal(arch_rope(a, k->att.rope).dim, l < 3 ? 128 : 0);
        assert_true(k->shared_scale == 0 && k->route.scale == 1 && k->shared_dim == 0);
        assert_int_equal(k->route.score + k->route.by_logits, ROUTE_SOFTMAX);
        assert_int_equal(k->route.renorm, 1);
    }
    assert_int_equal(a->norm, ARCH_NORM_RMS);
    assert_true(a->norm_eps == 1e-6f && a->logit_scale == 0.0625f);
    assert_int_equal(a->tied, 1);
    hf_config_free(&c);
    c = config_parse_ok(COHERE2 "\"num_shared_experts\":1,\"shared_expert_combination_strategy\":"
                                "\"sum\",\"prefix_dense_sliding_window_pattern\":2,"
                                "\"first_k_dense_replace\":2}");
    assert_int_equal(arch_kind(a, 0)->att.window, 4096);
    assert_int_equal(arch_kind(a, 1)->att.window, 0);
    assert_int_equal(arch_rope(a, arch_kind(a, 1)->att.rope).dim, 0);
    assert_int_equal(arch_kind(a, 2)->att.window, 4096);
    assert_true(arch_kind(a, 2)->shared_scale == 0 && arch_kind(a, 2)->route.scale == 1);
    assert_int_equal(arch_mlp_dim(a, 0) + arch_mlp_dim(a, 2), 2 * 22528);
    hf_config_free(&c);
}

static void norms(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/phimoe-tiny");
    const struct arch *a = &c.arch;
    const struct layer_kind *k = arch_kind(a, 0);
    assert_int_equal(a->n_kinds, 1);
    assert_int_equal(a->norm, ARCH_NORM_LAYER_BIAS);
    assert_int_equal(a->head_bias + k->att.qkv_bias + k->att.o_bias, 3);
    assert_int_equal(k->att.window, 40);
    assert_int_equal(k->route.score, ROUTE_SPARSE_MIXER);
    assert_true(k->route.eps == 0.25f);
    assert_int_equal(a->rope_long_tok[0], 1024);
    assert_true(arch_rope(a, 0).scale == 1.125f && a->rope_long_scale[0] == 1.25f);
    hf_config_free(&c);
    c = config_parse_ok(PHIMOE "\"num_hidden_layers\":1}");
    assert_true(arch_kind(a, 0)->route.eps == 0.01f);
    assert_int_equal(a->head_bias + arch_kind(a, 0)->att.o_bias + arch_kind(a, 0)->att.window, 0);
    hf_config_free(&c);

    c = config_read_ok(GOLDEN "families/flexolmo-tiny");
    k = arch_kind(a, 0);
    assert_int_equal(k->block.post_norm, ARCH_POST_NORM_ONLY);
    assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_FULL);
    assert_false(slot_present(slot_at(SLOT_ATTN_NORM), a, 0));
    assert_false(slot_present(slot_at(SLOT_FFN_NORM), a, 0));
    assert_int_equal(k->route.renorm, 0);
    hf_config_free(&c);
}

static void flint_and_kolibri(void **state) {
    (void)state;
    struct hf_config c = config_parse_ok(FLINT "\"num_hidden_layers\":11}");
    const struct arch *a = &c.arch;
    for (uint32_t l = 0; l < 11; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        const bool full = l < 2 || l % 4 == 1 || l == 10;
        assert_int_equal(k->att.window, full ? 0 : 513);
        assert_int_equal(arch_rope(a, k->att.rope).dim, full ? 0 : 128);
        assert_int_equal(k->moe, l >= 2);
        assert_int_equal(k->att.sinks + k->route.renorm, 2);
        assert_int_equal(k->route.score + k->route.selection_bias, ROUTE_SIGMOID);
    }
    hf_config_free(&c);
    c = config_read_ok(GOLDEN "families/flint-tiny");
    assert_int_equal(arch_mlp_dim(a, 0) + arch_mlp_dim(a, 1), 96 + 48);
    hf_config_free(&c);
    c = config_parse_ok(FLINT "\"num_hidden_layers\":3,\"mlp_only_layers\":[]}");
    assert_int_equal(arch_moe_layers(a), 3);
    hf_config_free(&c);

    c = config_parse_ok(KOLIBRI "\"num_hidden_layers\":6}");
    for (uint32_t l = 0; l < 6; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->att.window, l == 4 ? 0 : 513);
        assert_int_equal(arch_rope(a, k->att.rope).dim, l == 4 ? 0 : 128);
        assert_int_equal(k->block.post_norm, ARCH_POST_NORM_TOO);
        assert_int_equal(k->route.by_logits + k->route.selection_bias, 2);
        assert_int_equal(k->route.renorm, 0);
    }
    hf_config_free(&c);
}

static void laguna(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/laguna-tiny");
    const struct arch *a = &c.arch;
    static const uint32_t heads[] = {4, 8, 6};
    for (uint32_t l = 0; l < 3; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        assert_int_equal(k->att.n_heads, heads[l]);
        assert_int_equal(k->att.gate, ARCH_GATE_HEAD_SOFTPLUS);
        assert_int_equal(arch_rope(a, k->att.rope).dim, l > 0 ? 16 : 8);
        assert_int_equal(slot_at(SLOT_ATTN_GATE)->rows(a, l), heads[l]);
        assert_true(k->route.logit_cap == 2 && k->route.scale == 2.5f);
        assert_int_equal(k->moe, l > 0);
    }
    hf_config_free(&c);
    c = config_parse_ok(LAGUNA "\"gating\":\"per-element\"}");
    assert_int_equal(arch_kind(a, 0)->att.gate, ARCH_GATE_SOFTPLUS);
    assert_int_equal(slot_at(SLOT_ATTN_GATE)->rows(a, 0), 48 * 128);
    assert_int_equal(arch_kind(a, 0)->att.window, 0);
    assert_int_equal(arch_kind(a, 0)->moe, 0);
    assert_int_equal(arch_rope(a, 0).dim, 64);
    hf_config_free(&c);
}

static void first_generations(void **state) {
    (void)state;
    struct hf_config c = config_parse_ok(DEEPSEEK "\"num_hidden_layers\":5,\"moe_layer_freq\":2,"
                                                  "\"first_k_dense_replace\":1,"
                                                  "\"norm_topk_prob\":true}");
    const struct arch *a = &c.arch;
    for (uint32_t l = 0; l < 5; l++) {
        assert_int_equal(arch_kind(a, l)->moe, l == 2 || l == 4);
    }
    assert_int_equal(arch_kind(a, 2)->shared_dim, 0);
    assert_true(arch_kind(a, 2)->route.eps == 1e-20f);
    hf_config_free(&c);

    c = config_read_ok(GOLDEN "families/bailingmoe-tiny");
    assert_true(c.unit_head);
    assert_int_equal(arch_kind(a, 0)->route.renorm, 1);
    assert_int_equal(arch_mlp_dim(a, 0), 64);
    hf_config_free(&c);
    c = config_read_ok(GOLDEN "families/bailingmoev2-tiny");
    assert_string_equal(a->family, "bailing_moe_v2");
    assert_int_equal(arch_kind(a, 1)->route.groups, 2);
    assert_int_equal(arch_rope(a, 0).dim, 16);
    assert_int_equal(arch_kind(a, 0)->att.qk_norm, ARCH_QK_NORM_HEAD);
    assert_false(c.unit_head);
    hf_config_free(&c);
}

static void layouts(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/smallthinker-tiny");
    const struct arch *a = &c.arch;
    for (uint32_t l = 0; l < 4; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        const bool turned = l == 1 || l == 2;
        assert_int_equal(k->att.window, turned ? 12 : 0);
        assert_int_equal(arch_rope(a, k->att.rope).dim, turned ? 16 : 0);
        assert_int_equal(k->route.input, ROUTE_LAYER_INPUT);
        assert_int_equal(k->route.score, ROUTE_SOFTMAX);
        assert_int_equal(k->ffn.act, FFN_RELU);
    }
    hf_config_free(&c);
    c = config_parse_ok(SMALL "\"num_hidden_layers\":2}");
    assert_int_equal(arch_kind(a, 0)->route.score + arch_kind(a, 0)->route.by_logits,
                     ROUTE_SIGMOID + 1);
    assert_int_equal(arch_rope(a, 0).dim, 128);
    assert_int_equal(a->n_kinds, 1);
    hf_config_free(&c);

    c = config_read_ok(GOLDEN "families/dbrx-tiny");
    assert_int_equal(a->norm, ARCH_NORM_LAYER);
    assert_int_equal(arch_kind(a, 0)->att.n_kv_heads, 2);
    assert_true(arch_kind(a, 0)->att.clip_qkv == 0.75f);
    assert_int_equal(a->n_experts + a->n_active + a->ffn_dim, 8 + 3 + 32);
    assert_int_equal(arch_kind(a, 0)->route.renorm, ROUTE_RENORM_SUM);
    assert_true(arch_rope(a, 0).inv_freq[1] < 0.2f); /* of 500000 */
    hf_config_free(&c);
    c = config_parse_ok(DBRX "\"ffn_config\":{\"moe_normalize_expert_weights\":null}}");
    assert_int_equal(arch_kind(a, 0)->route.renorm, ROUTE_RENORM_NONE);
    hf_config_free(&c);
}

static void step3p7(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/step3p7-tiny");
    const struct arch *a = &c.arch;
    static const float limits[] = {0, 0, 0.75f, 1}, shared[] = {1, 0, 0, 0.75f};
    assert_int_equal(a->n_layers + c.further_layers, 4 + 1);
    for (uint32_t l = 0; l < 4; l++) {
        const struct layer_kind *k = arch_kind(a, l);
        const bool full = l == 0 || l == 3;
        assert_int_equal(k->moe, l > 0);
        assert_int_equal(k->att.window, full ? 0 : 12);
        assert_int_equal(k->att.n_heads, full ? 4 : 6);
        assert_int_equal(k->att.n_kv_heads, 2);
        assert_int_equal(k->att.gate, ARCH_GATE_HEAD_SIGMOID);
        assert_int_equal(arch_rope(a, k->att.rope).dim, full ? 8 : 16);
        assert_int_equal(arch_mlp_dim(a, l), l > 0 ? 48 : 96);
        assert_true(k->route.scale == 1.5f);
        assert_true(k->ffn.limit == limits[l] && k->shared_limit == shared[l]);
        assert_int_equal(k->ffn.act, l == 1 ? FFN_SILU : FFN_SILU_LIMIT);
    }
    /* Long waves of full layers alone are stretched. */
    assert_true(arch_rope(a, arch_kind(a, 0)->att.rope).inv_freq[3] < 2.7e-5f);
    assert_true(arch_rope(a, arch_kind(a, 1)->att.rope).inv_freq[0] == 1);
    hf_config_free(&c);
    /* as transformers spells it */
    c = config_parse_ok(STEP "\"layer_types\":[\"sliding_attention\",\"full_attention\"],"
                             "\"mlp_layer_types\":[\"dense\",\"sparse\"],\"sliding_window\":64,"
                             "\"num_sliding_attention_heads\":96,\"rope_parameters\":{"
                             "\"full_attention\":{\"rope_theta\":5e6,"
                             "\"partial_rotary_factor\":0.5},"
                             "\"sliding_attention\":{\"rope_theta\":1e4}}}");
    assert_int_equal(arch_kind(a, 0)->att.n_heads, 96);
    assert_int_equal(arch_kind(a, 1)->att.n_heads, 64);
    assert_int_equal(arch_kind(a, 0)->moe + 2 * arch_kind(a, 1)->moe, 2);
    assert_int_equal(arch_rope(a, arch_kind(a, 0)->att.rope).dim, 128);
    assert_int_equal(arch_rope(a, arch_kind(a, 1)->att.rope).dim, 64);
    hf_config_free(&c);
    /* inside the model that sees */
    c = config_parse_ok(
        "{\"model_type\":\"step3p7\",\"architectures\":[\"Step3p7ForConditionalGeneration\"],"
        "\"image_token_id\":128001,\"projector_bias\":false,\"understand_projector_stride\":2,"
        "\"vision_config\":{\"width\":1536},\"text_config\":" STEP
        "\"num_nextn_predict_layers\":1,\"mtp_base_layer_idx\":2,\"moe_layers_enum\":\"1\","
        "\"layer_types\":[\"full_attention\",\"full_attention\",\"sliding_attention\"]}}");
    assert_int_equal(arch_kind(a, 0)->moe + 2 * arch_kind(a, 1)->moe, 2);
    assert_int_equal(a->n_ropes + c.further_layers, 2);
    hf_config_free(&c);
    c = config_parse_ok(STEP "\"moe_layers_enum\":[1,2],\"rope_theta\":500}");
    assert_int_equal(arch_kind(a, 0)->moe + 2 * arch_kind(a, 1)->moe, 2);
    assert_int_equal(a->n_ropes, 1);
    hf_config_free(&c);
}

/* Values narrower than keys; layers by the publisher's lists, by those of transformers, and by the
 * rule without either. */
static void mimo_v2_flash(void **state) {
    (void)state;
    struct hf_config c = config_read_ok(GOLDEN "families/mimov2flash-tiny");
    const struct arch *a = &c.arch;
    for (uint32_t l = 0; l < 4; l++) {
        const struct attention_rule *r = &arch_kind(a, l)->att;
        const bool slides = l == 1 || l == 2;
        assert_int_equal(r->head_dim, 48);
        assert_int_equal(attention_v_dim(r), slides ? 64 : 32);
        assert_int_equal(attention_k_dim(r), slides ? 96 : 48);
        assert_int_equal(attention_out_dim(r), 4 * 32);
        assert_int_equal(r->window, slides ? 12 : 0);
        assert_int_equal(r->sinks, slides);
        assert_int_equal(arch_rope(a, r->rope).dim, 16);
        assert_true(r->v_scale == 0.707f);
        assert_float_equal(arch_rope(a, r->rope).inv_freq[1], pow(slides ? 1e4 : 5e6, -2.0 / 16),
                           1e-6);
        assert_int_equal(arch_kind(a, l)->moe, l > 0);
        assert_int_equal(arch_mlp_dim(a, l), l > 0 ? 0 : 96);
    }
    assert_true(arch_kind(a, 1)->route.scale == 1 && arch_kind(a, 1)->route.selection_bias);
    hf_config_free(&c);
    c = config_read_ok(GOLDEN "configs/mimo-v2-flash");
    assert_int_equal(arch_kind(a, 1)->att.window, 129);
    assert_int_equal(arch_kind(a, 1)->att.n_kv_heads, 8);
    assert_int_equal(arch_kind(a, 47)->att.window, 0);
    assert_int_equal(arch_rope(a, 0).dim, 64);
    assert_int_equal(c.quant.blocks.rows, 128);
    hf_config_free(&c);
    c = config_parse_ok(MIMO "\"attention_value_scale\":null,\"swa_rope_theta\":100}");
    for (uint32_t l = 0; l < 7; l++) {
        const struct attention_rule *r = &arch_kind(a, l)->att;
        const bool slides = l != 0 && l != 5;
        assert_int_equal(r->window, slides ? 129 : 0);
        assert_int_equal(r->n_kv_heads, slides ? 8 : 4);
        assert_true(r->v_scale == 1);
        assert_float_equal(arch_rope(a, r->rope).inv_freq[1], pow(slides ? 100 : 5e6, -2.0 / 64),
                           1e-6);
    }
    hf_config_free(&c);
    c = config_parse_ok(
        "{\"model_type\":\"mimo_v2_flash\",\"num_hidden_layers\":2,\"sliding_window\":9,"
        "\"layer_types\":[\"sliding_attention\",\"full_attention\"],"
        "\"mlp_layer_types\":[\"sparse\",\"dense\"]}");
    assert_int_equal(arch_kind(a, 0)->att.window, 9);
    assert_int_equal(arch_kind(a, 1)->att.window, 0);
    assert_int_equal(arch_kind(a, 0)->moe - arch_kind(a, 1)->moe, 1);
    hf_config_free(&c);
}

static void refusals(void **state) {
    (void)state;
    static const struct config_refusal bad[] = {
        {LLAMA4 "\"num_experts_per_tok\":2}", "num_experts_per_tok is 2, expected 1", "llama4"},
        {LLAMA4 "\"attention_bias\":true}", "attention_bias is 1, expected 0", "llama4"},
        {LLAMA4 "\"no_rope_layers\":[1,1]}", "no_rope_layers is [1,1]", "one a layer"},
        {LLAMA4 "\"no_rope_layers\":[1,2,1,1]}", "no_rope_layers is [1,2,1,1]", "0 and 1"},
        {LLAMA4 "\"no_rope_layers\":7}", "no_rope_layers is 7", "0 and 1"},
        {LLAMA4 "\"moe_layers\":[4]}", "moe_layers is [4]", "a list of layers"},
        {LLAMA4 "\"moe_layers\":3}", "moe_layers is 3", "a list of layers"},
        {LLAMA4 "\"attn_temperature_tuning\":\"on\"}", "attn_temperature_tuning is \"on\"", "true"},
        {LLAMA4 "\"attention_chunk_size\":null,\"layer_types\":[\"chunked_attention\","
                "\"chunked_attention\",\"chunked_attention\",\"full_attention\"]}",
         "layer_types entry 0", "attention_chunk_size is null"},
        {LLAMA4 "\"floor_scale\":0}", "floor_scale is 0", "a positive number"},
        {COHERE2 "\"sliding_window_pattern\":0}", "sliding_window_pattern is 0", "positive"},
        {COHERE2 "\"expert_selection_fn\":\"top\"}", "expert_selection_fn is \"top\"",
         "\"softmax\" or \"sigmoid\""},
        {COHERE2 "\"shared_expert_combination_strategy\":1}",
         "shared_expert_combination_strategy is 1", "\"average\" or \"sum\""},
        {COHERE2 "\"attention_bias\":true}", "attention_bias is 1", "cohere2_moe"},
        {COHERE2 "\"sliding_window\":0}", "sliding_window is 0", "a positive integer"},
        {PHIMOE "\"num_experts_per_tok\":3}", "num_experts_per_tok is 3, expected 2", "phimoe"},
        {LAGUNA "\"gating\":false}", "gating is false", "\"per-head\""},
        {LAGUNA "\"num_attention_heads_per_layer\":[8]}", "num_attention_heads_per_layer is [8]",
         "one a layer"},
        {LAGUNA "\"num_attention_heads_per_layer\":[8,0]}",
         "num_attention_heads_per_layer is [8,0]", "positive integers"},
        {LAGUNA "\"moe_apply_router_weight_on_input\":true}",
         "unknown key moe_apply_router_weight_on_input is true", "laguna"},
        {DEEPSEEK "\"scoring_func\":\"sigmoid\"}", "scoring_func is \"sigmoid\"", "\"softmax\""},
        {BAILING "\"use_qkv_bias\":true}", "use_qkv_bias is 1, expected 0", "bailing_moe"},
        {BAILING "\"use_sliding_window\":true}", "use_sliding_window is 1", "bailing_moe"},
        {BAILING "\"norm_softmax\":true}", "unknown key norm_softmax is true", "bailing_moe"},
        {SMALL "\"rope_layout\":[1,0]}", "rope_layout is [1,0]", "one a layer"},
        {SMALL "\"num_hidden_layers\":2,\"moe_layer_layout\":[1,0]}", "moe_layer_layout is [1,0]",
         "1 in every layer"},
        {SMALL "\"moe_enable_early_router\":false}", "moe_enable_early_router is false", "true"},
        {SMALL "\"moe_enable_secondary_experts\":true}",
         "unknown key moe_enable_secondary_experts is true", "smallthinker"},
        {STEP "\"rope_theta\":[1e4,2e4]}", "rope_theta is [10000.0,20000.0]", "of one type"},
        {STEP "\"partial_rotary_factors\":0.5}", "partial_rotary_factors is 0.5", "one a layer"},
        {STEP "\"partial_rotary_factors\":[1]}", "partial_rotary_factors is [1]", "each layer"},
        {STEP "\"yarn_only_types\":[\"sliding_attention\"]}",
         "yarn_only_types is [\"sliding_attention\"]", "full_attention"},
        {STEP "\"moe_layers_enum\":\"1;2\"}", "moe_layers_enum is \"1;2\"", "commas"},
        {STEP "\"moe_layers_enum\":[-1]}", "moe_layers_enum is [-1]", "a list"},
        {STEP "\"moe_layers_enum\":1}", "moe_layers_enum is 1", "a list"},
        {STEP "\"moe_layers_enum\":\"1\",\"swiglu_limits\":[7]}", "swiglu_limits is [7]",
         "one a layer"},
        {STEP "\"moe_layers_enum\":\"1\",\"swiglu_limits_shared\":[0,-1]}",
         "swiglu_limits_shared is [0,-1]", "limits"},
        {STEP "\"attention_other_setting\":{\"head_dim\":64}}", "head_dim is 64", "full layers"},
        {STEP "\"attention_other_setting\":{\"attention_type\":\"full_attention\"}}",
         "attention_other_setting is {", "sliding_attention"},
        {STEP "\"attention_other_setting\":7}", "attention_other_setting is 7", "an object"},
        {STEP "\"num_sliding_attention_heads\":0}", "num_sliding_attention_heads is 0",
         "a positive integer"},
        {STEP "\"use_rope_layers\":[true,false]}", "use_rope_layers is [true,false]", "true"},
        {STEP "\"query_pre_attn_scalar\":64}", "query_pre_attn_scalar is 64", "head_dim"},
        {STEP "\"moe_router_activation\":\"softmax\"}", "moe_router_activation is \"softmax\"",
         "sigmoid"},
        {STEP "\"zero_centered\":false}", "zero_centered is false", "true"},
        {STEP "\"moe_layers_enum\":\"1\",\"sink\":true}", "unknown key sink is true", "step3p7"},
        {STEP "\"use_qk_norm\":false}", "use_qk_norm is 0, expected 1", "step3p7"},
        {MIMO "\"swa_head_dim\":64}", "swa_head_dim is 64", "192 in every layer"},
        {MIMO "\"swa_v_head_dim\":64}", "swa_v_head_dim is 64", "128 in every layer"},
        {MIMO "\"swa_num_attention_heads\":32}", "swa_num_attention_heads is 32", "64"},
        {MIMO "\"add_swa_attention_sink_bias\":false}", "sink_bias is false", "true"},
        {MIMO "\"add_full_attention_sink_bias\":true}", "add_full_attention_sink_bias is true",
         "mimo_v2_flash"},
        {MIMO "\"sliding_window_size\":0}", "sliding_window_size is 0", "a positive integer"},
        {MIMO "\"swa_num_key_value_heads\":\"8\"}", "swa_num_key_value_heads is \"8\"",
         "a positive integer"},
        {MIMO "\"swa_num_key_value_heads\":7}", "n_heads = 64 is not a multiple", "7"},
        {MIMO "\"swa_rope_theta\":-1}", "swa_rope_theta is -1", "a positive number"},
        {MIMO "\"scoring_func\":\"softmax\"}", "scoring_func is \"softmax\"", "sigmoid"},
        {MIMO "\"hybrid_layer_pattern\":[0,1,1,1,1,0,2]}", "hybrid_layer_pattern is [0,1",
         "0 and 1"},
        {MIMO "\"hybrid_layer_pattern\":[0,1,1,1,1,0,1],\"layer_types\":[\"full_attention\","
              "\"full_attention\",\"full_attention\",\"full_attention\",\"full_attention\","
              "\"full_attention\",\"full_attention\"]}",
         "contradict each other", "hybrid_layer_pattern"},
        {DBRX "\"ffn_config\":{\"moe_normalize_expert_weights\":2}}",
         "moe_normalize_expert_weights is 2", "1 or null"},
        {DBRX "\"ffn_config\":{\"ffn_act_fn\":{\"name\":\"gelu\"}}}", "ffn_act_fn is {", "silu"},
        {DBRX "\"attn_config\":3}", "attn_config is 3", "an object"},
        {DBRX "\"attn_config\":{\"surprise\":1}}", "unknown key surprise is 1", "dbrx"},
        {BAILING_V2 "\"score_function\":\"softmax\"}", "score_function is \"softmax\"", "sigmoid"},
        {BAILING_V2 "\"moe_shared_expert_intermediate_size\":7}",
         "moe_shared_expert_intermediate_size is 7", "that of an expert"},
    };
    config_refused(bad, TEST_COUNT(bad));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(llama4),        cmocka_unit_test(cohere2_moe),
        cmocka_unit_test(norms),         cmocka_unit_test(flint_and_kolibri),
        cmocka_unit_test(laguna),        cmocka_unit_test(first_generations),
        cmocka_unit_test(layouts),       cmocka_unit_test(step3p7),
        cmocka_unit_test(mimo_v2_flash), cmocka_unit_test(refusals),
    };
    return cmocka_run_group_tests_name("family_own", tests, NULL, NULL);
}
