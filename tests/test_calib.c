/*
 * Calibration of the tiny checkpoints: deterministic, a permutation of neurons, the reordered
 * archive's logits are the original's, an interrupted run goes on to the same bytes, predictors
 * that the engine takes; and the loss levels keep their order.
 */
#include "tests/test.h"

#include <math.h>
#include <sys/stat.h>

#include "format/corm_read.h"
#include "prep/calib_state.h"
#include "prep/loss.h"
#include "prep/pack.h"
#include "prep/report.h"
#include "runtime/engine.h"

#define MODELS "tests/golden/models/"

static char *dir, *spill_path;

static int set_up(void **state) {
    (void)state;
    dir = test_mkdir();
    spill_path = mem_printf("%s/spill", dir);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    test_rmdir(dir);
    free(spill_path);
    return 0;
}

struct rig {
    struct hf_model model;
    struct buf tokenizer;
    struct corpus train, held;
    struct calib_options opt;
};

/* Chunks of 8 neurons: finer than pack writes, so that there are cold ones in so small a model. */
static void open_rig(struct rig *r, const char *name, uint32_t chunk_neurons) {
    struct err err = {0};
    struct tokenizer *tok;
    char *path = mem_printf(MODELS "%s", name);
    *r = (struct rig){.opt = {.chunk_neurons = chunk_neurons,
                              .hot_share = 0.5,
                              .rank = 8,
                              .basis = 8,
                              .gates = 4,
                              .threads = 2,
                              .spill_path = spill_path,
                              .state_key = name}};
    hf_open(&r->model, path, &err);
    pack_tokenizer(path, &r->tokenizer, &err);
    tokenizer_open(r->tokenizer.data, r->tokenizer.len, &tok, &err);
    corpus_add(&r->train, tok, "tests/golden/heldout.txt", 64, &err);
    assert_no_err(&err);
    /* Held-out text is part of the other: nothing here is about quality. */
    corpus_copy(&r->held, &r->train);
    corpus_thin(&r->held, 400);
    corpus_thin(&r->train, 2000);
    tokenizer_close(tok);
    free(path);
}

static void close_rig(struct rig *r) {
    corpus_free(&r->train);
    corpus_free(&r->held);
    buf_free(&r->tokenizer);
    hf_close(&r->model);
}

static void run(struct rig *r, struct calib_result *result) {
    struct err err = {0};
    calib_run(&r->model, &r->train, &r->held, &r->opt, NULL, NULL, result, &err);
    assert_no_err(&err);
}

static void same_result(const struct calib_result *a, const struct calib_result *b) {
    size_t experts = (size_t)a->n_layers * a->n_experts;
    assert_memory_equal(a->order, b->order, experts * a->ffn_dim * sizeof *a->order);
    assert_memory_equal(a->hot, b->hot, experts * sizeof *a->hot);
    assert_int_equal(a->predictors.n_entries, b->predictors.n_entries);
    assert_int_equal(a->predictors.body.len, b->predictors.body.len);
    assert_memory_equal(a->predictors.body.data, b->predictors.body.data, a->predictors.body.len);
    assert_memory_equal(a->predictors.entries, b->predictors.entries,
                        a->predictors.n_entries * sizeof *a->predictors.entries);
    for (uint32_t l = 0; l < a->n_layers; l++)
        assert_memory_equal(a->scores[l].learned, b->scores[l].learned,
                            sizeof a->scores[l].learned);
}

/* ---- what comes out ---- */

static void the_same_text_gives_the_same(void **state) {
    (void)state;
    struct rig r;
    struct calib_result a, b;
    open_rig(&r, "mixtral-tiny", 8);
    run(&r, &a);
    run(&r, &b);
    same_result(&a, &b);
    assert_int_equal(a.train_tok, r.train.n_tok);
    assert_int_equal(a.resumed_layers, 0);
    calib_result_free(&a);
    calib_result_free(&b);
    close_rig(&r);
}

