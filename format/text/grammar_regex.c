/* Regular expressions of JSON schemas to a tree; grammar_pattern.h says which. */
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar_pattern.h"

struct regex_parse {
    const char *text;
    size_t len, at;
    unsigned depth;
    struct grammar_tree *tree;
    struct range *ranges; /* of the class that is open */
    size_t n_ranges, cap_ranges;
    struct err *err;
};

static uint32_t parse_alternatives(struct regex_parse *p);

static uint32_t fail(struct regex_parse *p, const char *what) {
    err_set(p->err, "pattern \"%.*s\": %s at character %zu", (int)(p->len < 200 ? p->len : 200),
            p->text, what, p->at + 1);
    return GRAMMAR_NONE;
}

static int peek(const struct regex_parse *p) {
    return p->at < p->len ? (uint8_t)p->text[p->at] : -1;
}

static bool meet(struct regex_parse *p, const char *text) {
    size_t n = strlen(text);
    if (p->len - p->at < n || memcmp(p->text + p->at, text, n) != 0) {
        return false;
    }
    p->at += n;
    return true;
}

static void add_range(struct regex_parse *p, uint32_t low, uint32_t high) {
    p->ranges = mem_grow(p->ranges, p->n_ranges + 3, &p->cap_ranges, sizeof *p->ranges);
    p->ranges[p->n_ranges++] = (struct range){low, high};
}

/* The ranges of \d \w \s, or of what they leave. */
static bool add_named(struct regex_parse *p, int name) {
    static const struct range digit[] = {{'0', '9'}};
    static const struct range word[] = {{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}};
    static const struct range space[] = {
        {9, 13},          {0x20, 0x20},     {0xa0, 0xa0},     {0x1680, 0x1680}, {0x2000, 0x200a},
        {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000}, {0xfeff, 0xfeff}};
    static const struct {
        char name;
        const struct range *ranges;
        size_t n;
    } rows[] = {{'d', digit, 1}, {'w', word, 4}, {'s', space, 10}};
    for (size_t i = 0; i < 3; i++) {
        struct range ranges[12];
        if ((name | 32) == rows[i].name) {
            memcpy(ranges, rows[i].ranges, rows[i].n * sizeof *ranges);
            size_t n = ranges_settle(ranges, rows[i].n, !(name & 32));
            for (size_t k = 0; k < n; k++) {
                add_range(p, ranges[k].low, ranges[k].high);
            }
            return true;
        }
    }
    return false;
}

static bool hex(struct regex_parse *p, unsigned digits, uint32_t *c) {
    *c = 0;
    for (unsigned i = 0; i < digits; i++) {
        const char *all = "0123456789abcdef";
        const char *d = peek(p) > 0
                            ? strchr(all, peek(p) >= 'A' && peek(p) <= 'F' ? peek(p) | 32 : peek(p))
                            : NULL;
        if (!d) {
            return false;
        }
        *c = *c * 16 + (uint32_t)(d - all);
        p->at++;
    }
    return true;
}

/* Behind a backslash: one character. False: it is none that is known. */
static bool escaped(struct regex_parse *p, uint32_t *c) {
    static const char *const plain = "t\tn\nr\rf\fv\v";
    int e = peek(p);
    size_t n;
    if (e < 0) {
        return false;
    }
    if (e >= 0x80) {
        *c = value_utf8_get(p->text + p->at, &n);
        p->at += n;
        return true;
    }
    p->at++;
    if (e == 'x') {
        return hex(p, 2, c);
    }
    if (e == 'u' && peek(p) == '{') {
        p->at++;
        for (*c = 0; peek(p) != '}';) {
            uint32_t digit;
            if (*c > 0x10ffff || !hex(p, 1, &digit)) {
                return false;
            }
            *c = *c * 16 + digit;
        }
        p->at++;
        return *c <= 0x10ffff;
    }
    if (e == 'u') {
        uint32_t low;
        if (!hex(p, 4, c)) {
            return false;
        }
        if (*c >= 0xd800 && *c < 0xdc00 && meet(p, "\\u") && hex(p, 4, &low)) {
            if (low < 0xdc00 || low >= 0xe000) {
                return false;
            }
            *c = 0x10000 + ((*c - 0xd800) << 10) + (low - 0xdc00);
        }
        return *c < 0xd800 || (*c >= 0xe000 && *c <= 0x10ffff);
    }
    for (size_t i = 0; plain[i]; i += 2) {
        if (plain[i] == e) {
            *c = (uint8_t)plain[i + 1];
            return true;
        }
    }
    *c = e == '0' ? 0 : (uint32_t)e;
    bool letter = (e | 32) >= 'a' && (e | 32) <= 'z';
    return e == '0' || (!letter && (e < '1' || e > '9'));
}

