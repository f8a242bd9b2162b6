/*
 * hf_config: config.json of each family to an arch: spellings, defaults, refusals; RoPE against
 * values that transformers computed.
 */
#include "tests/util/test.h"

#include <math.h>

#include "prep/hf/hf_config.h"

static int parse(struct hf_config *c, const char *config, const char *generation, struct err *err) {
    memset(c, 0, sizeof *c);
    struct hf_json gen = {"generation_config.json", generation,
                          generation ? strlen(generation) : 0};
    return hf_config_parse(c, (struct hf_json){"config.json", config, strlen(config)}, gen, err);
}

/* Parses, and fails the test with the message where that fails. */
static struct hf_config parse_ok(const char *config, const char *generation) {
    struct hf_config c;
    struct err err = {0};
    if (parse(&c, config, generation, &err)) {
        print_error("%s\n", err.msg);
        fail();
    }
    return c;
}

#define MIXTRAL "{\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"mixtral\","
#define OLMOE "{\"architectures\":[\"OlmoeForCausalLM\"],\"model_type\":\"olmoe\","
#define QWEN2 "{\"architectures\":[\"Qwen2MoeForCausalLM\"],\"model_type\":\"qwen2_moe\","
#define OSS "{\"architectures\":[\"GptOssForCausalLM\"],\"model_type\":\"gpt_oss\","
#define NEXT "{\"architectures\":[\"Qwen3NextForCausalLM\"],\"model_type\":\"qwen3_next\","
#define QWEN35 "{\"architectures\":[\"Qwen3_5MoeForCausalLM\"],\"model_type\":\"qwen3_5_moe_text\","
#define GEMMA                                                                                      \
    "{\"architectures\":[\"Gemma4ForCausalLM\"],\"model_type\":\"gemma4_text\","                   \
    "\"enable_moe_block\":true,\"hidden_size_per_layer_input\":0,\"num_experts\":16,"              \
    "\"top_k_experts\":4,\"moe_intermediate_size\":32,"
#define QWEN3 "{\"architectures\":[\"Qwen3MoeForCausalLM\"],\"model_type\":\"qwen3_moe\","

static void defaults(void **state) {
    (void)state;
    struct hf_config c = parse_ok(MIXTRAL "\"use_cache\":true}", NULL);
    const struct arch *a = &c.arch;
    const struct layer_kind *k = arch_kind(a, 0);
    assert_ptr_equal(c.family, &family_mixtral);
    assert_string_equal(a->family, "mixtral");
    assert_int_equal(a->n_layers, 32);
    assert_int_equal(a->dim, 4096);
    assert_int_equal(a->vocab, 32000);
    assert_int_equal(k->att.n_kv_heads, 8);
    assert_int_equal(k->att.head_dim, 128);
    assert_int_equal(a->ctx_max_tok, 131072);
    assert_true(a->norm_eps == 1e-5f);
    assert_int_equal(a->n_experts, 8);
    assert_int_equal(a->n_active, 2);
    assert_int_equal(a->ffn_dim, 14336);
    assert_int_equal(k->route.renorm, 1);
    assert_int_equal(arch_kind(a, 31)->att.window, 0);
    assert_int_equal(k->dense_dim + k->shared_dim + k->att.qkv_bias + k->att.o_bias +
                         k->att.qk_norm + a->tied,
                     0);
    assert_int_equal(a->n_stop, 1);
    assert_int_equal(a->stop_ids[0], 2);
    assert_true(a->rope_inv_freq[1] > 0.80f && a->rope_inv_freq[1] < 0.81f); /* 1e6^(-1/64) */
    assert_true(a->gen_temperature < 0 && a->gen_top_k < 0);
    hf_config_free(&c);

    c = parse_ok(OLMOE "\"intermediate_size\":1024}", NULL);
    k = arch_kind(a, 0);
    assert_int_equal(k->att.n_kv_heads, 16);
    assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_FULL);
    assert_int_equal(a->ffn_dim, 1024);
    assert_int_equal(k->route.renorm, 0);
    assert_int_equal(a->stop_ids[0], 50279);
    assert_true(k->att.clip_qkv == 0);
    hf_config_free(&c);

    c = parse_ok(QWEN2 "\"use_cache\":true}", NULL);
    k = arch_kind(a, 0);
    assert_int_equal(k->att.qkv_bias, 1);
    assert_int_equal(k->att.o_bias, 0);
    assert_int_equal(a->n_experts, 60);
    assert_int_equal(a->ffn_dim, 1408);
    assert_int_equal(k->shared_dim, 5632);
    assert_int_equal(k->shared_gate, 1);
    assert_int_equal(k->dense_dim, 0);
    assert_int_equal(a->n_stop, 0);
    assert_true(a->norm_eps == 1e-6f);
    hf_config_free(&c);

    c = parse_ok(QWEN3 "\"use_cache\":true}", NULL);
    k = arch_kind(a, 0);
    assert_int_equal(k->att.qk_norm, ARCH_QK_NORM_HEAD);
    assert_int_equal(k->att.head_dim, 64);
    assert_int_equal(a->n_active, 8);
    assert_int_equal(k->route.renorm, 0);
    hf_config_free(&c);
}

