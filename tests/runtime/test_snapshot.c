/*
 * Snapshots: where a session may be cut back to without being computed again from its beginning,
 * to the same bits; which of them stay where there is little room.
 */
#include "tests/util/test.h"

#include "runtime/session.h"
#include "tests/util/test_util_golden.h"

static const char *const CASES[] = {GOLDEN_KINDS};

enum { TOKENS = 40, BATCH = 8, SESSIONS = 3 };

struct rig {
    char *path;
    int32_t *ids;
    float *want; /* [TOKENS, vocab] of the first one's tokens, without snapshots */
    size_t row_bytes, vocab;
    struct corm_engine *e;
    struct corm_session *s[SESSIONS];
    struct corm_error error;
};

/* An engine with room for so many snapshots. */
static struct rig rig_open(const char *name, uint32_t n_snapshots) {
    struct rig r = {.path = golden_archive(name, NULL)};
    size_t n;
    r.ids = golden_ids(name, "ids", &n);
    assert_true(n >= TOKENS);
    struct corm_engine_options opt = {.ctx_tok = 64, .batch_rows = TOKENS};
    r.e = model_open(r.path, &opt);
    assert_int_equal(corm_engine_plan(r.e)->n_snapshots, 0);
    assert_int_equal(corm_engine_plan(r.e)->snapshot_bytes, 0);
    const uint64_t kv_bytes = corm_engine_plan(r.e)->kv_bytes;
    r.vocab = corm_engine_info(r.e)->vocab;
    r.row_bytes = r.vocab * sizeof(float);
    r.s[0] = model_session(r.e);
    r.want = mem_alloc(TOKENS * r.row_bytes);
    memcpy(r.want, model_eval(r.s[0], r.ids, TOKENS, true), TOKENS * r.row_bytes);
    corm_session_close(r.s[0]);
    corm_engine_close(r.e);
    opt.batch_rows = BATCH;
    opt.max_sessions = SESSIONS;
    opt.snapshot_bytes = 1 << 20;
    r.e = model_open(r.path, &opt); /* to ask how large one is */
    const size_t a_slot = snapshot_slot_bytes(r.e);
    assert_true(a_slot < kv_bytes + r.row_bytes);
    corm_engine_close(r.e);
    opt.snapshot_bytes = n_snapshots * a_slot + a_slot / 2;
    r.e = model_open(r.path, &opt);
    assert_int_equal(corm_engine_plan(r.e)->n_snapshots, n_snapshots);
    assert_int_equal(corm_engine_plan(r.e)->snapshot_bytes, n_snapshots * a_slot);
    for (int i = 0; i < SESSIONS; i++) {
        r.s[i] = model_session(r.e);
    }
    return r;
}

static void rig_close(struct rig *r) {
    for (int i = 0; i < SESSIONS; i++) {
        corm_session_close(r->s[i]);
    }
    for (uint32_t i = 0; i < r->e->snapshots.n_slots; i++) {
        assert_int_equal(r->e->snapshots.uses[i], 0); /* nothing is left behind */
    }
    corm_engine_close(r->e);
    free(r->path);
    free(r->ids);
    free(r->want);
}

/* Whether its layers keep what cannot be cut back. */
static bool forgets(const struct rig *r) {
    return r->e->snapshots.kept_bytes > 0;
}

/* Append the tokens from the session's length up to `end`, with snapshots at some lengths. */
static void extend(struct rig *r, int i, uint32_t end, const uint32_t *at, size_t n) {
    const uint32_t from = corm_session_length(r->s[i]);
    const struct corm_span span = {.session = r->s[i],
                                   .ids = r->ids + from,
                                   .n = end - from,
                                   .snapshots = at,
                                   .n_snapshots = n};
    if (corm_sessions_eval(&span, 1, &r->error) < 0) {
        fail_msg("%s", r->error.message);
    }
    assert_memory_equal(corm_session_logits(r->s[i]), r->want + (end - 1) * r->vocab, r->row_bytes);
}

static uint64_t again(const struct rig *r, int i) {
    struct corm_stats stats;
    corm_session_stats(r->s[i], &stats);
    return stats.again_tok;
}

