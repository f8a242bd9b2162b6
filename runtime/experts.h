/*
 * experts: the engine's provider of routed experts: from router choices to the backend's experts
 * operation over leased chunks.
 *
 * Owns: grouping rows by expert, the order in which experts are demanded and computed, the lease
 * window.
 * Leaves to others: memory and I/O (cache, prefetch), arithmetic (backend).
 * Threads: the forward thread.
 *
 * Experts are computed in the order in which they arrive; the result does not depend on it, because
 * each use has its own part and parts are summed by choice (backend combine). Each expert that a
 * call needs is brought at most once, whatever the number of rows.
 */
#ifndef RUNTIME_EXPERTS_H
#define RUNTIME_EXPERTS_H

#include "runtime/predict.h"
#include "runtime/prefetch.h"

struct experts_options {
    /* Called once a run, when the experts at hand are demanded and before they are computed: the
     * moment to ask for later ones. May be NULL. */
    void (*on_demanded)(void *ctx, uint32_t layer, const struct batch *b);
    void *on_demanded_ctx;
    /* Told what was chosen, before anything is demanded; may be NULL. */
    void (*on_route)(void *ctx, uint32_t layer, uint32_t rows, bool decode, const int32_t *ids);
    void *on_route_ctx;
    /* Approximate mode: which share of the predicted energy each layer's experts may leave out,
     * [n_layers]; NULL = exact. Applies when decoding, and to every batch where `drop_in_batches` (to
     * measure what decoding would lose). `predict` says what they would add. */
    const float *drop;
    bool drop_in_batches;
    struct predict *predict;
    /* Leave out what this one chose to leave out in its run; NULL = choose. */
    const struct experts *like;
    bool in_turn; /* for comparison: an expert is brought when it is its turn to be computed */
};

struct experts {
    const struct corm *archive;
    struct cache *cache;
    struct prefetch *prefetch;
    struct backend *be;
    struct experts_options opt;
    /* Experts that are computed elsewhere, [n_experts]; NULL = none. They are not demanded here. */
    const bool *elsewhere;
    /* Called once a run, when the experts in memory are being computed and before any other is
     * waited for: the moment for what needs none of them. May be NULL. */
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
/* Zeroed options: exact, and nobody is told anything. */
void experts_open(struct experts *e, struct cache *cache, struct prefetch *prefetch,
                  struct backend *be, uint32_t max_rows, const struct experts_options *opt);
void experts_close(struct experts *e); /* accepts a zeroed struct */
/* The hook for forward_open; its ctx is `e`. */
struct experts_hook experts_hook(struct experts *e);

#endif
