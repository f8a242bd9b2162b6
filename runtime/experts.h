/*
 * experts: the engine's provider of routed experts. It turns the router's choices into calls of the
 * backend's experts operation over leased chunks.
 *
 * Owns: grouping rows by expert, the order in which experts are demanded and computed, and how many
 * are leased at a time.
 * Leaves to others: memory and I/O (cache, prefetch), arithmetic (backend).
 * Threads: the forward thread.
 *
 * Experts are computed in the order in which they arrive. The result does not depend on that order,
 * because each use of an expert by a row has an output of its own, and these are summed in the
 * order of the row's choices (combine, an operation of the backend). Each expert that a call needs
 * is brought at most once, whatever the number of rows.
 */
#ifndef RUNTIME_EXPERTS_H
#define RUNTIME_EXPERTS_H

#include "runtime/predict.h"
#include "runtime/prefetch.h"

struct experts_options {
    /* Called once a run, after the layer's experts are demanded and before they are computed (a
     * device: those at hand may be queued already). This is the moment to ask for experts of later
     * layers. May be NULL. */
    void (*on_demanded)(void *ctx, uint32_t layer, const struct batch *b);
    void *on_demanded_ctx;
    /* Called with the experts that the router chose, before any of them is demanded. May be
     * NULL. */
    void (*on_route)(void *ctx, uint32_t layer, uint32_t rows, bool decode, const int32_t *ids);
    void *on_route_ctx;
    /* Approximate mode: the share of the predicted energy that each layer's experts may leave out,
     * [n_layers]; NULL = exact. It applies when decoding. With `drop_in_batches` it applies to
     * every batch, which is for measuring what decoding would lose. `predict` says how much energy
     * each chunk would add. */
    const float *drop;
    bool drop_in_batches;
    struct predict *predict;
    /* Leave out the chunks that this other one chose to leave out in its run; NULL = choose. */
    const struct experts *like;
    bool in_turn; /* for comparison: an expert is demanded only when it is to be computed next */
};

struct experts {
    const struct corm *archive;
    struct cache *cache;
    struct prefetch *prefetch;
    struct backend *be;
    struct experts_options opt;
    /* Experts that are computed elsewhere, [n_experts]; NULL = none. They are not demanded here. */
    const bool *elsewhere;
    /* Called once a run, while the experts that are in memory are being computed and before any
     * other is waited for. This is the moment for work that needs none of these experts. May be
     * NULL. */
    void (*meanwhile)(void *ctx);
    void *meanwhile_ctx;
    uint32_t max_uses;   /* rows * n_active of the longest call */
    uint64_t used_bytes; /* decoded bytes of the chunks that were computed with */
    /* Workspace of one call. */
    uint32_t *uses;      /* [max_uses] grouped by expert */
    uint32_t *first_use; /* [n_experts + 1] */
    uint32_t *order;     /* [n_experts] experts in the order of demand */
    uint32_t n_at_hand;  /* of them, those that were in memory at first */
    /* The experts that are demanded and not yet computed: [n_open], at most n_experts. */
    uint32_t n_open;
    uint32_t *open;              /* expert */
    struct prefetch_need *needs; /* its chunks, leased */
    bool *ready;                 /* all in memory */
    struct prefetch_need *done;  /* [n_experts] those given back */
    struct expert_job *jobs;     /* [n_experts + max_uses] */
    struct ffn_chunk *chunks;    /* [(n_experts + max_uses) * chunks of a record] */
    uint32_t record_chunks;      /* most chunks of a record */
    bool skipping;               /* in this run, some chunks are left out: */
    uint8_t *skip_use;           /* [max_uses, record_chunks] by each use */
    uint8_t *skip_expert;        /* [n_experts, record_chunks] by all uses of an expert */
    uint64_t skipped_bytes;      /* decoded bytes that were left out so far */
};

/* Memory that experts_open takes. */
size_t experts_scratch_bytes(const struct corm *archive, uint32_t max_rows);
/* With zeroed options nothing is left out and no function is called. */
void experts_open(struct experts *e, struct cache *cache, struct prefetch *prefetch,
                  struct backend *be, uint32_t max_rows, const struct experts_options *opt);
void experts_close(struct experts *e); /* accepts a zeroed struct */
/* The hook for forward_open; its ctx is `e`. */
struct experts_hook experts_hook(struct experts *e);

#endif
