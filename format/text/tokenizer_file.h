/*
 * tokenizer_file: the on-disk structs of the tokenizer section, version 1, and nothing else.
 *
 * docs/FORMAT.md is normative; this header mirrors it. The section is position independent: every
 * offset counts from the section's first byte, which lies at a multiple of 8 in memory. All numbers
 * are little-endian and fixed-width; reserved fields are written as zero and must be zero. The
 * tables are used in place, so that opening a large vocabulary costs its validation only. The
 * section has no checksum of its own: the archive's section table has one.
 */
#ifndef FORMAT_TEXT_TOKENIZER_FILE_H
#define FORMAT_TEXT_TOKENIZER_FILE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define TOK_MAGIC "CORMTOK\n" /* 8 bytes */

enum {
    TOK_VERSION = 1,
    TOK_ALIGN = 8,            /* of the section in memory, and of every table in it */
    TOK_MAX_STEPS = 64,       /* normalizers, pre-tokenizers and decoders together */
    TOK_MAX_TOKENS = 1 << 24, /* ids are below this */
    TOK_MAX_PATTERN = 1 << 14 /* bytes of a regular expression */
};

#define TOK_NONE UINT32_C(0xffffffff)    /* no such token; an empty slot of a hash table */
#define TOK_MISSING UINT32_C(0xfffffffe) /* unk_id: named by the model, but not in its vocabulary */

/* A run of bytes in the blob. */
struct tok_span {
    uint32_t offset; /* from the start of the blob */
    uint32_t bytes;
};
static_assert(sizeof(struct tok_span) == 8, "span");

enum tok_table_id {
    TOK_BLOB,        /* uint8_t[]: every string, UTF-8, back to back in any order */
    TOK_SPANS,       /* struct tok_span[n_tokens]: a token's text, by id; a hole has zero bytes */
    TOK_TOKEN_FLAGS, /* uint8_t[n_tokens]: enum tok_token_flag */
    TOK_VOCAB,       /* uint32_t[2^k]: ids of the model's vocabulary, hashed by text */
    TOK_MERGES,      /* struct tok_merge[2^k], hashed by (left, right) */
    TOK_ADDED,       /* struct tok_added[], by rising id */
    /* uint32_t[]: indices into ADDED, by rising match text (bytewise), of the tokens that are
     * looked for in the raw text, and of those that are looked for in the normalized text */
    TOK_MATCH_RAW,
    TOK_MATCH_NORMALIZED,
    TOK_STEPS,         /* struct tok_step[]: normalizers, then pre-tokenizers, then decoders */
    TOK_PREFIX,        /* uint32_t[]: ids in front of an encoded text (BOS) */
    TOK_SUFFIX,        /* uint32_t[]: ids behind it */
    TOK_CHAT_TEMPLATE, /* uint8_t[]: the chat template's Jinja text as published; may be empty */
    TOK_TABLES
};

struct tok_table {
    uint64_t offset; /* from the start of the section, a multiple of 8 */
    uint64_t bytes;
};
static_assert(sizeof(struct tok_table) == 16, "table");

enum tok_flag {
    TOK_BYTE_FALLBACK =
        1,            /* a character without a token becomes its bytes' tokens <0x00>..<0xFF> */
    TOK_FUSE_UNK = 2, /* neighbouring unknown characters give one unk token */
    TOK_IGNORE_MERGES = 4, /* a whole piece that is in the vocabulary is that token */
    TOK_FLAGS_KNOWN = 7
};

struct tok_header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t flags; /* enum tok_flag; an unknown bit: refuse */
    uint64_t section_bytes;
    uint32_t n_tokens; /* highest id + 1 */
    uint32_t unk_id;   /* an id, TOK_NONE or TOK_MISSING */
    uint32_t bos_id;   /* an id or TOK_NONE */
    uint32_t eos_id;   /* an id or TOK_NONE */
    uint32_t n_normalizers;
    uint32_t n_pre_tokenizers;
    uint32_t n_decoders;
    uint32_t reserved;
    uint64_t reserved2;
    struct tok_table tables[TOK_TABLES]; /* enum tok_table_id */
};
static_assert(sizeof(struct tok_header) == 64 + 16 * TOK_TABLES, "header");
static_assert(offsetof(struct tok_header, tables) == 64, "header tables");

enum tok_token_flag {
    TOK_TOKEN_MODEL = 1, /* in the model's vocabulary, so also in TOK_VOCAB */
    TOK_TOKEN_ADDED = 2, /* has a row in TOK_ADDED */
    TOK_TOKEN_SKIP = 4,  /* left out when decoding without special tokens */
    TOK_TOKEN_FLAGS_KNOWN = 7
};

