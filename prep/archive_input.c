#include "prep/archive_input.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static la_ssize_t fail(struct archive_input *in, struct archive *a, int code) {
    if (!in->failed) {
        in->failed = code;
        in->failed_at = in->at;
    }
    archive_set_error(a, code, "cannot read");
    return -1;
}

static la_ssize_t read_block(struct archive *a, void *ctx, const void **block) {
    struct archive_input *in = ctx;
    ssize_t n;
    do {
        n = read(in->fd, in->block, in->block_bytes);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return fail(in, a, errno);
    }
    *block = in->block;
    in->at += (uint64_t)n;
    return n;
}

static la_int64_t seek_to(struct archive *a, void *ctx, la_int64_t offset, int whence) {
    struct archive_input *in = ctx;
    off_t at = lseek(in->fd, offset, whence);
    if (at < 0) {
        fail(in, a, errno);
        return ARCHIVE_FATAL;
    }
    in->at = (uint64_t)at;
    return at;
}

static la_int64_t skip_over(struct archive *a, void *ctx, la_int64_t bytes) {
    struct archive_input *in = ctx;
    struct stat st;
    (void)a;
    /* No further than the end, where the next read has to find it. What is not skipped is read. */
    if (fstat(in->fd, &st) < 0 || !S_ISREG(st.st_mode) || bytes < 0 ||
        in->at >= (uint64_t)st.st_size || (uint64_t)bytes > (uint64_t)st.st_size - in->at ||
        lseek(in->fd, bytes, SEEK_CUR) < 0) {
        return 0;
    }
    in->at += (uint64_t)bytes;
    return bytes;
}

int archive_input_open(struct archive_input *in, struct archive *a, const char *path,
                       size_t block_bytes, const char * not, struct err *err) {
    *in = (struct archive_input){.path = path, .block_bytes = block_bytes};
    in->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (in->fd < 0) {
        return err_errno(err, errno, "%s: cannot open", path);
    }
    in->block = mem_alloc(block_bytes);
    archive_read_set_read_callback(a, read_block);
    struct stat st;
    if (fstat(in->fd, &st) == 0 && S_ISREG(st.st_mode)) { /* a pipe is read on */
        archive_read_set_seek_callback(a, seek_to);
    }
    archive_read_set_skip_callback(a, skip_over);
    archive_read_set_callback_data(a, in);
    int rc = archive_read_open1(a);
    if (archive_input_check(in, err) < 0) {
        return -1;
    }
    return rc == ARCHIVE_OK ? 0 : err_set(err, "%s: %s: %s", path, not, archive_error_string(a));
}

int archive_input_check(const struct archive_input *in, struct err *err) {
    if (!in->failed) {
        return 0;
    }
    return err_errno(err, in->failed, "%s: cannot read at byte %" PRIu64, in->path, in->failed_at);
}

void archive_input_close(struct archive_input *in) {
    if (in->fd >= 0 && in->path) {
        close(in->fd);
    }
    free(in->block);
    *in = (struct archive_input){.fd = -1};
}
