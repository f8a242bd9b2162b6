/*
 * pack: archives of the four first families are what they always were, to the byte; experts in the
 * codec that holds them, compressed in each way; neurons and their biases in calibration's order.
 */
#include "tests/util/test.h"

#include <math.h>

#include "format/corm_read.h"
#include "prep/pack.h"
#include "tests/util/test_util_changed.h"
#include "tests/util/test_util_family.h"
#include "tests/util/test_util_model.h"

#define FAMILIES "tests/golden/families/"
#define MODELS "tests/golden/models/"

static struct pack_options plain_options(void) {
    return (struct pack_options){
        .hot_fraction = 0.25, .chunk_neurons = 32, .threads = 2, .version = "of a test"};
}

/* Pack a checkpoint's directory to `path`. */
static void pack(const char *dir, const char *path, const struct pack_options *opt,
                 struct pack_result *result) {
    struct hf_model m;
    struct err err = {0};
    volatile sig_atomic_t stop = 0;
    hf_open(&m, dir, &err);
    assert_no_err(&err);
    pack_model(&m, path, opt, NULL, &stop, result, &err);
    assert_no_err(&err);
    hf_close(&m);
}

/* ---- comparing an archive with its checkpoint ---- */

static void decode(const struct codec *codec, const uint8_t *data, uint32_t rows, uint32_t cols,
                   float *x) {
    for (uint32_t r = 0; r < rows; r++) {
        codec->decode_row(data + r * codec_row_bytes(codec, cols), cols, x + (size_t)r * cols);
    }
}

/* One expert: neuron `order[i]` of the checkpoint is the record's neuron i. */
static void compare_expert(const struct hf_model *m, const struct corm *c, struct corm_decoder *d,
                           uint32_t layer, uint32_t expert, const uint32_t *order) {
    const struct arch *a = &c->arch;
    const struct corm_record *r = corm_record_of(c, layer, expert);
    size_t dim = a->dim, n = a->ffn_dim * dim, at = 0;
    float *x = mem_alloc(3 * n * sizeof *x), *y = mem_alloc(3 * n * sizeof *y);
    uint8_t *raw = mem_alloc_aligned(a->ffn_dim * c->neuron_bytes);
    struct err err = {0};
    for (uint32_t i = 0; i < r->n_chunks; i++) {
        const struct corm_chunk *k = &c->chunks[r->first_chunk + i];
        corm_chunk_decode(d, c, k, c->map.data + k->offset, raw + at, &err);
        assert_no_err(&err);
        at += corm_chunk_raw_bytes(c, k);
    }
    decode(c->expert_codec, raw, 3 * a->ffn_dim, a->dim, x);
    hf_expert(m, layer, expert, y, y + n, y + 2 * n, &err);
    assert_no_err(&err);
    for (uint32_t i = 0; i < a->ffn_dim; i++) {
        uint32_t from = order ? order[i] : i;
        for (uint32_t part = 0; part < 3; part++) {
            assert_memory_equal(x + (3 * i + part) * dim, y + part * n + from * dim,
                                dim * sizeof *x);
        }
    }
    free(raw);
    free(x);
    free(y);
}

/* All numbers, trunk and experts. order [n_layers, n_experts, ffn_dim], or NULL. */
static void compare_weights(const char *dir, const char *path, const uint32_t *order) {
    struct err err = {0};
    struct hf_model m;
    struct corm c;
    hf_open(&m, dir, &err);
    assert_no_err(&err);
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    const struct arch *a = &c.arch;
    for (struct slot_place at = {0}; slot_next(a, &at);) {
        struct weight w = corm_tensor_get(&c, at.slot, at.layer);
        size_t n = (size_t)w.rows * w.cols;
        float *x = mem_alloc(n * sizeof *x), *y = mem_alloc(n * sizeof *y);
        bool turns = order && (at.slot == SLOT_EXPERT_GATE_BIAS || at.slot == SLOT_EXPERT_UP_BIAS);
        decode(w.codec, w.data, w.rows, w.cols, x);
        hf_tensor_rows(&m, at.slot, at.layer, 0, 0, w.rows, y, &err);
        assert_no_err(&err);
        for (size_t i = 0; i < n; i++) {
            size_t row = i / w.cols;
            size_t from = turns
                              ? order[((size_t)at.layer * a->n_experts + row) * w.cols + i % w.cols]
                              : i % w.cols;
            assert_true(x[i] == y[row * w.cols + from]);
        }
        free(x);
        free(y);
    }
    struct corm_decoder *d = corm_decoder_new(&c);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(a, l) && e < a->n_experts; e++) {
            size_t expert = (size_t)l * a->n_experts + e;
            compare_expert(&m, &c, d, l, e, order ? order + expert * a->ffn_dim : NULL);
        }
    }
    corm_decoder_free(d);
    corm_close(&c);
    hf_close(&m);
}

