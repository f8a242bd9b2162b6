/*
 * hf_keys: what to do about keys of config.json that the importer does not read.
 *
 * Owns: the list of keys that are known to change nothing at inference, the list of keys of other
 * models, exporters and quantizers that change the arithmetic, the list of those that must not be
 * false, and the policy: the first are ignored; any other key is refused by name, known or not,
 * unless it holds a value that says nothing, or at which it is known to change nothing.
 * Leaves to others: the keys that are read (hf_config, settle, hf_rope).
 * Threads: pure functions.
 */
#ifndef PREP_HF_HF_KEYS_H
#define PREP_HF_HF_KEYS_H

#include <jansson.h>

#include "format/base.h"

/* A key without a number at which it changes nothing. */
#define HF_NO_NUMBER (-1.0)

/* Whether `name` is one of a list's, which ends with NULL or after `max` entries. */
bool hf_keys_among(const char *name, const char *const *list, size_t max);

/* Whether a value says "nothing here": null, false, an empty string, list or object, or the number
 * `neutral` (where it is not negative; true counts as 1). */
bool hf_keys_neutral(const json_t *v, double neutral);

/* A value for a message, cut short: `8`, `true`, `"gelu"`. Returns `text`. */
const char *hf_keys_text(const json_t *v, char text[64]);

/* Apply the policy to all keys of the text model's object for which is_read(ctx, name) is false. */
int hf_keys_check(const json_t *root, bool (*is_read)(const void *ctx, const char *name),
                  const void *ctx, const char *family, const char *path, struct err *err);

/* The same for a wrapper around it, whose other models and their tokens do not count, nor keys that
 * repeat what `text`, its text_config, says. */
int hf_keys_check_wrapper(const json_t *root, const json_t *text, const char *family,
                          const char *path, struct err *err);

#endif
