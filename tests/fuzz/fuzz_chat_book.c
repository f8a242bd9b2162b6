/*
 * libFuzzer: any bytes as a section of conversations. What opens lies within the bytes, and what is
 * refused says why.
 */
#include <stdlib.h>
#include <string.h>

#include "format/text/chat_book.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    struct chat_book book;
    struct err err = {0};
    if (chat_book_open(&book, data, bytes, &err) < 0) {
        return err.set && strncmp(err.msg, "conversations: ", 15) == 0 ? 0 : (abort(), 0);
    }
    for (size_t i = 0; i < book.n; i++) {
        const struct chat_entry *e = &book.entries[i];
        const uint8_t *end = (const uint8_t *)e->text + e->bytes;
        if ((const uint8_t *)e->name < data || end > data + bytes ||
            (e->kind != CHAT_ENTRY_CONTROL &&
             chat_book_find(&book, e->kind, e->name, e->name_bytes) != e)) {
            abort();
        }
    }
    chat_book_close(&book);
    return 0;
}
