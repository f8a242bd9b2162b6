/*
 * Text that a model writes for its calibration: the same every time, taken up where an earlier run
 * had got, and never from files that no run of this model can have left.
 */
#include "tests/util/test.h"

#include "prep/calib/calib_sample.h"
#include "tests/util/test_util_golden.h"
#include "tests/util/test_util_model.h"

enum { N_TOK = 64, SEQ_TOK = 16 };

static struct hf_model model;
static char *dir;

static void sample(struct corpus *out, uint32_t *resumed) {
    struct err err = {0};
    struct pack_options how = model_packing();
    const struct calib_sample_options opt = {
        .n_tok = N_TOK, .seq_tok = SEQ_TOK, .threads = 1, .state_dir = dir, .state_key = "test"};
    *out = (struct corpus){0};
    calib_sample(&model, &how, &opt, NULL, NULL, out, resumed, &err);
    assert_no_err(&err);
}

static uint8_t *load(const char *name, size_t *n) {
    struct err err = {0};
    uint8_t *data;
    char *path = mem_printf("%s/%s", dir, name);
    file_read(path, 1 << 26, &data, n, &err);
    assert_no_err(&err);
    free(path);
    return data;
}

/* The first text of the file, which is behind the key, with its `at`-th number replaced; then its
 * checksum is right again. */
static void tamper(const uint8_t *texts, size_t at, uint32_t value) {
    enum { KEY = 8 };
    uint32_t n;
    memcpy(&n, texts + KEY, sizeof n);
    size_t bytes = sizeof n + n * sizeof n;
    uint8_t *changed = mem_alloc(KEY + bytes + 8);
    memcpy(changed, texts, KEY + bytes);
    memcpy(changed + KEY + 4 * at, &value, sizeof value);
    uint64_t sum = hash64(changed + KEY, bytes);
    memcpy(changed + KEY + bytes, &sum, sizeof sum);
    free(test_write(dir, "texts", changed, KEY + bytes + sizeof sum));
    free(changed);
}

static void same(const struct corpus *a, const struct corpus *b) {
    assert_int_equal(a->n_tok, b->n_tok);
    assert_int_equal(a->n_seqs, b->n_seqs);
    assert_memory_equal(a->ids, b->ids, a->n_tok * sizeof *a->ids);
}

static void what_is_left_is_checked(void **state) {
    (void)state;
    const struct {
        size_t at;
        uint32_t value, resumed; /* at least so many tokens */
    } cases[] = {
        {1, 287, CORPUS_MIN_SEQ_TOK}, /* an id of the model: that is taken up */
        {1, 288, 0},
        {3, UINT32_MAX, 0},
        {0, 1, 0}, /* lengths: too short, and more than there is */
        {0, SEQ_TOK + 1, 0},
    };
    struct corpus want, got;
    uint32_t resumed;
    size_t n;
    char *golden = golden_source("olmoe-tiny"), *other = golden_archive("fable", NULL);
    struct err err = {0};
    hf_open(&model, golden, &err);
    assert_no_err(&err);
    dir = test_mkdir();
    sample(&want, &resumed);
    assert_int_equal(resumed, 0);
    assert_true(want.n_tok > N_TOK - CORPUS_MIN_SEQ_TOK && want.n_tok <= N_TOK);
    uint8_t *texts = load("texts", &n);
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        tamper(texts, cases[i].at, cases[i].value);
        sample(&got, &resumed);
        assert_true(cases[i].resumed ? resumed >= cases[i].resumed : resumed == 0);
        if (resumed == 0) {
            same(&want, &got);
        }
        corpus_free(&got);
    }
    /* More texts than were asked for: the rest does not count. */
    struct buf many = {0};
    buf_append(&many, texts, n);
    buf_append(&many, texts + 8, n - 8);
    free(test_write(dir, "texts", many.data, many.len));
    sample(&got, &resumed);
    same(&want, &got);
    corpus_free(&got);
    buf_free(&many);
    /* Another model's archive, with a larger vocabulary; and none at all. The texts say that this
     * run was under way. */
    uint8_t *archive;
    size_t archive_bytes;
    file_read(other, 1 << 26, &archive, &archive_bytes, &err);
    assert_no_err(&err);
    for (int i = 0; i < 2; i++) {
        uint32_t first;
        memcpy(&first, texts + 8, sizeof first);
        free(test_write(dir, "texts", texts, 8 + 4 + 4 * first + 8));
        free(test_write(dir, "model.corm", archive, i ? 5000 : archive_bytes));
        sample(&got, &resumed);
        assert_int_equal(resumed, first);
        same(&want, &got);
        corpus_free(&got);
    }
    free(archive);
    free(texts);
    free(golden);
    free(other);
    corpus_free(&want);
    hf_close(&model);
    calib_sample_remove(dir);
    test_rmdir(dir);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(what_is_left_is_checked)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
