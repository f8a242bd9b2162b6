/*
 * run_text: texts and their ids, piece by piece; see run.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/run/run.h"

enum {
    PIECE_BYTES = RUN_PIECE_BYTES,
    AHEAD_BYTES = 1 << 16, /* of a text whose length is not known */
    END_IDS = 80,          /* more than a tokenizer puts around a text */
    MARK_BYTES = RUN_MARK_BYTES,
};

static const char *name_of(const char *path) {
    return strcmp(path, "-") == 0 ? "standard input" : path;
}

/* Read up to `most` bytes. Returns their number, 0 at the end, or -1. */
static ssize_t read_some(int fd, const char *name, char *out, size_t most, struct err *err) {
    ssize_t n;
    do {
        n = read(fd, out, most);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? err_errno(err, errno, "%s: cannot read", name) : n;
}

/* The bytes of a mark at the beginning of a text that says how it is encoded, which is no part of
 * it: 3 of UTF-8's (Unicode 16, 23.8), 0 where there is none; -1 and `err` for UTF-16's. */
static int mark_bytes(const char *text, size_t bytes, const char *name, struct err *err) {
    if (bytes >= 2 && (memcmp(text, "\xff\xfe", 2) == 0 || memcmp(text, "\xfe\xff", 2) == 0)) {
        return err_set(
            err, "%s: expected UTF-8, found UTF-16; iconv -f UTF-16 -t UTF-8 converts it", name);
    }
    return bytes >= MARK_BYTES && memcmp(text, "\xef\xbb\xbf", MARK_BYTES) == 0 ? MARK_BYTES : 0;
}

static int open_path(const char *path, struct err *err) {
    int fd = strcmp(path, "-") == 0 ? 0 : open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? err_errno(err, errno, "%s: cannot open", path) : fd;
}

int run_read(const char *path, struct buf *out, struct err *err) {
    int fd = open_path(path, err);
    if (fd < 0) {
        return -1;
    }
    char *piece = mem_alloc(PIECE_BYTES);
    const size_t before = out->len;
    ssize_t n;
    while ((n = read_some(fd, name_of(path), piece, PIECE_BYTES, err)) > 0) {
        if (out->len + (size_t)n > RUN_READ_BYTES) {
            n = err_set(err, "%s: expected at most %d MiB", name_of(path), RUN_READ_BYTES >> 20);
            break;
        }
        buf_append(out, piece, (size_t)n);
    }
    free(piece);
    if (fd != 0) {
        close(fd);
    }
    const size_t bytes = out->len - before;
    int mark =
        n < 0 || bytes == 0 ? (int)n : mark_bytes(out->data + before, bytes, name_of(path), err);
    if (mark > 0) {
        out->len -= (size_t)mark;
        memmove(out->data + before, out->data + before + mark, bytes - (size_t)mark + 1);
    }
    return mark < 0 ? -1 : 0;
}

/* -- texts ---------------------------------------------------------------------------------- */

/* The next bytes of a text's file, up to PIECE_BYTES, after those that were read to look at. */
static ssize_t read_piece(struct run_text *t, char *piece, struct err *err) {
    if (t->n_first > 0) {
        const size_t n = t->n_first;
        memcpy(piece, t->first, n);
        t->n_first = 0;
        return (ssize_t)n;
    }
    return read_some(t->fd, t->name, piece, PIECE_BYTES, err);
}

/* Read the first bytes, to see how the text is encoded. */
static int look_at_beginning(struct run_text *t, struct err *err) {
    ssize_t n = 1;
    while (t->n_first < MARK_BYTES && n > 0) {
        n = read_some(t->fd, t->name, t->first + t->n_first, MARK_BYTES - t->n_first, err);
        t->n_first += n > 0 ? (size_t)n : 0;
    }
    int mark = n < 0 ? -1 : mark_bytes(t->first, t->n_first, t->name, err);
    if (mark > 0) {
        t->n_first = 0;
        t->marked = true;
        t->bytes -= t->bytes == UINT64_MAX ? 0 : MARK_BYTES;
    }
    return mark < 0 ? -1 : 0;
}

int run_text_open(struct run_text *t, const char *path, struct err *err) {
    struct stat info;
    *t = (struct run_text){.name = name_of(path), .bytes = UINT64_MAX};
    t->fd = open_path(path, err);
    if (t->fd < 0) {
        return -1;
    }
    if (fstat(t->fd, &info) == 0 && S_ISDIR(info.st_mode)) {
        return err_errno(err, EISDIR, "%s: cannot read", t->name);
    }
    if (fstat(t->fd, &info) == 0 && S_ISREG(info.st_mode) && info.st_size > 0) {
        t->bytes = (uint64_t)info.st_size;
    }
    return look_at_beginning(t, err);
}

void run_text_of(struct run_text *t, const char *data, size_t bytes) {
    *t = (struct run_text){.fd = -1, .data = data, .data_bytes = bytes, .bytes = bytes};
}

int run_text_measure(struct run_text *t, struct err *err) {
    ssize_t n = 1;
    if (t->bytes != UINT64_MAX || t->owned) {
        return 0;
    }
    t->data = t->owned = mem_alloc(AHEAD_BYTES + PIECE_BYTES);
    while (t->data_bytes < AHEAD_BYTES && (n = read_piece(t, t->owned + t->data_bytes, err)) > 0) {
        t->data_bytes += (size_t)n;
    }
    t->bytes = n == 0 ? t->data_bytes : UINT64_MAX;
    return n < 0 ? -1 : 0;
}

ssize_t run_text_read(struct run_text *t, char piece[RUN_PIECE_BYTES], struct err *err) {
    ssize_t n = read_piece(t, piece, err);
    t->read_bytes += n > 0 ? (uint64_t)n : 0;
    return n;
}

void run_text_close(struct run_text *t) {
    if (t->fd > 0) {
        close(t->fd);
    }
    free(t->owned);
    *t = (struct run_text){.fd = -1};
}

/* -- ids ------------------------------------------------------------------------------------ */

int run_tokens_open(struct run_tokens *k, const struct run *r, struct run_text *text,
                    bool add_special, bool parse_special, struct err *err) {
    struct corm_error error;
    *k = (struct run_tokens){.run = r, .text = text, .add_special = add_special};
    if (corm_encoder_open(&k->encoder, r->engine, add_special, parse_special, &error) < 0) {
        return run_fail(err, &error);
    }
    return 0;
}

/* Remember the first END_IDS ids of the text, and the last ones. */
static void note_ends(struct run_tokens *k, const int32_t *ids, size_t n) {
    if (n == 0 || !k->add_special) {
        return;
    }
    k->ends = mem_grow(k->ends, k->n_ends + n, &k->ends_cap, sizeof *k->ends);
    memcpy(k->ends + k->n_ends, ids, n * sizeof *ids);
    k->n_ends += n;
    if (k->n_ends > 2 * END_IDS) {
        memmove(k->ends + END_IDS, k->ends + k->n_ends - END_IDS, END_IDS * sizeof *k->ends);
        k->n_ends = 2 * END_IDS;
    }
}

/* What a reader of the text would not see. */
static void tell_oddities(const struct run_tokens *k) {
    const struct run_text *t = k->text;
    char token[64];
    char *name = k->run->o->quiet || !t->name ? NULL : text_cleaned(t->name);
    if (name && t->marked) {
        fprintf(stderr, "corm-run: %s begins with a byte order mark, which is left out\n", name);
    }
    if (name && t->has_cr) {
        fprintf(stderr, "corm-run: %s has carriage returns (CR), which are read as they are\n",
                name);
    }
    free(name);
    if (k->add_special && !k->run->o->quiet && k->n_ends > 0 &&
        corm_special_doubled(k->run->engine, k->ends, k->n_ends, token)) {
        fprintf(stderr,
                "corm-run: the text has %s where the tokenizer adds one: the model reads it "
                "twice\n",
                token);
    }
}

/* Hand text to the encoder, NULL for its end, and take the ids that come. */
static int push(struct run_tokens *k, const char *text, size_t bytes, struct err *err) {
    struct corm_error error;
    const int32_t *ids;
    size_t n;
    if (corm_encoder_push(k->encoder, text, bytes, &ids, &n, &error) < 0) {
        run_fail(err, &error);
        return k->text->name ? err_prefix(err, "%s", k->text->name) : -1;
    }
    note_ends(k, ids, n);
    if (n > 0) {
        k->ids = mem_grow(k->ids, k->n + n, &k->cap, sizeof *k->ids);
        memcpy(k->ids + k->n, ids, n * sizeof *ids);
        k->n += n;
    }
    if (!text) {
        k->ended = true;
        tell_oddities(k);
    }
    return 0;
}

/* The next bytes of the text, which may lie in `piece`: their number, 0 at its end, or -1. */
static ssize_t next_piece(struct run_text *t, char *piece, const char **text, struct err *err) {
    if (t->read_bytes < t->data_bytes) {
        uint64_t left = t->data_bytes - t->read_bytes;
        *text = t->data + t->read_bytes;
        return left < PIECE_BYTES ? (ssize_t)left : PIECE_BYTES;
    }
    *text = piece;
    return t->fd >= 0 && t->bytes != t->data_bytes ? read_piece(t, piece, err) : 0;
}

/* Read one piece of the text, or meet its end. */
static int read_on(struct run_tokens *k, char *piece, struct err *err) {
    struct run_text *t = k->text;
    const char *text;
    ssize_t n = next_piece(t, piece, &text, err);
    if (n <= 0) {
        return n < 0 ? -1 : push(k, NULL, 0, err);
    }
    t->read_bytes += (uint64_t)n;
    t->has_cr |= memchr(text, '\r', (size_t)n) != NULL;
    bool held = t->held;
    t->held = t->trimmed && text[n - 1] == '\n';
    n -= t->held;
    return (held && push(k, "\n", 1, err) < 0) || (n > 0 && push(k, text, (size_t)n, err) < 0) ? -1
                                                                                               : 0;
}

int run_tokens_want(struct run_tokens *k, size_t n, struct err *err) {
    char *piece = mem_alloc(PIECE_BYTES);
    int rc = 0;
    while (rc == 0 && k->n < n && !k->ended) {
        rc = run_interrupted() ? RUN_INTERRUPTED : read_on(k, piece, err);
    }
    free(piece);
    return rc;
}

int run_tokens_all(struct run_tokens *k, size_t room, struct run_ids *out, uint64_t *n_all,
                   struct err *err) {
    int rc = run_tokens_want(k, room + 1, err);
    if (rc == 0 && k->n <= room) {
        *n_all = k->n;
        *out = (struct run_ids){k->ids, k->n};
        k->ids = NULL;
        k->n = k->cap = 0;
        return 0;
    }
    while (rc == 0 && !k->ended && k->dropped + k->n <= RUN_MOST_TOK) {
        run_tokens_drop(k, k->n);
        rc = run_tokens_want(k, 1, err);
    }
    *n_all = k->dropped + k->n;
    return rc;
}

void run_tokens_drop(struct run_tokens *k, size_t n) {
    if (n > 0) {
        k->n -= n;
        k->dropped += n;
        memmove(k->ids, k->ids + n, k->n * sizeof *k->ids);
    }
}

void run_tokens_close(struct run_tokens *k) {
    corm_encoder_close(k->encoder);
    free(k->ids);
    free(k->ends);
    *k = (struct run_tokens){0};
}
