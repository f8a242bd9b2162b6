#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/engine.h"
#include "runtime/sample.h"

struct corm_session {
    struct corm_engine *engine;
    struct state state; /* stands for the first state.end tokens of `history` */
    int32_t *history;   /* [ctx_tok] */
    uint32_t n_tok;     /* of it; where the state could not be cut back to them, they are evaluated
                           again before anything else is */
    float *logits;      /* host memory [opt.logits_rows, vocab]; of the rows in use the last is the
                    * last token's */
    uint32_t logits_rows;
    struct sample sample;
    struct token_stream *stream;
    bool stream_skips_special;
    struct buf text;
    struct corm_stats stats;
};

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
    struct corm_session *s = mem_calloc(1, sizeof *s);
    state_open(&s->state, a, &engine->backend, &size, NULL);
    s->engine = engine;
    s->history = mem_calloc(engine->opt.ctx_tok, sizeof *s->history);
    s->logits = mem_calloc((size_t)engine->opt.logits_rows * a->vocab, sizeof *s->logits);
    sample_open(&s->sample, a->vocab);
    engine->n_sessions++;
    *session = s;
    return 0;
}

void corm_session_close(struct corm_session *s) {
    if (!s) {
        return;
    }
    s->engine->n_sessions--;
    state_close(&s->state);
    free(s->history);
    free(s->logits);
    sample_close(&s->sample);
    token_stream_free(s->stream);
    buf_free(&s->text);
    free(s);
}

void corm_session_truncate(struct corm_session *session, uint32_t n_tok) {
    if (n_tok >= session->n_tok) {
        return;
    }
    session->n_tok = n_tok;
    if (n_tok < session->state.end) {
        state_cut(&session->state, n_tok);
    }
}

uint32_t corm_session_length(const struct corm_session *session) {
    return session->n_tok;
}

/* ---- counters ---- */

static uint64_t share(uint64_t now, uint64_t then, uint32_t n, uint32_t i) {
    uint64_t all = now - then;
    return all / n + (i < all % n);
}

/* Add to session i its share of what the engine's parts did since the evaluation before. It is one
 * of the n sessions whose evaluation has just ended. */
static void add_share(struct corm_stats *s, const struct engine_counters *now,
                      const struct engine_counters *then, uint32_t n, uint32_t i) {
    const struct {
        uint64_t *to, now, then;
    } rows[] = {
        {&s->cache_hits, now->cache.hits, then->cache.hits},
        {&s->cache_misses, now->cache.misses, then->cache.misses},
        {&s->read_bytes, now->cache.read_bytes, then->cache.read_bytes},
        {&s->read_bytes, now->offload.read_bytes, then->offload.read_bytes},
        {&s->decoded_bytes, now->cache.decoded_bytes, then->cache.decoded_bytes},
        {&s->decoded_bytes, now->offload.decoded_bytes, then->offload.decoded_bytes},
        {&s->guessed_bytes, now->cache.guessed_bytes, then->cache.guessed_bytes},
        {&s->useful_bytes, now->cache.useful_bytes, then->cache.useful_bytes},
        {&s->wasted_bytes, now->cache.wasted_bytes, then->cache.wasted_bytes},
        {&s->weight_bytes, now->trunk_bytes, then->trunk_bytes},
        {&s->weight_bytes, now->used_bytes, then->used_bytes},
        {&s->weight_bytes, now->offload.used_bytes, then->offload.used_bytes},
        {&s->expert_bytes, now->used_bytes, then->used_bytes},
        {&s->expert_bytes, now->offload.used_bytes, then->offload.used_bytes},
        {&s->cpu_bytes, now->offload.used_bytes, then->offload.used_bytes},
        {&s->skipped_bytes, now->skipped_bytes, then->skipped_bytes},
        {&s->skipped_bytes, now->offload.skipped_bytes, then->offload.skipped_bytes},
        {&s->stall_ns, now->stall_ns, then->stall_ns},
        {&s->stall_ns, now->offload.stall_ns, then->offload.stall_ns},
        {&s->unguessed_tok, now->unguessed_tok, then->unguessed_tok},
        {&s->copied_demanded_bytes, now->link.bytes[BACKEND_DEMANDED],
         then->link.bytes[BACKEND_DEMANDED]},
        {&s->copied_guessed_bytes, now->link.bytes[BACKEND_GUESSED],
         then->link.bytes[BACKEND_GUESSED]},
        {&s->copied_chunks, now->link.pieces, then->link.pieces},
        {&s->copies, now->link.copies, then->link.copies},
        {&s->copy_ns, now->link.copy_ns, then->link.copy_ns},
        {&s->copy_hidden_ns, now->link.hidden_ns, then->link.hidden_ns},
    };
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        *rows[r].to += share(rows[r].now, rows[r].then, n, i);
    }
}

