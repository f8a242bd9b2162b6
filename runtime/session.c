/*
 * session: see session.h. What a sequence is without being evaluated: its lifetime, its text, the
 * choice of its next token.
 */
#include "runtime/session.h"

#include <stdlib.h>
#include <string.h>

/* ---- rows of logits ---- */

void session_lose_row(struct corm_session *s) {
    if (s->row >= 0) {
        s->engine->running[s->row] = NULL;
        s->row = -1;
    }
}

float *session_row(struct corm_session *s) {
    struct corm_engine *e = s->engine;
    uint32_t best = 0;
    for (uint32_t i = 0; i < e->opt.max_running && s->row < 0; i++) {
        const struct corm_session *has = e->running[i], *worst = e->running[best];
        if (worst && (!has || has->used < worst->used)) {
            best = i;
        }
    }
    if (s->row < 0) {
        if (e->running[best]) {
            e->running[best]->row = -1;
        }
        e->running[best] = s;
        s->row = best;
    }
    s->row_end = s->n_tok;
    return e->last_logits + (size_t)s->row * e->archive.arch.vocab;
}

const float *session_known_row(const struct corm_session *s) {
    return s->row >= 0 && s->row_end == s->n_tok
               ? s->engine->last_logits + (size_t)s->row * s->engine->archive.arch.vocab
               : NULL;
}

/* ---- memory ---- */

static uint64_t bytes_at(const struct corm_session *s, uint32_t n_tok) {
    return state_bytes_at(&s->engine->archive.arch, &s->state.size, n_tok);
}

uint64_t session_growth(const struct corm_session *s, uint32_t n_tok) {
    const uint64_t bytes = bytes_at(s, n_tok);
    return bytes > s->kv_bytes ? bytes - s->kv_bytes : 0;
}

int session_room(const struct corm_engine *e, uint64_t bytes, struct err *err) {
    const uint64_t most = e->plan.kv_bytes, left = most - e->kv_used;
    return bytes <= left ? 0
                         : err_set(err,
                                   "the sessions' memory is full: %.1f MiB more are needed, %.1f "
                                   "of %.1f are free",
                                   (double)bytes / (1 << 20), (double)left / (1 << 20),
                                   (double)most / (1 << 20));
}

int session_reserve(struct corm_session *s, uint32_t n_tok, struct err *err) {
    const uint64_t bytes = session_growth(s, n_tok);
    if (session_room(s->engine, bytes, err) < 0) {
        return -1;
    }
    s->kv_bytes += bytes;
    s->engine->kv_used += bytes;
    state_touch(&s->state, n_tok);
    return 0;
}

void session_settle(struct corm_session *s) {
    const uint64_t bytes = bytes_at(s, s->n_tok);
    state_forget(&s->state, s->n_tok);
    s->engine->kv_used -= s->kv_bytes - bytes;
    s->kv_bytes = bytes;
}

uint64_t corm_session_bytes(const struct corm_session *s) {
    return s->kv_bytes;
}

/* ---- life ---- */

int corm_session_open(struct corm_session **session, struct corm_engine *engine,
                      struct corm_error *error) {
    const struct arch *a = &engine->archive.arch;
    const struct state_size size = engine_state_size(engine);
    struct err err = {0};
    if (engine->n_sessions == engine->opt.max_sessions) {
        err_set(&err,
                "%u sessions are open already: the engine was opened for so many "
                "(max_sessions)",
                engine->n_sessions);
        return engine_fail(error, &err);
    }
    const uint64_t bytes = state_bytes_at(a, &size, 0);
    if (session_room(engine, bytes, &err) < 0) {
        return engine_fail_as(error, &err, CORM_ERROR_MEMORY);
    }
    struct corm_session *s = mem_calloc(1, sizeof *s);
    if (state_open(&s->state, a, &engine->backend, &size, NULL, &err) < 0) {
        state_close(&s->state);
        free(s);
        return engine_fail_as(error, &err, CORM_ERROR_MEMORY);
    }
    s->kv_bytes = bytes;
    engine->kv_used += bytes;
    s->engine = engine;
    s->history = mem_calloc(engine->opt.ctx_tok, sizeof *s->history);
    s->row = -1;
    engine->sessions[engine->n_sessions++] = s;
    *session = s;
    return 0;
}

