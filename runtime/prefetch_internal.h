/*
 * prefetch_internal: what the two files of prefetch share. prefetch_queue.c owns the queue and what
 * is taken from it, prefetch.c the threads and what the forward thread calls.
 *
 * Threads: all functions here are called with cache->lock held.
 */
#ifndef RUNTIME_PREFETCH_INTERNAL_H
#define RUNTIME_PREFETCH_INTERNAL_H

#include <stdatomic.h>

#include "runtime/prefetch.h"

#define PREFETCH_NIL UINT32_MAX /* the end of a list of chunks */

struct prefetch_queue {
    uint32_t head, tail;
};

struct prefetch {
    struct cache *cache;
    const struct corm *archive;
    struct fill fill;
    struct prefetch_queue queues[PREFETCH_CLASSES];
    pthread_cond_t work;  /* a request came, a slot became free, or stop */
    pthread_cond_t ready; /* an expert that is waited for is there, or a failure */
    /* Counters of the same events, for threads that look for them while awake. */
    atomic_uint work_seq, ready_seq;
    uint32_t n_asleep;     /* I/O threads in wait for `work` */
    bool looking, waiting; /* an I/O thread looks for work while awake; the forward thread sleeps */
    struct prefetch_worker { /* an I/O thread */
        struct prefetch *prefetch;
        pthread_t thread;
        struct filler filler;
    } *workers;
    uint32_t n_workers, n_threads; /* with fillers; that run */
    struct filler own;             /* the forward thread's */
    bool stop, split_reads, awake;
    bool overlaps; /* the I/O thread lets the disk begin on a run while it checks the one before */
    struct err failure;
    uint64_t stall_ns;
    float *guess_p; /* [n_records] probability of the last guess */
    /* How busy the link is with demands: the number of demanded runs in flight; since when there
     * has been at least one; the time with at least one before that; and the share of it in the
     * last window of time. */
    uint32_t n_demands;
    uint64_t demands_since_ns, demand_ns, window_demand_ns, window_start_ns;
    float busy;
};

/* Queues without requests. */
void prefetch_queue_open(struct prefetch *p);
static inline bool prefetch_queued(const struct prefetch *p, enum prefetch_class class) {
    return p->queues[class].head != PREFETCH_NIL;
}
/* An ABSENT chunk becomes QUEUED, the last of its class. */
void prefetch_queue_push(struct prefetch *p, enum prefetch_class class, uint32_t chunk);
/* Take a QUEUED chunk out; the caller sets its next state. */
void prefetch_queue_remove(struct prefetch *p, uint32_t chunk);

/* There is something to do for an I/O thread: one that is awake will see it, else one is woken. */
void prefetch_announce_work(struct prefetch *p);
/* The forward thread may have what it waits for. */
void prefetch_announce_ready(struct prefetch *p);

/* Take the first request of a class together with its queued neighbours, as far as there are slots
 * for them; they become LOADING. run->n = 0 where there is no slot for the first. The class must
 * have a request. Where chunks have several sizes, a guess may evict what is cheaper than itself
 * and still find no slot: what it evicted stays so, and its room is left for whoever comes next. */
void prefetch_take_from(struct prefetch *p, enum prefetch_class class, struct fill_run *run);
/* Take the most urgent run. run->n = 0 where there is nothing to do, or where demands wait for a
 * slot. A guess that may evict nothing is dropped. */
void prefetch_take_run(struct prefetch *p, struct fill_run *run);
/* A run that was taken will be served. Another thread is woken for what is left in the queue, so
 * that one wake-up for a request is enough. */
void prefetch_start_run(struct prefetch *p, const struct fill_run *run);
/* A run that was started is over: publish the first `n_filled` of its chunks, drop the rest. */
void prefetch_end_run(struct prefetch *p, const struct fill_run *run, uint32_t n_filled);

/* Share of the last window of time in which the link served demands. */
float prefetch_link_busy(struct prefetch *p);

#endif
