/* Filters that draw from an iterable: map and select, which are lazy, and what sums up. */
#include <string.h>

#include "format/text/template_internal.h"

/* ---- map and select ------------------------------------------------------------------------- */

static int drawing(struct template_run *run, const struct value *v, uint8_t kind,
                   struct template_iter **out) {
    struct template_iter *source;
    if (template_iterate(run, v, &source) || template_iter_new(run, source, out)) {
        return -1;
    }
    (*out)->kind = kind;
    (*out)->attribute = (*out)->fallback = value_none();
    return 0;
}

/* The call without its first `n` arguments. */
static struct template_call without(const struct template_call *call, size_t n) {
    struct template_call rest = *call;
    rest.args += n;
    rest.n -= n;
    return rest;
}

static int map_attribute(struct template_run *run, const struct template_call *call,
                         struct template_iter *it) {
    it->kind = ITER_MAP_ATTRIBUTE;
    for (size_t i = 0; i < call->n_named; i++) {
        const char *name = call->names[i]->data;
        if (!strcmp(name, "attribute")) {
            it->attribute = call->values[i];
        } else if (!strcmp(name, "default")) {
            it->fallback = call->values[i];
        } else {
            return template_fail(run, "map takes no argument '%s'", name);
        }
    }
    return 0;
}

static int filter_map(struct template_run *run, const struct value *v, struct template_call *call,
                      struct value *out) {
    struct template_iter *it = NULL;
    bool by_attribute = false;
    for (size_t i = 0; !call->n && i < call->n_named; i++) {
        by_attribute |= !strcmp(call->names[i]->data, "attribute");
    }
    if (!value_truth(v)) { /* jinja2 looks at nothing else then */
        struct value none = template_undefined(UNDEFINED_NAME, NULL);
        return template_generator(run, &none, out);
    }
    if (drawing(run, v, ITER_MAP_FILTER, &it)) {
        return -1;
    }
    if (by_attribute ? map_attribute(run, call, it) : !call->n) {
        return template_fail(run, "map takes a filter, or attribute=");
    }
    if (!by_attribute) {
        if (call->args[0].type != VALUE_STRING ||
            !(it->row = template_find_filter(call->args[0].text))) {
            return template_fail(run, "map takes the name of a filter that is known");
        }
        it->call = without(call, 1);
    }
    *out = value_object(&it->object);
    return 0;
}

static int selecting(struct template_run *run, const struct value *v, struct template_call *call,
                     bool attribute, bool negate, struct value *out) {
    struct template_iter *it = NULL;
    size_t at = attribute;
    if (!value_truth(v)) {
        struct value none = template_undefined(UNDEFINED_NAME, NULL);
        return template_generator(run, &none, out);
    }
    if (drawing(run, v, ITER_SELECT, &it)) {
        return -1;
    }
    if (attribute && !call->n) {
        return template_fail(run, "the name of an attribute is missing");
    }
    it->negate = negate;
    if (attribute) {
        it->attribute = call->args[0];
    }
    if (call->n > at) {
        if (call->args[at].type != VALUE_STRING ||
            !(it->row = template_find_test(call->args[at].text))) {
            return template_fail(run, "elements are selected by the name of a test that is known");
        }
        it->call = without(call, at + 1);
    }
    *out = value_object(&it->object);
    return 0;
}

static int filter_select(struct template_run *run, const struct value *v,
                         struct template_call *call, struct value *out) {
    return selecting(run, v, call, false, false, out);
}

static int filter_reject(struct template_run *run, const struct value *v,
                         struct template_call *call, struct value *out) {
    return selecting(run, v, call, false, true, out);
}

static int filter_selectattr(struct template_run *run, const struct value *v,
                             struct template_call *call, struct value *out) {
    return selecting(run, v, call, true, false, out);
}

static int filter_rejectattr(struct template_run *run, const struct value *v,
                             struct template_call *call, struct value *out) {
    return selecting(run, v, call, true, true, out);
}

/* ---- what sums up --------------------------------------------------------------------------- */

static int filter_join(struct template_run *run, const struct value *v, struct value *args,
                       struct value *out) {
    struct template_iter *it = NULL;
    struct value between, item, text;
    size_t begin = run->scratch.len;
    bool by = template_given(&args[1]) && args[1].type != VALUE_NONE;
    int more;
    if (template_given(&args[0]) ? template_text_of(run, &args[0], &between)
                                 : template_string(run, "", 0, &between)) {
        return -1;
    }
    if (template_iterate(run, v, &it)) {
        return -1;
    }
    for (bool first = true; (more = template_next(run, it, &item)) > 0; first = false) {
        if ((by && template_attribute(run, &item, &args[1], NULL, &item)) ||
            template_text_of(run, &item, &text) ||
            (!first && template_scratch(run, between.text->data, between.text->len)) ||
            template_scratch(run, text.text->data, text.text->len)) {
            return -1;
        }
    }
    if (more < 0 || template_from_scratch(run, begin, out)) {
        return -1;
    }
    out->detail = between.detail; /* what a marked string joins is marked */
    return 0;
}

static int filter_sum(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    struct template_iter *it = NULL;
    struct value item, sum = template_given(&args[1]) ? args[1] : value_int(0);
    bool by = template_given(&args[0]) && args[0].type != VALUE_NONE;
    int more;
    if (template_iterate(run, v, &it)) {
        return -1;
    }
    if (sum.type == VALUE_STRING) {
        return template_fail(run, "sum adds no strings: join does");
    }
    while ((more = template_next(run, it, &item)) > 0) {
        if ((by && template_attribute(run, &item, &args[0], NULL, &item)) ||
            template_binary(run, OP_ADD, &sum, &item, &sum)) {
            return -1;
        }
    }
    *out = sum;
    return more;
}

static int extreme(struct template_run *run, const struct value *v, struct value *args, bool max,
                   struct value *out) {
    struct template_iter *it = NULL;
    struct value item, key, best = value_none(), none = value_none();
    bool sensitive = value_truth(&args[0]), any = false;
    const struct value *attribute = template_given(&args[1]) ? &args[1] : &none;
    int more;
    if (template_iterate(run, v, &it)) {
        return -1;
    }
    while ((more = template_next(run, it, &item)) > 0) {
        bool better = true;
        if (template_attribute(run, &item, attribute, NULL, &key) ||
            (key.type == VALUE_STRING && !sensitive &&
             template_change_case(run, &key, CASE_LOWER, &key)) ||
            (any && template_less(run, max ? &best : &key, max ? &key : &best, &better))) {
            return -1;
        }
        if (better) {
            best = key;
            *out = item;
        }
        any = true;
    }
    return more  ? -1
           : any ? 0
                 : template_undefined_hint(run,
                                           "of an empty sequence there is no least or "
                                           "greatest item",
                                           out);
}

static int filter_min(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    return extreme(run, v, args, false, out);
}

static int filter_max(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    return extreme(run, v, args, true, out);
}

const struct template_filter template_filters_select[] = {
    {"join", filter_join, NULL, 0, {"d", "attribute"}},
    {"map", NULL, filter_map},
    {"max", filter_max, NULL, 0, {"case_sensitive", "attribute"}},
    {"min", filter_min, NULL, 0, {"case_sensitive", "attribute"}},
    {"reject", NULL, filter_reject},
    {"rejectattr", NULL, filter_rejectattr},
    {"select", NULL, filter_select},
    {"selectattr", NULL, filter_selectattr},
    {"sum", filter_sum, NULL, 0, {"attribute", "start"}},
    {NULL},
};
