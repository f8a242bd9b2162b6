/*
 * pool: see pool.h.
 *
 * One atomic word, `left`, is the whole hand-out: the number of items that nobody has taken yet.
 * Whoever lowers it from n to n - 1 owns item n_items - n, and only an owner reads the job's other
 * fields; the caller rewrites them only after every item was reported in `done`. A worker that is
 * late finds nothing left, or the next job, and both are right. So no run waits for a worker that
 * has not woken up.
 *
 * Sleeping: a waiter announces itself (`sleepers`, `caller_sleeps`) before it looks at the word a
 * last time, and a publisher changes the word before it looks for waiters. With sequentially
 * consistent atomics one of the two sees the other.
 */
#include "kernels/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "format/base.h"
#include "kernels/processor.h"

/* How long a waiter spins: longer than the serial stretches between two kernels of a token, far
 * shorter than a scheduler's time slice. For the first ALONE_NS it keeps its processor, which is
 * what most waits take; then it offers it at every look to any thread that could run, such as one
 * that reads or decodes experts. */
enum { SPIN_NS = 40 * 1000, ALONE_NS = 4 * 1000, PAUSES_PER_LOOK = 16 };

struct worker {
    struct pool *pool;
    pthread_t thread;
    uint32_t index;
};

struct pool {
    uint32_t n_threads;
    uint32_t spin_ns; /* 0 where the threads outnumber the processors */
    struct worker *workers;

    /* The job. Written by the caller while nothing is left and all is done. */
    void (*fn)(void *ctx, uint32_t item, uint32_t worker);
    void *ctx;
    uint32_t n_items;

    /* Apart from one another, as different threads hammer them. */
    _Alignas(64) atomic_uint left;
    _Alignas(64) atomic_uint done;
    _Alignas(64) atomic_uint sleepers;
    atomic_bool caller_sleeps, stop;
    pthread_mutex_t mutex;
    pthread_cond_t work, finished;
};

/* Take items until none is left; returns how many were done. */
static uint32_t take_items(struct pool *p, uint32_t worker) {
    uint32_t n = 0;
    unsigned left = atomic_load(&p->left);
    while (left > 0) {
        if (!atomic_compare_exchange_weak(&p->left, &left, left - 1)) {
            continue;
        }
        p->fn(p->ctx, p->n_items - left, worker);
        n++;
        left = atomic_load(&p->left);
    }
    return n;
}

static void report_done(struct pool *p, uint32_t n, uint32_t n_items) {
    if (atomic_fetch_add(&p->done, n) + n == n_items && atomic_load(&p->caller_sleeps)) {
        pthread_mutex_lock(&p->mutex);
        pthread_cond_signal(&p->finished);
        pthread_mutex_unlock(&p->mutex);
    }
}

/* Between two looks of a spin that began at `start`; false when its time is over. */
static bool spin_on(const struct pool *p, uint64_t start) {
    uint64_t spun = clock_ns() - start;
    if (spun >= p->spin_ns) {
        return false;
    }
    if (spun >= ALONE_NS) {
        sched_yield();
    }
    return true;
}

/* True as soon as there is work or the end; false when the spin's time is over. */
static bool spin_for_work(struct pool *p) {
    if (p->spin_ns == 0) {
        return false;
    }
    uint64_t start = clock_ns();
    do {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            if (atomic_load_explicit(&p->left, memory_order_relaxed) > 0 ||
                atomic_load_explicit(&p->stop, memory_order_relaxed)) {
                return true;
            }
            processor_relax();
        }
    } while (spin_on(p, start));
    return false;
}

static void sleep_for_work(struct pool *p) {
    pthread_mutex_lock(&p->mutex);
    atomic_fetch_add(&p->sleepers, 1);
    while (atomic_load(&p->left) == 0 && !atomic_load(&p->stop)) {
        pthread_cond_wait(&p->work, &p->mutex);
    }
    atomic_fetch_sub(&p->sleepers, 1);
    pthread_mutex_unlock(&p->mutex);
}

