/*
 * cli_size: byte sizes, budgets and lists of token ids as people write them; contracts in cli.h.
 */
#include "format/cli.h"
#include "format/number.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The factor of a unit, 0 where it is none. */
static uint64_t unit_bytes(const char *unit) {
    if (!*unit || strcasecmp(unit, "b") == 0) {
        return 1;
    }
    const char *prefix = strchr("kmgt", tolower((unsigned char)unit[0]));
    if (!prefix) {
        return 0;
    }
    uint64_t base = !unit[1] || strcasecmp(unit + 1, "ib") == 0 ? 1024
                    : strcasecmp(unit + 1, "b") == 0            ? 1000
                                                                : 0;
    uint64_t bytes = base;
    for (const char *p = "kmgt"; p < prefix; p++) {
        bytes *= base;
    }
    return bytes;
}

int cli_size_parse(const char *text, uint64_t *bytes, struct err *err) {
    const char *p = text;
    uint64_t whole = 0;
    double fraction = 0, place = 1;
    bool digits = false, fits = true, point = false;
    for (; isdigit((unsigned char)*p); p++, digits = true) {
        fits = fits && size_mul(whole, 10, &whole) && size_add(whole, (uint64_t)(*p - '0'), &whole);
    }
    if (*p == '.') {
        point = true;
        for (p++; isdigit((unsigned char)*p); p++, digits = true) {
            fraction += (*p - '0') * (place /= 10);
        }
    }
    while (*p == ' ') {
        p++;
    }
    uint64_t unit = unit_bytes(p);
    if (!digits || !unit || (point && unit == 1)) {
        return err_set(err, "'%s' is not a size (like 300M, 6G, 1.5GiB, 4096)", text);
    }
    if (!fits || !size_mul(whole, unit, bytes) ||
        !size_add(*bytes, (uint64_t)(fraction * (double)unit), bytes)) {
        return err_set(err, "'%s' is larger than any size", text);
    }
    return 0;
}

int cli_budget_parse(const char *text, struct cli_budget *budget, struct err *err) {
    size_t len = strlen(text);
    *budget = (struct cli_budget){0};
    if (!len || text[len - 1] != '%') {
        return cli_size_parse(text, &budget->bytes, err);
    }
    char *end;
    double percent = number_parse(text, &end);
    if (!isdigit((unsigned char)text[0]) || end != text + len - 1 ||
        !(percent > 0 && percent <= 100)) {
        return err_set(err, "'%s' is not a percentage over 0%% and up to 100%%", text);
    }
    budget->percent = percent;
    return 0;
}

int cli_ids_append(const char *text, size_t bytes, const char *from, int32_t **ids, size_t *n,
                   size_t *cap, struct err *err) {
    static const char parting[] = ", \t\r\n[]";
    const char *end = text + bytes;
    for (const char *s = text + strspn(text, parting); s < end; s += strspn(s, parting)) {
        char *stop;
        errno = 0;
        long id = strtol(s, &stop, 10);
        bool parted = stop == end || (*stop && strchr(parting, *stop));
        if (!isdigit((unsigned char)*s) || errno || id > INT32_MAX || !parted) {
            size_t shown = strcspn(s, parting);
            return err_set(err, "%s: '%.*s' at position %zu is no token id", from,
                           shown > 40 ? 40 : (int)shown, s, *n);
        }
        *ids = mem_grow(*ids, *n + 1, cap, sizeof **ids);
        (*ids)[(*n)++] = (int32_t)id;
        s = stop;
    }
    return 0;
}

int cli_ids_parse(const char *text, size_t bytes, const char *from, int32_t **ids, size_t *n,
                  struct err *err) {
    size_t cap = 0;
    *ids = NULL;
    *n = 0;
    if (cli_ids_append(text, bytes, from, ids, n, &cap, err) < 0) {
        free(*ids);
        *ids = NULL;
        *n = 0;
        return -1;
    }
    return 0;
}

char *cli_size_text(char out[CLI_SIZE_TEXT], uint64_t bytes) {
    static const char units[] = "KMGTPE";
    if (bytes < 1024) {
        snprintf(out, CLI_SIZE_TEXT, "%u B", (unsigned)bytes);
        return out;
    }
    double v = (double)bytes / 1024;
    const char *unit = units;
    while (v >= 1023.95) { /* which would print as 1024.0 */
        v /= 1024;
        unit++;
    }
    number_print(out, CLI_SIZE_TEXT, "%.1f %ciB", v, *unit);
    return out;
}