/* The end of a program that changes a session while it is evaluated. */
static void only_alone(const struct corm_session *s) {
    if (s->pass) {
        die("a session of an open pass was cut back or closed");
    }
}

void corm_session_close(struct corm_session *s) {
    if (!s) {
        return;
    }
    only_alone(s);
    struct corm_engine *e = s->engine;
    uint32_t at = 0;
    while (e->sessions[at] != s) {
        at++;
    }
    e->sessions[at] = e->sessions[--e->n_sessions];
    e->kv_used -= s->kv_bytes;
    session_lose_row(s);
    snapshot_cut(s, 0);
    free(s->snapshots.all);
    state_close(&s->state);
    free(s->history);
    token_stream_free(s->stream);
    buf_free(&s->text);
    free(s);
}

void corm_session_truncate(struct corm_session *session, uint32_t n_tok) {
    only_alone(session);
    if (n_tok >= session->n_tok) {
        return;
    }
    session->n_tok = n_tok;
    session_lose_row(session);
    snapshot_cut(session, n_tok);
    if (n_tok < session->state.end) {
        session_go_back(session, n_tok, false);
    }
    session_settle(session);
}

void session_go_back(struct corm_session *s, uint32_t n_tok, bool broken) {
    struct state *state = &s->state;
    const uint32_t end = n_tok < state->end ? n_tok : state->end;
    const struct snapshot *at = snapshot_before(s, n_tok);
    if (broken) {
        state_break(state);
    }
    if (at && (at->n_tok > end || !state_holds(state, end))) {
        state_return(state, at->n_tok, snapshot_kept(&s->engine->snapshots, at->slot));
    } else {
        state_cut(state, end);
    }
}

uint32_t corm_session_reach(const struct corm_session *s, uint32_t n_tok) {
    const uint32_t end = n_tok < corm_session_held(s) ? n_tok : corm_session_held(s);
    const struct snapshot *at = snapshot_before(s, n_tok);
    const uint32_t held = state_holds(&s->state, end) ? end : 0;
    return at && at->n_tok > held ? at->n_tok : held;
}

int corm_session_copy(struct corm_session *to, const struct corm_session *from,
                      struct corm_error *error) {
    struct err err = {0};
    if (to->engine != from->engine) {
        err_set(&err, "a session cannot be copied to one of another engine");
        return engine_fail(error, &err);
    }
    if (to->pass || from->pass) {
        err_set(&err, "a session of an open pass cannot be copied");
        return engine_fail(error, &err);
    }
    if (to == from) {
        return 0;
    }
    const size_t vocab = to->engine->archive.arch.vocab;
    if (session_reserve(to, from->n_tok, &err) < 0) {
        return engine_fail_as(error, &err, CORM_ERROR_MEMORY);
    }
    state_copy(&to->state, &from->state, from->n_tok);
    memcpy(to->history, from->history, from->n_tok * sizeof *to->history);
    to->n_tok = from->n_tok;
    session_settle(to);
    session_lose_row(to);
    to->used = ++to->engine->evaluations;
    if (from->row >= 0 && from->row_end == from->n_tok) {
        struct corm_engine *e = to->engine;
        memcpy(e->host_row, e->last_logits + (size_t)from->row * vocab, vocab * sizeof(float));
        memcpy(session_row(to), e->host_row, vocab * sizeof(float)); /* perhaps it was from's */
    }
    snapshot_share(to, from);
    return 0;
}

void corm_session_cancel(struct corm_session *session, bool cancelled) {
    atomic_store(&session->cancelled, cancelled);
}

uint32_t corm_session_length(const struct corm_session *session) {
    return session->n_tok;
}

uint32_t corm_session_held(const struct corm_session *session) {
    return session->state.end < session->n_tok ? session->state.end : session->n_tok;
}

