/*
 * engine_look: what other threads may see of an engine at work.
 *
 * Owns: copies of the counters, and how what the cache shows of experts is told.
 * Leaves to others: the cache's view (cache.h), what is counted (engine_count).
 * Threads: engine_show is called by the forward thread, corm_engine_look by any. All that both
 * touch is atomic and relaxed: each number is read alone, and nothing is concluded from two of
 * them.
 */
#include "runtime/engine.h"

enum { AGE_MOST = 254, AGE_NONE = 255 };

void engine_show(struct corm_engine *e, const struct cache_counters *count) {
    struct engine_shown *s = e->shown;
    const struct offload_counters *host = &e->counted.offload;
    const struct {
        _Atomic uint64_t *to;
        uint64_t value;
    } rows[] = {
        {&s->hits, count->hits},
        {&s->misses, count->misses},
        {&s->read_bytes, count->read_bytes + host->read_bytes},
        {&s->guessed_bytes, count->guessed_bytes},
        {&s->useful_bytes, count->useful_bytes},
        {&s->wasted_bytes, count->wasted_bytes},
        {&s->evictions, count->evictions},
        {&s->stall_ns, prefetch_stall_ns(e->prefetch) + host->stall_ns},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        atomic_store_explicit(rows[i].to, rows[i].value, memory_order_relaxed);
    }
}

static uint64_t shown(_Atomic uint64_t *from) {
    return atomic_load_explicit(from, memory_order_relaxed);
}

/* The token that came to a layer last: each uses some of its experts. */
static uint32_t newest(struct cache_view *views, uint32_t n) {
    uint32_t token = 0;
    bool any = false;
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t last = atomic_load_explicit(&views[i].last, memory_order_relaxed);
        if (atomic_load_explicit(&views[i].used, memory_order_relaxed) &&
            (!any || (int32_t)(last - token) > 0)) {
            token = last;
            any = true;
        }
    }
    return token;
}

/* A use that is newer than `token`, as both are read one after the other, is of the last token. */
static struct corm_look_expert look_at(struct cache_view *v, uint32_t token, uint32_t n_chunks) {
    const uint32_t ready = atomic_load_explicit(&v->n_ready, memory_order_relaxed);
    const uint32_t most = n_chunks < UINT16_MAX ? n_chunks : UINT16_MAX;
    const bool used = atomic_load_explicit(&v->used, memory_order_relaxed);
    const int32_t age = (int32_t)(token - atomic_load_explicit(&v->last, memory_order_relaxed));
    /* Neither is a part told as all, nor as nothing. */
    uint32_t held = ready >= most ? 255 : ready * 255 / most;
    held = ready > 0 && held == 0 ? 1 : held;
    return (struct corm_look_expert){.held = (uint8_t)held,
                                     .age = (uint8_t)(!used || age > AGE_MOST ? AGE_MOST
                                                      : age < 0               ? 0
                                                                              : age)};
}

void corm_engine_look(const struct corm_engine *e, struct corm_look *look,
                      struct corm_look_expert *experts) {
    const struct corm *archive = &e->archive;
    const uint32_t n = archive->arch.n_experts;
    struct engine_shown *s = e->shown;
    *look = (struct corm_look){.cache_hits = shown(&s->hits),
                               .cache_misses = shown(&s->misses),
                               .read_bytes = shown(&s->read_bytes),
                               .guessed_bytes = shown(&s->guessed_bytes),
                               .useful_bytes = shown(&s->useful_bytes),
                               .wasted_bytes = shown(&s->wasted_bytes),
                               .evictions = shown(&s->evictions),
                               .stall_ns = shown(&s->stall_ns)};
    if (!experts) {
        return;
    }
    for (uint32_t l = 0; l < archive->arch.n_layers; l++) {
        struct corm_look_expert *row = experts + (size_t)l * n;
        const uint32_t first = archive->layer_record[l];
        const bool none = first == UINT32_MAX;
        const uint32_t token = none ? 0 : newest(&e->cache.view[first], n);
        for (uint32_t i = 0; i < n; i++) {
            row[i] = none ? (struct corm_look_expert){.age = AGE_NONE}
                          : look_at(&e->cache.view[first + i], token,
                                    archive->records[first + i].n_chunks);
        }
    }
}
