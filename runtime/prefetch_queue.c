/*
 * prefetch_queue: requests by class, the runs that are taken from them, and how busy the link is
 * with demands; contracts in prefetch_internal.h. All of it runs under cache->lock.
 */
#include "runtime/prefetch_internal.h"

static const uint64_t BUSY_WINDOW_NS = 50 * 1000 * 1000;

/* ---- the queue ---- */

void prefetch_queue_open(struct prefetch *p) {
    for (int i = 0; i < PREFETCH_CLASSES; i++) {
        p->queues[i] = (struct prefetch_queue){PREFETCH_NIL, PREFETCH_NIL};
    }
}

void prefetch_queue_push(struct prefetch *p, enum prefetch_class class, uint32_t chunk) {
    struct prefetch_queue *q = &p->queues[class];
    struct cache_chunk *k = &p->cache->chunks[chunk];
    k->state = CACHE_QUEUED;
    k->class = (uint8_t) class;
    k->next = PREFETCH_NIL;
    k->prev = q->tail;
    if (q->tail != PREFETCH_NIL) {
        p->cache->chunks[q->tail].next = chunk;
    } else {
        q->head = chunk;
    }
    q->tail = chunk;
}

void prefetch_queue_remove(struct prefetch *p, uint32_t chunk) {
    struct cache_chunk *chunks = p->cache->chunks, *k = &chunks[chunk];
    struct prefetch_queue *q = &p->queues[k->class];
    *(k->prev != PREFETCH_NIL ? &chunks[k->prev].next : &q->head) = k->next;
    *(k->next != PREFETCH_NIL ? &chunks[k->next].prev : &q->tail) = k->prev;
}

void prefetch_announce_work(struct prefetch *p) {
    atomic_fetch_add_explicit(&p->work_seq, 1, memory_order_release);
    if (!p->looking && p->n_asleep > 0) {
        pthread_cond_signal(&p->work);
    }
}

void prefetch_announce_ready(struct prefetch *p) {
    atomic_fetch_add_explicit(&p->ready_seq, 1, memory_order_release);
    if (p->waiting) {
        pthread_cond_signal(&p->ready);
    }
}

static bool any_queued(const struct prefetch *p) {
    for (int i = 0; i < PREFETCH_CLASSES; i++) {
        if (prefetch_queued(p, i)) {
            return true;
        }
    }
    return false;
}

/* ---- runs ---- */

/* Whether chunk `id` may be read together with the run's other chunks. With split_reads an expert
 * is read in three parts. */
static bool goes_along(const struct prefetch *p, const struct fill_run *run, uint32_t id) {
    const struct corm *a = p->archive;
    if (fill_bytes(a, run->first, id) > FILL_REQUEST_BYTES ||
        cache_uses_slot(p->cache, id) != cache_uses_slot(p->cache, run->first)) {
        return false;
    }
    const struct corm_record *rec = &a->records[p->cache->chunks[id].record];
    uint32_t here = 3 * (id - rec->first_chunk) / rec->n_chunks,
             first = 3 * (run->first - rec->first_chunk) / rec->n_chunks;
    return !p->split_reads || here == first;
}

/* Take over what the cache evicted from the mapping, the last first: an expert's chunks are evicted
 * from its end on, so that here they come in the order of the file and become one span. What finds
 * no room stays for the next run. */
static void take_unmapped(struct prefetch *p, struct fill_run *run) {
    struct cache *c = p->cache;
    while (c->n_unmapped > 0) {
        const struct corm_chunk *k = &p->archive->chunks[c->unmapped[c->n_unmapped - 1]];
        struct fill_span *s = run->n_unmapped ? &run->unmapped[run->n_unmapped - 1] : NULL;
        if (s && align_up(s->offset + s->bytes, CORM_CHUNK_ALIGN) == k->offset) {
            s->bytes = k->offset + k->stored_bytes - s->offset;
        } else if (run->n_unmapped < FILL_MAX_RUN) {
            run->unmapped[run->n_unmapped++] = (struct fill_span){k->offset, k->stored_bytes};
        } else {
            return;
        }
        c->n_unmapped--;
    }
}

