/*
 * toolbox: definitions and choices, as each API says them; see toolbox.h.
 */
#include "runtime/serve/toolbox.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How an API writes a definition. */
struct writing {
    const char *kind;   /* of those that are functions; others are left out */
    bool kind_may_miss; /* those without a kind are such */
    const char *inside; /* the object that has name, description, parameters; NULL: the tool */
    const char *schema; /* how it calls the parameters */
};
static const struct writing openai = {"function", true, "function", "parameters"};
static const struct writing responses = {"function", false, NULL, "parameters"};
static const struct writing anthropic = {"custom", true, NULL, "input_schema"};

static int no_room(struct problem *problem) {
    return problem_set(problem, 413, NULL, "tools", "tools: the request takes too much memory");
}

void toolbox_free(struct toolbox *box) {
    value_arena_free(&box->arena);
    free(box->allowed);
    free(box->strict);
    *box = (struct toolbox){0};
}

void toolbox_id(const struct toolbox_ways *ways, char id[REPLY_ID], const char *prefix) {
    enum { SHORT = 9 };
    reply_id(id, prefix);
    if (ways->ids == TOOLBOX_IDS_SHORT) {
        memmove(id, id + strlen(id) - SHORT, SHORT + 1);
    }
}

/* ---- definitions ---- */

/* {"type": "object", "properties": {}}, for a tool that takes nothing. */
static int empty_schema(struct value_arena *arena, struct value *out) {
    struct value none;
    return value_make_dict(arena, out) || value_make_dict(arena, &none) ||
                   field_set_text(arena, out, "type", "object", 6) ||
                   field_set(arena, out, "properties", &none)
               ? -1
               : 0;
}

/* What templates are given of a function: what its writer gave, in that order, under the names that
 * templates know; but for what is said to the server and not to the model. */
static int make_function(struct value_arena *arena, const struct value_dict *from,
                         const struct writing *w, struct value *out) {
    static const char *const left_out[] = {"type",
                                           "strict",
                                           "cache_control",
                                           "defer_loading",
                                           "allowed_callers",
                                           "input_examples",
                                           "eager_input_streaming"};
    struct value parameters, key;
    if (value_make_dict(arena, out)) {
        return -1;
    }
    for (size_t i = 0; i < from->n; i++) {
        const struct value_pair *p = &from->pairs[i];
        bool out_of_place = p->value.type == VALUE_NONE;
        for (size_t k = 0; k < sizeof left_out / sizeof *left_out; k++) {
            out_of_place |= value_is_string(&p->key, left_out[k]);
        }
        key = p->key;
        if (value_is_string(&key, w->schema) && value_make_string(arena, "parameters", 10, &key)) {
            return -1;
        }
        if (!out_of_place && value_dict_set(arena, out->dict, &key, &p->value)) {
            return -1;
        }
    }
    if (!value_dict_get_text(out->dict, "parameters", 10)) {
        return empty_schema(arena, &parameters) || field_set(arena, out, "parameters", &parameters)
                   ? -1
                   : 0;
    }
    return 0;
}

static int check_function(const struct value_dict *f, const struct writing *w, const char *where,
                          struct problem *problem) {
    const struct value *name = f ? field_get(f, "name") : NULL;
    const struct value *schema = f ? field_get(f, w->schema) : NULL;
    const struct value *strict = f ? field_get(f, "strict") : NULL;
    if (!name || name->type != VALUE_STRING || name->text->len == 0 ||
        name->text->len > TOOLBOX_MAX_NAME_BYTES ||
        strcspn(name->text->data, " \t\r\n<>[]{}()\"'`,=\\") != name->text->len) {
        return problem_set(problem, 400, "invalid_value", where,
                           "%s: expected a name of 1 to %d bytes, without blanks, quotes and "
                           "brackets",
                           where, TOOLBOX_MAX_NAME_BYTES);
    }
    if (schema && schema->type != VALUE_DICT) {
        return problem_set(problem, 400, "invalid_type", where, "%s: %s: expected an object", where,
                           w->schema);
    }
    if (strict && strict->type != VALUE_BOOL) {
        return problem_set(problem, 400, "invalid_type", where,
                           "%s: strict: expected true or false", where);
    }
    return 0;
}

