/*
 * Archives: what the writer writes, the reader reads; damaged, truncated and hostile files are
 * refused with one line; a writer that cannot finish leaves nothing under the final name.
 *
 * `test_corm --write-golden PATH` writes the archive of docs/FORMAT.md's worked example;
 * `test_corm --write-seeds DIR` what fuzz_corm starts from.
 */
#include "tests/test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "format/corm_chunk.h"
#include "format/corm_read.h"
#include "tests/test_util_archive.h"

static const char golden_path[] = "tests/golden/tiny-v1.corm";

static struct archive_options options(const char *trunk, const char *expert) {
    return (struct archive_options){
        .trunk = codec_by_name(trunk),
        .expert = codec_by_name(expert),
        .chunk_neurons = 4,
        .hot_neurons = 8,
        .compress = true,
        .blobs = true,
        .raw_above_ratio = 0.93f,
    };
}

static void write_archive(const char *path, const struct arch *a, const struct archive_options *o) {
    struct err err = {0};
    if (archive_write(path, a, o, NULL, &err) != 0) {
        assert_no_err(&err);
    }
}

/* A file's bytes at an address aligned as corm_open_memory wants them. */
static uint8_t *load(const char *path, size_t *bytes) {
    struct err err = {0};
    uint8_t *data;
    if (file_read(path, 1u << 30, &data, bytes, &err) != 0) {
        assert_no_err(&err);
    }
    uint8_t *aligned = mem_alloc_aligned(*bytes);
    memcpy(aligned, data, *bytes);
    free(data);
    return aligned;
}

/* ---- round trip ---- */

static void check_trunk(const struct corm *c, const struct arch *a,
                        const struct archive_options *o) {
    for (uint32_t id = 0; id < SLOT_COUNT; id++) {
        const struct slot *s = slot_at((enum slot_id)id);
        for (uint32_t l = 0; s->scope != SLOT_OF_EXPERT && l < a->n_layers; l++) {
            struct weight w = corm_tensor_get(c, s->id, l);
            assert_int_equal(w.data != NULL, slot_present(s, a, l));
            if (!w.data) {
                continue;
            }
            uint32_t layer = s->scope == SLOT_OF_MODEL ? CORM_LAYER_NONE : l;
            const struct codec *codec = archive_tensor_codec(a, o->trunk, s->id, layer);
            size_t bytes;
            uint8_t *want = archive_tensor(a, codec, s->id, layer, &bytes);
            assert_ptr_equal(w.codec, codec);
            assert_int_equal(w.rows, s->rows(a, l));
            assert_int_equal(w.cols, s->cols(a, l));
            assert_int_equal(w.rows * w.stride_bytes, bytes);
            assert_int_equal((uintptr_t)w.data % CORM_CHUNK_ALIGN, 0);
            assert_memory_equal(w.data, want, bytes);
            free(want);
        }
    }
}

static void check_record(const struct corm *c, struct corm_decoder *d, const struct arch *a,
                         const struct archive_options *o, uint32_t layer, uint32_t expert) {
    struct err err = {0};
    size_t bytes;
    uint8_t *want = archive_neurons(a, o->expert, layer, expert, &bytes);
    const struct corm_record *r = corm_record_of(c, layer, expert);
    size_t at = 0, row_bytes = c->neuron_bytes / 3;
    for (uint32_t i = 0; i < r->n_chunks; i++) {
        const struct corm_chunk *k = &c->chunks[r->first_chunk + i];
        char name[64], want_name[64];
        snprintf(want_name, sizeof want_name, "layer %u expert %u chunk %u", layer, expert, i);
        assert_string_equal(corm_chunk_name(c, k, name), want_name);
        size_t raw_bytes = corm_chunk_raw_bytes(c, k);
        assert_true(at + raw_bytes <= bytes);
        uint8_t *raw = mem_alloc_aligned(raw_bytes);
        corm_chunk_decode(d, c, k, c->map.data + k->offset, raw, &err);
        assert_no_err(&err);
        assert_memory_equal(raw, want + at, raw_bytes);
        for (uint32_t n = 0; n < k->n_neurons; n++) {
            for (int part = CORM_PART_GATE; part <= CORM_PART_DOWN; part++) {
                struct weight w = corm_chunk_part(c, k, raw, (enum corm_part)part);
                assert_int_equal(w.rows, k->n_neurons);
                assert_int_equal(w.cols, a->dim);
                assert_memory_equal(weight_row(&w, n), want + at + (3 * n + part) * row_bytes,
                                    row_bytes);
            }
        }
        if (i < r->n_hot && !o->compress_hot) {
            assert_int_equal(k->encoding, CORM_ENCODING_RAW);
        }
        at += raw_bytes;
        free(raw);
    }
    assert_int_equal(at, bytes);
    free(want);
}

