/*
 * From Oniguruma's spelling of a pattern to PCRE2's: the dialect that tokenizer_regex.h describes.
 *
 * The output is built from an allow-list, so a construct that means something else to PCRE2
 * (callouts, verbs, \K, \R ...) cannot pass through. Sources: Oniguruma doc/RE (syntax
 * ONIG_SYNTAX_ONIGURUMA); pcre2pattern(3); and what the `tokenizers` package does, which was asked
 * about every code point and every construct below; some of its answers are kept as vectors
 * (tests/golden/make_tokenizers.py, style `dialect`).
 *
 * construct          Oniguruma                             PCRE2 (UTF, UCP)          here
 * \s \S              White_Space                           without U+0085, U+180E    \p{wspace}
 * \d \D              Nd                                    the same                  \p{Nd}
 * \w \W \b \B        Alphabetic M Nd Pc, and these six     L N M Pc                  spelled out
 *                    that are none of them: ² ³ ¹ ¼ ½ ¾
 * [\w]               the same without the six              L N M Pc                  spelled out
 * \h \H              hexadecimal digit                     blank                     spelled out
 * \p{Han}, scripts   Script                                Script_Extensions         \p{sc:Han}
 * \p{name}           categories by short and long name,    some names, some other    a table
 *                    POSIX names, binary properties        sets (tokenizer_property.c)
 * [:name:]           as \p{name}; punct is P and S         ASCII, or other sets      as \p{name}
 * \R \X \N \O \G \K  line end, cluster, not \n, any, ...   some of it                refused
 * ^ $                at every line, ^ not behind the last  with MULTILINE            the same
 * \A \z \Z           the text's ends                       the same                  the same
 * .                  not \n                                the same                  the same
 * (?m:..)            . matches \n                          ^ $ at every line         (?s:..)
 * (?i) one letter    simple folding, ſ is s, K is k        the same                  the same
 * (?i:ss) (?i:ß)     full folding, each matches the other  simple folding            refused
 * (?i:[\p{Lu}])      the other case is added               is not                    added, refused
 * (?i) in the middle to the end of the group, past |       to the next |             refused
 * [a&&b] [a[b]]      intersection, nested class            literals                  lookahead; a
 *                                                          class beside others is refused
 * []a] [^]a]         the ] is a literal                    the same                  refused
 * [\W] [\H]          the complement                        the same                  refused
 * {,n}               0 to n                                literal                   {0,n}
 * {n,m} with n > m   possessive {m,n}                      an error                  refused
 * {n}+ {n}?          {n} repeated, {n} or nothing          possessive, lazy          refused
 * a** a+{2}          nested                                an error                  refused
 * ?+ *+ ++           possessive                            the same                  the same
 * (?<=a+)            any length                            fixed length              refused
 * \xHH above 7f      a byte                                a code point              refused
 * \uHHHH \x{..}      a code point                          \u is unknown             \x{..}
 * \1 \k \g (?<n>)    references                            others                    refused
 * (?~..) (?x) (?W)   absent, extended, ASCII               unknown, the same         refused
 *
 * The libraries' Unicode versions differ besides: what only the newer one has assigned is, to the
 * older one, no letter yet.
 *
 * Pure functions: any thread.
 */
#include "format/text/tokenizer_regex.h"

#include <string.h>

#include "format/text/tokenizer_text.h"

enum { MAX_DEPTH = 64 };

#define SPACE_SET "\\p{wspace}"
#define WORD_SET "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
/* Not in a class: the six characters below U+0100 that are numbers in the old Latin-1 tables. */
#define WORD_OUTSIDE WORD_SET "²³¹¼½¾"
#define HEX_SET "0-9A-Fa-f"

struct dialect {
    const char *p, *end;
    const char *start;
    int depth;
    bool fold[MAX_DEPTH + 2]; /* (?i) holds, in the group at each depth */
    uint32_t last_folded;     /* the literal before under (?i), 0 where something else is */
    struct err *err;
};

static int refuse(struct dialect *d, const char *what) {
    return err_set(d->err, "pattern is not supported: %s at byte %zu", what,
                   (size_t)(d->p - d->start));
}

static bool at(const struct dialect *d, const char *text) {
    size_t n = strlen(text);
    return (size_t)(d->end - d->p) >= n && memcmp(d->p, text, n) == 0;
}

