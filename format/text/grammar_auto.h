/*
 * grammar_auto: the automaton of a grammar, made as it is needed.
 *
 * A configuration is a node of the program (one that takes a byte or a token, or the end) and a
 * frame, which is the top of a stack that is shared with other configurations. A state is a set of
 * configurations, interned, so that equal sets are the same number. States 0 and 1 stand for "not
 * made yet" and "nothing is allowed".
 *
 * One thread at a time. All of it may be forgotten but for the states that somebody holds:
 * auto_sweep.
 */
#ifndef FORMAT_TEXT_GRAMMAR_AUTO_H
#define FORMAT_TEXT_GRAMMAR_AUTO_H

#include "format/text/grammar_internal.h"

enum { AUTO_UNKNOWN, AUTO_DEAD, AUTO_FIRST };

struct config {
    uint32_t node; /* GRAMMAR_NONE: the end of the text */
    uint32_t frame;
};

struct frame {
    uint32_t at;       /* node to go on at, or a NODE_LOOP */
    uint32_t count;    /* of a loop: rounds that are finished; of a call: GRAMMAR_NONE */
    uint32_t parent;   /* frame */
    uint32_t shortest; /* bytes to the end of the text from where the frame is left */
    uint32_t depth;
    uint32_t hash_next; /* frame of the same bucket */
};

struct auto_state {
    uint32_t first, n; /* in `configs` */
    uint32_t shortest; /* bytes to the end of the text */
    uint32_t plain;    /* where every plain character leads: see grammar_mask.c */
    uint32_t slot;     /* of its mask */
    bool may_end, tokens;
};

struct grammar_auto {
    const struct grammar *g;
    struct config *configs;
    size_t n_configs, cap_configs;
    struct frame *frames; /* 0 is the bottom */
    size_t n_frames, cap_frames;
    uint32_t *frame_buckets; /* [frame_mask + 1] */
    uint32_t frame_mask;
    struct auto_state *states;
    size_t n_states, cap_states;
    uint32_t *state_index; /* [state_mask + 1] by hash of the configurations */
    uint32_t state_mask;
    uint32_t *next; /* [n_states][n_classes] */
    size_t cap_next;
    uint32_t start;
    /* of the closure that is made */
    struct config *made, *todo;
    size_t n_made, cap_made, n_todo, cap_todo;
    struct {
        struct config config;
        uint32_t stamp;
    } *seen; /* [SEEN] */
    uint32_t stamp;
    size_t n_seen;
    uint64_t transitions, sweeps;
    uint64_t work, most_work; /* configurations looked at in this call, and how many may be */
    size_t most_bytes;        /* of all states and frames */
    bool failed;              /* too much of something: `why` */
    const char *why;
};

void auto_open(struct grammar_auto *a, const struct grammar *g);
void auto_close(struct grammar_auto *a);
size_t auto_bytes(const struct grammar_auto *a);

/* The state behind a byte's class, and behind a named token. AUTO_DEAD where there is none, or
 * where `failed` is set. */
uint32_t auto_step(struct grammar_auto *a, uint32_t state, uint32_t class);
uint32_t auto_token(struct grammar_auto *a, uint32_t state, uint32_t token);

static inline uint32_t auto_next(struct grammar_auto *a, uint32_t state, uint32_t class) {
    uint32_t next = a->next[(size_t)state * a->g->n_classes + class];
    return next != AUTO_UNKNOWN ? next : auto_step(a, state, class);
}

/* Forget all but the states held[n], which become their new numbers. */
void auto_sweep(struct grammar_auto *a, uint32_t **held, size_t n);

#endif
