/*
 * arch_fields: THE table of the fields of struct arch, shared by the files that walk it: arch.c
 * (the table), arch_check.c (checks), arch_meta.c (metadata section, description).
 *
 * Owns: for each field its key, type, range, default, and where it lies.
 * Threads: a constant table.
 *
 * A field belongs to the model, or to a layer kind. The metadata gives a kind's field once where
 * all kinds agree, else a value for each kind. Fields "by layer" are those that tell kinds apart in
 * every archive, old ones too: their values are given for each layer, and kinds follow from them
 * where no key says otherwise.
 */
#ifndef FORMAT_ARCH_FIELDS_H
#define FORMAT_ARCH_FIELDS_H

#include "format/arch.h"

enum field_type { FIELD_STRING, FIELD_U32, FIELD_F32 };
enum field_of {
    FIELD_OF_MODEL, /* one value */
    FIELD_ARRAY,    /* of the model: `length_at` holds how many */
    FIELD_OF_KIND,  /* a member of struct layer_kind */
    FIELD_BY_LAYER, /* the same, given for each layer */
};

struct arch_field {
    const char *key;
    enum field_of of;
    enum field_type type;
    size_t at; /* offset in struct arch or struct layer_kind of the value, or of the pointer */
    double min, max; /* of the value, of every element, of a string's length in bytes */
    bool optional;   /* may be missing: then the value is `missing` (arrays: empty) */
    double missing;
    size_t length_at; /* FIELD_ARRAY: offset in struct arch of the uint32_t that counts elements */
    bool sets_length; /* the array sets it, instead of having to match it */
};

enum { ARCH_FIELDS_MAX = 112 };
extern const struct arch_field arch_fields[];
extern const size_t arch_n_fields;

static inline bool field_is_float(const struct arch_field *f) {
    return f->type == FIELD_F32;
}
/* Elements of a numeric field as the struct holds it: 1 for a value of the model, n_kinds for one
 * of a kind. */
uint32_t arch_field_count(const struct arch *a, const struct arch_field *f);
/* Element `i`, as a number and as its 32 bits. */
double arch_field_number(const struct arch *a, const struct arch_field *f, uint32_t i);
uint32_t arch_field_bits(const struct arch *a, const struct arch_field *f, uint32_t i);
/* The bits that an optional field has where the metadata lacks it. */
uint32_t arch_field_missing(const struct arch_field *f);
/* Set element `i` from its bits. */
void arch_field_set(struct arch *a, const struct arch_field *f, uint32_t i, uint32_t bits);
/* The pointer that an array or a string keeps in the struct. */
void *arch_field_pointer(const struct arch *a, const struct arch_field *f);

/* Kinds as they follow from the fields by layer: for each layer the first earlier one that agrees
 * in all of them has its kind. `value(ctx, field, layer)` gives the bits. kind [n_layers]. Returns
 * the number of kinds, at most ARCH_MAX_KINDS + 1: then the rest of `kind` is not filled in. */
uint32_t arch_derive_kinds(uint32_t n_layers,
                           uint32_t (*value)(const void *ctx, const struct arch_field *f,
                                             uint32_t layer),
                           const void *ctx, uint32_t *kind);

#endif