/* ---- tests ---- */

/* What importers before this one wrote. */
static void same_bytes(void **state) {
    (void)state;
    static const struct {
        const char *dir, *codec;
        uint64_t hash;
    } rows[] = {
        {MODELS "mixtral-tiny", "keep", 0xd4a71352bd90199b},
        {MODELS "mixtral-fused", "keep", 0xd4a71352bd90199b},
        {MODELS "olmoe-tiny", "keep", 0x830ac8c98883913b},
        {MODELS "qwen2moe-tiny", "keep", 0x7b963783827f84df},
        {MODELS "qwen3moe-tiny", "keep", 0x4e0f6a871a352785},
        {MODELS "qwen3moe-fused", "keep", 0x4e0f6a871a352785},
        {MODELS "qwen3moe-f32", "keep", 0x509ef5185682dd11},
        {MODELS "qwen3moe-f16", "keep", 0xb37cddcc826f1197},
        {MODELS "mixtral-tiny", "q8", 0xc53fea3a877135a0},
        {MODELS "mixtral-tiny", "q4", 0x7a25f8d6080dc992},
        {MODELS "qwen2moe-tiny", "q8", 0x20bf1ca27235da62},
        {MODELS "qwen2moe-tiny", "q4", 0xfc02538a230c6955},
        {"tests/models/fable", "keep", 0xfc15c4c13b477bf5},
    };
    char *temp = test_mkdir();
    char *path = mem_printf("%s/a.corm", temp);
    bool same = true;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct pack_options opt = plain_options();
        struct pack_result result;
        opt.expert_codec = codec_by_name(rows[i].codec);
        opt.trunk_codec = opt.expert_codec ? codec_by_name("q8") : NULL;
        pack(rows[i].dir, path, &opt, &result);
        uint64_t hash = model_sections(path);
        if (hash != rows[i].hash) {
            print_error("{\"%s\", \"%s\", 0x%016llx},\n", rows[i].dir, rows[i].codec,
                        (unsigned long long)hash);
            same = false;
        }
    }
    assert_true(same);
    free(path);
    test_rmdir(temp);
}

/* The codec that holds all experts, MXFP4 and turned ones included, and what is read from the
 * archive with it. */
static void exact_codecs(void **state) {
    (void)state;
    static const struct {
        const char *dir, *codec;
        bool made;
    } rows[] = {
        {MODELS "qwen3moe-f32", "f32", false},
        {MODELS "qwen3moe-f16", "f16", false},
        {MODELS "olmoe-tiny", "bf16", false},
        {FAMILIES "gptoss-tiny", "bf16", true},
        {FAMILIES "gptoss-bf16", "bf16", true},
        {FAMILIES "qwen3next-tiny", "bf16", true},
        {FAMILIES "qwen35moe-tiny", "bf16", true},
        {FAMILIES "gemma4-tiny", "bf16", true},
        {FAMILIES "gemma4-shared", "bf16", true},
        {FAMILIES "glm4moe-tiny", "bf16", true},
        {FAMILIES "minimaxm2-tiny", "bf16", true},
        {FAMILIES "dots1-tiny", "bf16", true},
        {FAMILIES "ernie45-tiny", "bf16", true},
        {FAMILIES "hunyuan-tiny", "bf16", true},
        {FAMILIES "afmoe-tiny", "bf16", true},
        {FAMILIES "mellum-tiny", "bf16", true},
        {FAMILIES "sarvam-tiny", "bf16", true},
        {FAMILIES "qwen3vlmoe-tiny", "bf16", true},
        {FAMILIES "qwen3omnimoe-tiny", "bf16", true},
        {FAMILIES "glm4vmoe-tiny", "bf16", true},
        {FAMILIES "granitemoe-tiny", "bf16", true},
        {FAMILIES "granitemoeshared-tiny", "bf16", true},
        {FAMILIES "granitemoeswa-tiny", "bf16", true},
        {FAMILIES "exaonemoe-tiny", "bf16", true},
        {FAMILIES "solaropen-tiny", "bf16", true},
        {FAMILIES "hyv3-tiny", "bf16", true},
        {FAMILIES "llama4-tiny", "bf16", true},
        {FAMILIES "cohere2moe-tiny", "bf16", true},
        {FAMILIES "phimoe-tiny", "bf16", true},
        {FAMILIES "flexolmo-tiny", "bf16", true},
        {FAMILIES "flint-tiny", "bf16", true},
        {FAMILIES "kolibri1-tiny", "bf16", true},
        {FAMILIES "laguna-tiny", "bf16", true},
        {FAMILIES "deepseek-tiny", "bf16", true},
        {FAMILIES "bailingmoe-tiny", "bf16", true},
        {FAMILIES "bailingmoev2-tiny", "bf16", true},
        {FAMILIES "smallthinker-tiny", "bf16", true},
        {FAMILIES "dbrx-tiny", "bf16", true},
        {FAMILIES "step3p7-tiny", "bf16", true},
        {FAMILIES "deepseekv2-tiny", "bf16", true},
        {FAMILIES "deepseekv3-tiny", "bf16", true},
        {FAMILIES "glm4moelite-tiny", "bf16", true},
        {FAMILIES "deepseekv32-tiny", "bf16", true},
        {FAMILIES "glmmoedsa-tiny", "bf16", true},
        {FAMILIES "sarvammla-tiny", "bf16", true},
        {FAMILIES "axk1-tiny", "bf16", true},
        {FAMILIES "mistral4-tiny", "bf16", true},
        {FAMILIES "mimov2flash-tiny", "bf16", true},
    };
    char *temp = test_mkdir();
    char *path = mem_printf("%s/a.corm", temp);
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        char *dir = rows[i].made ? family_checkpoint(rows[i].dir, temp) : mem_strdup(rows[i].dir);
        struct pack_options opt = plain_options();
        struct pack_result result;
        pack(dir, path, &opt, &result);
        assert_string_equal(result.expert_codec->name, rows[i].codec);
        compare_weights(dir, path, NULL);
        free(dir);
    }
    free(path);
    test_rmdir(temp);
}

