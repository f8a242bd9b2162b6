/*
 * hf_tokenizer_json: typed access to the JSON of tokenizer files, with errors that name file and
 * path.
 *
 * Owns: nothing; every pointer into the JSON is borrowed from its root. One thread.
 */
#ifndef PREP_HF_HF_TOKENIZER_JSON_H
#define PREP_HF_HF_TOKENIZER_JSON_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "format/base.h"
#include "prep/hf/hf_tokenizer.h"
#include "prep/hf/hf_tokenizer_pack.h"

/* A place in a file: the value and how one gets there ("tokenizer.json: model.merges[3]"). */
struct place {
    const json_t *value;
    char path[200];
    struct err *err;
};

/* Parse a whole file. NULL and `err` where it is no JSON object; the caller drops the reference. */
json_t *place_parse(const struct hf_text *file, struct place *root, struct err *err);

/* obj[key] and list[i]; value is NULL where there is none (or null). */
struct place place_get(const struct place *at, const char *key);
struct place place_item(const struct place *at, size_t i);

/* A line for people, "PATH: what", where files->remarks wants it. */
void place_remark(const struct place *at, const struct hf_tokenizer_files *files, const char *fmt,
                  ...) __attribute__((format(printf, 3, 4)));

/* An error at this place; -1. */
int place_error(const struct place *at, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A member of the required type; absent or null gives *out unchanged where `optional`, else an
 * error. */
int place_bool(const struct place *at, const char *key, bool optional, bool *out);
int place_uint(const struct place *at, const char *key, uint32_t max, uint32_t *out);
/* The string's bytes (NUL inside is possible), borrowed. */
int place_string(const struct place *at, const char *key, bool optional, const char **text,
                 size_t *bytes);

/* hf_tokenizer_steps.c: the four chains of tokenizer.json into p. The order of calls is the
 * order of steps. */
int hf_read_normalizer(const struct place *root, struct tokenizer_pack *p);
int hf_read_pre_tokenizer(const struct place *root, struct tokenizer_pack *p);
int hf_read_decoder(const struct place *root, struct tokenizer_pack *p);
int hf_read_post_processor(const struct place *root, struct tokenizer_pack *p);

/* hf_tokenizer_added.c: the added tokens that tokenizer.json does not have, and which tokens begin
 * and end a text. `vocab` is the model's; `config` tokenizer_config.json, without a value where
 * there is none. */
int hf_read_added_elsewhere(const struct hf_tokenizer_files *files, const struct place *vocab,
                            const struct place *config, struct tokenizer_pack *p);

/* hf_tokenizer_chat.c: the chat template. */
int hf_read_chat_template(const struct hf_tokenizer_files *files, const struct place *config,
                          struct tokenizer_pack *p);

/* hf_tokenizer_tiktoken.c: a tiktoken file as the JSON of tokenizer.json, but for the merges, which
 * hf_read_tiktoken_merges adds: in tiktoken, two tokens merge wherever together they are one, first
 * those that make the token of the lowest rank. The caller drops the reference; NULL and an error
 * where it cannot be read. */
json_t *hf_read_tiktoken(const struct hf_tokenizer_files *files, const struct place *config,
                         struct place *root);
void hf_read_tiktoken_merges(const struct place *vocab, struct tokenizer_pack *p);

#endif
