/*
 * Fuzz target: any bytes as an archive. Checksums are recomputed before the archive is opened, so
 * that the search gets to the checks behind them; a mutator keeps to the bytes that mean something
 * (an archive is mostly padding). Seeds: `test_corm --write-seeds tests/fuzz/seeds/fuzz_corm`.
 */
#include <stdlib.h>
#include <string.h>

#include "format/corm_read.h"
#include "tests/util/test_util_archive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

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
    archive_rehash(file, size);
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
    uint32_t n = archive_table(data, size, &h, s);
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
    if (!archive_inside(size, offset, bytes) || bytes == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    uint64_t start = offset + seed / 1024 % bytes, end = offset + bytes;
    uint64_t window = end - start < 64 ? end - start : 64;
    LLVMFuzzerMutate(data + start, window, window);
    return size;
}