/* One of the request's tools. What is no function is left out, and told. */
static int add_tool(struct call *call, struct toolbox *box, const struct value *tool,
                    const struct writing *w, struct value *items, size_t number,
                    struct problem *problem) {
    struct value_arena *arena = &call->arena;
    char where[64];
    snprintf(where, sizeof where, "tools[%zu]", number);
    if (tool->type != VALUE_DICT) {
        return problem_set(problem, 400, "invalid_type", where, "%s: expected an object", where);
    }
    const struct value *type = field_get(tool->dict, "type");
    if (type ? !value_is_string(type, w->kind) : !w->kind_may_miss) {
        char *name = text_cleaned(type && type->type == VALUE_STRING ? type->text->data : "?");
        reply_note(call->s, "%s: a tool of type %.60s is left out: this server has functions only",
                   where, name);
        free(name);
        return 0;
    }
    const struct value *inside = w->inside ? field_get(tool->dict, w->inside) : tool;
    const struct value_dict *from = inside && inside->type == VALUE_DICT ? inside->dict : NULL;
    if (check_function(from, w, where, problem) < 0) {
        return -1;
    }
    const struct value *strict = field_get(from, "strict");
    struct value *out = &items[box->n], function;
    if (value_make_dict(arena, out) || make_function(arena, from, w, &function) ||
        field_set_text(arena, out, "type", "function", 8) ||
        field_set(arena, out, "function", &function)) {
        return no_room(problem);
    }
    box->allowed[box->n] = true;
    box->strict[box->n++] = strict && strict->boolean;
    return 0;
}

/* The box outlives the call, so it has a copy of its own. */
static int keep(struct toolbox *box, struct value_arena *arena, const struct value *items,
                struct problem *problem) {
    struct buf json = {0};
    struct value_writer w = {.out = &json, .max_bytes = SIZE_MAX};
    const struct value_json_style style = {0};
    struct value list;
    struct err err = {0};
    box->arena.limit_bytes = arena->limit_bytes;
    int rc = value_make_list(arena, VALUE_LIST, items, box->n, &list) ||
                     value_json_write(&w, &list, &style, &err) ||
                     value_json_read(&box->arena, json.data, json.len, &box->tools, &err)
                 ? no_room(problem)
                 : 0;
    buf_free(&json);
    return rc;
}

static int read_tools(struct call *call, struct toolbox *box, const struct writing *w,
                      struct problem *problem) {
    const struct value *list = field_get(call->body, "tools");
    if (!list) {
        return 0;
    }
    if (list->type != VALUE_LIST || list->list->n > TOOLBOX_MAX_TOOLS) {
        return problem_set(problem, 400, "invalid_type", "tools",
                           "tools: expected a list of at most %d", TOOLBOX_MAX_TOOLS);
    }
    struct value *items = value_alloc(&call->arena, (list->list->n + 1) * sizeof *items);
    box->allowed = mem_calloc(list->list->n + 1, sizeof *box->allowed);
    box->strict = mem_calloc(list->list->n + 1, sizeof *box->strict);
    if (!items) {
        return no_room(problem);
    }
    for (size_t i = 0; i < list->list->n; i++) {
        if (add_tool(call, box, &list->list->items[i], w, items, i, problem) < 0) {
            return -1;
        }
    }
    return box->n ? keep(box, &call->arena, items, problem) : 0;
}

/* ---- choices ---- */

static const char choice_field[] = "tool_choice";

static const struct value_string *name_of(const struct toolbox *box, size_t i) {
    const struct value *tool = &box->tools.list->items[i];
    return field_get(field_get(tool->dict, "function")->dict, "name")->text;
}

/* A call of this tool is allowed; -1 and `problem` where there is none. */
static int allow(struct toolbox *box, const struct value *name, struct problem *problem) {
    for (size_t i = 0; name && name->type == VALUE_STRING && i < box->n; i++) {
        if (value_is_string(name, name_of(box, i)->data)) {
            box->allowed[i] = true;
            return 0;
        }
    }
    return problem_set(problem, 400, "invalid_value", choice_field,
                       "%s: names no function that is among tools", choice_field);
}

static int allow_only(struct toolbox *box, const struct value *name, struct problem *problem) {
    for (size_t i = 0; i < box->n; i++) {
        box->allowed[i] = false;
    }
    box->choice = TOOLBOX_REQUIRED;
    return allow(box, name, problem);
}

static int set_choice(struct toolbox *box, const struct value *word, struct problem *problem) {
    static const struct {
        const char *word;
        enum toolbox_choice choice;
    } words[] = {{"auto", TOOLBOX_AUTO},
                 {"none", TOOLBOX_NONE},
                 {"required", TOOLBOX_REQUIRED},
                 {"any", TOOLBOX_REQUIRED}};
    for (size_t i = 0; word && i < sizeof words / sizeof *words; i++) {
        if (value_is_string(word, words[i].word)) {
            box->choice = words[i].choice;
            return 0;
        }
    }
    return problem_set(problem, 400, "invalid_value", choice_field,
                       "%s: expected auto, none, required or a function", choice_field);
}

