/* Values into text by a format: the operator % of strings, and str.format. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/text/template_internal.h"

enum { FORMAT_MAX_WIDTH = 10000 };

/* ---- padding ------------------------------------------------------------------------------- */

static int put_fill(struct template_run *run, uint32_t c, int64_t n) {
    char p[4];
    size_t len = value_utf8_put(c, p);
    for (; n > 0; n--) {
        if (template_scratch(run, p, len)) {
            return -1;
        }
    }
    return 0;
}

/* A text of `chars` characters, its sign and prefix before it, into its width. */
static int put_padded(struct template_run *run, const struct template_spec *s, const char *head,
                      const char *text, size_t len, size_t chars, char usual) {
    char align = s->align ? s->align : usual;
    int64_t need = s->width - (int64_t)chars - (int64_t)strlen(head);
    need = need < 0 ? 0 : need;
    int64_t before = align == '>' ? need : align == '^' ? need / 2 : 0;
    int64_t within = align == '=' ? need : 0;
    return put_fill(run, s->fill, before) || template_scratch(run, head, strlen(head)) ||
                   put_fill(run, s->fill, within) || template_scratch(run, text, len) ||
                   put_fill(run, s->fill, need - before - within)
               ? -1
               : 0;
}

static int put_number(struct template_run *run, const struct value *v,
                      const struct template_spec *s) {
    char text[TEMPLATE_NUMBER_ROOM], sign = 0, head[4] = {0};
    size_t n = 0;
    if (template_number_text(run, v, s, &sign, text, sizeof text)) {
        return -1;
    }
    if (sign) {
        head[n++] = sign;
    }
    if (s->alternative && s->type && strchr("xXob", s->type)) {
        head[n++] = '0';
        head[n++] = s->type;
    }
    return put_padded(run, s, head, text, strlen(text), strlen(text), '>');
}

/* Text, cut to the precision. */
static int put_string(struct template_run *run, const struct value *v,
                      const struct template_spec *s, char usual) {
    size_t chars = v->text->n_chars;
    if (s->precision >= 0 && (uint64_t)s->precision < chars) {
        chars = (size_t)s->precision;
    }
    return put_padded(run, s, "", v->text->data, template_char_offset(v->text, chars), chars,
                      usual);
}

/* str() or repr() of a value, as `how` says (s, r, a). */
static int converted(struct template_run *run, const struct value *v, char how, struct value *out) {
    struct value_writer w = {.out = &run->scratch, .max_bytes = run->limits.bytes};
    struct err err = {0};
    size_t begin = run->scratch.len;
    if (how == 's') {
        return template_text_of(run, v, out);
    }
    if (value_write(&w, v, true, &err)) {
        return template_fail(run, "%s", err.msg);
    }
    if (template_from_scratch(run, begin, out)) {
        return -1;
    }
    return how == 'a' && out->text->n_chars != out->text->len
               ? template_fail(run, "ascii() of what is not ASCII is not known")
               : 0;
}

/* ---- the operator % ------------------------------------------------------------------------- */

struct percent {
    struct template_run *run;
    const struct value_string *format;
    const struct value *args;
    size_t pos, next; /* in the format; the next of a tuple's elements */
    bool safe;
};

static int next_arg(struct percent *p, struct value *out) {
    bool tuple = p->args->type == VALUE_TUPLE;
    size_t n = tuple ? p->args->list->n : 1;
    if (p->next >= n) {
        return template_fail(p->run, "fewer values than the format takes");
    }
    *out = tuple ? p->args->list->items[p->next] : *p->args;
    p->next++;
    return 0;
}

static char peek(const struct percent *p) {
    return p->pos < p->format->len ? p->format->data[p->pos] : 0;
}

/* A number, or * for one among the values; -1 where there is none. */
static int read_size(struct percent *p, int64_t *out) {
    struct value v;
    *out = -1;
    if (peek(p) == '*') {
        p->pos++;
        return next_arg(p, &v) || template_to_int(p->run, &v, "a width", out) ? -1 : 0;
    }
    while (peek(p) >= '0' && peek(p) <= '9') {
        *out = (*out < 0 ? 0 : *out) * 10 + (peek(p) - '0');
        p->pos++;
        if (*out > FORMAT_MAX_WIDTH) {
            return template_fail(p->run, "a width of more than %d", FORMAT_MAX_WIDTH);
        }
    }
    return 0;
}

