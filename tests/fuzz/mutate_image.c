/*
 * mutate_image: archives taken apart and put together. Places are counted from a section's start
 * while an image is in parts, and become places in the file when it is put together: so what one
 * part grows by moves all others.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/fuzz/mutate.h"
#include "tests/util/test_util_archive.h"

static const uint64_t most_bytes = UINT64_C(2) << 30;

struct image_part *image_part(struct image *m, uint32_t type) {
    for (uint32_t i = 0; i < m->n; i++) {
        if (m->part[i].type == type) {
            return &m->part[i];
        }
    }
    return NULL;
}

/* Add `by` to the places that the tensors and the index hold of two other sections. Numbers wrap:
 * they may be anything. */
static void move_places(struct buf *b, uint32_t type, uint64_t by) {
    struct corm_index_header h;
    size_t at = 0, step = sizeof(struct corm_tensor), field = offsetof(struct corm_tensor, offset);
    if (type == CORM_SECTION_INDEX) {
        if (b->len < sizeof h) {
            return;
        }
        memcpy(&h, b->data, sizeof h);
        at = sizeof h + h.n_records * sizeof(struct corm_record);
        step = sizeof(struct corm_chunk);
        field = offsetof(struct corm_chunk, offset);
    } else if (type != CORM_SECTION_TENSORS) {
        return;
    }
    for (; at + step <= b->len; at += step) {
        uint64_t place;
        memcpy(&place, b->data + at + field, sizeof place);
        place += by;
        memcpy(b->data + at + field, &place, sizeof place);
    }
}

/* Where the sections begin that tensors and chunks lie in. */
static uint64_t base_of(uint32_t type, uint64_t trunk, uint64_t records) {
    return type == CORM_SECTION_TENSORS ? trunk : records;
}

void image_open(struct image *m, const char *path) {
    struct corm_header h;
    struct corm_section s[CORM_MAX_SECTIONS];
    uint64_t trunk = 0, records = 0;
    size_t bytes;
    uint8_t *data = archive_load(path, &bytes);
    memcpy(&h, data, sizeof h);
    memcpy(s, data + h.table_offset, h.section_count * sizeof *s);
    *m = (struct image){.n = h.section_count, .incompat = h.incompat};
    for (uint32_t i = 0; i < m->n; i++) {
        struct image_part *p = &m->part[i];
        p->type = s[i].type;
        p->flags = s[i].flags;
        buf_append(&p->bytes, data + s[i].offset, s[i].bytes);
        trunk = s[i].type == CORM_SECTION_TRUNK ? s[i].offset : trunk;
        records = s[i].type == CORM_SECTION_RECORDS ? s[i].offset : records;
    }
    for (uint32_t i = 0; i < m->n; i++) {
        move_places(&m->part[i].bytes, m->part[i].type, -base_of(m->part[i].type, trunk, records));
    }
    free(data);
}

void image_copy(struct image *to, const struct image *from) {
    *to = *from;
    for (uint32_t i = 0; i < to->n; i++) {
        const struct buf *b = &from->part[i].bytes;
        to->part[i].bytes = (struct buf){0};
        buf_append(&to->part[i].bytes, b->data ? b->data : "", b->len);
    }
}

void image_free(struct image *m) {
    for (uint32_t i = 0; i < m->n; i++) {
        buf_free(&m->part[i].bytes);
    }
    *m = (struct image){0};
}

void image_replace(struct image *m, uint32_t type, struct buf *bytes) {
    struct image_part *p = image_part(m, type);
    if (!p && m->n < CORM_MAX_SECTIONS) {
        p = &m->part[m->n++];
        bool optional = type >= CORM_SECTION_PROVENANCE;
        *p = (struct image_part){.type = type, .flags = optional ? CORM_SECTION_OPTIONAL : 0};
    }
    if (p) {
        buf_free(&p->bytes);
        p->bytes = *bytes;
        p->hole = 0;
        *bytes = (struct buf){0};
    }
    buf_free(bytes);
}

bool image_index(struct image *m, struct image_index *x) {
    struct image_part *p = image_part(m, CORM_SECTION_INDEX);
    struct image_part *records = image_part(m, CORM_SECTION_RECORDS);
    if (!p || !records || p->bytes.len < sizeof *x->header) {
        return false;
    }
    x->header = (struct corm_index_header *)(void *)p->bytes.data;
    x->records = (struct corm_record *)(void *)(x->header + 1);
    uint64_t n_records = x->header->n_records, n_chunks = x->header->n_chunks;
    x->chunks = (struct corm_chunk *)(void *)((char *)x->records + n_records * sizeof *x->records);
    if (n_chunks == 0 || p->bytes.len != sizeof *x->header + n_records * sizeof *x->records +
                                             n_chunks * sizeof *x->chunks) {
        return false;
    }
    for (uint32_t i = 0; i < n_chunks; i++) {
        uint64_t at = x->chunks[i].offset;
        if (at > records->bytes.len || x->chunks[i].stored_bytes > records->bytes.len - at) {
            return false;
        }
    }
    return true;
}

