/*
 * cuda_link: the way to device memory. Marks in the order of operations, uploads, and the time that
 * both take.
 *
 * A copy has a stream of its urgency, in which its order is kept. How the device's copy engine
 * shares itself among streams is not documented, and priorities of streams do not count for copies:
 * what is rested on is that a copy is of at most BACKEND_COPY_BYTES. An upload is one hand-over
 * whatever the number of its copies: one wait for its mark before, one event behind. (What CUDA has
 * for many copies in one call, cudaMemcpyBatchAsync, came with 12.8 and another signature with 13,
 * and no driver of CUDA 12.0 to 12.7 knows it.)
 *
 * Time. An event lies at the beginning and at the end of each upload, in its stream: from when its
 * first copy may begin until its last one is done. Operations are timed by series: from the first
 * kernel after a mark, a read or a write until the next one of these. The forward thread queues
 * what lies between without a pause, and only then waits, so that a series is time in which the
 * device computes, but for what queueing a kernel takes longer than the kernel. Events of both are
 * told as nanoseconds of one clock when they have been passed, and kernels/overlap.c counts. Where
 * nothing has been uploaded for CUDA_EVENTS series, operations go unwatched: the last upload is
 * over. An upload that begins inside a series that began unwatched counts as not hidden until that
 * series ends.
 */
#include "kernels/cuda/cuda.inc"

/* cudaEventElapsedTime tells milliseconds as a float: beyond this much they are too coarse. */
static const uint64_t ANCHOR_NS = 1000 * 1000 * 1000;

/* ---- time ----------------------------------------------------------------------------------- */

/* [locked] When an event was passed, which it has been. */
static uint64_t when(const struct cuda *c, cudaEvent_t event) {
    float ms = 0;
    cuda_check(c, cudaEventElapsedTime(&ms, c->link.anchor, event), "event");
    return c->link.anchor_ns + (ms > 0 ? (uint64_t)((double)ms * 1e6) : 0);
}

/* [locked] A track's points that have been passed become spans. */
static void learn_track(struct cuda *c, uint32_t track) {
    struct cuda_points *p = &c->link.points[track];
    struct overlap *o = &c->link.overlap;
    bool copies = false;
    for (uint32_t i = 0; i < BACKEND_URGENCIES; i++) {
        const struct cuda_points *k = &c->link.points[i];
        copies |= k->told < k->n || k->open || o->tracks[i].n > 0;
    }
    while (p->told < p->n) {
        uint32_t i = (uint32_t)((p->told + 1) % CUDA_EVENTS);
        cudaError_t e = cudaEventQuery(p->events[i]);
        if (e == cudaErrorNotReady) {
            cuda_forget();
            return;
        }
        cuda_check(c, e, "an operation");
        /* Operations beside no copy do not count: whatever comes begins later. */
        if (p->timed[i] && copies) {
            overlap_add(o, track, when(c, p->starts[i]), when(c, p->events[i]));
        }
        p->told++;
    }
}

/* [locked] The clock starts anew at an event that lies before every span to come. */
static void move_anchor(struct cuda *c, uint64_t until_ns) {
    for (uint32_t track = 0; track < OVERLAP_TRACKS; track++) {
        struct cuda_points *p = &c->link.points[track];
        cudaEvent_t *event = &p->events[p->told % CUDA_EVENTS];
        if (p->told == 0 || p->n - p->told >= CUDA_EVENTS) {
            continue; /* the event has another meaning by now */
        }
        uint64_t ns = when(c, *event);
        if (ns <= until_ns && ns - c->link.anchor_ns > ANCHOR_NS / 2) {
            cudaEvent_t old = c->link.anchor; /* passed, as the one that it takes the place of */
            c->link.anchor = *event;
            c->link.anchor_ns = ns;
            *event = old;
            return;
        }
    }
}

