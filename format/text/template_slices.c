/* Slices: x[start:stop:step]. */
#include <string.h>

#include "format/text/template_internal.h"

static int bound(struct template_run *run, const struct value *v, int64_t usual, int64_t *out) {
    if (v->type == VALUE_NONE) {
        *out = usual;
        return 0;
    }
    if (v->type == VALUE_BIGINT) {
        *out = v->text->data[0] == '-' ? -INT64_MAX : INT64_MAX;
        return 0;
    }
    return template_to_int(run, v, "a bound of a slice", out);
}

int template_slice_bounds(struct template_run *run, const struct value *bounds, size_t n,
                          int64_t *start, size_t *count, int64_t *step) {
    int64_t len = (int64_t)n, stop = 0;
    if (bound(run, &bounds[2], 1, step)) {
        return -1;
    }
    if (!*step) {
        return template_fail(run, "a slice with a step of zero");
    }
    *step = *step < -INT64_MAX ? -INT64_MAX : *step;
    bool back = *step < 0;
    if (bound(run, &bounds[0], back ? INT64_MAX : 0, start) ||
        bound(run, &bounds[1], back ? INT64_MIN : INT64_MAX, &stop)) {
        return -1;
    }
    int64_t low = back ? -1 : 0, high = back ? len - 1 : len;
    *start += *start < 0 ? len : 0;
    *start = *start < low ? low : *start > high ? high : *start;
    /* Where nothing is given, going back ends before the first, and -1 would be the last. */
    if (bounds[1].type == VALUE_NONE) {
        stop = back ? -1 : len;
    } else {
        stop += stop < 0 ? len : 0;
        stop = stop < low ? low : stop > high ? high : stop;
    }
    int64_t span = back ? *start - stop : stop - *start, by = back ? -*step : *step;
    *count = span > 0 ? (size_t)((span - 1) / by + 1) : 0;
    return 0;
}

static int slice_string(struct template_run *run, const struct value *v, int64_t start,
                        size_t count, int64_t step, struct value *out) {
    size_t begin = run->scratch.len;
    if (template_spend(run, v->text->len / 64 + count)) {
        return -1;
    }
    if (step == 1 || !count) {
        size_t from = count ? template_char_offset(v->text, (size_t)start) : 0;
        size_t to = count ? template_char_offset(v->text, (size_t)start + count) : 0;
        return template_part(run, v, from, to, out);
    }
    size_t *offsets = value_alloc(&run->arena, (v->text->n_chars + 1) * sizeof *offsets);
    if (!offsets) {
        return template_no_memory(run);
    }
    for (size_t i = 0, k = 0, n; i < v->text->len; i += n) {
        value_utf8_get(v->text->data + i, &n);
        offsets[k++] = i;
        offsets[k] = i + n;
    }
    for (size_t i = 0; i < count; i++) {
        size_t at = (size_t)(start + (int64_t)i * step);
        if (template_scratch(run, v->text->data + offsets[at], offsets[at + 1] - offsets[at])) {
            return -1;
        }
    }
    int rc = template_from_scratch(run, begin, out);
    out->detail = v->detail;
    return rc;
}

int template_slice(struct template_run *run, const struct value *v, const struct value *bounds,
                   struct value *out) {
    int64_t start = 0, step = 1;
    size_t count = 0;
    if (template_need_defined(run, v)) {
        return -1;
    }
    if (v->type != VALUE_STRING && v->type != VALUE_LIST && v->type != VALUE_TUPLE) {
        return template_fail(run, "a value of type %s has no slices", value_type_name(v));
    }
    if (template_slice_bounds(run, bounds, v->type == VALUE_STRING ? v->text->n_chars : v->list->n,
                              &start, &count, &step)) {
        return -1;
    }
    if (v->type == VALUE_STRING) {
        return slice_string(run, v, start, count, step, out);
    }
    struct value *items = value_alloc(&run->arena, count * sizeof *items);
    if (!items) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < count; i++) {
        items[i] = v->list->items[start + (int64_t)i * step];
    }
    return template_list(run, (enum value_type)v->type, items, count, out);
}
