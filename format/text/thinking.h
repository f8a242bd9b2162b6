/*
 * thinking: parts what a model thought from what it answers, as the text comes.
 *
 * Owns: how models write that down (a table), and the search for it in a stream.
 * Leaves to others: tokens, and what is done with either part.
 * Threads: one object belongs to one thread at a time.
 *
 * A model that thinks first writes so between two tags, `<think>` and `</think>` or others, which
 * may be tokens or plain text. Tags count where nothing was answered yet, so that an answer may
 * speak of them; a template may have written the first one itself, at the prompt's end. White space
 * before a tag and newlines behind one are neither thought nor answered. What some models write in
 * front of an answer (`<|channel|>final<|message|>`) is dropped.
 */
#ifndef FORMAT_TEXT_THINKING_H
#define FORMAT_TEXT_THINKING_H

#include "format/base.h"

struct thinking_tags;
/* Zero-initialise; free with thinking_free. */
struct thinking {
    const struct thinking_tags *tags; /* of what is being thought; NULL: an answer */
    bool answered;                    /* something was, since it was last thought */
    bool skips_newlines;              /* behind a tag */
    struct buf white;                 /* held back: it may stand before a tag */
    struct buf pending;               /* the beginning of what may become a tag */
};
/* A new stream behind a prompt, whose text says whether the model already thinks. */
void thinking_begin(struct thinking *t, const char *prompt, size_t bytes);
/* Append what has become certain of `text` to `thought` and `answer`, cut at no character that the
 * text does not cut. */
void thinking_push(struct thinking *t, const char *text, size_t bytes, struct buf *thought,
                   struct buf *answer);
/* The rest, when the text has ended. */
void thinking_end(struct thinking *t, struct buf *thought, struct buf *answer);
/* The same for who only wants to know whether it still thinks: neither part is kept. */
bool thinking_goes_on(struct thinking *t, const char *text, size_t bytes);
void thinking_free(struct thinking *t);
/* The tags around a thought, in one way to write it: number i. False past the last. */
bool thinking_tag(size_t i, const char **open, const char **close);
/* Tokens that tags are made of, and which may be special ones: number i, NULL past the last. */
const char *thinking_token(size_t i);

#endif
