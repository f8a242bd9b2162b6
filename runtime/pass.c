/*
 * pass: evaluations (see session.h): what the next piece is made of, a layer of it, and what
 * becomes of its sessions and their logits.
 *
 * Cancellation is looked for between layers. A session whose rows share a piece with those of
 * others goes on to the end of the piece, because its rows cannot be taken out; where all of them
 * are cancelled, the piece is broken off.
 */
#include "runtime/session.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

/* ---- memory ---- */

uint64_t pass_bytes(const struct corm_engine *e) {
    const struct corm_pass *p = NULL;
    return sizeof *p + e->opt.max_sessions * (sizeof *p->parts + sizeof *p->spans) +
           PASS_SNAPSHOTS * sizeof *p->spans + engine_max_rows(e) * sizeof *p->ids;
}

void pass_open(struct corm_pass *p, struct corm_engine *e, float *x) {
    *p = (struct corm_pass){.engine = e, .x = x};
    p->parts = mem_calloc(e->opt.max_sessions, sizeof *p->parts);
    p->spans = mem_calloc((size_t)e->opt.max_sessions + PASS_SNAPSHOTS, sizeof *p->spans);
    p->ids = mem_calloc(engine_max_rows(e), sizeof *p->ids);
}

void pass_close(struct corm_pass *p) {
    free(p->parts);
    free(p->spans);
    free(p->ids);
    *p = (struct corm_pass){0};
}

void pass_begin(struct corm_pass *p, uint32_t n, bool all_or_none) {
    p->open = true;
    p->all_or_none = all_or_none;
    p->n = n;
    p->err = (struct err){0};
    p->batch = (struct batch){0};
    for (uint32_t i = 0; i < n; i++) {
        p->parts[i].session->pass = p;
        p->parts[i].session->used = ++p->engine->evaluations;
    }
}

/* ---- failure ---- */

/* A part of the pass ends here. Its session is as long as its finished pieces have made it, or as
 * before. */
static void fail_part(struct corm_pass *p, struct pass_span *part, const struct err *err,
                      enum corm_error_code code) {
    struct corm_session *s = part->session;
    part->failed = true;
    if (part->rows > 0) {
        session_go_back(s, s->n_tok, true);
    }
    if (part->error) {
        engine_fail_as(part->error, err, code);
    }
    if (!p->err.set) {
        p->err = *err;
        p->code = code;
    }
}

/* With all_or_none: a part has failed, so that none moves on. */
static void take_all_back(struct corm_pass *p) {
    for (uint32_t i = 0; i < p->n; i++) {
        struct pass_span *part = &p->parts[i];
        struct corm_session *s = part->session;
        if (!part->failed && part->rows > 0) {
            session_go_back(s, s->n_tok, true);
        }
        part->failed = true;
        s->n_tok = part->start;
        if (s->row_end > s->n_tok) {
            session_lose_row(s);
        }
        snapshot_cut(s, s->n_tok);
        if (s->state.end > s->n_tok) {
            session_go_back(s, s->n_tok, false);
        }
    }
}

static void drop_piece(struct corm_pass *p) {
    for (uint32_t i = 0; i < p->n_snapshots; i++) {
        snapshot_give(p->engine, p->snapshots[i].slot);
    }
    p->n_snapshots = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        p->parts[i].rows = 0;
    }
    p->batch = (struct batch){0};
    if (p->all_or_none && p->err.set) {
        take_all_back(p);
    }
}

/* The piece was broken off in the middle of its layers. */
static void break_piece(struct corm_pass *p, const struct err *err, enum corm_error_code code) {
    for (uint32_t i = 0; i < p->n; i++) {
        if (p->parts[i].rows > 0) {
            fail_part(p, &p->parts[i], err, code);
        }
    }
    drop_piece(p);
}

static bool is_cancelled(const struct pass_span *part) {
    return atomic_load_explicit(&part->session->cancelled, memory_order_relaxed);
}

static void set_cancelled(struct err *err) {
    err_set(err, "the evaluation was cancelled");
}

