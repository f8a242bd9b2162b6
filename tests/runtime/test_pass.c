/*
 * Spans of several sessions evaluated together, whole or a layer at a time; what ends them, and
 * what they leave behind; through the public API.
 */
#include "tests/util/test.h"

#include <pthread.h>
#include <stdatomic.h>

#include "runtime/engine.h"
#include "tests/util/test_util_changed.h"
#include "tests/util/test_util_golden.h"

static const char *const CASES[] = {GOLDEN_TINY};

enum { SESSIONS = 4, TOKENS = 24, BATCH = 8 };

/* An engine on a case, its sessions, and what each of them gets alone. */
struct rig {
    char *path;
    int32_t *ids; /* session i has those from i on */
    size_t n, row_bytes, vocab;
    struct corm_engine *e;
    struct corm_session *s[SESSIONS];
    float *alone[SESSIONS]; /* [TOKENS, vocab] */
    struct corm_error error;
};

static struct rig rig_open(const char *name, struct corm_engine_options opt) {
    struct rig r = {.ids = golden_ids(name, "ids", &r.n)};
    r.path = golden_archive(name, NULL);
    assert_true(r.n >= TOKENS + SESSIONS);
    const uint32_t running = opt.max_running, rows = opt.logits_rows;
    opt.batch_rows = TOKENS;
    opt.max_sessions = SESSIONS;
    opt.max_running = opt.logits_rows = 0;
    for (int own = 0; own < 2; own++) { /* first the engine for what each gets alone */
        r.e = model_open(r.path, &opt);
        r.vocab = corm_engine_info(r.e)->vocab;
        r.row_bytes = r.vocab * sizeof(float);
        for (int i = 0; i < SESSIONS; i++) {
            r.s[i] = model_session(r.e);
        }
        for (int i = 0; i < SESSIONS && !own; i++) {
            r.alone[i] = mem_alloc(TOKENS * r.row_bytes);
            memcpy(r.alone[i], model_eval(r.s[i], r.ids + i, TOKENS, true), TOKENS * r.row_bytes);
            corm_session_close(r.s[i]);
        }
        if (!own) {
            corm_engine_close(r.e);
            opt.batch_rows = BATCH;
            opt.threads = 2;
            opt.max_running = running;
            opt.logits_rows = rows;
        }
    }
    return r;
}

static void rig_close(struct rig *r) {
    for (int i = 0; i < SESSIONS; i++) {
        corm_session_close(r->s[i]);
        free(r->alone[i]);
    }
    corm_engine_close(r->e);
    free(r->path);
    free(r->ids);
}

/* The session has its first n tokens, and their last logits are those that it gets alone. */
static void check(const struct rig *r, int i, uint32_t n) {
    assert_int_equal(corm_session_length(r->s[i]), n);
    const float *logits = corm_session_logits(r->s[i]);
    assert_non_null(logits);
    assert_memory_equal(logits, r->alone[i] + (n - 1) * r->vocab, r->row_bytes);
}

/* The span that takes session i from `from` tokens to `to`. */
static struct corm_span span_of(const struct rig *r, int i, uint32_t from, uint32_t to) {
    return (struct corm_span){.session = r->s[i], .ids = r->ids + i + from, .n = to - from};
}

/* All sessions but the last have a beginning; the first one is cut back to it, so that what it has
 * must in some families be computed again. */
static void begin(struct rig *r) {
    model_eval(r->s[0], r->ids, 12, false);
    corm_session_truncate(r->s[0], 10);
    assert_null(corm_session_logits(r->s[0]));
    model_eval(r->s[1], r->ids + 1, 7, false);
    model_eval(r->s[2], r->ids + 2, 5, false);
}

/* ---- bits ---- */

struct rows {
    const struct rig *r;
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
            struct rig r = rig_open(CASES[c], (struct corm_engine_options){.measure = &m});
            begin(&r);
            struct rows rows = {&r, 3, 0};
            struct corm_span spans[] = {span_of(&r, 0, 10, 11), span_of(&r, 2, 5, 6),
                                        span_of(&r, 1, 7, 20), span_of(&r, 3, 0, 21)};
            spans[3].on_logits = on_logits;
            spans[3].ctx = &rows;
            assert_int_equal(corm_sessions_eval(spans, 4, &r.error), 0);
            assert_int_equal(rows.next, 21);
            check(&r, 0, 11);
            check(&r, 2, 6);
            check(&r, 1, 20);
            check(&r, 3, 21);
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
            check(&r, 0, 12);
            check(&r, 1, 21);
            check(&r, 2, 7);
            check(&r, 3, 22);
            rig_close(&r);
        }
    }
}