/* One character, or a named class (added to the ranges; *named). */
static bool class_item(struct regex_parse *p, uint32_t *c, bool *named) {
    size_t n;
    *named = false;
    if (peek(p) < 0) {
        return false;
    }
    if (peek(p) != '\\') {
        *c = value_utf8_get(p->text + p->at, &n);
        p->at += n;
        return true;
    }
    p->at++;
    if (peek(p) >= 0 && add_named(p, peek(p))) {
        p->at++;
        *named = true;
        return true;
    }
    if (peek(p) == 'b') {
        p->at++;
        *c = 8;
        return true;
    }
    return escaped(p, c);
}

static uint32_t parse_class(struct regex_parse *p) {
    bool negated = meet(p, "^");
    p->n_ranges = 0;
    while (peek(p) != ']') {
        uint32_t low, high;
        bool named, named_too = false;
        if (!class_item(p, &low, &named)) {
            return fail(p, "a class that does not end, or an escape that is not supported,");
        }
        if (named) {
            continue;
        }
        high = low;
        if (peek(p) == '-' && p->at + 1 < p->len && p->text[p->at + 1] != ']') {
            p->at++;
            if (!class_item(p, &high, &named_too) || named_too || high < low) {
                return fail(p, "a range that is none");
            }
        }
        add_range(p, low, high);
    }
    p->at++;
    return expr_class(p->tree, p->ranges, p->n_ranges, negated);
}

static uint32_t parse_group(struct regex_parse *p) {
    if (peek(p) == '?' && !meet(p, "?:")) {
        if (meet(p, "?<") && peek(p) != '=' && peek(p) != '!') {
            while (peek(p) >= 0 && peek(p) != '>') {
                p->at++;
            }
            p->at += p->at < p->len;
        } else {
            return fail(p, "looking around is not supported:");
        }
    }
    if (++p->depth > 50) {
        return fail(p, "groups are nested too deeply");
    }
    uint32_t e = parse_alternatives(p);
    p->depth--;
    if (e != GRAMMAR_NONE && !meet(p, ")")) {
        return fail(p, "a group that does not end");
    }
    return e;
}

static uint32_t parse_escape(struct regex_parse *p) {
    uint32_t c;
    p->n_ranges = 0;
    if (peek(p) >= 0 && add_named(p, peek(p))) {
        p->at++;
        return expr_class(p->tree, p->ranges, p->n_ranges, false);
    }
    if (peek(p) == 'b' || peek(p) == 'B' || peek(p) == 'p' || peek(p) == 'P' || peek(p) == 'k' ||
        (peek(p) >= '1' && peek(p) <= '9')) {
        return fail(p, "word boundaries, properties and references are not supported:");
    }
    if (!escaped(p, &c)) {
        return fail(p, "an escape that is not supported");
    }
    return expr_class(p->tree, &(struct range){c, c}, 1, false);
}

