/*
 * tokenizer_internal: what the rooms of the tokenizer share and nobody else sees.
 *
 * A struct tokenizer is written by tokenizer_open only. All that changes while encoding is in a
 * struct encoder, one for each call.
 */
#ifndef FORMAT_TEXT_TOKENIZER_INTERNAL_H
#define FORMAT_TEXT_TOKENIZER_INTERNAL_H

#include "format/base.h"
#include "format/text/tokenizer.h"
#include "format/text/tokenizer_file.h"
#include "format/text/tokenizer_regex.h"

enum {
    TOK_TEXT_MAX_BYTES = 1 << 30,
    TOK_PIECE_BYTES = 256 << 10,
    TOK_PART_BYTES = 64 << 10,
    /* A piece between pre-tokenizers and merges is merged in parts where it can be cut, and refused
     * where it cannot: what is merged at once takes up to 40 bytes for each of its own. */
    TOK_MERGE_MAX_BYTES = 4 << 20,
};

/* The added tokens to look for, sorted by the text that they match. Those that start with byte b
 * are order[first[b]..first[b + 1]). */
struct matcher {
    const uint32_t *order; /* [n] indices into `added` */
    uint32_t n;
    uint32_t first[257];
};

struct tokenizer {
    /* All pointers before `regexes` point into the section, which is borrowed. */
    const struct tok_header *header;
    const char *blob;
    const struct tok_span *spans;   /* [n_tokens] */
    const uint8_t *flags;           /* [n_tokens] */
    const uint32_t *vocab;          /* [vocab_mask + 1] */
    const struct tok_merge *merges; /* [merge_mask + 1] */
    const struct tok_added *added;  /* [n_added] */
    const struct tok_step *steps;   /* [n_steps] */
    const uint32_t *prefix, *suffix;
    const char *chat_template;
    uint32_t n_tokens, vocab_mask, merge_mask, n_added, n_steps, n_prefix, n_suffix;
    size_t chat_template_bytes;
    int merge_shift;
    struct regex *regexes[TOK_MAX_STEPS]; /* owned; NULL for steps without a pattern to run */
    uint32_t n_counted;                   /* of them, those whose steps are counted */
    struct matcher raw, normalized;
    uint32_t char_ids[0x180]; /* ids of the one-character tokens below U+0180, TOK_NONE for none */
    uint32_t byte_ids[256];   /* ids of <0x00>..<0xFF>, TOK_NONE for none */
    /* A text is encoded in pieces of about this many bytes, and what is merged in parts of this
     * many; with the same ids (tests: less). */
    size_t piece_bytes, part_bytes;
};

/* The symbols of one word while it is merged. Short words use only ids and ranks, long ones all of
 * it. */
struct bpe_scratch {
    uint32_t *ids;         /* [cap] */
    uint32_t *ranks;       /* of a short word: rank of the pair (i, i + 1) */
    uint32_t *results;     /* what that pair merges into */
    uint32_t *prev, *next; /* [links_cap] */
    struct bpe_entry *heap;
    struct bpe_joints *joints; /* NULL until a piece is long */
    size_t n, cap, links_cap, n_heap, heap_cap;
};

/* What is left of what an encode, or a push through the decoders, may take (tokenizer_budget.c). */
struct tok_budget {
    const struct tokenizer *tok;
    uint64_t bytes; /* that steps may write, all together */
    uint64_t steps; /* pieces handed on, and steps of counted patterns */
};

struct encoder {
    const struct tokenizer *tok;
    unsigned flags;
    struct tok_budget budget;
    size_t merge_max_bytes;    /* TOK_MERGE_MAX_BYTES or less */
    size_t merge_wanted_bytes; /* where more would have had to be merged at once, how many */
    struct token_list *out;    /* borrowed */
    struct err *err;           /* borrowed */
    /* Where the piece of a text that is encoded was cut from what lies in front of it, and behind
     * it; NULL for the text's ends. What begins and ends there is no beginning and no end. */
    const char *cut_front, *cut_behind;
    bool after_cut, before_cut; /* of the stretch that is normalized */
    struct regex_scratch *regex;
    struct bpe_scratch bpe;
    struct buf normal[2];                /* the normalizers write their text to them in turn */
    struct buf step_text[TOK_MAX_STEPS]; /* the text that a pre-tokenizer has rewritten */
};

