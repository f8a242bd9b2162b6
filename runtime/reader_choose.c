/*
 * reader_choose: measures how fast a way of reading is, and chooses one.
 *
 * Owns: the threads that measure, what they read, the rule.
 * Leaves to others: reading (reader: the same code that the engine's I/O threads use).
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/pool.h"
#include "runtime/reader.h"

/* ---- a rate ---- */

struct job {
    struct reader *reader;
    const struct reader_work *work;
    size_t buffer_bytes;
    uint64_t until_ns;
    atomic_size_t next;
};

struct worker {
    struct job *job;
    pthread_t thread;
    double bytes_per_s;
    struct err err;
};

static int read_span(struct reader *r, const struct reader_span *span, uint8_t *buffer,
                     struct err *err) {
    const uint8_t *data;
    if (r->way != READER_MAPPED) {
        return reader_read(r, span->offset, span->bytes, buffer, &data, err);
    }
    int status = reader_map(r, span->offset, span->bytes, NULL, &data, err);
    reader_forget(r, span->offset, span->bytes);
    return status;
}

/* Threads end at different moments, so that each has a clock of its own. */
static void *read_spans(void *arg) {
    struct worker *w = arg;
    struct job *j = w->job;
    void *buffer;
    if (posix_memalign(&buffer, READER_ALIGN, j->buffer_bytes) != 0) {
        die_memory(j->buffer_bytes);
    }
    uint64_t start = clock_ns(), now = start;
    double bytes = 0;
    do {
        size_t i = atomic_fetch_add(&j->next, 1);
        if (i >= j->work->n && !j->work->again) {
            break;
        }
        const struct reader_span *span = &j->work->spans[i % j->work->n];
        if (read_span(j->reader, span, buffer, &w->err) < 0) {
            break;
        }
        bytes += (double)span->bytes;
        now = clock_ns();
    } while (now < j->until_ns);
    w->bytes_per_s = now > start ? bytes / (double)(now - start) * 1e9 : 0;
    free(buffer);
    return NULL;
}

int reader_rate(struct reader *r, const struct reader_work *work, double *bytes_per_s,
                struct err *err) {
    struct job job = {.reader = r, .work = work, .until_ns = clock_ns() + work->limit_ns};
    size_t longest = 0;
    for (size_t i = 0; i < work->n; i++) {
        longest = work->spans[i].bytes > longest ? work->spans[i].bytes : longest;
    }
    job.buffer_bytes = reader_buffer_bytes(longest);
    struct worker *workers = mem_calloc(work->threads, sizeof *workers);
    uint32_t n = 0;
    int status = 0;
    for (; n < work->threads && status == 0; n++) {
        workers[n].job = &job;
        int e = pool_start_thread(&workers[n].thread, read_spans, &workers[n]);
        if (e != 0) {
            status = err_errno(err, e, "start of reading thread %u", n);
            break;
        }
    }
    *bytes_per_s = 0;
    for (uint32_t i = 0; i < n; i++) {
        pthread_join(workers[i].thread, NULL);
        *bytes_per_s += workers[i].bytes_per_s;
        if (workers[i].err.set && status == 0) {
            status = -1;
            if (err && !err->set) {
                *err = workers[i].err;
            }
        }
    }
    free(workers);
    return status;
}

/* ---- a choice ---- */

enum reader_way reader_best(const double bytes_per_s[READER_WAYS], enum reader_way favoured) {
    enum reader_way fastest = favoured;
    for (int way = 0; way < READER_WAYS; way++) {
        if (bytes_per_s[way] > bytes_per_s[fastest]) {
            fastest = (enum reader_way)way;
        }
    }
    return bytes_per_s[fastest] >= READER_CLEARLY * bytes_per_s[favoured] ? fastest : favoured;
}

/* How many turns each way gets. With several, a moment in which the disk or the machine was busy
 * with other things is outvoted. */
enum {
    TURNS = 5,
    CANDIDATES = 2,
    SHARES = CANDIDATES * TURNS + 1, /* of spans, time and bytes; 1: the read that wakes the disk */
};

struct candidate {
    struct reader reader;
    struct err why; /* it is none any more */
    double rates[TURNS];
    size_t n;
};

struct contest {
    const struct reader_trial *t;
    size_t step, next, n_taken; /* spans are taken all over the file, each once */
    struct reader_span *turn;   /* [t->n] what is read in one turn */
    struct candidate candidates[CANDIDATES];
};