static void check_blob(struct corm_bytes got, const char *want, bool present) {
    assert_int_equal(got.data != NULL, present);
    if (present) {
        assert_int_equal(got.size_bytes, strlen(want));
        assert_memory_equal(got.data, want, strlen(want));
    }
}

static void last_progress(void *ctx, uint64_t done, uint64_t total) {
    assert_true(done <= total);
    *(uint64_t *)ctx = total - done;
}

static void check_archive(const char *path, const struct arch *a, const struct archive_options *o) {
    struct err err = {0};
    struct corm c;
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    struct buf want = {0}, got = {0};
    arch_encode(a, &want);
    arch_encode(&c.arch, &got);
    assert_int_equal(want.len, got.len);
    assert_memory_equal(want.data, got.data, want.len);
    buf_free(&want);
    buf_free(&got);
    check_trunk(&c, a, o);
    struct corm_decoder *d = corm_decoder_new(&c);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t e = 0; a->moe[l] && e < a->n_experts; e++) {
            check_record(&c, d, a, o, l, e);
        }
    }
    corm_decoder_free(d);
    check_blob(c.tokenizer, archive_tokenizer, o->blobs);
    check_blob(c.license, archive_license, o->blobs);
    check_blob(c.provenance, archive_provenance, o->blobs);
    assert_null(c.predictors.data);
    uint64_t left = 1;
    corm_verify(&c, last_progress, &left, &err);
    assert_no_err(&err);
    assert_int_equal(left, 0);
    corm_close(&c);
}

static void test_round_trip(void **state) {
    (void)state;
    char *dir = test_mkdir();
    char *path = mem_printf("%s/model.corm", dir);
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct arch a;
        archive_arch(&a, seed);
        struct archive_options o = options(codec_at(seed % 5)->name, codec_at(seed / 5 % 5)->name);
        o.compress = seed % 7 != 0;
        o.compress_hot = seed % 3 == 0;
        o.blobs = seed % 2 == 0;
        o.chunk_neurons = 1 + seed % 6;
        o.hot_neurons = (uint32_t)(seed % 3) * o.chunk_neurons;
        o.raw_above_ratio = seed % 5 == 0 ? 0.0f : 1.0f;
        write_archive(path, &a, &o);
        check_archive(path, &a, &o);
        arch_free(&a);
    }
    free(path);
    test_rmdir(dir);
}

/* ---- sizes ---- */

