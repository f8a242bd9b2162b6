#include "runtime/prefetch.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/processor.h"

enum {
    NIL = -1,          /* end of a list, as uint32_t */
    AWAKE_NS = 100000, /* looking for work before sleeping: about two wake-ups */
};
static const uint64_t BUSY_WINDOW_NS = 50 * 1000 * 1000;

struct queue {
    uint32_t head, tail;
};

struct prefetch {
    struct cache *cache;
    const struct corm *archive;
    struct fill fill;
    struct queue queues[PREFETCH_CLASSES];
    pthread_cond_t work;  /* a request came, a slot became free, or stop */
    pthread_cond_t ready; /* an expert that is waited for is there, or a failure */
    /* Counters of the same events, for those who look for them awake. */
    atomic_uint work_seq, ready_seq;
    uint32_t n_asleep;     /* I/O threads in wait for `work` */
    bool looking, waiting; /* an I/O thread looks for work awake; the forward thread sleeps */
    pthread_t *threads;
    uint32_t n_threads;
    struct filler own; /* the forward thread's */
    bool stop, split_reads, awake;
    bool overlaps; /* the I/O thread has the disk begin on a run while it checks the one before */
    struct err failure;
    uint64_t stall_ns;
    float *guess_p; /* [n_records] probability of the last guess */
    /* How busy the link is with demands: runs of them in flight, since when there is one, the time
     * with at least one before that, and its share in the last window. */
    uint32_t n_demands;
    uint64_t demands_since_ns, demand_ns, window_demand_ns, window_start_ns;
    float busy;
};

/* ---- queue [locked] ---- */

static void queue_push(struct prefetch *p, enum prefetch_class class, uint32_t chunk) {
    struct queue *q = &p->queues[class];
    struct cache_chunk *k = &p->cache->chunks[chunk];
    k->state = CACHE_QUEUED;
    k->class = (uint8_t) class;
    k->next = (uint32_t)NIL;
    k->prev = q->tail;
    if (q->tail != (uint32_t)NIL) {
        p->cache->chunks[q->tail].next = chunk;
    } else {
        q->head = chunk;
    }
    q->tail = chunk;
}

static void queue_remove(struct prefetch *p, uint32_t chunk) {
    struct cache_chunk *chunks = p->cache->chunks, *k = &chunks[chunk];
    struct queue *q = &p->queues[k->class];
    *(k->prev != (uint32_t)NIL ? &chunks[k->prev].next : &q->head) = k->next;
    *(k->next != (uint32_t)NIL ? &chunks[k->next].prev : &q->tail) = k->prev;
}

/* Something to do for an I/O thread: one that is awake will see it, else one is woken. */
static void announce_work(struct prefetch *p) {
    atomic_fetch_add_explicit(&p->work_seq, 1, memory_order_release);
    if (!p->looking && p->n_asleep > 0) {
        pthread_cond_signal(&p->work);
    }
}

static void announce_ready(struct prefetch *p) {
    atomic_fetch_add_explicit(&p->ready_seq, 1, memory_order_release);
    if (p->waiting) {
        pthread_cond_signal(&p->ready);
    }
}

static bool any_queued(const struct prefetch *p) {
    for (int i = 0; i < PREFETCH_CLASSES; i++) {
        if (p->queues[i].head != (uint32_t)NIL) {
            return true;
        }
    }
    return false;
}

/* Look for a change of `seq` for a moment, the lock given up meanwhile. True where it changed. */
static bool look_awake(struct prefetch *p, atomic_uint *seq) {
    unsigned before = atomic_load_explicit(seq, memory_order_relaxed);
    uint64_t until = clock_ns() + AWAKE_NS;
    bool changed = false;
    pthread_mutex_unlock(&p->cache->lock);
    while (!changed && clock_ns() < until) {
        for (int i = 0; i < 64 && !changed; i++) {
            processor_relax();
            changed = atomic_load_explicit(seq, memory_order_acquire) != before;
        }
        if (!changed) {
            sched_yield();
        }
    }
    pthread_mutex_lock(&p->cache->lock);
    return changed || atomic_load_explicit(seq, memory_order_relaxed) != before;
}

/* ---- runs ---- */

/* Whether chunk `id` may be read together with the run's others. */
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

/* [locked] Take over what the cache evicted from the mapping, the last first: an expert's chunks go
 * from its end, so that they come in order here and become one span. What finds no room stays for
 * the next run. */
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

/* [locked] The first request of a class and its queued neighbours, as far as slots go. */
static void take_from(struct prefetch *p, enum prefetch_class class, struct fill_run *run) {
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
            slot = cache_slot_take(c, claim, p->guess_p[k->record]);
            if (slot == CACHE_NO_SLOT) {
                break;
            }
        }
        queue_remove(p, id);
        c->chunks[id].state = CACHE_LOADING;
        run->slots[run->n++] = slot;
    }
    if (c->n_unmapped > 0) {
        take_unmapped(p, run);
    }
}