/* An evaluation of n sessions that began at `start` has ended. */
static void count(struct corm_session *const *sessions, uint32_t n, uint64_t start, bool decode,
                  size_t tokens) {
    struct corm_engine *e = sessions[0]->engine;
    struct engine_counters now = engine_count(e);
    uint64_t ns = clock_ns() - start;
    for (uint32_t i = 0; i < n; i++) {
        struct corm_stats *s = &sessions[i]->stats;
        add_share(s, &now, &e->counted, n, i);
        *(decode ? &s->decode_tok : &s->prefill_tok) += tokens;
        *(decode ? &s->decode_ns : &s->prefill_ns) += share(ns, 0, n, i);
    }
    e->counted = now;
}

void corm_session_stats(const struct corm_session *s, struct corm_stats *stats) {
    *stats = s->stats;
    stats->guesses_off = s->engine->lookahead.trial.off;
    const float *logits = corm_session_logits(s);
    stats->logits_hash = logits ? hash64(logits, s->engine->archive.arch.vocab * sizeof(float)) : 0;
}

void corm_session_reset_stats(struct corm_session *s) {
    s->stats = (struct corm_stats){0};
}

/* ---- evaluation ---- */

/* Logits of `rows` rows of the residual stream to the host, LOGITS_ROWS at a time. */
static void read_logits(struct corm_engine *e, const float *x, uint32_t rows, float *host) {
    const struct arch *a = &e->archive.arch;
    for (uint32_t done = 0; done < rows; done += LOGITS_ROWS) {
        uint32_t n = rows - done < LOGITS_ROWS ? rows - done : LOGITS_ROWS;
        forward_logits(&e->forward, &e->model, x + (size_t)done * a->dim, n, e->logits);
        e->backend.ops->read(e->backend.self, host + (size_t)done * a->vocab, e->logits,
                             (size_t)n * a->vocab * sizeof(float));
    }
}

/* Logits of row i of the residual stream to session i, for so many rows at a time that each gets
 * the bits that it gets alone, on a device too. */
static void read_logits_each(struct corm_engine *e, struct corm_session *const *sessions,
                             uint32_t n) {
    const struct arch *a = &e->archive.arch;
    for (uint32_t done = 0; done < n; done += BACKEND_SAME_BITS_ROWS) {
        uint32_t rows = n - done < BACKEND_SAME_BITS_ROWS ? n - done : BACKEND_SAME_BITS_ROWS;
        forward_logits(&e->forward, &e->model, e->forward.x + (size_t)done * a->dim, rows,
                       e->logits);
        for (uint32_t i = 0; i < rows; i++) {
            e->backend.ops->read(e->backend.self, sessions[done + i]->logits,
                                 e->logits + (size_t)i * a->vocab, a->vocab * sizeof(float));
        }
    }
}

