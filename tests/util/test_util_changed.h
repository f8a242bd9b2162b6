/*
 * test_util_changed: a golden checkpoint with some of its weights changed, for what weights can do
 * to a conversion or a run.
 *
 * For what happens on the way to a test's subject: whatever fails here fails the test.
 */
#ifndef TESTS_UTIL_TEST_UTIL_CHANGED_H
#define TESTS_UTIL_TEST_UTIL_CHANGED_H

#include "format/safetensors.h"

struct changed {
    char *dir; /* a folder of its own, without weights until changed_write */
    uint8_t *file;
    size_t file_bytes;
    struct safetensors *st; /* tensors of `file` */
};

/* A copy of tests/golden/models/<name>, which has one file of weights. */
struct changed changed_open(const char *name);
/* Multiply every tensor whose name matches the pattern (fnmatch) by a power of two, which is exact
 * as long as the result is in the range of the tensor's type. */
void changed_scale(struct changed *c, const char *pattern, float factor);
/* Set one element of a tensor, to the nearest number of its type. */
void changed_set(struct changed *c, const char *tensor, uint64_t element, float value);
/* Write the weights as they are now; returns the folder, borrowed. */
const char *changed_write(struct changed *c);
void changed_close(struct changed *c);

#endif