/* [locked] The most urgent run. n = 0: nothing to do, or demands wait for a slot. A guess that may
 * evict nothing is dropped. */
static void take_run(struct prefetch *p, struct fill_run *run) {
    run->n = 0;
    run->begun.yes = false;
    for (int i = 0; i < PREFETCH_CLASSES && run->n == 0; i++) {
        enum prefetch_class class = (enum prefetch_class)i;
        while (run->n == 0 && p->queues[class].head != (uint32_t)NIL) {
            take_from(p, class, run);
            if (run->n == 0 && class == PREFETCH_DEMANDED) {
                return;
            }
            if (run->n == 0) {
                p->cache->chunks[run->first].state = CACHE_ABSENT;
                queue_remove(p, run->first);
            }
        }
    }
}

/* [locked] Publish what was filled; drop the rest. */
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

/* [locked] A demanded run begins, or ends. Several in flight, each by a thread of its own, share
 * the one link: their time counts once. */
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

/* [locked] A run that was taken will be served. Another thread is woken for what is left in the
 * queue, so that one wake-up for a request is enough. */
static void start_run(struct prefetch *p, const struct fill_run *run) {
    if (any_queued(p)) {
        announce_work(p);
    }
    if (run->demanded) {
        demand_begins(p);
    }
}

/* [locked] Publish what was filled of a run that was started. */
static void end_run(struct prefetch *p, const struct fill_run *run, uint32_t n_filled) {
    finish_run(p, run, n_filled);
    if (run->demanded) {
        demand_ends(p);
    }
}

/* Take the most urgent run and have the disk begin on it. */
static void begin_next(struct prefetch *p, struct fill_run *next) {
    pthread_mutex_lock(&p->cache->lock);
    if (!p->stop && !p->failure.set) {
        take_run(p, next);
        if (next->n > 0) {
            start_run(p, next);
        }
    }
    pthread_mutex_unlock(&p->cache->lock);
    if (next->n > 0) {
        fill_begin(&p->fill, next);
    }
}

/* [locked, but not while it reads] Serve a run that was started. While what came is checked and
 * decoded, the disk begins on another one, unless `next` is NULL. */
static void serve(struct prefetch *p, struct filler *f, struct fill_run *run,
                  struct fill_run *next) {
    struct cache *c = p->cache;
    pthread_mutex_unlock(&c->lock);
    struct err err = {0};
    uint32_t n_filled = 0;
    int status = fill_read(&p->fill, f, run, &err);
    if (next) {
        begin_next(p, next);
    }
    if (status == 0) {
        n_filled = fill_land(&p->fill, f, run, &err);
    }
    pthread_mutex_lock(&c->lock);
    end_run(p, run, n_filled);
    if (err.set && !p->failure.set) {
        p->failure = err;
    }
    const struct cache_record *r = &c->records[c->chunks[run->first].record];
    if (p->failure.set || (r->leases > 0 && r->n_waiting == 0)) {
        announce_ready(p);
    }
}

/* A thread that wakes up may take the processor of the forward thread in place of the one that is
 * spare, and keep it while it checks and decodes. A thread of this kind waits for the spare one.
 * Where there is none it has to take one, so that the disk is not idle. Not to be had: no harm.
 * Who runs the program under another policy has decided otherwise: beside a forward thread of a
 * real-time one, a patient thread would never run. */
static void be_patient(void) {
    const struct sched_param none = {0};
    struct sched_param param;
    int policy;
    if (pthread_getschedparam(pthread_self(), &policy, &param) == 0 && policy == SCHED_OTHER) {
        pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
    }
}

