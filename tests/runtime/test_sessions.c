/*
 * Several sequences in one engine: decoded together, cut back, counted; through the public API.
 */
#include "tests/util/test.h"

#include "runtime/engine.h"
#include "tests/util/test_util_changed.h"
#include "tests/util/test_util_golden.h"

static const char *const CASES[] = {GOLDEN_KINDS};

/* The archive of a case, and the ids of its golden vectors. To free(). */
static char *archive_of(const char *name, const char *codec, int32_t **ids, size_t *n) {
    *ids = golden_ids(name, "ids", n);
    return golden_archive(name, codec);
}

static void a_batch_changes_no_bit(void **state) {
    static const double shares[] = {1, 0.5, 0.25};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(CASES); i++) {
        for (int own = 0; own < 2; own++) {
            int32_t *ids;
            size_t n;
            uint64_t alone[MODEL_SEQUENCES], together[MODEL_SEQUENCES];
            char *path = archive_of(CASES[i], own ? NULL : "q8", &ids, &n);
            struct corm_engine_options opt = {.threads = 1, .max_sessions = MODEL_SEQUENCES};
            model_sequences_alone(path, &opt, ids, n, alone);
            for (size_t k = 0; k < TEST_COUNT(shares); k++) {
                struct corm_mechanisms m = {.cache_share = shares[k], .ahead = 1 + k % 3};
                opt.threads = 2;
                opt.measure = &m;
                model_sequences_together(path, &opt, ids, n, together);
                assert_memory_equal(together, alone, sizeof alone);
            }
            free(path);
            free(ids);
        }
    }
}

/* As chats do: a sequence is cut back, far and near, and goes on otherwise. */
static void cutting_back_changes_no_bit(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(CASES); i++) {
        int32_t *ids;
        size_t n;
        char *path = archive_of(CASES[i], NULL, &ids, &n);
        struct corm_engine *e =
            model_open(path, &(struct corm_engine_options){.threads = 2, .batch_rows = 8});
        const size_t row_bytes = corm_engine_info(e)->vocab * sizeof(float);
        struct corm_session *s = model_session(e);
        uint32_t cuts[] = {(uint32_t)n - 1, (uint32_t)n - 3, (uint32_t)n / 2, 2, 0};
        float *want = mem_alloc(row_bytes);
        memcpy(want, model_eval(s, ids, n, false), row_bytes);
        for (size_t c = 0; c < TEST_COUNT(cuts); c++) {
            corm_session_truncate(s, cuts[c]);
            assert_int_equal(corm_session_length(s), cuts[c]);
            /* A few other tokens, cut away again before anything is computed of them twice. */
            model_eval(s, ids, n - cuts[c] < 2 ? 1 : 2, false);
            corm_session_truncate(s, cuts[c]);
            assert_memory_equal(model_eval(s, ids + cuts[c], n - cuts[c], false), want, row_bytes);
        }
        free(want);
        corm_session_close(s);
        corm_engine_close(e);
        free(path);
        free(ids);
    }
}

static void no_more_sessions_than_planned(void **state) {
    int32_t *ids;
    size_t n;
    (void)state;
    char *path = archive_of(CASES[0], NULL, &ids, &n);
    uint64_t kv_bytes[2];
    for (uint32_t most = 1; most <= 2; most++) {
        struct corm_engine *e =
            model_open(path, &(struct corm_engine_options){.max_sessions = most == 1 ? 0 : 2});
        struct corm_session *s[2], *more = NULL;
        struct corm_error error = {""};
        kv_bytes[most - 1] = corm_engine_plan(e)->kv_bytes;
        assert_int_equal(corm_engine_info(e)->max_sessions, most);
        for (uint32_t i = 0; i < most; i++) {
            s[i] = model_session(e);
        }
        assert_int_equal(corm_session_open(&more, e, &error), -1);
        assert_non_null(strstr(error.message, "max_sessions"));
        corm_session_close(s[0]);
        s[0] = model_session(e); /* one was closed: there is room again */
        for (uint32_t i = 0; i < most; i++) {
            corm_session_close(s[i]);
        }
        corm_engine_close(e);
    }
    assert_int_equal(kv_bytes[1], 2 * kv_bytes[0]);
    free(path);
    free(ids);
}

/* gptoss-tiny: two layers see 12 tokens, two see all; 2 key heads of 16. Each layer has two words
 * that tell of what f16 cannot hold. */
