/* Unicode for the tokenizer; see the header. Pure functions over borrowed text: any thread. */
#include "format/text/tokenizer_text.h"

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

size_t text_valid(const char *text, size_t bytes) {
    const uint8_t *p = (const uint8_t *)text;
    size_t i = 0;
    while (i < bytes) {
        uint64_t word;
        if (i + 8 <= bytes) {
            memcpy(&word, p + i, 8);
            if ((word & UINT64_C(0x8080808080808080)) == 0) {
                i += 8;
                continue;
            }
        }
        size_t len = text_char_bytes(p + i, bytes - i, NULL, NULL);
        if (len == 0) {
            return i;
        }
        i += len;
    }
    return bytes;
}

void text_sanitize(const char *text, size_t bytes, struct buf *out) {
    size_t i = 0;
    while (i < bytes) {
        size_t good = text_valid(text + i, bytes - i);
        buf_append(out, text + i, good);
        i += good;
        if (i < bytes) {
            size_t bad;
            text_char_bytes((const uint8_t *)text + i, bytes - i, &bad, NULL);
            buf_append(out, TEXT_REPLACEMENT, 3);
            i += bad;
        }
    }
}

size_t text_get(const char *text, uint32_t *cp) {
    const uint8_t *p = (const uint8_t *)text;
    if (p[0] < 0x80) {
        *cp = p[0];
        return 1;
    }
    if (p[0] < 0xe0) {
        *cp = (uint32_t)(p[0] & 0x1f) << 6 | (p[1] & 0x3f);
        return 2;
    }
    if (p[0] < 0xf0) {
        *cp = (uint32_t)(p[0] & 0x0f) << 12 | (uint32_t)(p[1] & 0x3f) << 6 | (p[2] & 0x3f);
        return 3;
    }
    *cp = (uint32_t)(p[0] & 0x07) << 18 | (uint32_t)(p[1] & 0x3f) << 12 |
          (uint32_t)(p[2] & 0x3f) << 6 | (p[3] & 0x3f);
    return 4;
}

size_t text_next_start(const char *text, size_t bytes, size_t at) {
    while (at < bytes && ((uint8_t)text[at] & 0xc0) == 0x80) {
        at++;
    }
    return at < bytes ? at : bytes;
}

size_t text_before(const char *start, const char *p) {
    size_t n = 1;
    while (p - n > start && ((uint8_t)p[-(ptrdiff_t)n] & 0xc0) == 0x80) {
        n++;
    }
    return n;
}

