/*
 * base: see base.h. The only file that knows XXH3 and the errno texts; files are in base_file.c.
 */
#include "format/base.h"
#include "format/number.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <xxhash.h>

/* -- errors --------------------------------------------------------------------------------- */

/* Well-formed sequences, Unicode core specification table 3-7: the second byte's range depends
 * on the first. */
size_t text_char_bytes(const uint8_t *p, size_t n, size_t *bad, bool *cut) {
    size_t bad_dummy;
    bool cut_dummy;
    bad = bad ? bad : &bad_dummy;
    cut = cut ? cut : &cut_dummy;
    *bad = 0;
    *cut = false;
    uint8_t c = p[0];
    if (c < 0x80) {
        return 1;
    }
    *bad = 1;
    size_t need = c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
    if (need == 0) {
        return 0;
    }
    uint8_t low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    uint8_t high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    for (size_t i = 1; i < need; i++) {
        if (i >= n) {
            *bad = i;
            *cut = true;
            return 0;
        }
        if (p[i] < low || p[i] > high) {
            *bad = i;
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    *bad = 0;
    return need;
}

enum text_kind text_next(const char *text, size_t n, size_t *bytes) {
    const uint8_t *s = (const uint8_t *)text;
    *bytes = text_char_bytes(s, n, NULL, NULL);
    if (*bytes == 0) {
        *bytes = 1;
        return TEXT_MALFORMED;
    }
    bool c1 = s[0] == 0xc2 && s[1] < 0xa0;
    return s[0] < 0x20 || s[0] == 0x7f || c1 ? TEXT_CONTROL : TEXT_PLAIN;
}

void text_clean(char *text, size_t bytes) {
    for (size_t i = 0, n; i < bytes; i += n) {
        if (text_next(text + i, bytes - i, &n) != TEXT_PLAIN) {
            memset(text + i, '?', n);
        }
    }
}

char *text_cleaned(const char *text) {
    char *copy = mem_strdup(text);
    text_clean(copy, strlen(copy));
    return copy;
}

void buf_show(struct buf *b, const char *text, size_t bytes) {
    for (size_t i = 0, n; i < bytes; i += n) {
        enum text_kind kind = text_next(text + i, bytes - i, &n);
        uint8_t last = (uint8_t)text[i + n - 1]; /* of C0, DEL and C1 the code point itself */
        if (kind == TEXT_MALFORMED) {
            buf_append(b, "\xef\xbf\xbd", 3);
        } else if (kind == TEXT_PLAIN || last == '\n' || last == '\t') {
            buf_append(b, text + i, n);
        } else if (n == 1) {
            buf_printf(b, "^%c", last ^ 0x40);
        } else {
            buf_printf(b, "<U+%04X>", last);
        }
    }
}

/* Appends to the message at `at`, cutting what does not fit. Returns the new length. */
__attribute__((format(printf, 3, 0))) static size_t msg_append(struct err *e, size_t at,
                                                               const char *fmt, va_list ap) {
    int n = number_vprint(e->msg + at, sizeof e->msg - at, fmt, ap);
    if (n < 0) {
        e->msg[at] = '\0';
        n = 0;
    }
    size_t len = strlen(e->msg + at);
    text_clean(e->msg + at, len);
    return at + len;
}

int err_set(struct err *e, const char *fmt, ...) {
    if (!e || e->set) {
        return -1;
    }
    va_list ap;
    va_start(ap, fmt);
    msg_append(e, 0, fmt, ap);
    va_end(ap);
    e->set = true;
    return -1;
}

int err_errno(struct err *e, int errno_value, const char *fmt, ...) {
    if (!e || e->set) {
        return -1;
    }
    va_list ap;
    va_start(ap, fmt);
    size_t len = msg_append(e, 0, fmt, ap);
    va_end(ap);
    snprintf(e->msg + len, sizeof e->msg - len, ": %s", strerror(errno_value));
    e->set = true;
    e->errno_value = errno_value;
    return -1;
}

int err_prefix(struct err *e, const char *fmt, ...) {
    if (!e || !e->set) {
        return -1;
    }
    struct err old = *e;
    va_list ap;
    va_start(ap, fmt);
    size_t len = msg_append(e, 0, fmt, ap);
    va_end(ap);
    /* The precision says the same as the buffer does; it shows that cutting is meant. */
    snprintf(e->msg + len, sizeof e->msg - len, ": %.*s", (int)sizeof old.msg, old.msg);
    return -1;
}

_Noreturn void die_at(const char *file, int line, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    abort();
}

_Noreturn void die_memory(size_t bytes) {
    if (bytes > 0) {
        fprintf(stderr, "%s: out of memory: %zu bytes cannot be had\n",
                program_invocation_short_name, bytes);
    } else {
        fprintf(stderr, "%s: out of memory\n", program_invocation_short_name);
    }
    quick_exit(EXIT_FAILURE);
}

/* -- memory --------------------------------------------------------------------------------- */

enum { ALIGN_BYTES = 64, ARENA_BLOCK_BYTES = 64 * 1024, GROW_MIN = 16 };

static void *must(void *p, size_t bytes) {
    if (!p) {
        die_memory(bytes);
    }
    return p;
}

void *mem_alloc(size_t bytes) {
    return must(malloc(bytes ? bytes : 1), bytes);
}

void *mem_calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        die_memory(SIZE_MAX);
    }
    return must(calloc(1, bytes ? bytes : 1), bytes);
}