/* Whether all sessions of the piece are cancelled; with all_or_none, all of the pass. */
static bool piece_is_cancelled(const struct corm_pass *p) {
    for (uint32_t i = 0; i < p->n; i++) {
        if ((p->parts[i].rows > 0 || p->all_or_none) && !is_cancelled(&p->parts[i])) {
            return false;
        }
    }
    return true;
}

/* Parts that are cancelled and not in a piece take part in none any more. With all_or_none they
 * stay, unless all are cancelled. */
static void drop_cancelled(struct corm_pass *p) {
    struct err err = {0};
    uint32_t left = 0;
    set_cancelled(&err);
    for (uint32_t i = 0; i < p->n; i++) {
        left += !p->parts[i].failed && !is_cancelled(&p->parts[i]);
    }
    for (uint32_t i = 0; i < p->n && (left == 0 || !p->all_or_none); i++) {
        if (!p->parts[i].failed && is_cancelled(&p->parts[i])) {
            fail_part(p, &p->parts[i], &err, CORM_ERROR_CANCELLED);
        }
    }
    if (p->all_or_none && p->err.set) {
        take_all_back(p);
    }
}

/* ---- pieces ---- */

/* Whether tokens that decode may be in a piece with prompts: where neither leaves out what the
 * other computes, and no device sums longer calls in another order. */
static bool mixes(const struct corm_engine *e) {
    return e->opt.loss_percent == 0 && !backend_needs_landing(&e->backend);
}

/* Tokens that the part still has to compute, before it is done or decodes. */
static uint32_t rows_left(const struct pass_span *part) {
    const uint32_t at = part->session->state.end;
    if (part->failed || at >= part->end) {
        return 0;
    }
    return part->decode && at < part->start ? part->start - at : part->end - at;
}

static bool decodes_next(const struct pass_span *part) {
    return !part->failed && part->decode && part->session->state.end == part->start;
}

/* Add rows of the part, up to position `end`, with a snapshot behind them where one is wanted and
 * there is room. */
static void add_span(struct corm_pass *p, struct pass_span *part, uint32_t end, bool keep,
                     bool named) {
    const struct span *last = p->batch.n_spans > 0 ? &p->spans[p->batch.n_spans - 1] : NULL;
    const bool first = !last || last->state != &part->session->state;
    /* A part has several spans only where a snapshot lies between them. */
    const uint32_t pos = first ? part->pos : last->pos + last->rows;
    void *kept = NULL;
    if (keep && p->n_snapshots < PASS_SNAPSHOTS) {
        const int64_t slot = snapshot_take(part->session, end, first ? 0 : pos, named);
        if (slot >= 0) {
            p->snapshots[p->n_snapshots++] =
                (struct pass_snapshot){part, end, (uint32_t)slot, named};
            kept = snapshot_kept(&p->engine->snapshots, (uint32_t)slot);
        }
    }
    if (kept || end == part->pos + part->rows) {
        p->spans[p->batch.n_spans++] =
            (struct span){&part->session->state, part->row + pos - part->pos, end - pos, pos, kept};
    }
}

/* The next rows of a part. A prompt ends with a snapshot by the rule, where that can save work. */
static void add_rows(struct corm_pass *p, uint32_t i, uint32_t rows) {
    struct pass_span *part = &p->parts[i];
    const uint32_t pos = part->session->state.end, end = pos + rows;
    const bool rule = p->engine->snapshots.kept_bytes > 0 && !decodes_next(part);
    part->row = p->batch.rows;
    part->rows = rows;
    part->pos = pos;
    memcpy(p->ids + part->row, part->session->history + pos, rows * sizeof *p->ids);
    p->batch.rows += rows;
    bool named = false;
    for (size_t k = 0; k < part->n_snapshots && part->snapshots[k] <= end; k++) {
        named |= part->snapshots[k] == end;
        if (part->snapshots[k] > pos && part->snapshots[k] < end) {
            add_span(p, part, part->snapshots[k], true, true);
        }
    }
    add_span(p, part, end, rule || named, named);
}

