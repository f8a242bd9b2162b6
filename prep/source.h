/*
 * source: where a checkpoint's files come from.
 *
 * Owns: the choice of the files that matter; unpacking a checkpoint that comes inside a .tar,
 * .tar.zst, .tar.gz or .zip into a temporary directory, and removing that again.
 * Leaves to others: what is in the files (prep/hf, prep/hf/hf_tokenizer, prep/pack).
 * Threads: one object belongs to one thread.
 *
 * An archive is untrusted: an entry with an absolute path, a ".." or a backslash is refused, links
 * are never followed or made, and nothing is written but regular files with the names that this
 * module knows, in the directories that they have in the archive, below one of its own making.
 */
#ifndef PREP_SOURCE_H
#define PREP_SOURCE_H

#include "format/base.h"
#include "format/progress.h"
#include "prep/stop.h"

struct source {
    char *dir;  /* the checkpoint directory */
    char *temp; /* the temporary directory that holds it; NULL where `dir` is the user's own */
};

/* `path` is a directory, a model in GGUF, which is its own "directory", or an archive. An archive
 * is unpacked into a new directory `unpack_dir`, which must not exist yet. The call zeroes the
 * struct; call source_close in any case. */
int source_open(struct source *s, const char *path, const char *unpack_dir,
                struct progress *progress, const volatile sig_atomic_t *stop, struct err *err);
/* Remove the temporary directory. Accepts a zeroed struct. */
void source_close(struct source *s);

/* Whether a file of this name (no directory) is part of a checkpoint as this project reads it. */
bool source_wants(const char *name);
bool source_is_license(const char *name);

/* The names of all wanted files in directory `dir`, sorted: `*names` [*n]. The caller frees them
 * with source_names_free. */
int source_names(const char *dir, char ***names, size_t *n, struct err *err);
void source_names_free(char **names, size_t n);

#endif
