/*
 * The predictors section as it is built, opened and refused, and replaced in a file.
 *
 * `test_corm_predict --write-seeds DIR` writes what fuzz_predict starts from.
 */
#include "tests/util/test_util_predict.h"

#include <math.h>

#include "format/corm_patch.h"
#include "format/corm_read.h"
#include "tests/util/test_util_archive.h"

static int open_section(struct corm_predict *p, const void *data, size_t size, struct err *err) {
    struct arch a;
    predictors_arch(&a);
    int status = corm_predict_open(p, data, size, &a, CHUNKS, err);
    arch_free(&a);
    return status;
}

/* ---- the section ---- */

static void what_was_added_is_found(void **state) {
    (void)state;
    struct buf s = predictors_section();
    struct corm_predict p;
    struct err err = {0};
    open_section(&p, s.data, s.len, &err);
    assert_no_err(&err);
    struct weight w = corm_predict_get(&p, PREDICT_RANK_P, 0, 2);
    assert_int_equal(w.rows, 1);
    assert_int_equal(w.cols, WIDTH);
    assert_int_equal((w.data - p.data) % 64, 0);
    assert_true(((const float *)(const void *)w.data)[1] == 0.7f);
    w = corm_predict_get(&p, PREDICT_CHUNK_BETA, 2, 0);
    assert_int_equal(w.rows, E * CHUNKS);
    assert_int_equal(w.codec->id, CODEC_F16);
    assert_int_equal(w.stride_bytes, BASIS * 2);
    assert_null(corm_predict_get(&p, PREDICT_RANK_P, 0, 1).data);
    assert_null(corm_predict_get(&p, PREDICT_RANK_P, 2, 2).data);
    assert_null(corm_predict_get(&p, PREDICT_MEAN_OUT, 0, 0).data);
    assert_non_null(corm_predict_get(&p, PREDICT_MEAN_OUT, 2, 0).data);
    assert_int_equal(corm_predict_level(&p, 0.5f), 0);
    assert_int_equal(corm_predict_level(&p, 2), 1);
    assert_int_equal(corm_predict_level(&p, 1), -1);
    assert_int_equal(corm_predict_level(&p, NAN), -1);
    for (uint32_t i = 1; i < p.header->n_entries; i++) {
        assert_true(p.entries[i - 1].kind <= p.entries[i].kind);
    }
    buf_free(&s);
}

static void the_same_parts_give_the_same_bytes(void **state) {
    (void)state;
    struct buf a = predictors_section(), b = predictors_section();
    assert_int_equal(a.len, b.len);
    assert_memory_equal(a.data, b.data, a.len);
    buf_free(&a);
    buf_free(&b);
}

static void nothing_is_no_predictors(void **state) {
    (void)state;
    struct corm_predict p;
    struct err err = {0};
    assert_int_equal(open_section(&p, NULL, 0, &err), 0);
    assert_null(corm_predict_get(&p, PREDICT_MEAN_OUT, 0, 0).data);
    assert_int_equal(corm_predict_level(&p, 1), -1);
    struct corm_predict_builder b = {0};
    struct buf s = {0};
    corm_predict_finish(&b, &s);
    assert_int_equal(open_section(&p, s.data, s.len, &err), 0);
    assert_no_err(&err);
    buf_free(&s);
}

static void names_of_kinds(void **state) {
    (void)state;
    assert_null(corm_predict_kind_name(0));
    assert_null(corm_predict_kind_name(PREDICT_KINDS));
    for (uint32_t i = 1; i < PREDICT_KINDS; i++) {
        assert_non_null(corm_predict_kind_name(i));
    }
}

/* ---- bad sections ---- */

/* Place of the entry of a kind (the first one), as bytes from the section's start. */
static size_t entry_at(const struct buf *s, enum predict_kind kind) {
    const struct corm_predict_header *h = (const void *)s->data;
    const struct corm_predict_entry *e = (const void *)(h + 1);
    for (uint32_t i = 0; i < h->n_entries; i++) {
        if (e[i].kind == (uint32_t)kind) {
            return (size_t)((const char *)&e[i] - s->data);
        }
    }
    fail_msg("no entry of kind %d", kind);
    return 0;
}

