/*
 * test_util_gguf_model: a checkpoint of Hugging Face written as GGUF, as llama.cpp's converter
 * stores it: names, keys and conventions are written down here a second time.
 *
 * For what happens on the way to a test's subject: whatever fails here fails the test.
 */
#ifndef TESTS_UTIL_TEST_UTIL_GGUF_MODEL_H
#define TESTS_UTIL_TEST_UTIL_GGUF_MODEL_H

#include <jansson.h>

#include "prep/hf/hf.h"
#include "tests/util/test_util_gguf.h"

struct made_as {
    const char *arch, *type; /* of all matrices: F32, F16, BF16, Q8_0; vectors are F32 */
    bool pairs;              /* queries and keys in pairs */
    bool split;              /* of latent attention: keys' and values' matrices by heads */
};

/* Add all of `m`, which was read from `dir`. */
void made_golden(struct gguf_made *made, const struct hf_model *m, const char *dir,
                 const struct made_as *as);
/* Add a tokenizer.json of merges of bytes, filled up to `rows` tokens. */
void made_tokenizer(struct gguf_made *m, const json_t *tokenizer, const char *pre, uint32_t rows);

#endif
