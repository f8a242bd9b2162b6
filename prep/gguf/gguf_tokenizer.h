/*
 * gguf_tokenizer: the tokenizer and chat templates in a GGUF file's metadata -> the archive's
 * sections.
 *
 * Owns: the metadata under "tokenizer.", as the tokenizer.json and tokenizer_config.json that say
 * the same; how text is split, by the names that llama.cpp gives to that (gguf_pre).
 * Leaves to others: reading these (prep/hf/hf_tokenizer).
 * Threads: pure functions.
 *
 * Models "gpt2" (merges of bytes) and "llama" (SentencePiece's BPE, whose merges follow from the
 * scores of its tokens: the greatest first) are read. Ids are those of llama.cpp, so text is not
 * normalized, although some checkpoints do. Tokens whose type is control or user-defined are added
 * ones; unused ones, with which llama.cpp fills the vocabulary up, are left out.
 */
#ifndef PREP_GGUF_GGUF_TOKENIZER_H
#define PREP_GGUF_GGUF_TOKENIZER_H

#include "prep/gguf/gguf.h"
#include "prep/hf/hf.h"

/* Fill m->tokenizer and m->book. A file without a vocabulary leaves them empty. */
int gguf_tokenizer(struct hf_model *m, const struct gguf *g, struct err *err);

#endif
