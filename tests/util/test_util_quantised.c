/*
 * test_util_quantised: see test_util_quantised.h. The arithmetic is written down here again, in
 * another way than hf_numbers has it.
 */
#include "tests/util/test_util_quantised.h"

#include <math.h>
#include <sys/stat.h>

#include "tests/util/test.h"
#include "tests/util/test_util_tensors.h"

enum { MOST_FILE = 1 << 24, GROUP = 16 };

#define NVFP4_CONFIG                                                                               \
    "\"quant_method\":\"compressed-tensors\",\"format\":\"nvfp4-pack-quantized\","                 \
    "\"config_groups\":{\"group_0\":{\"weights\":{\"num_bits\":4,\"type\":\"float\",\"group_"      \
    "size\":16}}}"
static const struct how {
    const char *config;                   /* NULL: hf_quant_config.json */
    const char *packed, *scales, *of_all; /* endings; NULL: none */
    const char *other;                    /* ending of a tensor that is left out; NULL: none */
    const char *dtype;                    /* of the scales */
    uint32_t block_rows, block_cols;      /* 0: all */
    bool divided;
    bool ends; /* embedding and output head as well, and no tie_word_embeddings */
} hows[] = {
    [QUANTISED_BLOCKS] = {"\"quant_method\":\"fp8\",\"fmt\":\"e4m3\",\"activation_scheme\":"
                          "\"dynamic\",\"weight_block_size\":[24,40],\"modules_to_not_convert\":"
                          "[\"lm_head\"]",
                          "", "_scale_inv", NULL, NULL, "F32", 24, 40, false},
    [QUANTISED_TENSOR] = {"\"quant_method\":\"fp8\",\"activation_scheme\":\"static\","
                          "\"weight_block_size\":null",
                          "", "_scale_inv", NULL, ".activation_scale", "F32", 0, 0, false},
    [QUANTISED_ROWS] = {"\"quant_method\":\"compressed-tensors\",\"format\":\"float-quantized\","
                        "\"config_groups\":{\"group_0\":{\"weights\":{\"num_bits\":8,\"type\":"
                        "\"float\",\"strategy\":\"channel\",\"symmetric\":true}}},"
                        "\"quantization_status\":\"compressed\",\"kv_cache_scheme\":null",
                        "", "_scale", NULL, NULL, "BF16", 1, 0, false},
    [QUANTISED_NVFP4] = {NVFP4_CONFIG, "_packed", "_scale", "_global_scale", ".input_global_scale",
                         "F8_E4M3", 1, GROUP, true},
    [QUANTISED_ENDS] = {NVFP4_CONFIG, "_packed", "_scale", "_global_scale", ".input_global_scale",
                        "F8_E4M3", 1, GROUP, true, true},
    [QUANTISED_MODELOPT] = {NULL, "", "_scale", "_scale_2", ".k_scale", "F8_E4M3", 1, GROUP, false},
};

static float e4m3(uint8_t code) {
    int exponent = code >> 3 & 15, fraction = code & 7;
    float x =
        exponent ? ldexpf(1 + (float)fraction / 8, exponent - 7) : ldexpf((float)fraction, -9);
    return code & 128 ? -x : x;
}

static float e2m1(uint32_t code) {
    int exponent = code >> 1 & 3, fraction = code & 1;
    float x = exponent ? ldexpf(1 + (float)fraction / 2, exponent - 1) : (float)fraction / 2;
    return code & 8 ? -x : x;
}

static void append(struct buf *b, const char *dtype, float scale) {
    uint16_t half = f32_to_bf16(scale);
    if (strcmp(dtype, "F32") == 0) {
        buf_append(b, &scale, sizeof scale);
    } else {
        buf_append(b, &half, sizeof half);
    }
}