static void test_ratios(void **state) {
    (void)state;
    static const struct {
        const char *codec;
        double low, high; /* expected packed / raw of normal weights */
    } rows[] = {{"bf16", 0.60, 0.70}, {"f16", 0.75, 0.87}, {"q8", 0.90, 1.0}, {"q4", 0.80, 1.0}};
    enum { ROWS = 96, COLS = 2048 };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        const struct codec *codec = codec_by_name(rows[i].codec);
        size_t row_bytes = codec_row_bytes(codec, COLS), raw_bytes = ROWS * row_bytes;
        uint8_t *raw = mem_alloc_aligned(raw_bytes), *out = mem_alloc_aligned(raw_bytes);
        struct test_rng rng = {i};
        for (int r = 0; r < ROWS; r++) {
            float x[COLS];
            for (int k = 0; k < COLS; k++) {
                x[k] = 0.02f * (test_f32(&rng) + test_f32(&rng) + test_f32(&rng) + test_f32(&rng));
            }
            codec->encode_row(x, COLS, raw + r * row_bytes);
        }
        struct corm_packer *p = corm_packer_new(codec);
        struct corm_decoder *d = corm_decoder_sized(raw_bytes);
        size_t packed_bytes;
        const uint8_t *packed = corm_packer_pack(p, raw, raw_bytes, &packed_bytes);
        struct err err = {0};
        uint64_t best = UINT64_MAX;
        for (int rep = 0; rep < 20; rep++) {
            uint64_t t = clock_ns();
            corm_decoder_unpack(d, codec, corm_chunk_encoding(codec), packed, packed_bytes, out,
                                raw_bytes, &err);
            t = clock_ns() - t;
            best = t < best ? t : best;
            assert_no_err(&err);
        }
        assert_memory_equal(raw, out, raw_bytes);
        double ratio = (double)packed_bytes / (double)raw_bytes;
        print_message("%-4s packed/raw %.3f, decodes %.2f GB/s\n", rows[i].codec, ratio,
                      (double)raw_bytes / (double)best);
        assert_true(ratio > rows[i].low && ratio < rows[i].high);
        corm_decoder_free(d);
        corm_packer_free(p);
        free(raw);
        free(out);
    }
}

/* ---- damage ---- */

/* Open, decode everything, verify. 0: the file was accepted. */
static int read_all(const uint8_t *data, size_t bytes, struct err *err) {
    struct corm c;
    if (corm_open_memory(&c, data, bytes, "x.corm", 0, err) != 0) {
        assert_null(c.map.data);
        return -1;
    }
    int rc = corm_verify(&c, NULL, NULL, err);
    corm_close(&c);
    return rc;
}

/* A small archive with raw (hot) and compressed (cold) chunks. */
static uint8_t *tiny_archive(const char *expert, size_t *bytes) {
    char *dir = test_mkdir();
    char *path = mem_printf("%s/tiny.corm", dir);
    struct arch a;
    archive_tiny_arch(&a);
    a.dim = 128;
    struct archive_options o = options("bf16", expert);
    o.chunk_neurons = 2;
    o.hot_neurons = 2;
    struct corm_write_stats stats;
    struct err err = {0};
    archive_write(path, &a, &o, &stats, &err);
    assert_no_err(&err);
    assert_int_equal(stats.n_chunks, 4);
    assert_int_equal(stats.n_chunks_raw, 2);
    uint8_t *data = load(path, bytes);
    arch_free(&a);
    free(path);
    test_rmdir(dir);
    return data;
}

static void test_truncated(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *data = tiny_archive("bf16", &bytes);
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
    static const char *const experts[] = {"bf16", "f32"}; /* planes, zstd */
    for (size_t k = 0; k < TEST_COUNT(experts); k++) {
        size_t bytes;
        uint8_t *data = tiny_archive(experts[k], &bytes);
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
    uint8_t *data = tiny_archive("bf16", &bytes);
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
    default:
        return NULL;
    }
}