/* Before an hour of calibration, and before a file is there. */
static void refuse(const char *dir, const char *path, const struct pack_options *opt,
                   const char *say, const char *say_too) {
    struct hf_model m;
    struct pack_result result;
    struct err err = {0}, early = {0}, late = {0};
    volatile sig_atomic_t stop = 0;
    hf_open(&m, dir, &err);
    assert_no_err(&err);
    assert_int_equal(pack_check(&m, opt, &early), -1);
    assert_err(&early, say, say_too);
    assert_int_equal(pack_model(&m, path, opt, NULL, &stop, &result, &late), -1);
    assert_string_equal(early.msg, late.msg);
    assert_int_equal(access(path, F_OK), -1);
    hf_close(&m);
}

/* Where chunks are cold, or are not to stay raw: all of the encoding, none raw. */
static void check_encodings(const char *path, enum corm_compress how, bool raw_hot,
                            const char *options) {
    struct err err = {0};
    struct corm c;
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    bool two_bytes = c.expert_codec->id == CODEC_BF16 || c.expert_codec->id == CODEC_F16;
    uint32_t zstd = two_bytes ? CORM_ENCODING_PLANES : CORM_ENCODING_ZSTD;
    for (uint32_t i = 0; i < c.n_chunks; i++) {
        uint32_t per_expert = corm_chunks_per_expert(&c);
        bool hot = i % per_expert < c.records[i / per_expert].n_hot;
        bool raw = how == CORM_COMPRESS_NONE || (hot && raw_hot);
        assert_int_equal(c.chunks[i].encoding, raw ? CORM_ENCODING_RAW
                                               : how == CORM_COMPRESS_ZSTD
                                                   ? zstd
                                                   : CORM_ENCODING_EXPONENTS);
    }
    char *said = mem_printf("%.*s", (int)c.provenance.size_bytes, (const char *)c.provenance.data);
    assert_non_null(strstr(said, options));
    free(said);
    corm_close(&c);
}

static uint64_t logits_of(const char *path) {
    static const int32_t ids[] = {5, 200, 77, 31, 0, 12, 9, 150, 3};
    struct corm_engine_options opt = {.threads = 2, .ctx_tok = 64};
    struct corm_engine *e = model_open(path, &opt);
    struct corm_session *s = model_session(e);
    uint64_t hash = model_hash(e, s, ids, 6, TEST_COUNT(ids));
    corm_session_close(s);
    corm_engine_close(e);
    return hash;
}

/* The logits hang on no way to compress, whatever the codec, the size of chunks and the part of
 * them that is hot; q8 and q4, which do not shrink below 0.9, are frames too where these are asked
 * for; and what a codec does not have is refused before calibration and before a file is there. */
