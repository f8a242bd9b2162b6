/*
 * json_out: how JSON of the commands gets onto standard output.
 *
 * Owns: one rule beside jansson's: control characters that JSON allows in strings (DEL, and C1) are
 * escaped too, because names and texts of strangers are in there, and a terminal may obey them.
 * Leaves to others: the values.
 * Threads: any.
 */
#ifndef PREP_JSON_OUT_H
#define PREP_JSON_OUT_H

#include <jansson.h>

#include "format/base.h"

/* Append `root` as text, written with jansson's flags, and a newline; then free it. */
void json_out(json_t *root, size_t flags, struct buf *out);
/* The same to standard output. */
void json_out_print(json_t *root, size_t flags);

#endif
