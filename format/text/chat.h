/*
 * chat: conversations, made ready for a chat template.
 *
 * Owns: the context that a template is rendered with, as transformers' apply_chat_template prepares
 * it, and the trial that says whether a template works at all.
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
 * - the special tokens that the archive knows, under their names, `bos_token` and `eos_token`, but
 *   not where the request says otherwise.
 */
#ifndef FORMAT_TEXT_CHAT_H
#define FORMAT_TEXT_CHAT_H

#include "format/text/tokenizer.h"
#include "format/text/value.h"

/* Makes `*context` of a request, both in `arena`. `tok` may be NULL: no special tokens. -1 and
 * `err`: the request is neither of the two, or a message is no dict. */
int chat_context(struct value_arena *arena, const struct value *request,
                 const struct tokenizer *tok, struct value *context, struct err *err);

/* Makes a list of messages, or a dict that has one, a request for an answer: a dict with
 * `add_generation_prompt`. -1: budget. */
int chat_ask(struct value_arena *arena, struct value *request);

/* Compiles a template and renders one short question with it. -1 and `err`, which says where and
 * why it does not work. */
int chat_try(const char *text, size_t len, const struct tokenizer *tok, struct err *err);

#endif
