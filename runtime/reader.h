/*
 * reader: the ways of getting stored bytes of an archive (reader.c, the only file that knows pread,
 * O_DIRECT and the advice to the kernel about files and mappings), and the choice among them
 * (reader_choose.c).
 *
 * Owns: the file descriptor and the mapping of each way, alignment, retries of interrupted and
 * short reads; measuring ways.
 * Leaves to others: when to read what (prefetch), what the bytes mean (corm_read), whether memory
 * has room for the page cache (engine_plan).
 * Threads: many threads may use one reader, each with buffers of its own. Only the throttle has
 * state: a link with a lock of its own, and flags that are atomic. reader_rate and reader_choose
 * start threads and join them.
 *
 * A throttle makes a slower disk out of a fast one, so that disks can be compared on any machine.
 * Requests pass a link of `bytes_per_s` one after the other, and each takes `latency_ns` in
 * addition, in parallel with others. A read returns when the clock says that both have passed. With
 * READER_MAPPED and a file that the page cache holds, a throttled reader behaves like a disk that
 * writes to memory by itself: a request costs the processor little more than the checksum of what
 * came.
 *
 * Faults. A test may set a `fault`, which is asked before each read and may delay or refuse it. So
 * the effect of a bad disk on the engine can be seen without having one.
 */
#ifndef RUNTIME_READER_H
#define RUNTIME_READER_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>

#include "format/base.h"

enum reader_way {
    READER_BUFFERED, /* pread through the page cache, which keeps what it can */
    READER_DIRECT,   /* pread with O_DIRECT: no second copy in the page cache */
    READER_MAPPED,   /* pages of the file, used where they are */
    READER_PASSING,  /* pread through the page cache, which is told to forget it at once */
    READER_WAYS,
};
enum { READER_ALIGN = 4096 };

struct reader_throttle {
    double bytes_per_s; /* 0 = none */
    uint64_t latency_ns;
};

/* Asked before each read of `bytes` at `offset`: 0, or -1 with `err` filled. May block. */
struct reader_fault {
    int (*ask)(void *ctx, uint64_t offset, size_t bytes, struct err *err);
    void *ctx;
};

struct reader {
    enum reader_way way;
    int fd;
    const uint8_t *map; /* [file_bytes] with READER_MAPPED */
    /* [pages of map] those that were brought before. Under a throttle nobody gives them back, and
     * to look each of them up again would take time that no disk takes; where the kernel did take
     * one, a touch brings it, at the real disk's speed. NULL without a throttle. */
    atomic_bool *here;
    struct reader_fault fault;
    const char *path; /* borrowed */
    uint64_t file_bytes;
    struct reader_throttle throttle;
    bool awake; /* waits end within a microsecond; that takes a processor to spare */
    pthread_mutex_t lock;
    uint64_t link_free_ns; /* when the throttled link has passed all requests so far */
};

/* Opening a way that the file system refuses (some refuse O_DIRECT) is an error. */
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

/* Whether a piece of the file at `offset` can be read straight to `to` with reader_scatter. */
bool reader_can_scatter(const struct reader *r, uint64_t offset, size_t bytes, const void *to);
/* Read the file from `offset` on into the `n` (at most READER_PIECES) pieces of memory, one after
 * the other. `pieces` is used up. */
enum { READER_PIECES = 64 };
int reader_scatter(struct reader *r, uint64_t offset, struct iovec *pieces, int n, struct err *err);

/* READER_MAPPED: have the disk begin on [offset, offset + bytes), for which reader_map will be
 * called later. The caller can do something else meanwhile. */
struct reader_begun {
    bool yes;
    uint64_t until_ns; /* when a throttled link will have passed it */
};
int reader_begin(struct reader *r, uint64_t offset, size_t bytes, struct reader_begun *begun,
                 struct err *err);
/* READER_MAPPED: bring [offset, offset + bytes) to memory. *data points to these bytes in the
 * mapping of the file. They stay there until reader_forget, or until the kernel wants the memory
 * back; in that case touching them reads them again. `begun` comes from reader_begin for the same
 * bytes; it may be zero or NULL. */
int reader_map(struct reader *r, uint64_t offset, size_t bytes, const struct reader_begun *begun,
               const uint8_t **data, struct err *err);
/* READER_MAPPED: give the whole pages of the range back to the kernel, also those of the page
 * cache. Other ways: nothing happens. Under a throttle the pages stay too, because there they are
 * the disk, and unmapping them would interrupt the processors, which a disk's transfer does not
 * do. */
void reader_forget(struct reader *r, uint64_t offset, size_t bytes);

/* Ask the kernel to forget the pages of a range, `bytes` 0 = to the end of the file. Those that are
 * mapped somewhere, or not written yet, stay. */
void reader_uncache(const struct reader *r, uint64_t offset, uint64_t bytes);

const char *reader_way_name(enum reader_way way);

/* Whether the file system reads `path` with O_DIRECT, found out by trying. */
bool reader_direct_works(const char *path);

/* ---- reader_choose.c ---- */

struct reader_span {
    uint64_t offset;
    size_t bytes;
};

/* Spans of the file that several threads read: each thread takes the next one in turn. */
struct reader_work {
    const struct reader_span *spans; /* [n] */
    size_t n;
    uint32_t threads;  /* >= 1 */
    uint64_t limit_ns; /* no read begins later; each thread reads once at least */
    bool again;        /* start over until limit_ns has passed; else stop after the last span */
};
/* Measures how fast the spans come, as the sum of the threads' rates. With READER_MAPPED a span is
 * given back (reader_forget) as soon as it has come. */
int reader_rate(struct reader *r, const struct reader_work *work, double *bytes_per_s,
                struct err *err);

/* A choice between direct reading and a way through the page cache, measured. */
struct reader_trial {
    const struct reader_span *spans; /* [n] as the engine would read them; a sample is read */
    size_t n;
    uint32_t threads;
    uint64_t limit_bytes, limit_ns; /* of all measuring, but for the reads under way then */
    /* The other candidate: READER_BUFFERED where memory has room for the file in the page cache,
     * else READER_PASSING, which is measured on pages that the kernel was asked to forget: those
     * that lie in memory now will not when the engine has taken it. */
    enum reader_way cached;
    enum reader_way favoured;                /* chosen unless the other one is clearly faster */
    struct reader_fault faults[READER_WAYS]; /* for tests */
};
struct reader_choice {
    enum reader_way way;
    double bytes_per_s[READER_WAYS]; /* 0 = not a candidate, not measured, or failed */
    /* Why it cannot be opened, or does not read; unset where it does, or is not a candidate. */
    struct err failed[READER_WAYS];
};
/* The ways take turns, each on pages that no other has read. A way that fails is none; where both
 * do, that is the error. Direct reading that the file system does not have, as the kernel says with
 * EINVAL, failed with READER_REFUSED as the whole message; a disk's own error has the file's name.
 */
#define READER_REFUSED "refused by the file system"
int reader_choose(const char *path, const struct reader_trial *trial, struct reader_choice *choice,
                  struct err *err);
/* The rule: `favoured`, or the fastest way if that is READER_CLEARLY times as fast. 0 = not to be
 * had; where all are, `favoured`. */
enum reader_way reader_best(const double bytes_per_s[READER_WAYS], enum reader_way favoured);
#define READER_CLEARLY 1.25

#endif