void prefetch_take_from(struct prefetch *p, enum prefetch_class class, struct fill_run *run) {
    struct cache *c = p->cache;
    run->demanded = class == PREFETCH_DEMANDED;
    run->first = p->queues[class].head;
    run->n = run->n_unmapped = 0;
    enum cache_claim claim = run->demanded ? CACHE_CLAIM_DEMAND : CACHE_CLAIM_GUESS;
    while (run->n < FILL_MAX_RUN && run->first + run->n < p->archive->n_chunks) {
        uint32_t id = run->first + run->n;
        const struct cache_chunk *k = &c->chunks[id];
        if (k->state != CACHE_QUEUED || k->class != class ||
            k->record != c->chunks[run->first].record) {
            break;
        }
        if (run->n > 0 && !goes_along(p, run, id)) {
            break;
        }
        int32_t slot = CACHE_NO_SLOT;
        if (cache_uses_slot(c, id)) {
            slot = cache_slot_take(c, id, claim, p->guess_p[k->record]);
            if (slot == CACHE_NO_SLOT) {
                break;
            }
        }
        prefetch_queue_remove(p, id);
        c->chunks[id].state = CACHE_LOADING;
        run->slots[run->n++] = slot;
    }
    if (run->n > 0 && c->n_unmapped > 0) { /* a run of no chunks is not served */
        take_unmapped(p, run);
    }
}

void prefetch_take_run(struct prefetch *p, struct fill_run *run) {
    run->n = 0;
    run->begun.yes = false;
    for (int i = 0; i < PREFETCH_CLASSES && run->n == 0; i++) {
        enum prefetch_class class = (enum prefetch_class)i;
        while (run->n == 0 && prefetch_queued(p, class)) {
            prefetch_take_from(p, class, run);
            if (run->n == 0 && class == PREFETCH_DEMANDED) {
                return;
            }
            if (run->n == 0) {
                p->cache->chunks[run->first].state = CACHE_ABSENT;
                prefetch_queue_remove(p, run->first);
            }
        }
    }
}

/* Publish what was filled; drop the rest. */
static void finish_run(struct prefetch *p, const struct fill_run *run, uint32_t n_filled) {
    struct cache *c = p->cache;
    for (uint32_t i = 0; i < run->n; i++) {
        uint32_t chunk = run->first + i;
        int32_t slot = run->slots[i];
        if (i < n_filled) {
            const struct corm_chunk *k = &p->archive->chunks[chunk];
            cache_publish(c, chunk, slot, run->data[i]);
            bool guess = !run->demanded, wanted = c->chunks[chunk].leases > 0;
            c->chunks[chunk].guessed = guess && !wanted;
            c->count.guessed_bytes += guess ? k->stored_bytes : 0;
            c->count.useful_bytes += guess && wanted ? k->stored_bytes : 0;
            c->count.read_bytes += k->stored_bytes;
            c->count.decoded_bytes +=
                cache_is_packed(c, chunk) ? k->stored_bytes : corm_chunk_raw_bytes(p->archive, k);
            continue;
        }
        c->chunks[chunk].state = CACHE_ABSENT;
        if (slot != CACHE_NO_SLOT) {
            cache_slot_give(c, slot);
        }
    }
}

/* A demanded run begins, or ends. Where several are in flight, each served by a thread of its own,
 * they share the one link, so that their time counts once. */
static void demand_begins(struct prefetch *p) {
    if (p->n_demands++ == 0) {
        p->demands_since_ns = clock_ns();
    }
}

static void demand_ends(struct prefetch *p) {
    if (--p->n_demands == 0) {
        p->demand_ns += clock_ns() - p->demands_since_ns;
    }
}

void prefetch_start_run(struct prefetch *p, const struct fill_run *run) {
    if (any_queued(p)) {
        prefetch_announce_work(p);
    }
    if (run->demanded) {
        demand_begins(p);
    }
}

void prefetch_end_run(struct prefetch *p, const struct fill_run *run, uint32_t n_filled) {
    finish_run(p, run, n_filled);
    if (run->demanded) {
        demand_ends(p);
    }
}

/* ---- how busy the link is ---- */

float prefetch_link_busy(struct prefetch *p) {
    uint64_t now = clock_ns(), passed = now - p->window_start_ns;
    if (passed >= BUSY_WINDOW_NS) {
        uint64_t served = p->demand_ns + (p->n_demands > 0 ? now - p->demands_since_ns : 0);
        p->busy = (float)(served - p->window_demand_ns) / (float)passed;
        p->window_start_ns = now;
        p->window_demand_ns = served;
    }
    return p->busy;
}
