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
 *
 * Guesses were recorded with the chances that the engine gave them; they hang on what was routed,
 * not on what was in the cache. They are replayed as prefetch does it: those that pay pin what is
 * in memory and queue what is not, the next layer's before those after it; what a queue did not get
 * to when the next layer's guesses are made is dropped. An expert that a guess brought and that is
 * there when it is looked up is a hit.
 *
 * In place of time there is an allowance: so many experts the device brings while one layer is
 * computed. It brings demands besides, while the layer waits. With a of them brought in a layer and
 * m missed in it, the device serves demands for m / (m + a) of the time: that is how busy it is in
 * prefetch's rule, averaged over the last WINDOW events.
 *
 * Belady's policy bounds what caches reach that read on demand. Guesses may pass it in hits, since
 * they bring an expert before its lookup; never in reads: no policy, guessing or not, reads fewer
 * experts in all.
 */
#ifndef RUNTIME_BENCH_SIMULATE_H
#define RUNTIME_BENCH_SIMULATE_H

#include "format/corm_read.h"

/* The experts of `layer`, guessed in event `event`: before its lookups where `ahead` is 0, else
 * after them. */
struct simulate_guess {
    size_t event, first; /* ids and chances begin at `first` */
    uint32_t layer, ahead, n;
};

/* Experts by event: event i used ids[i * n_active] ... of layer layers[i]. */
struct simulate_trace {
    uint32_t n_active;
    size_t n, cap; /* events */
    uint32_t *layers;
    int32_t *ids;
    size_t n_guesses, cap_guesses; /* in the order of their events */
    struct simulate_guess *guesses;
    size_t n_guessed, cap_guessed; /* experts in them, best first */
    int32_t *guessed;
    float *guessed_p;
};
void simulate_add(struct simulate_trace *t, uint32_t layer, const int32_t *ids);
/* A guess of `n` experts of `layer`, made `ahead` layers before it: after the event that was added
 * last, or with 0 before the one to come. */
void simulate_add_guess(struct simulate_trace *t, uint32_t layer, uint32_t ahead, uint32_t n,
                        const int32_t *ids, const float *prob);
void simulate_free(struct simulate_trace *t);

enum simulate_policy { SIMULATE_LRU, SIMULATE_OWN, SIMULATE_BELADY };
#define SIMULATE_KEEPS_UP UINT32_MAX

struct simulate_case {
    enum simulate_policy policy;
    uint32_t capacity;  /* experts, at least n_active */
    uint32_t allowance; /* SIMULATE_OWN: experts brought by guesses in a layer; 0 = none are made */
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
