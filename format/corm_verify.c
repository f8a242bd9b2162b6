/*
 * corm_verify: what is checked of an archive beyond corm_open: every chunk and every byte between
 * the parts; and the decoding of one chunk, which is the same check.
 */
#include "format/corm_read.h"

#include <stdlib.h>

#include "format/corm_chunk.h"
#include "format/corm_exponents.h"

/* ---- chunks ---- */

/* Only planes are decoded by way of memory of the decoder's own. */
static size_t decoded_aside(const struct corm *c) {
    return corm_chunk_encoded(c, CORM_ENCODING_PLANES) ? (size_t)c->chunk_neurons * c->neuron_bytes
                                                       : 0;
}

size_t corm_decoder_bytes(const struct corm *c) {
    return decoded_aside(c) / 2;
}

struct corm_decoder *corm_decoder_new(const struct corm *c) {
    return corm_decoder_sized(decoded_aside(c));
}

static int check_hash(const struct corm_chunk *k, const uint8_t *stored, struct err *err) {
    if (hash64(stored, k->stored_bytes) != k->hash) {
        return err_set(err, "checksum does not match, the file is damaged");
    }
    return 0;
}

/* Say in the message which chunk it is about. */
static int name_chunk(const struct corm *c, const struct corm_chunk *k, struct err *err) {
    char text[64];
    return err_prefix(err, "%s: %s", c->map.path, corm_chunk_name(c, k, text));
}

int corm_chunk_check(const struct corm *c, const struct corm_chunk *k, const uint8_t *stored,
                     struct err *err) {
    size_t n = corm_chunk_raw_bytes(c, k) / 2;
    if (check_hash(k, stored, err) < 0 ||
        (k->encoding == CORM_ENCODING_EXPONENTS &&
         corm_exponents_check(stored, k->stored_bytes, n, err) < 0)) {
        return name_chunk(c, k, err);
    }
    return 0;
}

int corm_chunk_decode(struct corm_decoder *d, const struct corm *c, const struct corm_chunk *k,
                      const uint8_t *stored, uint8_t *dst, struct err *err) {
    if (check_hash(k, stored, err) < 0 ||
        corm_decoder_unpack(d, corm_chunk_codec(c, k), (enum corm_encoding)k->encoding, stored,
                            k->stored_bytes, dst, corm_chunk_raw_bytes(c, k), err) < 0) {
        return name_chunk(c, k, err);
    }
    return 0;
}

struct weight corm_chunk_part(const struct corm *c, const struct corm_chunk *k,
                              const uint8_t *decoded, enum corm_part part) {
    const size_t row_bytes = corm_chunk_neuron_bytes(c, k) / 3;
    return (struct weight){corm_chunk_codec(c, k), k->n_neurons, c->arch.dim, 3 * row_bytes,
                           decoded + part * row_bytes};
}

/* ---- the whole file ---- */

struct verify {
    const struct corm *c;
    uint64_t done; /* every byte before it was looked at */
    uint64_t told; /* `done` when progress was told last */
    void (*progress)(void *ctx, uint64_t done, uint64_t total);
    void *ctx;
    struct err *err;
};

/* What follows starts at `offset`: the gap before it has to be zero. */
static int pass_gap(struct verify *v, uint64_t offset) {
    if (!corm_is_zero(v->c->map.data + v->done, offset - v->done)) {
        return err_set(v->err, "%s: padding before byte %llu is not zero, the file is damaged",
                       v->c->map.path, (unsigned long long)offset);
    }
    v->done = offset;
    return 0;
}

static void pass_part(struct verify *v, uint64_t bytes) {
    enum { STEP = 4 << 20 };
    v->done += bytes;
    if (v->progress && v->done - v->told >= STEP) {
        v->told = v->done;
        v->progress(v->ctx, v->done, v->c->map.size_bytes);
    }
}

static int verify_trunk(struct verify *v) {
    const struct corm *c = v->c;
    for (uint32_t i = 0; i < c->n_tensors; i++) {
        const struct corm_tensor *t = &c->tensors[i];
        if (pass_gap(v, t->offset) < 0) {
            return -1;
        }
        if (corm_tensor_check(c, t, v->err) < 0) {
            return err_prefix(v->err, "%s", c->map.path);
        }
        pass_part(v, t->bytes);
    }
    return 0;
}

int corm_check_trunk(const struct corm *c, struct err *err) {
    for (uint32_t i = 0; i < c->n_tensors; i++) {
        if (corm_tensor_check(c, &c->tensors[i], err) < 0) {
            return err_prefix(err, "%s", c->map.path);
        }
    }
    return 0;
}

/* Decoding a chunk of exponents that passed its check cannot fail. */
static int verify_chunk(const struct corm *c, const struct corm_chunk *k, struct corm_decoder *d,
                        uint8_t *raw, struct err *err) {
    const uint8_t *stored = c->map.data + k->offset;
    return k->encoding == CORM_ENCODING_EXPONENTS ? corm_chunk_check(c, k, stored, err)
                                                  : corm_chunk_decode(d, c, k, stored, raw, err);
}

static int verify_records(struct verify *v) {
    const struct corm *c = v->c;
    struct corm_decoder *d = corm_decoder_new(c);
    uint8_t *raw = mem_alloc_aligned((size_t)c->chunk_neurons * c->neuron_bytes);
    int rc = 0;
    for (uint32_t i = 0; i < c->n_chunks && rc == 0; i++) {
        const struct corm_chunk *k = &c->chunks[i];
        rc = pass_gap(v, k->offset);
        if (rc == 0) {
            rc = verify_chunk(c, k, d, raw, v->err);
        }
        pass_part(v, k->stored_bytes);
    }
    free(raw);
    corm_decoder_free(d);
    return rc;
}

int corm_verify(const struct corm *c, void (*progress)(void *ctx, uint64_t done, uint64_t total),
                void *ctx, struct err *err) {
    struct verify v = {c, CORM_HEADER_BYTES, 0, progress, ctx, err};
    for (uint32_t i = 0; i < c->header.section_count; i++) {
        const struct corm_section *s = &c->sections[i];
        if (pass_gap(&v, s->offset) < 0) {
            return -1;
        }
        int rc = 0;
        if (s->type == CORM_SECTION_TRUNK) {
            rc = verify_trunk(&v);
        } else if (s->type == CORM_SECTION_RECORDS) {
            rc = verify_records(&v);
        } else { /* its checksum was compared at open */
            pass_part(&v, s->bytes);
        }
        if (rc < 0) {
            return -1;
        }
    }
    if (pass_gap(&v, c->header.table_offset) < 0) {
        return -1;
    }
    if (progress) {
        progress(ctx, c->map.size_bytes, c->map.size_bytes);
    }
    return 0;
}
