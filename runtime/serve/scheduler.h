/*
 * scheduler: who is computed next.
 *
 * Owns: the forward thread, the queue of jobs, the sessions and what they remember, sampling, and
 * the end of each text.
 * Leaves to others: what a job's text is made into (its ops), HTTP, JSON.
 * Threads: one forward thread of its own, which alone uses the engine's sessions and calls all ops.
 * scheduler_reserve, _submit, _request, _drain and _figures may be called by any thread.
 *
 * A job is one sequence: ids go in, text comes out by its ops. Jobs wait in one queue; from it the
 * next goes to the request that has the fewest running, the earliest of these first, so that a
 * request of many prompts leaves room for others. Up to `parallel` jobs run. Those that generate
 * are decoded together. Prompts are computed a piece at a time, in turn, and each piece layer by
 * layer: in between the others decode, so that they get about half of the time.
 *
 * What a finished job has computed stays in its session. The next job goes to the session that has
 * most of its prompt, or to a copy of it (keep_choose): that is cut back to what both have in
 * common and goes on there. On the CPU that changes no bit of what follows, with --loss 0. Where
 * the client of a job has left, all that was computed stays as well, for when it comes again.
 *
 * Memory. Sessions take memory by their length out of one budget (kv_bytes of the engine). Where it
 * is full, what sessions of finished jobs remember goes, what was used least lately first. Where
 * that is not enough, the job that was begun last waits: its session gives its memory back, and
 * what it had is computed again when a job has ended. So a job that is alone always has room, and
 * none fails because of another one.
 */
#ifndef RUNTIME_SERVE_SCHEDULER_H
#define RUNTIME_SERVE_SCHEDULER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/base.h"
#include "format/text/thinking.h"
#include "runtime/corm.h"
#include "runtime/corm_grammar.h"
#include "runtime/serve/trigger.h"

struct scheduler;
struct job;

enum { JOB_MAX_TOP = 20, JOB_MAX_ENDS = 8 };
enum job_end {
    JOB_RUNS,
    JOB_STOP,
    JOB_STOP_TEXT,
    JOB_LENGTH,
    JOB_GONE,
    JOB_FAILED,
    JOB_LATER,      /* there was no memory for it: the same may go well at another time */
    JOB_IMPOSSIBLE, /* what the job asks for leaves no token to choose */
    JOB_STOPPED,    /* by scheduler_drain */
};

struct job_ops {
    /* The job is begun; not called where it ends in the queue. */
    void (*begin)(struct job *job);
    /* More of the text, whole characters. `of_prompt`: of the prompt, with `echo`. True: it ends
     * here, as it has one of the maker's stop strings, and job->stop says which. */
    bool (*text)(struct job *job, const char *text, size_t bytes, bool of_prompt);
    /* With n_top: a token was chosen, whose text comes with a later call of `text`. Of the first
     * one of a prompt, `chosen` is NaN. */
    void (*token)(struct job *job, const struct corm_logprob *chosen,
                  const struct corm_logprob *top, size_t n_top);
    /* The last call: the job belongs to its maker again. */
    void (*end)(struct job *job);
    /* Whether nobody waits for the job any more. */
    bool (*gone)(struct job *job);
};

struct job {
    /* What the maker says; not changed before the end. */
    const struct job_ops *ops;
    void *ctx;
    uint32_t index;   /* of the maker's jobs */
    uint64_t request; /* jobs of the same request have the same */
    int32_t *ids;     /* [n_ids], at least 1, at most the context */
    size_t n_ids;
    /* Lengths of the prompt, ascending, that a later job may begin with and then differ, such as
     * where messages end: snapshots are taken there, as at its whole length. */
    uint32_t ends[JOB_MAX_ENDS];
    uint32_t n_ends;
    struct corm_sampling sampling;
    uint32_t max_tok; /* most tokens to generate */
    bool echo, ignore_eos;
    /* Of each token of the prompt too, with n_top: nothing is used again then. */
    bool prompt_probabilities;
    /* What the text has to look like; NULL: any will do. Where the model thinks first, that holds
     * for what follows: `thinks` is a stream of its own, and becomes NULL then. The maker's. */
    struct corm_grammar_state *grammar;
    struct corm_grammar
        *masks; /* of `grammar` or `trigger`: its masks go while no job needs them */
    struct thinking *thinks;
    /* What parts of the text have to look like, from their openings on; NULL: none has. Not beside
     * `grammar`. The maker's. */
    struct trigger *trigger;
    /* Special tokens are left out of the text, but for these ids, [n_shown]; NULL: all are. */
    const int32_t *shown;
    size_t n_shown;
    int n_top; /* probabilities of each token and so many of the likeliest; negative: none */
    /* What came of it. */
    enum job_end end;
    int stop;                      /* JOB_STOP_TEXT: which of the maker's strings */
    struct corm_error error;       /* JOB_FAILED, JOB_LATER, JOB_IMPOSSIBLE */
    uint32_t cached_tok, made_tok; /* of the prompt, those not computed anew; generated ones */
    uint64_t queued_ns, started_ns, first_ns; /* when it was: queued, begun, after its prompt */
    struct job *next; /* the maker's before scheduler_submit, then private */
    /* private */
    int32_t pending; /* the token that was chosen last and is not evaluated yet */
    size_t done;     /* of what is to be read (struct slot), evaluated */
    uint32_t told;   /* prompt_probabilities: tokens of which they were told */
};

/* Whether it ended without an answer although somebody waits for one. */
static inline bool job_failed(const struct job *job) {
    return job->end >= JOB_FAILED;
}

/* Which tokens of earlier jobs are used again. */
enum reuse {
    REUSE_ALL,
    REUSE_PROMPTS, /* not those that were generated */
    REUSE_NONE,
};

struct scheduler_options {
    struct corm_engine *engine; /* opened for `sessions` sessions */
    uint32_t parallel, sessions;
    uint32_t queue; /* most requests that wait */
    enum reuse reuse;
};

int scheduler_start(struct scheduler **s, const struct scheduler_options *options, struct err *err);
/* Take a place in the queue. With one, scheduler_submit or scheduler_give_back must follow. */
enum place { PLACE_TAKEN, PLACE_NONE, PLACE_STOPS };
enum place scheduler_reserve(struct scheduler *s);
void scheduler_give_back(struct scheduler *s);
/* `jobs` is a list by `next`. */
void scheduler_submit(struct scheduler *s, struct job *jobs);
/* A number for the jobs of one request. */
uint64_t scheduler_request(struct scheduler *s);
/* Take no more jobs. With `now`, stop those that are there. Returns how many there are. */
size_t scheduler_drain(struct scheduler *s, bool now);
/* After scheduler_drain said 0. */
void scheduler_stop(struct scheduler *s);

/* What was done since the start; times in nanoseconds. */
struct scheduler_figures {
    uint64_t prompt_tok, cached_tok, made_tok, prompt_ns, decode_ns;
    uint64_t requests, refused, failed, left; /* of jobs: left by their client */
    uint64_t decode_calls, read_bytes, cache_hits, cache_misses, stall_ns;
    uint64_t forgotten, paused; /* for want of memory: kept sessions, and jobs that had to wait */
    uint64_t kv_bytes;          /* that sessions take */
    uint32_t running, waiting;
};
void scheduler_figures(struct scheduler *s, struct scheduler_figures *out);

#endif
