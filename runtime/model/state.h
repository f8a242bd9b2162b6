/*
 * state: what a sequence leaves behind in each layer, for the tokens after it.
 *
 * Owns: the memory of it (keys and values, tails of convolutions, recurrent matrices; which of
 * these is the mixer's affair, runtime/model/mixer.h), how many tokens it stands for, and whether
 * it can be cut back.
 * Leaves to others: its contents (mixers), the tokens themselves (session).
 * Threads: the forward thread.
 *
 * Cutting back. Keys and values of a layer without a window are all held, so that a shorter
 * sequence is there already. A layer with a window holds as many positions as a call needs and no
 * more, and a recurrence holds its last moment alone: what they cannot be cut back to has to be
 * computed again, from the first token on.
 */
#ifndef RUNTIME_MODEL_STATE_H
#define RUNTIME_MODEL_STATE_H

#include "format/arch.h"
#include "kernels/backend.h"

/* What sizes a state: how long a sequence may become, the most rows of one call, what keys and
 * values are stored as. */
struct state_size {
    uint32_t ctx_tok, batch_rows;
    enum kv_type type;
};

/* Of one layer; a mixer uses what it needs. Backend memory. */
struct layer_state {
    struct kv kv;
    float *tail;      /* the last inputs of a convolution */
    float *recurrent; /* a recurrence's matrices */
    size_t tail_bytes, recurrent_bytes;
};

struct state {
    const struct arch *arch;
    struct backend *be;
    struct state_size size;
    struct layer_state *layers; /* [n_layers] */
    uint32_t end;               /* tokens that it stands for */
    uint32_t farthest;          /* the most of them since it stood for none */
};

/* Backend memory that a sequence takes. */
uint64_t state_bytes(const struct arch *arch, const struct state_size *size);
/* An empty sequence, for the layers for which only [n_layers] is true (NULL: for all): prep runs one
 * layer at a time. -1 where the backend has no memory left. */
int state_open(struct state *s, const struct arch *arch, struct backend *be,
               const struct state_size *size, const bool *only, struct err *err);
void state_close(struct state *s); /* accepts a zeroed struct */

/* A call has added `rows` tokens in all layers. */
void state_advance(struct state *s, uint32_t rows);
/* Cut back to the first `n_tok` tokens, n_tok <= end. Returns how many tokens it stands for then:
 * n_tok where it holds what these left behind, else 0: the caller evaluates them again. */
uint32_t state_cut(struct state *s, uint32_t n_tok);
/* A call was broken off: some layers have its tokens and others do not. Back to the `n_tok` tokens
 * before it, or to the fewer ones that it stands for; returns as state_cut. */
uint32_t state_undo(struct state *s, uint32_t n_tok);

#endif