/* All layers over the rows of a batch; the states move on when all have been passed. */
static int run_batch(struct corm_engine *e, const struct batch *b, const int32_t *ids,
                     struct err *err) {
    forward_embed(&e->forward, &e->model, ids, b, e->forward.x);
    for (uint32_t l = 0; l < e->archive.arch.n_layers; l++) {
        pthread_mutex_lock(&e->cache.lock);
        cache_clock(&e->cache, l, batch_tokens(b), b->decode);
        pthread_mutex_unlock(&e->cache.lock);
        if (forward_layer(&e->forward, &e->layers[l], l, b, e->forward.x, err) < 0) {
            return -1;
        }
    }
    const char *advice = e->kv_advice ? e->kv_advice : ": --kv f32 keeps them as they are";
    for (uint32_t i = 0; i < b->n_spans; i++) {
        if (state_check(b->spans[i].state, advice, err) < 0) {
            if (b->n_spans > 1) {
                err_prefix(err, "session %u of the batch", i);
            }
            return err_prefix(err, "%s", e->archive.map.path);
        }
    }
    for (uint32_t i = 0; i < b->n_spans; i++) {
        state_advance(b->spans[i].state, b->spans[i].rows);
    }
    e->trunk_bytes += e->trunk_step_bytes;
    return 0;
}

/* Evaluate history[state.end ..] up to position `end`, a batch at a time, so that the state takes
 * it in. Returns the number of rows of the last batch, whose hidden states are in forward.x; -1 on
 * an error. */
static int64_t run_span(struct corm_session *s, uint32_t end, bool decode, struct err *err) {
    struct corm_engine *e = s->engine;
    uint32_t rows = 0;
    while (s->state.end < end) {
        uint32_t rest = end - s->state.end;
        rows = rest < e->opt.batch_rows ? rest : e->opt.batch_rows;
        const struct span span = {.state = &s->state, .rows = rows, .pos = s->state.end};
        const struct batch b = {.rows = rows, .n_spans = 1, .spans = &span, .decode = decode};
        if (run_batch(e, &b, s->history + s->state.end, err) < 0) {
            return -1;
        }
    }
    return rows;
}

/* An evaluation was broken off: make the layers hold what the tokens before it left behind, or
 * nothing. */
static int fail_eval(struct corm_session *const *sessions, size_t n, const struct err *err,
                     struct corm_error *error) {
    for (size_t i = 0; i < n; i++) {
        state_undo(&sessions[i]->state, sessions[i]->n_tok);
    }
    return engine_fail(error, err);
}

/* Compute again what the state could not be cut back to. It counts as work on a prompt, without
 * tokens, as these have been counted once. */
static int catch_up(struct corm_session *s, struct corm_error *error) {
    struct err err = {0};
    uint64_t start = clock_ns();
    if (s->state.end == s->n_tok) {
        return 0;
    }
    if (run_span(s, s->n_tok, false, &err) < 0) {
        return fail_eval(&s, 1, &err, error);
    }
    count(&s, 1, start, false, 0);
    return 0;
}

static int check_eval(const struct corm_session *s, const int32_t *ids, size_t n, bool all_logits,
                      struct err *err) {
    const struct corm_engine *e = s->engine;
    if (n == 0) {
        return err_set(err, "no tokens to evaluate");
    }
    if (n > e->opt.ctx_tok - s->n_tok) {
        return err_set(err, "context full: %u of %u tokens used, %zu more asked for", s->n_tok,
                       e->opt.ctx_tok, n);
    }
    if (all_logits && n > e->opt.logits_rows) {
        return err_set(err, "logits of %zu tokens at once: at most %u", n, e->opt.logits_rows);
    }
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= e->archive.arch.vocab) {
            return err_set(err, "token id %d is outside the vocabulary of %u", ids[i],
                           e->archive.arch.vocab);
        }
    }
    return 0;
}

