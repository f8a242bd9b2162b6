/*
 * session_file: see session_file.h.
 */
#include "runtime/session_file.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/model/state.h"

static int check_header(const struct session_header *h, const char *name,
                        const struct corm *archive, struct err *err) {
    if (hash64(h, offsetof(struct session_header, header_hash)) != h->header_hash) {
        return err_set(err, "%s: the session's header is damaged: its checksum differs", name);
    }
    if (h->archive != archive->header.header_hash) {
        return err_set(
            err, "%s: a session of another archive (%016" PRIx64 ", expected %016" PRIx64 " of %s)",
            name, h->archive, archive->header.header_hash, archive->map.path);
    }
    if (h->kv_type >= KV_TYPES) {
        return err_set(err, "%s: a KV cache of type %u, expected 0 to %d", name, h->kv_type,
                       KV_TYPES - 1);
    }
    if (h->n_tok > SESSION_MAX_TOK) {
        return err_set(err, "%s: %u tokens, expected at most %d", name, h->n_tok, SESSION_MAX_TOK);
    }
    if (h->n_held > h->n_tok) {
        return err_set(err, "%s: a state of %u tokens, the session has %u", name, h->n_held,
                       h->n_tok);
    }
    if (h->n_logits != 0 && (h->n_logits != archive->arch.vocab || h->n_tok == 0)) {
        return err_set(err, "%s: %u logits of %u tokens, expected 0 or %u", name, h->n_logits,
                       h->n_tok, archive->arch.vocab);
    }
    for (size_t i = 0; i < sizeof h->reserved / sizeof *h->reserved; i++) {
        if (h->reserved[i] != 0) {
            return err_set(err, "%s: reserved field %zu of the header is %u, expected 0", name, i,
                           h->reserved[i]);
        }
    }
    return 0;
}

/* Copy the ids, and check the copy. */
static int take_ids(struct session_file *f, const uint8_t *ids, const char *name,
                    const struct arch *a, struct err *err) {
    const uint32_t n = f->header.n_tok;
    if (n == 0) {
        return 0;
    }
    f->ids = mem_alloc(n * sizeof *f->ids);
    memcpy(f->ids, ids, n * sizeof *f->ids);
    for (uint32_t i = 0; i < n; i++) {
        if (f->ids[i] < 0 || (uint32_t)f->ids[i] >= a->vocab) {
            err_set(err, "%s: token %u has id %d, outside the vocabulary of %u", name, i, f->ids[i],
                    a->vocab);
            session_file_free(f);
            return -1;
        }
    }
    return 0;
}

int session_file_check(struct session_file *f, const void *data, size_t bytes, const char *name,
                       const struct corm *archive, struct err *err) {
    const uint8_t *p = data;
    *f = (struct session_file){0};
    struct session_header *h = &f->header;
    if (bytes < sizeof h->magic || memcmp(p, SESSION_MAGIC, sizeof h->magic) != 0) {
        return err_set(err, "%s: not a session file", name);
    }
    if (bytes < sizeof *h) {
        return err_set(err, "%s: cut short: %zu bytes, the header alone has %zu", name, bytes,
                       sizeof *h);
    }
    memcpy(h, p, sizeof *h);
    if (h->version != SESSION_VERSION) {
        return err_set(err, "%s: a session file of version %u, this program reads %d", name,
                       h->version, SESSION_VERSION);
    }
    if (check_header(h, name, archive, err) < 0) {
        return -1;
    }
    const uint64_t ids = session_ids_bytes(h->n_tok),
                   logits = (uint64_t)h->n_logits * sizeof(float);
    const uint64_t state = state_walk_bytes(&archive->arch, (enum kv_type)h->kv_type, h->n_held);
    uint64_t whole = 0;
    if (!size_add(sizeof *h + ids + logits, state, &whole) || whole != h->file_bytes) {
        return err_set(err, "%s: %" PRIu64 " bytes by its header, expected %" PRIu64, name,
                       h->file_bytes, whole);
    }
    if (whole != bytes) {
        return err_set(err, "%s: %s: %zu bytes, expected %" PRIu64, name,
                       bytes < whole ? "cut short" : "too long", bytes, whole);
    }
    if (hash64(p + sizeof *h, bytes - sizeof *h) != h->body_hash) {
        return err_set(err, "%s: the session is damaged: its checksum differs", name);
    }
    f->logits = p + sizeof *h + ids;
    f->state = f->logits + logits;
    f->state_bytes = (size_t)state;
    return take_ids(f, p + sizeof *h, name, &archive->arch, err);
}

void session_file_free(struct session_file *f) {
    free(f->ids);
    *f = (struct session_file){0};
}