static void check_share(float v) {
    assert_true(v >= 0 && v <= 1.0001f);
}

static void orders_are_permutations_and_scores_are_shares(void **state) {
    (void)state;
    static const char *const names[] = {"mixtral-tiny", "olmoe-tiny", "qwen2moe-tiny",
                                        "qwen3moe-tiny"};
    for (size_t m = 0; m < TEST_COUNT(names); m++) {
        struct rig r;
        struct calib_result c;
        open_rig(&r, names[m], 8);
        run(&r, &c);
        const struct arch *a = hf_arch(&r.model);
        bool *seen = mem_alloc(a->ffn_dim);
        uint32_t moe_before = 0;
        for (uint32_t l = 0; l < a->n_layers; l++) {
            const struct calib_scores *s = &c.scores[l];
            if (!a->moe[l])
                continue;
            for (uint32_t e = 0; e < a->n_experts; e++) {
                size_t at = (size_t)l * a->n_experts + e;
                memset(seen, 0, a->ffn_dim);
                for (uint32_t i = 0; i < a->ffn_dim; i++)
                    seen[c.order[at * a->ffn_dim + i]] = true;
                for (uint32_t i = 0; i < a->ffn_dim; i++)
                    assert_true(seen[i]);
                assert_in_range(c.hot[at], 8, a->ffn_dim);
                assert_int_equal(c.hot[at] % 8, 0);
            }
            assert_true(s->load_min <= 1 && s->load_max >= 1);
            check_share(s->previous_token);
            for (int i = 0; i < CALIB_CUTS; i++) {
                check_share(s->energy_static[i]);
                assert_true(s->energy_static[i] <= s->energy_oracle[i] + 1e-4f);
                assert_true(s->energy_learned[i] <= s->energy_oracle[i] + 1e-4f);
            }
            for (uint32_t ahead = 1; ahead <= PREDICT_MAX_AHEAD && ahead <= l; ahead++) {
                assert_int_equal(s->stale[ahead] >= 0, a->moe[l - ahead] != 0);
                if (!a->moe[l - ahead])
                    continue;
                check_share(s->stale[ahead]);
                check_share(s->learned[ahead]);
                assert_true(s->stale_wide[ahead] >= s->stale[ahead]);
            }
            moe_before++;
        }
        assert_true(moe_before > 0);
        free(seen);
        calib_result_free(&c);
        close_rig(&r);
    }
}

/* A neuron that the text makes busy comes before one that it does not: the energies of the order
 * found fall, measured on another calibration whose chunks are single neurons. */
static void busy_neurons_come_first(void **state) {
    (void)state;
    struct rig r;
    struct calib_result c;
    struct err err = {0};
    struct corm_predict p;
    struct buf section = {0};
    open_rig(&r, "mixtral-tiny", 1);
    run(&r, &c);
    const struct arch *a = hf_arch(&r.model);
    corm_predict_finish(&c.predictors, &section);
    corm_predict_open(&p, section.data, section.len, a, a->ffn_dim, &err);
    assert_no_err(&err);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        if (c.scores[l].chunks_stored)
            continue; /* then the prior is the learned one */
        struct weight w = corm_predict_get(&p, PREDICT_CHUNK_PRIOR, l, 0);
        for (uint32_t e = 0; e < a->n_experts; e++) {
            const float *row = (const float *)(const void *)weight_row(&w, e);
            for (uint32_t i = 1; i < a->ffn_dim; i++)
                assert_true(row[i] <= row[i - 1] + 1e-5f);
        }
    }
    buf_free(&section);
    calib_result_free(&c);
    close_rig(&r);
}

/* ---- the archive ---- */

