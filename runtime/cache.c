#include "runtime/cache.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"

/* After ln(2) / -ln(DECAY) = 34 tokens a use counts half: that is long enough to see a topic, and
 * short enough to leave it. */
static const float DECAY = 0.98f;
/* How much the past counts in the measured chances, and how much their first estimate counts. */
static const float FORGET = 0.9995f, PRIOR = 4.0f;
enum { DECAYS = 1024 }; /* a count is nothing after so many tokens */

const struct corm_chunk *cache_unpackable(const struct corm *archive) {
    for (uint32_t i = 0; i < archive->n_chunks; i++) {
        const struct corm_chunk *k = &archive->chunks[i];
        if (k->n_neurons > FFN_BLOCK ||
            (k->encoding != CORM_ENCODING_RAW && k->encoding != CORM_ENCODING_EXPONENTS)) {
            return k;
        }
    }
    return NULL;
}

bool cache_can_pack(const struct corm *archive) {
    return corm_chunk_encoded(archive, CORM_ENCODING_EXPONENTS) && !cache_unpackable(archive);
}

/* ---- sizes ---- */

/* Bytes that a chunk takes in a slot. */
static size_t bytes_of(const struct corm *archive, unsigned how, uint32_t chunk) {
    const struct corm_chunk *k = &archive->chunks[chunk];
    return align_up(how & CACHE_PACKED ? k->stored_bytes : corm_chunk_raw_bytes(archive, k), 64);
}

static int larger_first(const void *a, const void *b) {
    const struct room_size *x = a, *y = b;
    return x->slot_bytes < y->slot_bytes ? 1 : x->slot_bytes > y->slot_bytes ? -1 : 0;
}

/* Classes of `runs` [n], which are in falling order: each begins with the largest size that is in
 * none yet, and has those that are smaller by at most one part in `parts` (0: all). False where
 * they are too many. */
static bool group_sizes(const struct room_size *runs, uint32_t n, uint32_t parts,
                        struct cache_sizes *out) {
    out->n = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct room_size *last = out->n > 0 ? &out->sizes[out->n - 1] : NULL;
        const size_t slack = last && parts > 0 ? last->slot_bytes / parts : 0;
        if (last && (parts == 0 || runs[i].slot_bytes >= last->slot_bytes - slack)) {
            last->n += runs[i].n;
        } else if (out->n == ROOM_MAX_CLASSES) {
            return false;
        } else {
            out->sizes[out->n++] = runs[i];
        }
    }
    return true;
}

struct cache_sizes cache_sizes(const struct corm *archive, unsigned how) {
    const struct cache c = {.archive = archive, .opt.how = how};
    struct cache_sizes out;
    struct room_size *runs = NULL; /* of chunks of one size, one after the other */
    size_t cap = 0;
    uint32_t n = 0, parts = how & CACHE_ONE_SIZE ? 0 : CACHE_CLASS_PARTS;
    for (uint32_t i = 0; i < archive->n_chunks; i++) {
        if (!cache_uses_slot(&c, i)) {
            continue;
        }
        const size_t bytes = bytes_of(archive, how, i);
        if (n > 0 && runs[n - 1].slot_bytes == bytes) {
            runs[n - 1].n++;
            continue;
        }
        runs = mem_grow(runs, n + 1, &cap, sizeof *runs);
        runs[n++] = (struct room_size){bytes, 1};
    }
    if (n > 0) {
        qsort(runs, n, sizeof *runs, larger_first);
    }
    while (!group_sizes(runs, n, parts, &out)) {
        parts /= 2;
    }
    free(runs);
    return out;
}

size_t cache_slot_bytes(const struct corm *archive, unsigned how) {
    const struct cache_sizes s = cache_sizes(archive, how | CACHE_ONE_SIZE);
    return s.n > 0 ? s.sizes[0].slot_bytes : 0;
}

uint64_t cache_bytes_needed(const struct corm *archive, unsigned how) {
    const struct cache_sizes s = cache_sizes(archive, how);
    return room_all_bytes(s.sizes, s.n);
}

