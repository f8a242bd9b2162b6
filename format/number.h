/*
 * number: numbers in texts, with a point, whatever the locale of the host program is.
 *
 * The library runs inside other programs, and printf and strtod follow the locale that those set:
 * in a German one 1.5 is printed "1,5" and "1.5" is read as 1. JSON, templates, metadata and
 * messages mean the same everywhere, so all that prints or reads numbers with a fraction goes
 * through here; err_set and buf_printf do.
 *
 * Owns: nothing.
 * Leaves to others: what is printed, and what is done with what is left of a text.
 * Threads: any. The locale is changed for the calling thread only, until a call returns.
 */
#ifndef FORMAT_NUMBER_H
#define FORMAT_NUMBER_H

#include <stdarg.h>
#include <stddef.h>

/* vsnprintf and snprintf in the C locale: up to `size` bytes to `out`, with a NUL; the length that
 * the whole text has, or a negative number. */
int number_vprint(char *out, size_t size, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));
int number_print(char *out, size_t size, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The shortest decimal that reads back as the same float, to `out`; "inf", "-inf" or "nan" of those
 * that are none. */
enum { NUMBER_TEXT = 32 };
void number_shortest_f32(char out[NUMBER_TEXT], float x);

/* strtod and strtof in the C locale: the number that `text` begins with, and to *end, where that is
 * not NULL, what follows; `text` itself where there is none. errno is ERANGE as strtod sets it. */
double number_parse(const char *text, char **end);
float number_parse_f32(const char *text, char **end);

#endif