static void put(struct buf *out, const char *text) {
    buf_append(out, text, strlen(text));
}

static bool is_ascii_punct(uint32_t cp) {
    return cp < 0x80 && text_is_punctuation(cp);
}

/* One character as a literal, in or out of a class. */
static void put_literal(struct buf *out, uint32_t cp) {
    char utf8[4];
    if (cp == 0) { /* a NUL byte in a pattern is legal, an escape is easier to read in a message */
        put(out, "\\x00");
        return;
    }
    if (is_ascii_punct(cp)) {
        put(out, "\\");
    }
    size_t n = text_put(cp, utf8);
    buf_append(out, utf8, n);
}

static bool folds(const struct dialect *d) {
    return d->fold[d->depth];
}

/* Under (?i), letters that are written as one in the other case, such as ss and ß, are one to
 * Oniguruma and two to PCRE2. */
static int check_folded(struct dialect *d, uint32_t cp) {
    if (!folds(d)) {
        return 0;
    }
    if (text_folds_to_many(cp, cp) || (d->last_folded && text_folds_together(d->last_folded, cp))) {
        return refuse(d, "letters under (?i) that other letters stand for together");
    }
    d->last_folded = cp;
    return 0;
}

static int hex_digit(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* `digits` hex digits, or as many as stand in braces (digits = 0). */
static int read_hex(struct dialect *d, int digits, uint32_t *cp) {
    bool braces = digits == 0;
    int n = 0;
    *cp = 0;
    while (d->p < d->end && n < (braces ? 8 : digits) && hex_digit(*d->p) >= 0) {
        *cp = *cp << 4 | (uint32_t)hex_digit(*d->p++);
        n++;
    }
    if (braces) {
        if (n == 0 || d->p >= d->end || *d->p != '}') {
            return refuse(d, "a malformed \\x{..}");
        }
        d->p++;
    } else if (n != digits) {
        return refuse(d, "a short hexadecimal escape");
    }
    if (*cp > 0x10ffff || (*cp >= 0xd800 && *cp <= 0xdfff)) {
        return refuse(d, "an escape that is no Unicode character");
    }
    return 0;
}

/* \p{name}, \P{name}, \p{^name}; d->p is behind the p. */
static int property(struct dialect *d, bool negated, bool in_class, struct buf *out) {
    const char *close =
        d->p < d->end && *d->p == '{' ? memchr(d->p, '}', (size_t)(d->end - d->p)) : NULL;
    if (!close) {
        return refuse(d, "a property without {name}");
    }
    const char *name = d->p + 1;
    if (name < close && *name == '^') {
        negated = !negated;
        name++;
    }
    const char *why =
        regex_property(name, (size_t)(close - name), negated, in_class, folds(d), out);
    d->p = why ? d->p : close + 1;
    return why ? refuse(d, why) : 0;
}

enum escape { ESCAPE_CHAR, ESCAPE_SET, ESCAPE_NEGATED_SET, ESCAPE_PROPERTY, ESCAPE_OTHER };

/* Read an escape (d->p is behind the backslash). A character goes to *cp; of a set, the items
 * that stand between brackets go to *set; a property is appended to `out`; OTHER leaves its
 * letter in *cp. */
static int escape(struct dialect *d, bool in_class, enum escape *kind, uint32_t *cp,
                  const char **set, struct buf *out) {
    static const struct {
        char letter;
        uint32_t cp;
    } chars[] = {{'t', '\t'}, {'n', '\n'}, {'r', '\r'}, {'f', '\f'},
                 {'v', '\v'}, {'a', 7},    {'e', 27}};
    if (d->p >= d->end) {
        return refuse(d, "a backslash at the end");
    }
    *kind = ESCAPE_CHAR;
    d->p += text_get(d->p, cp);
    if (is_ascii_punct(*cp) || *cp >= 0x80) {
        return 0;
    }
    for (size_t i = 0; i < sizeof chars / sizeof chars[0]; i++) {
        if (*cp == (uint32_t)chars[i].letter) {
            *cp = chars[i].cp;
            return 0;
        }
    }
    switch (*cp) {
    case 's':
    case 'S':
        *set = SPACE_SET;
        break;
    case 'd':
    case 'D':
        *set = "\\p{Nd}";
        break;
    case 'w':
    case 'W':
        *set = in_class ? WORD_SET : WORD_OUTSIDE;
        break;
    case 'h':
    case 'H':
        *set = HEX_SET;
        break;
    case 'p':
    case 'P':
        *kind = ESCAPE_PROPERTY;
        return property(d, *cp == 'P', in_class, out);
    case 'u':
        return read_hex(d, 4, cp);
    case 'x':
        if (d->p < d->end && *d->p == '{') {
            d->p++;
            return read_hex(d, 0, cp);
        }
        if (read_hex(d, 2, cp) < 0) {
            return -1;
        }
        return *cp < 0x80 ? 0 : refuse(d, "a \\xHH above 7f (a raw byte)");
    default:
        *kind = ESCAPE_OTHER;
        return 0;
    }
    *kind = *cp >= 'a' ? ESCAPE_SET : ESCAPE_NEGATED_SET;
    return 0;
}

static int class_body(struct dialect *d, struct buf *out);

/* One item of a class, or a range; `single` tells the caller that it can start a range. */
static int class_item(struct dialect *d, struct buf *out, bool *single, uint32_t *cp) {
    *single = true;
    if (*d->p != '\\') {
        d->p += text_get(d->p, cp);
        return 0;
    }
    d->p++;
    enum escape kind = ESCAPE_CHAR;
    const char *set = NULL;
    if (escape(d, true, &kind, cp, &set, out) < 0) {
        return -1;
    }
    *single = kind == ESCAPE_CHAR;
    if (kind == ESCAPE_SET) {
        put(out, set);
    } else if (kind == ESCAPE_NEGATED_SET) {
        if (*cp == 'S') {
            put(out, "\\P{wspace}");
        } else if (*cp == 'D') {
            put(out, "\\P{Nd}");
        } else {
            return refuse(d, "\\W or \\H inside a class");
        }
    } else if (kind == ESCAPE_OTHER) {
        if (*cp != 'b') {
            return refuse(d, "an unknown escape inside a class");
        }
        *cp = '\b';
        *single = true;
    }
    return 0;
}

/* [:name:] or [:^name:], inside a class. */
static int posix_bracket(struct dialect *d, struct buf *items) {
    static const char *const names[] = {"alpha", "alnum", "ascii", "blank",  "cntrl", "digit",
                                        "lower", "space", "upper", "xdigit", "punct", "word"};
    const char *name = d->p + 2, *close;
    bool negated = name < d->end && *name == '^';
    name += negated;
    close = memmem(name, (size_t)(d->end - name), ":]", 2);
    for (size_t i = 0; close && i < sizeof names / sizeof names[0]; i++) {
        size_t n = strlen(names[i]);
        if ((size_t)(close - name) != n || memcmp(name, names[i], n) != 0) {
            continue;
        }
        d->p = close + 2;
        bool punct = strcmp(names[i], "punct") == 0, word = strcmp(names[i], "word") == 0;
        if ((punct || word) && !negated) {
            put(items, punct ? "\\p{P}\\p{S}" : WORD_SET);
            return 0;
        }
        const char *why = punct || word ? "a negated POSIX bracket of several sets"
                                        : regex_property(name, n, negated, true, folds(d), items);
        return why ? refuse(d, why) : 0;
    }
    return refuse(d, "this POSIX bracket");
}

/* The items up to `]` or `&&`: appended to `items` as they stand between PCRE2 brackets. A
 * nested class that is the whole operand goes to *nested instead, as a complete expression. */
static int class_operand(struct dialect *d, struct buf *items, struct buf *nested) {
    while (d->p < d->end && *d->p != ']' && !at(d, "&&")) {
        if (*d->p == '[') {
            if (at(d, "[:")) {
                if (posix_bracket(d, items) < 0) {
                    return -1;
                }
                continue;
            }
            if (items->len || nested->len) {
                return refuse(d, "a nested class beside other items");
            }
            d->p++;
            if (class_body(d, nested) < 0) {
                return -1;
            }
            continue;
        }
        if (nested->len) {
            return refuse(d, "a nested class beside other items");
        }
        bool single, high_single;
        uint32_t low, high;
        if (class_item(d, items, &single, &low) < 0) {
            return -1;
        }
        if (!single) {
            continue;
        }
        put_literal(items, low);
        high = low;
        if (folds(d) && text_folds_to_many(low, low)) {
            return refuse(d, "a letter under (?i) that other letters stand for together");
        }
        if (d->end - d->p < 2 || d->p[0] != '-' || d->p[1] == ']' || d->p[1] == '[') {
            continue;
        }
        d->p++;
        struct buf unused = {0};
        int rc = class_item(d, &unused, &high_single, &high);
        buf_free(&unused);
        if (rc < 0) {
            return -1;
        }
        if (!high_single || high < low) {
            return refuse(d, "a class range that ends in a set or runs backwards");
        }
        if (folds(d) && text_folds_to_many(low, high)) {
            return refuse(d, "a range under (?i) with letters that others stand for together");
        }
        put(items, "-");
        put_literal(items, high);
    }
    return 0;
}

/* A class, behind its `[`. Without && it is PCRE2's own; X && Y becomes (?=[X])[Y]. */
static int class_body(struct dialect *d, struct buf *out) {
    struct buf items = {0}, nested = {0}, whole = {0};
    int rc = -1, n_operands = 0;
    bool negated = at(d, "^");
    d->p += negated;
    if (++d->depth > MAX_DEPTH) {
        refuse(d, "a class nested too deep");
        goto out;
    }
    d->fold[d->depth] = d->fold[d->depth - 1];
    if (at(d, "]")) {
        refuse(d, "an empty class");
        goto out;
    }
    for (;;) {
        items.len = nested.len = 0;
        if (class_operand(d, &items, &nested) < 0) {
            goto out;
        }
        if (d->p >= d->end) {
            refuse(d, "a class without ]");
            goto out;
        }
        if (items.len == 0 && nested.len == 0) {
            refuse(d, "an empty side of &&");
            goto out;
        }
        bool last = *d->p == ']';
        d->p += last ? 1 : 2;
        n_operands++;
        if (last && n_operands == 1 && items.len) {
            buf_printf(out, "[%s", negated ? "^" : "");
            buf_append(out, items.data, items.len);
            put(out, "]");
            break;
        }
        put(&whole, last ? "" : "(?=");
        put(&whole, items.len ? "[" : "");
        buf_append(&whole, items.len ? items.data : nested.data,
                   items.len ? items.len : nested.len);
        put(&whole, items.len ? "]" : "");
        put(&whole, last ? "" : ")");
        if (last) {
            put(out, negated ? "(?:(?!" : "(?:");
            buf_append(out, whole.data, whole.len);
            put(out, negated ? ")(?s:.))" : ")");
            break;
        }
    }
    rc = 0;
out:
    d->depth--;
    buf_free(&items);
    buf_free(&nested);
    buf_free(&whole);
    return rc;
}

/* Behind `(`: what follows decides the kind. Oniguruma's m is PCRE2's s. */
static int group(struct dialect *d, struct buf *out) {
    static const char *const plain[] = {"?:", "?=", "?!", "?>", "?<=", "?<!"};
    d->fold[d->depth] = d->fold[d->depth - 1];
    if (!at(d, "?")) {
        if (at(d, "*")) {
            return refuse(d, "(*");
        }
        put(out, "(");
        return 0;
    }
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++) {
        if (at(d, plain[i])) {
            buf_printf(out, "(%s", plain[i]);
            d->p += strlen(plain[i]);
            return 0;
        }
    }
    /* An option in the middle covers the alternatives behind it differently in the two engines. */
    bool leads = d->p - 1 == d->start;
    put(out, "(?");
    d->p++;
    const char *first = d->p;
    bool on = true;
    while (d->p < d->end && (*d->p == 'i' || *d->p == 'm' || *d->p == '-')) {
        on = on && *d->p != '-';
        d->fold[d->depth] = *d->p == 'i' ? on : d->fold[d->depth];
        buf_printf(out, "%c", *d->p == 'm' ? 's' : *d->p);
        d->p++;
    }
    if (d->p >= d->end || d->p == first || (*d->p != ':' && *d->p != ')')) {
        return refuse(d, "this kind of group (options are i and m)");
    }
    if (*d->p == ')' && !leads) {
        return refuse(d, "an option that is not at the start of the pattern");
    }
    buf_printf(out, "%c", *d->p == ':' ? ':' : ')');
    if (*d->p == ')') {
        d->depth--;
        d->fold[d->depth] = d->fold[d->depth + 1];
    }
    d->p++;
    return 0;
}