/* The lengths of a session's snapshots are these. */
static void has(const struct rig *r, int i, const uint32_t *at, size_t n) {
    const struct snapshot_list *l = &r->s[i]->snapshots;
    bool same = l->n == n;
    for (size_t k = 0; k < n && same; k++) {
        same = l->all[k].n_tok == at[k];
    }
    for (size_t k = 0; k < l->n && !same; k++) {
        print_message("has %u%s\n", l->all[k].n_tok, l->all[k].named ? ", asked for" : "");
    }
    assert_true(same);
}
#define LENGTHS(...)                                                                               \
    (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t)

/* ---- bits ---- */

/* At lengths in the middle of pieces, at their ends, several in one; then cut back to each, and to
 * others. */
static void going_back_changes_no_bit(void **state) {
    static const uint32_t at[] = {1, 3, 5, 8, 13, 20, 21, 33};
    static const uint32_t cuts[] = {39, 34, 33, 30, 21, 20, 14, 13, 12, 5, 4, 3, 1};
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        struct rig r = rig_open(CASES[c], 30);
        extend(&r, 0, TOKENS, at, TEST_COUNT(at));
        for (size_t k = 0; k < TEST_COUNT(cuts); k++) {
            const uint32_t n = cuts[k], reach = corm_session_reach(r.s[0], n);
            bool there = false;
            for (size_t j = 0; j < TEST_COUNT(at); j++) {
                there |= at[j] == n;
            }
            assert_true(reach <= n && n - reach < BATCH);
            assert_true(!there || reach == n);
            const uint64_t before = again(&r, 0);
            corm_session_truncate(r.s[0], n);
            assert_int_equal(corm_session_held(r.s[0]), reach);
            const float *logits = corm_session_logits(r.s[0]);
            assert_true(logits || !there);
            if (logits) {
                assert_memory_equal(logits, r.want + (n - 1) * r.vocab, r.row_bytes);
            }
            extend(&r, 0, n + 1, NULL, 0);
            assert_int_equal(again(&r, 0) - before, n - reach);
            corm_session_truncate(r.s[0], n);
            /* Something else for a while. */
            model_eval(r.s[0], r.ids + 2, 5, false);
            corm_session_truncate(r.s[0], n);
            extend(&r, 0, TOKENS, at, TEST_COUNT(at));
        }
        rig_close(&r);
    }
}

/* What is broken off goes on from the nearest snapshot, and not from the beginning. */
static void what_is_broken_off_goes_on_from_there(void **state) {
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        struct rig r = rig_open(CASES[c], 30);
        const struct corm_span span = {.session = r.s[0], .ids = r.ids, .n = TOKENS};
        struct corm_pass *p = &r.e->passes[0];
        struct corm_error error;
        extend(&r, 1, 3, NULL, 0);
        p->parts[0] = (struct pass_span){.session = r.s[0], .end = TOKENS, .error = &error};
        memcpy(r.s[0]->history, span.ids, span.n * sizeof *span.ids);
        pass_begin(p, 1, false);
        for (uint32_t i = 0; i < 2 * corm_engine_info(r.e)->n_layers + 1; i++) {
            assert_true(pass_step(p));
        }
        pass_end(p); /* in the third piece */
        assert_int_equal(error.code, CORM_ERROR_CANCELLED);
        assert_int_equal(corm_session_length(r.s[0]), 2 * BATCH);
        assert_int_equal(corm_session_held(r.s[0]), 2 * BATCH);
        extend(&r, 0, TOKENS, NULL, 0);
        assert_int_equal(again(&r, 0), 0);
        rig_close(&r);
    }
}

static void copies_share_them(void **state) {
    static const uint32_t at[] = {6, 10};
    (void)state;
    for (size_t c = 0; c < TEST_COUNT(CASES); c++) {
        struct rig r = rig_open(CASES[c], 30);
        extend(&r, 0, 30, at, 2);
        const uint32_t n = (uint32_t)r.s[0]->snapshots.n;
        assert_int_equal(corm_session_copy(r.s[1], r.s[0], &r.error), 0);
        assert_int_equal(r.s[1]->snapshots.n, n);
        corm_session_truncate(r.s[0], 0);
        assert_int_equal(r.s[0]->snapshots.n, 0);
        model_eval(r.s[0], r.ids + 7, 20, false);
        corm_session_truncate(r.s[1], 11);
        assert_true(corm_session_held(r.s[1]) >= 10);
        /* A copy of what had to go back, and has gone on nowhere yet. */
        corm_session_truncate(r.s[1], 9);
        assert_int_equal(corm_session_copy(r.s[2], r.s[1], &r.error), 0);
        corm_session_truncate(r.s[2], 6);
        extend(&r, 2, TOKENS, NULL, 0);
        extend(&r, 1, TOKENS, NULL, 0);
        rig_close(&r);
    }
}

