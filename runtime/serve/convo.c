/*
 * convo: see convo.h.
 */
#include "runtime/serve/convo.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void convo_free(struct convo *c) {
    free(c->messages);
    *c = (struct convo){0};
}

/* ---- contents ---- */

/* Kinds of parts whose text is the `text` field. */
static const char *const text_parts[] = {"text", "input_text", "output_text", NULL};
/* Parts that say what was thought before, or are of no meaning to the model. */
static const char *const skipped_parts[] = {"thinking", "redacted_thinking", "reasoning", NULL};

static bool is_one_of(const struct value *v, const char *const *words) {
    for (; *words; words++) {
        if (value_is_string(v, *words)) {
            return true;
        }
    }
    return false;
}

static int no_room(struct problem *p, const char *where) {
    return problem_set(p, 413, NULL, where, "%s: the request takes too much memory", where);
}

static int add_text(const struct value_string *text, struct buf *out, const char *where,
                    struct problem *problem) {
    if (memchr(text->data, 0, text->len)) {
        return problem_set(problem, 400, "invalid_value", where, "%s: a text holds a NUL", where);
    }
    buf_append(out, text->data, text->len);
    return 0;
}

/* Appends the text of one part. Anthropic's system blocks that name a bill change with each
 * request, and would keep the rest from being used again: they are left out. */
static int add_part(const struct value *part, struct buf *out, const char *where,
                    struct problem *problem) {
    static const char billing[] = "x-anthropic-billing-header:";
    if (part->type == VALUE_STRING) {
        return add_text(part->text, out, where, problem);
    }
    if (part->type != VALUE_DICT) {
        return problem_set(problem, 400, "invalid_type", where,
                           "%s: expected parts that are objects or strings", where);
    }
    const struct value *type = field_get(part->dict, "type"), *text = field_get(part->dict, "text");
    if (type && is_one_of(type, skipped_parts)) {
        return 0;
    }
    if (type && !is_one_of(type, text_parts)) {
        char *name = text_cleaned(type->type == VALUE_STRING ? type->text->data : "?");
        problem_set(problem, 400, "unsupported_content", where,
                    "%s: a part of type %.60s: this server takes text only", where, name);
        free(name);
        return -1;
    }
    if (!text || text->type != VALUE_STRING) {
        return problem_set(problem, 400, "invalid_type", where, "%s: a part without text", where);
    }
    if (strncmp(text->text->data, billing, sizeof billing - 1) == 0) {
        return 0;
    }
    if (out->len > 0) {
        buf_append(out, "\n", 1);
    }
    return add_text(text->text, out, where, problem);
}

const char *convo_text(struct call *call, const struct value *content, const char *where,
                       struct problem *problem) {
    struct buf text = {0};
    const char *result = NULL;
    int rc = 0;
    buf_append(&text, "", 0);
    if (!content || content->type == VALUE_NONE) {
        /* nothing was said */
    } else if (content->type == VALUE_STRING) {
        rc = add_text(content->text, &text, where, problem);
    } else if (content->type == VALUE_LIST) {
        for (size_t i = 0; rc == 0 && i < content->list->n; i++) {
            rc = add_part(&content->list->items[i], &text, where, problem);
        }
    } else {
        rc = problem_set(problem, 400, "invalid_type", where,
                         "%s: expected a string, a list of parts, or null", where);
    }
    if (rc == 0) {
        const struct value_string *s = value_string_new(&call->arena, text.data, text.len);
        result = s ? s->data : NULL;
        if (!result) {
            no_room(problem, where);
        }
    }
    buf_free(&text);
    return result;
}

/* ---- messages ---- */

int convo_add(struct call *call, struct convo *c, const char *role, const struct value *content,
              const char *where, struct problem *problem) {
    const char *text = convo_text(call, content, where, problem);
    if (!text) {
        return -1;
    }
    if (strcmp(role, "developer") == 0) {
        role = "system";
    }
    if (strcmp(role, "system") == 0 && !*text) {
        return 0;
    }
    c->messages = mem_grow(c->messages, c->n + 1, &c->cap, sizeof *c->messages);
    c->messages[c->n++] = (struct corm_message){role, text};
    return 0;
}

static int add_message(struct call *call, struct convo *c, const struct value *m, const char *where,
                       struct problem *problem) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", NULL};
    static const char *const refused[] = {"tool_calls", "function_call", "images", NULL};
    if (m->type != VALUE_DICT) {
        return problem_set(problem, 400, "invalid_type", where, "%s: expected an object", where);
    }
    const struct value *role = field_get(m->dict, "role");
    if (!role || role->type != VALUE_STRING) {
        return problem_set(problem, 400, "missing_required_parameter", where, "%s: expected a role",
                           where);
    }
    if (!is_one_of(role, roles)) {
        char *name = text_cleaned(role->text->data);
        problem_set(problem, 400, "invalid_value", where,
                    "%s: the role %.60s, expected system, developer, user or assistant", where,
                    name);
        free(name);
        return -1;
    }
    if (fields_refuse(m->dict, refused, problem) < 0) {
        return -1;
    }
    return convo_add(call, c, role->text->data, field_get(m->dict, "content"), where, problem);
}

int convo_add_list(struct call *call, struct convo *c, const char *name, struct problem *problem) {
    const struct value *list = field_get(call->body, name);
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

int convo_check(const struct call *call, size_t n, struct problem *problem) {
    unsigned most = call->s->info->ctx_tok;
    if (n == 0) {
        return problem_set(
            problem, 400, "invalid_value", NULL,
            "the prompt is empty, and the model's tokenizer begins no text by itself");
    }
    if (n <= most) {
        return 0;
    }
    if (call->api == API_ANTHROPIC) {
        return problem_set(problem, 400, NULL, NULL, "prompt is too long: %zu tokens > %u maximum",
                           n, most);
    }
    return problem_set(problem, 400, "context_length_exceeded", "messages",
                       "the prompt has %zu tokens, this server's context holds %u", n, most);
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

int convo_render(struct call *call, const struct convo *c, char **text, size_t *bytes,
                 struct problem *problem) {
    struct server *s = call->s;
    struct corm_error error;
    bool goes_on = c->n > 0 && strcmp(c->messages[c->n - 1].role, "assistant") == 0;
    if (!s->chat_template && !corm_chat_template(s->engine)) {
        return problem_set(problem, 400, "no_chat_template", "messages",
                           "the model has no chat template; --chat-template gives it one");
    }
    if (corm_chat_prompt(s->engine, s->chat_template, s->template_name, c->messages, c->n - goes_on,
                         text, bytes, &error) < 0) {
        return problem_set(problem, 400, "chat_template", "messages", "%s", error.message);
    }
    if (goes_on) {
        const char *begun = c->messages[c->n - 1].content;
        size_t n = strlen(begun);
        *text = mem_realloc(*text, *bytes + n + 1);
        memcpy(*text + *bytes, begun, n + 1);
        *bytes += n;
    }
    return 0;
}

int convo_ids(struct call *call, const struct convo *c, int32_t **ids, size_t *n,
              struct problem *problem) {
    char *text = NULL;
    size_t bytes = 0;
    *ids = NULL;
    int rc = convo_render(call, c, &text, &bytes, problem);
    if (rc == 0) {
        /* A template writes all the special tokens that there are to be. */
        rc = convo_tokenize(call, text, bytes, false, true, ids, n, problem);
    }
    if (rc == 0) {
        rc = convo_check(call, *n, problem);
    }
    free(text);
    return rc;
}
