/*
 * number: see number.h.
 */
#include "format/number.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>

#include "format/base.h"

/* The C library has this one at hand: neither a lock nor memory is taken for it. */
static locale_t plain_locale(void) {
    locale_t plain = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (!plain) {
        die("the system has no C locale");
    }
    return plain;
}

int number_vprint(char *out, size_t size, const char *format, va_list args) {
    locale_t plain = plain_locale(), host = uselocale(plain);
    int n = vsnprintf(out, size, format, args);
    uselocale(host);
    freelocale(plain);
    return n;
}

int number_print(char *out, size_t size, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int n = number_vprint(out, size, format, args);
    va_end(args);
    return n;
}

void number_shortest_f32(char out[NUMBER_TEXT], float x) {
    enum { MOST_DIGITS = 9 }; /* by which every float is told from its neighbours */
    for (int digits = 1; digits <= MOST_DIGITS; digits++) {
        number_print(out, NUMBER_TEXT, "%.*g", digits, (double)x);
        if (number_parse_f32(out, NULL) == x) {
            return;
        }
    }
}

double number_parse(const char *text, char **end) {
    locale_t plain = plain_locale(), host = uselocale(plain);
    double x = strtod(text, end);
    uselocale(host);
    freelocale(plain);
    return x;
}

float number_parse_f32(const char *text, char **end) {
    locale_t plain = plain_locale(), host = uselocale(plain);
    float x = strtof(text, end);
    uselocale(host);
    freelocale(plain);
    return x;
}