static char *pack(struct rig *r, const char *name, struct calib_result *calib,
                  const struct buf *predictors) {
    struct err err = {0};
    struct pack_result result;
    struct pack_options opt = {.hot_fraction = 0.25,
                               .chunk_neurons = 32,
                               .compress = true,
                               .threads = 2,
                               .version = "test",
                               .calib = calib,
                               .predictors = predictors,
                               .calib_text = "test"};
    char *path = mem_printf("%s/%s.corm", dir, name);
    pack_model(&r->model, path, &opt, NULL, NULL, &result, &err);
    assert_no_err(&err);
    return path;
}

static struct corm_engine *engine_open(const char *path, float loss) {
    struct corm_engine *e = NULL;
    struct corm_error error;
    struct corm_engine_options opt = {.threads = 2, .kv_f32 = true, .loss_percent = loss};
    if (corm_engine_open(&e, path, &opt, &error) < 0)
        fail_msg("%s", error.message);
    return e;
}

static void compare_logits(const char *path_a, const char *path_b, const int32_t *ids, uint32_t n) {
    struct corm_engine *a = engine_open(path_a, 0), *b = engine_open(path_b, 0);
    struct corm_session *sa, *sb;
    const struct corm_sampling greedy = {.temperature = 0, .repeat_penalty = 1, .top_p = 1};
    const float *la, *lb;
    uint32_t vocab = corm_engine_info(a)->vocab;
    assert_int_equal(corm_session_open(&sa, a, NULL), 0);
    assert_int_equal(corm_session_open(&sb, b, NULL), 0);
    assert_int_equal(corm_session_eval(sa, ids, n, true, &la, NULL), 0);
    assert_int_equal(corm_session_eval(sb, ids, n, true, &lb, NULL), 0);
    for (size_t i = 0; i < (size_t)n * vocab; i++)
        assert_true(fabsf(la[i] - lb[i]) <= 1e-3f);
    for (int i = 0; i < 32; i++) {
        int32_t id = corm_session_sample(sa, &greedy);
        assert_int_equal(id, corm_session_sample(sb, &greedy));
        assert_int_equal(corm_session_eval(sa, &id, 1, false, NULL, NULL), 0);
        assert_int_equal(corm_session_eval(sb, &id, 1, false, NULL, NULL), 0);
    }
    corm_session_close(sa);
    corm_session_close(sb);
    corm_engine_close(a);
    corm_engine_close(b);
}

static void check_loss(const char *path, struct rig *r) {
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
    static const char *const names[] = {"mixtral-tiny", "qwen2moe-tiny", "qwen3moe-tiny"};
    for (size_t m = 0; m < TEST_COUNT(names); m++) {
        struct rig r;
        struct calib_result c;
        struct buf predictors = {0};
        open_rig(&r, names[m], 32);
        run(&r, &c);
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
        close_rig(&r);
    }
}

/* Recall at k that the archive's predictors had on held-out text, as the scores say. */
static float expected_recall(const struct calib_scores *s, const struct corm_predict *p,
                             uint32_t target, uint32_t ahead) {
    if (s[target].stored[ahead])
        return s[target].learned[ahead];
    bool mean = corm_predict_get(p, PREDICT_MEAN_OUT, target - ahead, 0).data != NULL;
    return mean && ahead > 0 ? s[target].corrected[ahead] : s[target].stale[ahead];
}

