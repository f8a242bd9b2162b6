/*
 * convo: see convo.h.
 */
#include "runtime/serve/convo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/effort.h"

void convo_free(struct convo *c) {
    free(c->items);
    *c = (struct convo){0};
}

void convo_prompt_free(struct convo_prompt *p) {
    free(p->ids);
    free(p->text);
    *p = (struct convo_prompt){0};
}

static int no_room(struct problem *p, const char *where) {
    return problem_set(p, 413, NULL, where, "%s: the request takes too much memory", where);
}

static bool is_one_of(const struct value *v, const char *const *words) {
    for (; *words; words++) {
        if (value_is_string(v, *words)) {
            return true;
        }
    }
    return false;
}

/* ---- contents ---- */

/* What the parts of a content come to. */
struct said {
    struct buf text, thought;
    struct value *calls; /* [n_calls] calls of tools, as OpenAI has them */
    size_t n_calls, cap_calls;
};

static void said_free(struct said *s) {
    buf_free(&s->text);
    buf_free(&s->thought);
    free(s->calls);
}

static void add_text(struct buf *out, const struct value_string *text) {
    if (out->len > 0) {
        buf_append(out, "\n", 1);
    }
    buf_append(out, text->data, text->len);
}

/* Anthropic's system blocks that name a bill change with each request, and would keep the rest from
 * being used again: they are left out. */
static int take_text(struct call *call, const struct value_dict *part, struct said *s,
                     const char *where, struct problem *problem) {
    static const char billing[] = "x-anthropic-billing-header:";
    const struct value *text = field_get(part, "text");
    (void)call;
    if (!text || text->type != VALUE_STRING) {
        return problem_set(problem, 400, "invalid_type", where, "%s: a part without text", where);
    }
    if (strncmp(text->text->data, billing, sizeof billing - 1) != 0) {
        add_text(&s->text, text->text);
    }
    return 0;
}

/* A thought, which is the part's field `name`. */
static int add_thought(const struct value_dict *part, const char *name, struct said *s) {
    const struct value *text = field_get(part, name);
    if (text && text->type == VALUE_STRING) {
        add_text(&s->thought, text->text);
    }
    return 0;
}

static int take_thought(struct call *call, const struct value_dict *part, struct said *s,
                        const char *where, struct problem *problem) {
    (void)call;
    (void)where;
    (void)problem;
    return add_thought(part, "thinking", s);
}

/* {type: reasoning_text or summary_text, text} */
static int take_reasoning(struct call *call, const struct value_dict *part, struct said *s,
                          const char *where, struct problem *problem) {
    (void)call;
    (void)where;
    (void)problem;
    return add_thought(part, "text", s);
}

/* What cannot be read by anybody else, such as thoughts that were encrypted. */
static int take_nothing(struct call *call, const struct value_dict *part, struct said *s,
                        const char *where, struct problem *problem) {
    (void)call;
    (void)part;
    (void)s;
    (void)where;
    (void)problem;
    return 0;
}

/* {type: tool_use, id, name, input} */
static int take_call(struct call *call, const struct value_dict *part, struct said *s,
                     const char *where, struct problem *problem) {
    const struct value *id = field_get(part, "id"), *name = field_get(part, "name"),
                       *input = field_get(part, "input");
    struct value out, function, none;
    if (!name || name->type != VALUE_STRING || (input && input->type != VALUE_DICT)) {
        return problem_set(problem, 400, "invalid_type", where,
                           "%s: a tool_use without a name, or whose input is no object", where);
    }
    if (value_make_dict(&call->arena, &out) || value_make_dict(&call->arena, &function) ||
        value_make_dict(&call->arena, &none) || field_set(&call->arena, &function, "name", name) ||
        field_set(&call->arena, &function, "arguments", input ? input : &none) ||
        (id && field_set(&call->arena, &out, "id", id)) ||
        field_set_text(&call->arena, &out, "type", "function", 8) ||
        field_set(&call->arena, &out, "function", &function)) {
        return no_room(problem, where);
    }
    s->calls = mem_grow(s->calls, s->n_calls + 1, &s->cap_calls, sizeof *s->calls);
    s->calls[s->n_calls++] = out;
    return 0;
}

static const struct {
    const char *type;
    int (*take)(struct call *call, const struct value_dict *part, struct said *s, const char *where,
                struct problem *problem);
} parts[] = {
    {"text", take_text},
    {"input_text", take_text},
    {"output_text", take_text},
    {"thinking", take_thought},
    {"redacted_thinking", take_nothing},
    {"reasoning", take_nothing},
    {"tool_result", take_nothing}, /* a message of its own: add_results */
    {"tool_use", take_call},
    {"reasoning_text", take_reasoning},
    {"summary_text", take_reasoning},
};