static void pad(struct buf *b, size_t align) {
    static const uint8_t zeros[CORM_RECORD_ALIGN];
    buf_append(b, zeros, align_up(b->len, align) - b->len);
}

void image_set_chunk(struct image *m, uint32_t chunk, const void *bytes, size_t n) {
    struct image_index x;
    if (!image_index(m, &x)) {
        return;
    }
    struct image_part *records = image_part(m, CORM_SECTION_RECORDS);
    struct buf out = {0};
    for (uint32_t i = 0, r = 0; i < x.header->n_chunks; i++) {
        while (r < x.header->n_records && x.records[r].first_chunk < i) {
            r++;
        }
        bool first = r < x.header->n_records && x.records[r].first_chunk == i;
        pad(&out, first ? CORM_RECORD_ALIGN : CORM_CHUNK_ALIGN);
        struct corm_chunk *k = &x.chunks[i];
        const void *from = i == chunk ? bytes : records->bytes.data + k->offset;
        k->offset = out.len;
        k->stored_bytes = i == chunk ? (uint32_t)n : k->stored_bytes;
        buf_append(&out, from, k->stored_bytes);
    }
    image_replace(m, CORM_SECTION_RECORDS, &out);
}

/* ---- files ---- */

bool image_assemble(struct image *m, struct flat *f) {
    struct corm_section s[CORM_MAX_SECTIONS];
    uint64_t end = CORM_HEADER_BYTES, trunk = 0, records = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        struct image_part *p = &m->part[i];
        s[i] = (struct corm_section){.type = p->type,
                                     .flags = p->flags,
                                     .offset = align_up(end, CORM_SECTION_ALIGN),
                                     .bytes = p->bytes.len + p->hole};
        if (p->hole > most_bytes || s[i].bytes > most_bytes || end > most_bytes) {
            return false;
        }
        end = s[i].offset + s[i].bytes;
        trunk = p->type == CORM_SECTION_TRUNK ? s[i].offset : trunk;
        records = p->type == CORM_SECTION_RECORDS ? s[i].offset : records;
    }
    struct corm_header h = {.version = CORM_VERSION,
                            .section_count = m->n,
                            .incompat = m->incompat,
                            .table_offset = align_up(end, CORM_SECTION_ALIGN),
                            .shard_count = 1};
    memcpy(h.magic, CORM_MAGIC, sizeof h.magic);
    h.file_bytes = h.table_offset + m->n * sizeof *s;
    f->bytes = h.file_bytes;
    f->data = mmap(NULL, f->bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->data == MAP_FAILED) {
        die("no memory for a file of %zu bytes", f->bytes);
    }
    memcpy(f->data, &h, sizeof h);
    memcpy(f->data + h.table_offset, s, m->n * sizeof *s);
    for (uint32_t i = 0; i < m->n; i++) {
        struct image_part *p = &m->part[i];
        uint64_t base = base_of(p->type, trunk, records);
        move_places(&p->bytes, p->type, base);
        if (p->bytes.len > 0) {
            memcpy(f->data + s[i].offset, p->bytes.data, p->bytes.len);
        }
        move_places(&p->bytes, p->type, -base);
    }
    archive_rehash(f->data, f->bytes);
    return true;
}

void flat_write(const struct flat *f, const char *path) {
    static const uint8_t zeros[CORM_SECTION_ALIGN];
    struct err err = {0};
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)f->bytes) < 0) {
        die("%s: %s", path, strerror(errno));
    }
    for (size_t at = 0; at < f->bytes; at += sizeof zeros) {
        size_t n = f->bytes - at < sizeof zeros ? f->bytes - at : sizeof zeros;
        if (memcmp(f->data + at, zeros, n) != 0 &&
            (lseek(fd, (off_t)at, SEEK_SET) < 0 ||
             file_write_all(fd, f->data + at, n, path, &err) < 0)) {
            die("%s: %s", path, err.set ? err.msg : strerror(errno));
        }
    }
    close(fd);
}

void flat_free(struct flat *f) {
    if (f->data) {
        munmap(f->data, f->bytes);
    }
    *f = (struct flat){0};
}
