/*
 * scheduler: see scheduler.h.
 */
#include "runtime/serve/scheduler.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/keep.h"

struct slot {
    struct scheduler *scheduler;
    struct corm_session *session;
    struct job *job; /* NULL: it only remembers */
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
    uint64_t used;
    size_t turn;            /* the slot whose prompt was computed last */
    struct corm_pass *pass; /* open over a piece of that slot's prompt, or NULL */
    size_t pass_rows;
    uint32_t mark; /* where a snapshot is wanted: the prompt's end */
    struct corm_error pass_error;
    uint64_t decode_ns;             /* what the last decoding took */
    struct corm_session **together; /* [sessions], of one decoding */
    int32_t *ids;                   /* [sessions] */
    size_t *who;                    /* [sessions] */
};

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

/* Takes a job out of the queue, and gives its place back where it was its request's last one there.
 * With the lock. */
static struct job *take(struct scheduler *s, struct job **at) {
    struct job *job = *at;
    bool others = false;
    *at = job->next;
    if (!*at) {
        s->last = at;
    }
    for (struct job *q = s->first; q; q = q->next) {
        others |= q->request == job->request;
    }
    s->places -= !others;
    return job;
}

static uint32_t running_of(const struct scheduler *s, uint64_t request) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->o.sessions; i++) {
        n += s->slots[i].job && s->slots[i].job->request == request;
    }
    return n;
}

/* Whether the prompt of a job is being computed for another one of its request: it is then copied. */
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
    struct job **best = NULL;
    uint32_t fewest = UINT32_MAX;
    for (struct job **at = &s->first; *at; at = &(*at)->next) {
        uint32_t n = running_of(s, (*at)->request);
        if (n < fewest && !(n > 0 && is_read(s, *at))) {
            fewest = n;
            best = at;
        }
    }
    return best ? take(s, best) : NULL;
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

/* ---- one job ---- */

static void end_job(struct scheduler *s, size_t i, enum job_end end);

static void fail_job(struct scheduler *s, size_t i, const char *message) {
    struct corm_error *e = &s->slots[i].job->error;
    size_t n = strnlen(message, sizeof e->message - 1);
    memmove(e->message, message, n);
    e->message[n] = 0;
    end_job(s, i, JOB_FAILED);
}

/* Hands on text of the answer. Returns true where a stop ends it. */
static bool put_text(struct job *job, const char *text, size_t bytes) {
    bool stopped = false;
    if (job->stops) {
        job->stop = corm_stops_push(job->stops, text, bytes, &text, &bytes);
        stopped = job->stop >= 0;
    }
    if (bytes > 0) {
        job->ops->text(job, text, bytes, false);
    }
    return stopped;
}

static void tell_probabilities(const struct slot *slot, const float *logits, int32_t id) {
    struct job *job = slot->job;
    struct corm_logprob chosen = {.id = id}, top[JOB_MAX_TOP];
    size_t n = corm_logprobs(slot->scheduler->o.engine, logits, &chosen, top, (size_t)job->n_top);
    job->ops->token(job, &chosen, top, n);
}

static void put_end(struct slot *slot, enum job_end *end) {
    const char *text;
    size_t bytes;
    struct job *job = slot->job;
    bool ended = *end == JOB_STOP || *end == JOB_LENGTH;
    if (corm_session_text_end(slot->session, &text, &bytes, &job->error) < 0) {
        *end = ended ? JOB_FAILED : *end;
        return;
    }
    if (!ended) {
        return;
    }
    if (bytes > 0 && put_text(job, text, bytes)) {
        *end = JOB_STOP_TEXT;
        return;
    }
    if (job->stops) {
        corm_stops_end(job->stops, &text, &bytes);
        if (bytes > 0) {
            job->ops->text(job, text, bytes, false);
        }
    }
}

