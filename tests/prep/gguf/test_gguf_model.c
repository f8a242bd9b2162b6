/*
 * gguf_model: golden checkpoints written as GGUF, as llama.cpp's converter stores them, give the
 * archives of their safetensors, byte for byte; blocks, and what is refused.
 */
#include "tests/util/test.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>

#include "format/corm_read.h"
#include "prep/gguf/gguf_block.h"
#include "prep/gguf/gguf_model.h"
#include "prep/pack.h"
#include "prep/pack_cost.h"
#include "tests/util/test_util_gguf_model.h"
#include "tests/util/test_util_golden.h"

/* ---- a checkpoint with some keys changed ---- */

/* A copy of a golden checkpoint in a folder of its own, with `changes` (JSON) to config.json. */
static char *changed_copy(const char *name, const char *changes) {
    char *from = golden_source(name), *to = test_mkdir();
    struct err err = {0};
    DIR *d = opendir(from);
    const struct dirent *e;
    while ((e = readdir(d)) != NULL) {
        uint8_t *data;
        size_t bytes;
        char *path = mem_printf("%s/%s", from, e->d_name);
        if (e->d_name[0] != '.' && file_read(path, SIZE_MAX >> 1, &data, &bytes, &err) == 0) {
            free(test_write(to, e->d_name, data, bytes));
            free(data);
        }
        free(path);
    }
    closedir(d);
    char *path = mem_printf("%s/config.json", to);
    json_t *config = json_load_file(path, 0, NULL), *more = json_loads(changes, 0, NULL);
    json_object_update(config, more);
    char *text = json_dumps(config, 0);
    free(test_write(to, "config.json", text, strlen(text)));
    free(text);
    json_decref(config);
    json_decref(more);
    free(path);
    free(from);
    return to;
}

/* ---- archives ---- */

static void pack(const struct hf_model *m, const char *path) {
    const struct pack_options opt = {
        .hot_fraction = 0.25, .chunk_neurons = 32, .threads = 1, .version = "of a test"};
    struct pack_result result;
    struct err err = {0};
    volatile sig_atomic_t stop = 0;
    pack_model(m, path, &opt, NULL, &stop, &result, &err);
    assert_no_err(&err);
}

/* All sections are the same, but the one that tells the files' names. */
static void compare(const char *name, const char *a_path, const char *b_path) {
    struct corm a, b;
    struct err err = {0};
    corm_open(&a, a_path, 0, &err);
    corm_open(&b, b_path, 0, &err);
    assert_no_err(&err);
    assert_int_equal(a.header.section_count, b.header.section_count);
    for (uint32_t i = 0; i < a.header.section_count; i++) {
        const struct corm_section *x = &a.sections[i], *y = &b.sections[i];
        assert_int_equal(x->type, y->type);
        if (x->type == CORM_SECTION_PROVENANCE) {
            continue;
        }
        if (x->bytes != y->bytes ||
            memcmp(a.map.data + x->offset, b.map.data + y->offset, x->bytes) != 0) {
            fail_msg("%s: section %u differs", name, x->type);
        }
    }
    corm_close(&a);
    corm_close(&b);
}

