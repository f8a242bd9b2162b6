/*
 * corm_read: a validated view of a .corm archive.
 *
 * Owns: the file map; checks of every offset, size, id and count at open, so that users of the view
 * trust it; checksums of the small sections and the trunk; decoding of chunks.
 *
 * What is trusted cannot change afterwards: the header, the section table and the small sections
 * are copied before they are checked, and everything but weights is used from the copies. No
 * section is copied that is larger than corm_section_most_bytes. Trunk and records stay in the map,
 * where another program may write at any time. So code that computes with weights or decodes them
 * must stay inside their bounds whatever they contain. (If the file is cut short meanwhile, the
 * program ends where the map has no bytes any more.)
 *
 * Leaves to others: which bytes are brought to memory and when (runtime/cache), the tokenizer's own
 * format (tokenizer), what metadata means (arch).
 * Threads: immutable after open. corm_chunk_decode may run on many threads, each with its own
 * decoder.
 */
#ifndef FORMAT_CORM_READ_H
#define FORMAT_CORM_READ_H

#include "format/arch.h"
#include "format/corm_chunk.h"
#include "format/corm_file.h"

enum { CORM_CODEC_NAMES = 64 };

struct corm_bytes {
    const uint8_t *data; /* borrowed until corm_close, 64-byte aligned; NULL = absent */
    size_t size_bytes;
};

struct corm {
    struct map map;
    bool in_memory; /* opened by corm_open_memory: the bytes are the caller's */
    struct arch arch;
    struct corm_header header;
    struct corm_section sections[CORM_MAX_SECTIONS]; /* [header.section_count] */
    uint8_t *copies[CORM_MAX_SECTIONS];              /* of sections, 64-byte aligned, or NULL */
    uint64_t copied_bytes;                           /* their sum: memory that the view takes */

    struct corm_bytes tokenizer, provenance, license, predictors, conversations; /* copies */

    const struct corm_tensor *tensors; /* [n_tensors] */
    uint32_t n_tensors;

    const struct codec *expert_codec;   /* of all chunks, or of several the one of longest rows */
    bool mixed;                         /* chunks have several codecs: corm_chunk_codec */
    char codec_names[CORM_CODEC_NAMES]; /* "q4", or "q8+q4" */
    uint32_t chunk_neurons;
    size_t neuron_bytes;               /* 3 encoded rows of arch.dim columns in expert_codec */
    const struct corm_record *records; /* [n_records]; see corm_record_of */
    uint32_t n_records;
    const struct corm_chunk *chunks; /* [n_chunks] */
    uint32_t n_chunks;
    /* [n_layers] index of the layer's first record; UINT32_MAX without experts */
    uint32_t *layer_record;
};

enum corm_open_flags {
    CORM_OPEN_SKIP_TRUNK_HASH = 1, /* do not read the trunk: see corm_check_trunk */
};

/* Map and validate `path`. Unknown version, incompatible bit, codec, encoding or section type:
 * refused by name. On error everything is released. */
int corm_open(struct corm *c, const char *path, unsigned flags, struct err *err);
/* The same for an archive in memory: `data` (64-byte aligned) stays the caller's and outlives the
 * view; `name` stands for the path in messages. */
int corm_open_memory(struct corm *c, const void *data, size_t bytes, const char *name,
                     unsigned flags, struct err *err);
/* Accepts a zeroed struct. */
void corm_close(struct corm *c);
/* Compare the checksums of all trunk tensors, which brings the whole trunk to memory: for who
 * opened without, to see first whether there is room. The message names file and tensor. */
int corm_check_trunk(const struct corm *c, struct err *err);

/* A trunk tensor as a weight view into the map; data NULL where the model has none. `layer` is
 * ignored for model scope. Presence and shape were checked at open against the slot table. */
struct weight corm_tensor_get(const struct corm *c, enum slot_id slot, uint32_t layer);

/* The record of an expert. `layer` must be a MoE layer. */
const struct corm_record *corm_record_of(const struct corm *c, uint32_t layer, uint32_t expert);

/* All experts have the same number; 0 where there are none. */
static inline uint32_t corm_chunks_per_expert(const struct corm *c) {
    return c->n_records ? c->records[0].n_chunks : 0;
}