static int read_spec(struct percent *p, struct template_spec *s) {
    for (;; p->pos++) {
        switch (peek(p)) {
        case '-':
            s->left = true;
            continue;
        case '+':
            s->plus = true;
            continue;
        case ' ':
            s->blank = true;
            continue;
        case '#':
            s->alternative = true;
            continue;
        case '0':
            s->zeros = true;
            continue;
        default:
            break;
        }
        break;
    }
    if (read_size(p, &s->width)) {
        return -1;
    }
    if (s->width < -1) {
        s->left = true;
        s->width = -s->width;
    }
    if (peek(p) == '.') {
        p->pos++;
        if (read_size(p, &s->precision)) {
            return -1;
        }
        s->precision = s->precision < 0 ? 0 : s->precision;
    }
    while (peek(p) && strchr("hlL", peek(p))) {
        p->pos++;
    }
    s->type = peek(p);
    if (!s->type) {
        return template_fail(p->run, "a format that ends in the middle of a value");
    }
    p->pos++;
    return 0;
}

static int put_character(struct percent *p, struct value *v, const struct template_spec *s) {
    char text[4];
    int64_t c;
    if (v->type == VALUE_STRING && v->text->n_chars == 1) {
        return put_string(p->run, v, s, '>');
    }
    if (template_to_int(p->run, v, "a character", &c)) {
        return -1;
    }
    if (c < 0 || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
        return template_fail(p->run, "there is no character %lld", (long long)c);
    }
    return template_string(p->run, text, value_utf8_put((uint32_t)c, text), v) ||
                   put_string(p->run, v, s, '>')
               ? -1
               : 0;
}

static int put_percent(struct percent *p, struct value *v, struct template_spec *s) {
    struct value text, number = *v;
    s->fill = ' ';
    s->align = s->left ? '<' : '>';
    if (strchr("sra", s->type)) {
        if (converted(p->run, v, s->type, &text)) {
            return -1;
        }
        if (p->safe && template_escape(p->run, s->type == 's' ? v : &text, &text)) {
            return -1;
        }
        return put_string(p->run, &text, s, '>');
    }
    if (s->type == 'c') {
        return put_character(p, v, s);
    }
    if (!strchr("diuxXoeEfFgG", s->type)) {
        return template_fail(p->run, "the format has no type '%c'", s->type);
    }
    if (!value_is_number(v)) {
        return template_need_defined(p->run, v)
                   ? -1
                   : template_fail(p->run, "a number is expected, not a value of type %s",
                                   value_type_name(v));
    }
    bool integer = strchr("diuxXo", s->type) != NULL;
    if (integer && v->type == VALUE_FLOAT) {
        if (!strchr("diu", s->type) || !(fabs(v->number) < 9.2e18)) {
            return template_fail(p->run, "an integer is expected");
        }
        number = value_int((int64_t)v->number);
    }
    if (integer && s->precision >= 0) {
        return template_fail(p->run, "a precision of an integer is not known");
    }
    s->type = strchr("iu", s->type) ? 'd' : s->type;
    if (s->zeros && !s->left) {
        s->fill = '0';
        s->align = '=';
    }
    return put_number(p->run, &number, s);
}

static int percent_value(struct percent *p) {
    struct template_spec s = {.width = -1, .precision = -1};
    struct value v;
    bool named = peek(p) == '(';
    if (named) {
        size_t begin = ++p->pos, depth = 1;
        for (; depth; p->pos++) {
            if (!peek(p)) {
                return template_fail(p->run, "a name in a format has no end");
            }
            depth += (peek(p) == '(') - (size_t)(peek(p) == ')');
        }
        if (p->args->type != VALUE_DICT) {
            return template_fail(p->run, "a format with names takes a dict");
        }
        const struct value *found =
            value_dict_get_text(p->args->dict, p->format->data + begin, p->pos - 1 - begin);
        if (!found) {
            return template_fail(p->run, "the format's name '%.*s' is not in the dict",
                                 (int)(p->pos - 1 - begin), p->format->data + begin);
        }
        v = *found;
    }
    if (read_spec(p, &s)) {
        return -1;
    }
    if (s.type == '%') {
        return template_scratch(p->run, "%", 1);
    }
    return (!named && next_arg(p, &v)) || put_percent(p, &v, &s) ? -1 : 0;
}