static void each_way(void **state) {
    (void)state;
    static const struct {
        const char *dir, *codec;
        uint32_t chunk_neurons;
        double hot;
        bool raw_hot, exponents;
    } rows[] = {
        {MODELS "olmoe-tiny", "keep", 32, 0, false, true}, /* one chunk an expert */
        {MODELS "mixtral-tiny", "keep", 32, 0.5, true, true},
        {MODELS "qwen3moe-tiny", "keep", 1 << 20, 1, false, true}, /* tied; all hot */
        {MODELS "qwen2moe-tiny", "keep", 32, 1, true, true},       /* so nothing is compressed */
        {MODELS "qwen3moe-f16", "keep", 32, 0.25, false, false},
        {MODELS "qwen3moe-f32", "keep", 32, 0.25, true, false},
        {MODELS "mixtral-tiny", "q8", 32, 0.25, false, false},
        {MODELS "mixtral-tiny", "q4", 64, 0.25, true, false},
        {MODELS "qwen3moe-f32", "bf16", 32, 0.25, false, true},
    };
    static const char *const options[CORM_COMPRESS_WAYS] = {
        [CORM_COMPRESS_NONE] = " --no-compress",
        [CORM_COMPRESS_ZSTD] = " --compress zstd",
        [CORM_COMPRESS_EXPONENTS] = " --compress exponents"};
    char *temp = test_mkdir();
    char *path = mem_printf("%s/a.corm", temp), *never = mem_printf("%s/never.corm", temp);
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        uint64_t want = 0;
        for (int how = 0; how < CORM_COMPRESS_WAYS; how++) {
            struct pack_options opt = plain_options();
            struct pack_result result;
            opt.expert_codec = codec_by_name(rows[i].codec);
            opt.chunk_neurons = rows[i].chunk_neurons;
            opt.hot_fraction = rows[i].hot;
            opt.raw_hot = rows[i].raw_hot;
            opt.compress = (enum corm_compress)how;
            if (how == CORM_COMPRESS_EXPONENTS && !rows[i].exponents) {
                refuse(rows[i].dir, never, &opt, "--compress exponents: codec ",
                       "has no exponents code");
                continue;
            }
            pack(rows[i].dir, path, &opt, &result);
            if (options[how]) {
                check_encodings(path, opt.compress, opt.raw_hot, options[how]);
            }
            uint64_t hash = logits_of(path);
            want = how == 0 ? hash : want;
            assert_true(hash == want);
        }
    }
    free(path);
    free(never);
    test_rmdir(temp);
}

static void no_tokenizer(void **state) {
    (void)state;
    char *temp = test_mkdir(), *never = mem_printf("%s/never.corm", temp);
    char *command =
        mem_printf("cp " MODELS "olmoe-tiny/* '%s' && rm -f '%s/tokenizer.json'", temp, temp);
    struct pack_options opt = plain_options();
    assert_int_equal(system(command), 0);
    refuse(temp, never, &opt, temp, "no tokenizer.json");
    free(command);
    free(never);
    test_rmdir(temp);
}

/* Neurons in the order that calibration found, and the biases of gate and up with them; those of
 * down are of no neuron. */
static void ordered(void **state) {
    (void)state;
    static const char *const checkpoints[] = {"gptoss-tiny", "qwen3next-tiny"};
    char *temp = test_mkdir();
    char *path = mem_printf("%s/a.corm", temp);
    for (size_t i = 0; i < TEST_COUNT(checkpoints); i++) {
        char *golden = mem_printf(FAMILIES "%s", checkpoints[i]);
        char *dir = family_checkpoint(golden, temp);
        struct hf_config config = {0};
        struct err err = {0};
        hf_config_read(&config, dir, &err);
        assert_no_err(&err);
        const struct arch *a = &config.arch;
        size_t records = (size_t)a->n_layers * a->n_experts, n = records * a->ffn_dim;
        struct calib_result calib = {
            .n_layers = a->n_layers, .n_experts = a->n_experts, .ffn_dim = a->ffn_dim};
        calib.order = mem_calloc(n, sizeof *calib.order);
        calib.hot = mem_calloc(records, sizeof *calib.hot);
        for (size_t k = 0; k < n; k++) { /* another permutation for each expert; 5 is odd */
            size_t expert = k / a->ffn_dim;
            calib.order[k] = (uint32_t)((5 * k + 3 * expert) % a->ffn_dim);
        }
        struct pack_options opt = plain_options();
        struct pack_result result;
        opt.calib = &calib;
        opt.calib_text = "none";
        opt.compress = i == 0 ? CORM_COMPRESS_ZSTD : CORM_COMPRESS_EXPONENTS;
        pack(dir, path, &opt, &result);
        assert_true(result.stats.n_chunks_raw < result.stats.n_chunks);
        compare_weights(dir, path, calib.order);
        free(calib.order);
        free(calib.hot);
        hf_config_free(&config);
        free(golden);
        free(dir);
    }
    free(path);
    test_rmdir(temp);
}

