/*
 * corm_grammar: the part of the public C API that says what a text has to look like: which tokens
 * may come next, for `allowed` of struct corm_sampling. docs/GRAMMAR.md has the language of
 * grammars, and what of JSON schemas is known.
 *
 * Conventions, errors and engines are those of corm.h, which is found beside this header.
 */
#ifndef CORM_GRAMMAR_H
#define CORM_GRAMMAR_H

#include "corm.h"

#ifdef __cplusplus
extern "C" {
#endif

enum corm_grammar_form {
    CORM_GRAMMAR_GBNF,        /* rules, as llama.cpp has them */
    CORM_GRAMMAR_JSON_SCHEMA, /* JSON that is valid by a schema */
    CORM_GRAMMAR_JSON_OBJECT, /* any JSON object; there is no text */
};
struct corm_grammar;
struct corm_grammar_state;
/* Any thread. Errors tell line and column, or the place in the schema; a keyword that is not
 * supported is refused by name. The first grammar makes an index of the engine's vocabulary, which
 * stays: some 50 bytes an id. Each grammar keeps masks in up to 16 MiB, beside what its states
 * need, as long as it is used and not at rest. None of this is in the memory plan: name it in
 * caller_bytes. */
CORM_API int corm_grammar_open(struct corm_grammar **grammar, const struct corm_engine *engine,
                               enum corm_grammar_form form, const char *text, size_t text_bytes,
                               struct corm_error *error);
/* The same for GBNF whose rules may name the JSON of schemas as if that were a rule, and with
 * `remarks` (may be NULL): lines that say which values were loosened to any JSON, because a keyword
 * is not supported; the caller's (free()), NULL where there are none. */
struct corm_grammar_schema {
    const char *name;   /* letters, digits, '-' */
    const char *schema; /* JSON text, [schema_bytes] */
    size_t schema_bytes;
    bool strict; /* it is refused instead */
};
CORM_API int corm_grammar_open_with(struct corm_grammar **grammar, const struct corm_engine *engine,
                                    const char *text, size_t text_bytes,
                                    const struct corm_grammar_schema *schemas, size_t n_schemas,
                                    char **remarks, struct corm_error *error);
/* The token that the vocabulary has added with this text, which grammars name <[id]>; -1: there is
 * none. */
CORM_API int32_t corm_added_token(const struct corm_engine *engine, const char *text,
                                  size_t text_bytes);
/* Any thread; also before its states are, which then keep it. All before the engine. NULL is
 * allowed. */
CORM_API void corm_grammar_close(struct corm_grammar *grammar);
/* A text at its beginning. All states of a grammar belong to one thread at a time. */
CORM_API struct corm_grammar_state *corm_grammar_begin(struct corm_grammar *grammar);
CORM_API void corm_grammar_end(struct corm_grammar_state *state); /* NULL is allowed */
/* *allowed becomes the ids that may come next, stop ids where the text may end; borrowed until the
 * next call on any state of the grammar. `left_tok` > 0 is how many tokens may still be made, a
 * stop id not counted: ids after which these could not complete the text, at a byte each, are left
 * out as long as any others are there. An error where no id is allowed. */
CORM_API int corm_grammar_allowed(struct corm_grammar_state *state, size_t left_tok,
                                  const uint64_t **allowed, struct corm_error *error);
/* The text went on by a token. An error where it is not allowed: then nothing has changed. */
CORM_API int corm_grammar_accept(struct corm_grammar_state *state, int32_t id,
                                 struct corm_error *error);
/* By text, such as what a token had behind an opening that was waited for. */
CORM_API int corm_grammar_accept_text(struct corm_grammar_state *state, const char *text,
                                      size_t text_bytes, struct corm_error *error);
/* Give back the masks that a grammar keeps; they are made anew when they are asked for. */
CORM_API void corm_grammar_rest(struct corm_grammar *grammar);
/* Whether the text is complete and cannot go on. */
CORM_API bool corm_grammar_is_over(const struct corm_grammar_state *state);

#ifdef __cplusplus
}
#endif
#endif
