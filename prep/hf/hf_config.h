/*
 * hf_config: config.json, generation_config.json and hf_quant_config.json of a Hugging Face
 * checkpoint -> struct arch, and what they say of quantised weights.
 *
 * Owns: finding the family, unwrapping the text model's object from a wrapper's, the spelling of
 * every number, what all families have in common.
 * Leaves to others: defaults and layers of a family (family, settle), the tensors (hf), RoPE
 * (hf_rope), quantised weights (hf_quant), keys that are not read (hf_keys), stop tokens and
 * sampling (hf_generation), ranges and rules that tie the fields together (arch_check).
 * Threads: pure functions.
 */
#ifndef PREP_HF_HF_CONFIG_H
#define PREP_HF_HF_CONFIG_H

#include <jansson.h>

#include "prep/hf/family.h"
#include "prep/hf/hf_quant.h"

struct hf_config {
    const struct family *family;
    struct arch arch; /* `tied` is what the file says or the family's default: see tied_given */
    bool tied_given;  /* the file has the key tie_word_embeddings */
    struct hf_quant quant;   /* what the files say of quantised weights */
    uint32_t further_layers; /* behind the model's, in the checkpoint alone */
    bool unit_head;          /* the output head counts with columns of length one */
    bool stops_named;        /* a file names stop tokens; else arch has the family's, or none */
    struct buf remarks;      /* lines ending in '\n', for people: advice that is left out */
};

/* Bytes of a file, with the path that messages name. `text` NULL: there is no such file. */
struct hf_json {
    const char *path;
    const char *text;
    size_t size_bytes;
};

/* The same as parsed objects, borrowed; `generation` NULL: there is none. */
struct hf_objects {
    json_t *config, *generation;
    const char *path, *generation_path; /* for messages */
};

/* Read them into a zeroed `out`; hf_config_free it in any case. Objects inside `config` may be
 * moved about. arch_check has passed on success. */
int hf_config_build(struct hf_config *out, const struct hf_objects *in, struct err *err);
/* Parse `config`, and `generation` where there is one, and do that. */
int hf_config_parse(struct hf_config *out, struct hf_json config, struct hf_json generation,
                    struct err *err);
void hf_config_free(struct hf_config *c);

/* The same from the files of directory `dir`. */
int hf_config_read(struct hf_config *out, const char *dir, struct err *err);

/* The spelling of a key that messages use. */
const char *hf_config_key(enum family_key_id id);

#endif