uint64_t cache_usable_bytes(const struct corm *archive, unsigned how, uint64_t bytes) {
    const struct cache_sizes s = cache_sizes(archive, how);
    return room_usable_bytes(s.sizes, s.n, bytes);
}

/* The class of a size, of which classes have the largest first. */
static uint32_t class_of(const struct cache_sizes *s, size_t bytes) {
    uint32_t i = 0;
    while (i + 1 < s->n && s->sizes[i + 1].slot_bytes >= bytes) {
        i++;
    }
    return i;
}

uint64_t cache_floor_bytes(const struct corm *archive, unsigned how) {
    const struct cache_sizes s = cache_sizes(archive, how);
    uint64_t most = 0;
    for (uint32_t r = 0; r < archive->n_records && s.n > 0; r++) {
        const struct corm_record *rec = &archive->records[r];
        uint64_t bytes = 0;
        for (uint32_t i = 0; i < rec->n_chunks; i++) {
            const uint32_t class = class_of(&s, bytes_of(archive, how, rec->first_chunk + i));
            bytes += room_alone_bytes(s.sizes, s.n, class);
        }
        most = bytes > most ? bytes : most;
    }
    return 2 * most;
}

size_t cache_table_bytes(const struct corm *archive) {
    return archive->n_chunks * (sizeof(struct cache_chunk) + sizeof(uint8_t) + sizeof(uint32_t)) +
           archive->n_records *
               (sizeof(struct cache_record) + sizeof(struct cache_view) + 2 * sizeof(uint32_t)) +
           room_table_bytes(archive->n_chunks) + DECAYS * sizeof(float);
}

/* ---- life ---- */

/* The estimate of a chance before anything was measured: the middle of the bucket's counts, and
 * more for what was used a moment ago. */
static void open_chances(struct cache *c) {
    for (int a = 0; a < CACHE_AGES; a++) {
        for (int r = 0; r < CACHE_RATES; r++) {
            float rate = exp2f(0.5f - (float)(CACHE_RATES - r));
            float recent = 0.3f / (float)(1 << a / 2);
            c->chance.seen[a][r] = PRIOR;
            c->chance.used[a][r] = PRIOR * (0.5f * rate + 0.5f * recent + 0.001f);
        }
    }
}

static void open_records(struct cache *c) {
    const struct corm *archive = c->archive;
    for (uint32_t l = 0; l < archive->arch.n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(&archive->arch, l) && e < archive->arch.n_experts; e++) {
            c->records[archive->layer_record[l] + e].layer = l;
        }
    }
    for (uint32_t r = 0; r < archive->n_records; r++) {
        const struct corm_record *rec = &archive->records[r];
        for (uint32_t i = 0; i < rec->n_chunks; i++) {
            c->chunks[rec->first_chunk + i] =
                (struct cache_chunk){.slot = CACHE_NO_SLOT, .record = r, .hot = i < rec->n_hot};
        }
    }
}

int cache_open(struct cache *c, const struct corm *archive, uint64_t bytes,
               const struct cache_options *opt, struct err *err) {
    *c = (struct cache){.archive = archive, .opt = *opt, .step = 1, .decode = true};
    pthread_mutex_init(&c->lock, NULL);
    c->sizes = cache_sizes(archive, opt->how);
    c->chunks = mem_calloc(archive->n_chunks, sizeof *c->chunks);
    c->records = mem_calloc(archive->n_records, sizeof *c->records);
    c->view = mem_calloc(archive->n_records, sizeof *c->view);
    c->heaps = mem_calloc(archive->n_records, sizeof *c->heaps);
    c->pinned = mem_calloc(archive->n_records, sizeof *c->pinned);
    c->n_heap = mem_calloc(archive->arch.n_layers, sizeof *c->n_heap);
    c->guessed = mem_calloc(archive->arch.n_layers, sizeof *c->guessed);
    c->class = mem_calloc(archive->n_chunks, sizeof *c->class);
    c->decay = mem_calloc(DECAYS, sizeof *c->decay);
    for (int i = 0; i < DECAYS; i++) {
        c->decay[i] = powf(DECAY, (float)i);
    }
    for (uint32_t i = 0; i < archive->n_chunks && c->sizes.n > 0; i++) {
        c->class[i] = (uint8_t)class_of(&c->sizes, bytes_of(archive, opt->how, i));
    }
    const bool all = bytes >= room_all_bytes(c->sizes.sizes, c->sizes.n);
    for (uint32_t i = 0; i < c->sizes.n; i++) {
        c->alone_bytes[i] =
            all ? c->sizes.sizes[i].slot_bytes : room_alone_bytes(c->sizes.sizes, c->sizes.n, i);
    }
    open_records(c);
    open_chances(c);
    const int status = room_open(&c->room, c->sizes.sizes, c->sizes.n, bytes, opt->slots, err);
    c->unmapped = mem_calloc(c->room.n_slots, sizeof *c->unmapped);
    return status;
}

