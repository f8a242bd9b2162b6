/*
 * session_file: sessions as files (docs/FORMAT-session.md).
 *
 * Owns: the header's struct and the check of a whole file. Nothing of a file is used before it has
 * passed; afterwards only numbers are taken from it: ids within the vocabulary, and floats, which
 * may be any.
 *
 * The bytes may be those of a mapped file, where another program may write at any time. So whatever
 * has to be true of them is checked on a copy, and used from it: the header and the ids. Logits and
 * state stay where they are and are read once; what changes in them after the checksum changes
 * numbers, and nothing else.
 *
 * Leaves to others: what the numbers mean to a model (runtime/model/state).
 * Threads: no state.
 */
#ifndef RUNTIME_SESSION_FILE_H
#define RUNTIME_SESSION_FILE_H

#include <assert.h>

#include "format/corm_read.h"

#define SESSION_MAGIC "CORMSESS"
enum {
    SESSION_VERSION = 1,
    SESSION_MAX_TOK = 1 << 20, /* so that no size of a file overflows */
};

struct session_header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t kv_type;    /* enum kv_type of kernels/backend.h */
    uint64_t archive;    /* header_hash of the archive's header */
    uint64_t way;        /* hash of all else that the state's bits depend on */
    uint64_t file_bytes; /* of this file */
    uint32_t n_tok;      /* the sequence */
    uint32_t n_held;     /* of them, those that the state stands for */
    uint32_t n_logits;   /* 0, or the vocabulary: of the last token */
    uint32_t reserved[7];
    uint64_t body_hash;   /* XXH3-64 of all that follows the header */
    uint64_t header_hash; /* of the header before this field */
};
static_assert(sizeof(struct session_header) == 96, "session header");

struct session_file {
    struct session_header header; /* a copy */
    int32_t *ids;                 /* [n_tok] a copy; NULL where there are none */
    const uint8_t *logits;        /* float [n_logits], borrowed from the file's bytes */
    const uint8_t *state;         /* the pieces of state_walk, one behind the other; borrowed */
    size_t state_bytes;
};

/* Check `data` as a session of the archive; `name` begins the error's line. Free with
 * session_file_free where it succeeds. */
int session_file_check(struct session_file *f, const void *data, size_t bytes, const char *name,
                       const struct corm *archive, struct err *err);
/* Accepts a zeroed struct. */
void session_file_free(struct session_file *f);
/* Bytes of ids in the file. */
static inline uint64_t session_ids_bytes(uint32_t n_tok) {
    return align_up((uint64_t)n_tok * sizeof(int32_t), 8);
}

#endif
