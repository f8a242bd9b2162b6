/*
 * scheduler: the queue and the forward thread; see scheduler.h.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/scheduler_internal.h"

/* ---- the queue ---- */

enum place scheduler_reserve(struct scheduler *s) {
    pthread_mutex_lock(&s->lock);
    bool room = !s->draining && s->places < s->o.queue;
    s->places += room;
    s->figures.refused += !room;
    enum place place = room ? PLACE_TAKEN : s->draining ? PLACE_STOPS : PLACE_NONE;
    pthread_mutex_unlock(&s->lock);
    return place;
}

void scheduler_give_back(struct scheduler *s) {
    pthread_mutex_lock(&s->lock);
    s->places--;
    pthread_mutex_unlock(&s->lock);
}

uint64_t scheduler_request(struct scheduler *s) {
    pthread_mutex_lock(&s->lock);
    uint64_t number = ++s->requests;
    pthread_mutex_unlock(&s->lock);
    return number;
}

void scheduler_submit(struct scheduler *s, struct job *jobs) {
    uint64_t now = clock_ns();
    pthread_mutex_lock(&s->lock);
    *s->last = jobs;
    for (struct job *job = jobs; job; job = job->next) {
        job->queued_ns = now;
        job->pending = -1;
        s->last = &job->next;
    }
    s->figures.requests++;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
}

/* Takes a job out of the queue, behind `before` (NULL: the first one), and gives its place back
 * where it was its request's last one there: jobs of a request lie side by side. With the lock. */
static struct job *take(struct scheduler *s, struct job *before) {
    struct job **at = before ? &before->next : &s->first;
    struct job *job = *at;
    *at = job->next;
    if (!*at) {
        s->last = at;
    }
    s->places -= !(before && before->request == job->request) &&
                 !(job->next && job->next->request == job->request);
    return job;
}

static uint32_t running_of(const struct scheduler *s, uint64_t request) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->o.sessions; i++) {
        n += s->slots[i].job && s->slots[i].job->request == request;
    }
    return n;
}

/* Whether the prompt of a job is being computed for another one of its request: it is then copied.
 * */
static bool is_read(const struct scheduler *s, const struct job *job) {
    for (uint32_t i = 0; i < s->o.sessions; i++) {
        const struct job *other = s->slots[i].job;
        if (other && other->request == job->request && other->done < other->n_ids &&
            other->n_ids == job->n_ids && s->o.reuse != REUSE_NONE &&
            memcmp(other->ids, job->ids, job->n_ids * sizeof *job->ids) == 0) {
            return true;
        }
    }
    return false;
}

/* The next job to run: of the request that has fewest running, the earliest. With the lock. */
static struct job *take_next(struct scheduler *s) {
    struct job *before = NULL, *best = NULL, *before_best = NULL;
    uint32_t fewest = UINT32_MAX;
    for (struct job *job = s->first; job; before = job, job = job->next) {
        uint32_t n = running_of(s, job->request);
        if (n < fewest && !(n > 0 && is_read(s, job))) {
            fewest = n;
            best = job;
            before_best = before;
        }
    }
    return best ? take(s, before_best) : NULL;
}

size_t scheduler_drain(struct scheduler *s, bool now) {
    pthread_mutex_lock(&s->lock);
    s->draining = true;
    s->now |= now;
    size_t n = s->running + s->places;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    return n;
}

/* ---- the forward thread ---- */

void scheduler_done(struct scheduler *s, uint32_t n) {
    pthread_mutex_lock(&s->lock);
    s->running -= n;
    pthread_mutex_unlock(&s->lock);
}

/* Takes the first job out of the queue and those of its request, which are behind it, for whose end
 * they count as running. With the lock. */
static void drop_request(struct scheduler *s, struct job **at, enum job_end end,
                         struct job **dropped) {
    const uint64_t request = (*at)->request;
    while (*at && (*at)->request == request) {
        struct job *job = *at;
        *at = job->next;
        job->end = end;
        job->next = *dropped;
        *dropped = job;
        s->running++;
        *(end == JOB_GONE ? &s->figures.left : &s->figures.failed) += 1;
    }
    if (!*at) {
        s->last = at;
    }
    s->places--;
}

/* Queued jobs that are not to run: their client has left, or the server stops. Each request is
 * asked for once. */
static void drop_queued(struct scheduler *s) {
    struct job *dropped = NULL;
    uint32_t n = 0;
    pthread_mutex_lock(&s->lock);
    bool now = s->now;
    for (struct job **at = &s->first; *at;) {
        const uint64_t request = (*at)->request;
        const bool gone = (*at)->ops->gone(*at);
        if (gone || now) {
            drop_request(s, at, gone ? JOB_GONE : JOB_STOPPED, &dropped);
            continue;
        }
        while (*at && (*at)->request == request) {
            at = &(*at)->next;
        }
    }
    pthread_mutex_unlock(&s->lock);
    while (dropped) {
        struct job *job = dropped;
        dropped = job->next;
        n++;
        job->ops->end(job);
    }
    if (n > 0) {
        scheduler_done(s, n);
    }
}

