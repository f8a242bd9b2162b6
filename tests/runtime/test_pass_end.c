/*
 * What ends an evaluation of several sessions, and what it leaves behind; through the public API.
 */
#include "tests/util/test.h"

#include <pthread.h>
#include <stdatomic.h>

#include "runtime/engine.h"
#include "tests/util/test_util_changed.h"
#include "tests/util/test_util_quartet.h"

static const char *const CASES[] = {GOLDEN_KINDS};

/* Cancels a session when the engine's layers have been passed so many times. */
struct canceller {
    struct corm_session *session;
    uint32_t left;
};

static void on_route(void *ctx, uint32_t layer, uint32_t rows, bool decode, const int32_t *ids) {
    struct canceller *c = ctx;
    (void)layer;
    (void)rows;
    (void)decode;
    (void)ids;
    if (c->session && c->left-- == 0) {
        corm_session_cancel(c->session, true);
        c->session = NULL;
    }
}

static uint32_t layers_with_experts(const struct corm_engine *e) {
    uint32_t n = 0;
    for (uint32_t l = 0; l < e->archive.arch.n_layers; l++) {
        n += arch_is_moe(&e->archive.arch, l);
    }
    return n;
}

static void cancelled(const struct corm_error *error) {
    assert_int_equal(error->code, CORM_ERROR_CANCELLED);
    assert_non_null(strstr(error->message, "cancelled"));
}

static void cancelling_keeps_what_is_said(void **state) {
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        struct canceller by = {0};
        const struct corm_mechanisms m = {.on_route = on_route, .on_route_ctx = &by};
        struct quartet r = quartet_open(CASES[c], (struct corm_engine_options){.measure = &m});
        const uint32_t layers = layers_with_experts(r.e);
        struct corm_error errors[2] = {{.code = CORM_ERROR_OTHER}, {.code = CORM_ERROR_OTHER}};
        quartet_begin(&r);

        /* In its second piece: the call of old takes nothing, the other one keeps the first. */
        struct corm_span span = quartet_span(&r, 1, 7, TOKENS);
        by = (struct canceller){r.s[1], layers};
        assert_int_equal(corm_session_eval(r.s[1], span.ids, span.n, false, NULL, &r.error), -1);
        cancelled(&r.error);
        assert_int_equal(corm_session_length(r.s[1]), 7);
        assert_int_equal(corm_sessions_eval(&span, 1, &r.error),
                         -1); /* as long as it is not undone */
        cancelled(&r.error);
        assert_int_equal(corm_session_length(r.s[1]), 7);
        corm_session_cancel(r.s[1], false);
        by = (struct canceller){r.s[1], layers + layers / 2};
        assert_int_equal(corm_sessions_eval(&span, 1, &r.error), -1);
        cancelled(&r.error);
        const uint32_t kept = corm_session_length(r.s[1]);
        /* What could not be cut back begins its pieces at the first token. */
        assert_true((kept - 7) % BATCH == 0 || kept % BATCH == 0);
        assert_true(kept > 7);
        corm_session_cancel(r.s[1], false);
        model_eval(r.s[1], r.ids + 1 + kept, TOKENS - kept, false);
        quartet_check(&r, 1, TOKENS);

        /* One of several: the others are not concerned. */
        struct corm_span both[] = {quartet_span(&r, 2, 5, 5 + 3 * BATCH / 4),
                                   quartet_span(&r, 3, 0, 20)};
        both[0].error = &errors[0];
        both[1].error = &errors[1];
        by = (struct canceller){r.s[3], 0};
        assert_int_equal(corm_sessions_eval(both, 2, &r.error), -1);
        cancelled(&r.error);
        cancelled(&errors[1]);
        assert_string_equal(errors[0].message, "");
        quartet_check(&r, 2, 5 + 3 * BATCH / 4);
        assert_int_equal(corm_session_length(r.s[3]), BATCH / 4); /* the rows of that piece */
        corm_session_cancel(r.s[3], false);
        model_eval(r.s[3], r.ids + 3 + BATCH / 4, 20 - BATCH / 4, false);
        quartet_check(&r, 3, 20);

        /* Of tokens that decode: only where all are cancelled. */
        const int32_t next[] = {r.ids[2 + 11], r.ids[3 + 20]};
        corm_session_cancel(r.s[2], true);
        assert_int_equal(corm_sessions_decode(r.s + 2, next, 2, &r.error), 0);
        quartet_check(&r, 2, 12);
        quartet_check(&r, 3, 21);
        by = (struct canceller){r.s[3], 0};
        assert_int_equal(corm_sessions_decode(r.s + 2, next, 2, &r.error), -1);
        cancelled(&r.error);
        assert_int_equal(corm_session_length(r.s[2]), 12);
        assert_int_equal(corm_session_length(r.s[3]), 21);

        /* Also where some pieces are one session's alone, which has tokens to compute again. */
        struct corm_session *const two[] = {r.s[0], r.s[3]};
        const int32_t after[] = {r.ids[10], r.ids[3 + 21]};
        corm_session_cancel(r.s[3], false);
        corm_session_cancel(r.s[0], true);
        assert_int_equal(corm_sessions_decode(two, after, 2, &r.error), 0);
        quartet_check(&r, 0, 11);
        quartet_check(&r, 3, 22);
        quartet_close(&r);
    }
}

