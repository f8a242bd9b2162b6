/* What Python's str() and repr() give, and UTF-8. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "format/number.h"
#include "format/text/tokenizer_text.h"
#include "format/text/value.h"

/* ---- UTF-8 --------------------------------------------------------------------------------- */

bool value_utf8_check(const char *data, size_t len, size_t *bad) {
    size_t valid = text_valid(data, len);
    if (valid < len) {
        *bad = valid;
    }
    return valid == len;
}

uint32_t value_utf8_get(const char *p, size_t *bytes) {
    const unsigned char *u = (const unsigned char *)p;
    if (u[0] < 0x80) {
        *bytes = 1;
        return u[0];
    }
    if (u[0] < 0xe0) {
        *bytes = 2;
        return (u[0] & 0x1fu) << 6 | (u[1] & 0x3fu);
    }
    if (u[0] < 0xf0) {
        *bytes = 3;
        return (u[0] & 0x0fu) << 12 | (u[1] & 0x3fu) << 6 | (u[2] & 0x3fu);
    }
    *bytes = 4;
    return (u[0] & 0x07u) << 18 | (u[1] & 0x3fu) << 12 | (u[2] & 0x3fu) << 6 | (u[3] & 0x3fu);
}

size_t value_utf8_put(uint32_t c, char *p) {
    return (size_t)utf8proc_encode_char((utf8proc_int32_t)c, (utf8proc_uint8_t *)p);
}

void value_utf8_append(struct buf *out, uint32_t c) {
    char p[4];
    buf_append(out, p, value_utf8_put(c, p));
}

void value_put(struct value_writer *w, const void *bytes, size_t n) {
    if (w->over || w->out->len > w->max_bytes || n > w->max_bytes - w->out->len) {
        w->over = true;
        return;
    }
    buf_append(w->out, bytes, n);
}

static void put_text(struct value_writer *w, const char *text) {
    value_put(w, text, strlen(text));
}

/* ---- floats -------------------------------------------------------------------------------- */

void value_float_text(double d, char *text) {
    char digits[40], sign = signbit(d) ? '-' : 0;
    if (isnan(d) || isinf(d)) {
        snprintf(text, 32, "%s", isnan(d) ? "nan" : d < 0 ? "-inf" : "inf");
        return;
    }
    /* The shortest decimal that reads back as the same float. */
    for (int precision = 1; precision <= 17; precision++) {
        number_print(digits, sizeof digits, "%.*e", precision - 1, fabs(d));
        if (number_parse(digits, NULL) == fabs(d)) {
            break;
        }
    }
    char *e = strchr(digits, 'e');
    int exponent = (int)strtol(e + 1, NULL, 10), n = 0;
    for (char *p = digits; p < e; p++) { /* digits alone, without the point */
        if (*p != '.') {
            digits[n++] = *p;
        }
    }
    while (n > 1 && digits[n - 1] == '0') {
        n--;
    }
    char *at = text;
    if (sign) {
        *at++ = sign;
    }
    if (exponent < -4 || exponent >= 16) {
        snprintf(at, 31, "%c%s%.*se%c%02d", digits[0], n > 1 ? "." : "", n - 1, digits + 1,
                 exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        snprintf(at, 31, "0.%.*s%.*s", -exponent - 1, "0000", n, digits);
    } else if (n <= exponent + 1) {
        snprintf(at, 31, "%.*s%.*s.0", n, digits, exponent + 1 - n, "0000000000000000");
    } else {
        snprintf(at, 31, "%.*s.%.*s", exponent + 1, digits, n - exponent - 1,
                 digits + exponent + 1);
    }
}

/* ---- strings ------------------------------------------------------------------------------- */

static bool is_printable(uint32_t c) {
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return c == ' ';
    default:
        return true;
    }
}

static void put_quoted(struct value_writer *w, const struct value_string *s) {
    char quote = memchr(s->data, '\'', s->len) && !memchr(s->data, '"', s->len) ? '"' : '\'';
    char text[16];
    value_put(w, &quote, 1);
    for (size_t i = 0, n; i < s->len && !w->over; i += n) {
        uint32_t c = value_utf8_get(s->data + i, &n);
        if (c == (uint32_t)quote || c == '\\') {
            snprintf(text, sizeof text, "\\%c", (char)c);
        } else if (c == '\n' || c == '\r' || c == '\t') {
            snprintf(text, sizeof text, "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        } else if (is_printable(c) || c == VALUE_MARK_BEGIN || c == VALUE_MARK_END) {
            value_put(w, s->data + i, n);
            continue;
        } else {
            snprintf(text, sizeof text,
                     c < 0x100     ? "\\x%02x"
                     : c < 0x10000 ? "\\u%04x"
                                   : "\\U%08x",
                     (unsigned)c);
        }
        put_text(w, text);
    }
    value_put(w, &quote, 1);
}

/* ---- values -------------------------------------------------------------------------------- */

static int put_value(struct value_writer *w, const struct value *v, bool repr, struct err *err);

static int put_list(struct value_writer *w, const struct value *v, struct err *err) {
    bool tuple = v->type == VALUE_TUPLE;
    put_text(w, tuple ? "(" : "[");
    for (size_t i = 0; i < v->list->n && !w->over; i++) {
        put_text(w, i ? ", " : "");
        if (put_value(w, &v->list->items[i], true, err)) {
            return -1;
        }
    }
    put_text(w, !tuple ? "]" : v->list->n == 1 ? ",)" : ")");
    return 0;
}

static int put_dict(struct value_writer *w, const struct value_dict *dict, struct err *err) {
    put_text(w, "{");
    for (size_t i = 0; i < dict->n && !w->over; i++) {
        put_text(w, i ? ", " : "");
        if (put_value(w, &dict->pairs[i].key, true, err)) {
            return -1;
        }
        put_text(w, ": ");
        if (put_value(w, &dict->pairs[i].value, true, err)) {
            return -1;
        }
    }
    put_text(w, "}");
    return 0;
}

static int put_value(struct value_writer *w, const struct value *v, bool repr, struct err *err) {
    char text[40];
    switch (v->type) {
    case VALUE_UNDEFINED:
        put_text(w, repr ? "Undefined" : "");
        return 0;
    case VALUE_NONE:
        put_text(w, "None");
        return 0;
    case VALUE_BOOL:
        put_text(w, v->boolean ? "True" : "False");
        return 0;
    case VALUE_INT:
        snprintf(text, sizeof text, "%lld", (long long)v->integer);
        put_text(w, text);
        return 0;
    case VALUE_FLOAT:
        value_float_text(v->number, text);
        put_text(w, text);
        return 0;
    case VALUE_STRING:
        if (repr && v->detail) {
            put_text(w, "Markup(");
        }
        if (repr) {
            put_quoted(w, v->text);
        } else {
            value_put(w, v->text->data, v->text->len);
        }
        if (repr && v->detail) {
            put_text(w, ")");
        }
        return 0;
    case VALUE_BIGINT:
        value_put(w, v->text->data, v->text->len);
        return 0;
    case VALUE_LIST:
    case VALUE_TUPLE:
        return put_list(w, v, err);
    case VALUE_DICT:
        return put_dict(w, v->dict, err);
    default:
        return v->object->class->write
                   ? v->object->class->write(v->object, w, err)
                   : err_set(err, "a value of type %s has no text that means anything",
                             v->object->class->name);
    }
}

int value_write(struct value_writer *w, const struct value *v, bool repr, struct err *err) {
    if (put_value(w, v, repr, err)) {
        return -1;
    }
    return w->over ? err_set(err, "the text is longer than %zu bytes", w->max_bytes) : 0;
}
