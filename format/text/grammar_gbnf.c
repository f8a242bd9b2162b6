/* GBNF, the language of llama.cpp's grammars, to a tree; grammar.h says what it is made of. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar_internal.h"

struct gbnf {
    const char *text;
    size_t len, at;
    unsigned depth;
    size_t counted; /* bytes of which `line` and `column` are known */
    uint32_t line, column;
    struct grammar_tree *tree;
    uint32_t *index; /* [index_mask + 1] rules by hash of their names */
    size_t index_mask;
    const struct grammar_schema *schemas;
    size_t n_schemas;
    uint32_t *kids; /* of the sequences and alternatives that are open */
    size_t n_kids, cap_kids;
    struct err *err;
};

static uint32_t parse_alternatives(struct gbnf *p, bool nested);

/* The line and column of a place. Places mostly rise, so counting goes on from the last one. */
static void place(struct gbnf *p, size_t at, uint32_t *line, uint32_t *column) {
    if (at < p->counted || p->line == 0) {
        p->counted = 0;
        p->line = p->column = 1;
    }
    for (; p->counted < at && p->counted < p->len; p->counted++) {
        if (p->text[p->counted] == '\n') {
            p->line++;
            p->column = 1;
        } else {
            p->column += ((uint8_t)p->text[p->counted] & 0xc0) != 0x80;
        }
    }
    *line = p->line;
    *column = p->column;
}

__attribute__((format(printf, 3, 4))) static int fail(struct gbnf *p, size_t at, const char *fmt,
                                                      ...) {
    uint32_t line, column;
    char what[256];
    va_list ap;
    place(p, at, &line, &column);
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    return err_set(p->err, "line %u, column %u: %s", line, column, what);
}

/* What is met, for a message. */
static const char *here(const struct gbnf *p, char out[16]) {
    if (p->at >= p->len) {
        return "the end";
    }
    size_t n = 0;
    text_next(p->text + p->at, p->len - p->at, &n);
    snprintf(out, 16, "'%.*s'", (int)(n < 8 ? n : 8), p->text + p->at);
    return p->text[p->at] == '\n' ? "the end of the line" : out;
}

static int peek(const struct gbnf *p) {
    return p->at < p->len ? (uint8_t)p->text[p->at] : -1;
}

static bool is_word(int c) {
    return c >= 0 && c < 128 && (isalnum(c) || c == '-');
}

static void skip_space(struct gbnf *p, bool lines) {
    for (int c; (c = peek(p)) >= 0;) {
        if (c == '#') {
            while (peek(p) >= 0 && peek(p) != '\n') {
                p->at++;
            }
        } else if (c == ' ' || c == '\t' || c == '\r' || (lines && c == '\n')) {
            p->at++;
        } else {
            break;
        }
    }
}

