#include "runtime/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/processor.h"

static const struct {
    const char *name;
    int flags;
} ways[] = {
    [READER_BUFFERED] = {"buffered", 0},
    [READER_DIRECT] = {"direct", O_DIRECT},
    [READER_MAPPED] = {"mapped", 0},
    [READER_PASSING] = {"passing", 0},
};

const char *reader_way_name(enum reader_way way) {
    return ways[way].name;
}

int reader_open(struct reader *r, const char *path, enum reader_way way,
                struct reader_throttle throttle, struct err *err) {
    *r = (struct reader){.way = way, .path = path, .fd = -1, .throttle = throttle};
    pthread_mutex_init(&r->lock, NULL);
    r->fd = open(path, O_RDONLY | O_CLOEXEC | ways[way].flags);
    if (r->fd < 0) {
        return err_errno(err, errno, "%s: open for %s reading", path, ways[way].name);
    }
    struct stat st;
    if (fstat(r->fd, &st) < 0) {
        err_errno(err, errno, "%s: fstat", path);
        reader_close(r);
        return -1;
    }
    r->file_bytes = (uint64_t)st.st_size;
    /* Requests name all that they need; readahead would bring neighbours that nobody asked for. */
    if (way != READER_DIRECT) {
        posix_fadvise(r->fd, 0, 0, POSIX_FADV_RANDOM);
    }
    if (way == READER_MAPPED) {
        void *map = mmap(NULL, r->file_bytes, PROT_READ, MAP_SHARED, r->fd, 0);
        if (map == MAP_FAILED) {
            err_errno(err, errno, "%s: mmap", path);
            reader_close(r);
            return -1;
        }
        madvise(map, r->file_bytes, MADV_RANDOM);
        r->map = map;
        if (throttle.bytes_per_s > 0) {
            r->here =
                mem_calloc(align_up(r->file_bytes, READER_ALIGN) / READER_ALIGN, sizeof *r->here);
        }
    }
    return 0;
}

bool reader_direct_works(const char *path) {
    struct reader r;
    struct err err = {0};
    if (reader_open(&r, path, READER_DIRECT, (struct reader_throttle){0}, &err) < 0) {
        return false;
    }
    void *page = NULL;
    bool works = posix_memalign(&page, READER_ALIGN, READER_ALIGN) == 0 &&
                 pread(r.fd, page, READER_ALIGN, 0) > 0;
    free(page);
    reader_close(&r);
    return works;
}

void reader_close(struct reader *r) {
    if (!r->path) {
        return;
    }
    if (r->map) {
        munmap((void *)r->map, r->file_bytes);
    }
    free((void *)r->here);
    if (r->fd >= 0) {
        close(r->fd);
    }
    pthread_mutex_destroy(&r->lock);
    *r = (struct reader){0};
}

/* Take a place on the throttled link for a request of `bytes` that is made now. Returns when the
 * request will have come; 0 without a throttle. */
static uint64_t take_link(struct reader *r, size_t bytes) {
    if (r->throttle.bytes_per_s <= 0) {
        return 0;
    }
    uint64_t now = clock_ns();
    pthread_mutex_lock(&r->lock);
    uint64_t from = now > r->link_free_ns ? now : r->link_free_ns;
    r->link_free_ns = from + (uint64_t)((double)bytes / r->throttle.bytes_per_s * 1e9);
    uint64_t until = r->link_free_ns + r->throttle.latency_ns;
    pthread_mutex_unlock(&r->lock);
    return until;
}

/* A sleep ends late by tens of microseconds, and a disk's interrupt does not. So where a processor
 * can be spared, the last microseconds are spent awake. Where none can be spared, the thread has to
 * sleep for all of the time: a thread that yields in a loop gets the processor back only when the
 * time slices of the others are over, milliseconds later, while a thread that wakes up goes
 * first. */
