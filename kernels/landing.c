#include "kernels/landing.h"

#include <stdlib.h>

enum { BATCHES = 4 }; /* of a ring */

struct landing {
    const struct backend *be;
    size_t piece_bytes;
    uint32_t n_pieces, next; /* next: the piece that was taken, or will be */
    bool taken;
    uint8_t *pieces;   /* [n_pieces, piece_bytes], page-locked */
    uint64_t *tickets; /* [n_pieces] of the upload that reads it; 0 = none */
    uint64_t arrived;  /* the last ticket that was seen to be done */
    /* What was sent and is kept back: the pieces before `next`. */
    struct landing_batch {
        struct backend_copy *copies; /* [n_pieces] */
        uint32_t n, n_pieces;
        size_t bytes;
        enum backend_urgency urgency;
        uint64_t after; /* the latest: points are passed in order */
    } batch;
};

/* Without gaps, so that pieces of the ring lie side by side. */
static size_t stride(size_t piece_bytes) {
    return align_up(piece_bytes, 64);
}

uint32_t landing_pieces(size_t piece_bytes) {
    size_t a_batch = (LANDING_BATCH_BYTES + stride(piece_bytes) - 1) / stride(piece_bytes);
    return (uint32_t)(BATCHES * a_batch);
}

size_t landing_bytes(size_t piece_bytes, uint32_t n_pieces) {
    return stride(piece_bytes) * n_pieces;
}

struct landing *landing_new(const struct backend *be, size_t piece_bytes, uint32_t n_pieces,
                            struct err *err) {
    uint8_t *pieces = be->ops->host_alloc(be->self, landing_bytes(piece_bytes, n_pieces), err);
    if (!pieces) {
        return NULL;
    }
    struct landing *l = mem_calloc(1, sizeof *l);
    l->be = be;
    l->piece_bytes = stride(piece_bytes);
    l->n_pieces = n_pieces;
    l->pieces = pieces;
    l->tickets = mem_calloc(n_pieces, sizeof *l->tickets);
    l->batch.copies = mem_calloc(n_pieces, sizeof *l->batch.copies);
    return l;
}

void landing_free(struct landing *l) {
    if (!l) {
        return;
    }
    landing_wait(l);
    l->be->ops->host_free(l->be->self, l->pieces);
    free(l->batch.copies);
    free(l->tickets);
    free(l);
}

/* ---- the batch ---- */

/* Start the copies of what was kept back. */
static void dispatch(struct landing *l) {
    struct landing_batch *b = &l->batch;
    if (b->n == 0) {
        return;
    }
    uint64_t ticket = l->be->ops->upload(l->be->self, b->copies, b->n, b->urgency, b->after);
    for (uint32_t i = 1; i <= b->n_pieces; i++) {
        l->tickets[(l->next + l->n_pieces - i) % l->n_pieces] = ticket;
    }
    b->n = b->n_pieces = 0;
    b->bytes = 0;
    b->after = 0;
}

static void add_to_batch(struct landing_batch *b, struct backend_copy piece, uint64_t after) {
    struct backend_copy *last = b->n > 0 ? &b->copies[b->n - 1] : NULL;
    if (last && (const uint8_t *)last->src + last->bytes == piece.src &&
        (uint8_t *)last->dst + last->bytes == piece.dst) {
        last->bytes += piece.bytes;
        last->n_pieces++;
    } else {
        b->copies[b->n++] = piece;
    }
    b->n_pieces++;
    b->bytes += piece.bytes;
    b->after = after > b->after ? after : b->after;
}

/* ---- pieces ---- */

/* Whether a piece may be filled. */
static bool piece_done(struct landing *l, uint32_t i, bool wait) {
    uint64_t ticket = l->tickets[i];
    if (ticket && ticket != l->arrived && !l->be->ops->uploaded(l->be->self, ticket, wait)) {
        return false;
    }
    l->arrived = ticket ? ticket : l->arrived; /* the next piece often has the same */
    l->tickets[i] = 0;
    return true;
}

uint8_t *landing_take(struct landing *l) {
    if (!l->taken) {
        if (l->batch.n_pieces == l->n_pieces) {
            dispatch(l);
        }
        piece_done(l, l->next, true);
    }
    l->taken = true;
    return l->pieces + l->next * l->piece_bytes;
}

/* The piece at `next` is sent, or stands for what lies elsewhere. */
static void send(struct landing *l, struct backend_copy copy, enum backend_urgency urgency,
                 uint64_t after) {
    if (urgency != l->batch.urgency) {
        dispatch(l);
        l->batch.urgency = urgency;
    }
    add_to_batch(&l->batch, copy, after);
    l->next = (l->next + 1) % l->n_pieces;
    l->taken = false;
    if (l->batch.bytes >= LANDING_BATCH_BYTES) {
        dispatch(l);
    }
}

void landing_send(struct landing *l, void *device_dst, size_t bytes, enum backend_urgency urgency,
                  uint64_t after) {
    if (!l->taken || bytes == 0 || bytes > l->piece_bytes) {
        die("a landing sends %zu bytes of a piece of %zu", bytes, l->taken ? l->piece_bytes : 0);
    }
    send(l, (struct backend_copy){device_dst, l->pieces + l->next * l->piece_bytes, bytes, 1},
         urgency, after);
}

void landing_send_from(struct landing *l, const void *src, void *device_dst, size_t bytes,
                       enum backend_urgency urgency, uint64_t after) {
    if (l->taken || bytes == 0) {
        die("a landing sends %zu bytes of somebody's%s", bytes, l->taken ? ", a piece taken" : "");
    }
    (void)landing_take(l); /* whose ticket tells of the copy */
    send(l, (struct backend_copy){device_dst, src, bytes, 1}, urgency, after);
}

void landing_wait(struct landing *l) {
    dispatch(l);
    for (uint32_t i = 0; i < l->n_pieces; i++) {
        piece_done(l, i, true);
    }
}

bool landing_arrived(struct landing *l) {
    bool all = true;
    dispatch(l);
    for (uint32_t i = 0; i < l->n_pieces; i++) {
        all &= piece_done(l, i, false);
    }
    return all;
}
