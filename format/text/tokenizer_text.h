/*
 * tokenizer_text: Unicode for the tokenizer: UTF-8, character classes, normal forms, the byte
 * alphabet.
 *
 * Owns: the only calls of utf8proc. Leaves to others: what is applied when (tokenizer_pre). No
 * state but constant tables. Except for text_sanitize and text_valid, text is valid UTF-8.
 */
#ifndef FORMAT_TEXT_TOKENIZER_TEXT_H
#define FORMAT_TEXT_TOKENIZER_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/base.h"

#define TEXT_REPLACEMENT "\xef\xbf\xbd" /* U+FFFD */

/* The length of the longest well-formed prefix of `text`. */
size_t text_valid(const char *text, size_t bytes);

/* Append `text` with every maximal subpart that is not UTF-8 replaced by U+FFFD. */
void text_sanitize(const char *text, size_t bytes, struct buf *out);

/* Puts the code point at p into *cp and returns its length in bytes. */
size_t text_get(const char *p, uint32_t *cp);
/* The place of the first character that starts at `at` or behind it, or `bytes`. */
size_t text_next_start(const char *text, size_t bytes, size_t at);
/* The length of the character that ends before p. */
size_t text_before(const char *start, const char *p);
/* Writes cp to out[4] as UTF-8 and returns its length in bytes. */
size_t text_put(uint32_t cp, char out[4]);

bool text_is_space(uint32_t cp);       /* White_Space */
bool text_is_word(uint32_t cp);        /* UTS 18 \w: Alphabetic, M, Nd, Pc, Join_Control */
bool text_is_numeric(uint32_t cp);     /* Nd, Nl, No */
bool text_is_punctuation(uint32_t cp); /* P*, and ASCII punctuation */
bool text_is_visible(uint32_t cp);     /* L*, N*, P*, S* */

/* Full case folding (Unicode, CaseFolding.txt): whether a character in low..high folds to several;
 * whether some character folds to several that begin with what `first` and `second` fold to. */
bool text_folds_to_many(uint32_t low, uint32_t high);
bool text_folds_together(uint32_t first, uint32_t second);

enum text_form { TEXT_NFC, TEXT_NFD, TEXT_NFKC, TEXT_NFKD };
/* Append `text` in the given normal form. */
void text_normalize(enum text_form form, const char *text, size_t bytes, struct buf *out);
/* Append `text` in lower case, character by character (full mapping, no context). */
void text_lowercase(const char *text, size_t bytes, struct buf *out);

/* The byte alphabet writes every byte as a character: a byte that is printable in Latin-1 as that
 * character, the others as U+0100 and upward in the order of bytes (OpenAI, gpt-2/src/encoder.py).
 * All these characters are below TEXT_BYTE_LIMIT. */
enum { TEXT_BYTE_LIMIT = 0x144 };
/* Append for every byte of `text` its character. */
void text_to_byte_alphabet(const char *text, size_t bytes, struct buf *out);
/* The byte that the character stands for, -1 where it stands for none. */
int text_from_byte_alphabet(uint32_t cp);

#endif
