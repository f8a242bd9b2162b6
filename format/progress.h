/*
 * progress: how long work reports how far it has come, and the line on the terminal that shows it.
 *
 * Owns: the interface that a working module is handed (`struct progress *`, NULL = silent), and the
 * one implementation that prints, for the two mains.
 * Leaves to others: what is counted. A module never prints; it calls the three functions below.
 * Threads: calls on one object come from one thread at a time.
 */
#ifndef FORMAT_PROGRESS_H
#define FORMAT_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum progress_unit { PROGRESS_BYTES, PROGRESS_ROWS, PROGRESS_TOKENS, PROGRESS_ITEMS };

/* The receiver of reports. One that is not the terminal fills in functions of its own. */
struct progress {
    void (*start)(struct progress *p, const char *label, uint64_t total, enum progress_unit unit);
    void (*update)(struct progress *p, uint64_t done);
    void (*finish)(struct progress *p);
};

/* A piece of work begins: `label` is a few words ("reading shards"), copied; `total` is 0 where it
 * is not known. A piece still open is finished first. */
void progress_start(struct progress *p, const char *label, uint64_t total, enum progress_unit unit);
/* `done` of the `total` units are done, counted from the beginning of the piece. This is cheap
 * enough to be called for every row. */
void progress_update(struct progress *p, uint64_t done);
/* The piece of work ended, well or not. Without an open piece it does nothing. */
void progress_finish(struct progress *p);

/*
 * The terminal's progress line. On a tty: one line, redrawn at most five times a second, with
 * percent, rate and time left; elsewhere: a plain line at most every ten seconds. At the end of
 * each piece one line stays. Use it as `progress_start(&t.progress, ...)`.
 */
struct progress_terminal {
    struct progress progress; /* first, so that the functions find the rest */
    FILE *out;
    bool tty;
    uint64_t (*now_ns)(void);
    /* private */
    bool open, drawn;
    char label[64];
    enum progress_unit unit;
    uint64_t total, done, start_ns, shown_ns;
    uint64_t mark_ns[2], mark_done[2]; /* two points of the recent past, for the present rate */
};

/* Writes to `out` (stderr in both mains), which must outlive `t`. Returns what to hand to modules:
 * `&t->progress`, or NULL where `quiet`. */
struct progress *progress_terminal_init(struct progress_terminal *t, FILE *out, bool quiet);

#endif