static void drop_running(struct scheduler *s) {
    pthread_mutex_lock(&s->lock);
    bool now = s->now;
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < s->o.sessions; i++) {
        struct job *job = s->slots[i].job;
        bool gone = job && job->ops->gone(job);
        if (!gone && !(job && now)) {
            continue;
        }
        if (s->pass && i == s->turn) {
            sequence_close_pass(s);
        }
        sequence_end(s, i, gone ? JOB_GONE : JOB_STOPPED);
    }
}

static uint32_t reach(const void *ctx, size_t i, uint32_t n_tok) {
    const struct scheduler *s = ctx;
    return corm_session_reach(s->slots[i].session, n_tok);
}

/* Give the next job a session. False where there is none, or no room. */
static bool admit(struct scheduler *s) {
    if (sequence_room_wanted(s)) {
        return false;
    }
    pthread_mutex_lock(&s->lock);
    struct job *job = s->running < s->o.parallel ? take_next(s) : NULL;
    s->running += job != NULL;
    pthread_mutex_unlock(&s->lock);
    if (!job) {
        return false;
    }
    struct keep_choice c = keep_choose(s->kept, s->o.sessions, job->ids, job->n_ids,
                                       s->o.reuse == REUSE_PROMPTS, reach, s);
    if (c.target < 0) {
        die("no session is free for one of %u jobs", s->o.parallel);
    }
    if (s->o.reuse == REUSE_NONE) {
        c.source = -1;
    }
    s->slots[c.target].job = job;
    s->kept[c.target].busy = true;
    sequence_begin(s, &c);
    return true;
}

/* Sleep until there is something to do; false at the end. */
static bool await(struct scheduler *s) {
    pthread_mutex_lock(&s->lock);
    while (s->running == 0 && !s->first && !s->stop) {
        pthread_cond_wait(&s->more, &s->lock);
    }
    bool goes_on = !(s->stop && s->running == 0 && !s->first);
    pthread_mutex_unlock(&s->lock);
    return goes_on;
}

static void *forward_thread(void *ctx) {
    struct scheduler *s = ctx;
    while (await(s)) {
        drop_queued(s);
        drop_running(s);
        while (admit(s)) {
        }
        uint64_t start = clock_ns();
        uint64_t rows = sequence_step_prompt(s);
        uint64_t middle = clock_ns();
        uint64_t made = sequence_step_decode(s);
        uint64_t end = clock_ns();
        s->decode_ns = made ? end - middle : s->decode_ns;
        uint64_t kv_bytes = 0;
        for (uint32_t i = 0; i < s->o.sessions; i++) {
            kv_bytes += corm_session_bytes(s->slots[i].session);
        }
        pthread_mutex_lock(&s->lock);
        s->figures.prompt_tok += rows;
        s->figures.prompt_ns += rows || s->pass ? middle - start : 0;
        s->figures.made_tok += made;
        s->figures.decode_calls += made > 0;
        s->figures.decode_ns += made ? end - middle : 0;
        s->figures.kv_bytes = kv_bytes;
        pthread_mutex_unlock(&s->lock);
    }
    return NULL;
}

/* ---- life ---- */

void scheduler_figures(struct scheduler *s, struct scheduler_figures *out) {
    pthread_mutex_lock(&s->lock);
    *out = s->figures;
    out->running = s->running;
    out->waiting = s->places;
    pthread_mutex_unlock(&s->lock);
}

static void free_all(struct scheduler *s) {
    for (uint32_t i = 0; i < s->o.sessions; i++) {
        corm_session_close(s->slots[i].session);
        free(s->kept[i].ids);
    }
    free(s->slots);
    free(s->kept);
    free(s->together);
    free(s->ids);
    free(s->who);
    pthread_mutex_destroy(&s->lock);
    pthread_cond_destroy(&s->more);
    free(s);
}

int scheduler_start(struct scheduler **out, const struct scheduler_options *options,
                    struct err *err) {
    struct scheduler *s = mem_calloc(1, sizeof *s);
    struct corm_error error;
    uint32_t n = options->sessions;
    s->o = *options;
    s->info = corm_engine_info(options->engine);
    s->last = &s->first;
    s->slots = mem_calloc(n, sizeof *s->slots);
    s->kept = mem_calloc(n, sizeof *s->kept);
    s->together = mem_calloc(n, sizeof(struct corm_session *));
    s->ids = mem_calloc(n, sizeof *s->ids);
    s->who = mem_calloc(n, sizeof *s->who);
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->more, NULL);
    for (uint32_t i = 0; i < n; i++) {
        s->slots[i].scheduler = s;
        s->kept[i].ids = mem_calloc(s->info->ctx_tok, sizeof *s->kept[i].ids);
        if (corm_session_open(&s->slots[i].session, options->engine, &error) < 0) {
            err_set(err, "%s", error.message);
            free_all(s);
            return -1;
        }
    }
    int rc = pthread_create(&s->thread, NULL, forward_thread, s);
    if (rc != 0) {
        free_all(s);
        return err_errno(err, rc, "cannot start the forward thread");
    }
    *out = s;
    return 0;
}

void scheduler_stop(struct scheduler *s) {
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->more);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    free_all(s);
}