/* {n}, {n,}, {n,m}, {,m}: 1 and appended where it is one (d->p behind it), 0 where the brace is
 * a literal. */
static int interval(struct dialect *d, struct buf *out) {
    const char *c = d->p + 1;
    unsigned low = 0, high = 0;
    int low_digits = 0, high_digits = 0;
    bool comma = false;
    for (; c < d->end && *c >= '0' && *c <= '9' && low_digits < 6; c++, low_digits++) {
        low = low * 10 + (unsigned)(*c - '0');
    }
    if (c < d->end && *c == ',') {
        comma = true;
        for (c++; c < d->end && *c >= '0' && *c <= '9' && high_digits < 6; c++, high_digits++) {
            high = high * 10 + (unsigned)(*c - '0');
        }
    }
    if (c >= d->end || *c != '}' || (!low_digits && !high_digits)) {
        return 0;
    }
    d->p = c + 1;
    if (at(d, "+") || (!comma && at(d, "?"))) {
        return refuse(d, "{..} followed by + or {n} by ?");
    }
    if (comma && high_digits && high < low) {
        return refuse(d, "{n,m} with n above m");
    }
    if (!comma) {
        buf_printf(out, "{%u}", low);
    } else if (high_digits) {
        buf_printf(out, "{%u,%u}", low, high);
    } else {
        buf_printf(out, "{%u,}", low);
    }
    return 1;
}

