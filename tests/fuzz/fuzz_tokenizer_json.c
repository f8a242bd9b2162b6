/* libFuzzer: tokenizer.json bytes -> section -> a few texts. What compiles must open, encode and
 * decode. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "format/text/tokenizer.h"
#include "prep/hf/hf_tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static const char text[] = "ab  don't <s>x\n\n12 \xc3\xa9\xff e\xcc\x81";
    struct hf_tokenizer_files files = {.tokenizer = {"tokenizer.json", (const char *)data, bytes}};
    struct buf section = {0}, out = {0};
    struct token_list ids = {0};
    struct tokenizer *tok = NULL;
    struct err err = {0}, use = {0};
    if (hf_tokenizer_compile(&files, &section, &err) == 0) {
        if (tokenizer_open(section.data, section.len, &tok, &err) < 0) {
            abort(); /* compiled, so it opens */
        }
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
    return 0;
}
