/*
 * value: one ordered tree of values, as JSON has them and as templates compute with them.
 *
 * Owns: the kinds of values, the arena that they live in, their text as Python writes it, JSON in
 * and out. Chat templates are written for Python's values and print them, so "as Python" is what
 * everything here means: True equals 1, a dict keeps the order of its first insertions, a float
 * prints as its shortest decimal that reads back, integers are of any size.
 * Leaves to others: what operators, filters and methods do with values (template_*.c), and every
 * meaning that a tree has (messages, tools, schemas).
 * Threads: a tree that is no longer changed may be read by any number of threads; an arena belongs
 * to one.
 *
 * A `struct value` is small and passed by value or const pointer; what it points to lives in a
 * `struct value_arena` and is never freed alone. Lists, tuples, dicts and strings are not changed
 * once they are in use by somebody else: who builds one fills it first. Each list and dict knows
 * how deep it is nested, and none deeper than VALUE_MAX_DEPTH is made, so whatever walks a tree may
 * recurse.
 *
 * Memory: an arena has a budget in bytes. Functions that would exceed it make nothing and say so
 * by -1, NULL or false; they fill no `struct err`, as the caller knows whose budget it was.
 */
#ifndef FORMAT_TEXT_VALUE_H
#define FORMAT_TEXT_VALUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/base.h"

enum {
    VALUE_MAX_DEPTH = 200,   /* lists and dicts in each other */
    VALUE_MAX_DIGITS = 4300, /* of an integer, as Python's own bound for reading one */
    /* Two characters of private use, which whoever builds a tree may set around parts of strings.
     * They stand as they are in every text of a value, also where Python escapes what it cannot
     * print or JSON what is not ASCII, so that what they mark can be found in it. */
    VALUE_MARK_BEGIN = 0xf0000,
    VALUE_MARK_END = 0xf0001,
};

enum value_type {
    VALUE_UNDEFINED, /* what templates call so; `text` may say of what */
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,    /* what fits 64 bits */
    VALUE_BIGINT, /* what does not: its decimal digits in `text`, perhaps after a '-' */
    VALUE_FLOAT,
    VALUE_STRING, /* UTF-8, may hold NUL */
    VALUE_LIST,
    VALUE_TUPLE,
    VALUE_DICT,
    VALUE_OBJECT, /* what only a program makes: functions, iterators, namespaces */
};

struct value_string {
    size_t len;     /* bytes */
    size_t n_chars; /* code points */
    char data[];    /* and a NUL that is not counted */
};
struct value_list;
struct value_dict;

/* What a program's own kind of value is: compared by address. `name` is Python's name of the type,
 * for messages. `write` writes what printing shows (-1 and `err` where it cannot); NULL: it shows
 * nothing that means anything, so that printing it is an error. */
struct value_object;
struct value_writer;
struct value_class {
    const char *name;
    int (*write)(const struct value_object *object, struct value_writer *w, struct err *err);
};
struct value_object {
    const struct value_class *class;
};

struct value {
    uint8_t type;   /* enum value_type */
    uint8_t detail; /* a string: whether it is marked safe; undefined: why; a tuple: a group's */
    union {
        bool boolean;
        int64_t integer;
        double number;
        const struct value_string *text; /* string, big integer, undefined (or NULL) */
        struct value_list *list;         /* list, tuple */
        struct value_dict *dict;
        struct value_object *object;
    };
};

struct value_list {
    size_t n;
    unsigned depth; /* 1 + that of the deepest element */
    size_t weight;  /* see value_weight */
    struct value items[];
};

struct value_pair {
    struct value key, value;
};
struct value_dict {
    size_t n, cap;
    unsigned depth;
    size_t weight;
    struct value_pair *pairs; /* [cap], of which n in the order of first insertion */
    uint32_t *index;          /* [n_index] places of pairs plus one, by hash; NULL where few */
    size_t n_index;
};

/* ---- memory -------------------------------------------------------------------------------- */

struct value_block;
/* Zero-initialise and set `limit_bytes`; free with value_arena_free. */
struct value_arena {
    struct value_block *head;
    size_t used_bytes; /* taken from the system */
    size_t limit_bytes;
    bool exhausted; /* something did not fit */
};
/* Zeroed bytes aligned for any value, or NULL where that would exceed the budget. */
void *value_alloc(struct value_arena *arena, size_t bytes);
void value_arena_free(struct value_arena *arena);

/* ---- making -------------------------------------------------------------------------------- */

static inline struct value value_none(void) {
    return (struct value){.type = VALUE_NONE};
}
static inline struct value value_bool(bool b) {
    return (struct value){.type = VALUE_BOOL, .boolean = b};
}
static inline struct value value_int(int64_t i) {
    return (struct value){.type = VALUE_INT, .integer = i};
}
static inline struct value value_float(double d) {
    return (struct value){.type = VALUE_FLOAT, .number = d};
}
static inline struct value value_object(struct value_object *object) {
    return (struct value){.type = VALUE_OBJECT, .object = object};
}

/* A copy of `len` bytes of UTF-8, which the caller has checked (value_utf8_check). NULL: budget. */
const struct value_string *value_string_new(struct value_arena *arena, const char *data,
                                            size_t len);
/* The same as a value. -1: budget. */
int value_make_string(struct value_arena *arena, const char *data, size_t len, struct value *out);

