/*
 * Rounding as a stage of calibration: experts of every kind of model come out near what they were,
 * in the archive's order; the same bytes for any number of threads and after an interruption; files
 * that are damaged, or hold no numbers, are made again.
 */
#include "tests/util/test.h"

#include <math.h>
#include <sys/stat.h>

#include "prep/calib/calib_state.h"
#include "tests/util/test_util_calib.h"
#include "tests/util/test_util_golden.h"

static char *open_rig(struct calib_rig *r, const char *name) {
    char *state_dir = mem_printf("%s/state", test_dir());
    calib_rig_open(r, test_dir(), name, 8);
    corpus_thin(&r->train, 600); /* little, for there are many runs */
    corpus_thin(&r->held, 100);
    r->opt.state_dir = state_dir;
    r->opt.round_codec = codec_by_id(CODEC_Q4);
    return state_dir;
}

static void close_rig(struct calib_rig *r, char *state_dir) {
    calib_state_remove(state_dir, hf_arch(&r->model)->n_layers);
    free(state_dir);
    calib_rig_close(r);
}

/* All rounded experts of a result, one after the other. */
static uint8_t *all_experts(const struct calib_rig *r, const struct calib_result *c,
                            size_t *bytes) {
    const struct arch *a = hf_arch(&r->model);
    size_t expert = rounded_expert_bytes(&c->rounded);
    uint8_t *all = mem_calloc((size_t)a->n_layers * a->n_experts, expert), *at = all;
    struct err err = {0};
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(a, l) && e < a->n_experts; e++, at += expert) {
            rounded_read(&c->rounded, l, e, at, &err);
            assert_no_err(&err);
        }
    }
    *bytes = (size_t)(at - all);
    return all;
}

/* ---- what comes out ---- */

/* The rows of one part of an expert against the checkpoint's: no weight is far from its own, which
 * in another row it would be. */
static void check_part(const struct arch *a, const struct codec *codec, const uint32_t *order,
                       const float *was, const uint8_t *neurons, uint32_t part) {
    const size_t row = codec_row_bytes(codec, a->dim);
    float *is = mem_alloc(a->dim * sizeof *is);
    for (uint32_t i = 0; i < a->ffn_dim; i++) {
        const float *w = was + (size_t)order[i] * a->dim;
        double squares = 0, missed = 0;
        codec->decode_row(neurons + (3 * (size_t)i + part) * row, a->dim, is);
        for (uint32_t k = 0; k < a->dim; k++) {
            squares += (double)w[k] * (double)w[k];
            missed += (double)(w[k] - is[k]) * (double)(w[k] - is[k]);
        }
        assert_true(missed <= 0.1 * squares);
    }
    free(is);
}

static void experts_are_near_what_they_were(void **state) {
    (void)state;
    static const char *const names[] = {GOLDEN_KINDS, "mixtral-tiny", "qwen3moe-tiny"};
    uint32_t tried = 0;
    for (size_t m = 0; m < TEST_COUNT(names); m++) {
        struct calib_rig r;
        struct calib_result c;
        struct err err = {0};
        char *state_dir = open_rig(&r, names[m]);
        const struct arch *a = hf_arch(&r.model);
        const size_t part = (size_t)a->ffn_dim * a->dim;
        if (!codec_fits(r.opt.round_codec, a->dim)) {
            close_rig(&r, state_dir);
            continue;
        }
        calib_rig_run(&r, &c);
        uint8_t *neurons = mem_alloc(rounded_expert_bytes(&c.rounded));
        float *was = mem_alloc(3 * part * sizeof *was);
        for (uint32_t l = 0; l < a->n_layers; l++) {
            for (uint32_t e = 0; arch_is_moe(a, l) && e < a->n_experts; e++) {
                const uint32_t *order = c.order + ((size_t)l * a->n_experts + e) * a->ffn_dim;
                rounded_read(&c.rounded, l, e, neurons, &err);
                hf_expert(&r.model, l, e, was, was + part, was + 2 * part, &err);
                assert_no_err(&err);
                for (uint32_t k = 0; k < 3; k++) {
                    check_part(a, c.rounded.codec, order, was + k * part, neurons, k);
                }
            }
            for (uint32_t k = 0; k < 3 && arch_is_moe(a, l); k++) {
                assert_true(c.scores[l].rounding[k] > 0 && c.scores[l].rounding[k] <= 1);
            }
            assert_true(!arch_is_moe(a, l) || c.scores[l].rounding[0] < 0.95f);
        }
        tried++;
        free(neurons);
        free(was);
        calib_result_free(&c);
        close_rig(&r, state_dir);
    }
    assert_true(tried >= 5);
}

/* ---- the same bytes ---- */

static void threads_change_nothing(void **state) {
    (void)state;
    uint8_t *want = NULL;
    size_t bytes = 0, n;
    for (uint32_t threads = 1; threads <= 3; threads++) {
        struct calib_rig r;
        struct calib_result c;
        char *state_dir = open_rig(&r, "mixtral-tiny");
        r.opt.threads = threads;
        calib_rig_run(&r, &c);
        uint8_t *got = all_experts(&r, &c, &n);
        if (want) {
            assert_int_equal(n, bytes);
            assert_memory_equal(got, want, bytes);
            free(got);
        } else {
            want = got;
            bytes = n;
        }
        calib_result_free(&c);
        close_rig(&r, state_dir);
    }
    free(want);
}

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
    s->stop |= done >= s->at;
}

