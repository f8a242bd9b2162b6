/*
 * session: the inside of struct corm_session and struct corm_pass, shared by session.c (lifetimes,
 * text, sampling), session_eval.c (what may be evaluated), session_stats.c (counters),
 * session_save.c (files), snapshot.c and pass.c (evaluation). Programs see runtime/corm.h only.
 *
 * An evaluation is a pass: some tokens for each of some sessions. It goes through the layers in
 * pieces, each a batch (runtime/model/batch.h) whose rows are those that still have to be computed:
 * also those of tokens that a session has, but that its state could not be cut back to.
 *
 * Threads: the forward thread, but for `cancelled`.
 */
#ifndef RUNTIME_SESSION_H
#define RUNTIME_SESSION_H

#include <stdatomic.h>

#include "runtime/engine.h"
#include "runtime/snapshot.h"

struct corm_session {
    struct corm_engine *engine;
    struct state state; /* stands for the first state.end tokens of `history` */
    int32_t *history;   /* [ctx_tok] */
    uint32_t n_tok;     /* of it; where the state could not be cut back to them, they are evaluated
                           again before anything else is */
    int64_t row;        /* of engine->last_logits that it has; -1: none */
    uint32_t row_end;   /* tokens of which that row is the last one's */
    struct token_stream *stream;
    bool stream_skips_special;
    struct buf text;
    struct corm_stats stats;
    uint64_t kv_bytes; /* that it takes of the engine's */
    struct snapshot_list snapshots;
    uint64_t used; /* engine->evaluations when it was evaluated last */
    atomic_bool cancelled;
    struct corm_pass *pass; /* that it is part of; NULL = none */
};

/* What a pass does with one session. */
struct pass_span {
    struct corm_session *session;
    uint32_t start, end; /* tokens that the session had at first, and is going to have */
    bool decode;         /* a single token was asked for */
    bool keep_all;       /* logits of all new tokens go to the session's */
    void (*on_logits)(void *ctx, uint32_t position, const float *logits);
    void *ctx;
    const uint32_t *snapshots; /* [n_snapshots] lengths at which they are asked for, ascending */
    size_t n_snapshots;
    struct corm_error *error; /* may be NULL */
    bool failed;
    /* Of the piece at hand: its first row, how many, and their position. 0 rows: not in it. */
    uint32_t row, rows, pos;
};

enum { PASS_SNAPSHOTS = 64 }; /* most of one piece */

/* A snapshot that is taken while the piece goes through the layers. */
struct pass_snapshot {
    struct pass_span *part;
    uint32_t n_tok, slot;
    bool named;
};

struct corm_pass {
    struct corm_engine *engine;
    bool open;
    bool all_or_none; /* where one session fails, none of them moves on */
    uint32_t n;
    struct pass_span *parts; /* [max_sessions] */
    struct err err;          /* the first error */
    enum corm_error_code code;
    float *x; /* backend memory [max_rows, dim]: hidden rows of the piece at hand */
    /* The piece at hand. */
    struct batch batch; /* 0 rows: none */
    struct span *spans; /* [max_sessions + PASS_SNAPSHOTS] */
    struct pass_snapshot snapshots[PASS_SNAPSHOTS];
    uint32_t n_snapshots;
    int32_t *ids;   /* [max_rows] */
    uint32_t layer; /* the next one */
    /* All layers are passed and the states have moved on; logits of all tokens are still to be made
     * of part `giving` (p->n: of none), from position `given` on. */
    bool finishes;
    uint32_t giving, given;
    uint64_t ns; /* spent on it, as far as it is not counted yet */
};

/* pass.c: memory of a pass over rows in `x`, for an engine whose plan is made. */
void pass_open(struct corm_pass *p, struct corm_engine *e, float *x);
void pass_close(struct corm_pass *p); /* accepts a zeroed struct */
/* Host memory that pass_open takes. */
uint64_t pass_bytes(const struct corm_engine *e);
/* Begin with the parts [n], which are filled in up to `error`; their sessions have the ids in their
 * history. */
void pass_begin(struct corm_pass *p, uint32_t n, bool all_or_none);
/* A layer. Whether there is more to do. */
bool pass_step(struct corm_pass *p);
/* All of it. Returns -1 where a part has failed, with the first error. */
int pass_run(struct corm_pass *p, struct corm_error *error);
/* Break off what is under way, and let go of the sessions. */
void pass_end(struct corm_pass *p);

/* session.c: take memory for so many tokens. An error where the engine has no room. */
int session_reserve(struct corm_session *s, uint32_t n_tok, struct err *err);
/* It has its tokens, and takes memory for no more. */
void session_settle(struct corm_session *s);
/* What it would take in addition. */
uint64_t session_growth(const struct corm_session *s, uint32_t n_tok);
/* An error where the engine has not so much room. */
int session_room(const struct corm_engine *e, uint64_t bytes, struct err *err);
/* The session's row of logits [vocab], which it gets where it has none; it is going to be
 * that of its last token. */
float *session_row(struct corm_session *s);
/* The row where it is in memory and its last token's, else NULL. */
const float *session_known_row(const struct corm_session *s);
/* It has none any more: what it had was of other tokens. */
void session_lose_row(struct corm_session *s);
/* Cut what the layers hold of the session back to n_tok tokens, or to those of the
 * nearest snapshot before, or to none; `broken`: an evaluation was broken off in the middle. */
void session_go_back(struct corm_session *s, uint32_t n_tok, bool broken);

/* session_stats.c: `ns` were spent on rows of the pass's piece; with `done` its tokens are
 * evaluated. Adds to the statistics of each session its share of what the engine's parts did since
 * the call before. */
void session_count(const struct corm_pass *p, uint64_t ns, bool done);

#endif
