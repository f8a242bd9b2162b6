/* Methods of strings: cutting, searching, joining; and how methods are found. */
#include <string.h>

#include "format/text/template_internal.h"

static int need_string(struct template_run *run, const struct value *v, const char *what) {
    if (template_need_defined(run, v)) {
        return -1;
    }
    return v->type == VALUE_STRING ? 0
                                   : template_fail(run, "%s is a string, not a value of type %s",
                                                   what, value_type_name(v));
}

/* An optional argument that may also be none: NULL then. */
static int optional_string(struct template_run *run, const struct value *v, const char *what,
                           const struct value_string **out) {
    *out = NULL;
    if (!template_given(v) || v->type == VALUE_NONE) {
        return 0;
    }
    *out = v->text;
    return need_string(run, v, what);
}

static int optional_int(struct template_run *run, const struct value *v, const char *what,
                        int64_t usual, int64_t *out) {
    *out = usual;
    return template_given(v) ? template_to_int(run, v, what, out) : 0;
}

/* ---- stripping ----------------------------------------------------------------------------- */

static int strip(struct template_run *run, const struct value *v, const struct value *args,
                 bool left, bool right, struct value *out) {
    const struct value_string *chars, *s = v->text;
    if (optional_string(run, &args[0], "what is stripped", &chars) ||
        template_spend(run, s->len / 64 * (chars ? chars->len : 1))) {
        return -1;
    }
    size_t from = left ? template_space_left(s->data, s->len, chars) : 0;
    size_t cut = right && from < s->len ? template_space_right(s->data, s->len, chars) : 0;
    return template_spend(run, (from + cut) / 16) || template_part(run, v, from, s->len - cut, out)
               ? -1
               : 0;
}

static int str_strip(struct template_run *run, const struct value *v, struct value *args,
                     struct value *out) {
    return strip(run, v, args, true, true, out);
}

static int str_lstrip(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    return strip(run, v, args, true, false, out);
}

static int str_rstrip(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    return strip(run, v, args, false, true, out);
}

/* ---- splitting ----------------------------------------------------------------------------- */

struct parts {
    struct value *items;
    size_t n, cap;
};

static int add_part(struct template_run *run, struct parts *p, const struct value *v, size_t begin,
                    size_t end) {
    if (p->n == p->cap) {
        size_t cap = p->cap ? p->cap * 2 : 8;
        struct value *items = value_alloc(&run->arena, cap * sizeof *items);
        if (!items) {
            return template_no_memory(run);
        }
        if (p->n) {
            memcpy(items, p->items, p->n * sizeof *items);
        }
        p->items = items;
        p->cap = cap;
    }
    return template_spend(run, 1) || template_part(run, v, begin, end, &p->items[p->n++]) ? -1 : 0;
}

/* By runs of white space, which leave no empty parts. */
static int split_space(struct template_run *run, const struct value *v, int64_t max, bool right,
                       struct parts *parts) {
    const char *s = v->text->data;
    size_t begin = 0, end = v->text->len, n;
    for (;;) {
        begin += template_space_left(s + begin, end - begin, NULL);
        if (begin == end) {
            return 0;
        }
        end -= template_space_right(s + begin, end - begin, NULL);
        size_t i = right ? end : begin;
        while (right ? i > begin : i < end) {
            size_t at = i;
            if (right) {
                do {
                    at--;
                } while (at > begin && ((unsigned char)s[at] & 0xc0) == 0x80);
            }
            if (template_is_space(value_utf8_get(s + at, &n))) {
                break;
            }
            i = right ? at : at + n;
        }
        if (max >= 0 && (int64_t)parts->n >= max) {
            /* The rest is one part; only the side that was not cut keeps its white space. */
            size_t whole = right ? 0 : v->text->len;
            return add_part(run, parts, v, right ? whole : begin, right ? end : whole);
        }
        if (add_part(run, parts, v, right ? i : begin, right ? end : i)) {
            return -1;
        }
        if (right) {
            end = i;
        } else {
            begin = i;
        }
    }
}

/* The last place of a part in a text, or NULL. Texts that nearly match all along take long, so that
 * is counted. */
static int find_last(struct template_run *run, const char *s, size_t len,
                     const struct value_string *part, const char **out) {
    *out = NULL;
    if (part->len > len) {
        return 0;
    }
    for (size_t at = len - part->len + 1; at-- > 0;) {
        if (part->len && s[at] != part->data[0]) {
            continue;
        }
        if (template_spend(run, part->len / 64)) {
            return -1;
        }
        if (!memcmp(s + at, part->data, part->len)) {
            *out = s + at;
            return 0;
        }
    }
    return 0;
}

