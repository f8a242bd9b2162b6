/*
 * provenance: what an archive says about where it comes from: names and checksums of the
 * checkpoint's files, and its licence.
 *
 * Owns: the text of the provenance and licence sections.
 * Leaves to others: writing them (prep/pack), which files count (prep/source).
 * Threads: main thread.
 */
#ifndef PREP_PROVENANCE_H
#define PREP_PROVENANCE_H

#include "format/progress.h"
#include "prep/hf/hf.h"
#include "prep/stop.h"

/* Append a line "source: NAME SIZE bytes xxh3 CHECKSUM" for every file of the checkpoint, sorted by
 * name. Names are without their directory, so that the text is the same wherever the checkpoint
 * lies. Reads every file once. */
int provenance_files(const struct hf_model *m, struct buf *out, struct progress *progress,
                     const volatile sig_atomic_t *stop, struct err *err);

/* Append the text of the licence files of `dir`, or, where there are none, the licence that
 * README.md declares in its front matter. Appends nothing where the checkpoint says nothing. */
int provenance_license(const char *dir, struct buf *out, struct err *err);

#endif
