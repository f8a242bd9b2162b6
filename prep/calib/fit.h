/*
 * fit: the linear algebra of calibration, in closed form: Gram matrices, ridge, reduced rank,
 * principal components. With prep/calib/blas the only place that calls BLAS and LAPACK.
 *
 * Owns: numerics (accumulation in double where many rows are summed, Cholesky, symmetric
 * eigenproblems).
 * Leaves to others: what the rows mean (calib), evaluating what was fitted (runtime/predict).
 * Threads: called by one thread; OpenBLAS uses those that prep/calib/blas set. The same input and
 * number of threads give the same bits.
 *
 * All matrices are row-major f32 unless named double.
 */
#ifndef PREP_CALIB_FIT_H
#define PREP_CALIB_FIT_H

#include "format/base.h"

/* c [m, n] = a [m, k] . b [n, k]^T */
void fit_mul_nt(const float *a, const float *b, uint32_t m, uint32_t n, uint32_t k, float *c);
/* c [m, n] = a [m, k] . b [k, n] */
void fit_mul_nn(const float *a, const float *b, uint32_t m, uint32_t n, uint32_t k, float *c);

/* Sums over rows that come in pieces: n, mean sums and second moments of x [rows, d] against
 * itself. */
struct fit_gram {
    uint32_t d;
    double n;
    double *sum;  /* [d] */
    double *gram; /* [d, d] sum of x x^T, upper triangle */
};
void fit_gram_open(struct fit_gram *g, uint32_t d);
void fit_gram_close(struct fit_gram *g);
void fit_gram_add(struct fit_gram *g, const float *x, uint32_t rows);

/* Sums of x [rows, d] against y [rows, e]. */
struct fit_cross {
    uint32_t d, e;
    double *sum_y; /* [e] */
    double *cross; /* [d, e] sum of x y^T */
};
void fit_cross_open(struct fit_cross *c, uint32_t d, uint32_t e);
void fit_cross_close(struct fit_cross *c);
void fit_cross_add(struct fit_cross *c, const float *x, const float *y, uint32_t rows);

/*
 * Reduced-rank ridge of y on x, both centred by their means: W = (G + lambda tr(G)/d I)^-1 C, then
 * the best rank-r W V V^T in the metric of the fitted values, V the leading eigenvectors of W^T G
 * W.
 *   in   [r, d]  = (W V)^T
 *   out  [e, r]  = V
 *   bias [e]     = mean(y) - V V^T W^T mean(x)
 * so that y ~ out . (in . x) + bias. Fails where the factorisation does (a Gram matrix that is not
 * finite).
 */
int fit_low_rank(const struct fit_gram *g, const struct fit_cross *c, double lambda, uint32_t rank,
                 float *in, float *out, float *bias, struct err *err);

/* The `m` leading principal directions of centred x, as rows: basis [m, d]. */
int fit_principal(const struct fit_gram *g, uint32_t m, float *basis, struct err *err);

/*
 * Ridge of y [n, e] on z [n, m], both centred; lambda is relative to the mean variance of z.
 *   beta [e, m], intercept [e] with y ~ beta . z + intercept; residual [e] is the mean square of
 *   what is left.
 */
int fit_ridge(const float *z, const float *y, uint32_t n, uint32_t m, uint32_t e, double lambda,
              float *beta, float *intercept, float *residual, struct err *err);

#endif
