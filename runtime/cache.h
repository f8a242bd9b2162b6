/*
 * cache: which expert chunks are in memory, where, and which one gives way.
 *
 * Owns: the state of every chunk of the archive, the slots that hold decoded chunks, leases, the
 * ranking of experts, eviction, and the counters of hits and misses.
 * Leaves to others: bringing bytes (prefetch), choosing chunks (experts), arithmetic.
 *
 * A chunk goes ABSENT -> QUEUED -> LOADING -> READY -> ABSENT. In READY its decoded neurons are at
 * `data`: in a slot, or (`in_place`) in the archive's own map. A lease keeps a chunk from eviction;
 * it may be taken before the chunk is READY, and is given back exactly once.
 *
 * Eviction ranks whole experts, because a token that uses an expert uses its chunks together. The
 * key of an expert is log2(f) + t * log2(1 / DECAY), where f counts uses, each use decaying by
 * DECAY a token, and t is the token of the last use: for two experts untouched since, the order of
 * keys is the order of their decayed counts, so keys need no updating as time passes. Among
 * near-equals the expert whose layer comes up last goes first. An expert that was never used ranks
 * as one whose uses have long decayed. An expert's cold chunks go before its hot prefix, the least
 * busy neurons first.
 *
 * Threads: the forward thread and the I/O threads. `lock` guards everything here and the queue of
 * prefetch; every function marked [locked] is called with it held. The bytes of a slot belong to
 * the I/O thread that is LOADING it, and are read-only to all once READY.
 */
#ifndef RUNTIME_CACHE_H
#define RUNTIME_CACHE_H

#include <pthread.h>

#include "format/corm_read.h"

enum cache_state { CACHE_ABSENT, CACHE_QUEUED, CACHE_LOADING, CACHE_READY };
enum { CACHE_NO_SLOT = -1 };

struct cache_chunk {
    const uint8_t *data; /* READY: decoded neurons */
    int32_t slot;        /* CACHE_NO_SLOT where in place or not in memory */
    uint32_t record;
    uint32_t leases;
    uint32_t next, prev; /* links of prefetch's queue while QUEUED */
    uint8_t state;       /* enum cache_state */
    uint8_t class;       /* prefetch's class while QUEUED */
    bool hot;
    bool guessed; /* brought by a guess and not used yet */
};

struct cache_record {
    float key; /* see above; -INFINITY before the first use */
    uint32_t layer;
    uint32_t leases;     /* sum over its chunks */
    uint32_t slots_cold; /* READY chunks in slots */
    uint32_t slots_hot;
    uint64_t pinned_step; /* guessed to be used at this step: kept until it has passed; see
                             cache_clock */
    uint64_t used;        /* when it was used last, in uses of any expert */
};

struct cache_counters {
    uint64_t hits, misses;  /* chunk demands that found the chunk READY, or not */
    uint64_t read_bytes;    /* stored bytes brought in */
    uint64_t decoded_bytes; /* what they became */
    uint64_t evictions;
    uint64_t guessed_bytes; /* stored bytes brought by guesses, of which: */
    uint64_t useful_bytes;  /* demanded while in memory or on the way */
    uint64_t wasted_bytes;  /* evicted unused; the rest is still there, unused so far */
};

struct cache {
    const struct corm *archive;
    pthread_mutex_t lock;
    struct cache_chunk *chunks;   /* [archive->n_chunks] */
    struct cache_record *records; /* [archive->n_records] */
    uint8_t *slots;               /* [n_slots, slot_bytes] */
    size_t slot_bytes;
    uint32_t n_slots;
    int32_t *free_slots; /* stack */
    uint32_t n_free;
    bool in_place; /* raw chunks are used from the map */
    /* What a hot prefix is worth over the cold chunks of the same expert, in doublings of the use
     * count: above 0 where tokens leave cold chunks out. Where all chunks are used together,
     * keeping a part of an expert saves no request. */
    float hot_bonus;
    bool whole_lru; /* for comparison: evict whole experts, least recently used first */
    uint64_t uses;  /* cache_touch so far */
    uint64_t token; /* clock of the ranking */
    uint32_t layer; /* layer being computed */
    uint64_t step;  /* layers entered so far, plus 1: so a pin of 0 is none */
    struct cache_counters count;
};

/* Bytes of one slot, and the number of chunks that need slots if everything is to be in memory at
 * once (with in_place, raw chunks need none). */
size_t cache_slot_bytes(const struct corm *archive);
uint32_t cache_slots_needed(const struct corm *archive, bool in_place);
/* Slots without which one expert could not be computed while another arrives. */
uint32_t cache_slots_floor(const struct corm *archive);

/* Bytes of the tables beside the slots. */
size_t cache_table_bytes(const struct corm *archive, uint32_t n_slots);

int cache_open(struct cache *c, const struct corm *archive, uint32_t n_slots, bool in_place,
               struct err *err);
void cache_close(struct cache *c); /* accepts a zeroed struct */

static inline bool cache_uses_slot(const struct cache *c, uint32_t chunk) {
    return !(c->in_place && c->archive->chunks[chunk].encoding == CORM_ENCODING_RAW);
}

/* [locked] The forward pass enters `layer`: one step; layer 0 moves the clock by `tokens`. */
void cache_clock(struct cache *c, uint32_t layer, uint32_t tokens);
/* [locked] Count a use of an expert in its rank. */
void cache_touch(struct cache *c, uint32_t record);
/* [locked] */
void cache_lease(struct cache *c, uint32_t chunk);
void cache_release(struct cache *c, uint32_t chunk);

/* [locked] Probability that an expert is used by one token, from its decayed count: in a steady
 * state the count is p / (1 - DECAY). */
float cache_use_p(const struct cache *c, uint32_t record);
/* [locked] The same for the expert that would be evicted next; 0 while slots are free. */
float cache_victim_p(const struct cache *c);
/* [locked] Keep an expert that is guessed to be used `ahead` layers on. */
void cache_pin(struct cache *c, uint32_t record, uint32_t ahead);

/* What a taken slot may cost. */
enum cache_claim {
    CACHE_CLAIM_DEMAND, /* anything that is not leased, pinned experts last */
    CACHE_CLAIM_GUESS,  /* nothing pinned, and no expert that is likelier to be used than `p` */
};
/* [locked] A free slot, evicting the lowest-ranked chunk that the claim allows where none is free;
 * CACHE_NO_SLOT where there is none. `p` counts for guesses only. */
int32_t cache_slot_take(struct cache *c, enum cache_claim claim, float p);
/* [locked] The slot was not filled after all. */
void cache_slot_give(struct cache *c, int32_t slot);
/* [locked] LOADING -> READY. `slot` CACHE_NO_SLOT: `data` points into the map. */
void cache_publish(struct cache *c, uint32_t chunk, int32_t slot, const uint8_t *data);

#endif
