/*
 * state: what a sequence leaves behind in each layer, for the tokens that come after it.
 *
 * Owns: the memory of that (keys and values, tails of convolutions, matrices of recurrences), how
 * many tokens it stands for, and whether it can be cut back. Which of these a layer has is decided
 * by its mixer (runtime/model/mixer.h).
 * Leaves to others: the contents (mixers), the tokens themselves (session).
 * Threads: the forward thread.
 *
 * Cutting back. A layer without a window holds all keys and values, so that the state of a shorter
 * sequence is part of it. A layer with a window holds only as many positions as a call needs, and a
 * recurrence holds only its last state. Where these cannot be cut back, the sequence has to be
 * computed again from the first token on, or from a snapshot (state_keep).
 */
#ifndef RUNTIME_MODEL_STATE_H
#define RUNTIME_MODEL_STATE_H

#include "format/arch.h"
#include "kernels/backend.h"

/* What the size of a state depends on: how long a sequence may become, how many rows a call may
 * have, and the type in which keys and values are stored. */
struct state_size {
    uint32_t ctx_tok, batch_rows;
    enum kv_type type;
};

/* The state of one layer, in backend memory. A mixer uses the parts that it needs. */
struct layer_state {
    struct kv kv;
    float *tail;      /* the last inputs of a convolution */
    float *recurrent; /* a recurrence's matrices */
    size_t tail_bytes, recurrent_bytes;
    uint32_t kept_tok; /* keys and values of so many tokens, at most, are in what state_keep copies:
                          those that a later token sees, of a ring that goes around; else 0 */
    size_t kept_at, kept_bytes; /* of the layer in what state_keep copies */
};

struct state {
    const struct arch *arch;
    struct backend *be;
    struct state_size size;
    struct layer_state *layers; /* [n_layers] */
    uint32_t *words;            /* a copy of `beyond` that the processor reads */
    uint32_t *beyond;           /* backend memory [n_layers, 2]: struct kv's words; NULL for f32 */
    uint32_t end;               /* tokens that it stands for */
    uint32_t farthest;          /* the most of them since it stood for none */
    uint32_t touched;           /* tokens for which layers without a ring may have taken memory */
    bool torn;                  /* some layers have taken up more than `end` tokens */
};

/* See that keys and values of all layers can be of the type; else -1 and `err`, which names the
 * layer. */
int state_fits(const struct arch *arch, enum kv_type type, struct err *err);

/* Backend memory that a sequence takes with room for all of its context; and what it takes of that
 * with so many tokens, where the backend has `forget`: all but the keys and values of layers that
 * hold the whole context, and of these the pages of n_tok tokens. */
uint64_t state_bytes(const struct arch *arch, const struct state_size *size);
uint64_t state_bytes_at(const struct arch *arch, const struct state_size *size, uint32_t n_tok);
/* Open an empty sequence for the layers l with only[l], [n_layers]; NULL: for all layers. (prep
 * runs one layer at a time.) Fails where the backend has no memory left; state_close is due in any
 * case. */
int state_open(struct state *s, const struct arch *arch, struct backend *be,
               const struct state_size *size, const bool *only, struct err *err);
void state_close(struct state *s); /* accepts a zeroed struct */

/* Make `to` the same as `from`, which has the same shape in the same backend: with the keys and
 * values of the sequence's first n_tok tokens, also where the state had to begin again, for
 * snapshots of these. */
void state_copy(struct state *to, const struct state *from, uint32_t n_tok);

/* All that the first `n_tok` tokens left behind for those after them, as pieces of backend
 * memory in an order that depends on the arch, the type and n_tok only, and not on what room the
 * state has: layer by layer the keys, then the values of each head by position, the tail, the
 * recurrent state. For a state that stands for n_tok tokens, or is going to. Ends where `on`
 * gives -1, and returns that. */
int state_walk(const struct state *s, uint32_t n_tok,
               int (*on)(void *ctx, void *piece, size_t bytes), void *ctx);
/* The sum of its pieces' bytes. */
uint64_t state_walk_bytes(const struct arch *arch, enum kv_type type, uint32_t n_tok);
/* The pieces of the walk were filled in: the state stands for n_tok tokens. */
void state_restored(struct state *s, uint32_t n_tok);

/* Whether the keys and values of the layers that have run since the last call of this function fit
 * their type. Where it cannot hold one it is an error, which names the earliest token with such a
 * key or value and the first layer of that token, so that it is the same however the rows were cut
 * into batches; `advice` ends it. What it told of is forgotten. */
int state_check(struct state *s, const char *advice, struct err *err);
/* Layers may take memory for so many tokens. */
void state_touch(struct state *s, uint32_t n_tok);
/* Give back what they took for tokens past the first n_tok. */
void state_forget(struct state *s, uint32_t n_tok);
/* A call has added `rows` tokens in all layers. */
void state_advance(struct state *s, uint32_t rows);
/* Cut the sequence back to its first `n_tok` tokens, n_tok <= end. Returns how many tokens the
 * state stands for afterwards: n_tok where it holds what these left behind; else 0, and the caller
 * evaluates them again. */
uint32_t state_cut(struct state *s, uint32_t n_tok);
/* Whether it could be cut back to so many tokens, n_tok <= end. */
bool state_holds(const struct state *s, uint32_t n_tok);
/* A call was broken off, so that some layers have taken up its tokens and others have not: the
 * state stands for nothing until it is cut back, to no more than `end`, or restored. */
void state_break(struct state *s);
/* Both: go back to the `n_tok` tokens before the call, or to fewer. Returns how many, as state_cut
 * does. */
uint32_t state_undo(struct state *s, uint32_t n_tok);

/* Snapshots. What a state cannot be cut back to is copied while it is there: tails, recurrences,
 * and what windows hold. Keys and values of layers without a window are not, so that a snapshot is
 * good for a sequence whose first tokens have stayed the same. Backend memory of so many bytes: */
size_t state_kept_bytes(const struct arch *arch, const struct state_size *size);
/* Copy the layer's part of what the first `n_tok` tokens have left behind, when the layer has taken
 * up these and no more, or, of a window, not more than a call's rows beyond them. */
void state_keep(const struct state *s, uint32_t layer, uint32_t n_tok, void *kept);
/* Go back, or forth, to the n_tok tokens that all layers were kept of. */
void state_return(struct state *s, uint32_t n_tok, const void *kept);

#endif
