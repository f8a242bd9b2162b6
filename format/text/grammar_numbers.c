/*
 * Numbers with bounds, as decimal texts; see grammar_schema.h.
 *
 * Texts of one length before the point are compared with a bound digit by digit: as long as all
 * digits are those of the bound, the next one is bounded too; the first that differs ends that.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/grammar_schema.h"

enum { DIGITS = 24, ALL_DIGITS = 400 };

/* A bound: digits before the point (without zeros in front, but one for zero) and behind. */
struct decimal {
    bool there, negative, itself; /* `itself`: the bound's own value is allowed */
    char whole[ALL_DIGITS], part[ALL_DIGITS];
    size_t n_whole, n_part;
};

struct span {
    struct schema_compiler *c;
    struct decimal low, high; /* not negative */
    bool fraction;
};

static bool is_zero(const struct decimal *d) {
    return d->n_whole == 1 && d->whole[0] == '0' && d->n_part == 0;
}

/* Reads a number as Python writes it. False: it has too many digits. */
static bool read_decimal(const char *text, struct decimal *d) {
    char digits[ALL_DIGITS];
    size_t n = 0, point = 0;
    long power = 0;
    bool seen = false;
    d->negative = *text == '-';
    for (text += d->negative; *text && *text != 'e'; text++) {
        if (*text == '.') {
            seen = true;
        } else if (*text < '0' || *text > '9' || n >= 60) {
            return false;
        } else {
            digits[n++] = *text;
            point += !seen;
        }
    }
    if (*text == 'e') {
        power = strtol(text + 1, NULL, 10);
    }
    if (power > 60 || power < -60) {
        return false;
    }
    d->n_whole = d->n_part = 0;
    for (long i = (long)point + power < 0 ? (long)point + power : 0;
         i < (long)n || i < (long)point + power; i++) {
        char digit = i < 0 || i >= (long)n ? '0' : digits[i];
        if (i >= (long)point + power) {
            d->part[d->n_part++] = digit;
        } else if (digit != '0' || d->n_whole) {
            d->whole[d->n_whole++] = digit;
        }
    }
    if (d->n_whole == 0) {
        d->whole[d->n_whole++] = '0';
    }
    while (d->n_part && d->part[d->n_part - 1] == '0') {
        d->n_part--;
    }
    if (is_zero(d)) {
        d->negative = false;
    }
    return true;
}

/* The order of two numbers that are not negative, whatever their signs say. */
static int compare(const struct decimal *a, const struct decimal *b) {
    if (a->n_whole != b->n_whole) {
        return a->n_whole < b->n_whole ? -1 : 1;
    }
    int order = memcmp(a->whole, b->whole, a->n_whole);
    size_t n = a->n_part < b->n_part ? a->n_part : b->n_part;
    order = order ? order : memcmp(a->part, b->part, n);
    return order ? order : (a->n_part > b->n_part) - (a->n_part < b->n_part);
}

static int compare_signed(const struct decimal *a, const struct decimal *b) {
    if (a->negative != b->negative) {
        return a->negative ? -1 : 1;
    }
    return a->negative ? -compare(a, b) : compare(a, b);
}

/* A bound of all schemas of a set: of `key` and of `exclusive`. `low`: the greatest counts. */
static int read_bound(struct schema_compiler *c, const struct schema_set *s, const char *key,
                      const char *exclusive, bool low, struct decimal *out) {
    struct buf text = {0};
    int rc = 0;
    for (size_t i = 0; i < 2 * s->n && rc == 0; i++) {
        const char *name = i & 1 ? exclusive : key;
        const struct value *v = schema_get(s->items[i / 2], name);
        struct decimal d = {.there = true, .itself = !(i & 1)};
        struct value_writer w = {.out = &text, .max_bytes = ALL_DIGITS};
        if (!v) {
            continue;
        }
        text.len = 0;
        if ((v->type != VALUE_INT && v->type != VALUE_FLOAT && v->type != VALUE_BIGINT) ||
            value_write(&w, v, true, c->err) < 0) {
            rc = schema_fail(c, "\"%s\" has to be a number", name);
        } else if (!read_decimal(text.data, &d)) {
            rc = schema_fail(c, "\"%s\" has too many digits", name);
        } else {
            int order = out->there ? compare_signed(&d, out) : 0;
            if (!out->there || (low ? order > 0 : order < 0) || (order == 0 && !d.itself)) {
                *out = d;
            }
        }
    }
    buf_free(&text);
    return rc;
}

static uint32_t digit(struct span *s, int low, int high) {
    return expr_class(s->c->tree, &(struct range){(uint32_t)low, (uint32_t)high}, 1, false);
}

/* Whether the number may end where its digits are those of the bounds so far. */
static bool may_end(const struct span *s, size_t at, bool low, bool high) {
    bool low_left = at < s->low.n_part, high_left = at < s->high.n_part;
    return (!low || (!low_left && s->low.itself)) && (!high || high_left || s->high.itself);
}

