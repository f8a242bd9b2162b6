/*
 * params: see params.h.
 */
#include "runtime/serve/params.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* As read: what is not said stays as it is here. */
struct read_params {
    struct params p;
    int64_t seed, max_tok, max_more, max_most, top_k, n, best_of;
};

/* A number of tokens that was not said; -1 is one that was: as many as there is room for. */
static const int64_t unsaid = INT64_MIN;

#define AT(member) offsetof(struct read_params, member)
#define SAMPLING                                                                                   \
    {"temperature", FIELD_FLOAT, AT(p.sampling.temperature), 0, 100},                              \
        {"top_p", FIELD_FLOAT, AT(p.sampling.top_p), 0, 1}, {                                      \
        "top_k", FIELD_INT, AT(top_k)                                                              \
    }
/* What the APIs of local servers have beside. */
#define MORE_SAMPLING                                                                              \
    {"min_p", FIELD_FLOAT, AT(p.sampling.min_p), 0, 1},                                            \
        {"repeat_penalty", FIELD_FLOAT, AT(p.sampling.repeat_penalty), 0.01, 100},                 \
        {"repeat_last_n", FIELD_U32, AT(p.sampling.repeat_last_tok)},                              \
        {"presence_penalty", FIELD_FLOAT, AT(p.sampling.presence_penalty), -100, 100},             \
        {"frequency_penalty", FIELD_FLOAT, AT(p.sampling.frequency_penalty), -100, 100}, {         \
        "seed", FIELD_INT, AT(seed)                                                                \
    }

static const struct field openai_fields[] = {
    SAMPLING,
    MORE_SAMPLING,
    {"repetition_penalty", FIELD_FLOAT, AT(p.sampling.repeat_penalty), 0.01, 100},
    {"max_tokens", FIELD_INT, AT(max_tok), -1, 1e18},
    {"max_completion_tokens", FIELD_INT, AT(max_more), -1, 1e18},
    {"n_predict", FIELD_INT, AT(max_most), -1, 1e18},
    {"n", FIELD_INT, AT(n), 1, PARAMS_MAX_CHOICES},
    {"best_of", FIELD_INT, AT(best_of), 1, PARAMS_MAX_CHOICES},
    {"stream", FIELD_BOOL, AT(p.stream)},
    {"echo", FIELD_BOOL, AT(p.echo)},
    {"ignore_eos", FIELD_BOOL, AT(p.ignore_eos)},
    {"model", FIELD_TEXT, AT(p.model)},
    {0},
};
static const char *const openai_refused[] = {"functions",     "guided_json",        "guided_regex",
                                             "guided_choice", "guided_grammar",     "suffix",
                                             "audio",         "web_search_options", NULL};

static const struct field responses_fields[] = {
    SAMPLING,
    MORE_SAMPLING,
    {"max_output_tokens", FIELD_INT, AT(max_tok), -1, 1e18},
    {"stream", FIELD_BOOL, AT(p.stream)},
    {"model", FIELD_TEXT, AT(p.model)},
    {0},
};
static const char *const responses_refused[] = {
    "previous_response_id", "conversation", "background", "top_logprobs", "prompt", NULL};

static const struct field anthropic_fields[] = {
    SAMPLING,
    MORE_SAMPLING,
    {"max_tokens", FIELD_INT, AT(max_tok), 0, 1e18},
    {"stream", FIELD_BOOL, AT(p.stream)},
    {"model", FIELD_TEXT, AT(p.model)},
    {0},
};
static const char *const anthropic_refused[] = {"mcp_servers", "container", NULL};

static const struct field ollama_fields[] = {
    {"stream", FIELD_BOOL, AT(p.stream)},
    {"model", FIELD_TEXT, AT(p.model)},
    {0},
};
static const struct field ollama_options[] = {
    SAMPLING,
    MORE_SAMPLING,
    {"num_predict", FIELD_INT, AT(max_tok), -2, 1e18},
    {0},
};
static const char *const ollama_refused[] = {"images", "suffix", "template", "context", NULL};
static const char *const ollama_options_refused[] = {"mirostat", NULL};

/* ---- what all share ---- */

static void begin(const struct call *call, struct read_params *r) {
    *r = (struct read_params){.seed = -1,
                              .max_tok = unsaid,
                              .max_more = unsaid,
                              .max_most = unsaid,
                              .top_k = -1,
                              .n = 1,
                              .best_of = 1};
    r->p.sampling = call->s->sampling;
    r->p.max_tok = -1;
    r->p.n_top = -1;
}

static int64_t first_said(int64_t a, int64_t b) {
    return a != unsaid ? a : b;
}

