/*
 * effort: see effort.h.
 */
#include "runtime/serve/effort.h"

#include <string.h>

/* What was said; NULL: nothing. */
struct effort {
    const struct value *word, *budget;
    bool says, thinks; /* whether it is to think at all, and whether that was said */
};

static int expected(const char *name, const char *what, struct problem *problem) {
    return problem_set(problem, 400, "invalid_type", name, "%s: expected %s", name, what);
}

static void set_thinks(struct effort *e, bool thinks) {
    e->says = true;
    e->thinks = thinks;
}

/* A word such as "low"; the template knows which. "none" is not to think. */
static int take_word(struct effort *e, const struct value *v, const char *name,
                     struct problem *problem) {
    if (!v) {
        return 0;
    }
    if (v->type != VALUE_STRING || v->text->len == 0) {
        return expected(name, "a word, such as \"low\", \"medium\" or \"high\"", problem);
    }
    e->word = v;
    set_thinks(e, !value_is_string(v, "none"));
    return 0;
}

/* The field `inner` of the object `name`. */
static int take_inner(struct effort *e, const struct value_dict *body, const char *name,
                      const char *inner, const char *both, struct problem *problem) {
    const struct value *v = field_get(body, name);
    if (v && v->type != VALUE_DICT) {
        return expected(name, "an object", problem);
    }
    return v ? take_word(e, field_get(v->dict, inner), both, problem) : 0;
}

/* chat/completions has `reasoning_effort`, responses `reasoning`. */
static int read_openai(struct effort *e, const struct value_dict *body, struct problem *problem) {
    static const char name[] = "reasoning_effort";
    return take_word(e, field_get(body, name), name, problem) < 0 ||
                   take_inner(e, body, "reasoning", "effort", "reasoning.effort", problem) < 0
               ? -1
               : 0;
}

/* {"type": "enabled", "budget_tokens": 1024}, "disabled", or "adaptive": as the model likes. */
static int read_anthropic(struct effort *e, const struct value_dict *body,
                          struct problem *problem) {
    const struct value *v = field_get(body, "thinking");
    if (take_inner(e, body, "output_config", "effort", "output_config.effort", problem) < 0) {
        return -1;
    }
    if (!v) {
        return 0;
    }
    const struct value *type = v->type == VALUE_DICT ? field_get(v->dict, "type") : NULL;
    if (!type || type->type != VALUE_STRING) {
        return expected("thinking", "an object with a type", problem);
    }
    if (value_is_string(type, "disabled")) {
        set_thinks(e, false);
    } else if (value_is_string(type, "enabled")) {
        set_thinks(e, true);
        e->budget = field_get(v->dict, "budget_tokens");
    }
    if (e->budget && (e->budget->type != VALUE_INT || e->budget->integer < 0)) {
        return expected("thinking.budget_tokens", "a number of tokens", problem);
    }
    return 0;
}

/* `think`: true, false, or a word. */
static int read_ollama(struct effort *e, const struct value_dict *body, struct problem *problem) {
    const struct value *v = field_get(body, "think");
    if (v && v->type == VALUE_BOOL) {
        set_thinks(e, v->boolean);
        return 0;
    }
    return take_word(e, v, "think", problem);
}

int effort_read(struct call *call, struct value *variables, struct problem *problem) {
    static int (*const readers[])(struct effort *, const struct value_dict *, struct problem *) = {
        [API_OPENAI] = read_openai, [API_ANTHROPIC] = read_anthropic, [API_OLLAMA] = read_ollama};
    struct effort e = {0};
    if (readers[call->api](&e, call->body, problem) < 0) {
        return -1;
    }
    const struct value thinks = {.type = VALUE_BOOL, .boolean = e.thinks};
    if ((e.says && (field_set(&call->arena, variables, "enable_thinking", &thinks) ||
                    field_set(&call->arena, variables, "thinking", &thinks))) ||
        (e.word && field_set(&call->arena, variables, "reasoning_effort", e.word)) ||
        (e.budget && field_set(&call->arena, variables, "thinking_budget", e.budget))) {
        return problem_set(problem, 413, NULL, NULL, "the request takes too much memory");
    }
    return 0;
}
