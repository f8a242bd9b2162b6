/*
 * hf_quant: quantised weights by config.json, read or refused by the method's name, and by tensors'
 * names.
 */
#include "tests/util/test.h"

#include "prep/hf/hf_quant.h"
#include "tests/util/test_util_tensors.h"

static int read_config(struct hf_quant *q, const char *config, bool mxfp4, struct err *err) {
    json_t *root = json_loads(config, 0, NULL);
    assert_non_null(root);
    *q = (struct hf_quant){0};
    int rc = hf_quant_read(q, root, "config.json", mxfp4, err);
    json_decref(root);
    return rc;
}

#define Q(object) "{\"quantization_config\":{" object "}}"
#define FP8(more) Q("\"quant_method\":\"fp8\"" more)
#define GROUPS(format, weights)                                                                    \
    Q("\"quant_method\":\"compressed-tensors\",\"format\":\"" format                               \
      "\",\"quantization_status\":\"compressed\",\"config_groups\":{\"group_0\":{\"targets\":"     \
      "[\"Linear\"],\"input_activations\":{\"dynamic\":true},\"weights\":{" weights "}}}")
#define MODELOPT(algorithm) Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"" algorithm "\"")

/* As published. */
static void reads(void **state) {
    static const struct {
        const char *config, *name; /* NULL: not quantised */
        struct hf_blocks blocks;
    } rows[] = {
        {FP8(",\"activation_scheme\":\"dynamic\",\"fmt\":\"e4m3\",\"weight_block_size\":[128,128]"),
         "FP8",
         {.rows = 128, .cols = 128}},
        {FP8(",\"fmt\":\"float8_e4m3fn\",\"weight_block_size\":[64,32],"
             "\"modules_to_not_convert\":[\"gate\",\"lm_head\"]"),
         "FP8",
         {.rows = 64, .cols = 32}},
        {FP8(",\"scale_fmt\":\"ue8m0\",\"ignored_layers\":[\"a\"]"),
         "FP8",
         {.rows = 128, .cols = 128}},
        {FP8(",\"activation_scheme\":\"static\",\"weight_block_size\":null"),
         "FP8",
         {.rows = 0, .cols = 0}},
        {Q("\"quant_method\":\"fbgemm_fp8\",\"activation_scale_ub\":1200.0"),
         "FBGEMM (FP8)",
         {.by_output = true}},
        {GROUPS("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"channel\","
                                   "\"symmetric\":true,\"block_structure\":null"),
         "compressed-tensors",
         {.rows = 0, .cols = 0}},
        {GROUPS("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"strategy\":\"block\","
                                   "\"block_structure\":[128,64]"),
         "compressed-tensors",
         {.rows = 128, .cols = 64}},
        {GROUPS("nvfp4-pack-quantized", "\"num_bits\":4,\"type\":\"float\",\"group_size\":16"),
         "compressed-tensors",
         {.rows = 0, .cols = 0}},
        {Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"NVFP4\",\"kv_cache_scheme\":{\"type\":"
           "\"float\"},\"producer\":{\"name\":\"modelopt\"},\"ignore\":[\"lm_head\"],"
           "\"config_groups\":{\"g\":{\"weights\":{\"num_bits\":4,\"type\":\"float\","
           "\"dynamic\":false,\"group_size\":16}}}"),
         "NVIDIA's ModelOpt",
         {.rows = 0, .cols = 0}},
        {MODELOPT("FP8"), "NVIDIA's ModelOpt", {0, 0}},
        {"{\"quantization_config\":null,\"quantization\":{}}", NULL, {.rows = 0, .cols = 0}},
        {"{\"hidden_size\":64}", NULL, {.rows = 0, .cols = 0}},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct err err = {0};
        struct hf_quant q;
        read_config(&q, rows[i].config, false, &err);
        assert_no_err(&err);
        assert_int_equal(q.name != NULL, rows[i].name != NULL);
        if (rows[i].name) {
            assert_string_equal(q.name, rows[i].name);
        }
        assert_int_equal(q.blocks.rows, rows[i].blocks.rows);
        assert_int_equal(q.blocks.cols, rows[i].blocks.cols);
        assert_int_equal(q.blocks.by_output, rows[i].blocks.by_output);
    }
}

