/*
 * Archives: what the writer writes, the reader reads; a writer that cannot finish leaves nothing
 * under the final name. Damaged archives are in test_corm_damage.c.
 *
 * `test_corm --write-golden DIR` writes the archives that must stay readable, the first of which is
 * docs/FORMAT.md's worked example; `test_corm --write-seeds DIR` what fuzz_corm starts from.
 */
#include "tests/util/test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "format/corm_chunk.h"
#include "format/corm_read.h"
#include "tests/util/test_util_archive.h"

static void write_archive(const char *path, const struct arch *a, const struct archive_options *o) {
    struct err err = {0};
    if (archive_write(path, a, o, NULL, &err) < 0) {
        assert_no_err(&err);
    }
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

/* What compressing so makes of a chunk that gets smaller. */
static enum corm_encoding encoding_of(enum corm_compress how, const struct codec *codec) {
    bool two_bytes = codec->id == CODEC_BF16 || codec->id == CODEC_F16;
    return codec->id == CODEC_BF16 && how != CORM_COMPRESS_ZSTD ? CORM_ENCODING_EXPONENTS
           : two_bytes                                          ? CORM_ENCODING_PLANES
                                                                : CORM_ENCODING_ZSTD;
}

static void check_record(const struct corm *c, struct corm_decoder *d, const struct arch *a,
                         const struct archive_options *o, uint32_t layer, uint32_t expert) {
    struct err err = {0};
    size_t bytes;
    uint8_t *want = archive_chunks(a, o, layer, expert, &bytes);
    const struct corm_record *r = corm_record_of(c, layer, expert);
    size_t at = 0;
    for (uint32_t i = 0; i < r->n_chunks; i++) {
        const struct corm_chunk *k = &c->chunks[r->first_chunk + i];
        char name[64], want_name[64];
        snprintf(want_name, sizeof want_name, "layer %u expert %u chunk %u", layer, expert, i);
        assert_string_equal(corm_chunk_name(c, k, name), want_name);
        const struct codec *codec = archive_chunk_codec(o, i);
        size_t raw_bytes = corm_chunk_raw_bytes(c, k), row_bytes = codec_row_bytes(codec, a->dim);
        assert_ptr_equal(corm_chunk_codec(c, k), codec);
        assert_int_equal(k->codec, codec->id);
        assert_int_equal(raw_bytes, k->n_neurons * 3 * row_bytes);
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
        bool raw_always = (i < r->n_hot && !o->compress_hot) || o->compress == CORM_COMPRESS_NONE;
        assert_true(k->encoding == CORM_ENCODING_RAW ||
                    (!raw_always && k->encoding == encoding_of(o->compress, codec)));
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

/* Only bytes in their section, too: nobody reads predictors to open an archive. */
static const char predictors[] = "not predictors";

static void check_view(const struct corm *c, const struct arch *a, const struct archive_options *o,
                       bool has_predictors) {
    struct err err = {0};
    struct buf want = {0}, got = {0};
    arch_encode(a, &want);
    arch_encode(&c->arch, &got);
    assert_int_equal(want.len, got.len);
    assert_memory_equal(want.data, got.data, want.len);
    buf_free(&want);
    buf_free(&got);
    check_trunk(c, a, o);
    struct corm_decoder *d = corm_decoder_new(c);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(a, l) && e < a->n_experts; e++) {
            check_record(c, d, a, o, l, e);
        }
    }
    corm_decoder_free(d);
    check_blob(c->tokenizer, archive_tokenizer, o->blobs);
    check_blob(c->license, archive_license, o->blobs);
    check_blob(c->provenance, archive_provenance, o->blobs);
    check_blob(c->predictors, predictors, has_predictors);
    uint64_t left = 1;
    corm_verify(c, last_progress, &left, &err);
    assert_no_err(&err);
    assert_int_equal(left, 0);
}

static void check_archive(const char *path, const struct arch *a, const struct archive_options *o) {
    struct err err = {0};
    struct corm c;
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    check_view(&c, a, o, false);
    corm_close(&c);
}

static void test_round_trip(void **state) {
    (void)state;
    static const enum corm_compress ways[] = {
        CORM_COMPRESS_NONE, CORM_COMPRESS_AUTO, CORM_COMPRESS_ZSTD,     CORM_COMPRESS_AUTO,
        CORM_COMPRESS_ZSTD, CORM_COMPRESS_AUTO, CORM_COMPRESS_EXPONENTS};
    char *dir = test_mkdir();
    char *path = mem_printf("%s/model.corm", dir);
    size_t codecs = 0, n_mixed = 0;
    while (codec_at(codecs)) {
        codecs++;
    }
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct arch a;
        archive_arch(&a, seed);
        struct archive_options o =
            archive_defaults(codec_at(seed % codecs)->name, codec_at(seed / codecs % codecs)->name);
        o.compress = ways[seed % TEST_COUNT(ways)];
        if (corm_compress_check(o.compress, o.expert, NULL) < 0) {
            o.compress = CORM_COMPRESS_AUTO;
        }
        o.compress_hot = seed % 3 == 0;
        o.blobs = seed % 2 == 0;
        o.chunk_neurons = 1 + seed % 6;
        o.hot_neurons = (uint32_t)(seed % 3) * o.chunk_neurons;
        o.raw_above_ratio = seed % 5 == 0 ? 0.0f : 1.0f;
        const struct codec *cold = codec_at(seed / 3 % codecs);
        if (seed % 2 && corm_compress_check(o.compress, cold, NULL) == 0 &&
            codec_row_bytes(cold, a.dim) <= codec_row_bytes(o.expert, a.dim)) {
            o.cold = cold;
            n_mixed++;
        }
        write_archive(path, &a, &o);
        check_archive(path, &a, &o);
        arch_free(&a);
    }
    assert_true(n_mixed > 10);
    free(path);
    test_rmdir(dir);
}

