/*
 * guard: see guard.h.
 */
#include "runtime/serve/guard.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char *const own_hosts[] = {"localhost", "127.0.0.1", "::1"};

bool guard_is_loopback(const char *host) {
    for (size_t i = 0; i < sizeof own_hosts / sizeof *own_hosts; i++) {
        if (strcasecmp(host, own_hosts[i]) == 0) {
            return true;
        }
    }
    return strncmp(host, "127.", 4) == 0 && strspn(host, "0123456789.") == strlen(host);
}

/* ---- making ---- */

static void add_host(struct guard *g, const char *name, size_t bytes) {
    char *copy = mem_alloc(bytes + 1);
    for (size_t i = 0; i < bytes; i++) {
        copy[i] = (char)tolower((unsigned char)name[i]);
    }
    copy[bytes] = 0;
    g->hosts = mem_realloc(g->hosts, (g->n_hosts + 1) * sizeof *g->hosts);
    g->hosts[g->n_hosts++] = copy;
}

static int add_hosts(struct guard *g, const char *list, struct err *err) {
    for (const char *at = list; at;) {
        const char *end = strchrnul(at, ',');
        if (end == at) {
            return err_set(err, "--allowed-hosts %s: expected names parted by commas", list);
        }
        add_host(g, at, (size_t)(end - at));
        at = *end ? end + 1 : NULL;
    }
    return 0;
}

static int add_key(struct guard *g, const char *line, size_t bytes, const char *file,
                   struct err *err) {
    if (bytes > GUARD_KEY_BYTES) {
        return err_set(err, "%s: a key of %zu bytes, expected at most %d", file, bytes,
                       GUARD_KEY_BYTES);
    }
    for (size_t i = 0; i < bytes; i++) {
        if (line[i] <= ' ' || line[i] == 0x7f) {
            return err_set(err, "%s: key %zu holds a blank, a control character, or no ASCII", file,
                           g->n_keys + 1);
        }
    }
    g->keys = mem_realloc(g->keys, (g->n_keys + 1) * sizeof *g->keys);
    memset(g->keys[g->n_keys], 0, sizeof *g->keys);
    memcpy(g->keys[g->n_keys++], line, bytes);
    return 0;
}

static int read_keys(struct guard *g, const char *file, struct err *err) {
    uint8_t *data = NULL;
    size_t bytes = 0;
    int rc = file_read(file, 1 << 20, &data, &bytes, err);
    const char *text = (const char *)data, *end = text + bytes;
    while (rc == 0 && text < end) {
        const char *newline = memchr(text, '\n', (size_t)(end - text));
        size_t n = (size_t)((newline ? newline : end) - text);
        size_t key_bytes = n > 0 && text[n - 1] == '\r' ? n - 1 : n;
        rc = key_bytes ? add_key(g, text, key_bytes, file, err) : 0;
        text += n + 1;
    }
    if (rc == 0 && g->n_keys == 0) {
        rc = err_set(err, "%s: holds no key, expected one a line", file);
    }
    if (data) {
        explicit_bzero(data, bytes);
    }
    free(data);
    return rc;
}

int guard_open(struct guard *g, const char *bound, const char *list, const char *key_file,
               struct err *err) {
    *g = (struct guard){0};
    for (size_t i = 0; i < sizeof own_hosts / sizeof *own_hosts; i++) {
        add_host(g, own_hosts[i], strlen(own_hosts[i]));
    }
    if (strcmp(bound, "0.0.0.0") != 0 && strcmp(bound, "::") != 0) {
        add_host(g, bound, strlen(bound));
    }
    if (add_hosts(g, list, err) < 0) {
        return -1;
    }
    return key_file ? read_keys(g, key_file, err) : 0;
}

void guard_free(struct guard *g) {
    for (size_t i = 0; i < g->n_hosts; i++) {
        free(g->hosts[i]);
    }
    free(g->hosts);
    if (g->keys) {
        explicit_bzero(g->keys, g->n_keys * sizeof *g->keys);
    }
    free(g->keys);
    *g = (struct guard){0};
}

/* ---- asking ---- */

/* Whether host[:port], of `bytes` bytes, names one of the hosts. */
static bool knows_host(const struct guard *g, const char *text, size_t bytes) {
    if (bytes > 0 && text[0] == '[') { /* an IPv6 address */
        const char *close = memchr(text, ']', bytes);
        if (!close) {
            return false;
        }
        bytes = (size_t)(close - text) - 1;
        text++;
    } else {
        const char *colon = memchr(text, ':', bytes);
        bytes = colon ? (size_t)(colon - text) : bytes;
    }
    for (size_t i = 0; i < g->n_hosts; i++) {
        if (strlen(g->hosts[i]) == bytes && strncasecmp(g->hosts[i], text, bytes) == 0) {
            return true;
        }
    }
    return false;
}

