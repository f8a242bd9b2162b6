/*
 * Calibrated archives of the tiny checkpoints in the engine: the reordered archive's logits are the
 * original's, predictors guess there as well as was measured, no mechanism changes a bit; the loss
 * levels keep their order and the report is complete.
 */
#include "tests/util/test.h"

#include <math.h>

#include "format/corm_read.h"
#include "prep/calib/loss.h"
#include "prep/report.h"
#include "runtime/engine.h"
#include "tests/util/test_util_calib.h"
#include "tests/util/test_util_golden.h"
#include "tests/util/test_util_model.h"

static char *pack(struct calib_rig *r, const char *name, struct calib_result *calib,
                  const struct buf *predictors) {
    struct pack_options how = model_packing();
    how.threads = 2;
    how.calib = calib;
    how.predictors = predictors;
    how.calib_text = "test";
    return model_pack(&r->model, test_dir(), name, &how);
}

static struct corm_engine *engine_open(const char *path, float loss) {
    return model_open(path, &(struct corm_engine_options){
                                .threads = 2, .kv_type = CORM_KV_F32, .loss_percent = loss});
}

static void compare_logits(const char *path_a, const char *path_b, const int32_t *ids, uint32_t n) {
    struct corm_engine *a = engine_open(path_a, 0), *b = engine_open(path_b, 0);
    struct corm_session *sa = model_session(a), *sb = model_session(b);
    const struct corm_sampling greedy = {.temperature = 0, .repeat_penalty = 1, .top_p = 1};
    uint32_t vocab = corm_engine_info(a)->vocab;
    const float *la = model_eval(sa, ids, n, true), *lb = model_eval(sb, ids, n, true);
    for (size_t i = 0; i < (size_t)n * vocab; i++) {
        assert_true(fabsf(la[i] - lb[i]) <= 1e-3f);
    }
    for (int i = 0; i < 32; i++) {
        int32_t id = corm_session_sample(sa, &greedy);
        assert_int_equal(id, corm_session_sample(sb, &greedy));
        model_eval(sa, &id, 1, false);
        model_eval(sb, &id, 1, false);
    }
    corm_session_close(sa);
    corm_session_close(sb);
    corm_engine_close(a);
    corm_engine_close(b);
}

static void check_loss(const char *path, struct calib_rig *r) {
    struct err err = {0};
    struct loss_point points[LOSS_LEVELS];
    loss_fit(path, &r->held, 2, NULL, NULL, points, &err);
    assert_no_err(&err);
    for (int i = 0; i < LOSS_LEVELS; i++) {
        assert_true(points[i].percent == loss_levels[i]);
        assert_true(points[i].perplexity <= (double)loss_levels[i]);
        assert_true(points[i].divergence <= (double)loss_levels[i] / 100);
        assert_true(points[i].skipped >= 0 && points[i].skipped < 1);
        corm_engine_close(engine_open(path, loss_levels[i]));
    }
    struct corm_engine *e = NULL;
    struct corm_error error;
    struct corm_engine_options odd = {.loss_percent = 3};
    assert_int_equal(corm_engine_open(&e, path, &odd, &error), -1);
    assert_non_null(strstr(error.message, "it has 0.5, 1, 2"));
}

static void check_report(const char *path) {
    struct corm c;
    struct err err = {0};
    struct buf text = {0}, json = {0};
    corm_open(&c, path, 0, &err);
    assert_no_err(&err);
    assert_int_equal(report_print(&c, false, &text, &err), 0);
    assert_int_equal(report_print(&c, true, &json, &err), 0);
    assert_non_null(strstr(text.data, "stale gate"));
    assert_non_null(strstr(text.data, "oracle"));
    assert_non_null(strstr(json.data, "\"energy_oracle\""));
    corm_verify(&c, NULL, NULL, &err);
    assert_no_err(&err);
    buf_free(&text);
    buf_free(&json);
    corm_close(&c);
}

static void the_reordered_archive_is_the_same_model(void **state) {
    (void)state;
    static const char *const names[] = {GOLDEN_KINDS, "granitemoe-tiny", "cohere2moe-tiny",
                                        "smallthinker-tiny", "step3p7-tiny"};
    for (size_t m = 0; m < TEST_COUNT(names); m++) {
        struct calib_rig r;
        struct calib_result c;
        struct buf predictors = {0};
        calib_rig_open(&r, test_dir(), names[m], 32);
        calib_rig_run(&r, &c);
        report_add_scores(&c.predictors, &c);
        loss_reserve(&c.predictors, hf_arch(&r.model));
        corm_predict_finish(&c.predictors, &predictors);
        char *plain = pack(&r, "plain", NULL, NULL),
             *ordered = pack(&r, "ordered", &c, &predictors);
        compare_logits(plain, ordered, r.held.ids, r.held.n_tok < 120 ? r.held.n_tok : 120);
        check_report(ordered);
        check_loss(ordered, &r);
        free(plain);
        free(ordered);
        buf_free(&predictors);
        calib_result_free(&c);
        calib_rig_close(&r);
    }
}

