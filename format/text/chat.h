/*
 * chat: conversations, made ready for a chat template, and their ids.
 *
 * Owns: the context that a template is rendered with, as transformers' apply_chat_template prepares
 * it; which tokens of what was rendered are the template's; the trial that says whether a template
 * works at all.
 * Leaves to others: the language of templates (template.h), trees (value.h), where conversations
 * come from.
 * Threads: each call is its own.
 *
 * A request is a list of messages, or a dict that has them under `messages` and besides whatever
 * the template is to see: `tools`, `documents`, `add_generation_prompt`, `enable_thinking` and the
 * like. What is prepared:
 * - a message's keys whose value is null are left out, as templates tell a missing one from one
 *   that is there;
 * - reasoning is one field under several names: the first of `reasoning_content`, `thinking` and
 *   `reasoning` that is there is what `reasoning_content` says, and `thinking` where that is
 *   missing;
 * - `tools`, `documents` and `add_generation_prompt` are there always (null and false);
 * - the special tokens that the archive knows, under their names: `bos_token` and `eos_token` by
 *   the tokenizer, others by its book; but not where the request says otherwise.
 */
#ifndef FORMAT_TEXT_CHAT_H
#define FORMAT_TEXT_CHAT_H

#include "format/text/chat_book.h"
#include "format/text/template.h"
#include "format/text/tokenizer.h"
#include "format/text/value.h"

/* Makes `*context` of a request, both in `arena`. `tok` and `book` may be NULL: no special tokens.
 * -1 and `err`: the request is neither of the two, or a message is no dict. */
int chat_context(struct value_arena *arena, const struct value *request,
                 const struct tokenizer *tok, const struct chat_book *book, struct value *context,
                 struct err *err);

/* Makes a list of messages, or a dict that has one, a request for an answer: a dict with
 * `add_generation_prompt`. -1: budget. */
int chat_ask(struct value_arena *arena, struct value *request);

/* The same request with `tool_calls[].function.arguments` that are JSON text of an object, as
 * clients send them, made that object, its keys in their order: templates go through it, and would
 * write the text as JSON once more. Text that is empty is an object without keys. -1: budget. */
int chat_parse_calls(struct value_arena *arena, const struct value *request, struct value *out);

/*
 * Control tokens are what parts a conversation into turns, and whoever writes `<|im_end|>` into a
 * message must not end it. So what is said is marked before it is rendered: U+F0000 and U+F0001
 * around each control token (such characters that are in it already are left out). Text that was
 * rendered and is between them becomes the ids of plain text; the template's own tokens are found
 * as always. Marked are all strings of a request, and the keys of its objects but for those that
 * are made of letters, digits and _ alone, because templates look for such by their names. A
 * template sees the marks: where it takes a message apart at a control token, the two marks part,
 * and the text at both sides cannot become that token again. Where it prints a list or an object,
 * the marks stay what they are (value.h).
 *
 * Ids are those of transformers' apply_chat_template(sanitize_control_tokens=True), which marks no
 * keys, and in printed lists and objects loses its marks: there ours stay text. Control tokens
 * are the special ones, and of the other added tokens those that the template's text or strings
 * hold (not those that are white space), or, where the book lists some, those of its list.
 */
/* `*out` is the request, marked for a template. `book` may be NULL. -1: budget. */
int chat_mark(struct value_arena *arena, const struct tokenizer *tok, const struct template *t,
              const struct chat_book *book, const struct value *request, struct value *out);
/* Append the ids of a rendered text with marks; encoding takes `memory_bytes`, as token_encoder_new
 * has it. -1 and `err`: as tokenizer_encode; or a marked token that the tokenizer makes of plain
 * text too. */
int chat_encode(const struct tokenizer *tok, const char *text, size_t bytes, uint64_t memory_bytes,
                struct token_list *ids, struct err *err);
/* Leaves the marks out of a text; returns the bytes that stay. */
size_t chat_unmark(char *text, size_t bytes);

/* Where the first `messages` messages of a conversation end: `n_tok` becomes how many of its ids
 * are theirs. That is where they, rendered alone and without a prompt for an answer, give ids that
 * the whole begins with, so that a conversation that goes on otherwise from there begins with these
 * too. 0: there is no such place. Where a template refuses to render them alone (it wants a
 * question), it is where the whole parts from them with another question behind. */
struct chat_end {
    uint32_t messages, n_tok;
};

/* What a conversation was rendered to. Zero-initialise; free text and ids. */
struct chat_rendered {
    char *text; /* without marks, and a NUL */
    size_t bytes;
    struct token_list ids;
    /* [n_ends], the caller's, filled in before: looked for in this order, as long as no more than
     * CHAT_ENDS_BYTES of text have been rendered for it. */
    struct chat_end *ends;
    size_t n_ends;
};
enum { CHAT_ENDS_BYTES = 4 << 20 };
/* All of it: calls are parsed (where `parse`), the request is marked, rendered and encoded. `now`
 * as in template_render, `memory_bytes` as in chat_encode. -1 and `err`: the request has no
 * messages, the template refuses or fails (then the message begins with "line "), or a token cannot
 * be text. */
int chat_render(struct value_arena *arena, const struct value *request, const struct tokenizer *tok,
                const struct template *t, const struct chat_book *book,
                const struct template_limits *limits, uint64_t memory_bytes, const struct tm *now,
                bool parse, struct chat_rendered *out, struct err *err);

/* Compiles a template and renders one short question with it, which has `tools` or none. -1 and
 * `err`, which says where and why it does not work. */
int chat_try(const char *text, size_t len, const struct tokenizer *tok,
             const struct chat_book *book, bool tools, struct err *err);

#endif