int template_percent(struct template_run *run, const struct value *format, const struct value *args,
                     struct value *out) {
    struct percent p = {.run = run, .format = format->text, .args = args, .safe = format->detail};
    const char *s = format->text->data;
    size_t begin = run->scratch.len, len = format->text->len;
    while (p.pos < len) {
        const char *mark = memchr(s + p.pos, '%', len - p.pos);
        size_t end = mark ? (size_t)(mark - s) : len;
        if (template_scratch(run, s + p.pos, end - p.pos)) {
            return -1;
        }
        p.pos = end + (mark != NULL);
        if (mark && percent_value(&p)) {
            return -1;
        }
    }
    bool all = args->type == VALUE_TUPLE
                   ? p.next == args->list->n
                   : p.next || args->type == VALUE_DICT || args->type == VALUE_LIST ||
                         args->type == VALUE_UNDEFINED;
    if (!all) {
        return template_fail(run, "more values than the format takes");
    }
    if (template_from_scratch(run, begin, out)) {
        return -1;
    }
    out->detail = format->detail;
    return 0;
}

/* ---- str.format ---------------------------------------------------------------------------- */

struct fields {
    struct template_run *run;
    struct template_call *call;
    size_t next; /* of those without a number */
    bool automatic, numbered;
};

static int first_value(struct fields *f, const char *s, size_t n, struct value *out) {
    size_t i = 0;
    size_t digits = 0;
    while (digits < n && s[digits] >= '0' && s[digits] <= '9') {
        digits++;
    }
    if (!n || (digits == n && n < 9)) {
        f->automatic |= !n;
        f->numbered |= n > 0;
        if (f->automatic && f->numbered) {
            return template_fail(f->run, "a format with numbered fields and others");
        }
        for (size_t k = 0; k < n; k++) {
            i = i * 10 + (size_t)(s[k] - '0');
        }
        i = n ? i : f->next++;
        if (i >= f->call->n) {
            return template_fail(f->run, "fewer values than the format takes");
        }
        *out = f->call->args[i];
        return 0;
    }
    for (i = 0; i < f->call->n_named; i++) {
        if (f->call->names[i]->len == n && !memcmp(f->call->names[i]->data, s, n)) {
            *out = f->call->values[i];
            return 0;
        }
    }
    return template_fail(f->run, "the format's name '%.*s' is not given", (int)n, s);
}

/* What `name.attribute[element]` means. */
static int field_value(struct fields *f, const char *s, size_t n, struct value *out) {
    size_t at = 0;
    struct value key;
    while (at < n && s[at] != '.' && s[at] != '[') {
        at++;
    }
    if (first_value(f, s, at, out)) {
        return -1;
    }
    while (at < n) {
        bool element = s[at++] == '[';
        size_t begin = at;
        while (at < n && (element ? s[at] != ']' : s[at] != '.' && s[at] != '[')) {
            at++;
        }
        if (at == begin || (element && at == n) ||
            (element && at + 1 < n && s[at + 1] != '.' && s[at + 1] != '[')) {
            return template_fail(f->run, "a field of the format that is not understood");
        }
        if (template_string(f->run, s + begin, at - begin, &key)) {
            return -1;
        }
        if (element) {
            struct value number;
            bool large;
            if (s[begin] >= '0' && s[begin] <= '9' &&
                template_read_int(key.text, 10, &number.integer, &large)) {
                key = value_int(number.integer);
            }
            at++;
        }
        if (element ? template_get_item(f->run, out, &key, out)
                    : template_get_attr(f->run, out, key.text, out)) {
            return -1;
        }
    }
    return 0;
}

static int bad_spec(struct fields *f) {
    return template_fail(f->run, "a format specification that is not known");
}

/* [[fill]align][sign][#][0][width][group][.precision][type] */
static int parse_spec(struct fields *f, const char *p, const char *end, struct template_spec *s) {
    size_t n = 1;
    if (p < end) {
        uint32_t c = value_utf8_get(p, &n);
        if (p + n < end && strchr("<>^=", p[n])) {
            s->fill = c;
            s->align = p[n];
            p += n + 1;
        } else if (strchr("<>^=", *p)) {
            s->align = *p++;
        }
    }
    s->plus = p < end && *p == '+';
    s->blank = p < end && *p == ' ';
    p += p < end && strchr("+- ", *p);
    s->alternative = p < end && *p == '#';
    p += s->alternative;
    if (p < end && *p == '0') {
        s->fill = s->align ? s->fill : '0';
        s->align = s->align ? s->align : '=';
        s->zeros = true;
        p++;
    }
    for (int64_t *size = &s->width;; size = &s->precision) {
        for (; p < end && *p >= '0' && *p <= '9'; p++) {
            *size = (*size < 0 ? 0 : *size) * 10 + (*p - '0');
            if (*size > FORMAT_MAX_WIDTH) {
                return template_fail(f->run, "a width of more than %d", FORMAT_MAX_WIDTH);
            }
        }
        if (size == &s->width && p < end && (*p == ',' || *p == '_')) {
            s->group = *p++;
        }
        if (size == &s->precision || p == end || *p != '.') {
            break;
        }
        p++;
        if (p == end || *p < '0' || *p > '9') {
            return bad_spec(f);
        }
    }
    s->type = p < end ? *p++ : 0;
    return p == end ? 0 : bad_spec(f);
}

