/*
 * Calibration of the tiny checkpoints: deterministic, a permutation of neurons, scores that are
 * shares, and an interrupted run goes on to the same bytes. What its archives do is
 * test_calib_engine.
 */
#include "tests/util/test.h"

#include <math.h>
#include <sys/stat.h>

#include "prep/calib/calib_state.h"
#include "tests/util/test_util_calib.h"
#include "tests/util/test_util_golden.h"

static void same_result(const struct calib_result *a, const struct calib_result *b) {
    size_t experts = (size_t)a->n_layers * a->n_experts;
    assert_memory_equal(a->order, b->order, experts * a->ffn_dim * sizeof *a->order);
    assert_memory_equal(a->hot, b->hot, experts * sizeof *a->hot);
    assert_int_equal(a->predictors.n_entries, b->predictors.n_entries);
    assert_int_equal(a->predictors.body.len, b->predictors.body.len);
    assert_memory_equal(a->predictors.body.data, b->predictors.body.data, a->predictors.body.len);
    assert_memory_equal(a->predictors.entries, b->predictors.entries,
                        a->predictors.n_entries * sizeof *a->predictors.entries);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        assert_memory_equal(a->scores[l].learned, b->scores[l].learned,
                            sizeof a->scores[l].learned);
    }
}

/* ---- what comes out ---- */

static void the_same_text_gives_the_same(void **state) {
    (void)state;
    struct calib_rig r;
    struct calib_result a, b;
    calib_rig_open(&r, test_dir(), "mixtral-tiny", 8);
    calib_rig_run(&r, &a);
    calib_rig_run(&r, &b);
    same_result(&a, &b);
    assert_int_equal(a.train_tok, r.train.n_tok);
    assert_int_equal(a.resumed_layers, 0);
    calib_result_free(&a);
    calib_result_free(&b);
    calib_rig_close(&r);
}

static void check_share(float v) {
    assert_true(v >= 0 && v <= 1.0001f);
}

static void orders_are_permutations_and_scores_are_shares(void **state) {
    (void)state;
    static const char *const names[] = {GOLDEN_KINDS, "granitemoe-tiny", "cohere2moe-tiny",
                                        "smallthinker-tiny", "step3p7-tiny"};
    for (size_t m = 0; m < TEST_COUNT(names); m++) {
        struct calib_rig r;
        struct calib_result c;
        calib_rig_open(&r, test_dir(), names[m], 8);
        calib_rig_run(&r, &c);
        const struct arch *a = hf_arch(&r.model);
        bool *seen = mem_alloc(a->ffn_dim);
        uint32_t moe_before = 0;
        for (uint32_t l = 0; l < a->n_layers; l++) {
            const struct calib_scores *s = &c.scores[l];
            if (!arch_is_moe(a, l)) {
                continue;
            }
            for (uint32_t e = 0; e < a->n_experts; e++) {
                size_t at = (size_t)l * a->n_experts + e;
                memset(seen, 0, a->ffn_dim);
                for (uint32_t i = 0; i < a->ffn_dim; i++) {
                    seen[c.order[at * a->ffn_dim + i]] = true;
                }
                for (uint32_t i = 0; i < a->ffn_dim; i++) {
                    assert_true(seen[i]);
                }
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
                assert_int_equal(s->stale[ahead] >= 0, arch_is_moe(a, l - ahead) != 0);
                if (!arch_is_moe(a, l - ahead)) {
                    continue;
                }
                check_share(s->stale[ahead]);
                check_share(s->learned[ahead]);
                assert_true(s->stale_wide[ahead] >= s->stale[ahead]);
            }
            moe_before++;
        }
        assert_true(moe_before > 0);
        free(seen);
        calib_result_free(&c);
        calib_rig_close(&r);
    }
}

/* A neuron that the text makes busy comes before one that it does not: the energies of the order
 * found fall, measured on another calibration whose chunks are single neurons. */