/* Others decode between two layers of a prompt. */
static void others_decode_between_layers(void **state) {
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        const struct corm_mechanisms m = {.cache_share = 0.5, .ahead = 2};
        struct rig r =
            rig_open(CASES[c], (struct corm_engine_options){.measure = &m, .max_passes = 2});
        begin(&r);
        const struct corm_span one = span_of(&r, 3, 0, TOKENS), two = span_of(&r, 1, 7, 22);
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
                check(&r, 0, n);
            }
        }
        assert_true(n > 12);
        corm_pass_close(pass[0]);
        corm_pass_close(pass[1]);
        check(&r, 3, TOKENS);
        check(&r, 1, 22);
        /* A step is a layer of a piece; the last one finds nothing to do. */
        assert_int_equal(steps, 3 * corm_engine_info(r.e)->n_layers + 1);
        rig_close(&r);
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
        struct rig r = rig_open(CASES[c], (struct corm_engine_options){0});
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
            check(&r, 0, TOKENS);
            corm_session_truncate(r.s[1], n);
            model_eval(r.s[1], r.ids + n, TOKENS - n, false);
            assert_memory_equal(corm_session_logits(r.s[1]), corm_session_logits(r.s[0]),
                                r.row_bytes);
            corm_session_truncate(r.s[0], 0);
            corm_session_truncate(r.s[1], 0);
        }
        assert_int_equal(corm_session_copy(r.s[0], r.s[0], NULL), 0);
        rig_close(&r);
    }
}

/* Rows of logits belong to those that were evaluated last. */
static void last_logits_are_of_those_who_run(void **state) {
    (void)state;
    struct rig r =
        rig_open("olmoe-tiny", (struct corm_engine_options){.max_running = 2, .logits_rows = 1});
    const int32_t next[] = {1, 2, 3};
    for (int i = 0; i < 4; i++) {
        model_eval(r.s[i], r.ids + i, 5, false);
        for (int k = 0; k <= i; k++) {
            assert_int_equal(corm_session_logits(r.s[k]) != NULL, k > i - 2);
        }
        check(&r, i, 5);
    }
    assert_int_equal(corm_session_sample(r.s[0], &(struct corm_sampling){.temperature = 0}), -1);
    assert_int_equal(corm_sessions_decode(r.s, next, 3, &r.error), -1);
    assert_non_null(strstr(r.error.message, "max_running"));
    const struct corm_span spans[] = {span_of(&r, 0, 5, 6), span_of(&r, 1, 5, 12)};
    assert_int_equal(corm_sessions_eval(spans, 2, &r.error), 0);
    check(&r, 0, 6);
    check(&r, 1, 12);
    assert_null(corm_session_logits(r.s[3]));
    corm_session_close(r.s[1]);
    r.s[1] = model_session(r.e);
    assert_int_equal(corm_session_copy(r.s[1], r.s[0], &r.error),
                     0); /* takes the row that is free */
    assert_memory_equal(corm_session_logits(r.s[1]), corm_session_logits(r.s[0]), r.row_bytes);
    rig_close(&r);
}