static void refuses_methods(void **state) {
    static const struct {
        const char *config, *say, *say_too;
    } rows[] = {
        {"{\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4}}", "quantization_config",
         "GPTQ"},
        {"{\"quantization_config\":{\"quant_method\":\"awq\"}}", "AWQ", "--codec q4"},
        {"{\"quantization_config\":{\"quant_method\":\"AWQ\"}}", "AWQ", ""},
        {"{\"quantization_config\":{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true}}",
         "bitsandbytes", ""},
        {"{\"quantization_config\":{\"load_in_8bit\":true}}", "bitsandbytes", ""},
        {"{\"compression_config\":{\"format\":\"pack-quantized\"}}", "compression_config",
         "compressed-tensors"},
        {"{\"quantization\":{\"group_size\":64,\"bits\":4}}", "quantization: ", "MLX"},
        {"{\"quantization_config\":{\"group_size\":64,\"bits\":4}}", "quantization_config", "MLX"},
        {"{\"quantization_config\":{\"quant_method\":\"of tomorrow\"}}", "of tomorrow", ""},
        {"{\"quantization_config\":{\"bits\":3}}", "without a name", ""},
        {"{\"quantization_config\":{\"quant_method\":\"mxfp4\"}}", "MXFP4", "of this family"},
        {GROUPS("float-quantized", "\"num_bits\":4,\"type\":\"int\""), "weights of group group_0",
         "are 4 of type int"},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct err err = {0};
        struct hf_quant q;
        assert_int_equal(read_config(&q, rows[i].config, false, &err), -1);
        assert_err(&err, "config.json: ", rows[i].say, rows[i].say_too, "which are not read");
    }
    struct err err = {0};
    struct hf_quant q;
    read_config(&q, "{\"quantization_config\":{\"quant_method\":\"mxfp4\"}}", true, &err);
    assert_no_err(&err);
    assert_string_equal(q.name, "MXFP4");
}

