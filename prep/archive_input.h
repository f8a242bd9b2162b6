/*
 * archive_input: a file that libarchive reads, with an error of reading that nothing can hide.
 *
 * Owns: the file, and whether reading it failed. Of a file whose first bytes cannot be read
 * libarchive's formats say what they say of an empty one, and a reader of its own would believe it.
 * Leaves to others: filters, formats and entries (source, corpus).
 * Threads: the thread that reads.
 */
#ifndef PREP_ARCHIVE_INPUT_H
#define PREP_ARCHIVE_INPUT_H

#include <archive.h>

#include "format/base.h"

struct archive_input {
    const char *path; /* borrowed */
    int fd;           /* -1 where closed */
    int failed;       /* errno of the first read that failed, or 0 */
    uint64_t failed_at;
    uint64_t at;    /* bytes read so far, or where seeking went */
    uint8_t *block; /* [block_bytes] */
    size_t block_bytes;
};

/* Open `path` and have `a`, which has its filters and formats, read it in blocks. `in` stays in its
 * place until archive_input_close, before which `a` is freed. A file that libarchive does not know
 * is told to be `not`. */
int archive_input_open(struct archive_input *in, struct archive *a, const char *path,
                       size_t block_bytes, const char * not, struct err *err);
/* To be asked after whatever libarchive says, success and end included: -1 and `err` where a read
 * has failed. */
int archive_input_check(const struct archive_input *in, struct err *err);
void archive_input_close(struct archive_input *in);

#endif
