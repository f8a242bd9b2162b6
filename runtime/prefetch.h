/*
 * prefetch: brings chunks into the cache while the forward pass computes.
 *
 * Owns: the request queue and the I/O threads, which fill slots (fill) and publish them (cache).
 * Leaves to others: which chunks are needed (experts), which give way (cache), how bytes come into
 * memory (fill).
 *
 * Requests are served by class, and within a class in the order in which they came. Neighbouring
 * chunks of one expert and class are read in one request of up to FILL_REQUEST_BYTES. Nothing is
 * read twice: a demand for a chunk that is queued as a guess makes the request a demand, and a
 * demand for a chunk that is being read waits for it. Where every slot is leased, demands wait
 * until a lease is given back. A guess is advice: it leases nothing, evicts only what is less
 * likely to be used, and is dropped when a newer round of guesses comes. Only requests in the queue
 * are dropped; what is being read is finished.
 *
 * Sleeping and waking cost more than reading a small expert, so both are kept rare. The forward
 * thread is woken only when the last chunk of an expert that it waits for has come, and I/O threads
 * only when there is more work than those awake will take. On a machine with a processor to spare
 * (`awake`), one I/O thread and the waiting forward thread look for work for a moment before they
 * sleep; and I/O threads that wake up leave the processor to a thread that computes, as far as the
 * kernel allows.
 *
 * A single I/O thread lets the disk begin on one run while it checks and decodes the run before,
 * where the way of reading works without the thread (fill_begins). Several I/O threads overlap by
 * themselves.
 *
 * Where a chunk cannot be read or fails its checksum, the engine stops, whether the chunk was
 * guessed or demanded: the failure is kept, and every later wait returns it. A slow disk is waited
 * for without limit.
 *
 * Threads: all functions are called by the forward thread; the I/O threads live inside. Where the
 * forward thread would have to wait, it serves demands itself, as I/O threads do. The queue is
 * guarded by cache->lock. Each call takes the lock once, whatever the number of experts.
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
    /* There is a processor to spare: see above. I/O threads that run under SCHED_OTHER change to
     * SCHED_BATCH; those under another policy keep it. */
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
 * the sum of cache_lease_bytes of what is leased at or below cache->room.bytes, else nothing could
 * ever arrive. */
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

/* Drop all guesses that are still queued, because a new round of guesses begins. */
void prefetch_drop_guesses(struct prefetch *p);
/* Guess that the `n` needs will be used, need i with probability prob[i]. They are all of one
 * layer, which comes `ahead` layers after the present one (class NEXT where that is 1, else LATER),
 * and the likeliest comes first. What is in memory is pinned, and what is not is queued, both only
 * where the guess pays. */
void prefetch_guess(struct prefetch *p, const struct prefetch_need *needs, const float *prob,
                    uint32_t n, uint32_t ahead);

/* Bring the `n` needs when nothing demanded or guessed for the next layer is in the way: they will
 * certainly be used, but nobody waits for them yet. What finds no slot is left out. */
void prefetch_bring(struct prefetch *p, const struct prefetch_need *needs, uint32_t n);

/* What a guess costs when the link is idle, as a share of time: bringing it still takes bandwidth
 * of memory and time of a processor. */
#define PREFETCH_GUESS_COST 0.5f
/* [cache locked] Whether a guess pays: prob >= (u + v) / (1 + u + v). u is what bringing the expert
 * costs: `busy`, the share of time in which the link serves demands, but at least
 * PREFETCH_GUESS_COST. v is the chance that the expert that would be evicted for it is needed.
 * Where all of the need is in memory already, only a pin is decided: then u is `busy` itself, and v
 * is 0. */
bool prefetch_guess_pays(const struct cache *cache, const struct prefetch_need *need, float prob,
                         float busy);

uint64_t prefetch_stall_ns(const struct prefetch *p);
/* Stored bytes brought to memory so far, by demands and guesses. */
uint64_t prefetch_read_bytes(struct prefetch *p);

#endif
