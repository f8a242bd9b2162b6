/*
 * Fuzz target: any bytes as an archive. Checksums are recomputed before the archive is opened, so
 * that the search gets to the checks behind them; a mutator keeps to the bytes that mean something
 * (an archive is mostly padding). Seeds: `test_corm --write-seeds tests/fuzz/seeds/fuzz_corm`.
 */
#include <stdlib.h>
#include <string.h>

#include "format/corm_read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

/* Whether `bytes` at `offset` lie in a file of `size`. */
static bool inside(size_t size, uint64_t offset, uint64_t bytes) {
    return offset <= size && bytes <= size - offset;
}

/* Copies of the header and the section table. Returns the number of sections, 0 where there is no
 * table inside the file. */
static uint32_t read_table(const uint8_t *file, size_t size, struct corm_header *h,
                           struct corm_section *out) {
    if (size < CORM_HEADER_BYTES) {
        return 0;
    }
    memcpy(h, file, sizeof *h);
    if (h->section_count > CORM_MAX_SECTIONS ||
        !inside(size, h->table_offset, h->section_count * sizeof *out)) {
        return 0;
    }
    memcpy(out, file + h->table_offset, h->section_count * sizeof *out);
    return h->section_count;
}

static void rehash_tensors(uint8_t *file, size_t size, const struct corm_section *s) {
    for (uint64_t at = 0; at + sizeof(struct corm_tensor) <= s->bytes;
         at += sizeof(struct corm_tensor)) {
        struct corm_tensor t;
        memcpy(&t, file + s->offset + at, sizeof t);
        if (inside(size, t.offset, t.bytes)) {
            t.hash = hash64(file + t.offset, t.bytes);
            memcpy(file + s->offset + at, &t, sizeof t);
        }
    }
}

static void rehash_chunks(uint8_t *file, size_t size, const struct corm_section *s) {
    struct corm_index_header h;
    if (s->bytes < sizeof h) {
        return;
    }
    memcpy(&h, file + s->offset, sizeof h);
    uint64_t at = sizeof h + h.n_records * (uint64_t)sizeof(struct corm_record);
    for (; at + sizeof(struct corm_chunk) <= s->bytes; at += sizeof(struct corm_chunk)) {
        struct corm_chunk k;
        memcpy(&k, file + s->offset + at, sizeof k);
        if (inside(size, k.offset, k.stored_bytes)) {
            k.hash = hash64(file + k.offset, k.stored_bytes);
            memcpy(file + s->offset + at, &k, sizeof k);
        }
    }
}

static void rehash(uint8_t *file, size_t size) {
    struct corm_section sections[CORM_MAX_SECTIONS];
    struct corm_header h;
    uint32_t n = read_table(file, size, &h, sections);
    for (uint32_t i = 0; i < n; i++) {
        struct corm_section *s = &sections[i];
        if (!inside(size, s->offset, s->bytes) || !corm_section_has_hash(s->type)) {
            continue;
        }
        if (s->type == CORM_SECTION_TENSORS) {
            rehash_tensors(file, size, s);
        } else if (s->type == CORM_SECTION_INDEX) {
            rehash_chunks(file, size, s);
        }
        s->hash = hash64(file + s->offset, s->bytes);
    }
    if (n == 0) {
        return;
    }
    memcpy(file + h.table_offset, sections, n * sizeof *sections);
    h.table_hash = hash64(file + h.table_offset, n * sizeof *sections);
    h.file_bytes = size;
    h.header_hash = hash64(&h, offsetof(struct corm_header, header_hash));
    memcpy(file, &h, sizeof h);
}

static void check(bool ok) {
    if (!ok) {
        abort();
    }
}

static void ignore(void *ctx, const char *key, const char *value) {
    (void)ctx;
    check(key && value);
}

/* Read all that the view promises. */
static void use(const struct corm *c) {
    struct buf metadata = {0};
    struct arch again = {0};
    struct err err = {0};
    arch_describe(&c->arch, ignore, NULL);
    arch_encode(&c->arch, &metadata);
    check(arch_decode(&again, metadata.data, metadata.len, &err) == 0);
    arch_free(&again);
    buf_free(&metadata);

    uint32_t cols = c->arch.dim;
    struct slot_place p = {0};
    while (slot_next(&c->arch, &p)) {
        struct weight w = corm_tensor_get(c, p.slot, p.layer);
        check(w.data && w.rows && codec_fits(w.codec, w.cols));
        float *row = mem_calloc(w.cols, sizeof *row);
        w.codec->decode_row(weight_row(&w, 0), w.cols, row);
        w.codec->decode_row(weight_row(&w, w.rows - 1), w.cols, row);
        free(row);
    }
    struct corm_decoder *d = corm_decoder_new(c);
    float *row = mem_calloc(cols, sizeof *row);
    for (uint32_t i = 0; i < c->n_chunks; i++) {
        const struct corm_chunk *k = &c->chunks[i];
        char name[64];
        corm_chunk_name(c, k, name);
        uint8_t *raw = NULL;
        check(posix_memalign((void **)&raw, 64, corm_chunk_raw_bytes(c, k)) == 0);
        struct err bad = {0};
        if (corm_chunk_decode(d, c, k, c->map.data + k->offset, raw, &bad) == 0) {
            struct weight w = corm_chunk_part(c, k, raw, CORM_PART_DOWN);
            w.codec->decode_row(weight_row(&w, w.rows - 1), cols, row);
        } else {
            check(bad.set);
        }
        free(raw);
    }
    free(row);
    corm_decoder_free(d);
    err = (struct err){0};
    check((corm_verify(c, NULL, NULL, &err) == 0) == !err.set);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    uint8_t *file = NULL;
    check(posix_memalign((void **)&file, 64, size ? size : 1) == 0);
    memcpy(file, data, size);
    rehash(file, size);
    struct corm c;
    struct err err = {0};
    if (corm_open_memory(&c, file, size, "fuzz.corm", 0, &err) == 0) {
        use(&c);
        corm_close(&c);
    } else {
        check(err.set && !strchr(err.msg, '\n'));
    }
    free(file);
    return 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    struct corm_section s[CORM_MAX_SECTIONS];
    struct corm_header h;
    uint32_t n = read_table(data, size, &h, s);
    if (n == 0 || seed % 16 == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    /* A place: the header, the table, or a section; and in it a window of up to 64 bytes. */
    uint32_t pick = seed / 16 % (n + 2);
    uint64_t offset = 0, bytes = offsetof(struct corm_header, header_hash);
    if (pick == n) {
        offset = h.table_offset;
        bytes = n * sizeof *s;
    } else if (pick < n) {
        offset = s[pick].offset;
        bytes = s[pick].bytes;
    }
    if (!inside(size, offset, bytes) || bytes == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    uint64_t start = offset + seed / 1024 % bytes, end = offset + bytes;
    uint64_t window = end - start < 64 ? end - start : 64;
    LLVMFuzzerMutate(data + start, window, window);
    return size;
}
