/*
 * hf_generation: what a checkpoint suggests for generating text: tokens that end it, and sampling.
 *
 * Owns: generation_config.json, and eos_token_id of config.json.
 * Leaves to others: the tokenizer's end token (hf).
 * Threads: pure functions.
 *
 * Stop tokens are part of the model: one that the model does not have is an error. Sampling is
 * advice: where it cannot be followed, it is left out, and a remark says so.
 */
#ifndef PREP_HF_HF_GENERATION_H
#define PREP_HF_HF_GENERATION_H

#include "prep/hf/settle.h"

/* Add a stop token; false where it is one already. */
bool hf_generation_add_stop(struct arch *a, uint32_t id);
/* Fill stop_ids and the gen_ fields of s->arch. `gen` is generation_config.json's object, NULL
 * where there is no such file; `path` names it in messages. *named: some file names a stop token;
 * else the stop token is the family's, where it has one. Remarks are lines ending in '\n'. */
int hf_generation_fill(const struct settle *s, const json_t *gen, const char *path, bool *named,
                       struct buf *remarks, struct err *err);

#endif
