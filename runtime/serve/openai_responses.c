/*
 * openai_responses: /v1/responses, without state: nothing is stored, and each request brings all
 * that was said.
 *
 * Owns: the endpoint: its items, which become messages, and its events.
 * Leaves to others: fields that say how (params), contents (convo), the rest of an answer (answer).
 * Threads: as answer.h.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/answer.h"
#include "runtime/serve/convo.h"

/* ---- what was said ---- */

static int add_item(struct call *call, struct convo *c, const struct value *item, size_t i,
                    struct problem *problem) {
    char where[64];
    snprintf(where, sizeof where, "input[%zu]", i);
    if (item->type != VALUE_DICT) {
        return problem_set(problem, 400, "invalid_type", where, "%s: expected an object", where);
    }
    const struct value *type = field_get(item->dict, "type"), *role = field_get(item->dict, "role");
    if (type && (value_is_string(type, "reasoning") || value_is_string(type, "item_reference"))) {
        return 0; /* what it refers to is not here, or can be read by nobody else */
    }
    if (type && !value_is_string(type, "message")) {
        char *name = text_cleaned(type->type == VALUE_STRING ? type->text->data : "?");
        problem_set(problem, 400, "unsupported_content", where,
                    "%s: an item of type %.60s: this server takes messages only", where, name);
        free(name);
        return -1;
    }
    static const char *const roles[] = {"system", "developer", "user", "assistant"};
    for (size_t k = 0; k < sizeof roles / sizeof *roles; k++) {
        if (role && value_is_string(role, roles[k])) {
            return convo_add(call, c, roles[k], field_get(item->dict, "content"), where, problem);
        }
    }
    return problem_set(problem, 400, "invalid_value", where,
                       "%s: expected the role system, developer, user or assistant", where);
}

