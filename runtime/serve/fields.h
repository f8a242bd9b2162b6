/*
 * fields: what a request's body says, field by field.
 *
 * Owns: reading fields of a JSON object into a struct by a table, with their ranges, and the error
 * that names the field which is not as it should be.
 * Leaves to others: JSON itself (format/text/value.h), which fields an API has.
 * Threads: each call is its own.
 *
 * A field that is null is as one that is missing. Fields that no table names are not looked at:
 * clients send hints of all kinds. What would change the answer and is not there is refused by name
 * (fields_refuse).
 */
#ifndef RUNTIME_SERVE_FIELDS_H
#define RUNTIME_SERVE_FIELDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/text/value.h"

/* Why a request is refused: an HTTP status, an API's own word for the case (NULL: none) and a line
 * for people; `param` is the field's name, empty where it is none's. */
struct problem {
    unsigned status;
    const char *code;
    char param[64];
    char message[512];
};
/* Fill it, unless it is filled. Returns -1. `param` may be NULL. */
int problem_set(struct problem *p, unsigned status, const char *code, const char *param,
                const char *format, ...) __attribute__((format(printf, 5, 6)));

enum field_kind {
    FIELD_BOOL,
    FIELD_INT,   /* int64_t */
    FIELD_FLOAT, /* float */
    FIELD_U32,   /* uint32_t; a negative number, as -1 for all there is, is the greatest */
    FIELD_TEXT,  /* const struct value_string *, borrowed */
};
struct field {
    const char *name; /* NULL ends a table */
    enum field_kind kind;
    size_t offset;
    double min, max; /* of numbers, where min < max */
};

/* The value of a field, NULL where it is missing or null. */
const struct value *field_get(const struct value_dict *dict, const char *name);
/* Give an object that is made, such as a message for a template, a field, or one with a text. -1:
 * it would take more memory than the arena has. */
int field_set(struct value_arena *arena, struct value *dict, const char *name,
              const struct value *v);
int field_set_text(struct value_arena *arena, struct value *dict, const char *name,
                   const char *text, size_t bytes);
/* Read what is there of a table's fields into the struct at `into`. -1 and `problem`. */
int fields_read(const struct value_dict *dict, const struct field *table, void *into,
                struct problem *problem);
/* Refuse any of the fields that is there and says something: null, false, 0 and what is empty say
 * nothing. `names` ends with NULL. */
int fields_refuse(const struct value_dict *dict, const char *const *names, struct problem *problem);

#endif