void *mem_realloc(void *p, size_t bytes) {
    return must(realloc(p, bytes ? bytes : 1), bytes);
}

void *mem_grow(void *p, size_t n, size_t *cap, size_t element_bytes) {
    if (n <= *cap) {
        return p;
    }
    size_t grown = *cap > SIZE_MAX / 2 ? n : *cap * 2, bytes;
    if (grown < GROW_MIN) {
        grown = GROW_MIN;
    }
    if (grown < n) {
        grown = n;
    }
    if (__builtin_mul_overflow(grown, element_bytes, &bytes)) {
        die_memory(SIZE_MAX);
    }
    *cap = grown;
    return mem_realloc(p, bytes);
}

char *mem_strdup(const char *s) {
    size_t bytes = strlen(s) + 1;
    return memcpy(mem_alloc(bytes), s, bytes);
}

char *mem_printf(const char *fmt, ...) {
    char *s = NULL;
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    if (n < 0) {
        die_memory(strlen(fmt));
    }
    return s;
}

void *mem_alloc_aligned(size_t bytes) {
    if (bytes > SIZE_MAX - ALIGN_BYTES) {
        die_memory(bytes);
    }
    size_t rounded = align_up(bytes ? bytes : 1, ALIGN_BYTES);
    return must(aligned_alloc(ALIGN_BYTES, rounded), rounded);
}

static void buf_reserve(struct buf *b, size_t more) {
    size_t need;
    if (__builtin_add_overflow(b->len, more, &need) || need == SIZE_MAX) {
        die_memory(more);
    }
    b->data = mem_grow(b->data, need + 1, &b->cap, 1); /* one for the NUL */
}

void buf_append(struct buf *b, const void *bytes, size_t n) {
    buf_reserve(b, n);
    if (n) {
        memcpy(b->data + b->len, bytes, n);
    }
    b->len += n;
    b->data[b->len] = '\0';
}

void buf_printf(struct buf *b, const char *fmt, ...) {
    va_list ap, again;
    va_start(ap, fmt);
    va_copy(again, ap);
    int n = number_vprint(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) {
        die("cannot format a string");
    }
    buf_reserve(b, (size_t)n);
    number_vprint(b->data + b->len, (size_t)n + 1, fmt, again);
    va_end(again);
    b->len += (size_t)n;
}

void buf_free(struct buf *b) {
    free(b->data);
    *b = (struct buf){0};
}

/* -- arenas --------------------------------------------------------------------------------- */

/* `bytes` points into `raw`, aligned. What lies at or above `dirty` was never handed out and still
 * is the zero that calloc gave, so a large arena costs no pages until they are used. */
struct arena_block {
    struct arena_block *next;
    void *raw;
    uint8_t *bytes;
    size_t cap, used, dirty;
};