/* Recall at k that the archive's predictors had on held-out text, as the scores say. */
static float expected_recall(const struct calib_scores *s, const struct corm_predict *p,
                             uint32_t target, uint32_t ahead) {
    if (s[target].stored[ahead]) {
        return s[target].learned[ahead];
    }
    bool mean = corm_predict_get(p, PREDICT_MEAN_OUT, target - ahead, 0).data != NULL;
    return mean && ahead > 0 ? s[target].corrected[ahead] : s[target].stale[ahead];
}

/* With somebody who watches, the engine guesses in each token; else not where a fast disk has made
 * it unnecessary, and how often that is depends on the machine. */
static void watch(void *ctx, uint32_t layer, uint32_t ahead, uint32_t n, const int32_t *ids,
                  const float *prob) {
    (void)layer, (void)ahead, (void)n, (void)ids, (void)prob;
    ++*(uint64_t *)ctx;
}

/* Two programs, one formula: calib over many rows at once, lookahead token by token. */
static void the_engine_guesses_as_well_as_was_measured(void **state) {
    (void)state;
    static const char *const names[] = {GOLDEN_KINDS};
    uint64_t guesses = 0;
    for (size_t m = 0; m < TEST_COUNT(names); m++) {
        struct calib_rig r;
        struct calib_result c;
        struct buf predictors = {0};
        calib_rig_open(&r, test_dir(), names[m], 32);
        calib_rig_run(&r, &c);
        corm_predict_finish(&c.predictors, &predictors);
        char *path = pack(&r, "guess", &c, &predictors);
        struct corm_mechanisms little = {.cache_share = 0.5,
                                         .ahead = PREDICT_MAX_AHEAD,
                                         .on_guess = watch,
                                         .on_guess_ctx = &guesses};
        struct corm_engine_options opt = {.threads = 2, .measure = &little};
        struct corm_engine *e = model_open(path, &opt);
        struct corm_session *s = model_session(e);
        for (uint32_t i = 0; i < r.held.n_seqs; i++) {
            corm_session_truncate(s, 0);
            for (uint32_t t = 0; t < r.held.seqs[i].n; t++) {
                model_eval(s, r.held.ids + r.held.seqs[i].first + t, 1, false);
            }
        }
        const struct lookahead_counters *count = &e->lookahead.count;
        for (uint32_t ahead = 0; ahead <= PREDICT_MAX_AHEAD; ahead++) {
            float sum = 0;
            uint32_t n = 0;
            for (uint32_t l = ahead; l < c.n_layers; l++) {
                if (c.scores[l].stale[ahead] < 0) {
                    continue;
                }
                sum += expected_recall(c.scores, &e->predict.view, l, ahead);
                n++;
            }
            assert_int_equal(count->routed[ahead],
                             (uint64_t)n * r.held.n_tok * hf_arch(&r.model)->n_active);
            if (n == 0) {
                continue;
            }
            float got = (float)count->hits[ahead] / (float)count->routed[ahead];
            if (fabsf(got - sum / (float)n) > 0.01f) {
                fail_msg("%s, %u ahead: recall %.4f, calibration measured %.4f", names[m], ahead,
                         (double)got, (double)(sum / (float)n));
            }
        }
        corm_session_close(s);
        corm_engine_close(e);
        free(path);
        buf_free(&predictors);
        calib_result_free(&c);
        calib_rig_close(&r);
    }
    assert_true(guesses > 0);
}

/* Hash of all logits of a prompt in one call and tokens one by one; *guessed grows by the bytes
 * that guesses brought. */
static uint64_t run_hash(const char *path, const struct corm_engine_options *opt,
                         const int32_t *ids, uint32_t n_prompt, uint32_t n, uint64_t *guessed) {
    struct corm_engine *e = model_open(path, opt);
    struct corm_session *s = model_session(e);
    struct corm_stats stats;
    uint64_t hash = model_hash(e, s, ids, n_prompt, n);
    corm_session_stats(s, &stats);
    assert_true(stats.useful_bytes + stats.wasted_bytes <= stats.guessed_bytes);
    assert_true(stats.guessed_bytes <= stats.read_bytes);
    /* What leads an expert is never left out: the first chunk, where there is but one. */
    assert_int_equal(stats.skipped_bytes > 0,
                     opt->loss_percent > 0 && corm_chunks_per_expert(&e->archive) > 1);
    *guessed += stats.guessed_bytes;
    corm_session_close(s);
    corm_engine_close(e);
    return hash;
}

