/*
 * Sessions as files: exact, and nothing but a whole file of the same archive is taken.
 *
 * `test_session_file --write-seeds DIR` writes what fuzz_session_file starts from.
 */
#include "tests/util/test.h"

#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/mechanisms.h"
#include "runtime/session_file.h"
#include "tests/util/test_util_archive.h"
#include "tests/util/test_util_golden.h"
#include "tests/util/test_util_session.h"

static const char *const CASES[] = {GOLDEN_KINDS};

enum { TOKENS = 40 };

struct rig {
    char *archive, *file;
    int32_t *ids;
    struct corm_engine *e;
    struct corm_session *s;
    size_t row_bytes;
};

static struct rig rig_open(const char *name, const struct corm_engine_options *opt) {
    struct rig r = {.archive = golden_archive(name, NULL)};
    size_t n;
    r.ids = golden_ids(name, "ids", &n);
    assert_true(n >= TOKENS);
    r.file = mem_printf("%s/a.session", test_dir());
    r.e = model_open(r.archive, opt);
    r.s = model_session(r.e);
    r.row_bytes = corm_engine_info(r.e)->vocab * sizeof(float);
    return r;
}

static void rig_close(struct rig *r) {
    corm_session_close(r->s);
    corm_engine_close(r->e);
    free(r->archive);
    free(r->file);
    free(r->ids);
}

static void saved(struct rig *r) {
    struct corm_error error;
    if (corm_session_save(r->s, r->file, &error) < 0) {
        fail_msg("%s", error.message);
    }
}

static void loaded(struct rig *r) {
    struct corm_error error;
    if (corm_session_load(r->s, r->file, &error) < 0) {
        fail_msg("%s", error.message);
    }
}

/* ---- what a program that ends has to remove ---- */

static struct {
    char *part;
    int begun, over;
    bool there;
} told;

static void on_part(const char *path) {
    struct stat st;
    if (path) {
        told.begun++;
        free(told.part);
        told.part = mem_strdup(path);
        told.there = stat(path, &st) == 0;
    } else {
        told.over++;
        assert_int_equal(stat(told.part, &st), -1);
    }
}

/* A file is told once it is there and ours, and till it is whole or gone. */
static void parts_are_told(void **state) {
    (void)state;
    const struct corm_engine_options opt = {.threads = 1, .ctx_tok = 64, .on_part = on_part};
    struct rig r = rig_open("olmoe-tiny", &opt);
    struct corm_error error;
    struct err err = {0};
    char *tmp = mem_printf("%s.tmp", r.file);
    saved(&r);
    assert_string_equal(told.part, tmp);
    assert_true(told.there && told.begun == 1 && told.over == 1);
    assert_int_equal(corm_session_save(r.s, test_dir(), &error), -1); /* cannot be renamed */
    assert_true(told.there && told.begun == 2 && told.over == 2);
    int other = file_create_part(tmp, r.file, 0600, &err);
    assert_true(other >= 0);
    assert_int_equal(corm_session_save(r.s, r.file, &error), -1); /* another's */
    assert_int_equal(told.begun, 2);
    close(other);
    unlink(tmp);
    free(tmp);
    free(told.part);
    rig_close(&r);
}

/* ---- bits ---- */

