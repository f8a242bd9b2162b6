#include "runtime/bench/simulate.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/prefetch.h"

enum { WINDOW = 64 }; /* events over which the device's load is averaged */

void simulate_add(struct simulate_trace *t, uint32_t layer, const int32_t *ids) {
    if (t->n == t->cap) {
        t->layers = mem_grow(t->layers, t->n + 1, &t->cap, sizeof *t->layers);
        t->ids = mem_realloc(t->ids, t->cap * t->n_active * sizeof *t->ids);
    }
    t->layers[t->n] = layer;
    memcpy(t->ids + t->n * t->n_active, ids, t->n_active * sizeof *ids);
    t->n++;
}

void simulate_add_guess(struct simulate_trace *t, uint32_t layer, uint32_t ahead, uint32_t n,
                        const int32_t *ids, const float *prob) {
    t->guesses = mem_grow(t->guesses, t->n_guesses + 1, &t->cap_guesses, sizeof *t->guesses);
    if (t->cap_guessed - t->n_guessed < n) {
        t->guessed = mem_grow(t->guessed, t->n_guessed + n, &t->cap_guessed, sizeof *t->guessed);
        t->guessed_p = mem_realloc(t->guessed_p, t->cap_guessed * sizeof *t->guessed_p);
    }
    t->guesses[t->n_guesses++] = (struct simulate_guess){.event = ahead == 0 ? t->n : t->n - 1,
                                                         .first = t->n_guessed,
                                                         .layer = layer,
                                                         .ahead = ahead,
                                                         .n = n};
    memcpy(t->guessed + t->n_guessed, ids, n * sizeof *ids);
    memcpy(t->guessed_p + t->n_guessed, prob, n * sizeof *prob);
    t->n_guessed += n;
}

void simulate_free(struct simulate_trace *t) {
    free(t->layers);
    free(t->ids);
    free(t->guesses);
    free(t->guessed);
    free(t->guessed_p);
    *t = (struct simulate_trace){0};
}

static uint32_t record_of(const struct simulate_trace *t, const struct corm *archive, size_t use) {
    return archive->layer_record[t->layers[use / t->n_active]] + (uint32_t)t->ids[use];
}

static uint64_t record_bytes(const struct corm *archive, uint32_t record) {
    const struct corm_record *rec = &archive->records[record];
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < rec->n_chunks; i++) {
        bytes += archive->chunks[rec->first_chunk + i].stored_bytes;
    }
    return bytes;
}

/* ---- the cache itself ---- */

/* The archive with every expert in one chunk; their sizes and codecs do not matter here. */
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
    c.mixed = false;
    return c;
}

/* A replay through the engine's cache. */
struct replay {
    const struct simulate_trace *t;
    const struct corm *archive;
    const struct simulate_case *how;
    struct corm whole;
    struct cache cache;
    size_t event, next_guess;
    /* The guessed experts that are not in memory: [n_queued], those of the next layer first. */
    struct queued {
        uint32_t record;
        float p;
    } *queue;
    size_t n_queued, cap_queued;
    uint32_t allowance, left; /* of each event, and what is left of it in this one */
    uint32_t window_misses;
    float busy;
    uint64_t hits;
    struct simulate_result *result;
};

static bool counts(const struct replay *r) {
    return r->event >= r->how->from;
}

static bool is_here(const struct replay *r, uint32_t record) {
    return r->cache.chunks[record].state == CACHE_READY;
}

/* Bring an expert into a slot. */
static void bring(struct replay *r, uint32_t record, int32_t slot) {
    cache_publish(&r->cache, record, slot, cache_slot(&r->cache, slot));
    if (counts(r)) {
        r->result->reads++;
        r->result->read_bytes += record_bytes(r->archive, record);
    }
}

/* Do what prefetch_guess does, without threads. */
static void take_guess(struct replay *r, const struct simulate_guess *g) {
    struct cache *c = &r->cache;
    uint32_t ahead = g->ahead ? g->ahead : 1;
    for (size_t i = g->first; i < g->first + g->n; i++) {
        uint32_t record = r->archive->layer_record[g->layer] + (uint32_t)r->t->guessed[i];
        struct prefetch_need need = {record, 1, NULL};
        float p = r->t->guessed_p[i];
        if (!prefetch_guess_pays(c, &need, p, r->busy)) {
            continue;
        }
        cache_pin(c, record, ahead);
        if (is_here(r, record)) {
            continue;
        }
        r->queue = mem_grow(r->queue, r->n_queued + 1, &r->cap_queued, sizeof *r->queue);
        r->queue[r->n_queued++] = (struct queued){record, p};
    }
    cache_guessed(c, g->layer, ahead);
}

/* Take the guesses that the event made before its lookups, or those that it made after them. */
static void take_guesses(struct replay *r, bool before) {
    const struct simulate_trace *t = r->t;
    for (; r->next_guess < t->n_guesses; r->next_guess++) {
        const struct simulate_guess *g = &t->guesses[r->next_guess];
        if (g->event > r->event || (before && g->ahead > 0)) {
            return;
        }
        if (r->allowance > 0) {
            take_guess(r, g);
        }
    }
}

