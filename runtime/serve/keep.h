/*
 * keep: which session a prompt goes to.
 *
 * Owns: what each session remembers, as ids, and the rule by which one is chosen.
 * Leaves to others: the sessions themselves (scheduler).
 * Threads: the forward thread.
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
    bool busy;
};

/* How many tokens of a prompt of `n` a session has, of those that may be used again: all but the
 * last one or two, which are evaluated (logits are wanted, and a call of one token would count as
 * decoding). With `prompts_only`, of its own prompts. */
uint32_t keep_common(const struct kept *k, const int32_t *ids, size_t n, bool prompts_only);

/* The session for a prompt among those that are not busy: the one with most of it, where that is at
 * least a tenth of the prompt (what else that session remembers is lost, so a few tokens are not
 * worth it); else the one that was used least lately. -1 where all are busy. */
int keep_choose(const struct kept *kept, size_t n_kept, const int32_t *ids, size_t n,
                bool prompts_only);

#endif
