/* Filters of lists and dicts that give lists: sorted, grouped, cut. */
#include <string.h>

#include "format/text/template_internal.h"

static bool flag(const struct value *v) {
    return template_given(v) && value_truth(v);
}

static const struct value *or_none(const struct value *v) {
    static const struct value none = {.type = VALUE_NONE};
    return template_given(v) ? v : &none;
}

/* What is compared of an element: an attribute, without case unless asked for. */
static int key_of(struct template_run *run, const struct value *v, const struct value *attribute,
                  const struct value *fallback, bool case_sensitive, struct value *out) {
    if (template_attribute(run, v, attribute, fallback, out)) {
        return -1;
    }
    return out->type == VALUE_STRING && !case_sensitive
               ? template_change_case(run, out, CASE_LOWER, out)
               : 0;
}

struct keys_order {
    struct template_run *run;
    const struct value *keys;
    bool reverse;
};

static int key_before(void *ctx, size_t a, size_t b, bool *is) {
    const struct keys_order *o = ctx;
    const struct value *x = &o->keys[a], *y = &o->keys[b];
    return template_spend(o->run, 1) ||
                   template_less(o->run, o->reverse ? y : x, o->reverse ? x : y, is)
               ? -1
               : 0;
}

/* Sorts `order` by `keys`; those that are equal stay in their order, in reverse as well. */
static int sort_by(struct template_run *run, const struct value *keys, size_t n, bool reverse,
                   size_t *order) {
    struct keys_order how = {run, keys, reverse};
    size_t *scratch = value_alloc(&run->arena, n * sizeof *scratch);
    return scratch ? value_sort(order, scratch, n, key_before, &how) : template_no_memory(run);
}

/* The elements of `items` by the order of `keys`. */
static int sorted(struct template_run *run, const struct value *items, const struct value *keys,
                  size_t n, bool reverse, struct value *out) {
    size_t *order = value_alloc(&run->arena, n * sizeof *order);
    struct value *moved = value_alloc(&run->arena, n * sizeof *moved);
    if (!order || !moved) {
        return template_no_memory(run);
    }
    if (sort_by(run, keys, n, reverse, order)) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        moved[i] = items[order[i]];
    }
    return template_list(run, VALUE_LIST, moved, n, out);
}

/* The several attributes of "a,b" as a list, which is compared from left to right. */
static int sort_key(struct template_run *run, const struct value *v, const struct value *attribute,
                    bool case_sensitive, struct value *out) {
    struct value parts[16], part;
    size_t n = 0;
    if (attribute->type != VALUE_STRING) {
        return key_of(run, v, attribute, NULL, case_sensitive, &parts[0])
                   ? -1
                   : template_list(run, VALUE_LIST, parts, 1, out);
    }
    const char *s = attribute->text->data;
    for (size_t begin = 0, len = attribute->text->len; begin <= len; n++) {
        const char *comma = memchr(s + begin, ',', len - begin);
        size_t end = comma ? (size_t)(comma - s) : len;
        if (n == sizeof parts / sizeof parts[0]) {
            return template_fail(run, "sort by more than 16 attributes");
        }
        if (template_string(run, s + begin, end - begin, &part) ||
            key_of(run, v, &part, NULL, case_sensitive, &parts[n])) {
            return -1;
        }
        begin = end + 1;
    }
    return template_list(run, VALUE_LIST, parts, n, out);
}

static int filter_sort(struct template_run *run, const struct value *v, struct value *args,
                       struct value *out) {
    struct value list;
    if (template_collect(run, v, &list)) {
        return -1;
    }
    struct value *keys = value_alloc(&run->arena, list.list->n * sizeof *keys);
    if (!keys) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < list.list->n; i++) {
        if (sort_key(run, &list.list->items[i], or_none(&args[2]), flag(&args[1]), &keys[i])) {
            return -1;
        }
    }
    return sorted(run, list.list->items, keys, list.list->n, flag(&args[0]), out);
}

static int filter_dictsort(struct template_run *run, const struct value *v, struct value *args,
                           struct value *out) {
    bool by_value = value_is_string(&args[1], "value");
    if (template_given(&args[1]) && !by_value && !value_is_string(&args[1], "key")) {
        return template_fail(run, "dictsort sorts by 'key' or 'value'");
    }
    if (template_need_defined(run, v)) {
        return -1;
    }
    if (v->type != VALUE_DICT) {
        return template_fail(run, "dictsort of a value of type %s", value_type_name(v));
    }
    size_t n = v->dict->n;
    struct value *pairs = value_alloc(&run->arena, 2 * n * sizeof *pairs), *keys = pairs + n;
    struct value none = value_none();
    if (!pairs) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < n; i++) {
        const struct value pair[2] = {v->dict->pairs[i].key, v->dict->pairs[i].value};
        if (template_list(run, VALUE_TUPLE, pair, 2, &pairs[i]) ||
            key_of(run, &pair[by_value], &none, NULL, flag(&args[0]), &keys[i])) {
            return -1;
        }
    }
    return sorted(run, pairs, keys, n, flag(&args[2]), out);
}

