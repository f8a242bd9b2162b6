#include "runtime/prefetch.h"

#include <stdlib.h>
#include <string.h>

enum {
    NIL = -1,             /* end of a list, as uint32_t */
    READ_BYTES = 1 << 20, /* one request: long enough for full device rate, short enough that a
                             demand behind it waits for about a millisecond */
    MAX_RUN = 64,         /* chunks of one request */
};

struct queue {
    uint32_t head, tail;
};

/* What a thread needs to fill slots. */
struct filler {
    struct corm_decoder *decoder;
    uint8_t *buffer;
};

struct prefetch {
    struct cache *cache;
    const struct corm *archive;
    struct reader reader;
    struct queue queues[PREFETCH_CLASSES];
    pthread_cond_t work;  /* a request came, a slot became free, or stop */
    pthread_cond_t ready; /* a chunk was published, or a failure */
    pthread_t *threads;
    uint32_t n_threads;
    struct filler own; /* the forward thread's */
    bool stop, single_reads;
    struct err failure;
    uint64_t stall_ns;
    float *guess_p; /* [n_records] probability of the last guess */
    /* How busy the link is with demands: time spent on them, and its share in the last window. */
    uint64_t demand_ns, window_demand_ns, window_start_ns;
    float busy;
};
static const uint64_t BUSY_WINDOW_NS = 50 * 1000 * 1000;

/* ---- queue [locked] ---- */

static void queue_push(struct prefetch *p, enum prefetch_class class, uint32_t chunk) {
    struct queue *q = &p->queues[class];
    struct cache_chunk *k = &p->cache->chunks[chunk];
    k->state = CACHE_QUEUED;
    k->class = (uint8_t) class;
    k->next = (uint32_t)NIL;
    k->prev = q->tail;
    if (q->tail != (uint32_t)NIL)
        p->cache->chunks[q->tail].next = chunk;
    else
        q->head = chunk;
    q->tail = chunk;
}

static void queue_remove(struct prefetch *p, uint32_t chunk) {
    struct cache_chunk *chunks = p->cache->chunks, *k = &chunks[chunk];
    struct queue *q = &p->queues[k->class];
    *(k->prev != (uint32_t)NIL ? &chunks[k->prev].next : &q->head) = k->next;
    *(k->next != (uint32_t)NIL ? &chunks[k->next].prev : &q->tail) = k->prev;
}

/* ---- I/O threads ---- */

/* A run of neighbouring chunks taken from the queue, with their slots. */
struct run {
    enum prefetch_class class;
    uint32_t first, n;
    int32_t slots[MAX_RUN];
};

static uint64_t run_bytes(const struct corm *a, uint32_t first, uint32_t last) {
    const struct corm_chunk *f = &a->chunks[first], *l = &a->chunks[last];
    return l->offset + l->stored_bytes - f->offset;
}

/* [locked] The first request of a class and its queued neighbours, as far as slots go. */
static struct run take_from(struct prefetch *p, enum prefetch_class class) {
    struct cache *c = p->cache;
    struct run run = {.class = class, .first = p->queues[class].head};
    enum cache_claim claim = class == PREFETCH_DEMANDED ? CACHE_CLAIM_DEMAND : CACHE_CLAIM_GUESS;
    while (run.n < MAX_RUN && run.first + run.n < p->archive->n_chunks) {
        uint32_t id = run.first + run.n;
        const struct cache_chunk *k = &c->chunks[id];
        if (k->state != CACHE_QUEUED || k->class != class ||
            k->record != c->chunks[run.first].record)
            break;
        if (run.n > 0 && (p->single_reads || run_bytes(p->archive, run.first, id) > READ_BYTES))
            break;
        int32_t slot = CACHE_NO_SLOT;
        if (cache_uses_slot(c, id)) {
            slot = cache_slot_take(c, claim, p->guess_p[k->record]);
            if (slot == CACHE_NO_SLOT)
                break;
        }
        queue_remove(p, id);
        c->chunks[id].state = CACHE_LOADING;
        run.slots[run.n++] = slot;
    }
    return run;
}

/* [locked] The most urgent run. n = 0: nothing to do, or demands wait for a slot. A guess that may
 * evict nothing is dropped. */