/* A stride that visits each of `n` spans once, neighbours far from each other. */
static size_t stride(size_t n) {
    for (size_t step = (size_t)((double)n * 0.618) + 1; step < n; step++) {
        size_t a = n, b = step;
        while (b) {
            size_t rest = a % b;
            a = b;
            b = rest;
        }
        if (a == 1) {
            return step;
        }
    }
    return 1;
}

/* Take the next spans: at most `n` of them and at most `bytes` in all, but at least one while there
 * are some. */
static size_t take_spans(struct contest *s, size_t n, uint64_t bytes) {
    size_t taken = 0;
    uint64_t sum = 0;
    while (taken < n && s->n_taken < s->t->n) {
        s->turn[taken] = s->t->spans[s->next];
        sum += s->turn[taken].bytes;
        if (taken > 0 && sum > bytes) {
            break;
        }
        taken++;
        s->next = (s->next + s->step) % s->t->n;
        s->n_taken++;
    }
    return taken;
}

/* One turn of a candidate. Where it fails, it is no candidate any more. */
static void take_turn(struct contest *s, struct candidate *c) {
    const struct reader_trial *t = s->t;
    if (!c->reader.path) {
        return;
    }
    size_t n = t->n > SHARES ? t->n / SHARES : 1;
    struct reader_work work = {.spans = s->turn,
                               .n = take_spans(s, n, t->limit_bytes / SHARES),
                               .threads = t->threads,
                               .limit_ns = t->limit_ns / SHARES};
    if (work.n == 0) {
        return;
    }
    for (size_t i = 0; i < work.n && c->reader.way == READER_PASSING; i++) {
        reader_uncache(&c->reader, work.spans[i].offset, work.spans[i].bytes);
    }
    if (reader_rate(&c->reader, &work, &c->rates[c->n], &c->why) == 0) {
        c->n++;
    } else {
        reader_close(&c->reader);
    }
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void take_turns(struct contest *s) {
    /* A disk that slept wakes up before the clock starts. */
    for (int i = 0; i < CANDIDATES && s->n_taken == 0; i++) {
        struct candidate *c = &s->candidates[i];
        take_turn(s, c);
        c->n = 0;
    }
    uint64_t until_ns = clock_ns() + s->t->limit_ns;
    for (int turn = 0; turn < TURNS && (turn == 0 || clock_ns() < until_ns); turn++) {
        for (int i = 0; i < CANDIDATES; i++) {
            take_turn(s, &s->candidates[turn % 2 ? CANDIDATES - 1 - i : i]);
        }
    }
}

static void open_candidate(struct candidate *c, const char *path, enum reader_way way,
                           struct reader_fault fault) {
    if (reader_open(&c->reader, path, way, (struct reader_throttle){0}, &c->why) < 0) {
        reader_close(&c->reader);
    }
    c->reader.fault = fault;
}

int reader_choose(const char *path, const struct reader_trial *t, struct reader_choice *choice,
                  struct err *err) {
    struct contest s = {.t = t, .step = stride(t->n), .turn = mem_calloc(t->n, sizeof *s.turn)};
    const enum reader_way ways[CANDIDATES] = {READER_DIRECT, t->cached};
    *choice = (struct reader_choice){.way = t->favoured};
    for (int i = 0; i < CANDIDATES; i++) {
        open_candidate(&s.candidates[i], path, ways[i], t->faults[ways[i]]);
    }
    take_turns(&s);
    for (int i = 0; i < CANDIDATES; i++) {
        struct candidate *c = &s.candidates[i];
        choice->failed[ways[i]] = c->why;
        if (ways[i] == READER_DIRECT && c->why.errno_value == EINVAL) {
            snprintf(choice->failed[ways[i]].msg, sizeof c->why.msg, "%s", READER_REFUSED);
        }
        if (!c->why.set && c->n > 0) {
            qsort(c->rates, c->n, sizeof *c->rates, by_size);
            choice->bytes_per_s[ways[i]] = c->rates[c->n / 2];
        }
        reader_close(&c->reader);
    }
    free(s.turn);
    const struct err *why[CANDIDATES] = {&s.candidates[0].why, &s.candidates[1].why};
    if (why[0]->set && why[1]->set) {
        return err_set(err, "%s", why[why[0]->errno_value == EINVAL]->msg);
    }
    choice->way = reader_best(choice->bytes_per_s, t->favoured);
    if (choice->failed[choice->way].set) {
        choice->way = choice->way == READER_DIRECT ? t->cached : READER_DIRECT;
    }
    return 0;
}