static int filter_groupby(struct template_run *run, const struct value *v, struct value *args,
                          struct value *out) {
    bool sensitive = flag(&args[2]);
    const struct value *fallback =
        template_given(&args[1]) && args[1].type != VALUE_NONE ? &args[1] : NULL;
    struct value list, group;
    if (template_collect(run, v, &list)) {
        return -1;
    }
    size_t n = list.list->n, n_groups = 0;
    struct value *keys = value_alloc(&run->arena, 3 * n * sizeof *keys), *items = keys + n,
                 *groups = items + n;
    size_t *order = value_alloc(&run->arena, n * sizeof *order);
    if (!keys || !order) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < n; i++) {
        if (key_of(run, &list.list->items[i], &args[0], fallback, sensitive, &keys[i])) {
            return -1;
        }
    }
    if (sort_by(run, keys, n, false, order)) {
        return -1;
    }
    for (size_t i = 0, end; i < n; i = end) {
        struct value pair[2];
        if (template_spend_on(run, &keys[order[i]])) {
            return -1;
        }
        for (end = i; end < n && value_equal(&keys[order[i]], &keys[order[end]]); end++) {
            items[end] = list.list->items[order[end]];
        }
        end += end == i; /* what does not equal itself is a group of its own */
        items[i] = list.list->items[order[i]];
        if (template_list(run, VALUE_LIST, items + i, end - i, &pair[1]) ||
            template_attribute(run, &items[i], &args[0], fallback, &pair[0]) ||
            template_list(run, VALUE_TUPLE, pair, 2, &group)) {
            return -1;
        }
        group.detail = 1; /* has attributes `grouper` and `list` */
        groups[n_groups++] = group;
    }
    return template_list(run, VALUE_LIST, groups, n_groups, out);
}

static int filter_unique(struct template_run *run, const struct value *v, struct value *args,
                         struct value *out) {
    struct value list, seen, key, none = value_none();
    size_t kept = 0;
    if (template_collect(run, v, &list)) {
        return -1;
    }
    struct value *items = value_alloc(&run->arena, list.list->n * sizeof *items);
    if (!items || value_make_dict(&run->arena, &seen)) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < list.list->n; i++) {
        if (key_of(run, &list.list->items[i], or_none(&args[1]), NULL, flag(&args[0]), &key)) {
            return -1;
        }
        if (template_spend_on(run, &key)) {
            return -1;
        }
        if (!value_hashable(&key)) {
            return template_fail(run, "unique of values of type %s", value_type_name(&key));
        }
        if (value_dict_get(seen.dict, &key)) {
            continue;
        }
        if (value_dict_set(&run->arena, seen.dict, &key, &none)) {
            return template_no_memory(run);
        }
        items[kept++] = list.list->items[i];
    }
    return template_list(run, VALUE_LIST, items, kept, &list) || template_generator(run, &list, out)
               ? -1
               : 0;
}

/* A list of `n` elements from `items`, and `fill` behind them up to `width`. */
static int filled(struct template_run *run, const struct value *items, size_t n,
                  const struct value *fill, size_t width, struct value *out) {
    struct value *row = value_alloc(&run->arena, (n > width ? n : width) * sizeof *row);
    if (!row) {
        return template_no_memory(run);
    }
    if (n) {
        memcpy(row, items, n * sizeof *row);
    }
    while (fill->type != VALUE_NONE && n < width) {
        row[n++] = *fill;
    }
    return template_list(run, VALUE_LIST, row, n, out);
}

static int filter_batch(struct template_run *run, const struct value *v, struct value *args,
                        struct value *out) {
    int64_t width;
    struct value list;
    if (template_to_int(run, &args[0], "batch's count", &width) ||
        template_collect(run, v, &list)) {
        return -1;
    }
    size_t n = list.list->n, rows = 0;
    if (width < 1 || width > 1000000) {
        return template_fail(run, "batch's count is from 1 to 1000000");
    }
    struct value *made = value_alloc(&run->arena, (n / (size_t)width + 1) * sizeof *made);
    if (!made) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < n; i += (size_t)width) {
        size_t left = n - i < (size_t)width ? n - i : (size_t)width;
        if (filled(run, list.list->items + i, left, or_none(&args[1]), (size_t)width,
                   &made[rows++])) {
            return -1;
        }
    }
    return template_list(run, VALUE_LIST, made, rows, &list) || template_generator(run, &list, out)
               ? -1
               : 0;
}

