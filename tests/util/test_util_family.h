/*
 * test_util_family: checkpoints of tests/golden/families, whose weights are made and not stored.
 * tests/golden/README.md defines the numbers; make_families.py makes the same bytes.
 */
#ifndef TESTS_UTIL_TEST_UTIL_FAMILY_H
#define TESTS_UTIL_TEST_UTIL_FAMILY_H

#include "prep/hf/hf.h"

/* Write the checkpoint that the folder `golden_dir` describes, with the shared tiny tokenizer, into
 * a new folder of the same name in `out_dir`. Returns its path, to free(). */
char *family_checkpoint(const char *golden_dir, const char *out_dir);

/* The names of the folders in tests/golden/families, in order; NULL past the last. To free(). */
char *family_folder(size_t i);

/* The checkpoint of such a folder, opened, in a directory of its own. */
struct family_model {
    char *temp, *dir;
    struct hf_model m;
};
struct family_model family_open(const char *name);
void family_close(struct family_model *f);

#endif
