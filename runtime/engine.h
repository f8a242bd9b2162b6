/*
 * engine: the inside of struct corm_engine, shared by engine.c (archive, lifetimes), engine_plan.c
 * (memory), engine_device.c (the backend) and what runtime/session.h lists (sequences, evaluation).
 * Programs see runtime/corm.h only.
 *
 * Lifetimes: the archive map, weights, caches and threads live as long as the engine is open; the
 * KV cache and the history live as long as their session is open. There is one scratch memory for
 * the forward pass, which the engine owns and the session that evaluates uses; rows of logits are
 * the engine's too, and lent to the sessions that were evaluated last.
 * Start order: archive, tokenizer, backend, plan, weights, cache, I/O threads. corm_engine_close
 * undoes this in reverse order, and works wherever opening has stopped.
 */
#ifndef RUNTIME_ENGINE_H
#define RUNTIME_ENGINE_H

#include "format/text/chat_book.h"
#include "format/text/tokenizer.h"
#include "runtime/corm.h"
#include "runtime/experts.h"
#include "runtime/lookahead.h"
#include "runtime/mechanisms.h"
#include "runtime/model/state.h"
#include "runtime/offload.h"
#include "runtime/sample.h"

/* Snapshots of sessions: runtime/snapshot.h. */
struct snapshot_pool {
    uint8_t *memory;               /* backend memory [n_slots, slot_bytes]; NULL: there are none */
    size_t slot_bytes, kept_bytes; /* what state_keep copies; behind it the last hidden row */
    uint32_t n_slots;
    uint32_t *uses; /* [n_slots] sessions, or an evaluation, that have it */
};

/* Counters of the engine's parts. They only grow; the statistics of sessions are differences
 * between two of their states. */
struct engine_counters {
    struct cache_counters cache;
    struct offload_counters offload;
    struct backend_link link; /* zeros without a device */
    struct backend_work work; /* the same */
    uint64_t used_bytes, skipped_bytes, stall_ns, unguessed_tok, trunk_bytes;
};

/* The same as far as other threads may see it: the forward thread writes, any thread reads. */
struct engine_shown {
    _Atomic uint64_t hits, misses, read_bytes, guessed_bytes, useful_bytes, wasted_bytes, evictions;
    _Atomic uint64_t stall_ns;
};

struct corm_engine {
    struct corm archive;
    struct tokenizer *tokenizer;
    struct corm_engine_options opt; /* defaults filled in */
    struct corm_memory_plan plan;
    struct corm_model_info info;
    unsigned keeps;        /* enum cache_how of the plan */
    uint64_t room_bytes;   /* of its cache */
    uint8_t *device_slots; /* device memory of the cache's slots; NULL where they are the host's */
    uint32_t io_threads;
    /* The experts that the CPU computes for a device; zeroed where it computes none. */
    struct offload offload;
    uint64_t host_room_bytes; /* of its cache */
    bool host_in_place;
    uint64_t host_missed_bytes; /* all that it takes; a part of the plan's host_bytes */

    struct backend backend;
    struct layer_weights model;
    struct layer_weights *layers; /* [n_layers] */
    uint64_t trunk_step_bytes; /* of trunk weights that a forward call reads, but embedding rows */
    uint64_t trunk_bytes;      /* of trunk weights that all calls so far have read */
    struct cache cache;
    int (*on_read)(void *ctx, uint64_t offset, uint64_t bytes); /* as in corm_mechanisms */
    void *on_read_ctx;
    struct prefetch *prefetch;
    struct experts experts;
    struct corm_predict predictors; /* view of the archive's */
    struct predict predict;
    struct lookahead lookahead;
    float *drop; /* [n_layers] share of expert energy left out; NULL = exact */
    struct forward forward;
    float *logits; /* backend memory [LOGITS_ROWS, vocab] */
    char *chat_template;
    struct chat_book book; /* views of the archive's section */
    struct engine_words *words;
    /* Ends the error of a key or value that the KV cache's type cannot hold; NULL: corm-run's
     * option. For prep, which has none. */
    const char *kv_advice;

