/*
 * Archives that are truncated, flipped in one bit, or hostile (one field wrong, every checksum
 * right): always refused, with one line that names the file and what is wrong.
 */
#include "tests/util/test.h"

#include <errno.h>
#include <fcntl.h>

#include "format/corm_chunk.h"
#include "format/corm_read.h"
#include "tests/util/test_util_archive.h"

/* ---- damage ---- */

/* Open, decode everything, verify. 0: the file was accepted. */
static int read_all(const uint8_t *data, size_t bytes, struct err *err) {
    struct corm c;
    if (corm_open_memory(&c, data, bytes, "x.corm", 0, err) < 0) {
        assert_null(c.map.data);
        return -1;
    }
    int rc = corm_verify(&c, NULL, NULL, err);
    corm_close(&c);
    return rc;
}

/* A small archive with raw (hot) and compressed (cold) chunks. */
static uint8_t *tiny_archive(const char *expert, const char *cold, size_t *bytes) {
    char *dir = test_mkdir();
    char *path = mem_printf("%s/tiny.corm", dir);
    struct arch a;
    archive_tiny_arch(&a);
    a.dim = 128;
    struct archive_options o = archive_defaults("bf16", expert);
    o.cold = cold ? codec_by_name(cold) : NULL;
    o.chunk_neurons = 2;
    o.hot_neurons = 2;
    struct corm_write_stats stats;
    struct err err = {0};
    archive_write(path, &a, &o, &stats, &err);
    assert_no_err(&err);
    assert_int_equal(stats.n_chunks, 4);
    assert_int_equal(stats.n_chunks_raw, cold ? 4 : 2);
    uint8_t *data = archive_load(path, bytes);
    arch_free(&a);
    free(path);
    test_rmdir(dir);
    return data;
}

static void test_truncated(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *data = tiny_archive("bf16", NULL, &bytes);
    for (size_t n = 0; n < bytes; n++) {
        /* An exact copy, so that a sanitizer sees a read past its end. */
        uint8_t *part = NULL;
        assert_int_equal(posix_memalign((void **)&part, 64, n ? n : 1), 0);
        memcpy(part, data, n);
        struct err err = {0};
        assert_int_equal(read_all(part, n, &err), -1);
        assert_err(&err, "x.corm: ");
        free(part);
    }
    free(data);
}

static void test_flipped(void **state) {
    (void)state;
    static const char *const experts[] = {"bf16", "f16", "f32", "q8"}; /* exponents, planes, zstd */
    for (size_t k = 0; k < TEST_COUNT(experts); k++) {
        size_t bytes;
        uint8_t *data = tiny_archive(experts[k], k == 3 ? "q4" : NULL, &bytes);
        struct err err = {0};
        assert_int_equal(read_all(data, bytes, &err), 0);
        for (size_t at = 0; at < bytes; at++) {
            uint8_t bit = (uint8_t)(1u << at % 8);
            data[at] ^= bit;
            memset(&err, 0, sizeof err);
            if (read_all(data, bytes, &err) == 0) {
                print_error("a flipped bit at byte %zu was not noticed\n", at);
                fail();
            }
            assert_err(&err, "x.corm: ");
            data[at] ^= bit;
        }
        free(data);
    }
}

/* A damaged chunk is named, by verify and by decode. */
static void test_bad_chunk_is_named(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *data = tiny_archive("bf16", NULL, &bytes);
    struct err err = {0};
    struct corm c;
    assert_int_equal(corm_open_memory(&c, data, bytes, "x.corm", 0, &err), 0);
    const struct corm_chunk *k = &c.chunks[corm_record_of(&c, 0, 1)->first_chunk + 1];
    data[k->offset] ^= 1;
    assert_int_equal(corm_verify(&c, NULL, NULL, &err), -1);
    assert_err(&err, "x.corm: ", "layer 0 expert 1 chunk 1", "checksum");
    corm_close(&c);
    free(data);
}

/* ---- hostile: every checksum is right, one field is wrong ---- */

static struct corm_section *section(uint8_t *data, uint32_t type) {
    struct corm_header *h = (struct corm_header *)(void *)data;
    struct corm_section *s = (struct corm_section *)(void *)(data + h->table_offset);
    while (s->type != type) {
        s++;
    }
    return s;
}