static char *shape_text(const struct st_tensor *t, uint64_t rows, uint64_t cols) {
    return t->n_dims == 3
               ? mem_printf("[%u,%u,%u]", (uint32_t)t->shape[0], (uint32_t)rows, (uint32_t)cols)
               : mem_printf("[%u,%u]", (uint32_t)rows, (uint32_t)cols);
}

static void add_named(struct tensors *to, const char *name, const char *end, const char *dtype,
                      const char *shape, const struct buf *data) {
    char *whole = mem_printf("%s%s", name, end);
    tensors_add(to, whole, dtype, shape, data->data, data->len);
    free(whole);
}

/* Add numbers and scales that follow from the tensor's name, and what they stand for. */
static void add_quantised(struct tensors *to, struct tensors *twin, const struct st_tensor *t,
                          const struct how *h) {
    uint64_t rows = t->shape[t->n_dims - 2], cols = t->shape[t->n_dims - 1];
    uint64_t matrices = t->n_dims == 3 ? t->shape[0] : 1;
    uint32_t block_rows = h->block_rows ? h->block_rows : (uint32_t)rows;
    uint32_t block_cols = h->block_cols ? h->block_cols : (uint32_t)cols;
    uint64_t grid_rows = (rows + block_rows - 1) / block_rows;
    uint64_t grid_cols = (cols + block_cols - 1) / block_cols, grid = grid_rows * grid_cols;
    struct test_rng r = {hash64(t->name, strlen(t->name))};
    struct buf codes = {0}, scales = {0}, plain = {0}, of_all = {0};
    float *scale = mem_calloc(matrices * grid, sizeof *scale);
    float all = h->divided ? 300 + 50 * test_f32(&r) : 0.003f + 0.0005f * test_f32(&r);
    bool fp4 = h->of_all != NULL;
    for (uint64_t i = 0; i < matrices * grid; i++) {
        uint8_t code = (uint8_t)(0x20 + test_u64(&r) % 32);
        float x = ldexpf(1.5f + 0.5f * test_f32(&r), -12);
        x = strcmp(h->dtype, "BF16") == 0 ? bf16_to_f32(f32_to_bf16(x)) : x;
        if (fp4) {
            buf_append(&scales, &code, 1);
        } else {
            append(&scales, h->dtype, x);
        }
        scale[i] = !fp4 ? x : h->divided ? e4m3(code) / all : e4m3(code) * all;
    }
    for (uint64_t i = 0; i < matrices * rows * cols; i++) {
        uint64_t row = i / cols % rows, col = i % cols, matrix = i / cols / rows;
        uint8_t code = (uint8_t)test_u64(&r);
        code = (code & 127) == 127 ? 0 : code;
        float number = fp4 ? e2m1(code & 15) : e4m3(code);
        number *= scale[matrix * grid + row / block_rows * grid_cols + col / block_cols];
        buf_append(&plain, &number, sizeof number);
        if (fp4 && i % 2) {
            codes.data[codes.len - 1] = (char)((codes.data[codes.len - 1] & 15) | (code & 15) << 4);
        } else {
            buf_append(&codes, &code, 1);
        }
    }
    char *of_codes = shape_text(t, rows, fp4 ? cols / 2 : cols);
    char *of_scales = shape_text(t, grid_rows, grid_cols), *of_plain = shape_text(t, rows, cols);
    buf_append(&of_all, &all, sizeof all);
    add_named(to, t->name, h->packed, fp4 ? "U8" : "F8_E4M3", of_codes, &codes);
    add_named(to, t->name, h->scales, h->dtype, of_scales, &scales);
    if (fp4) {
        add_named(to, t->name, h->of_all, "F32", "[1]", &of_all);
    }
    add_named(twin, t->name, "", "F32", of_plain, &plain);
    free(scale);
    free(of_codes);
    free(of_scales);
    free(of_plain);
    buf_free(&codes);
    buf_free(&scales);
    buf_free(&plain);
    buf_free(&of_all);
}

