/*
 * sample: which token comes next, from one row of logits.
 *
 * Owns: greedy choice, bias and penalties, the ids that are allowed, top-k, top-p, min-p,
 * temperature, the random numbers; and how likely tokens are without any of these.
 * Leaves to others: what the options mean to a user and their order (struct corm_sampling in corm.h
 * says it), where logits and history come from, which tokens end a text.
 * Threads: one struct sample belongs to one thread at a time.
 *
 * A draw has no hidden state: it is a function of logits, options, history and position. Nothing is
 * allocated after sample_open, and nothing is sorted: both top-k and top-p select by radix,
 * O(vocab). Among equal logits the lowest ids come first.
 */
#ifndef RUNTIME_SAMPLE_H
#define RUNTIME_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "runtime/corm.h"

enum { SAMPLE_RADIX = 1 << 11 };

/* Workspace. The candidates that are left are (ids[i], logits[i]), i < n, ids ascending. */
struct sample {
    uint32_t vocab;
    uint32_t n;
    uint32_t *ids;    /* [vocab] */
    float *logits;    /* [vocab], after bias and penalties */
    double *weights;  /* [vocab], exp((logit - greatest) / temperature) */
    uint32_t *counts; /* [vocab], zeros between draws: how often an id was generated */
    double histogram[SAMPLE_RADIX];
};

/* `vocab` bounds the rows of every later draw. sample_close accepts a zeroed struct. */
void sample_open(struct sample *s, uint32_t vocab);
void sample_close(struct sample *s);
/* Bytes that sample_open takes. */
size_t sample_bytes(uint32_t vocab);

/*
 * Draw an id below `n_valid` (<= vocab) from `logits` [n_valid], which may hold NaN and infinities:
 * NaN and -inf are never drawn, +inf beats everything. `history` [n_history] are the tokens so far,
 * oldest first (ids outside 0..n_valid-1 are passed over); the repeat penalty sees the last
 * how->repeat_last_tok of them, presence and frequency all but the first how->prompt_tok.
 * `position` picks the random number. Returns -1 where no candidate is left.
 */
int32_t sample_draw(struct sample *s, const struct corm_sampling *how, const float *logits,
                    uint32_t n_valid, const int32_t *history, size_t n_history, uint64_t position);

/*
 * Number `position` of the sequence that belongs to `seed`, uniform in [0, 1) with 53 bits; the
 * same on every machine. SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number
 * generators", 2014), which has random access: its state is start + (position + 1) * gamma. The
 * start is the seed, mixed, so that the sequences of neighbouring seeds do not overlap.
 */
double sample_uniform(uint64_t seed, uint64_t position);
/* The seed of one of several answers; that of answer 0 is `seed` itself. */
uint64_t sample_choice_seed(uint64_t seed, uint32_t choice);

/* corm_logprobs of corm.h for logits [vocab], whose first n_valid rows are ids. */
size_t sample_logprobs(const float *logits, uint32_t vocab, uint32_t n_valid,
                       struct corm_logprob *chosen, struct corm_logprob *top, size_t n_top);

#endif
