/*
 * packing: estimates whether experts should be kept in memory as they are stored (packed), and
 * decoded each time they are used.
 *
 * Owns: the estimate of the time that a token takes either way, and the measurement that it needs.
 * Leaves to others: keeping them (cache), decoding them (backend), the plan (engine_plan).
 * Threads: the one that opens the engine.
 *
 * Packed experts take two thirds of the room, so that more of them stay in memory and fewer are
 * read. The price is that they are decoded at every use and not only when they are read. Where the
 * math decodes as it goes, it reads less memory for that, and may even be faster than on decoded
 * experts. Elsewhere packing pays where a token mostly waits for the disk. Both ways overlap
 * reading with computing, so the estimate takes a token to last as long as the longer of the two.
 * How many experts are found in memory is estimated from the room: misses = (1 - share of experts
 * in memory)^1.5. This lies within 4 points of what the cache reaches on the OLMoE shape, and
 * within 5 on fable (docs/SPEED-tables.md, beside Belady).
 */
#ifndef RUNTIME_PACKING_H
#define RUNTIME_PACKING_H

#include "format/corm_read.h"

struct packing {
    double room;             /* share of the experts that fit decoded, 0..1 */
    double ratio;            /* stored bytes over decoded bytes */
    double disk_bytes_per_s; /* of stored bytes */
    /* Decoded bytes a second of all computing threads together: of decoding alone; of the math on
     * decoded experts; and of the math on packed experts, which includes their decoding. */
    double decode_bytes_per_s, compute_bytes_per_s, packed_bytes_per_s;
};

/* The time that a token takes for each decoded byte of its experts, where these are kept decoded
 * and where they are kept packed. */
double packing_decoded_s(const struct packing *p);
double packing_packed_s(const struct packing *p);
static inline bool packing_pays(const struct packing *p) {
    return packing_packed_s(p) < packing_decoded_s(p);
}

/* The first chunk of the archive that is stored as exponents, on which rates are measured. NULL
 * where there is none, or where it does not pass its checks. */
const struct corm_chunk *packing_sample(const struct corm *archive);
/* The rate at which one thread decodes the sample, in bytes a second, measured for about 2 ms.
 * `isa` is as in backend_cpu_open. */
double packing_decode_rate(const struct corm *archive, const struct corm_chunk *sample,
                           const char *isa);

#endif
