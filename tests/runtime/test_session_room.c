/*
 * What sessions take in the layers: counted by length, really taken by length, and refused where
 * there is no room.
 */
#include "tests/util/test.h"

#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/session.h"
#include "tests/util/test_util_golden.h"

static const char *const CASES[] = {GOLDEN_KINDS};

enum { TOKENS = 40 };

/* Bytes of a block's pages that are in memory. */
static size_t resident(const void *block, size_t bytes) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = (uintptr_t)block & ~(page - 1), end = (uintptr_t)block + bytes;
    const size_t n = (end - first + page - 1) / page;
    unsigned char *in = mem_alloc(n);
    size_t pages = 0;
    assert_int_equal(mincore((void *)first, end - first, in), 0);
    for (size_t i = 0; i < n; i++) {
        pages += in[i] & 1;
    }
    free(in);
    return pages * page;
}

static size_t resident_keys(const struct corm_session *s) {
    size_t bytes = 0;
    for (uint32_t l = 0; l < s->state.arch->n_layers; l++) {
        const struct kv *kv = &s->state.layers[l].kv;
        if (kv->capacity_tok == s->state.size.ctx_tok) {
            bytes += resident(kv->k, kv_bytes(kv));
            bytes += kv->v ? resident(kv->v, kv_value_bytes(kv)) : 0;
        }
    }
    return bytes;
}

/* Whether the system keeps the pages of a block small: the flag nh of its mapping. */
static bool keeps_small(const void *block) {
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[512];
    bool here = false, small = false;
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        uintptr_t first, end;
        if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &first, &end) == 2) {
            here = first <= (uintptr_t)block && (uintptr_t)block < end;
        } else if (here && strncmp(line, "VmFlags:", 8) == 0) {
            small = strstr(line, " nh") != NULL;
        }
    }
    fclose(maps);
    return small;
}

static void memory_goes_by_length(void **state) {
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        size_t n;
        int32_t *ids = golden_ids(CASES[c], "ids", &n);
        char *path = golden_archive(CASES[c], NULL);
        const struct corm_engine_options opt = {.threads = 1, .ctx_tok = 1 << 14};
        struct corm_engine *e = model_open(path, &opt);
        struct corm_session *s = model_session(e);
        const size_t row_bytes = corm_engine_info(e)->vocab * sizeof(float);
        const uint64_t empty = corm_session_bytes(s), most = corm_engine_plan(e)->kv_bytes;
        float *want = mem_alloc(row_bytes);
        assert_true(resident_keys(s) < 1 << 18);
        for (uint32_t l = 0; l < s->state.arch->n_layers; l++) {
            const struct kv *kv = &s->state.layers[l].kv;
            assert_true(kv->capacity_tok < opt.ctx_tok || keeps_small(kv->k));
        }
        memcpy(want, model_eval(s, ids, TOKENS, false), row_bytes);
        const uint64_t some = corm_session_bytes(s);
        const bool grows = most > empty; /* not where all layers have windows */
        assert_true(!grows || (some > empty && some - empty < (most - empty) / 4));
        assert_true(resident_keys(s) <= some - empty);
        for (int i = 0; i < 30; i++) {
            model_eval(s, ids, TOKENS, false);
        }
        const uint64_t more = corm_session_bytes(s);
        assert_true(!grows || more > some);
        const size_t taken = resident_keys(s);
        assert_true(taken <= more - empty);
        /* Cut back it is as it was, and gives back what it took. */
        corm_session_truncate(s, TOKENS);
        assert_int_equal(corm_session_bytes(s), some);
        assert_true(resident_keys(s) <= some - empty && (!grows || resident_keys(s) < taken));
        corm_session_truncate(s, TOKENS - 3);
        assert_memory_equal(model_eval(s, ids + TOKENS - 3, 3, false), want, row_bytes);
        corm_session_truncate(s, 0);
        assert_int_equal(corm_session_bytes(s), empty);
        assert_int_equal(e->kv_used, empty);
        corm_session_close(s);
        assert_int_equal(e->kv_used, 0);
        corm_engine_close(e);
        free(want);
        free(path);
        free(ids);
    }
}

/* Bytes that sessions of a case take at most, with a context of 2,000 tokens. */
static uint64_t whole_session(const char *path) {
    struct corm_engine *e = model_open(path, &(struct corm_engine_options){.ctx_tok = 2000});
    uint64_t bytes = corm_engine_plan(e)->kv_bytes;
    corm_engine_close(e);
    return bytes;
}

