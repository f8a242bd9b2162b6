/*
 * measure: how local a checkpoint's routing is, in the figures that are published of real models.
 *
 * Owns: running text of the checkpoint's language, or text that the model samples, through the
 * shared forward pass; the figures.
 * Leaves to others: how a runtime does with it.
 * Memory: all rows of a layer (text), or the KV caches of all sequences (generated).
 * Threads: called by one.
 */
#ifndef TESTS_SYNTH_MEASURE_H
#define TESTS_SYNTH_MEASURE_H

#include "format/progress.h"
#include "prep/hf/hf.h"

enum { MEASURE_AHEAD = 3 };

struct measure_options {
    uint32_t n_seqs, seq_tok; /* sequences of so many tokens */
    bool generated;           /* sampled at temperature 1 after the first token */
    uint64_t stream;          /* which text */
    uint32_t threads;
};

struct measure {
    /* Hits of an LRU cache of half of all experts over the whole trace, once it was full (0: it
     * never was); part of a token's experts that were in the token before's set. */
    double lru_half, previous;
    /* Part of a token's experts in the top-k of their router applied to the residual stream that
     * the FFN 1, 2, 3 layers before read. */
    double stale[MEASURE_AHEAD];
    double load_min, load_max; /* over the mean load of a layer, mean over layers */
    /* Energy of the quarter and the half of an expert's neurons with the most energy on one half of
     * its rows, measured on the other half. */
    double energy_quarter, energy_half;
    double in_topic; /* tokens followed by one of the same topic */
    double nll,
        text; /* nats a token: the model's, and the language's own entropy; 0 where generated */
};

int measure_run(const char *dir, const struct measure_options *o, struct measure *out,
                struct progress *progress, struct err *err);

#endif
