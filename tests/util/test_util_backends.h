/*
 * test_util_backends: the backends that run on this processor, opened for a group of tests, and
 * comparisons that say where they failed.
 */
#ifndef TESTS_UTIL_TEST_UTIL_BACKENDS_H
#define TESTS_UTIL_TEST_UTIL_BACKENDS_H

#include "tests/util/test_util_kernels.h"

/* Setup and teardown of a group: the CPU backend with each usable instruction set and 1, 2 and 3
 * threads, and the OpenBLAS backend. */
int backends_open(void **state);
int backends_close(void **state);

/* Backend i, ISA by ISA; the OpenBLAS one is the last, NULL comes after it. */
const struct backend *backends_at(size_t i);
/* The CPU backend of the ISA of backend i with one thread; NULL for OpenBLAS, whose bits depend on
 * the shape of a call. */
const struct backend *backends_one(size_t i);
/* The one that defines results: scalar, one thread. */
const struct backend *backends_scalar(void);

/* `n` elements that `what` of backend `b` gave: each within its tolerance, or all of the same
 * bits. */
#define backends_close_to(b, what, got, want, tolerance, n)                                        \
    backends_check_close(b, what, got, want, tolerance, n, __FILE__, __LINE__)
void backends_check_close(const struct backend *b, const char *what, const float *got,
                          const double *want, const double *tolerance, size_t n, const char *file,
                          int line);
#define backends_same(b, what, got, want, n)                                                       \
    backends_check_same(b, what, got, want, n, __FILE__, __LINE__)
void backends_check_same(const struct backend *b, const char *what, const float *got,
                         const float *want, size_t n, const char *file, int line);

/* `n` zeros; `n` copies of a number; `n` floats as doubles. free() them. */
float *backends_zeros(size_t n);
double *backends_all(size_t n, double x);
double *backends_doubles(const float *x, size_t n);

#endif
