#include "runtime/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const struct {
    const char *name;
    int flags;
} ways[] = {
    [READER_BUFFERED] = {"buffered", 0},
    [READER_DIRECT] = {"direct", O_DIRECT},
};

const char *reader_way_name(enum reader_way way) {
    return ways[way].name;
}

int reader_open(struct reader *r, const char *path, enum reader_way way,
                struct reader_throttle throttle, struct err *err) {
    *r = (struct reader){.way = way, .path = path, .fd = -1, .throttle = throttle};
    pthread_mutex_init(&r->lock, NULL);
    r->fd = open(path, O_RDONLY | O_CLOEXEC | ways[way].flags);
    if (r->fd < 0)
        return err_errno(err, errno, "%s: open for %s reading", path, ways[way].name);
    struct stat st;
    if (fstat(r->fd, &st) < 0) {
        err_errno(err, errno, "%s: fstat", path);
        reader_close(r);
        return -1;
    }
    r->file_bytes = (uint64_t)st.st_size;
    /* Requests name what they need; readahead would bring neighbours that nobody asked for. */
    if (way == READER_BUFFERED)
        posix_fadvise(r->fd, 0, 0, POSIX_FADV_RANDOM);
    return 0;
}

bool reader_direct_works(const char *path) {
    struct reader r;
    struct err err = {0};
    if (reader_open(&r, path, READER_DIRECT, (struct reader_throttle){0}, &err) < 0)
        return false;
    void *page = NULL;
    bool works = posix_memalign(&page, READER_ALIGN, READER_ALIGN) == 0 &&
                 pread(r.fd, page, READER_ALIGN, 0) > 0;
    free(page);
    reader_close(&r);
    return works;
}

void reader_close(struct reader *r) {
    if (!r->path)
        return;
    if (r->fd >= 0)
        close(r->fd);
    pthread_mutex_destroy(&r->lock);
    *r = (struct reader){0};
}

/* Sleep until a request of `bytes` that was made at `start_ns` would have come off the throttled
 * disk. */
static void wait_throttle(struct reader *r, uint64_t start_ns, size_t bytes) {
    pthread_mutex_lock(&r->lock);
    uint64_t from = start_ns > r->link_free_ns ? start_ns : r->link_free_ns;
    r->link_free_ns = from + (uint64_t)((double)bytes / r->throttle.bytes_per_s * 1e9);
    uint64_t until = r->link_free_ns + r->throttle.latency_ns;
    pthread_mutex_unlock(&r->lock);
    prctl(PR_SET_TIMERSLACK, 1000); /* this thread sleeps to the microsecond, not to 50 */
    struct timespec t = {(time_t)(until / 1000000000u), (long)(until % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR)
        ;
}

int reader_read(struct reader *r, uint64_t offset, size_t bytes, uint8_t *buffer,
                const uint8_t **data, struct err *err) {
    uint64_t first = offset, last = offset + bytes, start_ns = clock_ns();
    if (r->way == READER_DIRECT) {
        first = offset & ~(uint64_t)(READER_ALIGN - 1);
        last = align_up(last, READER_ALIGN);
    }
    /* The last page of a file may be short: what counts is that the bytes asked for arrive. */
    uint64_t pos = first;
    while (pos < offset + bytes) {
        ssize_t n = pread(r->fd, buffer + (pos - first), last - pos, (off_t)pos);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_errno(err, errno, "%s: read of %zu bytes at offset %llu", r->path, bytes,
                             (unsigned long long)offset);
        /* A short direct read goes on where the device can: at a multiple of its block. */
        if (r->way == READER_DIRECT && pos + (uint64_t)n < offset + bytes)
            n &= ~(ssize_t)(READER_ALIGN - 1);
        if (n == 0)
            return err_set(err,
                           "%s: file ends inside %zu bytes at offset %llu: truncated while open?",
                           r->path, bytes, (unsigned long long)offset);
        pos += (uint64_t)n;
    }
    if (r->throttle.bytes_per_s > 0)
        wait_throttle(r, start_ns, last - first);
    *data = buffer + (offset - first);
    return 0;
}
