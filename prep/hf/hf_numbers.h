/*
 * hf_numbers: what the numbers of a checkpoint's tensor are stored as, and reading them.
 *
 * Owns: the table of number formats: the dtype of a tensor, the names and dtypes of the tensors
 * beside it that hold its scales, which shapes these may have; finding them; decoding runs of
 * numbers; scales that cannot be.
 * Leaves to others: which tensor holds a slot (hf_names), which of its numbers are a matrix
 * (hf_matrix), what config.json says of quantised weights (hf_quant), bytes of files
 * (format/safetensors).
 * Threads: what is laid out is immutable and may be read from any number of threads.
 *
 * Of tensors in blocks of GGUF, which have their scales in them, prep/gguf/gguf_block has the
 * types.
 *
 * A number that has a scale is the product of both, rounded to f32. Where there are two scales
 * their product (or quotient) is rounded before, as compressed-tensors and ModelOpt have it.
 */
#ifndef PREP_HF_HF_NUMBERS_H
#define PREP_HF_HF_NUMBERS_H

#include "format/codec.h"
#include "format/safetensors.h"

struct gguf_block;
struct number_format;

/* What the configuration says of scales: rows and columns of a block that shares one; 0: nothing.
 * `by_output`: a tensor of several matrices [rows, cols] has [cols, 1] scales, one for each column,
 * because it is turned and they are not. */
struct hf_blocks {
    uint32_t rows, cols;
    bool by_output;
};

struct hf_numbers {
    const struct number_format *format;
    const struct gguf_block *block; /* NULL: the tensor is not in blocks of GGUF */
    const struct st_tensor *tensor; /* NULL: none */
    const struct st_tensor *scales; /* NULL: its numbers are what they are */
    const struct st_tensor *global; /* NULL: there is no scale of all others */
    struct hf_blocks blocks;
    /* The last two dimensions of the tensor, as numbers, and of its scales. */
    uint64_t rows, cols, grid_rows, grid_cols;
    uint64_t grid_step; /* scales from one matrix of the tensor to the next; 0: they share all */
};

enum { HF_NUMBERS_TENSORS = 3 }; /* that a format consists of, at most */

/* The tensor `name`, or what stands in its place, and its scales. Returns 1; 0 where there is none;
 * -1 where scales are missing or the dtype is not read. */
int hf_numbers_find(struct hf_numbers *n, const struct safetensors *st, const char *name,
                    struct hf_blocks blocks, struct err *err);
/* The tensors of it: `tensors` [HF_NUMBERS_TENSORS], NULL where there is none. */
void hf_numbers_tensors(const struct hf_numbers *n,
                        const struct st_tensor *tensors[HF_NUMBERS_TENSORS]);
/* Check that these are `n_dims` dimensions `shape` of numbers, and that scales go with them.
 * `vector`: the last dimension alone will do. */
int hf_numbers_lay(struct hf_numbers *n, const uint64_t *shape, uint32_t n_dims, bool vector,
                   struct err *err);

/* `count` numbers from number `first` on as f32. A scale that cannot be is an error; numbers are
 * not looked at. */
int hf_numbers_read(const struct hf_numbers *n, uint64_t first, uint64_t count, float *dst,
                    struct err *err);
/* "FILE: tensor NAME: weight [INDEX] " and `what`, of number `element`. Returns -1. */
int hf_numbers_refuse(const struct hf_numbers *n, uint64_t element, const char *what,
                      struct err *err);

/* The codec that holds the numbers exactly. */
enum codec_id hf_numbers_codec(const struct hf_numbers *n);
/* The format's name where that codec takes more bytes than the checkpoint, because none keeps its
 * bits; else NULL. */
const char *hf_numbers_unkept(const struct hf_numbers *n);
/* Whether they lie in the tensor as that codec has them. */
bool hf_numbers_as_they_lie(const struct hf_numbers *n);
/* Whether they are in blocks of GGUF: the format's name. */
const char *hf_numbers_blocks(const struct hf_numbers *n);
/* Bytes of the checkpoint that `count` numbers take, with their scales. */
uint64_t hf_numbers_bytes(const struct hf_numbers *n, uint64_t count);
/* Call `advise` for what numbers [first, end) lie in. */
void hf_numbers_advise(const struct hf_numbers *n, uint64_t first, uint64_t end,
                       void (*advise)(const struct st_tensor *t, uint64_t first, uint64_t bytes));

/* Whether a tensor of this name says how a quantised model rounds what it computes (activations,
 * keys, values), which here is not rounded. */
bool hf_numbers_of_activations(const char *name);

/* The table, for documents: name, dtype and ending of the tensor, endings of its scales; false past
 * the end. */
struct hf_numbers_row {
    const char *name, *dtype, *tensor, *scales, *global;
};
bool hf_numbers_row(size_t i, struct hf_numbers_row *row);

#endif