static struct arena_block *arena_block_new(size_t cap) {
    if (cap > SIZE_MAX - ALIGN_BYTES) {
        die_memory(cap);
    }
    struct arena_block *b = mem_calloc(1, sizeof *b);
    b->raw = mem_calloc(1, cap + ALIGN_BYTES);
    b->bytes = (uint8_t *)b->raw + (-(uintptr_t)b->raw & (ALIGN_BYTES - 1));
    b->cap = cap;
    return b;
}

static void arena_block_free(struct arena_block *b) {
    free(b->raw);
    free(b);
}

static size_t arena_round(size_t bytes) {
    if (bytes > SIZE_MAX - ALIGN_BYTES) {
        die_memory(bytes);
    }
    return align_up(bytes ? bytes : 1, ALIGN_BYTES);
}

void arena_init(struct arena *a, size_t bytes) {
    *a = (struct arena){.head = arena_block_new(arena_round(bytes)), .fixed = true};
}

void *arena_alloc(struct arena *a, size_t bytes) {
    size_t want = arena_round(bytes);
    struct arena_block *b = a->head;
    if (a->counts) {
        a->used_bytes += want;
        return NULL;
    }
    if (!b || b->cap - b->used < want) {
        if (a->fixed) {
            die("arena full: %zu bytes wanted, %zu of %zu in use", want, a->used_bytes,
                b ? b->cap : 0);
        }
        size_t cap = b && b->cap <= SIZE_MAX / 4 ? b->cap * 2 : ARENA_BLOCK_BYTES;
        b = arena_block_new(cap > want ? cap : want);
        b->next = a->head;
        a->head = b;
    }
    uint8_t *p = b->bytes + b->used;
    if (b->used < b->dirty) {
        size_t stale = b->dirty - b->used;
        memset(p, 0, stale < want ? stale : want);
    }
    b->used += want;
    if (b->dirty < b->used) {
        b->dirty = b->used;
    }
    a->used_bytes += want;
    return p;
}

char *arena_strdup(struct arena *a, const char *s) {
    size_t bytes = strlen(s) + 1;
    return memcpy(arena_alloc(a, bytes), s, bytes);
}

void arena_reset(struct arena *a) {
    /* The head is the largest block, each new one being twice the last or more: keep it. */
    struct arena_block *b = a->head;
    if (b) {
        struct arena_block *rest = b->next;
        b->next = NULL;
        b->used = 0;
        while (rest) {
            struct arena_block *next = rest->next;
            arena_block_free(rest);
            rest = next;
        }
    }
    a->used_bytes = 0;
}

void arena_free(struct arena *a) {
    arena_reset(a);
    if (a->head) {
        arena_block_free(a->head);
    }
    *a = (struct arena){0};
}

/* -- cursor --------------------------------------------------------------------------------- */

void cursor_init(struct cursor *c, const void *data, size_t size) {
    *c = (struct cursor){.base = data ? data : (const void *)"", .size = data ? size : 0};
}

const uint8_t *cursor_bytes(struct cursor *c, size_t n) {
    if (c->failed || n > c->size - c->pos) {
        if (!c->failed) {
            c->failed = true;
            c->failed_at = c->pos;
        }
        return NULL;
    }
    const uint8_t *p = c->base + c->pos;
    c->pos += n;
    return p;
}

static uint64_t cursor_le(struct cursor *c, size_t n) {
    const uint8_t *p = cursor_bytes(c, n);
    uint64_t v = 0;
    for (size_t i = 0; p && i < n; i++) {
        v |= (uint64_t)p[i] << (8 * i);
    }
    return v;
}

uint8_t cursor_u8(struct cursor *c) {
    return (uint8_t)cursor_le(c, 1);
}

uint16_t cursor_u16(struct cursor *c) {
    return (uint16_t)cursor_le(c, 2);
}

uint32_t cursor_u32(struct cursor *c) {
    return (uint32_t)cursor_le(c, 4);
}

uint64_t cursor_u64(struct cursor *c) {
    return cursor_le(c, 8);
}

float cursor_f32(struct cursor *c) {
    union {
        uint32_t u;
        float f;
    } v = {cursor_u32(c)};
    return v.f;
}

