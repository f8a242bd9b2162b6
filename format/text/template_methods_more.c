/* Methods of strings that change or ask for the kind of characters, and those of other types. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "format/text/template_internal.h"

/* ---- case ---------------------------------------------------------------------------------- */

#define CASE_METHOD(name, how)                                                                     \
    static int str_##name(struct template_run *run, const struct value *v, struct value *args,     \
                          struct value *out) {                                                     \
        (void)args;                                                                                \
        return template_change_case(run, v, how, out);                                             \
    }
CASE_METHOD(upper, CASE_UPPER)
CASE_METHOD(lower, CASE_LOWER)
CASE_METHOD(capitalize, CASE_CAPITAL)
CASE_METHOD(title, CASE_TITLE)
CASE_METHOD(swapcase, CASE_SWAP)
CASE_METHOD(casefold, CASE_FOLD)

/* ---- kinds of characters -------------------------------------------------------------------- */

static bool is_decimal(uint32_t c) {
    return utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_ND;
}

static bool is_digit(uint32_t c) { /* and those above and below the line */
    return is_decimal(c) || c == 0xb2 || c == 0xb3 || c == 0xb9 || c == 0x2070 ||
           (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089);
}

static bool is_numeric(uint32_t c) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}

static bool is_alpha(uint32_t c) {
    return template_is_alnum(c) && !is_numeric(c);
}

static bool is_ascii(uint32_t c) {
    return c < 0x80;
}

static int all_are(struct template_run *run, const struct value *v, bool (*is)(uint32_t),
                   bool if_empty, struct value *out) {
    bool all = v->text->len || if_empty;
    for (size_t i = 0, n; all && i < v->text->len; i += n) {
        all = is(value_utf8_get(v->text->data + i, &n));
    }
    *out = value_bool(all);
    return template_spend(run, v->text->len / 16);
}

#define KIND_METHOD(name, is, if_empty)                                                            \
    static int str_##name(struct template_run *run, const struct value *v, struct value *args,     \
                          struct value *out) {                                                     \
        (void)args;                                                                                \
        return all_are(run, v, is, if_empty, out);                                                 \
    }
KIND_METHOD(isalnum, template_is_alnum, false)
KIND_METHOD(isalpha, is_alpha, false)
KIND_METHOD(isascii, is_ascii, true)
KIND_METHOD(isdecimal, is_decimal, false)
KIND_METHOD(isdigit, is_digit, false)
KIND_METHOD(isnumeric, is_numeric, false)
KIND_METHOD(isspace, template_is_space, false)

static int by_test(struct template_run *run, const struct value *v, const char *name,
                   struct value *out) {
    struct template_call none = {0};
    struct value text;
    bool is;
    if (template_string(run, name, strlen(name), &text) ||
        template_run_test(run, template_find_test(text.text), v, &none, &is)) {
        return -1;
    }
    *out = value_bool(is);
    return 0;
}

static int str_islower(struct template_run *run, const struct value *v, struct value *args,
                       struct value *out) {
    (void)args;
    return by_test(run, v, "lower", out);
}

static int str_isupper(struct template_run *run, const struct value *v, struct value *args,
                       struct value *out) {
    (void)args;
    return by_test(run, v, "upper", out);
}

static int str_isidentifier(struct template_run *run, const struct value *v, struct value *args,
                            struct value *out) {
    bool is = v->text->len > 0;
    (void)run;
    (void)args;
    for (size_t i = 0, n; is && i < v->text->len; i += n) {
        is = template_is_word(value_utf8_get(v->text->data + i, &n), i == 0);
    }
    *out = value_bool(is);
    return 0;
}

/* ---- padding ------------------------------------------------------------------------------- */

static int pad(struct template_run *run, const struct value *v, const struct value *args, int left,
               struct value *out) {
    int64_t width, n;
    const char *fill = " ";
    size_t fill_len = 1, begin = run->scratch.len;
    if (template_to_int(run, &args[0], "a width", &width)) {
        return -1;
    }
    if (template_given(&args[1])) {
        if (args[1].type != VALUE_STRING || args[1].text->n_chars != 1) {
            return template_fail(run, "padding is one character");
        }
        fill = args[1].text->data;
        fill_len = args[1].text->len;
    }
    int64_t need = width - (int64_t)v->text->n_chars;
    need = need < 0 ? 0 : need;
    /* 2: all on the left, 0: all on the right, 1: half, and where it is odd as Python does. */
    n = left == 2 ? need : left ? need / 2 + (need & width & 1) : 0;
    for (int64_t i = 0; i < need; i++) {
        if ((i == n && template_scratch(run, v->text->data, v->text->len)) ||
            template_scratch(run, fill, fill_len)) {
            return -1;
        }
    }
    if (n == need && template_scratch(run, v->text->data, v->text->len)) {
        return -1;
    }
    int rc = template_from_scratch(run, begin, out);
    out->detail = v->detail;
    return rc;
}