static int finish(struct read_params *r, struct params *p, struct problem *problem) {
    const struct value_string *model = r->p.model;
    if (model && (model->len > PARAMS_MAX_MODEL_BYTES || memchr(model->data, 0, model->len))) {
        return problem_set(problem, 400, "invalid_value", "model",
                           "model: expected at most %d bytes, without NUL", PARAMS_MAX_MODEL_BYTES);
    }
    if (r->top_k >= 0) {
        r->p.sampling.top_k = r->top_k > UINT32_MAX ? UINT32_MAX : (uint32_t)r->top_k;
    }
    r->p.max_tok = first_said(r->max_tok, first_said(r->max_more, r->max_most));
    r->p.says_max = r->p.max_tok != unsaid;
    r->p.n = (uint32_t)r->n;
    r->p.sampling.seed = (uint64_t)r->seed;
    if (r->seed < 0) {
        uint32_t fresh; /* short enough to be typed again, and exact in every client's numbers */
        if (getrandom(&fresh, sizeof fresh, 0) != sizeof fresh) {
            return problem_set(problem, 500, NULL, "seed", "no random seed to be had");
        }
        r->p.sampling.seed = fresh;
    }
    *p = r->p;
    return 0;
}

static int add_stop(struct params *p, const struct value *v, const char *name,
                    struct problem *problem) {
    if (v->type != VALUE_STRING) {
        return problem_set(problem, 400, "invalid_type", name,
                           "%s: expected a string or a list of strings", name);
    }
    if (v->text->len == 0) {
        return 0; /* clients send it for none */
    }
    if (p->n_stops == PARAMS_MAX_STOPS || v->text->len > PARAMS_MAX_STOP_BYTES ||
        memchr(v->text->data, 0, v->text->len)) {
        return problem_set(problem, 400, "invalid_value", name,
                           "%s: expected at most %d texts of at most %d bytes, without NUL", name,
                           PARAMS_MAX_STOPS, PARAMS_MAX_STOP_BYTES);
    }
    p->stops = mem_realloc(p->stops, (p->n_stops + 1) * sizeof *p->stops);
    p->stops[p->n_stops++] = mem_strdup(v->text->data);
    return 0;
}

static int read_stops(const struct value_dict *dict, const char *name, struct params *p,
                      struct problem *problem) {
    const struct value *v = field_get(dict, name);
    if (!v) {
        return 0;
    }
    if (v->type != VALUE_LIST) {
        return add_stop(p, v, name, problem);
    }
    for (size_t i = 0; i < v->list->n; i++) {
        if (add_stop(p, &v->list->items[i], name, problem) < 0) {
            return -1;
        }
    }
    return 0;
}

/* A field that is an object, or NULL; -1 where it is something else. */
static int get_dict(const struct value_dict *dict, const char *name, const struct value_dict **out,
                    struct problem *problem) {
    const struct value *v = field_get(dict, name);
    *out = NULL;
    if (v && v->type != VALUE_DICT) {
        return problem_set(problem, 400, "invalid_type", name, "%s: expected an object", name);
    }
    *out = v ? v->dict : NULL;
    return 0;
}

/* Whether biases ban every id: then there is no answer. */
static bool bans_all(const struct params *p, uint32_t vocab) {
    uint32_t n = 0;
    if (p->sampling.n_bias < vocab) {
        return false;
    }
    bool *banned = mem_calloc(vocab, sizeof *banned);
    for (size_t i = 0; i < p->sampling.n_bias; i++) {
        const struct corm_logit_bias *b = &p->bias[i];
        n += isinf(b->bias) && !banned[b->id];
        banned[b->id] |= isinf(b->bias);
    }
    free(banned);
    return n == vocab;
}

/* {"id": bias}: numbers from -100, which bans, to 100. */
static int read_bias(const struct call *call, struct params *p, struct problem *problem) {
    static const char name[] = "logit_bias";
    const struct value_dict *dict;
    if (get_dict(call->body, name, &dict, problem) < 0) {
        return -1;
    }
    if (!dict || dict->n == 0) {
        return 0;
    }
    if (dict->n > PARAMS_MAX_BIAS) {
        return problem_set(problem, 400, "invalid_value", name, "%s: more than %d ids", name,
                           PARAMS_MAX_BIAS);
    }
    p->bias = mem_calloc(dict->n, sizeof *p->bias);
    for (size_t i = 0; i < dict->n; i++) {
        const struct value *key = &dict->pairs[i].key, *v = &dict->pairs[i].value;
        char *end = NULL;
        long id = key->type == VALUE_STRING ? strtol(key->text->data, &end, 10) : -1;
        if (id < 0 || id >= (long)call->s->info->vocab || *end || end == key->text->data) {
            return problem_set(problem, 400, "invalid_value", name,
                               "%s: expected ids from 0 to %u as keys", name,
                               call->s->info->vocab - 1);
        }
        double bias = value_is_number(v) && v->type != VALUE_BOOL ? value_to_double(v) : NAN;
        if (!(bias >= -100 && bias <= 100)) {
            return problem_set(problem, 400, "invalid_value", name,
                               "%s: expected numbers from -100 to 100", name);
        }
        p->bias[i] = (struct corm_logit_bias){(int32_t)id, bias <= -100 ? -INFINITY : (float)bias};
    }
    p->sampling.bias = p->bias;
    p->sampling.n_bias = dict->n;
    return bans_all(p, call->s->info->vocab)
               ? problem_set(problem, 400, "invalid_value", name, "%s: bans every token", name)
               : 0;
}

