/*
 * corm_file: the on-disk structs of a .corm archive, version 1, and nothing else.
 *
 * docs/FORMAT.md is normative; this header mirrors it. All numbers are little-endian and
 * fixed-width; reserved fields are written as zero and must be zero. No pointers, no behaviour.
 */
#ifndef FORMAT_CORM_FILE_H
#define FORMAT_CORM_FILE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define CORM_MAGIC "CORM\r\n\x1a\n" /* 8 bytes: text-mode transfers and truncation show at once */

enum {
    CORM_VERSION = 1,
    CORM_HEADER_BYTES = 4096, /* the header page; the first section starts here */
    CORM_SECTION_ALIGN = 4096,
    CORM_RECORD_ALIGN = 4096, /* start of an expert's record */
    CORM_CHUNK_ALIGN = 64,    /* start of a chunk in its record, and of a trunk tensor */
    CORM_MAX_SECTIONS = 64,
    CORM_MAX_CHUNK_BYTES = 1 << 26, /* of a decoded chunk */
};

/* Incompatible features: a reader that does not know a set bit refuses the file. */
#define CORM_INCOMPAT_MIXED UINT64_C(1) /* each chunk names its codec */
#define CORM_INCOMPAT_KNOWN CORM_INCOMPAT_MIXED

struct corm_header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t section_count;
    uint64_t incompat; /* feature bits that a reader must know */
    uint64_t compat;   /* feature bits that a reader may ignore */
    uint64_t file_bytes;
    uint64_t table_offset; /* of struct corm_section[section_count] */
    uint64_t table_hash;   /* XXH3-64 of the section table */
    uint32_t shard_index;  /* 0; reserved for archives in several files */
    uint32_t shard_count;  /* 1 */
    uint64_t reserved[7];
    uint64_t header_hash; /* XXH3-64 of the bytes before this field */
};
static_assert(sizeof(struct corm_header) == 128, "header");
static_assert(offsetof(struct corm_header, header_hash) == 120, "header hash");

enum corm_section_type {
    CORM_SECTION_METADATA = 1,
    CORM_SECTION_TOKENIZER = 2,
    CORM_SECTION_TENSORS = 3,    /* struct corm_tensor[], the trunk's index */
    CORM_SECTION_TRUNK = 4,      /* tensors only, each with its own checksum: hash is 0 */
    CORM_SECTION_RECORDS = 5,    /* chunks only, each with its own checksum: hash is 0 */
    CORM_SECTION_INDEX = 6,      /* struct corm_record[], then struct corm_chunk[] */
    CORM_SECTION_PROVENANCE = 7, /* UTF-8 lines "key: value" */
    CORM_SECTION_LICENSE = 8,    /* UTF-8 text of the checkpoint's licence file; may be absent */
    CORM_SECTION_PREDICTORS = 9, /* what calibration learned: corm_predict.h; may be absent */
    CORM_SECTION_CONVERSATIONS = 10, /* text/chat_book.h; may be absent */
};

enum {
    CORM_SECTION_OPTIONAL = 1, /* flag: a reader may ignore the section if it does not know it */
};

struct corm_section {
    uint32_t type;
    uint32_t flags;
    uint64_t offset;
    uint64_t bytes;
    uint64_t hash; /* XXH3-64 of the section's bytes; 0 for TRUNK and RECORDS */
};
static_assert(sizeof(struct corm_section) == 32, "section");

/* One trunk tensor. Sorted by (layer, slot); model-scope tensors have layer 0xffffffff and come
 * first. */
struct corm_tensor {
    uint32_t slot; /* enum slot_id */
    uint32_t layer;
    uint32_t codec; /* enum codec_id */
    uint32_t rows, cols;
    uint32_t reserved;
    uint64_t offset; /* from the start of the file */
    uint64_t bytes;  /* rows * row bytes of the codec */
    uint64_t hash;   /* XXH3-64 of the tensor's bytes */
};
static_assert(sizeof(struct corm_tensor) == 48, "tensor");

#define CORM_LAYER_NONE UINT32_MAX /* model scope */

/* The index opens with this, then n_records structs corm_record in (layer, expert) order over MoE
 * layers, then n_chunks structs corm_chunk in record order. */
struct corm_index_header {
    uint32_t n_records;
    uint32_t n_chunks;
    uint32_t codec;         /* of every expert row; MIXED: 0 */
    uint32_t chunk_neurons; /* neurons of every chunk but a record's last; hot and cold alike; at
                               most ffn_dim where there are records */
    uint64_t reserved[2];
};
static_assert(sizeof(struct corm_index_header) == 32, "index header");

struct corm_record {
    uint32_t first_chunk;
    uint16_t n_chunks;
    uint16_t n_hot; /* leading chunks that make up the hot prefix: 0 .. n_chunks */
};
static_assert(sizeof(struct corm_record) == 8, "record");

enum corm_encoding {
    CORM_ENCODING_RAW = 0,    /* the neurons' rows as they are: used in place */
    CORM_ENCODING_ZSTD = 1,   /* one zstd frame; not for 16-bit codecs */
    CORM_ENCODING_PLANES = 2, /* 16-bit codecs: the low byte of every weight (bf16 rotated left by
                                 one bit), then the high bytes as one zstd frame */
    CORM_ENCODING_EXPONENTS = 3, /* bf16: exponents in a code of the commonest, then the rest */
    CORM_ENCODING_COUNT,
};

/*
 * One chunk: `n_neurons` neurons, each three encoded rows of `dim` columns: gate, up, down
 * (transposed). `hash` covers the stored bytes.
 */
struct corm_chunk {
    uint64_t offset; /* from the start of the file */
    uint32_t stored_bytes;
    uint32_t n_neurons;
    uint32_t encoding; /* enum corm_encoding */
    uint32_t codec;    /* in the file 0, but with MIXED; in memory always the chunk's */
    uint64_t hash;
};
static_assert(sizeof(struct corm_chunk) == 32, "chunk");

#endif
