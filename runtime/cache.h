/*
 * cache: which expert chunks are in memory, where they are, and which one gives way to another.
 *
 * Owns: the state of every chunk of the archive, which slot holds it, leases, the ranking of
 * experts, eviction, and the counters of hits and misses.
 * Leaves to others: the memory of the slots (room), bringing bytes (prefetch), choosing chunks
 * (experts), arithmetic.
 *
 * A chunk goes ABSENT -> QUEUED -> LOADING -> READY -> ABSENT. When it is READY, its neurons are at
 * `data`: in a slot, or in a map of the archive. With CACHE_IN_PLACE a chunk in the map is never
 * evicted. With READER_MAPPED the pages in the map were brought for the chunk: then the chunk has
 * the number of a slot, so that it counts against the room, and the slot's own memory stays
 * untouched. A lease keeps a chunk from eviction. It may be taken before the chunk is READY, and it
 * is given back exactly once.
 *
 * The cache is a number of bytes. Chunks have classes by their size in memory: those that differ by
 * less than one part in CACHE_CLASS_PARTS share one, whose slots are as large as the largest of
 * them. Where a chunk finds no room, experts are evicted by their ranks until it does, whatever
 * sizes their chunks have: sizes have no say in who gives way. A device's memory is one array of
 * slots of the largest size (CACHE_ONE_SIZE).
 *
 * Eviction ranks whole experts, because a token that uses an expert uses all of its chunks
 * together. The cache knows of each expert how long ago it was used and how often (a count of uses,
 * each of which decays by DECAY a token). How likely such an expert is to be used by the next token
 * is measured as the run goes, over all experts: of those that were used so long ago and so often,
 * how many were used again? From that chance p follows the expected time until the next use, in
 * tokens: 1/p - 1, plus the way from the layer at hand to the expert's layer. The expert whose next
 * use is farthest away is evicted first. (This is Belady's rule, with an expected time in place of
 * the true one.) A layer whose experts have been guessed already counts as passed: the experts that
 * were guessed are pinned, and the others of that layer wait for the next token. Of one expert,
 * cold chunks go before the hot prefix, and the chunks of the least busy neurons go first.
 *
 * Finding a victim takes one look at each layer, because the experts that may go lie in a heap for
 * each layer. The chances of a layer's experts are computed once a token, when the layer has been
 * passed.
 *
 * Threads: the forward thread and the I/O threads. `lock` guards everything here and the queue of
 * prefetch, but for the view, which any thread may read without it; every function marked [locked]
 * is called with it held. The bytes of a slot belong to the I/O thread that is LOADING it, and are
 * read-only to all once READY.
 */
#ifndef RUNTIME_CACHE_H
#define RUNTIME_CACHE_H

#include <pthread.h>
#include <stdatomic.h>

#include "format/corm_read.h"
#include "runtime/room.h"

/* How chunks are kept in memory; the values are bits that may be combined. */
enum cache_how {
    CACHE_IN_PLACE = 1, /* chunks that can be used as they are stored are used from the map */
    /* Chunks stay as they are stored, and whoever computes with them decodes them each time. Slots
     * are smaller, so that more experts stay in memory; the price is the time that decoding takes.
     * Only archives that cache_can_pack can be kept so. */
    CACHE_PACKED = 2,
    CACHE_ONE_SIZE = 4, /* all slots are as large as the largest chunk */
};

enum cache_state { CACHE_ABSENT, CACHE_QUEUED, CACHE_LOADING, CACHE_READY };
enum { CACHE_NO_SLOT = ROOM_NO_SLOT, CACHE_CLASS_PARTS = 128, CACHE_AGES = 12, CACHE_RATES = 10 };

struct cache_chunk {
    const uint8_t *data; /* READY: decoded neurons, or packed ones (CACHE_PACKED) */
    int32_t slot;        /* CACHE_NO_SLOT where in place or not in memory */
    uint32_t record;
    uint32_t leases;
    uint32_t next, prev; /* links of prefetch's queue while QUEUED */
    uint8_t state;       /* enum cache_state */
    uint8_t class;       /* prefetch's class while QUEUED */
    bool hot;
    bool guessed; /* brought by a guess and not used yet */
};

/* The list that a record is in: none (nothing of it can be evicted), its layer's heap, or the
 * pinned ones. */
