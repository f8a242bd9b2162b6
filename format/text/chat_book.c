#include "format/text/chat_book.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ENTRIES = 4096, MAX_NAME_BYTES = 64, HEAD_BYTES = 8 };

/* ---- reading -------------------------------------------------------------------------------- */

bool chat_book_is_name(const char *name, size_t bytes) {
    for (size_t i = 0, n; i < bytes; i += n) {
        if (text_next(name + i, bytes - i, &n) != TEXT_PLAIN) {
            return false;
        }
    }
    return bytes > 0 && bytes <= MAX_NAME_BYTES;
}

/* One entry into `e`; 0 where its kind is passed over, 1, or -1. */
static int read_entry(struct cursor *c, uint32_t i, struct chat_entry *e, struct err *err) {
    uint32_t kind = cursor_u16(c);
    size_t bad;
    e->name_bytes = cursor_u16(c);
    e->bytes = cursor_u32(c);
    e->name = (const char *)cursor_bytes(c, e->name_bytes);
    e->text = (const char *)cursor_bytes(c, e->bytes);
    e->kind = (enum chat_entry_kind)kind;
    if (c->failed) {
        return err_set(err, "conversations: entry %u does not fit into the section's %zu bytes", i,
                       c->size);
    }
    if (kind == 0 || kind >= CHAT_ENTRY_KINDS) {
        return 0;
    }
    if (kind == CHAT_ENTRY_CONTROL ? e->name_bytes > 0
                                   : !chat_book_is_name(e->name, e->name_bytes)) {
        return err_set(err, "conversations: the name of entry %u: expected %s", i,
                       kind == CHAT_ENTRY_CONTROL ? "none" : "1 to 64 bytes of text");
    }
    if (!value_utf8_check(e->text, e->bytes, &bad)) {
        return err_set(err, "conversations: entry %u: byte %zu is not UTF-8", i, bad);
    }
    return 1;
}

int chat_book_open(struct chat_book *book, const void *section, size_t bytes, struct err *err) {
    struct cursor c;
    *book = (struct chat_book){0};
    if (bytes == 0) {
        return 0;
    }
    cursor_init(&c, section, bytes);
    uint32_t n = cursor_u32(&c);
    if (c.failed || n > MAX_ENTRIES) {
        return err_set(err, "conversations: %u entries, at most %d are supported", n, MAX_ENTRIES);
    }
    book->entries = mem_calloc(n, sizeof *book->entries);
    for (uint32_t i = 0; i < n; i++) {
        struct chat_entry e;
        int rc = read_entry(&c, i, &e, err);
        if (rc > 0 && e.kind != CHAT_ENTRY_CONTROL &&
            chat_book_find(book, e.kind, e.name, e.name_bytes)) {
            rc = err_set(err, "conversations: entry %u: '%.*s' is given twice", i,
                         (int)e.name_bytes, e.name);
        }
        if (rc < 0) {
            goto fail;
        }
        if (rc > 0) {
            book->entries[book->n++] = e;
        }
    }
    if (c.pos != bytes) {
        err_set(err, "conversations: %zu bytes after the last entry", bytes - c.pos);
        goto fail;
    }
    return 0;
fail:
    chat_book_close(book);
    return -1;
}

void chat_book_close(struct chat_book *book) {
    free(book->entries);
    *book = (struct chat_book){0};
}

const struct chat_entry *chat_book_find(const struct chat_book *book, enum chat_entry_kind kind,
                                        const char *name, size_t name_bytes) {
    for (size_t i = 0; i < book->n; i++) {
        const struct chat_entry *e = &book->entries[i];
        if (e->kind == kind && e->name_bytes == name_bytes && !memcmp(e->name, name, name_bytes)) {
            return e;
        }
    }
    return NULL;
}

int chat_book_choose(const struct chat_book *book, const struct value *request, const char **text,
                     size_t *len, struct err *err) {
    const struct value *tools = request && request->type == VALUE_DICT
                                    ? value_dict_get_text(request->dict, "tools", 5)
                                    : NULL;
    const struct chat_entry *e =
        tools && tools->type != VALUE_NONE
            ? chat_book_find(book, CHAT_ENTRY_TEMPLATE, "tool_use", sizeof "tool_use" - 1)
            : NULL;
    if (e) {
        *text = e->text;
        *len = e->bytes;
    }
    if (*text) {
        return 0;
    }
    struct buf names = {0};
    buf_append(&names, "", 0);
    for (size_t i = 0; i < book->n; i++) {
        if (book->entries[i].kind == CHAT_ENTRY_TEMPLATE) {
            buf_printf(&names, "%s%.*s", names.len ? ", " : "", (int)book->entries[i].name_bytes,
                       book->entries[i].name);
        }
    }
    err_set(err,
            names.len ? "holds no default chat template, but others by name: %s"
                      : "holds no chat template",
            names.data);
    buf_free(&names);
    return -1;
}

/* ---- writing -------------------------------------------------------------------------------- */

static void put_le(char *to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++) {
        to[i] = (char)(value >> 8 * i);
    }
}

void chat_book_add(struct buf *section, enum chat_entry_kind kind, const char *name,
                   size_t name_bytes, const char *text, size_t bytes) {
    char head[HEAD_BYTES] = {0};
    struct cursor c;
    if (section->len == 0) {
        buf_append(section, head, 4);
    }
    cursor_init(&c, section->data, 4);
    put_le(section->data, cursor_u32(&c) + 1, 4);
    put_le(head, kind, 2);
    put_le(head + 2, name_bytes, 2);
    put_le(head + 4, bytes, 4);
    buf_append(section, head, sizeof head);
    buf_append(section, name, name_bytes);
    buf_append(section, text, bytes);
}
