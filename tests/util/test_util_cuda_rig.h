/*
 * test_util_cuda_rig: a device's backend beside the scalar one, its memory, and comparisons.
 */
#ifndef TESTS_UTIL_TEST_UTIL_CUDA_RIG_H
#define TESTS_UTIL_TEST_UTIL_CUDA_RIG_H

#include "tests/util/test_util_kernels.h"

struct cuda_rig {
    struct backend device, scalar;
    /* Everything is computed once for each variant, which must not change a bit: the emulation's
     * orders of threads, or simply again. set_variant may be NULL. */
    int n_variants;
    void (*set_variant)(int variant);
    /* Another backend on the device. */
    void (*open)(struct backend *b, const struct backend_limits *limits);
};

/* Limits that hold every shape in the tests, but for those that open a backend of their own. */
struct backend_limits cuda_rig_limits(void);
/* The scalar backend of rig->scalar, and the closing of both; the program opens rig->device. */
void cuda_rig_open_scalar(struct cuda_rig *g);
void cuda_rig_close(struct cuda_rig *g);

/* Bytes of the host in device memory (cuda_rig_release), and `n` floats back. */
void *cuda_rig_put(const struct backend *b, const void *host, size_t bytes);
void cuda_rig_get(const struct backend *b, float *host, const float *device, size_t n);
void cuda_rig_release(const struct backend *b, void *p);

/* A matrix of the host's numbers in f32, placed until the backend is closed; none where x is
 * NULL. */
struct weight cuda_rig_place(const struct backend *b, const float *x, uint32_t rows, uint32_t cols);
/* The same of a weight, encoded as it may be. */
struct weight cuda_rig_place_weight(const struct backend *b, const struct weight *w);

/* Computing goes by this variant from now on. */
void cuda_rig_variant(const struct cuda_rig *g, int variant);

/* Of the host; free(). Tolerances of `want` [n]: relative ones plus an absolute one. */
float *cuda_rig_zeros(size_t n);
double *cuda_rig_tolerances(const float *want, size_t n, double relative, double absolute);

/* Computes `got` [n] by `run` with every variant: close to `want`, and always the same bits. */
typedef void cuda_rig_run(const struct backend *b, const void *ctx, float *out);
void cuda_rig_check(const struct cuda_rig *g, const char *what, cuda_rig_run *run, const void *ctx,
                    float *got, const float *want, const double *tolerance, size_t n);
/* `n` floats of the same bits; a NaN is as good as another one. */
#define check_same(what, got, want, n) cuda_rig_check_same(what, got, want, n, __FILE__, __LINE__)
void cuda_rig_check_same(const char *what, const float *got, const float *want, size_t n,
                         const char *file, int line);

#endif