/* A token that was decoded, and is taken back because another session is not done, leaves no logits
 * behind for one that is evaluated in its place. */
static void what_is_taken_back_leaves_no_logits(void **state) {
    size_t taken_back = 0;
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        struct canceller by = {0};
        const struct corm_mechanisms m = {.on_route = on_route, .on_route_ctx = &by};
        struct quartet r = quartet_open(CASES[c], (struct corm_engine_options){.measure = &m});
        const uint32_t layers = layers_with_experts(r.e);
        struct corm_session *const two[] = {r.s[0], r.s[3]};
        const int32_t next[] = {r.ids[10], 1};
        quartet_begin(&r);
        model_eval(r.s[3], r.ids + 3, BATCH - 1, false);
        corm_session_cancel(r.s[0], true);
        by = (struct canceller){r.s[3], layers}; /* when the first session computes again, alone */
        if (corm_sessions_decode(two, next, 2, &r.error) < 0) {
            cancelled(&r.error);
            taken_back++;
            assert_int_equal(corm_session_length(r.s[0]), 10);
            assert_int_equal(corm_session_length(r.s[3]), BATCH - 1);
            corm_session_cancel(r.s[3], false);
            by = (struct canceller){r.s[3], layers};
            const struct corm_span span = quartet_span(&r, 3, BATCH - 1, 20);
            assert_int_equal(corm_sessions_eval(&span, 1, &r.error), -1);
            const uint32_t kept = corm_session_length(r.s[3]);
            assert_true(kept >= BATCH);
            assert_null(corm_session_logits(r.s[3]));
            corm_session_cancel(r.s[3], false);
            model_eval(r.s[3], r.ids + 3 + kept, 20 - kept, false);
            quartet_check(&r, 3, 20);
        }
        quartet_close(&r);
    }
    assert_true(taken_back > 0);
}

/* Whoever closes a pass early is told of each session that is not done. */
static void closing_ends_every_span(void **state) {
    (void)state;
    struct quartet r = quartet_open("olmoe-tiny", (struct corm_engine_options){.max_passes = 1});
    struct corm_error errors[3] = {0};
    struct corm_span spans[] = {quartet_span(&r, 0, 0, 2), quartet_span(&r, 1, 0, BATCH),
                                quartet_span(&r, 2, 0, 4)};
    struct corm_pass *pass;
    bool more = true;
    for (int i = 0; i < 3; i++) {
        spans[i].error = &errors[i];
    }
    assert_int_equal(corm_pass_open(&pass, spans, 3, &r.error), 0);
    for (uint32_t l = 0; l <= corm_engine_info(r.e)->n_layers; l++) { /* a piece and a layer */
        assert_int_equal(corm_pass_step(pass, &more, &r.error), 0);
    }
    corm_pass_close(pass);
    assert_string_equal(errors[0].message, "");
    quartet_check(&r, 0, 2);
    cancelled(&errors[1]);
    assert_int_equal(corm_session_length(r.s[1]), BATCH - 2);
    cancelled(&errors[2]);
    assert_int_equal(corm_session_length(r.s[2]), 0);
    /* One that is closed before its first step. */
    errors[2] = (struct corm_error){0};
    assert_int_equal(corm_pass_open(&pass, &spans[2], 1, &r.error), 0);
    corm_pass_close(pass);
    cancelled(&errors[2]);
    model_eval(r.s[2], r.ids + 2, 4, false);
    quartet_check(&r, 2, 4);
    quartet_close(&r);
}