const int32_t *corm_session_ids(const struct corm_session *session, size_t *n) {
    *n = session->n_tok;
    return session->history;
}

/* Make the last token's logits of the hidden row that a snapshot kept. */
static void logits_of(struct corm_session *s, const struct snapshot *at) {
    struct corm_engine *e = s->engine;
    forward_logits(&e->forward, &e->model, snapshot_row(&e->snapshots, at->slot), 1, e->logits);
    e->backend.ops->read(e->backend.self, session_row(s), e->logits,
                         e->archive.arch.vocab * sizeof *e->logits);
}

const float *corm_session_logits(const struct corm_session *session) {
    /* To programs a session does not change by being asked for what it has to give. */
    struct corm_session *s = (struct corm_session *)(uintptr_t)session;
    const struct snapshot *at = session_known_row(s) ? NULL : snapshot_before(s, s->n_tok);
    if (at && at->n_tok == s->n_tok && !s->pass) {
        logits_of(s, at);
    }
    return session_known_row(s);
}

/* ---- text ---- */

static int push_text(struct corm_session *s, const char **text, size_t *text_bytes, int status,
                     struct err *err, struct corm_error *error) {
    *text = s->text.data ? s->text.data : "";
    *text_bytes = s->text.len;
    if (status < 0) {
        err_prefix(err, "%s", s->engine->archive.map.path);
        return engine_fail(error, err);
    }
    return 0;
}

int corm_session_text(struct corm_session *s, int32_t id, bool skip_special, const char **text,
                      size_t *text_bytes, struct corm_error *error) {
    struct err err = {0};
    if (s->stream && s->stream_skips_special != skip_special) {
        token_stream_free(s->stream);
        s->stream = NULL;
    }
    if (!s->stream) {
        s->stream =
            token_stream_new(s->engine->tokenizer, skip_special ? TOKENIZER_SKIP_SPECIAL : 0);
    }
    s->stream_skips_special = skip_special;
    s->text.len = 0;
    int status = token_stream_push(s->stream, (uint32_t)id, &s->text, &err);
    return push_text(s, text, text_bytes, status, &err, error);
}

int corm_session_text_end(struct corm_session *s, const char **text, size_t *text_bytes,
                          struct corm_error *error) {
    struct err err = {0};
    s->text.len = 0;
    int status = s->stream ? token_stream_finish(s->stream, &s->text, &err) : 0;
    return push_text(s, text, text_bytes, status, &err, error);
}

/* ---- sampling ---- */

struct corm_sampling corm_sampling_defaults(const struct corm_engine *engine) {
    const struct arch *a = &engine->archive.arch;
    return (struct corm_sampling){
        .temperature = a->gen_temperature >= 0 ? a->gen_temperature : 0.8f,
        .top_k = a->gen_top_k >= 0 ? (uint32_t)a->gen_top_k : 40,
        .top_p = a->gen_top_p >= 0 ? a->gen_top_p : 0.95f,
        .min_p = 0.05f,
        .repeat_penalty = a->gen_repeat_penalty >= 0 ? a->gen_repeat_penalty : 1.0f,
        .repeat_last_tok = 64,
    };
}

/* Rows of logits that are ids. */
static uint32_t known_ids(const struct corm_engine *e) {
    uint32_t vocab = e->archive.arch.vocab, known = tokenizer_vocab_size(e->tokenizer);
    return known < vocab ? known : vocab;
}

int32_t corm_session_sample(struct corm_session *s, const struct corm_sampling *sampling) {
    const float *logits = corm_session_logits(s);
    if (!logits) {
        return -1;
    }
    return sample_draw(&s->engine->sample, sampling, logits, known_ids(s->engine), s->history,
                       s->n_tok, s->n_tok);
}

size_t corm_logprobs(const struct corm_engine *engine, const float *logits,
                     struct corm_logprob *chosen, struct corm_logprob *top, size_t n_top) {
    return sample_logprobs(logits, engine->archive.arch.vocab, known_ids(engine), chosen, top,
                           n_top);
}
