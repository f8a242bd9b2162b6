#include "format/corm_patch.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

static int write_at(int fd, const char *path, uint64_t offset, const void *data, size_t bytes,
                    struct err *err) {
    if (lseek(fd, (off_t)offset, SEEK_SET) < 0) {
        return err_errno(err, errno, "%s: seek to %llu", path, (unsigned long long)offset);
    }
    return file_write_all(fd, data, bytes, path, err);
}

static int patch(int fd, const char *path, uint32_t section_type, const void *data, size_t bytes,
                 struct err *err) {
    struct corm_header h;
    struct corm_section table[CORM_MAX_SECTIONS];
    if (pread(fd, &h, sizeof h, 0) != (ssize_t)sizeof h || h.section_count > CORM_MAX_SECTIONS) {
        return err_set(err, "%s: not an archive that can be patched", path);
    }
    size_t table_bytes = h.section_count * sizeof *table;
    if (pread(fd, table, table_bytes, (off_t)h.table_offset) != (ssize_t)table_bytes) {
        return err_set(err, "%s: section table cannot be read", path);
    }
    for (uint32_t i = 0; i < h.section_count; i++) {
        if (table[i].type != section_type) {
            continue;
        }
        if (table[i].bytes != bytes) {
            return err_set(err, "%s: section %u has %llu bytes, %zu were given", path, section_type,
                           (unsigned long long)table[i].bytes, bytes);
        }
        table[i].hash = hash64(data, bytes);
        h.table_hash = hash64(table, table_bytes);
        h.header_hash = hash64(&h, offsetof(struct corm_header, header_hash));
        if (write_at(fd, path, table[i].offset, data, bytes, err) < 0 ||
            write_at(fd, path, h.table_offset, table, table_bytes, err) < 0 ||
            write_at(fd, path, 0, &h, sizeof h, err) < 0) {
            return -1;
        }
        return fsync(fd) < 0 ? err_errno(err, errno, "%s: fsync", path) : 0;
    }
    return err_set(err, "%s: has no section %u", path, section_type);
}

int corm_patch_section(const char *path, uint32_t section_type, const void *data, size_t bytes,
                       struct err *err) {
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return err_errno(err, errno, "%s", path);
    }
    int status = patch(fd, path, section_type, data, bytes, err);
    close(fd);
    return status;
}
