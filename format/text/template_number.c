/* Numbers into text, as the formats of template_format.c ask for. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "format/text/template_internal.h"

/* The digits of an integer without its sign. */
static void digits_of(const struct value *v, char type, char *text, size_t room) {
    int64_t i = v->type == VALUE_BOOL ? v->boolean : v->integer;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    if (type == 'b') {
        int n = 0;
        for (int bit = 63; bit >= 0; bit--) {
            if (u >> bit & 1 || n || !bit) {
                text[n++] = (char)('0' + (u >> bit & 1));
            }
        }
        text[n] = 0;
        return;
    }
    snprintf(text, room,
             type == 'x'   ? "%llx"
             : type == 'X' ? "%llX"
             : type == 'o' ? "%llo"
                           : "%llu",
             (unsigned long long)u);
}

static void float_digits(double d, const struct template_spec *s, char *text, size_t room) {
    char how[16];
    int precision = s->precision < 0 ? 6 : (int)s->precision;
    if (!isfinite(d)) {
        bool upper = s->type == 'F' || s->type == 'E' || s->type == 'G';
        snprintf(text, room, "%s", isnan(d) ? (upper ? "NAN" : "nan") : upper ? "INF" : "inf");
        return;
    }
    snprintf(how, sizeof how, "%%%s.*%c", s->alternative ? "#" : "",
             s->type == '%' ? 'f' : s->type);
    snprintf(text, room, how, precision, fabs(s->type == '%' ? d * 100 : d));
    if (s->type == '%' && strlen(text) + 1 < room) {
        strncat(text, "%", 2);
    }
}

static void add_groups(char *text, size_t room, char mark) {
    char copy[TEMPLATE_NUMBER_ROOM];
    size_t whole = strspn(text, "0123456789"), n = 0;
    snprintf(copy, sizeof copy, "%s", text);
    for (size_t i = 0; copy[i] && n + 2 < room; i++) {
        if (i && i < whole && (whole - i) % 3 == 0) {
            text[n++] = mark;
        }
        text[n++] = copy[i];
    }
    text[n] = 0;
}

/* A number's text: its sign (or 0) and what follows. */
int template_number_text(struct template_run *run, const struct value *v,
                         const struct template_spec *s, char *sign, char *text, size_t room) {
    bool floating = s->type && strchr("eEfFgG%", s->type);
    bool negative;
    if (v->type == VALUE_BIGINT && !floating) {
        if (s->type && s->type != 'd') {
            return template_fail(run, "an integer beyond 64 bits in a format that is not decimal");
        }
        if (v->text->len >= room) {
            return template_fail(run, "an integer of more than %zu digits in a format", room);
        }
        negative = v->text->data[0] == '-';
        snprintf(text, room, "%s", v->text->data + negative);
    } else if (floating) {
        double d = value_to_double(v);
        negative = signbit(d) && !isnan(d);
        if (s->precision > 100) {
            return template_fail(run, "a precision of more than 100");
        }
        float_digits(d, s, text, room);
    } else if (v->type == VALUE_FLOAT) {
        negative = signbit(v->number) && !isnan(v->number);
        value_float_text(negative ? -v->number : v->number, text);
    } else {
        negative = v->type == VALUE_INT && v->integer < 0;
        digits_of(v, s->type, text, room);
    }
    if (s->group) {
        add_groups(text, room, s->group);
    }
    *sign = negative ? '-' : s->plus ? '+' : s->blank ? ' ' : 0;
    return 0;
}
