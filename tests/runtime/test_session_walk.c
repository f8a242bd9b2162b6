/*
 * What may be done to sessions, in an order that is drawn: whatever came before, a session's logits
 * are those that its tokens get alone, and it is told truly what its layers hold.
 */
#include "tests/util/test.h"

#include "runtime/session.h"
#include "tests/util/test_util_golden.h"

static const char *const CASES[] = {GOLDEN_KINDS};

enum { TOKENS = 40, SAME = 11, BATCH = 8, SESSIONS = 3, TEXTS = 2, STEPS = 250 };

struct walk {
    char *path, *file;
    int32_t ids[TEXTS][TOKENS]; /* which begin alike, SAME tokens */
    float *want[TEXTS];         /* [TOKENS, vocab] */
    size_t vocab;
    struct corm_engine *e;
    struct corm_session *s[SESSIONS];
    int text[SESSIONS];
    /* The session that is cancelled when so many layers with experts were passed. */
    struct corm_session *cancelled;
    uint32_t left;
    uint64_t seed;
    size_t step;
};

static uint32_t draw(struct walk *w, uint32_t n) {
    w->seed = w->seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)((w->seed >> 33) % n);
}

static void on_route(void *ctx, uint32_t layer, uint32_t rows, bool decode, const int32_t *ids) {
    struct walk *w = ctx;
    (void)layer, (void)rows, (void)decode, (void)ids;
    if (w->cancelled && w->left-- == 0) {
        corm_session_cancel(w->cancelled, true);
        w->cancelled = NULL;
    }
}

/* What each text gets in one call, in an engine of its own. */
static void ask_alone(struct walk *w) {
    const struct corm_engine_options opt = {.ctx_tok = 64, .batch_rows = TOKENS};
    struct corm_engine *e = model_open(w->path, &opt);
    w->vocab = corm_engine_info(e)->vocab;
    for (int k = 0; k < TEXTS; k++) {
        struct corm_session *s = model_session(e);
        const size_t bytes = TOKENS * w->vocab * sizeof(float);
        w->want[k] = mem_alloc(bytes);
        memcpy(w->want[k], model_eval(s, w->ids[k], TOKENS, true), bytes);
        corm_session_close(s);
    }
    corm_engine_close(e);
}

static void walk_open(struct walk *w, const char *name, const struct corm_mechanisms *m) {
    size_t n;
    int32_t *ids = golden_ids(name, "ids", &n);
    assert_true(n >= TOKENS);
    w->path = golden_archive(name, NULL);
    w->file = mem_printf("%s/walk.session", test_dir());
    for (int i = 0; i < TOKENS; i++) {
        w->ids[0][i] = ids[i];
        w->ids[1][i] = i < SAME ? ids[i] : ids[TOKENS - 1 - (i - SAME)];
    }
    free(ids);
    ask_alone(w);
    struct corm_engine_options opt = {.ctx_tok = 64,
                                      .batch_rows = BATCH,
                                      .max_sessions = SESSIONS,
                                      .max_running = 2,
                                      .max_passes = 1,
                                      .snapshot_bytes = 1 << 20,
                                      .measure = m};
    w->e = model_open(w->path, &opt); /* to ask how large a snapshot is */
    opt.snapshot_bytes = 4 * snapshot_slot_bytes(w->e);
    corm_engine_close(w->e);
    w->e = model_open(w->path, &opt);
    for (int i = 0; i < SESSIONS; i++) {
        w->s[i] = model_session(w->e);
    }
}

static void walk_close(struct walk *w) {
    for (int i = 0; i < SESSIONS; i++) {
        corm_session_close(w->s[i]);
    }
    for (uint32_t i = 0; i < w->e->snapshots.n_slots; i++) {
        assert_int_equal(w->e->snapshots.uses[i], 0);
    }
    assert_int_equal(w->e->kv_used, 0);
    corm_engine_close(w->e);
    for (int k = 0; k < TEXTS; k++) {
        free(w->want[k]);
    }
    free(w->path);
    free(w->file);
}

/* Logits that a session gives are its own. With `needed` it gives some. */
static void check(const struct walk *w, int i, bool needed) {
    const uint32_t n = corm_session_length(w->s[i]);
    const float *logits = corm_session_logits(w->s[i]);
    size_t n_ids;
    const int32_t *ids = corm_session_ids(w->s[i], &n_ids);
    assert_int_equal(n_ids, n);
    assert_true(n <= TOKENS && corm_session_held(w->s[i]) <= n);
    assert_memory_equal(ids, w->ids[w->text[i]], n * sizeof *ids);
    if (needed ? !logits
               : logits && memcmp(logits, w->want[w->text[i]] + (n - 1) * w->vocab,
                                  w->vocab * sizeof *logits) != 0) {
        fail_msg("step %zu: session %d of %u tokens: %s", w->step, i, n,
                 logits ? "other logits" : "no logits");
    }
}