static bool knows_origin(const struct guard *g, const char *origin) {
    const char *host = strstr(origin, "://");
    return host && knows_host(g, host + 3, strlen(host + 3));
}

/* Takes the same time whatever the keys are, and however much of one is right. */
static bool knows_key(const struct guard *g, const char *given) {
    char padded[GUARD_KEY_BYTES + 1] = {0};
    size_t bytes = strnlen(given, GUARD_KEY_BYTES + 1);
    unsigned known = 0;
    memcpy(padded, given, bytes > GUARD_KEY_BYTES ? 0 : bytes);
    for (size_t k = 0; k < g->n_keys; k++) {
        unsigned differs = 0;
        for (size_t i = 0; i < sizeof padded; i++) {
            differs |= (unsigned char)(padded[i] ^ g->keys[k][i]);
        }
        known |= differs == 0;
    }
    return known;
}

static bool has_key(const struct guard *g, const struct guard_head *h) {
    static const char bearer[] = "Bearer ";
    if (h->authorization && strncasecmp(h->authorization, bearer, sizeof bearer - 1) == 0) {
        const char *key = h->authorization + sizeof bearer - 1;
        return knows_key(g, key + strspn(key, " "));
    }
    return h->x_api_key && knows_key(g, h->x_api_key);
}

static bool is_json(const char *type) {
    static const char json[] = "application/json";
    size_t n = sizeof json - 1;
    return type && strncasecmp(type, json, n) == 0 &&
           (type[n] == 0 || type[n] == ';' || type[n] == ' ');
}

unsigned guard_check(const struct guard *g, const struct guard_head *h, struct err *err) {
    bool asks_leave = strcmp(h->method, "OPTIONS") == 0;
    if (h->n_lengths > 1 || (h->n_lengths > 0 && h->n_encodings > 0) || h->n_encodings > 1) {
        err_set(err, "the length of the body is said twice (Content-Length, Transfer-Encoding)");
        return 400;
    }
    if (h->content_length && (!*h->content_length || strspn(h->content_length, "0123456789") !=
                                                         strlen(h->content_length))) {
        err_set(err, "Content-Length is no number");
        return 400;
    }
    /* What stands before us may take it for the header that it looks like. */
    if (h->bad_name) {
        err_set(err, "the name of a header has a blank in it");
        return 400;
    }
    if (h->encoding && strcasecmp(h->encoding, "chunked") != 0) {
        err_set(err, "Transfer-Encoding: expected chunked");
        return 400;
    }
    if (h->n_hosts > 1) {
        err_set(err, "the header Host is there twice");
        return 400;
    }
    if (!h->host || !knows_host(g, h->host, strlen(h->host))) {
        err_set(err, "the host %s%s%s; --allowed-hosts names others that may be asked for",
                h->host ? "\"" : "", h->host ? h->host : "is not named",
                h->host ? "\" is not one of this server's" : "");
        return 403;
    }
    if (h->origin && !knows_origin(g, h->origin)) {
        err_set(err,
                "requests from the page \"%s\" are refused; --allowed-hosts names hosts whose "
                "pages may ask",
                h->origin);
        return 403;
    }
    /* What needs no key must not take the room of bodies either. */
    if (strcmp(h->method, "POST") != 0 &&
        (h->encoding ||
         (h->content_length && strspn(h->content_length, "0") != strlen(h->content_length)))) {
        err_set(err, "a body is read with POST only");
        return 400;
    }
    if (asks_leave) {
        return 0; /* a browser sends no key with it */
    }
    if (g->n_keys > 0 && !h->open && !has_key(g, h)) {
        err_set(err,
                h->authorization || h->x_api_key
                    ? "the API key is not known here"
                    : "an API key is needed, as `Authorization: Bearer KEY` or `x-api-key: KEY`");
        return 401;
    }
    if (strcmp(h->method, "POST") == 0 && !is_json(h->content_type)) {
        err_set(err, "the body has to come as `Content-Type: application/json`");
        return 415;
    }
    return 0;
}

bool guard_is_token_list(const char *text) {
    static const char chars[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_, ";
    size_t n = strlen(text);
    return n > 0 && n < 4096 && strspn(text, chars) == n;
}
