/*
 * session_eval: what programs ask to be evaluated: checked here, evaluated by pass.c.
 */
#include "runtime/session.h"

#include <string.h>

/* What is asked of one session. */
static int check_span(const struct corm_session *s, const int32_t *ids, size_t n, struct err *err,
                      enum corm_error_code *code) {
    const struct corm_engine *e = s->engine;
    if (n == 0) {
        return err_set(err, "no tokens to evaluate");
    }
    if (s->pass) {
        return err_set(err, "the session is part of an open pass");
    }
    if (n > e->opt.ctx_tok - s->n_tok) {
        *code = CORM_ERROR_CONTEXT;
        return err_set(err, "context full: %u of %u tokens used, %zu more asked for", s->n_tok,
                       e->opt.ctx_tok, n);
    }
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || (uint32_t)ids[i] >= e->archive.arch.vocab) {
            return err_set(err, "token id %d is outside the vocabulary of %u", ids[i],
                           e->archive.arch.vocab);
        }
    }
    return 0;
}

/* Pieces are cut at these lengths, each behind the one before. */
static int check_snapshots(const struct corm_span *span, struct err *err) {
    for (size_t i = 1; i < span->n_snapshots; i++) {
        if (span->snapshots[i] < span->snapshots[i - 1]) {
            return err_set(err,
                           "a snapshot at %u tokens after one at %u: expected ascending lengths",
                           span->snapshots[i], span->snapshots[i - 1]);
        }
    }
    return 0;
}

static int check_spans(const struct corm_span *spans, size_t n, struct err *err,
                       enum corm_error_code *code) {
    if (n == 0) {
        return err_set(err, "no sessions to evaluate");
    }
    if (n > spans[0].session->engine->opt.max_running) {
        return err_set(err, "%zu sessions at once: the engine was opened for %u (max_running)", n,
                       spans[0].session->engine->opt.max_running);
    }
    for (size_t i = 0; i < n; i++) {
        if (spans[i].session->engine != spans[0].session->engine) {
            return err_set(err, "sessions of different engines cannot be evaluated together");
        }
        for (size_t j = 0; j < i; j++) {
            if (spans[i].session == spans[j].session) {
                return err_set(err, "session %zu of the batch is also session %zu", i, j);
            }
        }
        if (check_span(spans[i].session, spans[i].ids, spans[i].n, err, code) < 0 ||
            check_snapshots(&spans[i], err) < 0) {
            return n > 1 ? err_prefix(err, "session %zu of the batch", i) : -1;
        }
    }
    return 0;
}

/* Memory for all of the spans, or for none. */
static int reserve(const struct corm_span *spans, size_t n, struct err *err,
                   enum corm_error_code *code) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        const struct corm_session *s = spans[i].session;
        bytes += session_growth(s, s->n_tok + (uint32_t)spans[i].n);
    }
    if (session_room(spans[0].session->engine, bytes, err) < 0) {
        *code = CORM_ERROR_MEMORY;
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        struct corm_session *s = spans[i].session;
        session_reserve(s, s->n_tok + (uint32_t)spans[i].n, err);
    }
    return 0;
}

static struct pass_span part_of(struct corm_session *s, const int32_t *ids, size_t n) {
    memcpy(s->history + s->n_tok, ids, n * sizeof *ids);
    return (struct pass_span){
        .session = s, .start = s->n_tok, .end = s->n_tok + (uint32_t)n, .decode = n == 1};
}

/* Begin a pass over spans that were checked. */
static void begin(struct corm_pass *p, const struct corm_span *spans, size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct corm_span *span = &spans[i];
        p->parts[i] = part_of(span->session, span->ids, span->n);
        p->parts[i].on_logits = span->on_logits;
        p->parts[i].ctx = span->ctx;
        p->parts[i].snapshots = span->snapshots;
        p->parts[i].n_snapshots = span->n_snapshots;
        p->parts[i].error = span->error;
    }
    pass_begin(p, (uint32_t)n, false);
}

int corm_session_eval(struct corm_session *s, const int32_t *ids, size_t n, bool all_logits,
                      const float **logits, struct corm_error *error) {
    struct corm_engine *e = s->engine;
    struct corm_pass *p = &e->passes[0];
    const struct corm_span span = {.session = s, .ids = ids, .n = n};
    enum corm_error_code code = CORM_ERROR_OTHER;
    struct err err = {0};
    if (check_spans(&span, 1, &err, &code) < 0) {
        return engine_fail_as(error, &err, code);
    }
    if (all_logits && n > e->opt.logits_rows) {
        err_set(&err, "logits of %zu tokens at once: at most %u", n, e->opt.logits_rows);
        return engine_fail(error, &err);
    }
    if (reserve(&span, 1, &err, &code) < 0) {
        return engine_fail_as(error, &err, code);
    }
    p->parts[0] = part_of(s, ids, n);
    p->parts[0].keep_all = all_logits;
    pass_begin(p, 1, true);
    if (pass_run(p, error) < 0) {
        return -1;
    }
    if (logits) {
        *logits = all_logits ? e->all_logits : corm_session_logits(s);
    }
    return 0;
}

int corm_sessions_decode(struct corm_session *const *sessions, const int32_t *ids, size_t n,
                         struct corm_error *error) {
    enum corm_error_code code = CORM_ERROR_OTHER;
    struct err err = {0};
    if (n == 0) {
        err_set(&err, "no sessions to decode");
        return engine_fail(error, &err);
    }
    struct corm_engine *e = sessions[0]->engine;
    const size_t some = n < e->opt.max_running ? n : e->opt.max_running; /* else it is refused */
    for (size_t i = 0; i < some; i++) {
        e->asked[i] = (struct corm_span){.session = sessions[i], .ids = &ids[i], .n = 1};
    }
    if (check_spans(e->asked, n, &err, &code) < 0 || reserve(e->asked, n, &err, &code) < 0) {
        return engine_fail_as(error, &err, code);
    }
    begin(&e->passes[0], e->asked, n);
    e->passes[0].all_or_none = true;
    return pass_run(&e->passes[0], error);
}

int corm_sessions_eval(const struct corm_span *spans, size_t n, struct corm_error *error) {
    enum corm_error_code code = CORM_ERROR_OTHER;
    struct err err = {0};
    if (check_spans(spans, n, &err, &code) < 0 || reserve(spans, n, &err, &code) < 0) {
        return engine_fail_as(error, &err, code);
    }
    struct corm_pass *p = &spans[0].session->engine->passes[0];
    begin(p, spans, n);
    return pass_run(p, error);
}

int corm_pass_open(struct corm_pass **pass, const struct corm_span *spans, size_t n,
                   struct corm_error *error) {
    enum corm_error_code code = CORM_ERROR_OTHER;
    struct err err = {0};
    if (check_spans(spans, n, &err, &code) < 0) {
        return engine_fail_as(error, &err, code);
    }
    struct corm_engine *e = spans[0].session->engine;
    uint32_t i = 1;
    while (i <= e->opt.max_passes && e->passes[i].open) {
        i++;
    }
    if (i > e->opt.max_passes) {
        err_set(&err, "%u passes are open already: the engine was opened for so many (max_passes)",
                e->opt.max_passes);
        return engine_fail(error, &err);
    }
    if (reserve(spans, n, &err, &code) < 0) {
        return engine_fail_as(error, &err, code);
    }
    begin(&e->passes[i], spans, n);
    *pass = &e->passes[i];
    return 0;
}
