#include "tests/util/test_util_gguf.h"

#include <string.h>

#include "prep/gguf/gguf_block.h"

static void add_u32(struct buf *b, uint32_t value) {
    buf_append(b, &value, sizeof value);
}

static void add_u64(struct buf *b, uint64_t value) {
    buf_append(b, &value, sizeof value);
}

void made_item(struct buf *items, const char *text, size_t bytes) {
    add_u64(items, bytes);
    buf_append(items, text, bytes);
}

static void begin_key(struct gguf_made *m, const char *key, enum gguf_type type) {
    made_item(&m->keys, key, strlen(key));
    add_u32(&m->keys, type);
    m->n_keys++;
}

void made_u32(struct gguf_made *m, const char *key, uint32_t value) {
    begin_key(m, key, GGUF_U32);
    add_u32(&m->keys, value);
}

void made_f32(struct gguf_made *m, const char *key, float value) {
    begin_key(m, key, GGUF_F32);
    buf_append(&m->keys, &value, sizeof value);
}

void made_flag(struct gguf_made *m, const char *key, bool value) {
    uint8_t byte = value;
    begin_key(m, key, GGUF_BOOL);
    buf_append(&m->keys, &byte, 1);
}

void made_text(struct gguf_made *m, const char *key, const char *value) {
    begin_key(m, key, GGUF_STRING);
    made_item(&m->keys, value, strlen(value));
}

void made_list(struct gguf_made *m, const char *key, enum gguf_type type, uint64_t n,
               const void *items, size_t bytes) {
    begin_key(m, key, GGUF_LIST);
    add_u32(&m->keys, type);
    add_u64(&m->keys, n);
    buf_append(&m->keys, items, bytes);
}

static const struct gguf_block *block_named(const char *name) {
    const struct gguf_block *b;
    for (size_t i = 0; (b = gguf_block_at(i)) != NULL; i++) {
        if (strcmp(b->name, name) == 0) {
            return b;
        }
    }
    die("no type %s", name);
}

static void pad(struct buf *b, size_t to) {
    static const char zeros[64];
    while (b->len % to) {
        size_t left = to - b->len % to;
        buf_append(b, zeros, left < sizeof zeros ? left : sizeof zeros);
    }
}

void made_tensor(struct gguf_made *m, const char *name, const char *type, uint32_t n_dims,
                 const uint64_t *shape, const void *data, size_t bytes) {
    made_item(&m->table, name, strlen(name));
    add_u32(&m->table, n_dims);
    for (uint32_t d = n_dims; d-- > 0;) {
        add_u64(&m->table, shape[d]);
    }
    add_u32(&m->table, block_named(type)->id);
    pad(&m->data, m->alignment ? m->alignment : 32);
    add_u64(&m->table, m->data.len);
    buf_append(&m->data, data, bytes);
    m->n_tensors++;
}

struct buf made_file(struct gguf_made *m) {
    struct buf out = {0};
    if (m->alignment) {
        made_u32(m, "general.alignment", m->alignment);
    }
    buf_append(&out, "GGUF", 4);
    add_u32(&out, m->version ? m->version : 3);
    add_u64(&out, m->n_tensors);
    add_u64(&out, m->n_keys);
    buf_append(&out, m->keys.data ? m->keys.data : "", m->keys.len);
    buf_append(&out, m->table.data ? m->table.data : "", m->table.len);
    pad(&out, m->alignment ? m->alignment : 32);
    buf_append(&out, m->data.data ? m->data.data : "", m->data.len);
    buf_free(&m->keys);
    buf_free(&m->table);
    buf_free(&m->data);
    *m = (struct gguf_made){0};
    return out;
}
