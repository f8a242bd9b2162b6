/*
 * session_save: sessions to files and back (session_file.h says what a file is).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/fatal.h"
#include "runtime/session.h"
#include "runtime/session_file.h"

/* ---- the way ---- */

/* All that the bits of a state depend on beside archive and tokens, but for the type of its keys
 * and values, which the header has. */
static uint64_t way_of(const struct corm_engine *e) {
    const struct arch *a = &e->archive.arch;
    struct buf text = {0};
    buf_printf(&text, "%s %s %s %u %a %d ", corm_version(), e->backend.name, e->backend.isa,
               (unsigned)(e->plan.missed == CORM_MISSED_CPU), (double)e->opt.loss_percent,
               e->opt.loss_in_batches);
    buf_append(&text, a->rope_scale, a->n_ropes * sizeof *a->rope_scale);
    buf_append(&text, a->rope_inv_freq, a->n_inv_freq * sizeof *a->rope_inv_freq);
    uint64_t hash = hash64(text.data, text.len);
    buf_free(&text);
    return hash;
}

/* ---- saving ---- */

enum { PIECE_BYTES = 1 << 16 };

struct writer {
    struct corm_session *session;
    const char *path; /* that is written */
    int fd;
    struct hasher *hash;
    uint8_t *piece; /* [PIECE_BYTES] */
    struct err *err;
};

static int put(struct writer *w, const void *data, size_t bytes) {
    hasher_add(w->hash, data, bytes);
    return file_write_all(w->fd, data, bytes, w->path, w->err);
}

static int put_piece(void *ctx, void *piece, size_t bytes) {
    struct writer *w = ctx;
    const struct backend *be = &w->session->engine->backend;
    for (size_t at = 0; at < bytes; at += PIECE_BYTES) {
        const size_t n = bytes - at < PIECE_BYTES ? bytes - at : PIECE_BYTES;
        be->ops->read(be->self, w->piece, (uint8_t *)piece + at, n);
        if (put(w, w->piece, n) < 0) {
            return -1;
        }
    }
    return 0;
}

static int write_all(struct writer *w) {
    const struct corm_session *s = w->session;
    const struct corm_engine *e = s->engine;
    const float *logits = corm_session_logits(s);
    static const uint8_t padding[8];
    struct session_header h = {.version = SESSION_VERSION,
                               .kv_type = (uint32_t)e->opt.kv_type,
                               .archive = e->archive.header.header_hash,
                               .way = way_of(e),
                               .n_tok = s->n_tok,
                               .n_held = corm_session_held(s),
                               .n_logits = logits ? e->archive.arch.vocab : 0};
    const uint64_t ids = (uint64_t)s->n_tok * sizeof *s->history;
    memcpy(h.magic, SESSION_MAGIC, sizeof h.magic);
    h.file_bytes = sizeof h + session_ids_bytes(s->n_tok) + h.n_logits * sizeof *logits +
                   state_walk_bytes(&e->archive.arch, (enum kv_type)h.kv_type, h.n_held);
    /* The header's place is kept: it has the body's hash, and is written last. */
    if (file_write_all(w->fd, &h, sizeof h, w->path, w->err) < 0 || put(w, s->history, ids) < 0 ||
        put(w, padding, session_ids_bytes(s->n_tok) - ids) < 0 ||
        (logits && put(w, logits, h.n_logits * sizeof *logits) < 0) ||
        state_walk(&s->state, h.n_held, put_piece, w) < 0) {
        return -1;
    }
    h.body_hash = hasher_value(w->hash);
    h.header_hash = hash64(&h, offsetof(struct session_header, header_hash));
    if (lseek(w->fd, 0, SEEK_SET) < 0) {
        return err_errno(w->err, errno, "%s: cannot seek", w->path);
    }
    if (file_write_all(w->fd, &h, sizeof h, w->path, w->err) < 0) {
        return -1;
    }
    return fsync(w->fd) < 0 ? err_errno(w->err, errno, "%s: cannot sync", w->path) : 0;
}