void cache_close(struct cache *c) {
    if (!c->archive) {
        return;
    }
    room_close(&c->room);
    void *tables[] = {c->chunks,  c->records, c->heaps,    c->pinned, c->n_heap,
                      c->guessed, c->class,   c->unmapped, c->decay,  c->view};
    for (size_t i = 0; i < sizeof tables / sizeof *tables; i++) {
        free(tables[i]);
    }
    pthread_mutex_destroy(&c->lock);
    *c = (struct cache){0};
}

/* ---- lists: heaps by layer, and the pinned ---- */

static void heap_set(struct cache *c, uint32_t *heap, uint32_t at, uint32_t record) {
    heap[at] = record;
    c->records[record].at = at;
}

static void sift_up(struct cache *c, uint32_t *heap, uint32_t at) {
    uint32_t record = heap[at];
    double rank = c->records[record].rank;
    for (; at > 0 && c->records[heap[(at - 1) / 2]].rank > rank; at = (at - 1) / 2) {
        heap_set(c, heap, at, heap[(at - 1) / 2]);
    }
    heap_set(c, heap, at, record);
}

static void sift_down(struct cache *c, uint32_t *heap, uint32_t n, uint32_t at) {
    uint32_t record = heap[at];
    double rank = c->records[record].rank;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= n) {
            break;
        }
        if (child + 1 < n && c->records[heap[child + 1]].rank < c->records[heap[child]].rank) {
            child++;
        }
        if (c->records[heap[child]].rank >= rank) {
            break;
        }
        heap_set(c, heap, at, heap[child]);
        at = child;
    }
    heap_set(c, heap, at, record);
}

static uint32_t *heap_of(const struct cache *c, uint32_t layer) {
    return c->heaps + c->archive->layer_record[layer];
}

static void list_remove(struct cache *c, uint32_t record) {
    struct cache_record *r = &c->records[record];
    if (r->list == CACHE_HEAP) {
        uint32_t *heap = heap_of(c, r->layer), n = --c->n_heap[r->layer], at = r->at;
        if (at < n) {
            heap_set(c, heap, at, heap[n]);
            sift_down(c, heap, n, at);
            sift_up(c, heap, c->records[heap[at]].at);
        }
    } else if (r->list == CACHE_PINNED) {
        uint32_t last = c->pinned[--c->n_pinned];
        c->pinned[r->at] = last;
        c->records[last].at = r->at;
    }
    r->list = CACHE_KEPT;
}

static double rank_of(const struct cache *c, const struct cache_record *r) {
    if (c->opt.whole_lru) {
        return (double)r->used;
    }
    return (double)(r->slots_cold ? r->p : r->p * exp2f(c->opt.hot_bonus));
}

