#include "runtime/prefetch.h"

#include <sched.h>
#include <stdlib.h>

#include "kernels/pool.h"
#include "kernels/processor.h"
#include "runtime/prefetch_internal.h"

enum { AWAKE_NS = 100000 }; /* looking for work before sleeping: about two wake-ups */

/* ---- waiting ---- */

/* Look for a change of `seq` for a moment, without holding the lock meanwhile. True where it
 * changed. */
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

/* ---- serving ---- */

/* Take the most urgent run and let the disk begin on it. */
static void begin_next(struct prefetch *p, struct fill_run *next) {
    pthread_mutex_lock(&p->cache->lock);
    if (!p->stop && !p->failure.set) {
        prefetch_take_run(p, next);
        if (next->n > 0) {
            prefetch_start_run(p, next);
        }
    }
    pthread_mutex_unlock(&p->cache->lock);
    if (next->n > 0) {
        fill_begin(&p->fill, next);
    }
}

/* [locked, but the lock is given up while it reads] Serve a run that was started. While what came
 * is checked and decoded, the disk begins on another run, unless `next` is NULL. */
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
    prefetch_end_run(p, run, n_filled);
    if (err.set && !p->failure.set) {
        p->failure = err;
    }
    const struct cache_record *r = &c->records[c->chunks[run->first].record];
    if (p->failure.set || (r->leases > 0 && r->n_waiting == 0)) {
        prefetch_announce_ready(p);
    }
}

/* A thread that wakes up may take the processor of the forward thread, although another one is
 * free, and keep it while it checks and decodes. A thread under SCHED_BATCH waits for the free one
 * instead. So this is done only where there is a processor to spare: without one the thread has to
 * take a processor from another, so that the disk is not idle. It does no harm where the kernel
 * refuses. If the program runs under another policy than the usual one, its user has decided
 * otherwise: beside a forward thread under a real-time policy, a thread under SCHED_BATCH would
 * never run. */
static void be_patient(void) {
    const struct sched_param none = {0};
    struct sched_param param;
    int policy;
    if (pthread_getschedparam(pthread_self(), &policy, &param) == 0 && policy == SCHED_OTHER) {
        pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
    }
}