static int escaped_atom(struct dialect *d, struct buf *out) {
    enum escape kind = ESCAPE_CHAR;
    uint32_t cp = 0;
    const char *set = NULL;
    if (escape(d, false, &kind, &cp, &set, out) < 0) {
        return -1;
    }
    d->last_folded = kind == ESCAPE_CHAR ? d->last_folded : 0;
    if (kind == ESCAPE_CHAR) {
        put_literal(out, cp);
        return check_folded(d, cp);
    }
    if (kind == ESCAPE_SET || kind == ESCAPE_NEGATED_SET) {
        buf_printf(out, "[%s%s]", kind == ESCAPE_SET ? "" : "^", set);
    } else if (kind == ESCAPE_OTHER) {
        switch (cp) {
        case 'A':
            put(out, "\\A");
            break;
        case 'z':
            put(out, "\\z");
            break;
        case 'Z':
            put(out, "\\Z");
            break;
        case 'b':
            put(out, "(?:(?<=[" WORD_OUTSIDE "])(?![" WORD_OUTSIDE "])|(?<![" WORD_OUTSIDE
                     "])(?=[" WORD_OUTSIDE "]))");
            break;
        case 'B':
            put(out, "(?:(?<=[" WORD_OUTSIDE "])(?=[" WORD_OUTSIDE "])|(?<![" WORD_OUTSIDE
                     "])(?![" WORD_OUTSIDE "]))");
            break;
        default:
            return refuse(d, "an unknown escape");
        }
    }
    return 0;
}

