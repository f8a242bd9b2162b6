/*
 * Ways to compress: which codec has which, what each makes of an archive whatever the least gain
 * is, and what an archive is said to have.
 */
#include "tests/util/test.h"

#include "format/corm_compress.h"
#include "format/corm_read.h"
#include "tests/util/test_util_archive.h"

enum { LAYERS = 2, EXPERTS = 3, NEURONS = 8, STEP = 2, HOT = 4, CHUNKS = NEURONS / STEP };

/* What a way makes of the chunks of a codec; RAW: it is not one for the codec. */
static const struct row {
    const char *codec;
    enum corm_compress how;
    enum corm_encoding encoding;
    const char *name;
    bool least; /* the test's weights, which are even, get smaller by it at least a little */
} rows[] = {
    {"bf16", CORM_COMPRESS_AUTO, CORM_ENCODING_EXPONENTS, "exponents", true},
    {"bf16", CORM_COMPRESS_ZSTD, CORM_ENCODING_PLANES, "zstd", true},
    {"bf16", CORM_COMPRESS_EXPONENTS, CORM_ENCODING_EXPONENTS, "exponents", true},
    {"f16", CORM_COMPRESS_AUTO, CORM_ENCODING_PLANES, "zstd", true},
    {"f16", CORM_COMPRESS_ZSTD, CORM_ENCODING_PLANES, "zstd", true},
    {"f16", CORM_COMPRESS_EXPONENTS, CORM_ENCODING_RAW, ""},
    {"f32", CORM_COMPRESS_AUTO, CORM_ENCODING_ZSTD, "zstd", true},
    {"f32", CORM_COMPRESS_ZSTD, CORM_ENCODING_ZSTD, "zstd", true},
    {"f32", CORM_COMPRESS_EXPONENTS, CORM_ENCODING_RAW, ""},
    {"q8", CORM_COMPRESS_AUTO, CORM_ENCODING_ZSTD, "zstd", false},
    {"q8", CORM_COMPRESS_ZSTD, CORM_ENCODING_ZSTD, "zstd", true},
    {"q8", CORM_COMPRESS_EXPONENTS, CORM_ENCODING_RAW, ""},
    {"q4", CORM_COMPRESS_AUTO, CORM_ENCODING_ZSTD, "zstd", false},
    {"q4", CORM_COMPRESS_ZSTD, CORM_ENCODING_ZSTD, "zstd", false},
    {"q4", CORM_COMPRESS_EXPONENTS, CORM_ENCODING_RAW, ""},
};

static struct archive_options options(const struct row *row) {
    struct archive_options o = archive_defaults("bf16", row->codec);
    o.chunk_neurons = STEP;
    o.hot_neurons = HOT;
    o.compress = row->how;
    return o;
}

/* Write an archive and open it; returns how many chunks are of the row's encoding. */
static uint32_t write_and_count(const char *path, const struct row *row, bool hot, float above,
                                struct corm_write_stats *stats, char name[32]) {
    struct arch a;
    struct err err = {0};
    struct corm c;
    archive_moe_arch(&a, LAYERS, EXPERTS, NEURONS);
    a.dim = 512;
    struct archive_options o = options(row);
    o.compress_hot = hot;
    o.raw_above_ratio = above;
    archive_write(path, &a, &o, stats, &err);
    assert_no_err(&err);
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    uint32_t n = 0;
    for (uint32_t i = 0; i < c.n_chunks; i++) {
        assert_true(c.chunks[i].encoding == row->encoding ||
                    c.chunks[i].encoding == CORM_ENCODING_RAW);
        assert_true(hot || i % CHUNKS >= HOT / STEP || c.chunks[i].encoding == CORM_ENCODING_RAW);
        n += c.chunks[i].encoding == row->encoding;
    }
    snprintf(name, 32, "%s", corm_compress_of(&c));
    corm_close(&c);
    arch_free(&a);
    return n;
}

/* The least gain counts for AUTO alone; hot prefixes are asked for separately; what a codec does
 * not have is refused before a file is there. */
static void test_ways(void **state) {
    (void)state;
    enum { ALL = LAYERS * EXPERTS * CHUNKS, COLD = ALL * (NEURONS - HOT) / NEURONS };
    char *dir = test_mkdir();
    char *path = mem_printf("%s/a.corm", dir), *never = mem_printf("%s/never.corm", dir);
    char *temporary = mem_printf("%s.tmp", never);
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        const struct row *row = &rows[i];
        struct err err = {0};
        struct corm_write_stats stats;
        char name[32];
        int rc = corm_compress_check(row->how, codec_by_name(row->codec), &err);
        if (row->encoding == CORM_ENCODING_RAW) {
            struct arch a;
            struct err refused = {0};
            struct archive_options o = options(row);
            assert_int_equal(rc, -1);
            assert_err(&err, "--compress exponents", row->codec);
            archive_moe_arch(&a, LAYERS, EXPERTS, NEURONS);
            assert_int_equal(archive_write(never, &a, &o, NULL, &refused), -1);
            assert_err(&refused, never, row->codec);
            assert_int_equal(access(never, F_OK), -1);
            assert_int_equal(access(temporary, F_OK), -1);
            arch_free(&a);
            continue;
        }
        assert_int_equal(rc, 0);
        assert_int_equal(write_and_count(path, row, false, 1, &stats, name), row->least ? COLD : 0);
        assert_string_equal(name, row->least ? row->name : "none");
        assert_int_equal(stats.n_chunks_raw, row->least ? ALL - COLD : ALL);
        assert_int_equal(stats.n_chunks_unshrunk, row->least ? 0 : COLD);
        uint32_t all = row->least ? ALL : 0;
        assert_int_equal(write_and_count(path, row, true, 1, &stats, name), all);
        all = row->how == CORM_COMPRESS_AUTO ? 0 : all; /* no gain is enough */
        assert_int_equal(write_and_count(path, row, true, 0, &stats, name), all);
        assert_string_equal(name, all ? row->name : "none");
        assert_int_equal(stats.n_chunks_unshrunk, ALL - all);
    }
    free(path);
    free(never);
    free(temporary);
    test_rmdir(dir);
}

