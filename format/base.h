/*
 * base: the ground floor that every other module stands on.
 *
 * Owns: the error struct, allocation that cannot fail, arenas, read-only file mappings, a
 * bounds-checked byte cursor, overflow-safe size arithmetic, checksums and the clock.
 * Leaves to others: everything that knows what the bytes mean, and every print (only the two mains
 * print).
 * Threads: nothing here has shared state; one object belongs to one thread at a time.
 */
#ifndef FORMAT_BASE_H
#define FORMAT_BASE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/*
 * An error report. Zero-initialise (`struct err err = {0}`), hand to any function that can fail.
 * The first error wins: err_set on a filled struct changes nothing, so a cleanup path cannot hide
 * the cause. `msg` is one line without a newline, names the file, the field and what was expected.
 */
struct err {
    bool set;
    int errno_value; /* err_errno's; 0 where the cause is another one */
    char msg[1024];
};

/* The length of the well-formed character at p, where n >= 1 bytes lie, or 0 where there is none.
 * In the latter case *bad is the length of the maximal subpart that one U+FFFD stands for, and *cut
 * says whether more bytes could still complete it. `bad` and `cut` may be NULL. */
size_t text_char_bytes(const uint8_t *p, size_t n, size_t *bad, bool *cut);

/* Text from untrusted files (names, messages, what a model writes) ends up on a terminal, which
 * nothing in it may drive. text_next says what it is made of; the functions below go by that. */
enum text_kind {
    TEXT_PLAIN,
    TEXT_CONTROL,   /* C0 (so also a newline), DEL, and C1 (U+0080 to U+009F) */
    TEXT_MALFORMED, /* a byte that is no part of UTF-8; some terminals take 0x80 to 0x9f for C1 */
};
/* The kind of the character that text[0 .. n) begins with, n > 0, and how many bytes it has. */
enum text_kind text_next(const char *text, size_t n, size_t *bytes);
/* For a line: every byte of a control character, and every malformed one, becomes '?'. */
void text_clean(char *text, size_t bytes);
/* A copy of a name, cleaned; free(). */
char *text_cleaned(const char *text);

/* Fill `e` unless it is filled already (`e` may be NULL). Always returns -1, so that callers can
 * write `return err_set(err, ...)`. Control characters become '?' (text_clean). */
