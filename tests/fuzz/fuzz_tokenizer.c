/*
 * libFuzzer: section bytes -> open -> encode, decode, stream. Batch and stream must agree.
 *
 * The section is the input up to its last multiple of 8 bytes; the rest is text to encode. Seeds:
 * sections compiled from the tokenizers in tests/golden/tokenizers.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/tokenizer.h"
#include "format/text/tokenizer_text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void use(const struct tokenizer *tok, const char *text, size_t bytes, unsigned flags) {
    struct token_list ids = {0};
    struct buf batch = {0}, streamed = {0};
    struct err err = {0};
    tokenizer_encode(tok, text, bytes, flags, &ids, &err);
    for (size_t i = 0; i < bytes; i++) {
        token_list_add(&ids, (uint8_t)text[i]);
    }
    struct err batch_err = {0}, stream_err = {0};
    int rc = tokenizer_decode(tok, ids.ids, ids.n, flags & 1, &batch, &batch_err), stream_rc = 0;
    struct token_stream *s = token_stream_new(tok, flags & 1);
    for (size_t i = 0; i < ids.n && stream_rc == 0; i++) {
        stream_rc = token_stream_push(s, ids.ids[i], &streamed, &stream_err);
        if (text_valid(streamed.len ? streamed.data : "", streamed.len) != streamed.len) {
            abort();
        }
    }
    stream_rc = stream_rc ? stream_rc : token_stream_finish(s, &streamed, &stream_err);
    if (rc != stream_rc ||
        (rc == 0 && (batch.len != streamed.len ||
                     (batch.len && memcmp(batch.data, streamed.data, batch.len))))) {
        abort();
    }
    token_stream_free(s);
    token_list_free(&ids);
    buf_free(&batch);
    buf_free(&streamed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char fixed[] = "ab  don't <s>x\n\n12 \xc3\xa9\xff e\xcc\x81 [L] ROW";
    struct tokenizer *tok;
    struct err err = {0};
    size_t section_bytes = bytes & ~(size_t)7, text_bytes = bytes - section_bytes;
    uint8_t *block = mem_alloc(section_bytes);
    memcpy(block, data, section_bytes);
    if (tokenizer_open(block, section_bytes, &tok, &err) == 0) {
        use(tok, (const char *)data + section_bytes, text_bytes, 3);
        use(tok, fixed, sizeof fixed - 1, 3);
        use(tok, fixed, sizeof fixed - 1, 0);
        tokenizer_close(tok);
    } else if (!err.set) {
        abort(); /* a failure says why */
    }
    free(block);
    return 0;
}