/* What a method that is read says of itself, and is not read. */
static void refuses_keys(void **state) {
    static const struct {
        const char *config, *say;
    } rows[] = {
        {FP8(",\"fmt\":\"e5m2\""),
         "fmt is \"e5m2\", expected \"e4m3\", \"e4m3fn\", \"float8_e4m3fn\""},
        {FP8(",\"fmt\":\"e4m3fnuz\""), "fmt is \"e4m3fnuz\""},
        {FP8(",\"fmt\":4"), "fmt is 4"},
        {FP8(",\"expert_dtype\":\"fp4\""), "expert_dtype is \"fp4\""},
        {FP8(",\"scale_fmt\":\"log\""), "scale_fmt is \"log\""},
        {FP8(",\"weight_block_size\":[128]"), "weight_block_size is [128], expected two positive"},
        {FP8(",\"weight_block_size\":[0,128]"), "weight_block_size is [0,128]"},
        {FP8(",\"weight_block_size\":[-1,128]"), "weight_block_size is [-1,128]"},
        {FP8(",\"weight_block_size\":[128,4294967297]"), "weight_block_size"},
        {FP8(",\"weight_block_size\":128"), "weight_block_size is 128"},
        {FP8(",\"rotation\":\"hadamard\""), "unknown key rotation is \"hadamard\""},
        {GROUPS("pack-quantized", ""),
         "format is \"pack-quantized\", expected \"float-quantized\""},
        {GROUPS("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"symmetric\":false"),
         "weights of group group_0"},
        {GROUPS("float-quantized", "\"num_bits\":6,\"type\":\"float\""), "are 6 of type float"},
        {GROUPS("float-quantized", "\"num_bits\":8,\"type\":\"float\",\"block_structure\":[4,4]},"
                                   "\"x\":0},\"group_1\":{\"weights\":{\"num_bits\":8,"
                                   "\"type\":\"float\",\"block_structure\":[4,8]"),
         "block_structure is [4,8], expected the same blocks in all groups"},
        {Q("\"quant_method\":\"compressed-tensors\",\"quantization_status\":\"frozen\""),
         "quantization_status is \"frozen\", expected \"compressed\""},
        {Q("\"quant_method\":\"compressed-tensors\",\"sparsity_config\":{\"format\":"
           "\"sparse-24-bitmask\"}"),
         "sparsity_config: format is \"sparse-24-bitmask\""},
        {Q("\"quant_method\":\"compressed-tensors\",\"transform_config\":{\"config_groups\":1}"),
         "unknown key transform_config"},
        /* keys of other methods */
        {FP8(",\"config_groups\":{\"g\":1}"), "unknown key config_groups"},
        {FP8(",\"quant_algo\":\"NVFP4\""), "unknown key quant_algo is \"NVFP4\""},
        {Q("\"quant_method\":\"fbgemm_fp8\",\"weight_block_size\":[128,128]"),
         "unknown key weight_block_size"},
        {Q("\"quant_method\":\"compressed-tensors\",\"weight_block_size\":[128,128]"),
         "unknown key weight_block_size"},
        {Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"FP8\",\"fmt\":\"e4m3\""),
         "unknown key fmt"},
        /* what is no object */
        {Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":[{\"weights\":1}]"),
         "config_groups is [{\"weights\":1}], expected an object"},
        {Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"g\":\"int4\"}"),
         "g is \"int4\", expected an object"},
        {Q("\"quant_method\":\"compressed-tensors\",\"config_groups\":{\"g\":{\"weights\":4}}"),
         "weights is 4, expected an object"},
        {Q("\"quant_method\":\"compressed-tensors\",\"sparsity_config\":\"2:4\""),
         "sparsity_config is \"2:4\", expected an object"},
        {Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"FP8\",\"quantized_layers\":\"a\""),
         "quantized_layers is \"a\", expected an object"},
        {Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"FP8\",\"quantized_layers\":{\"a\":4}"),
         "a is 4, expected an object"},
        {Q("\"quant_method\":\"modelopt\""), "quant_algo is missing"},
        {MODELOPT("NVFP4_AWQ"), "quant_algo is \"NVFP4_AWQ\", expected \"FP8\""},
        {Q("\"quant_method\":\"modelopt\",\"quant_algo\":\"MIXED_PRECISION\","
           "\"quantized_layers\":{\"a.b\":{\"quant_algo\":\"FP8\"},"
           "\"a.c\":{\"quant_algo\":\"W4A8_AWQ\"}}"),
         "a.c: quant_algo is \"W4A8_AWQ\""},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct err err = {0};
        struct hf_quant q;
        assert_int_equal(read_config(&q, rows[i].config, false, &err), -1);
        assert_err(&err, "config.json: ", rows[i].say);
    }
}