static void a_window_holds_no_more_than_it_needs(void **state) {
    int32_t *ids;
    size_t n;
    (void)state;
    char *path = archive_of("gptoss-tiny", NULL, &ids, &n);
    const struct corm_engine_options opt = {.ctx_tok = 200, .batch_rows = 8};
    struct corm_engine *e = model_open(path, &opt);
    const uint64_t a_token = 2 * 2 * 16 * sizeof(uint16_t); /* of one layer, keys and values */
    assert_int_equal(corm_engine_plan(e)->kv_bytes,
                     2 * (12 + 8) * a_token + 2 * 200 * a_token + 4 * 2 * sizeof(uint32_t));
    corm_engine_close(e);
    free(path);
    free(ids);
}

static void statistics_are_a_sessions_own(void **state) {
    int32_t *ids;
    size_t n;
    (void)state;
    char *path = archive_of(CASES[0], NULL, &ids, &n);
    const struct corm_mechanisms m = {.cache_share = 0.4};
    struct corm_engine *e =
        model_open(path, &(struct corm_engine_options){.max_sessions = 3, .measure = &m});
    struct corm_session *s[3];
    struct corm_stats stats[3];
    for (int i = 0; i < 3; i++) {
        s[i] = model_session(e);
    }
    model_eval(s[0], ids, 8, false);
    const int32_t next[2] = {ids[8], ids[0]};
    assert_int_equal(corm_sessions_decode(s, next, 2, NULL), 0);
    for (int i = 0; i < 3; i++) {
        corm_session_stats(s[i], &stats[i]);
    }
    assert_true(stats[0].read_bytes > stats[1].read_bytes);
    assert_int_equal(stats[0].prefill_tok, 8);
    assert_int_equal(stats[0].decode_tok, 1);
    assert_int_equal(stats[1].prefill_tok, 0);
    assert_int_equal(stats[1].decode_tok, 1);
    assert_true(stats[1].weight_bytes > 0 && stats[1].decode_ns > 0);
    static const struct corm_stats nothing;
    assert_memory_equal(&stats[2], &nothing, sizeof nothing);
    for (int i = 0; i < 3; i++) {
        corm_session_close(s[i]);
    }
    corm_engine_close(e);
    free(path);
    free(ids);
}

static void bad_batches_are_refused(void **state) {
    int32_t *ids;
    size_t n;
    (void)state;
    char *path = archive_of(CASES[0], NULL, &ids, &n);
    struct corm_engine_options opt = {.max_sessions = 2, .ctx_tok = 8, .batch_rows = 4};
    struct corm_engine *e = model_open(path, &opt), *other = model_open(path, &opt);
    struct corm_session *s[2] = {model_session(e), model_session(e)},
                        *foreign = model_session(other);
    struct corm_session *twice[2] = {s[0], s[0]}, *mixed[2] = {s[0], foreign};
    struct corm_error error;
    const int32_t good[2] = {ids[0], ids[1]}, bad[2] = {ids[0], -1};
    const struct {
        struct corm_session **sessions;
        const int32_t *ids;
        size_t n;
        const char *message;
    } rows[] = {
        {s, good, 0, "no sessions"},
        {twice, good, 2, "also session 0"},
        {mixed, good, 2, "different engines"},
        {s, bad, 2, "session 1 of the batch: token id -1"},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        assert_int_equal(corm_sessions_decode(rows[i].sessions, rows[i].ids, rows[i].n, &error),
                         -1);
        assert_non_null(strstr(error.message, rows[i].message));
    }
    for (int i = 0; i < 8; i++) {
        model_eval(s[1], ids, 1, false);
    }
    assert_int_equal(corm_sessions_decode(s, good, 2, &error), -1);
    assert_non_null(strstr(error.message, "context full"));
    assert_int_equal(corm_session_length(s[0]), 0); /* nobody has moved on */
    corm_session_close(foreign);
    corm_session_close(s[0]);
    corm_session_close(s[1]);
    corm_engine_close(e);
    corm_engine_close(other);
    free(path);
    free(ids);
}

struct broken {
    int left; /* reads that still work */
};

static int fail_later(void *ctx, uint64_t offset, uint64_t bytes) {
    struct broken *b = ctx;
    (void)offset;
    (void)bytes;
    return __atomic_fetch_sub(&b->left, 1, __ATOMIC_RELAXED) <= 0;
}

/* A disk that fails in the middle of an evaluation ends the engine's work, and sequences are as
 * long as they were before. */