/* [locked] Learn what has been passed, and count as far as all tracks are known. */
static void learn(struct cuda *c) {
    struct cuda_link *l = &c->link;
    uint64_t until_ns = UINT64_MAX;
    for (uint32_t track = 0; track < OVERLAP_TRACKS; track++) { /* operations last */
        learn_track(c, track);
    }
    for (uint32_t track = 0; track < OVERLAP_TRACKS; track++) {
        const struct cuda_points *p = &l->points[track];
        uint64_t end_ns = l->overlap.tracks[track].end_ns;
        if ((p->told < p->n || p->open) && end_ns < until_ns) {
            until_ns = end_ns; /* its next span begins there or later */
        }
    }
    overlap_count(&l->overlap, until_ns);
    if (l->overlap.counted_ns > l->anchor_ns + ANCHOR_NS) {
        move_anchor(c, until_ns);
    }
}

/* ---- points --------------------------------------------------------------------------------- */

/* [locked] The events of the point after p->n may get a new meaning. */
static void point_claim(struct cuda *c, struct cuda_points *p) {
    if (p->n - p->told >= CUDA_EVENTS / 2) {
        if (p->n - p->told == CUDA_EVENTS) {
            cuda_check(c, cudaEventSynchronize(p->events[(p->told + 1) % CUDA_EVENTS]),
                       "an operation");
        }
        learn(c);
    }
}

/* [locked] A span begins, whose end will be the point after p->n. */
static void point_begin(struct cuda *c, struct cuda_points *p, cudaStream_t stream) {
    point_claim(c, p);
    cuda_check(c, cudaEventRecord(p->starts[(p->n + 1) % CUDA_EVENTS], stream), "event");
    p->open = true;
}

/* [locked] A new point in a stream: the end of the span, where one began. */
static uint64_t point_add(struct cuda *c, struct cuda_points *p, cudaStream_t stream) {
    point_claim(c, p);
    p->n++;
    p->timed[p->n % CUDA_EVENTS] = p->open;
    p->open = false;
    cuda_check(c, cudaEventRecord(p->events[p->n % CUDA_EVENTS], stream), "event");
    return p->n;
}

/* [locked] The event of a point; NULL where it is certainly passed. */
static cudaEvent_t point_event(const struct cuda_points *p, uint64_t n) {
    return n == 0 || n + CUDA_EVENTS <= p->n ? NULL : p->events[n % CUDA_EVENTS];
}

void cuda_series_begin(struct cuda *c) {
    struct cuda_link *l = &c->link;
    pthread_mutex_lock(&l->lock);
    if (l->watched > 0) {
        l->watched--;
        point_begin(c, &l->points[OVERLAP_OPERATIONS], c->stream);
    }
    l->in_series = true;
    pthread_mutex_unlock(&l->lock);
}

void cuda_series_end(struct cuda *c) {
    cuda_mark(c);
}

uint64_t cuda_mark(void *self) {
    struct cuda *c = (struct cuda *)self;
    if (c->fuse.waiting != CUDA_PARTS) { /* which read no weights any more */
        cuda_settle(c);
    }
    struct cuda_link *l = &c->link;
    struct cuda_points *p = &l->points[OVERLAP_OPERATIONS];
    pthread_mutex_lock(&l->lock);
    if (l->in_series) {
        point_add(c, p, c->stream);
        l->in_series = false;
    }
    uint64_t n = p->n;
    pthread_mutex_unlock(&l->lock);
    return n;
}

/* ---- uploads -------------------------------------------------------------------------------- */

/* The copies of an upload, in pieces. Returns their number. */
static uint64_t queue_copies(const struct cuda *c, const struct backend_copy *copies, uint32_t n,
                             cudaStream_t stream) {
    uint64_t count = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct backend_copy *k = &copies[i];
        for (size_t done = 0; done < k->bytes; done += BACKEND_COPY_BYTES, count++) {
            size_t rest = k->bytes - done;
            cuda_check(c,
                       cudaMemcpyAsync((uint8_t *)k->dst + done, (const uint8_t *)k->src + done,
                                       rest < BACKEND_COPY_BYTES ? rest : BACKEND_COPY_BYTES,
                                       cudaMemcpyHostToDevice, stream),
                       "copy to the device");
        }
    }
    return count;
}

