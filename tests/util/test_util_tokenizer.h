/*
 * test_util_tokenizer: tokenizers compiled from tokenizer.json files, above all those of the styles
 * in tests/golden/tokenizers.
 *
 * For test programs; whatever fails here fails the test.
 */
#ifndef TESTS_UTIL_TEST_UTIL_TOKENIZER_H
#define TESTS_UTIL_TEST_UTIL_TOKENIZER_H

#include <jansson.h>

#include "format/text/tokenizer.h"

#define TOKENIZERS "tests/golden/tokenizers/"

struct loaded {
    struct buf section;
    struct tokenizer *tok; /* reads `section` */
};

/* Of a tokenizer.json in memory, in a file, of a style. `config` is the text of a
 * tokenizer_config.json or NULL. Close with loaded_close. */
void loaded_compile(const char *json, size_t bytes, const char *config, struct loaded *out);
void loaded_file(const char *path, const char *config, struct loaded *out);
void loaded_style(const char *name, struct loaded *out);
void loaded_close(struct loaded *l);

/* *out becomes the ids of a text. */
void loaded_encode(const struct tokenizer *tok, const char *text, size_t bytes, unsigned flags,
                   struct token_list *out);
/* The ids of a C string, with special tokens parsed and none added. Free with token_list_free. */
struct token_list loaded_ids(const struct tokenizer *tok, const char *text);

/* A whole JSON file; the tokenizer.json of a style, to be changed. json_decref. */
json_t *loaded_json(const char *path);
json_t *loaded_style_json(const char *name);

#endif