static void a_broken_evaluation_adds_no_token(void **state) {
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(CASES); i++) {
        int32_t *ids;
        size_t n;
        char *path = archive_of(CASES[i], NULL, &ids, &n);
        struct broken disk = {1 << 30};
        const struct corm_mechanisms m = {.cache_share = 0.25,
                                          .no_guesses = true,
                                          .reading = CORM_READ_BUFFERED,
                                          .on_read = fail_later,
                                          .on_read_ctx = &disk};
        struct corm_engine *e =
            model_open(path, &(struct corm_engine_options){
                                 .threads = 1, .batch_rows = 8, .max_sessions = 2, .measure = &m});
        struct corm_session *s[2] = {model_session(e), model_session(e)};
        struct corm_error error;
        model_eval(s[0], ids, 16, false);
        model_eval(s[1], ids, 3, false);
        disk.left = 5;
        assert_int_equal(corm_session_eval(s[0], ids + 16, 24, false, NULL, &error), -1);
        assert_non_null(strstr(error.message, "refused"));
        assert_int_equal(corm_session_length(s[0]), 16);
        assert_int_equal(corm_sessions_decode(s, ids, 2, &error), -1);
        assert_non_null(strstr(error.message, "refused"));
        assert_int_equal(corm_session_length(s[0]), 16);
        assert_int_equal(corm_session_length(s[1]), 3);
        corm_session_close(s[0]);
        corm_session_close(s[1]);
        corm_engine_close(e);
        free(path);
        free(ids);
    }
}

/* ---- keys and values beyond f16 ---- */

/* Evaluate ids [n], `rows` in a call. Returns the hash of the last logits, or 0 after an error,
 * which leaves the session as long as before the call. */
static uint64_t eval_in_calls(struct corm_session *s, const int32_t *ids, size_t n, size_t rows,
                              struct corm_error *error) {
    struct corm_stats stats;
    for (size_t at = 0; at < n; at += rows) {
        size_t some = n - at < rows ? n - at : rows;
        if (corm_session_eval(s, ids + at, some, false, NULL, error) < 0) {
            assert_int_equal(corm_session_length(s), at);
            return 0;
        }
    }
    corm_session_stats(s, &stats);
    return stats.logits_hash;
}

/* A model whose keys (or values) are greater by a factor, and what they meet smaller: the same
 * function, to the bit where the cache holds them. Where it does not, that is an error, the same
 * one for any threads and calls. */
static void beyond_f16_is_an_error(void **state) {
    static const struct {
        const char *model, *greater, *smaller, *say;
        float factor;
    } cases[] = {
        {"qwen3moe-tiny", "*.k_norm.weight", "*.q_norm.weight", "keys in layer", 0x1p15f},
        {"qwen2moe-tiny", "*.k_proj.*", "*.q_proj.*", "keys in layer", 0x1p18f},
        {"qwen2moe-tiny", "*.v_proj.*", "*.o_proj.weight", "values in layer", 0x1p18f},
    };
    static const struct {
        uint32_t threads, batch, rows;
    } calls[] = {{1, 256, 40}, {2, 256, 40}, {2, 4, 40}, {1, 256, 3}, {2, 1, 1}};
    (void)state;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct changed c = changed_open(cases[i].model);
        struct corm_error first = {0}, error = {0};
        size_t n;
        int32_t *ids = golden_ids(cases[i].model, "ids", &n);
        uint64_t hash[2];
        char *path = NULL;
        for (int scaled = 0; scaled < 2; scaled++) {
            free(path);
            path = model_archive(changed_write(&c), c.dir, "model", NULL, false);
            struct corm_engine *e = model_open(
                path, &(struct corm_engine_options){.threads = 1, .kv_type = CORM_KV_F32});
            struct corm_session *s = model_session(e);
            hash[scaled] = eval_in_calls(s, ids, 40, 40, &error);
            corm_session_close(s);
            corm_engine_close(e);
            if (!scaled) {
                changed_scale(&c, cases[i].greater, cases[i].factor);
                changed_scale(&c, cases[i].smaller, 1 / cases[i].factor);
            }
        }
        assert_true(hash[0] != 0 && hash[0] == hash[1]);
        for (size_t k = 0; k < TEST_COUNT(calls); k++) {
            struct corm_engine *e =
                model_open(path, &(struct corm_engine_options){.threads = calls[k].threads,
                                                               .batch_rows = calls[k].batch});
            struct corm_session *s = model_session(e);
            assert_true(eval_in_calls(s, ids, 40, calls[k].rows, &error) == 0);
            assert_non_null(strstr(error.message, cases[i].say));
            assert_non_null(strstr(error.message, "--kv f32"));
            first = k == 0 ? error : first;
            assert_string_equal(error.message, first.message);
            corm_session_close(s);
            corm_engine_close(e);
        }
        free(path);
        free(ids);
        changed_close(&c);
    }
}