    uint32_t n_sessions;            /* open */
    struct corm_session **sessions; /* [opt.max_sessions] of them, in no order */
    uint64_t kv_used;               /* of plan.kv_bytes, sum of the sessions' */
    uint64_t evaluations;           /* by which sessions tell when they were used */
    struct snapshot_pool snapshots;
    struct corm_pass *passes;       /* [1 + opt.max_passes]; 0: what is evaluated in one call */
    float *pass_rows;               /* backend memory of the others' hidden rows */
    struct corm_span *asked;        /* [opt.max_sessions] of corm_sessions_decode */
    float *host_row;                /* host memory for one row of logits, or of the layers */
    struct sample sample;           /* of whoever samples */
    float *all_logits;              /* host memory [opt.logits_rows, vocab] of who asks for all */
    float *last_logits;             /* host memory [opt.max_running, vocab] of last tokens */
    struct corm_session **running;  /* [opt.max_running] whose each row is; NULL: nobody's */
    struct engine_counters counted; /* the part that sessions' statistics have so far */
    struct engine_shown *shown;
};

enum {
    LOGITS_ROWS = 32,      /* rows of logits computed at a time */
    ENGINE_IO_THREADS = 3, /* two have a read under way while one checks and decodes */
};

/* engine_device.c: engine_open_backend chooses and opens the backend, after its memory is
 * planned; engine_open_slots takes the memory of the cache. */
int engine_open_backend(struct corm_engine *e, struct err *err);
int engine_open_slots(struct corm_engine *e, bool whole_lru, struct err *err);

/* What tokenizing may take beside what the plan allows for in any case. */
uint64_t engine_text_bytes(const struct corm_engine *e);
/* What encoding one text may take: what is planned for it, and what the plan leaves of the
 * budget. */
uint64_t engine_encoder_bytes(const struct corm_engine *e);
/* engine_plan.c: fill in the plan, room_bytes and keeps, before the backend takes any memory: it
 * will take `scratch_bytes`. engine_plan is for the CPU, engine_plan_device for a device with
 * `free_bytes` of memory. A budget that is too small is an error, which names the one that would
 * do. */
int engine_plan(struct corm_engine *e, uint64_t scratch_bytes, struct err *err);
int engine_plan_device(struct corm_engine *e, uint64_t scratch_bytes, uint64_t free_bytes,
                       struct err *err);
/* engine_device.c: add to the plan what the host holds to compute the experts that the device
 * misses. Where no budget is named, it stays within `usable_bytes`. Raw chunks take
 * `in_place_bytes` where all of them are used from the map. */
int engine_plan_missed(struct corm_engine *e, uint64_t in_place_bytes, uint64_t usable_bytes,
                       struct err *err);
/* engine_plan.c: choose how experts are read, when the plan is made and the backend is open: as
 * asked, else by measuring where experts come and go. With that known, choose whether experts are
 * kept packed. */
int engine_plan_reading(struct corm_engine *e, struct err *err);
/* Rows that predictors are evaluated for at a time. */
uint32_t engine_predict_rows(const struct corm_engine *e);
/* Most rows of any forward call: of a prompt, or of a decoding batch. */
uint32_t engine_max_rows(const struct corm_engine *e);
/* What a session leaves behind in the layers. */
struct state_size engine_state_size(const struct corm_engine *e);

/* engine_look.c: let other threads see what the counters say; of what a device has no part of, what
 * `counted` says. */
void engine_show(struct corm_engine *e, const struct cache_counters *count);

/* What the counters say now. */
struct engine_counters engine_count(struct corm_engine *e);

/* Copy a struct err into the public error, as CORM_ERROR_OTHER or another one. Returns -1. */
int engine_fail(struct corm_error *error, const struct err *err);
int engine_fail_as(struct corm_error *error, const struct err *err, enum corm_error_code code);

/* engine_grammar.c: the bytes of the vocabulary's tokens, looked at when the first grammar is
 * opened, by whatever thread. engine_words_free accepts NULL. */
struct engine_words *engine_words_new(void);
void engine_words_free(struct engine_words *w);

/* Bytes of backend memory for the hidden rows of passes that programs open. */
uint64_t engine_pass_bytes(const struct corm_engine *e);
/* Floats of `host_row`. */
size_t engine_host_row(const struct arch *arch);

#endif
