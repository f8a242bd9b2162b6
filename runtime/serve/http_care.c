/*
 * http_care: listening, and looking after connections each second; see http.h.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/serve/http_internal.h"

enum { MAX_CONNECTIONS = 4000 };

/* ---- looking after ---- */

static bool has_left(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLRDHUP};
    return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR | POLLNVAL));
}

static void look_after(struct http_exchange *x) {
    pthread_mutex_lock(&x->lock);
    /* Asked under the lock under which its times are set, so that none of them is later. */
    const uint64_t now = clock_ns();
    bool behind = x->out.len > x->out_pos;
    if (x->gone || !x->handed) {
        /* nothing to look after */
    } else if (x->suspended && x->conn && has_left(x->conn->fd)) {
        http_do_give_up(x);
    } else if (x->chosen && behind && !x->suspended && now - x->read_ns > x->http->o.slow_ns) {
        http_do_give_up(x);
        if (x->conn) {
            shutdown(x->conn->fd, SHUT_RDWR);
        }
    } else if (!behind && !x->ended && now - x->write_ns >= x->http->o.alive_ns) {
        if (x->streamed && x->alive) {
            http_do_put(x, x->alive, strlen(x->alive));
            http_do_wake(x);
        } else if (x->waits) {
            if (!x->chosen) {
                http_do_begin(x, 200, "application/json");
            }
            http_do_put(x, " ", 1);
            http_do_wake(x);
        }
    }
    pthread_mutex_unlock(&x->lock);
}

void http_tick(struct http *http) {
    pthread_mutex_lock(&http->lock);
    const uint64_t now = clock_ns(); /* as in look_after */
    for (struct conn *c = http->conns; c; c = c->next) {
        if (!c->busy && now - c->since_ns > http->o.request_ns) {
            shutdown(c->fd, SHUT_RDWR);
        }
    }
    for (struct http_exchange *x = http->exchanges; x; x = x->next) {
        look_after(x);
    }
    pthread_mutex_unlock(&http->lock);
}

size_t http_busy(struct http *http) {
    pthread_mutex_lock(&http->lock);
    size_t n = http->n_exchanges;
    pthread_mutex_unlock(&http->lock);
    return n;
}

/* ---- listening ---- */

int http_listen(const struct http_options *o, unsigned *port, struct err *err) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *found = NULL;
    char service[16];
    snprintf(service, sizeof service, "%u", o->port);
    int rc = getaddrinfo(o->host, service, &hints, &found), fd = -1, one = 1;
    if (rc != 0) {
        return err_set(err, "--host %s: %s", o->host, gai_strerror(rc));
    }
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, 512) < 0) {
        err_errno(err, errno, "cannot listen on %s, port %u", o->host, o->port);
        if (fd >= 0) {
            close(fd);
        }
        fd = -1;
    } else {
        struct sockaddr_storage at;
        socklen_t n = sizeof at;
        *port = o->port;
        if (getsockname(fd, (struct sockaddr *)&at, &n) == 0) {
            *port = ntohs(at.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&at)->sin6_port
                                                   : ((struct sockaddr_in *)&at)->sin_port);
        }
    }
    freeaddrinfo(found);
    return fd;
}

/* Connections are files: as many as the system allows us to have open. */
unsigned http_most_connections(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return 256;
    }
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < 128) {
        return 32;
    }
    return limit.rlim_cur - 64 < MAX_CONNECTIONS ? (unsigned)limit.rlim_cur - 64 : MAX_CONNECTIONS;
}
