/*
 * openai: what OpenAI's two older APIs, texts and turns, have in common.
 *
 * Owns: writing usage and the head of an answer.
 * Leaves to others: the endpoints (openai_text, openai_chat).
 * Threads: as answer.h.
 */
#ifndef RUNTIME_SERVE_OPENAI_H
#define RUNTIME_SERVE_OPENAI_H

#include "runtime/serve/answer.h"

/* Begin the object of an answer or a chunk: id, object, created, model. */
void openai_open(const struct answer *a, struct run_json *j, const char *object);
/* Add `usage`; and the seed and times, which clients of OpenAI's do not look at. */
void openai_usage(const struct answer *a, struct run_json *j);
void openai_more(const struct answer *a, struct run_json *j);
/* The end of a stream: usage where it was asked for, and the mark. */
void openai_end(struct answer *a, const char *object, struct buf *out);
void openai_fail(struct answer *a, const struct problem *problem, struct buf *out);

#define OPENAI_ALIVE ": still at work\n\n"
#define OPENAI_STREAM "text/event-stream"

#endif
