/*
 * reader: the ways of getting stored bytes of an archive; the only file that knows pread and
 * O_DIRECT.
 *
 * Owns: the file descriptor of each way, alignment, retries of interrupted and short reads.
 * Leaves to others: when to read what (prefetch), what the bytes mean (corm_read).
 * Threads: a reader may be used by many threads, each with its own buffer; only the throttle has
 * state, and a lock of its own.
 *
 * A throttle makes a slower disk out of a fast one, so that disks can be compared on any machine:
 * requests pass a link of `bytes_per_s` one after the other, and each takes `latency_ns` besides,
 * in parallel with others. A read returns when both have passed on the clock.
 */
#ifndef RUNTIME_READER_H
#define RUNTIME_READER_H

#include <pthread.h>

#include "format/base.h"

enum reader_way {
    READER_BUFFERED, /* pread through the page cache */
    READER_DIRECT,   /* pread with O_DIRECT: no second copy in the page cache */
};
enum { READER_ALIGN = 4096 };

struct reader_throttle {
    double bytes_per_s; /* 0 = none */
    uint64_t latency_ns;
};

struct reader {
    enum reader_way way;
    int fd;
    const char *path; /* borrowed */
    uint64_t file_bytes;
    struct reader_throttle throttle;
    pthread_mutex_t lock;
    uint64_t link_free_ns; /* when the throttled link has passed all requests so far */
};

/* A way that the file system refuses (O_DIRECT on some) is an error. */
int reader_open(struct reader *r, const char *path, enum reader_way way,
                struct reader_throttle throttle, struct err *err);
void reader_close(struct reader *r); /* accepts a zeroed struct */

/* Size of a buffer that serves reads of up to `bytes`. */
static inline size_t reader_buffer_bytes(size_t bytes) {
    return align_up(bytes, READER_ALIGN) + 2 * READER_ALIGN;
}
/* Read [offset, offset + bytes) of the file; *data points to them inside `buffer`
 * (reader_buffer_bytes long, READER_ALIGN aligned). A read past the end or an I/O error names file
 * and offset. */
int reader_read(struct reader *r, uint64_t offset, size_t bytes, uint8_t *buffer,
                const uint8_t **data, struct err *err);

const char *reader_way_name(enum reader_way way);

/* Whether the file system reads `path` with O_DIRECT, seen by doing it. */
bool reader_direct_works(const char *path);

#endif
