/* JSON: written as Python's json.dumps, and read. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/number.h"
#include "format/text/value.h"

/* ---- writing ------------------------------------------------------------------------------- */

static void put_text(struct value_writer *w, const char *text) {
    value_put(w, text, strlen(text));
}

static void put_string(struct value_writer *w, const struct value_string *s, bool ascii) {
    char text[16];
    put_text(w, "\"");
    size_t plain = 0; /* where what is written as it is begins */
    for (size_t i = 0, n; i < s->len && !w->over; i += n) {
        uint32_t c = value_utf8_get(s->data + i, &n);
        bool stays = !ascii || c < 0x7f || c == VALUE_MARK_BEGIN || c == VALUE_MARK_END;
        if (c >= 0x20 && c != '"' && c != '\\' && stays) {
            continue;
        }
        const char *place = c ? strchr("\"\"\\\\\nn\rr\tt\bb\ff", (int)c) : NULL;
        value_put(w, s->data + plain, i - plain);
        plain = i + n;
        if (c < 0x7f && place) {
            snprintf(text, sizeof text, "\\%c", place[1]);
        } else if (c < 0x10000) {
            snprintf(text, sizeof text, "\\u%04x", (unsigned)c);
        } else {
            snprintf(text, sizeof text, "\\u%04x\\u%04x", (unsigned)(0xd7c0 + (c >> 10)),
                     (unsigned)(0xdc00 + (c & 0x3ff)));
        }
        put_text(w, text);
    }
    value_put(w, s->data + plain, s->len - plain);
    put_text(w, "\"");
}

static void put_float(struct value_writer *w, double d) {
    char text[32];
    value_float_text(d, text);
    put_text(w, isnan(d) ? "NaN" : isinf(d) ? (d < 0 ? "-Infinity" : "Infinity") : text);
}

static void new_line(struct value_writer *w, const struct value_json_style *s, unsigned level) {
    put_text(w, "\n");
    for (unsigned i = 0; i < level && !w->over; i++) {
        value_put(w, s->indent->data, s->indent->len);
    }
}

static void put_separator(struct value_writer *w, const struct value_string *s, const char *usual) {
    if (s) {
        value_put(w, s->data, s->len);
    } else {
        put_text(w, usual);
    }
}

static int put_json(struct value_writer *w, const struct value *v, const struct value_json_style *s,
                    unsigned level, struct err *err);

static int put_list(struct value_writer *w, const struct value_list *list,
                    const struct value_json_style *s, unsigned level, struct err *err) {
    put_text(w, "[");
    for (size_t i = 0; i < list->n && !w->over; i++) {
        if (i) {
            put_separator(w, s->item, s->indented ? "," : ", ");
        }
        if (s->indented) {
            new_line(w, s, level + 1);
        }
        if (put_json(w, &list->items[i], s, level + 1, err)) {
            return -1;
        }
    }
    if (s->indented && list->n) {
        new_line(w, s, level);
    }
    put_text(w, "]");
    return 0;
}

/* Keys that are not strings are written as strings of their JSON. */
static int put_key(struct value_writer *w, const struct value *key,
                   const struct value_json_style *s, struct err *err) {
    switch (key->type) {
    case VALUE_STRING:
        put_string(w, key->text, s->ascii);
        return 0;
    case VALUE_NONE:
    case VALUE_BOOL:
    case VALUE_INT:
    case VALUE_BIGINT:
    case VALUE_FLOAT:
        put_text(w, "\"");
        (void)put_json(w, key, s, 0, err);
        put_text(w, "\"");
        return 0;
    default:
        return err_set(err, "JSON has no keys of type %s", value_type_name(key));
    }
}

struct pairs_order {
    const struct value_pair *pairs;
    struct err *err;
};

static int pair_before(void *ctx, size_t a, size_t b, bool *is) {
    const struct pairs_order *o = ctx;
    const struct value *x = &o->pairs[a].key, *y = &o->pairs[b].key;
    int order = 0;
    if (!value_compare(x, y, &order)) {
        return err_set(o->err, "keys of types %s and %s have no order", value_type_name(x),
                       value_type_name(y));
    }
    *is = order < 0;
    return 0;
}

