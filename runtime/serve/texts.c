/*
 * texts: endpoints that compute no model: texts to tokens and back, conversations to texts.
 *
 * Owns: /tokenize, /detokenize, /apply-template, Anthropic's count_tokens.
 * Leaves to others: tokens and templates (corm.h), conversations (convo).
 * Threads: that which prepares calls; ids become text on the forward thread, which owns the
 * sessions.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/answer.h"
#include "runtime/serve/anthropic.h"
#include "runtime/serve/convo.h"

/* ---- tokenize ---- */

struct tokenize_fields {
    bool add_special, add_special_tokens, parse_special;
    const struct value_string *content, *prompt;
};

#define AT(member) offsetof(struct tokenize_fields, member)
static const struct field tokenize_fields[] = {
    {"add_special", FIELD_BOOL, AT(add_special)},
    {"add_special_tokens", FIELD_BOOL, AT(add_special_tokens)},
    {"parse_special", FIELD_BOOL, AT(parse_special)},
    {"content", FIELD_TEXT, AT(content)},
    {"prompt", FIELD_TEXT, AT(prompt)},
    {0},
};

static void reply_ids(struct call *call, const int32_t *ids, size_t n) {
    struct run_json j = {0};
    run_json_open(&j, NULL, '{');
    run_json_open(&j, "tokens", '[');
    for (size_t i = 0; i < n; i++) {
        run_json_u64(&j, NULL, (uint64_t)ids[i]);
    }
    run_json_close(&j, ']');
    run_json_u64(&j, "count", n);
    run_json_u64(&j, "max_model_len", call->s->info->ctx_tok);
    run_json_close(&j, '}');
    reply_json(call->x, 200, &j);
}

/* `content` as llama-server has it, `prompt` or `messages` as vLLM has it. */
int text_tokenize(struct call *call, struct problem *problem) {
    struct tokenize_fields f = {.add_special_tokens = true, .parse_special = true};
    struct convo convo = {0};
    char *text = NULL;
    size_t bytes = 0, n = 0;
    int32_t *ids = NULL;
    int rc = fields_read(call->body, tokenize_fields, &f, problem);
    if (rc == 0 && f.content) {
        rc = convo_tokenize(call, f.content->data, f.content->len, f.add_special, f.parse_special,
                            &ids, &n, problem);
    } else if (rc == 0 && f.prompt) {
        rc = convo_tokenize(call, f.prompt->data, f.prompt->len, f.add_special_tokens, true, &ids,
                            &n, problem);
    } else if (rc == 0 && field_get(call->body, "messages")) {
        rc = convo_add_list(call, &convo, "messages", problem);
        if (rc == 0) {
            rc = convo_render(call, &convo, &text, &bytes, problem);
        }
        if (rc == 0) {
            rc = convo_tokenize(call, text, bytes, false, true, &ids, &n, problem);
        }
    } else if (rc == 0) {
        rc = problem_set(problem, 400, "missing_required_parameter", "content",
                         "expected content, prompt or messages");
    }
    if (rc == 0) {
        reply_ids(call, ids, n);
    }
    free(ids);
    free(text);
    convo_free(&convo);
    return rc;
}

/* ---- detokenize ---- */

static void detokenized(struct answer *a, struct run_json *j) {
    const struct choice *c = &a->choices[0];
    run_json_open(j, NULL, '{');
    run_json_text(j, "content", c->text.len ? c->text.data : "", c->text.len);
    run_json_text(j, "prompt", c->text.len ? c->text.data : "", c->text.len);
    run_json_close(j, '}');
}

static const struct answer_form detokenize_form = {
    .api = API_OPENAI, .id = "text-", .whole = detokenized};

int text_detokenize(struct call *call, struct problem *problem) {
    const struct value *v = field_get(call->body, "tokens");
    struct params params = {.n = 1, .echo = true};
    if (!v || v->type != VALUE_LIST) {
        return problem_set(problem, 400, "missing_required_parameter", "tokens",
                           "tokens: expected a list of ids");
    }
    struct answer *a = answer_new(call, &detokenize_form, &params, 1);
    struct job *job = &a->choices[0].job;
    job->only_text = true;
    job->n_ids = v->list->n;
    job->ids = mem_alloc(job->n_ids * sizeof *job->ids);
    for (size_t i = 0; i < job->n_ids; i++) {
        const struct value *id = &v->list->items[i];
        if (id->type != VALUE_INT || id->integer < 0 || id->integer > INT32_MAX) {
            answer_free(a);
            return problem_set(problem, 400, "invalid_value", "tokens",
                               "tokens: number %zu is no id", i);
        }
        job->ids[i] = (int32_t)id->integer;
    }
    return answer_start(a, problem);
}

/* ---- conversations ---- */

int text_apply_template(struct call *call, struct problem *problem) {
    struct convo convo = {0};
    struct run_json j = {0};
    char *text = NULL;
    size_t bytes = 0;
    int rc = convo_add_list(call, &convo, "messages", problem);
    if (rc == 0) {
        rc = convo_render(call, &convo, &text, &bytes, problem);
    }
    if (rc == 0) {
        run_json_open(&j, NULL, '{');
        run_json_text(&j, "prompt", text, bytes);
        run_json_close(&j, '}');
        reply_json(call->x, 200, &j);
    }
    free(text);
    convo_free(&convo);
    return rc;
}

int text_count_anthropic(struct call *call, struct problem *problem) {
    struct convo convo = {0};
    struct run_json j = {0};
    char *text = NULL;
    size_t bytes = 0, n = 0;
    int32_t *ids = NULL;
    int rc = anthropic_convo(call, &convo, problem);
    if (rc == 0) {
        rc = convo_render(call, &convo, &text, &bytes, problem);
    }
    if (rc == 0) {
        rc = convo_tokenize(call, text, bytes, false, true, &ids, &n, problem);
    }
    if (rc == 0) {
        run_json_open(&j, NULL, '{');
        run_json_u64(&j, "input_tokens", n);
        run_json_close(&j, '}');
        reply_json(call->x, 200, &j);
    }
    free(ids);
    free(text);
    convo_free(&convo);
    return rc;
}
