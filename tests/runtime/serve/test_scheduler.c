/*
 * The scheduler as its makers see it, without HTTP: what it tells of a job, and when a job is gone.
 */
#include "tests/util/test.h"

#include <stdatomic.h>

#include "runtime/serve/scheduler.h"
#include "tests/util/test_util_model.h"

enum { PROMPT_TOK = 12 };

/* A job whose maker is slow to take it back. */
struct slow {
    struct job job;
    int32_t ids[PROMPT_TOK];
    atomic_int begun, ending, over;
    atomic_bool gone;
};

static void on_begin(struct job *job) {
    atomic_fetch_add(&((struct slow *)job->ctx)->begun, 1);
}
static void on_text(struct job *job, const char *text, size_t bytes, bool of_prompt) {
    (void)job;
    (void)text;
    (void)bytes;
    (void)of_prompt;
}
static void on_token(struct job *job, const struct corm_logprob *chosen,
                     const struct corm_logprob *top, size_t n_top) {
    (void)job;
    (void)chosen;
    (void)top;
    (void)n_top;
}
static void on_end(struct job *job) {
    struct slow *s = job->ctx;
    atomic_store(&s->ending, 1);
    clock_sleep_until(clock_ns() + 300000000);
    atomic_store(&s->over, 1);
}
static bool on_gone(struct job *job) {
    return atomic_load(&((struct slow *)job->ctx)->gone);
}

static const struct job_ops ops = {on_begin, on_text, on_token, on_end, on_gone};

static void make(struct slow *s, uint64_t request) {
    *s = (struct slow){.job = {.ops = &ops,
                               .ctx = s,
                               .request = request,
                               .ids = s->ids,
                               .n_ids = PROMPT_TOK,
                               .max_tok = 1,
                               .n_top = -1,
                               .ignore_eos = true}};
    for (int i = 0; i < PROMPT_TOK; i++) {
        s->ids[i] = i + 1;
    }
}

static void await(atomic_int *what) {
    for (int i = 0; i < 1000 && !atomic_load(what); i++) {
        clock_sleep_until(clock_ns() + 10000000);
    }
    assert_int_equal(atomic_load(what), 1);
}

/* Whoever is told that no job is there frees what their ends use. */
static void jobs_are_there_until_their_end_was_told(void **state) {
    (void)state;
    char *path = model_archive("tests/models/fable", test_dir(), "fable", NULL, false);
    const struct corm_engine_options opt = {
        .threads = 1, .ctx_tok = 64, .max_sessions = 2, .max_passes = 1};
    struct corm_engine *e = model_open(path, &opt);
    struct scheduler *s;
    struct err err = {0};
    struct slow run, dropped;
    const struct scheduler_options o = {.engine = e, .parallel = 1, .sessions = 2, .queue = 4};
    assert_int_equal(scheduler_start(&s, &o, &err), 0);
    for (int in_queue = 0; in_queue < 2; in_queue++) {
        struct slow *one = in_queue ? &dropped : &run;
        make(one, scheduler_request(s));
        one->job.sampling = corm_sampling_defaults(e);
        atomic_store(&one->gone, in_queue == 1); /* before it is begun */
        assert_int_equal(scheduler_reserve(s), PLACE_TAKEN);
        scheduler_submit(s, &one->job);
        await(&one->ending);
        struct scheduler_figures f;
        scheduler_figures(s, &f);
        assert_int_equal(f.running + f.waiting, 1);
        assert_int_equal(atomic_load(&one->over), 0);
        await(&one->over);
        assert_string_equal(one->job.error.message, "");
        assert_int_equal(one->job.end, in_queue ? JOB_GONE : JOB_LENGTH);
        assert_int_equal(one->begun, !in_queue);
    }
    while (scheduler_drain(s, false) > 0) {
        clock_sleep_until(clock_ns() + 1000000);
    }
    assert_int_equal(scheduler_reserve(s), PLACE_STOPS);
    scheduler_stop(s);
    corm_engine_close(e);
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_are_there_until_their_end_was_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
