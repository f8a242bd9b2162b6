/*
 * gguf: files of llama.cpp: metadata by key, tensors by name.
 *
 * Owns: the parser of header, metadata and tensor table (versions 2 and 3, little-endian), models
 * in parts, typed access to metadata, tensors as struct safetensors has them.
 * Leaves to others: what numbers are stored as (gguf_block), what keys and names mean
 * (gguf_family), the tokenizer (gguf_tokenizer).
 * Threads: immutable after open.
 *
 * A file is: "GGUF", version, number of tensors, number of keys; each key with its type and value;
 * for each tensor name, dimensions (innermost first), type and offset; then, aligned, the data that
 * offsets count from (ggml, docs/gguf.md). The header is parsed from one copy of its bytes, made
 * before the parse that counts. Numbers of tensors stay in the map, where another program may write
 * at any time: none of them is a size or a place.
 *
 * All parts together may have GGUF_MAX_HEADER_BYTES of header and GGUF_MAX_STEPS keys, tensors and
 * texts in lists; each file GGUF_MAX_KEYS and GGUF_MAX_TENSORS.
 */
#ifndef PREP_GGUF_GGUF_H
#define PREP_GGUF_GGUF_H

#include "format/safetensors.h"

enum {
    GGUF_MAX_HEADER_BYTES = 256 << 20,
    GGUF_MAX_STEPS = 16 << 20,
    GGUF_MAX_KEYS = 1 << 16,
    GGUF_MAX_TENSORS = 1 << 18,
    GGUF_MAX_PARTS = 1024,
    GGUF_MAX_NAME_BYTES = 255, /* of a key or tensor */
};

enum gguf_type {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_LIST,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_TYPES,
};

/* Bytes of a file, borrowed; not terminated. */
struct gguf_text {
    const char *data;
    size_t bytes;
};

/* A key's value: one of a type, or a list of them. */
struct gguf_value {
    char *key;
    enum gguf_type type; /* of the value, or of the items; never GGUF_LIST */
    bool list;
    uint64_t n;          /* items; 1 where it is no list */
    const uint8_t *data; /* the first of them; texts have their lengths before them */
};

struct gguf {
    char *path;                /* of the file that was opened, for messages */
    struct gguf_value *values; /* [n_values] of the first part, sorted by key */
    size_t n_values;
    struct safetensors *st; /* the tensors of all parts, dimensions outermost first; NULL it to keep
                               them: st_close then closes the files, too */
    uint8_t **headers;      /* [n_headers] copies that values point into */
    size_t n_headers, cap_headers;
    uint64_t header_bytes, steps; /* used of the budget */
};

/* Open a file, or the first part of a model in parts (NAME-00001-of-0000N.gguf), and all others.
 * `g` is zeroed by the call; gguf_close accepts it after an error too. */
int gguf_open(struct gguf *g, const char *path, struct err *err);
void gguf_close(struct gguf *g);

/* Parse one file from memory. Values are set where `g` has none yet (else the file is another part,
 * whose keys are only checked), tensors are added to g->st and borrow `file`. The fuzz target uses
 * this on a zeroed struct with an empty st. */
int gguf_parse(struct gguf *g, const uint8_t *file, size_t file_bytes, const char *path,
               struct err *err);

/* The value of a key; NULL where there is none. */
const struct gguf_value *gguf_find(const struct gguf *g, const char *key);

/* Item i of a value as a number: false where it is none of that kind. Integers and booleans of any
 * width are integers, floats are not. A real number is any of them. */
bool gguf_integer(const struct gguf_value *v, uint64_t i, int64_t *out);
bool gguf_real(const struct gguf_value *v, uint64_t i, double *out);
/* A value that is one text: false where it is not. */
bool gguf_string(const struct gguf_value *v, struct gguf_text *out);

/* Walk the texts of a list, or the one text, from a zeroed walk on. False past the last, and where
 * items are no texts. */
struct gguf_walk {
    uint64_t item;
    size_t byte;
};
bool gguf_next_text(const struct gguf_value *v, struct gguf_walk *at, struct gguf_text *out);

/* "u32", "list of strings", for messages. */
const char *gguf_type_text(const struct gguf_value *v);

#endif
