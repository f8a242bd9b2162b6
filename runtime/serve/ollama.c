/*
 * ollama: /api/chat and /api/generate.
 *
 * Owns: both endpoints, and their answers: an object, or one a line where it is streamed.
 * Leaves to others: fields that say how (params), messages (convo), the rest of an answer (answer),
 * what is told of the model (ollama_info).
 * Threads: as answer.h.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/answer.h"
#include "runtime/serve/convo.h"

static void open_line(const struct answer *a, struct run_json *j) {
    char now[40];
    reply_time(now);
    run_json_open(j, NULL, '{');
    run_json_string(j, "model", a->model);
    run_json_string(j, "created_at", now);
}

static void put_thought(struct run_json *j, const struct buf *thought) {
    if (thought && thought->len > 0) {
        run_json_text(j, "thinking", thought->data, thought->len);
    }
}

static void put_calls(struct run_json *j, const struct choice_call *calls, size_t n) {
    if (n == 0) {
        return;
    }
    run_json_open(j, "tool_calls", '[');
    for (size_t i = 0; i < n; i++) {
        run_json_open(j, NULL, '{');
        run_json_string(j, "id", calls[i].id);
        run_json_open(j, "function", '{');
        run_json_string(j, "name", calls[i].name);
        answer_arguments(j, "arguments", &calls[i]);
        run_json_close(j, '}');
        run_json_close(j, '}');
    }
    run_json_close(j, ']');
}

/* `thought` may be NULL. */
static void put_text(const struct answer *a, struct run_json *j, const char *text, size_t bytes,
                     const struct buf *thought, const struct choice_call *calls, size_t n_calls) {
    if (a->chat) {
        run_json_open(j, "message", '{');
        run_json_string(j, "role", "assistant");
        run_json_text(j, "content", text, bytes);
        put_thought(j, thought);
        put_calls(j, calls, n_calls);
        run_json_close(j, '}');
    } else {
        run_json_text(j, "response", text, bytes);
        put_thought(j, thought);
    }
}

static void close_last(const struct answer *a, struct run_json *j) {
    const struct choice *c = &a->choices[0];
    struct answer_times t = answer_times(c);
    run_json_bool(j, "done", true);
    run_json_string(j, "done_reason", answer_calls(c) ? "stop" : answer_finish(c));
    run_json_u64(j, "total_duration", t.all_ns);
    run_json_u64(j, "load_duration", 0);
    run_json_u64(j, "prompt_eval_count", a->prompt_tok);
    run_json_u64(j, "prompt_eval_duration", t.prompt_ns);
    run_json_u64(j, "eval_count", c->job.made_tok);
    run_json_u64(j, "eval_duration", t.made_ns);
    run_json_close(j, '}');
}

static void put_line(struct buf *out, struct run_json *j) {
    buf_append(out, j->text.data, j->text.len);
    buf_append(out, "\n", 1);
    buf_free(&j->text);
}

static void begin(struct answer *a, struct buf *out) {
    (void)a;
    (void)out;
}

static void line_of(const struct answer *a, const char *text, size_t bytes,
                    const struct buf *thought, const struct choice_call *call, struct buf *out) {
    struct run_json j = {0};
    open_line(a, &j);
    put_text(a, &j, text, bytes, thought, call, call != NULL);
    run_json_bool(&j, "done", false);
    run_json_close(&j, '}');
    put_line(out, &j);
}

static void piece(struct answer *a, struct choice *c, const char *text, size_t bytes,
                  struct buf *out) {
    (void)c;
    line_of(a, text, bytes, NULL, NULL, out);
}

static void thought_piece(struct answer *a, struct choice *c, const char *text, size_t bytes,
                          struct buf *out) {
    const struct buf thought = {.data = (char *)text, .len = bytes};
    (void)c;
    line_of(a, "", 0, &thought, NULL, out);
}

/* Its clients take calls as a whole. */
static void call_part(struct answer *a, struct choice *c, enum call_part part, const char *json,
                      size_t bytes, struct buf *out) {
    (void)json;
    (void)bytes;
    if (part == CALL_END) {
        line_of(a, "", 0, NULL, &c->calls[c->n_calls - 1], out);
    }
}

static void end_choice(struct answer *a, struct choice *c, struct buf *out) {
    (void)a;
    (void)c;
    (void)out;
}

static void end(struct answer *a, struct buf *out) {
    struct run_json j = {0};
    open_line(a, &j);
    put_text(a, &j, "", 0, NULL, NULL, 0);
    close_last(a, &j);
    put_line(out, &j);
}