/* Put parts of a kind, tokens that decode or prompts, into the piece as long as there is room. */
static void add_parts(struct corm_pass *p, bool decode, uint32_t room) {
    for (uint32_t i = 0; i < p->n && p->batch.rows < room; i++) {
        uint32_t rows = rows_left(&p->parts[i]);
        if (rows == 0 || decodes_next(&p->parts[i]) != decode) {
            continue;
        }
        add_rows(p, i, rows < room - p->batch.rows ? rows : room - p->batch.rows);
    }
}

/* Make the next piece. False where nothing is left to do. */
static bool make_piece(struct corm_pass *p) {
    const struct corm_engine *e = p->engine;
    bool prompts = false;
    drop_cancelled(p);
    p->batch = (struct batch){.spans = p->spans};
    p->layer = 0;
    for (uint32_t i = 0; i < p->n; i++) {
        prompts |= rows_left(&p->parts[i]) > 0 && !decodes_next(&p->parts[i]);
    }
    if (!prompts || mixes(e)) {
        add_parts(p, true, engine_max_rows(e));
    }
    const uint32_t decoding = p->batch.rows;
    add_parts(p, false, e->opt.batch_rows);
    p->batch.decode = decoding > 0 && decoding == p->batch.rows;
    return p->batch.rows > 0;
}

/* ---- logits ---- */

/* Logits of `rows` rows of the residual stream, at most LOGITS_ROWS, stay in e->logits. */
static const float *make_logits(struct corm_engine *e, const float *x, uint32_t rows) {
    forward_logits(&e->forward, &e->model, x, rows, e->logits);
    return e->logits;
}

static void read_row(struct corm_engine *e, uint32_t row, float *host) {
    const size_t vocab = e->archive.arch.vocab;
    e->backend.ops->read(e->backend.self, host, e->logits + row * vocab, vocab * sizeof *host);
}

/* Logits of the next new tokens of a part, at most LOGITS_ROWS, from position *at on. Whether there
 * are more. */
static bool give_some_logits(struct corm_pass *p, struct pass_span *part, uint32_t *at) {
    struct corm_engine *e = p->engine;
    struct corm_session *s = part->session;
    const struct arch *a = &e->archive.arch;
    uint32_t pos = *at > part->start ? *at : part->start;
    const uint32_t end = part->pos + part->rows;
    const uint32_t n = pos >= end ? 0 : end - pos < LOGITS_ROWS ? end - pos : LOGITS_ROWS;
    if (n > 0) {
        make_logits(e, p->x + (size_t)(part->row + pos - part->pos) * a->dim, n);
    }
    for (uint32_t i = 0; i < n; i++, pos++) {
        float *host =
            !part->keep_all ? e->host_row : e->all_logits + (size_t)(pos - part->start) * a->vocab;
        read_row(e, i, host);
        if (pos + 1 == part->end) {
            memcpy(session_row(s), host, a->vocab * sizeof *host);
        }
        if (part->on_logits) {
            part->on_logits(part->ctx, pos, host);
        }
    }
    *at = pos;
    return pos < end;
}

/* The next part of the piece of which all logits are wanted, from `i` on; p->n: none. */
static uint32_t next_giving(const struct corm_pass *p, uint32_t i) {
    while (i < p->n && (p->parts[i].rows == 0 || p->parts[i].failed ||
                        !(p->parts[i].keep_all || p->parts[i].on_logits))) {
        i++;
    }
    return i;
}

/* Whether the piece holds the part's last token, and no logits but its are wanted. */
static bool wants_last(const struct pass_span *part) {
    return part->rows > 0 && !part->failed && part->pos + part->rows == part->end &&
           !part->keep_all && !part->on_logits;
}

/* Logits of the last tokens of those parts that are at their end, for so many at a time that each
 * gets the bits that it gets alone, on a device too. Rows that do not lie side by side are brought
 * together first. */
