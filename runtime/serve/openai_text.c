/*
 * openai_text: /v1/completions, the continuation of texts.
 *
 * Owns: the endpoint: prompts that are a string, ids, or lists of these; what is answered.
 * Leaves to others: fields that say how (params), the rest of an answer (answer, openai).
 * Threads: as answer.h.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/convo.h"
#include "runtime/serve/openai.h"

enum { MAX_CHOICES = 2048, DEFAULT_MAX_TOK = 16 };

struct prompts {
    int32_t **ids;
    size_t *n_ids, n;
};

static void prompts_free(struct prompts *p) {
    for (size_t i = 0; i < p->n; i++) {
        free(p->ids[i]);
    }
    free(p->ids);
    free(p->n_ids);
}

/* ---- prompts ---- */

static bool is_ids(const struct value *v) {
    return v->type == VALUE_LIST && v->list->n > 0 && v->list->items[0].type == VALUE_INT;
}

/* Ids as they are: they get no BOS. */
static int take_ids(struct call *call, const struct value_list *list, int32_t **ids, size_t *n,
                    struct problem *problem) {
    int32_t *out = mem_alloc(list->n * sizeof *out);
    *ids = out;
    *n = list->n;
    for (size_t i = 0; i < list->n; i++) {
        const struct value *v = &list->items[i];
        if (v->type != VALUE_INT || v->integer < 0 || v->integer >= call->s->info->vocab) {
            return problem_set(problem, 400, "invalid_value", "prompt",
                               "prompt: id %zu, expected integers from 0 to %u", i,
                               call->s->info->vocab - 1);
        }
        out[i] = (int32_t)v->integer;
    }
    return 0;
}

static int take_prompt(struct call *call, const struct value *v, int32_t **ids, size_t *n,
                       struct problem *problem) {
    int rc;
    if (v->type == VALUE_STRING) {
        rc = convo_tokenize(call, v->text->data, v->text->len, true, true, ids, n, problem);
    } else if (is_ids(v)) {
        rc = take_ids(call, v->list, ids, n, problem);
    } else {
        rc = problem_set(problem, 400, "invalid_type", "prompt",
                         "prompt: expected a string, a list of ids, or a list of these");
    }
    return rc < 0 ? rc : convo_check(call, *n, "prompt", problem);
}

/* Of each prompt there will be `each` texts, all of them in memory at once, and in the queue. */
static int take_prompts(struct call *call, struct prompts *p, size_t each,
                        struct problem *problem) {
    const struct value *v = field_get(call->body, "prompt");
    if (!v) {
        return problem_set(problem, 400, "missing_required_parameter", "prompt",
                           "prompt: a prompt is missing");
    }
    bool many = v->type == VALUE_LIST && !is_ids(v);
    size_t n = many ? v->list->n : 1;
    if (n == 0 || n * each > MAX_CHOICES) {
        return problem_set(problem, 400, "invalid_value", "prompt",
                           "prompt: %zu prompts, expected 1 to %zu with n %zu", n,
                           MAX_CHOICES / each, each);
    }
    p->ids = mem_calloc(n, sizeof *p->ids);
    p->n_ids = mem_calloc(n, sizeof *p->n_ids);
    p->n = n;
    for (size_t i = 0; i < n; i++) {
        if (take_prompt(call, many ? &v->list->items[i] : v, &p->ids[i], &p->n_ids[i], problem) <
            0) {
            return -1;
        }
    }
    return 0;
}

/* ---- what is answered ---- */

static void put_choice(const struct answer *a, struct run_json *j, struct choice *c,
                       const char *text, size_t bytes, const char *finish) {
    bool tokens = c->job.n_top >= 0 && (!a->params.stream || c->n_tokens > c->told_tokens);
    run_json_open(j, NULL, '{');
    run_json_text(j, "text", text, bytes);
    run_json_u64(j, "index", c->job.index);
    if (tokens) {
        logprobs_text(j, a->s->engine, c->tokens + c->told_tokens, c->n_tokens - c->told_tokens,
                      &c->offset);
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
}

static void chunk(struct answer *a, struct choice *c, const char *text, size_t bytes,
                  const char *finish, struct buf *out) {
    struct run_json j = {0};
    openai_open(a, &j, "text_completion");
    run_json_open(&j, "choices", '[');
    put_choice(a, &j, c, text, bytes, finish);
    run_json_close(&j, ']');
    run_json_close(&j, '}');
    answer_event(out, NULL, &j);
}

static void begin(struct answer *a, struct buf *out) {
    (void)a;
    (void)out;
}
static void piece(struct answer *a, struct choice *c, const char *text, size_t bytes,
                  struct buf *out) {
    chunk(a, c, text, bytes, NULL, out);
}
static void end_choice(struct answer *a, struct choice *c, struct buf *out) {
    chunk(a, c, "", 0, answer_finish(c), out);
}
static void end(struct answer *a, struct buf *out) {
    openai_end(a, "text_completion", out);
}

static void whole(struct answer *a, struct run_json *j) {
    openai_open(a, j, "text_completion");
    run_json_open(j, "choices", '[');
    for (uint32_t i = 0; i < a->n_choices; i++) {
        struct choice *c = &a->choices[i];
        put_choice(a, j, c, c->text.len ? c->text.data : "", c->text.len, answer_finish(c));
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
    .id = "cmpl-",
    .whole = whole,
    .begin = begin,
    .text = piece,
    .end_choice = end_choice,
    .end = end,
    .fail = openai_fail,
};

int openai_completions(struct call *call, struct problem *problem) {
    struct params params = {0};
    struct prompts prompts = {0};
    int rc = params_openai(call, &params, problem);
    if (rc == 0) {
        rc = take_prompts(call, &prompts, params.n, problem);
    }
    if (rc == 0 && !params.says_max) {
        params.max_tok = DEFAULT_MAX_TOK;
    }
    if (rc == 0) {
        struct answer *a = answer_new(call, &form, &params, (uint32_t)(prompts.n * params.n));
        for (uint32_t i = 0; i < a->n_choices; i++) {
            answer_set_prompt(a, i, prompts.ids[i / params.n], prompts.n_ids[i / params.n]);
            a->choices[i].job.sampling.choice = i % params.n;
        }
        for (size_t i = 0; i < prompts.n; i++) {
            a->prompt_tok += (uint32_t)prompts.n_ids[i];
        }
        rc = answer_start(a, problem);
    }
    prompts_free(&prompts);
    params_free(&params);
    return rc;
}
