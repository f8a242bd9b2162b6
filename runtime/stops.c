/*
 * stops: texts that end a generation (struct corm_stops of corm.h).
 *
 * Each string is looked for by the method of Knuth, Morris and Pratt ("Fast pattern matching in
 * strings", 1977): what is known of the text so far is how many bytes of the string its end is. The
 * greatest of these numbers is what has to be held back.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/engine.h"

struct stop {
    char *bytes;
    size_t n;
    size_t *border; /* [n] of its first i + 1 bytes: the longest beginning that is also their end */
    size_t matched; /* bytes of it that the text ends with */
};

struct corm_stops {
    struct stop *all; /* [n] */
    size_t n;
    struct buf text; /* what the last call gave out, then what is held back */
    size_t given;    /* bytes of it that were given out */
    int met;         /* -1: none yet */
};

static void find_borders(struct stop *s) {
    for (size_t i = 1, k = 0; i < s->n; i++) {
        while (k > 0 && s->bytes[i] != s->bytes[k]) {
            k = s->border[k - 1];
        }
        k += s->bytes[i] == s->bytes[k];
        s->border[i] = k;
    }
}

int corm_stops_open(struct corm_stops **stops, const char *const *strings, size_t n,
                    struct corm_error *error) {
    struct err err = {0};
    for (size_t i = 0; i < n; i++) {
        if (strings[i][0] == '\0') {
            err_set(&err, "stop string %zu is empty", i);
            return engine_fail(error, &err);
        }
    }
    struct corm_stops *s = mem_calloc(1, sizeof *s);
    s->all = mem_calloc(n, sizeof *s->all);
    s->n = n;
    s->met = -1;
    for (size_t i = 0; i < n; i++) {
        struct stop *one = &s->all[i];
        one->bytes = mem_strdup(strings[i]);
        one->n = strlen(strings[i]);
        one->border = mem_calloc(one->n, sizeof *one->border);
        find_borders(one);
    }
    *stops = s;
    return 0;
}

void corm_stops_close(struct corm_stops *s) {
    for (size_t i = 0; s && i < s->n; i++) {
        free(s->all[i].bytes);
        free(s->all[i].border);
    }
    if (s) {
        free(s->all);
        buf_free(&s->text);
    }
    free(s);
}

/* The text goes on by a byte. Whether it ends with the string now. */
static bool advance(struct stop *s, char byte) {
    if (s->matched == s->n) {
        s->matched = s->border[s->n - 1];
    }
    while (s->matched > 0 && s->bytes[s->matched] != byte) {
        s->matched = s->border[s->matched - 1];
    }
    s->matched += s->bytes[s->matched] == byte;
    return s->matched == s->n;
}

/* The text goes on by a byte. Bytes of the longest string that it ends with now, 0 = none. */
static size_t advance_all(struct corm_stops *s, char byte) {
    size_t longest = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (advance(&s->all[i], byte) && s->all[i].n > longest) {
            longest = s->all[i].n;
            s->met = (int)i;
        }
    }
    return longest;
}

static size_t held(const struct corm_stops *s) {
    size_t most = 0;
    for (size_t i = 0; s->met < 0 && i < s->n; i++) {
        most = s->all[i].matched > most ? s->all[i].matched : most;
    }
    return most;
}

static void forget_given(struct corm_stops *s) {
    if (s->given > 0) {
        memmove(s->text.data, s->text.data + s->given, s->text.len - s->given);
    }
    s->text.len -= s->given;
    s->given = 0;
}

static void give(struct corm_stops *s, size_t n, const char **text, size_t *text_bytes) {
    s->given = n;
    *text = n ? s->text.data : "";
    *text_bytes = n;
}

int corm_stops_push(struct corm_stops *s, const char *piece, size_t piece_bytes, const char **text,
                    size_t *text_bytes) {
    forget_given(s);
    for (size_t i = 0; i < piece_bytes && s->met < 0; i++) {
        buf_append(&s->text, &piece[i], 1);
        s->text.len -= advance_all(s, piece[i]);
    }
    give(s, s->text.len - held(s), text, text_bytes);
    return s->met;
}

void corm_stops_end(struct corm_stops *s, const char **text, size_t *text_bytes) {
    forget_given(s);
    give(s, s->text.len, text, text_bytes);
    s->met = -1;
    for (size_t i = 0; i < s->n; i++) {
        s->all[i].matched = 0;
    }
}
