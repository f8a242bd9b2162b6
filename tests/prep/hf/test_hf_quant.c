/*
 * hf_quant: quantised weights by config.json and by tensors' names, each refused by its name.
 */
#include "tests/util/test.h"

#include "prep/hf/hf_quant.h"

static void by_config(void **state) {
    static const struct {
        const char *config, *say, *say_too; /* NULL: nothing is refused */
    } rows[] = {
        {"{\"quantization_config\":{\"quant_method\":\"gptq\",\"bits\":4}}", "quantization_config",
         "GPTQ"},
        {"{\"quantization_config\":{\"quant_method\":\"awq\"}}", "AWQ", "--codec q4"},
        {"{\"quantization_config\":{\"quant_method\":\"AWQ\"}}", "AWQ", ""},
        {"{\"quantization_config\":{\"quant_method\":\"bitsandbytes\",\"load_in_4bit\":true}}",
         "bitsandbytes", ""},
        {"{\"quantization_config\":{\"load_in_8bit\":true}}", "bitsandbytes", ""},
        {"{\"quantization_config\":{\"quant_method\":\"compressed-tensors\"}}",
         "compressed-tensors", ""},
        {"{\"compression_config\":{\"format\":\"pack-quantized\"}}", "compression_config",
         "compressed-tensors"},
        {"{\"quantization_config\":{\"quant_method\":\"fp8\"}}", "FP8", ""},
        {"{\"quantization\":{\"group_size\":64,\"bits\":4}}", "quantization: ", "MLX"},
        {"{\"quantization_config\":{\"group_size\":64,\"bits\":4}}", "quantization_config", "MLX"},
        {"{\"quantization_config\":{\"quant_method\":\"of tomorrow\"}}", "of tomorrow", ""},
        {"{\"quantization_config\":{\"bits\":3}}", "without a name", ""},
        {"{\"quantization_config\":{\"quant_method\":\"mxfp4\"}}", "MXFP4", ""},
        {"{\"quantization_config\":null,\"quantization\":{}}", NULL, ""},
        {"{\"hidden_size\":64}", NULL, ""},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct err err = {0};
        json_t *root = json_loads(rows[i].config, 0, NULL);
        assert_non_null(root);
        int rc = hf_quant_check_config(root, "config.json", false, &err);
        assert_int_equal(rc, rows[i].say ? -1 : 0);
        if (rows[i].say) {
            assert_err(&err, "config.json: ", rows[i].say, rows[i].say_too, "which are not read");
        }
        json_decref(root);
    }
    struct err err = {0};
    json_t *root = json_loads("{\"quantization_config\":{\"quant_method\":\"mxfp4\"}}", 0, NULL);
    assert_int_equal(hf_quant_check_config(root, "config.json", true, &err), 0);
    json_decref(root);
}

static void by_tensors(void **state) {
    static const struct {
        const char *name, *say;
    } rows[] = {
        {"model.layers.0.mlp.experts.1.up_proj.g_idx", "GPTQ,"},
        {"model.layers.0.mlp.experts.1.up_proj.qweight", "GPTQ or AWQ"},
        {"model.layers.0.mlp.experts.1.up_proj.weight.quant_state.bitsandbytes__nf4", "4 bits"},
        {"model.layers.0.self_attn.q_proj.SCB", "8 bits"},
        {"model.layers.0.self_attn.q_proj.weight_packed", "compressed-tensors"},
        {"model.layers.0.self_attn.q_proj.weight_scale", "stores scales"},
        {"model.layers.0.self_attn.q_proj.weight_scale_inv", "FP8"},
        {"model.layers.0.self_attn.q_proj.scales", "MLX"},
        {"model.layers.0.mlp.experts.gate_up_proj_blocks", "MXFP4"},
        {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight", "an adapter (LoRA)"},
        {"model.layers.0.self_attn.q_proj.weight", NULL},
        {"model.layers.0.mlp.gate.e_score_correction_bias", NULL},
    };
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct err err = {0};
        struct buf file = {0};
        char *header = mem_printf("{\"a.weight\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":"
                                  "[0,1]},\"%s\":{\"dtype\":\"U8\",\"shape\":[1],"
                                  "\"data_offsets\":[1,2]}}",
                                  rows[i].name);
        uint64_t n = strlen(header);
        buf_append(&file, &n, sizeof n);
        buf_append(&file, header, n);
        buf_append(&file, "..", 2);
        struct safetensors *st = st_new();
        st_parse_header((const uint8_t *)file.data, file.len, "model.safetensors", st, &err);
        assert_no_err(&err);
        assert_int_equal(hf_quant_check_tensors(st, false, &err), rows[i].say ? -1 : 0);
        if (rows[i].say) {
            assert_err(&err, "model.safetensors", rows[i].name, rows[i].say);
        }
        st_close(st);
        buf_free(&file);
        free(header);
    }
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_config),
        cmocka_unit_test(by_tensors),
    };
    return cmocka_run_group_tests_name("hf_quant", tests, NULL, NULL);
}