/* What publishers quantise: projections and experts, and some of them more. */
static bool is_quantised(const struct st_tensor *t, const struct how *h) {
    const char *end = t->name + strlen(t->name) - 4;
    return t->n_dims >= 2 && strcmp(end, "bias") != 0 && t->shape[t->n_dims - 1] % GROUP == 0 &&
           (strstr(t->name, "_proj") ||
            (h->ends && (strstr(t->name, "embed") || strstr(t->name, "lm_head"))) ||
            (strstr(t->name, ".experts.") && (h->of_all == NULL || t->n_dims == 2)));
}

static void add_same(struct tensors *to, const struct st_tensor *t) {
    char text[192];
    tensors_add(to, t->name, t->dtype_name, st_shape_text(t, text), t->data, t->bytes);
}

static void write_weights(const char *from, const struct how *h, const struct quantised *q) {
    struct tensors to = {0}, twin = {0};
    struct safetensors *st;
    struct err err = {0};
    st_open(&st, from, &err);
    assert_no_err(&err);
    size_t n = 0;
    for (size_t i = 0; i < st_count(st); i++) {
        const struct st_tensor *t = st_at(st, i);
        if (!is_quantised(t, h)) {
            add_same(&to, t);
            add_same(&twin, t);
            continue;
        }
        add_quantised(&to, &twin, t, h);
        const char *dot = strrchr(t->name, '.');
        if (h->other && strcmp(dot, ".weight") == 0) {
            char *name = mem_printf("%.*s%s", (int)(dot - t->name), t->name, h->other);
            tensors_add(&to, name, "F32", "[]", NULL, sizeof(float));
            free(name);
        }
        n++;
    }
    assert_true(n > 0);
    tensors_open(&to);
    tensors_open(&twin);
    free(test_write(q->dir, "model.safetensors", to.file.data, to.file.len));
    free(test_write(q->twin, "model.safetensors", twin.file.data, twin.file.len));
    tensors_close(&to);
    tensors_close(&twin);
    st_close(st);
}

static void write_config(const char *from, const struct how *h, const struct quantised *q) {
    static const char modelopt[] = "{\"quantization\":{\"quant_algo\":\"NVFP4\","
                                   "\"kv_cache_quant_algo\":\"FP8\",\"group_size\":16}}";
    char *path = mem_printf("%s/config.json", from);
    uint8_t *text;
    size_t bytes;
    struct err err = {0};
    file_read(path, MOST_FILE, &text, &bytes, &err);
    assert_no_err(&err);
    char *more = h->config ? mem_printf("{\"quantization_config\":{%s},%s", h->config,
                                        strchr((const char *)text, '{') + 1)
                           : mem_strdup((const char *)text);
    char *key = h->ends ? strstr(more, "\"tie_word_embeddings\"") : NULL;
    assert_true(!h->ends || key);
    while (key && *key != ',') {
        *key++ = ' ';
    }
    if (key) {
        *key = ' ';
    }
    free(test_write(q->dir, "config.json", more, strlen(more)));
    if (!h->config) {
        free(test_write(q->dir, "hf_quant_config.json", modelopt, sizeof modelopt - 1));
    }
    free(more);
    free(text);
    free(path);
}

struct quantised quantised_checkpoint(const char *from, enum quantised_how how,
                                      const char *out_dir) {
    const struct how *h = &hows[how];
    const char *name = strrchr(from, '/') + 1;
    struct quantised q = {mem_printf("%s/%s-%d", out_dir, name, (int)how),
                          mem_printf("%s/%s-%d-twin", out_dir, name, (int)how)};
    for (int i = 0; i < 2; i++) {
        const char *dir = i ? q.twin : q.dir;
        char *command = mem_printf("mkdir '%s' && cp '%s'/*.json '%s'", dir, from, dir);
        assert_int_equal(system(command), 0);
        free(command);
    }
    write_config(from, h, &q);
    write_weights(from, h, &q);
    return q;
}

void quantised_free(struct quantised *q) {
    free(q->dir);
    free(q->twin);
}