/* {"type": "allowed_tools", "mode": ..., "tools": [...]}, of chat beneath its type. */
static int read_allowed(struct toolbox *box, const struct value *choice, struct problem *problem) {
    const struct value *inner = field_get(choice->dict, "allowed_tools");
    const struct value_dict *d = inner && inner->type == VALUE_DICT ? inner->dict : choice->dict;
    const struct value *tools = field_get(d, "tools"), *mode = field_get(d, "mode");
    if (!tools || tools->type != VALUE_LIST || (mode && set_choice(box, mode, problem) < 0)) {
        return problem_set(problem, 400, "invalid_value", choice_field,
                           "%s: expected a list of tools", choice_field);
    }
    for (size_t i = 0; i < box->n; i++) {
        box->allowed[i] = false;
    }
    for (size_t i = 0; i < tools->list->n; i++) {
        const struct value *t = &tools->list->items[i];
        const struct value *f = t->type == VALUE_DICT ? field_get(t->dict, "function") : NULL;
        const struct value *from = f && f->type == VALUE_DICT ? f : t;
        const struct value *type = t->type == VALUE_DICT ? field_get(t->dict, "type") : NULL;
        if (type && !value_is_string(type, "function")) {
            continue; /* as among tools, what is no function is left out */
        }
        if (allow(box, from->type == VALUE_DICT ? field_get(from->dict, "name") : NULL, problem) <
            0) {
            return -1;
        }
    }
    return 0;
}

/* A word, or an object with a type: a word too, or a tool that is named. */
static int read_choice(struct call *call, struct toolbox *box, struct problem *problem) {
    const struct value *choice = field_get(call->body, choice_field);
    bool any = false;
    if (choice && choice->type == VALUE_DICT) {
        const struct value *type = field_get(choice->dict, "type");
        const struct value *f = field_get(choice->dict, "function");
        if (type && value_is_string(type, "allowed_tools")) {
            if (read_allowed(box, choice, problem) < 0) {
                return -1;
            }
        } else if (type && (value_is_string(type, "function") || value_is_string(type, "tool"))) {
            const struct value_dict *d = f && f->type == VALUE_DICT ? f->dict : choice->dict;
            if (allow_only(box, field_get(d, "name"), problem) < 0) {
                return -1;
            }
        } else if (set_choice(box, type, problem) < 0) {
            return -1;
        }
    } else if (choice && set_choice(box, choice, problem) < 0) {
        return -1;
    }
    for (size_t i = 0; i < box->n; i++) {
        any |= box->allowed[i];
    }
    if (box->n > 0 && !any && box->choice == TOOLBOX_AUTO) {
        box->choice = TOOLBOX_NONE; /* allowed_tools names none */
    }
    return any || box->choice != TOOLBOX_REQUIRED
               ? 0
               : problem_set(problem, 400, "invalid_value", choice_field,
                             "%s: a call is required, and there is no function to call",
                             choice_field);
}

/* ---- each API ---- */

static int read_openai(struct call *call, struct toolbox *box, const struct writing *w,
                       struct problem *problem) {
    bool parallel = true;
    static const struct field fields[] = {{"parallel_tool_calls", FIELD_BOOL, 0}, {0}};
    if (read_tools(call, box, w, problem) < 0 ||
        fields_read(call->body, fields, &parallel, problem) < 0) {
        return -1;
    }
    box->one = !parallel;
    return read_choice(call, box, problem);
}

int toolbox_openai(struct call *call, struct toolbox *box, struct problem *problem) {
    return read_openai(call, box, &openai, problem);
}

int toolbox_responses(struct call *call, struct toolbox *box, struct problem *problem) {
    return read_openai(call, box, &responses, problem);
}

int toolbox_anthropic(struct call *call, struct toolbox *box, struct problem *problem) {
    static const struct field fields[] = {{"disable_parallel_tool_use", FIELD_BOOL, 0}, {0}};
    const struct value *choice = field_get(call->body, choice_field);
    if (read_tools(call, box, &anthropic, problem) < 0 ||
        (choice && choice->type == VALUE_DICT &&
         fields_read(choice->dict, fields, &box->one, problem) < 0)) {
        return -1;
    }
    return read_choice(call, box, problem);
}
