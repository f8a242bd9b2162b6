/*
 * fit: the linear algebra of calibration, in closed form: Gram matrices, ridge, reduced rank,
 * principal components. With prep/calib/blas the only place that calls BLAS and LAPACK.
 *
 * Owns: numerics (accumulation in double where many rows are summed, Cholesky, symmetric
 * eigenproblems).
 * Leaves to others: what the rows mean (calib), evaluating what was fitted (runtime/predict).
 * Threads: called by one thread; OpenBLAS uses those that prep/calib/blas set. The same input gives
 * the same bits for any number of them. OpenBLAS splits a product in f32 by rows and columns, which
 * are independent; long sums are cut here, at fixed places, before it can cut them by the number of
 * threads. What runs in f64 runs on one thread.
 *
 * All matrices are row-major f32 unless named double.
 */
#ifndef PREP_CALIB_FIT_H
#define PREP_CALIB_FIT_H

#include "format/base.h"

/* A matrix, or a part of one, whose rows are `cols` apart; or, `turned`, such a matrix
 * transposed. */
struct fit_factor {
    const float *data;
    uint32_t cols;
    bool turned;
};
/* c [m, n] = a [m, k] . b [k, n], or added to c; rows of c are c_cols apart. */
void fit_multiply(struct fit_factor a, struct fit_factor b, uint32_t m, uint32_t n, uint32_t k,
                  bool add, float *c, uint32_t c_cols);
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

/*
 * What errors of rounding are passed on by. Of the symmetric matrix H [n, n], the part of `g` whose
 * first row and column is `first`, with `damp` times its mean diagonal added to its diagonal (and 1
 * where all of it is zero):
 *
 *     H = A D A^T,   A upper triangular with a unit diagonal, D diagonal
 *
 * so that for an error row e the sum e H e^T is that of D_k (e_k + sum over j < k of e_j A_jk)^2:
 * an error that column k makes itself, and what it has to take from the columns before.
 *   coef [n, n]  A transposed: row k holds A_jk at j, 1 at k, 0 behind
 *   gain [n]     D
 * Fails where H is not positive definite even so.
 */
int fit_feedback(const struct fit_gram *g, uint32_t first, uint32_t n, double damp, float *coef,
                 float *gain, struct err *err);

#endif
