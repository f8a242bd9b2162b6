#include "kernels/overlap.h"

#include <stdlib.h>
#include <string.h>

void overlap_free(struct overlap *o) {
    for (int i = 0; i < OVERLAP_TRACKS; i++) {
        free(o->tracks[i].spans);
    }
    *o = (struct overlap){0};
}

void overlap_add(struct overlap *o, uint32_t track, uint64_t start_ns, uint64_t end_ns) {
    struct overlap_track *t = &o->tracks[track];
    start_ns = start_ns > t->end_ns ? start_ns : t->end_ns;
    start_ns = start_ns > o->counted_ns ? start_ns : o->counted_ns;
    t->end_ns = end_ns > t->end_ns ? end_ns : t->end_ns;
    if (end_ns <= start_ns) {
        return;
    }
    t->spans = mem_grow(t->spans, t->n + 1, &t->cap, sizeof *t->spans);
    t->spans[t->n++] = (struct overlap_span){start_ns, end_ns};
}

void overlap_count(struct overlap *o, uint64_t until_ns) {
    size_t at[OVERLAP_TRACKS] = {0};
    while (o->counted_ns < until_ns) {
        /* Until the next moment at which a track begins or ends to be busy nothing changes. */
        uint64_t now = o->counted_ns, next = until_ns;
        bool busy[OVERLAP_TRACKS] = {false}, copying = false, any = false;
        for (int i = 0; i < OVERLAP_TRACKS; i++) {
            const struct overlap_track *t = &o->tracks[i];
            while (at[i] < t->n && t->spans[at[i]].end_ns <= now) {
                at[i]++;
            }
            if (at[i] == t->n) {
                continue;
            }
            const struct overlap_span *s = &t->spans[at[i]];
            busy[i] = s->start_ns <= now;
            uint64_t change = busy[i] ? s->end_ns : s->start_ns;
            next = change < next ? change : next;
            copying |= busy[i] && i != OVERLAP_OPERATIONS;
            any = true;
        }
        if (!any) {
            break; /* `until_ns` may be far */
        }
        o->copy_ns += copying ? next - now : 0;
        o->hidden_ns += copying && busy[OVERLAP_OPERATIONS] ? next - now : 0;
        o->counted_ns = next;
    }
    for (int i = 0; i < OVERLAP_TRACKS; i++) {
        struct overlap_track *t = &o->tracks[i];
        t->n -= at[i];
        if (t->n > 0) {
            memmove(t->spans, t->spans + at[i], t->n * sizeof *t->spans);
        }
    }
}
