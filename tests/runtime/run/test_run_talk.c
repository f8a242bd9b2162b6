/*
 * A talk's rule for a full context, and that what fails leaves the talk as it was.
 */
#include "tests/util/test.h"

#include "runtime/run/run_talk.h"
#include "tests/util/test_util_golden.h"

/* The main has the signals; here nothing is interrupted. */
bool run_interrupted(void) {
    return false;
}

enum { CTX = 64 };
static const char template[] = "{% for m in messages %}{{ m.role[0] }}{{ m.content }}{% endfor %}";

struct rig {
    char *archive;
    struct run_options o;
    struct run run;
    struct talk talk;
};

static void rig_open(struct rig *r, const char *name, uint64_t snapshot_bytes, uint32_t ctx) {
    *r = (struct rig){.archive = golden_archive(name, NULL), .o = {.quiet = true}};
    const struct corm_engine_options opt = {
        .ctx_tok = ctx, .max_passes = 1, .threads = 1, .snapshot_bytes = snapshot_bytes};
    r->run = (struct run){.o = &r->o, .model = r->archive, .engine = model_open(r->archive, &opt)};
    r->run.session = model_session(r->run.engine);
    r->run.info = corm_engine_info(r->run.engine);
    talk_open(&r->talk, &r->run, template, NULL);
    r->talk.max_tokens = 3;
    r->talk.sampling = (struct corm_sampling){.temperature = 0, .repeat_penalty = 1, .top_p = 1};
}

static void rig_close(struct rig *r) {
    talk_close(&r->talk);
    corm_session_close(r->run.session);
    corm_engine_close(r->run.engine);
    free(r->archive);
}

/* Takes `left` pieces of an answer and then fails. */
struct limited {
    size_t left;
};
static int put(void *ctx, bool thought, const char *text, size_t bytes, struct err *err) {
    struct limited *l = ctx;
    (void)thought, (void)text, (void)bytes;
    return l->left-- == 0 ? err_set(err, "nobody listens") : 0;
}

static int ask(struct rig *r, size_t pieces, struct talk_turn *turn) {
    struct limited l = {pieces};
    const struct talk_sink sink = {put, &l};
    struct err err = {0};
    return talk_answer(&r->talk, &sink, turn, &err);
}

/* Ask until turns are hidden; the last question is not answered yet, and its answer would hide
 * more. */
static void fill(struct rig *r) {
    struct talk_turn turn = {0};
    size_t hidden = 0;
    for (int i = 0; i < 50; i++) {
        talk_add(&r->talk, "user", "one two three four", NULL);
        hidden = r->talk.hidden;
        assert_int_equal(ask(r, SIZE_MAX, &turn), 0);
        if (r->talk.hidden > hidden) {
            /* Again from before that answer. */
            talk_cut(&r->talk, r->talk.n - 1);
            r->talk.hidden = hidden;
            return;
        }
    }
    fail_msg("nothing was hidden");
}

static void errors_hide_nothing(void **state) {
    struct rig r;
    struct talk_turn turn;
    (void)state;
    rig_open(&r, "olmoe-tiny", 0, CTX);
    fill(&r);
    const size_t n = r.talk.n, hidden = r.talk.hidden;
    for (int again = 0; again < 2; again++) {
        r.talk.told = true;
        assert_int_equal(ask(&r, 0, &turn), -1);
        assert_int_equal(turn.left_out > 0, true);
        assert_int_equal(r.talk.hidden, hidden);
        assert_true(r.talk.told);
        assert_int_equal(r.talk.n, n);
    }
    assert_int_equal(ask(&r, SIZE_MAX, &turn), 0);
    assert_true(r.talk.hidden > hidden);
    rig_close(&r);
}

/* Taken back to where all that is left was hidden, it is shown again. */
static void what_is_left_is_shown(void **state) {
    struct rig r;
    struct talk_turn turn;
    (void)state;
    rig_open(&r, "olmoe-tiny", 0, CTX);
    talk_set_system(&r.talk, "s");
    fill(&r);
    assert_int_equal(ask(&r, SIZE_MAX, &turn), 0);
    const size_t hidden = r.talk.hidden;
    assert_true(hidden > 0 && 1 + hidden < r.talk.n);
    talk_cut(&r.talk, 1 + hidden + 1);
    assert_int_equal(r.talk.hidden, hidden);
    talk_cut(&r.talk, 1 + hidden);
    assert_int_equal(r.talk.hidden, 0);
    r.talk.told = true;
    talk_cut(&r.talk, 1);
    assert_false(r.talk.told);
    rig_close(&r);
}

/* Recurrent layers go back to snapshots only: with memory for some, a turn whose earlier thoughts
 * are left out, as this template has it, goes on from the end of the message before them. */
static void snapshots_are_where_turns_part(void **state) {
    static const char thinks[] =
        "{% for m in messages %}{{ m.role }} {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}thoughts that are left out later{% endif %}";
    (void)state;
    size_t kept[2], prompt[2];
    for (size_t with = 0; with < 2; with++) {
        struct rig r;
        struct talk_turn turn;
        rig_open(&r, "qwen35moe-tiny", with ? 1 << 20 : 0, 512);
        r.talk.how.chat_template = thinks;
        for (int i = 0; i < 2; i++) {
            talk_add(&r.talk, "user", "one two three four", NULL);
            assert_int_equal(ask(&r, SIZE_MAX, &turn), 0);
        }
        kept[with] = turn.kept_tok;
        prompt[with] = turn.prompt_tok;
        rig_close(&r);
    }
    assert_int_equal(prompt[0], prompt[1]);
    assert_int_equal(kept[0], 0);
    assert_true(kept[1] > 0); /* the snapshot at the first prompt's end is behind that point */
}

static void tails_go_back(void **state) {
    static const char *const said[] = {"q", "a", "b", "c"};
    struct talk t = {0};
    (void)state;
    talk_add(&t, "user", said[0], NULL);
    for (size_t i = 1; i < TEST_COUNT(said); i++) {
        talk_add(&t, "assistant", said[i], i == 2 ? "thought" : NULL);
    }
    struct talk_tail tail = talk_take(&t, 1);
    assert_int_equal(t.n, 1);
    for (int i = 0; i < 20; i++) {
        talk_add(&t, "assistant", "other", NULL);
    }
    talk_put_back(&t, &tail);
    talk_drop(&tail);
    assert_int_equal(t.n, TEST_COUNT(said));
    for (size_t i = 0; i < t.n; i++) {
        assert_string_equal(t.messages[i].content, said[i]);
    }
    assert_string_equal(t.messages[2].thinking, "thought");
    tail = talk_take(&t, 1);
    talk_drop(&tail);
    assert_int_equal(t.n, 1);
    tail = talk_take(&t, 1); /* of nothing */
    talk_put_back(&t, &tail);
    assert_int_equal(t.n, 1);
    talk_close(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(errors_hide_nothing),
        cmocka_unit_test(what_is_left_is_shown),
        cmocka_unit_test(snapshots_are_where_turns_part),
        cmocka_unit_test(tails_go_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