/* hf_quant_config.json. */
static void modelopt_file(void **state) {
    static const struct {
        const char *text, *say; /* NULL: read */
        const char *config;     /* what config.json says; NULL: nothing */
    } rows[] = {
        {"{\"producer\":{\"name\":\"modelopt\"},\"quantization\":{\"quant_algo\":\"NVFP4\","
         "\"kv_cache_quant_algo\":\"FP8\",\"group_size\":16,\"exclude_modules\":[\"lm_head\"]}}",
         NULL},
#define FILE_OF(algorithm) "{\"quantization\":{\"quant_algo\":\"" algorithm "\"}}"
        {FILE_OF("FP8"), NULL, MODELOPT("FP8")},
        {FILE_OF("fp8"), NULL, MODELOPT("FP8")},
        {FILE_OF("NVFP4"), "quant_algo is \"NVFP4\", expected \"FP8\", as config.json says",
         MODELOPT("FP8")},
        {FILE_OF("FP8"), "quantised by NVIDIA's ModelOpt, but config.json says by FP8", FP8("")},
        {"{\"quantization\":{\"kv_cache_quant_algo\":\"FP8\"}}", "quant_algo is missing"},
        {"{\"quantization\":{\"quant_algo\":null}}", "quant_algo is null"},
        {"{\"quantization\":{\"quant_algo\":\"FP8\",\"rotation\":\"hadamard\"}}",
         "unknown key rotation is \"hadamard\""},
        {"{\"quantization\":{\"quant_algo\":\"W4A16_AWQ\"}}", "quant_algo is \"W4A16_AWQ\""},
        {"{\"quantization\":3}", "expected a JSON object with an object \"quantization\""},
        {"[]", "expected a JSON object"},
        {"{", "expected a JSON object"},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct err err = {0};
        struct hf_quant q;
        read_config(&q, rows[i].config ? rows[i].config : "{}", false, &err);
        assert_no_err(&err);
        int rc = hf_quant_read_modelopt(&q, rows[i].text, strlen(rows[i].text), "q.json", &err);
        assert_int_equal(rc, rows[i].say ? -1 : 0);
        if (rows[i].say) {
            assert_err(&err, "q.json: ", rows[i].say);
        } else {
            assert_string_equal(q.name, "NVIDIA's ModelOpt");
        }
    }
}

static void by_tensors(void **state) {
    static const struct {
        const char *name, *say;
    } rows[] = {
        {"model.layers.0.mlp.experts.1.up_proj.g_idx", "GPTQ,"},
        {"model.layers.0.mlp.experts.1.up_proj.qweight", "GPTQ or AWQ"},
        {"model.layers.0.mlp.experts.1.up_proj.weight.quant_state.bitsandbytes__nf4", "4 bits"},
        {"model.layers.0.self_attn.q_proj.SCB", "8 bits"},
        {"model.layers.0.self_attn.q_proj.pre_quant_scale", "AWQ"},
        {"model.layers.0.self_attn.q_proj.scales", "MLX"},
        {"model.layers.0.mlp.experts.gate_up_proj_blocks", "MXFP4"},
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "an adapter (LoRA)"},
        {"model.layers.0.self_attn.q_proj.weight", NULL},
        {"model.layers.0.self_attn.q_proj.weight_packed", NULL}, /* of bytes: it is read */
        {"model.layers.0.self_attn.q_proj.weight_scale_inv", NULL},
        {"model.layers.0.mlp.gate.e_score_correction_bias", NULL},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct err err = {0};
        struct tensors t = {0};
        tensors_add(&t, "a.weight", "U8", "[1]", NULL, 1);
        tensors_add(&t, rows[i].name, "U8", "[1]", NULL, 1);
        int rc = hf_quant_check_tensors(tensors_open(&t), false, &err);
        assert_int_equal(rc, rows[i].say ? -1 : 0);
        if (rows[i].say) {
            assert_err(&err, "a.st", rows[i].name, rows[i].say);
        }
        tensors_close(&t);
    }
    struct err err = {0};
    struct tensors t = {0};
    tensors_add(&t, "a.weight_packed", "I32", "[1]", NULL, 4);
    assert_int_equal(hf_quant_check_tensors(tensors_open(&t), false, &err), -1);
    assert_err(&err, "a.weight_packed", "compressed-tensors (integers)");
    tensors_close(&t);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads),        cmocka_unit_test(refuses_methods),
        cmocka_unit_test(refuses_keys), cmocka_unit_test(modelopt_file),
        cmocka_unit_test(by_tensors),
    };
    return cmocka_run_group_tests_name("hf_quant", tests, NULL, NULL);
}