static uint32_t parse_atom(struct regex_parse *p) {
    static const struct range line_ends[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
    size_t n;
    if (meet(p, "(")) {
        return parse_group(p);
    }
    if (meet(p, "[")) {
        return parse_class(p);
    }
    if (meet(p, ".")) {
        return expr_class(p->tree, line_ends, 3, true);
    }
    if (meet(p, "^")) {
        return expr_token(p->tree, "^", 1);
    }
    if (meet(p, "$")) {
        return expr_token(p->tree, "$", 1);
    }
    if (meet(p, "\\")) {
        return parse_escape(p);
    }
    if (peek(p) == '*' || peek(p) == '+' || peek(p) == '?' ||
        (peek(p) == '{' && p->at + 1 < p->len && p->text[p->at + 1] >= '0' &&
         p->text[p->at + 1] <= '9')) {
        return fail(p, "nothing to repeat");
    }
    uint32_t c = value_utf8_get(p->text + p->at, &n);
    p->at += n;
    return expr_class(p->tree, &(struct range){c, c}, 1, false);
}

/* {m}, {m,}, {m,n}; false where it is none, which is then text. */
static bool braces(struct regex_parse *p, uint32_t *least, uint32_t *most) {
    size_t at = p->at + 1;
    uint32_t n[2] = {0, 0};
    bool digits[2] = {false, false}, comma = false;
    for (; at < p->len; at++) {
        char c = p->text[at];
        if (c >= '0' && c <= '9') {
            digits[comma] = true;
            n[comma] = n[comma] < 100000 ? n[comma] * 10 + (uint32_t)(c - '0') : n[comma];
        } else if (c == ',' && !comma) {
            comma = true;
        } else {
            break;
        }
    }
    if (at >= p->len || p->text[at] != '}' || !digits[0]) {
        return false;
    }
    p->at = at + 1;
    *least = n[0];
    *most = !comma ? n[0] : digits[1] ? n[1] : GRAMMAR_ENDLESS;
    return true;
}

static uint32_t parse_repeat(struct regex_parse *p) {
    uint32_t e = parse_atom(p), least, most;
    for (unsigned levels = 0; e != GRAMMAR_NONE; levels++) {
        if (meet(p, "*")) {
            least = 0;
            most = GRAMMAR_ENDLESS;
        } else if (meet(p, "+")) {
            least = 1;
            most = GRAMMAR_ENDLESS;
        } else if (meet(p, "?")) {
            least = 0;
            most = 1;
        } else if (peek(p) != '{' || !braces(p, &least, &most)) {
            return e;
        }
        if (most < least || levels > 0) {
            return fail(p, "a repetition that is none");
        }
        meet(p, "?"); /* a lazy one has the same texts */
        e = expr_repeat(p->tree, e, least, most);
    }
    return e;
}

static uint32_t parse_sequence(struct regex_parse *p) {
    uint32_t *kids = NULL, e = GRAMMAR_NONE;
    size_t n = 0, cap = 0;
    while (peek(p) >= 0 && peek(p) != '|' && peek(p) != ')') {
        kids = mem_grow(kids, n + 1, &cap, sizeof *kids);
        if ((kids[n++] = parse_repeat(p)) == GRAMMAR_NONE) {
            goto out;
        }
    }
    e = expr_list(p->tree, EXPR_SEQ, kids, n);
out:
    free(kids);
    return e;
}

static uint32_t parse_alternatives(struct regex_parse *p) {
    uint32_t *kids = NULL, e = GRAMMAR_NONE;
    size_t n = 0, cap = 0;
    do {
        kids = mem_grow(kids, n + 1, &cap, sizeof *kids);
        if ((kids[n++] = parse_sequence(p)) == GRAMMAR_NONE) {
            goto out;
        }
    } while (meet(p, "|"));
    e = expr_list(p->tree, EXPR_ALT, kids, n);
out:
    free(kids);
    return e;
}

uint32_t grammar_regex_expr(struct grammar_tree *t, const char *pattern, size_t n,
                            struct err *err) {
    struct regex_parse p = {.text = pattern, .len = n, .tree = t, .err = err};
    if (n > PATTERN_MAX_BYTES) {
        err_set(err, "a pattern of %zu bytes; at most %d", n, PATTERN_MAX_BYTES);
        return GRAMMAR_NONE;
    }
    uint32_t e = parse_alternatives(&p);
    if (e != GRAMMAR_NONE && p.at < n) {
        e = fail(&p, "a ')' too many");
    }
    free(p.ranges);
    return e;
}
