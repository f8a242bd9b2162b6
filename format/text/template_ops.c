/* Operators, attributes and elements, as Python has them for its types. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/text/template_internal.h"

static int no_operator(struct template_run *run, const char *op, const struct value *a,
                       const struct value *b) {
    return template_fail(run, "there is no '%s' for values of types %s and %s", op,
                         value_type_name(a), value_type_name(b));
}

static int too_large(struct template_run *run) {
    return template_fail(run, "an integer beyond 64 bits, with which nothing is computed here");
}

static int by_zero(struct template_run *run) {
    return template_fail(run, "a division by zero");
}

/* ---- numbers ------------------------------------------------------------------------------- */

static int power_of_ints(struct template_run *run, int64_t a, int64_t b, struct value *out) {
    int64_t result = 1;
    if (b < 0) {
        if (!a) {
            return by_zero(run);
        }
        *out = value_float(pow((double)a, (double)b));
        return 0;
    }
    if (a >= -1 && a <= 1) { /* whose powers are few */
        *out = value_int(b == 0 ? 1 : a < 0 ? (b & 1 ? -1 : 1) : a);
        return 0;
    }
    for (; b; b--) { /* 63 rounds at most before it is too large */
        if (__builtin_mul_overflow(result, a, &result)) {
            return too_large(run);
        }
    }
    *out = value_int(result);
    return 0;
}

static int of_ints(struct template_run *run, enum template_op op, int64_t a, int64_t b,
                   struct value *out) {
    int64_t result = 0;
    bool over = false;
    switch (op) {
    case OP_ADD:
        over = __builtin_add_overflow(a, b, &result);
        break;
    case OP_SUB:
        over = __builtin_sub_overflow(a, b, &result);
        break;
    case OP_MUL:
        over = __builtin_mul_overflow(a, b, &result);
        break;
    case OP_POW:
        return power_of_ints(run, a, b, out);
    default:
        if (!b) {
            return by_zero(run);
        }
        if (op == OP_DIV) {
            *out = value_float((double)((long double)a / (long double)b));
            return 0;
        }
        if (b == -1) { /* INT64_MIN is not divided by it */
            over = op == OP_FLOORDIV && __builtin_sub_overflow((int64_t)0, a, &result);
            result = op == OP_MOD ? 0 : result;
            break;
        }
        result = a % b;
        bool down = result && (result < 0) != (b < 0);
        result = op == OP_MOD ? result + (down ? b : 0) : a / b - down;
    }
    if (over) {
        return too_large(run);
    }
    *out = value_int(result);
    return 0;
}

static int of_floats(struct template_run *run, enum template_op op, double a, double b,
                     struct value *out) {
    double result;
    switch (op) {
    case OP_ADD:
        result = a + b;
        break;
    case OP_SUB:
        result = a - b;
        break;
    case OP_MUL:
        result = a * b;
        break;
    case OP_DIV:
        if (b == 0) {
            return by_zero(run);
        }
        result = a / b;
        break;
    case OP_POW:
        if (a == 0 && b < 0) {
            return by_zero(run);
        }
        result = pow(a, b);
        if (isnan(result) && !isnan(a) && !isnan(b)) {
            return template_fail(run, "a power that is not a real number");
        }
        if (isinf(result) && isfinite(a) && isfinite(b)) {
            return template_fail(run, "a power that is too large");
        }
        break;
    default: {
        if (b == 0) {
            return by_zero(run);
        }
        double mod = fmod(a, b), div = (a - mod) / b;
        if (mod != 0 && (b < 0) != (mod < 0)) {
            mod += b;
            div -= 1;
        } else if (mod == 0) {
            mod = copysign(0, b);
        }
        double whole = floor(div);
        whole = div - whole > 0.5 ? whole + 1 : whole;
        result = op == OP_MOD ? mod : div == 0 ? copysign(0, a / b) : whole;
    }
    }
    *out = value_float(result);
    return 0;
}

static int of_numbers(struct template_run *run, enum template_op op, const struct value *a,
                      const struct value *b, struct value *out) {
    if (a->type == VALUE_FLOAT || b->type == VALUE_FLOAT) {
        return of_floats(run, op, value_to_double(a), value_to_double(b), out);
    }
    if (a->type == VALUE_BIGINT || b->type == VALUE_BIGINT) {
        return too_large(run);
    }
    return of_ints(run, op, a->type == VALUE_BOOL ? a->boolean : a->integer,
                   b->type == VALUE_BOOL ? b->boolean : b->integer, out);
}

