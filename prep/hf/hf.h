/*
 * hf: a checkpoint as a model: struct arch plus the weights of every tensor slot. That of Hugging
 * Face is a directory (hf_open); another source fills in what it has read and has the rest done
 * here (hf_assemble, hf_settle_stops).
 *
 * Owns: opening a directory, what only several of its files together say: whether output head and
 * embedding are one matrix, which tokens end a text; reading weights as rows, and experts as
 * neurons.
 * Leaves to others: config.json (hf_config), names (hf_names), how a matrix lies in a tensor
 * (hf_matrix), the file format (format/safetensors), tokenizer files (hf_tokenizer), where the
 * directory came from (prep/source).
 * Threads: immutable after open; every reader may be called from any number of threads.
 */
#ifndef PREP_HF_HF_H
#define PREP_HF_HF_H

#include "format/arch.h"
#include "format/safetensors.h"
#include "prep/hf/hf_config.h"
#include "prep/hf/hf_matrix.h"

struct hf_names;
struct tokenizer;

struct hf_model {
    char *dir;
    bool single;             /* `dir` is a file: nothing beside it is the checkpoint's */
    struct buf license;      /* what a checkpoint without other files says of its licence */
    struct hf_config config; /* `config.arch.tied` is settled against the tensors */
    struct buf warnings;     /* lines ending in '\n', for people */
    struct buf tokenizer;  /* the archive's section; empty where the checkpoint has none to read */
    struct buf book;       /* its section of conversations; empty where there is nothing for it */
    struct tokenizer *tok; /* the same, open; NULL where it is empty */
    struct safetensors *st;
    struct hf_matrix *trunk;   /* [1 + n_layers, SLOT_COUNT]: model scope first */
    struct hf_matrix *experts; /* [n_layers, n_experts, 3]: gate, up, down */
};

static inline const struct arch *hf_arch(const struct hf_model *m) {
    return &m->config.arch;
}

/* Open directory `dir`. Reads config.json, generation_config.json, hf_quant_config.json, the
 * tokenizer's files and the headers of the safetensors files; all names, shapes and dtypes are
 * checked here, weights when they are read. A text ends with the tokens that the configurations
 * name and the tokenizer's.
 * `m` is zeroed by the call; hf_close accepts it after an error too. */
int hf_open(struct hf_model *m, const char *dir, struct err *err);
void hf_close(struct hf_model *m);

/* Bind all slots to the tensors of m->st, where m->config and m->st are set, by `names`. */
int hf_assemble(struct hf_model *m, const struct hf_names *names, struct err *err);
/* Open m->tokenizer, where it is not empty, and complete the tokens that end a text. */
int hf_settle_stops(struct hf_model *m, struct err *err);

/* A slot's matrix. `layer` counts for layer and expert scope, `expert` for expert scope. The codec
 * is the one that holds the weights exactly, NULL where the model has no such matrix. Where the
 * checkpoint's bytes are rows of that codec as they lie, data is a view of them, borrowed until
 * hf_close, at any alignment, not checked for NaN; else it is NULL: read rows. EXPERT_DOWN is
 * [dim, ffn_dim]. */
struct weight hf_weight(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                        uint32_t expert);
/* What its numbers are stored as, where that codec takes more bytes because none keeps their bits
 * ("FP8"); else NULL. */
const char *hf_weight_unkept(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                             uint32_t expert);
/* The same where it is in blocks of GGUF, that are small: by default they stay so. */
const char *hf_weight_blocks(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                             uint32_t expert);
/* Bytes of the checkpoint that it takes. */
uint64_t hf_weight_bytes(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                         uint32_t expert);

/* Rows [first_row, first_row + n_rows) of it as f32: `dst` [n_rows, cols]. A weight that is not
 * finite is an error that names tensor and element. */
int hf_tensor_rows(const struct hf_model *m, enum slot_id slot, uint32_t layer, uint32_t expert,
                   uint32_t first_row, uint32_t n_rows, float *dst, struct err *err);

/* "FILE: tensor NAME: weight [INDEX] " and `what`, for the number in this row and column of a slot.
 * Returns -1. */
int hf_refuse_weight(const struct hf_model *m, enum slot_id slot, uint32_t layer, uint32_t expert,
                     uint32_t row, uint32_t col, const char *what, struct err *err);

/* Neurons [first, first + n) of a routed expert as f32, each [n, dim]: rows of gate, rows of up,
 * columns of down as rows. Errors as above. */
int hf_expert_neurons(const struct hf_model *m, uint32_t layer, uint32_t expert, uint32_t first,
                      uint32_t n, float *gate, float *up, float *down_t, struct err *err);
/* The whole expert: each [ffn_dim, dim]. */
int hf_expert(const struct hf_model *m, uint32_t layer, uint32_t expert, float *gate, float *up,
              float *down_t, struct err *err);

/* Advice on memory: rows (or a whole expert) will be read soon; are not needed again. */
void hf_rows_done(const struct hf_model *m, enum slot_id slot, uint32_t layer, uint32_t expert,
                  uint32_t first_row, uint32_t n_rows);
void hf_expert_want(const struct hf_model *m, uint32_t layer, uint32_t expert);
void hf_expert_done(const struct hf_model *m, uint32_t layer, uint32_t expert);

#endif
