#include "prep/provenance.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "prep/source.h"

enum { READ_BYTES = 4 << 20, MAX_LICENSE_BYTES = 4 << 20, MAX_README_BYTES = 64 << 20 };

/* ---- files and checksums ---- */

/* Reading of all files, with its progress. */
struct reading {
    uint8_t *block;
    uint64_t done_bytes;
    struct progress *progress;
    const volatile sig_atomic_t *stop;
};

/* The file is read with read(2) and not through the maps, so that it does not count as used
 * memory. */
static int hash_file(struct reading *r, const char *path, uint64_t *bytes, uint64_t *hash,
                     struct err *err) {
    int rc = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(err, errno, "%s", path);
    }
    posix_fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL);
    struct hasher *h = hasher_new();
    *bytes = 0;
    for (;;) {
        ssize_t n = read(fd, r->block, READ_BYTES);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            err_errno(err, errno, "%s", path);
            break;
        }
        if (n == 0) {
            *hash = hasher_value(h);
            rc = 0;
            break;
        }
        if (stop_check(r->stop, err) < 0) {
            break;
        }
        hasher_add(h, r->block, (size_t)n);
        *bytes += (uint64_t)n;
        r->done_bytes += (uint64_t)n;
        progress_update(r->progress, r->done_bytes);
    }
    hasher_free(h);
    close(fd);
    return rc;
}

static int path_order(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* The paths of all files: of the small ones of the directory, and of those that hold the
 * weights. */
static int list_files(const struct hf_model *m, char ***paths, size_t *n, struct err *err) {
    char **names = NULL;
    size_t n_names = 0;
    if (!m->single && source_names(m->dir, &names, &n_names, err) < 0) {
        return -1;
    }
    *paths = mem_calloc(n_names + st_file_count(m->st) + 1, sizeof **paths);
    *n = 0;
    for (size_t i = 0; i < n_names; i++) {
        const char *dot = strrchr(names[i], '.');
        bool weights = (dot && strcmp(dot, ".safetensors") == 0) ||
                       strcmp(names[i], "model.safetensors.index.json") == 0;
        if (!weights) {
            (*paths)[(*n)++] = mem_printf("%s/%s", m->dir, names[i]);
        }
    }
    for (size_t i = 0; i < st_file_count(m->st); i++) {
        (*paths)[(*n)++] = mem_strdup(st_file_path(m->st, i));
    }
    qsort(*paths, *n, sizeof **paths, path_order);
    source_names_free(names, n_names);
    return 0;
}

int provenance_files(const struct hf_model *m, struct buf *out, struct progress *progress,
                     const volatile sig_atomic_t *stop, struct err *err) {
    char **paths;
    size_t n;
    if (list_files(m, &paths, &n, err) < 0) {
        return -1;
    }
    uint64_t total = 0;
    for (size_t i = 0; i < n; i++) {
        struct stat info;
        total += stat(paths[i], &info) == 0 ? (uint64_t)info.st_size : 0;
    }
    const char *slash = m->single ? strrchr(m->dir, '/') : NULL;
    const size_t before = !m->single ? strlen(m->dir) + 1
                          : slash    ? (size_t)(slash + 1 - m->dir)
                                     : 0;
    struct reading r = {.block = mem_alloc(READ_BYTES), .progress = progress, .stop = stop};
    progress_start(progress, "reading checksums", total, PROGRESS_BYTES);
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < n; i++) {
        uint64_t bytes = 0, hash = 0;
        rc = hash_file(&r, paths[i], &bytes, &hash, err);
        /* All paths begin with the directory, or that of the file: shards may lie in folders of it.
         * A name may hold newlines, and what follows one must not pass for a line of ours. */
        char *name = text_cleaned(paths[i] + before);
        buf_printf(out, "source: %s %" PRIu64 " bytes xxh3 %016" PRIx64 "\n", name, bytes, hash);
        free(name);
    }
    progress_finish(progress);
    free(r.block);
    source_names_free(paths, n);
    return rc;
}

/* ---- licence ---- */

/* The lines license, license_name and license_link of README.md's front matter ("---" to "---"). */
static void license_from_readme(const char *text, struct buf *out) {
    if (strncmp(text, "---", 3) != 0) {
        return;
    }
    const char *line = strchr(text, '\n');
    while (line) {
        line++;
        const char *end = strchr(line, '\n');
        size_t n = end ? (size_t)(end - line) : strlen(line);
        if (n >= 3 && strncmp(line, "---", 3) == 0) {
            return;
        }
        while (n && line[n - 1] == '\r') {
            n--;
        }
        if (strncmp(line, "license:", 8) == 0 || strncmp(line, "license_name:", 13) == 0 ||
            strncmp(line, "license_link:", 13) == 0) {
            buf_append(out, line, n);
            buf_append(out, "\n", 1);
        }
        line = end;
    }
}

int provenance_license(const char *dir, struct buf *out, struct err *err) {
    char **names;
    size_t n, n_licenses = 0;
    int rc = 0;
    if (source_names(dir, &names, &n, err) < 0) {
        return -1;
    }
    for (size_t i = 0; i < n; i++) {
        n_licenses += source_is_license(names[i]);
    }
    for (size_t i = 0; rc == 0 && i < n; i++) {
        bool license = source_is_license(names[i]);
        if (!license && (n_licenses || strcmp(names[i], "README.md") != 0)) {
            continue;
        }
        char *path = mem_printf("%s/%s", dir, names[i]);
        uint8_t *text = NULL;
        size_t bytes = 0;
        rc = file_read(path, license ? MAX_LICENSE_BYTES : MAX_README_BYTES, &text, &bytes, err);
        if (rc == 0 && license) {
            if (n_licenses > 1) {
                char *name = text_cleaned(names[i]); /* see provenance_files */
                buf_printf(out, "%s==== %s ====\n", out->len ? "\n" : "", name);
                free(name);
            }
            buf_append(out, text, bytes);
        } else if (rc == 0) {
            license_from_readme((const char *)text, out);
        }
        free(text);
        free(path);
    }
    source_names_free(names, n);
    return rc;
}
