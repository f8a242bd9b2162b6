/*
 * landing: the way of one thread's bytes into device memory: a ring of page-locked pieces, each
 * filled by the processor (read, decoded) while the device fetches those before it.
 *
 * Owns: the pieces, when each may be filled again, and which of them travel together.
 * Leaves to others: what the bytes are (runtime/fill), the copies themselves (the backend's
 * upload).
 * Threads: a landing belongs to one thread at a time; each thread that fills device memory has its
 * own.
 *
 * Use: take a piece, fill it, send it; and before anybody is told that the bytes are there, wait.
 *
 * Small pieces travel together, because starting a copy and telling of its end take as long as
 * copying tens of KiB: what is sent is kept back until LANDING_BATCH_BYTES of one urgency have come
 * together, somebody waits, or the ring is full; then it goes as one upload. Pieces that lie side
 * by side in the ring and on the device, as those of an expert mostly do, become one copy. A piece
 * as big as a batch goes at once, with those that were kept back before it.
 */
#ifndef KERNELS_LANDING_H
#define KERNELS_LANDING_H

#include "kernels/backend.h"

/* At 25 GB/s a batch takes 10 us, twice what starting one is assumed to cost; and the processor has
 * filled it soon enough that the way to the device is not idle meanwhile. */
enum { LANDING_BATCH_BYTES = 256 << 10 };

struct landing;

/* Whether bytes reach this backend's memory only by upload. */
static inline bool backend_needs_landing(const struct backend *be) {
    return be->ops->upload != NULL;
}

/* A ring of `n_pieces` >= 1, of `piece_bytes` each; `be` must need a landing and outlive it. NULL
 * where there is not so much page-locked memory. */
struct landing *landing_new(const struct backend *be, size_t piece_bytes, uint32_t n_pieces,
                            struct err *err);
/* Waits for what was sent. NULL is allowed. */
void landing_free(struct landing *l);
/* Pieces for which a ring holds four batches: one is filled while the others are on their way. */
uint32_t landing_pieces(size_t piece_bytes);
/* Page-locked memory of a ring. */
size_t landing_bytes(size_t piece_bytes, uint32_t n_pieces);

/* A piece of piece_bytes that no copy reads any more; waits where all are on their way. It is
 * the caller's until it is sent; taken again before that, it is the same one. */
uint8_t *landing_take(struct landing *l);
/* Copy the first `bytes` > 0 of the piece taken last to device memory, when the point `after`
 * (backend mark) of the operations is passed. */
void landing_send(struct landing *l, void *device_dst, size_t bytes, enum backend_urgency urgency,
                  uint64_t after);
/* The same of `bytes` > 0 that lie in page-locked memory of the caller's, where no piece is taken:
 * they stay as they are until landing_wait. */
void landing_send_from(struct landing *l, const void *src, void *device_dst, size_t bytes,
                       enum backend_urgency urgency, uint64_t after);
/* Return when all that was sent has arrived. */
void landing_wait(struct landing *l);
/* Whether all that was sent has arrived; never blocks. */
bool landing_arrived(struct landing *l);

#endif