static void refuse(size_t at, const void *value, size_t bytes, const char *part,
                   const char *other) {
    struct buf s = predictors_section();
    struct corm_predict p;
    struct err err = {0};
    assert_true(at + bytes <= s.len);
    memcpy(s.data + at, value, bytes);
    if (open_section(&p, s.data, s.len, &err) == 0) {
        fail_msg("bytes at %zu: opened, expected \"%s\"", at, part);
    }
    assert_err(&err, "predictors: ", part, other);
    assert_null(p.header);
    buf_free(&s);
}

static void refuse_u32(size_t at, uint32_t value, const char *part, const char *other) {
    refuse(at, &value, sizeof value, part, other);
}

#define FIELD(kind, field) (entry_at(&s, kind) + offsetof(struct corm_predict_entry, field))
#define HEADER(field) offsetof(struct corm_predict_header, field)

static void broken_rules_are_named(void **state) {
    (void)state;
    struct buf s = predictors_section();
    refuse_u32(HEADER(version), 2, "version 2", "reads 1");
    refuse_u32(HEADER(n_entries), UINT32_MAX, "4294967295 entries", "");
    refuse_u32(HEADER(n_levels), 9, "9 levels", "");
    struct corm_predict_header no_levels = *(const struct corm_predict_header *)(void *)s.data;
    no_levels.n_levels = 0;
    memset(no_levels.levels, 0, sizeof no_levels.levels);
    refuse(0, &no_levels, sizeof no_levels, "loss_drop of layer 2", "shape");
    refuse(HEADER(levels) + 28, &(float){3}, 4, "loss levels", "");
    refuse_u32(HEADER(reserved), 1, "do not fit", "");
    refuse(HEADER(levels), &(float){NAN}, 4, "loss levels", "");
    refuse(HEADER(levels), &(float){2}, 4, "loss levels", "ascend");
    refuse_u32(FIELD(PREDICT_CHUNK_GATE_BETA, kind), PREDICT_KINDS, "unknown kind", "");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, kind), 0, "unknown kind 0", "entry 0");
    refuse_u32(FIELD(PREDICT_SCORES, kind), PREDICT_CHUNK_PRIOR, "not after", "");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, codec), 99, "mean_out of layer 2", "codec 99");
    refuse_u32(FIELD(PREDICT_EXPERT_BIAS, codec), CODEC_BF16, "expert_bias of layer 0", "codec 2");
    refuse_u32(FIELD(PREDICT_LOSS_DROP, codec), CODEC_F16, "loss_drop of layer 2", "codec 3");
    refuse_u32(FIELD(PREDICT_CHUNK_PRIOR, codec), CODEC_BF16, "chunk_prior of layer 2", "codec 2");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, layer), 1, "mean_out: layer 1", "no experts");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, layer), LAYERS, "mean_out: layer 4", "no experts");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, layer), UINT32_MAX, "layer 4294967295", "");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, ahead), 1, "ahead 1", "");
    refuse_u32(FIELD(PREDICT_RANK_P, ahead), 1, "rank_p: layer 0, ahead 1", "no experts");
    refuse_u32(FIELD(PREDICT_RANK_P, ahead), 4, "ahead 4", "");
    refuse_u32(FIELD(PREDICT_RANK_P, ahead), UINT32_MAX, "ahead 4294967295", "");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, rows), E - 1, "shape [5, 32]", "[6, 32]");
    refuse_u32(FIELD(PREDICT_MEAN_OUT, cols), D + 1, "shape [6, 33]", "");
    refuse_u32(FIELD(PREDICT_CHUNK_PRIOR, cols), CHUNKS - 1, "shape", "[6, 5]");
    refuse_u32(FIELD(PREDICT_RANK_P, cols), 0, "shape [1, 0]", "");
    refuse_u32(FIELD(PREDICT_SCORES, cols), 5000, "shape", "");
    refuse_u32(FIELD(PREDICT_EXPERT_IN, rows), D + 1, "shape [33, 32]", "up to 32");
    refuse_u32(FIELD(PREDICT_EXPERT_OUT, cols), D + 1, "shape [6, 33]", "");
    refuse_u32(FIELD(PREDICT_EXPERT_IN, rows), RANK - 1, "incomplete", "layer 0");
    refuse_u32(FIELD(PREDICT_CHUNK_BASIS, rows), BASIS - 1, "incomplete", "layer 2");
    refuse_u32(FIELD(PREDICT_EXPERT_IN, ahead), 2, "incomplete", "layer 0");
    refuse_u32(FIELD(PREDICT_CHUNK_GATES, rows), E * GATES - 1, "gates", "layer 2");
    refuse_u32(FIELD(PREDICT_CHUNK_GATES, rows), E * D + 1, "shape [193, 32]", "");
    refuse_u32(FIELD(PREDICT_CHUNK_GATE_BETA, cols), GATES - 1, "gates", "layer 2");
    uint64_t offset = 32;
    refuse(FIELD(PREDICT_MEAN_OUT, offset), &offset, 8, "outside", "64");
    offset = align_up(s.len, 64);
    refuse(FIELD(PREDICT_MEAN_OUT, offset), &offset, 8, "outside", "");
    offset = UINT64_MAX - 63;
    refuse(FIELD(PREDICT_MEAN_OUT, offset), &offset, 8, "outside", "");
    buf_free(&s);
}

