/*
 * room: memory for chunks of several sizes, within one number of bytes.
 *
 * Owns: the memory of the slots, which of them are in use, and which of them take memory at all.
 * Leaves to others: what lies in a slot, and what gives way for something new (cache).
 *
 * Chunks of (nearly) one size are a class. Each class has a span of addresses of its own, cut into
 * slots of its size, for as many chunks as it has or as the room can hold. A slot is closed, free
 * or in use. Closed slots take addresses and no memory. So a class grows where another one shrinks:
 * free slots of one are closed, which gives their pages back to the kernel, and slots of the other
 * are opened in their place. Nothing is ever moved, and no gap between two chunks is too small for
 * a third, because memory is counted in pages, whichever addresses they have. What is lost is the
 * part of a page at the edges of runs of open slots: nothing to speak of for slots of some pages, a
 * third of the room for slots smaller than one. (One pool of memory without classes loses more, or
 * has to move chunks, as soon as those in use lie between free pieces that are too small.)
 *
 * Slots are taken from the beginning of a span and closed from its end. So the open ones lie
 * together: few edges, and large pages. A class that needs a slot hardly ever has to wait for pages
 * of another, because a small part of the room (reserve_bytes) is kept free where there are several
 * classes: it takes up that by turns now more of one and now more of another is evicted. Where all
 * chunks are of one class, or all have room at once, nothing is kept free and nothing closed; with
 * one class the span is what one array of equal slots would be.
 *
 * A slot that is free is found in a few steps: sets of slots are trees of words, in which the first
 * and the last member are found by counting zeros. To open one, free slots of other classes are
 * closed until there are pages for it. Those of at least a page give one back each, but for the
 * page that a neighbour shares; of smaller ones it may take all that are free, because a page goes
 * only with the last slot that has a part of it. But each closing follows an opening of its own, so
 * that on the whole no more slots are closed than were opened. Giving pages back is a call of the
 * kernel.
 *
 * Threads: none here. The caller holds a lock (cache->lock), but for room_at, which reads only what
 * room_open wrote.
 */
#ifndef RUNTIME_ROOM_H
#define RUNTIME_ROOM_H

#include "format/base.h"

enum { ROOM_NO_SLOT = -1, ROOM_MAX_CLASSES = 64, ROOM_LEVELS = 5 };

/* A set of numbers below n: a bit each in words[0]; a bit of words[i + 1] says which words of
 * words[i] are not 0. */
struct room_set {
    uint64_t *words[ROOM_LEVELS];
    uint32_t levels;
};

struct room_class {
    size_t slot_bytes; /* > 0, a multiple of 64 */
    uint32_t first, n; /* numbers of its slots: first .. first + n - 1 */
    uint8_t *base;     /* [n, slot_bytes] */
    struct room_set free, closed;
};

struct room {
    struct room_class classes[ROOM_MAX_CLASSES];
    uint32_t n_classes, n_slots;
    uint64_t bytes;         /* that slots in use may have together */
    uint64_t reserve_bytes; /* of them, what is kept free */
    uint64_t used_bytes;    /* of slots in use */
    uint64_t most_bytes;    /* pages that may be held: `bytes`, rounded up */
    uint64_t held_bytes;    /* pages of open slots */
    uint64_t page_bytes;
    uint8_t *mapped; /* NULL: the memory is the caller's */
    size_t mapped_bytes;
    void *words; /* of all sets */
};

/* Classes that a room is to have. */
struct room_size {
    size_t slot_bytes;
    uint32_t n; /* chunks of this size */
};

/* Bytes of `bytes` that a room of these sizes can use: whole slots where there is one size. */
uint64_t room_usable_bytes(const struct room_size *sizes, uint32_t n_sizes, uint64_t bytes);
/* Bytes of all chunks at once, as room_open wants them to keep all: of several sizes, whole pages
 * of each. */
uint64_t room_all_bytes(const struct room_size *sizes, uint32_t n_sizes);
/* The most bytes that a slot counts for where no neighbour of it is open: chunks that fit by this
 * sum have room together, whatever was taken and given back before. With one size, the slot's
 * bytes. */
uint64_t room_alone_bytes(const struct room_size *sizes, uint32_t n_sizes, uint32_t class);
/* Memory of the tables, for so many chunks. */
size_t room_table_bytes(uint32_t n_chunks);

/* `sizes` [n_sizes]. Where `memory` is not NULL, it is the caller's, such as a device's: [bytes] of
 * one size, which is all that it can be. Nothing in it is touched. */
int room_open(struct room *r, const struct room_size *sizes, uint32_t n_sizes, uint64_t bytes,
              uint8_t *memory, struct err *err);
void room_close(struct room *r); /* accepts a zeroed struct */

/* A slot of the class comes into use; ROOM_NO_SLOT where first something has to be given back.
 * Unless `all`, the reserve stays free. */
int32_t room_take(struct room *r, uint32_t class, bool all);
/* A slot in use becomes free. */
void room_give(struct room *r, int32_t slot);
/* Whether room_take would find room. */
static inline bool room_fits(const struct room *r, uint32_t class, bool all) {
    const uint64_t free_bytes = r->bytes - r->used_bytes, kept = all ? 0 : r->reserve_bytes;
    return free_bytes >= kept && free_bytes - kept >= r->classes[class].slot_bytes;
}

/* Where a slot lies. */
static inline uint8_t *room_at(const struct room *r, int32_t slot) {
    uint32_t i = 0;
    while ((uint32_t)slot - r->classes[i].first >= r->classes[i].n) {
        i++;
    }
    const struct room_class *k = &r->classes[i];
    return k->base + (size_t)((uint32_t)slot - k->first) * k->slot_bytes;
}

#endif
