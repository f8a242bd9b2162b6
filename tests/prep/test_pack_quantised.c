/*
 * pack: archives of checkpoints in FP8 and NVFP4 are those of their numbers, byte for byte; what
 * cannot be kept is refused or told, by the program too.
 */
#include "tests/util/test.h"

#include "prep/pack.h"
#include "tests/util/test_util_family.h"
#include "tests/util/test_util_model.h"
#include "tests/util/test_util_quantised.h"
#include "tests/util/test_util_tensors.h"

#define MODELS "tests/golden/models/"
#define FAMILIES "tests/golden/families/"

static const struct row {
    const char *from;
    enum quantised_how how;
} rows[] = {
    {MODELS "qwen3moe-tiny", QUANTISED_BLOCKS},
    {MODELS "qwen3moe-tiny", QUANTISED_TENSOR},
    {MODELS "qwen3moe-tiny", QUANTISED_ROWS},
    {MODELS "qwen3moe-tiny", QUANTISED_NVFP4},
    {MODELS "qwen3moe-tiny", QUANTISED_MODELOPT},
    {MODELS "olmoe-tiny", QUANTISED_ENDS},
    {FAMILIES "qwen35moe-tiny", QUANTISED_ENDS},  /* in a wrapper */
    {FAMILIES "bailingmoe-tiny", QUANTISED_ENDS}, /* columns of the head have length one */
    {MODELS "qwen3moe-fused", QUANTISED_BLOCKS},
    {FAMILIES "minimaxm2-tiny", QUANTISED_BLOCKS},
    {FAMILIES "minimaxm2-tiny", QUANTISED_NVFP4},
    {FAMILIES "qwen3vlmoe-tiny", QUANTISED_BLOCKS}, /* experts (in, out), in a wrapper */
    {FAMILIES "ernie45-tiny", QUANTISED_ROWS},      /* pairs */
    {FAMILIES "deepseekv3-tiny", QUANTISED_BLOCKS}, /* heads cut apart, and transposed */
    {FAMILIES "deepseekv3-tiny", QUANTISED_ENDS},
    {FAMILIES "mistral4-tiny", QUANTISED_TENSOR},
    {FAMILIES "mimov2flash-tiny", QUANTISED_BLOCKS},
    {FAMILIES "gemma4-shared", QUANTISED_TENSOR}, /* keys and values that nobody reads */
};

static struct quantised make(const struct row *r, const char *temp) {
    bool made = strncmp(r->from, FAMILIES, strlen(FAMILIES)) == 0;
    char *folder = mem_printf("%s/from", temp);
    char *command = mem_printf("rm -rf '%s' && mkdir '%s'", folder, folder);
    assert_int_equal(system(command), 0);
    char *from = made ? family_checkpoint(r->from, folder) : mem_strdup(r->from);
    struct quantised q = quantised_checkpoint(from, r->how, temp);
    free(from);
    free(command);
    free(folder);
    return q;
}

static struct hf_model open_model(const char *dir) {
    struct hf_model m;
    struct err err = {0};
    hf_open(&m, dir, &err);
    assert_no_err(&err);
    return m;
}

static uint64_t pack_hash(const struct hf_model *m, const char *dir, const char *experts,
                          const char *trunk) {
    struct pack_options opt = model_packing();
    opt.compress = CORM_COMPRESS_NONE;
    opt.expert_codec = codec_by_name(experts);
    opt.trunk_codec = codec_by_name(trunk);
    char *path = model_pack(m, dir, "a", &opt);
    uint64_t hash = model_sections(path);
    free(path);
    return hash;
}

/* In q8, in q4 with a trunk that is kept, and as f32. */
static void same_archives(void **state) {
    static const char *const codecs[][2] = {{"q8", "q8"}, {"q4", "keep"}, {"f32", "bf16"}};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        char *temp = test_mkdir();
        struct quantised q = make(&rows[i], temp);
        struct hf_model m = open_model(q.dir), twin = open_model(q.twin);
        for (size_t k = 0; k < TEST_COUNT(codecs); k++) {
            if (pack_hash(&m, temp, codecs[k][0], codecs[k][1]) !=
                pack_hash(&twin, temp, codecs[k][0], codecs[k][1])) {
                fail_msg("%s, %d: --codec %s", rows[i].from, (int)rows[i].how, codecs[k][0]);
            }
        }
        bool others = rows[i].how == QUANTISED_TENSOR || rows[i].how >= QUANTISED_NVFP4;
        assert_int_equal(others, m.warnings.len > 0);
        if (others) {
            assert_non_null(strstr(m.warnings.data, "tensors that say how activations"));
        }
        hf_close(&m);
        hf_close(&twin);
        quantised_free(&q);
        test_rmdir(temp);
    }
}