/* Two programs, one formula: calib over many rows at once, lookahead token by token. */
static void the_engine_guesses_as_well_as_was_measured(void **state) {
    (void)state;
    static const char *const names[] = {"mixtral-tiny", "olmoe-tiny", "qwen2moe-tiny",
                                        "qwen3moe-tiny"};
    for (size_t m = 0; m < TEST_COUNT(names); m++) {
        struct rig r;
        struct calib_result c;
        struct buf predictors = {0};
        struct corm_error error;
        struct corm_engine *e;
        struct corm_session *s;
        open_rig(&r, names[m], 32);
        run(&r, &c);
        corm_predict_finish(&c.predictors, &predictors);
        char *path = pack(&r, "guess", &c, &predictors);
        struct corm_mechanisms little = {.cache_share = 0.5, .ahead = PREDICT_MAX_AHEAD};
        struct corm_engine_options opt = {.threads = 2, .measure = &little};
        if (corm_engine_open(&e, path, &opt, &error) < 0)
            fail_msg("%s", error.message);
        assert_int_equal(corm_session_open(&s, e, NULL), 0);
        for (uint32_t i = 0; i < r.held.n_seqs; i++) {
            corm_session_truncate(s, 0);
            for (uint32_t t = 0; t < r.held.seqs[i].n; t++)
                assert_int_equal(corm_session_eval(s, r.held.ids + r.held.seqs[i].first + t, 1,
                                                   false, NULL, NULL),
                                 0);
        }
        const struct lookahead_counters *count = &e->lookahead.count;
        for (uint32_t ahead = 0; ahead <= PREDICT_MAX_AHEAD; ahead++) {
            float sum = 0;
            uint32_t n = 0;
            for (uint32_t l = ahead; l < c.n_layers; l++) {
                if (c.scores[l].stale[ahead] < 0 || (ahead == 0 && !c.scores[l].stored[0]))
                    continue;
                sum += expected_recall(c.scores, &e->predict.view, l, ahead);
                n++;
            }
            assert_int_equal(count->routed[ahead],
                             (uint64_t)n * r.held.n_tok * hf_arch(&r.model)->n_active);
            if (n == 0)
                continue;
            float got = (float)count->hits[ahead] / (float)count->routed[ahead];
            if (fabsf(got - sum / (float)n) > 0.01f)
                fail_msg("%s, %u ahead: recall %.4f, calibration measured %.4f", names[m], ahead,
                         (double)got, (double)(sum / (float)n));
        }
        corm_session_close(s);
        corm_engine_close(e);
        free(path);
        buf_free(&predictors);
        calib_result_free(&c);
        close_rig(&r);
    }
}

/* Hash of all logits of a prompt in one call and tokens one by one; *guessed grows by the bytes
 * that guesses brought. */
static uint64_t run_hash(const char *path, const struct corm_engine_options *opt,
                         const int32_t *ids, uint32_t n_prompt, uint32_t n, uint64_t *guessed) {
    struct corm_engine *e;
    struct corm_session *s;
    struct corm_error error;
    struct corm_stats stats;
    const float *logits;
    if (corm_engine_open(&e, path, opt, &error) < 0)
        fail_msg("%s", error.message);
    assert_int_equal(corm_session_open(&s, e, NULL), 0);
    size_t row = corm_engine_info(e)->vocab * sizeof(float);
    struct hasher *h = hasher_new();
    assert_int_equal(corm_session_eval(s, ids, n_prompt, true, &logits, NULL), 0);
    hasher_add(h, logits, n_prompt * row);
    for (uint32_t i = n_prompt; i < n; i++) {
        assert_int_equal(corm_session_eval(s, ids + i, 1, false, &logits, NULL), 0);
        hasher_add(h, logits, row);
    }
    uint64_t hash = hasher_value(h);
    corm_session_stats(s, &stats);
    assert_true(stats.useful_bytes + stats.wasted_bytes <= stats.guessed_bytes);
    assert_true(stats.guessed_bytes <= stats.read_bytes);
    assert_int_equal(stats.skipped_bytes > 0, opt->loss_percent > 0);
    *guessed += stats.guessed_bytes;
    hasher_free(h);
    corm_session_close(s);
    corm_engine_close(e);
    return hash;
}

