/*
 * routes: which endpoint a request is for, and the thread that prepares those with a body.
 *
 * Owns: the table of endpoints, the queue of that thread.
 * Leaves to others: what the endpoints do.
 * Threads: routes_handle runs on the thread of the sockets.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/serve/serve.h"

enum { MAX_PREPARED = 512 }; /* requests that wait to be prepared */

struct route {
    const char *method, *path; /* a path that ends in a slash is the beginning of one */
    endpoint *run;             /* NULL: not supported, by name */
    enum api api;
    bool open; /* needs no key */
};

static const struct route routes[] = {
    {"GET", "/", page_root, API_OPENAI, true},
    {"GET", "/icon.svg", page_picture, API_OPENAI, true},
    {"GET", "/health", info_health, API_OPENAI, true},
    {"GET", "/models", info_models, API_OPENAI},
    {"GET", "/models/", info_model, API_OPENAI},
    {"GET", "/props", info_props, API_OPENAI},
    {"GET", "/metrics", info_metrics, API_OPENAI},
    {"GET", "/panel", panel_look, API_OPENAI},
    {"POST", "/completions", openai_completions, API_OPENAI},
    {"POST", "/chat/completions", openai_chat, API_OPENAI},
    {"POST", "/tokenize", text_tokenize, API_OPENAI},
    {"POST", "/detokenize", text_detokenize, API_OPENAI},
    {"GET", "/tokenizer_info", text_tokenizer_info, API_OPENAI},
    {"POST", "/apply-template", text_apply_template, API_OPENAI},
    {"POST", "/responses", openai_responses, API_OPENAI},
    {"GET", "/api/version", ollama_version, API_OLLAMA},
    {"GET", "/api/tags", ollama_tags, API_OLLAMA},
    {"GET", "/api/ps", ollama_ps, API_OLLAMA},
    {"POST", "/api/show", ollama_show, API_OLLAMA},
    {"POST", "/api/chat", ollama_chat, API_OLLAMA},
    {"POST", "/api/generate", ollama_generate, API_OLLAMA},
    {"POST", "/messages", anthropic_messages, API_ANTHROPIC},
    {"POST", "/messages/count_tokens", text_count_anthropic, API_ANTHROPIC},
    {"POST", "/embeddings", NULL, API_OPENAI},
    {"POST", "/embedding", NULL, API_OPENAI},
    {"POST", "/infill", NULL, API_OPENAI},
    {"POST", "/rerank", NULL, API_OPENAI},
    {"POST", "/reranking", NULL, API_OPENAI},
    {"POST", "/completion", NULL, API_OPENAI},
    {"POST", "/moderations", NULL, API_OPENAI},
    {"POST", "/audio/", NULL, API_OPENAI},
    {"POST", "/images/", NULL, API_OPENAI},
    {"POST", "/api/embed", NULL, API_OLLAMA},
    {"POST", "/api/embeddings", NULL, API_OLLAMA},
    {"POST", "/api/pull", NULL, API_OLLAMA},
    {"POST", "/api/push", NULL, API_OLLAMA},
    {"POST", "/api/create", NULL, API_OLLAMA},
    {"POST", "/api/copy", NULL, API_OLLAMA},
};
enum { N_ROUTES = sizeof routes / sizeof *routes };

/* ---- finding ---- */

/* Every path may stand behind /v1. One slash at the end does not count. */
static bool matches(const struct route *r, const char *path) {
    size_t n = strlen(path), want = strlen(r->path);
    if (strncmp(path, "/v1/", 4) == 0 && strncmp(r->path, "/api/", 5) != 0) {
        path += 3;
        n -= 3;
    }
    if (want > 1 && r->path[want - 1] == '/') {
        return n > want && strncmp(path, r->path, want) == 0;
    }
    n -= n > 1 && path[n - 1] == '/';
    return n == want && strncmp(path, r->path, n) == 0;
}

