#include "prep/source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "prep/archive_input.h"
#include "prep/foreign.h"
#include "prep/gguf/gguf_model.h"

enum {
    BLOCK_BYTES = 1 << 20,
    MAX_PREFIXES = 16, /* directories of an archive that hold wanted files */
};

/* ---- which files ---- */

static const char *const wanted[] = {
    "config.json",
    "generation_config.json",
    "hf_quant_config.json",
    "model.safetensors.index.json",
    "*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "tiktoken.model",
    "*.tiktoken",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "README.md",
};
static const char *const licenses[] = {"LICENSE*", "LICENCE*", "COPYING*"};
/* The same weights under other names, which some publishers add for other programs. */
static const char *const unwanted[] = {"consolidated*", ".*"};

static bool matches(const char *const *patterns, size_t n, const char *name, int flags) {
    for (size_t i = 0; i < n; i++) {
        if (fnmatch(patterns[i], name, flags) == 0) {
            return true;
        }
    }
    return false;
}
#define MATCHES(list, name, flags) matches(list, sizeof(list) / sizeof *(list), name, flags)

bool source_is_license(const char *name) {
    return MATCHES(licenses, name, FNM_CASEFOLD);
}

bool source_wants(const char *name) {
    return !MATCHES(unwanted, name, 0) && (MATCHES(wanted, name, 0) || source_is_license(name));
}

