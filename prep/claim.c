#include "prep/claim.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

char *claim_path(const char *output, enum claim_part part) {
    static const char *const ends[CLAIM_PARTS] = {
        [CLAIM_LOCK] = ".lock",
        [CLAIM_WRITTEN] = ".tmp",
        [CLAIM_UNMEASURED] = ".unmeasured",
        [CLAIM_UNMEASURED_WRITTEN] = ".unmeasured.tmp",
        [CLAIM_EXACT] = ".unmeasured.exact",
        [CLAIM_SPILL] = ".spill",
    };
    if (part != CLAIM_UNPACKED) {
        return mem_printf("%s%s", output, ends[part]);
    }
    /* Hidden, and unlike any name that people give: it will be removed with all that is in it. */
    char *of_dir = mem_strdup(output), *of_name = mem_strdup(output);
    char *path = mem_printf("%s/.%s.corm-prep-unpacked", dirname(of_dir), basename(of_name));
    free(of_dir);
    free(of_name);
    return path;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *ftw) {
    (void)info;
    (void)type;
    (void)ftw;
    remove(path); /* what cannot be removed stays: whoever needs its name reports it */
    return 0;
}

static void remove_leftovers(const struct claim *c) {
    for (int part = CLAIM_WRITTEN; part < CLAIM_PARTS; part++) {
        if (part == CLAIM_UNPACKED) {
            nftw(c->parts[part], remove_one, 16, FTW_DEPTH | FTW_PHYS);
        } else {
            unlink(c->parts[part]);
        }
    }
}

/* Whether the locked file still has that name: the owner before may have removed it meanwhile. */
static bool is_current(const struct claim *c) {
    struct stat held, named;
    return fstat(c->fd, &held) == 0 && stat(c->path, &named) == 0 && held.st_dev == named.st_dev &&
           held.st_ino == named.st_ino;
}

enum { MAX_DEPTH = 16 }; /* of folders in an unpacked checkpoint */

/* Remove what is in a directory that is open as `fd`, and in those in it, `depth` deep. */
static void empty_dir(int fd, int depth) {
    _Alignas(struct dirent64) char entries[4096];
    ssize_t n;
    while ((n = getdents64(fd, entries, sizeof entries)) > 0) {
        for (ssize_t at = 0; at < n;) {
            const struct dirent64 *e = (const void *)(entries + at);
            at += e->d_reclen;
            if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
                unlinkat(fd, e->d_name, 0) == 0 || depth == 0) {
                continue;
            }
            int inside = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            if (inside >= 0) {
                empty_dir(inside, depth - 1);
                close(inside);
                unlinkat(fd, e->d_name, AT_REMOVEDIR);
            }
        }
    }
}

void claim_remove_now(const struct claim *c) {
    for (int part = CLAIM_WRITTEN; part < CLAIM_PARTS; part++) {
        if (part != CLAIM_UNPACKED) {
            unlink(c->parts[part]);
        }
    }
    int fd = open(c->parts[CLAIM_UNPACKED], O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd >= 0) {
        empty_dir(fd, MAX_DEPTH);
        close(fd);
        rmdir(c->parts[CLAIM_UNPACKED]);
    }
    unlink(c->path);
}

int claim_open(struct claim *c, const char *output, struct err *err) {
    *c = (struct claim){.path = claim_path(output, CLAIM_LOCK), .fd = -1};
    for (int part = CLAIM_WRITTEN; part < CLAIM_PARTS; part++) {
        c->parts[part] = claim_path(output, (enum claim_part)part);
    }
    for (;;) {
        c->fd = open(c->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
        if (c->fd < 0) {
            return err_errno(err, errno, "%s: cannot be written", output);
        }
        int rc;
        do {
            rc = flock(c->fd, LOCK_EX | LOCK_NB);
        } while (rc < 0 && errno == EINTR);
        if (rc == 0 && is_current(c)) {
            remove_leftovers(c);
            return 0;
        }
        int code = errno;
        close(c->fd);
        c->fd = -1;
        if (rc < 0 && code == EWOULDBLOCK) {
            return err_set(err, "%s: another process is writing it", output);
        }
        if (rc < 0) {
            return err_errno(err, code, "%s: cannot lock", c->path);
        }
    }
}

bool claim_left(const char *output) {
    struct stat info;
    char *path = claim_path(output, CLAIM_LOCK);
    bool left = lstat(path, &info) == 0 && S_ISREG(info.st_mode);
    free(path);
    return left;
}

void claim_close(struct claim *c) {
    if (c->fd >= 0) {
        unlink(c->path); /* while the lock is held, so that whoever locks the file next sees it */
        close(c->fd);
    }
    free(c->path);
    for (int part = 0; part < CLAIM_PARTS; part++) {
        free(c->parts[part]);
    }
    *c = (struct claim){.fd = -1};
}