/* Spellings that must give the same model: the architecture is compared byte for byte. */
static void spellings(void **state) {
    (void)state;
    static const struct {
        const char *one, *other;
    } same[] = {
        {MIXTRAL "\"rope_theta\":20000}", MIXTRAL "\"rope_parameters\":{\"rope_theta\":2e4}}"},
        {MIXTRAL "\"rope_theta\":20000}", MIXTRAL "\"rope_scaling\":null,\"rope_parameters\":{"
                                                  "\"rope_theta\":2e4,\"rope_type\":\"default\"}}"},
        {QWEN3 "\"rope_theta\":1e6,\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}", QWEN3
         "\"rope_parameters\":{\"rope_theta\":1000000,\"rope_type\":\"linear\",\"factor\":4.0}}"},
        {QWEN3 "\"rope_theta\":1e6,\"rope_scaling\":{\"type\":\"yarn\",\"rope_type\":\"linear\","
               "\"factor\":4}}",
         QWEN3 "\"rope_theta\":1e6,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0}}"},
        /* rope_scaling replaces rope_parameters */
        {QWEN3 "\"rope_scaling\":{\"type\":\"linear\",\"factor\":4},\"rope_parameters\":{\"rope_"
               "theta\":5}}",
         QWEN3 "\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}"},
        /* where the object says nothing of its own context, the model's counts */
        {QWEN3 "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4}}",
         QWEN3 "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_"
               "embeddings\":32768}}"},
        {QWEN3 "\"num_experts\":16}", QWEN3 "\"num_local_experts\":16}"},
        {MIXTRAL "\"num_experts\":4}", MIXTRAL "\"num_local_experts\":4,\"num_experts\":4}"},
        {MIXTRAL "\"num_key_value_heads\":null}", MIXTRAL "\"num_key_value_heads\":32}"},
        {MIXTRAL "\"head_dim\":null}", MIXTRAL "\"head_dim\":128}"},
        {MIXTRAL "\"hidden_act\":null}", MIXTRAL "\"hidden_act\":\"silu\"}"},
        {OSS "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32,\"truncate\":null}}",
         OSS "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32,\"truncate\":false}}"},
        {MIXTRAL "\"is_causal\":true,\"use_causal_mask\":true,\"use_rope\":true}",
         MIXTRAL "\"is_causal\":null,\"use_rope\":null}"},
        {MIXTRAL "\"use_qk_norm\":false}", MIXTRAL "\"attn_output_gate\":false}"},
        {OLMOE "\"use_qk_norm\":true}", OLMOE "\"use_qk_norm\":null}"},
        {NEXT "\"attn_output_gate\":true,\"output_gate_type\":\"silu\"}",
         NEXT "\"use_qk_norm\":true,\"output_gate_type\":\"swish\"}"},
        {NEXT "\"use_sliding_window\":false,\"sliding_window\":4096,\"max_window_layers\":28}",
         NEXT "\"sliding_window\":null,\"output_gate_type\":null}"},
        {QWEN35 "\"decoder_sparse_step\":1}", QWEN35 "\"output_gate_type\":\"swish\"}"},
        {MIXTRAL "\"hidden_act\":\"silu\"}", MIXTRAL "\"hidden_act\":\"swish\"}"},
        {MIXTRAL "\"sliding_window\":null}", MIXTRAL "\"attention_bias\":false,\"clip_qkv\":null}"},
        {QWEN2 "\"use_sliding_window\":false,\"sliding_window\":128}",
         QWEN2 "\"sliding_window\":null}"},
        {"{\"model_type\":\"mixtral\"}",
         MIXTRAL "\"torch_dtype\":\"bfloat16\",\"dtype\":\"bfloat16\"}"},
        {QWEN3 "\"use_qk_norm\":true}",
         QWEN3 "\"qkv_bias\":false,\"shared_expert_intermediate_size\":0}"},
        {QWEN3 "\"mlp_only_layers\":[]}",
         QWEN3 "\"mlp_only_layers\":null,\"decoder_sparse_step\":1}"},
        {QWEN3 "\"eos_token_id\":7}", QWEN3 "\"eos_token_id\":[7,7]}"},
    };
    for (size_t i = 0; i < TEST_COUNT(same); i++) {
        struct hf_config a = parse_ok(same[i].one, NULL), b = parse_ok(same[i].other, NULL);
        struct buf x = {0}, y = {0};
        arch_encode(&a.arch, &x);
        arch_encode(&b.arch, &y);
        if (x.len != y.len || memcmp(x.data, y.data, x.len) != 0) {
            print_error("differ:\n%s\n%s\n", same[i].one, same[i].other);
            fail();
        }
        buf_free(&x);
        buf_free(&y);
        hf_config_free(&a);
        hf_config_free(&b);
    }
}

