/*
 * simulate: replays which experts were used through caches of other sizes and policies.
 *
 * Owns: the trace, Belady's policy (evict what is used again last: no policy can do better), the
 * device that brings guesses, the counts of hits and reads.
 * Leaves to others: the engine's own policy and plain LRU: those are the cache itself, replayed
 * with experts of one chunk; whether a guess pays (prefetch).
 * Threads: one at a time.
 *
 * An event is one layer of one token: all its experts are looked up before any of them is brought,
 * and none of them may give way to another of them.
 * Guesses were recorded with the chances that the engine gave them. They depend on what was routed,
 * not on what was in the cache. They are replayed as prefetch does it: a guess that pays pins an
 * expert that is in memory, and queues one that is not, the next layer's before those of later
 * layers. What has not been brought from the queue when the next layer's guesses are made is
 * dropped. An expert that a guess brought and that is there when it is looked up is a hit.
 * In place of time there is an allowance: the number of guessed experts that the device brings
 * while one layer is computed. It brings demanded experts as well, while the layer waits. Where it
 * brings A guessed experts during a layer that misses M, it serves demands for M / (M + A) of the
 * time. That, averaged over the last WINDOW events, is how busy the device is in prefetch's rule.
 * Belady's policy is a bound for caches that read on demand. With guesses there may be more hits,
 * since they bring an expert before its lookup, but never fewer reads: no policy, guessing or not,
 * reads fewer experts in all.
 */
#ifndef RUNTIME_BENCH_SIMULATE_H
#define RUNTIME_BENCH_SIMULATE_H

#include "format/corm_read.h"

/* A guess of experts of `layer`. It was made in event `event`, before that event's lookups where
 * `ahead` is 0, else after them. */
struct simulate_guess {
    size_t event, first; /* ids and chances begin at `first` */
    uint32_t layer, ahead, n;
};

/* The experts of each event: event i used ids[i * n_active] and the following ones of layer
 * layers[i]. */
struct simulate_trace {
    uint32_t n_active;
    size_t n, cap; /* events */
    uint32_t *layers;
    int32_t *ids;
    size_t n_guesses, cap_guesses; /* in the order of their events */
    struct simulate_guess *guesses;
    size_t n_guessed, cap_guessed; /* the experts in all guesses; those of one are best first */
    int32_t *guessed;
    float *guessed_p;
};
void simulate_add(struct simulate_trace *t, uint32_t layer, const int32_t *ids);
/* Add a guess of `n` experts of `layer`, made `ahead` layers before that. It belongs to the event
 * that was added last; where `ahead` is 0, to the one that is added next. */
void simulate_add_guess(struct simulate_trace *t, uint32_t layer, uint32_t ahead, uint32_t n,
                        const int32_t *ids, const float *prob);
void simulate_free(struct simulate_trace *t);

enum simulate_policy { SIMULATE_LRU, SIMULATE_OWN, SIMULATE_BELADY };
#define SIMULATE_KEEPS_UP UINT32_MAX

struct simulate_case {
    enum simulate_policy policy;
    uint32_t capacity;  /* experts, at least n_active */
    uint32_t allowance; /* SIMULATE_OWN: guessed experts brought in a layer; 0 = no guesses */
    size_t from;        /* events before it fill the cache and are not counted */
};
struct simulate_result {
    double hits;    /* share of lookups that find the expert */
    uint64_t reads; /* experts brought, by demands and guesses */
    uint64_t read_bytes;
};
int simulate_run(const struct simulate_trace *t, const struct corm *archive,
                 const struct simulate_case *how, struct simulate_result *result, struct err *err);

#endif
