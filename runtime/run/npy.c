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

char *npy_part(const char *path) {
    struct stat st;
    bool direct = stat(path, &st) == 0 && !S_ISREG(st.st_mode);
    return direct ? NULL : mem_printf("%s.part", path);
}

int npy_create(struct npy *n, const char *path, uint64_t rows, uint64_t cols, struct err *err) {
    *n = (struct npy){.rows = rows, .cols = cols};
    n->path = mem_strdup(path);
    n->part = npy_part(path);
    if (n->part) {
        unlink(n->part); /* of a killed run; or a link, which must not be followed */
    }
    n->fd = open(written_name(n), O_WRONLY | O_CREAT | (n->part ? O_EXCL : 0) | O_CLOEXEC, 0666);
    if (n->fd < 0) {
        return err_errno(err, errno, "%s: cannot create", written_name(n));
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

int npy_finish(struct npy *n, struct err *err) {
    if (n->done != n->rows) {
        return err_set(err, "%s: only %" PRIu64 " of %" PRIu64 " rows were written", n->path,
                       n->done, n->rows);
    }
    if (n->part && fsync(n->fd) < 0) {
        return err_errno(err, errno, "%s: cannot write", n->part);
    }
    n->open = false;
    if (close(n->fd) < 0) {
        return err_errno(err, errno, "%s: cannot write", written_name(n));
    }
    if (n->part && rename(n->part, n->path) < 0) {
        return err_errno(err, errno, "%s: cannot rename to %s", n->part, n->path);
    }
    free(n->part);
    n->part = NULL;
    return 0;
}

void npy_close(struct npy *n) {
    if (n->open) {
        close(n->fd);
    }
    if (n->part) {
        unlink(n->part);
    }
    free(n->part);
    free(n->path);
    *n = (struct npy){0};
}