/* Windows, or experts, of the first layers. */
static void assert_windows(const struct arch *a, const uint32_t *window) {
    for (uint32_t l = 0; l < a->n_layers; l++) {
        assert_int_equal(arch_kind(a, l)->att.window, window[l]);
    }
}
static void assert_moe(const struct arch *a, const uint32_t *moe) {
    for (uint32_t l = 0; l < a->n_layers; l++) {
        assert_int_equal(arch_is_moe(a, l), moe[l]);
    }
}

static void layers(void **state) {
    (void)state;
    struct hf_config c = parse_ok(
        QWEN2 "\"num_hidden_layers\":6,\"decoder_sparse_step\":2,\"mlp_only_layers\":[3,77]}",
        NULL);
    assert_moe(&c.arch, (const uint32_t[]){0, 1, 0, 0, 0, 1});
    assert_int_equal(arch_kind(&c.arch, 0)->dense_dim, 5632);
    hf_config_free(&c);
    /* sliding windows: mixtral and qwen3_moe everywhere, others by their rule or their list */
    static const struct {
        const char *config;
        uint32_t window[6];
    } rows[] = {
        {MIXTRAL "\"num_hidden_layers\":2,\"sliding_window\":64}", {64, 64}},
        {QWEN3 "\"num_hidden_layers\":2,\"sliding_window\":64,\"use_sliding_window\":true}",
         {64, 64}},
        {QWEN2 "\"num_hidden_layers\":6,\"sliding_window\":64,\"use_sliding_window\":true,"
               "\"max_window_layers\":3}",
         {64, 0, 64, 0, 0, 0}},
        {QWEN2 "\"num_hidden_layers\":2,\"sliding_window\":64,\"use_sliding_window\":true,"
               "\"layer_types\":[\"full_attention\",\"sliding_attention\"]}",
         {0, 64}},
        {OSS "\"num_hidden_layers\":3}", {128, 0, 128}},
        {OSS "\"num_hidden_layers\":3,\"sliding_window\":9,\"layer_types\":[\"full_attention\","
             "\"sliding_attention\",\"full_attention\"]}",
         {0, 9, 0}},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        c = parse_ok(rows[i].config, NULL);
        assert_windows(&c.arch, rows[i].window);
        hf_config_free(&c);
    }
}

static void generation(void **state) {
    (void)state;
    struct hf_config c =
        parse_ok(MIXTRAL "\"eos_token_id\":5}",
                 "{\"eos_token_id\":[9,7,9],\"temperature\":0.5,\"top_p\":0.75,\"top_k\":20,"
                 "\"repetition_penalty\":1.25,\"do_sample\":true}");
    assert_int_equal(c.arch.n_stop, 2);
    assert_int_equal(c.arch.stop_ids[0], 9);
    assert_int_equal(c.arch.stop_ids[1], 7);
    assert_true(c.arch.gen_temperature == 0.5f && c.arch.gen_top_p == 0.75f);
    assert_true(c.arch.gen_top_k == 20 && c.arch.gen_repeat_penalty == 1.25f);
    hf_config_free(&c);
    c = parse_ok(MIXTRAL "\"eos_token_id\":[5,6]}", "{\"do_sample\":false,\"temperature\":0.5}");
    assert_int_equal(c.arch.n_stop, 2);
    assert_int_equal(c.arch.stop_ids[1], 6);
    assert_true(c.arch.gen_temperature == 0 && c.arch.gen_top_p < 0);
    hf_config_free(&c);
    c = parse_ok(MIXTRAL "\"eos_token_id\":null}", "{}");
    assert_int_equal(c.arch.n_stop, 0);
    hf_config_free(&c);
}