static int find_part(struct template_run *run, const char *s, size_t len,
                     const struct value_string *part, bool last, const char **out) {
    if (last) {
        return find_last(run, s, len, part, out);
    }
    *out = memmem(s, len, part->data, part->len);
    return 0;
}

static int split_at(struct template_run *run, const struct value *v, const struct value_string *by,
                    int64_t max, bool right, struct parts *parts) {
    const char *s = v->text->data;
    size_t begin = 0, end = v->text->len;
    while (max < 0 || (int64_t)parts->n < max) {
        const char *at;
        if (find_part(run, s + begin, end - begin, by, right, &at)) {
            return -1;
        }
        if (!at) {
            break;
        }
        size_t i = (size_t)(at - s);
        if (right ? add_part(run, parts, v, i + by->len, end) : add_part(run, parts, v, begin, i)) {
            return -1;
        }
        if (right) {
            end = i;
        } else {
            begin = i + by->len;
        }
    }
    return add_part(run, parts, v, begin, end);
}

static int split(struct template_run *run, const struct value *v, const struct value *args,
                 bool right, struct value *out) {
    const struct value_string *by;
    struct parts parts = {0};
    int64_t max;
    if (optional_string(run, &args[0], "a separator", &by) ||
        optional_int(run, &args[1], "maxsplit", -1, &max) ||
        template_spend(run, v->text->len / 64)) {
        return -1;
    }
    if (by && !by->len) {
        return template_fail(run, "an empty separator");
    }
    if (by ? split_at(run, v, by, max, right, &parts) : split_space(run, v, max, right, &parts)) {
        return -1;
    }
    for (size_t i = 0; right && i < parts.n / 2; i++) {
        struct value swapped = parts.items[i];
        parts.items[i] = parts.items[parts.n - 1 - i];
        parts.items[parts.n - 1 - i] = swapped;
    }
    return template_list(run, VALUE_LIST, parts.items, parts.n, out);
}

static int str_split(struct template_run *run, const struct value *v, struct value *args,
                     struct value *out) {
    return split(run, v, args, false, out);
}

static int str_rsplit(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    return split(run, v, args, true, out);
}

static int str_splitlines(struct template_run *run, const struct value *v, struct value *args,
                          struct value *out) {
    bool keep = value_truth(&args[0]);
    struct parts parts = {0};
    for (size_t pos = 0, begin, end; template_next_line(v->text, &pos, &begin, &end);) {
        if (add_part(run, &parts, v, begin, keep ? pos : end)) {
            return -1;
        }
    }
    return template_list(run, VALUE_LIST, parts.items, parts.n, out);
}

static int partition(struct template_run *run, const struct value *v, const struct value *by,
                     bool right, struct value *out) {
    struct value parts[3];
    if (need_string(run, by, "a separator")) {
        return -1;
    }
    if (!by->text->len) {
        return template_fail(run, "an empty separator");
    }
    const struct value_string *s = v->text;
    const char *at;
    if (find_part(run, s->data, s->len, by->text, right, &at)) {
        return -1;
    }
    size_t i = at ? (size_t)(at - s->data) : right ? 0 : s->len, n = at ? by->text->len : 0;
    return template_part(run, v, 0, i, &parts[0]) || template_part(run, v, i, i + n, &parts[1]) ||
                   template_part(run, v, i + n, s->len, &parts[2]) ||
                   template_list(run, VALUE_TUPLE, parts, 3, out)
               ? -1
               : 0;
}

static int str_partition(struct template_run *run, const struct value *v, struct value *args,
                         struct value *out) {
    return partition(run, v, &args[0], false, out);
}

static int str_rpartition(struct template_run *run, const struct value *v, struct value *args,
                          struct value *out) {
    return partition(run, v, &args[0], true, out);
}

/* ---- searching ----------------------------------------------------------------------------- */

/* The bytes that `start` and `end`, as in a slice, leave of a string; false: they leave none, not
 * even an empty place. */
