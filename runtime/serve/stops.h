/*
 * stops: texts that end a generation.
 *
 * Owns: finding the first of several texts in a text that comes in pieces, and holding back what
 * may be the beginning of one.
 * Leaves to others: what the texts are, tokens.
 * Threads: one object belongs to one thread at a time.
 */
#ifndef RUNTIME_SERVE_STOPS_H
#define RUNTIME_SERVE_STOPS_H

#include <stdbool.h>
#include <stddef.h>

#include "format/base.h"

enum { STOPS_MAX = 64, STOPS_MAX_BYTES = 4096 }; /* texts, and bytes of one */

/* Zero-initialise; free with stops_free. */
struct stops {
    char *texts[STOPS_MAX];
    size_t bytes[STOPS_MAX];
    size_t n;
    struct buf held; /* what may be the beginning of one */
    int found;       /* which one was found, counted from 1; 0 = none */
};

/* Add a copy of a text of 1 to STOPS_MAX_BYTES bytes; -1 where there is no room or it is empty. */
int stops_add(struct stops *s, const char *text, size_t bytes);
/* The next piece of the text. What is certain to be before all stops is appended to `out`. Returns
 * true where one was found: the text ends before it. */
bool stops_push(struct stops *s, const char *text, size_t bytes, struct buf *out);
/* The text is over: what was held back. */
void stops_end(struct stops *s, struct buf *out);
void stops_free(struct stops *s);

#endif
