/*
 * http: exchanges, their answers, and what libmicrohttpd calls; see http.h.
 */
#include <microhttpd.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/serve/http_internal.h"

static const uint64_t BEHIND_NS = 1000000000; /* so long a client may be behind_bytes behind */
enum { LINE_BYTES = 64 << 10 };               /* of a request's head, with what is made of it */
/* Most of a refused body that is read and dropped, so that its client sees why: most look at an
 * answer only when they have sent all, and a connection closed before loses it. */
enum { DROPPED_BYTES = 256 << 20 };

/* ---- exchanges ---- */

void http_keep(struct http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->refs++;
    pthread_mutex_unlock(&x->lock);
}

void http_release(struct http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    bool last = --x->refs == 0;
    pthread_mutex_unlock(&x->lock);
    if (!last) {
        return;
    }
    pthread_mutex_lock(&x->http->lock);
    x->http->flight_bytes -= x->charged_bytes;
    x->http->n_exchanges--;
    pthread_mutex_unlock(&x->http->lock);
    for (size_t i = 0; i < x->n_headers; i++) {
        free(x->headers[i].value);
    }
    pthread_mutex_destroy(&x->lock);
    buf_free(&x->out);
    buf_free(&x->body);
    free(x->method);
    free(x->path);
    free(x->why);
    free(x);
}

const char *http_method(const struct http_exchange *x) {
    return x->method;
}
const char *http_path(const struct http_exchange *x) {
    return x->path;
}
const struct buf *http_body(const struct http_exchange *x) {
    return &x->body;
}
const char *http_header(const struct http_exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}
uint64_t http_started_ns(const struct http_exchange *x) {
    return x->started_ns;
}
unsigned http_status(struct http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    unsigned status = x->status;
    pthread_mutex_unlock(&x->lock);
    return status;
}

bool http_gone(struct http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    bool gone = x->gone;
    pthread_mutex_unlock(&x->lock);
    return gone;
}

/* The functions below are called with the exchange's lock. */

void http_do_wake(struct http_exchange *x) {
    if (x->suspended) {
        x->suspended = false;
        MHD_resume_connection(x->connection);
    }
}

void http_do_give_up(struct http_exchange *x) {
    x->gone = true;
    buf_free(&x->out);
    x->out_pos = 0;
    http_do_wake(x);
}

void http_do_put(struct http_exchange *x, const void *bytes, size_t n) {
    if (x->gone || n == 0) {
        return;
    }
    if (x->out_pos == x->out.len) {
        x->out.len = x->out_pos = 0;
        x->read_ns = clock_ns();
    }
    buf_append(&x->out, bytes, n);
    x->write_ns = clock_ns();
}

void http_do_begin(struct http_exchange *x, unsigned status, const char *type) {
    x->chosen = true;
    x->status = status;
    x->type = type;
}

/* ---- answers ---- */

void http_set_header(struct http_exchange *x, const char *name, const char *value) {
    pthread_mutex_lock(&x->lock);
    if (x->n_headers < MAX_HEADERS && !x->chosen) {
        struct header *h = &x->headers[x->n_headers++];
        size_t n = strnlen(name, sizeof h->name - 1);
        memcpy(h->name, name, n);
        h->name[n] = 0;
        h->value = mem_strdup(value);
    }
    pthread_mutex_unlock(&x->lock);
}

void http_answer(struct http_exchange *x, unsigned status, const char *type, struct buf *body) {
    pthread_mutex_lock(&x->lock);
    if (!x->chosen) {
        http_do_begin(x, status, type);
    }
    http_do_put(x, body->data, body->len);
    x->ended = true;
    http_do_wake(x);
    pthread_mutex_unlock(&x->lock);
    buf_free(body);
}

void http_wait(struct http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->waits = true;
    x->write_ns = clock_ns();
    pthread_mutex_unlock(&x->lock);
}

void http_begin(struct http_exchange *x, const char *type, const char *alive) {
    pthread_mutex_lock(&x->lock);
    http_do_begin(x, 200, type);
    x->streamed = true;
    x->alive = alive;
    x->write_ns = clock_ns();
    http_do_wake(x);
    pthread_mutex_unlock(&x->lock);
}

void http_write(struct http_exchange *x, const void *bytes, size_t n) {
    pthread_mutex_lock(&x->lock);
    /* What was written just now no reader could have taken. */
    const uint64_t now = clock_ns();
    if (x->out.len - x->out_pos <= x->http->o.behind_bytes) {
        x->behind_ns = 0;
    } else if (x->behind_ns == 0) {
        x->behind_ns = now;
    }
    if (x->behind_ns && now - x->behind_ns > BEHIND_NS) {
        http_do_give_up(x);
    } else {
        http_do_put(x, bytes, n);
    }
    http_do_wake(x);
    pthread_mutex_unlock(&x->lock);
}

