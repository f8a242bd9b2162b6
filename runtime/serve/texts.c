/*
 * texts: endpoints that compute no model: texts to tokens and back, conversations to texts.
 *
 * Owns: /tokenize, /detokenize, /tokenizer_info, /apply-template, Anthropic's count_tokens.
 * Leaves to others: tokens and templates (corm.h), conversations (convo).
 * Threads: that which prepares calls.
 */
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/anthropic.h"
#include "runtime/serve/convo.h"

/* ---- tokenize ---- */

struct tokenize_fields {
    bool add_special, add_special_tokens, parse_special;
    const struct value_string *content, *prompt;
};

enum { MAX_IDS = 1 << 20 }; /* of /detokenize: an id of two bytes may be a text of hundreds */

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
    struct toolbox tools = {0};
    struct convo convo = {0};
    struct convo_prompt p = {0};
    int rc = fields_read(call->body, tokenize_fields, &f, problem);
    if (rc == 0 && f.content) {
        rc = convo_tokenize(call, f.content->data, f.content->len, f.add_special, f.parse_special,
                            &p.ids, &p.n_ids, problem);
    } else if (rc == 0 && f.prompt) {
        rc = convo_tokenize(call, f.prompt->data, f.prompt->len, f.add_special_tokens, true, &p.ids,
                            &p.n_ids, problem);
    } else if (rc == 0 && field_get(call->body, "messages")) {
        convo.tools = &tools;
        rc = toolbox_openai(call, &tools, problem) < 0 ||
                     convo_add_list(call, &convo, "messages", problem) < 0
                 ? -1
                 : convo_render(call, &convo, true, &p, problem);
    } else if (rc == 0) {
        rc = problem_set(problem, 400, "missing_required_parameter", "content",
                         "expected content, prompt or messages");
    }
    if (rc == 0) {
        reply_ids(call, p.ids, p.n_ids);
    }
    convo_prompt_free(&p);
    convo_free(&convo);
    toolbox_free(&tools);
    return rc;
}

int text_detokenize(struct call *call, struct problem *problem) {
    const struct value *v = field_get(call->body, "tokens");
    struct run_json j = {0};
    struct corm_error error;
    char *text = NULL;
    size_t bytes = 0;
    if (!v || v->type != VALUE_LIST) {
        return problem_set(problem, 400, "missing_required_parameter", "tokens",
                           "tokens: expected a list of ids");
    }
    if (v->list->n > MAX_IDS) {
        return problem_set(problem, 400, "invalid_value", "tokens",
                           "tokens: %zu ids, expected at most %d", v->list->n, MAX_IDS);
    }
    int32_t *ids = mem_alloc(v->list->n * sizeof *ids);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < v->list->n; i++) {
        const struct value *id = &v->list->items[i];
        if (id->type != VALUE_INT || id->integer < 0 || id->integer > INT32_MAX) {
            rc = problem_set(problem, 400, "invalid_value", "tokens", "tokens: number %zu is no id",
                             i);
        } else {
            ids[i] = (int32_t)id->integer;
        }
    }
    if (rc == 0 &&
        corm_detokenize(call->s->engine, ids, v->list->n, false, &text, &bytes, &error) < 0) {
        rc = problem_set(problem, 400, "invalid_value", "tokens", "%s", error.message);
    }
    if (rc == 0) {
        run_json_open(&j, NULL, '{');
        run_json_text(&j, "content", text, bytes); /* as llama-server has it */
        run_json_text(&j, "prompt", text, bytes);  /* as vLLM has it */
        run_json_close(&j, '}');
        reply_json(call->x, 200, &j);
    }
    free(text);
    free(ids);
    return rc;
}

/* The text of a token, or null. */
static void put_token(struct call *call, struct run_json *j, const char *key, const int32_t *id) {
    char *text = NULL;
    size_t bytes = 0;
    if (id && corm_detokenize(call->s->engine, id, 1, false, &text, &bytes, NULL) == 0) {
        run_json_text(j, key, text, bytes);
    } else {
        run_json_null(j, key);
    }
    free(text);
}

/* As vLLM has it: lm_eval asks here before it lets a server tokenize. */
int text_tokenizer_info(struct call *call, struct problem *problem) {
    const struct server *s = call->s;
    const char *template = s->chat_template ? s->chat_template : corm_chat_template(s->engine);
    struct run_json j = {0};
    size_t n_stops, n = 0;
    const int32_t *stops = corm_stop_ids(s->engine, &n_stops);
    int32_t *ids = NULL;
    if (convo_tokenize(call, "", 0, true, false, &ids, &n, problem) < 0) {
        return -1;
    }
    run_json_open(&j, NULL, '{');
    run_json_string(&j, "tokenizer_class", "corm");
    put_token(call, &j, "bos_token", n > 0 ? ids : NULL);
    put_token(call, &j, "eos_token", n_stops > 0 ? stops : NULL);
    run_json_null(&j, "pad_token");
    run_json_string(&j, "chat_template", template ? template : "");
    run_json_u64(&j, "model_max_length", s->info->ctx_tok);
    run_json_close(&j, '}');
    reply_json(call->x, 200, &j);
    free(ids);
    return 0;
}

/* ---- conversations ---- */

int text_apply_template(struct call *call, struct problem *problem) {
    struct toolbox tools = {0};
    struct convo convo = {.tools = &tools};
    struct convo_prompt p = {0};
    struct run_json j = {0};
    int rc = toolbox_openai(call, &tools, problem);
    if (rc == 0) {
        rc = convo_add_list(call, &convo, "messages", problem);
    }
    if (rc == 0) {
        rc = convo_render(call, &convo, true, &p, problem);
    }
    if (rc == 0) {
        run_json_open(&j, NULL, '{');
        run_json_text(&j, "prompt", p.text, p.text_bytes);
        run_json_close(&j, '}');
        reply_json(call->x, 200, &j);
    }
    convo_prompt_free(&p);
    convo_free(&convo);
    toolbox_free(&tools);
    return rc;
}

int text_count_anthropic(struct call *call, struct problem *problem) {
    struct toolbox tools = {0};
    struct convo convo = {.tools = &tools};
    struct convo_prompt p = {0};
    struct run_json j = {0};
    int rc = toolbox_anthropic(call, &tools, problem);
    if (rc == 0) {
        rc = anthropic_convo(call, &convo, problem);
    }
    if (rc == 0) {
        rc = convo_render(call, &convo, true, &p, problem);
    }
    if (rc == 0) {
        run_json_open(&j, NULL, '{');
        run_json_u64(&j, "input_tokens", p.n_ids);
        run_json_close(&j, '}');
        reply_json(call->x, 200, &j);
    }
    convo_prompt_free(&p);
    convo_free(&convo);
    toolbox_free(&tools);
    return rc;
}
