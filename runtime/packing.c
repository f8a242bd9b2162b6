#include "runtime/packing.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/cpu/exponents.h"

static const uint64_t MEASURE_NS = 2 * 1000 * 1000;

static double misses(double room) {
    return room < 1 ? pow(1 - room, 1.5) : 0;
}

static double longer(double a, double b) {
    return a > b ? a : b;
}

double packing_decoded_s(const struct packing *p) {
    double missed = misses(p->room);
    return longer(1 / p->compute_bytes_per_s + missed / p->decode_bytes_per_s,
                  missed * p->ratio / p->disk_bytes_per_s);
}

double packing_packed_s(const struct packing *p) {
    double missed = misses(p->room / p->ratio);
    return longer(1 / p->packed_bytes_per_s, missed * p->ratio / p->disk_bytes_per_s);
}

const struct corm_chunk *packing_sample(const struct corm *archive) {
    const struct corm_chunk *k = corm_chunk_encoded(archive, CORM_ENCODING_EXPONENTS);
    struct err err = {0};
    return !k || corm_chunk_check(archive, k, archive->map.data + k->offset, &err) < 0 ? NULL : k;
}

double packing_decode_rate(const struct corm *archive, const struct corm_chunk *k,
                           const char *isa) {
    const struct exponents_isa *best = exponents_isa_best(isa);
    size_t bytes = corm_chunk_raw_bytes(archive, k), done = 0;
    uint8_t *dst = mem_alloc_aligned(bytes);
    uint64_t start = clock_ns(), ns = 0;
    for (; ns < MEASURE_NS; ns = clock_ns() - start, done += bytes) {
        exponents_decode(best, archive->map.data + k->offset, k->stored_bytes, bytes / 2, dst);
    }
    free(dst);
    return (double)done / (double)ns * 1e9;
}