/* Digits behind the point from number `at` on, at least one where `needed`. */
static uint32_t part_expr(struct span *s, size_t at, bool low, bool high, bool needed) {
    struct grammar_tree *t = s->c->tree;
    if (at >= DIGITS) {
        return !needed && may_end(s, at, low, high) ? expr_text(t, "")
                                                    : expr_class(t, NULL, 0, false);
    }
    if (low && at >= s->low.n_part && s->low.itself) {
        low = false; /* whatever follows is not less */
    }
    if (!low && !high) {
        return expr_repeat(t, digit(s, '0', '9'), needed, (uint32_t)(DIGITS - at));
    }
    int from = low && at < s->low.n_part ? s->low.part[at] : '0';
    int to = !high ? '9' : at < s->high.n_part ? s->high.part[at] : '0';
    uint32_t kids[4];
    size_t k = 0;
    for (int d = from; d <= to;) {
        bool on_low = low && d == from, on_high = high && d == to;
        int last = on_low || on_high ? d : high ? to - 1 : to;
        if (k == 3) {
            break;
        }
        kids[k++] = expr_seq(t, digit(s, d, last), part_expr(s, at + 1, on_low, on_high, false));
        d = last + 1;
    }
    if (!needed && may_end(s, at, low, high)) {
        kids[k++] = expr_text(t, "");
    }
    return k ? expr_list(t, EXPR_ALT, kids, k) : expr_class(t, NULL, 0, false);
}

static uint32_t behind_whole(struct span *s, bool low, bool high) {
    struct grammar_tree *t = s->c->tree;
    uint32_t end = may_end(s, 0, low, high) ? expr_text(t, "") : expr_class(t, NULL, 0, false);
    if (!s->fraction) {
        return end;
    }
    return expr_alt(t, end, expr_seq(t, expr_text(t, "."), part_expr(s, 0, low, high, true)));
}

/* Digits before the point from number `at` on, of `n`. */
static uint32_t whole_expr(struct span *s, size_t at, size_t n, bool low, bool high) {
    struct grammar_tree *t = s->c->tree;
    if (at == n) {
        return behind_whole(s, low, high);
    }
    if (!low && !high && at > 0) {
        uint32_t left = (uint32_t)(n - at);
        return expr_seq(t, expr_repeat(t, digit(s, '0', '9'), left, left),
                        behind_whole(s, false, false));
    }
    int from = low ? s->low.whole[at] : at == 0 && n > 1 ? '1' : '0';
    int to = high ? s->high.whole[at] : '9';
    uint32_t kids[3];
    size_t k = 0;
    for (int d = from; d <= to && k < 3;) {
        bool on_low = low && d == from, on_high = high && d == to;
        int last = on_low || on_high ? d : high ? to - 1 : to;
        kids[k++] = expr_seq(t, digit(s, d, last), whole_expr(s, at + 1, n, on_low, on_high));
        d = last + 1;
    }
    return k ? expr_list(t, EXPR_ALT, kids, k) : expr_class(t, NULL, 0, false);
}

/* All numbers from low to high, neither negative. */
static uint32_t span_expr(struct span *s) {
    struct grammar_tree *t = s->c->tree;
    size_t most = s->high.there ? s->high.n_whole : DIGITS;
    uint32_t kids[ALL_DIGITS];
    size_t k = 0;
    most = most > DIGITS ? DIGITS : most;
    for (size_t n = s->low.n_whole; n <= most; n++) {
        kids[k++] = whole_expr(s, 0, n, n == s->low.n_whole, s->high.there && n == s->high.n_whole);
    }
    return k ? expr_list(t, EXPR_ALT, kids, k) : expr_class(t, NULL, 0, false);
}

uint32_t schema_number(struct schema_compiler *c, const struct schema_set *set, unsigned types) {
    static const struct decimal zero = {.there = true, .itself = true, .whole = "0", .n_whole = 1};
    struct grammar_tree *t = c->tree;
    struct decimal low = {0}, high = {0};
    uint32_t kids[3];
    size_t k = 0;
    if (read_bound(c, set, "minimum", "exclusiveMinimum", true, &low) < 0 ||
        read_bound(c, set, "maximum", "exclusiveMaximum", false, &high) < 0) {
        return GRAMMAR_NONE;
    }
    bool fraction = types & JSON_FRACTION;
    if (!low.there && !high.there) {
        return json_number(c, types, true);
    }
    if (low.there && low.itself && is_zero(&low) && !high.there) {
        return json_number(c, types, false);
    }
    struct span *s = mem_calloc(1, sizeof *s);
    *s = (struct span){.c = c, .fraction = fraction};
    if (!low.there || low.negative) { /* numbers below zero, by what they are without the sign */
        bool all = high.there && high.negative;
        s->low = all ? high : zero;
        s->low.itself = all && high.itself;
        s->low.there = true;
        s->high = low;
        kids[k++] = expr_seq(t, expr_text(t, "-"), span_expr(s));
    }
    if (!high.there || !high.negative) {
        s->low = low.there && !low.negative ? low : zero;
        s->high = high;
        kids[k++] = span_expr(s);
    }
    free(s);
    return k ? expr_list(t, EXPR_ALT, kids, k) : expr_class(t, NULL, 0, false);
}