/* ---- strings and lists ---------------------------------------------------------------------- */

static int add_strings(struct template_run *run, const struct value *a, const struct value *b,
                       struct value *out) {
    struct value x = *a, y = *b;
    size_t begin = run->scratch.len;
    bool safe = a->detail || b->detail;
    if (safe && (template_escape(run, a, &x) || template_escape(run, b, &y))) {
        return -1;
    }
    if (template_scratch(run, x.text->data, x.text->len) ||
        template_scratch(run, y.text->data, y.text->len) ||
        template_from_scratch(run, begin, out)) {
        return -1;
    }
    out->detail = safe;
    return 0;
}

static int add_lists(struct template_run *run, const struct value *a, const struct value *b,
                     struct value *out) {
    size_t n = a->list->n + b->list->n;
    struct value *items = value_alloc(&run->arena, n * sizeof *items);
    if (!items) {
        return template_no_memory(run);
    }
    memcpy(items, a->list->items, a->list->n * sizeof *items);
    memcpy(items + a->list->n, b->list->items, b->list->n * sizeof *items);
    return template_list(run, (enum value_type)a->type, items, n, out);
}

static bool is_sequence(const struct value *v) {
    return v->type == VALUE_STRING || v->type == VALUE_LIST || v->type == VALUE_TUPLE;
}

static int repeat(struct template_run *run, const struct value *v, const struct value *times,
                  struct value *out) {
    int64_t n = 0;
    size_t begin = run->scratch.len;
    if (template_to_int(run, times, "how often a sequence is repeated", &n)) {
        return -1;
    }
    n = n < 0 ? 0 : n;
    if (v->type == VALUE_STRING) {
        for (int64_t i = 0; i < n && v->text->len; i++) {
            if (template_scratch(run, v->text->data, v->text->len)) {
                return -1;
            }
        }
        int rc = template_from_scratch(run, begin, out);
        out->detail = v->detail;
        return rc;
    }
    uint64_t count;
    if (!size_mul((uint64_t)n, v->list->n, &count) || count > run->limits.bytes) {
        return template_no_memory(run);
    }
    struct value *items = value_alloc(&run->arena, count * sizeof *items);
    if (!items) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < count; i++) {
        items[i] = v->list->items[i % v->list->n];
    }
    return template_list(run, (enum value_type)v->type, items, count, out);
}

int template_binary(struct template_run *run, enum template_op op, const struct value *a,
                    const struct value *b, struct value *out) {
    static const char *const names[] = {"+", "-", "*", "/", "//", "%", "**"};
    if (template_need_defined(run, a)) {
        return -1;
    }
    if (op == OP_MOD && a->type == VALUE_STRING) {
        return template_percent(run, a, b, out);
    }
    if (template_need_defined(run, b)) {
        return -1;
    }
    if (value_is_number(a) && value_is_number(b)) {
        return of_numbers(run, op, a, b, out);
    }
    if (op == OP_ADD && a->type == b->type) {
        if (a->type == VALUE_STRING) {
            return add_strings(run, a, b, out);
        }
        if (is_sequence(a)) {
            return add_lists(run, a, b, out);
        }
    }
    if (op == OP_MUL && is_sequence(a) && value_is_number(b) && b->type != VALUE_FLOAT) {
        return repeat(run, a, b, out);
    }
    if (op == OP_MUL && is_sequence(b) && value_is_number(a) && a->type != VALUE_FLOAT) {
        return repeat(run, b, a, out);
    }
    return no_operator(run, names[op], a, b);
}

/* ---- comparisons ---------------------------------------------------------------------------- */

int template_less(struct template_run *run, const struct value *a, const struct value *b,
                  bool *out) {
    int order;
    if (template_need_defined(run, a) || template_need_defined(run, b) ||
        template_spend_on(run, a)) {
        return -1;
    }
    if (!value_compare(a, b, &order)) {
        return no_operator(run, "<", a, b);
    }
    *out = order < 0;
    return 0;
}