static int str_ljust(struct template_run *run, const struct value *v, struct value *args,
                     struct value *out) {
    return pad(run, v, args, 0, out);
}

static int str_rjust(struct template_run *run, const struct value *v, struct value *args,
                     struct value *out) {
    return pad(run, v, args, 2, out);
}

static int str_center(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    return pad(run, v, args, 1, out);
}

static int str_zfill(struct template_run *run, const struct value *v, struct value *args,
                     struct value *out) {
    int64_t width;
    size_t begin = run->scratch.len, sign = v->text->len && strchr("+-", v->text->data[0]) ? 1 : 0;
    if (template_to_int(run, &args[0], "a width", &width) ||
        template_scratch(run, v->text->data, sign)) {
        return -1;
    }
    for (int64_t i = (int64_t)v->text->n_chars; i < width; i++) {
        if (template_scratch(run, "0", 1)) {
            return -1;
        }
    }
    if (template_scratch(run, v->text->data + sign, v->text->len - sign)) {
        return -1;
    }
    return template_from_scratch(run, begin, out);
}

static int str_expandtabs(struct template_run *run, const struct value *v, struct value *args,
                          struct value *out) {
    int64_t size = 8, column = 0;
    size_t begin = run->scratch.len, n;
    if (template_given(&args[0]) && template_to_int(run, &args[0], "a width", &size)) {
        return -1;
    }
    for (size_t i = 0; i < v->text->len; i += n) {
        uint32_t c = value_utf8_get(v->text->data + i, &n);
        if (c != '\t') {
            column = c == '\n' || c == '\r' ? 0 : column + 1;
            if (template_scratch(run, v->text->data + i, n)) {
                return -1;
            }
            continue;
        }
        for (int64_t k = size > 0 ? size - column % size : 0; k > 0; k--, column++) {
            if (template_scratch(run, " ", 1)) {
                return -1;
            }
        }
    }
    return template_from_scratch(run, begin, out);
}

static int str_format(struct template_run *run, const struct value *v, struct template_call *call,
                      struct value *out) {
    return template_format(run, v, call, out);
}

/* ---- lists --------------------------------------------------------------------------------- */

static int list_count(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    int64_t n = 0;
    if (template_spend_on(run, v)) {
        return -1;
    }
    for (size_t i = 0; i < v->list->n; i++) {
        n += value_equal(&v->list->items[i], &args[0]);
    }
    *out = value_int(n);
    return 0;
}

static int list_index(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    struct value bounds[3] = {template_given(&args[1]) ? args[1] : value_none(),
                              template_given(&args[2]) ? args[2] : value_none(), value_none()};
    int64_t start = 0, step = 1;
    size_t count = 0;
    if (template_spend_on(run, v) ||
        template_slice_bounds(run, bounds, v->list->n, &start, &count, &step)) {
        return -1;
    }
    for (size_t i = 0; i < count; i++) {
        if (value_equal(&v->list->items[(size_t)start + i], &args[0])) {
            *out = value_int(start + (int64_t)i);
            return 0;
        }
    }
    return template_fail(run, "the value is not in the list");
}

static int same(struct template_run *run, const struct value *v, struct value *args,
                struct value *out) {
    (void)run;
    (void)args;
    *out = *v; /* nothing changes a value, so it is its own copy */
    return 0;
}

/* ---- dicts --------------------------------------------------------------------------------- */

static int dict_get(struct template_run *run, const struct value *v, struct value *args,
                    struct value *out) {
    if (template_spend_on(run, &args[0])) {
        return -1;
    }
    if (!value_hashable(&args[0])) {
        return template_fail(run, "a value of type %s cannot be a key", value_type_name(&args[0]));
    }
    const struct value *item = value_dict_get(v->dict, &args[0]);
    *out = item ? *item : template_given(&args[1]) ? args[1] : value_none();
    return 0;
}

static int view(struct template_run *run, const struct value *v, const struct value_class *class,
                struct value *out) {
    struct template_view *made = value_alloc(&run->arena, sizeof *made);
    if (!made) {
        return template_no_memory(run);
    }
    *made = (struct template_view){{class}, v->dict};
    *out = value_object(&made->object);
    return 0;
}

static int dict_keys(struct template_run *run, const struct value *v, struct value *args,
                     struct value *out) {
    (void)args;
    return view(run, v, &template_class_keys, out);
}

