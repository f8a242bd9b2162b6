/*
 * serve: what the parts of corm-serve share.
 *
 * Owns: the state of the program (struct server), a call of an endpoint, the threads that prepare
 * calls, errors in each API's form, the table of endpoints.
 * Leaves to others: HTTP (http), what is computed next (scheduler), each API (a file each).
 * Threads: three kinds. That of the sockets (http) answers what needs no work; one prepares what
 * comes with a body: JSON, templates, tokens, so that a large request holds up no socket; the
 * forward thread (scheduler) computes, and makes what is sent of each token. The main thread looks
 * after connections and waits for the end.
 *
 * All that can be refused of a request is refused before the first byte of its answer.
 */
#ifndef RUNTIME_SERVE_SERVE_H
#define RUNTIME_SERVE_SERVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/text/value.h"
#include "runtime/corm.h"
#include "runtime/run/run_json.h"
#include "runtime/serve/fields.h"
#include "runtime/serve/http.h"
#include "runtime/serve/scheduler.h"

struct desk;
struct toolbox_ways;

/* Memory of a request's values in any case, beside some times its body (routes.c). */
enum { SERVE_LEAST_VALUES = 1 << 20 };

struct server {
    struct corm_engine *engine;
    const struct corm_model_info *info;
    struct corm_sampling sampling; /* where a request says nothing */
    const char *name;              /* the model's, in answers */
    char *chat_template;           /* of --chat-template; NULL: the archive's */
    const char *template_name;
    struct toolbox_ways *ways;      /* how it takes tools */
    void (*note)(const char *line); /* tells whoever runs it; NULL: nobody wants to know */
    uint32_t parallel, sessions;
    uint64_t body_bytes; /* most of a request's body; 0 in tests: no bound on what is made of it */
    atomic_uint_fast64_t prompts_bytes; /* ids and tools of all that wait or run */
    uint64_t prompts_limit;             /* most of that */
    bool approximate;                   /* --loss: what is decoded is not what a prompt gives */
    int64_t created;                    /* seconds since 1970 */
    uint64_t started_ns;
    atomic_bool leaves; /* it was told to end: no more requests should be sent */
    struct scheduler *scheduler;
    struct http *http;
    struct desk *desk;
};

/* Whose form an error has. */
enum api { API_OPENAI, API_ANTHROPIC, API_OLLAMA };

/* A call of an endpoint. It ends when the endpoint's function returns; what goes on keeps the
 * exchange (http_keep). */
struct call {
    struct server *s;
    struct http_exchange *x;
    enum api api;
    struct value_arena arena;
    const struct value_dict *body; /* NULL where the endpoint takes none */
};

/* An endpoint: answers, or begins what will, and returns 0; or returns -1 with `problem`, which is
 * then the answer. */
typedef int endpoint(struct call *call, struct problem *problem);

/* ---- routes.c ---- */

/* The callbacks of http_options; ctx is the server. */
void routes_handle(void *ctx, struct http_exchange *x);
void routes_refuse(void *ctx, struct http_exchange *x, unsigned status, const char *why);
bool routes_is_open(void *ctx, const char *path);
/* The thread that prepares calls. */
int desk_start(struct server *s, struct err *err);
/* Let it prepare what it has, and take no more; then, when nobody puts anything there, free it. */
void desk_stop(struct server *s);
void desk_free(struct server *s);

/* ---- reply.c ---- */

/* Answer with what was written to `j`, and free it. */
void reply_json(struct http_exchange *x, unsigned status, struct run_json *j);
void reply_text(struct http_exchange *x, unsigned status, const char *type, const char *text);
void reply_problem(struct http_exchange *x, enum api api, const struct problem *problem);
/* Fill it with why there is no place: 0 where there is one, else -1. */
int problem_place(struct problem *p, enum place place);
/* Write an error's object, as a whole answer has it or an event of a stream. */
void reply_error(struct run_json *j, enum api api, const struct problem *problem);
/* A line for whoever runs the server. */
void reply_note(const struct server *s, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* "prefix-" and 24 random letters into `id`. */
enum { REPLY_ID = 48 };
void reply_id(char id[REPLY_ID], const char *prefix);
/* Seconds since 1970, and as RFC 3339 has it. */
int64_t reply_now(void);
void reply_time(char text[40]);

/* ---- endpoints, by file ---- */

/* info.c */
endpoint info_health, info_models, info_model, info_props, info_metrics;
/* page.c, panel.c */
endpoint page_root, page_picture, panel_look;
/* texts.c */
endpoint text_tokenize, text_detokenize, text_tokenizer_info;
endpoint text_apply_template, text_count_anthropic;
/* openai_text.c, openai_chat.c, openai_responses.c */
endpoint openai_completions, openai_chat, openai_responses;
/* anthropic.c */
endpoint anthropic_messages;
/* ollama.c, ollama_info.c */
endpoint ollama_chat, ollama_generate, ollama_version, ollama_tags, ollama_show, ollama_ps;

#endif
