/*
 * offload: with a device, experts that it misses are computed by the CPU where they lie, in place
 * of being copied.
 *
 * Owns: THE rule whether that pays (offload_pays), which experts are the CPU's (struct
 * offload_places), the CPU backend, the experts in host memory that it computes with, and the way
 * of hidden states and outputs between both.
 * Leaves to others: how experts come into either memory (cache, prefetch, experts: the host has a
 * set of its own), arithmetic (backends).
 *
 * Which experts are missing at a moment hangs on timing: on copies under way, on what was evicted
 * for a guess. Were that the choice, the last bits of a result would differ from run to run, since
 * the CPU and a device round differently. So experts have places: each layer has its share of those
 * that the device's slots hold; an expert takes one while there are any, later when it has been
 * used oftener than the one with a place that was used least. Uses fade: they are halved every
 * OFFLOAD_FADE_TOK tokens. An expert without a place is the CPU's, though the device may have it;
 * one with a place is the device's, though it may have to be copied. So the choice is a function of
 * the archive, the number of slots and the experts that were routed since the engine was opened,
 * and of nothing else.
 *
 * Only decoding is divided so. In a prompt an expert serves several rows, which pays for its copy:
 * prompts count uses, and are the device's.
 *
 * Costs: the hidden state travels to the host and the outputs back, two small copies a layer; the
 * CPU computes while the device computes its share.
 *
 * Threads: the forward thread; the host's prefetch has I/O threads of its own.
 */
#ifndef RUNTIME_OFFLOAD_H
#define RUNTIME_OFFLOAD_H

#include "runtime/experts.h"

enum { OFFLOAD_FADE_TOK = 64 };

/* ---- the rule ---- */

/* Rates in decoded bytes of experts a second; 0 = not known, which speaks for the device. */
bool offload_pays(double link_bytes_per_s, double cpu_bytes_per_s);
/* What copies to the device reach, measured for some milliseconds with 4 MiB of its memory. 0
 * where it needs no landing. */
double offload_link_rate(const struct backend *device);
/* What the CPU's experts operation reaches on one row, measured for some milliseconds in at most
 * `most_bytes` of memory (at least two experts), which it gives back: on weights made up, or, where
 * `packed` is not NULL, on experts made of copies of that chunk of the archive, one of exponents
 * that was checked. */
double offload_cpu_rate(const struct backend *cpu, const struct corm *archive, uint64_t most_bytes,
                        const struct corm_chunk *packed);

/* ---- places ---- */

struct offload_places {
    uint32_t n_layers, n_experts;
    uint32_t *room, *taken; /* [n_layers] places */
    uint32_t *uses;         /* [n_layers, n_experts] */
    bool *placed;           /* [n_layers, n_experts] */
    uint32_t tok;           /* since uses were halved */
};
/* Places for `room` experts over the layers of `archive` that have experts. */
void offload_places_open(struct offload_places *p, const struct corm *archive, uint32_t room);
void offload_places_close(struct offload_places *p); /* accepts a zeroed struct */
/* `rows` more tokens begin. */
void offload_places_clock(struct offload_places *p, uint32_t rows);
/* Count a use. Returns whether it is the device's. */
bool offload_place(struct offload_places *p, uint32_t layer, uint32_t expert);

/* ---- running ---- */

struct offload {
    struct experts *device; /* the device's experts; NULL = offload is not open */
    struct backend cpu;
    struct cache cache;
    struct prefetch *prefetch;
    struct experts experts; /* the host's */
    struct offload_places places;
    uint32_t max_rows; /* of a decoding batch */
    float *x, *parts;  /* [max_rows, dim], [max_rows * n_active, dim] */
    uint32_t *uses;    /* [max_rows * n_active] those of the CPU */
    /* [n_experts] experts that the device, and the CPU, leaves to the other; those that the call at
     * hand has met. */
    bool *not_device, *not_cpu, *met;
    uint32_t layer_before;
    /* The run at hand. */
    struct offload_run {
        uint32_t layer, n_uses;
        const struct batch *batch;
        const int32_t *ids;
        float *parts; /* the device's */
        int status;
        struct err err;
    } run;
};

/* The CPU backend alone, which the plan and the rule need. offload_close in any case. */
int offload_open_cpu(struct offload *o, const struct corm *archive, const char *isa,
                     uint32_t threads, uint32_t max_rows, struct err *err);
/* Host memory that offload_open takes beside `n_slots` slots and what the CPU backend has; decoding
 * batches have at most max_rows rows. */
uint64_t offload_bytes(const struct corm *archive, uint32_t max_rows, uint32_t io_threads);
/* The rest. `device` has its slots; the host gets `n_slots`, and uses raw chunks in place where
 * `in_place`. `io` says how they are read; its `device` does not count. */
int offload_open(struct offload *o, struct experts *device, uint32_t n_slots, bool in_place,
                 const struct prefetch_options *io, struct err *err);
void offload_close(struct offload *o); /* accepts a zeroed struct */
/* The hook for forward_open in place of that of the device's experts. */
struct experts_hook offload_hook(struct offload *o);

/* Counters since it was opened; all 0 where it is not open. */
struct offload_counters {
    uint64_t used_bytes, skipped_bytes; /* as in struct experts */
    uint64_t read_bytes, decoded_bytes; /* from the archive to host memory */
    uint64_t stall_ns;
};
struct offload_counters offload_count(struct offload *o);

#endif