static int find_in(struct template_run *run, const struct value *v, const struct value *in,
                   bool *out) {
    struct template_iter *it = NULL;
    struct value item;
    *out = false;
    if (in->type == VALUE_STRING) {
        if (v->type != VALUE_STRING) {
            return no_operator(run, "in", v, in);
        }
        *out = memmem(in->text->data, in->text->len, v->text->data, v->text->len) != NULL;
        return template_spend_on(run, in);
    }
    if (in->type == VALUE_DICT) {
        if (template_spend_on(run, v)) {
            return -1;
        }
        if (!value_hashable(v)) {
            return no_operator(run, "in", v, in);
        }
        *out = value_dict_get(in->dict, v) != NULL;
        return 0;
    }
    if (template_iterate(run, in, &it)) {
        return -1;
    }
    for (;;) {
        int more = template_next(run, it, &item);
        if (more <= 0) {
            return more;
        }
        if (template_spend_on(run, &item)) {
            return -1;
        }
        if (value_equal(v, &item)) {
            *out = true;
            return 0;
        }
    }
}

int template_compare(struct template_run *run, enum template_op op, const struct value *a,
                     const struct value *b, bool *out) {
    static const char *const names[] = {
        [OP_LT] = "<", [OP_LE] = "<=", [OP_GT] = ">", [OP_GE] = ">="};
    int order;
    switch (op) {
    case OP_EQ:
    case OP_NE:
        if (template_spend_on(run, a)) {
            return -1;
        }
        *out = value_equal(a, b) == (op == OP_EQ);
        return 0;
    case OP_IN:
    case OP_NOT_IN:
        if (find_in(run, a, b, out)) {
            return -1;
        }
        *out = *out == (op == OP_IN);
        return 0;
    default:
        break;
    }
    if (template_need_defined(run, a) || template_need_defined(run, b) ||
        template_spend_on(run, a)) {
        return -1;
    }
    if (!value_compare(a, b, &order)) {
        return no_operator(run, names[op], a, b);
    }
    *out = order != 2 && (op == OP_LT   ? order < 0
                          : op == OP_LE ? order <= 0
                          : op == OP_GT ? order > 0
                                        : order >= 0);
    return 0;
}

/* ---- attributes and elements ---------------------------------------------------------------- */

static int bind_method(struct template_run *run, const struct value *v,
                       const struct template_method *row, struct value *out) {
    struct template_bound *bound = value_alloc(&run->arena, sizeof *bound);
    if (!bound) {
        return template_no_memory(run);
    }
    *bound = (struct template_bound){{&template_class_bound}, *v, row};
    *out = value_object(&bound->object);
    return 0;
}

/* What Python has as attribute of a value, elements aside: `*found` says whether there is one. */
int template_own_attr(struct template_run *run, const struct value *v,
                      const struct value_string *name, struct value *out, bool *found) {
    const struct template_method *row;
    *found = true;
    if (name->len > 4 && !memcmp(name->data, "__", 2) &&
        !memcmp(name->data + name->len - 2, "__", 2)) {
        *out = template_undefined(UNDEFINED_UNSAFE, name);
        return 0;
    }
    if (template_is(v, &template_class_loop)) {
        return template_loop_attr(run, (struct template_loop *)v->object, name, out, found);
    }
    if (template_is(v, &template_class_namespace)) {
        const struct value *item = value_dict_get_text(
            ((struct template_namespace *)v->object)->dict.dict, name->data, name->len);
        *found = item != NULL;
        if (item) {
            *out = *item;
        }
        return 0;
    }
    if (template_is(v, &template_class_macro)) {
        return template_fail(run, "attributes of macros are not known");
    }
    if (v->type == VALUE_TUPLE && v->detail && v->list->n == 2) { /* of groupby */
        bool grouper = !strcmp(name->data, "grouper");
        if (grouper || !strcmp(name->data, "list")) {
            *out = v->list->items[!grouper];
            return 0;
        }
    }
    switch (template_find_method(v, name, &row)) {
    case 1:
        return row ? bind_method(run, v, row, out)
                   : template_fail(run, "attribute '%s' of %s is not known", name->data,
                                   value_type_name(v));
    case 2:
        *out = template_undefined(UNDEFINED_UNSAFE, name);
        return 0;
    default:
        *found = false;
        return 0;
    }
}