static void busy_neurons_come_first(void **state) {
    (void)state;
    struct calib_rig r;
    struct calib_result c;
    struct err err = {0};
    struct corm_predict p;
    struct buf section = {0};
    calib_rig_open(&r, test_dir(), "mixtral-tiny", 1);
    calib_rig_run(&r, &c);
    const struct arch *a = hf_arch(&r.model);
    corm_predict_finish(&c.predictors, &section);
    corm_predict_open(&p, section.data, section.len, a, a->ffn_dim, &err);
    assert_no_err(&err);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        if (c.scores[l].chunks_stored) {
            continue; /* then the prior is the learned one */
        }
        struct weight w = corm_predict_get(&p, PREDICT_CHUNK_PRIOR, l, 0);
        for (uint32_t e = 0; e < a->n_experts; e++) {
            const float *row = (const float *)(const void *)weight_row(&w, e);
            for (uint32_t i = 1; i < a->ffn_dim; i++) {
                assert_true(row[i] <= row[i - 1] + 1e-5f);
            }
        }
    }
    buf_free(&section);
    calib_result_free(&c);
    calib_rig_close(&r);
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
    if (done >= s->at) {
        s->stop = 1;
    }
}

static void on_finish(struct progress *p) {
    (void)p;
}

/* Run until `at` rows of layers are done; returns how many layers a later run takes up. */
static void interrupt(struct calib_rig *r, uint64_t at) {
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
        struct calib_rig r;
        struct calib_result want, got;
        calib_rig_open(&r, test_dir(), names[m], 8);
        calib_rig_run(&r, &want);
        uint32_t n_layers = want.n_layers, rows = r.train.n_tok + r.held.n_tok;
        char *state_dir = mem_printf("%s/state", test_dir());
        r.opt.state_dir = state_dir;
        for (uint32_t l = 1; l < n_layers; l++) {
            /* Stopped at the first work of layer l: the layers before are saved. */
            interrupt(&r, (uint64_t)l * rows);
            calib_rig_run(&r, &got);
            assert_int_equal(got.resumed_layers, l);
            same_result(&want, &got);
            calib_result_free(&got);
            calib_state_remove(state_dir, n_layers);
            struct stat st;
            assert_int_equal(stat(state_dir, &st), -1); /* nothing is left of it */
        }
        calib_result_free(&want);
        free(state_dir);
        calib_rig_close(&r);
    }
}

/* Where layers share keys nothing is saved, and the next run begins again. */
static void shared_keys_begin_again(void **state) {
    (void)state;
    struct calib_rig r;
    struct calib_result want, got;
    struct stat st;
    calib_rig_open(&r, test_dir(), "gemma4-shared", 8);
    calib_rig_run(&r, &want);
    char *state_dir = mem_printf("%s/state", test_dir());
    r.opt.state_dir = state_dir;
    interrupt(&r, UINT64_C(2) * (r.train.n_tok + r.held.n_tok));
    assert_int_equal(stat(state_dir, &st), -1);
    calib_rig_run(&r, &got);
    assert_int_equal(got.resumed_layers, 0);
    same_result(&want, &got);
    assert_int_equal(stat(state_dir, &st), -1);
    calib_result_free(&want);
    calib_result_free(&got);
    free(state_dir);
    calib_rig_close(&r);
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
    struct calib_rig r;
    struct calib_result want, got;
    calib_rig_open(&r, test_dir(), "mixtral-tiny", 8);
    calib_rig_run(&r, &want);
    uint32_t rows = r.train.n_tok + r.held.n_tok;
    char *state_dir = mem_printf("%s/state", test_dir());
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
        calib_rig_run(&r, &got);
        assert_int_equal(got.resumed_layers, resumed);
        same_result(&want, &got);
        calib_result_free(&got);
        calib_state_remove(state_dir, want.n_layers);
    }
    free(state_dir);
    calib_result_free(&want);
    calib_rig_close(&r);
}