static void on_finish(struct progress *p) {
    (void)p;
}

static void interrupt(struct calib_rig *r, uint64_t at) {
    struct stopper s = {{on_start, on_update, on_finish}, at, 0};
    struct calib_result c;
    struct err err = {0};
    assert_int_equal(
        calib_run(&r->model, &r->train, &r->held, &r->opt, &s.progress, &s.stop, &c, &err), -1);
    assert_err(&err, "interrupted");
    calib_result_free(&c);
}

static void put(const char *state_dir, const char *name, size_t at, const void *bytes, size_t n) {
    char *path = mem_printf("%s/%s", state_dir, name);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fseek(f, (long)at, SEEK_SET);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    free(path);
}

/* A number that is none in a row of expert 0, with a checksum that is right. */
static void put_nan(const struct calib_rig *r, const struct calib_result *c,
                    const char *state_dir) {
    const struct arch *a = hf_arch(&r->model);
    const size_t bytes = rounded_expert_bytes(&c->rounded),
                 row = codec_row_bytes(c->rounded.codec, a->dim);
    const uint32_t at[2] = {0, 0};
    const float nan_value = NAN;
    struct err err = {0};
    uint8_t *neurons = mem_alloc(bytes);
    rounded_read(&c->rounded, 0, 0, neurons, &err);
    assert_no_err(&err);
    memcpy(neurons + 5 * row - sizeof nan_value, &nan_value, sizeof nan_value);
    struct hasher *h = hasher_new();
    hasher_add(h, &c->rounded.key, sizeof c->rounded.key);
    hasher_add(h, at, sizeof at);
    hasher_add(h, neurons, bytes);
    uint64_t sum = hasher_value(h);
    hasher_free(h);
    put(state_dir, "experts-0000", 0, neurons, bytes);
    put(state_dir, "experts-0000", bytes, &sum, sizeof sum);
    free(neurons);
}

/* Interrupted while a layer runs and while its experts are rounded; with a file that is damaged,
 * gone, or holds no numbers: each time the rest is computed again, to the same bytes. */
static void an_interrupted_run_goes_on_to_the_same(void **state) {
    (void)state;
    struct calib_rig r;
    struct calib_result want, got;
    size_t bytes, n;
    char *state_dir = open_rig(&r, "mixtral-tiny");
    const uint32_t n_layers = hf_arch(&r.model)->n_layers;
    const uint32_t rows = r.train.n_tok + r.held.n_tok;
    calib_rig_run(&r, &want);
    uint8_t *experts = all_experts(&r, &want, &bytes);
    for (int how = 0; how < 6; how++) {
        static const char *const said[] = {NULL, NULL, "checksum", NULL, "expected", "no number"};
        uint32_t resumed = how < 2 ? 1 : 0;
        if (how == 5) {
            calib_state_remove(state_dir, n_layers);
            calib_rig_run(&r, &got);
            put_nan(&r, &got, state_dir);
            calib_result_free(&got);
        } else {
            calib_state_remove(state_dir, n_layers);
            interrupt(&r, how == 1 ? UINT64_C(2) * rows - 1 - rows / 4 : rows + 1);
        }
        char *path = mem_printf("%s/experts-0000", state_dir);
        if (how == 2) {
            put(state_dir, "experts-0000", 700, "xyz", 3);
        } else if (how == 3) {
            assert_int_equal(unlink(path), 0);
        } else if (how == 4) {
            assert_int_equal(truncate(path, 1000), 0);
        }
        free(path);
        calib_rig_run(&r, &got);
        assert_int_equal(got.resumed_layers, resumed);
        assert_int_equal(got.refused.set, said[how] != NULL);
        assert_true(!said[how] || strstr(got.refused.msg, said[how]));
        uint8_t *again = all_experts(&r, &got, &n);
        assert_int_equal(n, bytes);
        assert_memory_equal(again, experts, bytes);
        free(again);
        calib_result_free(&got);
    }
    free(experts);
    calib_result_free(&want);
    close_rig(&r, state_dir);
}

static void nothing_is_left(void **state) {
    (void)state;
    struct calib_rig r;
    struct calib_result c;
    struct stat st;
    char *state_dir = open_rig(&r, "qwen3moe-tiny"), *copy = mem_printf("%s", state_dir);
    calib_rig_run(&r, &c);
    assert_int_equal(stat(copy, &st), 0);
    free(test_write(copy, "experts-0001.tmp", "half", 4));
    calib_result_free(&c);
    close_rig(&r, state_dir);
    assert_int_equal(stat(copy, &st), -1);
    free(copy);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(experts_are_near_what_they_were),
        cmocka_unit_test(threads_change_nothing),
        cmocka_unit_test(an_interrupted_run_goes_on_to_the_same),
        cmocka_unit_test(nothing_is_left),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