static int window(struct template_run *run, const struct value_string *s, const struct value *start,
                  const struct value *end, size_t *begin, size_t *stop, bool *any) {
    struct value bounds[3] = {value_none(), value_none(), value_none()};
    int64_t from, step;
    size_t count = 0;
    if (template_given(start)) {
        bounds[0] = *start;
    }
    if (template_given(end)) {
        bounds[1] = *end;
    }
    if (template_slice_bounds(run, bounds, s->n_chars, &from, &count, &step)) {
        return -1;
    }
    *any = !(bounds[0].type == VALUE_INT && bounds[0].integer > (int64_t)s->n_chars);
    *begin = template_char_offset(s, (size_t)from);
    *stop = template_char_offset(s, (size_t)from + count);
    return template_spend(run, s->len / 64);
}

static int affix(struct template_run *run, const struct value *v, const struct value *args,
                 bool end, struct value *out) {
    size_t begin, stop, n = 1;
    const struct value *parts = &args[0];
    bool any, is = false;
    if (window(run, v->text, &args[1], &args[2], &begin, &stop, &any)) {
        return -1;
    }
    if (parts->type == VALUE_TUPLE) {
        n = parts->list->n;
        parts = parts->list->items;
    }
    for (size_t i = 0; i < n && !is; i++) {
        if (need_string(run, &parts[i], "a prefix or suffix")) {
            return -1;
        }
        const struct value_string *p = parts[i].text;
        if (template_spend(run, 1 + p->len / 64)) {
            return -1;
        }
        is = any && stop - begin >= p->len &&
             !memcmp(v->text->data + (end ? stop - p->len : begin), p->data, p->len);
    }
    *out = value_bool(is);
    return 0;
}

static int str_startswith(struct template_run *run, const struct value *v, struct value *args,
                          struct value *out) {
    return affix(run, v, args, false, out);
}

static int str_endswith(struct template_run *run, const struct value *v, struct value *args,
                        struct value *out) {
    return affix(run, v, args, true, out);
}

static int without_affix(struct template_run *run, const struct value *v, const struct value *part,
                         bool end, struct value *out) {
    if (need_string(run, part, "a prefix or suffix")) {
        return -1;
    }
    size_t len = v->text->len, n = part->text->len;
    bool is = n <= len && !memcmp(v->text->data + (end ? len - n : 0), part->text->data, n);
    return template_part(run, v, is && !end ? n : 0, is && end ? len - n : len, out);
}

static int str_removeprefix(struct template_run *run, const struct value *v, struct value *args,
                            struct value *out) {
    return without_affix(run, v, &args[0], false, out);
}

static int str_removesuffix(struct template_run *run, const struct value *v, struct value *args,
                            struct value *out) {
    return without_affix(run, v, &args[0], true, out);
}

static int search(struct template_run *run, const struct value *v, const struct value *args,
                  bool right, bool must, struct value *out) {
    size_t begin, stop;
    bool any;
    if (need_string(run, &args[0], "what is searched for") ||
        window(run, v->text, &args[1], &args[2], &begin, &stop, &any)) {
        return -1;
    }
    const char *s = v->text->data, *at = NULL;
    const struct value_string *part = args[0].text;
    if (any && find_part(run, s + begin, stop - begin, part, right, &at)) {
        return -1;
    }
    if (!at && must) {
        return template_fail(run, "the text that is searched for is not there");
    }
    int64_t chars = at ? 0 : -1;
    for (const char *p = s; at && p < at; p++) {
        chars += ((unsigned char)*p & 0xc0) != 0x80;
    }
    *out = value_int(chars);
    return 0;
}

static int str_find(struct template_run *run, const struct value *v, struct value *args,
                    struct value *out) {
    return search(run, v, args, false, false, out);
}

static int str_rfind(struct template_run *run, const struct value *v, struct value *args,
                     struct value *out) {
    return search(run, v, args, true, false, out);
}

static int str_index(struct template_run *run, const struct value *v, struct value *args,
                     struct value *out) {
    return search(run, v, args, false, true, out);
}

static int str_rindex(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    return search(run, v, args, true, true, out);
}

static int str_count(struct template_run *run, const struct value *v, struct value *args,
                     struct value *out) {
    size_t begin, stop;
    bool any;
    int64_t n = 0;
    if (need_string(run, &args[0], "what is counted") ||
        window(run, v->text, &args[1], &args[2], &begin, &stop, &any)) {
        return -1;
    }
    const struct value_string *part = args[0].text;
    if (any && !part->len) { /* between all characters, and at both ends */
        for (size_t i = begin; i < stop; i++) {
            n += ((unsigned char)v->text->data[i] & 0xc0) != 0x80;
        }
        n++;
    }
    while (any && part->len) {
        const char *at = memmem(v->text->data + begin, stop - begin, part->data, part->len);
        if (!at) {
            break;
        }
        begin = (size_t)(at - v->text->data) + part->len;
        n++;
    }
    *out = value_int(n);
    return 0;
}

