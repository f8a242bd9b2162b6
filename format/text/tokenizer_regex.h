/*
 * tokenizer_regex: the patterns of tokenizer files, which are written for Oniguruma, run by PCRE2.
 *
 * Owns: translating the dialect (so that both match the same text), compiling, and iterating over
 * matches with a bound on their work. Leaves to others: what is done with the matches.
 *
 * The bound is counted in steps and never in time, so that the same text gives the same answer on a
 * slow machine. Patterns of published tokenizers (tokenizer_published.c) look at each character a
 * few times whatever the text is; they run as machine code, with a limit for each search. All
 * others run in PCRE2's interpreter and take their steps from a budget that the caller hands to
 * regex_start, and that many searches share.
 *
 * Threads: a struct regex does not change after compiling; a struct regex_scratch belongs to one
 * thread.
 *
 * Dialect: literals, `.` (no line feed), classes with ranges, escapes, nesting, `&&` and
 * [:..:]; \s \S (White_Space) \d \D (Nd) \w \W (Alphabetic, M, Nd, Pc, and outside a class
 * ² ³ ¹ ¼ ½ ¾) \h \H (hex digit) \p{..} \P{..} \p{^..} (categories, POSIX names, some
 * binary properties, Script); \t \n \r \f \v \a \e \xHH \x{H..} \uHHHH; ^ $ at every line;
 * \A \z \Z \b \B; groups ( (?: (?> (?= (?! (?<= (?<! ; options i and m (dot matches line
 * feed) as (?i:..), or as (?i) at the start of the pattern; ? * + {n} {n,} {n,m} {,m},
 * each but {n} lazy with ?, and ?+ *+ ++ possessive. Case-insensitive matching folds
 * single characters (so `s` matches U+017F). Anything else, where the two engines differ
 * or might, is refused by name; tokenizer_dialect.c has a table of what differs.
 */
#ifndef FORMAT_TEXT_TOKENIZER_REGEX_H
#define FORMAT_TEXT_TOKENIZER_REGEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/base.h"

struct regex;
struct regex_scratch;

/* Compile `pattern`, which is valid UTF-8. Returns NULL and fills `err` where it is refused. */
struct regex *regex_compile(const char *pattern, size_t bytes, struct err *err);
void regex_free(struct regex *re); /* NULL is fine */

struct regex_scratch *regex_scratch_new(void);
void regex_scratch_free(struct regex_scratch *s); /* NULL is fine */

/* One pass over a text. regex_start sets it, regex_next advances it. */
struct regex_iter {
    const struct regex *re;
    const char *text;
    size_t bytes;
    size_t from;         /* where the next search starts */
    size_t last_end;     /* end of the last match, SIZE_MAX before the first */
    size_t window_bytes; /* how far a counted search looks at first; the result is the same */
    uint64_t *steps;     /* left to take, borrowed */
};
void regex_start(struct regex_iter *it, const struct regex *re, const char *text, size_t bytes,
                 uint64_t *steps);

/* Find the next match. Returns 1 with [*start, *end), 0 at the end, or -1 with `err` where the
 * search exceeds its limit, or *steps. The text is valid UTF-8. An empty match right behind the
 * previous match is passed over. */
int regex_next(struct regex_iter *it, struct regex_scratch *s, size_t *start, size_t *end,
               struct err *err);

/* What is known of the matches of a published pattern at a place between two characters. A place is
 * safe where no match lies across it, the matches before it are those of the text before it alone,
 * and the matches behind it those of the text behind it. `blank` is a space or a tab, `newline` a
 * line feed or carriage return, `visible` as in text_is_visible, or a mark. */
enum regex_place {
    REGEX_BLANK = 1,       /* safe: visible | blank */
    REGEX_LETTER_LINE = 2, /* safe: letter or number | newline */
    REGEX_LINE = 4,        /* safe: visible | newline */
    REGEX_NEXT_LINE = 8,   /* safe: line feed | visible, but no mark and no slash */
    REGEX_NO_EDGE = 16,    /* there no match need begin or end (otherwise one always does) */
    REGEX_ANYWHERE = 32,   /* safe everywhere, though a run of matching characters may lie across */
};
struct regex_places {
    unsigned flags; /* enum regex_place, 0: nothing is known */
    /* NULL, or: the spelling of one character or class; places before others are safe, and with
     * REGEX_ANYWHERE it is all that a match can have */
    const char *item;
    size_t item_bytes;
};
/* Whether the pattern is that of a published tokenizer, or so plain that nothing in it can go back
 * over the text. `places` (may be NULL) is what is known of its matches. */
bool regex_is_published(const char *pattern, size_t bytes, struct regex_places *places);
/* Whether the pattern's first match in `text` is all of it. Of published patterns only. */
bool regex_fits(const struct regex *re, struct regex_scratch *s, const char *text, size_t bytes);
/* Whether the steps of `re` are counted. */
bool regex_is_counted(const struct regex *re);

/* Append PCRE2's spelling of a property to `out`: an expression, or `in_class` items of a class.
 * `fold`: (?i) holds. Returns NULL, or why not. (The translation's own.) */
const char *regex_property(const char *name, size_t bytes, bool negated, bool in_class, bool fold,
                           struct buf *out);

/* Append the PCRE2 spelling of `pattern`, or refuse it. (regex_compile calls it; it is here for
 * tests.) */
int regex_translate(const char *pattern, size_t bytes, struct buf *out, struct err *err);

#endif
