/*
 * Where a long text can be cut in two so that the ids of the parts, one after the other, are those
 * of the whole. A place lies between two characters x and y, of which either y is an ASCII blank or
 * newline and x is visible, or x is a line feed and y is visible. Whether it is safe is proved from
 * the two characters alone, step by step, for whatever text lies around them:
 *
 * - normalizers: what they write for the text in front of the place and for the text behind it does
 *   not hang on the other one. Prepend and Strip, which look for a beginning or an end, are told
 *   that a cut is none (struct encoder). What becomes of x and y is followed.
 * - added tokens in the normalized text: none holds the two characters side by side.
 * - pre-tokenizers: each either has a boundary of pieces at the place, then the steps behind it see
 *   the same pieces, or the place lies within a piece which the steps behind it may cut there too.
 * - a place within a piece: no merge rule reaches across it.
 *
 * Added tokens in the raw text are looked for where the place is. What cannot be proved is not
 * safe. One cutter belongs to one thread.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/tokenizer_internal.h"
#include "format/text/tokenizer_text.h"

enum {
    LONGEST_ADDED = 1024,        /* a text with longer added tokens is not cut */
    PAIRS_MAX_BYTES = 128 << 10, /* nor one with more text of normalized added tokens */
    ASCII = 128
};

/* A character that a normal form may have changed: a visible one or a mark, never white space. */
#define SOMETHING UINT32_C(0xffffffff)

enum verdict {
    NEVER,   /* not proved */
    WITHIN,  /* the place may lie within a piece, which can be cut there as far as this step goes */
    BOUNDARY /* pieces end and begin at the place */
};

struct tok_cutter {
    const struct tokenizer *tok;
    bool never;        /* no place of any text is safe */
    bool takes_spaces; /* some added token takes the white space behind it along */
    size_t longest;    /* bytes of the longest added token in raw text */
    uint64_t *pairs;   /* y << 32 | x: neighbours in normalized added tokens, sorted */
    size_t n_pairs;
    struct regex_places places[TOK_MAX_STEPS];
    struct regex *items[TOK_MAX_STEPS]; /* of places[].item, or NULL */
    struct regex *letter;               /* [\p{L}\p{N}], by the tables that the patterns use */
    struct regex_scratch *scratch;
    uint8_t known[ASCII][ASCII]; /* of x and y: 1 safe, 2 not, 0 not asked yet */
};

/* ---- what a tokenizer's cutter knows --------------------------------------------------------- */

