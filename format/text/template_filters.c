/* Filters: how they are found and called, and those that turn one value into another. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/number.h"
#include "format/text/template_internal.h"

static int filter_default(struct template_run *run, const struct value *v, struct value *args,
                          struct value *out) {
    bool also_false = value_truth(&args[1]);
    if (v->type != VALUE_UNDEFINED && !(also_false && !value_truth(v))) {
        *out = *v;
        return 0;
    }
    *out = args[0];
    return template_given(&args[0]) ? 0 : template_string(run, "", 0, out);
}

static int filter_length(struct template_run *run, const struct value *v, struct value *args,
                         struct value *out) {
    size_t n;
    (void)args;
    if (template_length(run, v, &n)) {
        return -1;
    }
    *out = value_int((int64_t)n);
    return 0;
}

static int filter_string(struct template_run *run, const struct value *v, struct value *args,
                         struct value *out) {
    (void)args;
    return template_text_of(run, v, out);
}

static int filter_attr(struct template_run *run, const struct value *v, struct value *args,
                       struct value *out) {
    bool found;
    if (args[0].type != VALUE_STRING) {
        return template_fail(run, "attr takes the name of an attribute");
    }
    if (template_need_defined(run, v) || template_own_attr(run, v, args[0].text, out, &found)) {
        return -1;
    }
    if (!found) {
        *out = template_undefined(UNDEFINED_ATTR, args[0].text);
    }
    return 0;
}

/* ---- JSON ---------------------------------------------------------------------------------- */

static int json_style(struct template_run *run, const struct value *args,
                      struct value_json_style *style) {
    const struct value *indent = &args[1], *separators = &args[2];
    struct value text;
    style->ascii = value_truth(&args[0]);
    style->sort_keys = value_truth(&args[3]);
    if (template_given(indent) && indent->type != VALUE_NONE) {
        style->indented = true;
        if (indent->type == VALUE_STRING) {
            style->indent = indent->text;
        } else {
            int64_t n;
            char blanks[64];
            memset(blanks, ' ', sizeof blanks);
            if (template_to_int(run, indent, "tojson's indent", &n)) {
                return -1;
            }
            if (n > (int64_t)sizeof blanks) {
                return template_fail(run, "tojson indents by 64 at most");
            }
            if (template_string(run, blanks, n < 0 ? 0 : (size_t)n, &text)) {
                return -1;
            }
            style->indent = text.text;
        }
    }
    if (!template_given(separators) || separators->type == VALUE_NONE) {
        return 0;
    }
    if ((separators->type != VALUE_TUPLE && separators->type != VALUE_LIST) ||
        separators->list->n != 2 || separators->list->items[0].type != VALUE_STRING ||
        separators->list->items[1].type != VALUE_STRING) {
        return template_fail(run, "tojson's separators are two strings");
    }
    style->item = separators->list->items[0].text;
    style->of = separators->list->items[1].text;
    return 0;
}

static int filter_tojson(struct template_run *run, const struct value *v, struct value *args,
                         struct value *out) {
    struct value_json_style style = {0};
    struct value_writer w = {.out = &run->scratch, .max_bytes = run->limits.bytes};
    struct err err = {0};
    size_t begin = run->scratch.len;
    if (json_style(run, args, &style)) {
        return -1;
    }
    if (value_json_write(&w, v, &style, &err)) {
        return template_fail(run, "%s", err.msg);
    }
    return template_from_scratch(run, begin, out);
}

/* ---- numbers ------------------------------------------------------------------------------- */

static int filter_abs(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    struct value zero = value_int(0);
    (void)args;
    if (template_need_defined(run, v)) {
        return -1;
    }
    if (v->type == VALUE_FLOAT) {
        *out = value_float(fabs(v->number));
        return 0;
    }
    if (v->type == VALUE_BIGINT && v->text->data[0] != '-') {
        *out = *v;
        return 0;
    }
    if (!value_is_number(v)) {
        return template_fail(run, "abs of a value of type %s", value_type_name(v));
    }
    bool negative = v->type == VALUE_BIGINT || (v->type == VALUE_INT && v->integer < 0);
    return template_binary(run, negative ? OP_SUB : OP_ADD, &zero, v, out);
}

/* A float's whole part. */
static int truncated(struct template_run *run, double d, struct value *out) {
    if (!(d > -9.2233720368547e18 && d < 9.2233720368547e18)) {
        return template_fail(run, "an integer beyond 64 bits, with which nothing is computed here");
    }
    *out = value_int((int64_t)d);
    return 0;
}

