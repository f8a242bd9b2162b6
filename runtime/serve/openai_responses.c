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

#include "runtime/serve/convo.h"
#include "runtime/serve/openai_responses.h"

/* ---- what was said ---- */

static int add_item(struct call *call, struct convo *c, const struct value *item, size_t i,
                    struct problem *problem) {
    char where[64];
    snprintf(where, sizeof where, "input[%zu]", i);
    if (item->type != VALUE_DICT) {
        return problem_set(problem, 400, "invalid_type", where, "%s: expected an object", where);
    }
    const struct value *type = field_get(item->dict, "type"), *role = field_get(item->dict, "role");
    if (type && value_is_string(type, "reasoning")) {
        return convo_think(call, c, item->dict, where, problem);
    }
    if (type && value_is_string(type, "item_reference")) {
        return 0; /* what it refers to is not here */
    }
    int added = responses_add_call(call, c, item->dict, where, problem);
    if (added != 0) {
        return added < 0 ? -1 : 0;
    }
    if (type && !value_is_string(type, "message")) {
        char *name = text_cleaned(type->type == VALUE_STRING ? type->text->data : "?");
        problem_set(
            problem, 400, "unsupported_content", where,
            "%s: an item of type %.60s: this server takes messages and calls of functions only",
            where, name);
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

/* The items of an answer: what the model thought, and what it said. */
static const struct item_kind {
    const char *id, *type, *part, *delta, *done;
} thought_item = {"rs_", "reasoning", "reasoning_text", "response.reasoning_text.delta",
                  "response.reasoning_text.done"},
  message_item = {"msg_", "message", "output_text", "response.output_text.delta",
                  "response.output_text.done"};

static void put_list(struct run_json *j, const char *key) {
    run_json_open(j, key, '[');
    run_json_close(j, ']');
}

/* An item's id is that of the response with its place in it. */
static void put_item_id(const struct answer *a, struct run_json *j, const char *key,
                        const struct item_kind *kind, uint32_t index) {
    char id[REPLY_ID + 16];
    snprintf(id, sizeof id, "%s%s_%u", kind->id, a->id + strlen(a->form->id), index);
    run_json_string(j, key, id);
}

static void put_part(struct run_json *j, const char *key, const struct item_kind *kind,
                     const struct buf *text) {
    run_json_open(j, key, '{');
    run_json_string(j, "type", kind->part);
    run_json_text(j, "text", text->len ? text->data : "", text->len);
    if (kind == &message_item) {
        put_list(j, "annotations");
        put_list(j, "logprobs");
    }
    run_json_close(j, '}');
}

/* `text` NULL: the item as it is when it begins. */
static void put_item(const struct answer *a, struct run_json *j, const char *key,
                     const struct item_kind *kind, uint32_t index, const struct buf *text,
                     const char *status) {
    run_json_open(j, key, '{');
    put_item_id(a, j, "id", kind, index);
    run_json_string(j, "type", kind->type);
    if (kind == &message_item) {
        run_json_string(j, "role", "assistant");
    } else {
        put_list(j, "summary"); /* nobody makes one */
    }
    run_json_string(j, "status", status);
    run_json_open(j, "content", '[');
    if (text) {
        put_part(j, NULL, kind, text);
    }
    run_json_close(j, ']');
    run_json_close(j, '}');
}

/* Where the text begins that follows so many calls. */
static size_t text_from(const struct choice *c, size_t n_calls) {
    return n_calls > 0 ? c->calls[n_calls - 1].text_before : 0;
}

/* What was said since the last call. */
static struct buf last_text(const struct choice *c) {
    size_t from = text_from(c, c->n_calls);
    return (struct buf){.data = c->text.len ? c->text.data + from : NULL,
                        .len = c->text.len - from};
}

/* All items of an answer that is over. Where it ended in a thought, there is no message. */
static void put_output(const struct answer *a, struct run_json *j, const char *status) {
    const struct choice *c = &a->choices[0];
    bool thought = c->thought.len > 0;
    bool said = c->text.len > text_from(c, c->n_calls) || (!thought && c->n_calls == 0);
    uint32_t index = 0;
    if (thought) {
        put_item(a, j, NULL, &thought_item, index++, &c->thought,
                 said || c->n_calls ? "completed" : status);
    }
    for (size_t i = 0; i < c->n_calls; i++, index++) {
        const struct choice_call *one = &c->calls[i];
        size_t from = text_from(c, i), to = text_from(c, i + 1);
        if (to > from) {
            const struct buf text = {.data = c->text.data + from, .len = to - from};
            put_item(a, j, NULL, &message_item, index++, &text, "completed");
        }
        responses_put_call(j, NULL, one, one->whole ? "completed" : "incomplete");
    }
    if (said) {
        const struct buf text = last_text(c);
        put_item(a, j, NULL, &message_item, index, &text, status);
    }
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
    run_json_u64(j, "reasoning_tokens", answer_thought(a));
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
    static const char *const choices[] = {
        [TOOLBOX_AUTO] = "auto", [TOOLBOX_NONE] = "none", [TOOLBOX_REQUIRED] = "required"};
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
        put_output(a, j, status);
    }
    run_json_close(j, ']');
    run_json_bool(j, "parallel_tool_calls", !a->tools.one);
    run_json_string(j, "tool_choice", choices[a->tools.choice]);
    responses_put_tools(j, "tools", &a->tools);
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

void responses_open_event(struct answer *a, struct run_json *j, const char *type) {
    run_json_open(j, NULL, '{');
    run_json_string(j, "type", type);
    run_json_u64(j, "sequence_number", a->sequence++);
}

void responses_close_event(struct buf *out, const char *type, struct run_json *j) {
    run_json_close(j, '}');
    answer_event(out, type, j);
}

static void response_event(struct answer *a, const char *type, const char *status,
                           struct buf *out) {
    struct run_json j = {0};
    responses_open_event(a, &j, type);
    put_response(a, &j, "response", status);
    responses_close_event(out, type, &j);
}

/* ---- the stream: items come one after the other ---- */

static const struct item_kind *last_kind(const struct answer *a) {
    return a->thinks ? &thought_item : &message_item;
}

/* Of the last item, or of its one part. */
static void open_item_event(struct answer *a, struct run_json *j, const char *type, bool part) {
    responses_open_event(a, j, type);
    run_json_u64(j, "output_index", a->blocks - 1);
    if (part) {
        put_item_id(a, j, "item_id", last_kind(a), a->blocks - 1);
        run_json_u64(j, "content_index", 0);
    }
}

static void begin(struct answer *a, struct buf *out) {
    response_event(a, "response.created", "in_progress", out);
    response_event(a, "response.in_progress", "in_progress", out);
}

static void part_event(struct answer *a, const char *type, const struct buf *text,
                       struct buf *out) {
    struct run_json j = {0};
    open_item_event(a, &j, type, true);
    put_part(&j, "part", last_kind(a), text);
    responses_close_event(out, type, &j);
}

static void item_event(struct answer *a, const char *type, const struct buf *text,
                       const char *status, struct buf *out) {
    struct run_json j = {0};
    open_item_event(a, &j, type, false);
    put_item(a, &j, "item", last_kind(a), a->blocks - 1, text, status);
    responses_close_event(out, type, &j);
}

/* More of a text, or, with `key` "text", all of it. */
static void text_event(struct answer *a, const char *type, const char *key, const char *text,
                       size_t bytes, struct buf *out) {
    struct run_json j = {0};
    open_item_event(a, &j, type, true);
    run_json_text(&j, key, text, bytes);
    if (!a->thinks) {
        put_list(&j, "logprobs");
    }
    responses_close_event(out, type, &j);
}

static void end_item(struct answer *a, const struct choice *c, const char *status,
                     struct buf *out) {
    const struct buf text = a->thinks ? c->thought : last_text(c);
    text_event(a, last_kind(a)->done, "text", text.len ? text.data : "", text.len, out);
    part_event(a, "response.content_part.done", &text, out);
    item_event(a, "response.output_item.done", &text, status, out);
}

/* See that the last item is one of thoughts, or of what is said. */
static void see_item(struct answer *a, const struct choice *c, bool thinks, struct buf *out) {
    const struct buf empty = {0};
    enum block block = thinks ? BLOCK_THOUGHT : BLOCK_TEXT;
    if (a->block == block) {
        return;
    }
    if (a->block != BLOCK_NONE) {
        end_item(a, c, "completed", out);
    }
    a->blocks++;
    a->block = block;
    a->thinks = thinks;
    item_event(a, "response.output_item.added", NULL, "in_progress", out);
    part_event(a, "response.content_part.added", &empty, out);
}

static void piece(struct answer *a, struct choice *c, const char *text, size_t bytes,
                  struct buf *out) {
    see_item(a, c, false, out);
    text_event(a, message_item.delta, "delta", text, bytes, out);
}

static void thought(struct answer *a, struct choice *c, const char *text, size_t bytes,
                    struct buf *out) {
    see_item(a, c, true, out);
    text_event(a, thought_item.delta, "delta", text, bytes, out);
}

/* A call is an item of its own: the one before ends, which what was said before it is. */
static void call_part(struct answer *a, struct choice *c, enum call_part part, const char *json,
                      size_t bytes, struct buf *out) {
    if (part == CALL_BEGIN) {
        if (a->block != BLOCK_NONE) {
            c->n_calls--;
            end_item(a, c, "completed", out);
            c->n_calls++;
        }
        a->block = BLOCK_NONE;
        a->blocks++;
    }
    responses_call(a, c, a->blocks - 1, part, json, bytes, out);
}

static void end_choice(struct answer *a, struct choice *c, struct buf *out) {
    if (a->blocks == 0) {
        see_item(a, c, false, out);
    }
    if (a->block != BLOCK_NONE) {
        end_item(a, c, status_of(a), out);
    }
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
    .call_id = "call_",
    .call_item = "fc_",
    .call = call_part,
    .whole = whole,
    .begin = begin,
    .text = piece,
    .thought = thought,
    .end_choice = end_choice,
    .end = end,
    .fail = fail,
};

int openai_responses(struct call *call, struct problem *problem) {
    struct params params = {0};
    struct toolbox tools = {0};
    struct convo convo = {.tools = &tools};
    struct convo_prompt prompt = {0};
    int rc = params_responses(call, &params, problem);
    if (rc == 0) {
        rc = toolbox_responses(call, &tools, problem);
    }
    if (rc == 0) {
        rc = add_input(call, &convo, problem);
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