/* The codec of a chunk's rows. */
static inline const struct codec *corm_chunk_codec(const struct corm *c,
                                                   const struct corm_chunk *k) {
    return c->mixed ? codec_by_id(k->codec) : c->expert_codec;
}
/* Bytes of a neuron of the chunk, and of the chunk, once decoded. */
static inline size_t corm_chunk_neuron_bytes(const struct corm *c, const struct corm_chunk *k) {
    return c->mixed ? 3 * codec_row_bytes(corm_chunk_codec(c, k), c->arch.dim) : c->neuron_bytes;
}
static inline size_t corm_chunk_raw_bytes(const struct corm *c, const struct corm_chunk *k) {
    return (size_t)k->n_neurons * corm_chunk_neuron_bytes(c, k);
}
/* The first chunk with an encoding, NULL where there is none. */
static inline const struct corm_chunk *corm_chunk_encoded(const struct corm *c,
                                                          enum corm_encoding encoding) {
    for (uint32_t i = 0; i < c->n_chunks; i++) {
        if (c->chunks[i].encoding == encoding) {
            return &c->chunks[i];
        }
    }
    return NULL;
}
/* Human name of a chunk for messages: "layer 3 expert 5 chunk 2". Returns `text`. */
const char *corm_chunk_name(const struct corm *c, const struct corm_chunk *k, char text[64]);

/* Scratch for decoding on one thread, large enough for the archive's chunks. More about decoders,
 * which end with corm_decoder_free: corm_chunk.h. */
struct corm_decoder *corm_decoder_new(const struct corm *c);
/* The memory that such a decoder takes, but for a constant that is zstd's. */
size_t corm_decoder_bytes(const struct corm *c);

/* Check the checksum of the stored bytes `stored` [k->stored_bytes] and decode them into `dst`
 * (corm_chunk_raw_bytes, 64-byte aligned, not overlapping). `stored` is the map's own bytes or a
 * copy read by other means. On failure the message names file and chunk. */
int corm_chunk_decode(struct corm_decoder *d, const struct corm *c, const struct corm_chunk *k,
                      const uint8_t *stored, uint8_t *dst, struct err *err);
/* Check only what makes `stored` fit for use as it is: the checksum, and for a chunk of exponents
 * also what corm_exponents_check checks. */
int corm_chunk_check(const struct corm *c, const struct corm_chunk *k, const uint8_t *stored,
                     struct err *err);

/* Views of a decoded chunk: gate, up and down rows [n_neurons, dim], three rows apart. */
enum corm_part { CORM_PART_GATE, CORM_PART_UP, CORM_PART_DOWN };
struct weight corm_chunk_part(const struct corm *c, const struct corm_chunk *k,
                              const uint8_t *decoded, enum corm_part part);

/* Check every checksum in the file, of sections, tensors and chunks, and that every chunk can be
 * decoded. Where `progress` is not NULL, it is called as progress(ctx, done_bytes, total_bytes) now
 * and then. Stops at the first part that is bad. */
int corm_verify(const struct corm *c, void (*progress)(void *ctx, uint64_t done, uint64_t total),
                void *ctx, struct err *err);

/* The name of a section type ("metadata", "trunk", ...) and of an encoding ("raw", "zstd",
 * "planes", "exponents"). NULL where it is unknown. */
const char *corm_section_name(uint32_t type);
const char *corm_encoding_name(uint32_t encoding);

/* ---- sizes ---- */

/* The largest sizes that are accepted (docs/FORMAT.md, "Limits"). */
enum {
    CORM_MAX_METADATA_BYTES = 16 << 20,
    CORM_MAX_TOKENIZER_BYTES = 256 << 20,
    CORM_MAX_TEXT_BYTES = 64 << 20, /* of the provenance, and of the licence */
    CORM_MAX_INDEX_BYTES = 512 << 20,
    CORM_MIN_PREDICTORS_BYTES = 64 << 20,
};
#define CORM_MAX_PREDICTORS_BYTES (UINT64_C(4) << 30)

/* The most bytes that a section may have: all that a model of this `arch` can need, or one of the
 * limits above. For the metadata `arch` is not used, and may be NULL. UINT64_MAX for trunk, records
 * and unknown types, which are not copied. */
uint64_t corm_section_most_bytes(uint32_t type, const struct arch *arch);

/* ---- shared by corm_read.c, corm_records.c and corm_verify.c ---- */

/* Check the index and take it over; sections that were checked, of which `index` was copied. The
 * message lacks the file's name. */
int corm_records_read(struct corm *c, const struct corm_section *index,
                      const struct corm_section *records, struct err *err);

/* Whether the section table holds a checksum of the section (else its parts have their own). */
bool corm_section_has_hash(uint32_t type);
/* Compare a trunk tensor's checksum. The message lacks the file's name. */
int corm_tensor_check(const struct corm *c, const struct corm_tensor *t, struct err *err);
bool corm_is_zero(const uint8_t *data, size_t bytes);

#endif
