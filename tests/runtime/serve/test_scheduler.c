/*
 * The scheduler as its makers see it, without HTTP: what it tells of a job, and when a job is gone.
 */
#include "tests/util/test.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

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
static bool on_text(struct job *job, const char *text, size_t bytes, bool of_prompt) {
    (void)job;
    (void)text;
    (void)bytes;
    (void)of_prompt;
    return false;
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

/* ---- memory ---- */

enum { WRITERS = 3, CTX_TOK = 320, MADE_TOK = 250 };

/* A job that writes down what it is told. */
struct writer {
    struct job job;
    int32_t ids[PROMPT_TOK];
    struct buf text;
    atomic_int over;
};

static bool write_text(struct job *job, const char *text, size_t bytes, bool of_prompt) {
    (void)of_prompt;
    buf_append(&((struct writer *)job->ctx)->text, text, bytes);
    return false;
}
static void nothing(struct job *job) {
    (void)job;
}
static void write_end(struct job *job) {
    atomic_store(&((struct writer *)job->ctx)->over, 1);
}
static bool never(struct job *job) {
    (void)job;
    return false;
}

static const struct job_ops writer_ops = {nothing, write_text, on_token, write_end, never};

/* What all of them write, and what that took: together where there is room for all, for one, or one
 * after the other in the room of one. */
static struct scheduler_figures write_all(const char *path, uint64_t kv_bytes, bool together,
                                          struct buf texts[WRITERS]) {
    const struct corm_engine_options opt = {.threads = 1,
                                            .ctx_tok = CTX_TOK,
                                            .max_sessions = WRITERS,
                                            .max_passes = 1,
                                            .kv_bytes = kv_bytes};
    struct corm_engine *e = model_open(path, &opt);
    const struct scheduler_options o = {
        .engine = e, .parallel = WRITERS, .sessions = WRITERS, .queue = WRITERS};
    struct scheduler_figures f;
    struct scheduler *s;
    struct writer w[WRITERS];
    struct err err = {0};
    assert_int_equal(scheduler_start(&s, &o, &err), 0);
    for (int i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){.job = {.ops = &writer_ops,
                                       .ctx = &w[i],
                                       .request = scheduler_request(s),
                                       .ids = w[i].ids,
                                       .n_ids = PROMPT_TOK,
                                       .max_tok = MADE_TOK,
                                       .n_top = -1,
                                       .ignore_eos = true,
                                       .sampling = corm_sampling_defaults(e)}};
        for (int k = 0; k < PROMPT_TOK; k++) {
            w[i].ids[k] = 300 + 50 * i + k;
        }
        assert_int_equal(scheduler_reserve(s), PLACE_TAKEN);
        scheduler_submit(s, &w[i].job);
        for (int k = 0; !together && k < 6000 && !atomic_load(&w[i].over); k++) {
            clock_sleep_until(clock_ns() + 10000000);
        }
    }
    for (int i = 0; i < WRITERS; i++) {
        for (int k = 0; k < 6000 && !atomic_load(&w[i].over); k++) {
            clock_sleep_until(clock_ns() + 10000000);
        }
        assert_int_equal(atomic_load(&w[i].over), 1);
        assert_string_equal(w[i].job.error.message, "");
        assert_int_equal(w[i].job.end, JOB_LENGTH);
        assert_int_equal(w[i].job.made_tok, MADE_TOK);
        texts[i] = w[i].text;
    }
    while (scheduler_drain(s, false) > 0) {
        clock_sleep_until(clock_ns() + 1000000);
    }
    scheduler_figures(s, &f);
    assert_true(f.kv_bytes <= corm_engine_plan(e)->kv_bytes);
    scheduler_stop(s);
    corm_engine_close(e);
    return f;
}

/* Sequences that do not fit together get what they get alone: they wait for each other, and what is
 * only remembered goes. */
static void sequences_share_the_memory(void **state) {
    (void)state;
    char *path = model_archive("tests/models/fable", test_dir(), "shared", NULL, false);
    struct buf want[WRITERS], got[WRITERS];
    struct scheduler_figures f = write_all(path, 0, true, want);
    assert_true(f.paused == 0 && f.forgotten == 0);
    for (int together = 0; together < 2; together++) {
        f = write_all(path, CORM_KV_LEAST, together, got);
        assert_true(together ? f.paused > 0 : f.paused == 0 && f.forgotten > 0);
        for (int i = 0; i < WRITERS; i++) {
            assert_int_equal(got[i].len, want[i].len);
            assert_memory_equal(got[i].data, want[i].data, want[i].len);
            buf_free(&got[i]);
        }
    }
    for (int i = 0; i < WRITERS; i++) {
        assert_true(i == 0 || want[i].len != want[0].len ||
                    memcmp(want[i].data, want[0].data, want[0].len) != 0);
    }
    for (int i = 0; i < WRITERS; i++) {
        buf_free(&want[i]);
    }
    free(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(jobs_are_there_until_their_end_was_told),
        cmocka_unit_test(sequences_share_the_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
