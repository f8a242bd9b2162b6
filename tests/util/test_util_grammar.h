/*
 * test_util_grammar: grammars and vocabularies for tests.
 */
#ifndef TESTS_UTIL_TEST_UTIL_GRAMMAR_H
#define TESTS_UTIL_TEST_UTIL_GRAMMAR_H

#include "format/text/grammar.h"
#include "tests/util/test.h"

/* A schema's text to a grammar; NULL and `err`. */
struct grammar *grammar_of_schema(const char *schema, unsigned flags, struct buf *remarks,
                                  struct err *err);
/* A vocabulary of all bytes (id = byte), then `words` (a list that NULL ends), then the added
 * tokens <think>, </think> and <end>, of which the last one ends a text. */
struct grammar_vocab *grammar_byte_vocab(const char *const *words);
/* A vocabulary of `n` ids like that of a published tokenizer: all bytes, then words, parts of
 * words, numbers, spaces, pieces of JSON and code, and of other scripts, also cut inside of
 * characters; the last one ends a text. The same for the same numbers. */
struct grammar_vocab *grammar_large_vocab(size_t n, uint64_t seed);

/* Whether the grammar has the text. */
bool grammar_has(const struct grammar *g, const char *text, size_t n);

/* A number of set bits; whether one is set. */
size_t mask_count(const uint64_t *mask, size_t words);
static inline bool mask_has(const uint64_t *mask, uint32_t id) {
    return mask[id / 64] >> id % 64 & 1;
}

#endif
