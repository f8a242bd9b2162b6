/* What can be iterated. Python's generators are iterators that are values: what map and select
 * give is computed when it is asked for, and only once. */
#include <string.h>

#include "format/text/template_internal.h"

enum { ITER_MAX_DEPTH = 64 }; /* of iterators that draw from each other */

int template_iter_new(struct template_run *run, struct template_iter *source,
                      struct template_iter **out) {
    struct template_iter *it = value_alloc(&run->arena, sizeof *it);
    if (!it) {
        return template_no_memory(run);
    }
    it->object.class = &template_class_generator;
    it->source = source;
    it->depth = source ? source->depth + 1 : 1;
    *out = it;
    return it->depth > ITER_MAX_DEPTH
               ? template_fail(run, "more than %d iterators draw from each other", ITER_MAX_DEPTH)
               : 0;
}

bool template_is_iterable(const struct value *v) {
    switch (v->type) {
    case VALUE_UNDEFINED:
    case VALUE_STRING:
    case VALUE_LIST:
    case VALUE_TUPLE:
    case VALUE_DICT:
        return true;
    case VALUE_OBJECT:
        return template_is(v, &template_class_range) || template_is(v, &template_class_keys) ||
               template_is(v, &template_class_values) || template_is(v, &template_class_pairs) ||
               template_is(v, &template_class_generator);
    default:
        return false;
    }
}

static void of_object(const struct value *v, struct template_iter *it) {
    if (template_is(v, &template_class_range)) {
        const struct template_range *r = (const struct template_range *)v->object;
        it->kind = ITER_RANGE;
        it->n = r->n;
        it->start = r->start;
        it->step = r->step;
        return;
    }
    it->kind = template_is(v, &template_class_keys)     ? ITER_KEYS
               : template_is(v, &template_class_values) ? ITER_VALUES
                                                        : ITER_PAIRS;
    it->dict = ((const struct template_view *)v->object)->dict;
    it->n = it->dict->n;
}

int template_iterate(struct template_run *run, const struct value *v, struct template_iter **out) {
    struct template_iter *it = NULL;
    if (template_is(v, &template_class_generator)) {
        *out = (struct template_iter *)v->object;
        return 0;
    }
    if (!template_is_iterable(v)) {
        return template_fail(run, "a value of type %s cannot be iterated", value_type_name(v));
    }
    if (template_iter_new(run, NULL, &it)) {
        return -1;
    }
    switch (v->type) {
    case VALUE_STRING:
        it->kind = ITER_STRING;
        it->string = v->text;
        break;
    case VALUE_LIST:
    case VALUE_TUPLE:
        it->items = v->list->items;
        it->n = v->list->n;
        break;
    case VALUE_DICT:
        it->kind = ITER_KEYS;
        it->dict = v->dict;
        it->n = v->dict->n;
        break;
    case VALUE_OBJECT:
        of_object(v, it);
        break;
    default:
        break; /* undefined: nothing */
    }
    *out = it;
    return 0;
}

/* ---- drawing ------------------------------------------------------------------------------- */

static int next_char(struct template_run *run, struct template_iter *it, struct value *out) {
    size_t n;
    if (it->pos >= it->string->len) {
        return 0;
    }
    value_utf8_get(it->string->data + it->pos, &n);
    it->pos += n;
    return template_string(run, it->string->data + it->pos - n, n, out) ? -1 : 1;
}

static int next_plain(struct template_run *run, struct template_iter *it, struct value *out) {
    if (it->pos >= it->n) {
        return 0;
    }
    size_t i = it->pos++;
    switch (it->kind) {
    case ITER_ITEMS:
        *out = it->items[i];
        return 1;
    case ITER_KEYS:
        *out = it->dict->pairs[i].key;
        return 1;
    case ITER_VALUES:
        *out = it->dict->pairs[i].value;
        return 1;
    case ITER_RANGE:
        *out = value_int(it->start + (int64_t)i * it->step);
        return 1;
    default: {
        struct value pair[2] = {it->dict->pairs[i].key, it->dict->pairs[i].value};
        return template_list(run, VALUE_TUPLE, pair, 2, out) ? -1 : 1;
    }
    }
}

