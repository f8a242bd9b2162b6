/*
 * inspect: what an archive holds, or what a checkpoint's config.json says, as tables for people and
 * as JSON for programs.
 *
 * Owns: both reports; they say the same things.
 * Leaves to others: checking (corm_open has done it), printing (the main).
 * Threads: main thread.
 */
#ifndef PREP_INSPECT_H
#define PREP_INSPECT_H

#include "format/corm_read.h"

/* Append the report on `c`. Fails where the tokenizer section is not valid. */
int inspect_text(const struct corm *c, const char *path, struct buf *out, struct err *err);
int inspect_json(const struct corm *c, const char *path, struct buf *out, struct err *err);

/* The report on a checkpoint in directory `path`, of which only the configuration counts.
 * `quantised`: the method that it names, or NULL. */
void inspect_config(const struct arch *a, const char *quantised, const char *path, bool json,
                    struct buf *out);

#endif
