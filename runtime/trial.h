/*
 * trial: finds out whether doing something pays, by leaving it out now and then.
 *
 * Owns: when to try, the times of both ways, the verdict.
 * Leaves to others: what is done or left out, and the clock (lookahead tries its guesses).
 * Threads: one.
 *
 * Guesses cost bytes and time of the processors that compute. Whether they save more than that
 * depends on the disk, the model and the machine, and no counter of hits tells. So, after a while,
 * some tokens are decoded with guesses and some without, in the order with, without, without, with,
 * so that a drift of the machine's speed counts for both alike. The way with the smaller median
 * time is kept, and the present way where the two are close. Each verdict that agrees with the one
 * before makes the next trial rarer.
 */
#ifndef RUNTIME_TRIAL_H
#define RUNTIME_TRIAL_H

#include <stdbool.h>
#include <stdint.h>

enum {
    TRIAL_BLOCK_TOK = 10, /* tokens in a row that go one way, of which */
    TRIAL_SETTLE_TOK = 2, /* the first ones do not count: the cache is as the other way left it */
    TRIAL_BLOCKS = 4,
    TRIAL_FIRST_TOK = 64, /* tokens between trials: at first, and at most */
    TRIAL_MOST_TOK = 4096,
    TRIAL_SAMPLES = TRIAL_BLOCKS / 2 * (TRIAL_BLOCK_TOK - TRIAL_SETTLE_TOK),
};

struct trial {
    bool off;              /* the verdict so far: leave it out */
    uint32_t interval_tok; /* between this trial and the next */
    uint32_t tok;          /* tokens since the last verdict */
    uint64_t started_ns;   /* when the token at hand began; 0 = it does not count */
    uint32_t n[2];         /* samples: [0] done, [1] left out */
    uint64_t ns[2][TRIAL_SAMPLES];
    uint64_t tok_off; /* tokens that went without so far */
};

/* At first the thing that is tried is done. */
void trial_open(struct trial *t);
/* A token begins at `now_ns`, and the one before it ended. Returns whether to do it. */
bool trial_token(struct trial *t, uint64_t now_ns);
/* Something other than the next token happens now. The time until the next token counts for neither
 * way. */
void trial_interrupt(struct trial *t);

#endif