static const struct golden_case {
    const char *name, *changes;
    struct made_as as;
    const char *hidden; /* keys that the file is to lack, a space behind each */
} cases[] = {
    {"mixtral-tiny", "{\"sliding_window\": null}", {"llama", "F32", true, false}},
    {"olmoe-tiny", "{\"clip_qkv\": null}", {"olmoe", "F32", false, false}},
    {"qwen2moe-tiny", "{}", {"qwen2moe", "F32", false, false}},
    {"qwen3moe-tiny",
     "{\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000.0}}",
     {"qwen3moe", "F32", false, false}},
    {"qwen3moe-tiny",
     "{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 4.0, \"rope_theta\": 1e6}}",
     {"qwen3moe", "BF16", false, false}},
    {"qwen3moe-f16", "{\"norm_topk_prob\": true}", {"qwen3moe", "F16", false, false}},
    {"gptoss-bf16",
     "{\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 4.0, \"rope_theta\": 10000.0, "
     "\"beta_fast\": 4.0, \"beta_slow\": 0.5, \"original_max_position_embeddings\": 32, "
     "\"truncate\": false}, \"swiglu_limit\": 7.0}",
     {"gpt-oss", "F32", false, false}},
    {"glm4moe-tiny", "{}", {"glm4moe", "F32", false, false}},
    {"granitemoe-tiny", "{}", {"granitemoe", "F32", true, false}},
    {"deepseekv2-tiny", "{}", {"deepseek2", "F32", false, false}},
    {"deepseekv3-tiny", "{}", {"deepseek2", "F32", false, true}},
    {"deepseekv3-tiny", "{}", {"deepseek2", "BF16", false, false}},
    {"deepseekv3-tiny",
     "{\"n_group\": 1, \"topk_group\": 1, \"norm_topk_prob\": false, \"routed_scaling_factor\": "
     "1.0}",
     {"deepseek2", "F32", false, true},
     "deepseek2.expert_group_count deepseek2.expert_group_used_count deepseek2.expert_weights_norm "
     "deepseek2.expert_weights_scale "},
    {"glm4moe-tiny", "{\"partial_rotary_factor\": 1.0}", {"glm4moe", "F32", false, false}},
    {"qwen3moe-tiny",
     "{\"rope_parameters\": {\"rope_type\": \"linear\", \"factor\": 4.0, \"rope_theta\": 1e6}}",
     {"qwen3moe", "BF16", false, false},
     "qwen3moe.rope.scaling.type "},
};

/* Give a key a name that is of no architecture. */
static void hide(struct buf *file, const char *key, size_t bytes) {
    char *at = memmem(file->data, file->len, key, bytes);
    assert_non_null(at);
    *at = '-';
}

/* The checkpoint of a case, and the file written of it. */
static char *write_case(const struct made_as *as, const char *hidden, const char *dir,
                        struct hf_model *m) {
    struct err err = {0};
    struct gguf_made made = {0};
    hf_open(m, dir, &err);
    assert_no_err(&err);
    made_golden(&made, m, dir, as);
    struct buf file = made_file(&made);
    for (const char *key = hidden ? hidden : ""; *key; key += strcspn(key, " ") + 1) {
        hide(&file, key, strcspn(key, " "));
    }
    char *path = test_write(dir, "golden.gguf", file.data, file.len);
    buf_free(&file);
    return path;
}

static void gives_the_same_archives(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        char *dir = changed_copy(cases[i].name, cases[i].changes);
        struct hf_model hf, gg;
        struct err err = {0};
        char *path = write_case(&cases[i].as, cases[i].hidden, dir, &hf);
        char *a = mem_printf("%s/hf.corm", dir), *b = mem_printf("%s/gguf.corm", dir);
        assert_true(gguf_model_is(path));
        gguf_model_open(&gg, path, &err);
        assert_no_err(&err);
        pack(&hf, a);
        pack(&gg, b);
        compare(cases[i].name, a, b);
        hf_close(&hf);
        hf_close(&gg);
        free(a);
        free(b);
        free(path);
        test_rmdir(dir);
    }
}

/* ---- blocks ---- */

/* A file of mixtral-tiny whose matrices are Q8_0, experts in another type. */
static char *write_blocks(const char *dir, struct hf_model *m) {
    const struct made_as c = {"llama", "Q8_0", true, false};
    return write_case(&c, NULL, dir, m);
}

/* Types of blocks: what is told of them, that a codec of the archive's own is chosen, and that
 * their numbers arrive: q8 of numbers that a block has exactly changes them little. */
