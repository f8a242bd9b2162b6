#include "runtime/cache.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* A use counts half after ln(2) / -ln(DECAY) = 34 tokens: long enough to see a topic, short enough
 * to leave it. */
static const float DECAY = 0.98f;
/* An expert that was never used counts as one whose use has decayed by so many halvings. */
static const float NEVER_USED = 64.0f;

size_t cache_slot_bytes(const struct corm *archive) {
    return align_up((uint64_t)archive->chunk_neurons * archive->neuron_bytes, 64);
}

uint32_t cache_slots_needed(const struct corm *archive, bool in_place) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < archive->n_chunks; i++)
        n += !(in_place && archive->chunks[i].encoding == CORM_ENCODING_RAW);
    return n;
}

uint32_t cache_slots_floor(const struct corm *archive) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < archive->n_records; i++)
        most = archive->records[i].n_chunks > most ? archive->records[i].n_chunks : most;
    return 2 * most;
}

size_t cache_table_bytes(const struct corm *archive, uint32_t n_slots) {
    return archive->n_chunks * sizeof(struct cache_chunk) +
           archive->n_records * sizeof(struct cache_record) + n_slots * sizeof(int32_t);
}

int cache_open(struct cache *c, const struct corm *archive, uint32_t n_slots, bool in_place,
               struct err *err) {
    *c = (struct cache){.archive = archive, .in_place = in_place, .n_slots = n_slots, .step = 1};
    pthread_mutex_init(&c->lock, NULL);
    c->slot_bytes = cache_slot_bytes(archive);
    c->chunks = mem_calloc(archive->n_chunks, sizeof *c->chunks);
    c->records = mem_calloc(archive->n_records, sizeof *c->records);
    c->free_slots = mem_calloc(n_slots, sizeof *c->free_slots);
    for (uint32_t l = 0; l < archive->arch.n_layers; l++)
        for (uint32_t e = 0; archive->arch.moe[l] && e < archive->arch.n_experts; e++)
            c->records[archive->layer_record[l] + e].layer = l;
    for (uint32_t r = 0; r < archive->n_records; r++) {
        const struct corm_record *rec = &archive->records[r];
        c->records[r].key = -INFINITY;
        for (uint32_t i = 0; i < rec->n_chunks; i++)
            c->chunks[rec->first_chunk + i] =
                (struct cache_chunk){.slot = CACHE_NO_SLOT, .record = r, .hot = i < rec->n_hot};
    }
    /* The last slot goes out first, so that a half-used cache touches no more pages than it fills.
     * */
    for (uint32_t i = 0; i < n_slots; i++)
        c->free_slots[i] = (int32_t)(n_slots - 1 - i);
    c->n_free = n_slots;
    if (n_slots == 0)
        return 0;
    /* Straight from the kernel: zero pages cost nothing until they are filled. */
    void *p = mmap(NULL, (size_t)n_slots * c->slot_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return err_errno(err, errno, "expert cache of %u slots of %zu bytes", n_slots,
                         c->slot_bytes);
    madvise(p, (size_t)n_slots * c->slot_bytes, MADV_HUGEPAGE);
    c->slots = p;
    return 0;
}

void cache_close(struct cache *c) {
    if (!c->archive)
        return;
    if (c->slots)
        munmap(c->slots, (size_t)c->n_slots * c->slot_bytes);
    free(c->chunks);
    free(c->records);
    free(c->free_slots);
    pthread_mutex_destroy(&c->lock);
    *c = (struct cache){0};
}

void cache_clock(struct cache *c, uint32_t layer, uint32_t tokens) {
    c->layer = layer;
    c->step++;
    if (layer == 0)
        c->token += tokens;
}

/* Uses so far, decayed until now: exp2(key - now). */
static float use_count(const struct cache *c, uint32_t record) {
    float now = (float)c->token * -log2f(DECAY);
    return isinf(c->records[record].key) ? 0.0f : exp2f(c->records[record].key - now);
}

void cache_touch(struct cache *c, uint32_t record) {
    float now = (float)c->token * -log2f(DECAY);
    c->records[record].used = ++c->uses;
    c->records[record].key = log2f(use_count(c, record) + 1.0f) + now;
}

float cache_use_p(const struct cache *c, uint32_t record) {
    float p = use_count(c, record) * (1.0f - DECAY);
    return p < 1.0f ? p : 1.0f;
}

void cache_pin(struct cache *c, uint32_t record, uint32_t ahead) {
    c->records[record].pinned_step = c->step + ahead;
}

void cache_lease(struct cache *c, uint32_t chunk) {
    c->chunks[chunk].leases++;
    c->records[c->chunks[chunk].record].leases++;
}

void cache_release(struct cache *c, uint32_t chunk) {
    struct cache_chunk *k = &c->chunks[chunk];
    if (k->leases == 0)
        die("lease of chunk %u given back twice", chunk);
    k->leases--;
    c->records[k->record].leases--;
}

/* The chunk to evict from a record: its last READY slot that is not leased, cold before hot. */
static uint32_t victim_chunk(const struct cache *c, uint32_t record) {
    const struct corm_record *rec = &c->archive->records[record];
    for (uint32_t i = rec->n_chunks; i-- > 0;) {
        const struct cache_chunk *k = &c->chunks[rec->first_chunk + i];
        if (k->state == CACHE_READY && k->slot != CACHE_NO_SLOT && k->leases == 0)
            return rec->first_chunk + i;
    }
    return UINT32_MAX;
}

/* The lowest-ranked evictable chunk, pinned experts considered or not; UINT32_MAX where there is
 * none. */
static uint32_t find_victim(const struct cache *c, bool pinned_too) {
    float drift = -log2f(DECAY), best = INFINITY, never = (float)c->token * drift - NEVER_USED;
    uint32_t n_layers = c->archive->arch.n_layers, victim = UINT32_MAX;
    for (uint32_t i = 0; i < c->archive->n_records; i++) {
        const struct cache_record *r = &c->records[i];
        if (r->slots_cold + r->slots_hot == 0 || (r->pinned_step >= c->step && !pinned_too))
            continue;
        uint32_t ahead = (r->layer + n_layers - c->layer) % n_layers;
        /* The layer at hand comes up again after a whole round. */
        if (ahead == 0)
            ahead = n_layers;
        float rank = (isinf(r->key) ? never : r->key) - drift * (float)ahead / (float)n_layers +
                     (r->slots_cold ? 0.0f : c->hot_bonus);
        if (rank >= best)
            continue;
        /* A lease on one chunk leaves the record's others evictable. */
        uint32_t chunk = victim_chunk(c, i);
        if (chunk == UINT32_MAX)
            continue;
        best = rank;
        victim = chunk;
    }
    return victim;
}

/* A chunk of the expert that was used longest ago and holds slots without leases. */
static uint32_t find_oldest(const struct cache *c) {
    uint64_t oldest = UINT64_MAX;
    uint32_t victim = UINT32_MAX;
    for (uint32_t i = 0; i < c->archive->n_records; i++) {
        const struct cache_record *r = &c->records[i];
        if (r->slots_cold + r->slots_hot == 0 || r->leases > 0 || r->used >= oldest)
            continue;
        oldest = r->used;
        victim = victim_chunk(c, i);
    }
    return victim;
}

/* READY -> ABSENT. Returns the slot. */
static int32_t evict(struct cache *c, uint32_t chunk) {
    struct cache_chunk *k = &c->chunks[chunk];
    struct cache_record *r = &c->records[k->record];
    int32_t slot = k->slot;
    *(k->hot ? &r->slots_hot : &r->slots_cold) -= 1;
    if (k->guessed)
        c->count.wasted_bytes += c->archive->chunks[chunk].stored_bytes;
    k->guessed = false;
    k->state = CACHE_ABSENT;
    k->slot = CACHE_NO_SLOT;
    k->data = NULL;
    c->count.evictions++;
    return slot;
}

/* The whole of the expert that was used longest ago. */
static int32_t evict_oldest(struct cache *c) {
    uint32_t victim = find_oldest(c);
    if (victim == UINT32_MAX)
        return CACHE_NO_SLOT;
    uint32_t record = c->chunks[victim].record;
    for (; victim != UINT32_MAX; victim = victim_chunk(c, record))
        cache_slot_give(c, evict(c, victim));
    return c->free_slots[--c->n_free];
}

float cache_victim_p(const struct cache *c) {
    uint32_t victim = c->n_free > 0 ? UINT32_MAX : find_victim(c, false);
    return victim == UINT32_MAX ? 0.0f : cache_use_p(c, c->chunks[victim].record);
}

int32_t cache_slot_take(struct cache *c, enum cache_claim claim, float p) {
    if (c->n_free > 0)
        return c->free_slots[--c->n_free];
    if (c->whole_lru) {
        int32_t slot = evict_oldest(c);
        if (slot != CACHE_NO_SLOT)
            return slot;
    }
    uint32_t victim = find_victim(c, false);
    if (victim == UINT32_MAX && claim == CACHE_CLAIM_DEMAND)
        victim = find_victim(c, true);
    if (victim == UINT32_MAX ||
        (claim == CACHE_CLAIM_GUESS && cache_use_p(c, c->chunks[victim].record) >= p))
        return CACHE_NO_SLOT;
    return evict(c, victim);
}

void cache_slot_give(struct cache *c, int32_t slot) {
    c->free_slots[c->n_free++] = slot;
}

void cache_publish(struct cache *c, uint32_t chunk, int32_t slot, const uint8_t *data) {
    struct cache_chunk *k = &c->chunks[chunk];
    k->state = CACHE_READY;
    k->slot = slot;
    k->data = data;
    if (slot != CACHE_NO_SLOT) {
        struct cache_record *r = &c->records[k->record];
        *(k->hot ? &r->slots_hot : &r->slots_cold) += 1;
    }
}
