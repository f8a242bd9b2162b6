/*
 * stops: see stops.h.
 */
#include "runtime/serve/stops.h"

#include <stdlib.h>
#include <string.h>

int stops_add(struct stops *s, const char *text, size_t bytes) {
    if (s->n == STOPS_MAX || bytes == 0 || bytes > STOPS_MAX_BYTES) {
        return -1;
    }
    char *copy = mem_alloc(bytes);
    memcpy(copy, text, bytes);
    s->texts[s->n] = copy;
    s->bytes[s->n++] = bytes;
    return 0;
}

/* Which stop stands at `at`, counted from 1; 0 = none. `begins` is set where the text ends inside
 * of what may become one. */
static int stands_at(const struct stops *s, size_t at, bool *begins) {
    size_t left = s->held.len - at;
    for (size_t i = 0; i < s->n; i++) {
        size_t n = s->bytes[i] < left ? s->bytes[i] : left;
        if (memcmp(s->texts[i], s->held.data + at, n) != 0) {
            continue;
        }
        if (n == s->bytes[i]) {
            return (int)i + 1;
        }
        *begins = true;
    }
    return 0;
}

static void let_go(struct stops *s, size_t n, struct buf *out) {
    buf_append(out, s->held.data, n);
    memmove(s->held.data, s->held.data + n, s->held.len - n);
    s->held.len -= n;
}

bool stops_push(struct stops *s, const char *text, size_t bytes, struct buf *out) {
    if (s->n == 0) {
        buf_append(out, text, bytes);
        return false;
    }
    buf_append(&s->held, text, bytes);
    for (size_t at = 0; at < s->held.len; at++) {
        bool begins = false;
        s->found = stands_at(s, at, &begins);
        if (s->found) {
            let_go(s, at, out);
            s->held.len = 0;
            return true;
        }
        if (begins) {
            /* All before `at` is certain, and what comes will be looked at from here on. */
            let_go(s, at, out);
            return false;
        }
    }
    let_go(s, s->held.len, out);
    return false;
}

void stops_end(struct stops *s, struct buf *out) {
    if (s->held.len > 0) {
        let_go(s, s->held.len, out);
    }
}

void stops_free(struct stops *s) {
    for (size_t i = 0; i < s->n; i++) {
        free(s->texts[i]);
    }
    buf_free(&s->held);
    *s = (struct stops){0};
}