static void test_hostile(void **state) {
    (void)state;
    size_t bytes;
    uint8_t *good = tiny_archive("bf16", &bytes), *data = mem_alloc_aligned(bytes);
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

/* Frames that are not what a chunk says (under a right checksum, say): refused, or decoded to
 * something, but never past the end of the chunk. */
static void test_bad_frames(void **state) {
    (void)state;
    static const char *const codecs[] = {"bf16", "f16", "f32"};
    enum { COLS = 1500, MORE = 8 };
    for (size_t i = 0; i < TEST_COUNT(codecs); i++) {
        const struct codec *codec = codec_by_name(codecs[i]);
        enum corm_encoding encoding = corm_chunk_encoding(codec);
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
        const uint8_t *packed = corm_packer_pack(p, raw, raw_bytes, &packed_bytes);
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
        const uint8_t *fewer = corm_packer_pack(p, raw, raw_bytes - 8, &packed_bytes);
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

/* ---- writing that fails ---- */

/* Nothing in the directory at all: no final name, no temporary one. */
static void assert_empty(const char *dir) {
    assert_int_equal(rmdir(dir), 0); /* fails where a file is left */
    assert_int_equal(mkdir(dir, 0700), 0);
}

static void test_file_too_large(void **state) {
    (void)state;
    char *dir = test_mkdir();
    char *path = mem_printf("%s/model.corm", dir);
    struct arch a;
    archive_arch(&a, 5);
    struct archive_options o = options("bf16", "bf16");
    struct corm_write_stats stats;
    struct err err = {0};
    assert_int_equal(archive_write(path, &a, &o, &stats, &err), 0);
    assert_int_equal(unlink(path), 0);

    struct rlimit before;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    void (*old)(int) = signal(SIGXFSZ, SIG_IGN);
    for (uint64_t limit = 0; limit < stats.file_bytes; limit += 4001) {
        struct rlimit small = {limit, before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        struct err full = {0};
        int rc = archive_write(path, &a, &o, NULL, &full);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        assert_int_equal(rc, -1);
        assert_err(&full, path, "cannot write", strerror(EFBIG));
        assert_empty(dir);
    }
    signal(SIGXFSZ, old);
    arch_free(&a);
    free(path);
    test_rmdir(dir);
}

static void test_abort_leaves_nothing(void **state) {
    (void)state;
    char *dir = test_mkdir();
    char *path = mem_printf("%s/model.corm", dir);
    struct arch a;
    archive_tiny_arch(&a);
    struct archive_options o = options("bf16", "q8");
    struct corm_write_options wo = {o.expert, 2, true, false, 0.93f};
    struct corm_writer *w;
    struct err err = {0};
    assert_int_equal(corm_write_open(&w, path, &a, &wo, &err), 0);
    assert_int_equal(archive_fill(w, &a, &o, &err), 0);
    assert_int_equal(access(path, F_OK), -1);
    corm_write_abort(w);
    assert_empty(dir);
    corm_write_abort(NULL);
    arch_free(&a);
    free(path);
    test_rmdir(dir);
}

/* An archive of that name from before survives a failure, and is replaced by a success. */
static void test_replaces_only_when_whole(void **state) {
    (void)state;
    char *dir = test_mkdir();
    char *path = test_write(dir, "model.corm", "old", 3);
    struct arch a;
    archive_tiny_arch(&a);
    struct archive_options o = options("bf16", "bf16");
    struct corm_write_options wo = {o.expert, 2, true, false, 0.93f};
    struct corm_writer *w;
    struct err err = {0};
    assert_int_equal(corm_write_open(&w, path, &a, &wo, &err), 0);
    assert_int_equal(corm_write_finish(w, NULL, &err), -1);
    assert_err(&err, path, "tensor embed", "was not written");
    size_t bytes;
    uint8_t *data = load(path, &bytes);
    assert_int_equal(bytes, 3);
    free(data);
    write_archive(path, &a, &o);
    check_archive(path, &a, &o);
    assert_int_equal(unlink(path), 0);
    assert_empty(dir);
    arch_free(&a);
    free(path);
    test_rmdir(dir);
}

static void test_no_directory(void **state) {
    (void)state;
    struct arch a;
    archive_tiny_arch(&a);
    struct archive_options o = options("bf16", "bf16");
    struct err err = {0};
    assert_int_equal(archive_write("/nonexistent/model.corm", &a, &o, NULL, &err), -1);
    assert_err(&err, "/nonexistent/model.corm", strerror(ENOENT));
    arch_free(&a);
}

/* The writer refuses what is out of order or out of shape, and then does not finish. */
static void test_wrong_calls(void **state) {
    (void)state;
    char *dir = test_mkdir();
    char *path = mem_printf("%s/model.corm", dir);
    struct arch a;
    archive_tiny_arch(&a);
    const struct codec *bf16 = codec_by_name("bf16");
    struct corm_write_options wo = {bf16, 2, true, false, 0.93f};
    for (int what = 0; what < 6; what++) {
        struct corm_writer *w;
        struct err err = {0}, end = {0};
        size_t bytes;
        uint8_t *neurons = archive_neurons(&a, bf16, 0, 0, &bytes);
        assert_int_equal(corm_write_open(&w, path, &a, &wo, &err), 0);
        int rc = 0;
        switch (what) {
        case 0:
            rc = corm_write_tensor_begin(w, SLOT_Q, 0, bf16, 4, 32, &err);
            break;
        case 1:
            rc = corm_write_tensor_begin(w, SLOT_EMBED, 0, bf16, 4, 33, &err);
            break;
        case 2:
            rc = corm_write_tensor_rows(w, "", 1, &err);
            break;
        case 3:
            rc = corm_write_tensor_end(w, &err);
            break;
        case 4:
            rc = corm_write_record(w, 0, 0, neurons, 2, &err);
            break;
        default:
            rc = corm_write_blob(w, CORM_SECTION_INDEX, "", 0, &err);
        }
        assert_int_equal(rc, -1);
        assert_err(&err, path);
        assert_int_equal(corm_write_finish(w, NULL, &end), -1);
        assert_err(&end, path, "earlier error");
        free(neurons);
        assert_empty(dir);
    }
    wo.chunk_neurons = 0;
    struct corm_writer *w;
    struct err err = {0};
    assert_int_equal(corm_write_open(&w, path, &a, &wo, &err), -1);
    assert_null(w);
    assert_err(&err, path, "chunks of 0 neurons");
    arch_free(&a);
    free(path);
    test_rmdir(dir);
}

/* ---- files that must stay readable ---- */

static void write_golden(const char *path) {
    struct arch a;
    archive_tiny_arch(&a);
    struct archive_options o = options("bf16", "bf16");
    o.chunk_neurons = 2;
    o.hot_neurons = 2;
    o.compress = false; /* the same bytes with every version of zstd */
    write_archive(path, &a, &o);
    arch_free(&a);
}

static void test_golden(void **state) {
    (void)state;
    char *dir = test_mkdir();
    char *path = mem_printf("%s/tiny.corm", dir);
    write_golden(path);
    size_t want_bytes, got_bytes;
    uint8_t *want = load(golden_path, &want_bytes), *got = load(path, &got_bytes);
    assert_int_equal(want_bytes, got_bytes);
    assert_memory_equal(want, got, want_bytes);
    struct err err = {0};
    assert_int_equal(read_all(want, want_bytes, &err), 0);
    free(want);
    free(got);
    free(path);
    test_rmdir(dir);
}

static void write_seeds(const char *dir) {
    static const char *const codecs[][2] = {{"bf16", "bf16"}, {"q8", "f32"}, {"f16", "q4"}};
    for (uint64_t i = 0; i < TEST_COUNT(codecs); i++) {
        struct arch a;
        archive_arch(&a, i);
        struct archive_options o = options(codecs[i][0], codecs[i][1]);
        char *path = mem_printf("%s/%s.corm", dir, codecs[i][1]);
        write_archive(path, &a, &o);
        free(path);
        arch_free(&a);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0) {
        write_seeds(argv[2]);
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "--write-golden") == 0) {
        write_golden(argv[2]);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_ratios),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_flipped),
        cmocka_unit_test(test_bad_chunk_is_named),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_bad_frames),
        cmocka_unit_test(test_file_too_large),
        cmocka_unit_test(test_abort_leaves_nothing),
        cmocka_unit_test(test_replaces_only_when_whole),
        cmocka_unit_test(test_no_directory),
        cmocka_unit_test(test_wrong_calls),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests_name("corm", tests, NULL, NULL);
}
