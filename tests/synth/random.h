/*
 * random: numbers by key and counter, so that any element of any tensor can be had by itself, in
 * any order and by any thread.
 *
 * Owns: the mixing function, and Gaussian numbers from a table of quantiles.
 * Threads: pure functions; the table is constant after gauss_open.
 */
#ifndef TESTS_SYNTH_RANDOM_H
#define TESTS_SYNTH_RANDOM_H

#include <stdint.h>

/* SplitMix64's finaliser (Steele, Lea, Flood 2014) of key + counter * the golden ratio. */
static inline uint64_t random_u64(uint64_t key, uint64_t counter) {
    uint64_t z = key + (counter + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}
/* In [0, 1). */
static inline double random_unit(uint64_t key, uint64_t counter) {
    return (double)(random_u64(key, counter) >> 11) * 0x1p-53;
}

enum { GAUSS_BITS = 12, GAUSS_COUNT = 1 << GAUSS_BITS };

/* Midpoints' quantiles of the normal distribution, scaled to variance 1. */
struct gauss {
    float quantile[GAUSS_COUNT];
};
void gauss_open(struct gauss *g);

static inline float gauss_at(const struct gauss *g, uint64_t key, uint64_t i) {
    uint64_t h = random_u64(key, i / 4);
    return g->quantile[(h >> (16 * (i % 4))) & (GAUSS_COUNT - 1)];
}
/* out[j] = number first + j of stream `key`; `first` is a multiple of 4. */
void gauss_row(const struct gauss *g, uint64_t key, uint64_t first, uint32_t n, float *out);

#endif