static int filter_int(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    int64_t i, base = 10;
    double d;
    bool large = false;
    if (template_need_defined(run, v) ||
        (template_given(&args[1]) && template_to_int(run, &args[1], "int's base", &base))) {
        return -1;
    }
    *out = template_given(&args[0]) ? args[0] : value_int(0);
    switch (v->type) {
    case VALUE_BOOL:
        *out = value_int(v->boolean);
        return 0;
    case VALUE_INT:
    case VALUE_BIGINT:
        *out = *v;
        return 0;
    case VALUE_FLOAT:
        if (isinf(v->number)) {
            return template_fail(run, "infinity has no integer");
        }
        return isnan(v->number) ? 0 : truncated(run, v->number, out);
    case VALUE_STRING:
        if (base && (base < 2 || base > 36)) {
            return 0; /* as Python: nothing can be read */
        }
        if (template_read_int(v->text, (int)base, &i, &large)) {
            *out = value_int(i);
            return 0;
        }
        if (large) {
            return template_fail(run, "an integer beyond 64 bits");
        }
        return template_read_float(v->text, &d) && isfinite(d) ? truncated(run, d, out) : 0;
    default:
        return 0;
    }
}

static int filter_float(struct template_run *run, const struct value *v, struct value *args,
                        struct value *out) {
    double d;
    if (template_need_defined(run, v)) {
        return -1;
    }
    *out = template_given(&args[0]) ? args[0] : value_float(0);
    if (value_is_number(v)) {
        *out = value_float(value_to_double(v));
    } else if (v->type == VALUE_STRING && template_read_float(v->text, &d)) {
        *out = value_float(d);
    }
    return 0;
}

static int filter_round(struct template_run *run, const struct value *v, struct value *args,
                        struct value *out) {
    int64_t precision = 0;
    char text[400];
    bool ceiling = value_is_string(&args[1], "ceil"), floored = value_is_string(&args[1], "floor");
    bool whole = args[0].type == VALUE_NONE; /* as Python's round without digits: an integer */
    if (template_need_defined(run, v) ||
        (template_given(&args[0]) && !whole &&
         template_to_int(run, &args[0], "round's precision", &precision))) {
        return -1;
    }
    if (template_given(&args[1]) && !ceiling && !floored && !value_is_string(&args[1], "common")) {
        return template_fail(run, "round's method is common, ceil or floor");
    }
    if (v->type == VALUE_BIGINT && !ceiling && !floored) {
        *out = *v;
        return 0;
    }
    if (!value_is_number(v) || v->type == VALUE_BIGINT) {
        return template_fail(run, "round of a value of type %s", value_type_name(v));
    }
    if (precision < 0 || precision > 50) {
        return template_fail(run, "round's precision is from 0 to 50 here");
    }
    if (ceiling || floored) {
        double scale = pow(10, (double)precision), d = value_to_double(v) * scale;
        *out = value_float((ceiling ? ceil(d) : floor(d)) / scale);
        return 0;
    }
    if (v->type != VALUE_FLOAT) {
        *out = value_int(v->type == VALUE_BOOL ? v->boolean : v->integer);
        return 0;
    }
    if (!isfinite(v->number)) {
        *out = *v;
        return 0;
    }
    /* The nearest decimal, exactly, which is what both printf and Python find. */
    number_print(text, sizeof text, "%.*f", (int)precision, v->number);
    double rounded = number_parse(text, NULL);
    *out = value_float(rounded);
    return whole ? truncated(run, rounded, out) : 0;
}

/* ---- the table ----------------------------------------------------------------------------- */

static const struct template_filter filters[] = {
    {"abs", filter_abs},
    {"attr", filter_attr, NULL, 1, {"name"}},
    {"count", filter_length},
    {"d", filter_default, NULL, 0, {"default_value", "boolean"}},
    {"default", filter_default, NULL, 0, {"default_value", "boolean"}},
    {"float", filter_float, NULL, 0, {"default"}},
    {"int", filter_int, NULL, 0, {"default", "base"}},
    {"length", filter_length},
    {"round", filter_round, NULL, 0, {"precision", "method"}},
    {"string", filter_string},
    {"tojson", filter_tojson, NULL, 0, {"ensure_ascii", "indent", "separators", "sort_keys"}},
    {NULL},
};

const struct template_filter *template_find_filter(const struct value_string *name) {
    const struct template_filter *const tables[] = {filters, template_filters_text,
                                                    template_filters_list, template_filters_select};
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        for (const struct template_filter *row = tables[i]; row->name; row++) {
            if (!strcmp(row->name, name->data) && strlen(row->name) == name->len) {
                return row;
            }
        }
    }
    return NULL;
}

int template_run_filter(struct template_run *run, const struct template_filter *row,
                        const struct value *v, struct template_call *call, struct value *out) {
    struct value args[MAX_PARAMETERS];
    int rc = -1;
    if (template_enter(run)) {
        return -1;
    }
    if (row->apply_call) {
        rc = row->apply_call(run, v, call, out);
    } else if (!template_place_args(run, "filter", row->name, row->parameters, row->required, call,
                                    args)) {
        rc = row->apply(run, v, args, out);
    }
    template_leave(run);
    return rc;
}