static void give_last_logits(struct corm_pass *p) {
    struct corm_engine *e = p->engine;
    const struct backend_ops *op = e->backend.ops;
    const size_t dim = e->archive.arch.dim;
    uint32_t parts[BACKEND_SAME_BITS_ROWS], n = 0, first = 0;
    bool side_by_side = true;
    for (uint32_t i = 0; i <= p->n; i++) {
        if (i < p->n && wants_last(&p->parts[i])) {
            const uint32_t row = p->parts[i].row + p->parts[i].rows - 1;
            side_by_side = n == 0 || (side_by_side && row == first + n);
            first = n == 0 ? row : first;
            parts[n++] = i;
        }
        if (n == 0 || (i < p->n && n < BACKEND_SAME_BITS_ROWS)) {
            continue;
        }
        for (uint32_t k = 0; k < n && !side_by_side; k++) {
            const struct pass_span *part = &p->parts[parts[k]];
            op->read(e->backend.self, e->host_row,
                     p->x + (size_t)(part->row + part->rows - 1) * dim, dim * sizeof(float));
            op->write(e->backend.self, e->forward.mlp + k * dim, e->host_row, dim * sizeof(float));
        }
        make_logits(e, side_by_side ? p->x + (size_t)first * dim : e->forward.mlp, n);
        for (uint32_t k = 0; k < n; k++) {
            read_row(e, k, session_row(p->parts[parts[k]].session));
        }
        n = 0;
    }
}

/* ---- a step ---- */

/* Snapshots of the piece, with the hidden row of their last token, are their sessions' now. */
static void keep_snapshots(struct corm_pass *p) {
    struct corm_engine *e = p->engine;
    const struct backend_ops *op = e->backend.ops;
    const size_t dim = e->archive.arch.dim;
    uint32_t left = 0;
    for (uint32_t i = 0; i < p->n_snapshots; i++) {
        const struct pass_snapshot *one = &p->snapshots[i];
        const struct pass_span *part = one->part;
        if (part->failed) {
            p->snapshots[left++] = *one;
            continue;
        }
        const uint32_t row = part->row + one->n_tok - 1 - part->pos;
        op->read(e->backend.self, e->host_row, p->x + row * dim, dim * sizeof(float));
        op->write(e->backend.self, snapshot_row(&e->snapshots, one->slot), e->host_row,
                  dim * sizeof(float));
        snapshot_add(part->session, one->n_tok, one->slot, one->named);
    }
    p->n_snapshots = left;
}

/* All layers are passed: the states move on, but for those that could not hold what was computed.
 */
static void finish_piece(struct corm_pass *p) {
    struct corm_engine *e = p->engine;
    const char *advice = e->kv_advice ? e->kv_advice : ": --kv f32 keeps them as they are";
    for (uint32_t i = 0; i < p->n; i++) {
        struct pass_span *part = &p->parts[i];
        struct err err = {0};
        if (part->rows > 0 && state_check(&part->session->state, advice, &err) < 0) {
            if (p->n > 1) {
                err_prefix(&err, "session %u of the batch", i);
            }
            err_prefix(&err, "%s", e->archive.map.path);
            fail_part(p, part, &err, CORM_ERROR_OTHER);
        }
    }
    if (p->all_or_none && p->err.set) {
        take_all_back(p);
    }
    for (uint32_t i = 0; i < p->n; i++) {
        struct pass_span *part = &p->parts[i];
        struct corm_session *s = part->session;
        if (part->rows == 0 || part->failed) {
            continue;
        }
        state_advance(&s->state, part->rows);
        s->used = ++e->evaluations;
        s->n_tok = s->state.end > s->n_tok ? s->state.end : s->n_tok;
    }
    e->trunk_bytes += e->trunk_step_bytes;
    p->finishes = true;
    p->giving = next_giving(p, 0);
    p->given = p->giving < p->n ? p->parts[p->giving].pos : 0;
}

/* What follows the layers, logits of some tokens at a time, as those of all may take as long as
 * layers do. Whether that was all of the piece. */