/* Put a record into the list where it belongs, after its leases, slots, pin or rank changed. */
static void list_place(struct cache *c, uint32_t record) {
    struct cache_record *r = &c->records[record];
    enum cache_list list = r->leases > 0 || r->slots_cold + r->slots_hot == 0 ? CACHE_KEPT
                           : r->pinned_step >= c->step                        ? CACHE_PINNED
                                                                              : CACHE_HEAP;
    double rank = rank_of(c, r);
    if (list == (enum cache_list)r->list && (list != CACHE_HEAP || rank == r->rank)) {
        r->rank = rank;
        return;
    }
    list_remove(c, record);
    r->rank = rank;
    r->list = (uint8_t)list;
    if (list == CACHE_HEAP) {
        uint32_t *heap = heap_of(c, r->layer), at = c->n_heap[r->layer]++;
        heap_set(c, heap, at, record);
        sift_up(c, heap, at);
    } else if (list == CACHE_PINNED) {
        r->at = c->n_pinned;
        c->pinned[c->n_pinned++] = record;
    }
}

/* ---- the chance of use ---- */

static float decayed(const struct cache *c, float count, uint64_t tokens) {
    return tokens < DECAYS ? count * c->decay[tokens] : 0;
}

static int age_bucket(uint64_t age) {
    static const uint16_t upto[CACHE_AGES - 1] = {1, 2, 3, 4, 6, 9, 14, 22, 40, 80, 200};
    int a = 0;
    while (a < CACHE_AGES - 1 && age > upto[a]) {
        a++;
    }
    return a;
}

/* By halvings of the share of tokens that used the expert. */
static int rate_bucket(float count) {
    float rate = count * (1 - DECAY);
    int r = CACHE_RATES - 1;
    for (float edge = 0.5f; r > 0 && rate < edge; edge *= 0.5f) {
        r--;
    }
    return r;
}

/* The chance that an expert with `count` uses, the last one at token `last`, is used at `token`. */
static float chance_at(const struct cache *c, uint64_t token, uint64_t last, float count) {
    if (last == 0) {
        return 0;
    }
    float now = decayed(c, count, token - last);
    int a = age_bucket(token - last), r = rate_bucket(now);
    float p = c->chance.used[a][r] / c->chance.seen[a][r];
    /* Within a bucket the expert that is used more often ranks higher. */
    return p + 1e-3f * now * (1 - DECAY);
}

/* Compare what the buckets said of a layer's experts with what the token used. */
static void learn(struct cache *c, uint32_t record) {
    const struct cache_record *r = &c->records[record];
    bool used = r->last == c->token;
    uint64_t last = used ? r->last_before : r->last;
    if (last == 0 || last >= c->token) {
        return;
    }
    float count = decayed(c, used ? r->count_before : r->count, c->token - last);
    int a = age_bucket(c->token - last), b = rate_bucket(count);
    c->chance.seen[a][b] = c->chance.seen[a][b] * FORGET + 1;
    c->chance.used[a][b] = c->chance.used[a][b] * FORGET + used;
}

/* Rank a layer's experts for the token after this one. */
static void rank_layer(struct cache *c, uint32_t layer) {
    uint32_t first = c->archive->layer_record[layer], n = c->archive->arch.n_experts;
    for (uint32_t i = first; i < first + n; i++) {
        struct cache_record *r = &c->records[i];
        r->p = chance_at(c, c->token + 1, r->last, r->count);
        list_place(c, i);
    }
}

void cache_routed(struct cache *c) {
    if (!c->routed && c->decode && !c->opt.whole_lru && arch_is_moe(&c->archive->arch, c->layer)) {
        rank_layer(c, c->layer);
    }
    c->routed = true;
}

/* A layer has been passed. */
static void pass_layer(struct cache *c, uint32_t layer) {
    if (c->opt.whole_lru || !arch_is_moe(&c->archive->arch, layer)) {
        return;
    }
    uint32_t first = c->archive->layer_record[layer], n = c->archive->arch.n_experts;
    for (uint32_t i = first; i < first + n && c->decode; i++) {
        learn(c, i);
    }
    rank_layer(c, layer);
}

void cache_clock(struct cache *c, uint32_t layer, uint32_t tokens, bool decode) {
    if (c->step > 1) {
        pass_layer(c, c->layer);
    }
    c->layer = layer;
    c->routed = false;
    c->decode = decode;
    c->step++;
    if (layer == 0) {
        c->token += tokens;
    }
    for (uint32_t i = c->n_pinned; i-- > 0;) {
        list_place(c, c->pinned[i]);
    }
}

