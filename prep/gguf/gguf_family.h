/*
 * gguf_family: what architectures are called in GGUF, and what llama.cpp stores otherwise than
 * Hugging Face.
 *
 * Owns: one row for each architecture: its name, the family that it is here, names of tensors by
 * slot with how each is read, keys of metadata with the keys of config.json that say the same, what
 * llama.cpp does without a key, and one function for the rest.
 * Leaves to others: families (prep/hf/family), reading values (gguf_config).
 * Threads: constant tables.
 *
 * What llama.cpp does to weights when it converts them is undone by how they are read: rows of
 * queries and keys that it puts in pairs (HF_PAIRS), experts that lie in one tensor (HF_EXPERTS),
 * keys' and values' matrices of latent attention that it splits (HF_LATENT_K_HEADS). Its names are
 * those of gguf-py (constants.py, tensor_mapping.py).
 */
#ifndef PREP_GGUF_GGUF_FAMILY_H
#define PREP_GGUF_GGUF_FAMILY_H

#include <jansson.h>

#include "prep/gguf/gguf.h"
#include "prep/hf/family.h"

enum gguf_how {
    GGUF_TAKE,      /* the number becomes the key `name` */
    GGUF_NEED,      /* the same, and it has to be there */
    GGUF_TAKE_FLAG, /* 0 and 1, or a truth, become a truth */
    GGUF_SAME,      /* it must be `value`, or not be there */
    GGUF_LEAVE,     /* it says nothing that counts, or the row's function reads it */
};

struct gguf_key {
    const char *key; /* without "ARCH." before it; NULL ends a list */
    const char *name;
    enum gguf_how how;
    double value;
};

struct gguf_family;

/* Metadata on its way to config.json's keys. */
struct gguf_reading {
    const struct gguf *g;
    const struct gguf_family *family;
    json_t *config;
};

struct gguf_family {
    const char *arch;                      /* general.architecture */
    const char *model_type, *architecture; /* as Hugging Face has them */
    const char *always;                    /* JSON: keys that are so in all of its files */
    const struct gguf_key *keys;           /* beside those of gguf_keys */
    /* Rows of a slot; one without any has those of gguf_names. */
    const struct family_name *names;
    int (*settle)(struct gguf_reading *r, struct err *err); /* the rest; NULL: there is none */
};

/* The row of an architecture, NULL where there is none; of a file that is no text model (a
 * projector of pictures) too. */
const struct gguf_family *gguf_family_find(const struct gguf_text *arch);
const struct gguf_family *gguf_family_at(size_t i);
/* "deepseek2, gpt-oss, ...", to be freed. */
char *gguf_family_list(void);

/* What all have. */
extern const struct gguf_key gguf_keys[];
extern const struct family_name gguf_names[];

#endif
