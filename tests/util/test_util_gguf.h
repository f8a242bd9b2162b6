/*
 * test_util_gguf: writes files in GGUF: keys and tensors one by one, in memory.
 *
 * For what happens on the way to a test's subject: nothing is checked, so that files can be wrong.
 */
#ifndef TESTS_UTIL_TEST_UTIL_GGUF_H
#define TESTS_UTIL_TEST_UTIL_GGUF_H

#include "prep/gguf/gguf.h"

/* Zeroed at first. */
struct gguf_made {
    struct buf keys, table, data;
    uint64_t n_keys, n_tensors;
    uint32_t version;   /* 0: 3 */
    uint32_t alignment; /* 0: 32, without a key */
};

void made_u32(struct gguf_made *m, const char *key, uint32_t value);
void made_f32(struct gguf_made *m, const char *key, float value);
void made_flag(struct gguf_made *m, const char *key, bool value);
void made_text(struct gguf_made *m, const char *key, const char *value);
/* A list of `n` items of `type` that are `bytes` bytes together. */
void made_list(struct gguf_made *m, const char *key, enum gguf_type type, uint64_t n,
               const void *items, size_t bytes);
/* An item of such a list, if it is one of texts. */
void made_item(struct buf *items, const char *text, size_t bytes);

/* A tensor of a type of the table of gguf_block; `shape` is outermost first. */
void made_tensor(struct gguf_made *m, const char *name, const char *type, uint32_t n_dims,
                 const uint64_t *shape, const void *data, size_t bytes);
/* The file. The made one is empty afterwards. */
struct buf made_file(struct gguf_made *m);

#endif
