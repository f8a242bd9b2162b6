#include "runtime/simulate.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/cache.h"

void simulate_add(struct simulate_trace *t, uint32_t layer, const int32_t *ids) {
    if (t->n == t->cap) {
        t->cap = t->cap ? 2 * t->cap : 1024;
        t->layers = mem_realloc(t->layers, t->cap * sizeof *t->layers);
        t->ids = mem_realloc(t->ids, t->cap * t->n_active * sizeof *t->ids);
    }
    t->layers[t->n] = layer;
    memcpy(t->ids + t->n * t->n_active, ids, t->n_active * sizeof *ids);
    t->n++;
}

void simulate_free(struct simulate_trace *t) {
    free(t->layers);
    free(t->ids);
    *t = (struct simulate_trace){0};
}

static uint32_t record_of(const struct simulate_trace *t, const struct corm *archive, size_t use) {
    return archive->layer_record[t->layers[use / t->n_active]] + (uint32_t)t->ids[use];
}

/* ---- the cache itself ---- */

/* The archive with every expert in one chunk. */
static struct corm whole_experts(const struct corm *archive) {
    struct corm c = *archive;
    struct corm_record *records = mem_calloc(c.n_records, sizeof *records);
    struct corm_chunk *chunks = mem_calloc(c.n_records, sizeof *chunks);
    for (uint32_t i = 0; i < c.n_records; i++) {
        records[i] = (struct corm_record){.first_chunk = i, .n_chunks = 1};
        chunks[i] = (struct corm_chunk){.stored_bytes = 1, .n_neurons = 1};
    }
    c.records = records;
    c.chunks = chunks;
    c.n_chunks = c.n_records;
    c.chunk_neurons = 1;
    return c;
}

static int replay_cache(const struct simulate_trace *t, const struct corm *archive, bool lru,
                        uint32_t capacity, size_t from, uint64_t *hits, struct err *err) {
    struct corm whole = whole_experts(archive);
    struct cache c;
    int status = cache_open(&c, &whole, capacity, false, err);
    c.whole_lru = lru;
    for (size_t i = 0; i < t->n && status == 0; i++) {
        uint32_t k = t->n_active;
        cache_clock(&c, t->layers[i], 1);
        for (uint32_t j = 0; j < k; j++) {
            uint32_t r = record_of(t, archive, i * k + j);
            *hits += i >= from && c.chunks[r].state == CACHE_READY;
            cache_lease(&c, r);
        }
        cache_routed(&c);
        for (uint32_t j = 0; j < k; j++) {
            uint32_t r = record_of(t, archive, i * k + j);
            if (c.chunks[r].state == CACHE_READY) {
                continue;
            }
            int32_t slot = cache_slot_take(&c, CACHE_CLAIM_DEMAND, 1);
            if (slot == CACHE_NO_SLOT) {
                status = err_set(err, "a cache of %u experts cannot hold the %u of one layer",
                                 capacity, k);
                break;
            }
            cache_publish(&c, r, slot, c.slots + (size_t)slot * c.slot_bytes);
        }
        for (uint32_t j = 0; j < k; j++) {
            uint32_t r = record_of(t, archive, i * k + j);
            cache_release(&c, r);
            cache_touch(&c, r);
        }
    }
    cache_close(&c);
    free((void *)whole.records);
    free((void *)whole.chunks);
    return status;
}

/* ---- Belady ---- */

/* next[u]: the event of the next use of the expert of use u; t->n where there is none. */
static size_t *next_uses(const struct simulate_trace *t, const struct corm *archive) {
    size_t n_uses = t->n * t->n_active, *next = mem_calloc(n_uses, sizeof *next);
    size_t *seen = mem_calloc(archive->n_records, sizeof *seen);
    for (uint32_t i = 0; i < archive->n_records; i++) {
        seen[i] = t->n;
    }
    for (size_t u = n_uses; u-- > 0;) {
        uint32_t r = record_of(t, archive, u);
        next[u] = seen[r];
        seen[r] = u / t->n_active;
    }
    free(seen);
    return next;
}

static uint64_t replay_belady(const struct simulate_trace *t, const struct corm *archive,
                              uint32_t capacity, size_t from) {
    size_t *next = next_uses(t, archive);
    size_t *until = mem_calloc(archive->n_records, sizeof *until); /* next use of what is inside */
    bool *inside = mem_calloc(archive->n_records, sizeof *inside);
    uint32_t n_inside = 0;
    uint64_t hits = 0;
    for (size_t i = 0; i < t->n; i++) {
        size_t first = i * t->n_active;
        for (uint32_t j = 0; j < t->n_active; j++) {
            hits += i >= from && inside[record_of(t, archive, first + j)];
        }
        for (uint32_t j = 0; j < t->n_active; j++) {
            uint32_t r = record_of(t, archive, first + j);
            n_inside += !inside[r];
            inside[r] = true;
            until[r] = next[first + j];
        }
        /* Experts of this event are used now, whatever comes later, so they may go as well. */
        while (n_inside > capacity) {
            uint32_t last = UINT32_MAX;
            for (uint32_t r = 0; r < archive->n_records; r++) {
                if (inside[r] && (last == UINT32_MAX || until[r] > until[last])) {
                    last = r;
                }
            }
            inside[last] = false;
            n_inside--;
        }
    }
    free(next);
    free(until);
    free(inside);
    return hits;
}

int simulate_hits(const struct simulate_trace *t, const struct corm *archive,
                  enum simulate_policy policy, uint32_t capacity, size_t from, double *hits,
                  struct err *err) {
    uint64_t n = 0;
    int status = 0;
    if (policy == SIMULATE_BELADY) {
        n = replay_belady(t, archive, capacity, from);
    } else {
        status = replay_cache(t, archive, policy == SIMULATE_LRU, capacity, from, &n, err);
    }
    *hits = t->n > from ? (double)n / (double)((t->n - from) * t->n_active) : 0;
    return status;
}
