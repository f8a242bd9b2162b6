/*
 * sequence_room: who keeps memory for keys and values where there is not enough for all; see
 * scheduler_internal.h.
 *
 * Owns: what is forgotten, which job waits and gives its memory back, and which goes on.
 * Leaves to others: computing again what was given back (sequence); how much there is (the engine).
 * Threads: the forward thread.
 */
#include "runtime/serve/scheduler_internal.h"

static void count(struct scheduler *s, uint64_t *figure) {
    pthread_mutex_lock(&s->lock);
    (*figure)++;
    pthread_mutex_unlock(&s->lock);
}

bool sequence_room_forget(struct scheduler *s, int but, int or_but) {
    int found = -1;
    for (int i = 0; i < (int)s->o.sessions; i++) {
        const struct kept *k = &s->kept[i];
        if (!k->busy && k->n > 0 && i != but && i != or_but &&
            (found < 0 || k->used < s->kept[found].used)) {
            found = i;
        }
    }
    if (found >= 0) {
        corm_session_truncate(s->slots[found].session, 0);
        s->kept[found].n = s->kept[found].exact = 0;
        count(s, &s->figures.forgotten);
    }
    return found >= 0;
}

/* The job gives its memory back, and begins again when there is some. */
static void pause_job(struct scheduler *s, size_t i) {
    struct slot *slot = &s->slots[i];
    struct kept *k = &s->kept[i];
    if (s->pass && i == s->turn) {
        sequence_close_pass(s);
    }
    if (slot->job->pending >= 0 && slot->again == 0) {
        slot->again = k->n; /* the ids stay where they are */
    }
    corm_session_truncate(slot->session, 0);
    k->n = k->exact = 0;
    slot->job->done = 0;
    slot->waits = true;
    count(s, &s->figures.paused);
}

bool sequence_room_wanted(const struct scheduler *s) {
    for (size_t i = 0; i < s->o.sessions; i++) {
        if (s->slots[i].waits) {
            return true;
        }
    }
    return false;
}

bool sequence_room_make(struct scheduler *s, size_t i) {
    size_t last = i, others = 0;
    if (sequence_room_forget(s, -1, -1)) {
        return true;
    }
    for (size_t k = 0; k < s->o.sessions; k++) {
        if (k == i || !s->slots[k].job || s->slots[k].waits) {
            continue;
        }
        others++;
        last = s->slots[k].order > s->slots[last].order ? k : last;
    }
    if (others > 0) {
        pause_job(s, last);
    }
    return others > 0;
}

void sequence_room_resume(struct scheduler *s) {
    struct slot *first = NULL;
    bool works = false;
    for (size_t i = 0; i < s->o.sessions; i++) {
        struct slot *slot = &s->slots[i];
        works |= slot->job && !slot->waits;
        if (slot->waits && (!first || slot->order < first->order)) {
            first = slot;
        }
    }
    if (first && (s->room || !works)) {
        first->waits = false;
    }
    s->room = false;
}