int pool_start_thread(pthread_t *thread, void *(*fn)(void *), void *arg) {
    static const int stay[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGPROF};
    sigset_t set, before;
    sigfillset(&set);
    for (size_t i = 0; i < sizeof stay / sizeof *stay; i++) {
        sigdelset(&set, stay[i]);
    }
    pthread_sigmask(SIG_BLOCK, &set, &before); /* which the new thread inherits */
    int rc = pthread_create(thread, NULL, fn, arg);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

static void *worker_main(void *arg) {
    const struct worker *w = arg;
    struct pool *p = w->pool;
    while (!atomic_load(&p->stop)) {
        uint32_t n = take_items(p, w->index);
        if (n > 0) {
            /* Until this report the job stands, so its n_items is the one that these belong to. */
            report_done(p, n, p->n_items);
        }
        if (!spin_for_work(p)) {
            sleep_for_work(p);
        }
    }
    return NULL;
}

struct pool *pool_new(uint32_t threads, struct err *err) {
    struct pool *p = mem_alloc_aligned(sizeof *p);
    memset(p, 0, sizeof *p);
    p->n_threads = threads ? threads : 1;
    p->spin_ns = p->n_threads <= processor_count() ? SPIN_NS : 0;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->finished, NULL);
    p->workers = mem_calloc(p->n_threads, sizeof *p->workers);
    for (uint32_t i = 1; i < p->n_threads; i++) {
        p->workers[i] = (struct worker){.pool = p, .index = i};
        int rc = pool_start_thread(&p->workers[i].thread, worker_main, &p->workers[i]);
        if (rc != 0) {
            err_errno(err, rc,
                      "thread %u of %u cannot be started (--threads, or a limit: ulimit -u "
                      "and -v, pids.max)",
                      i + 1, p->n_threads);
            p->n_threads = i; /* those that are to be joined */
            pool_free(p);
            return NULL;
        }
    }
    return p;
}

void pool_free(struct pool *p) {
    if (!p) {
        return;
    }
    pthread_mutex_lock(&p->mutex);
    atomic_store(&p->stop, true);
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->mutex);
    for (uint32_t i = 1; i < p->n_threads; i++) {
        pthread_join(p->workers[i].thread, NULL);
    }
    pthread_cond_destroy(&p->finished);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->mutex);
    free(p->workers);
    free(p);
}

uint32_t pool_threads(const struct pool *p) {
    return p->n_threads;
}

static void wait_for_done(struct pool *p, uint32_t n_items) {
    if (p->spin_ns > 0) {
        uint64_t start = clock_ns();
        do {
            for (int i = 0; i < PAUSES_PER_LOOK; i++) {
                if (atomic_load(&p->done) == n_items) {
                    return;
                }
                processor_relax();
            }
        } while (spin_on(p, start));
    }
    pthread_mutex_lock(&p->mutex);
    atomic_store(&p->caller_sleeps, true);
    while (atomic_load(&p->done) != n_items) {
        pthread_cond_wait(&p->finished, &p->mutex);
    }
    atomic_store(&p->caller_sleeps, false);
    pthread_mutex_unlock(&p->mutex);
}

void pool_run(struct pool *p, void (*fn)(void *ctx, uint32_t item, uint32_t worker), void *ctx,
              uint32_t n_items) {
    if (p->n_threads == 1 || n_items <= 1) {
        for (uint32_t i = 0; i < n_items; i++) {
            fn(ctx, i, 0);
        }
        return;
    }
    p->fn = fn;
    p->ctx = ctx;
    p->n_items = n_items;
    atomic_store(&p->done, 0);
    atomic_store(&p->left, n_items);
    if (atomic_load(&p->sleepers) > 0) {
        pthread_mutex_lock(&p->mutex);
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->mutex);
    }
    uint32_t n = take_items(p, 0);
    if (atomic_fetch_add(&p->done, n) + n != n_items) {
        wait_for_done(p, n_items);
    }
}