void cache_touch(struct cache *c, uint32_t record) {
    struct cache_record *r = &c->records[record];
    r->used = ++c->uses;
    if (r->last != c->token || r->last == 0) {
        r->last_before = r->last;
        r->count_before = r->count;
        r->count = r->last ? decayed(c, r->count, c->token - r->last) : 0;
        r->last = c->token;
    }
    r->count += 1;
    r->p = chance_at(c, c->token + 1, r->last, r->count);
    list_place(c, record);
    struct cache_view *v = &c->view[record];
    atomic_store_explicit(&v->last, (uint32_t)r->last, memory_order_relaxed);
    atomic_store_explicit(&v->used, true, memory_order_relaxed);
}

float cache_use_p(const struct cache *c, uint32_t record) {
    float p = c->records[record].p;
    return p < 1.0f ? p : 1.0f;
}

void cache_pin(struct cache *c, uint32_t record, uint32_t ahead) {
    c->records[record].pinned_step = c->step + ahead;
    list_place(c, record);
}

void cache_guessed(struct cache *c, uint32_t layer, uint32_t ahead) {
    c->guessed[layer] = c->step + ahead;
}

void cache_lease(struct cache *c, uint32_t chunk) {
    struct cache_chunk *k = &c->chunks[chunk];
    struct cache_record *r = &c->records[k->record];
    r->n_waiting += k->leases++ == 0 && k->state != CACHE_READY;
    if (r->leases++ == 0) {
        list_place(c, k->record);
    }
}

void cache_release(struct cache *c, uint32_t chunk) {
    struct cache_chunk *k = &c->chunks[chunk];
    struct cache_record *r = &c->records[k->record];
    if (k->leases == 0) {
        die("lease of chunk %u given back twice", chunk);
    }
    r->n_waiting -= --k->leases == 0 && k->state != CACHE_READY;
    if (--r->leases == 0) {
        list_place(c, k->record);
    }
}

static void show_ready(struct cache *c, uint32_t record) {
    uint32_t n = c->records[record].n_ready;
    atomic_store_explicit(&c->view[record].n_ready, (uint16_t)(n < UINT16_MAX ? n : UINT16_MAX),
                          memory_order_relaxed);
}

/* ---- eviction ---- */

/* The chunk to evict from a record: its last READY slot that is not leased, cold before hot. */
static uint32_t victim_chunk(const struct cache *c, uint32_t record) {
    const struct corm_record *rec = &c->archive->records[record];
    for (uint32_t i = rec->n_chunks; i-- > 0;) {
        const struct cache_chunk *k = &c->chunks[rec->first_chunk + i];
        if (k->state == CACHE_READY && k->slot != CACHE_NO_SLOT && k->leases == 0) {
            return rec->first_chunk + i;
        }
    }
    return UINT32_MAX;
}

/* Layers that pass until the experts of `layer` may be used. The layer at hand comes up again after
 * a whole round. So does a layer whose experts have been guessed, as far as experts are concerned
 * that were not guessed. */
static uint32_t layers_until(const struct cache *c, uint32_t layer) {
    uint32_t n = c->archive->arch.n_layers, ahead = (layer + n - c->layer) % n;
    return c->guessed[layer] > c->step || ahead == 0 ? ahead + n : ahead;
}

/* The unpinned expert whose next use is farthest; UINT32_MAX where there is none. */
static uint32_t find_victim(const struct cache *c) {
    uint32_t victim = UINT32_MAX, n_layers = c->archive->arch.n_layers;
    double farthest = -INFINITY;
    for (uint32_t l = 0; l < n_layers; l++) {
        if (c->n_heap[l] == 0) {
            continue;
        }
        uint32_t first = heap_of(c, l)[0];
        double rank = c->records[first].rank;
        double until = c->opt.whole_lru ? -rank
                                        : 1 / (rank > 1e-6 ? rank : 1e-6) +
                                              (double)layers_until(c, l) / (double)n_layers;
        if (until > farthest) {
            farthest = until;
            victim = first;
        }
    }
    return victim;
}