int corm_session_eval(struct corm_session *s, const int32_t *ids, size_t n, bool all_logits,
                      const float **logits, struct corm_error *error) {
    struct corm_engine *e = s->engine;
    const struct arch *a = &e->archive.arch;
    struct err err = {0};
    bool decode = n == 1; /* as corm.h says: a call of one token decodes */
    if (check_eval(s, ids, n, all_logits, &err) < 0) {
        return engine_fail(error, &err);
    }
    if (catch_up(s, error) < 0) {
        return -1;
    }
    uint64_t start = clock_ns();
    memcpy(s->history + s->n_tok, ids, n * sizeof *ids);
    int64_t rows = run_span(s, s->n_tok + (uint32_t)n, decode, &err);
    if (rows < 0) {
        return fail_eval(&s, 1, &err, error);
    }
    s->n_tok += (uint32_t)n;
    uint32_t wanted = all_logits ? (uint32_t)rows : 1;
    s->logits_rows = wanted;
    read_logits(e, e->forward.x + (size_t)(rows - wanted) * a->dim, wanted, s->logits);
    if (logits) {
        *logits = s->logits;
    }
    count(&s, 1, start, decode, n);
    return 0;
}

static int check_decode(struct corm_session *const *sessions, const int32_t *ids, size_t n,
                        struct err *err) {
    for (size_t i = 0; i < n; i++) {
        if (sessions[i]->engine != sessions[0]->engine) {
            return err_set(err, "sessions of different engines cannot be decoded together");
        }
        for (size_t j = 0; j < i; j++) {
            if (sessions[i] == sessions[j]) {
                return err_set(err, "session %zu of the batch is also session %zu", i, j);
            }
        }
        if (check_eval(sessions[i], &ids[i], 1, false, err) < 0) {
            return err_prefix(err, "session %zu of the batch", i);
        }
    }
    return 0;
}

int corm_sessions_decode(struct corm_session *const *sessions, const int32_t *ids, size_t n,
                         struct corm_error *error) {
    struct err err = {0};
    if (n == 0) {
        err_set(&err, "no sessions to decode");
        return engine_fail(error, &err);
    }
    /* No engine has more sessions, so no batch has more rows. */
    if (check_decode(sessions, ids, n, &err) < 0) {
        return engine_fail(error, &err);
    }
    for (size_t i = 0; i < n; i++) {
        if (catch_up(sessions[i], error) < 0) {
            return -1;
        }
    }
    struct corm_engine *e = sessions[0]->engine;
    uint64_t start = clock_ns();
    for (size_t i = 0; i < n; i++) {
        struct corm_session *s = sessions[i];
        s->history[s->n_tok] = ids[i];
        e->spans[i] =
            (struct span){.state = &s->state, .first = (uint32_t)i, .rows = 1, .pos = s->n_tok};
    }
    const struct batch b = {
        .rows = (uint32_t)n, .n_spans = (uint32_t)n, .spans = e->spans, .decode = true};
    if (run_batch(e, &b, ids, &err) < 0) {
        return fail_eval(sessions, n, &err, error);
    }
    read_logits_each(e, sessions, (uint32_t)n);
    for (size_t i = 0; i < n; i++) {
        sessions[i]->n_tok++;
        sessions[i]->logits_rows = 1;
    }
    count(sessions, (uint32_t)n, start, true, 1);
    return 0;
}

const float *corm_session_logits(const struct corm_session *s) {
    if (s->logits_rows == 0) {
        return NULL;
    }
    return s->logits + (size_t)(s->logits_rows - 1) * s->engine->archive.arch.vocab;
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
    return sample_draw(&s->sample, sampling, logits, known_ids(s->engine), s->history, s->n_tok,
                       s->n_tok);
}

size_t corm_logprobs(const struct corm_engine *engine, const float *logits,
                     struct corm_logprob *chosen, struct corm_logprob *top, size_t n_top) {
    return sample_logprobs(logits, engine->archive.arch.vocab, known_ids(engine), chosen, top,
                           n_top);
}
