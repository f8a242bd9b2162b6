/*
 * What the engine refuses, and what it says then: budgets under the floor, archives that are
 * damaged or do not fit together, calls that make no sense.
 */
#include "tests/util/test.h"

#include "format/corm_read.h"
#include "runtime/mechanisms.h"
#include "tests/util/test_util_golden.h"
#include "tests/util/test_util_model.h"
#include "tests/util/test_util_tokenizer.h"

static void a_budget_under_the_floor_names_the_floor(void **state) {
    (void)state;
    char *path = golden_archive("fable", "bf16");
    struct corm_engine_options opt = {.ram_bytes = 1 << 20};
    struct corm_engine *e;
    struct corm_error error;
    assert_int_equal(corm_engine_open(&e, path, &opt, &error), -1);
    assert_non_null(strstr(error.message, "too small"));
    unsigned long long floor_mib = 0;
    const char *would = strstr(error.message, "small: ");
    assert_non_null(would);
    assert_int_equal(sscanf(would, "small: %llu MiB would do", &floor_mib), 1);
    opt.ram_bytes = (uint64_t)floor_mib << 20;
    assert_int_equal(corm_engine_open(&e, path, &opt, &error), 0);
    corm_engine_close(e);
    free(path);
}

/* A tokenizer whose ids the embedding has no rows for: a text would be read behind the last one. */
static void a_tokenizer_beyond_the_vocabulary_is_refused(void **state) {
    (void)state;
    static const char vocab[] = "\"vocab\":{";
    const struct {
        uint32_t id;
        bool fits;
    } cases[] = {{287, true}, {288, false}, {4095, false}};
    struct err err = {0};
    char *good = golden_archive("olmoe-tiny", NULL);
    uint8_t *json;
    size_t n;
    file_read("tests/golden/models/olmoe-tiny/tokenizer.json", 1 << 20, &json, &n, &err);
    assert_no_err(&err);
    const char *at = strstr((const char *)json, vocab);
    assert_non_null(at);
    at += strlen(vocab);
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct loaded l;
        struct corm_engine *e = NULL;
        struct corm_error error;
        char *text = mem_printf("%.*s\"far\":%u,%s", (int)(at - (const char *)json),
                                (const char *)json, cases[i].id, at);
        loaded_compile(text, strlen(text), NULL, &l);
        char *path = model_retokenize(good, test_dir(), "far", &l.section);
        if (cases[i].fits) {
            e = model_open(path, &(struct corm_engine_options){.threads = 1});
            corm_engine_close(e);
        } else {
            assert_int_equal(corm_engine_open(&e, path, NULL, &error), -1);
            assert_non_null(strstr(error.message, "far.corm: tokenizer section"));
            assert_non_null(strstr(error.message, "vocabulary has 288 rows"));
        }
        loaded_close(&l);
        free(path);
        free(text);
    }
    free(json);
    free(good);
}

static void bad_calls_are_refused(void **state) {
    (void)state;
    char *path = golden_archive("mixtral-tiny", NULL);
    struct corm_engine_options opt = {.threads = 1, .ctx_tok = 8};
    struct corm_engine *e = model_open(path, &opt);
    struct corm_session *s = model_session(e);
    const int32_t ids[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9}, outside = 288, negative = -1;
    struct corm_error error;
    const float *logits;
    assert_int_equal(corm_session_sample(s, &(struct corm_sampling){0}), -1);
    assert_int_equal(corm_session_eval(s, ids, 9, false, &logits, &error), -1);
    assert_non_null(strstr(error.message, "context full"));
    assert_int_equal(corm_session_eval(s, &outside, 1, false, &logits, &error), -1);
    assert_non_null(strstr(error.message, "288"));
    assert_int_equal(corm_session_eval(s, &negative, 1, false, &logits, &error), -1);
    assert_int_equal(corm_session_eval(s, ids, 0, false, &logits, &error), -1);
    assert_int_equal(corm_session_length(s), 0);
    model_eval(s, ids, 8, false);
    assert_int_equal(corm_session_eval(s, ids, 1, false, &logits, &error), -1);
    corm_session_close(s);
    corm_engine_close(e);
    struct corm_engine_options longer = {.ctx_tok = (1 << 20) + 1};
    assert_int_equal(corm_engine_open(&e, path, &longer, &error), -1);
    assert_non_null(strstr(error.message, "context"));
    free(path);
}