/* Experts whose bits no codec keeps are refused, and what a trunk costs is counted. */
static void cannot_be_kept(void **state) {
    static const struct {
        struct row row;
        const char *numbers;
    } kinds[] = {{{MODELS "qwen3moe-tiny", QUANTISED_BLOCKS}, "FP8"},
                 {{MODELS "qwen3moe-tiny", QUANTISED_NVFP4}, "NVFP4"}};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(kinds); i++) {
        char *temp = test_mkdir();
        struct quantised q = make(&kinds[i].row, temp);
        struct hf_model m = open_model(q.dir);
        struct pack_options opt = model_packing();
        struct err err = {0};
        opt.trunk_codec = NULL;
        assert_int_equal(pack_check(&m, &opt, &err), -1);
        assert_err(&err, q.dir, "experts are in ", kinds[i].numbers,
                   ", whose bits no codec keeps: choose --codec q8 or q4");
        struct pack_grown g = pack_trunk_grown(&m, &opt);
        assert_string_equal(g.numbers, kinds[i].numbers);
        assert_int_equal(g.matrices, 4 * hf_arch(&m)->n_layers + 3); /* a layer has a dense MLP */
        uint64_t n = g.to_bytes / 4;
        assert_true(i == 0 ? g.from_bytes > n && g.from_bytes < n + n / 64
                           : g.from_bytes == n / 2 + n / 16);
        opt.trunk_codec = codec_by_name("q8");
        assert_null(pack_trunk_grown(&m, &opt).numbers);
        opt.expert_codec = codec_by_name("q8");
        err = (struct err){0};
        assert_int_equal(pack_check(&m, &opt, &err), 0);
        hf_close(&m);
        m = open_model(q.twin);
        opt.trunk_codec = NULL;
        assert_null(pack_trunk_grown(&m, &opt).numbers);
        hf_close(&m);
        quantised_free(&q);
        test_rmdir(temp);
    }
}

/* Write the weights of `dir` again, whose head becomes the embedding's numbers. `change` is the
 * ending of its tensor of which the last byte becomes another; NULL: none. `only`: no other tensor
 * of the head is written. */
static void copy_head(const char *dir, const char *change, bool only) {
    static const char embed[] = "model.embed_tokens.weight";
    struct tensors to = {0};
    struct safetensors *st;
    struct err err = {0};
    st_open(&st, dir, &err);
    assert_no_err(&err);
    for (size_t i = 0; i < st_count(st); i++) {
        const struct st_tensor *t = st_at(st, i);
        char text[192];
        if (strncmp(t->name, "lm_head", 7) != 0) {
            tensors_add(&to, t->name, t->dtype_name, st_shape_text(t, text), t->data, t->bytes);
        }
        if (strncmp(t->name, embed, sizeof embed - 1) == 0) {
            const char *end = t->name + sizeof embed - 1;
            bool other = change && strcmp(end, change) == 0;
            char *name = mem_printf("lm_head.weight%s", end);
            uint8_t *data = mem_alloc(t->bytes);
            memcpy(data, t->data, t->bytes);
            data[t->bytes - 1] ^= other;
            if (!only || other) {
                tensors_add(&to, name, t->dtype_name, st_shape_text(t, text), data, t->bytes);
            }
            free(data);
            free(name);
        }
    }
    tensors_open(&to);
    st_close(st);
    free(test_write(dir, "model.safetensors", to.file.data, to.file.len));
    tensors_close(&to);
}

/* A head ties where all of its tensors are those of the embedding. */
static void tied_heads(void **state) {
    static const struct {
        const char *change; /* as copy_head has it */
        bool only, tied;
        const char *say; /* it is refused */
    } kinds[] = {
        {NULL, false, true, NULL},
        {"_packed", false, false, NULL},
        {"_scale", false, false, NULL},
        {"_global_scale", false, false, NULL},
        {"_packed", true, false, "tensor \"lm_head.weight_scale\" is missing: the scales"},
        {"_scale", true, false, "tensor \"lm_head.weight_scale\" has no place"},
    };
    const struct row from = {MODELS "olmoe-tiny", QUANTISED_ENDS};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(kinds); i++) {
        char *temp = test_mkdir();
        struct quantised q = make(&from, temp);
        struct hf_model m;
        struct err err = {0};
        char *command =
            mem_printf("sed -i '1s/{/{\"tie_word_embeddings\":true,/' '%s/config.json'", q.dir);
        assert_int_equal(system(command), 0);
        copy_head(q.dir, kinds[i].change, kinds[i].only);
        int rc = hf_open(&m, q.dir, &err);
        if (kinds[i].say) {
            assert_int_equal(rc, -1);
            assert_err(&err, q.dir, kinds[i].say);
        } else {
            assert_no_err(&err);
            assert_int_equal(hf_arch(&m)->tied, kinds[i].tied);
            bool told = strstr(m.warnings.data, "differs from the embedding") != NULL;
            assert_int_equal(told, !kinds[i].tied);
        }
        hf_close(&m);
        free(command);
        quantised_free(&q);
        test_rmdir(temp);
    }
}

