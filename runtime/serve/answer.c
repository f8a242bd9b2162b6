/*
 * answer: see answer.h.
 */
#include "runtime/serve/answer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void on_begin(struct job *job);
static bool on_text(struct job *job, const char *text, size_t bytes, bool of_prompt);
static void on_end(struct job *job);
static bool on_gone(struct job *job);
static void on_token(struct job *job, const struct corm_logprob *chosen,
                     const struct corm_logprob *top, size_t n_top);
static const struct job_ops ops = {
    .begin = on_begin, .text = on_text, .token = on_token, .end = on_end, .gone = on_gone};

/* ---- making ---- */

struct answer *answer_new(struct call *call, const struct answer_form *form,
                          const struct params *params, uint32_t n) {
    struct answer *a = mem_calloc(1, sizeof *a + n * sizeof *a->choices);
    const struct value_string *model = params->model;
    a->s = call->s;
    a->x = call->x;
    a->form = form;
    a->params = *params;
    a->params.model = NULL; /* of the call, which ends */
    a->params.stops = mem_calloc(params->n_stops, sizeof *a->params.stops);
    for (size_t i = 0; i < params->n_stops; i++) {
        a->params.stops[i] = mem_strdup(params->stops[i]);
    }
    if (params->sampling.n_bias > 0) {
        a->params.bias = mem_alloc(params->sampling.n_bias * sizeof *a->params.bias);
        memcpy(a->params.bias, params->bias, params->sampling.n_bias * sizeof *a->params.bias);
        a->params.sampling.bias = a->params.bias;
    }
    a->params.form_text = (struct buf){0};
    if (params->form_text.len > 0) {
        buf_append(&a->params.form_text, params->form_text.data, params->form_text.len);
    }
    a->model = mem_strdup(model && model->len ? model->data : call->s->name);
    a->created = reply_now();
    a->n_choices = a->left = n;
    reply_id(a->id, form->id);
    http_keep(a->x);
    uint64_t request = scheduler_request(call->s->scheduler);
    for (uint32_t i = 0; i < n; i++) {
        struct job *job = &a->choices[i].job;
        job->ops = &ops;
        job->ctx = a;
        job->index = i;
        job->request = request;
        job->sampling = a->params.sampling;
        job->sampling.choice = i;
        job->n_top = params->n_top;
        job->prompt_probabilities = params->echo && params->n_top >= 0;
        job->echo = params->echo;
        job->ignore_eos = params->ignore_eos;
    }
    return a;
}

void answer_set_prompt(struct answer *a, uint32_t i, const int32_t *ids, size_t n) {
    struct job *job = &a->choices[i].job;
    /* A text may be as long as the context, and one more, which is not evaluated. */
    uint64_t room = a->s->info->ctx_tok - n + 1;
    uint64_t most = a->params.max_tok < 0 ? room : (uint64_t)a->params.max_tok;
    const struct job *before = i > 0 ? &a->choices[i - 1].job : NULL;
    if (before && before->n_ids == n && memcmp(before->ids, ids, n * sizeof *ids) == 0) {
        job->ids = before->ids;
    } else {
        job->ids = mem_alloc(n * sizeof *ids);
        memcpy(job->ids, ids, n * sizeof *ids);
        a->choices[i].owns_ids = true;
        a->prompts_bytes += n * sizeof *ids;
    }
    job->n_ids = n;
    job->sampling.prompt_tok = (uint32_t)n;
    job->max_tok = (uint32_t)(most < room ? most : room);
}

void answer_free(struct answer *a) {
    for (uint32_t i = 0; i < a->n_choices; i++) {
        if (a->choices[i].owns_ids) {
            free(a->choices[i].job.ids);
        }
        corm_stops_close(a->choices[i].stops);
        corm_grammar_end(a->choices[i].job.grammar);
        thinking_free(&a->choices[i].until);
        logprobs_free(a->choices[i].tokens, a->choices[i].n_tokens);
        buf_free(&a->choices[i].text);
        buf_free(&a->choices[i].thought);
        thinking_free(&a->choices[i].thinking);
        tools_free(&a->choices[i].tools);
        trigger_free(&a->choices[i].trigger);
        for (size_t k = 0; k < a->choices[i].n_calls; k++) {
            free(a->choices[i].calls[k].name);
            buf_free(&a->choices[i].calls[k].arguments);
        }
        free(a->choices[i].calls);
    }
    if (a->counted) {
        atomic_fetch_sub(&a->s->prompts_bytes, a->prompts_bytes);
    }
    http_release(a->x);
    corm_grammar_close(a->calls);
    toolbox_free(&a->tools);
    free(a->model);
    free(a->alive);
    free(a->extra);
    params_free(&a->params);
    free(a);
}