/* ---- room ---- */

/* Pieces of 8: the rule takes one behind each. */
static void those_by_the_rule_thin_out(void **state) {
    (void)state;
    struct rig r = rig_open("qwen3next-tiny", 3);
    assert_true(forgets(&r));
    extend(&r, 0, 24, NULL, 0);
    has(&r, 0, LENGTHS(8, 16, 24));
    extend(&r, 0, 32, NULL, 0); /* one as near would not be better */
    has(&r, 0, LENGTHS(8, 16, 24));
    static const uint32_t at[] = {35};
    extend(&r, 0, 40, at,
           1); /* one that is asked for comes in; the first one of the nearest goes */
    has(&r, 0, LENGTHS(16, 24, 35));
    rig_close(&r);
}

static void those_asked_for_stay(void **state) {
    static const uint32_t first[] = {4, 6}, second[] = {3}, third[] = {5, 7};
    (void)state;
    struct rig r = rig_open("qwen3next-tiny", 3);
    extend(&r, 0, 7, first, 2);
    has(&r, 0, LENGTHS(4, 6, 7)); /* the last one by the rule */
    extend(&r, 1, 7, second, 1);
    has(&r, 0, LENGTHS(4, 6));
    has(&r, 1, LENGTHS(3));
    /* Then those of the session that was used least recently. */
    extend(&r, 2, 9, third, 2);
    has(&r, 0, NULL, 0);
    has(&r, 1, LENGTHS(3));
    has(&r, 2, LENGTHS(5, 7));
    /* What was asked for may lie where there is one already, or nowhere. */
    static const uint32_t nowhere[] = {2, 7, 9, 60};
    extend(&r, 2, 12, nowhere, 4);
    has(&r, 1, LENGTHS(3));
    has(&r, 2, LENGTHS(5, 7));
    corm_session_truncate(r.s[2], 6);
    has(&r, 2, LENGTHS(5));
    corm_session_close(r.s[1]);
    r.s[1] = model_session(r.e);
    extend(&r, 1, 8, NULL, 0);
    has(&r, 1, LENGTHS(8));
    extend(&r, 0, 8, NULL, 0); /* a token that decodes */
    has(&r, 0, NULL, 0);
    rig_close(&r);
}

/* A model that forgets nothing needs none but for its logits: the rule takes none. */
static void attention_has_its_keys(void **state) {
    static const uint32_t at[] = {10};
    (void)state;
    struct rig r = rig_open("olmoe-tiny", 4);
    assert_false(forgets(&r));
    extend(&r, 0, 30, at, 1);
    has(&r, 0, LENGTHS(10));
    corm_session_truncate(r.s[0], 20);
    assert_int_equal(corm_session_held(r.s[0]), 20);
    assert_null(corm_session_logits(r.s[0]));
    corm_session_truncate(r.s[0], 10);
    struct corm_stats stats; /* whoever asks for these changes nothing */
    corm_session_stats(r.s[0], &stats);
    assert_int_equal(stats.logits_hash, 0);
    assert_memory_equal(corm_session_logits(r.s[0]), r.want + 9 * r.vocab, r.row_bytes);
    corm_session_stats(r.s[0], &stats);
    assert_true(stats.logits_hash != 0);
    rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(going_back_changes_no_bit),
        cmocka_unit_test(what_is_broken_off_goes_on_from_there),
        cmocka_unit_test(copies_share_them),
        cmocka_unit_test(those_by_the_rule_thin_out),
        cmocka_unit_test(those_asked_for_stay),
        cmocka_unit_test(attention_has_its_keys),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
