/*
 * hf_config: config.json and generation_config.json of a Hugging Face checkpoint -> struct arch.
 *
 * Owns: the table of supported families, the spelling, defaults and meaning of every key, stop
 * tokens and sampling defaults.
 * Leaves to others: the tensors (prep/hf), RoPE frequencies (prep/hf/hf_rope), keys that it does
 * not read (prep/hf/hf_keys), ranges and rules that tie the fields together (arch_check).
 * Threads: pure functions.
 */
#ifndef PREP_HF_HF_CONFIG_H
#define PREP_HF_HF_CONFIG_H

#include "format/arch.h"

/* The families; the values are bits, so that a table row can belong to several. */
enum hf_family {
    HF_MIXTRAL = 1,
    HF_OLMOE = 2,
    HF_QWEN2_MOE = 4,
    HF_QWEN3_MOE = 8,
    HF_ANY_FAMILY = 15,
};
enum { HF_FAMILIES = 4 };

struct hf_config {
    enum hf_family family;
    struct arch arch;    /* `tied` is what the file says or the family's default: see tied_given */
    bool tied_given;     /* the file has the key tie_word_embeddings */
    struct buf warnings; /* lines ending in '\n', for people */
};

/* Bytes of a file, with the path that messages name. `text` NULL: there is no such file. */
struct hf_json {
    const char *path;
    const char *text;
    size_t size_bytes;
};

/* Parse `config`, and `generation` where there is one, into a zeroed `out`; hf_config_free it in
 * any case. arch_check has passed on success. */
int hf_config_parse(struct hf_config *out, struct hf_json config, struct hf_json generation,
                    struct err *err);
void hf_config_free(struct hf_config *c);

/* "mixtral, olmoe, qwen2_moe, qwen3_moe" */
const char *hf_supported_families(void);

#endif