/* A weight beyond a codec's range is refused by tensor, place and value; what a codec rounds into
 * its range is not. Codecs that hold it take it. */
static void ranges(void **state) {
#define HEAD "lm_head.weight"
#define LAYER "model.layers.1."
#define EXPERT LAYER "mlp.experts.3."
    static const struct {
        const char *tensor;
        uint64_t element;
        float value;
        const char *expert, *trunk; /* codecs; NULL: exact */
        const char *say, *say_too;  /* NULL: nothing is refused */
    } rows[] = {
        {HEAD, 64 * 7 + 5, 305152, NULL, "f16", "weight [7, 5] is 305152", "--trunk"},
        {HEAD, 64 * 7 + 5, -305152, NULL, "f16", "weight [7, 5] is -305152", "codec f16"},
        {HEAD, 3, 305152, NULL, NULL, NULL, NULL},
        {HEAD, 3, 305152, NULL, "bf16", NULL, NULL},
        {HEAD, 3, 305152, NULL, "q8", NULL, NULL},
        {HEAD, 3, 65280, NULL, "f16", NULL, NULL},
        {HEAD, 3, 9e6f, NULL, "q8", "weight [0, 3] is 8978432", "codec q8"},
        {HEAD, 3, 9e6f, NULL, "f32", NULL, NULL},
        {LAYER "self_attn.q_proj.weight", 64 * 2 + 1, 1e10f, NULL, "q8", "weight [2, 1]",
         "self_attn.q_proj"},
        {EXPERT "gate_proj.weight", 64 * 3 + 2, 70144, "f16", NULL,
         "gate_proj.weight\": weight [3, 2]",
         "is 70144, which codec f16 cannot hold: choose keep, bf16 or f32 for --codec"},
        {EXPERT "down_proj.weight", 32 * 9 + 4, 1e30f, "q8", NULL,
         "down_proj.weight\": weight [9, 4]", "--codec"},
        {EXPERT "up_proj.weight", 1, 1e30f, "q4", NULL, NULL, NULL},
        {EXPERT "up_proj.weight", 1, 3e38f, "q4", NULL, "up_proj.weight\": weight [0, 1]",
         "codec q4"},
        {EXPERT "up_proj.weight", 1, INFINITY, "q4", NULL, "weight [0, 1] is infinite", ""},
        {HEAD, 64, NAN, NULL, NULL, "weight [1, 0] is NaN", ""},
        /* always exact, whatever is asked for */
        {"model.norm.weight", 1, 1e30f, "f16", "f16", NULL, NULL},
        {LAYER "mlp.gate.weight", 1, 1e6f, "f16", "f16", NULL, NULL},
    };
    char *temp = test_mkdir();
    char *path = mem_printf("%s/a.corm", temp);
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct changed c = changed_open("olmoe-tiny");
        struct pack_options opt = plain_options();
        struct pack_result result;
        struct hf_model m;
        struct err err = {0};
        opt.expert_codec = rows[i].expert ? codec_by_name(rows[i].expert) : NULL;
        opt.trunk_codec = rows[i].trunk ? codec_by_name(rows[i].trunk) : NULL;
        changed_set(&c, rows[i].tensor, rows[i].element, rows[i].value);
        hf_open(&m, changed_write(&c), &err);
        assert_no_err(&err);
        int rc = pack_model(&m, path, &opt, NULL, NULL, &result, &err);
        if (rows[i].say) {
            assert_int_equal(rc, -1);
            assert_err(&err, rows[i].tensor, rows[i].say, rows[i].say_too);
            assert_int_equal(access(path, F_OK), -1);
        } else {
            assert_no_err(&err);
            unlink(path);
        }
        hf_close(&m);
        changed_close(&c);
    }
    free(path);
    test_rmdir(temp);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_bytes),   cmocka_unit_test(exact_codecs), cmocka_unit_test(each_way),
        cmocka_unit_test(no_tokenizer), cmocka_unit_test(ordered),      cmocka_unit_test(ranges),
    };
    return cmocka_run_group_tests_name("pack", tests, NULL, NULL);
}
