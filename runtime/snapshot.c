/*
 * snapshot: see snapshot.h.
 */
#include "runtime/snapshot.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/session.h"

/* ---- memory ---- */

static size_t kept_bytes(const struct corm_engine *e) {
    const struct state_size size = engine_state_size(e);
    return align_up(state_kept_bytes(&e->archive.arch, &size), 64);
}

size_t snapshot_slot_bytes(const struct corm_engine *e) {
    return kept_bytes(e) + align_up(e->archive.arch.dim * sizeof(float), 64);
}

uint32_t snapshot_slots(const struct corm_engine *e) {
    const uint64_t n = e->opt.snapshot_bytes / snapshot_slot_bytes(e);
    return n < UINT16_MAX ? (uint32_t)n : UINT16_MAX;
}

int snapshot_pool_open(struct corm_engine *e, struct err *err) {
    struct snapshot_pool *p = &e->snapshots;
    *p = (struct snapshot_pool){.slot_bytes = snapshot_slot_bytes(e),
                                .kept_bytes = kept_bytes(e),
                                .n_slots = snapshot_slots(e)};
    if (p->n_slots > 0) {
        p->memory = e->backend.ops->alloc(e->backend.self, p->n_slots * p->slot_bytes, err);
    }
    p->uses = mem_calloc(p->n_slots, sizeof *p->uses);
    return p->n_slots > 0 && !p->memory ? -1 : 0;
}

void snapshot_pool_close(struct corm_engine *e) {
    if (e->snapshots.memory) {
        e->backend.ops->free(e->backend.self, e->snapshots.memory);
    }
    free(e->snapshots.uses);
    e->snapshots = (struct snapshot_pool){0};
}

void snapshot_give(struct corm_engine *e, uint32_t slot) {
    e->snapshots.uses[slot]--;
}

/* ---- a session's list ---- */

static void remove_at(struct corm_session *s, size_t i) {
    struct snapshot_list *l = &s->snapshots;
    snapshot_give(s->engine, l->all[i].slot);
    memmove(&l->all[i], &l->all[i + 1], (l->n - i - 1) * sizeof *l->all);
    l->n--;
}

const struct snapshot *snapshot_before(const struct corm_session *s, uint32_t n_tok) {
    const struct snapshot *found = NULL;
    for (size_t i = 0; i < s->snapshots.n && s->snapshots.all[i].n_tok <= n_tok; i++) {
        found = &s->snapshots.all[i];
    }
    return found;
}

void snapshot_add(struct corm_session *s, uint32_t n_tok, uint32_t slot, bool named) {
    struct snapshot_list *l = &s->snapshots;
    size_t i = l->n;
    l->all = mem_grow(l->all, l->n + 1, &l->cap, sizeof *l->all);
    for (; i > 0 && l->all[i - 1].n_tok > n_tok; i--) {
        l->all[i] = l->all[i - 1];
    }
    l->all[i] = (struct snapshot){n_tok, slot, named};
    l->n++;
}

void snapshot_cut(struct corm_session *s, uint32_t n_tok) {
    while (s->snapshots.n > 0 && s->snapshots.all[s->snapshots.n - 1].n_tok > n_tok) {
        remove_at(s, s->snapshots.n - 1);
    }
}

void snapshot_share(struct corm_session *to, const struct corm_session *from) {
    snapshot_cut(to, 0);
    for (size_t i = 0; i < from->snapshots.n; i++) {
        const struct snapshot *one = &from->snapshots.all[i];
        to->engine->snapshots.uses[one->slot]++;
        snapshot_add(to, one->n_tok, one->slot, one->named);
    }
}

/* ---- room ---- */

static uint32_t gap_of(const struct snapshot_list *l, size_t i) {
    return l->all[i].n_tok - (i > 0 ? l->all[i - 1].n_tok : 0);
}

struct victim {
    const struct corm_session *session;
    uint32_t gap, slot;
};

/* The one to go among those that were asked for, or those by the rule. */
static struct victim find_victim(const struct corm_engine *e, bool named) {
    struct victim v = {0};
    for (uint32_t k = 0; k < e->n_sessions; k++) {
        const struct corm_session *s = e->sessions[k];
        for (size_t i = 0; i < s->snapshots.n; i++) {
            const struct snapshot *one = &s->snapshots.all[i];
            const uint32_t gap = gap_of(&s->snapshots, i);
            const bool older = !v.session || s->used < v.session->used;
            const bool nearer = !v.session || gap < v.gap;
            if (one->named != named) {
                continue;
            }
            if (named ? older || (s == v.session && nearer) : nearer || (gap == v.gap && older)) {
                v = (struct victim){s, gap, one->slot};
            }
        }
    }
    return v;
}

static void evict(struct corm_engine *e, uint32_t slot) {
    for (uint32_t k = 0; k < e->n_sessions; k++) {
        struct snapshot_list *l = &e->sessions[k]->snapshots;
        for (size_t i = l->n; i-- > 0;) {
            if (l->all[i].slot == slot) {
                remove_at(e->sessions[k], i);
            }
        }
    }
}

static int64_t free_slot(const struct snapshot_pool *p) {
    for (uint32_t i = 0; i < p->n_slots; i++) {
        if (p->uses[i] == 0) {
            return i;
        }
    }
    return -1;
}

int64_t snapshot_take(struct corm_session *s, uint32_t n_tok, uint32_t after, bool named) {
    struct corm_engine *e = s->engine;
    const struct snapshot *before = snapshot_before(s, n_tok);
    const uint32_t gap = n_tok - (before && before->n_tok > after ? before->n_tok : after);
    if (gap == 0) {
        return -1;
    }
    int64_t slot = free_slot(&e->snapshots);
    if (slot < 0) {
        struct victim v = find_victim(e, false);
        if (v.session && !named && v.gap >= gap) {
            return -1;
        }
        v = v.session || !named ? v : find_victim(e, true);
        if (!v.session) {
            return -1;
        }
        evict(e, v.slot);
        slot = v.slot;
    }
    e->snapshots.uses[slot] = 1;
    return slot;
}