static void bring_guesses(struct replay *r) {
    for (size_t i = 0; i < r->n_queued && r->left > 0; i++) {
        int32_t slot =
            cache_slot_take(&r->cache, r->queue[i].record, CACHE_CLAIM_GUESS, r->queue[i].p);
        if (slot != CACHE_NO_SLOT) {
            bring(r, r->queue[i].record, slot);
            r->left--;
        }
    }
    r->n_queued = 0;
}

/* Look the event's experts up, lease them and bring what is missing. */
static int demand(struct replay *r, struct err *err) {
    struct cache *c = &r->cache;
    uint32_t k = r->t->n_active;
    for (uint32_t j = 0; j < k; j++) {
        uint32_t record = record_of(r->t, r->archive, r->event * k + j);
        r->hits += counts(r) && is_here(r, record);
        cache_lease(c, record);
    }
    cache_routed(c);
    for (uint32_t j = 0; j < k; j++) {
        uint32_t record = record_of(r->t, r->archive, r->event * k + j);
        if (is_here(r, record)) {
            continue;
        }
        int32_t slot = cache_slot_take(c, record, CACHE_CLAIM_DEMAND, 1);
        if (slot == CACHE_NO_SLOT) {
            return err_set(err, "a cache of %u experts cannot hold the %u of one layer",
                           r->how->capacity, k);
        }
        bring(r, record, slot);
        r->window_misses++;
    }
    return 0;
}

static void release(struct replay *r) {
    for (uint32_t j = 0; j < r->t->n_active; j++) {
        uint32_t record = record_of(r->t, r->archive, r->event * r->t->n_active + j);
        cache_release(&r->cache, record);
        cache_touch(&r->cache, record);
    }
}

static void measure_busy(struct replay *r) {
    if ((r->event + 1) % WINDOW == 0) {
        double misses = r->window_misses, brought = (double)r->allowance * WINDOW;
        r->busy = misses > 0 && r->allowance != SIMULATE_KEEPS_UP
                      ? (float)(misses / (misses + brought))
                      : 0;
        r->window_misses = 0;
    }
}

static int replay_cache(struct replay *r, struct err *err) {
    r->whole = whole_experts(r->archive);
    const struct cache_options policy = {.whole_lru = r->how->policy == SIMULATE_LRU};
    const uint64_t room_bytes = r->how->capacity * (uint64_t)cache_slot_bytes(&r->whole, 0);
    int status = cache_open(&r->cache, &r->whole, room_bytes, &policy, err);
    r->allowance = r->how->policy == SIMULATE_OWN ? r->how->allowance : 0;
    for (; r->event < r->t->n && status == 0; r->event++) {
        r->left = r->allowance;
        cache_clock(&r->cache, r->t->layers[r->event], 1, true);
        take_guesses(r, true);
        bring_guesses(r);
        status = demand(r, err);
        if (status == 0) {
            take_guesses(r, false);
            release(r);
            bring_guesses(r);
            measure_busy(r);
        }
    }
    cache_close(&r->cache);
    free((void *)r->whole.records);
    free((void *)r->whole.chunks);
    free(r->queue);
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
                              const struct simulate_case *how, struct simulate_result *result) {
    size_t *next = next_uses(t, archive);
    size_t *until = mem_calloc(archive->n_records, sizeof *until); /* next use of what is inside */
    bool *inside = mem_calloc(archive->n_records, sizeof *inside);
    uint32_t n_inside = 0;
    uint64_t hits = 0;
    for (size_t i = 0; i < t->n; i++) {
        size_t first = i * t->n_active;
        for (uint32_t j = 0; j < t->n_active; j++) {
            uint32_t r = record_of(t, archive, first + j);
            if (i < how->from) {
                continue;
            }
            hits += inside[r];
            result->reads += !inside[r];
            result->read_bytes += inside[r] ? 0 : record_bytes(archive, r);
        }
        for (uint32_t j = 0; j < t->n_active; j++) {
            uint32_t r = record_of(t, archive, first + j);
            n_inside += !inside[r];
            inside[r] = true;
            until[r] = next[first + j];
        }
        /* Experts of this event have been used by now, so they may be evicted as well. */
        while (n_inside > how->capacity) {
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

int simulate_run(const struct simulate_trace *t, const struct corm *archive,
                 const struct simulate_case *how, struct simulate_result *result, struct err *err) {
    uint64_t hits = 0;
    int status = 0;
    *result = (struct simulate_result){0};
    if (how->policy == SIMULATE_BELADY) {
        hits = replay_belady(t, archive, how, result);
    } else {
        struct replay r = {.t = t, .archive = archive, .how = how, .result = result};
        status = replay_cache(&r, err);
        hits = r.hits;
    }
    result->hits = t->n > how->from ? (double)hits / (double)((t->n - how->from) * t->n_active) : 0;
    return status;
}
