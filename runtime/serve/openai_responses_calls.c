/*
 * openai_responses: calls of tools, which are items of their own; see openai_responses.h.
 */
#include <string.h>

#include "runtime/serve/openai_responses.h"

int responses_add_call(struct call *call, struct convo *c, const struct value_dict *item,
                       const char *where, struct problem *problem) {
    const struct value *type = field_get(item, "type"), *id = field_get(item, "call_id");
    int rc = 0;
    if (type && value_is_string(type, "function_call")) {
        rc = convo_add_call(call, c, id, field_get(item, "name"), field_get(item, "arguments"),
                            where, problem);
    } else if (type && value_is_string(type, "function_call_output")) {
        rc = convo_add_result(call, c, id, field_get(item, "output"), where, problem);
    } else {
        return 0;
    }
    return rc < 0 ? -1 : 1;
}

static const char *arguments_of(const struct choice_call *call) {
    return call->arguments.len ? call->arguments.data : "";
}

void responses_put_call(struct run_json *j, const char *key, const struct choice_call *call,
                        const char *status) {
    run_json_open(j, key, '{');
    run_json_string(j, "id", call->item);
    run_json_string(j, "type", "function_call");
    run_json_string(j, "status", status);
    run_json_string(j, "call_id", call->id);
    run_json_string(j, "name", call->name);
    run_json_text(j, "arguments", arguments_of(call), call->arguments.len);
    run_json_close(j, '}');
}

/* {"type": "function", "name": ..., "parameters": ..., "strict": ...} */
static void put_tool(struct run_json *j, const struct value_dict *function, bool strict) {
    struct value_arena arena = {.limit_bytes = SIZE_MAX};
    const struct value_json_style style = {0};
    struct buf json = {0};
    struct value_writer w = {.out = &json, .max_bytes = SIZE_MAX};
    struct value all, is_strict = {.type = VALUE_BOOL, .boolean = strict};
    struct err err = {0};
    bool made = value_make_dict(&arena, &all) == 0 &&
                field_set_text(&arena, &all, "type", "function", 8) == 0;
    for (size_t i = 0; made && i < function->n; i++) {
        const struct value_pair *p = &function->pairs[i];
        made = value_dict_set(&arena, all.dict, &p->key, &p->value) == 0;
    }
    if (!made || field_set(&arena, &all, "strict", &is_strict) ||
        value_json_write(&w, &all, &style, &err)) {
        die("a definition that was read as JSON cannot be written");
    }
    run_json_raw(j, NULL, json.data, json.len);
    buf_free(&json);
    value_arena_free(&arena);
}

void responses_put_tools(struct run_json *j, const char *key, const struct toolbox *box) {
    run_json_open(j, key, '[');
    for (size_t i = 0; i < box->n; i++) {
        const struct value *f = field_get(box->tools.list->items[i].dict, "function");
        put_tool(j, f->dict, box->strict[i]);
    }
    run_json_close(j, ']');
}

static void open_event(struct answer *a, struct run_json *j, const char *type, uint32_t index,
                       const struct choice_call *of) {
    responses_open_event(a, j, type);
    run_json_u64(j, "output_index", index);
    if (of) {
        run_json_string(j, "item_id", of->item);
    }
}

static void item_event(struct answer *a, const char *type, uint32_t index,
                       const struct choice_call *call, const char *status, struct buf *out) {
    struct run_json j = {0};
    open_event(a, &j, type, index, NULL);
    responses_put_call(&j, "item", call, status);
    responses_close_event(out, type, &j);
}

void responses_call(struct answer *a, const struct choice *c, uint32_t index, enum call_part part,
                    const char *json, size_t bytes, struct buf *out) {
    static const char delta[] = "response.function_call_arguments.delta";
    static const char done[] = "response.function_call_arguments.done";
    const struct choice_call *call = &c->calls[c->n_calls - 1];
    struct run_json j = {0};
    if (part == CALL_BEGIN) {
        item_event(a, "response.output_item.added", index, call, "in_progress", out);
    } else if (part == CALL_ARGUMENTS) {
        open_event(a, &j, delta, index, call);
        run_json_text(&j, "delta", json, bytes);
        responses_close_event(out, delta, &j);
    } else {
        open_event(a, &j, done, index, call);
        run_json_string(&j, "name", call->name);
        run_json_text(&j, "arguments", arguments_of(call), call->arguments.len);
        responses_close_event(out, done, &j);
        item_event(a, "response.output_item.done", index, call,
                   call->whole ? "completed" : "incomplete", out);
    }
}
