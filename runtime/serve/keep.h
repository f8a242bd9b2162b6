/*
 * keep: which session a prompt goes to.
 *
 * Owns: what each session remembers, as ids, and the rule by which one is chosen.
 * Leaves to others: the sessions themselves (scheduler), and how far each can go back.
 * Threads: the forward thread.
 *
 * What counts is what need not be computed again: of a session whose layers have windows or
 * recurrences that may be less than what its tokens have in common with the prompt.
 */
#ifndef RUNTIME_SERVE_KEEP_H
#define RUNTIME_SERVE_KEEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kept {
    int32_t *ids; /* what was evaluated */
    uint32_t n;
    uint32_t exact; /* of these, those at the beginning that were evaluated as a prompt */
    uint64_t used;  /* when it was last: the greater the later */
    bool busy;      /* a job runs there: it may be copied, not taken */
    bool locked;    /* it is in an open pass, and may not be copied either */
};

/* How many tokens of a prompt of `n` a session has; with `prompts_only`, of its own prompts. */
uint32_t keep_common(const struct kept *k, const int32_t *ids, size_t n, bool prompts_only);

/* How many of its first `n_tok` tokens session `i` would hold if it were cut back to these. */
typedef uint32_t keep_reach(const void *ctx, size_t i, uint32_t n_tok);

/* Where a prompt goes. */
struct keep_choice {
    int target; /* the session that it is given; -1: all are busy */
    int source; /* the one that has most of it, which is copied to the target first; or the target
                   itself; or -1: nothing is used again */
    uint32_t common; /* tokens that are used again */
};

/* The session that has most of a prompt, where that is at least a tenth of it, goes on with it, if
 * it is not busy and loses little by that (at most a quarter of what it remembers). Else it is
 * copied to the one of the others that was used least lately. */
struct keep_choice keep_choose(const struct kept *kept, size_t n_kept, const int32_t *ids, size_t n,
                               bool prompts_only, keep_reach *reach, const void *ctx);

#endif
