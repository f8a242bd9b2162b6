/* Tests, which stand behind `is`. */
#include <string.h>
#include <utf8proc.h>

#include "format/text/template_internal.h"

#define TEST(name)                                                                                 \
    static int test_##name(struct template_run *run, const struct value *v, struct value *args,    \
                           bool *out)

/* ---- kinds --------------------------------------------------------------------------------- */

enum kind {
    KIND_DEFINED,
    KIND_UNDEFINED,
    KIND_NONE,
    KIND_BOOLEAN,
    KIND_FALSE,
    KIND_TRUE,
    KIND_INTEGER,
    KIND_FLOAT,
    KIND_NUMBER,
    KIND_STRING,
    KIND_MAPPING,
    KIND_SEQUENCE,
    KIND_ITERABLE,
    KIND_CALLABLE,
    KIND_ESCAPED
};

static bool is_kind(const struct value *v, enum kind kind) {
    bool integer = v->type == VALUE_INT || v->type == VALUE_BIGINT;
    switch (kind) {
    case KIND_DEFINED:
        return v->type != VALUE_UNDEFINED;
    case KIND_UNDEFINED:
        return v->type == VALUE_UNDEFINED;
    case KIND_NONE:
        return v->type == VALUE_NONE;
    case KIND_BOOLEAN:
        return v->type == VALUE_BOOL;
    case KIND_FALSE:
        return v->type == VALUE_BOOL && !v->boolean;
    case KIND_TRUE:
        return v->type == VALUE_BOOL && v->boolean;
    case KIND_INTEGER:
        return integer;
    case KIND_FLOAT:
        return v->type == VALUE_FLOAT;
    case KIND_NUMBER:
        return value_is_number(v);
    case KIND_STRING:
        return v->type == VALUE_STRING;
    case KIND_MAPPING:
        return v->type == VALUE_DICT;
    case KIND_SEQUENCE: /* has a length and elements; undefined has both, of nothing */
        return v->type == VALUE_UNDEFINED || v->type == VALUE_STRING || v->type == VALUE_LIST ||
               v->type == VALUE_TUPLE || v->type == VALUE_DICT ||
               template_is(v, &template_class_range);
    case KIND_ITERABLE:
        return template_is_iterable(v) || template_is(v, &template_class_loop);
    case KIND_CALLABLE:
        return v->type == VALUE_UNDEFINED || (v->type == VALUE_OBJECT && !template_is_iterable(v) &&
                                              !template_is(v, &template_class_namespace));
    default:
        return v->type == VALUE_STRING && v->detail;
    }
}

#define KIND_TEST(name, kind)                                                                      \
    TEST(name) {                                                                                   \
        (void)run;                                                                                 \
        (void)args;                                                                                \
        *out = is_kind(v, kind);                                                                   \
        return 0;                                                                                  \
    }
KIND_TEST(defined, KIND_DEFINED)
KIND_TEST(undefined, KIND_UNDEFINED)
KIND_TEST(none, KIND_NONE)
KIND_TEST(boolean, KIND_BOOLEAN)
KIND_TEST(is_false, KIND_FALSE)
KIND_TEST(is_true, KIND_TRUE)
KIND_TEST(integer, KIND_INTEGER)
KIND_TEST(float, KIND_FLOAT)
KIND_TEST(number, KIND_NUMBER)
KIND_TEST(string, KIND_STRING)
KIND_TEST(mapping, KIND_MAPPING)
KIND_TEST(sequence, KIND_SEQUENCE)
KIND_TEST(iterable, KIND_ITERABLE)
KIND_TEST(callable, KIND_CALLABLE)
KIND_TEST(escaped, KIND_ESCAPED)

/* ---- comparisons ---------------------------------------------------------------------------- */

#define COMPARE_TEST(name, op)                                                                     \
    TEST(name) {                                                                                   \
        return template_compare(run, op, v, &args[0], out);                                        \
    }
COMPARE_TEST(eq, OP_EQ)
COMPARE_TEST(ne, OP_NE)
COMPARE_TEST(lt, OP_LT)
COMPARE_TEST(le, OP_LE)
COMPARE_TEST(gt, OP_GT)
COMPARE_TEST(ge, OP_GE)
COMPARE_TEST(in, OP_IN)

/* The same thing, not an equal one. */
TEST(sameas) {
    const struct value *w = &args[0];
    if (template_spend_on(run, v)) {
        return -1;
    }
    switch (v->type) {
    case VALUE_LIST:
    case VALUE_TUPLE:
        *out = w->type == v->type && w->list == v->list;
        return 0;
    case VALUE_DICT:
        *out = w->type == v->type && w->dict == v->dict;
        return 0;
    case VALUE_OBJECT:
    case VALUE_NONE:
    case VALUE_BOOL:
        *out = w->type == v->type && value_equal(v, w);
        return 0;
    default: /* where Python keeps equal ones apart is no rule of the language */
        *out = w->type == v->type && value_equal(v, w) && v->type != VALUE_UNDEFINED;
        return 0;
    }
}