/* A merge rule. TOK_MERGES has 2^k slots, at least one of them free; a free slot has left =
 * TOK_NONE. A rule was put into the first slot that was free, beginning at ((left << 32 | right) *
 * 0x9e3779b97f4a7c15 mod 2^64) >> (64 - k) and going on from the last slot to the first. TOK_VOCAB
 * is filled in the same way, beginning at XXH3-64(text) mod 2^k. */
struct tok_merge {
    uint32_t left, right; /* ids */
    uint32_t rank;        /* lower merges first */
    uint32_t result;      /* id */
};
static_assert(sizeof(struct tok_merge) == 16, "merge");

enum tok_added_flag {
    TOK_ADDED_SPECIAL = 1,
    TOK_ADDED_SINGLE_WORD = 2, /* only where no word character touches it */
    TOK_ADDED_LSTRIP = 4,      /* takes the white space in front of it along */
    TOK_ADDED_RSTRIP = 8,      /* takes the white space behind it along */
    TOK_ADDED_NORMALIZED = 16, /* is looked for in normalized text */
    TOK_ADDED_FLAGS_KNOWN = 31
};

struct tok_added {
    uint32_t id;
    uint32_t flags; /* enum tok_added_flag */
    struct tok_span
        match; /* the text to look for (normalized where the flag says so), and to decode to */
};
static_assert(sizeof(struct tok_added) == 16, "added token");

enum tok_step_kind {
    /* normalizers: text -> text */
    TOK_NORM_NFC = 1,
    TOK_NORM_NFD = 2,
    TOK_NORM_NFKC = 3,
    TOK_NORM_NFKD = 4,
    TOK_NORM_REPLACE = 5, /* pattern -> content */
    TOK_NORM_PREPEND = 6, /* content in front of a text that is not empty */
    TOK_NORM_STRIP = 7,   /* white space at the ends: LEFT, RIGHT */
    TOK_NORM_LOWERCASE = 8,
    /* pre-tokenizers: piece -> pieces */
    TOK_PRE_SPLIT = 32, /* at pattern, as `behavior` says */
    TOK_PRE_BYTE_LEVEL =
        33, /* PREFIX_SPACE; USE_REGEX: the GPT-2 pattern first; then bytes -> characters */
    TOK_PRE_METASPACE = 34, /* content = the replacement character; a = enum tok_scheme; SPLIT */
    TOK_PRE_DIGITS = 35,    /* behavior ISOLATED (each digit) or CONTIGUOUS (runs) */
    TOK_PRE_PUNCTUATION = 36,
    TOK_PRE_WHITESPACE = 37, /* runs of word characters, runs of others that are not white space */
    TOK_PRE_WHITESPACE_SPLIT = 38, /* at white space, which is dropped */
    /* decoders: tokens -> tokens */
    TOK_DEC_BYTE_LEVEL = 64,
    TOK_DEC_METASPACE = 65, /* `content` and `a` as for the pre-tokenizer */
    TOK_DEC_BYTE_FALLBACK = 66,
    TOK_DEC_FUSE = 67,
    TOK_DEC_STRIP = 68, /* drops up to `a` characters `content` in front, up to `b` behind */
    TOK_DEC_REPLACE = 69,
    TOK_DEC_JOIN = 70, /* content between tokens (a tokenizer without decoder joins with a space) */
};

enum tok_behavior {
    TOK_ISOLATED = 0,        /* a match is a piece of its own */
    TOK_REMOVED = 1,         /* a match is dropped */
    TOK_MERGED_PREVIOUS = 2, /* a match joins what is in front of it */
    TOK_MERGED_NEXT = 3,
    TOK_CONTIGUOUS = 4, /* neighbouring matches are one piece */
    TOK_BEHAVIORS
};

enum tok_scheme { TOK_SCHEME_ALWAYS = 0, TOK_SCHEME_NEVER = 1, TOK_SCHEME_FIRST = 2, TOK_SCHEMES };

enum tok_step_flag {
    TOK_STEP_REGEX = 1,  /* pattern is a regular expression (else literal text) */
    TOK_STEP_INVERT = 2, /* what does not match counts as the match */
    TOK_STEP_PREFIX_SPACE = 4,
    TOK_STEP_USE_REGEX = 8,
    TOK_STEP_SPLIT = 16,
    TOK_STEP_LEFT = 32,
    TOK_STEP_RIGHT = 64,
    TOK_STEP_FLAGS_KNOWN = 127
};

struct tok_step {
    uint16_t kind;     /* enum tok_step_kind */
    uint16_t behavior; /* enum tok_behavior */
    uint32_t flags;    /* enum tok_step_flag */
    uint32_t a, b;
    struct tok_span pattern;
    struct tok_span content;
    uint64_t reserved;
};
static_assert(sizeof(struct tok_step) == 40, "step");

#endif