size_t text_put(uint32_t cp, char out[4]) {
    if (cp < 0x80) {
        out[0] = (char)cp;
        return 1;
    }
    if (cp < 0x800) {
        out[0] = (char)(0xc0 | cp >> 6);
        out[1] = (char)(0x80 | (cp & 0x3f));
        return 2;
    }
    if (cp < 0x10000) {
        out[0] = (char)(0xe0 | cp >> 12);
        out[1] = (char)(0x80 | (cp >> 6 & 0x3f));
        out[2] = (char)(0x80 | (cp & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | cp >> 18);
    out[1] = (char)(0x80 | (cp >> 12 & 0x3f));
    out[2] = (char)(0x80 | (cp >> 6 & 0x3f));
    out[3] = (char)(0x80 | (cp & 0x3f));
    return 4;
}

bool text_is_space(uint32_t cp) {
    if (cp < 0x80) {
        return cp == ' ' || (cp >= 9 && cp <= 13);
    }
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

bool text_is_word(uint32_t cp) {
    /* Other_Alphabetic outside M and L: circled and squared Latin letters, which are So. */
    if ((cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) ||
        (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189) || cp == 0x200c ||
        cp == 0x200d) {
        return true;
    }
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

bool text_is_numeric(uint32_t cp) {
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool text_is_punctuation(uint32_t cp) {
    if (cp < 0x80) {
        return cp > ' ' && cp < 0x7f && !(cp >= '0' && cp <= '9') && !(cp >= 'A' && cp <= 'Z') &&
               !(cp >= 'a' && cp <= 'z');
    }
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_PC && c <= UTF8PROC_CATEGORY_PO;
}

bool text_is_visible(uint32_t cp) {
    if (cp < 0x80) {
        return cp > ' ' && cp < 0x7f;
    }
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return (c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO) ||
           (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_SO);
}

/* What the character folds to, at most four characters, and their number. */
static size_t fold(uint32_t cp, utf8proc_int32_t out[4]) {
    int boundary = 0;
    utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)cp, out, 4,
                                                 UTF8PROC_STABLE | UTF8PROC_CASEFOLD, &boundary);
    return n > 0 && n <= 4 ? (size_t)n : 0;
}

/* All that fold to several are in these two stretches. */
static const uint32_t folding[][2] = {{0xdf, 0x1fff}, {0xfb00, 0xfb17}};

bool text_folds_to_many(uint32_t low, uint32_t high) {
    utf8proc_int32_t to[4];
    for (int i = 0; i < 2; i++) {
        uint32_t from = low > folding[i][0] ? low : folding[i][0];
        for (uint32_t cp = from; cp <= high && cp <= folding[i][1]; cp++) {
            if (fold(cp, to) > 1) {
                return true;
            }
        }
    }
    return false;
}

bool text_folds_together(uint32_t first, uint32_t second) {
    utf8proc_int32_t a[4], b[4], to[4];
    if (fold(first, a) != 1 || fold(second, b) != 1) {
        return false;
    }
    for (int i = 0; i < 2; i++) {
        for (uint32_t cp = folding[i][0]; cp <= folding[i][1]; cp++) {
            if (fold(cp, to) > 1 && to[0] == a[0] && to[1] == b[0]) {
                return true;
            }
        }
    }
    return false;
}

static int combining_class(utf8proc_int32_t cp) {
    return (int)utf8proc_get_property(cp)->combining_class;
}

/* Canonical ordering: a stable sort of each run of non-starters. Runs are short in real text; a
 * merge sort keeps a megabyte of marks from taking quadratic time. `spare` is as long as `cp`. */
static void sort_marks(utf8proc_int32_t *cp, utf8proc_int32_t *spare, size_t n) {
    if (n < 2) {
        return;
    }
    size_t half = n / 2;
    sort_marks(cp, spare, half);
    sort_marks(cp + half, spare + half, n - half);
    if (combining_class(cp[half - 1]) <= combining_class(cp[half])) {
        return;
    }
    memcpy(spare, cp, n * sizeof *cp);
    size_t a = 0, b = half;
    for (size_t i = 0; i < n; i++) {
        bool first = b >= n || (a < half && combining_class(spare[a]) <= combining_class(spare[b]));
        cp[i] = first ? spare[a++] : spare[b++];
    }
}

static void order_marks(utf8proc_int32_t *cp, utf8proc_int32_t *spare, size_t n) {
    size_t i = 0;
    while (i < n) {
        if (combining_class(cp[i]) == 0) {
            i++;
            continue;
        }
        size_t start = i;
        while (i < n && combining_class(cp[i]) != 0) {
            i++;
        }
        sort_marks(cp + start, spare + start, i - start);
    }
}

/* Code points, growing. */
struct points {
    utf8proc_int32_t *cp;
    size_t n, cap;
};

static void points_reserve(struct points *p, size_t more) {
    p->cp = mem_grow(p->cp, p->n + more, &p->cap, sizeof *p->cp);
}

/* One segment: everything between two places where no character combines with the one before it. */
static void normalize_segment(enum text_form form, const char *text, size_t bytes,
                              struct points *points, struct points *spare, struct buf *out) {
    enum { LONGEST = 32 }; /* the longest full decomposition has 18 code points (U+FDFA) */
    bool compat = form == TEXT_NFKC || form == TEXT_NFKD;
    bool compose = form == TEXT_NFC || form == TEXT_NFKC;
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (compat ? UTF8PROC_COMPAT : 0);
    points->n = 0;
    for (size_t i = 0; i < bytes;) {
        uint32_t cp;
        i += text_get(text + i, &cp);
        points_reserve(points, LONGEST);
        int boundary = 0;
        utf8proc_ssize_t got = utf8proc_decompose_char((utf8proc_int32_t)cp, points->cp + points->n,
                                                       LONGEST, options, &boundary);
        if (got < 0 || got > LONGEST) {
            die("utf8proc cannot decompose U+%04X", (unsigned)cp);
        }
        points->n += (size_t)got;
    }
    spare->n = 0;
    points_reserve(spare, points->n);
    order_marks(points->cp, spare->cp, points->n);
    size_t n = points->n;
    if (compose) {
        utf8proc_ssize_t left = utf8proc_normalize_utf32(points->cp, (utf8proc_ssize_t)n,
                                                         UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (left < 0) {
            die("utf8proc cannot compose");
        }
        n = (size_t)left;
    }
    for (size_t i = 0; i < n; i++) {
        char utf8[4];
        size_t len = text_put((uint32_t)points->cp[i], utf8);
        buf_append(out, utf8, len);
    }
}

/* ASCII stays as it is in all four forms, and never combines with what precedes it; so a segment
 * starts at the last ASCII character before something else and ends at the next one. */
void text_normalize(enum text_form form, const char *text, size_t bytes, struct buf *out) {
    struct points points = {0}, spare = {0};
    size_t i = 0;
    while (i < bytes) {
        size_t end = i;
        while (end < bytes && (uint8_t)text[end] < 0x80) {
            end++;
        }
        if (end == bytes) {
            buf_append(out, text + i, end - i);
            break;
        }
        size_t start = end > i ? end - 1 : end;
        buf_append(out, text + i, start - i);
        while (end < bytes && (uint8_t)text[end] >= 0x80) {
            end++;
        }
        normalize_segment(form, text + start, end - start, &points, &spare, out);
        i = end;
    }
    free(points.cp);
    free(spare.cp);
}

void text_lowercase(const char *text, size_t bytes, struct buf *out) {
    for (size_t i = 0; i < bytes;) {
        uint32_t cp;
        char utf8[4];
        i += text_get(text + i, &cp);
        if (cp == 0x130) { /* the one character whose lower case is two */
            buf_append(out, "i\xcc\x87", 3);
            continue;
        }
        size_t len = text_put((uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), utf8);
        buf_append(out, utf8, len);
    }
}

/* Bytes that stand for themselves: printable ASCII and Latin-1 without the soft hyphen. */
static bool byte_is_plain(unsigned b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
}

/* The others, by rising byte, have U+0100, U+0101 ...: 0-32 first, then 127-160, then 173. */
static uint32_t byte_to_char(unsigned b) {
    if (byte_is_plain(b)) {
        return b;
    }
    return 0x100 + (b <= 32 ? b : b <= 160 ? b - 127 + 33 : 67);
}

int text_from_byte_alphabet(uint32_t cp) {
    if (cp < 0x100) {
        return byte_is_plain(cp) ? (int)cp : -1;
    }
    uint32_t i = cp - 0x100;
    return i <= 32 ? (int)i : i <= 66 ? (int)(i - 33 + 127) : i == 67 ? 173 : -1;
}

void text_to_byte_alphabet(const char *text, size_t bytes, struct buf *out) {
    char chunk[512];
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (n + 4 > sizeof chunk) {
            buf_append(out, chunk, n);
            n = 0;
        }
        n += text_put(byte_to_char((uint8_t)text[i]), chunk + n);
    }
    buf_append(out, chunk, n);
}