static void *io_main(void *arg) {
    struct prefetch_worker *w = arg;
    struct prefetch *p = w->prefetch;
    if (p->awake) {
        be_patient();
    }
    struct fill_run runs[2] = {0}, *run = &runs[0], *next = &runs[1];
    pthread_mutex_lock(&p->cache->lock);
    while (!p->stop) {
        if (run->n == 0 && !p->failure.set) {
            prefetch_take_run(p, run);
            if (run->n > 0) {
                prefetch_start_run(p, run);
            }
        }
        if (run->n > 0) {
            struct fill_run *served = run;
            serve(p, &w->filler, run, p->overlaps ? next : NULL);
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
        prefetch_end_run(p, run, 0);
    }
    pthread_mutex_unlock(&p->cache->lock);
    return NULL;
}

/* ---- life ---- */

/* The fillers are made before any thread runs, so that what they lack can be told. */
static int open_workers(struct prefetch *p, uint32_t n, struct err *err) {
    p->workers = mem_calloc(n, sizeof *p->workers);
    if (filler_open(&p->own, &p->fill, err) < 0) {
        return -1;
    }
    for (; p->n_workers < n; p->n_workers++) {
        struct prefetch_worker *w = &p->workers[p->n_workers];
        w->prefetch = p;
        if (filler_open(&w->filler, &p->fill, err) < 0) {
            return -1;
        }
    }
    for (; p->n_threads < n; p->n_threads++) {
        struct prefetch_worker *w = &p->workers[p->n_threads];
        int e = pool_start_thread(&w->thread, io_main, w);
        if (e != 0) {
            return err_errno(
                err, e,
                "I/O thread %u of %u cannot be started (a limit: ulimit -u and -v, pids.max)",
                p->n_threads + 1, n);
        }
    }
    return 0;
}

int prefetch_open(struct prefetch **out, struct cache *cache, const struct prefetch_options *opt,
                  struct err *err) {
    struct prefetch *p = mem_calloc(1, sizeof *p);
    p->cache = cache;
    p->archive = cache->archive;
    p->guess_p = mem_calloc(p->archive->n_records, sizeof *p->guess_p);
    p->window_start_ns = clock_ns();
    p->split_reads = opt->split_reads;
    p->awake = opt->awake;
    prefetch_queue_open(p);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->ready, NULL);
    if (fill_open(&p->fill, cache, opt->device, opt->way, opt->throttle, err) < 0) {
        prefetch_close(p);
        return -1;
    }
    p->fill.exponents = exponents_isa_best(opt->isa);
    p->fill.reader.fault = opt->fault;
    /* With several threads another thread's request is under way while one wakes up, so that they
     * need not wait awake. */
    p->fill.reader.awake = opt->awake && opt->io_threads == 1;
    /* Several threads overlap by themselves. Reads that are split for comparison are done without
     * any of this. */
    p->overlaps = opt->io_threads == 1 && !opt->split_reads && fill_begins(&p->fill);
    if (open_workers(p, opt->io_threads, err) < 0) {
        prefetch_close(p);
        return -1;
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
        pthread_join(p->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->ready);
    for (uint32_t i = 0; i < p->n_workers; i++) {
        filler_close(&p->workers[i].filler);
    }
    free(p->workers);
    free(p->guess_p);
    filler_close(&p->own);
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
            prefetch_queue_remove(p, chunk);
            k->state = CACHE_ABSENT;
        }
        if (k->state == CACHE_ABSENT) {
            prefetch_queue_push(p, PREFETCH_DEMANDED, chunk);
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
    /* Where a single expert is missing and there is nothing to compute meanwhile, no thread is
     * woken: the forward thread reads it itself. */
    if (prefetch_queued(p, PREFETCH_DEMANDED) && (p->awake || missing > 1 || missing < n)) {
        prefetch_announce_work(p);
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
    if (prefetch_queued(p, PREFETCH_DEMANDED)) {
        prefetch_take_from(p, PREFETCH_DEMANDED, &run);
    }
    if (run.n > 0) {
        prefetch_start_run(p, &run);
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
            /* A demanded expert is in memory when none of its leased chunks is missing. */
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
    /* No lock is needed, because a leased chunk that is READY does not change. The wait that saw it
     * READY ordered memory. */
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
    /* Demands that are still queued may be waiting for one of these slots. */
    if (n > 0 && prefetch_queued(p, PREFETCH_DEMANDED)) {
        prefetch_announce_work(p);
    }
    pthread_mutex_unlock(&c->lock);
}

/* ---- guesses ---- */

void prefetch_drop_guesses(struct prefetch *p) {
    pthread_mutex_lock(&p->cache->lock);
    for (int i = PREFETCH_NEXT; i < PREFETCH_CLASSES; i++) {
        while (prefetch_queued(p, i)) {
            uint32_t chunk = p->queues[i].head;
            prefetch_queue_remove(p, chunk);
            p->cache->chunks[chunk].state = CACHE_ABSENT;
        }
    }
    pthread_mutex_unlock(&p->cache->lock);
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

/* [locked] Queue those chunks of a need that are absent. Whether there were any. */
static bool queue_absent(struct prefetch *p, const struct prefetch_need *need,
                         enum prefetch_class class) {
    bool queued = false;
    for (uint32_t i = 0; i < need->n; i++) {
        if (prefetch_needs(need, i) && p->cache->chunks[need->first + i].state == CACHE_ABSENT) {
            prefetch_queue_push(p, class, need->first + i);
            queued = true;
        }
    }
    return queued;
}

void prefetch_bring(struct prefetch *p, const struct prefetch_need *needs, uint32_t n) {
    struct cache *c = p->cache;
    bool queued = false;
    pthread_mutex_lock(&c->lock);
    for (uint32_t j = 0; j < n; j++) {
        p->guess_p[c->chunks[needs[j].first].record] = 1;
        queued |= queue_absent(p, &needs[j], PREFETCH_LATER);
    }
    if (queued) {
        prefetch_announce_work(p);
    }
    pthread_mutex_unlock(&c->lock);
}

void prefetch_guess(struct prefetch *p, const struct prefetch_need *needs, const float *prob,
                    uint32_t n, uint32_t ahead) {
    struct cache *c = p->cache;
    bool queued = false;
    pthread_mutex_lock(&c->lock);
    float u = prefetch_link_busy(p);
    for (uint32_t j = 0; j < n; j++) {
        const struct prefetch_need *need = &needs[j];
        uint32_t record = c->chunks[need->first].record;
        if (!prefetch_guess_pays(c, need, prob[j], u)) {
            continue;
        }
        p->guess_p[record] = prob[j];
        cache_pin(c, record, ahead);
        queued |= queue_absent(p, need, ahead == 1 ? PREFETCH_NEXT : PREFETCH_LATER);
    }
    if (n > 0) {
        cache_guessed(c, c->records[c->chunks[needs[0].first].record].layer, ahead);
    }
    if (queued) {
        prefetch_announce_work(p);
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