/* Recompute the checksums of the sections, the table and the header. */
static void rehash(uint8_t *data, bool sections) {
    struct corm_header *h = (struct corm_header *)(void *)data;
    struct corm_section *s = (struct corm_section *)(void *)(data + h->table_offset);
    for (uint32_t i = 0; sections && i < h->section_count; i++) {
        if (corm_section_has_hash(s[i].type)) {
            s[i].hash = hash64(data + s[i].offset, s[i].bytes);
        }
    }
    h->table_hash = hash64(s, h->section_count * sizeof *s);
    h->header_hash = hash64(h, offsetof(struct corm_header, header_hash));
}

enum hostile {
    VERSION,
    INCOMPAT,
    SHARD,
    FILE_BYTES,
    RESERVED,
    SECTION_COUNT,
    TABLE_OFFSET,
    UNKNOWN_SECTION,
    SECTION_FLAGS,
    SECTION_TWICE,
    SECTION_OFFSET,
    SECTION_BYTES,
    SECTION_HUGE,
    MISSING_INDEX,
    METADATA_KEY,
    METADATA_COUNT,
    TENSOR_SLOT,
    TENSOR_SHAPE,
    TENSOR_CODEC,
    TENSOR_CODEC_EXACT,
    TENSOR_OFFSET,
    TENSOR_BYTES,
    TENSOR_HASH,
    INDEX_CODEC,
    INDEX_MIXED,
    INDEX_STEP,
    INDEX_STEP_ZERO,
    INDEX_RECORDS,
    INDEX_CHUNKS,
    RECORD_FIRST,
    RECORD_COUNT,
    RECORD_HOT,
    CHUNK_OFFSET,
    CHUNK_HUGE,
    CHUNK_NEURONS,
    CHUNK_ENCODING,
    CHUNK_ENCODING_CODEC,
    CHUNK_STORED,
    CHUNK_STORED_HUGE,
    CHUNK_CODEC,
    HOSTILE_COUNT
};

/* Break one thing; returns what the message has to contain. */
static const char *break_header(uint8_t *data, enum hostile what) {
    struct corm_header *h = (struct corm_header *)(void *)data;
    switch (what) {
    case VERSION:
        h->version = 2;
        return "format version 2";
    case INCOMPAT:
        h->incompat = 0x40;
        return "features 0x40";
    case SHARD:
        h->shard_count = 3;
        return "part 0 of 3";
    case FILE_BYTES:
        h->file_bytes++;
        return "truncated";
    case RESERVED:
        h->reserved[6] = 1;
        return "reserved";
    case SECTION_COUNT:
        h->section_count = 65;
        return "65 sections";
    case TABLE_OFFSET:
        h->table_offset = UINT64_MAX - 31;
        return "section table";
    default:
        return NULL;
    }
}

static const char *break_section(uint8_t *data, enum hostile what) {
    struct corm_section *license = section(data, CORM_SECTION_LICENSE);
    struct corm_section *trunk = section(data, CORM_SECTION_TRUNK);
    struct corm_section *index = section(data, CORM_SECTION_INDEX);
    struct corm_section *metadata = section(data, CORM_SECTION_METADATA);
    switch (what) {
    case UNKNOWN_SECTION:
        license->type = 77;
        license->flags = 0;
        return "of type 77";
    case SECTION_FLAGS:
        license->flags = 2;
        return "license: unknown flags 0x2";
    case SECTION_TWICE:
        license->type = CORM_SECTION_TRUNK;
        return "trunk is given twice";
    case SECTION_OFFSET:
        trunk->offset += 4096;
        return "section trunk";
    case SECTION_BYTES:
        trunk->bytes += 64;
        return "trunk";
    case SECTION_HUGE:
        trunk->bytes = UINT64_MAX - 4095;
        return "section trunk";
    case MISSING_INDEX:
        index->type = 99;
        index->flags = CORM_SECTION_OPTIONAL;
        return "index is missing";
    case METADATA_KEY:
        data[metadata->offset + 4 + 8] ^= 1;
        return "unknown key 'g";
    case METADATA_COUNT:
        data[metadata->offset + 3] = 0x80;
        return "metadata: ";
    default:
        return NULL;
    }
}

