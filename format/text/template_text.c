/* Strings as Python has them: white space, case, characters and bytes. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "format/number.h"
#include "format/text/template_internal.h"

bool template_is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

bool template_is_word(uint32_t c, bool first) {
    if (c < 0x80) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
               (!first && c >= '0' && c <= '9');
    }
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_NL:
        return true;
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC:
        return !first;
    default:
        return false;
    }
}

/* Whether a text that is stripped loses this character. */
static bool is_stripped(const struct value_string *chars, uint32_t c) {
    if (!chars) {
        return template_is_space(c);
    }
    for (size_t i = 0, n; i < chars->len; i += n) {
        if (value_utf8_get(chars->data + i, &n) == c) {
            return true;
        }
    }
    return false;
}

size_t template_space_left(const char *s, size_t len, const struct value_string *chars) {
    size_t i = 0, n;
    while (i < len && is_stripped(chars, value_utf8_get(s + i, &n))) {
        i += n;
    }
    return i;
}

size_t template_space_right(const char *s, size_t len, const struct value_string *chars) {
    size_t end = len, n;
    while (end) {
        size_t i = end - 1;
        while (i && ((unsigned char)s[i] & 0xc0) == 0x80) {
            i--;
        }
        if (!is_stripped(chars, value_utf8_get(s + i, &n))) {
            break;
        }
        end = i;
    }
    return len - end;
}

size_t template_char_offset(const struct value_string *s, size_t i) {
    size_t at = 0;
    if (s->n_chars == s->len) {
        return i;
    }
    if (i >= s->n_chars) {
        return s->len;
    }
    while (i--) {
        at++;
        while (((unsigned char)s->data[at] & 0xc0) == 0x80) {
            at++;
        }
    }
    return at;
}

int template_part(struct template_run *run, const struct value *s, size_t begin, size_t end,
                  struct value *out) {
    uint8_t safe = s->detail;
    if (begin == 0 && end == s->text->len) {
        *out = *s;
        return 0;
    }
    if (template_string(run, s->text->data + begin, end - begin, out)) {
        return -1;
    }
    out->detail = safe;
    return 0;
}

/* ---- case ---------------------------------------------------------------------------------- */

static bool is_cased(uint32_t c) {
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return k == UTF8PROC_CATEGORY_LU || k == UTF8PROC_CATEGORY_LL || k == UTF8PROC_CATEGORY_LT;
}

/* Characters whose upper case is several characters, which utf8proc's simple mapping has not. */
static bool upper_is_several(uint32_t c) {
    return c == 0x149 || c == 0x1f0 || c == 0x390 || c == 0x3b0 || c == 0x587 ||
           (c >= 0x1e96 && c <= 0x1e9a) || (c >= 0x1f50 && c <= 0x1f56 && !(c & 1)) ||
           (c >= 0x1f80 && c <= 0x1ffc) || (c >= 0xfb00 && c <= 0xfb17);
}

/* A capital sigma at a word's end becomes another small letter than within it. */
static bool sigma_is_final(const char *s, size_t i, size_t len) {
    size_t n, before = i;
    bool cased = false;
    while (before && !cased) {
        do {
            before--;
        } while (before && ((unsigned char)s[before] & 0xc0) == 0x80);
        uint32_t c = value_utf8_get(s + before, &n);
        cased = is_cased(c);
        if (!cased && c != '\'' && c != '.' && c != ':' &&
            utf8proc_category((utf8proc_int32_t)c) != UTF8PROC_CATEGORY_MN) {
            return false;
        }
    }
    for (size_t after = i + 2; cased && after < len; after += n) {
        uint32_t c = value_utf8_get(s + after, &n);
        if (is_cased(c)) {
            return false;
        }
        if (c != '\'' && c != '.' && c != ':' &&
            utf8proc_category((utf8proc_int32_t)c) != UTF8PROC_CATEGORY_MN) {
            break;
        }
    }
    return cased;
}

static int put_lower(struct template_run *run, const char *s, size_t i, size_t len, uint32_t c) {
    char p[4];
    if (c == 0x130) {
        return template_scratch(run, "i\xcc\x87", 3);
    }
    uint32_t low = c == 0x3a3 && sigma_is_final(s, i, len)
                       ? 0x3c2
                       : (uint32_t)utf8proc_tolower((utf8proc_int32_t)c);
    return template_scratch(run, p, value_utf8_put(low, p));
}

static int put_upper(struct template_run *run, uint32_t c, bool title) {
    char p[4];
    if (c == 0xdf) {
        return template_scratch(run, title ? "Ss" : "SS", 2);
    }
    if (upper_is_several(c)) {
        return template_fail(run, "the upper case of U+%04X is not known", (unsigned)c);
    }
    uint32_t up = title ? (uint32_t)utf8proc_totitle((utf8proc_int32_t)c)
                        : (uint32_t)utf8proc_toupper((utf8proc_int32_t)c);
    return template_scratch(run, p, value_utf8_put(up, p));
}

