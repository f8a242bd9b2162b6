/*
 * http, with an endpoint of the test's own: what is sent when, and who is cut off.
 */
#include "tests/util/test.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "runtime/serve/http.h"

static const uint64_t ms = 1000000;

/* A server whose exchanges the test answers. */
struct rig {
    struct http *http;
    struct guard guard;
    pthread_mutex_t lock;
    struct http_exchange *x; /* the last one that was kept */
    unsigned n_done;
};

static void handle(void *ctx, struct http_exchange *x) {
    struct rig *r = ctx;
    if (strcmp(http_path(x), "/now") == 0) {
        struct buf body = {0};
        buf_printf(&body, "%zu bytes", http_body(x)->len);
        http_answer(x, 200, "text/plain", &body);
        return;
    }
    http_keep(x);
    if (strcmp(http_path(x), "/wait") == 0) {
        http_wait(x);
    }
    pthread_mutex_lock(&r->lock);
    r->x = x;
    pthread_mutex_unlock(&r->lock);
}

static void refuse(void *ctx, struct http_exchange *x, unsigned status, const char *why) {
    struct buf body = {0};
    (void)ctx;
    buf_printf(&body, "refused: %s", why);
    http_answer(x, status, "text/plain", &body);
}

static bool is_open(void *ctx, const char *path) {
    (void)ctx;
    (void)path;
    return true;
}

static void done(void *ctx, struct http_exchange *x) {
    struct rig *r = ctx;
    unsigned status = http_status(x); /* while others may still answer */
    pthread_mutex_lock(&r->lock);
    r->n_done += status == 0 || status >= 200;
    pthread_mutex_unlock(&r->lock);
}

static void open_rig(struct rig *r, uint64_t alive_ms, uint64_t slow_ms, uint64_t request_ms) {
    struct err err = {0};
    *r = (struct rig){0};
    pthread_mutex_init(&r->lock, NULL);
    assert_int_equal(guard_open(&r->guard, "127.0.0.1", NULL, NULL, &err), 0);
    const struct http_options o = {.host = "127.0.0.1",
                                   .guard = &r->guard,
                                   .body_bytes = 1000,
                                   .flight_bytes = 1500,
                                   .behind_bytes = 64 << 20,
                                   .alive_ns = alive_ms * ms,
                                   .slow_ns = slow_ms * ms,
                                   .request_ns = request_ms * ms,
                                   .handle = handle,
                                   .refuse = refuse,
                                   .is_open = is_open,
                                   .done = done,
                                   .ctx = r};
    assert_int_equal(http_start(&r->http, &o, &err), 0);
}

static void close_rig(struct rig *r) {
    http_quiesce(r->http);
    http_stop(r->http);
    guard_free(&r->guard);
    pthread_mutex_destroy(&r->lock);
}

static struct http_exchange *take(struct rig *r) {
    struct http_exchange *x = NULL;
    for (int i = 0; i < 500 && !x; i++) {
        pthread_mutex_lock(&r->lock);
        x = r->x;
        r->x = NULL;
        pthread_mutex_unlock(&r->lock);
        clock_sleep_until(clock_ns() + 10 * ms);
    }
    assert_non_null(x);
    return x;
}

static int dial(const struct rig *r) {
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)http_port(r->http)),
                             .sin_addr = {htonl(INADDR_LOOPBACK)}};
    const struct timeval most = {.tv_sec = 10};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
    assert_int_equal(connect(fd, (struct sockaddr *)&to, sizeof to), 0);
    return fd;
}

static int ask(const struct rig *r, const char *path) {
    int fd = dial(r);
    char *text = mem_printf("GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", path);
    assert_int_equal(send(fd, text, strlen(text), 0), strlen(text));
    free(text);
    return fd;
}

/* Reads until `text` was there; "" until the end. */
static void expect(int fd, const char *text, struct buf *got) {
    char piece[4096];
    buf_append(got, "", 0);
    for (;;) {
        if (*text && strstr(got->data, text)) {
            return;
        }
        ssize_t n = recv(fd, piece, sizeof piece, 0);
        if (n <= 0) {
            assert_true(!*text && (n == 0 || errno == ECONNRESET));
            return;
        }
        buf_append(got, piece, (size_t)n);
    }
}

static bool gone_soon(struct rig *r, struct http_exchange *x) {
    for (int i = 0; i < 300; i++) {
        http_tick(r->http);
        if (http_gone(x)) {
            return true;
        }
        clock_sleep_until(clock_ns() + 10 * ms);
    }
    return false;
}

