/*
 * scheduler_internal: what the files of the scheduler share: scheduler.c, the queue and the
 * forward thread; sequence.c, what is done of one job, and of all that run; sequence_room.c, memory
 * for them.
 */
#ifndef RUNTIME_SERVE_SCHEDULER_INTERNAL_H
#define RUNTIME_SERVE_SCHEDULER_INTERNAL_H

#include <pthread.h>

#include "runtime/serve/keep.h"
#include "runtime/serve/scheduler.h"

struct slot {
    struct scheduler *scheduler;
    struct corm_session *session;
    struct job *job; /* NULL: it only remembers */
    uint64_t order;  /* the later its job was begun, the greater */
    bool waits;      /* for memory: its session has none meanwhile */
    /* What is to be read before the job goes on: the first so many of kept.ids, where it had to
     * give its memory back while it was generating; 0: the job's prompt. */
    uint32_t again;
};

struct scheduler {
    struct scheduler_options o;
    const struct corm_model_info *info;
    pthread_t thread;
    pthread_mutex_t lock; /* of what follows up to `figures` */
    pthread_cond_t more;
    struct job *first, **last; /* the queue */
    uint32_t places;           /* reserved, and requests that have jobs in the queue */
    uint32_t running;
    uint64_t requests;
    bool draining, now, stop;
    struct scheduler_figures figures;
    /* the forward thread's alone */
    struct slot *slots; /* [sessions] */
    struct kept *kept;  /* [sessions] */
    uint64_t used, begun;
    bool room;              /* memory came free: whoever waits for it may try */
    size_t turn;            /* the slot whose prompt was computed last */
    struct corm_pass *pass; /* open over a piece of that slot's prompt, or NULL */
    size_t pass_rows;
    uint32_t marks[JOB_MAX_ENDS + 1]; /* where snapshots are wanted of it */
    struct corm_error pass_error;
    uint64_t decode_ns;             /* what the last decoding took */
    struct corm_session **together; /* [sessions], of one decoding */
    int32_t *ids;                   /* [sessions] */
    size_t *who;                    /* [sessions] */
};

/* All below by the forward thread alone. Slots and sessions have the same numbers. */

/* So many jobs belong to their makers again: not before may scheduler_drain say that none is there,
 * as what they hold goes then. (scheduler.c) */
void scheduler_done(struct scheduler *s, uint32_t n);
/* Give the job of the chosen slot what is known of its prompt, and begin. */
void sequence_begin(struct scheduler *s, const struct keep_choice *c);
/* The job of a slot ends; the slot remembers. */
void sequence_end(struct scheduler *s, size_t i, enum job_end end);
/* Break off the pass that is open: whole pieces stay, others are forgotten. */
void sequence_close_pass(struct scheduler *s);
/* Layers of a piece of a prompt, for as long as the last decoding took where somebody decodes. The
 * tokens that were finished. */
uint64_t sequence_step_prompt(struct scheduler *s);
/* The chosen tokens of all that generate, together. How many there were. */
uint64_t sequence_step_decode(struct scheduler *s);

/* Forget what was used least lately of what only is remembered, but for two sessions. False where
 * there is nothing. */
bool sequence_room_forget(struct scheduler *s, int but, int or_but);
/* Memory for the job of slot i, or for those that were begun before it: what is remembered goes,
 * or the job that was begun last waits, which may be this one. False where it is alone, so that
 * nothing is to be had. */
bool sequence_room_make(struct scheduler *s, size_t i);
/* Whoever waits longest tries again where memory came free, or where nobody else is at work. */
void sequence_room_resume(struct scheduler *s);
/* Whether a job waits for memory. */
bool sequence_room_wanted(const struct scheduler *s);

#endif
