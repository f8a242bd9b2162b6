/*
 * libFuzzer: a byte that chooses the row, one that cuts, then what a model wrote -> calls. However
 * it is cut, the same is told; each call begins and ends, and nothing is told that was not written.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct told {
    struct buf all;
    size_t text;
    bool open;
};

static void check(bool is) {
    if (!is) {
        abort();
    }
}
static void on_text(void *ctx, const char *text, size_t bytes) {
    struct told *t = ctx;
    check(!t->open);
    t->text += bytes;
    buf_append(&t->all, text, bytes);
}
static void on_begin(void *ctx, const char *name, size_t bytes) {
    struct told *t = ctx;
    check(!t->open);
    t->open = true;
    buf_append(&t->all, "\1", 1);
    buf_append(&t->all, name, bytes);
    buf_append(&t->all, "\2", 1);
}
static void on_arguments(void *ctx, const char *json, size_t bytes) {
    struct told *t = ctx;
    check(t->open);
    buf_append(&t->all, json, bytes);
}
static void on_end(void *ctx, bool whole) {
    struct told *t = ctx;
    check(t->open);
    t->open = false;
    buf_append(&t->all, whole ? "\3" : "\4", 1);
}

static void tell(const struct tools_row *row, const struct value *tools, const char *text,
                 size_t bytes, size_t piece, struct told *t) {
    struct tools_stream s = {0};
    const struct tools_sink sink = {t, on_text, on_begin, on_arguments, on_end};
    buf_append(&t->all, "", 0);
    tools_begin(&s, row, tools);
    for (size_t at = 0; at < bytes; at += piece) {
        tools_push(&s, text + at, bytes - at < piece ? bytes - at : piece, &sink);
    }
    tools_end(&s, &sink);
    check(!t->open && t->text <= bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char json[] =
        "[{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": "
        "{\"properties\": "
        "{\"s\": {\"type\": \"string\"}, \"n\": {\"type\": \"integer\"}}}}}]";
    struct value_arena arena = {.limit_bytes = 1 << 20};
    struct value tools;
    struct err err = {0};
    struct told whole = {0}, cut = {0};
    size_t rows = 0;
    while (tools_row(rows)) {
        rows++;
    }
    if (bytes < 2 || value_json_read(&arena, json, sizeof json - 1, &tools, &err) < 0) {
        value_arena_free(&arena);
        return 0;
    }
    const struct tools_row *row = tools_row(data[0] % rows);
    const char *text = (const char *)data + 2;
    tell(row, &tools, text, bytes - 2, bytes, &whole);
    tell(row, &tools, text, bytes - 2, data[1] % 16 + 1, &cut);
    check(whole.all.len == cut.all.len && !memcmp(whole.all.data, cut.all.data, whole.all.len));
    buf_free(&whole.all);
    buf_free(&cut.all);
    value_arena_free(&arena);
    return 0;
}
