/*
 * cli_guess: "did you mean": which of some words was probably meant by a mistyped one.
 *
 * Owns: how unlike two words are, and how unlike they may be.
 * Leaves to others: the words, and all else that is said.
 * Threads: pure functions.
 */
#ifndef FORMAT_CLI_GUESS_H
#define FORMAT_CLI_GUESS_H

#include <stddef.h>

/* The best guess so far at what a word of `len` bytes was meant to be. Begin with `word` and `len`,
 * which need no NUL behind and stay the caller's; the rest is zero. */
struct cli_guess {
    const char *word;
    size_t len;
    const char *best; /* the likeliest candidate, or NULL where none is like the word */
    unsigned edits;   /* between the two */
};

/* Consider a candidate, which has to live as long as the guess. A word is like another that is one
 * to three edits away (inserting, deleting, replacing a letter, swapping neighbours), by its
 * length, or that it begins. */
void cli_guess_try(struct cli_guess *g, const char *candidate);

/* " (did you mean '--for'?)" to out [size], or nothing; `dashes` stands before the word. */
void cli_guess_text(const struct cli_guess *g, const char *dashes, char *out, size_t size);

#endif