static const char *break_tensor(uint8_t *data, enum hostile what) {
    struct corm_tensor *t =
        (struct corm_tensor *)(void *)(data + section(data, CORM_SECTION_TENSORS)->offset);
    switch (what) {
    case TENSOR_SLOT:
        t[2].slot = SLOT_V;
        return "attn_norm of layer 0 is expected";
    case TENSOR_SHAPE:
        t[0].rows = 5;
        return "tensor embed of layer -1: shape [5, 128], expected [4, 128]";
    case TENSOR_CODEC:
        t[0].codec = 200;
        return "codec 200";
    case TENSOR_CODEC_EXACT:
        t[1].codec = CODEC_BF16;
        return "out_norm";
    case TENSOR_OFFSET:
        t[1].offset = UINT64_MAX - 63;
        return "out_norm";
    case TENSOR_BYTES:
        t[0].bytes = UINT64_MAX;
        return "embed";
    case TENSOR_HASH:
        t[3].hash ^= 1;
        return "tensor q of layer 0: checksum";
    default:
        return NULL;
    }
}

static const char *break_index(uint8_t *data, enum hostile what) {
    uint8_t *index = data + section(data, CORM_SECTION_INDEX)->offset;
    struct corm_index_header *h = (struct corm_index_header *)(void *)index;
    struct corm_record *r = (struct corm_record *)(void *)(h + 1);
    struct corm_chunk *k = (struct corm_chunk *)(void *)(r + h->n_records);
    switch (what) {
    case INDEX_CODEC:
        h->codec = 0;
        return "codec 0";
    case INDEX_MIXED:
        ((struct corm_header *)(void *)data)->incompat = CORM_INCOMPAT_MIXED;
        return "index: codec 2 and 4 chunks, expected 0";
    case INDEX_STEP:
        h->chunk_neurons = UINT32_MAX;
        return "chunks of 4294967295 neurons";
    case INDEX_STEP_ZERO:
        h->chunk_neurons = 0;
        return "chunks of 0 neurons";
    case INDEX_RECORDS:
        h->n_records = UINT32_MAX;
        return "expected 2 records";
    case INDEX_CHUNKS:
        h->n_chunks--;
        return "index: ";
    case RECORD_FIRST:
        r[1].first_chunk = 1;
        return "record 1";
    case RECORD_COUNT:
        r[0].n_chunks = UINT16_MAX;
        return "record 0";
    case RECORD_HOT:
        r[0].n_hot = 3;
        return "record 0";
    case CHUNK_OFFSET:
        k[1].offset += 64;
        return "layer 0 expert 0 chunk 1: at ";
    case CHUNK_HUGE:
        k[0].offset = UINT64_MAX;
        return "layer 0 expert 0 chunk 0: at ";
    case CHUNK_NEURONS:
        k[1].n_neurons = 2;
        return "chunk 1: 2 neurons, expected 1";
    case CHUNK_ENCODING:
        k[3].encoding = 9;
        return "layer 0 expert 1 chunk 1: encoding 9";
    case CHUNK_ENCODING_CODEC:
        k[3].encoding = CORM_ENCODING_ZSTD;
        return "encoding 1";
    case CHUNK_STORED:
        k[0].stored_bytes--;
        return "chunk 0";
    case CHUNK_STORED_HUGE:
        k[3].stored_bytes = UINT32_MAX;
        return "chunk 1";
    case CHUNK_CODEC:
        k[2].codec = CODEC_BF16;
        return "codec 2 of chunk 2, expected 0";
    default:
        return NULL;
    }
}

