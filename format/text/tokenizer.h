/*
 * tokenizer: text -> token ids and back, from the archive's own tokenizer section.
 *
 * Owns: checking a section once at open, then encoding (added tokens, normalizers, pre-tokenizers,
 * BPE, template) and decoding, whole or as a stream. Ids and text are those of the Hugging Face
 * `tokenizers` package for the tokenizer.json that the section was compiled from.
 * Leaves to others: tokenizer.json (prep/hf/hf_tokenizer compiles it), the meaning of the chat
 * template, which ids end a generation (arch), and where the section's bytes live.
 * Threads: a struct tokenizer does not change after open, so any number of threads may use one; a
 * token_stream belongs to one thread at a time.
 *
 * Text is UTF-8 of any content, NUL included. Bytes that are no UTF-8 count as U+FFFD, one for each
 * maximal subpart (WHATWG Encoding, "UTF-8 decoder"; the same as Python's errors="replace").
 *
 * Rooms: tokenizer_open.c checks; tokenizer_encoder.c long texts, tokenizer_cut.c where they can be
 * cut; tokenizer.c added tokens; tokenizer_pre.c normalizers and
 * pre-tokenizers; tokenizer_bpe.c the merges; tokenizer_decode.c ids -> text; tokenizer_budget.c
 * limits; tokenizer_regex.c patterns, _dialect.c their spelling, _published.c those that are known;
 * tokenizer_text.c Unicode. tokenizer_file.h has the section's structs.
 */
#ifndef FORMAT_TEXT_TOKENIZER_H
#define FORMAT_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/base.h"

struct tokenizer;

/* Growing list of ids. Zero-initialise; free with token_list_free. */
struct token_list {
    uint32_t *ids;
    size_t n, cap;
};
void token_list_add(struct token_list *list, uint32_t id);
void token_list_free(struct token_list *list);

/* Stands for an id where there is no such token. */
#define TOKEN_NONE UINT32_C(0xffffffff)

/* Check `section`, whose address must be a multiple of 8, and compile its patterns. The bytes are
 * borrowed until tokenizer_close and must not change until then. Hostile bytes give an error and
 * never a crash; after opening, encoding and decoding stay inside the section whatever it holds. */
int tokenizer_open(const void *section, size_t section_bytes, struct tokenizer **out,
                   struct err *err);
/* As tokenizer_open, for a model with `vocab` rows of the embedding. An id of the tokenizer at or
 * above that number would be looked up behind the last row, so such a tokenizer is refused here.
 * Whoever has a model at hand opens its tokenizer so, and need not look at ids again. */
int tokenizer_open_for(const void *section, size_t section_bytes, uint32_t vocab,
                       struct tokenizer **out, struct err *err);
void tokenizer_close(struct tokenizer *tok); /* NULL is fine */

enum tokenizer_encode_flag {
    TOKENIZER_ADD_SPECIAL = 1, /* the template's BOS/EOS around the text */
    /* Special tokens written in the text become their ids; without it they are plain text (for text
     * of unknown origin). Added tokens that are not special are recognised either way. */
    TOKENIZER_PARSE_SPECIAL = 2,
    /* No added token is recognised, special or not: what is written like one is text. As in the
     * package's steps one by one, text begins where normalizers leave its first character. */
    TOKENIZER_PLAIN = 4,
};

/* Append the ids of `text` to `out`, as a token_encoder makes them. At most 1 GiB of text. Fails on
 * an unknown character where
 * the model names an unk token that it does not have, and where the steps take more than a budget
 * of bytes and steps (tokenizer_budget.c), naming the step: chains that multiply the text or cut it
 * again and again, patterns that backtrack. Fails on 4 MiB of text in which nothing is certainly a
 * boundary between tokens; longer pieces are merged in parts, with the same ids. */
int tokenizer_encode(const struct tokenizer *tok, const char *text, size_t bytes, unsigned flags,
                     struct token_list *out, struct err *err);

/*
 * Encoding a text that comes in pieces of any length. All that the pushes and the finish append is,
 * together, what tokenizer_encode gives for the whole text. The text is encoded in stretches of
 * about 256 KiB, cut at places where it is certain that the ids of the parts are those of the whole
 * (tokenizer_cut.c); so encoding takes some MiB, however long the text is. Where no such place
 * comes, or where the tokenizer has steps of which nothing can be proved (patterns that are no
 * published tokenizer's, replacing by patterns), a stretch is encoded as a whole up to a limit, and
 * refused beyond.
 */
struct token_encoder;
/* What encoding may take, apart from the ids: 0 for as much as it may ever (a stretch of 64 MiB, of
 * which 4 MiB merged at once), else about that many bytes. */
struct token_encoder *token_encoder_new(const struct tokenizer *tok, unsigned flags,
                                        uint64_t memory_bytes);