int err_set(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* As err_set, with `: strerror(errno_value)` appended. */
int err_errno(struct err *e, int errno_value, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Put `prefix: ` in front of a filled error's message (no-op where `e` is NULL or not set). Returns
 * -1. */
int err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Print file:line and the message to stderr, then abort: for impossible states and no memory. */
#define die(...) die_at(__FILE__, __LINE__, __VA_ARGS__)
_Noreturn void die_at(const char *file, int line, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The end where memory is exhausted: one line on stderr, then quick_exit(EXIT_FAILURE), so that
 * what a program registered with at_quick_exit is done. `bytes` is how many were wanted. */
_Noreturn void die_memory(size_t bytes);

/* malloc/calloc/realloc/strdup that never return NULL (die_memory on exhaustion). Sizes of zero
 * give a unique pointer. Free with free(). mem_calloc checks count * size for overflow. */
void *mem_alloc(size_t bytes);
void *mem_calloc(size_t count, size_t size);
void *mem_realloc(void *p, size_t bytes);
char *mem_strdup(const char *s);
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Makes room for `n` elements in an array that grows. `*cap` is the number of elements that there
 * is room for; an array starts as NULL with a `*cap` of 0. Returns the array, which may have moved
 * (as with realloc), with `*cap` at least `n`. Where there was no room, the capacity at least
 * doubles, so that adding elements one by one copies little. New elements are not initialised. What
 * `*cap` becomes does not depend on `element_bytes`. Dies where the size does not fit. Free with
 * free(). */
void *mem_grow(void *p, size_t n, size_t *cap, size_t element_bytes);

/* 64-byte aligned block (for SIMD operands), not zeroed. Free with free(). */
void *mem_alloc_aligned(size_t bytes);

/* A growing byte string. Zero-initialise; free with buf_free. `data` is always NUL-terminated once
 * anything was appended (the NUL is not counted in `len`). */
struct buf {
    char *data;
    size_t len, cap;
};
void buf_append(struct buf *b, const void *bytes, size_t n);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_free(struct buf *b);
/* Append text of several lines so that a terminal only shows it: newlines and tabs stay, other
 * control characters become visible (^[ for ESC, <U+009B> for a C1), malformed bytes U+FFFD. */
void buf_show(struct buf *b, const char *text, size_t bytes);

/* A bump allocator with one lifetime: many allocations, one free. Zero-initialise, or arena_init to
 * take the whole size up front; then an allocation past it dies instead of growing (`fixed`). One
 * that only `counts` gives NULL for everything, and its used_bytes are what it would have given.
 * Returned memory is zeroed, 64-byte aligned, and lives until arena_reset or arena_free. */
struct arena_block;
struct arena {
    struct arena_block *head;
    size_t used_bytes; /* handed out since the last reset, each piece rounded up to 64 */
    bool fixed, counts;
};
void arena_init(struct arena *a, size_t bytes);
void *arena_alloc(struct arena *a, size_t bytes);
char *arena_strdup(struct arena *a, const char *s);
void arena_reset(struct arena *a);
void arena_free(struct arena *a);

/* Overflow-safe arithmetic on untrusted numbers: false where the true result does not fit. */
static inline bool size_add(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}
static inline bool size_mul(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}
/* `n` rounded up to a multiple of the power of two `align`; the caller knows that it fits. */
static inline uint64_t align_up(uint64_t n, uint64_t align) {
    return (n + align - 1) & ~(align - 1);
}

/* A whole file mapped read-only. Borrowed pointers into `data` live until map_close. An empty file
 * gives size 0 and data non-NULL. Not a regular file: an error. map_close takes a zeroed struct. */
struct map {
    const uint8_t *data;
    size_t size_bytes;
    char *path;
    int fd; /* open for reading as long as the map lives; -1 where closed */
};
int map_open(struct map *m, const char *path, struct err *err);
void map_close(struct map *m);

/* Read a whole regular file into a fresh NUL-terminated block (free()), at most `max_bytes` (a
 * longer file is an error). */
int file_read(const char *path, size_t max_bytes, uint8_t **data, size_t *size_bytes,
              struct err *err);

/* 1 where something has that name, 0 where nothing has; -1 and `err` where that cannot be told, as
 * on a disk that fails: what is there must not pass for missing. */
int file_exists(const char *path, struct err *err);

/* write(2) all of it, through EINTR and short writes. `path` is for the message. */
int file_write_all(int fd, const void *data, size_t bytes, const char *path, struct err *err);
/* pread(2) all of it, through EINTR and short reads; a file that ends before is an error. */
int file_read_at(int fd, void *data, size_t bytes, uint64_t offset, const char *path,
                 struct err *err);
/* Make the name of a file durable, which was made or renamed: its directory is synced, where the
 * file system can do that. */
int file_sync_name(const char *path, struct err *err);
/* A fresh file for reading and writing that is without a name already, so that nothing is left of
 * it however the process ends; `path` tells the file system. The descriptor, or -1 and `err`. */
int file_scratch(const char *path, struct err *err);
/* Make the file `part` anew, which becomes `whole` by rename(2) when it is written, and return its
 * descriptor, or -1 and `err`. It is locked as long as that is open, so that a second process with
 * the same `whole` is refused, and never touches what the first one writes: rename before closing.
 * What a killed process left under the name is removed. */
int file_create_part(const char *part, const char *whole, unsigned mode, struct err *err);

/* Read cursor over untrusted bytes with a sticky first error: reads past the end give zeros and set
 * `failed`, so a parser reads straight and checks once. Numbers are little-endian. */
struct cursor {
    const uint8_t *base;
    size_t size, pos;
    bool failed;
    size_t failed_at; /* position of the first read that did not fit */
};
void cursor_init(struct cursor *c, const void *data, size_t size);
uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_u16(struct cursor *c);
uint32_t cursor_u32(struct cursor *c);
uint64_t cursor_u64(struct cursor *c);
float cursor_f32(struct cursor *c);
/* `n` borrowed bytes, or NULL (and `failed`) where fewer are left. */
const uint8_t *cursor_bytes(struct cursor *c, size_t n);

/* XXH3-64 with seed 0, the checksum of everything in an archive
 * (https://github.com/Cyan4973/xxHash, doc/xxhash_spec). The streaming form gives the same value as
 * the whole. */
uint64_t hash64(const void *data, size_t bytes);
struct hasher;
struct hasher *hasher_new(void);
void hasher_add(struct hasher *h, const void *data, size_t bytes);
uint64_t hasher_value(const struct hasher *h);
void hasher_free(struct hasher *h);

/* Monotonic clock in nanoseconds. */
uint64_t clock_ns(void);
/* Sleep until the clock shows `ns`, through signals; not at all where it does already. */
void clock_sleep_until(uint64_t ns);

/* IEEE half, bfloat16 <-> float. Narrowing rounds to nearest even; NaN stays NaN. The scalar
 * definition for every codec and kernel. */
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);
static inline float bf16_to_f32(uint16_t h) {
    union {
        uint32_t u;
        float f;
    } v = {(uint32_t)h << 16};
    return v.f;
}
uint16_t f32_to_bf16(float f);
/* Whether a finite number becomes infinite as f16, which holds up to 65504 and rounds what is
 * below 65520 to that. */
static inline bool f32_beyond_f16(float f) {
    union {
        float f;
        uint32_t u;
    } v = {f};
    return (v.u & 0x7fffffffu) - 0x477ff000u < 0x7f800000u - 0x477ff000u;
}

#endif