static int name_order(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int source_names(const char *dir, char ***names, size_t *n, struct err *err) {
    DIR *d = opendir(dir);
    *names = NULL;
    *n = 0;
    if (!d) {
        return err_errno(err, errno, "%s", dir);
    }
    int rc = 0;
    size_t cap = 0;
    while (rc == 0) {
        struct stat info;
        errno = 0; /* the end, and an error, are both NULL */
        const struct dirent *e = readdir(d);
        if (!e) {
            rc = errno ? err_errno(err, errno, "%s: cannot be listed", dir) : 1;
        } else if (!source_wants(e->d_name)) {
            continue;
        } else if (fstatat(dirfd(d), e->d_name, &info, 0) < 0) {
            if (errno != ENOENT) { /* that is a link to nothing */
                rc = err_errno(err, errno, "%s/%s", dir, e->d_name);
            }
        } else if (S_ISREG(info.st_mode)) {
            *names = mem_grow(*names, *n + 1, &cap, sizeof **names);
            (*names)[(*n)++] = mem_strdup(e->d_name);
        }
    }
    closedir(d);
    if (rc < 0) {
        source_names_free(*names, *n);
        *names = NULL;
        *n = 0;
        return -1;
    }
    if (*n) {
        qsort(*names, *n, sizeof **names, name_order);
    }
    return 0;
}

void source_names_free(char **names, size_t n) {
    for (size_t i = 0; i < n; i++) {
        free(names[i]);
    }
    free(names);
}

/* ---- unpacking ---- */

struct unpack {
    const char *path; /* of the archive, for messages */
    struct source *source;
    struct archive *a;
    struct archive_input in;
    char *prefixes[MAX_PREFIXES]; /* directories inside the archive, ending in '/' or empty */
    int n_prefixes;
    uint8_t *block;
    struct progress *progress;
    const volatile sig_atomic_t *stop;
};

/* In any case archive_input_close follows, after the archive is freed. */
static struct archive *open_archive(struct archive_input *in, const char *path, struct err *err) {
    struct archive *a = archive_read_new();
    *in = (struct archive_input){.fd = -1};
    if (!a) {
        die("libarchive: out of memory");
    }
    archive_read_support_format_tar(a);
    archive_read_support_format_zip(a);
    archive_read_support_filter_gzip(a);
    archive_read_support_filter_zstd(a);
    archive_read_support_filter_xz(a);
    archive_read_support_filter_bzip2(a);
    if (archive_input_open(in, a, path, BLOCK_BYTES,
                           "neither a directory nor a .tar, .tar.zst, .tar.gz or .zip", err) < 0) {
        archive_read_free(a);
        return NULL;
    }
    return a;
}

/* Go to the next entry. Returns 1, 0 at the end, or -1. `*name` is its path without a leading
 * "./". */
static int next_entry(struct archive *a, const struct archive_input *in, struct archive_entry **e,
                      const char **name, struct err *err) {
    const char *path = in->path;
    int rc = archive_read_next_header(a, e);
    if (archive_input_check(in, err) < 0) {
        return -1;
    }
    if (rc == ARCHIVE_EOF) {
        return 0;
    }
    if (rc != ARCHIVE_OK && rc != ARCHIVE_WARN) {
        return err_set(err, "%s: damaged or not a .tar, .tar.zst, .tar.gz or .zip: %s", path,
                       archive_error_string(a));
    }
    const char *p = archive_entry_pathname(*e);
    p = p ? p : archive_entry_pathname_utf8(*e);
    p = p ? p : ""; /* a name in no known encoding is not the name of a wanted file */
    while (p[0] == '.' && p[1] == '/') {
        for (p += 2; *p == '/';) {
            p++;
        }
    }
    *name = p;
    size_t n = strlen(p);
    bool dots = strcmp(p, "..") == 0 || strncmp(p, "../", 3) == 0 || strstr(p, "/../") ||
                (n >= 3 && strcmp(p + n - 3, "/..") == 0);
    if (p[0] == '/' || dots || strchr(p, '\\')) {
        return err_set(err, "%s: entry \"%s\" leads out of the archive: refused", path, p);
    }
    return 1;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* Templates with names of their own lie in a folder of theirs. */
static bool is_template(const char *name) {
    return fnmatch("*/additional_chat_templates/*.jinja", name, 0) == 0 ||
           fnmatch("additional_chat_templates/*.jinja", name, 0) == 0;
}

static bool entry_wanted(struct archive_entry *e, const char *name) {
    return archive_entry_filetype(e) != AE_IFDIR &&
           (source_wants(base_name(name)) || is_template(name));
}

static int check_space(const char *dir, uint64_t bytes, const char *path, struct err *err) {
    struct statvfs fs;
    if (statvfs(dir, &fs) != 0) {
        return 0; /* not known: writing will fail where there is no space */
    }
    uint64_t free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (bytes > free_bytes) {
        return err_set(err, "%s: unpacking needs %" PRIu64 " MiB in %s, %" PRIu64 " MiB are free",
                       path, (bytes >> 20) + 1, dir, free_bytes >> 20);
    }
    return 0;
}

/* The size of all wanted entries together, or 0 where it takes decompressing everything to know
 * it. */
static int wanted_bytes(const char *path, uint64_t *bytes, struct err *err) {
    struct archive_input in;
    struct archive *a = open_archive(&in, path, err);
    *bytes = 0;
    if (!a) {
        archive_input_close(&in);
        return -1;
    }
    int rc;
    struct archive_entry *e;
    const char *name;
    while ((rc = next_entry(a, &in, &e, &name, err)) > 0 && archive_filter_count(a) <= 1) {
        if (entry_wanted(e, name) && archive_entry_size_is_set(e) && archive_entry_size(e) > 0 &&
            !size_add(*bytes, (uint64_t)archive_entry_size(e), bytes)) {
            *bytes = UINT64_MAX;
        }
    }
    archive_read_free(a);
    archive_input_close(&in);
    return rc < 0 ? -1 : 0;
}

/* Make the directories that a file of the archive lies in below the temporary one, as far as they
 * are not there yet. */
static int make_dirs(struct unpack *u, const char *name, struct err *err) {
    size_t len = (size_t)(base_name(name) - name);
    int i = 0;
    while (i < u->n_prefixes &&
           (strlen(u->prefixes[i]) != len || strncmp(u->prefixes[i], name, len) != 0)) {
        i++;
    }
    if (i < u->n_prefixes) {
        return 0;
    }
    if (i == MAX_PREFIXES) {
        return err_set(err, "%s: files of a checkpoint lie in more than %d directories", u->path,
                       MAX_PREFIXES);
    }
    u->prefixes[u->n_prefixes++] = mem_printf("%.*s", (int)len, name);
    for (const char *end = name; (end = strchr(end, '/')) != NULL; end++) {
        char *dir = mem_printf("%s/%.*s", u->source->temp, (int)(end - name), name);
        int rc = mkdir(dir, 0700) != 0 && errno != EEXIST ? err_errno(err, errno, "%s", dir) : 0;
        free(dir);
        if (rc < 0) {
            return -1;
        }
    }
    return 0;
}

static int copy_data(struct unpack *u, int fd, const char *file, const char *name,
                     struct err *err) {
    for (;;) {
        la_ssize_t n = archive_read_data(u->a, u->block, BLOCK_BYTES);
        if (archive_input_check(&u->in, err) < 0) {
            return -1;
        }
        if (n < 0) {
            return err_set(err, "%s: entry \"%s\": %s", u->path, name, archive_error_string(u->a));
        }
        if (n == 0) {
            return 0;
        }
        if (file_write_all(fd, u->block, (size_t)n, file, err) || stop_check(u->stop, err)) {
            return -1;
        }
        progress_update(u->progress, (uint64_t)archive_filter_bytes(u->a, -1));
    }
}

static int unpack_entry(struct unpack *u, struct archive_entry *e, const char *name,
                        struct err *err) {
    int rc = -1, fd = -1;
    char *file = NULL;
    if (archive_entry_filetype(e) != AE_IFREG || archive_entry_hardlink(e)) {
        return err_set(err,
                       "%s: entry \"%s\" is a link or device, not a file (tar -h packs what links "
                       "point to)",
                       u->path, name);
    }
    if (archive_entry_size_is_set(e) &&
        check_space(u->source->temp, (uint64_t)archive_entry_size(e), u->path, err)) {
        goto out;
    }
    if (make_dirs(u, name, err)) {
        goto out;
    }
    file = mem_printf("%s/%s", u->source->temp, name);
    fd = open(file, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 && errno == EEXIST) {
        err_set(err, "%s: entry \"%s\" occurs twice", u->path, name);
    } else if (fd < 0) {
        err_errno(err, errno, "%s", file);
    } else if (copy_data(u, fd, file, name, err) == 0) {
        rc = 0;
    }
out:
    if (fd >= 0 && close(fd) != 0 && rc == 0) {
        rc = err_errno(err, errno, "%s", file);
    }
    free(file);
    return rc;
}

/* The one directory that has a config.json is the checkpoint. */
static int choose_dir(struct unpack *u, struct err *err) {
    int found = -1;
    for (int i = 0; i < u->n_prefixes; i++) {
        char *config = mem_printf("%s/%sconfig.json", u->source->temp, u->prefixes[i]);
        int has = file_exists(config, err);
        free(config);
        if (has < 0) {
            return -1;
        }
        if (has && found >= 0) {
            return err_set(err,
                           "%s: two checkpoints, in \"%s\" and \"%s\": expected one config.json",
                           u->path, u->prefixes[found], u->prefixes[i]);
        }
        found = has ? i : found;
    }
    if (found < 0) {
        return err_set(err, "%s: holds no config.json: not a Hugging Face checkpoint", u->path);
    }
    u->source->dir = mem_printf("%s/%s", u->source->temp, u->prefixes[found]);
    size_t n = strlen(u->source->dir);
    while (n > 1 && u->source->dir[n - 1] == '/') {
        u->source->dir[--n] = '\0';
    }
    return 0;
}

static int unpack_all(struct unpack *u, struct err *err) {
    uint64_t bytes;
    if (wanted_bytes(u->path, &bytes, err) || check_space(u->source->temp, bytes, u->path, err)) {
        return -1;
    }
    u->a = open_archive(&u->in, u->path, err);
    if (!u->a) {
        return -1;
    }
    struct archive_entry *e;
    const char *name;
    int rc;
    while ((rc = next_entry(u->a, &u->in, &e, &name, err)) > 0) {
        if (stop_check(u->stop, err) || (entry_wanted(e, name) && unpack_entry(u, e, name, err))) {
            return -1;
        }
    }
    return rc < 0 ? -1 : choose_dir(u, err);
}

int source_open(struct source *s, const char *path, const char *unpack_dir,
                struct progress *progress, const volatile sig_atomic_t *stop, struct err *err) {
    struct stat info;
    memset(s, 0, sizeof *s);
    if (gguf_model_is(path)) {
        s->dir = mem_strdup(path);
        return 0;
    }
    if (foreign_check_path(path, err) < 0) {
        return -1;
    }
    if (stat(path, &info) != 0) {
        return err_errno(err, errno, "%s", path);
    }
    if (S_ISDIR(info.st_mode)) {
        s->dir = mem_strdup(path);
        return 0;
    }
    if (mkdir(unpack_dir, 0700) < 0) {
        return err_errno(err, errno, "%s: cannot make a directory for unpacking", unpack_dir);
    }
    s->temp = mem_strdup(unpack_dir);
    struct unpack u = {.path = path, .source = s, .progress = progress, .stop = stop, .in.fd = -1};
    u.block = mem_alloc(BLOCK_BYTES);
    progress_start(progress, "unpacking", (uint64_t)info.st_size, PROGRESS_BYTES);
    int rc = unpack_all(&u, err);
    progress_finish(progress);
    if (u.a) {
        archive_read_free(u.a);
    }
    archive_input_close(&u.in);
    for (int i = 0; i < u.n_prefixes; i++) {
        free(u.prefixes[i]);
    }
    free(u.block);
    return rc;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *ftw) {
    (void)info;
    (void)type;
    (void)ftw;
    remove(path); /* what cannot be removed stays; there is nobody to tell */
    return 0;
}

void source_close(struct source *s) {
    if (s->temp) {
        nftw(s->temp, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    }
    free(s->temp);
    free(s->dir);
    memset(s, 0, sizeof *s);
}