static void *io_main(void *arg) {
    struct prefetch *p = arg;
    if (p->awake) {
        be_patient();
    }
    struct filler f = filler_new(&p->fill);
    struct fill_run runs[2] = {0}, *run = &runs[0], *next = &runs[1];
    pthread_mutex_lock(&p->cache->lock);
    while (!p->stop) {
        if (run->n == 0 && !p->failure.set) {
            take_run(p, run);
            if (run->n > 0) {
                start_run(p, run);
            }
        }
        if (run->n > 0) {
            struct fill_run *served = run;
            serve(p, &f, run, p->overlaps ? next : NULL);
            run = next;
            next = served;
            next->n = 0;
            continue;
        }
        if (p->awake && !p->looking) {
            p->looking = true;
            bool found = look_awake(p, &p->work_seq);
            p->looking = false;
            if (found) {
                continue;
            }
        }
        p->n_asleep++;
        pthread_cond_wait(&p->work, &p->cache->lock);
        p->n_asleep--;
    }
    if (run->n > 0) {
        end_run(p, run, 0);
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
    p->split_reads = opt->split_reads;
    p->awake = opt->awake;
    for (int i = 0; i < PREFETCH_CLASSES; i++) {
        p->queues[i] = (struct queue){(uint32_t)NIL, (uint32_t)NIL};
    }
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->ready, NULL);
    if (fill_open(&p->fill, cache, opt->device, opt->way, opt->throttle, err) < 0) {
        prefetch_close(p);
        return -1;
    }
    p->fill.exponents = exponents_isa_best(opt->isa);
    p->fill.reader.fault = opt->fault;
    /* Where there are several threads, another one's request is under way while one wakes up. */
    p->fill.reader.awake = opt->awake && opt->io_threads == 1;
    /* Several threads overlap by themselves, and reads that are split for comparison are as without
     * all this. */
    p->overlaps = opt->io_threads == 1 && !opt->split_reads && fill_begins(&p->fill);
    p->own = filler_new(&p->fill);
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
    if (!p) {
        return;
    }
    pthread_mutex_lock(&p->cache->lock);
    p->stop = true;
    atomic_fetch_add(&p->work_seq, 1);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->cache->lock);
    for (uint32_t i = 0; i < p->n_threads; i++) {
        pthread_join(p->threads[i], NULL);
    }
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->ready);
    free(p->threads);
    free(p->guess_p);
    filler_free(&p->own);
    fill_close(&p->fill);
    free(p);
}

/* ---- forward thread ---- */

/* [locked] Lease one need's chunks and queue what is missing. True where something is. */
static bool demand_one(struct prefetch *p, const struct prefetch_need *need) {
    struct cache *c = p->cache;
    bool missing = false;
    for (uint32_t i = 0; i < need->n; i++) {
        if (!prefetch_needs(need, i)) {
            continue;
        }
        uint32_t chunk = need->first + i;
        struct cache_chunk *k = &c->chunks[chunk];
        cache_lease(c, chunk);
        *(k->state == CACHE_READY ? &c->count.hits : &c->count.misses) += 1;
        if (k->guessed) {
            c->count.useful_bytes += p->archive->chunks[chunk].stored_bytes;
        }
        k->guessed = false;
        if (k->state == CACHE_QUEUED && k->class != PREFETCH_DEMANDED) {
            queue_remove(p, chunk);
            k->state = CACHE_ABSENT;
        }
        if (k->state == CACHE_ABSENT) {
            queue_push(p, PREFETCH_DEMANDED, chunk);
        }
        missing |= k->state != CACHE_READY;
    }
    return missing;
}

void prefetch_demand(struct prefetch *p, const struct prefetch_need *needs, uint32_t n) {
    uint32_t missing = 0;
    pthread_mutex_lock(&p->cache->lock);
    for (uint32_t i = 0; i < n; i++) {
        missing += demand_one(p, &needs[i]);
    }
    cache_routed(p->cache);
    /* A single expert, and nothing to compute meanwhile: the forward thread reads it itself. */
    if (p->queues[PREFETCH_DEMANDED].head != (uint32_t)NIL &&
        (p->awake || missing > 1 || missing < n)) {
        announce_work(p);
    }
    pthread_mutex_unlock(&p->cache->lock);
}

/* [locked] */
static bool all_ready(const struct cache *c, const struct prefetch_need *need) {
    const struct cache_record *r = &c->records[c->chunks[need->first].record];
    if (r->n_ready == need->n) { /* needs are of whole records, less what they skip */
        return true;
    }
    for (uint32_t i = 0; i < need->n; i++) {
        if (prefetch_needs(need, i) && c->chunks[need->first + i].state != CACHE_READY) {
            return false;
        }
    }
    return true;
}

void prefetch_look(struct prefetch *p, const struct prefetch_need *needs, uint32_t n, bool *ready) {
    pthread_mutex_lock(&p->cache->lock);
    for (uint32_t i = 0; i < n; i++) {
        ready[i] = all_ready(p->cache, &needs[i]);
    }
    pthread_mutex_unlock(&p->cache->lock);
}

/* [locked] The forward thread has nothing to compute: read for itself, or wait for what others
 * read. */
static void pass_time(struct prefetch *p) {
    struct fill_run run = {0};
    if (p->queues[PREFETCH_DEMANDED].head != (uint32_t)NIL) {
        take_from(p, PREFETCH_DEMANDED, &run);
    }
    if (run.n > 0) {
        start_run(p, &run);
        serve(p, &p->own, &run, NULL);
    } else if (!p->awake || !look_awake(p, &p->ready_seq)) {
        p->waiting = true;
        pthread_cond_wait(&p->ready, &p->cache->lock);
        p->waiting = false;
    }
}