/* An archive whose one loss level leaves out a lot. */
static char *lossy_archive(struct rig *r) {
    static const float share = 0.6f;
    struct calib_result c;
    struct buf predictors = {0};
    run(r, &c);
    c.predictors.n_levels = 1;
    c.predictors.levels[0] = 50;
    for (uint32_t l = 0; l < c.n_layers; l++)
        if (hf_arch(&r->model)->moe[l])
            corm_predict_add(&c.predictors, PREDICT_LOSS_DROP, l, 0, CODEC_F32, &share, 1, 1);
    corm_predict_finish(&c.predictors, &predictors);
    char *path = pack(r, "lossy", &c, &predictors);
    buf_free(&predictors);
    calib_result_free(&c);
    return path;
}

static void no_mechanism_changes_a_bit(void **state) {
    (void)state;
    static const double shares[] = {1, 0.5, 0.25, 0.15};
    static const struct corm_mechanisms kinds[] = {
        {.ahead = 1},        {.ahead = 3, .io_threads = 4}, {.no_guesses = true},
        {.whole_lru = true}, {.split_reads = true},         {.reading = CORM_READ_BUFFERED},
        {.in_turn = true},   {.reading = CORM_READ_MAPPED}, {.reading = CORM_READ_DIRECT},
    };
    struct rig r;
    open_rig(&r, "mixtral-tiny", 32);
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
                    want)
                    fail_msg("share %g, kind %zu, lossy %d: other logits", shares[i], k, lossy);
            }
        }
        assert_int_equal(none, 0);
        assert_true(guessed > 0);
    }
    free(path);
    close_rig(&r);
}

/* ---- interruption ---- */

/* Sets the stop flag as soon as so many rows are done. */
struct stopper {
    struct progress progress;
    uint64_t at;
    volatile sig_atomic_t stop;
};

static void on_start(struct progress *p, const char *label, uint64_t total,
                     enum progress_unit unit) {
    (void)p;
    (void)label;
    (void)total;
    (void)unit;
}

static void on_update(struct progress *p, uint64_t done) {
    struct stopper *s = (struct stopper *)p;
    if (done >= s->at)
        s->stop = 1;
}

static void on_finish(struct progress *p) {
    (void)p;
}

/* Run until `at` rows of layers are done; returns how many layers a later run takes up. */
static void interrupt(struct rig *r, uint64_t at) {
    struct stopper s = {{on_start, on_update, on_finish}, at, 0};
    struct calib_result c;
    struct err err = {0};
    assert_int_equal(
        calib_run(&r->model, &r->train, &r->held, &r->opt, &s.progress, &s.stop, &c, &err), -1);
    assert_err(&err, "interrupted");
    calib_result_free(&c);
}

static void an_interrupted_run_goes_on_to_the_same(void **state) {
    (void)state;
    static const char *const names[] = {"mixtral-tiny", "qwen3moe-tiny"};
    for (size_t m = 0; m < TEST_COUNT(names); m++) {
        struct rig r;
        struct calib_result want, got;
        open_rig(&r, names[m], 8);
        run(&r, &want);
        uint32_t n_layers = want.n_layers, rows = r.train.n_tok + r.held.n_tok;
        char *state_dir = mem_printf("%s/state", dir);
        r.opt.state_dir = state_dir;
        for (uint32_t l = 1; l < n_layers; l++) {
            /* Stopped at the first work of layer l: the layers before are saved. */
            interrupt(&r, (uint64_t)l * rows);
            run(&r, &got);
            assert_int_equal(got.resumed_layers, l);
            same_result(&want, &got);
            calib_result_free(&got);
            calib_state_remove(state_dir, n_layers);
            struct stat st;
            assert_int_equal(stat(state_dir, &st), -1); /* nothing is left of it */
        }
        calib_result_free(&want);
        free(state_dir);
        close_rig(&r);
    }
}

static void write_over(const char *state_dir, const char *name, long at) {
    char *path = mem_printf("%s/%s", state_dir, name);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    fputc('x', f);
    fputc('y', f);
    fclose(f);
    free(path);
}

static void remove_file(const char *state_dir, const char *name) {
    char *path = mem_printf("%s/%s", state_dir, name);
    assert_int_equal(unlink(path), 0);
    free(path);
}