/* `logprobs` is a number of texts' API, and of that of turns a word with `top_logprobs`. */
static int read_logprobs(const struct value_dict *dict, struct params *p, struct problem *problem) {
    const struct value *v = field_get(dict, "logprobs"), *top = field_get(dict, "top_logprobs");
    const struct value *n = v && v->type == VALUE_BOOL ? top : v;
    const char *name = n == v ? "logprobs" : "top_logprobs";
    if (!v || (v->type == VALUE_BOOL && !v->boolean)) {
        return top && value_truth(top) ? problem_set(problem, 400, "invalid_value", "top_logprobs",
                                                     "top_logprobs: expected logprobs with it")
                                       : 0;
    }
    if (n && (n->type != VALUE_INT || n->integer < 0 || n->integer > JOB_MAX_TOP)) {
        return problem_set(problem, 400, "invalid_value", name, "%s: expected 0 to %d", name,
                           JOB_MAX_TOP);
    }
    p->n_top = n ? (int)n->integer : 0;
    return 0;
}

/* ---- each API ---- */

int params_openai(struct call *call, struct params *p, struct problem *problem) {
    struct read_params r;
    const struct value_dict *stream;
    static const struct field stream_fields[] = {{"include_usage", FIELD_BOOL, AT(p.include_usage)},
                                                 {0}};
    begin(call, &r);
    if (fields_read(call->body, openai_fields, &r, problem) < 0 ||
        get_dict(call->body, "stream_options", &stream, problem) < 0 ||
        (stream && fields_read(stream, stream_fields, &r, problem) < 0) ||
        fields_refuse(call->body, openai_refused, problem) < 0) {
        return -1;
    }
    if (r.best_of > r.n) {
        return problem_set(problem, 400, "unsupported_parameter", "best_of",
                           "best_of: this server has n only");
    }
    return finish(&r, p, problem) < 0 || read_stops(call->body, "stop", p, problem) < 0 ||
                   read_bias(call, p, problem) < 0 || read_logprobs(call->body, p, problem) < 0 ||
                   params_form_openai(call->body, p, problem) < 0
               ? -1
               : 0;
}

int params_responses(struct call *call, struct params *p, struct problem *problem) {
    struct read_params r;
    const struct value_dict *text;
    begin(call, &r);
    if (fields_read(call->body, responses_fields, &r, problem) < 0 ||
        fields_refuse(call->body, responses_refused, problem) < 0 ||
        get_dict(call->body, "text", &text, problem) < 0 || finish(&r, p, problem) < 0 ||
        read_stops(call->body, "stop", p, problem) < 0 || read_bias(call, p, problem) < 0) {
        return -1;
    }
    return text ? params_form_response(text, p, problem) : 0;
}

int params_anthropic(struct call *call, struct params *p, struct problem *problem) {
    struct read_params r;
    begin(call, &r);
    if (fields_read(call->body, anthropic_fields, &r, problem) < 0 ||
        fields_refuse(call->body, anthropic_refused, problem) < 0) {
        return -1;
    }
    if (r.max_tok == unsaid) {
        return problem_set(problem, 400, NULL, "max_tokens", "max_tokens: Field required");
    }
    return finish(&r, p, problem) < 0 || read_stops(call->body, "stop_sequences", p, problem) < 0 ||
                   params_form_anthropic(call->body, p, problem) < 0
               ? -1
               : 0;
}

int params_ollama(struct call *call, struct params *p, struct problem *problem) {
    struct read_params r;
    const struct value_dict *options;
    begin(call, &r);
    r.p.stream = true;
    if (fields_read(call->body, ollama_fields, &r, problem) < 0 ||
        fields_refuse(call->body, ollama_refused, problem) < 0 ||
        get_dict(call->body, "options", &options, problem) < 0 ||
        (options && (fields_read(options, ollama_options, &r, problem) < 0 ||
                     fields_refuse(options, ollama_options_refused, problem) < 0))) {
        return -1;
    }
    return finish(&r, p, problem) < 0 || (options && read_stops(options, "stop", p, problem) < 0) ||
                   params_form_ollama(call->body, p, problem) < 0
               ? -1
               : 0;
}

void params_free(struct params *p) {
    for (size_t i = 0; i < p->n_stops; i++) {
        free(p->stops[i]);
    }
    free(p->stops);
    free(p->bias);
    buf_free(&p->form_text);
    p->form_field = NULL;
    p->stops = NULL;
    p->bias = NULL;
    p->n_stops = 0;
}