/* Chunks that no way makes smaller stay raw in each, and come back. */
static void test_noise(void **state) {
    (void)state;
    enum { BYTES = 3 * 4096 };
    uint8_t *raw = mem_alloc_aligned(BYTES), *out = mem_alloc_aligned(BYTES);
    struct test_rng rng = {7};
    for (size_t i = 0; i < BYTES; i++) {
        raw[i] = (uint8_t)test_u64(&rng);
    }
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        const struct codec *codec = codec_by_name(rows[i].codec);
        struct err err = {0};
        if (rows[i].encoding == CORM_ENCODING_RAW) {
            continue;
        }
        struct corm_packer *p = corm_packer_new(codec);
        struct corm_decoder *d = corm_decoder_sized(BYTES);
        struct corm_packed packed = corm_packer_pack(p, rows[i].how, raw, BYTES);
        assert_int_equal(packed.encoding, rows[i].encoding);
        assert_true(packed.bytes >= BYTES); /* so the writer leaves it raw */
        corm_decoder_unpack(d, codec, packed.encoding, packed.data, packed.bytes, out, BYTES, &err);
        assert_no_err(&err);
        assert_memory_equal(out, raw, BYTES);
        corm_decoder_free(d);
        corm_packer_free(p);
    }
    free(raw);
    free(out);
}

/* Gains that zstd's usual level does not take: frames all the same where they are asked for, and
 * the next chunk is compressed as ever. */
static void test_small_gains(void **state) {
    (void)state;
    struct arch a;
    archive_moe_arch(&a, LAYERS, EXPERTS, NEURONS);
    a.dim = 512;
    const struct codec *q8 = codec_by_name("q8");
    size_t all, bytes = STEP * 3 * codec_row_bytes(q8, a.dim), found = 0;
    uint8_t *even = mem_calloc(1, bytes);
    struct corm_packer *p = corm_packer_new(q8);
    size_t usual_even = corm_packer_pack(p, CORM_COMPRESS_ZSTD, even, bytes).bytes;
    for (uint32_t expert = 0; expert < EXPERTS; expert++) {
        uint8_t *raw = archive_neurons(&a, q8, 0, expert, &all);
        size_t usual = corm_packer_pack(p, CORM_COMPRESS_AUTO, raw, bytes).bytes;
        size_t most = corm_packer_pack(p, CORM_COMPRESS_ZSTD, raw, bytes).bytes;
        found += usual >= bytes && most < bytes;
        assert_int_equal(corm_packer_pack(p, CORM_COMPRESS_AUTO, raw, bytes).bytes, usual);
        assert_int_equal(corm_packer_pack(p, CORM_COMPRESS_ZSTD, even, bytes).bytes, usual_even);
        free(raw);
    }
    assert_int_equal(found, EXPERTS);
    corm_packer_free(p);
    arch_free(&a);
    free(even);
}

static void test_names(void **state) {
    (void)state;
    static const struct {
        uint32_t encodings[2];
        const char *name;
    } cases[] = {{{CORM_ENCODING_RAW, CORM_ENCODING_RAW}, "none"},
                 {{CORM_ENCODING_RAW, CORM_ENCODING_PLANES}, "zstd"},
                 {{CORM_ENCODING_ZSTD, CORM_ENCODING_RAW}, "zstd"},
                 {{CORM_ENCODING_RAW, CORM_ENCODING_EXPONENTS}, "exponents"},
                 {{CORM_ENCODING_EXPONENTS, CORM_ENCODING_PLANES}, "zstd and exponents"}};
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        struct corm_chunk chunks[2] = {{.encoding = cases[i].encodings[0]},
                                       {.encoding = cases[i].encodings[1]}};
        struct corm c = {.chunks = chunks, .n_chunks = 2};
        assert_string_equal(corm_compress_of(&c), cases[i].name);
        c.n_chunks = 0; /* a model without experts */
        assert_string_equal(corm_compress_of(&c), "none");
    }
    for (int i = 0; i < CORM_COMPRESS_WAYS; i++) {
        assert_non_null(corm_compress_words[i]);
    }
    assert_null(corm_compress_words[CORM_COMPRESS_WAYS]);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ways),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_small_gains),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests_name("corm_compress", tests, NULL, NULL);
}
