/*
 * offload: with a device, the CPU computes experts that the device does not hold, where they lie in
 * host memory, so that they need not be copied.
 *
 * Owns: the one rule that says whether that pays (offload_pays), which experts are the CPU's
 * (struct offload_places), the CPU backend, the experts in host memory that it computes with, and
 * moving hidden states and outputs between the two.
 * Leaves to others: how experts come into either memory (cache, prefetch, experts: the host has its
 * own set of these), arithmetic (backends).
 *
 * Which experts the device misses at a given moment depends on timing: on the copies that are under
 * way, and on what was evicted for a guess. If that decided who computes an expert, the last bits
 * of a result would differ from run to run, since the CPU and a device round differently. So
 * experts have places. The slots of the device are shared out among the layers as places for
 * experts. An expert takes a place while any is left in its layer; later it takes the place of the
 * expert that was used least, once it has been used more often than that one. Uses fade: counts are
 * halved every OFFLOAD_FADE_TOK tokens. An expert that takes a place while tokens decode is brought
 * to the device in the background, as a guess is, and is the device's OFFLOAD_ARRIVE_TOK tokens
 * later: by then it has come, so that it is not waited for, unless the link is slower than that.
 * One that takes a place in a prompt has just been computed there. An expert without a place, or
 * on its way, is computed by the CPU, even where the device happens to hold it. So the choice
 * depends on the archive, the number of slots and the experts that were routed since the engine was
 * opened, and on nothing else.
 *
 * Only decoding is divided in this way. In a prompt an expert serves several rows, which pays for
 * its copy: a prompt counts uses, but all of its experts are computed by the device. So it is with
 * the tokens of OFFLOAD_COPY_ROWS and more sequences that decode together.
 *
 * Costs: the hidden state travels to the host together with the ids of the experts, and the outputs
 * travel back. The CPU computes while the device computes its share.
 *
 * Threads: the forward thread; the host's prefetch has I/O threads of its own.
 */
#ifndef RUNTIME_OFFLOAD_H
#define RUNTIME_OFFLOAD_H

#include "runtime/experts.h"

enum {
    OFFLOAD_FADE_TOK = 64,
    OFFLOAD_ARRIVE_TOK = 4, /* tokens that an expert has to come to its place */
    OFFLOAD_COPY_ROWS = 32, /* a batch of so many rows is the device's, decoding or not */
};

/* ---- the rule ---- */

/* Both rates are in decoded bytes of experts a second. A rate of 0 is not known; then the answer is
 * no. */
bool offload_pays(double upload_bytes_per_s, double cpu_bytes_per_s);
/* The rate that copies to the device reach, measured for some milliseconds with 4 MiB of its
 * memory, which it may not have: an error. 0 where the device needs no landing. */
int offload_link_rate(const struct backend *device, double *bytes_per_s, struct err *err);
/* The rate at which a run brings experts into the device's memory, in decoded bytes: read from the
 * page cache, decoded and copied by as many threads, as `io` says. Measured like that, on some MiB
 * of the archive's own, after they have been read once. So the time of checking is part of it only
 * for chunks that are decoded: others are checked when they come the first time (fill.h). */
int offload_upload_rate(const struct backend *device, const struct corm *archive,
                        const struct prefetch_options *io, double *bytes_per_s, struct err *err);
/* The rate that the CPU's experts operation reaches on one row, measured for some milliseconds. It
 * takes at most `most_bytes` of memory (at least two experts) and gives them back. The experts are
 * made up, or, where `packed` is not NULL, they are copies of that chunk of the archive, which must
 * be a chunk of exponents that was checked. */
double offload_cpu_rate(const struct backend *cpu, const struct corm *archive, uint64_t most_bytes,
                        const struct corm_chunk *packed);

/* ---- places ---- */

struct offload_places {
    uint32_t n_layers, n_experts;
    uint32_t *room, *taken; /* [n_layers] how many places there are, and how many are taken */
    uint32_t *uses;         /* [n_layers, n_experts] */
    bool *placed;           /* [n_layers, n_experts] */
    uint64_t *from_tok;     /* [n_layers, n_experts] token from which on it is the device's */
    uint64_t now_tok;       /* tokens so far */
    uint32_t tok;           /* of them, those since uses were halved */
};
enum offload_share {
    OFFLOAD_CPU,
    OFFLOAD_BRING, /* the CPU's this time; it has taken a place, to which it is to be brought */
    OFFLOAD_DEVICE,
};
/* Places for `room` experts over the layers of `archive` that have experts. */
void offload_places_open(struct offload_places *p, const struct corm *archive, uint32_t room);
void offload_places_close(struct offload_places *p); /* accepts a zeroed struct */
/* `rows` more tokens begin. */
void offload_places_clock(struct offload_places *p, uint32_t rows);
/* Count a use of the expert, by a token of a batch that is divided (`decode`) or by one of a
 * prompt, which the device computes in any case. Returns who computes it where batches are
 * divided. */
enum offload_share offload_place(struct offload_places *p, uint32_t layer, uint32_t expert,
                                 bool decode);

/* ---- running ---- */

struct offload {
    struct experts *device; /* the device's experts; NULL = offload is not open */
    struct backend cpu;
    struct cache cache;
    struct prefetch *prefetch;
    struct experts experts; /* the host's */
    struct offload_places places;
    uint32_t max_rows; /* of a decoding batch */
    float *x, *parts;  /* [max_rows, dim], which comes with the ids; [max_rows * n_active, dim] */
    uint32_t *uses;    /* [max_rows * n_active] the uses that the CPU computes */
    /* All [n_experts]: the experts that the device leaves to the CPU, those that the CPU leaves to
     * the device, and those that the call at hand has met so far. */
    bool *not_device, *not_cpu, *met;
    struct prefetch_need *bring; /* [n_experts] took a place in this call, and kept it */
    uint32_t n_bring;
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

/* Opens the CPU backend alone, which the rule needs. offload_close is called in any case. */
int offload_open_cpu(struct offload *o, const struct corm *archive, const char *isa,
                     uint32_t threads, uint32_t max_rows, struct err *err);
/* Host memory that it takes. */
uint64_t offload_cpu_bytes(const struct corm *archive, uint32_t threads, uint32_t max_rows);
/* Host memory that offload_open takes beside the room for experts and what the CPU backend has;
 * decoding batches have at most max_rows rows. */
uint64_t offload_bytes(const struct corm *archive, uint32_t max_rows, uint32_t io_threads);
/* Opens the rest. `device` has its slots already. The host gets room for so many bytes of experts,
 * and uses raw chunks from the map where `in_place` is set. `io` says how experts are read; its
 * field `device` is ignored. */
int offload_open(struct offload *o, struct experts *device, uint64_t room_bytes, bool in_place,
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
