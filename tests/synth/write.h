/*
 * write: a synthetic model as a checkpoint directory of the Hugging Face Hub's layout, and texts of
 * its language.
 *
 * Owns: tensor names, safetensors shards and their index, config.json, generation_config.json, the
 * tokenizer's files, and synth.json, which says how the directory was made.
 * Memory: the list of tensors, and about a MiB for each thread.
 * Threads: called by one; workers make and write rows, and no byte depends on how many they are.
 */
#ifndef TESTS_SYNTH_WRITE_H
#define TESTS_SYNTH_WRITE_H

#include "format/progress.h"
#include "tests/synth/plant.h"

/* Write all files into `dir`, made where it does not exist; it must hold no config.json, which is
 * written last. */
int write_checkpoint(const struct plant *p, const char *dir, uint64_t shard_bytes, uint32_t threads,
                     struct progress *progress, struct err *err);

/* Append the texts of tokenizer.json and tokenizer_config.json. */
void write_tokenizer_texts(const struct plant *p, struct buf *tokenizer, struct buf *config);

/* The language of a directory that write_checkpoint made: opened; lang_close it. */
int write_read_lang(const char *dir, struct lang *out, struct err *err);

/* Append `n_tok` words of text `stream`, each with a blank before it: one token each. */
void write_text(const struct lang *l, uint64_t stream, uint64_t n_tok, struct buf *out);

#endif
