/*
 * effort: how much a model is to think, as each API says it.
 *
 * Owns: the fields that say so, and the variables by which chat templates know it.
 * Leaves to others: the rest of what a template is given (convo).
 * Threads: each call is its own.
 *
 * Templates have names of their own for this, and a variable that one does not read changes
 * nothing: so each is set by all of the names there are. What a request says in
 * `chat_template_kwargs` goes before.
 */
#ifndef RUNTIME_SERVE_EFFORT_H
#define RUNTIME_SERVE_EFFORT_H

#include "runtime/serve/serve.h"

/* Set what the request says in `variables`, whose values live in the call's arena:
 * `enable_thinking` and `thinking` (whether), `reasoning_effort` (a word), `thinking_budget`
 * (tokens). Where it says nothing, nothing is set. -1 and `problem`. */
int effort_read(struct call *call, struct value *variables, struct problem *problem);

#endif