uint64_t cuda_upload(void *self, const struct backend_copy *copies, uint32_t n,
                     enum backend_urgency urgency, uint64_t after) {
    struct cuda *c = (struct cuda *)self;
    struct cuda_link *l = &c->link;
    struct cuda_points *p = &l->points[urgency];
    pthread_mutex_lock(&l->turns[urgency]);
    cuda_enter(c);
    pthread_mutex_lock(&l->lock);
    cudaEvent_t event = point_event(&l->points[OVERLAP_OPERATIONS], after);
    if (event) {
        cuda_check(c, cudaStreamWaitEvent(l->streams[urgency], event, 0), "event");
    }
    point_begin(c, p, l->streams[urgency]);
    l->watched = CUDA_EVENTS;
    pthread_mutex_unlock(&l->lock);
    uint64_t n_copies = queue_copies(c, copies, n, l->streams[urgency]);
    pthread_mutex_lock(&l->lock);
    uint64_t ticket = point_add(c, p, l->streams[urgency]) * BACKEND_URGENCIES + urgency;
    for (uint32_t i = 0; i < n; i++) {
        l->counts.bytes[urgency] += copies[i].bytes;
        l->counts.pieces += copies[i].n_pieces;
    }
    l->counts.copies += n_copies;
    l->counts.uploads++;
    pthread_mutex_unlock(&l->lock);
    pthread_mutex_unlock(&l->turns[urgency]);
    return ticket;
}

bool cuda_uploaded(void *self, uint64_t ticket, bool wait) {
    struct cuda *c = (struct cuda *)self;
    struct cuda_link *l = &c->link;
    pthread_mutex_lock(&l->lock);
    cudaEvent_t event =
        point_event(&l->points[ticket % BACKEND_URGENCIES], ticket / BACKEND_URGENCIES);
    pthread_mutex_unlock(&l->lock);
    if (!event) {
        return true;
    }
    /* Should the event get a newer meaning meanwhile, this waits longer than it must. */
    cudaError_t e = wait ? cudaEventSynchronize(event) : cudaEventQuery(event);
    if (e == cudaErrorNotReady) {
        cuda_forget();
        return false;
    }
    cuda_check(c, e, "copy to the device");
    return true;
}

void cuda_link_counts(void *self, struct backend_link *link) {
    struct cuda *c = (struct cuda *)self;
    struct cuda_link *l = &c->link;
    pthread_mutex_lock(&l->lock);
    cuda_enter(c);
    learn(c);
    *link = l->counts;
    link->copy_ns = l->overlap.copy_ns;
    link->hidden_ns = l->overlap.hidden_ns;
    pthread_mutex_unlock(&l->lock);
}

/* ---- life ----------------------------------------------------------------------------------- */

int cuda_link_open(struct cuda *c, struct err *err) {
    struct cuda_link *l = &c->link;
    pthread_mutex_init(&l->lock, NULL);
    for (int i = 0; i < BACKEND_URGENCIES; i++) {
        pthread_mutex_init(&l->turns[i], NULL);
    }
    l->opened = true;
    for (int i = 0; i < BACKEND_URGENCIES; i++) {
        if (cuda_stream_new(c, &l->streams[i], err) < 0) {
            return -1;
        }
    }
    for (int t = 0; t < OVERLAP_TRACKS; t++) {
        for (int i = 0; i < CUDA_EVENTS; i++) {
            if (cuda_event_new(c, cudaEventDefault, &l->points[t].starts[i], err) < 0 ||
                cuda_event_new(c, cudaEventDefault, &l->points[t].events[i], err) < 0) {
                return -1;
            }
        }
    }
    return cuda_event_new(c, cudaEventDefault, &l->anchor, err) < 0 ||
                   cuda_try(c, cudaEventRecord(l->anchor, c->stream), "an event", err) < 0
               ? -1
               : cuda_try(c, cudaEventSynchronize(l->anchor), "an event", err);
}

void cuda_link_close(struct cuda *c) {
    struct cuda_link *l = &c->link;
    if (!l->opened) {
        return;
    }
    for (int t = 0; t < OVERLAP_TRACKS; t++) {
        for (int i = 0; i < CUDA_EVENTS; i++) {
            cuda_event_free(l->points[t].starts[i]);
            cuda_event_free(l->points[t].events[i]);
        }
    }
    cuda_event_free(l->anchor);
    for (int i = 0; i < BACKEND_URGENCIES; i++) {
        cuda_stream_free(l->streams[i]);
        pthread_mutex_destroy(&l->turns[i]);
    }
    pthread_mutex_destroy(&l->lock);
    overlap_free(&l->overlap);
}