int template_change_case(struct template_run *run, const struct value *v, enum template_case how,
                         struct value *out) {
    const char *s = v->text->data;
    size_t len = v->text->len, begin = run->scratch.len, n;
    uint8_t safe = v->detail;
    bool previous = false; /* title: the character before has case */
    if (template_spend(run, len / 8)) {
        return -1;
    }
    for (size_t i = 0; i < len; i += n) {
        uint32_t c = value_utf8_get(s + i, &n);
        bool upper = utf8proc_category((utf8proc_int32_t)c) == UTF8PROC_CATEGORY_LU;
        bool up = how == CASE_UPPER || (how == CASE_CAPITAL && i == 0) ||
                  (how == CASE_TITLE && !previous) || (how == CASE_SWAP && !upper);
        if (how == CASE_FOLD && c >= 0x80 && c != 0xdf && is_cased(c) &&
            (upper_is_several(c) || c == 0x3c2)) {
            return template_fail(run, "the folded case of U+%04X is not known", (unsigned)c);
        }
        if (how == CASE_FOLD && c == 0xdf ? template_scratch(run, "ss", 2)
            : up ? put_upper(run, c, how == CASE_CAPITAL || how == CASE_TITLE)
                 : put_lower(run, s, how == CASE_FOLD ? len : i, len, c)) {
            return -1;
        }
        previous = is_cased(c);
    }
    if (template_from_scratch(run, begin, out)) {
        return -1;
    }
    out->detail = safe;
    return 0;
}

/* ---- marked as safe ------------------------------------------------------------------------ */

int template_escape(struct template_run *run, const struct value *v, struct value *out) {
    struct value text;
    if (template_text_of(run, v, &text)) {
        return -1;
    }
    if (v->type == VALUE_STRING && v->detail) {
        *out = *v;
        return 0;
    }
    size_t begin = run->scratch.len;
    for (size_t i = 0; i < text.text->len; i++) {
        const char *p = text.text->data + i;
        const char *entity = *p == '&'    ? "&amp;"
                             : *p == '<'  ? "&lt;"
                             : *p == '>'  ? "&gt;"
                             : *p == '\'' ? "&#39;"
                             : *p == '"'  ? "&#34;"
                                          : NULL;
        if (entity ? template_scratch(run, entity, strlen(entity)) : template_scratch(run, p, 1)) {
            return -1;
        }
    }
    if (template_from_scratch(run, begin, out)) {
        return -1;
    }
    out->detail = true;
    return 0;
}

/* ---- lines and numbers ---------------------------------------------------------------------- */

static bool breaks_line(uint32_t c) {
    return (c >= 10 && c <= 13) || (c >= 28 && c <= 30) || c == 0x85 || c == 0x2028 || c == 0x2029;
}

bool template_next_line(const struct value_string *s, size_t *pos, size_t *begin, size_t *end) {
    size_t i = *pos, n;
    if (i >= s->len) {
        return false;
    }
    *begin = i;
    *end = s->len;
    for (; i < s->len; i += n) {
        uint32_t c = value_utf8_get(s->data + i, &n);
        if (breaks_line(c)) {
            *end = i;
            i += n + (c == '\r' && i + 1 < s->len && s->data[i + 1] == '\n');
            break;
        }
    }
    *pos = i;
    return true;
}

bool template_is_alnum(uint32_t c) {
    if (c < 0x80) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    }
    utf8proc_category_t k = utf8proc_category((utf8proc_int32_t)c);
    return (k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO) ||
           (k >= UTF8PROC_CATEGORY_ND && k <= UTF8PROC_CATEGORY_NO);
}

/* A number's text without white space around it and '_' between digits, into `text`. */
static bool plain_number(const struct value_string *s, char *text, size_t room) {
    size_t begin = template_space_left(s->data, s->len, NULL);
    size_t end = s->len - (begin < s->len ? template_space_right(s->data, s->len, NULL) : 0), n = 0;
    for (size_t i = begin; i < end; i++) {
        char c = s->data[i];
        if (c == '_') {
            if (i == begin || i + 1 == end || !template_is_alnum((unsigned char)s->data[i - 1]) ||
                !template_is_alnum((unsigned char)s->data[i + 1])) {
                return false;
            }
            continue;
        }
        if (n + 1 >= room || !c || (unsigned char)c >= 0x80) {
            return false;
        }
        text[n++] = c;
    }
    text[n] = 0;
    return n > 0;
}

bool template_read_int(const struct value_string *s, int base, int64_t *out, bool *large) {
    char text[128], *p = text;
    uint64_t sum = 0;
    *large = s->len >= sizeof text;
    if (!plain_number(s, text, sizeof text)) {
        return false;
    }
    bool negative = *p == '-';
    p += *p == '-' || *p == '+';
    if (p[0] == '0' && p[1]) {
        int prefix = (p[1] | 32) == 'x' ? 16 : (p[1] | 32) == 'o' ? 8 : (p[1] | 32) == 'b' ? 2 : 0;
        if (prefix && (base == prefix || base == 0)) {
            base = prefix;
            p += 2;
        } else if (base == 0 && strspn(p, "0") != strlen(p)) {
            return false;
        }
    }
    base = base ? base : 10;
    if (!*p) {
        return false;
    }
    for (; *p; p++) {
        int digit = *p >= '0' && *p <= '9'                 ? *p - '0'
                    : (*p | 32) >= 'a' && (*p | 32) <= 'z' ? (*p | 32) - 'a' + 10
                                                           : 99;
        if (digit >= base) {
            *large = false;
            return false;
        }
        if (*large || sum > ((uint64_t)INT64_MAX - (uint64_t)digit) / (uint64_t)base) {
            *large = true;
            continue;
        }
        sum = sum * (uint64_t)base + (uint64_t)digit;
    }
    *out = negative ? -(int64_t)sum : (int64_t)sum;
    return !*large;
}

bool template_read_float(const struct value_string *s, double *out) {
    char text[512], *end;
    if (!plain_number(s, text, sizeof text) || strchr(text, 'x') || strchr(text, 'X') ||
        strchr(text, '(')) {
        return false;
    }
    *out = number_parse(text, &end);
    return !*end;
}
