/*
 * prefetch: brings chunks into the cache beside the forward pass.
 *
 * Owns: the request queue and the I/O threads, which fill slots (fill) and publish them (cache).
 * Leaves to others: which chunks are needed (experts), which give way (cache), how bytes come into
 * memory (fill).
 *
 * Requests are served by class, and first come, first served inside one. Neighbouring chunks of an
 * expert and class are read in one go, up to FILL_REQUEST_BYTES. A demand for a chunk that is
 * queued as a guess promotes it; one for a chunk in flight waits for it; nothing is read twice.
 * Where every slot is leased, demands wait for a release. A guess is advice: it holds nothing,
 * evicts only what is less likely to be used, and is dropped when a newer round of guesses comes.
 * Only queued work is dropped, never work in flight.
 *
 * Sleeping and waking cost more than reading a small expert, so they are rare: the forward thread
 * is woken when the last chunk of an expert that it waits for is there, I/O threads when there is
 * more work than those awake will take. With `awake`, for machines that have a processor to spare,
 * one I/O thread and the waiting forward thread look for work for a moment before they sleep, and
 * I/O threads that wake up leave the processor to a thread that computes, as far as the kernel
 * allows.
 *
 * A single I/O thread has the disk begin on a run while it checks and decodes the one before, where
 * the way of reading can do that without it (fill_begins); several overlap by themselves.
 *
 * A chunk that cannot be read or fails its checksum stops the run, guessed or demanded: the failure
 * is kept, and every later wait returns it. A disk that takes its time is waited for.
 *
 * Threads: all functions are called by the forward thread; I/O threads live inside. Where it would
 * wait, the forward thread serves demands as they do.
 * The queue is guarded by cache->lock. A call takes the lock once, whatever the number of experts.
 */
#ifndef RUNTIME_PREFETCH_H
#define RUNTIME_PREFETCH_H

#include "runtime/fill.h"

enum prefetch_class {
    PREFETCH_DEMANDED, /* the forward pass waits for it, or will as soon as it gets there */
    PREFETCH_NEXT,     /* guess for the next layer */
    PREFETCH_LATER,    /* guess for the layers after it */
    PREFETCH_CLASSES,
};

/* The chunks of one expert that a step needs. */
struct prefetch_need {
    uint32_t first, n;   /* consecutive chunk ids, of which */
    const uint8_t *skip; /* [n] those marked are not needed; NULL = all are */
};
static inline bool prefetch_needs(const struct prefetch_need *need, uint32_t i) {
    return !need->skip || !need->skip[i];
}

struct prefetch;

struct prefetch_options {
    uint32_t io_threads; /* >= 1 */
    enum reader_way way;
    struct reader_throttle throttle;
    struct reader_fault fault;    /* for tests */
    const struct backend *device; /* as in struct fill */
    const char *isa;  /* the instruction set that decodes packed chunks, as in backend_cpu_open */
    bool split_reads; /* for comparison: three reads an expert, as its three matrices would take */
    /* There is a processor to spare: see above. I/O threads take SCHED_BATCH in place of
     * SCHED_OTHER; another policy they keep. */
    bool awake;
};

int prefetch_open(struct prefetch **p, struct cache *cache, const struct prefetch_options *opt,
                  struct err *err);
/* Stops the threads; queued requests are dropped. NULL is allowed. */
void prefetch_close(struct prefetch *p);
/* Threads that fill slots, each with a struct filler: the I/O threads and the forward thread. */
static inline uint32_t prefetch_fillers(uint32_t io_threads) {
    return io_threads + 1;
}

/* Which of `n` needs are in memory as a whole: ready[n]. Never blocks. */
void prefetch_look(struct prefetch *p, const struct prefetch_need *needs, uint32_t n, bool *ready);

/* Lease every chunk of the `n` needs, and queue those that are not in memory. The caller keeps
 * the sum of leased chunks that use slots at or below cache->n_slots, else nothing could ever
 * arrive. */
void prefetch_demand(struct prefetch *p, const struct prefetch_need *needs, uint32_t n);

/* Block until at least one of the `n` demanded needs is READY; ready[i] tells which are. Time spent
 * blocked is added to the stall counter. */
int prefetch_wait_any(struct prefetch *p, const struct prefetch_need *needs, uint32_t n,
                      bool *ready, struct err *err);

/* The neurons of a READY, leased chunk, decoded or packed (cache_is_packed); valid until it is
 * released. */
const uint8_t *prefetch_data(struct prefetch *p, uint32_t chunk);

/* Give the leases of `n` needs back and count the uses in their experts' ranks. */
void prefetch_release(struct prefetch *p, const struct prefetch_need *needs, uint32_t n);

/* Drop all guesses that are still queued: a new round begins. */
void prefetch_drop_guesses(struct prefetch *p);
/* Guess that the `n` needs, all of one layer and the likeliest first, will be used `ahead`
 * layers on (class NEXT where 1, else LATER), need i with probability prob[i]: pin what is in
 * memory, queue what is not, if it pays. */
void prefetch_guess(struct prefetch *p, const struct prefetch_need *needs, const float *prob,
                    uint32_t n, uint32_t ahead);

/* What a guess on an idle link costs, as a share of time: what it brings takes memory's bandwidth
 * and a processor's time too. */
#define PREFETCH_GUESS_COST 0.5f
/* [cache locked] The rule for that: prob >= (u + v) / (1 + u + v), with u what bringing it costs,
 * the share of time in which the link serves demands (`busy`), at least PREFETCH_GUESS_COST; and v
 * the chance that the expert that would give way is needed. Of what is there already only the pin
 * is decided: u is `busy` alone, and v is 0. */
bool prefetch_guess_pays(const struct cache *cache, const struct prefetch_need *need, float prob,
                         float busy);

uint64_t prefetch_stall_ns(const struct prefetch *p);
/* Stored bytes brought to memory so far, by demands and guesses. */
uint64_t prefetch_read_bytes(struct prefetch *p);

#endif