static void wait_until(const struct reader *r, uint64_t until) {
    uint64_t awake_ns = r->awake ? 60000 : 0, now = clock_ns();
    if (until > now + awake_ns) {
        prctl(PR_SET_TIMERSLACK, 1000); /* this thread sleeps to the microsecond, not to 50 */
        clock_sleep_until(until - awake_ns);
    }
    while (clock_ns() < until) {
        processor_relax();
    }
}

/* What every way of reading begins with. */
static int begin(struct reader *r, uint64_t offset, size_t bytes, uint64_t *until,
                 struct err *err) {
    *until = 0;
    if (r->fault.ask && r->fault.ask(r->fault.ctx, offset, bytes, err) < 0) {
        return err_prefix(err, "%s: read of %zu bytes at offset %llu", r->path, bytes,
                          (unsigned long long)offset);
    }
    *until = take_link(r, bytes);
    return 0;
}

static int truncated(const struct reader *r, uint64_t offset, size_t bytes, struct err *err) {
    return err_set(err, "%s: file ends inside %zu bytes at offset %llu: truncated while open?",
                   r->path, bytes, (unsigned long long)offset);
}

static int failed(const struct reader *r, uint64_t offset, size_t bytes, struct err *err) {
    return err_errno(err, errno, "%s: read of %zu bytes at offset %llu", r->path, bytes,
                     (unsigned long long)offset);
}

/* Read the file from `pos` on into the pieces until the `bytes` at `offset` are there; the pieces
 * may have room for more. */
static int read_pieces(const struct reader *r, uint64_t pos, uint64_t offset, size_t bytes,
                       struct iovec *pieces, int n, struct err *err) {
    uint64_t end = offset + bytes;
    while (pos < end) {
        ssize_t got = preadv(r->fd, pieces, n, (off_t)pos);
        if (got < 0 && errno == EINTR) {
            continue;
        }
        if (got < 0) {
            return failed(r, offset, bytes, err);
        }
        size_t left = (size_t)got;
        /* A short direct read goes on where the device can: at a multiple of its block. */
        if (r->way == READER_DIRECT && pos + left < end) {
            left &= ~(size_t)(READER_ALIGN - 1);
        }
        if (left == 0) {
            return truncated(r, offset, bytes, err);
        }
        pos += left;
        for (; n > 0 && left >= pieces->iov_len; n--) {
            left -= pieces++->iov_len;
        }
        if (n > 0) {
            pieces->iov_base = (uint8_t *)pieces->iov_base + left;
            pieces->iov_len -= left;
        }
    }
    return 0;
}

void reader_uncache(const struct reader *r, uint64_t offset, uint64_t bytes) {
    uint64_t first = offset & ~(uint64_t)(READER_ALIGN - 1);
    uint64_t last = bytes ? align_up(offset + bytes, READER_ALIGN) : r->file_bytes;
    posix_fadvise(r->fd, (off_t)first, (off_t)(last - first), POSIX_FADV_DONTNEED);
}

int reader_read(struct reader *r, uint64_t offset, size_t bytes, uint8_t *buffer,
                const uint8_t **data, struct err *err) {
    uint64_t first = offset, last = offset + bytes, until;
    if (r->way == READER_DIRECT) {
        first = offset & ~(uint64_t)(READER_ALIGN - 1);
        last = align_up(last, READER_ALIGN);
    }
    /* The last page of a file may be short: what counts is that the bytes asked for arrive. */
    struct iovec piece = {buffer, last - first};
    if (begin(r, offset, last - first, &until, err) < 0 ||
        read_pieces(r, first, offset, bytes, &piece, 1, err) < 0) {
        return -1;
    }
    if (r->way == READER_PASSING) {
        reader_uncache(r, offset, bytes);
    }
    wait_until(r, until);
    *data = buffer + (offset - first);
    return 0;
}

bool reader_can_scatter(const struct reader *r, uint64_t offset, size_t bytes, const void *to) {
    return r->way == READER_BUFFERED || r->way == READER_PASSING ||
           (r->way == READER_DIRECT && (offset | bytes | (uintptr_t)to) % READER_ALIGN == 0);
}