static bool has_method(const struct route *r, const char *method) {
    return strcmp(r->method, method) == 0 ||
           (strcmp(r->method, "GET") == 0 && strcmp(method, "HEAD") == 0);
}

/* The route of a request, or NULL with `other` set to one of another method. */
static const struct route *find(const char *method, const char *path, const struct route **other) {
    *other = NULL;
    for (size_t i = 0; i < N_ROUTES; i++) {
        if (!matches(&routes[i], path)) {
            continue;
        }
        if (has_method(&routes[i], method)) {
            return &routes[i];
        }
        *other = &routes[i];
    }
    return NULL;
}

bool routes_is_open(void *ctx, const char *path) {
    (void)ctx;
    for (size_t i = 0; i < N_ROUTES; i++) {
        if (routes[i].open && matches(&routes[i], path)) {
            return true;
        }
    }
    return false;
}

/* ---- calling ---- */

/* In whose form to answer. The list of models is the same path in two APIs, and a path that there
 * is not may be of any. */
static enum api api_of(const struct http_exchange *x, const struct route *r) {
    bool models = r && strncmp(r->path, "/models", 7) == 0;
    if ((!r || models) && http_header(x, "anthropic-version")) {
        return API_ANTHROPIC;
    }
    return r ? r->api : strncmp(http_path(x), "/api/", 5) == 0 ? API_OLLAMA : API_OPENAI;
}

static void run(struct call *call, const struct route *r) {
    struct problem problem = {0};
    if (r->run(call, &problem) < 0) {
        reply_problem(call->x, call->api, &problem);
    }
}

/* What a browser asks before it lets a page send its request. */
static void answer_options(struct http_exchange *x) {
    struct buf none = {0};
    const char *asked = http_header(x, "Access-Control-Request-Headers");
    http_set_header(x, "Allow", "GET, HEAD, POST, OPTIONS");
    http_set_header(x, "Access-Control-Allow-Methods", "GET, HEAD, POST, OPTIONS");
    if (asked && guard_is_token_list(asked)) {
        http_set_header(x, "Access-Control-Allow-Headers", asked);
    }
    http_set_header(x, "Access-Control-Max-Age", "86400");
    http_answer(x, 204, NULL, &none);
}

/* ---- the desk: one thread, one queue ---- */

struct paper {
    struct paper *next;
    struct http_exchange *x;
    const struct route *route;
    enum api api;
};

struct desk {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t more;
    struct paper *first, **last;
    size_t n;
    bool stop;
};

/* Most memory of a request's values: some times its length, as each has a head; but no more than
 * the plan has for that. */
static size_t values_limit(const struct server *s, size_t body_bytes) {
    const uint64_t times = 24 * (uint64_t)body_bytes, most = 4 * s->body_bytes;
    return (size_t)(SERVE_LEAST_VALUES + (times < most ? times : most));
}

static void prepare(struct server *s, const struct paper *p) {
    const struct buf *body = http_body(p->x);
    struct call call = {.s = s, .x = p->x, .api = p->api};
    struct problem problem = {0};
    struct value value;
    struct err err = {0};
    call.arena.limit_bytes = values_limit(s, body->len);
    if (http_gone(p->x)) {
        /* nobody waits any more */
    } else if (value_json_read(&call.arena, body->len ? body->data : "", body->len, &value, &err) <
               0) {
        if (call.arena.exhausted) {
            problem_set(&problem, 413, "too_large", NULL,
                        "the body's values take more memory than --max-body allows");
        } else {
            problem_set(&problem, 400, "invalid_json", NULL, "the body is no JSON: %s", err.msg);
        }
        reply_problem(p->x, p->api, &problem);
    } else if (value.type != VALUE_DICT) {
        problem_set(&problem, 400, "invalid_json", NULL, "the body is no JSON object");
        reply_problem(p->x, p->api, &problem);
    } else {
        call.body = value.dict;
        run(&call, p->route);
    }
    value_arena_free(&call.arena);
}

