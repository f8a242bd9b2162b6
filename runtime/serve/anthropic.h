/*
 * anthropic: what Anthropic's endpoints share.
 *
 * Owns: the conversation of a request, whose system stands beside its messages.
 * Leaves to others: the endpoints (anthropic.c, texts.c).
 * Threads: that which prepares calls.
 */
#ifndef RUNTIME_SERVE_ANTHROPIC_H
#define RUNTIME_SERVE_ANTHROPIC_H

#include "runtime/serve/convo.h"

/* `system`, a string or blocks, and `messages`. -1 and `problem`. */
int anthropic_convo(struct call *call, struct convo *convo, struct problem *problem);

#endif
