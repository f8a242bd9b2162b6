/*
 * hf_tokenizer_pack: a tokenizer as plain lists -> the bytes of the tokenizer section.
 *
 * Owns: layout, hash tables and orders of format/text/tokenizer_file.h. Leaves to others: what goes
 * into the lists (hf_tokenizer). One thread, no state.
 */
#ifndef PREP_HF_HF_TOKENIZER_PACK_H
#define PREP_HF_HF_TOKENIZER_PACK_H

#include <stddef.h>
#include <stdint.h>

#include "format/base.h"
#include "format/text/tokenizer_file.h"

/* Everything is owned: pack_free. */
struct tokenizer_pack {
    struct buf blob;
    uint32_t flags, unk_id, bos_id, eos_id;
    uint32_t n_tokens;
    size_t spans_cap;         /* of both arrays, in tokens */
    struct tok_span *spans;   /* [n_tokens] */
    uint8_t *token_flags;     /* [n_tokens] */
    struct tok_merge *merges; /* [n_merges], no pair twice */
    size_t n_merges;
    struct tok_added *added; /* [n_added], any order */
    size_t n_added, added_cap;
    uint32_t next_id; /* above the ids of all added tokens, those that were left out too, and
                              * at least the number of the vocabulary's tokens */
    struct tok_step steps[TOK_MAX_STEPS];
    uint32_t n_normalizers, n_pre_tokenizers, n_decoders;
    uint32_t prefix[64], suffix[64];
    uint32_t n_prefix, n_suffix;
    struct buf chat_template;
    struct buf book; /* the conversations section (format/text/chat_book.h); empty: none */
};

/* Put bytes into the blob. */
struct tok_span pack_text(struct tokenizer_pack *p, const char *text, size_t bytes);

/* Make room for ids up to `id`, new ones being holes. */
void pack_reach(struct tokenizer_pack *p, uint32_t id);

/* Append the section's bytes. Sorts p->added by id. */
int pack_write(struct tokenizer_pack *p, struct buf *section, struct err *err);

void pack_free(struct tokenizer_pack *p);

#endif