static int parse_hex(struct gbnf *p, unsigned digits, uint32_t *out) {
    *out = 0;
    for (unsigned i = 0; i < digits; i++) {
        int c = peek(p);
        if (c < 0 || !isxdigit(c)) {
            return fail(p, p->at, "expected %u hexadecimal digits", digits);
        }
        *out = *out * 16 + (uint32_t)(c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
        p->at++;
    }
    return 0;
}

/* One character of a literal or a class. */
static int parse_char(struct gbnf *p, uint32_t *c) {
    size_t start = p->at, n;
    if (peek(p) < 0 || peek(p) == '\n') {
        return fail(p, p->at, "the line ends inside of a literal or class");
    }
    if (peek(p) != '\\') {
        *c = value_utf8_get(p->text + p->at, &n);
        p->at += n;
        return 0;
    }
    p->at++;
    int e = peek(p);
    p->at++;
    switch (e) {
    case 't':
        *c = '\t';
        return 0;
    case 'r':
        *c = '\r';
        return 0;
    case 'n':
        *c = '\n';
        return 0;
    case '\\':
    case '"':
    case '[':
    case ']':
    case '-':
    case '^':
        *c = (uint32_t)e;
        return 0;
    case 'x':
    case 'u':
    case 'U':
        if (parse_hex(p, e == 'x' ? 2 : e == 'u' ? 4 : 8, c) < 0) {
            return -1;
        }
        return *c <= 0x10ffff && (*c < 0xd800 || *c >= 0xe000)
                   ? 0
                   : fail(p, start, "U+%04X is no character", *c);
    default:
        return fail(p, start, "unknown escape");
    }
}

static uint32_t parse_literal(struct gbnf *p) {
    struct buf text = {0};
    size_t start = p->at++;
    while (peek(p) != '"') {
        uint32_t c;
        if (peek(p) < 0 || peek(p) == '\n') {
            fail(p, start, "a literal without an end");
            buf_free(&text);
            return GRAMMAR_NONE;
        }
        if (parse_char(p, &c) < 0) {
            buf_free(&text);
            return GRAMMAR_NONE;
        }
        value_utf8_append(&text, c);
    }
    p->at++;
    uint32_t e = expr_bytes(p->tree, text.data, text.len);
    buf_free(&text);
    return e;
}

static uint32_t parse_class(struct gbnf *p) {
    struct range *ranges = NULL;
    size_t n = 0, cap = 0, start = p->at++;
    uint32_t e = GRAMMAR_NONE;
    bool negated = peek(p) == '^';
    p->at += negated;
    while (peek(p) != ']') {
        struct range r;
        size_t at = p->at;
        if (peek(p) < 0 || peek(p) == '\n') {
            fail(p, start, "a class without an end");
            goto out;
        }
        if (parse_char(p, &r.low) < 0) {
            goto out;
        }
        r.high = r.low;
        if (peek(p) == '-' && p->at + 1 < p->len && p->text[p->at + 1] != ']') {
            p->at++;
            if (parse_char(p, &r.high) < 0) {
                goto out;
            }
        }
        if (r.high < r.low) {
            fail(p, at, "a range that ends before it begins");
            goto out;
        }
        ranges = mem_grow(ranges, n + 1, &cap, sizeof *ranges);
        ranges[n++] = r;
    }
    p->at++;
    e = expr_class(p->tree, ranges, n, negated);
out:
    free(ranges);
    return e;
}

static uint32_t parse_token(struct gbnf *p) {
    size_t start = p->at;
    const char *end = memchr(p->text + start, '>', p->len - start);
    if (!end || memchr(p->text + start, '\n', (size_t)(end - p->text) - start)) {
        fail(p, start, "a token without '>'");
        return GRAMMAR_NONE;
    }
    p->at = (size_t)(end - p->text) + 1;
    return expr_token(p->tree, p->text + start, p->at - start);
}

/* The slot of a name: of the rule that has it, or a free one. */
static uint32_t *find_slot(struct gbnf *p, const char *name, size_t n) {
    for (uint64_t h = hash64(name, n);; h++) {
        uint32_t *slot = &p->index[h & p->index_mask];
        if (*slot == GRAMMAR_NONE) {
            return slot;
        }
        const char *other = p->tree->rules[*slot].name;
        if (strlen(other) == n && memcmp(other, name, n) == 0) {
            return slot;
        }
    }
}

static uint32_t find_rule(struct gbnf *p, const char *name, size_t n) {
    uint32_t *slot = find_slot(p, name, n);
    if (*slot == GRAMMAR_NONE) {
        uint32_t r = grammar_rule_new(p->tree, name, n);
        if (p->tree->full) {
            return 0;
        }
        *slot = r;
        if (name >= p->text && name < p->text + p->len) {
            place(p, (size_t)(name - p->text), &p->tree->rules[r].line, &p->tree->rules[r].column);
        }
    }
    return *slot;
}

static uint32_t parse_group(struct gbnf *p) {
    size_t start = p->at++;
    if (++p->depth > GRAMMAR_MAX_DEPTH) {
        fail(p, start, "more than %d groups in each other", GRAMMAR_MAX_DEPTH);
        return GRAMMAR_NONE;
    }
    skip_space(p, true);
    uint32_t e = parse_alternatives(p, true);
    if (e == GRAMMAR_NONE) {
        return e;
    }
    if (peek(p) != ')') {
        fail(p, start, "a group without ')'");
        return GRAMMAR_NONE;
    }
    p->at++;
    p->depth--;
    return e;
}

static int parse_number(struct gbnf *p, uint32_t *out) {
    size_t start = p->at;
    *out = 0;
    while (peek(p) >= '0' && peek(p) <= '9') {
        *out = *out * 10 + (uint32_t)(peek(p) - '0');
        if (*out > GRAMMAR_MAX_REPEAT) {
            return fail(p, start, "a repetition above %d", GRAMMAR_MAX_REPEAT);
        }
        p->at++;
    }
    return p->at > start ? 0 : fail(p, start, "expected a number");
}

/* The operator behind an expression, if there is one. */
static uint32_t parse_repeat(struct gbnf *p, uint32_t e) {
    uint32_t least, most;
    for (;;) {
        size_t start = p->at;
        switch (peek(p)) {
        case '*':
            e = expr_repeat(p->tree, e, 0, GRAMMAR_ENDLESS);
            break;
        case '+':
            e = expr_repeat(p->tree, e, 1, GRAMMAR_ENDLESS);
            break;
        case '?':
            e = expr_repeat(p->tree, e, 0, 1);
            break;
        case '{':
            p->at++;
            skip_space(p, false);
            if (parse_number(p, &least) < 0) {
                return GRAMMAR_NONE;
            }
            most = least;
            skip_space(p, false);
            if (peek(p) == ',') {
                p->at++;
                skip_space(p, false);
                most = GRAMMAR_ENDLESS;
                if (peek(p) != '}' && parse_number(p, &most) < 0) {
                    return GRAMMAR_NONE;
                }
                skip_space(p, false);
            }
            if (peek(p) != '}' || most < least) {
                fail(p, start,
                     most < least ? "a repetition whose most is below its least"
                                  : "a repetition without '}'");
                return GRAMMAR_NONE;
            }
            e = expr_repeat(p->tree, e, least, most);
            break;
        default:
            return e;
        }
        p->at++;
        if (++p->depth > GRAMMAR_MAX_DEPTH) { /* each is a level of the tree */
            fail(p, start, "more than %d levels", GRAMMAR_MAX_DEPTH);
            return GRAMMAR_NONE;
        }
    }
}

static uint32_t parse_sequence(struct gbnf *p, bool nested) {
    size_t first = p->n_kids;
    unsigned depth = p->depth;
    for (;;) {
        uint32_t e;
        int c = peek(p);
        if (c == '"') {
            e = parse_literal(p);
        } else if (c == '[') {
            e = parse_class(p);
        } else if (c == '.') {
            p->at++;
            e = expr_class(p->tree, NULL, 0, true);
        } else if (c == '<') {
            e = parse_token(p);
        } else if (c == '(') {
            e = parse_group(p);
        } else if (is_word(c)) {
            size_t start = p->at;
            while (is_word(peek(p))) {
                p->at++;
            }
            e = expr_rule(p->tree, find_rule(p, p->text + start, p->at - start));
        } else {
            break;
        }
        if (e == GRAMMAR_NONE || (e = parse_repeat(p, e)) == GRAMMAR_NONE) {
            return GRAMMAR_NONE;
        }
        p->depth = depth;
        p->kids = mem_grow(p->kids, p->n_kids + 1, &p->cap_kids, sizeof *p->kids);
        p->kids[p->n_kids++] = e;
        skip_space(p, nested);
    }
    uint32_t e = expr_list(p->tree, EXPR_SEQ, p->kids + first, p->n_kids - first);
    p->n_kids = first;
    return e;
}

static uint32_t parse_alternatives(struct gbnf *p, bool nested) {
    size_t first = p->n_kids;
    for (;;) {
        uint32_t e = parse_sequence(p, nested);
        if (e == GRAMMAR_NONE) {
            return e;
        }
        p->kids = mem_grow(p->kids, p->n_kids + 1, &p->cap_kids, sizeof *p->kids);
        p->kids[p->n_kids++] = e;
        if (peek(p) != '|') {
            break;
        }
        p->at++;
        skip_space(p, true);
    }
    uint32_t e = expr_list(p->tree, EXPR_ALT, p->kids + first, p->n_kids - first);
    p->n_kids = first;
    return e;
}

static int parse_rule(struct gbnf *p) {
    size_t start = p->at;
    char met[16];
    while (is_word(peek(p))) {
        p->at++;
    }
    if (p->at == start) {
        return fail(p, start, "expected the name of a rule, not %s", here(p, met));
    }
    size_t n = p->at - start;
    for (size_t i = 0; i < p->n_schemas; i++) {
        if (strlen(p->schemas[i].name) == n && !memcmp(p->schemas[i].name, p->text + start, n)) {
            return fail(p, start, "the rule %s is given by a schema already", p->schemas[i].name);
        }
    }
    uint32_t r = find_rule(p, p->text + start, n);
    skip_space(p, false);
    if (p->len - p->at < 3 || memcmp(p->text + p->at, "::=", 3) != 0) {
        return fail(p, p->at, "expected ::= behind the rule's name, not %s", here(p, met));
    }
    p->at += 3;
    skip_space(p, true);
    uint32_t e = parse_alternatives(p, false);
    if (e == GRAMMAR_NONE) {
        return -1;
    }
    if (peek(p) >= 0 && peek(p) != '\n') {
        return fail(p, p->at, "expected the end of the rule, not %s", here(p, met));
    }
    if (p->tree->full) {
        return 0;
    }
    if (p->tree->rules[r].expr != GRAMMAR_NONE) {
        return fail(p, start, "the rule %s is there already", p->tree->rules[r].name);
    }
    p->tree->rules[r].expr = e;
    return 0;
}

/* The rules that schemas are named by. */
static int put_schemas(struct gbnf *p, unsigned flags, struct buf *remarks) {
    for (size_t i = 0; i < p->n_schemas; i++) {
        const char *name = p->schemas[i].name;
        uint32_t r = find_rule(p, name, strlen(name));
        uint32_t e = grammar_schema_expr(p->tree, p->schemas[i].schema, flags, remarks, p->err);
        if (e == GRAMMAR_NONE) {
            return -1;
        }
        if (!p->tree->full) {
            p->tree->rules[r].expr = e;
        }
    }
    return 0;
}

static int parse_all(struct gbnf *p) {
    size_t bad;
    if (p->len > GRAMMAR_MAX_BYTES) {
        return err_set(p->err, "a grammar of %zu bytes; at most %d", p->len, GRAMMAR_MAX_BYTES);
    }
    if (!value_utf8_check(p->text, p->len, &bad)) {
        return fail(p, bad, "the grammar is not UTF-8");
    }
    for (skip_space(p, true); p->at < p->len && !p->tree->full; skip_space(p, true)) {
        if (parse_rule(p) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < p->tree->n_rules && !p->tree->full; i++) {
        const struct grammar_rule *r = &p->tree->rules[i];
        if (r->name && r->expr == GRAMMAR_NONE) {
            return err_set(p->err, "line %u, column %u: there is no rule %s", r->line, r->column,
                           r->name);
        }
    }
    return 0;
}

int grammar_parse_with(struct grammar **g, const char *text, size_t len,
                       const struct grammar_schema *schemas, size_t n_schemas, unsigned flags,
                       struct buf *remarks, struct err *err) {
    struct grammar_tree tree = {0};
    struct gbnf p = {.text = text,
                     .len = len,
                     .tree = &tree,
                     .schemas = schemas,
                     .n_schemas = n_schemas,
                     .err = err};
    int rc = -1;
    *g = NULL;
    p.kids = mem_grow(NULL, 1, &p.cap_kids, sizeof *p.kids);
    p.index_mask = 2 * GRAMMAR_MAX_RULES - 1;
    p.index = mem_alloc((p.index_mask + 1) * sizeof *p.index);
    memset(p.index, 0xff, (p.index_mask + 1) * sizeof *p.index);
    if (put_schemas(&p, flags, remarks) == 0 && parse_all(&p) == 0) {
        uint32_t root = *find_slot(&p, "root", 4);
        rc = root != GRAMMAR_NONE || tree.full ? grammar_build(g, &tree, root, err)
                                               : err_set(err, "the grammar has no rule named root");
    }
    free(p.kids);
    free(p.index);
    grammar_tree_free(&tree);
    return rc;
}

int grammar_parse(struct grammar **g, const char *text, size_t len, struct err *err) {
    return grammar_parse_with(g, text, len, NULL, 0, 0, NULL, err);
}

int grammar_json(struct grammar **g, const struct value *schema, unsigned flags,
                 struct buf *remarks, struct err *err) {
    const struct grammar_schema one = {"json", schema};
    return grammar_parse_with(g, "root ::= json", 13, &one, 1, flags, remarks, err);
}
