/*
 * pool: fork-join workers for one kernel call at a time.
 *
 * Owns: n - 1 worker threads; the calling thread takes part as worker 0. Between calls the workers
 * sleep (after a short spin, so that back-to-back kernels of one token do not pay a wake-up each).
 * Leaves to others: what an item is. Results must not depend on which worker runs an item: kernels
 * give every output element to exactly one item.
 * Threads: pool_run is called by one thread at a time (the forward thread); calls do not nest.
 */
#ifndef KERNELS_POOL_H
#define KERNELS_POOL_H

#include <pthread.h>
#include <stdint.h>

#include "format/base.h"

struct pool;

/* `threads` >= 1 counts the caller; 1 starts no thread. NULL and `err` where a thread cannot be
 * started: a limit on memory or on processes forbids it. */
struct pool *pool_new(uint32_t threads, struct err *err);
void pool_free(struct pool *p); /* joins; NULL is allowed */
uint32_t pool_threads(const struct pool *p);

/* Call fn(ctx, item, worker) once for every item in [0, n_items), on worker in [0, threads), and
 * return when all are done. Items are handed out in increasing order, dynamically. */
void pool_run(struct pool *p, void (*fn)(void *ctx, uint32_t item, uint32_t worker), void *ctx,
              uint32_t n_items);

/* pthread_create for a thread that an engine starts, and its result. From its first moment on it
 * leaves signals to the process to the program's own threads: one that it took would not wake the
 * thread that waits for it. Faults (SIGBUS and the like) stay with the thread that causes them. */
int pool_start_thread(pthread_t *thread, void *(*fn)(void *), void *arg);

#endif
