/*
 * hf_tokenizer: tokenizer.json and its neighbours -> the archive's tokenizer section.
 *
 * Owns: reading the JSON (format "1.0" of the Hugging Face `tokenizers` package), refusing by name
 * every component whose effect would be lost, and writing the section
 * (format/text/tokenizer_file.h).
 * Leaves to others: finding the files, and generation_config.json (stop ids are part of the
 * architecture).
 * Runs on prep's main thread; no state.
 *
 * Supported. Model: BPE (merges in both spellings, byte_fallback, unk_token, fuse_unk,
 * ignore_merges). Normalizers: Sequence NFC NFD NFKC NFKD Replace Prepend Strip Lowercase.
 * Pre-tokenizers: Sequence Split ByteLevel Metaspace Digits Punctuation Whitespace WhitespaceSplit.
 * Post-processors: Sequence TemplateProcessing ByteLevel. Decoders: Sequence ByteLevel Metaspace
 * ByteFallback Fuse Strip Replace. `truncation`, `padding` and `dropout` concern training and
 * batches and are passed over.
 *
 * BOS and EOS: what the post-processor adds, except that an explicit add_bos_token or add_eos_token
 * in tokenizer_config.json decides its side.
 */
#ifndef PREP_HF_HF_TOKENIZER_H
#define PREP_HF_HF_TOKENIZER_H

#include <stddef.h>

#include "format/base.h"

/* A file's bytes and the name for messages. data = NULL: there is no such file. */
struct hf_text {
    const char *name;
    const char *data;
    size_t bytes;
};

struct hf_tokenizer_files {
    struct hf_text tokenizer; /* tokenizer.json, required */
    struct hf_text config;    /* tokenizer_config.json */
    struct hf_text
        chat_template; /* chat_template.jinja; comes before the one in tokenizer_config.json */
};

/* Append the section to `section` (empty before). The result has passed tokenizer_open. */
int hf_tokenizer_compile(const struct hf_tokenizer_files *files, struct buf *section,
                         struct err *err);

#endif