/* In an engine with another context, batch and cache it goes on as if nothing had happened. */
static void files_are_exact(void **state) {
    static const uint32_t lengths[] = {1, 13, 30};
    const struct corm_mechanisms m = {.cache_share = 0.5};
    const struct corm_engine_options first = {.threads = 1, .batch_rows = 16, .ctx_tok = 100},
                                     second = {.threads = 2,
                                               .batch_rows = 5,
                                               .ctx_tok = 64,
                                               .measure = &m};
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        struct rig r = rig_open(CASES[c], &first), other = rig_open(CASES[c], &second);
        float *want = mem_alloc(r.row_bytes);
        memcpy(want, model_eval(r.s, r.ids, TOKENS, false), r.row_bytes);
        for (size_t k = 0; k < TEST_COUNT(lengths); k++) {
            const uint32_t n = lengths[k];
            float *last = mem_alloc(r.row_bytes);
            size_t n_ids;
            corm_session_truncate(r.s, 0);
            memcpy(last, model_eval(r.s, r.ids, n, false), r.row_bytes);
            saved(&r);
            for (int into = 0; into < 2; into++) { /* an empty session, and one with other tokens */
                corm_session_truncate(other.s, 0);
                if (into) {
                    model_eval(other.s, r.ids + 3, 20, false);
                }
                loaded(&other);
                assert_int_equal(corm_session_length(other.s), n);
                assert_int_equal(corm_session_held(other.s), n);
                const int32_t *ids = corm_session_ids(other.s, &n_ids);
                assert_int_equal(n_ids, n);
                assert_memory_equal(ids, r.ids, n * sizeof *ids);
                assert_memory_equal(corm_session_logits(other.s), last, r.row_bytes);
                model_eval(other.s, r.ids + n, 1, false);
                const float *got = model_eval(other.s, r.ids + n + 1, TOKENS - n - 1, false);
                assert_memory_equal(got, want, r.row_bytes);
                corm_session_truncate(other.s, n / 2);
                got = model_eval(other.s, r.ids + n / 2, TOKENS - n / 2, false);
                assert_memory_equal(got, want, r.row_bytes);
            }
            free(last);
        }
        /* Cut back to where some states cannot go: as far as the layers hold it, and no logits. */
        corm_session_truncate(r.s, 20);
        saved(&r);
        loaded(&other);
        assert_int_equal(corm_session_length(other.s), 20);
        assert_int_equal(corm_session_held(other.s), corm_session_held(r.s));
        assert_null(corm_session_logits(other.s));
        assert_memory_equal(model_eval(other.s, r.ids + 20, TOKENS - 20, false), want, r.row_bytes);
        free(want);
        rig_close(&r);
        rig_close(&other);
    }
}

/* What was computed in another way is computed again. */
static void another_way_takes_tokens_alone(void **state) {
    static const struct corm_engine_options ways[] = {
        {.isa = "scalar"}, {.kv_type = CORM_KV_F32}, {.isa = "scalar", .kv_type = CORM_KV_F32}};
    (void)state;
    struct rig r = rig_open("qwen35moe-tiny", &(struct corm_engine_options){0});
    model_eval(r.s, r.ids, 20, false);
    saved(&r);
    for (size_t i = 0; i < TEST_COUNT(ways); i++) {
        struct rig other = rig_open("qwen35moe-tiny", &ways[i]);
        float *want = mem_alloc(r.row_bytes);
        memcpy(want, model_eval(other.s, r.ids, 25, false), r.row_bytes);
        corm_session_truncate(other.s, 0);
        loaded(&other);
        assert_int_equal(corm_session_length(other.s), 20);
        assert_int_equal(corm_session_held(other.s), 0);
        assert_null(corm_session_logits(other.s));
        assert_memory_equal(model_eval(other.s, r.ids + 20, 5, false), want, r.row_bytes);
        free(want);
        rig_close(&other);
    }
    rig_close(&r);
}

/* ---- refusals ---- */

static uint8_t *read_file(const char *path, size_t *n) {
    struct err err = {0};
    uint8_t *data;
    file_read(path, 1 << 26, &data, n, &err);
    assert_no_err(&err);
    return data;
}