static int filter_slice(struct template_run *run, const struct value *v, struct value *args,
                        struct value *out) {
    int64_t slices;
    struct value list;
    if (template_to_int(run, &args[0], "slice's count", &slices) ||
        template_collect(run, v, &list)) {
        return -1;
    }
    if (slices < 1 || slices > 1000000) {
        return template_fail(run, "slice's count is from 1 to 1000000");
    }
    size_t n = list.list->n, each = n / (size_t)slices, extra = n % (size_t)slices, at = 0;
    struct value *made = value_alloc(&run->arena, (size_t)slices * sizeof *made);
    if (!made) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < (size_t)slices; i++) {
        size_t len = each + (i < extra);
        if (filled(run, list.list->items + at, len, or_none(&args[1]), i >= extra ? each + 1 : len,
                   &made[i])) {
            return -1;
        }
        at += len;
    }
    return template_list(run, VALUE_LIST, made, (size_t)slices, &list) ||
                   template_generator(run, &list, out)
               ? -1
               : 0;
}

static int filter_list(struct template_run *run, const struct value *v, struct value *args,
                       struct value *out) {
    (void)args;
    return template_collect(run, v, out);
}

static bool is_reversible(const struct value *v) {
    return v->type == VALUE_LIST || v->type == VALUE_TUPLE || v->type == VALUE_DICT ||
           v->type == VALUE_STRING || v->type == VALUE_UNDEFINED ||
           (v->type == VALUE_OBJECT && template_is_iterable(v) &&
            !template_is(v, &template_class_generator));
}

static int filter_reverse(struct template_run *run, const struct value *v, struct value *args,
                          struct value *out) {
    struct value list, bounds[3] = {value_none(), value_none(), value_int(-1)};
    (void)args;
    if (v->type == VALUE_STRING) {
        return template_slice(run, v, bounds, out);
    }
    if (template_collect(run, v, &list) || template_slice(run, &list, bounds, &list)) {
        return -1;
    }
    *out = list;
    return is_reversible(v) ? template_generator(run, &list, out) : 0;
}

static int filter_first(struct template_run *run, const struct value *v, struct value *args,
                        struct value *out) {
    struct template_iter *it = NULL;
    (void)args;
    if (template_iterate(run, v, &it)) {
        return -1;
    }
    int more = template_next(run, it, out);
    return more ? more < 0 ? -1 : 0
                : template_undefined_hint(run, "no first item: the sequence is empty", out);
}

static int filter_last(struct template_run *run, const struct value *v, struct value *args,
                       struct value *out) {
    struct value list;
    (void)args;
    if (!is_reversible(v)) {
        return template_fail(run, "last of a value of type %s", value_type_name(v));
    }
    if (template_collect(run, v, &list)) {
        return -1;
    }
    if (!list.list->n) {
        return template_undefined_hint(run, "no last item: the sequence is empty", out);
    }
    *out = list.list->items[list.list->n - 1];
    return 0;
}

static int filter_items(struct template_run *run, const struct value *v, struct value *args,
                        struct value *out) {
    struct value list;
    (void)args;
    if (v->type != VALUE_DICT && v->type != VALUE_UNDEFINED) {
        return template_fail(run, "items of a value of type %s", value_type_name(v));
    }
    size_t n = v->type == VALUE_DICT ? v->dict->n : 0;
    struct value *pairs = value_alloc(&run->arena, n * sizeof *pairs);
    if (!pairs) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < n; i++) {
        const struct value pair[2] = {v->dict->pairs[i].key, v->dict->pairs[i].value};
        if (template_list(run, VALUE_TUPLE, pair, 2, &pairs[i])) {
            return -1;
        }
    }
    return template_list(run, VALUE_LIST, pairs, n, &list) || template_generator(run, &list, out)
               ? -1
               : 0;
}

const struct template_filter template_filters_list[] = {
    {"batch", filter_batch, NULL, 1, {"linecount", "fill_with"}},
    {"dictsort", filter_dictsort, NULL, 0, {"case_sensitive", "by", "reverse"}},
    {"first", filter_first},
    {"groupby", filter_groupby, NULL, 1, {"attribute", "default", "case_sensitive"}},
    {"items", filter_items},
    {"last", filter_last},
    {"list", filter_list},
    {"reverse", filter_reverse},
    {"slice", filter_slice, NULL, 1, {"slices", "fill_with"}},
    {"sort", filter_sort, NULL, 0, {"reverse", "case_sensitive", "attribute"}},
    {"unique", filter_unique, NULL, 0, {"case_sensitive", "attribute"}},
    {NULL},
};