void http_end(struct http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    x->ended = true;
    http_do_wake(x);
    pthread_mutex_unlock(&x->lock);
}

/* ---- what libmicrohttpd calls ---- */

/* It asks for the next bytes of a body that is sent as it is made. */
static ssize_t on_read(void *ctx, uint64_t pos, char *to, size_t room) {
    (void)pos;
    struct http_exchange *x = ctx;
    ssize_t got = 0;
    pthread_mutex_lock(&x->lock);
    size_t n = x->out.len - x->out_pos;
    if (x->gone) {
        got = MHD_CONTENT_READER_END_WITH_ERROR;
    } else if (n > 0) {
        n = n < room ? n : room;
        memcpy(to, x->out.data + x->out_pos, n);
        x->out_pos += n;
        x->read_ns = clock_ns();
        got = (ssize_t)n;
    } else if (x->ended) {
        got = MHD_CONTENT_READER_END_OF_STREAM;
    } else if (atomic_load(&x->http->stopping)) {
        got = MHD_CONTENT_READER_END_WITH_ERROR;
    } else {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->lock);
    return got;
}

/* The chosen answer as libmicrohttpd has it, or NULL; with the exchange's lock. */
static struct MHD_Response *make_response(struct http_exchange *x) {
    bool whole = x->ended && x->out_pos == 0;
    struct MHD_Response *r;
    if (whole) {
        r = MHD_create_response_from_buffer(x->out.len, x->out.data, MHD_RESPMEM_MUST_COPY);
        x->out_pos = x->out.len;
    } else {
        r = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16 << 10, on_read, x, NULL);
    }
    if (!r) {
        return NULL;
    }
    if (x->type) {
        MHD_add_response_header(r, "Content-Type", x->type);
    }
    MHD_add_response_header(r, "Cache-Control", "no-store");
    MHD_add_response_header(r, "X-Content-Type-Options", "nosniff");
    const char *origin = http_header(x, "Origin");
    if (origin && x->status != 403) {
        MHD_add_response_header(r, "Access-Control-Allow-Origin", origin);
        MHD_add_response_header(r, "Vary", "Origin");
    }
    for (size_t i = 0; i < x->n_headers; i++) {
        MHD_add_response_header(r, x->headers[i].name, x->headers[i].value);
    }
    return r;
}

/* Without the lock: libmicrohttpd locks a response when it is queued and while it calls on_read. */
static enum MHD_Result queue_response(struct http_exchange *x, struct MHD_Response *r) {
    if (!r) {
        return MHD_NO;
    }
    enum MHD_Result rc = MHD_queue_response(x->connection, x->status, r);
    MHD_destroy_response(r);
    return rc;
}

static enum MHD_Result count_header(void *ctx, enum MHD_ValueKind kind, const char *key,
                                    const char *value) {
    (void)kind;
    (void)value;
    struct guard_head *h = ctx;
    h->n_hosts += strcasecmp(key, "Host") == 0;
    h->n_lengths += strcasecmp(key, "Content-Length") == 0;
    h->n_encodings += strcasecmp(key, "Transfer-Encoding") == 0;
    h->bad_name |= strpbrk(key, " \t") != NULL;
    return MHD_YES;
}

/* The request's head is there: refuse it, or see that there is room for its body. Returns the
 * status with which it is refused, or 0. */
static unsigned check_head(struct http_exchange *x, struct err *err) {
    struct http *http = x->http;
    struct guard_head head = {.method = x->method,
                              .host = http_header(x, "Host"),
                              .origin = http_header(x, "Origin"),
                              .authorization = http_header(x, "Authorization"),
                              .x_api_key = http_header(x, "x-api-key"),
                              .content_type = http_header(x, "Content-Type"),
                              .content_length = http_header(x, "Content-Length"),
                              .encoding = http_header(x, "Transfer-Encoding"),
                              .open = strcmp(x->method, "POST") != 0 &&
                                      http->o.is_open(http->o.ctx, x->path)};
    MHD_get_connection_values(x->connection, MHD_HEADER_KIND, count_header, &head);
    unsigned status = guard_check(http->o.guard, &head, err);
    if (status) {
        return status;
    }
    uint64_t bytes = head.content_length ? strtoull(head.content_length, NULL, 10) : 0;
    if (bytes > http->o.body_bytes) {
        err_set(err, "a body of %llu bytes, expected at most %llu", (unsigned long long)bytes,
                (unsigned long long)http->o.body_bytes);
        return 413;
    }
    /* Where no length is said, the most that it may come to. */
    x->charged_bytes = head.n_encodings ? http->o.body_bytes : bytes;
    pthread_mutex_lock(&http->lock);
    bool room = http->flight_bytes + x->charged_bytes <= http->o.flight_bytes;
    x->charged_bytes = room ? x->charged_bytes : 0;
    http->flight_bytes += x->charged_bytes;
    pthread_mutex_unlock(&http->lock);
    if (!room) {
        err_set(err, "there is no room for another body of that size now");
        return 429;
    }
    return 0;
}

