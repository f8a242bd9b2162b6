/*
 * grammar_pattern: the texts between the quotes of a JSON string that patterns and lengths allow.
 *
 * Patterns are regular expressions as JSON schemas have them (ECMA 262) as far as they are regular:
 * characters, `.`, classes, \d \w \s and their opposites (of ASCII), groups, alternatives,
 * repetitions (lazy ones are the same), ^ and $; found anywhere in the text. What looks around or
 * back is refused by name. All patterns together with the length become one deterministic
 * automaton over characters, and that becomes rules.
 */
#ifndef FORMAT_TEXT_GRAMMAR_PATTERN_H
#define FORMAT_TEXT_GRAMMAR_PATTERN_H

#include "format/text/grammar_internal.h"

enum { PATTERN_MAX_BYTES = 1 << 12, PATTERN_MAX_TOGETHER = 16 };

struct pattern {
    const char *text;
    size_t n;
};
struct pattern_text {
    struct pattern patterns[PATTERN_MAX_TOGETHER];
    size_t n_patterns;
    /* Texts that are not allowed, whole. */
    const struct value *const *others; /* strings */
    size_t n_others;
    uint32_t least, most; /* characters; GRAMMAR_ENDLESS */
};

/* The expression, or GRAMMAR_NONE and `err`. `any` is one for any character of a JSON string. */
uint32_t grammar_pattern_expr(struct grammar_tree *t, const struct pattern_text *what, uint32_t any,
                              struct err *err);
/* A character of a JSON string as it is written there: itself or its escape. */
void grammar_put_escaped(struct buf *out, uint32_t c);

/* grammar_regex.c: the pattern as an expression of `t`, in which the named tokens ^ and $ are the
 * beginning and the end of the text; GRAMMAR_NONE and `err`. */
uint32_t grammar_regex_expr(struct grammar_tree *t, const char *pattern, size_t n, struct err *err);

#endif
