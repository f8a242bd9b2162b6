/* libFuzzer: the bytes of tokenizer.json, and behind NUL bytes those of its neighbours -> section
 * -> a few texts. What compiles must open, encode and decode. A first file that is empty is none:
 * then the last one is a tiktoken file. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "format/text/chat_book.h"
#include "format/text/tokenizer.h"
#include "prep/hf/hf_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char text[] = "ab  don't <s>x\n\n12 \xc3\xa9\xff e\xcc\x81";
    struct buf section = {0}, out = {0}, remarks = {0}, conversations = {0};
    struct hf_tokenizer_files files = {
        .tokenizer = {.name = "tokenizer.json"},
        .config = {.name = "tokenizer_config.json"},
        .added_tokens = {.name = "added_tokens.json"},
        .special_map = {.name = "special_tokens_map.json"},
        .tiktoken = {.name = "hy.tiktoken"},
        .book = &conversations,
        .remarks = &remarks,
    };
    struct hf_text *texts[] = {&files.tokenizer, &files.config, &files.added_tokens,
                               &files.special_map, &files.tiktoken};
    const char *at = bytes ? (const char *)data : "";
    size_t left = bytes;
    for (size_t i = 0; i < sizeof texts / sizeof *texts && at; i++) {
        const char *end = memchr(at, 0, left);
        size_t n = end ? (size_t)(end - at) : left;
        texts[i]->data = n ? at : NULL;
        texts[i]->bytes = n;
        left -= n + (end != NULL);
        at = end ? end + 1 : NULL;
    }
    if (!files.tokenizer.data && !files.tiktoken.data) {
        files.tokenizer.data = "";
    }
    struct token_list ids = {0};
    struct tokenizer *tok = NULL;
    struct chat_book book;
    struct err err = {0}, use = {0};
    if (hf_tokenizer_compile(&files, &section, &err) == 0) {
        if (tokenizer_open(section.data, section.len, &tok, &err) < 0 ||
            chat_book_open(&book, conversations.data, conversations.len, &err) < 0) {
            abort(); /* compiled, so it opens */
        }
        chat_book_close(&book);
        tokenizer_encode(tok, text, sizeof text - 1,
                         TOKENIZER_ADD_SPECIAL | TOKENIZER_PARSE_SPECIAL, &ids, &use);
        tokenizer_decode(tok, ids.ids, ids.n, 0, &out, &use);
    } else if (!err.set) {
        abort(); /* a failure says why */
    }
    tokenizer_close(tok);
    token_list_free(&ids);
    buf_free(&section);
    buf_free(&out);
    buf_free(&remarks);
    buf_free(&conversations);
    return 0;
}