static void whole(struct answer *a, struct run_json *j) {
    const struct choice *c = &a->choices[0];
    open_line(a, j);
    put_text(a, j, c->text.len ? c->text.data : "", c->text.len, &c->thought, c->calls, c->n_calls);
    close_last(a, j);
}

static void fail(struct answer *a, const struct problem *problem, struct buf *out) {
    struct run_json j = {0};
    (void)a;
    reply_error(&j, API_OLLAMA, problem);
    put_line(out, &j);
}

static const struct answer_form form = {
    .type = "application/x-ndjson",
    .api = API_OLLAMA,
    .id = "ollama-",
    .call_id = "call_",
    .call = call_part,
    .whole = whole,
    .begin = begin,
    .text = piece,
    .thought = thought_piece,
    .end_choice = end_choice,
    .end = end,
    .fail = fail,
};

/* With no prompt, Ollama loads a model, or unloads it; here it is there always. */
static int answer_loaded(struct call *call, const struct params *params, bool chat) {
    struct answer a = {.s = call->s, .model = (char *)call->s->name, .chat = chat};
    struct run_json j = {0};
    (void)params;
    open_line(&a, &j);
    put_text(&a, &j, "", 0, NULL, NULL, 0);
    run_json_bool(&j, "done", true);
    run_json_string(&j, "done_reason", "load");
    run_json_close(&j, '}');
    reply_json(call->x, 200, &j);
    return 0;
}

static int start(struct call *call, const struct params *params, const struct convo_prompt *p,
                 bool chat, struct toolbox *tools, struct problem *problem) {
    struct answer *a = answer_new(call, &form, params, 1);
    struct buf alive = {0};
    a->chat = chat;
    line_of(a, "", 0, NULL, NULL, &alive); /* its clients take no line that is empty */
    a->alive = alive.data;
    answer_set_tools(a, tools);
    answer_set_turn(a, p);
    return answer_start(a, problem);
}

static bool says_nothing(const struct call *call, const char *name) {
    const struct value *v = field_get(call->body, name);
    return !v || !value_truth(v);
}

int ollama_chat(struct call *call, struct problem *problem) {
    struct params params = {0};
    struct toolbox tools = {0};
    struct convo convo = {.tools = &tools};
    struct convo_prompt prompt = {0};
    int rc = params_ollama(call, &params, problem);
    if (rc == 0) {
        rc = toolbox_openai(call, &tools, problem);
    }
    if (rc == 0 && says_nothing(call, "messages")) {
        rc = answer_loaded(call, &params, true);
    } else if (rc == 0) {
        rc = convo_add_list(call, &convo, "messages", problem);
        if (rc == 0) {
            rc = convo_render(call, &convo, false, &prompt, problem);
        }
        if (rc == 0) {
            rc = start(call, &params, &prompt, true, &tools, problem);
        }
    }
    convo_prompt_free(&prompt);
    convo_free(&convo);
    toolbox_free(&tools);
    params_free(&params);
    return rc;
}

/* A prompt is what a user says, where the model knows turns; with `raw`, a text to continue. */
int ollama_generate(struct call *call, struct problem *problem) {
    static const struct field raw_field[] = {{"raw", FIELD_BOOL, 0}, {0}};
    struct params params = {0};
    struct toolbox none = {0};
    struct convo convo = {0};
    struct convo_prompt prompt = {0};
    bool raw = false;
    const struct value *text = field_get(call->body, "prompt");
    int rc = params_ollama(call, &params, problem);
    rc = rc < 0 ? rc : fields_read(call->body, raw_field, &raw, problem);
    convo.field = "prompt";
    raw |= !call->s->chat_template && !corm_chat_template(call->s->engine);
    if (rc == 0 && says_nothing(call, "prompt")) {
        rc = answer_loaded(call, &params, false);
    } else if (rc == 0 && text->type != VALUE_STRING) {
        rc = problem_set(problem, 400, NULL, "prompt", "prompt: expected a string");
    } else if (rc == 0) {
        if (raw) {
            rc = convo_tokenize(call, text->text->data, text->text->len, true, true, &prompt.ids,
                                &prompt.n_ids, problem);
            rc = rc < 0 ? rc : convo_check(call, prompt.n_ids, "prompt", problem);
        } else if (convo_add(call, &convo, "system", field_get(call->body, "system"), "system",
                             problem) < 0 ||
                   convo_add(call, &convo, "user", text, "prompt", problem) < 0 ||
                   convo_render(call, &convo, false, &prompt, problem) < 0) {
            rc = -1;
        }
        rc = rc < 0 ? rc : start(call, &params, &prompt, false, &none, problem);
    }
    convo_prompt_free(&prompt);
    convo_free(&convo);
    params_free(&params);
    return rc;
}
