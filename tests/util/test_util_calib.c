/*
 * test_util_calib: see test_util_calib.h.
 */
#include "tests/util/test_util_calib.h"
#include "format/text/tokenizer.h"
#include "tests/util/test.h"
#include "tests/util/test_util_golden.h"

void calib_rig_open(struct calib_rig *r, const char *dir, const char *name,
                    uint32_t chunk_neurons) {
    struct err err = {0};
    struct tokenizer *tok;
    char *path = golden_source(name);
    *r = (struct calib_rig){.opt = {.chunk_neurons = chunk_neurons,
                                    .hot_share = 0.5,
                                    .rank = 8,
                                    .basis = 8,
                                    .gates = 4,
                                    .threads = 2,
                                    .state_key = name},
                            .spill_path = mem_printf("%s/spill", dir)};
    r->opt.spill_path = r->spill_path;
    hf_open(&r->model, path, &err);
    tokenizer_open(r->model.tokenizer.data, r->model.tokenizer.len, &tok, &err);
    corpus_add(&r->train, tok, "tests/golden/heldout.txt", 64, &err);
    assert_no_err(&err);
    /* Held-out text is part of the other: nothing here is about quality. */
    corpus_copy(&r->held, &r->train);
    corpus_thin(&r->held, 400);
    corpus_thin(&r->train, 2000);
    tokenizer_close(tok);
    free(path);
}

void calib_rig_close(struct calib_rig *r) {
    corpus_free(&r->train);
    corpus_free(&r->held);
    hf_close(&r->model);
    free(r->spill_path);
}

void calib_rig_run(struct calib_rig *r, struct calib_result *result) {
    struct err err = {0};
    calib_run(&r->model, &r->train, &r->held, &r->opt, NULL, NULL, result, &err);
    assert_no_err(&err);
}