static int by_value(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void list_pairs(struct tok_cutter *k) {
    const struct tokenizer *tok = k->tok;
    size_t bytes = 0, cap = 0;
    for (uint32_t i = 0; i < tok->normalized.n; i++) {
        const struct tok_added *a = &tok->added[tok->normalized.order[i]];
        bytes += a->match.bytes;
        if ((a->flags & (TOK_ADDED_SINGLE_WORD | TOK_ADDED_LSTRIP | TOK_ADDED_RSTRIP)) ||
            bytes > PAIRS_MAX_BYTES) {
            k->never = true;
            return;
        }
        const char *text = tokenizer_span(tok, a->match);
        uint32_t x, y;
        size_t at = text_get(text, &x);
        while (at < a->match.bytes) {
            at += text_get(text + at, &y);
            k->pairs = mem_grow(k->pairs, k->n_pairs + 1, &cap, sizeof *k->pairs);
            k->pairs[k->n_pairs++] = (uint64_t)y << 32 | x;
            x = y;
        }
    }
    if (k->n_pairs) {
        qsort(k->pairs, k->n_pairs, sizeof *k->pairs, by_value);
    }
}

struct tok_cutter *cutter_new(const struct tokenizer *tok) {
    static const char letter[] = "[\\p{L}\\p{N}]";
    struct tok_cutter *k = mem_calloc(1, sizeof *k);
    struct err err = {0};
    k->tok = tok;
    k->scratch = regex_scratch_new();
    k->letter = regex_compile(letter, sizeof letter - 1, &err);
    for (uint32_t i = 0; i < tok->raw.n; i++) {
        const struct tok_added *a = &tok->added[tok->raw.order[i]];
        k->longest = a->match.bytes > k->longest ? a->match.bytes : k->longest;
        k->takes_spaces = k->takes_spaces || (a->flags & TOK_ADDED_RSTRIP);
    }
    k->never = k->longest > LONGEST_ADDED || !k->letter;
    list_pairs(k);
    const uint32_t n = tok->header->n_normalizers + tok->header->n_pre_tokenizers;
    for (uint32_t i = 0; i < n; i++) {
        struct regex_places *p = &k->places[i];
        size_t bytes;
        const char *pattern = tokenizer_step_pattern(tok, i, &bytes);
        if (pattern && regex_is_published(pattern, bytes, p) && p->item) {
            k->items[i] = regex_compile(p->item, p->item_bytes, &err);
        }
    }
    return k;
}

void cutter_free(struct tok_cutter *k) {
    if (!k) {
        return;
    }
    for (int i = 0; i < TOK_MAX_STEPS; i++) {
        regex_free(k->items[i]);
    }
    regex_free(k->letter);
    regex_scratch_free(k->scratch);
    free(k->pairs);
    free(k);
}

size_t cutter_reach(const struct tok_cutter *k) {
    return k->longest + 4;
}

/* ---- characters ------------------------------------------------------------------------------ */

struct place {
    uint32_t x, y;
};

static bool is_line(uint32_t cp) {
    return cp == '\n' || cp == '\r';
}

static bool is_blank(uint32_t cp) {
    return cp == ' ' || cp == '\t';
}

static bool shows(uint32_t cp) {
    return cp == SOMETHING || text_is_visible(cp);
}

/* Whether `cp`, which may be SOMETHING, can be the character `c`. */
static bool can_be(uint32_t cp, uint32_t c) {
    return cp == SOMETHING ? !text_is_space(c) : cp == c;
}

static bool fits(const struct tok_cutter *k, const struct regex *re, uint32_t cp) {
    char utf8[4];
    return regex_fits(re, k->scratch, utf8, text_put(cp, utf8));
}

/* ---- normalizers ----------------------------------------------------------------------------- */

static uint32_t last_char(const char *text, size_t bytes) {
    uint32_t cp;
    text_get(text + bytes - text_before(text, text + bytes), &cp);
    return cp;
}

/* Replacing literal text. Where it is one character, what becomes of x and y is known. */
static bool through_replace(const struct tokenizer *tok, const struct tok_step *s,
                            struct place *p) {
    const char *want = tokenizer_span(tok, s->pattern), *content = tokenizer_span(tok, s->content);
    uint32_t first, second, written;
    size_t at = text_get(want, &first);
    if (s->flags & TOK_STEP_REGEX) {
        return false;
    }
    if (at < s->pattern.bytes) {
        if (can_be(p->y, first) || can_be(p->x, last_char(want, s->pattern.bytes))) {
            return false;
        }
        for (; at < s->pattern.bytes; first = second) {
            at += text_get(want + at, &second);
            if (can_be(p->x, first) && can_be(p->y, second)) {
                return false;
            }
        }
        return true;
    }
    bool of_x = can_be(p->x, first), of_y = can_be(p->y, first);
    if ((of_x || of_y) && s->content.bytes == 0) {
        return false;
    }
    if (of_x) {
        written = last_char(content, s->content.bytes);
        if (!text_is_visible(written)) {
            return false;
        }
        p->x = p->x == SOMETHING ? SOMETHING : written;
    }
    if (of_y) {
        text_get(content, &written);
        if (p->y == SOMETHING && !text_is_visible(written)) {
            return false;
        }
        p->y = p->y == SOMETHING ? SOMETHING : written;
    }
    return true;
}

static bool through_normalizer(const struct tokenizer *tok, const struct tok_step *s,
                               struct place *p) {
    uint32_t *const both[2] = {&p->x, &p->y};
    switch (s->kind) {
    case TOK_NORM_NFKC:
    case TOK_NORM_NFKD:
        if (p->y >= ASCII) {
            return false; /* what is written for it may begin with a space */
        }
        /* fallthrough */
    case TOK_NORM_NFC:
    case TOK_NORM_NFD:
        p->x = p->x < ASCII ? p->x : SOMETHING;
        p->y = p->y <= ' ' ? p->y : SOMETHING; /* a letter may take the marks behind it along */
        return true;
    case TOK_NORM_LOWERCASE:
        for (int i = 0; i < 2; i++) {
            char utf8[4];
            struct buf lower = {0};
            if (*both[i] != SOMETHING) {
                text_lowercase(utf8, text_put(*both[i], utf8), &lower);
                bool one = text_get(lower.data, both[i]) == lower.len;
                *both[i] = one ? *both[i] : SOMETHING;
                buf_free(&lower);
            }
        }
        return true;
    case TOK_NORM_REPLACE:
        return through_replace(tok, s, p);
    case TOK_NORM_PREPEND:
        return true;
    case TOK_NORM_STRIP:
        /* It stops at x; were that white space, all in front of the place might be stripped. */
        return shows(p->x);
    default:
        return false;
    }
}

static size_t first_at_least(const struct tok_cutter *k, uint64_t pair) {
    size_t low = 0, high = k->n_pairs;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (k->pairs[middle] < pair) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* Whether some normalized added token may lie across. */
static bool in_added(const struct tok_cutter *k, const struct place *p) {
    if (k->n_pairs == 0) {
        return false;
    }
    if (p->y == SOMETHING) {
        return true;
    }
    uint64_t from = (uint64_t)p->y << 32 | (p->x == SOMETHING ? 0 : p->x);
    uint64_t to = (uint64_t)p->y << 32 | p->x;
    size_t at = first_at_least(k, from);
    return at < k->n_pairs && k->pairs[at] <= to;
}

/* ---- pre-tokenizers -------------------------------------------------------------------------- */

/* Of a step that cuts where the characters' class says so: whether a boundary lies between one that
 * is in the class and one that is not, or between two that are. */
static enum verdict by_class(enum tok_behavior behavior, bool x, bool y) {
    switch (behavior) {
    case TOK_ISOLATED:
    case TOK_REMOVED:
        return x || y ? BOUNDARY : WITHIN;
    case TOK_CONTIGUOUS:
        return x != y ? BOUNDARY : WITHIN;
    case TOK_MERGED_PREVIOUS:
        return x ? BOUNDARY : WITHIN;
    case TOK_MERGED_NEXT:
        return y ? BOUNDARY : WITHIN;
    default:
        return WITHIN;
    }
}

/* Literal text. */
static enum verdict by_text(const struct tokenizer *tok, const struct tok_step *s,
                            const struct place *p) {
    const char *want = tokenizer_span(tok, s->pattern);
    uint32_t first, second;
    size_t at = text_get(want, &first);
    if (at == s->pattern.bytes) {
        bool known = p->x != SOMETHING && p->y != SOMETHING, invert = s->flags & TOK_STEP_INVERT;
        return known && !invert ? by_class(s->behavior, p->x == first, p->y == first) : WITHIN;
    }
    for (; at < s->pattern.bytes; first = second) {
        at += text_get(want + at, &second);
        if (can_be(p->x, first) && can_be(p->y, second)) {
            return NEVER;
        }
    }
    return WITHIN;
}

static enum verdict by_pattern(const struct tok_cutter *k, uint32_t step, enum tok_behavior b,
                               const struct place *p) {
    const struct regex_places *known = &k->places[step];
    const unsigned f = known->flags;
    bool safe = false, edge = !(f & REGEX_NO_EDGE);
    if (shows(p->x)) {
        safe = (is_blank(p->y) && (f & REGEX_BLANK)) || (is_line(p->y) && (f & REGEX_LINE)) ||
               (is_line(p->y) && (f & REGEX_LETTER_LINE) && p->x != SOMETHING &&
                fits(k, k->letter, p->x));
    } else {
        safe = p->x == '\n' && shows(p->y) && p->y != '/' && (f & REGEX_NEXT_LINE);
    }
    if (k->items[step] && p->y != SOMETHING) {
        bool y = fits(k, k->items[step], p->y);
        safe = (f & REGEX_ANYWHERE) || !y;
        edge = (f & REGEX_ANYWHERE) && p->x != SOMETHING && y != fits(k, k->items[step], p->x);
    } else if (f & REGEX_ANYWHERE) {
        safe = true;
        edge = false;
    }
    if (!safe) {
        return NEVER;
    }
    return edge && (b == TOK_ISOLATED || b == TOK_REMOVED) ? BOUNDARY : WITHIN;
}

/* The character of the byte alphabet for the character's first or last byte. */
static uint32_t byte_char(uint32_t cp, bool last) {
    char utf8[4];
    struct buf out = {0};
    uint32_t c;
    if (cp == SOMETHING) {
        return SOMETHING;
    }
    size_t n = text_put(cp, utf8);
    text_to_byte_alphabet(utf8 + (last ? n - 1 : 0), 1, &out);
    text_get(out.data, &c);
    buf_free(&out);
    return c;
}

static enum verdict by_metaspace(const struct tokenizer *tok, const struct tok_step *s,
                                 struct place *p) {
    uint32_t mark;
    text_get(tokenizer_span(tok, s->content), &mark);
    bool marked = p->y == ' ' || p->y == mark;
    if (s->a == TOK_SCHEME_ALWAYS && !marked) {
        return NEVER; /* what lies behind the place would get a mark */
    }
    p->x = p->x == ' ' ? mark : p->x;
    p->y = p->y == ' ' ? mark : p->y;
    return (s->flags & TOK_STEP_SPLIT) && marked ? BOUNDARY : WITHIN;
}

static enum verdict by_words(const struct place *p) {
    if (p->x == SOMETHING || p->y == SOMETHING) {
        return (p->x != SOMETHING && text_is_space(p->x)) ||
                       (p->y != SOMETHING && text_is_space(p->y))
                   ? BOUNDARY
                   : WITHIN;
    }
    bool spaces = text_is_space(p->x) || text_is_space(p->y);
    return spaces || text_is_word(p->x) != text_is_word(p->y) ? BOUNDARY : WITHIN;
}

static enum verdict through_pre_tokenizer(const struct tok_cutter *k, uint32_t step,
                                          struct place *p) {
    const struct tokenizer *tok = k->tok;
    const struct tok_step *s = &tok->steps[step];
    bool known = p->x != SOMETHING && p->y != SOMETHING;
    switch (s->kind) {
    case TOK_PRE_SPLIT:
        return tok->regexes[step] ? by_pattern(k, step, s->behavior, p) : by_text(tok, s, p);
    case TOK_PRE_BYTE_LEVEL:
        if ((s->flags & TOK_STEP_PREFIX_SPACE) && p->y != ' ') {
            return NEVER;
        }
        if (s->flags & TOK_STEP_USE_REGEX) {
            return by_pattern(k, step, TOK_ISOLATED, p);
        }
        p->x = byte_char(p->x, true);
        p->y = byte_char(p->y, false);
        return WITHIN;
    case TOK_PRE_METASPACE:
        return by_metaspace(tok, s, p);
    case TOK_PRE_DIGITS:
        return known ? by_class(s->behavior, text_is_numeric(p->x), text_is_numeric(p->y)) : WITHIN;
    case TOK_PRE_PUNCTUATION:
        return known ? by_class(s->behavior, text_is_punctuation(p->x), text_is_punctuation(p->y))
                     : WITHIN;
    case TOK_PRE_WHITESPACE:
        return by_words(p);
    case TOK_PRE_WHITESPACE_SPLIT:
        return (p->x != SOMETHING && text_is_space(p->x)) ||
                       (p->y != SOMETHING && text_is_space(p->y))
                   ? BOUNDARY
                   : WITHIN;
    default:
        return NEVER;
    }
}

/* ---- places ---------------------------------------------------------------------------------- */

static bool is_safe(struct tok_cutter *k, struct encoder *enc, struct place p) {
    const struct tokenizer *tok = k->tok;
    const uint32_t n = tok->header->n_normalizers, m = tok->header->n_pre_tokenizers;
    /* A token in front may reach to the place, and what follows begin there. Patterns that take
     * newlines along take slashes too. */
    if (p.x == '\n' && (k->takes_spaces || p.y == '/')) {
        return false;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!through_normalizer(tok, &tok->steps[i], &p)) {
            return false;
        }
    }
    if (in_added(k, &p)) {
        return false;
    }
    for (uint32_t i = n; i < n + m; i++) {
        enum verdict v = through_pre_tokenizer(k, i, &p);
        if (v != WITHIN) {
            return v == BOUNDARY;
        }
    }
    return p.x != SOMETHING && p.y != SOMETHING && !(tok->header->flags & TOK_IGNORE_MERGES) &&
           bpe_parts(tok, &enc->bpe, p.x, p.y);
}

static bool is_safe_place(struct tok_cutter *k, struct encoder *enc, struct place p) {
    if (p.x >= ASCII || p.y >= ASCII) {
        return is_safe(k, enc, p);
    }
    uint8_t *known = &k->known[p.x][p.y];
    if (!*known) {
        *known = is_safe(k, enc, p) ? 1 : 2;
    }
    return *known == 1;
}

/* Whether no raw added token lies across the place, or ends or begins there. Returns 1, 0, or
 * -1. */
static int free_of_added(const struct tok_cutter *k, struct encoder *enc, const char *text,
                         size_t bytes, size_t at) {
    const struct matcher *m = &k->tok->raw;
    for (size_t i = at > k->longest ? at - k->longest : 0; m->n && i <= at && i < bytes; i++) {
        size_t looked = 0;
        if (m->first[(uint8_t)text[i]] == m->first[(uint8_t)text[i] + 1]) {
            continue;
        }
        const struct tok_added *a = match_here(k->tok, m, text + i, bytes - i, &looked);
        if (budget_look(&enc->budget, looked, enc->err) < 0) {
            return -1;
        }
        if (a && i + a->match.bytes >= at) {
            return 0;
        }
    }
    return 1;
}

int64_t cutter_find(struct tok_cutter *k, struct encoder *enc, const char *text, size_t bytes,
                    size_t from, size_t to) {
    for (size_t at = from; !k->never && at < to; at++) {
        const uint8_t c = (uint8_t)text[at];
        bool behind_line = text[at - 1] == '\n';
        struct place p;
        if ((!behind_line && c > ' ') || (c & 0xc0) == 0x80) {
            continue;
        }
        text_get(text + at - text_before(text, text + at), &p.x);
        text_get(text + at, &p.y);
        if (behind_line ? !text_is_visible(p.y)
                        : !text_is_visible(p.x) || !(is_blank(p.y) || is_line(p.y))) {
            continue;
        }
        if (is_safe_place(k, enc, p)) {
            int rc = free_of_added(k, enc, text, bytes, at);
            if (rc != 0) {
                return rc < 0 ? -1 : (int64_t)at;
            }
        }
    }
    return 0;
}

bool cutter_cuts(struct tok_cutter *k, struct encoder *enc) {
    static const struct place usual[] = {{'e', ' '}, {'e', '\n'}, {'\n', 'e'}};
    for (size_t i = 0; !k->never && i < sizeof usual / sizeof *usual; i++) {
        if (is_safe_place(k, enc, usual[i])) {
            return true;
        }
    }
    return false;
}
