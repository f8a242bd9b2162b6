#include "kernels/landing.h"

#include <stdlib.h>

struct landing {
    const struct backend *be;
    size_t piece_bytes;
    uint32_t n_pieces, next; /* next: the piece that was taken, or will be */
    bool taken;
    uint8_t *pieces;   /* [n_pieces, piece_bytes], page-locked */
    uint64_t *tickets; /* [n_pieces] of the copy that reads it; 0 = none */
};

struct landing *landing_new(const struct backend *be, size_t piece_bytes, uint32_t n_pieces) {
    struct landing *l = mem_calloc(1, sizeof *l);
    l->be = be;
    l->piece_bytes = align_up(piece_bytes, 4096);
    l->n_pieces = n_pieces;
    l->pieces = be->ops->host_alloc(be->self, l->piece_bytes * n_pieces);
    l->tickets = mem_calloc(n_pieces, sizeof *l->tickets);
    return l;
}

void landing_free(struct landing *l) {
    if (!l) {
        return;
    }
    landing_wait(l);
    l->be->ops->host_free(l->be->self, l->pieces);
    free(l->tickets);
    free(l);
}

/* Whether a piece may be filled. */
static bool piece_done(struct landing *l, uint32_t i, bool wait) {
    if (l->tickets[i] && !l->be->ops->uploaded(l->be->self, l->tickets[i], wait)) {
        return false;
    }
    l->tickets[i] = 0;
    return true;
}

uint8_t *landing_take(struct landing *l) {
    if (!l->taken) {
        piece_done(l, l->next, true);
    }
    l->taken = true;
    return l->pieces + l->next * l->piece_bytes;
}

void landing_send(struct landing *l, void *device_dst, size_t bytes, enum backend_urgency urgency,
                  uint64_t after) {
    if (!l->taken || bytes > l->piece_bytes) {
        die("a landing sends %zu bytes of a piece of %zu", bytes, l->taken ? l->piece_bytes : 0);
    }
    l->tickets[l->next] = l->be->ops->upload(
        l->be->self, device_dst, l->pieces + l->next * l->piece_bytes, bytes, urgency, after);
    l->next = (l->next + 1) % l->n_pieces;
    l->taken = false;
}

void landing_wait(struct landing *l) {
    for (uint32_t i = 0; i < l->n_pieces; i++) {
        piece_done(l, i, true);
    }
}

bool landing_arrived(struct landing *l) {
    bool all = true;
    for (uint32_t i = 0; i < l->n_pieces; i++) {
        all &= piece_done(l, i, false);
    }
    return all;
}