static int put_dict(struct value_writer *w, const struct value_dict *dict,
                    const struct value_json_style *s, unsigned level, struct err *err) {
    int rc = -1;
    size_t *order = s->sort_keys ? mem_calloc(2 * dict->n + 1, sizeof *order) : NULL;
    struct pairs_order by_key = {dict->pairs, err};
    if (order && value_sort(order, order + dict->n, dict->n, pair_before, &by_key)) {
        goto out;
    }
    put_text(w, "{");
    for (size_t i = 0; i < dict->n && !w->over; i++) {
        const struct value_pair *p = &dict->pairs[order ? order[i] : i];
        if (i) {
            put_separator(w, s->item, s->indented ? "," : ", ");
        }
        if (s->indented) {
            new_line(w, s, level + 1);
        }
        if (put_key(w, &p->key, s, err)) {
            goto out;
        }
        put_separator(w, s->of, ": ");
        if (put_json(w, &p->value, s, level + 1, err)) {
            goto out;
        }
    }
    if (s->indented && dict->n) {
        new_line(w, s, level);
    }
    put_text(w, "}");
    rc = 0;
out:
    free(order);
    return rc;
}

static int put_json(struct value_writer *w, const struct value *v, const struct value_json_style *s,
                    unsigned level, struct err *err) {
    switch (v->type) {
    case VALUE_NONE:
        put_text(w, "null");
        return 0;
    case VALUE_BOOL:
        put_text(w, v->boolean ? "true" : "false");
        return 0;
    case VALUE_INT:
    case VALUE_BIGINT:
        (void)value_write(w, v, false, NULL);
        return 0;
    case VALUE_FLOAT:
        put_float(w, v->number);
        return 0;
    case VALUE_STRING:
        put_string(w, v->text, s->ascii);
        return 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return put_list(w, v->list, s, level, err);
    case VALUE_DICT:
        return put_dict(w, v->dict, s, level, err);
    default:
        return err_set(err, "JSON has nothing for a value of type %s", value_type_name(v));
    }
}

int value_json_write(struct value_writer *w, const struct value *v,
                     const struct value_json_style *style, struct err *err) {
    if (put_json(w, v, style, 0, err)) {
        return -1;
    }
    return w->over ? err_set(err, "the JSON is longer than %zu bytes", w->max_bytes) : 0;
}

/* ---- reading ------------------------------------------------------------------------------- */

struct reader {
    struct value_arena *arena;
    const char *text;
    size_t len, pos;
    struct buf scratch;  /* the string that is read */
    struct value *stack; /* elements of the lists that are read, outermost first */
    size_t n_stack, cap_stack;
    struct err *err;
};

static int bad(struct reader *r, const char *what) {
    size_t line = 1, column = 1;
    for (size_t i = 0; i < r->pos && i < r->len; i++) {
        column += ((unsigned char)r->text[i] & 0xc0) != 0x80;
        if (r->text[i] == '\n') {
            line++;
            column = 1;
        }
    }
    return err_set(r->err, "line %zu, column %zu: %s", line, column, what);
}

static int no_memory(struct reader *r) {
    return bad(r, "more than the memory allowed, or nested too deeply");
}

static void skip_space(struct reader *r) {
    while (r->pos < r->len && r->text[r->pos] && strchr(" \t\r\n", r->text[r->pos])) {
        r->pos++;
    }
}

static bool take(struct reader *r, char c) {
    skip_space(r);
    if (r->pos < r->len && r->text[r->pos] == c) {
        r->pos++;
        return true;
    }
    return false;
}

