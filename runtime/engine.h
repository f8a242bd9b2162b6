/*
 * engine: the inside of struct corm_engine, shared by engine.c (archive, lifetimes), engine_plan.c
 * (memory), engine_device.c (the backend) and session.c (sequences, evaluation). Programs see
 * runtime/corm.h only.
 *
 * Lifetimes: archive map, weights, caches, threads: open .. close of the engine. KV cache, history,
 * logits: open .. close of the session. Scratch of the forward pass: one, owned by the engine, used
 * by the session that evaluates.
 * Start order: archive, tokenizer, backend, plan, weights, cache, I/O threads; corm_engine_close
 * runs it backwards and accepts any prefix of it.
 */
#ifndef RUNTIME_ENGINE_H
#define RUNTIME_ENGINE_H

#include "format/text/tokenizer.h"
#include "runtime/corm.h"
#include "runtime/experts.h"
#include "runtime/lookahead.h"
#include "runtime/model/state.h"
#include "runtime/offload.h"

/* Counters of the engine's parts, which only grow: sessions' statistics are differences of them. */
struct engine_counters {
    struct cache_counters cache;
    struct offload_counters offload;
    struct backend_link link; /* zeros without a device */
    uint64_t used_bytes, skipped_bytes, stall_ns, unguessed_tok, trunk_bytes;
};

struct corm_engine {
    struct corm archive;
    struct tokenizer *tokenizer;
    struct corm_engine_options opt; /* defaults filled in */
    struct corm_memory_plan plan;
    struct corm_model_info info;
    unsigned keeps; /* enum cache_how of the plan */
    uint32_t n_slots;
    uint8_t *device_slots; /* device memory of the cache's slots; NULL where they are the host's */
    uint32_t io_threads;
    /* The experts that the CPU computes for a device; zeroed where it computes none. */
    struct offload offload;
    uint32_t host_slots; /* of its memory */
    bool host_in_place;
    uint64_t host_missed_bytes; /* of the plan's host_bytes, all that it takes */

    struct backend backend;
    struct layer_weights model;
    struct layer_weights *layers; /* [n_layers] */
    uint64_t
        trunk_step_bytes; /* trunk weights that one forward call reads, without embedding rows */
    uint64_t trunk_bytes; /* and that all calls so far have read */
    struct cache cache;
    int (*on_read)(void *ctx, uint64_t offset, uint64_t bytes); /* as in corm_mechanisms */
    void *on_read_ctx;
    struct prefetch *prefetch;
    struct experts experts;
    struct predict predict;
    struct lookahead lookahead;
    float *drop; /* [n_layers] share of expert energy left out; NULL = exact */
    struct forward forward;
    float *logits; /* backend memory [LOGITS_ROWS, vocab] */
    char *chat_template;

    uint32_t n_sessions;            /* open */
    struct span *spans;             /* [opt.max_sessions] of a decoding batch */
    struct engine_counters counted; /* what sessions' statistics have been told of so far */
};

enum {
    LOGITS_ROWS = 32,      /* rows of logits computed at a time */
    ENGINE_IO_THREADS = 3, /* two have a read under way while one checks and decodes */
};

/* engine_device.c: choose and open the backend, after planning its memory; take the cache's memory.
 */
int engine_open_backend(struct corm_engine *e, struct err *err);
int engine_open_slots(struct corm_engine *e, bool whole_lru, struct err *err);

/* engine_plan.c: fill in the plan, n_slots and keeps: where the CPU computes (its backend is
 * open, which knows its scratch), or a device with `free_bytes`, whose backend takes
 * `scratch_bytes`. A budget too small is an error that names the one that would do. */
int engine_plan(struct corm_engine *e, struct err *err);
int engine_plan_device(struct corm_engine *e, uint64_t scratch_bytes, uint64_t free_bytes,
                       struct err *err);
/* engine_device.c: add what the host holds to compute experts that the device misses, within
 * `usable_bytes` where no budget is named; raw chunks take `in_place_bytes` where all are used from
 * the map. */
int engine_plan_missed(struct corm_engine *e, uint64_t in_place_bytes, uint64_t usable_bytes,
                       struct err *err);
/* engine_plan.c: with the plan made and the backend open, choose how experts are read, as asked,
 * else measured where they come and go; and with that known, whether they are kept packed. */
int engine_plan_reading(struct corm_engine *e, struct err *err);
/* Rows that predictors are evaluated for at a time. */
uint32_t engine_predict_rows(const struct corm_engine *e);
/* Most rows of any forward call: of a prompt, or of a decoding batch. */
uint32_t engine_max_rows(const struct corm_engine *e);
/* What a session leaves behind in the layers. */
struct state_size engine_state_size(const struct corm_engine *e);

/* What the counters say now. */
struct engine_counters engine_count(struct corm_engine *e);

/* Copy a struct err into the public error. Returns -1. */
int engine_fail(struct corm_error *error, const struct err *err);

#endif