static struct run take_run(struct prefetch *p) {
    struct run run = {0};
    for (int i = 0; i < PREFETCH_CLASSES && run.n == 0; i++) {
        enum prefetch_class class = (enum prefetch_class)i;
        while (run.n == 0 && p->queues[class].head != (uint32_t)NIL) {
            run = take_from(p, class);
            if (run.n == 0 && class == PREFETCH_DEMANDED)
                return run;
            if (run.n == 0) {
                p->cache->chunks[run.first].state = CACHE_ABSENT;
                queue_remove(p, run.first);
            }
        }
    }
    return run;
}

/* Bring one chunk of the run: `stored` is where its bytes are. */
static int fill(struct prefetch *p, struct corm_decoder *decoder, uint32_t chunk, int32_t slot,
                const uint8_t *stored, struct err *err) {
    const struct corm_chunk *k = &p->archive->chunks[chunk];
    if (slot == CACHE_NO_SLOT)
        return corm_chunk_check(p->archive, k, stored, err);
    return corm_chunk_decode(decoder, p->archive, k, stored,
                             p->cache->slots + (size_t)slot * p->cache->slot_bytes, err);
}

/* Read and decode the chunks of a run one after the other. Returns how many were filled. */
static uint32_t fill_run(struct prefetch *p, struct filler *f, const struct run *run,
                         struct err *err) {
    const struct corm *a = p->archive;
    const uint8_t *bytes =
        NULL; /* of the run's chunks that go to slots, from the first one's offset */
    uint64_t base = a->chunks[run->first].offset;
    for (uint32_t i = 0; i < run->n; i++) {
        const struct corm_chunk *k = &a->chunks[run->first + i];
        const uint8_t *stored = a->map.data + k->offset;
        if (run->slots[i] != CACHE_NO_SLOT) {
            if (!bytes &&
                reader_read(&p->reader, base, run_bytes(a, run->first, run->first + run->n - 1),
                            f->buffer, &bytes, err) < 0)
                return i;
            stored = bytes + (k->offset - base);
        }
        if (fill(p, f->decoder, run->first + i, run->slots[i], stored, err) < 0)
            return i;
    }
    return run->n;
}

/* [locked] Publish what was filled; drop the rest. */
static void finish_run(struct prefetch *p, const struct run *run, uint32_t n_filled) {
    struct cache *c = p->cache;
    for (uint32_t i = 0; i < run->n; i++) {
        uint32_t chunk = run->first + i;
        int32_t slot = run->slots[i];
        if (i < n_filled) {
            const struct corm_chunk *k = &p->archive->chunks[chunk];
            bool in_slot = slot != CACHE_NO_SLOT;
            cache_publish(c, chunk, slot,
                          in_slot ? c->slots + (size_t)slot * c->slot_bytes
                                  : p->archive->map.data + k->offset);
            bool guess = run->class != PREFETCH_DEMANDED, wanted = c->chunks[chunk].leases > 0;
            c->chunks[chunk].guessed = guess && !wanted;
            c->count.guessed_bytes += guess ? k->stored_bytes : 0;
            c->count.useful_bytes += guess && wanted ? k->stored_bytes : 0;
            c->count.read_bytes += k->stored_bytes;
            c->count.decoded_bytes += corm_chunk_raw_bytes(p->archive, k);
            continue;
        }
        c->chunks[chunk].state = CACHE_ABSENT;
        if (slot != CACHE_NO_SLOT)
            cache_slot_give(c, slot);
    }
}

/* The longest run that take_run can form. */
static size_t longest_run_bytes(const struct corm *a) {
    uint32_t longest = READ_BYTES;
    for (uint32_t i = 0; i < a->n_chunks; i++)
        longest = a->chunks[i].stored_bytes > longest ? a->chunks[i].stored_bytes : longest;
    return longest;
}

size_t prefetch_buffer_bytes(const struct corm *archive, uint32_t io_threads) {
    return (io_threads + 1) * reader_buffer_bytes(longest_run_bytes(archive));
}

static struct filler filler_new(const struct corm *a) {
    void *buffer = NULL;
    if (posix_memalign(&buffer, READER_ALIGN, reader_buffer_bytes(longest_run_bytes(a))) != 0)
        die("out of memory for a read buffer");
    return (struct filler){corm_decoder_new(a), buffer};
}

static void filler_free(struct filler *f) {
    free(f->buffer);
    corm_decoder_free(f->decoder);
}

/* [locked] Another thread is woken for what is left in the queue, so that one wake-up for a request
 * is enough. */
static void pass_on(struct prefetch *p) {
    for (int i = 0; i < PREFETCH_CLASSES; i++)
        if (p->queues[i].head != (uint32_t)NIL) {
            pthread_cond_signal(&p->work);
            return;
        }
}