/* What a demand may take where the heaps are empty: the pinned expert that is needed last; or, of
 * an expert some of whose chunks are leased, the chunks that nobody leases. */
static uint32_t find_last_resort(const struct cache *c) {
    uint32_t victim = UINT32_MAX;
    for (uint32_t i = 0; i < c->n_pinned; i++) {
        uint32_t r = c->pinned[i];
        if (victim == UINT32_MAX || c->records[r].pinned_step > c->records[victim].pinned_step) {
            victim = r;
        }
    }
    for (uint32_t r = 0; victim == UINT32_MAX && r < c->archive->n_records; r++) {
        if (c->records[r].slots_cold + c->records[r].slots_hot > 0 &&
            victim_chunk(c, r) != UINT32_MAX) {
            victim = r;
        }
    }
    return victim;
}

/* READY -> ABSENT. The slot is free. */
static void evict(struct cache *c, uint32_t chunk) {
    struct cache_chunk *k = &c->chunks[chunk];
    struct cache_record *r = &c->records[k->record];
    int32_t slot = k->slot;
    *(k->hot ? &r->slots_hot : &r->slots_cold) -= 1;
    r->n_ready--;
    show_ready(c, k->record);
    if (k->guessed) {
        c->count.wasted_bytes += c->archive->chunks[chunk].stored_bytes;
    }
    if (k->data != cache_slot(c, slot)) {
        c->unmapped[c->n_unmapped++] = chunk;
    }
    k->guessed = false;
    k->state = CACHE_ABSENT;
    k->slot = CACHE_NO_SLOT;
    k->data = NULL;
    c->count.evictions++;
    room_give(&c->room, slot);
    list_place(c, k->record);
}

/* Evict one chunk of the victim, or for comparison all of them. */
static void evict_from(struct cache *c, uint32_t victim) {
    evict(c, victim_chunk(c, victim));
    if (c->opt.whole_lru) {
        for (uint32_t k; (k = victim_chunk(c, victim)) != UINT32_MAX;) {
            evict(c, k);
        }
    }
}

float cache_victim_p(const struct cache *c) {
    const bool fits = c->room.n_classes == 0 || room_fits(&c->room, 0, false);
    uint32_t victim = fits ? UINT32_MAX : find_victim(c);
    return victim == UINT32_MAX ? 0.0f : cache_use_p(c, victim);
}

int32_t cache_slot_take(struct cache *c, uint32_t chunk, enum cache_claim claim, float p) {
    const uint32_t class = c->class[chunk];
    int32_t slot;
    while ((slot = room_take(&c->room, class, false)) == CACHE_NO_SLOT) {
        uint32_t victim = find_victim(c);
        if (victim == UINT32_MAX && claim == CACHE_CLAIM_DEMAND) {
            /* What is demanded may have what is kept free, too: chunks that are leased together
             * have room together. */
            if ((slot = room_take(&c->room, class, true)) != CACHE_NO_SLOT) {
                return slot;
            }
            victim = find_last_resort(c);
        }
        if (victim == UINT32_MAX || (claim == CACHE_CLAIM_GUESS && cache_use_p(c, victim) >= p)) {
            return CACHE_NO_SLOT;
        }
        evict_from(c, victim);
    }
    return slot;
}

void cache_publish(struct cache *c, uint32_t chunk, int32_t slot, const uint8_t *data) {
    struct cache_chunk *k = &c->chunks[chunk];
    struct cache_record *r = &c->records[k->record];
    k->state = CACHE_READY;
    k->slot = slot;
    k->data = data;
    r->n_ready++;
    show_ready(c, k->record);
    r->n_waiting -= k->leases > 0;
    if (slot != CACHE_NO_SLOT) {
        *(k->hot ? &r->slots_hot : &r->slots_cold) += 1;
        list_place(c, k->record);
    }
}