/* ---- a state that somebody made ---- */

/* Put bytes into a file of the state at `at`, and make its checksum right again. */
static void tamper(const char *state_dir, const char *name, long at, const void *bytes, size_t n) {
    struct err err = {0};
    uint8_t *data;
    size_t size;
    char *path = mem_printf("%s/%s", state_dir, name);
    file_read(path, 1 << 30, &data, &size, &err);
    assert_no_err(&err);
    memcpy(data + at, bytes, n);
    uint64_t sum = hash64(data, size - sizeof sum);
    memcpy(data + size - sizeof sum, &sum, sizeof sum);
    free(test_write(state_dir, name, data, size));
    free(data);
    free(path);
}

/* Every checksum is right, and one number is what no run writes: it is refused, and the result is
 * the same, because the layer is computed again. */
static void a_state_with_wrong_numbers_is_refused(void **state) {
    (void)state;
    struct calib_rig r;
    struct calib_result want, got;
    calib_rig_open(&r, test_dir(), "mixtral-tiny", 8);
    corpus_thin(&r.train, 192); /* little, for there are many runs */
    corpus_thin(&r.held, 64);
    calib_rig_run(&r, &want);
    const struct arch *a = hf_arch(&r.model);
    const uint32_t rows = r.train.n_tok + r.held.n_tok, ffn = a->ffn_dim;
    const long scores = 8, order = scores + (long)sizeof(struct calib_scores);
    const long hot = order + 4L * (long)(a->n_experts * ffn), entries = hot + 4L * a->n_experts;
    const long past = 8 + 4L * (long)(rows * a->dim); /* its first flag, in rows-0001 */
    static const uint64_t huge = UINT64_C(1) << 60;
    static const float nan_value = NAN;
    const uint32_t beyond = ffn, most = UINT32_MAX, odd = 3, scores_kind = PREDICT_SCORES;
    const uint8_t no_flag = 7;
    const struct {
        const char *name;
        long at;
        const void *bytes;
        size_t n;
        const char *said;
    } cases[] = {
        {"layer-0000", order, &beyond, 4, "at place 0"},
        {"layer-0001", order, &most, 4, "at place 0"},
        {"layer-0000", order, &want.order[1], 4, "each of"},
        {"layer-0000", hot, &most, 4, "hot neurons"},
        {"layer-0000", hot, &odd, 4, "hot neurons"},
        {"layer-0000", scores, &nan_value, 4, "scores"},
        {"layer-0000", scores + (long)offsetof(struct calib_scores, chunks_stored), &no_flag, 1,
         "scores"},
        {"layer-0001", entries, &scores_kind, 4, "predictors"},
        {"layer-0001", entries + 4, &most, 4, "predictors"},
        {"layer-0001", entries + 16, &most, 4, "predictors"},
        {"layer-0001", entries + 24, &huge, 8, "predictors"},
        {"size-0000", 8, &huge, 8, "sizes"},
        {"size-0000", 16, &huge, 8, "sizes"},
        {"rows-0001", 8, &nan_value, 4, "rows"},
        {"rows-0001", past, &no_flag, 1, "rows"},
        {"rows-0001", past + 2, "", 1, "rows"},
    };
    char *state_dir = mem_printf("%s/state", test_dir());
    r.opt.state_dir = state_dir;
    for (size_t i = 0; i < TEST_COUNT(cases); i++) {
        interrupt(&r, UINT64_C(2) * rows);
        tamper(state_dir, cases[i].name, cases[i].at, cases[i].bytes, cases[i].n);
        calib_rig_run(&r, &got);
        assert_int_equal(got.resumed_layers, 0);
        assert_err(&got.refused, cases[i].name, cases[i].said);
        same_result(&want, &got);
        calib_result_free(&got);
        calib_state_remove(state_dir, want.n_layers);
    }
    free(state_dir);
    calib_result_free(&want);
    calib_rig_close(&r);
}