static int put_field(struct fields *f, const struct value *v, const char *spec, size_t n,
                     char conversion) {
    struct template_spec s = {.fill = ' ', .width = -1, .precision = -1};
    struct value text;
    if (!n || conversion) {
        if (converted(f->run, v, conversion ? conversion : 's', &text)) {
            return -1;
        }
        if (!n) {
            return template_scratch(f->run, text.text->data, text.text->len);
        }
        v = &text;
    }
    if (parse_spec(f, spec, spec + n, &s)) {
        return -1;
    }
    if (v->type == VALUE_STRING) {
        if ((s.type && s.type != 's') || s.align == '=' || s.plus || s.blank || s.alternative ||
            s.group) {
            return s.zeros && s.align == '=' && (!s.type || s.type == 's')
                       ? (s.align = '<', put_string(f->run, v, &s, '<'))
                       : bad_spec(f);
        }
        return put_string(f->run, v, &s, '<');
    }
    if (!value_is_number(v)) {
        return template_need_defined(f->run, v)
                   ? -1
                   : template_fail(f->run, "a value of type %s takes no format specification",
                                   value_type_name(v));
    }
    bool integer = v->type != VALUE_FLOAT;
    bool floating = s.type && strchr("eEfFgG%", s.type);
    if (!floating && (s.precision >= 0 || (s.type && !(integer && strchr("dxXob", s.type))) ||
                      (!integer && s.group))) {
        return bad_spec(f);
    }
    if (s.group && (s.zeros || (s.type && strchr("xXob", s.type)))) {
        return bad_spec(f);
    }
    return put_number(f->run, v, &s);
}

/* From behind an opening brace; the place behind the closing one, or 0 for an error. */
static size_t format_field(struct fields *f, const struct value_string *s, size_t pos) {
    size_t end = pos, name, depth = 0;
    char conversion = 0;
    struct value v;
    for (; end < s->len && (s->data[end] != '}' || depth); end++) {
        if (s->data[end] == '{') {
            template_fail(f->run, "a field within a field of a format is not known");
            return 0;
        }
        depth += s->data[end] == '[' && !depth;
        depth -= s->data[end] == ']' && depth;
    }
    if (end == s->len) {
        template_fail(f->run, "a field of a format has no end");
        return 0;
    }
    for (name = pos; name < end && s->data[name] != '!' && s->data[name] != ':'; name++) {
    }
    size_t spec = name;
    if (spec < end && s->data[spec] == '!') {
        conversion = spec + 1 < end ? s->data[spec + 1] : 0;
        spec += 2;
        if (!conversion || !strchr("sra", conversion) || (spec < end && s->data[spec] != ':')) {
            bad_spec(f);
            return 0;
        }
    }
    spec += spec < end;
    spec = spec > end ? end : spec;
    if (field_value(f, s->data + pos, name - pos, &v) ||
        put_field(f, &v, s->data + spec, end - spec, conversion)) {
        return 0;
    }
    return end + 1;
}

int template_format(struct template_run *run, const struct value *format,
                    struct template_call *call, struct value *out) {
    struct fields f = {.run = run, .call = call};
    const struct value_string *s = format->text;
    size_t begin = run->scratch.len;
    if (format->detail) {
        return template_fail(run, "format of a string that is marked safe is not known");
    }
    for (size_t i = 0; i < s->len;) {
        char c = s->data[i];
        if (c != '{' && c != '}') {
            size_t n = 1;
            while (i + n < s->len && s->data[i + n] != '{' && s->data[i + n] != '}') {
                n++;
            }
            if (template_scratch(run, s->data + i, n)) {
                return -1;
            }
            i += n;
        } else if (i + 1 < s->len && s->data[i + 1] == c) {
            if (template_scratch(run, &c, 1)) {
                return -1;
            }
            i += 2;
        } else if (c == '}') {
            return template_fail(run, "a brace in a format that closes nothing");
        } else if (!(i = format_field(&f, s, i + 1))) {
            return -1;
        }
    }
    return template_from_scratch(run, begin, out);
}