static void values_that_would_spread_are_refused(void **state) {
    (void)state;
    struct buf s = predictors_section();
    struct corm_predict p;
    struct err err = {0};
    open_section(&p, s.data, s.len, &err);
    assert_no_err(&err);
    const struct {
        enum predict_kind kind;
        uint32_t layer, ahead;
        float value;
    } rows[] = {
        {PREDICT_LOSS_DROP, 2, 0, 1},
        {PREDICT_LOSS_DROP, 2, 0, -0.1f},
        {PREDICT_LOSS_DROP, 2, 0, NAN},
        {PREDICT_EXPERT_BIAS, 0, 0, INFINITY},
        {PREDICT_CHUNK_PRIOR, 3, 0, -INFINITY},
        {PREDICT_RANK_P, 0, 2, NAN},
        {PREDICT_SCORES, 3, 0, NAN},
    };
    for (size_t i = 0; i < TEST_COUNT(rows); i++) {
        struct weight w = corm_predict_get(&p, rows[i].kind, rows[i].layer, rows[i].ahead);
        size_t at = (size_t)(w.data - p.data) + ((size_t)w.rows * w.cols - 1) * sizeof(float);
        refuse(at, &rows[i].value, 4, corm_predict_kind_name(rows[i].kind), "value");
    }
    buf_free(&s);
}

/* Whatever opens can be used whole. */
static void use(const struct corm_predict *p) {
    float row[64 * D];
    for (uint32_t kind = 1; kind < PREDICT_KINDS; kind++) {
        for (uint32_t l = 0; l < LAYERS; l++) {
            for (uint32_t ahead = 0; ahead <= PREDICT_MAX_AHEAD; ahead++) {
                struct weight w = corm_predict_get(p, (enum predict_kind)kind, l, ahead);
                if (w.data && w.cols <= TEST_COUNT(row)) {
                    w.codec->decode_row(weight_row(&w, 0), w.cols, row);
                    w.codec->decode_row(weight_row(&w, w.rows - 1), w.cols, row);
                }
            }
        }
    }
}

static void cut_anywhere_it_is_refused(void **state) {
    (void)state;
    struct buf s = predictors_section();
    for (size_t size = 1; size < s.len; size++) {
        struct corm_predict p;
        struct err err = {0};
        /* A block of the very size: reading past it shows in the sanitizers. */
        uint8_t *cut = mem_alloc_aligned(align_up(size, 64));
        memcpy(cut, s.data, size);
        int status = open_section(&p, cut, size, &err);
        /* The last bytes may be padding. */
        if (size + 64 < s.len && status == 0) {
            fail_msg("opened with %zu of %zu bytes", size, s.len);
        }
        assert_int_equal(status == 0, !err.set);
        free(cut);
    }
    buf_free(&s);
}