/* Chunks that all name one codec make the archive that was always made of it; with two there is a
 * bit that older readers refuse. */
static void test_codecs_of_chunks(void **state) {
    (void)state;
    char *dir = test_mkdir();
    char *paths[3];
    uint8_t *data[3];
    size_t bytes[3];
    struct arch a;
    archive_moe_arch(&a, 2, 3, 20);
    for (int i = 0; i < 3; i++) {
        struct archive_options o = archive_defaults("bf16", i < 2 ? "q4" : "q8");
        o.cold = i > 0 ? codec_by_name("q4") : NULL;
        paths[i] = mem_printf("%s/%d.corm", dir, i);
        write_archive(paths[i], &a, &o);
        data[i] = archive_load(paths[i], &bytes[i]);
        struct corm c;
        struct err err = {0};
        corm_open(&c, paths[i], 0, &err);
        assert_no_err(&err);
        assert_int_equal(c.mixed, i == 2);
        assert_int_equal(c.header.incompat, i == 2 ? CORM_INCOMPAT_MIXED : 0);
        assert_string_equal(c.codec_names, i == 2 ? "q8+q4" : "q4");
        assert_string_equal(c.expert_codec->name, i == 2 ? "q8" : "q4");
        corm_close(&c);
    }
    assert_int_equal(bytes[0], bytes[1]);
    assert_memory_equal(data[0], data[1], bytes[0]);
    /* A codec of longer rows than the writer was told of is refused. */
    struct archive_options o = archive_defaults("bf16", "q4");
    struct err err = {0};
    o.cold = codec_by_name("q8");
    assert_int_equal(archive_write(paths[0], &a, &o, NULL, &err), -1);
    assert_err(&err, paths[0], "layer 0 expert 0 chunk 2 in q8", "longer than q4");
    for (int i = 0; i < 3; i++) {
        free(paths[i]);
        free(data[i]);
    }
    arch_free(&a);
    test_rmdir(dir);
}

/* ---- sizes ---- */