/* An archive whose one loss level leaves out a lot. */
static char *lossy_archive(struct calib_rig *r) {
    static const float share = 0.6f;
    struct calib_result c;
    struct buf predictors = {0};
    calib_rig_run(r, &c);
    c.predictors.n_levels = 1;
    c.predictors.levels[0] = 50;
    for (uint32_t l = 0; l < c.n_layers; l++) {
        if (arch_is_moe(hf_arch(&r->model), l)) {
            corm_predict_add(&c.predictors, PREDICT_LOSS_DROP, l, 0, CODEC_F32, &share, 1, 1);
        }
    }
    corm_predict_finish(&c.predictors, &predictors);
    char *path = pack(r, "lossy", &c, &predictors);
    buf_free(&predictors);
    calib_result_free(&c);
    return path;
}

static void check_mechanisms(const char *name, uint32_t chunk_neurons) {
    static const double shares[] = {1, 0.5, 0.25, 0.15};
    static const struct corm_mechanisms kinds[] = {
        {.ahead = 1},        {.ahead = 3, .io_threads = 4}, {.no_guesses = true},
        {.whole_lru = true}, {.split_reads = true},         {.reading = CORM_READ_BUFFERED},
        {.in_turn = true},   {.reading = CORM_READ_MAPPED}, {.reading = CORM_READ_DIRECT},
    };
    struct calib_rig r;
    calib_rig_open(&r, test_dir(), name, chunk_neurons);
    char *path = lossy_archive(&r);
    for (int lossy = 0; lossy < 2; lossy++) {
        struct corm_engine_options opt = {.threads = 1, .loss_percent = lossy ? 50 : 0};
        uint64_t none = 0, guessed = 0;
        uint64_t want = run_hash(path, &opt, r.held.ids, 20, 60, &none);
        assert_int_equal(none, 0); /* all in memory: nothing to guess */
        for (size_t i = 0; i < TEST_COUNT(shares); i++) {
            for (size_t k = 0; k < TEST_COUNT(kinds); k++) {
                struct corm_mechanisms m = kinds[k];
                m.cache_share = shares[i];
                opt.threads = 1 + (uint32_t)k % 2;
                opt.measure = &m;
                if (run_hash(path, &opt, r.held.ids, 20, 60, m.no_guesses ? &none : &guessed) !=
                    want) {
                    fail_msg("share %g, kind %zu, lossy %d: other logits", shares[i], k, lossy);
                }
            }
        }
        assert_int_equal(none, 0);
        assert_true(guessed > 0);
    }
    free(path);
    calib_rig_close(&r);
}

/* Guesses of several sequences are joined, and each row leaves out its own chunks: no bit of a
 * sequence depends on the others in its batch. */
static void check_batch(const char *name, uint32_t chunk_neurons) {
    static const double shares[] = {1, 0.5, 0.15};
    struct calib_rig r;
    calib_rig_open(&r, test_dir(), name, chunk_neurons);
    char *path = lossy_archive(&r);
    for (int lossy = 0; lossy < 2; lossy++) {
        uint64_t alone[MODEL_SEQUENCES], together[MODEL_SEQUENCES];
        struct corm_engine_options opt = {
            .threads = 2, .loss_percent = lossy ? 50 : 0, .max_sessions = MODEL_SEQUENCES};
        model_sequences_alone(path, &opt, r.held.ids, r.held.n_tok, alone);
        for (size_t i = 0; i < TEST_COUNT(shares); i++) {
            for (uint32_t ahead = 1; ahead <= 3; ahead++) {
                const struct corm_mechanisms m = {.ahead = ahead, .cache_share = shares[i]};
                opt.measure = &m;
                model_sequences_together(path, &opt, r.held.ids, r.held.n_tok, together);
                assert_memory_equal(together, alone, sizeof alone);
            }
        }
    }
    free(path);
    calib_rig_close(&r);
}

/* One of each way to route, to mix and to compute an expert. The experts of the first two have two
 * chunks, so that something can be left out. */
static const char *const LOSSY[] = {"mixtral-tiny",    "gptoss-tiny",     "gemma4-tiny",
                                    "qwen3next-tiny",  "glm4moe-tiny",    "ernie45-tiny",
                                    "llama4-tiny",     "cohere2moe-tiny", "phimoe-tiny",
                                    "deepseekv3-tiny", "mistral4-tiny",   "axk1-tiny"};

static void no_mechanism_changes_a_bit(void **state) {
    (void)state;
    for (size_t i = 0; i < (QUICK ? 2 : TEST_COUNT(LOSSY)); i++) {
        check_mechanisms(LOSSY[i], 32);
    }
}

static void a_batch_changes_no_bit_with_guesses_and_loss(void **state) {
    (void)state;
    for (size_t i = 0; i < (QUICK ? 2 : TEST_COUNT(LOSSY)); i++) {
        check_batch(LOSSY[i], 32);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reordered_archive_is_the_same_model),
        cmocka_unit_test(the_engine_guesses_as_well_as_was_measured),
        cmocka_unit_test(no_mechanism_changes_a_bit),
        cmocka_unit_test(a_batch_changes_no_bit_with_guesses_and_loss),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