/* Opens an archive in so much memory, which has to fail with this in the message. */
static void check_refused(const char *path, uint64_t ram_bytes, const char *why) {
    struct corm_engine_options opt = {.ram_bytes = ram_bytes};
    struct corm_engine *e;
    struct corm_error error;
    assert_int_equal(corm_engine_open(&e, path, &opt, &error), -1);
    if (!strstr(error.message, path) || !strstr(error.message, why)) {
        fail_msg("%s, expected: %s", error.message, why);
    }
}

/* The weights that every token uses are looked at when there is room for them, and not before. */
static void a_damaged_trunk_is_found_after_the_plan(void **state) {
    (void)state;
    char *path = golden_archive("mixtral-tiny", NULL), *bad;
    struct err err = {0};
    struct corm c;
    uint8_t *bytes;
    size_t size;
    file_read(path, 1 << 26, &bytes, &size, &err);
    assert_int_equal(corm_open(&c, path, 0, &err), 0);
    struct weight w = corm_tensor_get(&c, SLOT_ROUTER, 1);
    bytes[w.data - c.map.data] ^= 1;
    corm_close(&c);
    bad = test_write(test_dir(), "bad-trunk.corm", bytes, size);
    check_refused(bad, 1 << 20, "too small");
    check_refused(bad, 1 << 28, "tensor router of layer 1: checksum");
    assert_int_equal(corm_open(&c, bad, CORM_OPEN_SKIP_TRUNK_HASH, &err), 0);
    assert_int_equal(corm_check_trunk(&c, &err), -1);
    assert_err(&err, bad, "tensor router of layer 1: checksum");
    corm_close(&c);
    free(bytes);
    free(bad);
    free(path);
}

/* The archive with one byte of every chunk flipped; free(). */
static char *corrupted(const char *path, const char *codec) {
    char *bad = mem_printf("%s/bad-%s.corm", test_dir(), codec);
    struct err err = {0};
    uint8_t *bytes;
    size_t size;
    file_read(path, 1 << 26, &bytes, &size, &err);
    assert_no_err(&err);
    struct corm c;
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    for (uint32_t i = 0; i < c.n_chunks; i++) {
        bytes[c.chunks[i].offset + 5] ^= 0x10;
    }
    corm_close(&c);
    FILE *f = fopen(bad, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    fclose(f);
    free(bytes);
    return bad;
}

/* The run stops and names the chunk: the first that was read, demanded or guessed. */
static void check_stops(const char *bad, const struct corm_engine_options *opt) {
    struct corm_engine *e = model_open(bad, opt);
    assert_int_equal(corm_engine_plan(e)->packed, opt->keeping == CORM_KEEP_PACKED);
    struct corm_session *s = model_session(e);
    const int32_t id = 1;
    struct corm_error error;
    for (int again = 0; again < 2; again++) {
        assert_int_equal(corm_session_eval(s, &id, 1, false, NULL, &error), -1);
        if (!strstr(error.message, "layer ") || !strstr(error.message, " expert ") ||
            !strstr(error.message, "checksum") || !strstr(error.message, bad)) {
            fail_msg("names no chunk of %s with a wrong checksum: %s", bad, error.message);
        }
    }
    assert_int_equal(corm_session_length(s), 0);
    corm_session_close(s);
    corm_engine_close(e);
}

static void a_corrupt_chunk_stops_the_run(void **state) {
    (void)state;
    char *path = golden_archive("olmoe-tiny", "q8"), *bad = corrupted(path, "q8");
    check_stops(bad, &(struct corm_engine_options){.threads = 2});
    free(path);
    free(bad);
    /* Kept packed: in place, in slots, and where the file is mapped. */
    path = golden_archive("fable", "bf16");
    bad = corrupted(path, "bf16");
    struct corm_engine_options opt = {.threads = 2, .ctx_tok = 64, .keeping = CORM_KEEP_PACKED};
    check_stops(bad, &opt);
    for (int mapped = 0; mapped < 2; mapped++) {
        struct corm_mechanisms m = {.cache_share = 0.5,
                                    .reading = mapped ? CORM_READ_MAPPED : CORM_READ_BUFFERED};
        opt.measure = &m;
        check_stops(bad, &opt);
    }
    free(path);
    free(bad);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_budget_under_the_floor_names_the_floor),
        cmocka_unit_test(a_tokenizer_beyond_the_vocabulary_is_refused),
        cmocka_unit_test(bad_calls_are_refused),
        cmocka_unit_test(a_damaged_trunk_is_found_after_the_plan),
        cmocka_unit_test(a_corrupt_chunk_stops_the_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