/* ---- numbers and text ----------------------------------------------------------------------- */

static int remainder_is(struct template_run *run, const struct value *v, const struct value *by,
                        int64_t is, bool *out) {
    struct value rest, expected = value_int(is);
    if (template_binary(run, OP_MOD, v, by, &rest)) {
        return -1;
    }
    *out = value_equal(&rest, &expected);
    return 0;
}

TEST(odd) {
    struct value two = value_int(2);
    (void)args;
    return remainder_is(run, v, &two, 1, out);
}

TEST(even) {
    struct value two = value_int(2);
    (void)args;
    return remainder_is(run, v, &two, 0, out);
}

TEST(divisibleby) {
    return remainder_is(run, v, &args[0], 0, out);
}

static int has_case(struct template_run *run, const struct value *v, bool upper, bool *out) {
    struct value text;
    bool any = false, other = false;
    if (template_text_of(run, v, &text) || template_spend(run, text.text->len / 16)) {
        return -1;
    }
    for (size_t i = 0, n; i < text.text->len; i += n) {
        uint32_t c = value_utf8_get(text.text->data + i, &n);
        utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
        bool is = k == (upper ? UTF8PROC_CATEGORY_LU : UTF8PROC_CATEGORY_LL);
        any |= is;
        other |= !is && (k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL ||
                         k == UTF8PROC_CATEGORY_LT);
    }
    *out = any && !other;
    return 0;
}

TEST(lower) {
    (void)args;
    return has_case(run, v, false, out);
}

TEST(upper) {
    (void)args;
    return has_case(run, v, true, out);
}

/* What is looked up by name has to be a key; one that is no string names nothing. */
static int check_name(struct template_run *run, const struct value *v) {
    if (template_spend_on(run, v)) {
        return -1;
    }
    return value_hashable(v)
               ? 0
               : template_fail(run, "a value of type %s has no name", value_type_name(v));
}

TEST(filter) {
    (void)args;
    *out = v->type == VALUE_STRING && template_find_filter(v->text);
    return check_name(run, v);
}

TEST(test) {
    (void)args;
    *out = v->type == VALUE_STRING && template_find_test(v->text);
    return check_name(run, v);
}

/* ---- the table ----------------------------------------------------------------------------- */

static const struct template_test tests[] = {
    {"!=", test_ne, 1, {"b"}},
    {"<", test_lt, 1, {"b"}},
    {"<=", test_le, 1, {"b"}},
    {"==", test_eq, 1, {"b"}},
    {">", test_gt, 1, {"b"}},
    {">=", test_ge, 1, {"b"}},
    {"boolean", test_boolean},
    {"callable", test_callable},
    {"defined", test_defined},
    {"divisibleby", test_divisibleby, 1, {"num"}},
    {"eq", test_eq, 1, {"b"}},
    {"equalto", test_eq, 1, {"b"}},
    {"escaped", test_escaped},
    {"even", test_even},
    {"false", test_is_false},
    {"filter", test_filter},
    {"float", test_float},
    {"ge", test_ge, 1, {"b"}},
    {"greaterthan", test_gt, 1, {"b"}},
    {"gt", test_gt, 1, {"b"}},
    {"in", test_in, 1, {"seq"}},
    {"integer", test_integer},
    {"iterable", test_iterable},
    {"le", test_le, 1, {"b"}},
    {"lessthan", test_lt, 1, {"b"}},
    {"lower", test_lower},
    {"lt", test_lt, 1, {"b"}},
    {"mapping", test_mapping},
    {"ne", test_ne, 1, {"b"}},
    {"none", test_none},
    {"number", test_number},
    {"odd", test_odd},
    {"sameas", test_sameas, 1, {"other"}},
    {"sequence", test_sequence},
    {"string", test_string},
    {"test", test_test},
    {"true", test_is_true},
    {"undefined", test_undefined},
    {"upper", test_upper},
};

const struct template_test *template_find_test(const struct value_string *name) {
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        if (!strcmp(tests[i].name, name->data) && strlen(tests[i].name) == name->len) {
            return &tests[i];
        }
    }
    return NULL;
}

int template_run_test(struct template_run *run, const struct template_test *row,
                      const struct value *v, struct template_call *call, bool *out) {
    struct value args[MAX_PARAMETERS];
    return template_place_args(run, "test", row->name, row->parameters, row->required, call, args)
               ? -1
               : row->apply(run, v, args, out);
}
