/*
 * http: requests and answers over sockets.
 *
 * Owns: listening, connections, reading a request whole, its limits and deadlines, sending an
 * answer as it is made, and noticing that nobody waits for it any more. libmicrohttpd does HTTP
 * itself; no other file knows it.
 * Leaves to others: who may ask (guard), what is asked for (http_options.handle), JSON.
 * Threads: libmicrohttpd's one thread serves all sockets and calls `handle`. Answers are written by
 * whatever thread has them (the functions on an exchange lock it); none of these waits for a
 * socket: what is written is kept until the client has read it, and a client that is too slow is
 * cut off. http_tick is called each second by the main thread.
 *
 * An exchange is a request and its answer. It is the client's until the whole request is there;
 * then `handle` gets it, and either answers at once or keeps it (http_keep) and answers later.
 * While no byte is to be sent, its connection is suspended: libmicrohttpd does not look at it
 * then, so http_tick looks whether the client is still there. A client that has closed its half of
 * the connection counts as gone: it cannot be told from one that has left, and clients of HTTP do
 * not do it otherwise.
 */
#ifndef RUNTIME_SERVE_HTTP_H
#define RUNTIME_SERVE_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/base.h"
#include "runtime/serve/guard.h"

struct http;
struct http_exchange;

struct http_options {
    const char *host;
    unsigned port; /* 0 = any free one */
    const struct guard *guard;
    uint64_t body_bytes;   /* most of one body */
    uint64_t flight_bytes; /* most of all bodies that are read or worked on at once */
    uint64_t behind_bytes; /* a client that has not read so much for a second is cut off */
    /* How long nothing is sent before something is that says so, so that neither the client nor
     * what lies between gives up; how long a client may read nothing of what there is; in what
     * time a whole request has to come. Looked after by http_tick. */
    uint64_t alive_ns, slow_ns, request_ns;
    /* Called by the thread of the sockets when a request is complete; must not take long. */
    void (*handle)(void *ctx, struct http_exchange *x);
    /* Answers at once (http_answer) a request that is refused before `handle` has it, in the
     * words that whoever asks there understands. */
    void (*refuse)(void *ctx, struct http_exchange *x, unsigned status, const char *why);
    /* Whether an endpoint needs no key. */
    bool (*is_open)(void *ctx, const char *path);
    /* Called when an exchange is over, however; may be NULL. */
    void (*done)(void *ctx, struct http_exchange *x);
    void *ctx;
};

int http_start(struct http **http, const struct http_options *options, struct err *err);
/* The port that is listened on. */
unsigned http_port(const struct http *http);
/* Look after connections: who has left, who is too slow, who is to be told that work goes on. */
void http_tick(struct http *http);
/* Let nobody in any more; what is there goes on. */
void http_quiesce(struct http *http);
/* Exchanges that are not over. */
size_t http_busy(struct http *http);
/* Cut off whoever is left and free all; nobody may hold an exchange any more. */
void http_stop(struct http *http);

/* ---- the request: not changed once `handle` has it ---- */

const char *http_method(const struct http_exchange *x);
const char *http_path(const struct http_exchange *x);
const struct buf *http_body(const struct http_exchange *x);
/* A header of the request, or NULL; only in `handle` and `refuse`. */
const char *http_header(const struct http_exchange *x, const char *name);
uint64_t http_started_ns(const struct http_exchange *x);
/* The status of the answer, 0 where there is none yet. */
unsigned http_status(struct http_exchange *x);

/* Keep the exchange beyond `handle`, and let go of it. */
void http_keep(struct http_exchange *x);
void http_release(struct http_exchange *x);
/* True where nobody waits for the answer any more. */
bool http_gone(struct http_exchange *x);

/* ---- the answer ---- */

/* A header of the answer; before anything else of it. */
void http_set_header(struct http_exchange *x, const char *name, const char *value);
/* The whole answer. `body` is taken over. Where the answer was begun already (http_wait), the
 * status is what was sent then. */
void http_answer(struct http_exchange *x, unsigned status, const char *type, struct buf *body);
/* A whole answer is being made: after alive_ns its head is sent with the status 200, and a
 * blank each alive_ns, which may stand before JSON. */
void http_wait(struct http_exchange *x);
/* Begin an answer that is sent as it is made. `alive` is sent where nothing else is; it must live
 * as long as the exchange. */
void http_begin(struct http_exchange *x, const char *type, const char *alive);
void http_write(struct http_exchange *x, const void *bytes, size_t n);
void http_end(struct http_exchange *x);

#endif
