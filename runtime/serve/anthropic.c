/*
 * anthropic: /v1/messages.
 *
 * Owns: the endpoint, and what is answered, whole or as events.
 * Leaves to others: fields that say how (params), messages (convo), the rest of an answer (answer).
 * Threads: as answer.h.
 */
#include "runtime/serve/anthropic.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/serve/answer.h"

int anthropic_convo(struct call *call, struct convo *convo, struct problem *problem) {
    const struct value *system = field_get(call->body, "system");
    if (system && convo_add(call, convo, "system", system, "system", problem) < 0) {
        return -1;
    }
    return convo_add_list(call, convo, "messages", problem);
}

/* ---- what is answered ---- */

/* Tokens that were known are not told again in input_tokens. */
static void put_usage(const struct answer *a, struct run_json *j, uint32_t made) {
    uint32_t cached = answer_cached(a);
    run_json_open(j, "usage", '{');
    run_json_u64(j, "input_tokens", a->prompt_tok - cached);
    run_json_u64(j, "cache_creation_input_tokens", 0);
    run_json_u64(j, "cache_read_input_tokens", cached);
    run_json_u64(j, "output_tokens", made);
    run_json_close(j, '}');
}

static void put_stop(const struct answer *a, struct run_json *j) {
    const struct job *job = &a->choices[0].job;
    run_json_string(j, "stop_reason",
                    job->end == JOB_LENGTH         ? "max_tokens"
                    : answer_calls(&a->choices[0]) ? "tool_use"
                    : job->end == JOB_STOP_TEXT    ? "stop_sequence"
                                                   : "end_turn");
    if (job->end == JOB_STOP_TEXT && !answer_calls(&a->choices[0])) {
        run_json_string(j, "stop_sequence", a->params.stops[job->stop]);
    } else {
        run_json_null(j, "stop_sequence");
    }
}

static void open_message(const struct answer *a, const char *key, struct run_json *j) {
    run_json_open(j, key, '{');
    run_json_string(j, "id", a->id);
    run_json_string(j, "type", "message");
    run_json_string(j, "role", "assistant");
    run_json_string(j, "model", a->model);
}

static void put_block(struct run_json *j, const char *key, const char *text, size_t bytes) {
    run_json_open(j, key, '{');
    run_json_string(j, "type", "text");
    run_json_text(j, "text", text, bytes);
    run_json_close(j, '}');
}

/* Thoughts are not signed: whoever sends them back is not asked for it. */
static void put_thought(struct run_json *j, const char *key, const char *text, size_t bytes) {
    run_json_open(j, key, '{');
    run_json_string(j, "type", "thinking");
    run_json_text(j, "thinking", text, bytes);
    run_json_string(j, "signature", "");
    run_json_close(j, '}');
}

/* `whole`: with its arguments. */
static void put_call(struct run_json *j, const char *key, const struct choice_call *call,
                     bool whole) {
    run_json_open(j, key, '{');
    run_json_string(j, "type", "tool_use");
    run_json_string(j, "id", call->id);
    run_json_string(j, "name", call->name);
    if (whole) {
        answer_arguments(j, "input", call);
    } else {
        run_json_raw(j, "input", "{}", 2);
    }
    run_json_close(j, '}');
}

static void whole(struct answer *a, struct run_json *j) {
    const struct choice *c = &a->choices[0];
    open_message(a, NULL, j);
    run_json_open(j, "content", '[');
    if (c->thought.len > 0) {
        put_thought(j, NULL, c->thought.data, c->thought.len);
    }
    if (c->text.len > 0 || c->n_calls == 0) {
        put_block(j, NULL, c->text.len ? c->text.data : "", c->text.len);
    }
    for (size_t i = 0; i < c->n_calls; i++) {
        put_call(j, NULL, &c->calls[i], true);
    }
    run_json_close(j, ']');
    put_stop(a, j);
    put_usage(a, j, c->job.made_tok);
    run_json_close(j, '}');
}

static void open_event(struct run_json *j, const char *type) {
    run_json_open(j, NULL, '{');
    run_json_string(j, "type", type);
}

static void begin(struct answer *a, struct buf *out) {
    struct run_json j = {0};
    open_event(&j, "message_start");
    open_message(a, "message", &j);
    run_json_open(&j, "content", '[');
    run_json_close(&j, ']');
    run_json_null(&j, "stop_reason");
    run_json_null(&j, "stop_sequence");
    put_usage(a, &j, 0);
    run_json_close(&j, '}');
    run_json_close(&j, '}');
    answer_event(out, "message_start", &j);
}

/* Begin a delta of the last block. */
static void open_delta(const struct answer *a, struct run_json *j, const char *type) {
    open_event(j, "content_block_delta");
    run_json_u64(j, "index", a->blocks - 1);
    run_json_open(j, "delta", '{');
    run_json_string(j, "type", type);
}