static void *desk_thread(void *ctx) {
    struct server *s = ctx;
    struct desk *d = s->desk;
    for (;;) {
        pthread_mutex_lock(&d->lock);
        while (!d->first && !d->stop) {
            pthread_cond_wait(&d->more, &d->lock);
        }
        struct paper *p = d->first;
        if (p) {
            d->first = p->next;
            d->last = d->first ? d->last : &d->first;
            d->n--;
        }
        pthread_mutex_unlock(&d->lock);
        if (!p) {
            return NULL;
        }
        prepare(s, p);
        http_release(p->x);
        free(p);
    }
}

static enum place desk_put(struct desk *d, struct http_exchange *x, const struct route *r,
                           enum api api) {
    struct paper *p = mem_calloc(1, sizeof *p);
    *p = (struct paper){.x = x, .route = r, .api = api};
    pthread_mutex_lock(&d->lock);
    enum place place = d->stop ? PLACE_STOPS : d->n < MAX_PREPARED ? PLACE_TAKEN : PLACE_NONE;
    if (place == PLACE_TAKEN) {
        http_keep(x);
        d->n++;
        *d->last = p;
        d->last = &p->next;
        pthread_cond_signal(&d->more);
    }
    pthread_mutex_unlock(&d->lock);
    if (place != PLACE_TAKEN) {
        free(p);
    }
    return place;
}

int desk_start(struct server *s, struct err *err) {
    struct desk *d = s->desk = mem_calloc(1, sizeof *d);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->more, NULL);
    d->last = &d->first;
    int rc = pthread_create(&d->thread, NULL, desk_thread, s);
    if (rc != 0) {
        free(d);
        s->desk = NULL;
        return err_errno(err, rc, "cannot start a thread");
    }
    return 0;
}

void desk_stop(struct server *s) {
    struct desk *d = s->desk;
    if (!d) {
        return;
    }
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_cond_signal(&d->more);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
}

void desk_free(struct server *s) {
    struct desk *d = s->desk;
    if (!d) {
        return;
    }
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->more);
    free(d);
    s->desk = NULL;
}

/* ---- a request is there ---- */

void routes_refuse(void *ctx, struct http_exchange *x, unsigned status, const char *why) {
    const struct route *other, *r = find(http_method(x), http_path(x), &other);
    struct problem problem = {0};
    (void)ctx;
    problem_set(&problem, status, status == 401 ? "invalid_api_key" : NULL, NULL, "%s", why);
    reply_problem(x, api_of(x, r ? r : other), &problem);
}

void routes_handle(void *ctx, struct http_exchange *x) {
    struct server *s = ctx;
    struct problem problem = {0};
    const char *method = http_method(x), *path = http_path(x);
    const struct route *other, *r = find(method, path, &other);
    enum api api = api_of(x, r ? r : other);
    if (strcmp(method, "OPTIONS") == 0) {
        answer_options(x);
        return;
    }
    if (!r && other) {
        http_set_header(x, "Allow", strcmp(other->method, "GET") == 0 ? "GET, HEAD" : "POST");
        problem_set(&problem, 405, "method_not_allowed", NULL, "expected %s", other->method);
    } else if (!r) {
        problem_set(&problem, 404, "not_found", NULL, "there is nothing of that name here");
    } else if (!r->run) {
        problem_set(&problem, 501, "not_supported", NULL, "%s: not supported by this server",
                    r->path);
    } else if (strcmp(r->method, "POST") == 0) {
        problem_place(&problem, desk_put(s->desk, x, r, api));
    } else {
        struct call call = {.s = s, .x = x, .api = api};
        call.arena.limit_bytes = 1 << 20;
        run(&call, r);
        value_arena_free(&call.arena);
    }
    if (problem.status) {
        reply_problem(x, api, &problem);
    }
}