int token_encoder_push(struct token_encoder *e, const char *text, size_t bytes,
                       struct token_list *out, struct err *err);
/* After it the encoder is as new. After an error of either, it can only be freed. */
int token_encoder_finish(struct token_encoder *e, struct token_list *out, struct err *err);
void token_encoder_free(struct token_encoder *e); /* NULL is fine */

/* The least that encoding takes, whatever a token_encoder is given. */
enum { TOKEN_ENCODER_BYTES = 8 << 20 };
/* What to give one for texts of `text_bytes`: enough for a whole text where texts are never cut, at
 * most 24 MiB where they are. */
uint64_t token_encoder_bytes(const struct tokenizer *tok, uint64_t text_bytes);
/* Of an encoder that has failed: what it would have had to be given for a text of `text_bytes`, 0
 * where it did not fail for want of that. */
uint64_t token_encoder_wants(const struct token_encoder *e, uint64_t text_bytes);

enum tokenizer_decode_flag {
    TOKENIZER_SKIP_SPECIAL = 1, /* leave special tokens out */
};

/* Append the text of ids[0..n) to `out`: valid UTF-8 (bytes that form no character come out as
 * U+FFFD). Ids that the tokenizer does not have (a padded embedding's last rows) give nothing.
 * Fails only where a token takes more than its budget, as encoding does. */
int tokenizer_decode(const struct tokenizer *tok, const uint32_t *ids, size_t n, unsigned flags,
                     struct buf *out, struct err *err);

/*
 * Decoding id by id: each push appends what has become certain, always whole characters. All that
 * the pushes and the finish append is, together, exactly what tokenizer_decode gives for the same
 * ids. What can still change is held back: the bytes of an unfinished character; with byte
 * fallback, a run of byte tokens until it ends (one bad byte turns the whole run into U+FFFD).
 * After finish the stream is as new.
 */
struct token_stream;
struct token_stream *token_stream_new(const struct tokenizer *tok, unsigned flags);
int token_stream_push(struct token_stream *s, uint32_t id, struct buf *out, struct err *err);
int token_stream_finish(struct token_stream *s, struct buf *out, struct err *err);
void token_stream_free(struct token_stream *s); /* NULL is fine */

/* The highest id of all tokens, added ones included, plus 1. (A model may have more embedding
 * rows.) */
uint32_t tokenizer_vocab_size(const struct tokenizer *tok);

/* The token's text as its vocabulary spells it (byte-level tokens in their printable spelling), not
 * NUL-terminated, borrowed until close; NULL and 0 for an id without a token. */
const char *tokenizer_piece(const struct tokenizer *tok, uint32_t id, size_t *bytes);

/* Append the bytes that the token puts into the middle of a text, which may be a part of a
 * character: what decoding appends, before bytes that form no character become U+FFFD. (What a
 * tokenizer strips at the ends of a whole text is there.) *added: it is an added token, whose text
 * means the token and not what it is written with. Nothing for an id without a token. */
int tokenizer_raw(const struct tokenizer *tok, uint32_t id, struct buf *out, bool *added,
                  struct err *err);

/* The id of the token spelled so (added tokens first, then the model's), or TOKEN_NONE. */
uint32_t tokenizer_find(const struct tokenizer *tok, const char *piece, size_t bytes);

/* The ids that begin and end a text; TOKEN_NONE where the checkpoint names none. */
uint32_t tokenizer_bos(const struct tokenizer *tok);
uint32_t tokenizer_eos(const struct tokenizer *tok);

/* True where ADD_SPECIAL puts a token (BOS) in front; a chat template that writes BOS itself
 * must not get a second one. */
bool tokenizer_adds_bos(const struct tokenizer *tok);

/* Of ids that ADD_SPECIAL was asked for: whether the text itself begins (or ends) with the token
 * that was put there, so that it stands there twice. What that token is called, for people, or
 * NULL. */
const char *tokenizer_doubled(const struct tokenizer *tok, const uint32_t *ids, size_t n,
                              size_t *bytes);

/* True for a token that SKIP_SPECIAL leaves out. */
bool tokenizer_is_special(const struct tokenizer *tok, uint32_t id);

/* Added token `i` of all, special or not, by rising id; `*special` (may be NULL) is what the
 * checkpoint calls it. TOKEN_NONE behind the last. */
uint32_t tokenizer_added(const struct tokenizer *tok, uint32_t i, bool *special);

/* The chat template's Jinja text, or NULL: not NUL-terminated, borrowed until close. */
const char *tokenizer_chat_template(const struct tokenizer *tok, size_t *bytes);

/* Append `text` as the normalizers leave it, without looking for added tokens. This is for prep,
 * which stores added tokens in their normalized form. */
int tokenizer_normalize(const struct tokenizer *tok, const char *text, size_t bytes,
                        struct buf *out, struct err *err);

#endif