/* The four digits behind \u, or -1. */
static int read_hex(struct reader *r) {
    int c = 0;
    for (int i = 0; i < 4; i++, r->pos++) {
        char h = r->pos < r->len ? r->text[r->pos] : 0;
        int digit = h >= '0' && h <= '9'                 ? h - '0'
                    : (h | 32) >= 'a' && (h | 32) <= 'f' ? (h | 32) - 'a' + 10
                                                         : -1;
        if (digit < 0) {
            return -1;
        }
        c = c << 4 | digit;
    }
    return c;
}

static int read_escape(struct reader *r) {
    static const char escapes[] = "\"\"\\\\//b\bf\fn\nr\rt\t";
    char e = r->pos < r->len ? r->text[r->pos++] : 0;
    for (const char *p = escapes; e && *p; p += 2) {
        if (*p == e) {
            buf_append(&r->scratch, p + 1, 1);
            return 0;
        }
    }
    int c = e == 'u' ? read_hex(r) : -1;
    if (c < 0) {
        return bad(r, "not an escape of a string");
    }
    if (c >= 0xd800 && c < 0xdc00 && r->len - r->pos >= 6 && r->text[r->pos] == '\\' &&
        r->text[r->pos + 1] == 'u') {
        size_t before = r->pos;
        r->pos += 2;
        int low = read_hex(r);
        if (low >= 0xdc00 && low < 0xe000) {
            value_utf8_append(&r->scratch,
                              0x10000u + ((uint32_t)(c & 0x3ff) << 10) + (uint32_t)(low & 0x3ff));
            return 0;
        }
        r->pos = before; /* what follows is read by itself */
    }
    value_utf8_append(&r->scratch, c >= 0xd800 && c < 0xe000 ? 0xfffd : (uint32_t)c);
    return 0;
}

/* Behind the opening quote. */
static int read_string(struct reader *r, struct value *out) {
    r->scratch.len = 0;
    for (;;) {
        size_t begin = r->pos;
        while (r->pos < r->len && r->text[r->pos] != '"' && r->text[r->pos] != '\\' &&
               (unsigned char)r->text[r->pos] >= 0x20) {
            r->pos++;
        }
        if (r->pos - begin > r->arena->limit_bytes - r->scratch.len) {
            return no_memory(r);
        }
        buf_append(&r->scratch, r->text + begin, r->pos - begin);
        char c = r->pos < r->len ? r->text[r->pos] : 0;
        if (c == '"') {
            r->pos++;
            return value_make_string(r->arena, r->scratch.data, r->scratch.len, out) ? no_memory(r)
                                                                                     : 0;
        }
        if (c != '\\') {
            return bad(r, r->pos < r->len ? "a control character in a string: it needs an escape"
                                          : "the string has no end");
        }
        r->pos++;
        if (read_escape(r)) {
            return -1;
        }
    }
}

static size_t skip_digits(struct reader *r) {
    size_t begin = r->pos;
    while (r->pos < r->len && r->text[r->pos] >= '0' && r->text[r->pos] <= '9') {
        r->pos++;
    }
    return r->pos - begin;
}

static int read_number(struct reader *r, struct value *out) {
    size_t begin = r->pos;
    bool whole = true;
    r->pos += r->text[r->pos] == '-';
    bool zero = r->pos < r->len && r->text[r->pos] == '0';
    size_t n = skip_digits(r);
    if (!n || (zero && n > 1)) {
        return bad(r, "not a JSON value");
    }
    if (r->pos < r->len && r->text[r->pos] == '.') {
        whole = false;
        r->pos++;
        if (!skip_digits(r)) {
            return bad(r, "a number with nothing behind its point");
        }
    }
    if (r->pos < r->len && (r->text[r->pos] | 32) == 'e') {
        whole = false;
        r->pos++;
        r->pos += r->pos < r->len && (r->text[r->pos] == '-' || r->text[r->pos] == '+');
        if (!skip_digits(r)) {
            return bad(r, "a number without an exponent behind its e");
        }
    }
    size_t len = r->pos - begin;
    r->scratch.len = 0;
    buf_append(&r->scratch, r->text + begin, len);
    if (!whole) {
        *out = value_float(number_parse(r->scratch.data, NULL));
        return 0;
    }
    errno = 0;
    long long i = strtoll(r->scratch.data, NULL, 10);
    if (!errno) {
        *out = value_int(i);
        return 0;
    }
    if (n > VALUE_MAX_DIGITS) {
        return bad(r, "an integer of more than 4300 digits");
    }
    if (value_make_string(r->arena, r->scratch.data, len, out)) {
        return no_memory(r);
    }
    out->type = VALUE_BIGINT;
    return 0;
}

