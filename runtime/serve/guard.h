/*
 * guard: who may ask what.
 *
 * Owns: the rules by which a request is let in before anything of its body is read: the host that
 * it was sent to, the page that it comes from, the key, the type and the length of the body.
 * Leaves to others: sockets and headers (http.c, which asks here), what is asked for (routes).
 * Threads: after guard_open nothing changes; any thread may ask.
 *
 * Why so strict for a program that listens on 127.0.0.1: any page in a browser on the same machine
 * can send requests there. A page that made its own name point to 127.0.0.1 (DNS rebinding) is
 * known by its Host, any other by its Origin, and a form, which a browser sends without asking, by
 * its content type.
 */
#ifndef RUNTIME_SERVE_GUARD_H
#define RUNTIME_SERVE_GUARD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/base.h"

enum { GUARD_KEY_BYTES = 255 }; /* most bytes of a key */

struct guard {
    char **hosts; /* names that a request may have been sent to, lower case, without port */
    size_t n_hosts;
    char (*keys)[GUARD_KEY_BYTES + 1]; /* NUL behind and zeros to the end; none: no key is needed */
    size_t n_keys;
};

/* The hosts that are let in always: those of this machine, and `bound`, the address that is
 * listened on unless it stands for all; besides them those of `list`, parted by commas (may be
 * NULL). `key_file` (may be NULL) holds a key a line. -1 and `err`: an empty list or file, a key
 * that is too long or holds blanks. Free with guard_free in every case. */
int guard_open(struct guard *g, const char *bound, const char *list, const char *key_file,
               struct err *err);
void guard_free(struct guard *g);

/* Whether an address is this machine's own: "localhost", "127.0.0.1", "::1". */
bool guard_is_loopback(const char *host);

/* What a request's head says; NULL where a header is missing. */
struct guard_head {
    const char *method, *host, *origin, *authorization, *x_api_key, *content_type;
    unsigned n_hosts, n_lengths,
        n_encodings; /* how often Host, Content-Length, Transfer-Encoding */
    const char *content_length, *encoding;
    bool bad_name; /* a header's name has a blank in it */
    bool open;     /* an endpoint that needs no key */
};
/* 0, or the HTTP status with which the request is refused, and `err` says why. */
unsigned guard_check(const struct guard *g, const struct guard_head *head, struct err *err);

/* The headers that a browser asks leave for, as it may be told them again: false where that is not
 * a list of names. */
bool guard_is_token_list(const char *text);

#endif
