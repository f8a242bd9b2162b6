/* Filters that make text of text. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/number.h"
#include "format/text/template_internal.h"

static int cased(struct template_run *run, const struct value *v, enum template_case how,
                 struct value *out) {
    struct value text;
    return template_text_of(run, v, &text) ? -1 : template_change_case(run, &text, how, out);
}

static int filter_upper(struct template_run *run, const struct value *v, struct value *args,
                        struct value *out) {
    (void)args;
    return cased(run, v, CASE_UPPER, out);
}

static int filter_lower(struct template_run *run, const struct value *v, struct value *args,
                        struct value *out) {
    (void)args;
    return cased(run, v, CASE_LOWER, out);
}

static int filter_capitalize(struct template_run *run, const struct value *v, struct value *args,
                             struct value *out) {
    (void)args;
    return cased(run, v, CASE_CAPITAL, out);
}

/* Words begin behind white space, '-' and opening brackets; unlike str.title, not behind others. */
static int filter_title(struct template_run *run, const struct value *v, struct value *args,
                        struct value *out) {
    struct value text, part, changed;
    size_t begin = run->scratch.len, word = 0, n;
    (void)args;
    if (template_text_of(run, v, &text)) {
        return -1;
    }
    const struct value_string *s = text.text;
    for (size_t i = 0; i <= s->len; i += n) {
        n = 1;
        uint32_t c = i < s->len ? value_utf8_get(s->data + i, &n) : ' ';
        if (!template_is_space(c) && (c >= 0x80 || !c || !strchr("-({[<", (int)c))) {
            continue;
        }
        if (i > word && (template_part(run, &text, word, i, &part) ||
                         template_change_case(run, &part, CASE_CAPITAL, &changed) ||
                         template_scratch(run, changed.text->data, changed.text->len))) {
            return -1;
        }
        if (i < s->len && template_scratch(run, s->data + i, n)) {
            return -1;
        }
        word = i + n;
    }
    return template_from_scratch(run, begin, out);
}

static int filter_trim(struct template_run *run, const struct value *v, struct value *args,
                       struct value *out) {
    struct value text;
    const struct value_string *chars = NULL;
    if (template_text_of(run, v, &text)) {
        return -1;
    }
    if (template_given(&args[0]) && args[0].type != VALUE_NONE) {
        if (args[0].type != VALUE_STRING) {
            return template_fail(run, "trim takes characters, not a value of type %s",
                                 value_type_name(&args[0]));
        }
        chars = args[0].text;
    }
    if (template_spend(run, text.text->len / 64 * (chars ? chars->len : 1))) {
        return -1;
    }
    size_t left = template_space_left(text.text->data, text.text->len, chars);
    size_t right =
        left < text.text->len ? template_space_right(text.text->data, text.text->len, chars) : 0;
    return template_part(run, &text, left, text.text->len - right, out);
}

static int filter_replace(struct template_run *run, const struct value *v, struct value *args,
                          struct value *out) {
    int64_t count = -1;
    struct value text, old, new;
    if (template_text_of(run, v, &text) || template_text_of(run, &args[0], &old) ||
        template_text_of(run, &args[1], &new) ||
        (template_given(&args[2]) && args[2].type != VALUE_NONE &&
         template_to_int(run, &args[2], "replace's count", &count))) {
        return -1;
    }
    text.detail = 0;
    return template_replace(run, &text, old.text, new.text, count, out);
}

static int filter_indent(struct template_run *run, const struct value *v, struct value *args,
                         struct value *out) {
    int64_t width = 4;
    bool first = value_truth(&args[1]);
    bool blank = value_truth(&args[2]);
    struct value by, text;
    size_t begin = run->scratch.len;
    if (template_need_defined(run, v)) {
        return -1;
    }
    if (v->type != VALUE_STRING) {
        return template_fail(run, "indent of a value of type %s", value_type_name(v));
    }
    if (args[0].type == VALUE_STRING) {
        by = args[0];
    } else {
        struct value one;
        if ((template_given(&args[0]) &&
             template_to_int(run, &args[0], "indent's width", &width)) ||
            template_string(run, " ", 1, &one)) {
            return -1;
        }
        struct value times = value_int(width);
        if (template_binary(run, OP_MUL, &one, &times, &by)) {
            return -1;
        }
    }
    /* One more newline, so that lines are cut as they are joined again. */
    if (template_scratch(run, v->text->data, v->text->len) || template_scratch(run, "\n", 1) ||
        template_from_scratch(run, begin, &text)) {
        return -1;
    }
    for (size_t pos = 0, from, to, line = 0; template_next_line(text.text, &pos, &from, &to);
         line++) {
        bool indented = line ? blank || to > from : first;
        if ((line && template_scratch(run, "\n", 1)) ||
            (indented && template_scratch(run, by.text->data, by.text->len)) ||
            template_scratch(run, text.text->data + from, to - from)) {
            return -1;
        }
    }
    int rc = template_from_scratch(run, begin, out);
    out->detail = v->detail;
    return rc;
}