void answer_set_tools(struct answer *a, struct toolbox *box) {
    a->tools = *box;
    a->prompts_bytes += box->arena.used_bytes;
    *box = (struct toolbox){0};
}

void answer_set_turn(struct answer *a, const struct convo_prompt *prompt) {
    a->prompt_tok = (uint32_t)prompt->n_ids;
    a->splits = prompt->text != NULL;
    for (uint32_t i = 0; i < a->n_choices; i++) {
        struct choice *c = &a->choices[i];
        answer_set_prompt(a, i, prompt->ids, prompt->n_ids);
        memcpy(c->job.ends, prompt->ends, sizeof prompt->ends);
        c->job.n_ends = prompt->n_ends;
        if (a->splits) {
            thinking_begin(&c->thinking, prompt->text, prompt->text_bytes);
            thinking_begin(&c->until, prompt->text, prompt->text_bytes);
            c->job.thinks = c->until.tags ? &c->until : NULL;
            c->job.shown = a->s->ways->shown;
            c->job.n_shown = a->s->ways->n_shown;
            trigger_begin(&c->trigger, prompt->text, prompt->text_bytes);
            if (a->tools.n > 0 && a->tools.choice != TOOLBOX_NONE) {
                tools_begin(&c->tools, a->s->ways->row, &a->tools.tools);
            }
        }
    }
}

static void send(struct answer *a, struct buf *out) {
    if (out->len > 0) {
        http_write(a->x, out->data, out->len);
    }
    buf_free(out);
}

/* Calls are not to be made: where one token begins them, it is never drawn. */
static void forbid_calls(struct answer *a) {
    struct params *p = &a->params;
    int32_t id = toolbox_first_token(a->s);
    size_t n = p->sampling.n_bias;
    if (id < 0) {
        return;
    }
    p->bias = mem_realloc(p->bias, (n + 1) * sizeof *p->bias);
    p->bias[n] = (struct corm_logit_bias){id, -INFINITY};
    for (uint32_t i = 0; i < a->n_choices; i++) {
        a->choices[i].job.sampling.bias = p->bias;
        a->choices[i].job.sampling.n_bias = n + 1;
    }
}

/* Calls may be made: each is held to its form from its opening on. Where there is no such form, as
 * the schemas are too large, calls are what the model makes of them. */
static int wait_for_calls(struct answer *a, struct problem *problem) {
    const struct tools_row *row = a->s->ways->row;
    struct problem why = {0};
    bool strict = false;
    for (size_t i = 0; i < a->tools.n; i++) {
        strict |= a->tools.strict[i];
    }
    if (toolbox_grammar(a->s, &a->tools, true, NULL, &a->calls, &why) < 0) {
        if (strict) {
            *problem = why;
            return -1;
        }
        reply_note(a->s, "%.400s: calls are not held to their schemas", why.message);
        return 0;
    }
    for (uint32_t i = 0; i < a->n_choices; i++) {
        struct trigger *t = &a->choices[i].trigger;
        t->opening = tools_opening(row);
        t->at_start = row->at_start;
        t->once = a->tools.one;
        t->grammar = a->calls;
        a->choices[i].job.trigger = t;
        a->choices[i].job.masks = a->calls;
        a->choices[i].job.thinks = NULL; /* it tells thoughts from an answer by itself */
    }
    return 0;
}