static void count_job(struct scheduler *s, const struct slot *slot, const struct job *job) {
    struct corm_stats stats;
    corm_session_stats(slot->session, &stats);
    corm_session_reset_stats(slot->session);
    pthread_mutex_lock(&s->lock);
    struct scheduler_figures *f = &s->figures;
    f->cached_tok += job->cached_tok;
    f->failed += job->end == JOB_FAILED;
    f->left += job->end == JOB_GONE;
    f->read_bytes += stats.read_bytes;
    f->cache_hits += stats.cache_hits;
    f->cache_misses += stats.cache_misses;
    f->stall_ns += stats.stall_ns;
    s->running--;
    pthread_mutex_unlock(&s->lock);
}

static void end_job(struct scheduler *s, size_t i, enum job_end end) {
    struct slot *slot = &s->slots[i];
    struct job *job = slot->job;
    put_end(slot, &end);
    job->end = end;
    slot->job = NULL;
    s->kept[i].busy = false;
    s->kept[i].used = ++s->used;
    count_job(s, slot, job);
    job->ops->end(job);
}

/* The prompt goes through the text stream too, told or not: how a token reads may depend on the one
 * before. */
static int read_prompt(struct slot *slot) {
    struct job *job = slot->job;
    const char *text;
    size_t bytes;
    for (size_t i = 0; i < job->n_ids; i++) {
        if (corm_session_text(slot->session, job->ids[i], true, &text, &bytes, &job->error) < 0) {
            return -1;
        }
        if (job->echo && bytes > 0) {
            job->ops->text(job, text, bytes, true);
        }
    }
    return 0;
}

static void prompt_done(struct scheduler *s, size_t i);

/* The session has its first `common` tokens already: cut it back to these, or to as many as leave
 * something to compute, as the last token's logits are wanted. A call of one token would count as
 * decoding, so two are left. */
static void go_back(struct scheduler *s, size_t i, uint32_t common) {
    struct corm_session *session = s->slots[i].session;
    struct job *job = s->slots[i].job;
    struct kept *k = &s->kept[i];
    corm_session_truncate(session, common);
    bool known = common == job->n_ids && corm_session_logits(session);
    if (!known && common + 2 > job->n_ids) {
        common = job->n_ids > 2 ? (uint32_t)job->n_ids - 2 : 0;
        corm_session_truncate(session, common);
    }
    k->n = common;
    k->exact = common < k->exact ? common : k->exact;
    job->cached_tok = common;
    job->done = common;
}

/* Make the target what the source is. Where that fails, the target is as it was: nothing of it is
 * used then. */
static uint32_t copy(struct scheduler *s, const struct keep_choice *c) {
    struct kept *to = &s->kept[c->target], *from = &s->kept[c->source];
    if (corm_session_copy(s->slots[c->target].session, s->slots[c->source].session, NULL) < 0) {
        return 0;
    }
    memcpy(to->ids, from->ids, from->n * sizeof *to->ids);
    to->n = from->n;
    to->exact = from->exact;
    return c->common;
}

static void begin_job(struct scheduler *s, const struct keep_choice *c) {
    size_t i = (size_t)c->target;
    struct slot *slot = &s->slots[i];
    struct job *job = slot->job;
    uint32_t common = c->source == c->target ? c->common : c->source < 0 ? 0 : copy(s, c);
    job->started_ns = clock_ns();
    go_back(s, i, job->prompt_probabilities ? 0 : common);
    if (read_prompt(slot) < 0) {
        end_job(s, i, JOB_FAILED);
        return;
    }
    if (job->prompt_probabilities) {
        const struct corm_logprob first = {.id = job->ids[0], .logprob = NAN};
        job->ops->token(job, &first, NULL, 0);
    }
    if (job->done == job->n_ids) {
        prompt_done(s, i);
    }
}

