/*
 * test_util_calib: a tiny checkpoint of tests/golden/models with text to calibrate it on.
 *
 * For test programs; whatever fails here fails the test.
 */
#ifndef TESTS_UTIL_TEST_UTIL_CALIB_H
#define TESTS_UTIL_TEST_UTIL_CALIB_H

#include "prep/calib/calib.h"

struct calib_rig {
    struct hf_model model;
    struct corpus train, held;
    struct calib_options opt;
    char *spill_path; /* what opt.spill_path is */
};

/* Chunks may be finer than pack writes, so that there are cold ones in so small a model. What does
 * not fit in memory would go to a file in `dir`. Close with calib_rig_close. */
void calib_rig_open(struct calib_rig *r, const char *dir, const char *name, uint32_t chunk_neurons);
/* Calibrates. Free with calib_result_free. */
void calib_rig_run(struct calib_rig *r, struct calib_result *result);
void calib_rig_close(struct calib_rig *r);

#endif