static void close_delta(struct run_json *j, struct buf *out) {
    run_json_close(j, '}');
    run_json_close(j, '}');
    answer_event(out, "content_block_delta", j);
}

static void end_block(const struct answer *a, struct buf *out) {
    struct run_json j = {0};
    if (a->block == BLOCK_THOUGHT) {
        open_delta(a, &j, "signature_delta");
        run_json_string(&j, "signature", "");
        close_delta(&j, out);
    }
    open_event(&j, "content_block_stop");
    run_json_u64(&j, "index", a->blocks - 1);
    run_json_close(&j, '}');
    answer_event(out, "content_block_stop", &j);
}

/* See that a block of that kind is open; a call has one of its own. */
static void see_block(struct answer *a, enum block block, struct buf *out) {
    const struct choice *c = &a->choices[0];
    struct run_json j = {0};
    if (a->block == block && block != BLOCK_CALL) {
        return;
    }
    if (a->block != BLOCK_NONE) {
        end_block(a, out);
    }
    a->blocks++;
    a->block = block;
    open_event(&j, "content_block_start");
    run_json_u64(&j, "index", a->blocks - 1);
    if (block == BLOCK_CALL) {
        put_call(&j, "content_block", &c->calls[c->n_calls - 1], false);
    } else {
        (block == BLOCK_THOUGHT ? put_thought : put_block)(&j, "content_block", "", 0);
    }
    run_json_close(&j, '}');
    answer_event(out, "content_block_start", &j);
}

static void piece(struct answer *a, struct choice *c, const char *text, size_t bytes,
                  struct buf *out) {
    struct run_json j = {0};
    (void)c;
    see_block(a, BLOCK_TEXT, out);
    open_delta(a, &j, "text_delta");
    run_json_text(&j, "text", text, bytes);
    close_delta(&j, out);
}

static void thought(struct answer *a, struct choice *c, const char *text, size_t bytes,
                    struct buf *out) {
    struct run_json j = {0};
    (void)c;
    see_block(a, BLOCK_THOUGHT, out);
    open_delta(a, &j, "thinking_delta");
    run_json_text(&j, "thinking", text, bytes);
    close_delta(&j, out);
}

static void call_part(struct answer *a, struct choice *c, enum call_part part, const char *json,
                      size_t bytes, struct buf *out) {
    struct run_json j = {0};
    (void)c;
    if (part == CALL_BEGIN) {
        see_block(a, BLOCK_CALL, out);
    } else if (part == CALL_END) {
        end_block(a, out);
        a->block = BLOCK_NONE;
    } else {
        open_delta(a, &j, "input_json_delta");
        run_json_text(&j, "partial_json", json, bytes);
        close_delta(&j, out);
    }
}

static void end_choice(struct answer *a, struct choice *c, struct buf *out) {
    struct run_json j = {0};
    if (a->blocks == 0) {
        see_block(a, BLOCK_TEXT, out);
    }
    if (a->block != BLOCK_NONE) {
        end_block(a, out);
    }
    open_event(&j, "message_delta");
    run_json_open(&j, "delta", '{');
    put_stop(a, &j);
    run_json_close(&j, '}');
    put_usage(a, &j, c->job.made_tok);
    run_json_close(&j, '}');
    answer_event(out, "message_delta", &j);
}

static void end(struct answer *a, struct buf *out) {
    struct run_json j = {0};
    (void)a;
    open_event(&j, "message_stop");
    run_json_close(&j, '}');
    answer_event(out, "message_stop", &j);
}

static void fail(struct answer *a, const struct problem *problem, struct buf *out) {
    struct run_json j = {0};
    (void)a;
    reply_error(&j, API_ANTHROPIC, problem);
    answer_event(out, "error", &j);
}

static const struct answer_form form = {
    .type = "text/event-stream",
    .alive = "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    .api = API_ANTHROPIC,
    .id = "msg_",
    .call_id = "toolu_",
    .call = call_part,
    .whole = whole,
    .begin = begin,
    .text = piece,
    .thought = thought,
    .end_choice = end_choice,
    .end = end,
    .fail = fail,
};

int anthropic_messages(struct call *call, struct problem *problem) {
    struct params params = {0};
    struct toolbox tools = {0};
    struct convo convo = {.tools = &tools};
    struct convo_prompt prompt = {0};
    int rc = params_anthropic(call, &params, problem);
    if (rc == 0) {
        rc = toolbox_anthropic(call, &tools, problem);
    }
    if (rc == 0) {
        rc = anthropic_convo(call, &convo, problem);
    }
    if (rc == 0) {
        rc = convo_render(call, &convo, false, &prompt, problem);
    }
    if (rc == 0) {
        struct answer *a = answer_new(call, &form, &params, 1);
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
