/*
 * shape: finds out which shape of a loop over weights is the fastest here, on the work itself.
 *
 * Owns: whose turn a call is, the times of calls, the verdict.
 * Leaves to others: what a shape is (cpu_*.c), and the clock.
 * Threads: one, the forward thread.
 *
 * How fast weights come from memory depends on how they are asked for. One processor foresees a
 * single stream of bytes as well as reading can be, and is slowed down to half by instructions that
 * ask ahead, or by neighbouring rows that are read side by side; another is fastest with just
 * those.
 * No name of a processor tells, nor does a measurement before the work: the answer depends on the
 * encoding, on the operation, and on how many threads read. All shapes give the same bits, so calls
 * simply take them in turn, the order drawn anew for each round so that no shape always gets the
 * same matrix; the shape with the smallest median of time a byte stays where it is clearly ahead of
 * the present one. Until then shape 0 is used. Each verdict that agrees with the one before makes
 * the next trial rarer. Whoever measures shapes can look at the verdict, or set it.
 */
#ifndef KERNELS_CPU_SHAPE_H
#define KERNELS_CPU_SHAPE_H

#include <stdbool.h>
#include <stdint.h>

enum {
    SHAPE_MOST = 7,         /* shapes of one operation */
    SHAPE_ROUNDS = 9,       /* calls of each shape in a trial */
    SHAPE_FIRST_CALLS = 16, /* calls before the first trial: memory is touched for the first time */
    SHAPE_NEXT_CALLS = 512, /* between trials, at first and after a change, */
    SHAPE_MOST_CALLS = 32768,       /* and at most */
    SHAPE_LEAST_BYTES = 256 * 1024, /* a call on fewer tells nothing */
};

struct shape_trial {
    uint32_t n;       /* shapes; 0: none is tried */
    uint32_t best;    /* the verdict so far */
    uint32_t calls;   /* since the last verdict */
    uint32_t waiting; /* calls between it and the next trial; UINT32_MAX: there is none */
    uint32_t draw;    /* the state of what draws orders */
    uint8_t order[SHAPE_MOST];
    float cost[SHAPE_MOST][SHAPE_ROUNDS]; /* ns a byte */
};

/* A trial of n <= SHAPE_MOST shapes. */
void shape_open(struct shape_trial *t, uint32_t n);
/* Whether the next call is to be timed, for shape_took. */
bool shape_tries(const struct shape_trial *t);
/* The shape of the next call, which reads so many bytes. */
uint32_t shape_next(struct shape_trial *t, uint64_t bytes);
/* That call, which shape_tries wanted timed, took so long. */
void shape_took(struct shape_trial *t, uint64_t bytes, uint64_t ns);
/* Whether there was a verdict. */
bool shape_chosen(const struct shape_trial *t);
/* All calls from now on take this shape < n; none is tried any more. */
void shape_force(struct shape_trial *t, uint32_t shape);

#endif
