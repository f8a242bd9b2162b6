/*
 * overlap: how long something was copied to a device, and how much of that time operations ran as
 * well, from spans of time as the device's clock tells them.
 *
 * Owns: the arithmetic. Spans come by track, one for operations and one for each urgency of copies,
 * in order of time within a track; tracks are told of at different times. What lies before a moment
 * for which all tracks are complete is counted and forgotten.
 * Leaves to others: the clock, and which spans there are (the backend).
 * Threads: none of its own; a struct overlap belongs to whoever holds the lock around it.
 */
#ifndef KERNELS_OVERLAP_H
#define KERNELS_OVERLAP_H

#include "kernels/backend.h"

enum { OVERLAP_OPERATIONS = BACKEND_URGENCIES, OVERLAP_TRACKS };

struct overlap_span {
    uint64_t start_ns, end_ns;
};

struct overlap {
    struct overlap_track {
        struct overlap_span *spans; /* [n], not counted yet */
        size_t n, cap;
        uint64_t end_ns; /* of the last one that was added */
    } tracks[OVERLAP_TRACKS];
    uint64_t counted_ns; /* what lies before this moment has been counted */
    uint64_t copy_ns, hidden_ns;
};

void overlap_free(struct overlap *o); /* accepts a zeroed struct */
/* A clock that rounds may let spans of a track overlap a little, or lie before what was counted:
 * they are cut. */
void overlap_add(struct overlap *o, uint32_t track, uint64_t start_ns, uint64_t end_ns);
/* Count all that lies before `until_ns`: no span will be added that begins before it. */
void overlap_count(struct overlap *o, uint64_t until_ns);

#endif