/* [locked, but not while it reads] */
static void serve(struct prefetch *p, struct filler *f, const struct run *run) {
    pass_on(p);
    pthread_mutex_unlock(&p->cache->lock);
    struct err err = {0};
    uint64_t start = clock_ns();
    uint32_t n_filled = fill_run(p, f, run, &err);
    pthread_mutex_lock(&p->cache->lock);
    finish_run(p, run, n_filled);
    if (run->class == PREFETCH_DEMANDED)
        p->demand_ns += clock_ns() - start;
    if (err.set && !p->failure.set)
        p->failure = err;
}

static void *io_main(void *arg) {
    struct prefetch *p = arg;
    struct filler f = filler_new(p->archive);
    pthread_mutex_lock(&p->cache->lock);
    while (!p->stop) {
        struct run run = p->failure.set ? (struct run){0} : take_run(p);
        if (run.n == 0) {
            pthread_cond_wait(&p->work, &p->cache->lock);
            continue;
        }
        serve(p, &f, &run);
        pthread_cond_broadcast(&p->ready);
    }
    pthread_mutex_unlock(&p->cache->lock);
    filler_free(&f);
    return NULL;
}

/* ---- life ---- */

int prefetch_open(struct prefetch **out, struct cache *cache, const struct prefetch_options *opt,
                  struct err *err) {
    struct prefetch *p = mem_calloc(1, sizeof *p);
    p->cache = cache;
    p->archive = cache->archive;
    p->guess_p = mem_calloc(p->archive->n_records, sizeof *p->guess_p);
    p->window_start_ns = clock_ns();
    p->single_reads = opt->single_reads;
    for (int i = 0; i < PREFETCH_CLASSES; i++)
        p->queues[i] = (struct queue){(uint32_t)NIL, (uint32_t)NIL};
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->ready, NULL);
    if (reader_open(&p->reader, p->archive->map.path, opt->way, opt->throttle, err) < 0) {
        prefetch_close(p);
        return -1;
    }
    p->own = filler_new(p->archive);
    p->threads = mem_calloc(opt->io_threads, sizeof *p->threads);
    for (uint32_t i = 0; i < opt->io_threads; i++) {
        int e = pthread_create(&p->threads[i], NULL, io_main, p);
        if (e != 0) {
            err_errno(err, e, "start of I/O thread %u", i);
            prefetch_close(p);
            return -1;
        }
        p->n_threads++;
    }
    *out = p;
    return 0;
}

void prefetch_close(struct prefetch *p) {
    if (!p)
        return;
    pthread_mutex_lock(&p->cache->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->cache->lock);
    for (uint32_t i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    reader_close(&p->reader);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->ready);
    free(p->threads);
    free(p->guess_p);
    filler_free(&p->own);
    free(p);
}

/* ---- forward thread ---- */

void prefetch_demand(struct prefetch *p, const struct prefetch_need *need) {
    struct cache *c = p->cache;
    bool queued = false;
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < need->n; i++) {
        if (!prefetch_needs(need, i))
            continue;
        uint32_t chunk = need->first + i;
        struct cache_chunk *k = &c->chunks[chunk];
        cache_lease(c, chunk);
        *(k->state == CACHE_READY ? &c->count.hits : &c->count.misses) += 1;
        if (k->guessed)
            c->count.useful_bytes += p->archive->chunks[chunk].stored_bytes;
        k->guessed = false;
        if (k->state == CACHE_QUEUED && k->class != PREFETCH_DEMANDED) {
            queue_remove(p, chunk);
            k->state = CACHE_ABSENT;
        }
        if (k->state == CACHE_ABSENT) {
            queue_push(p, PREFETCH_DEMANDED, chunk);
            queued = true;
        }
    }
    if (queued)
        pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&c->lock);
}

/* [locked] */
static bool all_ready(const struct cache *c, const struct prefetch_need *need) {
    for (uint32_t i = 0; i < need->n; i++)
        if (prefetch_needs(need, i) && c->chunks[need->first + i].state != CACHE_READY)
            return false;
    return true;
}

bool prefetch_is_ready(struct prefetch *p, const struct prefetch_need *need) {
    pthread_mutex_lock(&p->cache->lock);
    bool ready = all_ready(p->cache, need);
    pthread_mutex_unlock(&p->cache->lock);
    return ready;
}

