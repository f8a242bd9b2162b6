/*
 * libFuzzer: template, NUL, JSON -> compile -> render twice. Both renderings must agree, and what
 * fails must say why and where.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void use(const struct template *t, const struct value *context) {
    static const struct template_limits limits = {4 << 20, 20000, 100};
    struct tm now = {.tm_year = 124, .tm_mday = 1};
    char *out[2] = {0};
    size_t len[2];
    int rc[2];
    for (int i = 0; i < 2; i++) {
        struct err err = {0};
        rc[i] = template_render(t, context, &limits, &now, &out[i], &len[i], &err);
        if (rc[i] ? strncmp(err.msg, "line ", 5) != 0 : err.set) {
            abort();
        }
    }
    if (rc[0] != rc[1] || (!rc[0] && (len[0] != len[1] || memcmp(out[0], out[1], len[0]) != 0))) {
        abort();
    }
    free(out[0]);
    free(out[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    const uint8_t *end = bytes ? memchr(data, 0, bytes) : NULL;
    size_t len = end ? (size_t)(end - data) : bytes;
    struct value_arena arena = {.limit_bytes = 4 << 20};
    struct value context = value_none();
    struct template *t;
    struct err err = {0};
    if (end && value_json_read(&arena, (const char *)end + 1, bytes - len - 1, &context, &err)) {
        context = value_none();
        err = (struct err){0};
    }
    char *text = mem_alloc(len);
    memcpy(text, data, len);
    if (template_compile(&t, text, len, &err) == 0) {
        free(text); /* nothing of it is kept */
        use(t, &context);
        template_free(t);
    } else {
        free(text);
        if (!err.set) {
            abort();
        }
    }
    value_arena_free(&arena);
    return 0;
}
