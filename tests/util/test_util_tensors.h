/*
 * test_util_tensors: safetensors made tensor by tensor, in memory.
 *
 * For what happens on the way to a test's subject: whatever fails here fails the test.
 */
#ifndef TESTS_UTIL_TEST_UTIL_TENSORS_H
#define TESTS_UTIL_TEST_UTIL_TENSORS_H

#include "format/safetensors.h"

struct tensors {
    struct buf header, data, file;
    struct safetensors *st;
};

/* Add a tensor of `bytes` bytes: a copy of `data`, or zeros where it is NULL. `shape` is written as
 * JSON: "[8, 4]". `t` is zeroed before the first. */
void tensors_add(struct tensors *t, const char *name, const char *dtype, const char *shape,
                 const void *data, size_t bytes);
/* All that were added, as those of a file "a.st"; until tensors_close. `t->file` has its bytes. */
struct safetensors *tensors_open(struct tensors *t);
void tensors_close(struct tensors *t);

#endif
