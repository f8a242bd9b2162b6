/*
 * gguf_model: a file in GGUF as a model, as hf_open makes one of a checkpoint of Hugging Face.
 *
 * Owns: putting together what the file has: config (gguf_config), names (gguf_family), tokenizer
 * (gguf_tokenizer); which F32 tensors hold no more than BF16 or F16.
 * Leaves to others: all that both sources share (prep/hf).
 * Threads: as hf.
 *
 * llama.cpp stores some tensors as F32 whatever the checkpoint had. Those whose numbers all are
 * BF16 (or F16) count as such: so the archive is the one that the checkpoint would give.
 */
#ifndef PREP_GGUF_GGUF_MODEL_H
#define PREP_GGUF_GGUF_MODEL_H

#include "prep/hf/hf.h"

/* Whether `path` is a file that begins as one in GGUF. */
bool gguf_model_is(const char *path);
/* Open it, or the first part of several. `m` is zeroed by the call; hf_close accepts it after an
 * error too. */
int gguf_model_open(struct hf_model *m, const char *path, struct err *err);

#endif
