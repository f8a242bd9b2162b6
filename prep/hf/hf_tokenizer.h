/*
 * hf_tokenizer: tokenizer.json, or a tiktoken file, and their neighbours -> the archive's tokenizer
 * section.
 *
 * Owns: reading the files (tokenizer.json in format "1.0" of the Hugging Face `tokenizers`
 * package), refusing by name every component whose effect would be lost, and writing the section
 * (format/text/tokenizer_file.h).
 * Leaves to others: generation_config.json (hf_generation).
 * Runs on prep's main thread; no state.
 *
 * Supported. Model: BPE (merges in both spellings, byte_fallback, unk_token, fuse_unk,
 * ignore_merges). Normalizers: Sequence NFC NFD NFKC NFKD Replace Prepend Strip Lowercase.
 * Pre-tokenizers: Sequence Split ByteLevel Metaspace Digits Punctuation Whitespace WhitespaceSplit.
 * Post-processors: Sequence TemplateProcessing ByteLevel. Decoders: Sequence ByteLevel Metaspace
 * ByteFallback Fuse Strip Replace. `truncation`, `padding` and `dropout` concern training and
 * batches and are passed over.
 *
 * Without tokenizer.json, a tiktoken file is read: a token in base64 and its rank on a line. How
 * text is split, and the names of its special tokens, stand in the checkpoint's Python code; so
 * only published classes are known (hf_tokenizer_tiktoken.c), and others are refused by name.
 *
 * Added tokens stand in several files, which count as in transformers (5.24):
 * - tokenizer.json's added_tokens always.
 * - Where tokenizer_config.json has added_tokens_decoder: that, whose flags come before those of
 *   tokenizer.json; special_tokens_map.json and added_tokens.json are old then, and do not count,
 *   but that a name (bos_token, ...) which no other file has is taken from the map.
 * - Else: special_tokens_map.json, whose names come before those of tokenizer_config.json, and
 *   added_tokens.json.
 * - Then every name of a special token that is no added token yet (bos_token, pad_token,
 *   image_token, extra_special_tokens, ...). One that is in no vocabulary gets the next free id, if
 *   the model has a row for it.
 * Added tokens for which the model has no row, by whatever file, are left out with a remark: no
 * text has them, and the model makes none. A token of the vocabulary itself without a row is
 * refused.
 * An id that a file gives must be the one that the tokenizer gives; a token with two ids is an
 * error that names both files. What does not count although it says something else is told in a
 * remark.
 *
 * The chat templates: chat_template.jinja and those of additional_chat_templates; where there is
 * none of these, what tokenizer_config.json has; else chat_template.json. Of several with names,
 * "default" is the tokenizer section's, and the others go to the archive's section of
 * conversations, with the names of special tokens that are not BOS or EOS, and chat_control_tokens.
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
    struct hf_text tokenizer; /* tokenizer.json */
    struct hf_text tiktoken;  /* tiktoken.model or another of its kind; one of both is required */
    struct hf_text config;    /* tokenizer_config.json */
    struct hf_text added_tokens;     /* added_tokens.json */
    struct hf_text special_map;      /* special_tokens_map.json */
    struct hf_text chat_template;    /* chat_template.jinja */
    struct hf_text chat_json;        /* chat_template.json */
    const struct hf_text *templates; /* [n_templates] additional_chat_templates, by their names */
    size_t n_templates;
    struct buf *book; /* gets the section of conversations, where there is one; NULL: not wanted */
    uint32_t rows;    /* of the model's embedding; 0: not known, names may get any id */
    struct buf *remarks; /* gets lines ending in '\n', for people; NULL: they are not wanted */
    const char *dir;     /* remarks begin with it; NULL: with the file's name */
};

/* Append the section to `section` (empty before). The result has passed tokenizer_open. */
int hf_tokenizer_compile(const struct hf_tokenizer_files *files, struct buf *section,
                         struct err *err);

/* The same from the files of directory `dir`, for a model with `rows` rows of the embedding. Where
 * there is no tokenizer that can be read, `section` stays empty, which is no error. Messages and
 * remarks begin with `dir`. */
int hf_tokenizer_read(const char *dir, uint32_t rows, struct buf *section, struct buf *book,
                      struct buf *remarks, struct err *err);

#endif