int regex_translate(const char *pattern, size_t bytes, struct buf *out, struct err *err) {
    struct dialect d = {.p = pattern, .end = pattern + bytes, .start = pattern, .err = err};
    while (d.p < d.end) {
        uint32_t cp;
        size_t len = text_get(d.p, &cp);
        int rc = 0;
        switch (cp) {
        case '\\':
            d.p++;
            rc = escaped_atom(&d, out);
            break;
        case '[':
            d.p++;
            d.last_folded = 0;
            rc = class_body(&d, out);
            break;
        case '(':
            d.p++;
            rc = ++d.depth > MAX_DEPTH ? refuse(&d, "groups nested too deep") : group(&d, out);
            break;
        case ')':
            d.p++;
            put(out, ")");
            rc = --d.depth < 0 ? refuse(&d, "a ) without (") : 0;
            break;
        case '{':
            rc = interval(&d, out);
            if (rc == 0) {
                d.p++;
                put(out, "\\{");
            }
            break;
        case '|':
        case '.':
        case '^':
        case '$':
        case '?':
        case '*':
        case '+':
            d.p++;
            d.last_folded = 0;
            buf_printf(out, "%c", (char)cp);
            break;
        default:
            d.p += len;
            put_literal(out, cp);
            rc = check_folded(&d, cp);
        }
        if (rc < 0) {
            return -1;
        }
    }
    return 0;
}
