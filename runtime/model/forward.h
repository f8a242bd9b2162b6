/*
 * forward: the forward pass of a sparse mixture-of-experts decoder, written once.
 *
 * Owns: the order of operations from tokens to logits, for the rows of a batch; the scratch they
 * need; the tap points. prep drives it layer by layer over many rows (calibration), the engine
 * token by token.
 * Leaves to others: arithmetic (kernels/backend.h), mixing tokens (mixer), choosing experts
 * (router), where expert weights come from (struct experts_hook), who watches (struct tap_hook),
 * sampling.
 * Threads: one struct forward belongs to one thread, the forward thread.
 *
 * It holds no element loops, no model names and no backend checks: a new model family is new values
 * in struct arch, and what a value means is said where its rule is used.
 */
#ifndef RUNTIME_MODEL_FORWARD_H
#define RUNTIME_MODEL_FORWARD_H

#include "format/arch.h"
#include "kernels/backend.h"
#include "runtime/model/batch.h"

/* Weights of one layer (or of the model: scope SLOT_OF_MODEL) by slot, placed in the backend. A
 * tensor that the model does not have has no data. Bytes are borrowed from the archive or
 * checkpoint. */
struct layer_weights {
    struct weight w[SLOT_COUNT];
};

/* Where weights come from: an archive (engine) or a checkpoint (prep). Returns a host view that
 * lives as long as the layer is bound. */
struct weight_source {
    void *ctx;
    int (*get)(void *ctx, enum slot_id slot, uint32_t layer, struct weight *out, struct err *err);
};
/* Fill all non-expert slots of `layer` (or of the model scope). */
int forward_bind_layer(struct layer_weights *out, const struct arch *arch, uint32_t layer,
                       const struct weight_source *src, struct backend *be, struct err *err);
int forward_bind_model(struct layer_weights *out, const struct arch *arch,
                       const struct weight_source *src, struct backend *be, struct err *err);

/* One layer of a model on one backend: what functions about a layer need to know. */
struct forward_site {
    const struct arch *arch;
    struct backend *be;
    uint32_t layer;
    const struct layer_weights *lw;
};

/* What the experts of a layer have in common, their rows being encoded so. */
struct expert_layer forward_expert_layer(const struct arch *arch, uint32_t layer,
                                         const struct layer_weights *lw);

enum tap {
    TAP_EMBED,          /* [rows, dim] */
    TAP_ATTN_IN,        /* [rows, dim] after the norm before the mixer */
    TAP_ATTN_OUT,       /* [rows, dim] what the mixer gives, before any norm and the residual sum */
    TAP_FFN_RESIDUAL,   /* [rows, dim] residual stream before the feed-forward part */
    TAP_FFN_IN,         /* [rows, dim] what the experts (a dense layer: its MLP) read */
    TAP_ROUTER_IN,      /* [rows, dim] what the router reads */
    TAP_ROUTER,         /* [rows, n_experts] router logits */
    TAP_EXPERT_WEIGHTS, /* [rows, n_active]; `ids` holds the chosen experts */
    TAP_FFN_OUT,        /* [rows, dim] whole FFN output, before branch_scale and the residual sum */
    TAP_LAYER_OUT,      /* [rows, dim] residual stream after the layer */
    TAP_FINAL_NORM,     /* [rows, dim] */
    TAP_LOGITS,         /* [rows, vocab] */
    TAP_COUNT,
};

/* Watcher of tap points; any number of points may be ignored. `data` is backend memory, valid
 * during the call only; `ids` is host memory [rows, n_active] for TAP_EXPERT_WEIGHTS, else NULL.
 * TAP_FFN_IN arrives before the router runs, so a watcher may start to fetch weights there. The
 * rows of the last two points are those that logits were asked for: their batch has no spans. */
struct tap_hook {
    void *ctx;
    void (*on)(void *ctx, enum tap tap, uint32_t layer, const float *data, const struct batch *b,
               uint32_t cols, const int32_t *ids);
};

/* Provider of the routed experts. Where host_x is not NULL (a device only), x of a batch that
 * decodes comes there together with host_ids. run() computes parts[u] for every use u of (row,
 * choice) as the backend's experts operation defines, from wherever it keeps the weights; `lw` has
 * what is not of single experts. host_ids [rows, n_active]. Returns -1 with err filled where
 * weights could not be had. */
struct experts_hook {
    void *ctx;
    int (*run)(void *ctx, uint32_t layer, const struct layer_weights *lw, const float *x,
               const struct batch *b, const int32_t *host_ids, float *parts, struct err *err);
    float *host_x; /* [rows, dim], of a provider that needs them in the host's memory */
};

