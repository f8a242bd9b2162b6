/*
 * hf: a Hugging Face checkpoint directory as a model: struct arch plus the weights of every tensor
 * slot.
 *
 * Owns: slot -> tensor name for each family (the Hub's per-expert names and the fused names that
 * transformers 5 writes), the check that every tensor is there, has its shape and a known dtype and
 * that none is left over, the check that no weight is NaN or infinite, transposing down
 * projections.
 * Leaves to others: config.json (prep/hf/hf_config), the file format (format/safetensors),
 * tokenizer files, where the directory came from (prep/source).
 * Threads: immutable after open; every reader may be called from any number of threads.
 */
#ifndef PREP_HF_HF_H
#define PREP_HF_HF_H

#include "format/arch.h"
#include "format/safetensors.h"
#include "prep/hf/hf_config.h"

/* Where a slot's matrix lies: rows * cols elements of `tensor` from element `first`. */
struct hf_ref {
    const struct st_tensor *tensor; /* NULL: the model has no such tensor */
    uint64_t first;
};

struct hf_model {
    char *dir;
    struct hf_config config; /* `config.arch.tied` is settled against the tensors */
    struct safetensors *st;
    struct hf_ref *trunk;   /* [1 + n_layers, SLOT_COUNT]: model scope first */
    struct hf_ref *experts; /* [n_layers, n_experts, 3]: gate, up, down */
};

static inline const struct arch *hf_arch(const struct hf_model *m) {
    return &m->config.arch;
}

/* Open directory `dir`. Reads config.json, generation_config.json and the headers of the
 * safetensors files; all names, shapes and dtypes are checked here, weights when they are read.
 * `m` is zeroed by the call; hf_close accepts it after an error too. */
int hf_open(struct hf_model *m, const char *dir, struct err *err);
void hf_close(struct hf_model *m);

/* A slot's matrix as the checkpoint holds it, borrowed until hf_close, at any alignment; data
 * NULL where the model has none. `layer` counts for layer and expert scope, `expert` for expert
 * scope. The weights have not been checked for NaN. EXPERT_DOWN is [dim, ffn_dim]. */
struct weight hf_weight(const struct hf_model *m, enum slot_id slot, uint32_t layer,
                        uint32_t expert);

/* Rows [first_row, first_row + n_rows) of it as f32: `dst` [n_rows, cols]. A weight that is not
 * finite is an error that names tensor and element. */
int hf_tensor_rows(const struct hf_model *m, enum slot_id slot, uint32_t layer, uint32_t expert,
                   uint32_t first_row, uint32_t n_rows, float *dst, struct err *err);

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