static bool finish_some(struct corm_pass *p) {
    if (p->giving < p->n && !give_some_logits(p, &p->parts[p->giving], &p->given)) {
        p->giving = next_giving(p, p->giving + 1);
        p->given = p->giving < p->n ? p->parts[p->giving].pos : 0;
    }
    if (p->giving < p->n) {
        return false;
    }
    give_last_logits(p);
    keep_snapshots(p);
    p->finishes = false;
    return true;
}

static int run_layer(struct corm_pass *p, struct err *err) {
    struct corm_engine *e = p->engine;
    const uint32_t l = p->layer++;
    if (l == 0) {
        forward_embed(&e->forward, &e->model, p->ids, &p->batch, p->x);
    }
    pthread_mutex_lock(&e->cache.lock);
    cache_clock(&e->cache, l, batch_tokens(&p->batch), p->batch.decode);
    const struct cache_counters count = e->cache.count;
    pthread_mutex_unlock(&e->cache.lock);
    engine_show(e, &count);
    return forward_layer(&e->forward, &e->layers[l], l, &p->batch, p->x, err);
}

/* Count what the piece has cost since the last count. */
static void count_piece(struct corm_pass *p, bool done) {
    session_count(p, p->ns, done);
    p->ns = 0;
}

bool pass_step(struct corm_pass *p) {
    struct err err = {0};
    const uint64_t start = clock_ns();
    if (p->batch.rows == 0 && !make_piece(p)) {
        return false;
    }
    if (!p->finishes && piece_is_cancelled(p)) {
        count_piece(p, false);
        set_cancelled(&err);
        break_piece(p, &err, CORM_ERROR_CANCELLED);
        return true;
    }
    const int status = p->finishes ? 0 : run_layer(p, &err);
    if (status == 0 && !p->finishes && p->layer == p->engine->archive.arch.n_layers) {
        finish_piece(p);
    }
    const bool last = p->finishes && finish_some(p);
    p->ns += clock_ns() - start;
    if (status < 0) {
        count_piece(p, false);
        break_piece(p, &err, CORM_ERROR_OTHER);
    } else if (last) {
        count_piece(p, true);
        drop_piece(p);
    }
    return true;
}

int pass_run(struct corm_pass *p, struct corm_error *error) {
    while (pass_step(p)) {
    }
    pass_end(p);
    return p->err.set ? engine_fail_as(error, &p->err, p->code) : 0;
}

void pass_end(struct corm_pass *p) {
    struct err err = {0};
    set_cancelled(&err);
    if (p->finishes) { /* its tokens are evaluated, but logits are told no more */
        for (uint32_t i = 0; i < p->n; i++) {
            p->parts[i].on_logits = NULL;
        }
        p->giving = p->n;
        finish_some(p);
        count_piece(p, true);
        drop_piece(p);
    }
    if (p->batch.rows > 0) {
        count_piece(p, false);
        break_piece(p, &err, CORM_ERROR_CANCELLED);
    }
    for (uint32_t i = 0; i < p->n; i++) {
        if (rows_left(&p->parts[i]) > 0) { /* its turn has not come */
            fail_part(p, &p->parts[i], &err, CORM_ERROR_CANCELLED);
        }
        p->parts[i].session->pass = NULL;
        session_settle(p->parts[i].session);
    }
    p->n = 0;
    p->open = false;
}

/* ---- for programs ---- */

int corm_pass_step(struct corm_pass *p, bool *more, struct corm_error *error) {
    struct corm_engine *e = p->engine;
    /* The time between tokens that decode is not theirs alone. */
    trial_interrupt(&e->lookahead.trial);
    *more = pass_step(p);
    if (p->batch.rows > 0) {
        count_piece(p, false);
    }
    return !*more && p->err.set ? engine_fail_as(error, &p->err, p->code) : 0;
}

void corm_pass_close(struct corm_pass *p) {
    if (p) {
        pass_end(p);
    }
}