/* Advice that cannot be followed is left out, and a remark names file and key; the model is read
 * all the same. */
static void advice(void **state) {
    (void)state;
    static const struct {
        const char *generation;
        float temperature, top_p, top_k, repeat;
        const char *told; /* NULL: nothing */
    } rows[] = {
        {"{\"temperature\":0.5,\"top_p\":1,\"top_k\":0,\"repetition_penalty\":1}", 0.5f, 1, 0, 1,
         NULL},
        {"{\"temperature\":null,\"top_p\":null,\"top_k\":50.0}", -1, -1, 50, -1, NULL},
        {"{\"top_k\":-1}", -1, -1, 0, -1, "generation_config.json: top_k: -1 is taken as 0"},
        {"{\"top_k\":-2}", -1, -1, -1, -1, "generation_config.json: top_k: -2 is not an integer"},
        {"{\"top_k\":2.5}", -1, -1, -1, -1,
         "top_k: 2.5 is not an integer of 0 to 16777216: left out"},
        {"{\"top_k\":16777217}", -1, -1, -1, -1, "top_k: 16777217 is not"},
        {"{\"top_p\":1.5,\"top_k\":3}", -1, -1, 3, -1, "generation_config.json: top_p: 1.5 is not"},
        {"{\"top_p\":-0.5}", -1, -1, -1, -1, "top_p: -0.5 is not a number of 0 to 1"},
        {"{\"temperature\":\"0.6\"}", -1, -1, -1, -1, "temperature: \"0.6\" is not a number"},
        {"{\"temperature\":true}", -1, -1, -1, -1, "temperature: true is not a number"},
        {"{\"temperature\":2000}", -1, -1, -1, -1, "temperature: 2000 is not"},
        {"{\"temperature\":[1]}", -1, -1, -1, -1, "temperature: [1] is not a number"},
        {"{\"repetition_penalty\":0}", -1, -1, -1, -1,
         "repetition_penalty: 0 is not a number above"},
        {"{\"repetition_penalty\":1e9}", -1, -1, -1, -1, "repetition_penalty: 1000000000.0 is not"},
        {"{\"do_sample\":false,\"temperature\":\"x\"}", 0, -1, -1, -1, "temperature: \"x\""},
        {"{\"do_sample\":\"no\"}", -1, -1, -1, -1, "do_sample: \"no\" is neither"},
        {"{\"min_p\":0.1}", -1, -1, -1, -1, "min_p: 0.1 has no place in an archive: left out"},
        {"{\"bad_words_ids\":[[1]]}", -1, -1, -1, -1, "bad_words_ids: [[1]] has no place"},
        {"{\"min_p\":0,\"typical_p\":1.0,\"num_beams\":1,\"suppress_tokens\":[],\"min_length\":0}",
         -1, -1, -1, -1, NULL},
        {"{\"eos_token_id\":-1}", -1, -1, -1, -1,
         "generation_config.json: eos_token_id: -1 is no token: left out"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct hf_config c = parse_ok(MIXTRAL "\"use_cache\":true}", rows[i].generation);
        const struct arch *a = &c.arch;
        if (a->gen_temperature != rows[i].temperature || a->gen_top_p != rows[i].top_p ||
            a->gen_top_k != rows[i].top_k || a->gen_repeat_penalty != rows[i].repeat) {
            fail_msg("%s: other advice", rows[i].generation);
        }
        if (rows[i].told ? !c.remarks.len || !strstr(c.remarks.data, rows[i].told)
                         : c.remarks.len > 0) {
            fail_msg("%s: told %s", rows[i].generation, c.remarks.len ? c.remarks.data : "nothing");
        }
        hf_config_free(&c);
    }
}

/* Which file names stop tokens; an id that the model does not have is an error in each. */
static void stops(void **state) {
    (void)state;
    static const struct {
        const char *config, *generation;
        int n, first;
        bool named;
    } rows[] = {
        {MIXTRAL "\"use_cache\":true}", NULL, 1, 2, false}, /* the family's */
        {MIXTRAL "\"eos_token_id\":null}", NULL, 0, 0, false},
        {MIXTRAL "\"eos_token_id\":-1}", "{}", 0, 0, false},
        {MIXTRAL "\"eos_token_id\":7}", "{\"eos_token_id\":null}", 1, 7, true},
        {MIXTRAL "\"eos_token_id\":7}", "{\"eos_token_id\":[]}", 1, 7, true},
        {MIXTRAL "\"eos_token_id\":7}", "{\"eos_token_id\":[9,-1]}", 1, 9, true},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct hf_config c = parse_ok(rows[i].config, rows[i].generation);
        assert_int_equal(c.arch.n_stop, rows[i].n);
        assert_int_equal(c.stops_named, rows[i].named);
        assert_true(!rows[i].n || (int)c.arch.stop_ids[0] == rows[i].first);
        hf_config_free(&c);
    }
    struct hf_config c;
    struct err err = {0};
    assert_int_equal(
        parse(&c, MIXTRAL "\"eos_token_id\":7}", "{\"eos_token_id\":[0,100000]}", &err), -1);
    assert_err(&err, "generation_config.json: eos_token_id: 100000 is not a token id below");
    hf_config_free(&c);
}

/* A key that nobody knows is refused unless it says nothing; keys that are known to be neutral are
 * not looked at. */
static void unknown_keys(void **state) {
    (void)state;
    static const char *const fine[] = {
        MIXTRAL "\"quiet\":false,\"quieter\":null,\"quietest\":0,\"none\":[],\"void\":{},"
                "\"empty\":\"\",\"mlp_bias\":false}",
        MIXTRAL "\"transformers_version\":\"5.24.0\",\"router_jitter_noise\":0.5,"
                "\"initializer_range\":0.02,\"id2label\":{\"0\":\"LABEL_0\"},\"pad_token_id\":7}",
        MIXTRAL "\"_attn_implementation_autoset\":true}",
        MIXTRAL "\"cache_implementation\":\"hybrid\"}",
        MIXTRAL "\"is_decoder\":true}",
        OSS "\"initial_context_length\":4096,\"router_aux_loss_coef\":0.9}",
        QWEN35 "\"mtp_num_hidden_layers\":1,\"mamba_ssm_dtype\":\"float32\"}",
        GEMMA "\"vocab_size_per_layer_input\":9,\"use_bidirectional_attention\":\"vision\"}",
    };
    for (size_t i = 0; i < TEST_COUNT(fine); i++) {
        struct hf_config c = parse_ok(fine[i], NULL);
        hf_config_free(&c);
    }
}

static void refuses_config(void **state) {
    (void)state;
    static const struct {
        const char *config, *say, *say_too;
    } bad[] = {
        {"", "not valid JSON", "config.json"},
        {"[]", "must be a JSON object", "config.json"},
        {"{\"model_type\":\"mixtral\",\"model_type\":\"olmoe\"}", "duplicate", "model_type"},
        {"{}", "neither architectures nor model_type", ""},
        {"{\"architectures\":[\"LlamaForCausalLM\"]}", "\"LlamaForCausalLM\" is not supported",
         "supported families: "},
        {"{\"model_type\":\"grok\"}", "\"grok\" is not supported", "mixtral, "},
        {"{\"architectures\":[\"MixtralForCausalLM\"],\"model_type\":\"olmoe\"}", "does not belong",
         "olmoe"},
        {"{\"architectures\":[\"MixtralForSequenceClassification\"],\"model_type\":\"mixtral\"}",
         "MixtralForSequenceClassification", "not supported"},
        {MIXTRAL "\"hidden_size\":\"big\"}", "hidden_size is \"big\"", "a positive integer"},
        {MIXTRAL "\"hidden_size\":-4}", "hidden_size is -4", "a positive integer"},
        {MIXTRAL "\"hidden_size\":99999999999}", "hidden_size is 99999999999", "integer"},
        {MIXTRAL "\"hidden_size\":64.5}", "hidden_size is 64.5", "integer"},
        {MIXTRAL "\"num_hidden_layers\":0}", "num_hidden_layers is 0", ""},
        {MIXTRAL "\"num_hidden_layers\":4096}", "num_hidden_layers is 4096", "1 .. 1024"},
        {MIXTRAL "\"num_attention_heads\":0}", "num_attention_heads is 0", ""},
        {MIXTRAL "\"num_attention_heads\":33}", "num_attention_heads is 33", "multiple"},
        {MIXTRAL "\"num_key_value_heads\":3}", "n_kv_heads = 3", "config.json"},
        {MIXTRAL "\"hidden_size\":131104}", "hidden_size is 131104", "at most 131072"},
        {MIXTRAL "\"head_dim\":2000000}", "head_dim is 2000000", "at most 4096"},
        {MIXTRAL "\"head_dim\":4098}", "head_dim is 4098", "at most 4096"},
        {MIXTRAL "\"hidden_size\":131072,\"num_attention_heads\":1}", "head_dim is 131072",
         "at most 4096"},
        {GEMMA "\"global_head_dim\":2147483647}", "global_head_dim is 2147483647", "at most 4096"},
        {GEMMA "\"head_dim\":2147483647}", "head_dim is 2147483647", "at most 4096"},
        {MIXTRAL "\"rms_norm_eps\":\"x\"}", "rms_norm_eps is \"x\"", "number"},
        {MIXTRAL "\"num_experts_per_tok\":9}", "n_active = 9 is above n_experts = 8", ""},
        {MIXTRAL "\"num_experts\":4,\"num_local_experts\":8}",
         "num_experts and num_local_experts contradict", ""},
        {MIXTRAL "\"hidden_act\":\"gelu\"}", "hidden_act is \"gelu\"", "silu"},
        {MIXTRAL "\"norm_topk_prob\":false}", "norm_topk_prob", "mixtral"},
        {MIXTRAL "\"attention_bias\":true}", "attention_bias is true", "mixtral"},
        {MIXTRAL "\"moe_intermediate_size\":64}", "moe_intermediate_size is 64", "mixtral"},
        {MIXTRAL "\"mlp_only_layers\":[1]}", "unknown key mlp_only_layers is [1]", "mixtral"},
        {MIXTRAL "\"surprise\":17}", "unknown key surprise is 17", "mixtral"},
        {MIXTRAL "\"quantization_config\":{\"quant_method\":\"gptq\"}}", "quantization_config",
         "GPTQ"},
        {MIXTRAL "\"attention_multiplier\":0.5}", "attention_multiplier is 0.5", "arithmetic"},
        {MIXTRAL "\"routed_scaling_factor\":2.5}", "routed_scaling_factor is 2.5", "arithmetic"},
        {MIXTRAL "\"final_logit_softcapping\":30}", "final_logit_softcapping is 30", "arithmetic"},
        {MIXTRAL "\"text_config\":{\"hidden_size\":3}}", "text_config", "arithmetic"},
        {MIXTRAL "\"use_qk_norm\":true}", "use_qk_norm is true", "mixtral"},
        {QWEN3 "\"use_qk_norm\":false}", "use_qk_norm is 0", "expected 1"},
        {OLMOE "\"use_qk_norm\":false}", "use_qk_norm is 0", "expected 1"},
        /* false is no neutral value of a key that names what models do */
        {MIXTRAL "\"is_causal\":false}", "is_causal is false", "arithmetic"},
        {MIXTRAL "\"use_causal_mask\":false}", "use_causal_mask is false", "arithmetic"},
        {OLMOE "\"use_rope\":false}", "use_rope is false", "arithmetic"},
        {OLMOE "\"use_rope\":[]}", "use_rope is []", "arithmetic"},
        {MIXTRAL "\"attn_output_gate\":true}", "attn_output_gate is true", "mixtral"},
        {OLMOE "\"sliding_window\":4096}", "sliding_window is 4096", "olmoe"},
        {QWEN3 "\"shared_expert_intermediate_size\":64}", "shared_expert_intermediate_size is 64",
         "qwen3_moe"},
        {QWEN3 "\"decoder_sparse_step\":0}", "decoder_sparse_step must be at least 1", ""},
        {QWEN3 "\"decoder_sparse_step\":99}", "no layer has routed experts", ""},
        {QWEN3 "\"num_experts\":0}", "no layer has routed experts", ""},
        {QWEN3 "\"mlp_only_layers\":[\"x\"]}", "mlp_only_layers", "a list of layers"},
        {QWEN3 "\"mlp_only_layers\":3}", "mlp_only_layers is 3", "a list of layers"},
        {QWEN3 "\"layer_types\":[\"full_attention\"]}", "layer_types", "24 entries"},
        {QWEN2 "\"num_hidden_layers\":1,\"layer_types\":[\"linear_attention\"]}",
         "linear_attention", "neither full_attention nor"},
        {QWEN2 "\"num_hidden_layers\":1,\"layer_types\":[\"sliding_attention\"]}",
         "layer_types entry 0", "contradicts"},
        {QWEN3 "\"num_hidden_layers\":1,\"use_sliding_window\":true,\"layer_types\":[\"full_"
               "attention\"]}",
         "layer_types entry 0", "contradicts"},
        /* 0 is a number, and no way to say "none" */
        {OLMOE "\"clip_qkv\":0}", "clip_qkv is 0", "a positive number, or null"},
        {OLMOE "\"clip_qkv\":0.0}", "clip_qkv is 0.0", "or null"},
        {OLMOE "\"clip_qkv\":-8}", "clip_qkv is -8", "a positive number"},
        {OLMOE "\"clip_qkv\":1e-60}", "clip_qkv is", "a positive number"},
        {MIXTRAL "\"sliding_window\":0}", "sliding_window is 0", "or null for no window"},
        {MIXTRAL "\"sliding_window\":-1}", "sliding_window is -1", "integer"},
        {QWEN2 "\"use_sliding_window\":true,\"sliding_window\":0}", "sliding_window is 0", "null"},
        {QWEN3 "\"use_sliding_window\":true,\"sliding_window\":0}", "sliding_window is 0", "null"},
        {OSS "\"sliding_window\":0}", "sliding_window is 0", "null"},
        {GEMMA "\"sliding_window\":0}", "sliding_window is 0", "null"},
        {GEMMA "\"final_logit_softcapping\":0}", "final_logit_softcapping is 0", "or null"},
        {GEMMA "\"global_head_dim\":0}", "global_head_dim is 0", "positive"},
        {GEMMA "\"num_global_key_value_heads\":0}", "num_global_key_value_heads is 0", "or null"},
        {MIXTRAL "\"head_dim\":0}", "head_dim is 0", "or null"},
        {MIXTRAL "\"num_key_value_heads\":0}", "num_key_value_heads is 0", "or null"},
        {MIXTRAL "\"max_position_embeddings\":0}", "max_position_embeddings is 0", "positive"},
        {MIXTRAL "\"rms_norm_eps\":0}", "rms_norm_eps is 0", "positive"},
        {GEMMA "\"rope_parameters\":{\"sliding_attention\":{},\"full_attention\":{"
               "\"rope_type\":\"proportional\",\"factor\":0}}}",
         "proportional needs factor > 0", ""},
        {MIXTRAL "\"eos_token_id\":32000}", "config.json: eos_token_id: 32000 is not",
         "below vocab_size 32000"},
        {MIXTRAL "\"eos_token_id\":[1,\"x\"]}", "eos_token_id: \"x\" is not", ""},
        {MIXTRAL "\"eos_token_id\":[1,32000]}", "eos_token_id: 32000 is not", "below vocab_size"},
        /* RoPE */
        {MIXTRAL "\"rope_theta\":0}", "rope_theta must be a positive number", ""},
        {MIXTRAL "\"rope_theta\":\"x\"}", "rope_theta must be a number", ""},
        {MIXTRAL "\"rope_scaling\":4}", "must be an object or null", ""},
        {MIXTRAL "\"rope_scaling\":{\"type\":\"ntk\",\"factor\":2}}", "\"ntk\" is not supported",
         "default, linear, llama3, yarn, longrope, dynamic with alpha, proportional"},
        {MIXTRAL "\"rope_scaling\":{\"type\":\"linear\"}}", "linear needs a number", "factor"},
        {MIXTRAL "\"rope_scaling\":{\"type\":\"linear\",\"factor\":0}}", "linear needs a number",
         "factor"},
        {MIXTRAL "\"rope_scaling\":{\"type\":\"linear\",\"factor\":2,\"mrope_section\":[1]}}",
         "unknown RoPE key mrope_section", ""},
        {MIXTRAL "\"rope_scaling\":{\"type\":7}}", "RoPE key type must be a string", ""},
        {MIXTRAL "\"rope_scaling\":{\"type\":\"yarn\",\"factor\":2,\"truncate\":1}}",
         "truncate must be true", ""},
        {MIXTRAL "\"rope_scaling\":{\"type\":\"llama3\",\"factor\":2,\"low_freq_factor\":1}}",
         "high_freq_factor", ""},
        {MIXTRAL "\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}}",
         "unknown RoPE key full_attention", ""},
        {MIXTRAL "\"partial_rotary_factor\":0.5}", "partial_rotary_factor 0.5", ""},
        {MIXTRAL "\"rope_parameters\":{\"partial_rotary_factor\":0.25}}",
         "partial_rotary_factor 0.25", ""},
    };
    for (size_t i = 0; i < TEST_COUNT(bad); i++) {
        struct hf_config c;
        struct err err = {0};
        if (parse(&c, bad[i].config, NULL, &err) == 0) {
            print_error("accepted: %s\n", bad[i].config);
            fail();
        }
        assert_err(&err, bad[i].say, bad[i].say_too, "config.json");
        hf_config_free(&c);
    }
}

/* transformers 5.23.0 with Qwen3MoeConfig(hidden_size=64, num_attention_heads=2, head_dim=32,
 * max_position_embeddings=131072, ...): inv_freq and attention_scaling of its rotary embedding. */
static void rope_values(void **state) {
    (void)state;
    static const struct {
        const char *keys;
        float scale, inv_freq[16];
    } cases[] = {
        {"\"rope_theta\":1e6",
         1.0f,
         {1, 0.421696514f, 0.177827939f, 0.0749894157f, 0.0316227786f, 0.0133352149f,
          0.00562341325f, 0.00237137382f, 0.00100000005f, 0.000421696488f, 0.00017782794f,
          7.49894243e-05f, 3.16227743e-05f, 1.33352141e-05f, 5.62341347e-06f, 2.37137374e-06f}},
        {"\"rope_theta\":1e4,\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":3.0}",
         1.0f,
         {0.333333343f, 0.187447116f, 0.105409257f, 0.059275981f, 0.0333333351f, 0.018744709f,
          0.0105409259f, 0.0059275981f, 0.00333333318f, 0.00187447108f, 0.00105409266f,
          0.00059275981f, 0.000333333359f, 0.000187447105f, 0.000105409265f, 5.92759789e-05f}},
        {"\"rope_theta\":5e5,\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_"
         "factor\":1.0,"
         "\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192}",
         1.0f,
         {1, 0.440366626f, 0.193922758f, 0.0853971019f, 0.0376060307f, 0.0165604409f,
          0.00729266508f, 0.00321144611f, 0.000524846022f, 7.78465546e-05f, 3.42810235e-05f,
          1.50962178e-05f, 6.64786967e-06f, 2.92749974e-06f, 1.28917316e-06f, 5.6770881e-07f}},
        {"\"rope_theta\":1e6,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
         "\"original_max_position_embeddings\":32768}",
         1.13862943649292f,
         {1, 0.421696514f, 0.177827939f, 0.0749894157f, 0.0316227786f, 0.0133352149f,
          0.00477990136f, 0.00165996165f, 0.000549999997f, 0.000168678584f, 4.44569851e-05f,
          1.87473561e-05f, 7.90569356e-06f, 3.33380353e-06f, 1.40585337e-06f, 5.92843435e-07f}},
        {"\"rope_theta\":1e4,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":40.0,\"beta_"
         "fast\":16,"
         "\"beta_slow\":2,\"original_max_position_embeddings\":4096,\"mscale\":0.707,\"mscale_all_"
         "dim\":1.0}",
         0.9210423827171326f,
         {1, 0.562341332f, 0.316227764f, 0.177827939f, 0.100000001f, 0.0562341288f, 0.0316227786f,
          0.0143151497f, 0.00609999988f, 0.00233371649f, 0.000695701048f, 4.44569851e-05f,
          2.49999994e-05f, 1.40585325e-05f, 7.90569447e-06f, 4.44569832e-06f}},
        {"\"rope_theta\":150000,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":32.0,"
         "\"truncate\":false,"
         "\"original_max_position_embeddings\":4096,\"attention_factor\":1.25}",
         1.25f,
         {1, 0.47478205f, 0.225418001f, 0.107024416f, 0.0508132726f, 0.0193350017f, 0.00679495931f,
          0.00209379266f, 0.000456483918f, 3.83088118e-05f, 1.8188337e-05f, 8.63549576e-06f,
          4.09997847e-06f, 1.94659629e-06f, 9.24208962e-07f, 4.38797855e-07f}},
    };
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        char *config = mem_printf(
            QWEN3 "\"hidden_size\":64,\"num_attention_heads\":2,\"num_key_value_heads\":2,"
                  "\"head_dim\":32,\"max_position_embeddings\":131072,%s}",
            cases[i].keys);
        struct hf_config c = parse_ok(config, NULL);
        assert_int_equal(c.arch.rope_dim[0], 32);
        assert_true(fabs(c.arch.rope_scale[0] / cases[i].scale - 1) < 1e-6);
        for (size_t k = 0; k < 16; k++) {
            double off = fabs((double)c.arch.rope_inv_freq[k] / cases[i].inv_freq[k] - 1);
            if (off > 1e-6) {
                print_error("%s: pair %zu: %.9g\n", cases[i].keys, k,
                            (double)c.arch.rope_inv_freq[k]);
                fail();
            }
        }
        hf_config_free(&c);
        free(config);
    }
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),     cmocka_unit_test(spellings),
        cmocka_unit_test(layers),       cmocka_unit_test(generation),
        cmocka_unit_test(advice),       cmocka_unit_test(stops),
        cmocka_unit_test(unknown_keys), cmocka_unit_test(refuses_config),
        cmocka_unit_test(rope_values),
    };
    return cmocka_run_group_tests_name("hf_config", tests, NULL, NULL);
}