static void reads_blocks(void **state) {
    (void)state;
    char *dir = changed_copy("mixtral-tiny", "{\"sliding_window\": null}");
    struct hf_model hf, gg;
    struct err err = {0};
    struct pack_cost cost;
    struct pack_options opt = {
        .hot_fraction = 0.25, .chunk_neurons = 32, .threads = 1, .version = "of a test"};
    char *path = write_blocks(dir, &hf);
    gguf_model_open(&gg, path, &err);
    assert_no_err(&err);
    assert_string_equal(hf_weight_blocks(&gg, SLOT_Q, 1, 0), "Q8_0");
    assert_string_equal(hf_weight_unkept(&gg, SLOT_EXPERT_UP, 1, 3), "Q8_0");
    assert_null(hf_weight_blocks(&gg, SLOT_ATTN_NORM, 1, 0));
    assert_null(hf_weight(&gg, SLOT_Q, 1, 0).data);
    assert_int_equal(hf_weight(&gg, SLOT_Q, 1, 0).codec->id, CODEC_F32);
    assert_int_equal(hf_weight_bytes(&gg, SLOT_Q, 1, 0), 64 * 64 / 32 * 34);
    pack_cost_read(&cost, &gg);
    assert_string_equal(cost.numbers.data, "Q8_0");
    assert_true(cost.bits == 8.5);
    assert_int_equal(pack_cost_codec(&cost)->id, CODEC_Q8);
    pack_cost_measure(&cost, &gg, codec_by_id(CODEC_Q4), &err);
    assert_no_err(&err);
    assert_true(cost.error > 0.02 && cost.error < 0.2);
    pack_cost_measure(&cost, &gg, codec_by_id(CODEC_F32), &err);
    assert_true(cost.error == 0);
    buf_free(&cost.numbers);
    for (uint32_t s = SLOT_EXPERT_GATE; s <= SLOT_EXPERT_DOWN; s++) {
        enum { N = 64 * 64 };
        const uint32_t n = N;
        float x[N], y[N], most = 0;
        hf_tensor_rows(&hf, s, 2, 5, 0, 64, x, &err);
        hf_tensor_rows(&gg, s, 2, 5, 0, 64, y, &err);
        assert_no_err(&err);
        for (uint32_t i = 0; i < n; i++) {
            most = fmaxf(most, fabsf(x[i]));
        }
        for (uint32_t i = 0; i < n; i++) {
            assert_true(fabsf(x[i] - y[i]) <= most / 250);
        }
    }
    assert_int_equal(pack_check(&gg, &opt, &err), -1);
    assert_err(&err, "golden.gguf: experts are in Q8_0, whose bits no codec keeps");
    err = (struct err){0};
    opt.expert_codec = opt.trunk_blocks = codec_by_id(CODEC_Q8);
    assert_int_equal(pack_trunk_grown(&gg, &opt).matrices, 3); /* routers */
    opt.trunk_blocks = NULL;
    assert_int_equal(pack_trunk_grown(&gg, &opt).matrices, 2 + 3 * 5);
    hf_close(&hf);
    hf_close(&gg);
    free(path);
    test_rmdir(dir);
}

/* ---- refusals ---- */

