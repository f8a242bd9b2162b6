/*
 * simulate: replays which experts were used through caches of other sizes and policies.
 *
 * Owns: the trace, Belady's policy (evict what is used again last: no policy can do better), the
 * count of hits.
 * Leaves to others: the engine's own policy and plain LRU: those are the cache itself, replayed
 * with experts of one chunk.
 * Threads: one at a time.
 *
 * An event is one layer of one token: all its experts are looked up before any of them is brought,
 * and none of them may give way to another of them.
 */
#ifndef RUNTIME_SIMULATE_H
#define RUNTIME_SIMULATE_H

#include "format/corm_read.h"

/* Experts by event: event i used ids[i * n_active] ... of layer layers[i]. */
struct simulate_trace {
    uint32_t n_active;
    size_t n, cap; /* events */
    uint32_t *layers;
    int32_t *ids;
};
void simulate_add(struct simulate_trace *t, uint32_t layer, const int32_t *ids);
void simulate_free(struct simulate_trace *t);

enum simulate_policy { SIMULATE_LRU, SIMULATE_OWN, SIMULATE_BELADY };

/* Share of lookups that find the expert in a cache of `capacity` experts (at least n_active), from
 * event `from` on; the ones before it fill the cache. */
int simulate_hits(const struct simulate_trace *t, const struct corm *archive,
                  enum simulate_policy policy, uint32_t capacity, size_t from, double *hits,
                  struct err *err);

#endif
