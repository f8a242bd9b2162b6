/*
 * The generator of synthetic checkpoints (tests/synth): the same bytes for the same seed,
 * checkpoints that the importer accepts for every family, text that its tokenizer takes word by
 * word, and the planted structure within bounds.
 */
#include "tests/util/test.h"

#include "format/text/tokenizer.h"
#include "prep/hf/hf_tokenizer.h"
#include "tests/synth/measure.h"
#include "tests/synth/write.h"

enum { WHOLE = 1 << 30, SMALL_SHARD = 1 << 20 };

static char *make(const struct plant_shape *shape, uint64_t shard_bytes, uint32_t threads) {
    struct err err = {0};
    struct plant plant;
    char *parent = test_mkdir(), *dir = mem_printf("%s/model", parent);
    plant_open(&plant, shape, &err);
    assert_no_err(&err);
    write_checkpoint(&plant, dir, shard_bytes, threads, NULL, &err);
    assert_no_err(&err);
    plant_close(&plant);
    free(parent);
    return dir;
}

static void discard(char *dir) {
    char *parent = mem_strdup(dir);
    *strrchr(parent, '/') = '\0';
    test_rmdir(parent);
    free(dir);
}

static uint64_t file_hash(const char *dir, const char *name) {
    struct err err = {0};
    struct map map;
    char *path = mem_printf("%s/%s", dir, name);
    map_open(&map, path, &err);
    assert_no_err(&err);
    uint64_t hash = hash64(map.data, map.size_bytes);
    map_close(&map);
    free(path);
    return hash;
}

static void the_same_seed_gives_the_same_bytes(void **state) {
    (void)state;
    struct plant_shape shape = plant_preset(0);
    char *one = make(&shape, WHOLE, 1), *three = make(&shape, WHOLE, 3);
    static const char *const files[] = {"model.safetensors",      "config.json",
                                        "tokenizer.json",         "tokenizer_config.json",
                                        "generation_config.json", "synth.json"};
    for (size_t i = 0; i < TEST_COUNT(files); i++) {
        assert_true(file_hash(one, files[i]) == file_hash(three, files[i]));
    }
    shape.seed = 2;
    char *other = make(&shape, WHOLE, 3);
    assert_true(file_hash(one, "model.safetensors") != file_hash(other, "model.safetensors"));
    discard(one);
    discard(three);
    discard(other);
}

/* Every tensor of a sharded checkpoint holds the bytes that the one file has. */
static void shards_hold_the_same_tensors(void **state) {
    (void)state;
    struct err err = {0};
    struct plant_shape shape = plant_preset(0);
    char *one = make(&shape, WHOLE, 2), *many = make(&shape, SMALL_SHARD, 2);
    struct safetensors *a, *b;
    st_open(&a, one, &err);
    st_open(&b, many, &err);
    assert_no_err(&err);
    assert_int_equal(st_file_count(a), 1);
    assert_true(st_file_count(b) > 4);
    assert_int_equal(st_count(a), st_count(b));
    for (size_t i = 0; i < st_count(a); i++) {
        assert_string_equal(st_at(a, i)->name, st_at(b, i)->name);
        assert_int_equal(st_at(a, i)->bytes, st_at(b, i)->bytes);
        assert_memory_equal(st_at(a, i)->data, st_at(b, i)->data, st_at(a, i)->bytes);
    }
    st_close(a);
    st_close(b);
    discard(one);
    discard(many);
}

static void the_importer_takes_every_family(void **state) {
    (void)state;
    struct err err = {0};
    for (int family = 0; family < PLANT_FAMILIES; family++) {
        struct plant_shape shape = plant_preset(0);
        struct hf_model hf;
        struct plant plant;
        shape.family = family;
        shape.kv_heads = 2;
        shape.shared = strcmp(plant_families[family], "qwen2_moe") == 0 ? 64 : 0;
        char *dir = make(&shape, WHOLE, 2);
        hf_open(&hf, dir, &err);
        assert_no_err(&err);
        assert_int_equal(hf.warnings.len, 0);
        plant_open(&plant, &shape, &err);
        assert_no_err(&err);
        assert_string_equal(hf_arch(&hf)->family, plant_families[family]);
        assert_int_equal(arch_params(hf_arch(&hf)), arch_params(&plant.arch));
        assert_int_equal(arch_kind(hf_arch(&hf), 0)->route.renorm,
                         arch_kind(&plant.arch, 0)->route.renorm);
        assert_int_equal(hf_arch(&hf)->stop_ids[0], shape.vocab - LANG_SPECIALS);
        plant_close(&plant);
        hf_close(&hf);
        discard(dir);
    }
}

static struct hf_text slurp(const char *dir, const char *name) {
    struct err err = {0};
    uint8_t *data;
    size_t bytes;
    char *path = mem_printf("%s/%s", dir, name);
    file_read(path, WHOLE, &data, &bytes, &err);
    assert_no_err(&err);
    free(path);
    return (struct hf_text){name, (char *)data, bytes};
}

