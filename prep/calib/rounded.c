#include "prep/calib/rounded.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static char *path_of(const char *dir, uint32_t layer) {
    return mem_printf("%s/experts-%04u", dir, layer);
}

size_t rounded_expert_bytes(const struct rounded *r) {
    return 3 * (size_t)r->ffn_dim * codec_row_bytes(r->codec, r->dim);
}

static uint64_t sum_of(const struct rounded *r, uint32_t layer, uint32_t expert,
                       const uint8_t *neurons) {
    const uint32_t at[2] = {layer, expert};
    struct hasher *h = hasher_new();
    hasher_add(h, &r->key, sizeof r->key);
    hasher_add(h, at, sizeof at);
    hasher_add(h, neurons, rounded_expert_bytes(r));
    uint64_t sum = hasher_value(h);
    hasher_free(h);
    return sum;
}

/* ---- writing ---- */

int rounded_begin(struct rounded_writer *w, const struct rounded *r, uint32_t layer,
                  struct err *err) {
    *w = (struct rounded_writer){.r = r, .path = path_of(r->dir, layer), .layer = layer};
    w->temp = mem_printf("%s.tmp", w->path);
    unlink(w->temp); /* of a killed run; or a link that somebody put there, which is not followed */
    w->fd = open(w->temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        err_errno(err, errno, "%s", w->temp);
        rounded_abort(w);
        return -1;
    }
    return 0;
}

int rounded_add(struct rounded_writer *w, const uint8_t *neurons, struct err *err) {
    uint64_t sum = sum_of(w->r, w->layer, w->n++, neurons);
    return file_write_all(w->fd, neurons, rounded_expert_bytes(w->r), w->temp, err) < 0 ||
                   file_write_all(w->fd, &sum, sizeof sum, w->temp, err) < 0
               ? -1
               : 0;
}

int rounded_end(struct rounded_writer *w, struct err *err) {
    int rc = 0;
    if (fsync(w->fd) < 0 || rename(w->temp, w->path) < 0) {
        rc = err_errno(err, errno, "%s", w->path);
    }
    rounded_abort(w);
    return rc;
}

void rounded_abort(struct rounded_writer *w) {
    if (w->fd >= 0) {
        close(w->fd);
        unlink(w->temp); /* where it has not been renamed */
    }
    free(w->path);
    free(w->temp);
    *w = (struct rounded_writer){.fd = -1};
}

/* ---- reading ---- */

/* One expert from an open file. */
static int read_expert(const struct rounded *r, int fd, const char *path, uint32_t layer,
                       uint32_t expert, uint8_t *neurons, struct err *err) {
    size_t bytes = rounded_expert_bytes(r);
    uint64_t sum, at = (uint64_t)expert * (bytes + sizeof sum);
    if (file_read_at(fd, neurons, bytes, at, path, err) < 0 ||
        file_read_at(fd, &sum, sizeof sum, at + bytes, path, err) < 0) {
        return -1;
    }
    return sum == sum_of(r, layer, expert, neurons)
               ? 0
               : err_set(err, "%s: expert %u has another checksum than expected", path, expert);
}

int rounded_read(const struct rounded *r, uint32_t layer, uint32_t expert, uint8_t *neurons,
                 struct err *err) {
    char *path = path_of(r->dir, layer);
    int rc = -1, fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        err_errno(err, errno, "%s", path);
    } else {
        rc = read_expert(r, fd, path, layer, expert, neurons, err);
        close(fd);
    }
    free(path);
    return rc;
}

static int check_numbers(const struct rounded *r, const char *path, uint32_t expert,
                         const uint8_t *neurons, float *row, struct err *err) {
    const size_t row_bytes = codec_row_bytes(r->codec, r->dim);
    for (size_t i = 0; i < 3 * (size_t)r->ffn_dim; i++) {
        r->codec->decode_row(neurons + i * row_bytes, r->dim, row);
        for (uint32_t k = 0; k < r->dim; k++) {
            if (!isfinite(row[k])) {
                return err_set(err, "%s: expert %u: weight %u of neuron %zu is no number", path,
                               expert, k, i / 3);
            }
        }
    }
    return 0;
}

bool rounded_check(const struct rounded *r, uint32_t layer, struct err *refused) {
    const size_t bytes = rounded_expert_bytes(r);
    char *path = path_of(r->dir, layer);
    uint8_t *neurons = mem_alloc(bytes);
    float *row = mem_alloc(r->dim * sizeof *row);
    struct stat info;
    bool ok = false;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &info) < 0) {
        if (errno != ENOENT) {
            err_errno(refused, errno, "%s", path);
        }
        goto out;
    }
    ok = (uint64_t)info.st_size == (uint64_t)r->n_experts * (bytes + sizeof(uint64_t));
    if (!ok) {
        err_set(refused, "%s: %jd bytes, expected %u experts of %zu", path, (intmax_t)info.st_size,
                r->n_experts, bytes);
    }
    for (uint32_t e = 0; e < r->n_experts && ok; e++) {
        ok = read_expert(r, fd, path, layer, e, neurons, refused) == 0 &&
             check_numbers(r, path, e, neurons, row, refused) == 0;
    }
out:
    if (fd >= 0) {
        close(fd);
    }
    free(row);
    free(neurons);
    free(path);
    return ok;
}

void rounded_remove(const char *dir, uint32_t layer) {
    char *path = path_of(dir, layer), *temp = mem_printf("%s.tmp", path);
    unlink(path);
    unlink(temp);
    free(path);
    free(temp);
}
