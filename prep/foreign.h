/*
 * foreign: what stands where a checkpoint, or one of its files, was expected, and cannot be read:
 * pointers of Git LFS, links to nothing, weights of other programs, adapters, names on the Hub.
 *
 * Owns: one row for each kind: how it is recognised, what it is, what to do. A kind that comes to
 * be read loses its row.
 * Leaves to others: what is read (source, prep/hf); quantised weights that config.json or names of
 * tensors tell of (prep/hf/hf_quant).
 * Threads: constant tables.
 */
#ifndef PREP_FOREIGN_H
#define PREP_FOREIGN_H

#include "format/base.h"

/* Refuse a path that a user gave as a checkpoint where it is neither a directory nor an archive of
 * one, as far as that can be told: what does not exist, and files of weights. */
int foreign_check_path(const char *path, struct err *err);

/* Refuse a checkpoint's directory for what a file in it is. `weights`: weights will be read, so
 * that their absence counts too; else only that of config.json does. */
int foreign_check_dir(const char *dir, bool weights, struct err *err);

#endif