static int dict_values(struct template_run *run, const struct value *v, struct value *args,
                       struct value *out) {
    (void)args;
    return view(run, v, &template_class_values, out);
}

static int dict_items(struct template_run *run, const struct value *v, struct value *args,
                      struct value *out) {
    (void)args;
    return view(run, v, &template_class_pairs, out);
}

static int float_is_integer(struct template_run *run, const struct value *v, struct value *args,
                            struct value *out) {
    (void)run;
    (void)args;
    *out = value_bool(isfinite(v->number) && floor(v->number) == v->number);
    return 0;
}

/* ---- the table ----------------------------------------------------------------------------- */

const struct template_method template_methods_more[] = {
    {VALUE_STRING, "capitalize", str_capitalize},
    {VALUE_STRING, "casefold", str_casefold},
    {VALUE_STRING, "center", str_center, NULL, 1, {"width", "fillchar"}},
    {VALUE_STRING, "expandtabs", str_expandtabs, NULL, 0, {"tabsize"}},
    {VALUE_STRING, "format", NULL, str_format},
    {VALUE_STRING, "isalnum", str_isalnum},
    {VALUE_STRING, "isalpha", str_isalpha},
    {VALUE_STRING, "isascii", str_isascii},
    {VALUE_STRING, "isdecimal", str_isdecimal},
    {VALUE_STRING, "isdigit", str_isdigit},
    {VALUE_STRING, "isidentifier", str_isidentifier},
    {VALUE_STRING, "islower", str_islower},
    {VALUE_STRING, "isnumeric", str_isnumeric},
    {VALUE_STRING, "isspace", str_isspace},
    {VALUE_STRING, "isupper", str_isupper},
    {VALUE_STRING, "ljust", str_ljust, NULL, 1, {"width", "fillchar"}},
    {VALUE_STRING, "lower", str_lower},
    {VALUE_STRING, "rjust", str_rjust, NULL, 1, {"width", "fillchar"}},
    {VALUE_STRING, "swapcase", str_swapcase},
    {VALUE_STRING, "title", str_title},
    {VALUE_STRING, "upper", str_upper},
    {VALUE_STRING, "zfill", str_zfill, NULL, 1, {"width"}},
    {VALUE_LIST, "copy", same},
    {VALUE_LIST, "count", list_count, NULL, 1, {"value"}},
    {VALUE_LIST, "index", list_index, NULL, 1, {"value", "start", "stop"}},
    {VALUE_TUPLE, "count", list_count, NULL, 1, {"value"}},
    {VALUE_TUPLE, "index", list_index, NULL, 1, {"value", "start", "stop"}},
    {VALUE_DICT, "copy", same},
    {VALUE_DICT, "get", dict_get, NULL, 1, {"key", "default"}},
    {VALUE_DICT, "items", dict_items},
    {VALUE_DICT, "keys", dict_keys},
    {VALUE_DICT, "values", dict_values},
    {VALUE_FLOAT, "is_integer", float_is_integer},
    {0},
};

/* Attributes that Python has besides: with a '!' those that the sandbox refuses. */
static const struct {
    uint8_t type;
    const char *names;
} others[] = {
    {VALUE_STRING, " encode format_map isprintable istitle maketrans translate "},
    {VALUE_LIST, " !append !clear !extend !insert !pop !remove !reverse !sort "},
    {VALUE_DICT, " fromkeys !clear !pop !popitem !setdefault !update "},
    {VALUE_INT, " as_integer_ratio bit_count bit_length conjugate denominator from_bytes imag "
                "is_integer numerator real to_bytes "},
    {VALUE_FLOAT, " as_integer_ratio conjugate fromhex hex imag real "},
};

int template_find_method(const struct value *v, const struct value_string *name,
                         const struct template_method **row) {
    const struct template_method *const tables[] = {template_methods_str, template_methods_more};
    uint8_t type = v->type == VALUE_BOOL || v->type == VALUE_BIGINT ? VALUE_INT : v->type;
    char word[40];
    *row = NULL;
    for (size_t t = 0; t < sizeof tables / sizeof tables[0]; t++) {
        for (const struct template_method *m = tables[t]; m->name; m++) {
            if (m->type == type && !strcmp(m->name, name->data)) {
                *row = m;
                return 1;
            }
        }
    }
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        if (others[i].type == type && name->len < 32 && !strchr(name->data, ' ')) {
            snprintf(word, sizeof word, "!%s ", name->data);
            const char *found = strstr(others[i].names, word);
            if (found && found[-1] == ' ') {
                return 2;
            }
            word[0] = ' ';
            if (strstr(others[i].names, word)) {
                return 1;
            }
        }
    }
    return 0;
}