static void write_file(const char *path, const uint8_t *data, size_t n) {
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

/* The bytes are refused in one line that says so, and the session is as it was. */
static void refused(struct rig *r, const uint8_t *data, size_t n, const char *say,
                    enum corm_error_code code) {
    struct corm_error error;
    write_file(r->file, data, n);
    assert_int_equal(corm_session_load(r->s, r->file, &error), -1);
    if (!strstr(error.message, say) || strncmp(error.message, r->file, strlen(r->file)) != 0) {
        fail_msg("expected '%s' in: %s", say, error.message);
    }
    assert_null(strchr(error.message, '\n'));
    assert_int_equal(error.code, code);
    assert_int_equal(corm_session_length(r->s), 3);
    assert_non_null(corm_session_logits(r->s));
}

static void damaged_files_are_refused(void **state) {
    (void)state;
    struct rig r = rig_open("qwen3next-tiny", &(struct corm_engine_options){.ctx_tok = 64});
    size_t n;
    model_eval(r.s, r.ids, 20, false);
    saved(&r);
    uint8_t *data = read_file(r.file, &n);
    corm_session_truncate(r.s, 0);
    model_eval(r.s, r.ids, 3, false);
    for (size_t cut = 0; cut < n; cut += cut < 200 ? 1 : n / 50) {
        refused(&r, data, cut, cut < 8 ? "not a session file" : "cut short", CORM_ERROR_OTHER);
    }
    for (size_t at = 0; at < n; at += at < 200 ? 1 : n / 50) {
        data[at] ^= 0x10;
        refused(&r, data, n,
                at < 8                               ? "not a session file"
                : at < 12                            ? "version"
                : at < sizeof(struct session_header) ? "header is damaged"
                                                     : "session is damaged",
                CORM_ERROR_OTHER);
        data[at] ^= 0x10;
    }
    uint8_t *longer = mem_calloc(n + 1, 1);
    memcpy(longer, data, n);
    refused(&r, longer, n + 1, "too long", CORM_ERROR_OTHER);
    free(longer);
    /* Now the whole file. */
    write_file(r.file, data, n);
    loaded(&r);
    assert_int_equal(corm_session_length(r.s), 20);
    free(data);
    rig_close(&r);
}

static void another_archives_and_long_ones_are_refused(void **state) {
    (void)state;
    struct rig r = rig_open("olmoe-tiny", &(struct corm_engine_options){.ctx_tok = 16});
    struct rig other = rig_open("qwen3moe-tiny", &(struct corm_engine_options){0});
    struct rig wide = rig_open("olmoe-tiny", &(struct corm_engine_options){.ctx_tok = 17});
    struct corm_error error;
    size_t n;
    model_eval(r.s, r.ids, 3, false);
    model_eval(other.s, other.ids, 3, false);
    model_eval(wide.s, wide.ids, 17, false);
    saved(&other);
    uint8_t *data = read_file(other.file, &n);
    refused(&r, data, n, "of another archive", CORM_ERROR_OTHER);
    free(data);
    saved(&wide);
    data = read_file(wide.file, &n);
    refused(&r, data, n, "a session of 17 tokens, the context holds 16", CORM_ERROR_CONTEXT);
    free(data);
    unlink(r.file);
    assert_int_equal(corm_session_load(r.s, r.file, &error), -1);
    assert_int_equal(corm_session_load(r.s, test_dir(), &error), -1);
    assert_int_equal(corm_session_length(r.s), 3);
    rig_close(&r);
    rig_close(&other);
    rig_close(&wide);
}

/* Whoever can compute a checksum can write any number. */
static void hostile_numbers_are_refused(void **state) {
    (void)state;
    struct rig r = rig_open("gptoss-tiny", &(struct corm_engine_options){0});
    size_t n;
    model_eval(r.s, r.ids, 20, false);
    saved(&r);
    uint8_t *data = read_file(r.file, &n);
    corm_session_truncate(r.s, 0);
    model_eval(r.s, r.ids, 3, false);
    struct session_header good;
    memcpy(&good, data, sizeof good);
#define AT(field) offsetof(struct session_header, field)
    static const struct {
        size_t at;
        uint32_t value;
        const char *say;
    } rows[] = {
        {AT(kv_type), 3, "KV cache of type 3"},
        {AT(kv_type), UINT32_MAX, "KV cache of type"},
        {AT(kv_type), 1, "bytes by its header"}, /* that takes more room */
        {AT(n_tok), 19, "a state of 20 tokens, the session has 19"},
        {AT(n_tok), 21, "bytes by its header"},
        {AT(n_tok), UINT32_MAX, "expected at most"},
        {AT(n_held), 19, "bytes by its header"},
        {AT(n_held), 0, "bytes by its header"},
        {AT(n_logits), 0, "bytes by its header"},
        {AT(n_logits), 1, "1 logits of 20 tokens"},
        {AT(reserved), 1, "reserved field 0"},
        {AT(file_bytes), 1, "1 bytes by its header"},
        {AT(archive), 1, "another archive"},
        {sizeof good, UINT32_MAX, "token 0 has id -1"},
        {sizeof good + 19 * 4, 1 << 30, "token 19 has id"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        uint8_t *bad = mem_alloc(n);
        memcpy(bad, data, n);
        memcpy(bad + rows[i].at, &rows[i].value, sizeof rows[i].value);
        session_file_rehash(bad, n);
        refused(&r, bad, n, rows[i].say, CORM_ERROR_OTHER);
        free(bad);
    }
    free(data);
    rig_close(&r);
}

/* Another program may write into a mapped file at any time: what was checked is what is used. */
static void what_was_checked_cannot_change(void **state) {
    (void)state;
    struct corm archive = session_file_archive(1);
    struct session_file f;
    struct session_header h;
    struct err err = {0};
    size_t n;
    uint8_t *data = session_file_made_up(1, 20, &n);
    memcpy(&h, data, sizeof h);
    assert_int_equal(session_file_check(&f, data, n, "a.session", &archive, &err), 0);
    memset(data, 0xff, n);
    assert_memory_equal(&f.header, &h, sizeof h);
    for (int32_t i = 0; i < 20; i++) {
        assert_int_equal(f.ids[i], i % 16);
    }
    session_file_free(&f);
    arch_free(&archive.arch);
    free(data);
}

/* ---- writing ---- */

static void a_file_is_written_whole_or_not(void **state) {
    (void)state;
    struct rig r = rig_open("olmoe-tiny", &(struct corm_engine_options){.max_passes = 1});
    struct corm_error error;
    struct stat st;
    char *tmp = mem_printf("%s.tmp", r.file), *nowhere = mem_printf("%s/none/x", test_dir());
    saved(&r); /* an empty session */
    loaded(&r);
    assert_int_equal(corm_session_length(r.s), 0);
    model_eval(r.s, r.ids, 5, false);
    write_file(tmp, (const uint8_t *)"left by a killed process", 10);
    saved(&r);
    assert_int_equal(stat(r.file, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(stat(tmp, &st), -1);
    /* Another process that writes the same: it loses nothing. */
    struct err err = {0};
    int other = file_create_part(tmp, r.file, 0600, &err);
    assert_true(other >= 0);
    assert_int_equal(corm_session_save(r.s, r.file, &error), -1);
    assert_non_null(strstr(error.message, "another process is writing it"));
    assert_int_equal(stat(tmp, &st), 0);
    close(other);
    saved(&r);
    assert_int_equal(stat(tmp, &st), -1);
    assert_int_equal(corm_session_save(r.s, nowhere, &error), -1);
    assert_non_null(strstr(error.message, "cannot create"));
    assert_int_equal(corm_session_save(r.s, test_dir(), &error), -1); /* a folder's name */
    assert_non_null(strstr(error.message, "cannot rename"));
    char *left = mem_printf("%s.tmp", test_dir());
    assert_int_equal(stat(left, &st), -1);
    free(left);
    /* Not in the middle of an evaluation. */
    const struct corm_span span = {.session = r.s, .ids = r.ids, .n = 3};
    struct corm_pass *pass;
    assert_int_equal(corm_pass_open(&pass, &span, 1, &error), 0);
    assert_int_equal(corm_session_save(r.s, r.file, &error), -1);
    assert_non_null(strstr(error.message, "open pass"));
    assert_int_equal(corm_session_load(r.s, r.file, &error), -1);
    corm_pass_close(pass);
    loaded(&r);
    assert_int_equal(corm_session_length(r.s), 5);
    free(tmp);
    free(nowhere);
    rig_close(&r);
}

static int write_seeds(const char *dir) {
    for (uint32_t seed = 0; seed < 8; seed++) {
        size_t n;
        uint8_t *data = session_file_made_up(seed, 1 + 2 * seed, &n);
        char *path = mem_printf("%s/arch-%u", dir, seed);
        FILE *f = fopen(path, "wb");
        if (!f || fwrite(data, 1, n, f) != n || fclose(f) != 0) {
            return 1;
        }
        free(path);
        free(data);
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0) {
        return write_seeds(argv[2]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_are_told),
        cmocka_unit_test(files_are_exact),
        cmocka_unit_test(another_way_takes_tokens_alone),
        cmocka_unit_test(damaged_files_are_refused),
        cmocka_unit_test(another_archives_and_long_ones_are_refused),
        cmocka_unit_test(hostile_numbers_are_refused),
        cmocka_unit_test(what_was_checked_cannot_change),
        cmocka_unit_test(a_file_is_written_whole_or_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
