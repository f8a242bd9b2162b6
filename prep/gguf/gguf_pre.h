/*
 * gguf_pre: how text is split before merges, by tokenizer.ggml.pre.
 *
 * Owns: a row for names of llama.cpp that split alike. Patterns are those of the tokenizers that
 * the names stand for; llama.cpp's own, which its matcher can read, split the same.
 * Leaves to others: the components (prep/hf/hf_tokenizer), patterns (format/text).
 * Threads: constant tables.
 */
#ifndef PREP_GGUF_GGUF_PRE_H
#define PREP_GGUF_GGUF_PRE_H

#include <jansson.h>

#include "prep/gguf/gguf.h"

struct gguf_pre {
    const char *names;    /* of llama.cpp, each between two spaces: " a b " */
    const char *patterns; /* JSON: a list of patterns, split one after the other; NULL: GPT-2's own
                             of the ByteLevel component */
    bool whole;           /* a word that is a token is one, whatever the merges */
    bool begins;          /* a text begins with BOS, where the file does not say */
};

/* NULL where there is none. */
const struct gguf_pre *gguf_pre_find(const struct gguf_text *name);
const struct gguf_pre *gguf_pre_at(size_t i);
/* The pre_tokenizer of a tokenizer.json. A new reference. */
json_t *gguf_pre_json(const struct gguf_pre *p);

#endif
