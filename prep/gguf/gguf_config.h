/*
 * gguf_config: metadata of a model in GGUF -> the objects that Hugging Face's config.json and
 * generation_config.json would be.
 *
 * Owns: reading values by the rows of gguf_family, the refusal of keys that no row has, RoPE, which
 * layers have experts, tokens that end a text, sampling.
 * Leaves to others: what the objects' keys mean (prep/hf/hf_config), the rows (gguf_family).
 * Threads: pure functions.
 *
 * Numbers that are f32 become the shortest decimal that is the same f32: so 1e-6 is 1e-6 again.
 */
#ifndef PREP_GGUF_GGUF_CONFIG_H
#define PREP_GGUF_GGUF_CONFIG_H

#include "prep/gguf/gguf_family.h"

/* Make the object of config.json (*config) and that of generation_config.json (*generation, NULL
 * where there is nothing for it); new references. */
int gguf_config(const struct gguf *g, const struct gguf_family **family, json_t **config,
                json_t **generation, struct err *err);

/* ---- for the functions of rows ---- */

/* The number under "ARCH.`key`"; `fallback` where there is none. */
int gguf_number(const struct gguf_reading *r, const char *key, double fallback, double *out,
                struct err *err);
/* The same of a whole number of 0 .. INT32_MAX; anything else is refused. */
int gguf_whole(const struct gguf_reading *r, const char *key, int64_t fallback, int64_t *out,
               struct err *err);
/* Set a key of the config. */
void gguf_set_integer(struct gguf_reading *r, const char *name, int64_t value);
void gguf_set_real(struct gguf_reading *r, const char *name, double value);
void gguf_set_flag(struct gguf_reading *r, const char *name, bool value);
/* Whether the first layer (or that one) has a tensor of this name behind "blk.N.". */
bool gguf_has(const struct gguf_reading *r, uint32_t layer, const char *name);
/* A number as its shortest decimal. */
double gguf_shortest(float x);

#endif