static int take_part(struct call *call, const struct value *part, struct said *s, const char *where,
                     struct problem *problem) {
    if (part->type == VALUE_STRING) {
        add_text(&s->text, part->text);
        return 0;
    }
    if (part->type != VALUE_DICT) {
        return problem_set(problem, 400, "invalid_type", where,
                           "%s: expected parts that are objects or strings", where);
    }
    const struct value *type = field_get(part->dict, "type");
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (!type || value_is_string(type, parts[i].type)) {
            return parts[i].take(call, part->dict, s, where, problem);
        }
    }
    char *name = text_cleaned(type->type == VALUE_STRING ? type->text->data : "?");
    problem_set(problem, 400, "unsupported_content", where,
                "%s: a part of type %.60s: this server takes text only", where, name);
    free(name);
    return -1;
}

static int take_content(struct call *call, const struct value *content, struct said *s,
                        const char *where, struct problem *problem) {
    if (!content || content->type == VALUE_NONE) {
        return 0;
    }
    if (content->type == VALUE_STRING) {
        buf_append(&s->text, content->text->data, content->text->len);
        return 0;
    }
    if (content->type != VALUE_LIST) {
        return problem_set(problem, 400, "invalid_type", where,
                           "%s: expected a string, a list of parts, or null", where);
    }
    for (size_t i = 0; i < content->list->n; i++) {
        if (take_part(call, &content->list->items[i], s, where, problem) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- messages ---- */

static const char *data_of(const struct buf *b) {
    return b->len ? b->data : "";
}

/* Appends what was said as a message; fields of `from` (may be NULL) that templates know stay. */
static int put_message(struct call *call, struct convo *c, const char *role, const struct said *s,
                       const struct value_dict *from, const char *where, struct problem *problem) {
    static const char *const kept[] = {
        "name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning", NULL};
    struct value m, calls;
    if (value_make_dict(&call->arena, &m) ||
        field_set_text(&call->arena, &m, "role", role, strlen(role)) ||
        field_set_text(&call->arena, &m, "content", data_of(&s->text), s->text.len)) {
        return no_room(problem, where);
    }
    for (const char *const *k = kept; from && *k; k++) {
        const struct value *v = field_get(from, *k);
        if (v && field_set(&call->arena, &m, *k, v)) {
            return no_room(problem, where);
        }
    }
    const struct value *named = from ? field_get(from, "tool_name") : NULL; /* Ollama's */
    if (named && !field_get(from, "name") && field_set(&call->arena, &m, "name", named)) {
        return no_room(problem, where);
    }
    if ((s->thought.len &&
         field_set_text(&call->arena, &m, "reasoning_content", s->thought.data, s->thought.len)) ||
        (s->n_calls && (value_make_list(&call->arena, VALUE_LIST, s->calls, s->n_calls, &calls) ||
                        field_set(&call->arena, &m, "tool_calls", &calls)))) {
        return no_room(problem, where);
    }
    if (c->thinks && strcmp(role, "assistant") == 0 &&
        field_set(&call->arena, &m, "reasoning_content", &c->thought)) {
        return no_room(problem, where);
    }
    c->thinks = false;
    c->items = mem_grow(c->items, c->n + 1, &c->cap, sizeof *c->items);
    c->items[c->n++] = m;
    return 0;
}

static int add(struct call *call, struct convo *c, const char *role, const struct value *content,
               const struct value_dict *from, const char *where, struct problem *problem) {
    struct said s = {0};
    int rc = take_content(call, content, &s, where, problem);
    bool system = strcmp(role, "developer") == 0 || strcmp(role, "system") == 0;
    if (rc == 0 && !(system && s.text.len == 0)) {
        rc = put_message(call, c, system ? "system" : role, &s, from, where, problem);
    }
    said_free(&s);
    return rc;
}

int convo_add(struct call *call, struct convo *c, const char *role, const struct value *content,
              const char *where, struct problem *problem) {
    return add(call, c, role, content, NULL, where, problem);
}

int convo_think(struct call *call, struct convo *c, const struct value_dict *item,
                const char *where, struct problem *problem) {
    const struct value *content = field_get(item, "content");
    struct said s = {0};
    bool summary = !content || (content->type == VALUE_LIST && content->list->n == 0);
    int rc = take_content(call, summary ? field_get(item, "summary") : content, &s, where, problem);
    if (rc == 0 && s.thought.len > 0) {
        rc = value_make_string(&call->arena, s.thought.data, s.thought.len, &c->thought)
                 ? no_room(problem, where)
                 : 0;
        c->thinks = rc == 0;
    }
    said_free(&s);
    return rc;
}

int convo_add_result(struct call *call, struct convo *c, const struct value *id,
                     const struct value *content, const char *where, struct problem *problem) {
    if (add(call, c, "tool", content, NULL, where, problem) < 0) {
        return -1;
    }
    return id && field_set(&call->arena, &c->items[c->n - 1], "tool_call_id", id)
               ? no_room(problem, where)
               : 0;
}

int convo_add_call(struct call *call, struct convo *c, const struct value *id,
                   const struct value *name, const struct value *arguments, const char *where,
                   struct problem *problem) {
    struct value *last = c->n > 0 ? &c->items[c->n - 1] : NULL;
    struct value made, function, list;
    struct said s = {0};
    if (!name || name->type != VALUE_STRING ||
        (arguments && arguments->type != VALUE_STRING && arguments->type != VALUE_DICT)) {
        return problem_set(problem, 400, "invalid_type", where,
                           "%s: a call without a name, or whose arguments are no JSON text", where);
    }
    if (!last || !value_is_string(field_get(last->dict, "role"), "assistant")) {
        if (put_message(call, c, "assistant", &s, NULL, where, problem) < 0) {
            return -1;
        }
        last = &c->items[c->n - 1];
    }
    if (c->thinks && !field_get(last->dict, "reasoning_content") &&
        field_set(&call->arena, last, "reasoning_content", &c->thought)) {
        return no_room(problem, where);
    }
    c->thinks = false;
    const struct value *before = field_get(last->dict, "tool_calls");
    size_t n = before ? before->list->n : 0;
    struct value *items = value_alloc(&call->arena, (n + 1) * sizeof *items);
    if (!items || value_make_dict(&call->arena, &made) ||
        value_make_dict(&call->arena, &function) ||
        field_set(&call->arena, &function, "name", name) ||
        (arguments ? field_set(&call->arena, &function, "arguments", arguments)
                   : field_set_text(&call->arena, &function, "arguments", "{}", 2)) ||
        (id && field_set(&call->arena, &made, "id", id)) ||
        field_set_text(&call->arena, &made, "type", "function", 8) ||
        field_set(&call->arena, &made, "function", &function)) {
        return no_room(problem, where);
    }
    if (n > 0) {
        memcpy(items, before->list->items, n * sizeof *items);
    }
    items[n] = made;
    return value_make_list(&call->arena, VALUE_LIST, items, n + 1, &list) ||
                   field_set(&call->arena, last, "tool_calls", &list)
               ? no_room(problem, where)
               : 0;
}

/* {type: tool_result, tool_use_id, content}: results of tools come before what else the user says.
 * Returns how many there were, or -1; `others` becomes whether there is anything else. */
static int add_results(struct call *call, struct convo *c, const struct value *content,
                       const char *where, bool *others, struct problem *problem) {
    int n = 0;
    *others = !content || content->type != VALUE_LIST || content->list->n == 0;
    for (size_t i = 0; content && content->type == VALUE_LIST && i < content->list->n; i++) {
        const struct value *part = &content->list->items[i];
        const struct value *type = part->type == VALUE_DICT ? field_get(part->dict, "type") : NULL;
        if (!type || !value_is_string(type, "tool_result")) {
            *others = true;
            continue;
        }
        if (convo_add_result(call, c, field_get(part->dict, "tool_use_id"),
                             field_get(part->dict, "content"), where, problem) < 0) {
            return -1;
        }
        n++;
    }
    return n;
}

static int add_message(struct call *call, struct convo *c, const struct value *m, const char *where,
                       struct problem *problem) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool", NULL};
    static const char *const refused[] = {"function_call", "images", "audio", NULL};
    bool others;
    if (m->type != VALUE_DICT) {
        return problem_set(problem, 400, "invalid_type", where, "%s: expected an object", where);
    }
    const struct value *role = field_get(m->dict, "role"), *content = field_get(m->dict, "content");
    if (!role || role->type != VALUE_STRING) {
        return problem_set(problem, 400, "missing_required_parameter", where, "%s: expected a role",
                           where);
    }
    if (!is_one_of(role, roles)) {
        char *name = text_cleaned(role->text->data);
        problem_set(problem, 400, "invalid_value", where,
                    "%s: the role %.60s, expected system, developer, user, assistant or tool",
                    where, name);
        free(name);
        return -1;
    }
    if (fields_refuse(m->dict, refused, problem) < 0 ||
        add_results(call, c, content, where, &others, problem) < 0) {
        return -1;
    }
    return others ? add(call, c, role->text->data, content, m->dict, where, problem) : 0;
}

int convo_add_list(struct call *call, struct convo *c, const char *name, struct problem *problem) {
    const struct value *list = field_get(call->body, name);
    c->field = name;
    if (!list || list->type != VALUE_LIST || list->list->n == 0) {
        return problem_set(problem, 400, list ? "invalid_value" : "missing_required_parameter",
                           name, "%s: expected a list of messages", name);
    }
    for (size_t i = 0; i < list->list->n; i++) {
        char where[64];
        snprintf(where, sizeof where, "%s[%zu]", name, i);
        if (add_message(call, c, &list->list->items[i], where, problem) < 0) {
            return -1;
        }
    }
    return 0;
}

/* ---- prompts ---- */

int convo_check(const struct call *call, size_t n, const char *field, struct problem *problem) {
    unsigned most = call->s->info->ctx_tok;
    if (n == 0) {
        return problem_set(problem, 400, "invalid_value", field,
                           "the prompt is empty, and the model's tokenizer begins no text by "
                           "itself");
    }
    if (n <= most) {
        return 0;
    }
    if (call->api == API_ANTHROPIC) {
        return problem_set(problem, 400, NULL, NULL, "prompt is too long: %zu tokens > %u maximum",
                           n, most);
    }
    /* Clients look for OpenAI's words to tell this from other errors. */
    return problem_set(problem, 400, "context_length_exceeded", field,
                       "This model's maximum context length is %u tokens, the prompt has %zu", most,
                       n);
}

int convo_tokenize(struct call *call, const char *text, size_t bytes, bool add_special,
                   bool parse_special, int32_t **ids, size_t *n, struct problem *problem) {
    struct corm_error error;
    if (corm_tokenize(call->s->engine, text, bytes, add_special, parse_special, ids, n, &error) <
        0) {
        return problem_set(problem, 400, "invalid_value", NULL, "%s", error.message);
    }
    return 0;
}

/* What the template is to see, as JSON: messages, which become *list, and what the request has for
 * it beside. */
static int write_request(struct call *call, const struct convo *c, size_t n, struct buf *out,
                         struct value *list, struct problem *problem) {
    static const char *const passed[] = {"documents", NULL};
    const struct value *more = call->body ? field_get(call->body, "chat_template_kwargs") : NULL;
    const uint64_t most = call->s->body_bytes ? 2 * call->s->body_bytes + SERVE_LEAST_VALUES : 0;
    struct value_writer w = {.out = out, .max_bytes = most ? (size_t)most : SIZE_MAX};
    const struct value_json_style style = {0};
    struct value all;
    struct err err = {0};
    if (more && more->type != VALUE_DICT) {
        return problem_set(problem, 400, "invalid_type", "chat_template_kwargs",
                           "chat_template_kwargs: expected an object");
    }
    if (value_make_dict(&call->arena, &all)) {
        return no_room(problem, c->field);
    }
    if (call->body && effort_read(call, &all, problem) < 0) {
        return -1;
    }
    for (size_t i = 0; more && i < more->dict->n; i++) {
        const struct value_pair *p = &more->dict->pairs[i];
        if (value_dict_set(&call->arena, all.dict, &p->key, &p->value)) {
            return no_room(problem, "chat_template_kwargs");
        }
    }
    for (const char *const *k = passed; call->body && *k; k++) {
        const struct value *v = field_get(call->body, *k);
        if (v && value_truth(v) && field_set(&call->arena, &all, *k, v)) {
            return no_room(problem, *k);
        }
    }
    if ((c->tools && c->tools->n > 0 && call->s->ways->known &&
         field_set(&call->arena, &all, "tools", &c->tools->tools)) ||
        toolbox_messages(call, c->tools, c->items, n, list) ||
        field_set(&call->arena, &all, "messages", list)) {
        return no_room(problem, c->field);
    }
    if (value_json_write(&w, &all, &style, &err) < 0) {
        return out->len < w.max_bytes / 2
                   ? problem_set(problem, 400, "invalid_value", c->field, "%s", err.msg)
                   : no_room(problem, c->field);
    }
    return 0;
}

/* What the assistant has begun to say goes behind the prompt, as text. */
static int go_on(struct call *call, const struct value *last, struct convo_prompt *out,
                 struct problem *problem) {
    const struct value_string *begun = field_get(last->dict, "content")->text;
    int32_t *more = NULL;
    size_t n = 0;
    if (convo_tokenize(call, begun->data, begun->len, false, false, &more, &n, problem) < 0) {
        return -1;
    }
    out->ids = mem_realloc(out->ids, (out->n_ids + n) * sizeof *out->ids);
    memcpy(out->ids + out->n_ids, more, n * sizeof *more);
    out->n_ids += n;
    out->text = mem_realloc(out->text, out->text_bytes + begun->len + 1);
    memcpy(out->text + out->text_bytes, begun->data, begun->len + 1);
    out->text_bytes += begun->len;
    free(more);
    return 0;
}

static bool has_role(const struct value *items, size_t i, const char *role) {
    const struct value *v = field_get(items[i].dict, "role");
    return v && value_is_string(v, role);
}

/* The ends that are looked for of `n` messages as the template gets them, the one that is most
 * likely wanted first. Returns how many. */
static size_t wanted_ends(const struct value *items, size_t n,
                          struct corm_chat_end ends[CONVO_ENDS]) {
    size_t found = 0, system = 0, question = n;
    while (system < n && has_role(items, system, "system")) {
        system++;
    }
    while (question > 0 && !has_role(items, question - 1, "user")) {
        question--;
    }
    if (question > 0 && question < n) {
        ends[found++].messages = (uint32_t)question;
    }
    if (system > 0 && system < n) {
        ends[found++].messages = (uint32_t)system;
    }
    for (size_t i = n; i > system && found < CONVO_ENDS; i--) {
        const bool result = has_role(items, i - 1, "tool");
        const bool ends_turn = !result || i == n || !has_role(items, i, "tool");
        if ((result || has_role(items, i - 1, "user")) && ends_turn && !(i == question && i < n)) {
            ends[found++].messages = (uint32_t)i;
        }
    }
    return found;
}

static int by_length(const void *a, const void *b) {
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void take_ends(const struct corm_chat_end *ends, size_t n, struct convo_prompt *out) {
    for (size_t i = 0; i < n; i++) {
        if (ends[i].n_tok > 0) {
            out->ends[out->n_ends++] = ends[i].n_tok;
        }
    }
    qsort(out->ends, out->n_ends, sizeof *out->ends, by_length);
}

static bool calls_tools(const struct value *message) {
    const struct value *calls = field_get(message->dict, "tool_calls");
    return calls && calls->type == VALUE_LIST && calls->list->n > 0;
}

int convo_render(struct call *call, const struct convo *c, bool any_length,
                 struct convo_prompt *out, struct problem *problem) {
    const struct server *s = call->s;
    const struct value *last = c->n > 0 ? &c->items[c->n - 1] : NULL;
    bool goes_on =
        last && value_is_string(field_get(last->dict, "role"), "assistant") && !calls_tools(last);
    struct corm_chat_end ends[CONVO_ENDS] = {0};
    struct corm_error error;
    struct buf json = {0};
    struct value list = {0};
    *out = (struct convo_prompt){0};
    if (!s->chat_template && !corm_chat_template(s->engine)) {
        return problem_set(problem, 400, "no_chat_template", c->field,
                           "the model has no chat template; --chat-template gives it one");
    }
    int rc = write_request(call, c, c->n - goes_on, &json, &list, problem);
    const struct corm_chat chat = {.json = json.data,
                                   .json_bytes = json.len,
                                   .keep_arguments = s->ways->text_arguments,
                                   .chat_template = s->chat_template,
                                   .template_name = s->template_name,
                                   .ends = ends,
                                   .n_ends =
                                       rc < 0 || s->info->cuts_back || any_length
                                           ? 0
                                           : wanted_ends(list.list->items, list.list->n, ends)};
    if (rc == 0 && corm_chat_ids(s->engine, &chat, &out->ids, &out->n_ids, &out->text,
                                 &out->text_bytes, &error) < 0) {
        *out = (struct convo_prompt){0};
        rc = problem_set(problem, 400, "chat_template", c->field, "%s", error.message);
    }
    if (rc == 0) {
        take_ends(ends, chat.n_ends, out);
    }
    if (rc == 0 && goes_on) {
        rc = go_on(call, last, out, problem);
    }
    if (rc == 0 && !any_length) {
        rc = convo_check(call, out->n_ids, c->field, problem);
    }
    buf_free(&json);
    return rc;
}