static void an_answer_that_waits(void **state) {
    (void)state;
    struct rig r;
    struct buf got = {0}, body = {0};
    open_rig(&r, 30, 60000, 60000);
    int fd = ask(&r, "/wait");
    struct http_exchange *x = take(&r);
    clock_sleep_until(clock_ns() + 40 * ms);
    http_tick(r.http);
    expect(fd, "application/json", &got); /* the head is there, and a blank */
    assert_non_null(strstr(got.data, "200 OK"));
    clock_sleep_until(clock_ns() + 40 * ms);
    http_tick(r.http);
    buf_printf(&body, "{\"late\": true}");
    http_answer(x, 500, "text/plain", &body);
    http_release(x);
    expect(fd, "0\r\n\r\n", &got);
    assert_non_null(strstr(got.data, " \r\n"));
    assert_non_null(strstr(got.data, "{\"late\": true}"));
    close(fd);
    buf_free(&got);
    close_rig(&r);
}

static void a_stream_that_is_silent(void **state) {
    (void)state;
    struct rig r;
    struct buf got = {0};
    open_rig(&r, 30, 60000, 60000);
    int fd = ask(&r, "/stream");
    struct http_exchange *x = take(&r);
    http_begin(x, "text/event-stream", ": alive\n\n");
    expect(fd, "\r\n\r\n", &got); /* the head goes out at once */
    assert_non_null(strstr(got.data, "text/event-stream"));
    http_tick(r.http);
    assert_null(strstr(got.data, "alive"));
    clock_sleep_until(clock_ns() + 40 * ms);
    http_tick(r.http);
    expect(fd, ": alive\n\n", &got);
    http_write(x, "one", 3);
    expect(fd, "one", &got);
    http_end(x);
    http_release(x);
    expect(fd, "0\r\n\r\n", &got);
    close(fd);
    buf_free(&got);
    close_rig(&r);
}

static void clients_that_leave(void **state) {
    (void)state;
    struct rig r;
    open_rig(&r, 60000, 60000, 60000);
    for (int how = 0; how < 4; how++) {
        int fd = ask(&r, how % 2 ? "/wait" : "/stream");
        struct http_exchange *x = take(&r);
        if (how % 2 == 0) {
            http_begin(x, "text/plain", NULL);
        }
        assert_false(http_gone(x));
        http_tick(r.http);
        assert_false(http_gone(x));
        if (how < 2) {
            close(fd);
        } else {
            shutdown(fd, SHUT_WR); /* half-closed counts as gone */
        }
        assert_true(gone_soon(&r, x));
        http_write(x, "nobody", 6);
        http_end(x);
        http_release(x);
        if (how >= 2) {
            close(fd);
        }
    }
    close_rig(&r);
}

static void readers_that_are_slow(void **state) {
    (void)state;
    struct rig r;
    char *much = mem_calloc(1, 1 << 20);
    memset(much, 'x', 1 << 20);
    open_rig(&r, 60000, 50, 60000);
    int fd = ask(&r, "/stream");
    struct http_exchange *x = take(&r);
    http_begin(x, "text/plain", NULL);
    for (int i = 0; i < 30; i++) {
        http_write(x, much, 1 << 20);
    }
    assert_true(gone_soon(&r, x)); /* nothing was read for 50 ms */
    http_end(x);
    http_release(x);
    close(fd);
    fd = ask(&r, "/stream");
    x = take(&r);
    http_begin(x, "text/plain", NULL);
    for (int i = 0; i < 100; i++) {
        http_write(x, much, 1 << 20);
    }
    assert_false(http_gone(x)); /* no reader could have taken it yet */
    clock_sleep_until(clock_ns() + 1100 * ms);
    http_write(x, much, 1);
    assert_true(http_gone(x)); /* too much waits, and did a second ago */
    http_end(x);
    http_release(x);
    close(fd);
    free(much);
    close_rig(&r);
}

static void requests_that_do_not_come(void **state) {
    (void)state;
    struct rig r;
    struct buf got = {0};
    open_rig(&r, 60000, 60000, 60);
    int fds[] = {dial(&r), dial(&r)};
    assert_int_equal(send(fds[1], "POST /now HT", 12, 0), 12);
    clock_sleep_until(clock_ns() + 100 * ms);
    http_tick(r.http);
    for (int i = 0; i < 2; i++) {
        expect(fds[i], "", &got);
        close(fds[i]);
    }
    assert_int_equal(got.len, 0);
    /* One that is being answered has time. */
    int fd = ask(&r, "/stream");
    struct http_exchange *x = take(&r);
    clock_sleep_until(clock_ns() + 100 * ms);
    http_tick(r.http);
    http_begin(x, "text/plain", NULL);
    http_write(x, "there", 5);
    expect(fd, "there", &got);
    http_end(x);
    http_release(x);
    close(fd);
    buf_free(&got);
    close_rig(&r);
}

