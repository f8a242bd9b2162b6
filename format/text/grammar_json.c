/* The texts of JSON without a schema, as expressions; see grammar_schema.h. */
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar_pattern.h"
#include "format/text/grammar_schema.h"

enum { DIGITS = 24, INDENT = 20 };

uint32_t json_space(struct schema_compiler *c) {
    static const struct range blank[] = {{' ', ' '}, {'\t', '\t'}};
    struct grammar_tree *t = c->tree;
    if (!c->space) {
        c->space = grammar_rule_new(t, NULL, 0) + 1;
        uint32_t e = expr_text(t, "");
        if (!(c->flags & GRAMMAR_COMPACT)) {
            uint32_t indent = expr_repeat(t, expr_class(t, blank, 2, false), 0, INDENT);
            e = expr_alt(t, e, expr_text(t, " "), expr_seq(t, expr_text(t, "\n"), indent));
        }
        if (!t->full) {
            t->rules[c->space - 1].expr = e;
        }
    }
    return expr_rule(t, c->space - 1);
}

uint32_t json_character(struct schema_compiler *c) {
    static const struct range special[] = {{0, 0x1f}, {'"', '"'}, {'\\', '\\'}};
    static const struct range escapes[] = {{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'},
                                           {'f', 'f'}, {'n', 'n'},   {'r', 'r'}, {'t', 't'}};
    static const struct range hex[] = {{'0', '9'}, {'a', 'f'}, {'A', 'F'}};
    static const struct range low_hex[] = {{'0', '7'}}, d[] = {{'d', 'd'}, {'D', 'D'}};
    static const struct range not_d[] = {
        {'0', '9'}, {'a', 'c'}, {'A', 'C'}, {'e', 'f'}, {'E', 'F'}};
    static const struct range high[] = {{'8', '9'}, {'a', 'b'}, {'A', 'B'}};
    static const struct range low[] = {{'c', 'f'}, {'C', 'F'}};
    struct grammar_tree *t = c->tree;
    if (!c->character) {
        c->character = grammar_rule_new(t, NULL, 0) + 1;
        uint32_t h = expr_class(t, hex, 3, false), h2 = expr_repeat(t, h, 2, 2);
        uint32_t d1 = expr_class(t, d, 2, false);
        uint32_t plain = expr_seq(t, expr_class(t, not_d, 5, false), expr_repeat(t, h, 3, 3));
        uint32_t below = expr_seq(t, d1, expr_class(t, low_hex, 1, false), h2);
        /* Half a pair is no character. */
        uint32_t pair = expr_seq(t, d1, expr_class(t, high, 3, false), h2, expr_text(t, "\\u"), d1,
                                 expr_class(t, low, 2, false), h2);
        uint32_t escape = expr_alt(t, expr_class(t, escapes, 8, false),
                                   expr_seq(t, expr_text(t, "u"), expr_alt(t, plain, below, pair)));
        uint32_t e =
            expr_alt(t, expr_class(t, special, 3, true), expr_seq(t, expr_text(t, "\\"), escape));
        if (!t->full) {
            t->rules[c->character - 1].expr = e;
        }
    }
    return expr_rule(t, c->character - 1);
}

uint32_t json_number(struct schema_compiler *c, unsigned types, bool sign) {
    static const struct range digit[] = {{'0', '9'}}, first[] = {{'1', '9'}};
    static const struct range e[] = {{'e', 'e'}, {'E', 'E'}}, signs[] = {{'+', '+'}, {'-', '-'}};
    static const struct range two[] = {{'1', '2'}}, seven[] = {{'0', '7'}};
    struct grammar_tree *t = c->tree;
    uint32_t d = expr_class(t, digit, 1, false), zero = expr_text(t, "0");
    uint32_t minus = expr_repeat(t, expr_text(t, "-"), 0, sign);
    uint32_t whole = expr_seq(t, expr_class(t, first, 1, false), expr_repeat(t, d, 0, DIGITS - 1));
    if (!(types & JSON_FRACTION)) {
        return expr_alt(t, zero, expr_seq(t, minus, whole));
    }
    /* An exponent up to 307, so that what a program reads is finite. */
    uint32_t point =
        expr_repeat(t, expr_seq(t, expr_text(t, "."), expr_repeat(t, d, 1, DIGITS)), 0, 1);
    uint32_t hundreds = expr_alt(
        t, expr_seq(t, expr_class(t, two, 1, false), expr_repeat(t, d, 2, 2)),
        expr_seq(t, expr_text(t, "30"), expr_class(t, seven, 1, false)), expr_repeat(t, d, 1, 2));
    uint32_t power = expr_seq(t, expr_class(t, e, 2, false),
                              expr_repeat(t, expr_class(t, signs, 2, false), 0, 1), hundreds);
    return expr_seq(
        t, minus,
        expr_alt(t, expr_seq(t, expr_alt(t, zero, whole), point), expr_seq(t, d, point, power)));
}

void json_put_string(struct buf *out, const struct value_string *s) {
    buf_append(out, "\"", 1);
    for (size_t at = 0, n; at < s->len; at += n) {
        grammar_put_escaped(out, value_utf8_get(s->data + at, &n));
    }
    buf_append(out, "\"", 1);
}

uint32_t json_value(struct schema_compiler *c, const struct value *v) {
    struct grammar_tree *t = c->tree;
    struct buf text = {0};
    struct value_writer w = {.out = &text, .max_bytes = GRAMMAR_MAX_BYTES};
    struct value_json_style style = {0};
    bool object = v->type == VALUE_DICT;
    uint32_t e = GRAMMAR_NONE;
    if (v->type == VALUE_STRING) {
        json_put_string(&text, v->text);
    } else if (!object && v->type != VALUE_LIST) {
        if (value_json_write(&w, v, &style, c->err) < 0) {
            goto out;
        }
    } else {
        size_t n = object ? v->dict->n : v->list->n, k = 0;
        uint32_t space = json_space(c), *kids = mem_calloc(5 * n + 4, sizeof *kids);
        kids[k++] = expr_text(t, object ? "{" : "[");
        for (size_t i = 0; i < n; i++) {
            if (i) {
                kids[k++] = expr_text(t, ",");
            }
            kids[k++] = space;
            if (object) {
                text.len = 0;
                json_put_string(&text, v->dict->pairs[i].key.text);
                buf_append(&text, ":", 1);
                kids[k++] = expr_bytes(t, text.data, text.len);
                kids[k++] = space;
            }
            kids[k] = json_value(c, object ? &v->dict->pairs[i].value : &v->list->items[i]);
            if (kids[k++] == GRAMMAR_NONE) {
                free(kids);
                goto out;
            }
        }
        kids[k++] = space;
        kids[k++] = expr_text(t, object ? "}" : "]");
        e = expr_list(t, EXPR_SEQ, kids, k);
        free(kids);
        goto out;
    }
    e = expr_bytes(t, text.data, text.len);
out:
    buf_free(&text);
    return e;
}

/* A list of `item`s between brackets. */
static uint32_t listed(struct schema_compiler *c, const char *open, uint32_t item,
                       const char *close) {
    struct grammar_tree *t = c->tree;
    uint32_t space = json_space(c);
    uint32_t more = expr_repeat(t, expr_seq(t, expr_text(t, ","), space, item), 0, GRAMMAR_ENDLESS);
    uint32_t all = expr_repeat(t, expr_seq(t, space, item, more), 0, 1);
    return expr_seq(t, expr_text(t, open), all, space, expr_text(t, close));
}

uint32_t json_any(struct schema_compiler *c, unsigned types) {
    struct grammar_tree *t = c->tree;
    if (c->any[types]) {
        return expr_rule(t, c->any[types] - 1);
    }
    c->any[types] = grammar_rule_new(t, NULL, 0) + 1;
    uint32_t kids[8], quote = expr_text(t, "\"");
    size_t n = 0;
    uint32_t string =
        expr_seq(t, quote, expr_repeat(t, json_character(c), 0, GRAMMAR_ENDLESS), quote);
    if (types & JSON_NULL) {
        kids[n++] = expr_text(t, "null");
    }
    if (types & JSON_BOOL) {
        kids[n++] = expr_text(t, "true");
        kids[n++] = expr_text(t, "false");
    }
    if (types & (JSON_INTEGER | JSON_FRACTION)) {
        kids[n++] = json_number(c, types, true);
    }
    if (types & JSON_STRING) {
        kids[n++] = string;
    }
    if (types & JSON_ARRAY) {
        kids[n++] = listed(c, "[", json_any(c, JSON_ANY), "]");
    }
    if (types & JSON_OBJECT) {
        kids[n++] = listed(
            c, "{", expr_seq(t, string, expr_text(t, ":"), json_space(c), json_any(c, JSON_ANY)),
            "}");
    }
    uint32_t e = n ? expr_list(t, EXPR_ALT, kids, n) : expr_class(t, NULL, 0, false);
    if (!t->full) {
        t->rules[c->any[types] - 1].expr = e;
    }
    return expr_rule(t, c->any[types] - 1);
}

/* Years are 0001 to 9999, as programs count them; the 29th of February is in leap years. */
#define YEAR "(?:000[1-9]|00[1-9]\\d|0[1-9]\\d\\d|[1-9]\\d{3})"
#define LEAP "(?:(?:[2468][048]|[13579][26]|0[48])00|\\d\\d(?:0[48]|[2468][048]|[13579][26]))"
#define DATE                                                                                       \
    "(?:" YEAR "-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\\d|"  \
    "30)|02-(?:0[1-9]|1\\d|2[0-8]))|" LEAP "-02-29)"
#define TIME                                                                                       \
    "(?:[01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(?:\\.\\d{1,9})?(?:Z|[+-](?:[01]\\d|2[0-3]):[0-5]\\d)"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define BYTE "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)"
#define H4 "[0-9A-Fa-f]{1,4}"
#define ATOM "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"

const char *json_format(const struct value *name) {
    static const struct {
        const char *name, *pattern;
    } rows[] = {
        {"date", "^" DATE "$"},
        {"time", "^" TIME "$"},
        {"date-time", "^" DATE "T" TIME "$"},
        {"duration", "^P(?:\\d{1,9}W|(?:\\d{1,9}Y(?:\\d{1,9}M(?:\\d{1,9}D)?)?|\\d{1,9}M(?:\\d{1,9}"
                     "D)?|\\d{1,9}D)(?:T(?:\\d{1,9}H(?:\\d{1,9}M(?:\\d{1,9}S)?)?|\\d{1,9}M(?:\\d{1,"
                     "9}S)?|\\d{1,9}S))?|T(?:\\d{1,9}H(?:\\d{1,9}M(?:\\d{1,9}S)?)?|\\d{1,9}M(?:\\d{"
                     "1,9}S)?|\\d{1,9}S))$"},
        {"uuid", "^[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"},
        {"email", "^" ATOM "(?:\\." ATOM ")*@" LABEL "(?:\\." LABEL ")+$"},
        {"hostname", "^" LABEL "(?:\\." LABEL ")*$"},
        {"ipv4", "^" BYTE "(?:\\." BYTE "){3}$"},
        {"ipv6", "^(?:(?:" H4 ":){7}" H4 "|(?:" H4 ":){1,7}:|(?:" H4 ":){1,6}:" H4 "|(?:" H4
                 ":){1,5}(?::" H4 "){1,2}|(?:" H4 ":){1,4}(?::" H4 "){1,3}|(?:" H4 ":){1,3}(?::" H4
                 "){1,4}|(?:" H4 ":){1,2}(?::" H4 "){1,5}|" H4 ":(?::" H4 "){1,6}|:(?:(?::" H4
                 "){1,7}|:))$"},
        {"uri", "^[A-Za-z][A-Za-z0-9+.-]*:(?:[A-Za-z0-9._~:/?#@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+$"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        if (value_is_string(name, rows[i].name)) {
            return rows[i].pattern;
        }
    }
    return NULL;
}