/* Each choice gets a state of the form that is asked for. */
static int begin_form(struct answer *a, struct problem *problem) {
    const struct params *p = &a->params;
    bool calls = a->tools.n > 0 && a->tools.choice != TOOLBOX_NONE;
    bool required = calls && a->tools.choice == TOOLBOX_REQUIRED;
    struct corm_grammar *grammar;
    struct corm_error error;
    if (a->tools.n > 0 && !calls) {
        forbid_calls(a);
    }
    if (required && p->ignore_eos) {
        return problem_set(problem, 400, "invalid_value", "ignore_eos",
                           "ignore_eos: tool_choice says where the text ends");
    }
    if (required && p->form_field) {
        return problem_set(problem, 400, "invalid_value", p->form_field,
                           "%s: not beside a tool_choice that requires a call", p->form_field);
    }
    if (calls && !required && !p->form_field) {
        return wait_for_calls(a, problem);
    }
    if (calls) {
        if (toolbox_grammar(a->s, &a->tools, false, required ? NULL : p, &grammar, problem) < 0) {
            return -1;
        }
    } else if (!p->form_field) {
        return 0;
    } else if (corm_grammar_open(&grammar, a->s->engine, p->form, p->form_text.data,
                                 p->form_text.len, &error) < 0) {
        return problem_set(problem, 400, "invalid_value", p->form_field, "%s: %s", p->form_field,
                           error.message);
    }
    for (uint32_t i = 0; i < a->n_choices; i++) {
        a->choices[i].job.grammar = corm_grammar_begin(grammar);
        a->choices[i].job.masks = grammar;
    }
    corm_grammar_close(grammar); /* the states keep it */
    return 0;
}

/* Memory for what waits, and a place in the queue: before anything is made that costs time. */
static int take_place(struct answer *a, struct problem *problem) {
    struct server *s = a->s;
    a->counted = true;
    uint64_t before = atomic_fetch_add(&s->prompts_bytes, a->prompts_bytes);
    if (a->prompts_bytes > s->prompts_limit) {
        return problem_set(problem, 413, "too_large", NULL,
                           "the prompts take more memory than --max-body allows");
    }
    if (before + a->prompts_bytes > s->prompts_limit) {
        return problem_set(problem, 429, "queue_full", NULL,
                           "prompts that wait take too much memory already; try again later");
    }
    return problem_place(problem, scheduler_reserve(s->scheduler));
}

int answer_start(struct answer *a, struct problem *problem) {
    struct buf out = {0};
    if (take_place(a, problem) < 0) {
        answer_free(a);
        return -1;
    }
    if (begin_form(a, problem) < 0) {
        scheduler_give_back(a->s->scheduler);
        answer_free(a);
        return -1;
    }
    if (a->params.stream) {
        http_begin(a->x, a->form->type, a->alive ? a->alive : a->form->alive);
        a->form->begin(a, &out);
        send(a, &out);
    } else {
        http_wait(a->x);
    }
    struct job *first = NULL;
    for (uint32_t i = a->n_choices; i-- > 0;) {
        a->choices[i].job.next = first;
        first = &a->choices[i].job;
    }
    scheduler_submit(a->s->scheduler, first);
    return 0;
}

/* ---- what the scheduler calls ---- */

static void put_answer(struct answer *a, struct choice *c, const char *text, size_t bytes) {
    struct buf out = {0};
    if (!a->params.stream || a->form->keeps_text) {
        buf_append(&c->text, text, bytes);
    }
    if (a->params.stream && !a->broken) {
        a->form->text(a, c, text, bytes, &out);
        send(a, &out);
    }
}

static void put_thought(struct answer *a, struct choice *c, const char *text, size_t bytes) {
    struct buf out = {0};
    if (!a->params.stream || a->form->keeps_text) {
        buf_append(&c->thought, text, bytes);
    }
    if (a->params.stream && a->form->thought && !a->broken) {
        a->form->thought(a, c, text, bytes, &out);
        send(a, &out);
    }
}

static void put_call(struct answer *a, struct choice *c, enum call_part part, const char *json,
                     size_t bytes) {
    struct buf out = {0};
    if (a->params.stream && !a->broken) {
        a->form->call(a, c, part, json, bytes, &out);
        send(a, &out);
    }
}

static void on_said(void *ctx, const char *text, size_t bytes) {
    struct choice *c = ctx;
    put_answer(c->job.ctx, c, text, bytes);
}

static void on_call(void *ctx, const char *name, size_t bytes) {
    struct choice *c = ctx;
    struct answer *a = c->job.ctx;
    c->calls = mem_grow(c->calls, c->n_calls + 1, &c->cap_calls, sizeof *c->calls);
    struct choice_call *call = &c->calls[c->n_calls++];
    *call = (struct choice_call){.name = mem_alloc(bytes + 1)};
    memcpy(call->name, name, bytes);
    call->name[bytes] = 0;
    call->text_before = c->text.len;
    if (a->form->call_id) {
        toolbox_id(a->s->ways, call->id, a->form->call_id);
    }
    if (a->form->call_item) {
        reply_id(call->item, a->form->call_item);
    }
    put_call(a, c, CALL_BEGIN, "", 0);
}

