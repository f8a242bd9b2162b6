/*
 * landing: the way of one thread's bytes into device memory: a ring of page-locked pieces, each
 * filled by the processor (read, decoded) while the device fetches those before it.
 *
 * Owns: the pieces, and when each may be filled again.
 * Leaves to others: what the bytes are (runtime/prefetch), the copies themselves (the backend's
 * upload).
 * Threads: a landing belongs to one thread at a time; each thread that fills device memory has its
 * own.
 *
 * Use: take a piece, fill it, send it; and before anybody is told that the bytes are there, wait.
 */
#ifndef KERNELS_LANDING_H
#define KERNELS_LANDING_H

#include "kernels/backend.h"

struct landing;

/* Whether bytes reach this backend's memory only by upload. */
static inline bool backend_needs_landing(const struct backend *be) {
    return be->ops->upload != NULL;
}

/* `n_pieces` >= 1 of `piece_bytes` each; `be` must need a landing and outlive it. */
struct landing *landing_new(const struct backend *be, size_t piece_bytes, uint32_t n_pieces);
/* Waits for what was sent. NULL is allowed. */
void landing_free(struct landing *l);

/* A piece of piece_bytes that no copy reads any more; waits where all are on their way. It is
 * the caller's until it is sent; taken again before that, it is the same one. */
uint8_t *landing_take(struct landing *l);
/* Start to copy the first `bytes` of the piece taken last to device memory, when the point `after`
 * (backend mark) of the operations is passed. */
void landing_send(struct landing *l, void *device_dst, size_t bytes, enum backend_urgency urgency,
                  uint64_t after);
/* Return when all that was sent has arrived. */
void landing_wait(struct landing *l);
/* Whether all that was sent has arrived; never blocks. */
bool landing_arrived(struct landing *l);

#endif
