/*
 * packing: whether experts are kept in memory as they are stored, and decoded each time they are
 * used.
 *
 * Owns: the estimate of what a token takes either way, and the measurement it needs.
 * Leaves to others: keeping them (cache), decoding them (backend), the plan (engine_plan).
 * Threads: the one that opens the engine.
 *
 * Packed experts take two thirds of the room, so that more of them stay and fewer are read; that
 * costs decoding for every use in place of for every read. Where the math decodes as it goes, it
 * reads less memory for that, and may be faster than on decoded experts; else it pays where the
 * disk is what a token waits for. Both ways overlap reading with computing, so a token is taken to
 * last as long as the longer of the two. How many experts are found in memory is guessed from the
 * room: misses = (1 - share of experts in memory)^1.5 lies within 4 points of what the cache
 * reaches on the OLMoE shape, and within 5 on fable (docs/SPEED.md, beside Belady).
 */
#ifndef RUNTIME_PACKING_H
#define RUNTIME_PACKING_H

#include "format/corm_read.h"

struct packing {
    double room;             /* share of the experts that fit decoded, 0..1 */
    double ratio;            /* stored bytes over decoded bytes */
    double disk_bytes_per_s; /* of stored bytes */
    /* Decoded bytes of all computing threads together: of decoding alone, of the math on decoded
     * experts and on packed ones, which are decoded for it. */
    double decode_bytes_per_s, compute_bytes_per_s, packed_bytes_per_s;
};

/* Time that a decoded byte of a token's experts takes, kept decoded and kept packed. */
double packing_decoded_s(const struct packing *p);
double packing_packed_s(const struct packing *p);
static inline bool packing_pays(const struct packing *p) {
    return packing_packed_s(p) < packing_decoded_s(p);
}

/* The archive's first packed chunk, if it passes its checks: what rates are measured on. NULL where
 * there is none. */
const struct corm_chunk *packing_sample(const struct corm *archive);
/* Decoding it, measured for about 2 ms: bytes a second of one thread. `isa` as in
 * backend_cpu_open. */
double packing_decode_rate(const struct corm *archive, const struct corm_chunk *sample,
                           const char *isa);

#endif