static struct http_exchange *exchange_new(struct http *http, struct MHD_Connection *connection,
                                          const char *path, const char *method) {
    struct http_exchange *x = mem_calloc(1, sizeof *x);
    x->http = http;
    x->connection = connection;
    x->refs = 1;
    x->method = mem_strdup(method);
    x->path = mem_strdup(path);
    x->started_ns = clock_ns();
    pthread_mutex_init(&x->lock, NULL);
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    x->conn = info ? info->socket_context : NULL;
    pthread_mutex_lock(&http->lock);
    x->next = http->exchanges;
    if (x->next) {
        x->next->prev = x;
    }
    http->exchanges = x;
    http->n_exchanges++;
    pthread_mutex_unlock(&http->lock);
    return x;
}

/* Answers with the refusal at once. */
static enum MHD_Result refuse(struct http_exchange *x) {
    const struct http_options *o = &x->http->o;
    if (x->refused == 401) {
        http_set_header(x, "WWW-Authenticate", "Bearer");
    }
    if (x->refused == 400) { /* where its body ends is not known */
        http_set_header(x, "Connection", "close");
    }
    o->refuse(o->ctx, x, x->refused, x->why);
    pthread_mutex_lock(&x->lock);
    struct MHD_Response *r = make_response(x);
    pthread_mutex_unlock(&x->lock);
    return queue_response(x, r);
}

/* Notes that it is refused. The answer comes behind the body, unless where that ends is not known,
 * it is too long to wait for, or the client waits for leave to send it. */
static enum MHD_Result begin_refusal(struct http_exchange *x, unsigned status,
                                     const struct err *err) {
    const char *length = http_header(x, "Content-Length");
    bool waits = http_header(x, "Expect") != NULL;
    x->refused = status;
    x->why = mem_strdup(err->msg);
    buf_free(&x->body);
    return status == 400 || waits || (length && strtoull(length, NULL, 10) > DROPPED_BYTES)
               ? refuse(x)
               : MHD_YES;
}

/* A piece of a body that nobody reads. */
static enum MHD_Result drop(struct http_exchange *x, size_t *bytes) {
    x->dropped_bytes += *bytes;
    *bytes = 0;
    return x->dropped_bytes > DROPPED_BYTES ? MHD_NO : MHD_YES;
}

/* The whole request is there, or somebody woke the exchange. */
static enum MHD_Result go_on(struct http_exchange *x) {
    enum MHD_Result rc = MHD_YES;
    struct MHD_Response *r = NULL;
    bool chosen = false;
    pthread_mutex_lock(&x->lock);
    bool first = !x->handed;
    x->handed = true;
    pthread_mutex_unlock(&x->lock);
    if (first) {
        pthread_mutex_lock(&x->http->lock);
        if (x->conn) {
            x->conn->busy = true;
        }
        x->http->flight_bytes -= x->charged_bytes; /* where no length was said it is less */
        x->charged_bytes = x->charged_bytes < x->body.len ? x->charged_bytes : x->body.len;
        x->http->flight_bytes += x->charged_bytes;
        pthread_mutex_unlock(&x->http->lock);
        x->http->o.handle(x->http->o.ctx, x);
    }
    pthread_mutex_lock(&x->lock);
    if (x->gone) {
        rc = MHD_NO;
    } else if (x->chosen) {
        chosen = true;
        r = make_response(x);
    } else if (atomic_load(&x->http->stopping)) {
        rc = MHD_NO;
    } else {
        x->suspended = true;
        MHD_suspend_connection(x->connection);
    }
    pthread_mutex_unlock(&x->lock);
    return chosen ? queue_response(x, r) : rc;
}

static enum MHD_Result on_request(void *ctx, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *data,
                                  size_t *data_bytes, void **slot) {
    (void)version;
    struct http *http = ctx;
    struct http_exchange *x = *slot;
    struct err err = {0};
    if (!x) {
        *slot = x = exchange_new(http, connection, path, method);
        unsigned status = check_head(x, &err);
        return status ? begin_refusal(x, status, &err) : MHD_YES;
    }
    if (x->refused) {
        return *data_bytes > 0 ? drop(x, data_bytes) : refuse(x);
    }
    if (*data_bytes > 0) {
        if (x->body.len + *data_bytes > http->o.body_bytes) {
            err_set(&err, "a body of more than %llu bytes", (unsigned long long)http->o.body_bytes);
            begin_refusal(x, 413, &err);
            return drop(x, data_bytes);
        }
        buf_append(&x->body, data, *data_bytes);
        *data_bytes = 0;
        return MHD_YES;
    }
    return go_on(x);
}