/* ---- what ends an evaluation ---- */

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
        struct rig r = rig_open(CASES[c], (struct corm_engine_options){.measure = &m});
        const uint32_t layers = layers_with_experts(r.e);
        struct corm_error errors[2] = {{.code = CORM_ERROR_OTHER}, {.code = CORM_ERROR_OTHER}};
        begin(&r);

        /* In its second piece: the call of old takes nothing, the other one keeps the first. */
        struct corm_span span = span_of(&r, 1, 7, TOKENS);
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
        check(&r, 1, TOKENS);

        /* One of several: the others are not concerned. */
        struct corm_span both[] = {span_of(&r, 2, 5, 5 + 3 * BATCH / 4), span_of(&r, 3, 0, 20)};
        both[0].error = &errors[0];
        both[1].error = &errors[1];
        by = (struct canceller){r.s[3], 0};
        assert_int_equal(corm_sessions_eval(both, 2, &r.error), -1);
        cancelled(&r.error);
        cancelled(&errors[1]);
        assert_string_equal(errors[0].message, "");
        check(&r, 2, 5 + 3 * BATCH / 4);
        assert_int_equal(corm_session_length(r.s[3]), BATCH / 4); /* the rows of that piece */
        corm_session_cancel(r.s[3], false);
        model_eval(r.s[3], r.ids + 3 + BATCH / 4, 20 - BATCH / 4, false);
        check(&r, 3, 20);

        /* Of tokens that decode: only where all are cancelled. */
        const int32_t next[] = {r.ids[2 + 11], r.ids[3 + 20]};
        corm_session_cancel(r.s[2], true);
        assert_int_equal(corm_sessions_decode(r.s + 2, next, 2, &r.error), 0);
        check(&r, 2, 12);
        check(&r, 3, 21);
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
        check(&r, 0, 11);
        check(&r, 3, 22);
        rig_close(&r);
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
        struct rig r = rig_open(CASES[c], (struct corm_engine_options){.measure = &m});
        const uint32_t layers = layers_with_experts(r.e);
        struct corm_session *const two[] = {r.s[0], r.s[3]};
        const int32_t next[] = {r.ids[10], 1};
        begin(&r);
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
            const struct corm_span span = span_of(&r, 3, BATCH - 1, 20);
            assert_int_equal(corm_sessions_eval(&span, 1, &r.error), -1);
            const uint32_t kept = corm_session_length(r.s[3]);
            assert_true(kept >= BATCH);
            assert_null(corm_session_logits(r.s[3]));
            corm_session_cancel(r.s[3], false);
            model_eval(r.s[3], r.ids + 3 + kept, 20 - kept, false);
            check(&r, 3, 20);
        }
        rig_close(&r);
    }
    assert_true(taken_back > 0);
}

/* Whoever closes a pass early is told of each session that is not done. */
static void closing_ends_every_span(void **state) {
    (void)state;
    struct rig r = rig_open("olmoe-tiny", (struct corm_engine_options){.max_passes = 1});
    struct corm_error errors[3] = {0};
    struct corm_span spans[] = {span_of(&r, 0, 0, 2), span_of(&r, 1, 0, BATCH),
                                span_of(&r, 2, 0, 4)};
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
    check(&r, 0, 2);
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
    check(&r, 2, 4);
    rig_close(&r);
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
    struct rig r = rig_open("qwen3next-tiny", (struct corm_engine_options){0});
    struct clicks c = {.session = r.s[0]};
    pthread_t thread;
    uint32_t done = 0, ended = 0;
    assert_int_equal(pthread_create(&thread, NULL, click, &c), 0);
    for (int i = 0; i < 200 || done == 0 || ended == 0; i++) {
        const struct corm_span span = span_of(&r, 0, 0, TOKENS);
        corm_session_truncate(r.s[0], 0);
        bool whole = corm_sessions_eval(&span, 1, &r.error) == 0;
        *(whole ? &done : &ended) += 1;
        if (whole) {
            check(&r, 0, TOKENS);
        } else {
            cancelled(&r.error);
        }
    }
    atomic_store(&c.stop, true);
    pthread_join(thread, NULL);
    corm_session_truncate(r.s[0], 0);
    model_eval(r.s[0], r.ids, TOKENS, false);
    check(&r, 0, TOKENS);
    rig_close(&r);
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
    struct rig r = rig_open("olmoe-tiny", opt), other = rig_open("olmoe-tiny", opt);
    struct corm_span good = span_of(&r, 0, 0, 4), foreign = span_of(&other, 0, 0, 4),
                     more = span_of(&r, 1, 0, 4), none = span_of(&r, 1, 0, 0), wrong = more;
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
    check(&r, 0, 4);
    free(many);
    rig_close(&other);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mixed_spans_change_no_bit),
        cmocka_unit_test(others_decode_between_layers),
        cmocka_unit_test(others_decode_between_logits),
        cmocka_unit_test(copies_are_exact),
        cmocka_unit_test(last_logits_are_of_those_who_run),
        cmocka_unit_test(cancelling_keeps_what_is_said),
        cmocka_unit_test(what_is_taken_back_leaves_no_logits),
        cmocka_unit_test(closing_ends_every_span),
        cmocka_unit_test(anybody_may_cancel),
        cmocka_unit_test(an_error_concerns_one_session),
        cmocka_unit_test(bad_spans_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