int reader_scatter(struct reader *r, uint64_t offset, struct iovec *pieces, int n,
                   struct err *err) {
    size_t bytes = 0;
    uint64_t until;
    for (int i = 0; i < n; i++) {
        bytes += pieces[i].iov_len;
    }
    if (begin(r, offset, bytes, &until, err) < 0 ||
        read_pieces(r, offset, offset, bytes, pieces, n, err) < 0) {
        return -1;
    }
    if (r->way == READER_PASSING) {
        reader_uncache(r, offset, bytes);
    }
    wait_until(r, until);
    return 0;
}

/* Older kernels and headers do not know this advice; then a byte of each page is read. */
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

/* Bring whole pages of the mapping to memory. */
static int populate(const struct reader *r, uint64_t first, size_t span) {
    int status;
    while ((status = madvise((void *)(r->map + first), span, MADV_POPULATE_READ)) < 0 &&
           errno == EAGAIN)
        ;
    if (status < 0 && errno != EINVAL) {
        return -1;
    }
    for (size_t i = 0; status < 0 && i < span; i += READER_ALIGN) {
        (void)*(const volatile uint8_t *)(r->map + first + i);
    }
    for (size_t i = 0; r->here && i < span; i += READER_ALIGN) {
        atomic_store_explicit(&r->here[(first + i) / READER_ALIGN], true, memory_order_relaxed);
    }
    return 0;
}

static bool all_here(const struct reader *r, uint64_t first, size_t span) {
    bool here = r->here != NULL;
    for (size_t i = 0; i < span && here; i += READER_ALIGN) {
        here = atomic_load_explicit(&r->here[(first + i) / READER_ALIGN], memory_order_relaxed);
    }
    return here;
}

int reader_begin(struct reader *r, uint64_t offset, size_t bytes, struct reader_begun *begun,
                 struct err *err) {
    uint64_t first = offset & ~(uint64_t)(READER_ALIGN - 1);
    if (begin(r, offset, bytes, &begun->until_ns, err) < 0) {
        return -1;
    }
    /* The advice starts one long read, while faults would read page by page. */
    if (begun->until_ns == 0) {
        madvise((void *)(r->map + first), offset + bytes - first, MADV_WILLNEED);
    }
    begun->yes = true;
    return 0;
}

int reader_map(struct reader *r, uint64_t offset, size_t bytes, const struct reader_begun *begun,
               const uint8_t **data, struct err *err) {
    uint64_t first = offset & ~(uint64_t)(READER_ALIGN - 1);
    size_t span = (size_t)(align_up(offset + bytes, READER_ALIGN) - first);
    struct reader_begun now = {0};
    if (!begun || !begun->yes) {
        if (reader_begin(r, offset, bytes, &now, err) < 0) {
            return -1;
        }
        begun = &now;
    }
    /* Where a file became shorter, touching a page past its end would kill the program. */
    struct stat st;
    if (fstat(r->fd, &st) < 0) {
        return failed(r, offset, bytes, err);
    }
    if ((uint64_t)st.st_size < offset + bytes) {
        return truncated(r, offset, bytes, err);
    }
    if (!all_here(r, first, span) && populate(r, first, span) < 0) {
        return failed(r, offset, bytes, err);
    }
    wait_until(r, begun->until_ns);
    *data = r->map + offset;
    return 0;
}

void reader_forget(struct reader *r, uint64_t offset, size_t bytes) {
    uint64_t first = align_up(offset, READER_ALIGN);
    uint64_t last = (offset + bytes) & ~(uint64_t)(READER_ALIGN - 1);
    if (!r->map || last <= first || r->throttle.bytes_per_s > 0) {
        return;
    }
    madvise((void *)(r->map + first), last - first, MADV_DONTNEED);
    posix_fadvise(r->fd, (off_t)first, (off_t)(last - first), POSIX_FADV_DONTNEED);
}