static void on_completed(void *ctx, struct MHD_Connection *connection, void **slot,
                         enum MHD_RequestTerminationCode code) {
    (void)connection;
    (void)code;
    struct http *http = ctx;
    struct http_exchange *x = *slot;
    if (!x) {
        return;
    }
    *slot = NULL;
    pthread_mutex_lock(&http->lock);
    *(x->prev ? &x->prev->next : &http->exchanges) = x->next;
    if (x->next) {
        x->next->prev = x->prev;
    }
    if (x->conn) {
        x->conn->busy = false;
        x->conn->since_ns = clock_ns();
    }
    pthread_mutex_unlock(&http->lock);
    pthread_mutex_lock(&x->lock);
    x->gone = true;
    x->suspended = false;
    pthread_mutex_unlock(&x->lock);
    if (http->o.done) {
        http->o.done(http->o.ctx, x);
    }
    http_release(x);
}

static void on_connection(void *ctx, struct MHD_Connection *connection, void **slot,
                          enum MHD_ConnectionNotificationCode code) {
    struct http *http = ctx;
    struct conn *c = *slot;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info =
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
        *slot = c = mem_calloc(1, sizeof *c);
        c->fd = info ? info->connect_fd : -1;
        c->since_ns = clock_ns();
        pthread_mutex_lock(&http->lock);
        c->next = http->conns;
        if (c->next) {
            c->next->prev = c;
        }
        http->conns = c;
        pthread_mutex_unlock(&http->lock);
    } else if (c) {
        pthread_mutex_lock(&http->lock);
        *(c->prev ? &c->prev->next : &http->conns) = c->next;
        if (c->next) {
            c->next->prev = c->prev;
        }
        pthread_mutex_unlock(&http->lock);
        free(c);
        *slot = NULL;
    }
}

/* ---- life ---- */

static void say_nothing(void *ctx, const char *format, va_list args) {
    (void)ctx;
    (void)format;
    (void)args;
}

int http_start(struct http **out, const struct http_options *options, struct err *err) {
    struct http *http = mem_calloc(1, sizeof *http);
    http->o = *options;
    http->quiesced = -1;
    pthread_mutex_init(&http->lock, NULL);
    int fd = http_listen(options, &http->port, err);
    if (fd >= 0) {
        http->daemon = MHD_start_daemon(
            MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG |
                MHD_USE_ITC,
            0, NULL, NULL, on_request, http, MHD_OPTION_EXTERNAL_LOGGER, say_nothing, NULL,
            MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, on_completed, http,
            MHD_OPTION_NOTIFY_CONNECTION, on_connection, http, MHD_OPTION_CONNECTION_LIMIT,
            http_most_connections(), MHD_OPTION_CONNECTION_TIMEOUT,
            (unsigned)(options->request_ns / 1000000000 + 1), MHD_OPTION_CONNECTION_MEMORY_LIMIT,
            (size_t)LINE_BYTES, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_END);
        if (!http->daemon) {
            close(fd);
            err_set(err, "cannot serve on %s, port %u", options->host, http->port);
        }
    }
    if (!http->daemon) {
        pthread_mutex_destroy(&http->lock);
        free(http);
        return -1;
    }
    *out = http;
    return 0;
}

unsigned http_port(const struct http *http) {
    return http->port;
}

/* The daemon's thread may be about to accept when it is told to stop listening, so the socket is
 * shut down here, which refuses whoever comes, and its number is given back to the system only
 * when that thread has ended: closed at once, it could name another file by then. */
void http_quiesce(struct http *http) {
    int fd = MHD_quiesce_daemon(http->daemon);
    if (fd >= 0) {
        http->quiesced = fd;
        shutdown(fd, SHUT_RDWR);
    }
}

void http_stop(struct http *http) {
    atomic_store(&http->stopping, true);
    pthread_mutex_lock(&http->lock);
    for (struct http_exchange *x = http->exchanges; x; x = x->next) {
        pthread_mutex_lock(&x->lock);
        http_do_give_up(x);
        pthread_mutex_unlock(&x->lock);
    }
    pthread_mutex_unlock(&http->lock);
    MHD_stop_daemon(http->daemon);
    if (http->quiesced >= 0) {
        close(http->quiesced);
    }
    pthread_mutex_destroy(&http->lock);
    free(http);
}
