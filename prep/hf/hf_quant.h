/*
 * hf_quant: quantised weights that are not read, told by config.json and by the names of tensors.
 *
 * Owns: one row for each kind: how it is recognised, and what it is called in the message that
 * refuses it. A kind that comes to be read loses its row.
 * Leaves to others: MXFP4, which the gpt_oss family reads (hf_matrix); quantisation that only a
 * file beside config.json tells of (prep/foreign).
 * Threads: constant tables.
 */
#ifndef PREP_HF_HF_QUANT_H
#define PREP_HF_HF_QUANT_H

#include <jansson.h>

#include "format/safetensors.h"

/* Refuse what an object of config.json (`root`, of the file `path`) says of quantised weights.
 * `mxfp4`: such a quantization_config is read. */
int hf_quant_check_config(const json_t *root, const char *path, bool mxfp4, struct err *err);

/* Refuse a checkpoint with tensors that only quantised weights have, or an adapter. Names alone do
 * not tell for sure, so this is for a checkpoint whose tensors did not fit the model. `mxfp4` as
 * above. */
int hf_quant_check_tensors(const struct safetensors *st, bool mxfp4, struct err *err);

#endif
