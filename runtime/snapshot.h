/*
 * snapshot: what layers held of sequences at some of their lengths, within a budget of memory.
 *
 * Owns: the memory (slots of one size, taken when the engine opens), which sessions have a snapshot
 * where, and which of them goes when there is no room.
 * Leaves to others: what is copied (runtime/model/state), when (pass).
 * Threads: the forward thread.
 *
 * A snapshot belongs to one session, or to several: a copy of a session has those of the first one.
 * It is good as long as the session's first tokens stay the same, so that cutting a session back
 * drops those past its new end.
 *
 * Where there is no room, a snapshot that was taken by the rule goes before one that was asked for.
 * Of these by the rule, the one goes that is nearest behind the snapshot before it, so that those
 * of a long sequence end up at equal distances; the rule takes none that would be nearer. Of those
 * that were asked for, one of the session that was evaluated least recently.
 */
#ifndef RUNTIME_SNAPSHOT_H
#define RUNTIME_SNAPSHOT_H

#include "runtime/engine.h"

/* Of a session: at `n_tok` tokens, in a slot. */
struct snapshot {
    uint32_t n_tok, slot;
    bool named; /* asked for; else taken by the rule */
};

/* Those of a session, by length. Zero-initialise. */
struct snapshot_list {
    struct snapshot *all;
    size_t n, cap;
};

/* Bytes of one slot, and the slots within the options' budget. */
size_t snapshot_slot_bytes(const struct corm_engine *e);
uint32_t snapshot_slots(const struct corm_engine *e);
/* snapshot_pool_close is due in any case. */
int snapshot_pool_open(struct corm_engine *e, struct err *err);
void snapshot_pool_close(struct corm_engine *e);

static inline void *snapshot_kept(const struct snapshot_pool *p, uint32_t slot) {
    return p->memory + (size_t)slot * p->slot_bytes;
}
/* [dim] */
static inline float *snapshot_row(const struct snapshot_pool *p, uint32_t slot) {
    return (float *)(p->memory + (size_t)slot * p->slot_bytes + p->kept_bytes);
}

/* A slot for a snapshot of the session at n_tok tokens, which now belongs to the caller; -1 where
 * there is no room for it, or it is there already. The caller has one for `after` tokens that it
 * has not added yet (0: none). */
int64_t snapshot_take(struct corm_session *s, uint32_t n_tok, uint32_t after, bool named);
/* The session has the slot now. */
void snapshot_add(struct corm_session *s, uint32_t n_tok, uint32_t slot, bool named);
/* The caller does without the slot. */
void snapshot_give(struct corm_engine *e, uint32_t slot);
/* The greatest at no more than n_tok tokens, or NULL. */
const struct snapshot *snapshot_before(const struct corm_session *s, uint32_t n_tok);
/* Drop those past n_tok tokens. */
void snapshot_cut(struct corm_session *s, uint32_t n_tok);
/* `to` has those of `from`, instead of its own. */
void snapshot_share(struct corm_session *to, const struct corm_session *from);

#endif