/* Write `tmp`, and make it `path` when it is whole. */
static int write_file(struct corm_session *s, const char *tmp, const char *path, struct err *err) {
    struct writer w = {.session = s, .path = tmp, .err = err};
    void (*on_part)(const char *path) = s->engine->opt.on_part;
    sigset_t before;
    fatal_hold(&before);
    w.fd = file_create_part(tmp, path, 0600, err);
    if (w.fd >= 0 && on_part) {
        on_part(tmp);
    }
    fatal_release(&before);
    if (w.fd < 0) {
        return -1;
    }
    w.hash = hasher_new();
    w.piece = mem_alloc(PIECE_BYTES);
    int status = write_all(&w);
    fatal_hold(&before);
    if (status == 0 && rename(tmp, path) < 0) {
        status = err_errno(err, errno, "%s: cannot rename from %s", path, tmp);
    }
    if (status < 0) {
        unlink(tmp);
    }
    if (on_part) {
        on_part(NULL);
    }
    fatal_release(&before);
    if (close(w.fd) < 0 && status == 0) {
        status = err_errno(err, errno, "%s: cannot close", path);
    }
    hasher_free(w.hash);
    free(w.piece);
    return status;
}

int corm_session_save(struct corm_session *s, const char *path, struct corm_error *error) {
    struct err err = {0};
    char *tmp = mem_printf("%s.tmp", path);
    int status = s->pass ? err_set(&err, "%s: a session of an open pass cannot be saved", path)
                         : write_file(s, tmp, path, &err);
    if (status == 0) {
        status = file_sync_name(path, &err);
    }
    free(tmp);
    return status < 0 ? engine_fail(error, &err) : 0;
}

/* ---- loading ---- */

struct taker {
    const struct backend *be;
    const uint8_t *next;
};

static int take_piece(void *ctx, void *piece, size_t bytes) {
    struct taker *r = ctx;
    r->be->ops->write(r->be->self, piece, r->next, bytes);
    r->next += bytes;
    return 0;
}

static void take(struct corm_session *s, const struct session_file *f) {
    const struct corm_engine *e = s->engine;
    const struct session_header *h = &f->header;
    const bool same_way = h->way == way_of(e) && h->kv_type == (uint32_t)e->opt.kv_type;
    struct taker r = {&e->backend, f->state};
    corm_session_truncate(s, 0);
    s->used = ++s->engine->evaluations;
    if (h->n_tok > 0) {
        memcpy(s->history, f->ids, h->n_tok * sizeof *s->history);
    }
    s->n_tok = h->n_tok;
    session_reserve(s, s->n_tok, NULL); /* there is room: it was asked for before */
    if (!same_way) {
        return;
    }
    state_walk(&s->state, h->n_held, take_piece, &r);
    state_restored(&s->state, h->n_held);
    if (h->n_logits > 0) {
        memcpy(session_row(s), f->logits, h->n_logits * sizeof(float));
    }
}

int corm_session_load(struct corm_session *s, const char *path, struct corm_error *error) {
    const struct corm_engine *e = s->engine;
    enum corm_error_code code = CORM_ERROR_OTHER;
    struct session_file f = {0};
    struct err err = {0};
    struct map map = {.fd = -1};
    int status = s->pass ? err_set(&err, "%s: a session of an open pass cannot be loaded", path)
                         : map_open(&map, path, &err);
    if (status == 0) {
        status = session_file_check(&f, map.data, map.size_bytes, path, &e->archive, &err);
    }
    if (status == 0 && f.header.n_tok > e->opt.ctx_tok) {
        code = CORM_ERROR_CONTEXT;
        status = err_set(&err, "%s: a session of %u tokens, the context holds %u", path,
                         f.header.n_tok, e->opt.ctx_tok);
    }
    if (status == 0 && session_reserve(s, f.header.n_tok, &err) < 0) {
        code = CORM_ERROR_MEMORY;
        status = -1;
    }
    if (status == 0) {
        take(s, &f);
    }
    session_file_free(&f);
    map_close(&map);
    return status < 0 ? engine_fail_as(error, &err, code) : 0;
}
