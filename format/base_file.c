/*
 * base_file: files and maps; contracts in base.h.
 */
#include "format/base.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *file_kind(mode_t mode) {
    if (S_ISDIR(mode)) {
        return "a directory";
    }
    if (S_ISFIFO(mode)) {
        return "a pipe";
    }
    if (S_ISSOCK(mode)) {
        return "a socket";
    }
    return S_ISCHR(mode) || S_ISBLK(mode) ? "a device" : "not a file";
}

/* Opens a regular file for reading and nothing else. Returns the descriptor, or -1 and `err`. */
static int open_regular(const char *path, struct stat *st, struct err *err) {
    /* O_NONBLOCK: opening a pipe must not wait for its writer. A regular file ignores it. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        return err_errno(err, errno, "%s: cannot open", path);
    }
    if (fstat(fd, st) < 0) {
        err_errno(err, errno, "%s: cannot stat", path);
        close(fd);
        return -1;
    }
    if (!S_ISREG(st->st_mode)) {
        err_set(err, "%s: is %s, expected a regular file", path, file_kind(st->st_mode));
        close(fd);
        return -1;
    }
    return fd;
}

int map_open(struct map *m, const char *path, struct err *err) {
    static const uint8_t nothing[1];
    *m = (struct map){.fd = -1};
    struct stat st;
    int fd = open_regular(path, &st, err);
    if (fd < 0) {
        return -1;
    }
    if ((uintmax_t)st.st_size > SIZE_MAX) {
        close(fd);
        return err_set(err, "%s: %jd bytes do not fit this machine's address space", path,
                       (intmax_t)st.st_size);
    }
    const uint8_t *data = nothing;
    size_t size = (size_t)st.st_size;
    if (size) {
        void *p = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) {
            err_errno(err, errno, "%s: cannot map %zu bytes", path, size);
            close(fd);
            return -1;
        }
        data = p;
    }
    *m = (struct map){.data = data, .size_bytes = size, .path = mem_strdup(path), .fd = fd};
    return 0;
}

void map_close(struct map *m) {
    if (m->data) {
        if (m->size_bytes) {
            munmap((void *)(uintptr_t)m->data, m->size_bytes);
        }
        if (m->fd >= 0) {
            close(m->fd);
        }
        free(m->path);
    }
    *m = (struct map){.fd = -1};
}

int file_read(const char *path, size_t max_bytes, uint8_t **data, size_t *size_bytes,
              struct err *err) {
    *data = NULL;
    *size_bytes = 0;
    struct stat st;
    int fd = open_regular(path, &st, err);
    if (fd < 0) {
        return -1;
    }
    int rc = -1;
    uint8_t *bytes = NULL;
    size_t len = 0;
    /* The size is only a first guess: the file may grow meanwhile, and /proc says 0. */
    size_t cap = (uintmax_t)st.st_size < max_bytes ? (size_t)st.st_size : max_bytes;
    if (max_bytes >= SIZE_MAX - 1 || (uintmax_t)st.st_size > max_bytes) {
        err_set(err, "%s: larger than the limit of %zu bytes", path, max_bytes);
        goto out;
    }
    bytes = mem_alloc(cap + 2);
    for (;;) {
        /* One byte more than is allowed, so that a longer file shows. */
        ssize_t n = read(fd, bytes + len, cap + 1 - len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            err_errno(err, errno, "%s: cannot read at byte %zu", path, len);
            goto out;
        }
        if (n == 0) {
            break;
        }
        len += (size_t)n;
        if (len > max_bytes) {
            err_set(err, "%s: larger than the limit of %zu bytes", path, max_bytes);
            goto out;
        }
        if (len > cap) {
            size_t room = max_bytes - cap;
            cap += room < cap + 4096 ? room : cap + 4096;
            bytes = mem_realloc(bytes, cap + 2);
        }
    }
    bytes[len] = '\0';
    *data = bytes;
    *size_bytes = len;
    bytes = NULL;
    rc = 0;
out:
    free(bytes);
    close(fd);
    return rc;
}