/* For providers: uses [n_uses] sorted by expert, increasing inside one; those of expert i are
 * uses[first_use[i]] .. uses[first_use[i + 1] - 1]. first_use [n_experts + 1]. */
void forward_group_uses(const int32_t *host_ids, uint32_t n_uses, uint32_t n_experts,
                        uint32_t *first_use, uint32_t *uses);

struct forward {
    const struct arch *arch;
    struct backend *be;
    uint32_t max_rows;
    struct experts_hook experts;
    struct tap_hook tap; /* on == NULL: nobody */
    /* Scratch, backend memory, sized by max_rows. */
    float *x, *norm, *out, *mix, *cs, *gate, *up, *mlp, *parts, *logits_router, *weights, *sw;
    int32_t *ids;
    const float *in; /* what the branch at hand reads: `norm`, or the residual stream itself */
    /* The rows that forward_mixer took last; NULL after forward_ffn. */
    const float *mixed;
    uint32_t mixed_rows;
    int32_t *host_ids; /* host memory */
    /* Whose angles `cs` holds, for each rope set: layers share them. Host memory. */
    uint32_t *row_pos;                /* [max_rows] of the batch at hand */
    uint32_t *cs_pos;                 /* [n_ropes, max_rows] */
    uint32_t cs_rows[ARCH_MAX_ROPES]; /* 0 = none yet */
};

/* Whether the backend has all that the model's layers need; the error names what it lacks. */
int forward_supported(const struct arch *arch, const struct backend *be, struct err *err);
/* `max_rows` bounds the rows of every later call. `be` must have limits at least as large (see
 * forward_limits). Scratch comes from the backend, which may have none left; forward_close, which
 * is due in any case, frees it and accepts a zeroed struct. */
int forward_open(struct forward *f, const struct arch *arch, struct backend *be, uint32_t max_rows,
                 struct experts_hook experts, struct tap_hook tap, struct err *err);
void forward_close(struct forward *f);
struct backend_limits forward_limits(const struct arch *arch, uint32_t max_rows, uint32_t ctx_tok);
/* Bytes that forward_open takes. */
size_t forward_scratch_bytes(const struct arch *arch, uint32_t max_rows);

/* x [rows, dim] = embeddings of host_ids; x is f->x unless the caller keeps hidden rows of its own.
 * */
void forward_embed(struct forward *f, const struct layer_weights *model, const int32_t *host_ids,
                   const struct batch *b, float *x);
/* Run one layer over the rows of a batch; x [rows, dim] is the residual stream, updated in place;
 * the states of the batch's sequences take the rows in. It is the two halves below, one after the
 * other. */
int forward_layer(struct forward *f, const struct layer_weights *layer, uint32_t layer_index,
                  const struct batch *b, float *x, struct err *err);
/* x += mixer(norm(x)). */
void forward_mixer(struct forward *f, const struct layer_weights *layer, uint32_t layer_index,
                   const struct batch *b, float *x);
/* x += FFN(norm(x)): spans do not count, so prep takes rows of many sequences at once and brings
 * each expert once for all of them. `before` [rows, dim] is what x was before the mixer; it may be
 * NULL where the last call was forward_mixer of the same x and rows (else the program ends), and is
 * not looked at in layers whose second half does not look back (forward_looks_back). */
int forward_ffn(struct forward *f, const struct layer_weights *layer, uint32_t layer_index,
                const struct batch *b, float *x, const float *before, struct err *err);
/* Whether forward_ffn needs x as it was before the layer's mixer. */
bool forward_looks_back(const struct arch *arch, uint32_t layer);
/* logits [rows, vocab] (backend memory) of rows of the residual stream. */
void forward_logits(struct forward *f, const struct layer_weights *model, const float *x,
                    uint32_t rows, float *logits);

/* y [rows, dim] = the layer's norm `norm` of the residual stream x. Returns y; or x, with y
 * untouched, where `norm` is SLOT_COUNT, which stands for no norm. */
const float *forward_norm(const struct forward_site *at, enum slot_id norm, const float *x,
                          uint32_t rows, float *y);
/* The norm of what a layer's feed-forward part reads: SLOT_COUNT where it reads x itself. */
enum slot_id forward_ffn_norm(const struct arch *arch, uint32_t layer);
/* For mixers: cos and sin of the batch's positions by a rope set, [rows, dim / 2, 2]. */
const float *forward_angles(struct forward *f, uint32_t rope, const struct batch *b);

#endif
