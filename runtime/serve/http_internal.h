/*
 * http_internal: what the files of http share.
 *
 * Two lists under one lock: connections, which have a deadline while a request is awaited, and
 * exchanges. Both are taken out by libmicrohttpd's notices, before the socket is closed; so as long
 * as one is in its list, its socket is this one and no other that got the same number. An
 * exchange's own lock may be taken inside that lock and not the other way round.
 */
#ifndef RUNTIME_SERVE_HTTP_INTERNAL_H
#define RUNTIME_SERVE_HTTP_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "runtime/serve/http.h"

struct MHD_Connection;
struct MHD_Daemon;

enum { MAX_HEADERS = 8 }; /* of an answer, its maker's own */

/* A socket on which a request may come. */
struct conn {
    struct conn *prev, *next;
    int fd;
    uint64_t since_ns; /* when it was opened, or its last exchange was over */
    bool busy;         /* a whole request is there and is being answered */
};

struct header {
    char name[48], *value;
};

struct http_exchange {
    struct http *http;
    struct http_exchange *prev, *next;
    pthread_mutex_t lock; /* of what follows up to `n_headers` */
    struct MHD_Connection *connection;
    struct conn *conn;
    unsigned refs;
    bool suspended, handed, gone;
    bool chosen;   /* there is a status: the head may be sent */
    bool streamed; /* the body comes by http_write and http_end */
    bool waits;    /* http_wait */
    bool ended;
    unsigned status;
    const char *type, *alive;
    struct buf out; /* of the body, what was not read yet */
    size_t out_pos;
    uint64_t read_ns, write_ns; /* when something was last taken from, and put into, `out` */
    uint64_t behind_ns;         /* since when more than behind_bytes wait in it; 0: they do not */
    struct header headers[MAX_HEADERS];
    size_t n_headers;
    /* the request; not changed once it is handed over */
    char *method, *path;
    struct buf body;
    uint64_t started_ns, charged_bytes;
    /* The status with which it is refused, 0 where it is not, and why; what was dropped of it. */
    unsigned refused;
    char *why;
    uint64_t dropped_bytes;
};

struct http {
    struct http_options o;
    struct MHD_Daemon *daemon;
    int quiesced; /* the listening socket after http_quiesce; -1: the daemon's own */
    unsigned port;
    pthread_mutex_t lock;
    struct conn *conns;
    struct http_exchange *exchanges;
    size_t n_exchanges;
    uint64_t flight_bytes;
    atomic_bool stopping; /* nothing is suspended any more */
};

/* With the exchange's lock: begin the answer; add bytes to it; let it go on where it waits for
 * some; let it end with nothing more said. (http.c) */
void http_do_begin(struct http_exchange *x, unsigned status, const char *type);
void http_do_put(struct http_exchange *x, const void *bytes, size_t n);
void http_do_wake(struct http_exchange *x);
void http_do_give_up(struct http_exchange *x);

/* A listening socket as the options say, and its port; -1 and `err`. (http_care.c) */
int http_listen(const struct http_options *o, unsigned *port, struct err *err);
/* How many connections there may be at once. */
unsigned http_most_connections(void);

#endif