int prefetch_wait_any(struct prefetch *p, const struct prefetch_need *needs, uint32_t n,
                      bool *ready, struct err *err) {
    struct cache *c = p->cache;
    uint64_t blocked_at = 0;
    int status = 0;
    pthread_mutex_lock(&c->lock);
    for (;;) {
        uint32_t n_ready = 0;
        for (uint32_t i = 0; i < n; i++)
            n_ready += ready[i] = all_ready(c, &needs[i]);
        if (p->failure.set) {
            status = err_set(err, "%s", p->failure.msg);
            break;
        }
        if (n_ready > 0)
            break;
        if (blocked_at == 0)
            blocked_at = clock_ns();
        /* Better to read than to wait: a processor is free, and two threads need not be woken. */
        struct run run = {0};
        if (p->queues[PREFETCH_DEMANDED].head != (uint32_t)NIL)
            run = take_from(p, PREFETCH_DEMANDED);
        if (run.n > 0)
            serve(p, &p->own, &run);
        else
            pthread_cond_wait(&p->ready, &c->lock);
    }
    if (blocked_at != 0)
        p->stall_ns += clock_ns() - blocked_at;
    pthread_mutex_unlock(&c->lock);
    return status;
}

const uint8_t *prefetch_data(struct prefetch *p, uint32_t chunk) {
    /* A leased READY chunk does not change: no lock. The wait that saw it READY ordered the memory.
     * */
    return p->cache->chunks[chunk].data;
}

void prefetch_release(struct prefetch *p, const struct prefetch_need *need) {
    struct cache *c = p->cache;
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < need->n; i++)
        if (prefetch_needs(need, i))
            cache_release(c, need->first + i);
    cache_touch(c, c->chunks[need->first].record);
    /* Demands that are still queued may be waiting for a slot. */
    if (p->queues[PREFETCH_DEMANDED].head != (uint32_t)NIL)
        pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&c->lock);
}

/* ---- guesses ---- */

void prefetch_drop_guesses(struct prefetch *p) {
    pthread_mutex_lock(&p->cache->lock);
    for (int i = PREFETCH_NEXT; i < PREFETCH_CLASSES; i++) {
        while (p->queues[i].head != (uint32_t)NIL) {
            uint32_t chunk = p->queues[i].head;
            queue_remove(p, chunk);
            p->cache->chunks[chunk].state = CACHE_ABSENT;
        }
    }
    pthread_mutex_unlock(&p->cache->lock);
}

/* [locked] Share of the last window in which the link served demands. Several I/O threads at once
 * count as one link. */
static float link_busy(struct prefetch *p) {
    uint64_t now = clock_ns(), passed = now - p->window_start_ns;
    if (passed >= BUSY_WINDOW_NS) {
        float share = (float)(p->demand_ns - p->window_demand_ns) / (float)passed;
        p->busy = share < 1.0f ? share : 1.0f;
        p->window_start_ns = now;
        p->window_demand_ns = p->demand_ns;
    }
    return p->busy;
}

/* [locked] Whether a chunk of `need` is neither in memory nor on its way. */
static bool any_absent(const struct cache *c, const struct prefetch_need *need) {
    for (uint32_t i = 0; i < need->n; i++)
        if (prefetch_needs(need, i) && c->chunks[need->first + i].state == CACHE_ABSENT)
            return true;
    return false;
}

void prefetch_guess(struct prefetch *p, const struct prefetch_need *need, uint32_t ahead,
                    float prob) {
    struct cache *c = p->cache;
    pthread_mutex_lock(&c->lock);
    uint32_t record = c->chunks[need->first].record;
    float u = link_busy(p), v = any_absent(c, need) ? cache_victim_p(c) : 0;
    bool pays = prob >= (u + v) / (1 + u + v), queued = false;
    p->guess_p[record] = prob;
    if (pays)
        cache_pin(c, record, ahead);
    for (uint32_t i = 0; i < need->n && pays; i++) {
        if (!prefetch_needs(need, i) || c->chunks[need->first + i].state != CACHE_ABSENT)
            continue;
        queue_push(p, ahead == 1 ? PREFETCH_NEXT : PREFETCH_LATER, need->first + i);
        queued = true;
    }
    if (queued)
        pthread_cond_signal(&p->work);
    pthread_mutex_unlock(&c->lock);
}

uint64_t prefetch_stall_ns(const struct prefetch *p) {
    return p->stall_ns;
}

uint64_t prefetch_read_bytes(struct prefetch *p) {
    pthread_mutex_lock(&p->cache->lock);
    uint64_t bytes = p->cache->count.read_bytes;
    pthread_mutex_unlock(&p->cache->lock);
    return bytes;
}