static void bodies_have_a_budget(void **state) {
    (void)state;
    static const char head[] = "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                               "application/json\r\nContent-Length: %d\r\n\r\n";
    struct rig r;
    struct buf got = {0};
    open_rig(&r, 60000, 60000, 60000);
    const struct {
        int bytes;
        const char *status;
    } cases[] = {{900, "200 OK"}, {1001, "413 "}};
    for (size_t i = 0; i < 2; i++) {
        struct buf text = {0};
        int fd = dial(&r);
        buf_printf(&text, head, "/now", cases[i].bytes);
        for (int k = 0; k < cases[i].bytes; k++) {
            buf_append(&text, "x", 1);
        }
        assert_int_equal(send(fd, text.data, text.len, 0), text.len);
        got.len = 0;
        expect(fd, cases[i].status, &got);
        close(fd);
        buf_free(&text);
    }
    int first = dial(&r), second = dial(&r);
    struct buf text = {0};
    buf_printf(&text, head, "/now", 900);
    assert_int_equal(send(first, text.data, text.len, 0), text.len);
    clock_sleep_until(clock_ns() + 100 * ms);
    for (int k = 0; k < 900; k++) {
        buf_append(&text, "x", 1);
    }
    assert_int_equal(send(second, text.data, text.len, 0), text.len);
    got.len = 0;
    expect(second, "429 ", &got); /* the first has taken the room, and sends nothing */
    expect(second, "refused: there is no room", &got);
    close(first);
    close(second);
    buf_free(&text);
    buf_free(&got);
    close_rig(&r);
}

struct ticks {
    struct http *http;
    atomic_bool enough;
};

static void *tick_on(void *ctx) {
    struct ticks *t = ctx;
    while (!atomic_load(&t->enough)) {
        http_tick(t->http);
    }
    return NULL;
}

/* However a look at connections falls between what is written and what is read, nobody who reads on
 * counts as slow, and no new connection as one that asks for nothing. */
static void looks_come_at_any_time(void **state) {
    (void)state;
    enum { PIECES = 4000, PIECE = 512 };
    static char piece[PIECE], got[65536];
    struct rig r;
    open_rig(&r, 60000, 60000, 60000);
    struct ticks ticks = {.http = r.http};
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, tick_on, &ticks), 0);
    int fd = ask(&r, "/stream");
    struct http_exchange *x = take(&r);
    http_begin(x, "text/plain", NULL);
    memset(piece, 'x', sizeof piece);
    size_t sent = 0, read = 0;
    for (int i = 0; i < PIECES && !http_gone(x); i++) {
        http_write(x, piece, sizeof piece);
        sent += sizeof piece;
        for (ssize_t n; (n = recv(fd, got, sizeof got, MSG_DONTWAIT)) > 0;) {
            read += (size_t)n;
        }
    }
    assert_false(http_gone(x));
    http_end(x);
    http_release(x);
    for (ssize_t n; read < sent && (n = recv(fd, got, sizeof got, 0)) > 0;) {
        read += (size_t)n;
    }
    assert_true(read >= sent);
    atomic_store(&ticks.enough, true);
    pthread_join(thread, NULL);
    close(fd);
    close_rig(&r);
}

/* A body whose length was not said takes the room of the longest, until it is there. */
static void chunks_take_what_they_are(void **state) {
    (void)state;
    static const char request[] = "POST /stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                                  "application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                                  "2\r\n{}\r\n0\r\n\r\n";
    struct rig r;
    int fds[3];
    struct http_exchange *x[3];
    open_rig(&r, 60000, 60000, 60000);
    for (size_t i = 0; i < 3; i++) {
        fds[i] = dial(&r);
        assert_int_equal(send(fds[i], request, sizeof request - 1, 0), sizeof request - 1);
        x[i] = take(&r); /* the ones before are in work yet */
    }
    for (size_t i = 0; i < 3; i++) {
        http_release(x[i]);
        close(fds[i]);
    }
    close_rig(&r);
}

/* A header that others may read otherwise: the body would be the next request. */
static void headers_with_blanks(void **state) {
    (void)state;
    static const char request[] = "POST /now HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                                  "application/json\r\nContent-Length : 40\r\n\r\n"
                                  "GET /now HTTP/1.1\r\nHost: localhost\r\n\r\n";
    struct rig r;
    struct buf got = {0};
    open_rig(&r, 60000, 60000, 60000);
    int fd = dial(&r);
    assert_int_equal(send(fd, request, sizeof request - 1, 0), sizeof request - 1);
    expect(fd, "", &got);
    assert_non_null(strstr(got.data, "400 Bad Request"));
    assert_non_null(strstr(got.data, "has a blank in it"));
    assert_null(strstr(got.data, "0 bytes"));
    close(fd);
    buf_free(&got);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_answer_that_waits),      cmocka_unit_test(a_stream_that_is_silent),
        cmocka_unit_test(clients_that_leave),        cmocka_unit_test(readers_that_are_slow),
        cmocka_unit_test(requests_that_do_not_come), cmocka_unit_test(bodies_have_a_budget),
        cmocka_unit_test(chunks_take_what_they_are), cmocka_unit_test(headers_with_blanks),
        cmocka_unit_test(looks_come_at_any_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
