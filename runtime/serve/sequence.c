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

static void end_saying(struct scheduler *s, size_t i, enum job_end end, const char *message) {
    struct corm_error *e = &s->slots[i].job->error;
    size_t n = strnlen(message, sizeof e->message - 1);
    memmove(e->message, message, n);
    e->message[n] = 0;
    sequence_end(s, i, end);
}

/* Hands on text of the answer. Returns true where its maker ends it. */
static bool put_text(struct job *job, const char *text, size_t bytes) {
    return bytes > 0 && job->ops->text(job, text, bytes, false);
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
    if (ended && put_text(job, text, bytes)) {
        *end = JOB_STOP_TEXT;
    }
}

static void count_job(struct scheduler *s, const struct slot *slot, const struct job *job) {
    struct corm_stats stats;
    corm_session_stats(slot->session, &stats);
    corm_session_reset_stats(slot->session);
    pthread_mutex_lock(&s->lock);
    struct scheduler_figures *f = &s->figures;
    f->cached_tok += job->cached_tok;
    f->failed += job_failed(job);
    f->left += job->end == JOB_GONE;
    f->read_bytes += stats.read_bytes;
    f->cache_hits += stats.cache_hits;
    f->cache_misses += stats.cache_misses;
    f->stall_ns += stats.stall_ns;
    pthread_mutex_unlock(&s->lock);
}

/* Of forms only those that jobs work on keep masks, so that these are as many as jobs run. */
static void rest_form(struct scheduler *s, const struct job *job) {
    bool used = false;
    for (size_t i = 0; i < s->o.sessions; i++) {
        const struct job *other = s->slots[i].job;
        used |= other && other != job && other->request == job->request;
    }
    if (job->masks && !used) {
        corm_grammar_rest(job->masks);
    }
}

void sequence_end(struct scheduler *s, size_t i, enum job_end end) {
    struct slot *slot = &s->slots[i];
    struct job *job = slot->job;
    put_end(slot, &end);
    rest_form(s, job);
    job->end = end;
    slot->job = NULL;
    slot->waits = false;
    slot->again = 0;
    s->room = true;
    s->kept[i].busy = false;
    s->kept[i].used = ++s->used;
    count_job(s, slot, job);
    job->ops->end(job);
    scheduler_done(s, 1);
}