/* Codecs of chunks that say what their bytes do not. */
static void test_hostile_codecs(void **state) {
    (void)state;
    static const struct {
        uint32_t codec;
        const char *want;
    } cases[] = {{0, "codec 0 of chunk 0 is unknown"},
                 {CODEC_IDS, "of chunk 0 is unknown"},
                 {CODEC_Q8, "index: all chunks in q8, expected several codecs"},
                 {CODEC_Q4, "layer 0 expert 0 chunk 0"},
                 {CODEC_F32, "layer 0 expert 0 chunk 0"}};
    size_t bytes;
    uint8_t *good = tiny_archive("q8", "q4", &bytes), *data = mem_alloc_aligned(bytes);
    struct err err = {0};
    assert_int_equal(read_all(good, bytes, &err), 0);
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        memcpy(data, good, bytes);
        struct corm_index_header *h =
            (struct corm_index_header *)(void *)(data + section(data, CORM_SECTION_INDEX)->offset);
        struct corm_chunk *k =
            (struct corm_chunk *)(void *)((struct corm_record *)(void *)(h + 1) + h->n_records);
        assert_int_equal(k[0].codec, CODEC_Q8);
        assert_int_equal(k[1].codec, CODEC_Q4);
        for (uint32_t n = 0; n < (cases[i].codec == CODEC_Q8 ? h->n_chunks : 1); n++) {
            k[n].codec = cases[i].codec;
        }
        rehash(data, true);
        err = (struct err){0};
        assert_int_equal(read_all(data, bytes, &err), -1);
        assert_err(&err, "x.corm: ", cases[i].want);
    }
    free(data);
    free(good);
}

static void test_hostile(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *good = tiny_archive("bf16", NULL, &bytes), *data = mem_alloc_aligned(bytes);
    for (int what = 0; what < HOSTILE_COUNT; what++) {
        memcpy(data, good, bytes);
        const char *want = break_header(data, (enum hostile)what);
        if (want) {
            struct corm_header *h = (struct corm_header *)(void *)data;
            h->header_hash = hash64(h, offsetof(struct corm_header, header_hash));
        } else if ((want = break_section(data, (enum hostile)what)) != NULL) {
            rehash(data, what == METADATA_KEY || what == METADATA_COUNT);
        } else {
            want = break_tensor(data, (enum hostile)what);
            want = want ? want : break_index(data, (enum hostile)what);
            rehash(data, true);
        }
        struct err err = {0};
        assert_int_equal(read_all(data, bytes, &err), -1);
        assert_err(&err, "x.corm: ", want);
    }
    free(data);
    free(good);
}

/* The archive's last section, which becomes one of `type` and so large; the one that had the type
 * becomes one that may be ignored. What was the section table is copied to `table`, and belongs at
 * the header's table_offset. Returns the bytes of the archive before it. */
static uint64_t make_large(uint8_t *data, uint32_t type, uint64_t large, struct corm_section *table,
                           size_t *table_bytes) {
    struct corm_header *h = (struct corm_header *)(void *)data;
    struct corm_section *license = section(data, CORM_SECTION_LICENSE);
    uint32_t last = h->section_count - 1;
    uint64_t before = h->table_offset;
    *table_bytes = h->section_count * sizeof *table;
    memcpy(table, data + before, *table_bytes);
    assert_int_equal(table[last].type, CORM_SECTION_LICENSE);
    for (uint32_t i = 0; i < last; i++) {
        if (table[i].type == type) {
            table[i].type = 77;
            table[i].flags = CORM_SECTION_OPTIONAL;
        }
    }
    table[last].type = type;
    table[last].bytes = large;
    h->table_offset = align_up(license->offset + large, CORM_SECTION_ALIGN);
    h->file_bytes = h->table_offset + *table_bytes;
    h->table_hash = hash64(table, *table_bytes);
    h->header_hash = hash64(h, offsetof(struct corm_header, header_hash));
    return before;
}

/* Opens the archive with a section of so many bytes in a file that is nearly all hole; -2 where the
 * file system has no such files. */
static int open_sparse(uint32_t type, uint64_t large, struct err *err) {
    size_t bytes, table_bytes;
    struct corm_section table[CORM_MAX_SECTIONS];
    uint8_t *data = tiny_archive("bf16", NULL, &bytes);
    uint64_t before = make_large(data, type, large, table, &table_bytes);
    uint64_t offset = ((struct corm_header *)(void *)data)->table_offset;
    char *dir = test_mkdir(), *path = test_write(dir, "sparse.corm", data, before);
    int fd = open(path, O_WRONLY), rc = -2;
    ssize_t written = pwrite(fd, table, table_bytes, (off_t)offset);
    if (written < 0) {
        assert_int_equal(errno, EFBIG);
    } else {
        assert_int_equal(written, table_bytes);
        struct corm c;
        rc = corm_open(&c, path, 0, err);
        corm_close(&c);
    }
    close(fd);
    free(path);
    test_rmdir(dir);
    free(data);
    return rc;
}