int file_exists(const char *path, struct err *err) {
    struct stat st;
    if (stat(path, &st) == 0) {
        return 1;
    }
    return errno == ENOENT || errno == ENOTDIR ? 0 : err_errno(err, errno, "%s: cannot stat", path);
}

int file_write_all(int fd, const void *data, size_t bytes, const char *path, struct err *err) {
    const uint8_t *p = data;
    size_t left = bytes;
    while (left) {
        ssize_t n = write(fd, p, left);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return err_errno(err, n < 0 ? errno : EIO, "%s: cannot write %zu bytes", path, left);
        }
        p += n;
        left -= (size_t)n;
    }
    return 0;
}

int file_read_at(int fd, void *data, size_t bytes, uint64_t offset, const char *path,
                 struct err *err) {
    uint8_t *p = data;
    for (size_t done = 0; done < bytes;) {
        ssize_t n = pread(fd, p + done, bytes - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return err_errno(err, errno, "%s: cannot read %zu bytes at %ju", path, bytes,
                             (uintmax_t)offset);
        }
        if (n == 0) {
            return err_set(err, "%s: ends inside %zu bytes at %ju", path, bytes, (uintmax_t)offset);
        }
        done += (size_t)n;
    }
    return 0;
}

int file_sync_name(const char *path, struct err *err) {
    const char *slash = strrchr(path, '/');
    char *dir = slash ? mem_printf("%.*s", (int)(slash - path + 1), path) : mem_strdup(".");
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = 0;
    /* A file system that cannot sync directories says EINVAL. */
    if (fd < 0 || (fsync(fd) != 0 && errno != EINVAL)) {
        rc = err_errno(err, errno, "%s: cannot sync the directory", dir);
    }
    if (fd >= 0) {
        close(fd);
    }
    free(dir);
    return rc;
}

int file_scratch(const char *path, struct err *err) {
    unlink(path); /* of a killed process; or a link, which must not be followed */
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) {
        return err_errno(err, errno, "%s: cannot be made", path);
    }
    if (unlink(path) < 0) {
        err_errno(err, errno, "%s: cannot lose its name", path);
        close(fd);
        return -1;
    }
    return fd;
}

/* Whether the file that is open as `fd` still has the name. */
static bool has_name(int fd, const char *name) {
    struct stat held, named;
    return fstat(fd, &held) == 0 && lstat(name, &named) == 0 && held.st_dev == named.st_dev &&
           held.st_ino == named.st_ino;
}

/* Whether the lock is this process's, or the file system has no locks. */
static bool lock(int fd) {
    int rc;
    do {
        rc = flock(fd, LOCK_EX | LOCK_NB);
    } while (rc < 0 && errno == EINTR);
    return rc == 0 || errno != EWOULDBLOCK;
}

/* Remove what a killed process left, or a link, which must not be followed. A file is removed under
 * its lock, which whoever made it either has or fails to get. False: another process is at it. */
static bool remove_left(const char *part) {
    int fd = open(part, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    bool ours = fd < 0 || lock(fd);
    if (ours && (fd < 0 ? errno != ENOENT : has_name(fd, part))) {
        unlink(part);
    }
    if (fd >= 0) {
        close(fd);
    }
    return ours;
}

int file_create_part(const char *part, const char *whole, unsigned mode, struct err *err) {
    enum { TRIES = 100 }; /* others may make, and end with, the same file meanwhile */
    int code = EWOULDBLOCK;
    for (int i = 0; i < TRIES && remove_left(part); i++) {
        int fd = open(part, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (fd >= 0 && lock(fd) && has_name(fd, part)) {
            return fd;
        }
        code = fd < 0 ? errno : EWOULDBLOCK;
        if (fd >= 0) {
            close(fd);
        } else if (code != EEXIST) {
            break;
        }
    }
    return code == EWOULDBLOCK ? err_set(err, "%s: another process is writing it", whole)
                               : err_errno(err, code, "%s: cannot create", part);
}