/* The text that a token adds. */
static int text_of(struct slot *slot, int32_t id, const char **text, size_t *bytes) {
    struct job *job = slot->job;
    const struct corm_engine *engine = slot->scheduler->o.engine;
    char *plain = NULL, *special = NULL;
    size_t n = 1;
    if (corm_session_text(slot->session, id, !job->n_shown, text, bytes, &job->error) < 0) {
        return -1;
    }
    for (size_t i = 0; i < job->n_shown; i++) {
        if (job->shown[i] == id) {
            return 0;
        }
    }
    /* What was held back of the tokens before stays. */
    if (job->n_shown && corm_detokenize(engine, &id, 1, true, &plain, &n, NULL) == 0 && n == 0 &&
        corm_detokenize(engine, &id, 1, false, &special, &n, NULL) == 0 && n <= *bytes &&
        memcmp(*text + *bytes - n, special, n) == 0) {
        *bytes -= n;
    }
    free(plain);
    free(special);
    return 0;
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
        rc = corm_session_text(slot->session, job->ids[i], !job->n_shown, &text, &bytes,
                               &job->error);
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

/* What the engine says is why. */
static void fail_as(struct scheduler *s, size_t i, const struct corm_error *error) {
    s->slots[i].job->error = *error;
    sequence_end(s, i, error->code == CORM_ERROR_MEMORY ? JOB_LATER : JOB_FAILED);
}

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

/* Make the target what the source is. False where there is no room for both, or that fails
 * otherwise: the target is as it was. */
static bool copy(struct scheduler *s, const struct keep_choice *c) {
    struct kept *to = &s->kept[c->target], *from = &s->kept[c->source];
    struct corm_error error = {0};
    while (corm_session_copy(s->slots[c->target].session, s->slots[c->source].session, &error) <
           0) {
        if (error.code != CORM_ERROR_MEMORY || !sequence_room_forget(s, c->target, c->source)) {
            return false;
        }
    }
    memcpy(to->ids, from->ids, from->n * sizeof *to->ids);
    to->n = from->n;
    to->exact = from->exact;
    return true;
}

/* Prepare the slot of a chosen job: the target, or, where there is no room for a copy and nobody
 * else works there, the source. Returns which, and in *common what it has of the prompt. */
static size_t take_slot(struct scheduler *s, const struct keep_choice *c, uint32_t *common) {
    const size_t target = (size_t)c->target, source = (size_t)c->source;
    *common = c->source < 0 ? 0 : c->common;
    if (c->source < 0 || c->source == c->target || copy(s, c)) {
        return target;
    }
    if (s->kept[source].busy) {
        *common = 0;
        return target;
    }
    s->slots[source].job = s->slots[target].job;
    s->slots[target].job = NULL;
    s->kept[source].busy = true;
    s->kept[target].busy = false;
    return source;
}

void sequence_begin(struct scheduler *s, const struct keep_choice *c) {
    uint32_t common;
    const size_t i = take_slot(s, c, &common);
    struct slot *slot = &s->slots[i];
    struct job *job = slot->job;
    slot->order = ++s->begun;
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
    struct corm_grammar_state *grammar = job->trigger ? job->trigger->state : job->grammar;
    job->sampling.allowed = NULL;
    return grammar && !job->thinks ? corm_grammar_allowed(grammar, job->max_tok - job->made_tok,
                                                          &job->sampling.allowed, &job->error)
                                   : 0;
}

/* A token became the text. *over: nothing may follow. */
static int accept(struct job *job, int32_t id, const char *text, size_t bytes, bool *over) {
    *over = false;
    if (job->trigger) {
        return trigger_push(job->trigger, id, text, bytes, over, &job->error);
    }
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

static bool any_finite(const struct scheduler *s, const struct slot *slot) {
    const float *logits = corm_session_logits(slot->session);
    for (uint32_t i = 0; logits && i < s->info->vocab; i++) {
        if (isfinite(logits[i])) {
            return true;
        }
    }
    return false;
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
        sequence_end(s, i, JOB_IMPOSSIBLE); /* the form has no next id, or grows too large */
        return;
    }
    int32_t id = corm_session_sample(slot->session, &job->sampling);
    if (id < 0) {
        if (any_finite(s, slot)) {
            end_saying(s, i, JOB_IMPOSSIBLE,
                       "no token is left to choose: logit_bias and the form of the answer forbid "
                       "all");
        } else {
            end_saying(s, i, JOB_FAILED, "no token to choose: the model's logits are not finite");
        }
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
    if (text_of(slot, id, &text, &bytes) < 0 || accept(job, id, text, bytes, &over) < 0) {
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
    if (position + 1 < job->n_ids && position >= job->told) {
        job->told = position + 1;
        tell_probabilities(slot, logits, job->ids[position + 1]);
    }
}

/* What a slot's job has to read before it can go on. */
static const int32_t *to_read(const struct scheduler *s, size_t i, size_t *n) {
    const struct slot *slot = &s->slots[i];
    *n = slot->again ? slot->again : slot->job->n_ids;
    return slot->again ? s->kept[i].ids : slot->job->ids;
}

static bool reads(const struct scheduler *s, size_t i) {
    size_t n;
    if (!s->slots[i].job || s->slots[i].waits) {
        return false;
    }
    to_read(s, i, &n);
    return s->slots[i].job->done < n;
}

static bool decodes(const struct slot *slot) {
    return slot->job && slot->job->pending >= 0 && slot->again == 0 && !slot->waits;
}

/* Open a pass over the next piece of a prompt, in turn. False where there is none. */
static bool open_pass(struct scheduler *s) {
    size_t i = s->turn, n = s->o.sessions, n_ids;
    struct corm_error error = {0};
    sequence_room_resume(s);
    do {
        i = (i + 1) % n;
    } while (!reads(s, i) && i != s->turn);
    if (!reads(s, i)) {
        return false;
    }
    struct slot *slot = &s->slots[i];
    struct job *job = slot->job;
    const int32_t *ids = to_read(s, i, &n_ids);
    s->turn = i;
    size_t rest = n_ids - job->done;
    size_t rows = rest < s->info->batch_rows ? rest : s->info->batch_rows;
    if (rest - rows == 1 && rows > 1) {
        rows--; /* a call of one token would count as decoding */
    }
    memcpy(s->marks, job->ends, job->n_ends * sizeof *s->marks);
    s->marks[job->n_ends] = (uint32_t)job->n_ids;
    const struct corm_span span = {
        .session = slot->session,
        .ids = ids + job->done,
        .n = rows,
        .on_logits = job->prompt_probabilities && slot->again == 0 ? on_prompt_logits : NULL,
        .ctx = slot,
        .error = &s->pass_error,
        .snapshots = s->marks,
        .n_snapshots = job->n_ends + 1};
    s->pass_error = (struct corm_error){0};
    while (corm_pass_open(&s->pass, &span, 1, &error) < 0) {
        s->pass = NULL;
        if (error.code != CORM_ERROR_MEMORY || !sequence_room_make(s, i)) {
            fail_as(s, i, &error);
            return false;
        }
        if (slot->waits) {
            return false;
        }
    }
    s->pass_rows = rows;
    s->kept[i].locked = true;
    return true;
}

void sequence_close_pass(struct scheduler *s) {
    struct kept *k = &s->kept[s->turn];
    struct job *job = s->slots[s->turn].job;
    size_t n;
    const int32_t *ids = to_read(s, s->turn, &n);
    corm_pass_close(s->pass);
    s->pass = NULL;
    k->locked = false;
    size_t rows = corm_session_length(s->slots[s->turn].session) - k->n;
    memmove(k->ids + k->n, ids + job->done, rows * sizeof *k->ids); /* perhaps they are there */
    k->n += (uint32_t)rows;
    k->exact = k->n;
    job->done += rows;
}

/* A piece was read. Where it was the last one the job goes on. */
static void piece_done(struct scheduler *s, size_t i) {
    struct slot *slot = &s->slots[i];
    size_t n;
    to_read(s, i, &n);
    if (slot->job->done < n) {
        return;
    }
    s->room = true; /* perhaps there is some for the next one that waits */
    if (slot->again > 0) {
        slot->again = 0;
        slot->job->done = slot->job->n_ids;
    } else {
        prompt_done(s, i);
    }
}

static bool anybody_decodes(const struct scheduler *s) {
    for (size_t i = 0; i < s->o.sessions; i++) {
        if (decodes(&s->slots[i])) {
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
    piece_done(s, i);
    return rows;
}

static void decoded(struct scheduler *s, size_t i, int32_t id) {
    struct kept *k = &s->kept[i];
    k->ids[k->n++] = id;
    choose(s, i);
}

/* Those that decode now. How many. */
static size_t gather(struct scheduler *s) {
    size_t n = 0;
    for (size_t i = 0; i < s->o.sessions; i++) {
        if (decodes(&s->slots[i])) {
            s->together[n] = s->slots[i].session;
            s->ids[n] = s->slots[i].job->pending;
            s->who[n++] = i;
        }
    }
    return n;
}

/* Of those that decode the one that was begun first: it is the last that has to wait. */
static size_t eldest(const struct scheduler *s, size_t n) {
    size_t first = s->who[0];
    for (size_t k = 1; k < n; k++) {
        first = s->slots[s->who[k]].order < s->slots[first].order ? s->who[k] : first;
    }
    return first;
}

/* Where all together fail, each alone, so that only those end whose own rows need what failed. */
uint64_t sequence_step_decode(struct scheduler *s) {
    struct corm_error error = {0};
    size_t n = gather(s);
    bool all = false;
    while (n > 0 && !(all = corm_sessions_decode(s->together, s->ids, n, &error) == 0) &&
           error.code == CORM_ERROR_MEMORY && sequence_room_make(s, eldest(s, n))) {
        n = gather(s);
    }
    for (size_t k = 0; k < n; k++) {
        if (all || (n > 1 && corm_sessions_decode(&s->together[k], &s->ids[k], 1, &error) == 0)) {
            decoded(s, s->who[k], s->ids[k]);
        } else {
            fail_as(s, s->who[k], &error);
        }
    }
    return n;
}