/* A list or tuple of `n` elements, copied from `items`. -1: budget, or nested too deeply. */
int value_make_list(struct value_arena *arena, enum value_type type, const struct value *items,
                    size_t n, struct value *out);

/* A dict without pairs. -1: budget. */
int value_make_dict(struct value_arena *arena, struct value *out);
/* Sets a key's value, at the place that it has or behind the others. The key is hashable
 * (value_hashable). -1: budget, or nested too deeply. */
int value_dict_set(struct value_arena *arena, struct value_dict *dict, const struct value *key,
                   const struct value *value);
/* The same for a key that is a string of `len` bytes. */
int value_dict_set_text(struct value_arena *arena, struct value_dict *dict, const char *key,
                        size_t len, const struct value *value);

/* ---- asking -------------------------------------------------------------------------------- */

/* The value of a key, or NULL. A key that is not hashable is not found. */
const struct value *value_dict_get(const struct value_dict *dict, const struct value *key);
const struct value *value_dict_get_text(const struct value_dict *dict, const char *key, size_t len);

/* As Python's bool(): zero, nothing and empty are false; objects are true. */
bool value_truth(const struct value *v);
/* As Python's ==. */
bool value_equal(const struct value *a, const struct value *b);
/* As Python's < and >: negative, 0 or positive into `*order`; false where the two have no order. A
 * NaN has `*order` 2, which is neither. */
bool value_compare(const struct value *a, const struct value *b, int *order);
/* Puts the places 0 to n-1 of elements into their order, stably; `scratch` has room for n, too.
 * `before` tells into `*is` whether element a is to come before b, which stands before it now; what
 * it returns other than 0 ends the sorting and is returned. */
int value_sort(size_t *order, size_t *scratch, size_t n,
               int (*before)(void *ctx, size_t a, size_t b, bool *is), void *ctx);
/* Whether it may be a key: lists, dicts, and tuples that hold such, may not. */
bool value_hashable(const struct value *v);
/* How much there is to walk through: 1 for a list or dict, and all that its elements have, however
 * often the same one is among them (a list that holds one list twice, which holds another twice,
 * is small in memory but long to compare). At most SIZE_MAX. A string: its bytes / 64. */
size_t value_weight(const struct value *v);
/* Python's name of the value's type: "str", "NoneType". */
const char *value_type_name(const struct value *v);

static inline bool value_is_number(const struct value *v) {
    return v->type >= VALUE_BOOL && v->type <= VALUE_FLOAT;
}
static inline bool value_is_string(const struct value *v, const char *text) {
    const char *a = text;
    size_t n = 0;
    if (v->type != VALUE_STRING) {
        return false;
    }
    while (n < v->text->len && a[n] && a[n] == v->text->data[n]) {
        n++;
    }
    return n == v->text->len && !a[n];
}
/* The float that a number is, a big integer's too (perhaps infinite). */
double value_to_double(const struct value *v);

/* ---- text ---------------------------------------------------------------------------------- */

/* Whether all of it is UTF-8 (without surrogates); if not, `*bad` is the place of the first byte
 * that is not. */
bool value_utf8_check(const char *data, size_t len, size_t *bad);
/* The code point at `p`, which is UTF-8, and the bytes that it takes. */
uint32_t value_utf8_get(const char *p, size_t *bytes);
/* Writes a code point to `p` (room for 4); returns the bytes. */
size_t value_utf8_put(uint32_t c, char *p);
/* The same at the end of a buffer. */
void value_utf8_append(struct buf *out, uint32_t c);

/* Where text is written, bounded: what would make `out` longer than `max_bytes` is left out, and
 * `over` set. */
struct value_writer {
    struct buf *out;
    size_t max_bytes;
    bool over;
};
void value_put(struct value_writer *w, const void *bytes, size_t n);

/* Append what Python's str() or, where `repr`, repr() gives. -1 and `err`: the text is longer than
 * allowed, or holds an object that has no text that could be told. */
int value_write(struct value_writer *w, const struct value *v, bool repr, struct err *err);
/* repr() of a float into `text`, which has room for 32. */
void value_float_text(double d, char *text);

/* How json.dumps writes: the defaults of all are `{0}`. */
struct value_json_style {
    bool ascii;                           /* everything else as \u escapes */
    bool sort_keys;                       /* by the keys' order; else as they are */
    bool indented;                        /* one element a line, each level `indent` further in */
    const struct value_string *indent;    /* where `indented` */
    const struct value_string *item, *of; /* separators; NULL: as json.dumps chooses */
};
/* Append a value as JSON, byte for byte as Python's json.dumps. -1 and `err`: too long, or nothing
 * that JSON has: undefined values, objects, dicts with tuples as keys, keys without an order. */
int value_json_write(struct value_writer *w, const struct value *v,
                     const struct value_json_style *style, struct err *err);

/* Read one JSON text (RFC 8259), all of it. Integers of any size (VALUE_MAX_DIGITS) survive, the
 * order of keys is kept, of a key given twice the last value counts, half a surrogate pair becomes
 * U+FFFD, NUL is a character as any other. (These are what jansson does not do, so requests and
 * conversations are read here.) -1 and `err`, with the line and column. */
int value_json_read(struct value_arena *arena, const char *text, size_t len, struct value *out,
                    struct err *err);

#endif
