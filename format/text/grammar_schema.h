/*
 * grammar_schema: what the files that compile JSON schemas share.
 *
 * What is compiled is a set of schemas that all have to hold: those that allOf and $ref join. A
 * set becomes a rule, once, which is how recursion ends. grammar_schema.c has sets and choices,
 * grammar_values.c types and listed values, grammar_objects.c objects and arrays,
 * grammar_numbers.c numbers with bounds, grammar_json.c the texts of JSON that know no schema.
 */
#ifndef FORMAT_TEXT_GRAMMAR_SCHEMA_H
#define FORMAT_TEXT_GRAMMAR_SCHEMA_H

#include "format/text/grammar_internal.h"

enum json_type {
    JSON_NULL = 1,
    JSON_BOOL = 2,
    JSON_INTEGER = 4,
    JSON_FRACTION = 8, /* a number that is written with a point or an exponent */
    JSON_STRING = 16,
    JSON_ARRAY = 32,
    JSON_OBJECT = 64,
    JSON_ANY = 127,
};

enum {
    SET_MOST = 64, /* schemas of a set */
    SCHEMA_MOST_WORK = 20000,
};
struct schema_set {
    const struct value *items[SET_MOST]; /* dicts */
    uint8_t parents[SET_MOST];           /* whose $ref, allOf or anyOf named it; itself: none */
    size_t n;
    bool never;                            /* no value is valid */
    const struct value *choices[SET_MOST]; /* lists of anyOf and oneOf that are still open */
    uint8_t choosers[SET_MOST];
    size_t n_choices;
};

struct set_rule {
    const struct value **items;
    size_t n;
    uint32_t rule;
};

struct schema_compiler {
    struct grammar_tree *tree;
    const struct value *root;
    unsigned flags;
    struct buf *remarks;
    struct err *err;
    struct buf path; /* where in the schema, "#/properties/a" */
    unsigned depth;
    uint64_t work; /* sets, choices and comparisons that were looked at: SCHEMA_MOST_WORK may be */
    struct set_rule *sets;
    size_t n_sets, cap_sets;
    /* Rules that are made when first used, plus one; 0: not yet. */
    uint32_t space, character, any[JSON_ANY + 1];
};

/* ---- grammar_schema.c ---------------------------------------------------------------------- */

/* -1, and `err` with the place in the schema. */
int schema_fail(struct schema_compiler *c, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
const struct value *schema_get(const struct value *schema, const char *key);
/* What "#/..." names (RFC 6901), or NULL and `err`. */
const struct value *schema_resolve(struct schema_compiler *c, const struct value *ref);
/* The expression of schemas that all have to hold; GRAMMAR_NONE and `err`. `items` [n] may hold
 * true and false. `name` is what the path is longer by meanwhile. */
uint32_t schema_all(struct schema_compiler *c, const struct value *const *items, size_t n,
                    const char *name, size_t name_bytes);
/* A number of a keyword that counts; `usual` where no schema of the set has it. The greatest, or
 * the least, of all. */
int schema_count(struct schema_compiler *c, const struct schema_set *s, const char *key,
                 bool greatest, uint32_t usual, uint32_t *out);

/* ---- grammar_values.c ---------------------------------------------------------------------- */

/* The types that a schema names; 0: what it names is none. Where it names none, keywords of
 * objects or arrays alone mean that one of these is asked for. */
unsigned schema_types(const struct value *schema);
/* The values that enum or const list; NULL: neither is there. */
const struct value *schema_listed(const struct value *schema, size_t *n);
/* Those of the list that keep to all schemas of the set; GRAMMAR_NONE and `err`. */
uint32_t schema_values(struct schema_compiler *c, const struct schema_set *s,
                       const struct value *list, size_t n);
/* Whether no value can be valid by both; only what is plain to see. `depth` is 0 at first. */
bool schema_disjoint(struct schema_compiler *c, const struct value *a, const struct value *b,
                     unsigned depth);

/* ---- grammar_json.c ------------------------------------------------------------------------ */

uint32_t json_space(struct schema_compiler *c);     /* white space where some may stand */
uint32_t json_character(struct schema_compiler *c); /* of a string, with all escapes */
uint32_t json_any(struct schema_compiler *c, unsigned types);
/* A string's text with its quotes, as it is written without need of escapes. */
void json_put_string(struct buf *out, const struct value_string *s);
/* The one value. */
uint32_t json_value(struct schema_compiler *c, const struct value *v);
/* Numbers without bounds. */
uint32_t json_number(struct schema_compiler *c, unsigned types, bool sign);
/* The pattern of a format, or NULL. */
const char *json_format(const struct value *name);

/* ---- grammar_objects.c, grammar_numbers.c -------------------------------------------------- */

uint32_t schema_object(struct schema_compiler *c, const struct schema_set *s);
uint32_t schema_array(struct schema_compiler *c, const struct schema_set *s);
uint32_t schema_number(struct schema_compiler *c, const struct schema_set *s, unsigned types);

#endif