static void on_arguments(void *ctx, const char *json, size_t bytes) {
    struct choice *c = ctx;
    buf_append(&c->calls[c->n_calls - 1].arguments, json, bytes);
    put_call(c->job.ctx, c, CALL_ARGUMENTS, json, bytes);
}

static void on_called(void *ctx, bool whole) {
    struct choice *c = ctx;
    c->calls[c->n_calls - 1].whole = whole;
    put_call(c->job.ctx, c, CALL_END, "", 0);
}

/* What is answered: calls, where there are tools, and text. */
static void put_parts(struct answer *a, struct choice *c, const char *text, size_t bytes) {
    const struct tools_sink sink = {c, on_said, on_call, on_arguments, on_called};
    if (c->tools.row) {
        tools_push(&c->tools, text, bytes, &sink);
    } else {
        put_answer(a, c, text, bytes);
    }
}

/* Of what is said, up to a stop: a thought has none. True where there is one. */
static bool put_said(struct answer *a, struct choice *c, const char *text, size_t bytes) {
    bool stopped = false;
    if (c->stops) {
        c->job.stop = corm_stops_push(c->stops, text, bytes, &text, &bytes);
        stopped = c->job.stop >= 0;
    }
    if (bytes > 0) {
        put_parts(a, c, text, bytes);
    }
    return stopped;
}

/* Nothing more is said: what was held back is. */
static void end_said(struct answer *a, struct choice *c) {
    const struct tools_sink sink = {c, on_said, on_call, on_arguments, on_called};
    const char *text;
    size_t bytes = 0;
    if (c->stops && (c->job.end == JOB_STOP || c->job.end == JOB_LENGTH)) {
        corm_stops_end(c->stops, &text, &bytes);
    }
    if (bytes > 0) {
        put_parts(a, c, text, bytes);
    }
    if (c->tools.row) {
        tools_end(&c->tools, &sink);
    }
}

/* What has become certain of both; frees them. True where a stop ends what is said. */
static bool put_both(struct answer *a, struct choice *c, struct buf *thought, struct buf *said) {
    bool stopped = false;
    if (thought->len > 0) {
        put_thought(a, c, thought->data, thought->len);
    }
    if (said->len > 0) {
        stopped = put_said(a, c, said->data, said->len);
    }
    buf_free(thought);
    buf_free(said);
    return stopped;
}

/* What looks for stops is many times as large as these, so only jobs that run have it. */
static void on_begin(struct job *job) {
    struct answer *a = job->ctx;
    struct corm_stops **stops = &a->choices[job->index].stops;
    const struct params *p = &a->params;
    if (p->n_stops > 0 &&
        corm_stops_open(stops, (const char *const *)p->stops, p->n_stops, NULL) < 0) {
        die("an empty text that is to end an answer");
    }
}

static bool on_text(struct job *job, const char *text, size_t bytes, bool of_prompt) {
    struct answer *a = job->ctx;
    struct choice *c = &a->choices[job->index];
    struct buf thought = {0}, said = {0};
    if (of_prompt) {
        put_answer(a, c, text, bytes);
        return false;
    }
    if (!a->splits) {
        return put_said(a, c, text, bytes);
    }
    thinking_push(&c->thinking, text, bytes, &thought, &said);
    c->thought_tok = c->thinking.tags ? job->made_tok : c->thought_tok;
    return put_both(a, c, &thought, &said);
}

static void on_token(struct job *job, const struct corm_logprob *chosen,
                     const struct corm_logprob *top, size_t n_top) {
    struct answer *a = job->ctx;
    struct choice *c = &a->choices[job->index];
    c->tokens = mem_grow(c->tokens, c->n_tokens + 1, &c->cap_tokens, sizeof *c->tokens);
    logprobs_keep(&c->tokens[c->n_tokens++], chosen, top, n_top);
}

static bool on_gone(struct job *job) {
    struct answer *a = job->ctx;
    return a->broken || http_gone(a->x);
}