/* ---- guesses ---- */

/* Guesses of the first layer that is guessed in a token, one layer ahead. */
struct guesses {
    uint32_t layer, n; /* n 0: none yet */
    int32_t ids[64];
    float prob[64];
};

static void on_guess(void *ctx, uint32_t layer, uint32_t ahead, uint32_t n, const int32_t *ids,
                     const float *prob) {
    struct guesses *g = ctx;
    if (ahead != 1 || g->n > 0) {
        return;
    }
    assert_true(n <= TEST_COUNT(g->ids));
    *g = (struct guesses){.layer = layer, .n = n};
    memcpy(g->ids, ids, n * sizeof *ids);
    memcpy(g->prob, prob, n * sizeof *prob);
}

/* Two sequences of the same tokens are guessed the same experts: each is needed unless neither uses
 * it. */
static void guesses_of_a_batch_are_joined(void **state) {
    int32_t *ids;
    size_t n;
    (void)state;
    char *path = archive_of("olmoe-tiny", NULL, &ids, &n);
    struct guesses seen[2] = {{0}};
    for (int both = 0; both < 2; both++) {
        const struct corm_mechanisms m = {
            .cache_share = 0.5, .ahead = 1, .on_guess = on_guess, .on_guess_ctx = &seen[both]};
        struct corm_engine *e =
            model_open(path, &(struct corm_engine_options){.max_sessions = 2, .measure = &m});
        struct corm_session *s[2] = {model_session(e), model_session(e)};
        const int32_t next[2] = {ids[3], ids[3]};
        model_eval(s[0], ids, 3, false);
        model_eval(s[1], ids, 3, false);
        assert_int_equal(seen[both].n, 0); /* prompts are not guessed for */
        assert_int_equal(corm_sessions_decode(s, next, 1 + (size_t)both, NULL), 0);
        corm_session_close(s[0]);
        corm_session_close(s[1]);
        corm_engine_close(e);
    }
    assert_true(seen[0].n > 0);
    assert_int_equal(seen[1].n, seen[0].n);
    assert_int_equal(seen[1].layer, seen[0].layer);
    for (uint32_t i = 0; i < seen[0].n; i++) {
        float p = seen[0].prob[i];
        uint32_t k = 0;
        while (k < seen[1].n && seen[1].ids[k] != seen[0].ids[i]) {
            k++;
        }
        assert_true(k < seen[1].n);
        assert_float_equal(seen[1].prob[k], 1 - (1 - p) * (1 - p), 1e-6);
        assert_true(i == 0 || seen[1].prob[i] <= seen[1].prob[i - 1]);
    }
    free(path);
    free(ids);
}

/* Whether guessing pays is tried out while tokens are decoded: both ways are timed. */
static void guesses_are_tried(void **state) {
    int32_t *ids;
    size_t n;
    (void)state;
    char *path = archive_of("olmoe-tiny", NULL, &ids, &n);
    const struct corm_mechanisms m = {.cache_share = 0.25};
    struct corm_engine *e = model_open(path, &(struct corm_engine_options){.measure = &m});
    struct corm_session *s = model_session(e);
    uint32_t most = 0;
    for (int t = 0; t < TRIAL_FIRST_TOK + TRIAL_BLOCKS * TRIAL_BLOCK_TOK; t++) {
        model_eval(s, &ids[t % (int)n], 1, false);
        const struct trial *trial = &e->lookahead.trial;
        uint32_t both = trial->n[0] < trial->n[1] ? trial->n[0] : trial->n[1];
        most = both > most ? both : most;
    }
    assert_true(most > 1);
    corm_session_close(s);
    corm_engine_close(e);
    free(path);
    free(ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_changes_no_bit),
        cmocka_unit_test(cutting_back_changes_no_bit),
        cmocka_unit_test(no_more_sessions_than_planned),
        cmocka_unit_test(a_window_holds_no_more_than_it_needs),
        cmocka_unit_test(statistics_are_a_sessions_own),
        cmocka_unit_test(bad_batches_are_refused),
        cmocka_unit_test(a_broken_evaluation_adds_no_token),
        cmocka_unit_test(beyond_f16_is_an_error),
        cmocka_unit_test(guesses_of_a_batch_are_joined),
        cmocka_unit_test(guesses_are_tried),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
