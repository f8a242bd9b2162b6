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
        run_json_text(j, "content", c->text.len ? c->text.data : "", c->text.len);
        run_json_null(j, "refusal");
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
    struct convo convo = {0};
    struct convo_prompt prompt = {0};
    int rc = params_openai(call, &params, problem);
    if (rc == 0) {
        params.echo = false;
        rc = convo_add_list(call, &convo, "messages", problem);
    }
    if (rc == 0) {
        rc = convo_render(call, &convo, false, &prompt, problem);
    }
    if (rc == 0) {
        struct answer *a = answer_new(call, &form, &params, params.n);
        answer_set_turn(a, &prompt);
        rc = answer_start(a, problem);
    }
    convo_prompt_free(&prompt);
    convo_free(&convo);
    params_free(&params);
    return rc;
}
