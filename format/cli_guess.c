/*
 * cli_guess: see cli_guess.h.
 */
#include "format/cli_guess.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

enum { MAX_WORD = 40 };

/* Edits that turn one word into the other: insert, delete, replace, swap neighbours. */
static unsigned distance(const char *a, size_t an, const char *b) {
    size_t bn = strlen(b);
    if (an > MAX_WORD || bn > MAX_WORD) {
        return UINT_MAX;
    }
    unsigned rows[3][MAX_WORD + 1];
    unsigned *before = rows[0], *last = rows[1], *row = rows[2];
    for (size_t j = 0; j <= bn; j++) {
        before[j] = last[j] = (unsigned)j;
    }
    for (size_t i = 1; i <= an; i++) {
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= bn; j++) {
            unsigned best = last[j - 1] + (a[i - 1] != b[j - 1]);
            best = best < last[j] + 1 ? best : last[j] + 1;
            best = best < row[j - 1] + 1 ? best : row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
                best = best < before[j - 2] + 1 ? best : before[j - 2] + 1;
            }
            row[j] = best;
        }
        unsigned *free_row = before;
        before = last;
        last = row;
        row = free_row;
    }
    return last[bn];
}

void cli_guess_try(struct cli_guess *g, const char *candidate) {
    unsigned edits = distance(g->word, g->len, candidate);
    unsigned allowed = g->len < 4 ? 1 : g->len < 8 ? 2 : 3;
    if (edits > allowed && g->len >= 2 && strncmp(g->word, candidate, g->len) == 0) {
        edits = allowed; /* the beginning of a longer word */
    }
    if (edits <= allowed && (!g->best || edits < g->edits)) {
        g->best = candidate;
        g->edits = edits;
    }
}

void cli_guess_text(const struct cli_guess *g, const char *dashes, char *out, size_t size) {
    out[0] = '\0';
    if (g->best) {
        snprintf(out, size, " (did you mean '%s%s'?)", dashes, g->best);
    }
}
