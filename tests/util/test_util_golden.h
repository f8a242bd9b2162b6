/*
 * test_util_golden: the logits of golden checkpoints (tests/golden) by way of the engine, on any
 * device: from the checkpoint to an archive, from there to the transformers library's own logits.
 */
#ifndef TESTS_UTIL_TEST_UTIL_GOLDEN_H
#define TESTS_UTIL_TEST_UTIL_GOLDEN_H

#include "tests/util/test_util_model.h"

/* Checkpoints with logits of their own, the small ones first; NULL past the end. */
const char *golden_checkpoint(size_t i);
/* Open an engine with `opt` on an archive of the checkpoint, made in `dir`, whose weights are the
 * checkpoint's to the bit, and compare all logits; in one call and token by token. */
void golden_check(const char *checkpoint, const char *dir, struct corm_engine_options opt);

#endif