int prefetch_wait_any(struct prefetch *p, const struct prefetch_need *needs, uint32_t n,
                      bool *ready, struct err *err) {
    struct cache *c = p->cache;
    uint64_t blocked_at = 0;
    int status = 0;
    pthread_mutex_lock(&c->lock);
    for (;;) {
        uint32_t n_ready = 0;
        for (uint32_t i = 0; i < n; i++) {
            /* A demanded expert is there when none of its leased chunks is waited for. */
            ready[i] = c->records[c->chunks[needs[i].first].record].n_waiting == 0;
            n_ready += ready[i];
        }
        if (p->failure.set) {
            status = err_set(err, "%s", p->failure.msg);
            break;
        }
        if (n_ready > 0) {
            break;
        }
        if (blocked_at == 0) {
            blocked_at = clock_ns();
        }
        pass_time(p);
    }
    if (blocked_at != 0) {
        p->stall_ns += clock_ns() - blocked_at;
    }
    pthread_mutex_unlock(&c->lock);
    return status;
}

const uint8_t *prefetch_data(struct prefetch *p, uint32_t chunk) {
    /* A leased READY chunk does not change: no lock. The wait that saw it READY ordered memory. */
    return p->cache->chunks[chunk].data;
}

void prefetch_release(struct prefetch *p, const struct prefetch_need *needs, uint32_t n) {
    struct cache *c = p->cache;
    uint64_t mark = n > 0 ? fill_mark(&p->fill) : 0;
    pthread_mutex_lock(&c->lock);
    for (uint32_t j = 0; j < n; j++) {
        const struct prefetch_need *need = &needs[j];
        for (uint32_t i = 0; i < need->n; i++) {
            if (prefetch_needs(need, i)) {
                fill_released(&p->fill, c->chunks[need->first + i].slot, mark);
                cache_release(c, need->first + i);
            }
        }
        cache_touch(c, c->chunks[need->first].record);
    }
    /* Demands that are still queued may be waiting for a slot. */
    if (n > 0 && p->queues[PREFETCH_DEMANDED].head != (uint32_t)NIL) {
        announce_work(p);
    }
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

/* [locked] Share of the last window in which the link served demands. */
static float link_busy(struct prefetch *p) {
    uint64_t now = clock_ns(), passed = now - p->window_start_ns;
    if (passed >= BUSY_WINDOW_NS) {
        uint64_t served = p->demand_ns + (p->n_demands > 0 ? now - p->demands_since_ns : 0);
        p->busy = (float)(served - p->window_demand_ns) / (float)passed;
        p->window_start_ns = now;
        p->window_demand_ns = served;
    }
    return p->busy;
}

/* [locked] Whether a chunk of `need` is neither in memory nor on its way. */
static bool any_absent(const struct cache *c, const struct prefetch_need *need) {
    for (uint32_t i = 0; i < need->n; i++) {
        if (prefetch_needs(need, i) && c->chunks[need->first + i].state == CACHE_ABSENT) {
            return true;
        }
    }
    return false;
}

bool prefetch_guess_pays(const struct cache *cache, const struct prefetch_need *need, float prob,
                         float busy) {
    float u = busy, v = 0;
    if (any_absent(cache, need)) {
        u = busy > PREFETCH_GUESS_COST ? busy : PREFETCH_GUESS_COST;
        v = cache_victim_p(cache);
    }
    return prob >= (u + v) / (1 + u + v);
}

void prefetch_guess(struct prefetch *p, const struct prefetch_need *needs, const float *prob,
                    uint32_t n, uint32_t ahead) {
    struct cache *c = p->cache;
    bool queued = false;
    pthread_mutex_lock(&c->lock);
    float u = link_busy(p);
    for (uint32_t j = 0; j < n; j++) {
        const struct prefetch_need *need = &needs[j];
        uint32_t record = c->chunks[need->first].record;
        if (!prefetch_guess_pays(c, need, prob[j], u)) {
            continue;
        }
        p->guess_p[record] = prob[j];
        cache_pin(c, record, ahead);
        for (uint32_t i = 0; i < need->n; i++) {
            if (!prefetch_needs(need, i) || c->chunks[need->first + i].state != CACHE_ABSENT) {
                continue;
            }
            queue_push(p, ahead == 1 ? PREFETCH_NEXT : PREFETCH_LATER, need->first + i);
            queued = true;
        }
    }
    if (n > 0) {
        cache_guessed(c, c->records[c->chunks[needs[0].first].record].layer, ahead);
    }
    if (queued) {
        announce_work(p);
    }
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