/* `more` than a section may have, or none: then it is read, and its checksum is wrong. False where
 * the file system has no such files. */
static bool check_large(uint32_t type, const struct arch *a, uint64_t more) {
    uint64_t most = corm_section_most_bytes(type, a), large = most + more;
    const char *name = corm_section_name(type);
    assert_int_equal(corm_section_has_hash(type), most != UINT64_MAX);
    if (most == UINT64_MAX) {
        return true;
    }
    struct err err = {0};
    int rc = open_sparse(type, large, &err);
    if (rc == -2) {
        print_message("no files of %llu bytes here\n", (unsigned long long)large);
        return false;
    }
    char *want = more ? mem_printf("section %s: %llu bytes, expected at most %llu", name,
                                   (unsigned long long)large, (unsigned long long)most)
                      : mem_printf("section %s: checksum", name);
    assert_int_equal(rc, -1);
    assert_err(&err, "sparse.corm: ", want);
    free(want);
    return true;
}

/* No section is copied that is larger than a model can need, or than anyone's text is. */
static void test_sparse(void **state) {
    (void)state;
    static const uint64_t more[] = {0, 1, UINT64_C(1) << 42};
    struct arch a;
    archive_tiny_arch(&a);
    a.dim = 128;
    bool done = true;
    for (size_t i = 0; i < TEST_COUNT(more); i++) {
        for (uint32_t type = CORM_SECTION_METADATA; corm_section_name(type); type++) {
            done = check_large(type, &a, more[i]) && done;
        }
    }
    arch_free(&a);
    if (!done) {
        skip();
    }
}

/* What a section may need grows with the model, up to a limit. */
static void test_most_bytes(void **state) {
    (void)state;
    struct arch a;
    archive_moe_arch(&a, 3, 5, 7);
    assert_int_equal(corm_section_most_bytes(CORM_SECTION_INDEX, &a),
                     sizeof(struct corm_index_header) + 3 * 5 * sizeof(struct corm_record) +
                         3 * 5 * 7 * sizeof(struct corm_chunk));
    assert_int_equal(corm_section_most_bytes(CORM_SECTION_PREDICTORS, &a),
                     CORM_MIN_PREDICTORS_BYTES);
    a.dim = 4096;
    a.n_experts = 128;
    a.ffn_dim = 1024;
    uint64_t most = corm_section_most_bytes(CORM_SECTION_PREDICTORS, &a);
    assert_true(most > UINT64_C(3) * 128 * 3 * 1024 * 4096 / 4 && most < CORM_MAX_PREDICTORS_BYTES);
    a.dim = 1 << 17;
    a.n_experts = ARCH_MAX_EXPERTS;
    a.ffn_dim = 1 << 20;
    assert_int_equal(corm_section_most_bytes(CORM_SECTION_PREDICTORS, &a),
                     CORM_MAX_PREDICTORS_BYTES);
    assert_int_equal(corm_section_most_bytes(CORM_SECTION_INDEX, &a), CORM_MAX_INDEX_BYTES);
    for (uint32_t l = 0; l < a.n_layers; l++) {
        a.kinds[a.kind[l]].moe = 0;
    }
    assert_int_equal(corm_section_most_bytes(CORM_SECTION_INDEX, &a),
                     sizeof(struct corm_index_header));
    assert_int_equal(corm_section_most_bytes(CORM_SECTION_METADATA, NULL), CORM_MAX_METADATA_BYTES);
    arch_free(&a);
}

static const uint8_t *pack(struct corm_packer *p, enum corm_encoding encoding, const uint8_t *raw,
                           size_t raw_bytes, size_t *packed_bytes) {
    struct corm_packed packed = corm_packer_pack_as(p, encoding, raw, raw_bytes);
    *packed_bytes = packed.bytes;
    return packed.data;
}

/* Frames that are not what a chunk says (under a right checksum, say): refused, or decoded to
 * something, but never past the end of the chunk. */
