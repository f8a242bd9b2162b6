/*
 * test_util_kernels: inputs for tests of the math: encoded matrices and vectors of several kinds,
 * in buffers that end at an unreadable page, and sums in double precision to compare with.
 */
#ifndef TESTS_UTIL_TEST_UTIL_KERNELS_H
#define TESTS_UTIL_TEST_UTIL_KERNELS_H

#include "kernels/backend.h"
#include "tests/util/test.h"

/* What numbers look like. */
enum kind {
    KIND_NORMAL, /* within -1 .. 1 */
    KIND_ZERO,
    KIND_TINY,  /* subnormal floats (for f16: subnormal halves) */
    KIND_LARGE, /* far from overflow of a product, far above 1 */
    KIND_SPIKY, /* a few magnitudes apart from one another */
    KIND_COUNT,
};
const char *kind_name(enum kind kind);

/* A float vector that ends at a guard page. */
float *kernels_vector(struct test_rng *r, enum kind kind, size_t n);
void kernels_fill(struct test_rng *r, enum kind kind, float *x, size_t n);

/* An encoded matrix of random valid rows, `gap_bytes` apart, ending at a guard page; with a gap,
 * rows lie at odd addresses. Free with kernels_free_weight. */
struct weight kernels_weight(struct test_rng *r, const struct codec *codec, enum kind kind,
                             uint32_t rows, uint32_t cols, size_t gap_bytes);
void kernels_free_weight(struct weight *w);

/* Row `row` decoded by the codec's definition; free(). */
float *kernels_decode(const struct weight *w, uint32_t row);

/* Of a codec with scales: the code of a row's column; the scale of a group's codes, and, where the
 * codec has minimums, what is subtracted from their products (else 0). */
int kernels_code(const struct weight *w, uint32_t row, uint32_t col);
void kernels_scale(const struct weight *w, uint32_t row, uint32_t group, double *scale,
                   double *minimum);

/* Sum of a[i] * b[i] in double precision; *size becomes the sum of |a[i] * b[i]|. */
double kernels_dot(const float *a, const float *b, size_t n, double *size);

/* `cols` numbers in f32 as a weight of one row, such as a norm or a bias; none where x is NULL.
 * They stay the caller's. */
struct weight kernels_row(const float *x, uint32_t cols);

/* Greatest error of a dot product of n elements summed in f32 over 8 lanes or more: every addition
 * rounds a sum of at most `size` by half an ulp, and a lane makes n / 8 of them, the tree three,
 * the product one; twice for the second order. Plus one smallest float an element, for products
 * that are subnormal. */
double kernels_dot_tolerance(size_t n, double size);

/* The greatest |sum| that quantising x by group of 32 columns may add to its product with the row
 * `w`: half of a step, top / 127, for each element (kernels/cpu/dot.h). */
double kernels_quant_error(const float *w, const float *x, size_t n);

/* Weights of every codec and of each shape that it fits, every second time with a bias (else one
 * without data), for each number of rows in turn: calls `check` with them. */
struct kernels_shape {
    uint32_t rows, cols;
};
struct kernels_products {
    const struct kernels_shape *shapes;
    size_t n_shapes;
    const uint32_t *row_counts;
    size_t n_row_counts;
    void (*check)(void *ctx, struct test_rng *r, const struct weight *w, const struct weight *bias,
                  enum kind kind, uint32_t rows);
    void *ctx;
};
void kernels_each_product(struct test_rng *r, const struct kernels_products *p);

/* Logits of a router by pattern: random, equal, neighbouring floats, few values with many ties,
 * huge, and, KERNELS_LOGITS_NAN, with NaN among them. */
enum { KERNELS_LOGITS_NAN = 5 };
void kernels_logits(struct test_rng *r, int pattern, float *logits, size_t n);

/* Distance from `want` in floats next to each other; 0 where both are NaN. */
double kernels_ulps(float got, double want);

/* Limits that hold every shape in the tests. */
struct backend_limits kernels_limits(void);

/* Opens CPU backends of these limits: each usable ISA with each number of threads, ISA by ISA.
 * Returns how many, at most `room`. */
size_t kernels_open_cpus(struct backend *out, size_t room, const uint32_t *threads,
                         size_t n_threads);

#endif
