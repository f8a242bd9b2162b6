/*
 * npy: see npy.h.
 */
#include "runtime/run/npy.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/fatal.h"

static const char *written_name(const struct npy *n) {
    return n->part ? n->part : n->path;
}

static int write_header(struct npy *n, struct err *err) {
    enum { MAGIC_BYTES = 10, HEADER_BYTES = 128 };
    char text[HEADER_BYTES + 1];
    char order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? '<' : '>';
    int used =
        snprintf(text + MAGIC_BYTES, sizeof text - MAGIC_BYTES,
                 "{'descr': '%cf4', 'fortran_order': False, 'shape': (%" PRIu64 ", %" PRIu64 "), }",
                 order, n->rows, n->cols);
    /* Padded with blanks and a newline, so that the data is aligned to 64 bytes. */
    memset(text + MAGIC_BYTES + used, ' ', (size_t)(HEADER_BYTES - MAGIC_BYTES - used));
    text[HEADER_BYTES - 1] = '\n';
    memcpy(text, "\x93NUMPY\x01\x00", 8);
    text[8] = (char)(HEADER_BYTES - MAGIC_BYTES);
    text[9] = 0;
    return file_write_all(n->fd, text, HEADER_BYTES, written_name(n), err);
}

static int open_file(struct npy *n, struct err *err) {
    struct stat st;
    if (stat(n->path, &st) == 0 && !S_ISREG(st.st_mode)) {
        n->fd = open(n->path, O_WRONLY | O_CLOEXEC);
        return n->fd < 0 ? err_errno(err, errno, "%s: cannot create", n->path) : 0;
    }
    char *part = mem_printf("%s.part", n->path);
    sigset_t before;
    fatal_hold(&before);
    n->fd = file_create_part(part, n->path, 0666, err);
    if (n->fd >= 0) {
        n->part = part;
        part = NULL;
        if (n->tell) {
            n->tell(n->part);
        }
    }
    fatal_release(&before);
    free(part);
    return n->fd < 0 ? -1 : 0;
}

int npy_create(struct npy *n, const char *path, uint64_t rows, uint64_t cols,
               void (*tell)(const char *part), struct err *err) {
    *n = (struct npy){.rows = rows, .cols = cols, .tell = tell};
    n->path = mem_strdup(path);
    if (open_file(n, err) < 0) {
        return -1;
    }
    n->open = true;
    return write_header(n, err);
}

int npy_append(struct npy *n, const float *values, uint64_t rows, struct err *err) {
    uint64_t bytes;
    if (rows > n->rows - n->done || !size_mul(rows, n->cols * sizeof *values, &bytes)) {
        return err_set(err, "%s: more than the announced %" PRIu64 " rows", n->path, n->rows);
    }
    n->done += rows;
    return file_write_all(n->fd, values, bytes, written_name(n), err);
}

/* The file no longer has that name. */
static void forget_part(struct npy *n) {
    if (n->part && n->tell) {
        n->tell(NULL);
    }
    free(n->part);
    n->part = NULL;
}

int npy_finish(struct npy *n, struct err *err) {
    if (n->done != n->rows) {
        return err_set(err, "%s: only %" PRIu64 " of %" PRIu64 " rows were written", n->path,
                       n->done, n->rows);
    }
    if (n->part && fsync(n->fd) < 0) {
        return err_errno(err, errno, "%s: cannot write", n->part);
    }
    /* Renamed while it is locked, as the name may be another process's afterwards. */
    sigset_t before;
    fatal_hold(&before);
    int rc = n->part ? rename(n->part, n->path) : 0, code = errno;
    if (rc == 0) {
        forget_part(n);
    }
    fatal_release(&before);
    if (rc < 0) {
        return err_errno(err, code, "%s: cannot rename to %s", n->part, n->path);
    }
    n->open = false;
    return close(n->fd) < 0 ? err_errno(err, errno, "%s: cannot write", n->path) : 0;
}

void npy_close(struct npy *n) {
    sigset_t before;
    fatal_hold(&before);
    if (n->part) {
        unlink(n->part);
    }
    forget_part(n);
    fatal_release(&before);
    if (n->open) {
        close(n->fd);
    }
    free(n->path);
    *n = (struct npy){0};
}