static void flipped_anywhere_nothing_crashes(void **state) {
    (void)state;
    struct buf s = predictors_section();
    uint8_t *data = mem_alloc_aligned(s.len);
    for (size_t at = 0; at < s.len; at++) {
        for (uint32_t bit = 0; bit < 8; bit++) {
            struct corm_predict p;
            struct err err = {0};
            memcpy(data, s.data, s.len);
            data[at] ^= (uint8_t)(1u << bit);
            if (open_section(&p, data, s.len, &err) == 0) {
                use(&p);
            } else {
                assert_err(&err, "predictors: ");
            }
        }
    }
    free(data);
    buf_free(&s);
}

/* ---- in a file ---- */

static char *write_archive(const char *dir, const struct buf *section) {
    struct arch a;
    struct err err = {0};
    struct corm_writer *w;
    struct corm_write_stats stats;
    char *path = mem_printf("%s/patched.corm", dir);
    archive_tiny_arch(&a);
    struct archive_options o = archive_defaults("bf16", "bf16");
    struct corm_write_options opt = {o.expert, 2, CORM_COMPRESS_AUTO, false, 0.93f};
    corm_write_open(&w, path, &a, &opt, &err);
    archive_fill(w, &a, &o, &err);
    if (section) {
        corm_write_blob(w, CORM_SECTION_PREDICTORS, section->data, section->len, &err);
    }
    corm_write_finish(w, &stats, &err);
    assert_no_err(&err);
    arch_free(&a);
    return path;
}

static void a_section_is_replaced_in_a_file(void **state) {
    (void)state;
    char *dir = test_mkdir();
    struct buf s = predictors_section(), changed = predictors_section();
    struct err err = {0};
    struct corm c;
    char *path = write_archive(dir, &s);
    changed.data[changed.len - 1] ^= 1;
    corm_patch_section(path, CORM_SECTION_PREDICTORS, changed.data, changed.len, &err);
    assert_no_err(&err);
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    corm_verify(&c, NULL, NULL, &err);
    assert_no_err(&err);
    assert_int_equal(c.predictors.size_bytes, changed.len);
    assert_memory_equal(c.predictors.data, changed.data, changed.len);
    corm_close(&c);
    assert_int_equal(corm_patch_section(path, CORM_SECTION_PREDICTORS, s.data, s.len - 1, &err),
                     -1);
    assert_err(&err, "patched.corm", "section 9");
    free(path);
    path = write_archive(dir, NULL);
    err = (struct err){0};
    assert_int_equal(corm_patch_section(path, CORM_SECTION_PREDICTORS, s.data, s.len, &err), -1);
    assert_err(&err, "patched.corm", "no section 9");
    free(path);
    buf_free(&s);
    buf_free(&changed);
    test_rmdir(dir);
}

static int write_seeds(const char *dir) {
    struct buf s = predictors_section();
    free(test_write(dir, "all", s.data, s.len));
    struct corm_predict_builder b = {0};
    struct buf none = {0};
    corm_predict_finish(&b, &none);
    free(test_write(dir, "none", none.data, none.len));
    buf_free(&s);
    buf_free(&none);
    return 0;
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--write-seeds") == 0) {
        return write_seeds(argv[2]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_added_is_found),
        cmocka_unit_test(the_same_parts_give_the_same_bytes),
        cmocka_unit_test(nothing_is_no_predictors),
        cmocka_unit_test(names_of_kinds),
        cmocka_unit_test(broken_rules_are_named),
        cmocka_unit_test(values_that_would_spread_are_refused),
        cmocka_unit_test(cut_anywhere_it_is_refused),
        cmocka_unit_test(flipped_anywhere_nothing_crashes),
        cmocka_unit_test(a_section_is_replaced_in_a_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
