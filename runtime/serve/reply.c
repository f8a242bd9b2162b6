/*
 * reply: answers and errors, as serve.h says.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "runtime/serve/serve.h"

void reply_json(struct http_exchange *x, unsigned status, struct run_json *j) {
    buf_append(&j->text, "\n", 1);
    http_answer(x, status, "application/json", &j->text);
    *j = (struct run_json){0};
}

void reply_text(struct http_exchange *x, unsigned status, const char *type, const char *text) {
    struct buf body = {0};
    buf_append(&body, text, strlen(text));
    http_answer(x, status, type, &body);
}

/* The word for a status in each API. */
static const char *error_type(enum api api, unsigned status) {
    static const struct {
        unsigned status;
        const char *openai, *anthropic;
    } words[] = {
        {400, "invalid_request_error", "invalid_request_error"},
        {401, "authentication_error", "authentication_error"},
        {403, "permission_error", "permission_error"},
        {404, "not_found_error", "not_found_error"},
        {405, "invalid_request_error", "invalid_request_error"},
        {413, "invalid_request_error", "request_too_large"},
        {429, "rate_limit_error", "rate_limit_error"},
        {501, "not_supported_error", "invalid_request_error"},
        {503, "unavailable_error", "overloaded_error"},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (words[i].status == status) {
            return api == API_ANTHROPIC ? words[i].anthropic : words[i].openai;
        }
    }
    return api == API_ANTHROPIC ? "api_error" : "server_error";
}

static void put_or_null(struct run_json *j, const char *key, const char *text) {
    if (text && *text) {
        run_json_string(j, key, text);
    } else {
        run_json_null(j, key);
    }
}

void reply_error(struct run_json *j, enum api api, const struct problem *p) {
    run_json_open(j, NULL, '{');
    if (api == API_OLLAMA) {
        run_json_string(j, "error", p->message);
    } else if (api == API_ANTHROPIC) {
        run_json_string(j, "type", "error");
        run_json_open(j, "error", '{');
        run_json_string(j, "type", error_type(api, p->status));
        run_json_string(j, "message", p->message);
        run_json_close(j, '}');
    } else {
        run_json_open(j, "error", '{');
        run_json_string(j, "message", p->message);
        run_json_string(j, "type", error_type(api, p->status));
        put_or_null(j, "param", p->param);
        put_or_null(j, "code", p->code);
        run_json_close(j, '}');
    }
    run_json_close(j, '}');
}

int problem_place(struct problem *p, enum place place) {
    switch (place) {
    case PLACE_TAKEN:
        return 0;
    case PLACE_NONE:
        return problem_set(p, 429, "queue_full", NULL,
                           "too many requests wait already; try again later");
    default:
        return problem_set(p, 503, "stopping", NULL, "the server stops");
    }
}

void reply_problem(struct http_exchange *x, enum api api, const struct problem *p) {
    struct run_json j = {0};
    reply_error(&j, api, p);
    if (p->status == 429 || p->status == 503) {
        http_set_header(x, "Retry-After", "2");
    }
    reply_json(x, p->status, &j);
}

void reply_note(const struct server *s, const char *format, ...) {
    char line[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(line, sizeof line, format, ap);
    va_end(ap);
    if (s->note) {
        s->note(line);
    }
}

void reply_id(char id[REPLY_ID], const char *prefix) {
    static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    unsigned char random[24];
    if (getrandom(random, sizeof random, 0) != sizeof random) {
        memset(random, 0, sizeof random);
    }
    int n = snprintf(id, REPLY_ID - sizeof random, "%s", prefix);
    for (size_t i = 0; i < sizeof random; i++) {
        id[n++] = letters[random[i] % (sizeof letters - 1)];
    }
    id[n] = 0;
}

int64_t reply_now(void) {
    return (int64_t)time(NULL);
}

void reply_time(char text[40]) {
    time_t seconds = time(NULL);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    strftime(text, 40, "%Y-%m-%dT%H:%M:%SZ", &tm);
}
