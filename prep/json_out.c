#include "prep/json_out.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void json_out(json_t *root, size_t flags, struct buf *out) {
    char *text = json_dumps(root, flags);
    if (!text) {
        die("jansson cannot write a value");
    }
    size_t bytes = strlen(text);
    for (size_t i = 0, n; i < bytes; i += n) {
        /* Outside of strings the only control character is the newline. */
        if (text_next(text + i, bytes - i, &n) == TEXT_CONTROL && text[i] != '\n') {
            buf_printf(out, "\\u%04x", (uint8_t)text[i + n - 1]);
        } else {
            buf_append(out, text + i, n);
        }
    }
    buf_append(out, "\n", 1);
    free(text);
    json_decref(root);
}

void json_out_print(json_t *root, size_t flags) {
    struct buf text = {0};
    json_out(root, flags, &text);
    fwrite(text.data, 1, text.len, stdout);
    buf_free(&text);
}