/* What is written goes to files of its own, not through a link that lies in their place. */
static void links_in_the_state_are_not_followed(void **state) {
    (void)state;
    struct calib_rig r;
    struct calib_result c;
    calib_rig_open(&r, test_dir(), "mixtral-tiny", 8);
    corpus_thin(&r.train, 192);
    corpus_thin(&r.held, 64);
    char *precious = test_write(test_dir(), "precious", "mine", 4), *state_dir = test_mkdir();
    static const char *const names[] = {"size-0000.tmp", "layer-0000.tmp", "rows-0000.tmp"};
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        char *link = mem_printf("%s/%s", state_dir, names[i]);
        assert_int_equal(symlink(precious, link), 0);
        free(link);
    }
    assert_int_equal(symlink(precious, r.spill_path), 0);
    r.opt.state_dir = state_dir;
    calib_rig_run(&r, &c);
    /* The names were used: a link that is left would lead to the file. */
    for (size_t i = 0; i < TEST_COUNT(names); i++) {
        char *link = mem_printf("%s/%s", state_dir, names[i]);
        assert_int_equal(access(link, F_OK), -1);
        free(link);
    }
    assert_int_equal(access(r.spill_path, F_OK), -1);
    struct err err = {0};
    uint8_t *data;
    size_t n;
    file_read(precious, 100, &data, &n, &err);
    assert_no_err(&err);
    assert_int_equal(n, 4);
    assert_memory_equal(data, "mine", 4);
    free(data);
    free(precious);
    test_rmdir(state_dir);
    calib_result_free(&c);
    calib_rig_close(&r);
}

static void a_state_that_cannot_be_written_is_an_error(void **state) {
    (void)state;
    struct calib_rig r;
    struct calib_result c;
    struct err err = {0};
    calib_rig_open(&r, test_dir(), "mixtral-tiny", 8);
    char *file = test_write(test_dir(), "file", "x", 1), *inside = mem_printf("%s/state", file);
    r.opt.state_dir = inside;
    assert_int_equal(calib_run(&r.model, &r.train, &r.held, &r.opt, NULL, NULL, &c, &err), -1);
    assert_err(&err, "file/state", "Not a directory");
    calib_result_free(&c);
    free(file);
    free(inside);
    calib_rig_close(&r);
}

static void without_text_there_is_nothing_to_do(void **state) {
    (void)state;
    struct calib_rig r;
    struct calib_result c;
    struct err err = {0};
    struct corpus none = {0};
    calib_rig_open(&r, test_dir(), "mixtral-tiny", 8);
    assert_int_equal(calib_run(&r.model, &none, &none, &r.opt, NULL, NULL, &c, &err), -1);
    assert_err(&err, "calibration text");
    calib_result_free(&c);
    /* Without held-out text nothing learned can be worth its place: only what is free is stored. */
    err = (struct err){0};
    calib_run(&r.model, &r.train, &none, &r.opt, NULL, NULL, &c, &err);
    assert_no_err(&err);
    for (uint32_t i = 0; i < c.predictors.n_entries; i++) {
        assert_int_equal(c.predictors.entries[i].kind, PREDICT_CHUNK_PRIOR);
    }
    calib_result_free(&c);
    calib_rig_close(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_same_text_gives_the_same),
        cmocka_unit_test(orders_are_permutations_and_scores_are_shares),
        cmocka_unit_test(busy_neurons_come_first),
        cmocka_unit_test(an_interrupted_run_goes_on_to_the_same),
        cmocka_unit_test(shared_keys_begin_again),
        cmocka_unit_test(a_state_that_does_not_fit_is_left_alone),
        cmocka_unit_test(a_state_with_wrong_numbers_is_refused),
        cmocka_unit_test(links_in_the_state_are_not_followed),
        cmocka_unit_test(a_state_that_cannot_be_written_is_an_error),
        cmocka_unit_test(without_text_there_is_nothing_to_do),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
