/*
 * npy: writes a float32 matrix as NumPy's .npy file, row by row.
 *
 * Owns: the header (format version 1.0, numpy.lib.format) and the file, which gets its name only
 * when it is whole. Until then it lies beside that place and is locked, so that a second process
 * with the same output is refused and never touches it.
 * Leaves to others: reading; other types and ranks.
 * Threads: one object belongs to one thread at a time.
 */
#ifndef RUNTIME_RUN_NPY_H
#define RUNTIME_RUN_NPY_H

#include <stdint.h>

#include "format/base.h"

/* Zero-initialise. */
struct npy {
    bool open;
    int fd;
    char *path, *part; /* written as `part`, then renamed; NULL where `path` is no regular file */
    void (*tell)(const char *part);
    uint64_t rows, cols, done;
};

/* Begin a file of shape [rows, cols]. Where `path` names a device or a pipe, it is written
 * directly. `tell`, which may be NULL, is told of what an end of the program would leave behind:
 * of a name that is valid until it is told NULL. Fails where another process writes the same. */
int npy_create(struct npy *n, const char *path, uint64_t rows, uint64_t cols,
               void (*tell)(const char *part), struct err *err);
/* Append values [rows, cols], at most as many rows as are left. */
int npy_append(struct npy *n, const float *values, uint64_t rows, struct err *err);
/* Bring the file to the disk and give it its name. All rows must have been appended. */
int npy_finish(struct npy *n, struct err *err);
/* Free what is held, and remove a file that was not finished. Accepts a zeroed struct. */
void npy_close(struct npy *n);

#endif