static void what_has_no_room_is_refused(void **state) {
    (void)state;
    size_t n;
    int32_t *ids = golden_ids("olmoe-tiny", "ids", &n);
    char *path = golden_archive("olmoe-tiny", NULL);
    struct corm_engine_options opt = {
        .ctx_tok = 2000, .max_sessions = 4, .max_passes = 1, .kv_bytes = whole_session(path)};
    struct corm_engine *e = NULL;
    struct corm_error error;
    opt.kv_bytes--;
    assert_int_equal(corm_engine_open(&e, path, &opt, &error), -1);
    assert_non_null(strstr(error.message, "one session of 2000 tokens takes"));
    opt.kv_bytes++;
    e = model_open(path, &opt);
    struct corm_session *first = model_session(e);
    opt.kv_bytes += 2 * corm_session_bytes(first); /* what the others have from the beginning */
    corm_session_close(first);
    corm_engine_close(e);
    e = model_open(path, &opt);
    assert_int_equal(corm_engine_plan(e)->kv_bytes, opt.kv_bytes);
    struct corm_session *s[] = {model_session(e), model_session(e), model_session(e)};
    const size_t row_bytes = corm_engine_info(e)->vocab * sizeof(float);
    float *want = mem_alloc(row_bytes);
    memcpy(want, model_eval(s[1], ids, TOKENS, false), row_bytes);
    corm_session_truncate(s[1], 0);
    for (int i = 0; i < 2000 / TOKENS; i++) {
        model_eval(s[0], ids, TOKENS, false); /* one session has all that there is */
    }
    struct corm_pass *pass;
    const struct corm_span span = {.session = s[1], .ids = ids, .n = TOKENS};
    const struct corm_span both[] = {span, {.session = s[2], .ids = ids, .n = 1}};
    assert_int_equal(corm_session_eval(s[1], ids, TOKENS, false, NULL, &error), -1);
    assert_int_equal(error.code, CORM_ERROR_MEMORY);
    assert_non_null(strstr(error.message, "memory is full"));
    assert_int_equal(corm_sessions_eval(both, 2, &error), -1);
    assert_int_equal(error.code, CORM_ERROR_MEMORY);
    assert_int_equal(corm_sessions_decode(&s[1], ids, 1, &error), -1);
    assert_int_equal(error.code, CORM_ERROR_MEMORY);
    assert_int_equal(corm_pass_open(&pass, &span, 1, &error), -1);
    assert_int_equal(error.code, CORM_ERROR_MEMORY);
    assert_int_equal(corm_session_copy(s[1], s[0], &error), -1);
    assert_int_equal(error.code, CORM_ERROR_MEMORY);
    char *file = mem_printf("%s/full.session", test_dir());
    assert_int_equal(corm_session_save(s[0], file, &error), 0);
    assert_int_equal(corm_session_load(s[1], file, &error), -1);
    assert_int_equal(error.code, CORM_ERROR_MEMORY);
    assert_int_equal(corm_session_length(s[1]), 0);
    assert_int_equal(corm_session_length(s[0]), 2000);
    /* When others are cut back, there is room. */
    corm_session_truncate(s[0], 100);
    assert_memory_equal(model_eval(s[1], ids, TOKENS, false), want, row_bytes);
    assert_int_equal(corm_session_copy(s[2], s[1], &error), 0);
    assert_int_equal(corm_session_load(s[2], file, &error), -1); /* still too much */
    assert_int_equal(error.code, CORM_ERROR_MEMORY);
    for (int i = 0; i < 3; i++) {
        corm_session_close(s[i]);
    }
    assert_int_equal(e->kv_used, 0);
    corm_engine_close(e);
    free(file);
    free(want);
    free(path);
    free(ids);
}

/* What a recurrence holds is taken when the session opens. */
static void opening_may_be_refused(void **state) {
    (void)state;
    size_t n;
    int32_t *ids = golden_ids("qwen3next-tiny", "ids", &n);
    char *path = golden_archive("qwen3next-tiny", NULL);
    struct corm_engine *e =
        model_open(path, &(struct corm_engine_options){
                             .ctx_tok = 2000, .max_sessions = 2, .kv_bytes = whole_session(path)});
    struct corm_session *s = model_session(e), *more = NULL;
    struct corm_error error;
    for (int i = 0; i < 2000 / TOKENS; i++) {
        model_eval(s, ids, TOKENS, false);
    }
    assert_int_equal(corm_session_open(&more, e, &error), -1);
    assert_int_equal(error.code, CORM_ERROR_MEMORY);
    corm_session_truncate(s, 1000);
    assert_int_equal(corm_session_open(&more, e, &error), 0);
    corm_session_close(more);
    corm_session_close(s);
    corm_engine_close(e);
    free(path);
    free(ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_goes_by_length),
        cmocka_unit_test(what_has_no_room_is_refused),
        cmocka_unit_test(opening_may_be_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