static int index_of(const struct value *key, size_t n, size_t *i) {
    int64_t at = key->type == VALUE_BOOL ? key->boolean : key->type == VALUE_INT ? key->integer : 0;
    if (key->type != VALUE_INT && key->type != VALUE_BOOL) {
        return -1;
    }
    at += at < 0 ? (int64_t)n : 0;
    *i = (size_t)at;
    return at < 0 || (uint64_t)at >= n ? -1 : 0;
}

/* v[key], where there is such an element. */
static int element(struct template_run *run, const struct value *v, const struct value *key,
                   struct value *out, bool *found) {
    size_t i;
    *found = true;
    switch (v->type) {
    case VALUE_DICT: {
        const struct value *item = value_dict_get(v->dict, key);
        if (item) {
            *out = *item;
            return 0;
        }
        break;
    }
    case VALUE_LIST:
    case VALUE_TUPLE:
        if (!index_of(key, v->list->n, &i)) {
            *out = v->list->items[i];
            return 0;
        }
        break;
    case VALUE_STRING:
        if (!index_of(key, v->text->n_chars, &i)) {
            size_t at = template_char_offset(v->text, i), n;
            value_utf8_get(v->text->data + at, &n);
            return template_spend(run, at / 64) ? -1 : template_part(run, v, at, at + n, out);
        }
        break;
    case VALUE_OBJECT:
        if (template_is(v, &template_class_range)) {
            const struct template_range *r = (const struct template_range *)v->object;
            if (!index_of(key, r->n, &i)) {
                *out = value_int(r->start + (int64_t)i * r->step);
                return 0;
            }
        }
        break;
    default:
        break;
    }
    *found = false;
    return 0;
}

int template_get_attr(struct template_run *run, const struct value *v,
                      const struct value_string *name, struct value *out) {
    struct value key = {.type = VALUE_STRING, .text = name};
    bool found;
    if (template_need_defined(run, v) || template_own_attr(run, v, name, out, &found)) {
        return -1;
    }
    if (found) {
        return 0;
    }
    if (element(run, v, &key, out, &found)) {
        return -1;
    }
    if (!found) {
        *out = template_undefined(UNDEFINED_ATTR, name);
    }
    return 0;
}

int template_get_item(struct template_run *run, const struct value *v, const struct value *key,
                      struct value *out) {
    struct value text;
    bool found;
    if (template_need_defined(run, v) || template_spend_on(run, key) ||
        element(run, v, key, out, &found)) {
        return -1;
    }
    if (!found && key->type == VALUE_STRING && template_own_attr(run, v, key->text, out, &found)) {
        return -1;
    }
    if (found) {
        return 0;
    }
    if (key->type == VALUE_OBJECT) {
        return template_undefined_hint(run, "there is no such element", out);
    }
    if (template_text_of(run, key, &text)) {
        return -1;
    }
    *out = template_undefined(UNDEFINED_ATTR, text.text);
    return 0;
}

int template_length(struct template_run *run, const struct value *v, size_t *out) {
    switch (v->type) {
    case VALUE_UNDEFINED:
        *out = 0;
        return 0;
    case VALUE_STRING:
        *out = v->text->n_chars;
        return 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
        *out = v->list->n;
        return 0;
    case VALUE_DICT:
        *out = v->dict->n;
        return 0;
    case VALUE_OBJECT:
        if (template_is(v, &template_class_range)) {
            *out = ((const struct template_range *)v->object)->n;
            return 0;
        }
        if (template_is(v, &template_class_keys) || template_is(v, &template_class_values) ||
            template_is(v, &template_class_pairs)) {
            *out = ((const struct template_view *)v->object)->dict->n;
            return 0;
        }
        break;
    default:
        break;
    }
    return template_fail(run, "a value of type %s has no length", value_type_name(v));
}

int template_to_int(struct template_run *run, const struct value *v, const char *what,
                    int64_t *out) {
    if (template_need_defined(run, v)) {
        return -1;
    }
    if (v->type != VALUE_INT && v->type != VALUE_BOOL) {
        return template_fail(run, "%s is an integer of 64 bits, not a value of type %s", what,
                             value_type_name(v));
    }
    *out = v->type == VALUE_BOOL ? v->boolean : v->integer;
    return 0;
}