static int filter_truncate(struct template_run *run, const struct value *v, struct value *args,
                           struct value *out) {
    int64_t length = 255, leeway = 5;
    bool kill = value_truth(&args[1]);
    struct value end = args[2], head;
    if (template_need_defined(run, v) ||
        (template_given(&args[0]) &&
         template_to_int(run, &args[0], "truncate's length", &length)) ||
        (template_given(&args[3]) && args[3].type != VALUE_NONE &&
         template_to_int(run, &args[3], "truncate's leeway", &leeway)) ||
        (!template_given(&end) && template_string(run, "...", 3, &end))) {
        return -1;
    }
    if (v->type != VALUE_STRING || end.type != VALUE_STRING) {
        return template_fail(run, "truncate takes strings");
    }
    if (length < (int64_t)end.text->n_chars || leeway < 0) {
        return template_fail(run, "truncate to less than its end takes");
    }
    if (leeway > INT64_MAX - length || (int64_t)v->text->n_chars <= length + leeway) {
        *out = *v;
        return 0;
    }
    size_t cut = template_char_offset(v->text, (size_t)length - end.text->n_chars);
    if (!kill) {
        const char *blank = memrchr(v->text->data, ' ', cut);
        cut = blank ? (size_t)(blank - v->text->data) : cut;
    }
    return template_part(run, v, 0, cut, &head) || template_binary(run, OP_ADD, &head, &end, out)
               ? -1
               : 0;
}

static int filter_center(struct template_run *run, const struct value *v, struct value *args,
                         struct value *out) {
    int64_t width = 80;
    struct value text;
    size_t begin = run->scratch.len;
    if (template_text_of(run, v, &text) ||
        (template_given(&args[0]) && template_to_int(run, &args[0], "center's width", &width))) {
        return -1;
    }
    int64_t pad = width - (int64_t)text.text->n_chars;
    int64_t left = pad > 0 ? pad / 2 + (pad & width & 1) : 0;
    for (int64_t i = 0; i < left; i++) {
        if (template_scratch(run, " ", 1)) {
            return -1;
        }
    }
    if (template_scratch(run, text.text->data, text.text->len)) {
        return -1;
    }
    for (int64_t i = left; i < pad; i++) {
        if (template_scratch(run, " ", 1)) {
            return -1;
        }
    }
    return template_from_scratch(run, begin, out);
}

static int filter_format(struct template_run *run, const struct value *v,
                         struct template_call *call, struct value *out) {
    struct value text, args;
    if (call->n && call->n_named) {
        return template_fail(run, "format takes either named arguments or others");
    }
    if (template_text_of(run, v, &text)) {
        return -1;
    }
    if (!call->n_named) {
        return template_list(run, VALUE_TUPLE, call->args, call->n, &args) ||
                       template_percent(run, &text, &args, out)
                   ? -1
                   : 0;
    }
    if (value_make_dict(&run->arena, &args)) {
        return template_no_memory(run);
    }
    for (size_t i = 0; i < call->n_named; i++) {
        struct value key = {.type = VALUE_STRING, .text = call->names[i]};
        if (value_dict_set(&run->arena, args.dict, &key, &call->values[i])) {
            return template_no_memory(run);
        }
    }
    return template_percent(run, &text, &args, out);
}

static int filter_wordcount(struct template_run *run, const struct value *v, struct value *args,
                            struct value *out) {
    struct value text;
    int64_t words = 0;
    bool within = false;
    (void)args;
    if (template_text_of(run, v, &text) || template_spend(run, text.text->len / 16)) {
        return -1;
    }
    for (size_t i = 0, n; i < text.text->len; i += n) {
        uint32_t c = value_utf8_get(text.text->data + i, &n);
        bool word = c == '_' || template_is_alnum(c);
        words += word && !within;
        within = word;
    }
    *out = value_int(words);
    return 0;
}

static int filter_filesize(struct template_run *run, const struct value *v, struct value *args,
                           struct value *out) {
    static const char *const units[] = {"k", "M", "G", "T", "P", "E", "Z", "Y"};
    bool binary = value_truth(&args[0]);
    double base = binary ? 1024 : 1000, d = value_to_double(v), unit = base;
    char text[64];
    if (template_need_defined(run, v)) {
        return -1;
    }
    if (v->type == VALUE_STRING ? !template_read_float(v->text, &d) : !value_is_number(v)) {
        return template_fail(run, "filesizeformat of a value of type %s", value_type_name(v));
    }
    if (d == 1 || d < base) {
        number_print(text, sizeof text, d == 1 ? "1 Byte" : "%.0f Bytes", trunc(d));
    } else {
        int i = 0;
        for (; i < 7 && d >= unit * base; i++) {
            unit *= base;
        }
        number_print(text, sizeof text, "%.1f %s%sB", d / unit, binary && !i ? "K" : units[i],
                     binary ? "i" : "");
    }
    return template_string(run, text, strlen(text), out);
}

static int filter_safe(struct template_run *run, const struct value *v, struct value *args,
                       struct value *out) {
    (void)args;
    if (template_text_of(run, v, out)) {
        return -1;
    }
    out->detail = true;
    return 0;
}

static int filter_escape(struct template_run *run, const struct value *v, struct value *args,
                         struct value *out) {
    (void)args;
    return template_escape(run, v, out);
}

static int filter_forceescape(struct template_run *run, const struct value *v, struct value *args,
                              struct value *out) {
    struct value text;
    (void)args;
    if (template_text_of(run, v, &text)) {
        return -1;
    }
    text.detail = 0;
    return template_escape(run, &text, out);
}

const struct template_filter template_filters_text[] = {
    {"capitalize", filter_capitalize},
    {"center", filter_center, NULL, 0, {"width"}},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"filesizeformat", filter_filesize, NULL, 0, {"binary"}},
    {"forceescape", filter_forceescape},
    {"format", NULL, filter_format},
    {"indent", filter_indent, NULL, 0, {"width", "first", "blank"}},
    {"lower", filter_lower},
    {"replace", filter_replace, NULL, 2, {"old", "new", "count"}},
    {"safe", filter_safe},
    {"title", filter_title},
    {"trim", filter_trim, NULL, 0, {"chars"}},
    {"truncate", filter_truncate, NULL, 0, {"length", "killwords", "end", "leeway"}},
    {"upper", filter_upper},
    {"wordcount", filter_wordcount},
    {NULL},
};
