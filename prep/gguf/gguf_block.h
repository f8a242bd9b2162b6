/*
 * gguf_block: what the numbers of a tensor in GGUF are stored as, and reading them.
 *
 * Owns: the table of types: id, name, numbers and bytes of a block, decoding one; those that are
 * known and not read.
 * Leaves to others: the files (gguf), which numbers are a matrix (prep/hf).
 * Threads: a constant table, pure functions.
 *
 * A row of a tensor is whole blocks, one behind the other. Scales are halves (in MXFP4 powers of
 * two), bytes of several numbers are little-endian. Decoded numbers are those of the gguf package
 * (0.19, quants.py, dequantize), to the bit: each product and sum is rounded to f32.
 */
#ifndef PREP_GGUF_GGUF_BLOCK_H
#define PREP_GGUF_GGUF_BLOCK_H

#include "format/safetensors.h"

enum { GGUF_MAX_BLOCK = 256 }; /* numbers of a block, at most */

struct gguf_block {
    uint32_t id; /* ggml_type of ggml.h */
    const char *name;
    uint32_t numbers, bytes; /* of a block; no bytes: the type is known, and not read */
    enum st_dtype dtype;     /* ST_OTHER for blocks of more than one number */
    /* One block to `dst` [numbers]; NULL for types that safetensors have as well. */
    void (*decode)(const uint8_t *src, float *dst);
};

/* NULL where there is none. */
const struct gguf_block *gguf_block_by_id(uint32_t id);
/* The same by the name of a type that is decoded here: NULL for those of safetensors. */
const struct gguf_block *gguf_block_by_name(const char *name);
/* Row i, NULL past the end. */
const struct gguf_block *gguf_block_at(size_t i);
/* "F32, F16, ...", those that are read; to be freed. */
char *gguf_block_list(void);

/* `count` numbers from number `first` on, of blocks that begin at `data`. */
void gguf_block_read(const struct gguf_block *b, const uint8_t *data, uint64_t first,
                     uint64_t count, float *dst);

#endif