/* Run corm-prep with `words`; returns its exit status, and what it printed, to free(). */
static int run_prep(const char *temp, const char *words, char **said) {
    uint8_t *text;
    size_t bytes;
    struct err err = {0};
    char *out = mem_printf("%s/said", temp);
    char *command = mem_printf("'%s/corm-prep' %s >'%s' 2>&1", getenv("CORM_BUILD"), words, out);
    int status = system(command);
    file_read(out, 1 << 20, &text, &bytes, &err);
    assert_no_err(&err);
    *said = (char *)text;
    free(command);
    free(out);
    return status;
}

/* What people are told. */
static void told(void **state) {
    (void)state;
    static const struct {
        const char *command, *options; /* the output's name and what follows; NULL: no output */
        bool refused;
        const char *say, *not_say; /* NULL: nothing is asked */
    } calls[] = {
        {"inspect", NULL, false, "weights are quantised by FP8\n", "matrices"},
        {"inspect --json", NULL, false, "\"quantised\": \"FP8\"", "matrices"},
        {"convert", "/a.corm", true, "experts are in FP8, whose bits no codec keeps", "matrices"},
        {"convert -f", "/a.corm --codec q8", false,
         "15 matrices that every token uses are in FP8, whose bits no codec keeps: as f32, number "
         "times scale, they take ",
         NULL},
        {"convert -f", "/a.corm --codec q8 --trunk q8", false, "trunk", "matrices"},
    };
    char *temp = test_mkdir();
    struct quantised q = make(&rows[0], temp);
    for (size_t i = 0; i < TEST_COUNT(calls); i++) {
        char *said, *words = mem_printf("%s '%s' %s%s%s", calls[i].command, q.dir,
                                        calls[i].options ? "-o " : "", calls[i].options ? temp : "",
                                        calls[i].options ? calls[i].options : "");
        int status = run_prep(temp, words, &said);
        if ((status != 0) != calls[i].refused || !strstr(said, calls[i].say) ||
            (calls[i].not_say && strstr(said, calls[i].not_say))) {
            fail_msg("corm-prep %s: %s", words, said);
        }
        free(said);
        free(words);
    }
    /* ModelOpt's file beside a config.json that names another method */
    char *said, *words = mem_printf("inspect '%s'", q.dir);
    static const char file[] = "{\"quantization\":{\"quant_algo\":\"FP8\"}}";
    free(test_write(q.dir, "hf_quant_config.json", file, sizeof file - 1));
    assert_int_not_equal(run_prep(temp, words, &said), 0);
    assert_non_null(strstr(said, "quantised by NVIDIA's ModelOpt, but config.json says by FP8"));
    free(said);
    free(words);
    quantised_free(&q);
    test_rmdir(temp);
}

/* What is learned from quantised weights is what is learned from their numbers: the archives are
 * the same, order of neurons and predictors included. */
static void calibrated(void **state) {
    static const struct row kinds[] = {{MODELS "olmoe-tiny", QUANTISED_BLOCKS},
                                       {MODELS "olmoe-tiny", QUANTISED_NVFP4}};
    static const char options[] =
        "--codec q8 --trunk q8 --compress none --threads 2 -q --calib calib-data/stories "
        "--calib-held calib-data/heldout --calib-tokens 256 --calib-seq 32";
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(kinds); i++) {
        char *temp = test_mkdir();
        struct quantised q = make(&kinds[i], temp);
        const char *const dirs[] = {q.dir, q.twin};
        uint64_t hashes[2];
        for (size_t k = 0; k < 2; k++) {
            char *said, *archive = mem_printf("%s/%zu.corm", temp, k);
            char *words = mem_printf("convert '%s' -o '%s' %s", dirs[k], archive, options);
            if (run_prep(temp, words, &said) != 0) {
                fail_msg("corm-prep %s: %s", words, said);
            }
            hashes[k] = model_sections(archive);
            free(said);
            free(words);
            free(archive);
        }
        assert_true(hashes[0] == hashes[1]);
        struct hf_model m = open_model(q.dir);
        assert_true(hashes[0] != pack_hash(&m, temp, "q8", "q8")); /* something was learned */
        hf_close(&m);
        quantised_free(&q);
        test_rmdir(temp);
    }
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_archives), cmocka_unit_test(cannot_be_kept),
        cmocka_unit_test(tied_heads),    cmocka_unit_test(told),
        cmocka_unit_test(calibrated),
    };
    return cmocka_run_group_tests_name("pack_quantised", tests, NULL, NULL);
}