static void finish(struct answer *a) {
    struct buf out = {0};
    struct run_json j = {0};
    if (a->params.stream) {
        if (!a->broken) {
            a->form->end(a, &out);
            send(a, &out);
        }
        http_end(a->x);
    } else if (a->broken) {
        reply_problem(a->x, a->form->api, &a->problem);
    } else {
        a->form->whole(a, &j);
        reply_json(a->x, 200, &j);
    }
    answer_free(a);
}

/* Why there is no answer: it could not be made, or not now, or the request wants what cannot be. */
static void set_problem(struct problem *problem, const struct job *job) {
    switch (job->end) {
    case JOB_STOPPED:
        problem_place(problem, PLACE_STOPS);
        break;
    case JOB_LATER:
        problem_set(problem, 503, "try_again", NULL, "%s", job->error.message);
        break;
    case JOB_IMPOSSIBLE:
        problem_set(problem, 400, "invalid_value", NULL, "%s", job->error.message);
        break;
    default:
        problem_set(problem, 500, NULL, NULL, "%s", job->error.message);
        break;
    }
}

static void on_end(struct job *job) {
    struct answer *a = job->ctx;
    struct choice *c = &a->choices[job->index];
    struct buf out = {0}, thought = {0}, said = {0};
    if (a->splits) {
        thinking_end(&c->thinking, &thought, &said);
    }
    if (put_both(a, c, &thought, &said) && (job->end == JOB_STOP || job->end == JOB_LENGTH)) {
        job->end = JOB_STOP_TEXT;
    }
    end_said(a, c);
    corm_stops_close(c->stops);
    c->stops = NULL;
    if (job_failed(job) && !a->broken) {
        a->broken = true;
        set_problem(&a->problem, job);
        if (a->params.stream) {
            a->form->fail(a, &a->problem, &out);
            send(a, &out);
        }
    } else if (a->params.stream && !a->broken && job->end != JOB_GONE) {
        a->form->end_choice(a, c, &out);
        send(a, &out);
    }
    if (--a->left == 0) {
        finish(a);
    }
}

/* ---- for forms ---- */

uint32_t answer_made(const struct answer *a) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_choices; i++) {
        n += a->choices[i].job.made_tok;
    }
    return n;
}

uint32_t answer_cached(const struct answer *a) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_choices; i++) {
        n += a->choices[i].job.cached_tok;
    }
    return n < a->prompt_tok ? n : a->prompt_tok;
}

uint32_t answer_thought(const struct answer *a) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < a->n_choices; i++) {
        n += a->choices[i].thought_tok;
    }
    return n;
}

const char *answer_finish(const struct choice *c) {
    return c->job.end == JOB_LENGTH ? "length" : answer_calls(c) ? "tool_calls" : "stop";
}

bool answer_calls(const struct choice *c) {
    return c->job.end != JOB_LENGTH && c->n_calls > 0 && c->calls[c->n_calls - 1].whole;
}

void answer_arguments(struct run_json *j, const char *key, const struct choice_call *call) {
    const struct buf *b = &call->arguments;
    struct value_arena arena = {.limit_bytes = 256 * b->len + (1 << 16)};
    struct value v;
    struct err err = {0};
    struct buf line = {0};
    struct value_writer w = {.out = &line, .max_bytes = SIZE_MAX};
    const struct value_json_style style = {0};
    bool reads = value_json_read(&arena, b->len ? b->data : "", b->len, &v, &err) == 0 &&
                 v.type == VALUE_DICT && value_json_write(&w, &v, &style, &err) == 0;
    run_json_raw(j, key, reads ? line.data : "{}", reads ? line.len : 2);
    buf_free(&line);
    value_arena_free(&arena);
}

struct answer_times answer_times(const struct choice *c) {
    const struct job *job = &c->job;
    uint64_t now = clock_ns(), first = job->first_ns ? job->first_ns : now;
    return (struct answer_times){first - job->started_ns, now - first, now - job->queued_ns};
}

void answer_event(struct buf *out, const char *name, struct run_json *j) {
    if (name) {
        buf_printf(out, "event: %s\n", name);
    }
    buf_printf(out, "data: ");
    buf_append(out, j->text.data, j->text.len);
    buf_append(out, "\n\n", 2);
    buf_free(&j->text);
    *j = (struct run_json){0};
}