/* -- checksums and clock -------------------------------------------------------------------- */

/* The library is built for the oldest processor of its kind; this entry chooses by the one at hand
 * and gives the same value, twice to three times as fast. Not every build of the library has it. */
#ifdef __x86_64__
extern XXH64_hash_t XXH3_64bits_dispatch(const void *data, size_t bytes) __attribute__((weak));
#endif

uint64_t hash64(const void *data, size_t bytes) {
#ifdef __x86_64__
    if (XXH3_64bits_dispatch) {
        return XXH3_64bits_dispatch(data, bytes);
    }
#endif
    return XXH3_64bits(data, bytes);
}

struct hasher {
    XXH3_state_t *state;
};

struct hasher *hasher_new(void) {
    struct hasher *h = mem_alloc(sizeof *h);
    h->state = XXH3_createState();
    if (!h->state) {
        die_memory(0);
    }
    XXH3_64bits_reset(h->state);
    return h;
}

void hasher_add(struct hasher *h, const void *data, size_t bytes) {
    if (bytes && XXH3_64bits_update(h->state, data, bytes) != XXH_OK) {
        die("XXH3 refused %zu bytes", bytes);
    }
}

uint64_t hasher_value(const struct hasher *h) {
    return XXH3_64bits_digest(h->state);
}

void hasher_free(struct hasher *h) {
    if (h) {
        XXH3_freeState(h->state);
        free(h);
    }
}

uint64_t clock_ns(void) {
    struct timespec t;
    if (clock_gettime(CLOCK_MONOTONIC, &t) != 0) {
        die("no monotonic clock");
    }
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void clock_sleep_until(uint64_t ns) {
    struct timespec t = {(time_t)(ns / 1000000000u), (long)(ns % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR) {
    }
}

/* -- half and bfloat16 ---------------------------------------------------------------------- */

union bits32 {
    uint32_t u;
    float f;
};

float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t exp = (h >> 10) & 0x1f;
    uint32_t mant = h & 0x3ff;
    union bits32 v;
    if (exp == 0x1f) { /* infinity, NaN; a NaN comes out quiet, as from the F16C instructions */
        v.u = sign | 0x7f800000 | mant << 13 | (mant ? 0x400000 : 0);
    } else if (exp) {
        v.u = sign | (exp + 112) << 23 | mant << 13;
    } else { /* zero, subnormal: mant * 2^-24 is exact in float */
        v.f = (float)mant * 0x1p-24f;
        v.u |= sign;
    }
    return v.f;
}

uint16_t f32_to_f16(float f) {
    union bits32 v = {.f = f};
    uint32_t sign = (v.u >> 16) & 0x8000;
    uint32_t abs = v.u & 0x7fffffff;
    if (abs > 0x7f800000) {
        return (uint16_t)(sign | 0x7e00 | ((abs >> 13) & 0x3ff));
    }
    if (abs >= 0x477ff000) { /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00);
    }
    uint32_t kept, dropped, half;
    if (abs >= 0x38800000) { /* normal half: rebias, drop 13 bits */
        uint32_t rebiased = abs - (112u << 23);
        kept = rebiased >> 13;
        dropped = rebiased & 0x1fff;
        half = 0x1000;
    } else if (abs >= 0x33000000) { /* subnormal half: drop more, the leading one made visible */
        uint32_t shift = 126 - (abs >> 23);
        uint32_t mant = (abs & 0x7fffff) | 0x800000;
        kept = mant >> shift;
        dropped = mant & ((1u << shift) - 1);
        half = 1u << (shift - 1);
    } else { /* below half of the smallest subnormal */
        return (uint16_t)sign;
    }
    /* A carry out of the mantissa lands in the exponent, which is right. */
    kept += dropped > half || (dropped == half && (kept & 1));
    return (uint16_t)(sign | kept);
}

uint16_t f32_to_bf16(float f) {
    union bits32 v = {.f = f};
    if ((v.u & 0x7fffffff) > 0x7f800000) {
        return (uint16_t)(v.u >> 16 | 0x40);
    }
    return (uint16_t)((v.u + 0x7fff + (v.u >> 16 & 1)) >> 16);
}