/* Choose the next token after the last evaluation, and see whether that is the end. */
static void choose(struct scheduler *s, size_t i) {
    struct slot *slot = &s->slots[i];
    struct job *job = slot->job;
    const char *text;
    size_t bytes;
    int32_t id = corm_session_sample(slot->session, &job->sampling);
    job->pending = -1;
    if (id < 0) {
        fail_job(s, i, "no token to choose: the model's logits are not finite");
        return;
    }
    if (!job->ignore_eos && corm_is_stop(s->o.engine, id)) {
        end_job(s, i, JOB_STOP);
        return;
    }
    job->made_tok++;
    if (job->n_top >= 0) {
        tell_probabilities(slot, corm_session_logits(slot->session), id);
    }
    if (corm_session_text(slot->session, id, true, &text, &bytes, &job->error) < 0) {
        end_job(s, i, JOB_FAILED);
    } else if (put_text(job, text, bytes)) {
        end_job(s, i, JOB_STOP_TEXT);
    } else if (job->made_tok >= job->max_tok ||
               corm_session_length(slot->session) == s->info->ctx_tok) {
        end_job(s, i, JOB_LENGTH); /* the last token need not be evaluated */
    } else {
        job->pending = id;
    }
}

/* ---- steps ---- */

static void prompt_done(struct scheduler *s, size_t i) {
    struct job *job = s->slots[i].job;
    job->first_ns = clock_ns();
    if (job->max_tok == 0) {
        end_job(s, i, JOB_LENGTH);
    } else {
        choose(s, i);
    }
}

/* Probabilities of the token behind one of the prompt's. */
static void on_prompt_logits(void *ctx, uint32_t position, const float *logits) {
    const struct slot *slot = ctx;
    struct job *job = slot->job;
    if (position + 1 < job->n_ids) {
        tell_probabilities(slot, logits, job->ids[position + 1]);
    }
}

/* Open a pass over the next piece of a prompt, in turn. False where there is none. */
static bool open_pass(struct scheduler *s) {
    size_t i = s->turn, n = s->o.sessions;
    do {
        i = (i + 1) % n;
    } while (!(s->slots[i].job && s->slots[i].job->done < s->slots[i].job->n_ids) && i != s->turn);
    struct slot *slot = &s->slots[i];
    struct job *job = slot->job;
    if (!job || job->done == job->n_ids) {
        return false;
    }
    s->turn = i;
    size_t rest = job->n_ids - job->done;
    size_t rows = rest < s->info->batch_rows ? rest : s->info->batch_rows;
    if (rest - rows == 1 && rows > 1) {
        rows--; /* a call of one token would count as decoding */
    }
    s->mark = (uint32_t)job->n_ids;
    const struct corm_span span = {.session = slot->session,
                                   .ids = job->ids + job->done,
                                   .n = rows,
                                   .on_logits = job->prompt_probabilities ? on_prompt_logits : NULL,
                                   .ctx = slot,
                                   .error = &s->pass_error,
                                   .snapshots = &s->mark,
                                   .n_snapshots = 1};
    s->pass_error = (struct corm_error){0};
    if (corm_pass_open(&s->pass, &span, 1, &job->error) < 0) {
        s->pass = NULL;
        end_job(s, i, JOB_FAILED);
        return false;
    }
    s->pass_rows = rows;
    s->kept[i].locked = true;
    return true;
}

/* Whole pieces stay, others are forgotten. */
static void close_pass(struct scheduler *s) {
    struct kept *k = &s->kept[s->turn];
    struct job *job = s->slots[s->turn].job;
    corm_pass_close(s->pass);
    s->pass = NULL;
    k->locked = false;
    size_t rows = corm_session_length(s->slots[s->turn].session) - k->n;
    memcpy(k->ids + k->n, job->ids + job->done, rows * sizeof *k->ids);
    k->n += (uint32_t)rows;
    k->exact = k->n;
    job->done += rows;
}

static bool anybody_decodes(const struct scheduler *s) {
    for (size_t i = 0; i < s->o.sessions; i++) {
        if (s->slots[i].job && s->slots[i].job->pending >= 0) {
            return true;
        }
    }
    return false;
}

/* Layers of a piece of a prompt, for as long as the last decoding took where somebody decodes. Returns
 * the tokens that were finished. */