static void test_ratios(void **state) {
    (void)state;
    static const struct {
        const char *codec;
        enum corm_encoding encoding;
        double low, high; /* expected packed / raw of normal weights */
    } rows[] = {{"bf16", CORM_ENCODING_EXPONENTS, 0.60, 0.70},
                {"f16", CORM_ENCODING_PLANES, 0.75, 0.87},
                {"q8", CORM_ENCODING_ZSTD, 0.90, 1.0},
                {"q4", CORM_ENCODING_ZSTD, 0.80, 1.0}};
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
        struct corm_packed packed = corm_packer_pack(p, CORM_COMPRESS_AUTO, raw, raw_bytes);
        struct err err = {0};
        uint64_t best = UINT64_MAX;
        for (int rep = 0; rep < 20; rep++) {
            uint64_t t = clock_ns();
            corm_decoder_unpack(d, codec, packed.encoding, packed.data, packed.bytes, out,
                                raw_bytes, &err);
            t = clock_ns() - t;
            best = t < best ? t : best;
            assert_no_err(&err);
        }
        assert_memory_equal(raw, out, raw_bytes);
        double ratio = (double)packed.bytes / (double)raw_bytes;
        print_message("%-4s packed/raw %.3f, decodes %.2f GB/s from %s\n", rows[i].codec, ratio,
                      (double)raw_bytes / (double)best, corm_encoding_name(packed.encoding));
        assert_int_equal(packed.encoding, rows[i].encoding);
        assert_true(ratio > rows[i].low && ratio < rows[i].high);
        corm_decoder_free(d);
        corm_packer_free(p);
        free(raw);
        free(out);
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
    struct archive_options o = archive_defaults("bf16", "bf16");
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
    struct archive_options o = archive_defaults("bf16", "q8");
    struct corm_write_options wo = {o.expert, 2, CORM_COMPRESS_AUTO, false, 0.93f};
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
    struct archive_options o = archive_defaults("bf16", "bf16");
    struct corm_write_options wo = {o.expert, 2, CORM_COMPRESS_AUTO, false, 0.93f};
    struct corm_writer *w;
    struct err err = {0};
    assert_int_equal(corm_write_open(&w, path, &a, &wo, &err), 0);
    assert_int_equal(corm_write_finish(w, NULL, &err), -1);
    assert_err(&err, path, "tensor embed", "was not written");
    size_t bytes;
    uint8_t *data = archive_load(path, &bytes);
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
    struct archive_options o = archive_defaults("bf16", "bf16");
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
    struct corm_write_options wo = {bf16, 2, CORM_COMPRESS_AUTO, false, 0.93f};
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

/* Nothing in them is a zstd frame: they are the same bytes with every version of it. */
static const struct golden {
    const char *name;
    uint32_t dim;
    enum corm_compress compress;
    enum corm_encoding second; /* of each record's second chunk; the first one is hot and raw */
} goldens[] = {{"tiny-v1.corm", 32, CORM_COMPRESS_NONE, CORM_ENCODING_RAW},
               {"tiny-v1-exponents.corm", 128, CORM_COMPRESS_AUTO, CORM_ENCODING_EXPONENTS}};

static struct archive_options golden_archive(const struct golden *g, struct arch *a) {
    archive_tiny_arch(a);
    a->dim = g->dim;
    struct archive_options o = archive_defaults("bf16", "bf16");
    o.chunk_neurons = 2;
    o.hot_neurons = 2;
    o.compress = g->compress;
    return o;
}

static void write_goldens(const char *dir) {
    for (size_t i = 0; i < TEST_COUNT(goldens); i++) {
        struct arch a;
        struct archive_options o = golden_archive(&goldens[i], &a);
        char *path = mem_printf("%s/%s", dir, goldens[i].name);
        write_archive(path, &a, &o);
        free(path);
        arch_free(&a);
    }
}

/* Read as what was written, and written as then. */
static void check_golden(const struct golden *g, const char *again_dir) {
    char *path = mem_printf("tests/golden/%s", g->name);
    char *again = mem_printf("%s/%s", again_dir, g->name);
    struct arch a;
    struct archive_options o = golden_archive(g, &a);
    check_archive(path, &a, &o);
    size_t want_bytes, got_bytes;
    uint8_t *want = archive_load(path, &want_bytes), *got = archive_load(again, &got_bytes);
    assert_int_equal(want_bytes, got_bytes);
    assert_memory_equal(want, got, want_bytes);
    struct err err = {0};
    struct corm c;
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    for (uint32_t i = 0; i < c.n_chunks; i++) {
        assert_int_equal(c.chunks[i].encoding, i % 2 ? g->second : CORM_ENCODING_RAW);
    }
    corm_close(&c);
    arch_free(&a);
    free(want);
    free(got);
    free(path);
    free(again);
}

static void test_golden(void **state) {
    (void)state;
    char *dir = test_mkdir();
    write_goldens(dir);
    for (size_t i = 0; i < TEST_COUNT(goldens); i++) {
        check_golden(&goldens[i], dir);
    }
    test_rmdir(dir);
}

/* One of every codec's encodings: of the first arch that comes along, and of one whose chunks are
 * large enough to become smaller. */
static void write_seeds(const char *dir) {
    static const struct {
        const char *trunk, *expert, *cold;
        uint32_t dim; /* of archive_tiny_arch; 0: another arch */
    } seeds[] = {{"bf16", "bf16", NULL, 128},
                 {"q8", "f32", NULL, 0},
                 {"f16", "q4", NULL, 0},
                 {"f32", "f16", NULL, 128},
                 {"bf16", "q8", "q4", 128}};
    for (uint64_t i = 0; i < TEST_COUNT(seeds); i++) {
        struct arch a;
        struct archive_options o = archive_defaults(seeds[i].trunk, seeds[i].expert);
        o.cold = seeds[i].cold ? codec_by_name(seeds[i].cold) : NULL;
        if (seeds[i].dim > 0) {
            archive_tiny_arch(&a);
            a.dim = seeds[i].dim;
            o.chunk_neurons = o.hot_neurons = 2;
            o.raw_above_ratio = 1.0f;
        } else {
            archive_arch(&a, i);
        }
        char *path =
            mem_printf("%s/%s%s.corm", dir, seeds[i].expert, seeds[i].cold ? "-mixed" : "");
        write_archive(path, &a, &o);
        free(path);
        arch_free(&a);
    }
}

/* ---- sections that are too large ---- */

/* What the reader would refuse is not written. */
static void test_too_large_section(void **state) {
    (void)state;
    char *dir = test_mkdir();
    char *path = mem_printf("%s/model.corm", dir);
    struct arch a;
    archive_tiny_arch(&a);
    struct archive_options o = archive_defaults("bf16", "bf16");
    o.blobs = false;
    struct corm_write_options wo = {o.expert, 2, CORM_COMPRESS_AUTO, false, 0.93f};
    char *text = mem_calloc(1, CORM_MAX_TEXT_BYTES + 1);
    for (size_t more = 0; more < 2; more++) {
        struct corm_writer *w;
        struct err err = {0};
        corm_write_open(&w, path, &a, &wo, &err);
        archive_fill(w, &a, &o, &err);
        corm_write_blob(w, CORM_SECTION_LICENSE, text, CORM_MAX_TEXT_BYTES + more, &err);
        assert_no_err(&err);
        int rc = corm_write_finish(w, NULL, &err);
        if (more) {
            assert_int_equal(rc, -1);
            assert_err(&err, path, "section license: 67108865 bytes, expected at most 67108864");
            assert_empty(dir);
            continue;
        }
        struct corm c;
        corm_open(&c, path, 0, &err);
        assert_no_err(&err);
        assert_int_equal(c.license.size_bytes, CORM_MAX_TEXT_BYTES);
        corm_close(&c);
        assert_int_equal(unlink(path), 0);
    }
    free(text);
    arch_free(&a);
    free(path);
    test_rmdir(dir);
}

/* ---- a file that changes ---- */

/* Once an archive is open, another program may write to its file: all that was checked stays as it
 * was, but for weights. */
static void test_rewritten_while_open(void **state) {
    (void)state;
    char *dir = test_mkdir();
    char *path = mem_printf("%s/rewritten.corm", dir);
    struct arch a;
    archive_tiny_arch(&a);
    struct archive_options o = archive_defaults("bf16", "bf16");
    struct corm_write_options wo = {o.expert, 2, CORM_COMPRESS_AUTO, false, 0.93f};
    struct corm_writer *w;
    struct err err = {0};
    struct corm c;
    corm_write_open(&w, path, &a, &wo, &err);
    archive_fill(w, &a, &o, &err);
    corm_write_blob(w, CORM_SECTION_PREDICTORS, predictors, strlen(predictors), &err);
    assert_no_err(&err);
    corm_write_finish(w, NULL, &err);
    assert_no_err(&err);
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    uint8_t ones[CORM_HEADER_BYTES];
    memset(ones, 0xff, sizeof ones);
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0);
    size_t copied = 0, n_copied = 0, table_bytes = c.header.section_count * sizeof *c.sections;
    for (uint32_t i = 0; i < c.header.section_count; i++) {
        size_t bytes = c.sections[i].bytes;
        if (corm_section_has_hash(c.sections[i].type)) {
            assert_true(bytes <= sizeof ones);
            assert_int_equal(pwrite(fd, ones, bytes, (off_t)c.sections[i].offset), bytes);
            copied += bytes;
            n_copied++;
        }
    }
    assert_int_equal(n_copied, 7); /* every one there is */
    assert_int_equal(pwrite(fd, ones, table_bytes, (off_t)c.header.table_offset), table_bytes);
    assert_int_equal(pwrite(fd, ones, sizeof ones, 0), sizeof ones);
    close(fd);
    assert_memory_equal(c.map.data, ones, sizeof ones); /* it did reach the map */
    check_view(&c, &a, &o, true);
    assert_int_equal(c.copied_bytes, copied);
    corm_close(&c);
    arch_free(&a);
    free(path);
    test_rmdir(dir);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0) {
        write_seeds(argv[2]);
        return 0;
    }
    if (argc == 3 && strcmp(argv[1], "--write-golden") == 0) {
        write_goldens(argv[2]);
        return 0;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_codecs_of_chunks),
        cmocka_unit_test(test_ratios),
        cmocka_unit_test(test_file_too_large),
        cmocka_unit_test(test_abort_leaves_nothing),
        cmocka_unit_test(test_replaces_only_when_whole),
        cmocka_unit_test(test_no_directory),
        cmocka_unit_test(test_wrong_calls),
        cmocka_unit_test(test_too_large_section),
        cmocka_unit_test(test_rewritten_while_open),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests_name("corm", tests, NULL, NULL);
}
