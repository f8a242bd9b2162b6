/*
 * test_util_quantised: checkpoints with quantised weights, each with a twin that holds the numbers
 * that they stand for.
 *
 * For what happens on the way to a test's subject: whatever fails here fails the test.
 */
#ifndef TESTS_UTIL_TEST_UTIL_QUANTISED_H
#define TESTS_UTIL_TEST_UTIL_QUANTISED_H

/* As publishers write them. */
enum quantised_how {
    QUANTISED_BLOCKS,  /* fp8: blocks of 24 x 40, "weight_scale_inv" in F32 */
    QUANTISED_TENSOR,  /* fp8: one scale for each tensor, scales of activations */
    QUANTISED_ROWS,    /* compressed-tensors: "weight_scale" in BF16 */
    QUANTISED_NVFP4,   /* compressed-tensors: "weight_packed", "weight_global_scale" */
    QUANTISED_ENDS,    /* the same, embedding and output head too, which no key ties or unties */
    QUANTISED_MODELOPT /* ModelOpt's NVFP4, told by a file of its own, scales of keys */
};

struct quantised {
    char *dir, *twin; /* in the twin quantised weights are F32 */
};

/* Write the checkpoint in the folder `from` anew, in two new folders of `out_dir`: projections and
 * experts have other numbers than there, and all else is the same. */
struct quantised quantised_checkpoint(const char *from, enum quantised_how how,
                                      const char *out_dir);
void quantised_free(struct quantised *q);

#endif