enum cache_list { CACHE_KEPT, CACHE_HEAP, CACHE_PINNED };

struct cache_record {
    double rank; /* of those in a heap the lowest goes first */
    float p;     /* chance that the next token uses it */
    float count; /* decayed uses at `last` */
    float count_before;
    uint64_t last, last_before; /* tokens of the last two uses; 0 = none */
    uint64_t used;              /* when it was used last, in uses of any expert */
    uint64_t pinned_step;       /* guessed to be used at this step: kept until it has passed; see
                                   cache_clock */
    uint32_t layer;
    uint32_t leases;                /* sum over its chunks */
    uint32_t slots_cold, slots_hot; /* READY chunks in slots */
    uint32_t n_ready;               /* READY chunks */
    uint32_t n_waiting;             /* leased chunks that are not READY */
    uint32_t at;                    /* place in its list */
    uint8_t list;                   /* enum cache_list */
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

/* What any thread may see of a record without the lock; written with it. */
struct cache_view {
    _Atomic uint32_t last; /* low bits of the token that used it last, where one did: `used` */
    _Atomic uint16_t n_ready;
    atomic_bool used;
};

/* For each class of experts, by how long ago and how often they were used: how many tokens were
 * seen, and how many of these used the expert. */
struct cache_chance {
    float seen[CACHE_AGES][CACHE_RATES], used[CACHE_AGES][CACHE_RATES];
};

struct cache_options {
    unsigned how; /* enum cache_how */
    /* How much more a hot prefix is worth than the cold chunks of the same expert, in doublings of
     * the chance of use. It is above 0 where tokens leave cold chunks out. Where all chunks are
     * used together it is 0, because keeping a part of an expert saves no request. */
    float hot_bonus;
    bool whole_lru; /* for comparison: evict whole experts, least recently used first */
    /* The slots lie in memory of the caller's, such as a device's, and CACHE_ONE_SIZE is set; NULL:
     * the cache maps them. */
    uint8_t *slots;
};

/* The sizes of an archive's chunks in memory. */
struct cache_sizes {
    struct room_size sizes[ROOM_MAX_CLASSES]; /* [n], the largest first */
    uint32_t n;
};

struct cache {
    const struct corm *archive;
    pthread_mutex_t lock;
    struct cache_chunk *chunks;   /* [archive->n_chunks] */
    struct cache_record *records; /* [archive->n_records] */
    struct room room;
    struct cache_sizes sizes;
    /* Of each class room_alone_bytes; where all chunks have room at once, a slot's bytes. */
    uint64_t alone_bytes[ROOM_MAX_CLASSES];
    uint8_t *class; /* [n_chunks] of those that use slots */
    struct cache_options opt;
    /* Chunks evicted from a map, for prefetch to give back to the kernel: [n_unmapped]. */
    uint32_t *unmapped, n_unmapped;
    /* The experts that may be evicted are in a heap for each layer, which begins at the index of
     * the layer's first record; those that are pinned are in a list of their own. */
    uint32_t *heaps;   /* [n_records] */
    uint32_t *n_heap;  /* [n_layers] */
    uint32_t *pinned;  /* [n_records] */
    uint64_t *guessed; /* [n_layers] step for which the layer's experts were guessed last */
    uint32_t n_pinned;
    struct cache_chance chance;
    float *decay;   /* [DECAYS] DECAY to the power of the index */
    uint64_t uses;  /* cache_touch so far */
    uint64_t token; /* clock of the ranking */
    uint32_t layer; /* layer being computed */
    bool routed;    /* cache_routed was called for it */
    bool decode;    /* the pass at hand decodes */
    uint64_t step;  /* layers entered so far, plus 1: so a pin of 0 is none */
    struct cache_counters count;
    struct cache_view *view; /* [n_records] */
};

/* Whether chunks can be used as they are stored: raw or packed exponents, of at most FFN_BLOCK
 * neurons, and smaller than decoded. */
bool cache_can_pack(const struct corm *archive);
/* The first chunk that forbids it; NULL where only none is smaller. Borrowed from the archive. */
const struct corm_chunk *cache_unpackable(const struct corm *archive);
/* `how`: enum cache_how, here and below. */
struct cache_sizes cache_sizes(const struct corm *archive, unsigned how);
/* The largest size; 0 where no chunk uses a slot. */
size_t cache_slot_bytes(const struct corm *archive, unsigned how);
/* Room for all chunks that use slots at once. */
uint64_t cache_bytes_needed(const struct corm *archive, unsigned how);
/* Room without which one expert could not be computed while another arrives. */
uint64_t cache_floor_bytes(const struct corm *archive, unsigned how);
/* What of so many bytes the cache can use. */
uint64_t cache_usable_bytes(const struct corm *archive, unsigned how, uint64_t bytes);

/* Bytes of the tables beside the slots. */
size_t cache_table_bytes(const struct corm *archive);

/* A cache with room for so many bytes of chunks, at least cache_floor_bytes or cache_bytes_needed
 * where chunks are to be leased. */
int cache_open(struct cache *c, const struct corm *archive, uint64_t bytes,
               const struct cache_options *opt, struct err *err);
void cache_close(struct cache *c); /* accepts a zeroed struct */

static inline bool cache_uses_slot(const struct cache *c, uint32_t chunk) {
    return !(c->opt.how & CACHE_IN_PLACE) ||
           !(c->opt.how & CACHE_PACKED || c->archive->chunks[chunk].encoding == CORM_ENCODING_RAW);
}
/* Whether `data` of a READY chunk is packed. */
static inline bool cache_is_packed(const struct cache *c, uint32_t chunk) {
    return c->opt.how & CACHE_PACKED && c->archive->chunks[chunk].encoding != CORM_ENCODING_RAW;
}
static inline uint8_t *cache_slot(const struct cache *c, int32_t slot) {
    return room_at(&c->room, slot);
}
/* What a leased chunk counts for: whose sum stays at or below room.bytes will have room
 * together. */
static inline uint64_t cache_lease_bytes(const struct cache *c, uint32_t chunk) {
    return cache_uses_slot(c, chunk) ? c->alone_bytes[c->class[chunk]] : 0;
}

/* [locked] The forward pass enters `layer`, which is one step. Layer 0 moves the clock by `tokens`;
 * a decoding batch passes 1, because each of its sequences gets one token. Computes the chances of
 * the layer before; these are learned from decoding only. */
void cache_clock(struct cache *c, uint32_t layer, uint32_t tokens, bool decode);
/* [locked] The experts that the layer uses are leased, so that all its other experts wait for the
 * next token. Must be called before slots are taken for the layer. It has an effect once a step,
 * and only when decoding. */
void cache_routed(struct cache *c);
/* [locked] Count a use of an expert in its rank. */
void cache_touch(struct cache *c, uint32_t record);
/* [locked] */
void cache_lease(struct cache *c, uint32_t chunk);
void cache_release(struct cache *c, uint32_t chunk);

/* Chance that the next token uses an expert. [locked] */
float cache_use_p(const struct cache *c, uint32_t record);
/* [locked] The same for the expert that would be evicted next; 0 while any chunk finds room. */
float cache_victim_p(const struct cache *c);
/* [locked] Keep an expert that is guessed to be used in the layer that comes `ahead` layers
 * later. */
void cache_pin(struct cache *c, uint32_t record, uint32_t ahead);
/* [locked] The guesses for the layer that comes `ahead` layers after `layer` are complete. From now
 * on its experts that are not pinned rank as if the layer had passed. */
void cache_guessed(struct cache *c, uint32_t layer, uint32_t ahead);

/* What a taken slot may cost. */
enum cache_claim {
    CACHE_CLAIM_DEMAND, /* anything that is not leased, pinned experts last */
    CACHE_CLAIM_GUESS,  /* nothing pinned, and no expert that is likelier to be used than `p` */
};
/* [locked] Take a slot for a chunk. Where it finds no room, evict the chunks that rank lowest among
 * those that the claim allows, until it does. Returns CACHE_NO_SLOT where that does not suffice;
 * what was evicted then stays so, and its room is free. `p` matters for guesses only. */
int32_t cache_slot_take(struct cache *c, uint32_t chunk, enum cache_claim claim, float p);
/* [locked] The slot was not filled after all. */
static inline void cache_slot_give(struct cache *c, int32_t slot) {
    room_give(&c->room, slot);
}
/* [locked] A chunk becomes READY after LOADING. Where `slot` is CACHE_NO_SLOT, `data` points into
 * the map. */
void cache_publish(struct cache *c, uint32_t chunk, int32_t slot, const uint8_t *data);

#endif