int template_replace(struct template_run *run, const struct value *v,
                     const struct value_string *old, const struct value_string *new, int64_t count,
                     struct value *out) {
    const char *s = v->text->data;
    size_t from = 0, begin = run->scratch.len, len = v->text->len, n;
    for (size_t at = 0; count != 0 && at <= len; count--) {
        const char *found = old->len ? memmem(s + at, len - at, old->data, old->len) : s + at;
        if (!found) {
            break;
        }
        size_t i = (size_t)(found - s);
        if (template_spend(run, 1) || template_scratch(run, s + from, i - from) ||
            template_scratch(run, new->data, new->len)) {
            return -1;
        }
        from = i + old->len;
        at = from;
        if (!old->len) { /* before each character, and at the end */
            if (i == len) {
                break;
            }
            value_utf8_get(s + i, &n);
            at = i + n;
        }
    }
    if (template_scratch(run, s + from, len - from) || template_from_scratch(run, begin, out)) {
        return -1;
    }
    out->detail = v->detail;
    return 0;
}

static int str_replace(struct template_run *run, const struct value *v, struct value *args,
                       struct value *out) {
    int64_t count;
    return need_string(run, &args[0], "what is replaced") ||
                   need_string(run, &args[1], "what replaces it") ||
                   optional_int(run, &args[2], "count", -1, &count)
               ? -1
               : template_replace(run, v, args[0].text, args[1].text, count, out);
}

static int str_join(struct template_run *run, const struct value *v, struct value *args,
                    struct value *out) {
    struct template_iter *it = NULL;
    struct value item;
    size_t begin = run->scratch.len;
    int more;
    if (template_iterate(run, &args[0], &it)) {
        return -1;
    }
    for (bool first = true; (more = template_next(run, it, &item)) > 0; first = false) {
        if (v->detail ? template_escape(run, &item, &item)
                      : need_string(run, &item, "what is joined")) {
            return -1;
        }
        if ((!first && template_scratch(run, v->text->data, v->text->len)) ||
            template_scratch(run, item.text->data, item.text->len)) {
            return -1;
        }
    }
    if (more || template_from_scratch(run, begin, out)) {
        return -1;
    }
    out->detail = v->detail;
    return 0;
}

const struct template_method template_methods_str[] = {
    {VALUE_STRING, "count", str_count, NULL, 1, {"sub", "start", "end"}},
    {VALUE_STRING, "endswith", str_endswith, NULL, 1, {"suffix", "start", "end"}},
    {VALUE_STRING, "find", str_find, NULL, 1, {"sub", "start", "end"}},
    {VALUE_STRING, "index", str_index, NULL, 1, {"sub", "start", "end"}},
    {VALUE_STRING, "join", str_join, NULL, 1, {"iterable"}},
    {VALUE_STRING, "lstrip", str_lstrip, NULL, 0, {"chars"}},
    {VALUE_STRING, "partition", str_partition, NULL, 1, {"sep"}},
    {VALUE_STRING, "removeprefix", str_removeprefix, NULL, 1, {"prefix"}},
    {VALUE_STRING, "removesuffix", str_removesuffix, NULL, 1, {"suffix"}},
    {VALUE_STRING, "replace", str_replace, NULL, 2, {"old", "new", "count"}},
    {VALUE_STRING, "rfind", str_rfind, NULL, 1, {"sub", "start", "end"}},
    {VALUE_STRING, "rindex", str_rindex, NULL, 1, {"sub", "start", "end"}},
    {VALUE_STRING, "rpartition", str_rpartition, NULL, 1, {"sep"}},
    {VALUE_STRING, "rsplit", str_rsplit, NULL, 0, {"sep", "maxsplit"}},
    {VALUE_STRING, "rstrip", str_rstrip, NULL, 0, {"chars"}},
    {VALUE_STRING, "split", str_split, NULL, 0, {"sep", "maxsplit"}},
    {VALUE_STRING, "splitlines", str_splitlines, NULL, 0, {"keepends"}},
    {VALUE_STRING, "startswith", str_startswith, NULL, 1, {"prefix", "start", "end"}},
    {VALUE_STRING, "strip", str_strip, NULL, 0, {"chars"}},
    {0},
};
