/*
 * safetensors: a Hugging Face checkpoint's tensors by name.
 *
 * Owns: the file maps; the header parser (JSON through jansson), which enforces all rules of the
 * official reader, and the two that only the text of the specification has: '{' comes first, and no
 * name occurs twice; sharding through model.safetensors.index.json; the lookup by name.
 * Where there is an index, it decides: a tensor counts in the shard that it names and nowhere else.
 * Shards may lie in folders of the checkpoint. A model.safetensors comes before an index.
 * The header is parsed from one reading of its bytes. Elements stay in the map, where another
 * program may write at any time, so they are numbers that may be any: none is a size or a place.
 * Leaves to others: what the names mean (prep/hf).
 * Threads: immutable after open.
 */
#ifndef FORMAT_SAFETENSORS_H
#define FORMAT_SAFETENSORS_H

#include "format/base.h"

enum { ST_MAX_DIMS = 8, ST_MAX_HEADER_BYTES = 100000000 };

enum st_dtype {
    ST_F32,
    ST_F16,
    ST_BF16,
    ST_F64,
    ST_I64,
    ST_I32,
    ST_U8,
    ST_F8_E4M3, /* without infinities: "FN" */
    ST_F8_E8M0, /* powers of two */
    ST_OTHER,
};

struct st_tensor {
    const char *name;       /* borrowed until st_close */
    const char *dtype_name; /* as in the file: "BF16" */
    enum st_dtype dtype;
    uint32_t n_dims;
    uint64_t shape[ST_MAX_DIMS];
    const uint8_t *data; /* borrowed until st_close; any alignment; row-major */
    uint64_t bytes;
    const char *file;    /* path of its shard, for messages */
    enum st_dtype holds; /* a narrower dtype that holds all of its numbers, where whoever made it
                            looked: else `dtype` itself */
};

struct safetensors;

/* Open a checkpoint directory (single file or index + shards), or one .safetensors file. */
int st_open(struct safetensors **st, const char *path, struct err *err);
/* NULL is allowed. */
void st_close(struct safetensors *st);

/* NULL where there is none. O(1). */
const struct st_tensor *st_find(const struct safetensors *st, const char *name);
/* All tensors, sorted by name. */
size_t st_count(const struct safetensors *st);
const struct st_tensor *st_at(const struct safetensors *st, size_t i);

/* Tensors that the index lists, but that are not in their shard, or whose shard does not exist:
 * only name and file are set. Whoever knows what the names mean decides whether they are missed. */
size_t st_absent_count(const struct safetensors *st);
const struct st_tensor *st_absent(const struct safetensors *st, size_t i);
/* Tensors of the shards that do not count: the index does not list them, or in another shard. */
size_t st_skipped_count(const struct safetensors *st);
const struct st_tensor *st_skipped(const struct safetensors *st, size_t i);

/* Convert `n` elements from element `first` to f32. F32, F16, BF16 only (caller checked dtype). */
void st_read_f32(const struct st_tensor *t, uint64_t first, uint64_t n, float *dst);
/* Bytes of one element; 0 for ST_OTHER. */
uint32_t st_element_bytes(enum st_dtype dtype);

/* Tell the kernel that the tensor's pages (or those of `bytes` bytes from byte `first`) are not
 * needed again, so that the memory in use stays at about one layer. Reading them later is still
 * correct. */
void st_drop_pages(const struct st_tensor *t);
void st_drop_range(const struct st_tensor *t, uint64_t first, uint64_t bytes);
/* The opposite advice: these bytes are wanted soon. */
void st_want_range(const struct st_tensor *t, uint64_t first, uint64_t bytes);

/* "[8, 128]" for messages. Returns `text`. */
const char *st_shape_text(const struct st_tensor *t, char text[192]);

/* Parse only the header of one file, from memory; the fuzz target uses this. The tensors are added
 * to `into`, and borrow `file`; with NULL the header is only checked. Call st_index before st_find
 * and st_at. */
int st_parse_header(const uint8_t *file, size_t file_bytes, const char *path,
                    struct safetensors *into, struct err *err);
/* An empty checkpoint for st_parse_header; sort and index what was added (an error where a name
 * occurs twice). */
struct safetensors *st_new(void);
int st_index(struct safetensors *st, struct err *err);

/* For files of another format that are read as a checkpoint: add one of them, whose map is taken
 * over, so that st_close closes it; returns a copy of its path that lives as long. Add a tensor,
 * whose name is copied, before st_index. */
const char *st_add_file(struct safetensors *st, struct map *m, const char *path);
void st_add(struct safetensors *st, const struct st_tensor *t);
/* What tensor i holds, where someone looked. */
void st_set_holds(struct safetensors *st, size_t i, enum st_dtype holds);

/* The files that the checkpoint consists of (the index too, where there is one), for provenance. */
size_t st_file_count(const struct safetensors *st);
const char *st_file_path(const struct safetensors *st, size_t i);

#endif
