/*
 * openai_chat: /v1/chat/completions, the next turn of a conversation.
 *
 * Owns: the endpoint, and what is answered.
 * Leaves to others: fields that say how (params), messages (convo), the rest (answer, openai).
 * Threads: as answer.h.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/convo.h"
#include "runtime/serve/openai.h"

static const char chunk_object[] = "chat.completion.chunk";

static void open_chunk(const struct answer *a, const struct choice *c, struct run_json *j) {
    openai_open(a, j, chunk_object);
    run_json_open(j, "choices", '[');
    run_json_open(j, NULL, '{');
    run_json_u64(j, "index", c->job.index);
    run_json_open(j, "delta", '{');
}

/* Closes the delta and what is around it. */
static void close_chunk(const struct answer *a, struct choice *c, struct run_json *j,
                        const char *finish, struct buf *out) {
    bool tokens = c->n_tokens > c->told_tokens;
    run_json_close(j, '}');
    if (tokens) {
        logprobs_chat(j, a->s->engine, c->tokens + c->told_tokens, c->n_tokens - c->told_tokens);
        c->told_tokens = c->n_tokens;
    } else {
        run_json_null(j, "logprobs");
    }
    if (finish) {
        run_json_string(j, "finish_reason", finish);
    } else {
        run_json_null(j, "finish_reason");
    }
    run_json_close(j, '}');
    run_json_close(j, ']');
    run_json_close(j, '}');
    answer_event(out, NULL, j);
}

static void begin(struct answer *a, struct buf *out) {
    for (uint32_t i = 0; i < a->n_choices; i++) {
        struct run_json j = {0};
        open_chunk(a, &a->choices[i], &j);
        run_json_string(&j, "role", "assistant");
        run_json_string(&j, "content", "");
        close_chunk(a, &a->choices[i], &j, NULL, out);
    }
}

static void piece(struct answer *a, struct choice *c, const char *text, size_t bytes,
                  struct buf *out) {
    struct run_json j = {0};
    open_chunk(a, c, &j);
    run_json_text(&j, "content", text, bytes);
    close_chunk(a, c, &j, NULL, out);
}

static void thought(struct answer *a, struct choice *c, const char *text, size_t bytes,
                    struct buf *out) {
    struct run_json j = {0};
    open_chunk(a, c, &j);
    run_json_text(&j, "reasoning_content", text, bytes);
    close_chunk(a, c, &j, NULL, out);
}

/* The call's number, and of its first part who is called. */
static void call(struct answer *a, struct choice *c, enum call_part part, const char *json,
                 size_t bytes, struct buf *out) {
    const struct choice_call *one = &c->calls[c->n_calls - 1];
    struct run_json j = {0};
    if (part == CALL_END) {
        return;
    }
    open_chunk(a, c, &j);
    run_json_open(&j, "tool_calls", '[');
    run_json_open(&j, NULL, '{');
    run_json_u64(&j, "index", c->n_calls - 1);
    if (part == CALL_BEGIN) {
        run_json_string(&j, "id", one->id);
        run_json_string(&j, "type", "function");
    }
    run_json_open(&j, "function", '{');
    if (part == CALL_BEGIN) {
        run_json_string(&j, "name", one->name);
    }
    run_json_text(&j, "arguments", json, bytes);
    run_json_close(&j, '}');
    run_json_close(&j, '}');
    run_json_close(&j, ']');
    close_chunk(a, c, &j, NULL, out);
}

static void put_calls(const struct choice *c, struct run_json *j) {
    run_json_open(j, "tool_calls", '[');
    for (size_t i = 0; i < c->n_calls; i++) {
        const struct choice_call *one = &c->calls[i];
        run_json_open(j, NULL, '{');
        run_json_string(j, "id", one->id);
        run_json_string(j, "type", "function");
        run_json_open(j, "function", '{');
        run_json_string(j, "name", one->name);
        run_json_text(j, "arguments", one->arguments.len ? one->arguments.data : "",
                      one->arguments.len);
        run_json_close(j, '}');
        run_json_close(j, '}');
    }
    run_json_close(j, ']');
}

static void end_choice(struct answer *a, struct choice *c, struct buf *out) {
    struct run_json j = {0};
    open_chunk(a, c, &j);
    close_chunk(a, c, &j, answer_finish(c), out);
}

static void end(struct answer *a, struct buf *out) {
    openai_end(a, chunk_object, out);
}

static void whole(struct answer *a, struct run_json *j) {
    openai_open(a, j, "chat.completion");
    run_json_open(j, "choices", '[');
    for (uint32_t i = 0; i < a->n_choices; i++) {
        const struct choice *c = &a->choices[i];
        run_json_open(j, NULL, '{');
        run_json_u64(j, "index", i);
        run_json_open(j, "message", '{');
        run_json_string(j, "role", "assistant");
        if (c->n_calls > 0 && c->text.len == 0) {
            run_json_null(j, "content");
        } else {
            run_json_text(j, "content", c->text.len ? c->text.data : "", c->text.len);
        }
        run_json_null(j, "refusal");
        if (c->n_calls > 0) {
            put_calls(c, j);
        }
        if (c->thought.len > 0) {
            run_json_text(j, "reasoning_content", c->thought.data, c->thought.len);
        }
        run_json_close(j, '}');
        if (c->job.n_top >= 0) {
            logprobs_chat(j, a->s->engine, c->tokens, c->n_tokens);
        } else {
            run_json_null(j, "logprobs");
        }
        run_json_string(j, "finish_reason", answer_finish(c));
        run_json_close(j, '}');
    }
    run_json_close(j, ']');
    openai_usage(a, j);
    openai_more(a, j);
    run_json_close(j, '}');
}

static const struct answer_form form = {
    .type = OPENAI_STREAM,
    .alive = OPENAI_ALIVE,
    .api = API_OPENAI,
    .id = "chatcmpl-",
    .call_id = "call_",
    .call = call,
    .whole = whole,
    .begin = begin,
    .text = piece,
    .thought = thought,
    .end_choice = end_choice,
    .end = end,
    .fail = openai_fail,
};

int openai_chat(struct call *call, struct problem *problem) {
    struct params params = {0};
    struct toolbox tools = {0};
    struct convo convo = {.tools = &tools};
    struct convo_prompt prompt = {0};
    int rc = params_openai(call, &params, problem);
    if (rc == 0) {
        rc = toolbox_openai(call, &tools, problem);
    }
    if (rc == 0) {
        params.echo = false;
        rc = convo_add_list(call, &convo, "messages", problem);
    }
    if (rc == 0) {
        rc = convo_render(call, &convo, false, &prompt, problem);
    }
    if (rc == 0) {
        struct answer *a = answer_new(call, &form, &params, params.n);
        answer_set_tools(a, &tools);
        answer_set_turn(a, &prompt);
        rc = answer_start(a, problem);
    }
    convo_prompt_free(&prompt);
    convo_free(&convo);
    toolbox_free(&tools);
    params_free(&params);
    return rc;
}
