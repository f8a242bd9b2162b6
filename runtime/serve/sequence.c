/*
 * sequence: what is done of one job, and in one step of all that run; see scheduler_internal.h.
 *
 * Owns: the text of a job, the choice of its tokens, its end; passes over prompts, decoding.
 * Leaves to others: who runs (scheduler).
 * Threads: the forward thread.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/scheduler_internal.h"

/* ---- one job ---- */

void sequence_fail(struct scheduler *s, size_t i, const char *message) {
    struct corm_error *e = &s->slots[i].job->error;
    size_t n = strnlen(message, sizeof e->message - 1);
    memmove(e->message, message, n);
    e->message[n] = 0;
    sequence_end(s, i, JOB_FAILED);
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
    pthread_mutex_unlock(&s->lock);
}

void sequence_end(struct scheduler *s, size_t i, enum job_end end) {
    struct slot *slot = &s->slots[i];
    struct job *job = slot->job;
    put_end(slot, &end);
    job->end = end;
    slot->job = NULL;
    s->kept[i].busy = false;
    s->kept[i].used = ++s->used;
    count_job(s, slot, job);
    job->ops->end(job);
    scheduler_done(s, 1);
}

/* The prompt goes through the text stream too, told or not: how a token reads may depend on the one
 * before. It is told in one piece, as a client that is sent so many at once would be cut off. */
static int read_prompt(struct slot *slot) {
    struct job *job = slot->job;
    const char *text;
    size_t bytes;
    struct buf echo = {0};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < job->n_ids; i++) {
        rc = corm_session_text(slot->session, job->ids[i], true, &text, &bytes, &job->error);
        if (rc == 0 && job->echo) {
            buf_append(&echo, text, bytes);
        }
    }
    if (rc == 0 && echo.len > 0) {
        job->ops->text(job, echo.data, echo.len, true);
    }
    buf_free(&echo);
    return rc;
}

static void prompt_done(struct scheduler *s, size_t i);

/* The session has its first `common` tokens already: cut it back to these, or to as many as leave
 * something to compute, as the last token's logits are wanted. A call of one token would count as
 * decoding, so two are left. What its layers do not hold then is computed again, and counts as
 * such. */
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
    common = corm_session_held(session);
    corm_session_truncate(session, common);
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

void sequence_begin(struct scheduler *s, const struct keep_choice *c) {
    size_t i = (size_t)c->target;
    struct slot *slot = &s->slots[i];
    struct job *job = slot->job;
    uint32_t common = c->source == c->target ? c->common : c->source < 0 ? 0 : copy(s, c);
    job->started_ns = clock_ns();
    job->ops->begin(job);
    go_back(s, i, job->prompt_probabilities ? 0 : common);
    if (read_prompt(slot) < 0) {
        sequence_end(s, i, JOB_FAILED);
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

/* The ids that the form of the text allows next, if it has one by now. */
static int allow(struct job *job) {
    job->sampling.allowed = NULL;
    return job->grammar && !job->thinks
               ? corm_grammar_allowed(job->grammar, job->max_tok - job->made_tok,
                                      &job->sampling.allowed, &job->error)
               : 0;
}

/* A token became the text. *over: nothing may follow. */
static int accept(struct job *job, int32_t id, const char *text, size_t bytes, bool *over) {
    *over = false;
    if (!job->grammar) {
        return 0;
    }
    if (job->thinks) {
        job->thinks = thinking_goes_on(job->thinks, text, bytes) ? job->thinks : NULL;
        return 0;
    }
    if (corm_grammar_accept(job->grammar, id, &job->error) < 0) {
        return -1;
    }
    *over = corm_grammar_is_over(job->grammar);
    return 0;
}

/* Choose the next token after the last evaluation, and see whether that is the end. */
static void choose(struct scheduler *s, size_t i) {
    struct slot *slot = &s->slots[i];
    struct job *job = slot->job;
    const char *text;
    size_t bytes;
    bool over;
    job->pending = -1;
    if (allow(job) < 0) {
        sequence_end(s, i, JOB_FAILED);
        return;
    }
    int32_t id = corm_session_sample(slot->session, &job->sampling);
    if (id < 0) {
        sequence_fail(s, i,
                      job->sampling.allowed
                          ? "no token that the grammar allows can be chosen"
                          : "no token to choose: the model's logits are not finite");
        return;
    }
    if (!job->ignore_eos && corm_is_stop(s->o.engine, id)) {
        sequence_end(s, i, JOB_STOP);
        return;
    }
    job->made_tok++;
    if (job->n_top >= 0) {
        tell_probabilities(slot, corm_session_logits(slot->session), id);
    }
    if (corm_session_text(slot->session, id, true, &text, &bytes, &job->error) < 0 ||
        accept(job, id, text, bytes, &over) < 0) {
        sequence_end(s, i, JOB_FAILED);
    } else if (put_text(job, text, bytes)) {
        sequence_end(s, i, JOB_STOP_TEXT);
    } else if (over) {
        sequence_end(s, i, JOB_STOP);
    } else if (job->made_tok >= job->max_tok ||
               corm_session_length(slot->session) == s->info->ctx_tok) {
        sequence_end(s, i, JOB_LENGTH); /* the last token need not be evaluated */
    } else {
        job->pending = id;
    }
}

/* ---- steps ---- */

static void prompt_done(struct scheduler *s, size_t i) {
    struct job *job = s->slots[i].job;
    job->first_ns = clock_ns();
    if (job->max_tok == 0) {
        sequence_end(s, i, JOB_LENGTH);
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
    memcpy(s->marks, job->ends, job->n_ends * sizeof *s->marks);
    s->marks[job->n_ends] = (uint32_t)job->n_ids;
    const struct corm_span span = {.session = slot->session,
                                   .ids = job->ids + job->done,
                                   .n = rows,
                                   .on_logits = job->prompt_probabilities ? on_prompt_logits : NULL,
                                   .ctx = slot,
                                   .error = &s->pass_error,
                                   .snapshots = s->marks,
                                   .n_snapshots = job->n_ends + 1};
    s->pass_error = (struct corm_error){0};
    if (corm_pass_open(&s->pass, &span, 1, &job->error) < 0) {
        s->pass = NULL;
        sequence_end(s, i, JOB_FAILED);
        return false;
    }
    s->pass_rows = rows;
    s->kept[i].locked = true;
    return true;
}

void sequence_close_pass(struct scheduler *s) {
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

uint64_t sequence_step_prompt(struct scheduler *s) {
    const uint64_t alone_ns = 50000000; /* then it is looked who has left, and who has come */
    bool more = true;
    uint64_t start = clock_ns(), most = anybody_decodes(s) ? s->decode_ns : alone_ns;
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
    sequence_close_pass(s);
    if (rc < 0) {
        sequence_end(s, i, JOB_FAILED);
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

/* Where all together fail, each alone, so that only those end whose own rows need what failed. */
uint64_t sequence_step_decode(struct scheduler *s) {
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
            sequence_fail(s, s->who[k], error.message);
        }
    }
    return n;
}