static void test_bad_frames(void **state) {
    (void)state;
    static const struct {
        const char *codec;
        enum corm_encoding encoding;
    } rows[] = {
        {"bf16", CORM_ENCODING_PLANES}, {"f16", CORM_ENCODING_PLANES}, {"f32", CORM_ENCODING_ZSTD}};
    enum { COLS = 1500, MORE = 8 };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        const struct codec *codec = codec_by_name(rows[i].codec);
        enum corm_encoding encoding = rows[i].encoding;
        size_t raw_bytes = codec_row_bytes(codec, COLS), packed_bytes;
        size_t kept = encoding == CORM_ENCODING_PLANES ? raw_bytes / 2 : 0;
        float x[COLS];
        struct test_rng rng = {i};
        for (int k = 0; k < COLS; k++) {
            x[k] = (float)(int)(test_f32(&rng) * 8.0f);
        }
        uint8_t *raw = test_guard(raw_bytes), *out = test_guard(raw_bytes);
        codec->encode_row(x, COLS, raw);
        struct corm_packer *p = corm_packer_new(codec);
        struct corm_decoder *d = corm_decoder_sized(raw_bytes);
        const uint8_t *packed = pack(p, encoding, raw, raw_bytes, &packed_bytes);
        size_t frame_bytes = packed_bytes - kept;
        uint8_t *stored = mem_calloc(1, packed_bytes + frame_bytes);
        memcpy(stored, packed, packed_bytes);
        struct err err = {0};
        corm_decoder_unpack(d, codec, encoding, stored, packed_bytes, out, raw_bytes, &err);
        assert_no_err(&err);
        assert_memory_equal(raw, out, raw_bytes);

        struct err cut = {0}, more = {0}, twice = {0};
        assert_int_equal(
            corm_decoder_unpack(d, codec, encoding, stored, packed_bytes - 1, out, raw_bytes, &cut),
            -1);
        assert_err(&cut, "zstd");
        assert_int_equal(corm_decoder_unpack(d, codec, encoding, stored, packed_bytes + MORE, out,
                                             raw_bytes, &more),
                         -1);
        assert_err(&more, "zstd", "expected");
        memcpy(stored + packed_bytes, stored + kept, frame_bytes);
        assert_int_equal(corm_decoder_unpack(d, codec, encoding, stored, packed_bytes + frame_bytes,
                                             out, raw_bytes, &twice),
                         -1);
        assert_err(&twice, "zstd", "expected");
        for (size_t at = kept; at < packed_bytes; at++) {
            struct err any = {0};
            stored[at] ^= (uint8_t)(1u << at % 8);
            int rc =
                corm_decoder_unpack(d, codec, encoding, stored, packed_bytes, out, raw_bytes, &any);
            assert_int_equal(rc, any.set ? -1 : 0);
            stored[at] ^= (uint8_t)(1u << at % 8);
        }

        /* A good frame of fewer, and of more, bytes than the chunk has. */
        const uint8_t *fewer = pack(p, encoding, raw, raw_bytes - 8, &packed_bytes);
        struct err small = {0}, large = {0};
        size_t fewer_kept = kept ? kept - 4 : 0;
        memcpy(stored + kept, fewer + fewer_kept, packed_bytes - fewer_kept);
        assert_int_equal(corm_decoder_unpack(d, codec, encoding, stored,
                                             kept + packed_bytes - fewer_kept, out, raw_bytes,
                                             &small),
                         -1);
        assert_err(&small, "zstd", "expected");
        assert_int_equal(corm_decoder_unpack(d, codec, encoding, fewer, packed_bytes, out,
                                             raw_bytes - 16, &large),
                         -1);
        assert_err(&large, "zstd");
        free(stored);
        corm_decoder_free(d);
        corm_packer_free(p);
        test_guard_free(raw, raw_bytes);
        test_guard_free(out, raw_bytes);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_truncated),          cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_bad_chunk_is_named), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_hostile_codecs),     cmocka_unit_test(test_sparse),
        cmocka_unit_test(test_most_bytes),         cmocka_unit_test(test_bad_frames),
    };
    return cmocka_run_group_tests_name("corm_damage", tests, NULL, NULL);
}
