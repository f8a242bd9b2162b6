/*
 * test_util_predict: a small model, and a predictors section for it with one part of every kind.
 *
 * For tests and the fuzz target. No test framework in here.
 */
#ifndef TESTS_UTIL_TEST_UTIL_PREDICT_H
#define TESTS_UTIL_TEST_UTIL_PREDICT_H

#include "runtime/predict.h"
#include "tests/util/test.h"

enum {
    LAYERS = 4,
    E = 6,
    D = 32,
    K = 2,
    RANK = 3,
    BASIS = 4,
    GATES = 3,
    CHUNKS = 5,
    WIDTH = 2 * K
};

/* Layer 1 is dense: guesses from layer 0 begin two layers ahead. Free with arch_free. */
void predictors_arch(struct arch *a);
/* Within -scale .. scale, and exact as bf16; free(). */
float *predictors_floats(struct test_rng *rng, size_t n, float scale);
/* A section of chunks by CHUNKS, built of random numbers, always the same ones. buf_free. */
struct buf predictors_section(void);

#endif