/* What is wrong with a file of which one key or tensor is another. */
static void refuses(void **state) {
    (void)state;
    static const struct {
        const char *from, *to; /* bytes of the file; as many */
        const char *say;
    } rows[] = {
        {"olmoe", "olmof", "general.architecture \"olmof\" is not read; read are: deepseek2, "},
        {"olmoe.block_count", "olmoe.block_cound", "key \"olmoe.block_count\" is missing"},
        {"olmoe.feed_forward_length", "olmoe.feed_forward_lengtg",
         "\"olmoe.feed_forward_lengtg\" is not known"},
        {"blk.1.attn_q.weight", "blk.1.attn_r.weight", "tensor \"blk.1.attn_q.weight\" is missing"},
        {"token_embd.weight", "token_embe.weight", "\"token_embd.weight\" is missing"},
        {"gpt2", "bert", "tokenizer.ggml.model: expected \"gpt2\" or \"llama\""},
        {"gpt-2", "gpt-9", "tokenizer.ggml.pre \"gpt-9\" is not read; read are: gpt-2"},
        {"tokenizer.ggml.merges", "tokenizer.ggml.mergez",
         "tokenizer.ggml.merges: expected a list"},
    };
    char *dir = changed_copy("olmoe-tiny", "{\"clip_qkv\": null}");
    struct hf_model hf;
    const struct made_as c = {"olmoe", "F32", false, false};
    char *path = write_case(&c, NULL, dir, &hf);
    hf_close(&hf);
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct hf_model m;
        struct err err = {0};
        uint8_t *bytes;
        size_t n;
        file_read(path, SIZE_MAX >> 1, &bytes, &n, &err);
        assert_no_err(&err);
        uint8_t *at = memmem(bytes, n, rows[i].from, strlen(rows[i].from));
        assert_non_null(at);
        memcpy(at, rows[i].to, strlen(rows[i].to));
        char *bad = test_write(dir, "bad.gguf", bytes, n);
        assert_int_equal(gguf_model_open(&m, bad, &err), -1);
        assert_err(&err, "bad.gguf: ", rows[i].say);
        hf_close(&m);
        free(bad);
        free(bytes);
    }
    free(path);
    test_rmdir(dir);
}

/* A golden file with another key behind its own, or without one. */
static void refuses_keys(void **state) {
    (void)state;
    static const char plain[] =
        "{\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 10000.0}}";
    enum { MANY = 2000 };
    static const struct {
        const char *arch, *hidden, *key;
        float value;
        uint64_t items; /* of a list; 0: it is none */
        const char *say;
    } rows[] = {
        {"deepseek2", "deepseek2.expert_count", "deepseek2.expert_count", 256, 0,
         "key \"deepseek2.expert_group_count\" is missing: DeepSeek-V3 itself"},
        {"deepseek2", "deepseek2.attention.head_count", "deepseek2.attention.head_count", 2.5F, 0,
         "deepseek2.attention.head_count: expected a whole number of 0 .. 2147483647"},
        {"deepseek2", "deepseek2.attention.value_length", "deepseek2.attention.value_length", 1e30F,
         0, "deepseek2.attention.value_length: expected a whole number"},
        {"qwen3moe", NULL, "qwen3moe.rope.scaling.attn_factor", 2, 0,
         "qwen3moe.rope.scaling.attn_factor: is not read where rope.scaling.type is none"},
        {"qwen3moe", NULL, "qwen3moe.rope.scaling.yarn_beta_fast", 32, 0,
         "qwen3moe.rope.scaling.yarn_beta_fast: is not read"},
        {"qwen3moe", "qwen3moe.block_count", "qwen3moe.block_count", 2, MANY,
         "qwen3moe.block_count: expected at most a number for each layer"},
        {"qwen3moe", NULL, "general.sampling.min_p", 0.5F, 1,
         "general.sampling.min_p: expected a finite number"},
    };
    float many[MANY];
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        const bool deep = strcmp(rows[i].arch, "deepseek2") == 0;
        char *dir =
            deep ? changed_copy("deepseekv3-tiny", "{}") : changed_copy("qwen3moe-tiny", plain);
        const struct made_as as = {rows[i].arch, "F32", false, false};
        struct hf_model hf, gg;
        struct gguf_made made = {0};
        struct err err = {0};
        hf_open(&hf, dir, &err);
        assert_no_err(&err);
        made_golden(&made, &hf, dir, &as);
        for (size_t k = 0; k < MANY; k++) {
            many[k] = rows[i].value;
        }
        if (rows[i].items) {
            made_list(&made, rows[i].key, GGUF_F32, rows[i].items, many,
                      rows[i].items * sizeof *many);
        } else {
            made_f32(&made, rows[i].key, rows[i].value);
        }
        struct buf file = made_file(&made);
        if (rows[i].hidden) {
            hide(&file, rows[i].hidden, strlen(rows[i].hidden));
        }
        if (i == 0) {
            hide(&file, "deepseek2.expert_group_count", strlen("deepseek2.expert_group_count"));
        }
        char *path = test_write(dir, "bad.gguf", file.data, file.len);
        assert_int_equal(gguf_model_open(&gg, path, &err), -1);
        assert_err(&err, "bad.gguf: ", rows[i].say);
        hf_close(&gg);
        hf_close(&hf);
        buf_free(&file);
        free(path);
        test_rmdir(dir);
    }
}