/* Whether a loop's condition takes an element, whose names are bound for it alone. */
static int passes(struct template_run *run, struct template_iter *it, const struct value *v,
                  bool *is) {
    struct template_scope *before = run->scope, *scope = template_scope_new(run, it->scope);
    struct value test;
    if (!scope || template_assign(run, scope, it->node->a, v)) {
        return -1;
    }
    run->scope = scope;
    int rc = template_eval(run, it->node->c, &test);
    run->scope = before;
    *is = !rc && value_truth(&test);
    return rc;
}

static int selects(struct template_run *run, struct template_iter *it, const struct value *v,
                   bool *is) {
    struct value subject;
    if (template_attribute(run, v, &it->attribute, NULL, &subject)) {
        return -1;
    }
    if (!it->row) {
        *is = value_truth(&subject) != it->negate;
        return 0;
    }
    if (template_run_test(run, it->row, &subject, &it->call, is)) {
        return -1;
    }
    *is = *is != it->negate;
    return 0;
}

static int next_of_source(struct template_run *run, struct template_iter *it, struct value *out) {
    struct value v;
    for (;;) {
        bool is;
        int more = template_next(run, it->source, &v);
        if (more <= 0) {
            return more;
        }
        switch (it->kind) {
        case ITER_MAP_ATTRIBUTE:
            return template_attribute(run, &v, &it->attribute,
                                      it->fallback.type != VALUE_NONE ? &it->fallback : NULL, out)
                       ? -1
                       : 1;
        case ITER_MAP_FILTER:
            return template_run_filter(run, it->row, &v, &it->call, out) ? -1 : 1;
        case ITER_CONDITION:
            if (passes(run, it, &v, &is)) {
                return -1;
            }
            break;
        default:
            if (selects(run, it, &v, &is)) {
                return -1;
            }
        }
        if (is) {
            *out = v;
            return 1;
        }
    }
}

int template_next(struct template_run *run, struct template_iter *it, struct value *out) {
    if (template_spend(run, 1)) {
        return -1;
    }
    if (it->kind == ITER_STRING) {
        return next_char(run, it, out);
    }
    return it->source ? next_of_source(run, it, out) : next_plain(run, it, out);
}

/* ---- whole --------------------------------------------------------------------------------- */

int template_collect(struct template_run *run, const struct value *v, struct value *list) {
    struct template_iter *it = NULL;
    struct value item, *items = NULL;
    size_t n = 0, cap = 0;
    int more;
    if (v->type == VALUE_LIST) {
        *list = *v;
        return 0;
    }
    if (template_iterate(run, v, &it)) {
        return -1;
    }
    while ((more = template_next(run, it, &item)) > 0) {
        if (n == cap) {
            size_t wider = cap ? cap * 2 : 8;
            struct value *moved = value_alloc(&run->arena, wider * sizeof *moved);
            if (!moved) {
                return template_no_memory(run);
            }
            if (n) {
                memcpy(moved, items, n * sizeof *moved);
            }
            items = moved;
            cap = wider;
        }
        items[n++] = item;
    }
    return more ? more : template_list(run, VALUE_LIST, items, n, list);
}

int template_generator(struct template_run *run, const struct value *list, struct value *out) {
    struct template_iter *it = NULL;
    if (template_iterate(run, list, &it)) {
        return -1;
    }
    *out = value_object(&it->object);
    return 0;
}

/* ---- attributes by path --------------------------------------------------------------------- */

int template_attribute(struct template_run *run, const struct value *v, const struct value *path,
                       const struct value *fallback, struct value *out) {
    struct value part, item = *v;
    *out = item;
    if (path->type == VALUE_NONE) {
        return 0;
    }
    size_t len = path->type == VALUE_STRING ? path->text->len : 0;
    for (size_t begin = 0; begin <= len;) {
        size_t end = len;
        part = *path;
        if (path->type == VALUE_STRING) {
            const char *s = path->text->data, *dot = memchr(s + begin, '.', len - begin);
            end = dot ? (size_t)(dot - s) : len;
            size_t digits = strspn(s + begin, "0123456789");
            if (digits == end - begin && digits && digits < 18) {
                int64_t number = 0;
                for (size_t i = begin; i < end; i++) {
                    number = number * 10 + (s[i] - '0');
                }
                part = value_int(number);
            } else if (template_string(run, s + begin, end - begin, &part)) {
                return -1;
            }
        }
        if (template_get_item(run, &item, &part, out)) {
            return -1;
        }
        if (fallback && out->type == VALUE_UNDEFINED) {
            *out = *fallback;
        }
        item = *out;
        begin = end + 1;
    }
    return 0;
}
