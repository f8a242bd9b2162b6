/*
 * test_util_dot: what the tests of inner kernels go over, and comparisons that say where they
 * failed.
 */
#ifndef TESTS_UTIL_TEST_UTIL_DOT_H
#define TESTS_UTIL_TEST_UTIL_DOT_H

#include "kernels/cpu/dot.h"
#include "tests/util/test_util_kernels.h"

/* Instruction set i of those built in that this processor has; NULL after the last. */
const struct dot_isa *dot_isa_at(size_t i);

/* Sizes around every unrolling: groups, stretches of scales, vectors, tails. */
enum { DOT_COLS = 27 };
extern const uint32_t dot_cols[DOT_COLS];

/* What is being tested, for the message of a failure. */
struct place {
    const struct dot_isa *isa;
    const struct codec *codec;
    enum kind kind;
    uint32_t rows, cols;
};

/* `what` of place `p` gave `got` as element i: within the tolerance; or n elements of the same
 * bits. */
#define check_close(p, what, i, got, want, tolerance)                                              \
    dot_check_close(p, what, i, got, want, tolerance, __FILE__, __LINE__)
void dot_check_close(const struct place *p, const char *what, size_t i, float got, double want,
                     double tolerance, const char *file, int line);
#define check_same(p, what, got, want, n) dot_check_same(p, what, got, want, n, __FILE__, __LINE__)
void dot_check_same(const struct place *p, const char *what, const float *got, const float *want,
                    size_t n, const char *file, int line);

/* Whether two numbers have the same bits, or are no numbers both. */
bool dot_same_or_nan(float a, float b);

/* `n` rows of `w`. They ask for bytes far behind the guard page in advance: that does no harm. */
struct dot_rows dot_rows_of(const struct weight *w, uint32_t first, uint32_t n);

#endif