/* ---- the program ---- */

/* Run corm-prep with these words, in `dir`: whether it fails, and that it prints `say`. */
static void run_prep(const char *dir, const char *words, bool fails, const char *say) {
    char *build = realpath(getenv("CORM_BUILD"), NULL);
    char *command = mem_printf("cd '%s' && '%s/corm-prep' %s >said 2>&1", dir, build, words);
    char *path = mem_printf("%s/said", dir);
    uint8_t *text;
    size_t bytes;
    struct err err = {0};
    const bool failed = system(command) != 0;
    file_read(path, 1 << 20, &text, &bytes, &err);
    assert_no_err(&err);
    if (failed != fails || !strstr((char *)text, say)) {
        fail_msg("corm-prep %s: expected '%s', got: %s", words, say, (char *)text);
    }
    free(text);
    free(path);
    free(command);
    free(build);
}

static void tells(void **state) {
    (void)state;
    static const struct {
        const char *words;
        bool fails;
        const char *say;
    } rows[] = {
        {"inspect golden.gguf", false, "a checkpoint of family mixtral"},
        {"inspect golden.gguf --json", false, "\"Q8_0\""},
        {"convert golden.gguf -o a.corm", false,
         "golden.gguf: experts are in Q8_0, 8.50 bits a weight: as q8 (--codec chooses) they "
         "differ from that by 0."},
        {"convert golden.gguf -o a.corm -f", false, "mmproj-golden.gguf beside it is for pictures"},
        {"convert golden.gguf -o a.corm -f", false, " in q8, 50.0 % of the neurons hot"},
        {"verify a.corm", false, "a.corm"},
        {"inspect a.corm", false, "source: golden.gguf "},
        {"convert golden.gguf -o b.corm --codec q4", false, "bits a weight: as q4 they differ"},
        {"convert golden.gguf -o c.corm --codec keep", true,
         "experts are in Q8_0, whose bits no codec keeps: choose --codec"},
        {"convert golden.gguf -o d.corm --trunk keep", false,
         "matrices that every token uses are in Q8_0, whose bits no codec keeps: as f32"},
        {"convert golden.gguf -o golden.gguf -f", true, "is input and output at once"},
        {"convert mmproj-golden.gguf -o e.corm", true, "a projector of pictures or sound (mmproj)"},
    };
    char *dir = changed_copy("mixtral-tiny", "{\"sliding_window\": null}");
    struct hf_model hf;
    struct gguf_made m = {0};
    struct err err = {0};
    hf_open(&hf, dir, &err);
    assert_no_err(&err);
    made_text(&m, "general.license", "apache-2.0");
    made_golden(&m, &hf, dir, &(struct made_as){"llama", "Q8_0", true, false});
    struct buf file = made_file(&m);
    free(test_write(dir, "golden.gguf", file.data, file.len));
    buf_free(&file);
    made_text(&m, "general.architecture", "clip");
    file = made_file(&m);
    free(test_write(dir, "mmproj-golden.gguf", file.data, file.len));
    buf_free(&file);
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        run_prep(dir, rows[i].words, rows[i].fails, rows[i].say);
    }
    char *path = mem_printf("%s/golden.gguf", dir);
    struct hf_model gg;
    gguf_model_open(&gg, path, &err);
    assert_no_err(&err);
    assert_string_equal(gg.license.data, "license: apache-2.0\n");
    hf_close(&gg);
    free(path);
    hf_close(&hf);
    test_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_the_same_archives),
        cmocka_unit_test(reads_blocks),
        cmocka_unit_test(refuses),
        cmocka_unit_test(refuses_keys),
        cmocka_unit_test(tells),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
