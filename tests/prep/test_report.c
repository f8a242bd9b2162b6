/*
 * report: the short form is what the scores say, of archives with all scores and of those that were
 * made before the last one was added.
 */
#include "tests/util/test.h"

#include "format/corm_write.h"
#include "prep/report.h"
#include "tests/util/test_util_archive.h"

enum { LAYERS = 3 };

/* Layer 0 is guessed from the embedding, layer 1 by a correction that is stored, layer 2 by mean
 * outputs, as a correction is not. */
static void fill(struct calib_scores s[LAYERS]) {
    memset(s, 0, LAYERS * sizeof *s);
    for (int l = 0; l < LAYERS; l++) {
        s[l].load_max = 1;
        for (int a = 0; a <= PREDICT_MAX_AHEAD; a++) {
            s[l].stale[a] = s[l].corrected[a] = s[l].learned[a] = -1;
        }
    }
    s[0].stale[0] = s[0].corrected[0] = 0.5f;
    s[0].learned[0] = 0.875f;
    s[1].stale[1] = 0.25f;
    s[1].corrected[1] = 0.375f;
    s[1].learned[1] = 0.5f;
    s[2].stale[1] = 0.375f;
    s[2].corrected[1] = 0.5f;
    s[2].learned[1] = 0.75f; /* would be better on this text by luck: not stored, not used */
    s[0].stored[0] = s[1].stored[1] = true;
    s[0].hot_fraction = 0.25f;
    s[1].hot_fraction = s[2].hot_fraction = 0.5f;
    s[0].hot_energy = 0.5f;
    s[1].hot_energy = s[2].hot_energy = 0.8f;
}

/* The section of predictors with these scores, each row shorter by `fewer`. */
static void make_section(const struct arch *a, const struct calib_scores *s, uint32_t fewer,
                         struct buf *out) {
    struct calib_result r = {.n_layers = LAYERS, .scores = (struct calib_scores *)(uintptr_t)s};
    struct corm_predict_builder all = {0}, b = {0};
    struct buf section = {0};
    struct corm_predict p;
    struct err err = {0};
    report_add_scores(&all, &r);
    corm_predict_finish(&all, &section);
    corm_predict_open(&p, section.data, section.len, a, 1, &err);
    assert_no_err(&err);
    for (uint32_t l = 0; l < LAYERS; l++) {
        struct weight w = corm_predict_get(&p, PREDICT_SCORES, l, 0);
        const float *row = (const float *)w.data;
        corm_predict_add(&b, PREDICT_SCORES, l, 0, CODEC_F32, row, 1, w.cols - fewer);
    }
    corm_predict_finish(&b, out);
    buf_free(&section);
}

static void write_archive(const char *path, const struct arch *a, const struct buf *predictors) {
    struct archive_options o = archive_defaults("bf16", "bf16");
    struct corm_write_options how = {
        .expert_codec = o.expert, .chunk_neurons = 4, .compress = CORM_COMPRESS_AUTO};
    struct corm_writer *w;
    struct err err = {0};
    corm_write_open(&w, path, a, &how, &err);
    assert_no_err(&err);
    archive_fill(w, a, &o, &err);
    assert_no_err(&err);
    if (predictors) {
        corm_write_blob(w, CORM_SECTION_PREDICTORS, predictors->data, predictors->len, &err);
    }
    corm_write_finish(w, NULL, &err);
    assert_no_err(&err);
}

static int report(const char *path, bool brief, bool json, struct buf *out, struct err *err) {
    struct corm c;
    corm_open(&c, path, 0, err);
    assert_no_err(err);
    buf_free(out);
    int rc = brief ? report_brief(&c, json, out, err) : report_print(&c, json, out, err);
    corm_close(&c);
    return rc;
}

static void expect(const struct buf *text, const char *part) {
    if (!strstr(text->data, part)) {
        fail_msg("\"%s\" is missing in:\n%s", part, text->data);
    }
}

static void test_brief(void **state) {
    (void)state;
    char *path = mem_printf("%s/a.corm", test_dir());
    struct calib_scores scores[LAYERS];
    struct arch a;
    fill(scores);
    archive_moe_arch(&a, LAYERS, 4, 16);
    for (uint32_t fewer = 0; fewer < 2; fewer++) {
        struct buf section = {0}, out = {0};
        struct err err = {0};
        make_section(&a, scores, fewer, &section);
        write_archive(path, &a, &section);
        assert_int_equal(report(path, true, false, &out, &err), 0);
        /* (0.875 + 0.5 + 0.5) / 3, (0.5 + 0.25 + 0.375) / 3 */
        expect(&out,
               "experts     62.5 % are guessed a layer ahead by the trained predictor; 37.5 %");
        expect(&out, fewer ? "hot prefix  41.7 % of an expert's neurons, their energy was not"
                           : "hot prefix  41.7 % of an expert's neurons, 70.0 % of its energy\n");
        expect(&out, "\narchive     ");
        assert_int_equal(report(path, true, true, &out, &err), 0);
        expect(&out, "\"experts_guessed\": 0.625");
        expect(&out, "\"experts_guessed_free\": 0.375");
        expect(&out, fewer ? "\"hot_energy\": -1.0" : "\"hot_energy\": 0.7");
        assert_int_equal(report(path, false, false, &out, &err), 0);
        expect(&out, fewer ? "25.0%      -  " : "25.0%  0.500  ");
        buf_free(&section);
        buf_free(&out);
    }
    arch_free(&a);
    free(path);
}

/* What no layer has was not measured, which is no share of -100 %. */
static void test_not_measured(void **state) {
    (void)state;
    char *path = mem_printf("%s/a.corm", test_dir());
    struct calib_scores scores[LAYERS];
    struct buf section = {0}, out = {0};
    struct err err = {0};
    struct arch a;
    fill(scores);
    for (int l = 0; l < LAYERS; l++) {
        scores[l].stale[0] = scores[l].stale[1] = -1;
        scores[l].corrected[0] = scores[l].corrected[1] = -1;
        scores[l].learned[0] = scores[l].learned[1] = -1;
        scores[l].hot_fraction = scores[l].hot_energy = -1;
    }
    archive_moe_arch(&a, LAYERS, 4, 16);
    make_section(&a, scores, 0, &section);
    write_archive(path, &a, &section);
    assert_int_equal(report(path, true, false, &out, &err), 0);
    expect(&out, "experts     how many are guessed a layer ahead was not measured\n");
    expect(&out, "hot prefix  its size was not measured; their energy was not measured");
    assert_null(strstr(out.data, "-100"));
    arch_free(&a);
    buf_free(&section);
    buf_free(&out);
    free(path);
}

static void test_without_calibration(void **state) {
    (void)state;
    char *path = mem_printf("%s/b.corm", test_dir());
    struct arch a;
    struct buf out = {0};
    archive_moe_arch(&a, LAYERS, 4, 16);
    write_archive(path, &a, NULL);
    for (int brief = 0; brief < 2; brief++) {
        struct err err = {0};
        assert_int_equal(report(path, brief, false, &out, &err), -1);
        assert_err(&err, "--calibrate");
    }
    buf_free(&out);
    arch_free(&a);
    free(path);
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_brief),
        cmocka_unit_test(test_not_measured),
        cmocka_unit_test(test_without_calibration),
    };
    return cmocka_run_group_tests_name("report", tests, NULL, NULL);
}