static uint64_t step_prompt(struct scheduler *s) {
    bool more = true;
    uint64_t start = clock_ns(), most = anybody_decodes(s) ? s->decode_ns : UINT64_MAX;
    if (!s->pass && !open_pass(s)) {
        return 0;
    }
    size_t i = s->turn;
    int rc = 0;
    do {
        rc = corm_pass_step(s->pass, &more, &s->slots[i].job->error);
    } while (rc == 0 && more && clock_ns() - start < most);
    if (rc == 0 && more) {
        return 0;
    }
    uint64_t rows = s->pass_rows;
    close_pass(s);
    if (rc < 0) {
        end_job(s, i, JOB_FAILED);
        return 0;
    }
    if (s->slots[i].job->done == s->slots[i].job->n_ids) {
        prompt_done(s, i);
    }
    return rows;
}

static void decoded(struct scheduler *s, size_t i, int32_t id) {
    struct kept *k = &s->kept[i];
    k->ids[k->n++] = id;
    choose(s, i);
}

/* The chosen tokens of all that generate, together. Where that fails, each alone, so that only
 * those end whose own rows need what failed. */
static uint64_t step_decode(struct scheduler *s) {
    struct corm_error error;
    size_t n = 0;
    for (size_t i = 0; i < s->o.sessions; i++) {
        const struct job *job = s->slots[i].job;
        if (job && job->pending >= 0) {
            s->together[n] = s->slots[i].session;
            s->ids[n] = job->pending;
            s->who[n++] = i;
        }
    }
    if (n == 0) {
        return 0;
    }
    bool all = corm_sessions_decode(s->together, s->ids, n, &error) == 0;
    for (size_t k = 0; k < n; k++) {
        if (all || (n > 1 && corm_sessions_decode(&s->together[k], &s->ids[k], 1, &error) == 0)) {
            decoded(s, s->who[k], s->ids[k]);
        } else {
            fail_job(s, s->who[k], error.message);
        }
    }
    return n;
}

/* ---- the forward thread ---- */

/* Queued jobs that are not to run: their client has left, or the server stops. */
static void drop_queued(struct scheduler *s) {
    struct job *dropped = NULL;
    pthread_mutex_lock(&s->lock);
    bool now = s->now;
    for (struct job **at = &s->first; *at;) {
        bool gone = (*at)->ops->gone(*at);
        if (!gone && !now) {
            at = &(*at)->next;
            continue;
        }
        struct job *job = take(s, at);
        job->end = gone ? JOB_GONE : JOB_FAILED;
        job->next = dropped;
        dropped = job;
        s->figures.left += gone;
        s->figures.failed += !gone;
    }
    pthread_mutex_unlock(&s->lock);
    while (dropped) {
        struct job *job = dropped;
        dropped = job->next;
        if (job->end == JOB_FAILED) {
            memcpy(job->error.message, "the server stops", sizeof "the server stops");
        }
        job->ops->end(job);
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
            close_pass(s);
        }
        if (gone) {
            end_job(s, i, JOB_GONE);
        } else {
            fail_job(s, i, "the server stops");
        }
    }
}

/* Give the next job a session. False where there is none, or no room. */
static bool admit(struct scheduler *s) {
    pthread_mutex_lock(&s->lock);
    struct job *job = s->running < s->o.parallel ? take_next(s) : NULL;
    s->running += job != NULL;
    pthread_mutex_unlock(&s->lock);
    if (!job) {
        return false;
    }
    struct keep_choice c =
        keep_choose(s->kept, s->o.sessions, job->ids, job->n_ids, s->o.reuse == REUSE_PROMPTS);
    if (c.target < 0) {
        die("no session is free for one of %u jobs", s->o.parallel);
    }
    if (s->o.reuse == REUSE_NONE) {
        c.source = -1;
    }
    s->slots[c.target].job = job;
    s->kept[c.target].busy = true;
    begin_job(s, &c);
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
        uint64_t rows = step_prompt(s);
        uint64_t middle = clock_ns();
        uint64_t made = step_decode(s);
        uint64_t end = clock_ns();
        s->decode_ns = made ? end - middle : s->decode_ns;
        pthread_mutex_lock(&s->lock);
        s->figures.prompt_tok += rows;
        s->figures.prompt_ns += rows || s->pass ? middle - start : 0;
        s->figures.made_tok += made;
        s->figures.decode_calls += made > 0;
        s->figures.decode_ns += made ? end - middle : 0;
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
