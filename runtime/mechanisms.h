/*
 * mechanisms: what benchmarks and tests may turn off or watch in an engine.
 *
 * Owns: struct corm_mechanisms, which corm_engine_options.measure points to.
 * Leaves to others: what the parts are (ARCHITECTURE.md), measuring (runtime/bench).
 * Threads: as each of the functions says.
 *
 * It is no part of the public API: none of it changes a result, and it follows the engine's inside.
 */
#ifndef RUNTIME_MECHANISMS_H
#define RUNTIME_MECHANISMS_H

#include "runtime/corm.h"

/* For measurement only: parts of the engine turned off, and slower disks. None of it changes a bit
 * of the result. Zero-initialised it changes nothing. */
struct corm_mechanisms {
    /* A struct backend (kernels/backend.h) with device memory, in place of the one that `device`
     * names; for tests. The engine closes it, unless opening fails before the plan is made. */
    const void *backend;
    bool whole_lru;      /* evict whole experts, the least recently used first */
    bool split_reads;    /* three reads for each expert, as for three separate matrices */
    bool in_turn;        /* an expert is read when it is its turn, and nothing is done meanwhile */
    bool no_guesses;     /* nothing is fetched before it is demanded */
    uint32_t ahead;      /* layers whose experts are guessed, 1..3; 0 = default */
    uint32_t io_threads; /* 0 = default */
    enum corm_reading reading;
    double cache_share;          /* room for this share of all experts, decoded; ram_bytes does not
                                   count then; 0 = off */
    double throttle_bytes_per_s; /* 0 = none */
    uint64_t throttle_latency_ns;
    /* Called for every layer and call with the experts that were chosen, [rows, n_active]; `decode`
     * where each row is the next token of a sequence. */
    void (*on_route)(void *ctx, uint32_t layer, uint32_t rows, bool decode, const int32_t *ids);
    void *on_route_ctx;
    /* Called for every guess of a layer's experts when decoding, made `ahead` layers before it (0:
     * before the router of layer 0): ids [n] with the chance of each to be used. Where it is set,
     * guesses are made whether or not anything has to be read. */
    void (*on_guess)(void *ctx, uint32_t layer, uint32_t ahead, uint32_t n, const int32_t *ids,
                     const float *prob);
    void *on_guess_ctx;
    /* A bad disk, for tests: asked before each read of an expert's bytes; may block, and a result
     * other than 0 makes the read fail. Called by several threads. */
    int (*on_read)(void *ctx, uint64_t offset, uint64_t bytes);
    void *on_read_ctx;
};

#endif
