/*
 * batch: the rows of one forward call: whose they are, and where they stand.
 *
 * Owns: struct batch, struct span.
 * Leaves to others: everything else. Only mixers look at spans: norms, products, the router and the
 * experts take all rows alike, whoever owns them, and each row gets the bits that it gets alone.
 * Threads: constant during a call.
 */
#ifndef RUNTIME_MODEL_BATCH_H
#define RUNTIME_MODEL_BATCH_H

#include <stdbool.h>
#include <stdint.h>

struct state;

/* Neighbouring rows of one sequence, at positions pos ... A sequence may have several, in order. */
struct span {
    struct state *state;
    uint32_t first, rows; /* of the batch */
    uint32_t pos;
    /* A snapshot (state_keep) of the sequence as it is behind these rows; NULL = none. Each mixer
     * copies its layer's part when its layer is there. */
    void *kept;
};

struct batch {
    uint32_t rows;
    uint32_t n_spans;
    const struct span *spans; /* in order of their rows, which they cover; NULL where no mixer is
                                 going to run */
    bool decode;              /* each row is the next token of a sequence of its own, so that the
                                 same layers come again soon: what is guessed and left out when
                                 decoding is guessed and left out here */
};

/* Tokens by which clocks move on: a decoding batch adds one to each of its sequences. */
static inline uint32_t batch_tokens(const struct batch *b) {
    return b->decode ? 1 : b->rows;
}

#endif
