/*
 * hf_quant: what a checkpoint says of quantised weights.
 *
 * Owns: one row for each method: what it is called, and how what it says of itself is read, or that
 * it is not; methods told by names of tensors alone, and adapters.
 * Leaves to others: tensors and their numbers, which say themselves what they are (hf_numbers);
 * files of other methods beside config.json, which are refused (prep/foreign).
 * Threads: pure functions.
 *
 * What is read is which method it is, the size of blocks that share a scale, and that nothing
 * stands there which asks for other arithmetic. Which weights are quantised is not: their tensors
 * say so.
 */
#ifndef PREP_HF_HF_QUANT_H
#define PREP_HF_HF_QUANT_H

#include <jansson.h>

#include "prep/hf/hf_numbers.h"

struct hf_quant {
    const char *name;      /* what people call the method; NULL: weights are not quantised */
    const char *algorithm; /* ModelOpt's own word; NULL: there is none */
    struct hf_blocks blocks;
};

/* Read what an object of config.json (`root`, of the file `path`) says of quantised weights into a
 * zeroed `q`; a method that is not read is an error. `mxfp4`: that method is read. */
int hf_quant_read(struct hf_quant *q, const json_t *root, const char *path, bool mxfp4,
                  struct err *err);
/* The same from the text of ModelOpt's own file, into what config.json says, which may be nothing
 * and must not be anything else. */
int hf_quant_read_modelopt(struct hf_quant *q, const char *text, size_t bytes, const char *path,
                           struct err *err);

/* Refuse a checkpoint with tensors that only quantised weights have, or an adapter. Names alone do
 * not tell for sure, so this is for a checkpoint whose tensors did not fit the model. `mxfp4` as
 * above. */
int hf_quant_check_tensors(const struct safetensors *st, bool mxfp4, struct err *err);

#endif
