/*
 * mixer: how a layer mixes tokens, as a table with a row for each mixer.
 *
 * Owns: the contract of a mixer. Each mixer is a file mixer_<name>.c, which has its projections,
 * its state and its arithmetic in terms of backend operations.
 * Leaves to others: the norms around it and the residual stream (forward), the memory of states
 * (state).
 * Threads: the forward thread.
 *
 * Only mixers look at the spans of a batch. A product takes all rows at once; an operation that
 * depends on positions takes the rows of one span after the other. So each row gets the bits that
 * it would get alone.
 */
#ifndef RUNTIME_MODEL_MIXER_H
#define RUNTIME_MODEL_MIXER_H

#include "runtime/model/forward.h"
#include "runtime/model/state.h"

struct mixer_ops {
    const char *name;
    /* Floats of scratch for each row of a call, in f->mix. */
    size_t (*scratch)(const struct arch *arch, uint32_t layer);
    /* Raise what the layer asks of a backend: widths of its products' rows, heads. */
    void (*limits)(const struct arch *arch, uint32_t layer, struct backend_limits *limits);
    /* Fill in what a sequence needs in this layer: shapes and sizes, no memory. */
    void (*shape)(const struct arch *arch, uint32_t layer, const struct state_size *size,
                  struct layer_state *out);
    /* A state stands for `end` tokens now, and has stood for `farthest`. Whether it still holds
     * what the first n_tok <= end of them left behind; where it is `torn`, in this layer it may
     * have taken up more than `end`. */
    bool (*holds)(const struct arch *arch, uint32_t layer, const struct state *s, uint32_t n_tok);
    /* Where keys and values are kept: the first position that any token from `n_tok` on sees.
     * May be NULL in a mixer that keeps none. */
    uint32_t (*first_seen)(const struct arch *arch, uint32_t layer, uint32_t n_tok);
    /* Whether the backend has all operations that it needs. */
    bool (*supported)(const struct backend *be);
    /* f->out [rows, dim] becomes the mixer applied to f->in [rows, dim]. The states of the
     * batch's sequences take up the rows. */
    void (*run)(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                const struct batch *b);
};

extern const struct mixer_ops mixer_attention, mixer_delta_net, mixer_latent;
/* The row of a mixer. */
const struct mixer_ops *mixer_at(uint32_t id);
static inline const struct mixer_ops *mixer_of(const struct arch *arch, uint32_t layer) {
    return mixer_at(arch_kind(arch, layer)->mixer);
}

/* To be called by `run`, when the layer's state has taken up the rows of the span, and not yet
 * those of the sequence's next one. */
static inline void mixer_keep(const struct span *s, uint32_t layer) {
    if (s->kept) {
        state_keep(s->state, layer, s->pos + s->rows, s->kept);
    }
}

/* For limits: the greater one stays. */
static inline void mixer_raise(uint32_t *limit, uint32_t n) {
    *limit = n > *limit ? n : *limit;
}

/* Hands out a mixer's scratch from f->mix. `*used` is the number of floats of each row that are
 * handed out already. */
static inline float *mixer_take(struct forward *f, size_t *used, size_t floats) {
    float *p = f->mix + *used * f->max_rows;
    *used += floats;
    return p;
}

#endif