struct clicks {
    struct corm_session *session;
    atomic_bool stop;
};

static void *click(void *ctx) {
    struct clicks *c = ctx;
    for (bool on = true; !atomic_load(&c->stop); on = !on) {
        corm_session_cancel(c->session, on);
    }
    corm_session_cancel(c->session, false);
    return NULL;
}

/* From another thread, at any moment. */
static void anybody_may_cancel(void **state) {
    (void)state;
    struct quartet r = quartet_open("qwen3next-tiny", (struct corm_engine_options){0});
    struct clicks c = {.session = r.s[0]};
    pthread_t thread;
    uint32_t done = 0, ended = 0;
    assert_int_equal(pthread_create(&thread, NULL, click, &c), 0);
    for (int i = 0; i < 200 || done == 0 || ended == 0; i++) {
        const struct corm_span span = quartet_span(&r, 0, 0, TOKENS);
        corm_session_truncate(r.s[0], 0);
        bool whole = corm_sessions_eval(&span, 1, &r.error) == 0;
        *(whole ? &done : &ended) += 1;
        if (whole) {
            quartet_check(&r, 0, TOKENS);
        } else {
            cancelled(&r.error);
        }
    }
    atomic_store(&c.stop, true);
    pthread_join(thread, NULL);
    corm_session_truncate(r.s[0], 0);
    model_eval(r.s[0], r.ids, TOKENS, false);
    quartet_check(&r, 0, TOKENS);
    quartet_close(&r);
}

/* Keys of one session that f16 cannot hold are no concern of another one: they grow until those of
 * some tokens do not fit. */
static void an_error_concerns_one_session(void **state) {
    (void)state;
    struct changed c = changed_open("qwen2moe-tiny");
    size_t n;
    int32_t *ids = golden_ids("qwen2moe-tiny", "ids", &n), fits = -1, too_great = -1;
    for (int grown = 0; grown < 24 && (fits < 0 || too_great < 0); grown++) {
        changed_scale(&c, "*.k_proj.*", 2);
        char *path = model_archive(changed_write(&c), c.dir, "model", NULL, false);
        struct corm_engine *e = model_open(path, &(struct corm_engine_options){.max_sessions = 2});
        struct corm_session *s[2] = {model_session(e), model_session(e)};
        struct corm_error error, errors[2] = {{.code = CORM_ERROR_OTHER}};
        fits = too_great = -1;
        for (size_t i = 0; i < n; i++) {
            corm_session_truncate(s[0], 0);
            bool ok = corm_session_eval(s[0], &ids[i], 1, false, NULL, NULL) == 0;
            *(ok ? &fits : &too_great) = ids[i];
        }
        if (fits >= 0 && too_great >= 0) {
            corm_session_truncate(s[0], 0);
            const struct corm_span spans[] = {
                {.session = s[0], .ids = &too_great, .n = 1, .error = &errors[0]},
                {.session = s[1], .ids = &fits, .n = 1, .error = &errors[1]},
            };
            assert_int_equal(corm_sessions_eval(spans, 2, &error), -1);
            assert_non_null(strstr(error.message, "session 0 of the batch: the token at position"));
            assert_string_equal(errors[0].message, error.message);
            assert_string_equal(errors[1].message, "");
            assert_int_equal(corm_session_length(s[0]), 0);
            assert_null(corm_session_logits(s[0]));
            assert_int_equal(corm_session_length(s[1]), 1);
            assert_non_null(corm_session_logits(s[1]));
        }
        corm_session_close(s[0]);
        corm_session_close(s[1]);
        corm_engine_close(e);
        free(path);
    }
    assert_true(fits >= 0 && too_great >= 0);
    free(ids);
    changed_close(&c);
}