/* A state that is damaged, incomplete or another run's is not taken up; the result is the same. */
static void a_state_that_does_not_fit_is_left_alone(void **state) {
    (void)state;
    struct rig r;
    struct calib_result want, got;
    open_rig(&r, "mixtral-tiny", 8);
    run(&r, &want);
    uint32_t rows = r.train.n_tok + r.held.n_tok;
    char *state_dir = mem_printf("%s/state", dir);
    for (int how = 0; how < 7; how++) {
        uint32_t resumed = 0;
        r.opt.state_dir = state_dir;
        r.opt.state_key = "mixtral-tiny";
        interrupt(&r, UINT64_C(2) * rows);
        switch (how) {
        case 0:
            write_over(state_dir, "rows-0001", 5000);
            break;
        case 1:
            write_over(state_dir, "layer-0000", 300);
            break;
        case 2:
            r.opt.state_key = "another checkpoint";
            break;
        case 3:
            remove_file(state_dir, "layer-0001"); /* the rows of layer 1 alone are of no use */
            break;
        case 4:
            write_over(state_dir, "size-0001", 9);
            break;
        case 5:
            remove_file(state_dir, "rows-0001");
            break;
        default: /* a file that was being written when the run was killed does no harm */
            free(test_write(state_dir, "rows-0002.tmp", "half", 4));
            resumed = 2;
            break;
        }
        run(&r, &got);
        assert_int_equal(got.resumed_layers, resumed);
        same_result(&want, &got);
        calib_result_free(&got);
        calib_state_remove(state_dir, want.n_layers);
    }
    free(state_dir);
    calib_result_free(&want);
    close_rig(&r);
}

static void a_state_that_cannot_be_written_is_an_error(void **state) {
    (void)state;
    struct rig r;
    struct calib_result c;
    struct err err = {0};
    open_rig(&r, "mixtral-tiny", 8);
    char *file = test_write(dir, "file", "x", 1), *inside = mem_printf("%s/state", file);
    r.opt.state_dir = inside;
    assert_int_equal(calib_run(&r.model, &r.train, &r.held, &r.opt, NULL, NULL, &c, &err), -1);
    assert_err(&err, "file/state", "Not a directory");
    calib_result_free(&c);
    free(file);
    free(inside);
    close_rig(&r);
}

static void without_text_there_is_nothing_to_do(void **state) {
    (void)state;
    struct rig r;
    struct calib_result c;
    struct err err = {0};
    struct corpus none = {0};
    open_rig(&r, "mixtral-tiny", 8);
    assert_int_equal(calib_run(&r.model, &none, &none, &r.opt, NULL, NULL, &c, &err), -1);
    assert_err(&err, "calibration text");
    calib_result_free(&c);
    /* Without held-out text nothing learned can be worth its place: only what is free is stored. */
    err = (struct err){0};
    calib_run(&r.model, &r.train, &none, &r.opt, NULL, NULL, &c, &err);
    assert_no_err(&err);
    for (uint32_t i = 0; i < c.predictors.n_entries; i++)
        assert_int_equal(c.predictors.entries[i].kind, PREDICT_CHUNK_PRIOR);
    calib_result_free(&c);
    close_rig(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_text_gives_the_same),
        cmocka_unit_test(orders_are_permutations_and_scores_are_shares),
        cmocka_unit_test(busy_neurons_come_first),
        cmocka_unit_test(the_reordered_archive_is_the_same_model),
        cmocka_unit_test(the_engine_guesses_as_well_as_was_measured),
        cmocka_unit_test(no_mechanism_changes_a_bit),
        cmocka_unit_test(an_interrupted_run_goes_on_to_the_same),
        cmocka_unit_test(a_state_that_does_not_fit_is_left_alone),
        cmocka_unit_test(a_state_that_cannot_be_written_is_an_error),
        cmocka_unit_test(without_text_there_is_nothing_to_do),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