/* tokenizer.c */
static inline const char *tokenizer_span(const struct tokenizer *tok, struct tok_span span) {
    return tok->blob + span.offset;
}
uint32_t tokenizer_vocab_find(const struct tokenizer *tok, const char *text, size_t bytes);
const struct tok_added *tokenizer_added_find(const struct tokenizer *tok, uint32_t id);
void encoder_init(struct encoder *enc, const struct tokenizer *tok, unsigned flags,
                  struct token_list *out, struct err *err);
void encoder_free(struct encoder *enc);

/* How many of the first `front` bytes of a text lie in its stretch [begin, end), begin <= end. */
static inline size_t front_within(size_t front, size_t begin, size_t end) {
    front = front < end ? front : end;
    return front > begin ? front - begin : 0;
}

/* tokenizer_open.c */
/* Put the step's place and name in front of a filled error, such as "pre-tokenizer step 3, Split".
 * Returns -1. */
int tokenizer_step_error(const struct tokenizer *tok, uint32_t step, struct err *err);
/* The regular expression that the step runs, NULL where it runs none. */
const char *tokenizer_step_pattern(const struct tokenizer *tok, uint32_t step, size_t *bytes);

/* The longest added token of `m` that `text` starts with, NULL for none. *looked becomes the number
 * of bytes that took. */
const struct tok_added *match_here(const struct tokenizer *tok, const struct matcher *m,
                                   const char *text, size_t bytes, size_t *looked);
/* Append the ids of one piece of a text, of which `front` bytes are the text's first character. */
int encode_piece(struct encoder *enc, const char *text, size_t bytes, size_t front);

/* tokenizer_cut.c */
/* Where a text can be cut in two so that its ids are those of the parts, one after the other. */
struct tok_cutter;
struct tok_cutter *cutter_new(const struct tokenizer *tok);
void cutter_free(struct tok_cutter *k); /* NULL is fine */
/* The first such place of `text` in [from, to), 0 < from, or 0 where there is none; -1 and
 * enc->err where looking takes more than the budget. What a place's certainty hangs on lies within
 * cutter_reach bytes behind it, which have to be there unless the text ends before. */
int64_t cutter_find(struct tok_cutter *k, struct encoder *enc, const char *text, size_t bytes,
                    size_t from, size_t to);
size_t cutter_reach(const struct tok_cutter *k);
/* Whether usual places of a text are safe: between words or lines. */
bool cutter_cuts(struct tok_cutter *k, struct encoder *enc);

/* tokenizer_budget.c */
/* The whole budget for a token's text and what the decoders hold back, or the beginning of one for
 * encoding, to which budget_more adds the share of so many bytes of text. */
void budget_encode(struct tok_budget *b, const struct tokenizer *tok);
void budget_more(struct tok_budget *b, size_t bytes);
void budget_decode(struct tok_budget *b, const struct tokenizer *tok, size_t bytes);
/* Take from it; -1 and `err`, which names the step, where less is left. */
int budget_bytes(struct tok_budget *b, uint32_t step, uint64_t bytes, struct err *err);
int budget_steps(struct tok_budget *b, uint32_t step, uint64_t steps, struct err *err);
/* Take what looking at `looked` bytes for one added token costs. */
int budget_look(struct tok_budget *b, size_t looked, struct err *err);

/* tokenizer_pre.c */
/* Run the normalizers. *text and *bytes become the result, which is the input itself or lies in
 * enc->normal until the next call. *front is the number of its first bytes that `tokenizers` would
 * trace back to the first character of the whole text (0: none), and becomes that of the result. */
int pre_normalize(struct encoder *enc, const char **text, size_t *bytes, size_t *front);
/* Cut a piece with the pre-tokenizers and encode what results. Its first `front` bytes count as the
 * beginning of the whole text. */
int pre_encode(struct encoder *enc, const char *text, size_t bytes, size_t front);
/* Replace every match of the step's pattern by its content, which counts as the last character of
 * the match. *front (may be NULL) as above. */
int pre_replace(struct tok_budget *budget, uint32_t step, struct regex_scratch *scratch,
                const char *text, size_t bytes, struct buf *out, size_t *front, struct err *err);

/* tokenizer_bpe.c */
/* Whether no rule merges across the place between two characters, x and y, whatever lies around
 * them. */
bool bpe_parts(const struct tokenizer *tok, struct bpe_scratch *s, uint32_t x, uint32_t y);
int bpe_encode(struct encoder *enc, const char *text, size_t bytes);
void bpe_scratch_free(struct bpe_scratch *s);
/* The rule that merges (left, right), NULL where there is none. */
const struct tok_merge *bpe_find(const struct tokenizer *tok, uint32_t left, uint32_t right);

#endif