static int read_value(struct reader *r, unsigned depth, struct value *out);

static int read_list(struct reader *r, unsigned depth, struct value *out) {
    size_t begin = r->n_stack;
    if (!take(r, ']')) {
        do {
            struct value item;
            if (read_value(r, depth, &item)) {
                return -1;
            }
            if (r->n_stack > r->arena->limit_bytes / sizeof item) {
                return no_memory(r);
            }
            r->stack = mem_grow(r->stack, r->n_stack + 1, &r->cap_stack, sizeof item);
            r->stack[r->n_stack++] = item;
        } while (take(r, ','));
        if (!take(r, ']')) {
            return bad(r, "expected ',' or ']' in a list");
        }
    }
    size_t n = r->n_stack - begin;
    r->n_stack = begin;
    return value_make_list(r->arena, VALUE_LIST, n ? r->stack + begin : NULL, n, out) ? no_memory(r)
                                                                                      : 0;
}

static int read_dict(struct reader *r, unsigned depth, struct value *out) {
    if (value_make_dict(r->arena, out)) {
        return no_memory(r);
    }
    if (take(r, '}')) {
        return 0;
    }
    do {
        struct value key, item;
        if (!take(r, '"')) {
            return bad(r, "expected a key: a string in quotes");
        }
        if (read_string(r, &key)) {
            return -1;
        }
        if (!take(r, ':')) {
            return bad(r, "expected ':' behind a key");
        }
        if (read_value(r, depth, &item)) {
            return -1;
        }
        if (value_dict_set(r->arena, out->dict, &key, &item)) {
            return no_memory(r);
        }
    } while (take(r, ','));
    return take(r, '}') ? 0 : bad(r, "expected ',' or '}' in an object");
}

static int read_value(struct reader *r, unsigned depth, struct value *out) {
    static const struct {
        const char *word;
        struct value value;
    } words[] = {
        {"null", {.type = VALUE_NONE}},
        {"true", {.type = VALUE_BOOL, .boolean = true}},
        {"false", {.type = VALUE_BOOL}},
    };
    if (depth >= VALUE_MAX_DEPTH) {
        return bad(r, "nested too deeply");
    }
    if (take(r, '"')) {
        return read_string(r, out);
    }
    if (take(r, '[')) {
        return read_list(r, depth + 1, out);
    }
    if (take(r, '{')) {
        return read_dict(r, depth + 1, out);
    }
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        size_t n = strlen(words[i].word);
        if (r->len - r->pos >= n && !memcmp(r->text + r->pos, words[i].word, n)) {
            r->pos += n;
            *out = words[i].value;
            return 0;
        }
    }
    if (r->pos >= r->len) {
        return bad(r, "expected a value, found the end");
    }
    return read_number(r, out);
}

int value_json_read(struct value_arena *arena, const char *text, size_t len, struct value *out,
                    struct err *err) {
    struct reader r = {.arena = arena, .text = text, .len = len, .err = err};
    int rc = -1;
    if (!value_utf8_check(text, len, &r.pos)) {
        bad(&r, "a byte that is not UTF-8");
        goto out;
    }
    r.pos = 0;
    if (read_value(&r, 0, out)) {
        goto out;
    }
    skip_space(&r);
    if (r.pos < r.len) {
        bad(&r, "expected the end: one value is all");
        goto out;
    }
    rc = 0;
out:
    buf_free(&r.scratch);
    free(r.stack);
    return rc;
}