static void a_word_is_a_token(void **state) {
    (void)state;
    enum { TOKENS = 2000 };
    struct err err = {0};
    struct plant_shape shape = plant_preset(0);
    shape.vocab = 12000; /* words of one, two and three syllables */
    char *dir = make(&shape, WHOLE, 2);
    struct hf_tokenizer_files files = {.tokenizer = slurp(dir, "tokenizer.json"),
                                       .config = slurp(dir, "tokenizer_config.json")};
    struct buf section = {0}, text = {0}, back = {0};
    struct tokenizer *tok;
    struct token_list ids = {0};
    struct lang lang;
    struct lang_text source;
    hf_tokenizer_compile(&files, &section, &err);
    assert_no_err(&err);
    tokenizer_open(section.data, section.len, &tok, &err);
    assert_no_err(&err);
    assert_int_equal(tokenizer_vocab_size(tok), shape.vocab);
    write_read_lang(dir, &lang, &err);
    assert_no_err(&err);
    write_text(&lang, 7, TOKENS, &text);
    tokenizer_encode(tok, text.data, text.len, TOKENIZER_ADD_SPECIAL, &ids, &err);
    assert_no_err(&err);
    assert_int_equal(ids.n, TOKENS);
    lang_begin(&source, &lang, 7);
    for (size_t i = 0; i < ids.n; i++) {
        assert_int_equal(ids.ids[i], lang_next(&source));
    }
    tokenizer_decode(tok, ids.ids, ids.n, 0, &back, &err);
    assert_no_err(&err);
    assert_string_equal(back.data, text.data);
    /* What is no word of the language is spelled in bytes. */
    static const char other[] = "Caf\xc3\xa9 \"x\\y\"\n\t\x01 qqq";
    ids.n = 0;
    back.len = 0;
    tokenizer_encode(tok, other, sizeof other - 1, 0, &ids, &err);
    tokenizer_decode(tok, ids.ids, ids.n, 0, &back, &err);
    assert_no_err(&err);
    assert_int_equal(ids.n, sizeof other - 1);
    assert_string_equal(back.data, other);
    tokenizer_close(tok);
    token_list_free(&ids);
    buf_free(&section);
    buf_free(&text);
    buf_free(&back);
    lang_close(&lang);
    free((char *)files.tokenizer.data);
    free((char *)files.config.data);
    discard(dir);
}

static void assert_within(const char *what, double value, double low, double high) {
    if (!(value >= low && value <= high)) {
        fail_msg("%s is %.3f, expected %.3f to %.3f", what, value, low, high);
    }
}

/* tests/synth/README.md has what is measured on the real presets; chance is k / n = 0.25 here. */
static void planted_structure_shows(void **state) {
    (void)state;
    struct err err = {0};
    struct plant_shape shape = plant_preset(0);
    char *dir = make(&shape, WHOLE, 2);
    struct measure_options o = {.n_seqs = 8, .seq_tok = 96, .stream = 1, .threads = 2};
    struct measure m, flat;
    measure_run(dir, &o, &m, NULL, &err);
    assert_no_err(&err);
    assert_within("LRU of half", m.lru_half, 0.68, 0.85);
    assert_within("previous overlap", m.previous, 0.40, 0.56);
    assert_within("stale gate, 1 ahead", m.stale[0], 0.86, 0.93);
    assert_within("loss of the 2nd layer", m.stale[0] - m.stale[1], 0.015, 0.07);
    assert_within("loss of the 3rd layer", m.stale[1] - m.stale[2], 0.005, 0.06);
    assert_within("energy of a quarter", m.energy_quarter, 0.6, 0.9);
    assert_within("nats over the language's", m.nll - m.text, -0.3, 0.6);
    o.generated = true;
    o.seq_tok = 32;
    measure_run(dir, &o, &m, NULL, &err);
    assert_no_err(&err);
    assert_within("generated: in topic", m.in_topic, 0.85, 1);
    assert_within("generated: previous overlap", m.previous, 0.38, 0.60);
    discard(dir);

    /* Without topics and neuron scales there is less of both. */
    shape.topic = shape.common = 0.01;
    shape.gate_sigma = shape.up_sigma = shape.down_sigma = 0;
    dir = make(&shape, WHOLE, 2);
    o.generated = false;
    o.seq_tok = 96;
    measure_run(dir, &o, &flat, NULL, &err);
    assert_no_err(&err);
    assert_within("flat: previous overlap", flat.previous, 0.24, 0.36);
    assert_within("flat: LRU of half", flat.lru_half, 0.45, 0.62);
    discard(dir);
}

static void wrong_shapes_are_refused(void **state) {
    (void)state;
    static const struct {
        int family, active, vocab, shared;
        const char *word;
    } cases[] = {{1, 17, 1024, 0, "--active 17"},
                 {1, 4, 200, 0, "--vocab 200"},
                 {1, 4, 1024, 64, "--shared 64"},
                 {2, 4, 1024, 0, "--shared 0"}};
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct err err = {0};
        struct plant plant;
        struct plant_shape shape = plant_preset(0);
        shape.family = cases[i].family;
        shape.active = cases[i].active;
        shape.vocab = cases[i].vocab;
        shape.shared = cases[i].shared;
        assert_int_equal(plant_open(&plant, &shape, &err), -1);
        assert_err(&err, cases[i].word, "expected");
        plant_close(&plant);
    }
    struct err err = {0};
    struct plant_shape shape = plant_preset(0);
    struct plant plant;
    char *dir = make(&shape, WHOLE, 1);
    plant_open(&plant, &shape, &err);
    assert_no_err(&err);
    assert_int_equal(write_checkpoint(&plant, dir, WHOLE, 1, NULL, &err), -1);
    assert_err(&err, "config.json", "exists");
    plant_close(&plant);
    discard(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_seed_gives_the_same_bytes),
        cmocka_unit_test(shards_hold_the_same_tensors),
        cmocka_unit_test(the_importer_takes_every_family),
        cmocka_unit_test(a_word_is_a_token),
        cmocka_unit_test(planted_structure_shows),
        cmocka_unit_test(wrong_shapes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
