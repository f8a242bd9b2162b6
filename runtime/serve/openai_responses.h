/*
 * openai_responses: what the files of /v1/responses share: openai_responses.c, the endpoint and its
 * texts; openai_responses_calls.c, calls of tools.
 */
#ifndef RUNTIME_SERVE_OPENAI_RESPONSES_H
#define RUNTIME_SERVE_OPENAI_RESPONSES_H

#include "runtime/serve/answer.h"

/* Begin and end an event of the stream. */
void responses_open_event(struct answer *a, struct run_json *j, const char *type);
void responses_close_event(struct buf *out, const char *type, struct run_json *j);

/* Whether an item of what was said is a call or its result: then it is added, -1 and `problem`
 * where it cannot be; 0: it is neither. */
int responses_add_call(struct call *call, struct convo *c, const struct value_dict *item,
                       const char *where, struct problem *problem);
/* Write a call as an item of the answer. */
void responses_put_call(struct run_json *j, const char *key, const struct choice_call *call,
                        const char *status);
/* Write the functions that it may call, as its request has them. */
void responses_put_tools(struct run_json *j, const char *key, const struct toolbox *box);
/* A part of the choice's last call, which is item number `index`. */
void responses_call(struct answer *a, const struct choice *c, uint32_t index, enum call_part part,
                    const char *json, size_t bytes, struct buf *out);

#endif
