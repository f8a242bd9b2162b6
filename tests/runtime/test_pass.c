/*
 * Spans of several sessions evaluated together, whole or a layer at a time, change no bit of what
 * each session gets alone; through the public API.
 */
#include "tests/util/test.h"

#include "runtime/engine.h"
#include "tests/util/test_util_quartet.h"

static const char *const CASES[] = {GOLDEN_KINDS};

struct rows {
    const struct quartet *r;
    int i;
    uint32_t next;
};

static void on_logits(void *ctx, uint32_t position, const float *logits) {
    struct rows *rows = ctx;
    assert_int_equal(position, rows->next++);
    assert_memory_equal(logits, rows->r->alone[rows->i] + position * rows->r->vocab,
                        rows->r->row_bytes);
}

/* One token of some beside prompts of others. */
static void mixed_spans_change_no_bit(void **state) {
    static const double shares[] = {1, 0.25};
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        for (size_t k = 0; k < TEST_COUNT(shares); k++) {
            const struct corm_mechanisms m = {.cache_share = shares[k]};
            struct quartet r = quartet_open(CASES[c], (struct corm_engine_options){.measure = &m});
            quartet_begin(&r);
            struct rows rows = {&r, 3, 0};
            struct corm_span spans[] = {quartet_span(&r, 0, 10, 11), quartet_span(&r, 2, 5, 6),
                                        quartet_span(&r, 1, 7, 20), quartet_span(&r, 3, 0, 21)};
            spans[3].on_logits = on_logits;
            spans[3].ctx = &rows;
            assert_int_equal(corm_sessions_eval(spans, 4, &r.error), 0);
            assert_int_equal(rows.next, 21);
            quartet_check(&r, 0, 11);
            quartet_check(&r, 2, 6);
            quartet_check(&r, 1, 20);
            quartet_check(&r, 3, 21);
            struct corm_stats stats[2];
            corm_session_stats(r.s[2], &stats[0]);
            corm_session_stats(r.s[1], &stats[1]);
            assert_int_equal(stats[0].decode_tok, 1);
            assert_int_equal(stats[0].prefill_tok, 5);
            assert_int_equal(stats[1].decode_tok, 0);
            assert_int_equal(stats[1].prefill_tok, 20);
            assert_true(stats[1].weight_bytes > stats[0].weight_bytes);
            /* Then all decode. */
            const int32_t next[] = {r.ids[11], r.ids[1 + 20], r.ids[2 + 6], r.ids[3 + 21]};
            assert_int_equal(corm_sessions_decode(r.s, next, 4, &r.error), 0);
            quartet_check(&r, 0, 12);
            quartet_check(&r, 1, 21);
            quartet_check(&r, 2, 7);
            quartet_check(&r, 3, 22);
            quartet_close(&r);
        }
    }
}

/* Others decode between two layers of a prompt. */
static void others_decode_between_layers(void **state) {
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        const struct corm_mechanisms m = {.cache_share = 0.5, .ahead = 2};
        struct quartet r =
            quartet_open(CASES[c], (struct corm_engine_options){.measure = &m, .max_passes = 2});
        quartet_begin(&r);
        const struct corm_span one = quartet_span(&r, 3, 0, TOKENS),
                               two = quartet_span(&r, 1, 7, 22);
        struct corm_pass *pass[2];
        bool more[2] = {true, true};
        uint32_t steps = 0, n = 10;
        assert_int_equal(corm_pass_open(&pass[0], &one, 1, &r.error), 0);
        assert_int_equal(corm_pass_open(&pass[1], &two, 1, &r.error), 0);
        while (more[0] || more[1]) {
            for (int k = 0; k < 2; k++) {
                if (more[k]) {
                    assert_int_equal(corm_pass_step(pass[k], &more[k], &r.error), 0);
                }
            }
            if (++steps % 2 == 0 && n < TOKENS) {
                model_eval(r.s[0], r.ids + n++, 1, false);
                quartet_check(&r, 0, n);
            }
        }
        assert_true(n > 12);
        corm_pass_close(pass[0]);
        corm_pass_close(pass[1]);
        quartet_check(&r, 3, TOKENS);
        quartet_check(&r, 1, 22);
        /* A step is a layer of a piece; the last one finds nothing to do. */
        assert_int_equal(steps, 3 * corm_engine_info(r.e)->n_layers + 1);
        quartet_close(&r);
    }
}

struct told {
    const float *want; /* [LONG_TOK, vocab] */
    size_t vocab;
    uint32_t next;
};

enum { LONG_TOK = 70 };

static void is_as_alone(void *ctx, uint32_t position, const float *logits) {
    struct told *t = ctx;
    assert_int_equal(position, t->next++);
    assert_memory_equal(logits, t->want + position * t->vocab, t->vocab * sizeof *logits);
}

/* Logits of all tokens are made some at a time, and others decode in between. A pass that is closed
 * meanwhile has evaluated its tokens. */