static void bad_spans_are_refused(void **state) {
    (void)state;
    const struct corm_engine_options opt = {.max_passes = 1, .ctx_tok = 64};
    struct quartet r = quartet_open("olmoe-tiny", opt), other = quartet_open("olmoe-tiny", opt);
    struct corm_span good = quartet_span(&r, 0, 0, 4), foreign = quartet_span(&other, 0, 0, 4),
                     more = quartet_span(&r, 1, 0, 4), none = quartet_span(&r, 1, 0, 0),
                     wrong = more;
    const int32_t ids[2] = {1, 1 << 30};
    wrong.ids = ids;
    wrong.n = 2;
    int32_t *many = mem_calloc(65, sizeof *many);
    struct corm_span far = {.session = r.s[1], .ids = many, .n = 65}, mixed_up = more;
    const uint32_t lengths[] = {3, 2};
    mixed_up.snapshots = lengths;
    mixed_up.n_snapshots = 2;
    const struct {
        struct corm_span spans[2];
        size_t n;
        const char *message;
        enum corm_error_code code;
    } rows[] = {
        {{good}, 0, "no sessions", CORM_ERROR_OTHER},
        {{good, good}, 2, "also session 0", CORM_ERROR_OTHER},
        {{good, foreign}, 2, "different engines", CORM_ERROR_OTHER},
        {{good, none}, 2, "session 1 of the batch: no tokens", CORM_ERROR_OTHER},
        {{good, wrong}, 2, "session 1 of the batch: token id 1073741824", CORM_ERROR_OTHER},
        {{good, far}, 2, "session 1 of the batch: context full", CORM_ERROR_CONTEXT},
        {{good, mixed_up}, 2, "a snapshot at 2 tokens after one at 3", CORM_ERROR_OTHER},
    };
    struct corm_pass *pass = NULL, *second = NULL;
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        assert_int_equal(corm_sessions_eval(rows[i].spans, rows[i].n, &r.error), -1);
        assert_non_null(strstr(r.error.message, rows[i].message));
        assert_int_equal(r.error.code, rows[i].code);
        assert_int_equal(corm_pass_open(&pass, rows[i].spans, rows[i].n, &r.error), -1);
        assert_non_null(strstr(r.error.message, rows[i].message));
        assert_int_equal(corm_session_length(r.s[0]), 0);
    }
    /* One pass may be open, and nobody else evaluates its session. */
    bool unfinished;
    assert_int_equal(corm_pass_open(&pass, &good, 1, &r.error), 0);
    assert_int_equal(corm_pass_open(&second, &more, 1, &r.error), -1);
    assert_non_null(strstr(r.error.message, "max_passes"));
    assert_int_equal(corm_pass_step(pass, &unfinished, &r.error), 0);
    assert_true(unfinished);
    assert_int_equal(corm_session_eval(r.s[0], r.ids, 1, false, NULL, &r.error), -1);
    assert_non_null(strstr(r.error.message, "open pass"));
    assert_int_equal(corm_session_copy(r.s[1], r.s[0], &r.error), -1);
    assert_int_equal(corm_session_copy(r.s[0], r.s[1], &r.error), -1);
    assert_int_equal(corm_session_copy(r.s[1], other.s[1], &r.error), -1);
    corm_pass_close(pass); /* in the middle of its only piece */
    corm_pass_close(NULL);
    assert_int_equal(corm_session_length(r.s[0]), 0);
    model_eval(r.s[0], r.ids, 4, false);
    quartet_check(&r, 0, 4);
    free(many);
    quartet_close(&other);
    quartet_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cancelling_keeps_what_is_said),
        cmocka_unit_test(what_is_taken_back_leaves_no_logits),
        cmocka_unit_test(closing_ends_every_span),
        cmocka_unit_test(anybody_may_cancel),
        cmocka_unit_test(an_error_concerns_one_session),
        cmocka_unit_test(bad_spans_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