/* More tokens for a session, with snapshots; it may go on as the other text where both are
 * alike. */
static struct corm_span more(struct walk *w, int i, uint32_t lengths[3]) {
    const uint32_t n = corm_session_length(w->s[i]);
    w->text[i] = n <= SAME ? (int)draw(w, TEXTS) : w->text[i];
    const uint32_t most = TOKENS - n, count = 1 + draw(w, most);
    lengths[0] = n + draw(w, 4);
    lengths[1] = lengths[0] + draw(w, 7);
    lengths[2] = lengths[1] + draw(w, 7);
    return (struct corm_span){.session = w->s[i],
                              .ids = w->ids[w->text[i]] + n,
                              .n = draw(w, 3) ? count : 1,
                              .snapshots = lengths,
                              .n_snapshots = draw(w, 4)};
}

/* Evaluate some of the sessions together, in one way or another; one may be cancelled meanwhile. */
static void evaluate(struct walk *w) {
    const uint32_t first = draw(w, SESSIONS), how = draw(w, 4);
    uint32_t lengths[2][3], before[2];
    int who[2];
    struct corm_span spans[2];
    struct corm_error error;
    size_t n = 0;
    for (uint32_t k = 0; k < 2 && (k == 0 || how > 0); k++) {
        const int i = (int)((first + k) % SESSIONS);
        if (corm_session_length(w->s[i]) < TOKENS) {
            who[n] = i;
            before[n] = corm_session_length(w->s[i]);
            spans[n] = more(w, i, lengths[n]);
            n++;
        }
    }
    if (n == 0) {
        return;
    }
    const bool cancels = draw(w, 4) == 0;
    w->cancelled = cancels ? spans[0].session : NULL;
    w->left = draw(w, 30);
    int rc = -1;
    bool go_on = true;
    if (how == 0) {
        rc = corm_session_eval(spans[0].session, spans[0].ids, spans[0].n, false, NULL, &error);
        assert_true(rc == 0 || corm_session_length(spans[0].session) == before[0]);
    } else if (how == 1) {
        struct corm_session *both[2];
        int32_t ids[2];
        for (size_t k = 0; k < n; k++) {
            both[k] = spans[k].session;
            ids[k] = spans[k].ids[0];
            spans[k].n = 1;
        }
        rc = corm_sessions_decode(both, ids, n, &error);
        assert_true(n == 1 || rc == 0);
    } else if (how == 2) {
        rc = corm_sessions_eval(spans, n, &error);
    } else {
        struct corm_pass *pass;
        assert_int_equal(corm_pass_open(&pass, spans, n, &error), 0);
        for (uint32_t k = draw(w, 60); k > 0 && go_on; k--) {
            rc = corm_pass_step(pass, &go_on, &error);
        }
        corm_pass_close(pass);
    }
    w->cancelled = NULL;
    for (size_t k = 0; k < n; k++) {
        corm_session_cancel(spans[k].session, false);
        const bool done = corm_session_length(spans[k].session) == before[k] + spans[k].n;
        assert_true(done || cancels || (how == 3 && go_on));
        assert_true(done || rc < 0 || (how == 3 && go_on));
        check(w, who[k], done);
    }
}

static void step(struct walk *w) {
    const int i = (int)draw(w, SESSIONS), to = (int)draw(w, SESSIONS);
    struct corm_error error;
    switch (draw(w, 10)) {
    case 0:
    case 1:
    case 2: {
        const uint32_t n = draw(w, corm_session_length(w->s[i]) + 1);
        const uint32_t reach = corm_session_reach(w->s[i], n);
        corm_session_truncate(w->s[i], n);
        assert_int_equal(corm_session_length(w->s[i]), n);
        assert_int_equal(corm_session_held(w->s[i]), reach);
        break;
    }
    case 3:
        assert_int_equal(corm_session_copy(w->s[to], w->s[i], &error), 0);
        w->text[to] = w->text[i];
        check(w, to, false);
        break;
    case 4:
        assert_int_equal(corm_session_save(w->s[i], w->file, &error), 0);
        assert_int_equal(corm_session_load(w->s[to], w->file, &error), 0);
        w->text[to] = w->text[i];
        break;
    default:
        evaluate(w);
    }
    for (int k = 0; k < SESSIONS; k++) {
        check(w, k, false);
    }
}

static void a_walk_changes_no_bit(void **state) {
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        struct walk w = {.seed = 20261130 + c};
        const struct corm_mechanisms m = {.on_route = on_route, .on_route_ctx = &w};
        walk_open(&w, CASES[c], &m);
        for (w.step = 0; w.step < STEPS; w.step++) {
            step(&w);
        }
        walk_close(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_walk_changes_no_bit)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