static void others_decode_between_logits(void **state) {
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        const struct corm_engine_options opt = {.threads = 1,
                                                .ctx_tok = LONG_TOK + 1,
                                                .batch_rows = LONG_TOK,
                                                .max_sessions = 2,
                                                .max_passes = 1};
        char *path = golden_archive(CASES[c], NULL);
        struct corm_engine *e = model_open(path, &opt);
        struct corm_session *s[2] = {model_session(e), model_session(e)};
        const struct corm_model_info *info = corm_engine_info(e);
        const size_t bytes = LONG_TOK * info->vocab * sizeof(float);
        float *want = mem_alloc(bytes);
        int32_t ids[LONG_TOK];
        for (int32_t i = 0; i < LONG_TOK; i++) {
            ids[i] = i * 37 % 280;
        }
        memcpy(want, model_eval(s[0], ids, LONG_TOK, true), bytes);
        corm_session_truncate(s[0], 0);
        for (int whole = 0; whole < 2; whole++) {
            struct told told = {want, info->vocab, 0};
            const struct corm_span span = {
                .session = s[0], .ids = ids, .n = LONG_TOK, .on_logits = is_as_alone, .ctx = &told};
            struct corm_pass *pass;
            uint32_t steps = 0, between = 0;
            bool more = true;
            assert_int_equal(corm_pass_open(&pass, &span, 1, NULL), 0);
            while (more && (whole || told.next == 0)) {
                assert_int_equal(corm_pass_step(pass, &more, NULL), 0);
                between += told.next > 0 && told.next < LONG_TOK;
                model_eval(s[1], &ids[steps], 1, false);
                assert_memory_equal(corm_session_logits(s[1]), want + steps * info->vocab,
                                    info->vocab * sizeof *want);
                steps++;
            }
            corm_pass_close(pass);
            assert_true(between > 0);
            assert_int_equal(told.next == LONG_TOK, whole);
            assert_int_equal(corm_session_length(s[0]), LONG_TOK);
            assert_memory_equal(corm_session_logits(s[0]), want + (LONG_TOK - 1) * info->vocab,
                                info->vocab * sizeof *want);
            corm_session_truncate(s[0], 0);
            corm_session_truncate(s[1], 0);
        }
        corm_session_close(s[0]);
        corm_session_close(s[1]);
        corm_engine_close(e);
        free(want);
        free(path);
    }
}

static void copies_are_exact(void **state) {
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        struct quartet r = quartet_open(CASES[c], (struct corm_engine_options){0});
        struct corm_error error;
        for (uint32_t n = 0; n < TOKENS - 1; n += 11) {
            model_eval(r.s[1], r.ids + 1, 9, false); /* something to forget */
            if (n > 0) {
                model_eval(r.s[0], r.ids, n, false);
            }
            assert_int_equal(corm_session_copy(r.s[1], r.s[0], &error), 0);
            assert_int_equal(corm_session_length(r.s[1]), n);
            assert_int_equal(corm_session_logits(r.s[1]) != NULL, n > 0);
            if (n > 0) {
                assert_memory_equal(corm_session_logits(r.s[1]), corm_session_logits(r.s[0]),
                                    r.row_bytes);
            }
            /* The copy goes on otherwise, and changes nothing for the first one. */
            model_eval(r.s[1], r.ids + 4, 3, false);
            model_eval(r.s[0], r.ids + n, TOKENS - n, false);
            quartet_check(&r, 0, TOKENS);
            corm_session_truncate(r.s[1], n);
            model_eval(r.s[1], r.ids + n, TOKENS - n, false);
            assert_memory_equal(corm_session_logits(r.s[1]), corm_session_logits(r.s[0]),
                                r.row_bytes);
            corm_session_truncate(r.s[0], 0);
            corm_session_truncate(r.s[1], 0);
        }
        assert_int_equal(corm_session_copy(r.s[0], r.s[0], NULL), 0);
        quartet_close(&r);
    }
}

/* Rows of logits belong to those that were evaluated last. */
static void last_logits_are_of_those_who_run(void **state) {
    (void)state;
    struct quartet r = quartet_open(
        "olmoe-tiny", (struct corm_engine_options){.max_running = 2, .logits_rows = 1});
    const int32_t next[] = {1, 2, 3};
    for (int i = 0; i < 4; i++) {
        model_eval(r.s[i], r.ids + i, 5, false);
        for (int k = 0; k <= i; k++) {
            assert_int_equal(corm_session_logits(r.s[k]) != NULL, k > i - 2);
        }
        quartet_check(&r, i, 5);
    }
    assert_int_equal(corm_session_sample(r.s[0], &(struct corm_sampling){.temperature = 0}), -1);
    assert_int_equal(corm_sessions_decode(r.s, next, 3, &r.error), -1);
    assert_non_null(strstr(r.error.message, "max_running"));
    const struct corm_span spans[] = {quartet_span(&r, 0, 5, 6), quartet_span(&r, 1, 5, 12)};
    assert_int_equal(corm_sessions_eval(spans, 2, &r.error), 0);
    quartet_check(&r, 0, 6);
    quartet_check(&r, 1, 12);
    assert_null(corm_session_logits(r.s[3]));
    corm_session_close(r.s[1]);
    r.s[1] = model_session(r.e);
    assert_int_equal(corm_session_copy(r.s[1], r.s[0], &r.error),
                     0); /* takes the row that is free */
    assert_memory_equal(corm_session_logits(r.s[1]), corm_session_logits(r.s[0]), r.row_bytes);
    quartet_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_spans_change_no_bit),
        cmocka_unit_test(others_decode_between_layers),
        cmocka_unit_test(others_decode_between_logits),
        cmocka_unit_test(copies_are_exact),
        cmocka_unit_test(last_logits_are_of_those_who_run),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
