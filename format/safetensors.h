/*
 * safetensors: a Hugging Face checkpoint's tensors by name.
 *
 * Owns: the file maps, the header parser (JSON through jansson, all rules of the official reader),
 * sharding through model.safetensors.index.json, the name lookup.
 * Leaves to others: what the names mean (prep/hf).
 * Threads: immutable after open.
 */
#ifndef FORMAT_SAFETENSORS_H
#define FORMAT_SAFETENSORS_H

#include "format/base.h"

enum { ST_MAX_DIMS = 8 };

enum st_dtype { ST_F32, ST_F16, ST_BF16, ST_F64, ST_I64, ST_I32, ST_OTHER };

struct st_tensor {
    const char *name;       /* borrowed until st_close */
    const char *dtype_name; /* as in the file: "BF16" */
    enum st_dtype dtype;
    uint32_t n_dims;
    uint64_t shape[ST_MAX_DIMS];
    const uint8_t *data; /* borrowed until st_close; any alignment; row-major */
    uint64_t bytes;
    const char *file; /* path of its shard, for messages */
};

struct safetensors;

/* Open a checkpoint directory (single file or index + shards), or one .safetensors file. */
int st_open(struct safetensors **st, const char *path, struct err *err);
void st_close(struct safetensors *st);

/* NULL where there is none. O(1). */
const struct st_tensor *st_find(const struct safetensors *st, const char *name);
/* All tensors, sorted by name. */
size_t st_count(const struct safetensors *st);
const struct st_tensor *st_at(const struct safetensors *st, size_t i);

/* Convert `n` elements from element `first` to f32. F32, F16, BF16 only (caller checked dtype). */
void st_read_f32(const struct st_tensor *t, uint64_t first, uint64_t n, float *dst);

/* Tell the kernel that the tensor's pages are not needed again (keeps peak RSS at a layer). */
void st_drop_pages(const struct st_tensor *t);

/* Parse one file's header only, from memory: the fuzz target's door. */
int st_parse_header(const uint8_t *file, size_t file_bytes, const char *path, struct safetensors *into,
                    struct err *err);

/* The shard files of the checkpoint, for provenance. */
size_t st_file_count(const struct safetensors *st);
const char *st_file_path(const struct safetensors *st, size_t i);

#endif