static int add_input(struct call *call, struct convo *c, struct problem *problem) {
    const struct value *input = field_get(call->body, "input");
    const struct value *instructions = field_get(call->body, "instructions");
    c->field = "input";
    if (instructions && convo_add(call, c, "system", instructions, "instructions", problem) < 0) {
        return -1;
    }
    if (input && input->type == VALUE_STRING) {
        return convo_add(call, c, "user", input, "input", problem);
    }
    if (!input || input->type != VALUE_LIST || input->list->n == 0) {
        return problem_set(problem, 400, "missing_required_parameter", "input",
                           "input: expected a string or a list of items");
    }
    for (size_t i = 0; i < input->list->n; i++) {
        if (add_item(call, c, &input->list->items[i], i, problem) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- what is answered ---- */

static void put_part(struct run_json *j, const char *key, const char *text, size_t bytes) {
    run_json_open(j, key, '{');
    run_json_string(j, "type", "output_text");
    run_json_text(j, "text", text, bytes);
    run_json_open(j, "annotations", '[');
    run_json_close(j, ']');
    run_json_open(j, "logprobs", '[');
    run_json_close(j, ']');
    run_json_close(j, '}');
}

/* `text` NULL: the item as it is when it begins. */
static void put_item(const struct answer *a, struct run_json *j, const char *key,
                     const struct buf *text, const char *status) {
    run_json_open(j, key, '{');
    run_json_string(j, "id", a->item);
    run_json_string(j, "type", "message");
    run_json_string(j, "role", "assistant");
    run_json_string(j, "status", status);
    run_json_open(j, "content", '[');
    if (text) {
        put_part(j, NULL, text->len ? text->data : "", text->len);
    }
    run_json_close(j, ']');
    run_json_close(j, '}');
}

static void put_usage(const struct answer *a, struct run_json *j) {
    uint32_t made = answer_made(a);
    run_json_open(j, "usage", '{');
    run_json_u64(j, "input_tokens", a->prompt_tok);
    run_json_open(j, "input_tokens_details", '{');
    run_json_u64(j, "cached_tokens", answer_cached(a));
    run_json_close(j, '}');
    run_json_u64(j, "output_tokens", made);
    run_json_open(j, "output_tokens_details", '{');
    run_json_u64(j, "reasoning_tokens", 0);
    run_json_close(j, '}');
    run_json_u64(j, "total_tokens", (uint64_t)a->prompt_tok + made);
    run_json_close(j, '}');
}

static const char *status_of(const struct answer *a) {
    return a->choices[0].job.end == JOB_LENGTH ? "incomplete" : "completed";
}

/* The response as it is: with `status` "in_progress" before anything was said. */
static void put_response(const struct answer *a, struct run_json *j, const char *key,
                         const char *status) {
    bool over = strcmp(status, "in_progress") != 0 && strcmp(status, "failed") != 0;
    run_json_open(j, key, '{');
    run_json_string(j, "id", a->id);
    run_json_string(j, "object", "response");
    run_json_i64(j, "created_at", a->created);
    run_json_string(j, "status", status);
    run_json_string(j, "model", a->model);
    if (strcmp(status, "failed") == 0) {
        run_json_open(j, "error", '{');
        run_json_string(j, "code", "server_error");
        run_json_string(j, "message", a->problem.message);
        run_json_close(j, '}');
    } else {
        run_json_null(j, "error");
    }
    if (strcmp(status, "incomplete") == 0) {
        run_json_open(j, "incomplete_details", '{');
        run_json_string(j, "reason", "max_output_tokens");
        run_json_close(j, '}');
    } else {
        run_json_null(j, "incomplete_details");
    }
    run_json_null(j, "instructions");
    run_json_null(j, "previous_response_id");
    run_json_open(j, "metadata", '{');
    run_json_close(j, '}');
    run_json_open(j, "output", '[');
    if (over) {
        put_item(a, j, NULL, &a->choices[0].text, status);
    }
    run_json_close(j, ']');
    run_json_bool(j, "parallel_tool_calls", true);
    run_json_string(j, "tool_choice", "auto");
    run_json_open(j, "tools", '[');
    run_json_close(j, ']');
    run_json_f32(j, "temperature", a->params.sampling.temperature);
    run_json_f32(j, "top_p", a->params.sampling.top_p);
    run_json_bool(j, "store", false);
    if (over) {
        put_usage(a, j);
    } else {
        run_json_null(j, "usage");
    }
    run_json_close(j, '}');
}

static void whole(struct answer *a, struct run_json *j) {
    put_response(a, j, NULL, status_of(a));
}

static void open_event(struct answer *a, struct run_json *j, const char *type) {
    run_json_open(j, NULL, '{');
    run_json_string(j, "type", type);
    run_json_u64(j, "sequence_number", a->sequence++);
}

static void close_event(struct buf *out, const char *type, struct run_json *j) {
    run_json_close(j, '}');
    answer_event(out, type, j);
}

static void response_event(struct answer *a, const char *type, const char *status,
                           struct buf *out) {
    struct run_json j = {0};
    open_event(a, &j, type);
    put_response(a, &j, "response", status);
    close_event(out, type, &j);
}

/* Of the one item, or of its one part. */
static void open_item_event(struct answer *a, struct run_json *j, const char *type, bool part) {
    open_event(a, j, type);
    run_json_u64(j, "output_index", 0);
    if (part) {
        run_json_string(j, "item_id", a->item);
        run_json_u64(j, "content_index", 0);
    }
}

static void begin(struct answer *a, struct buf *out) {
    struct run_json j = {0};
    response_event(a, "response.created", "in_progress", out);
    response_event(a, "response.in_progress", "in_progress", out);
    open_item_event(a, &j, "response.output_item.added", false);
    put_item(a, &j, "item", NULL, "in_progress");
    close_event(out, "response.output_item.added", &j);
    open_item_event(a, &j, "response.content_part.added", true);
    put_part(&j, "part", "", 0);
    close_event(out, "response.content_part.added", &j);
}

static void piece(struct answer *a, struct choice *c, const char *text, size_t bytes,
                  struct buf *out) {
    struct run_json j = {0};
    (void)c;
    open_item_event(a, &j, "response.output_text.delta", true);
    run_json_text(&j, "delta", text, bytes);
    run_json_open(&j, "logprobs", '[');
    run_json_close(&j, ']');
    close_event(out, "response.output_text.delta", &j);
}

static void end_choice(struct answer *a, struct choice *c, struct buf *out) {
    struct run_json j = {0};
    const char *text = c->text.len ? c->text.data : "";
    open_item_event(a, &j, "response.output_text.done", true);
    run_json_text(&j, "text", text, c->text.len);
    run_json_open(&j, "logprobs", '[');
    run_json_close(&j, ']');
    close_event(out, "response.output_text.done", &j);
    open_item_event(a, &j, "response.content_part.done", true);
    put_part(&j, "part", text, c->text.len);
    close_event(out, "response.content_part.done", &j);
    open_item_event(a, &j, "response.output_item.done", false);
    put_item(a, &j, "item", &c->text, status_of(a));
    close_event(out, "response.output_item.done", &j);
}

static void end(struct answer *a, struct buf *out) {
    bool whole_text = strcmp(status_of(a), "completed") == 0;
    response_event(a, whole_text ? "response.completed" : "response.incomplete", status_of(a), out);
}

static void fail(struct answer *a, const struct problem *problem, struct buf *out) {
    (void)problem;
    response_event(a, "response.failed", "failed", out);
}

static const struct answer_form form = {
    .type = "text/event-stream",
    .alive = ": still at work\n\n",
    .keeps_text = true,
    .api = API_OPENAI,
    .id = "resp_",
    .whole = whole,
    .begin = begin,
    .text = piece,
    .end_choice = end_choice,
    .end = end,
    .fail = fail,
};

int openai_responses(struct call *call, struct problem *problem) {
    struct params params = {0};
    struct convo convo = {0};
    struct convo_prompt prompt = {0};
    int rc = params_responses(call, &params, problem);
    if (rc == 0) {
        rc = add_input(call, &convo, problem);
    }
    if (rc == 0) {
        rc = convo_render(call, &convo, false, &prompt, problem);
    }
    if (rc == 0) {
        struct answer *a = answer_new(call, &form, &params, 1);
        reply_id(a->item, "msg_");
        answer_set_turn(a, &prompt);
        rc = answer_start(a, problem);
    }
    convo_prompt_free(&prompt);
    convo_free(&convo);
    params_free(&params);
    return rc;
}
