#include "prep/calib/fit.h"

#include <cblas.h>
#include <lapacke.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_ROWS = 1024 }; /* rows summed in f32 before they are added in f64 */

/* How OpenBLAS cuts a long sum depends on the number of threads; sums of so many products it does
 * not cut. */
enum { PIECE = 128 };

void fit_multiply(struct fit_factor a, struct fit_factor b, uint32_t m, uint32_t n, uint32_t k,
                  bool add, float *c, uint32_t c_cols) {
    for (uint32_t at = 0; at < k; at += PIECE) {
        uint32_t some = k - at < PIECE ? k - at : PIECE;
        cblas_sgemm(CblasRowMajor, a.turned ? CblasTrans : CblasNoTrans,
                    b.turned ? CblasTrans : CblasNoTrans, (int)m, (int)n, (int)some, 1,
                    a.data + (a.turned ? (size_t)at * a.cols : at), (int)a.cols,
                    b.data + (b.turned ? at : (size_t)at * b.cols), (int)b.cols,
                    add || at > 0 ? 1 : 0, c, (int)c_cols);
    }
}

void fit_mul_nt(const float *a, const float *b, uint32_t m, uint32_t n, uint32_t k, float *c) {
    fit_multiply((struct fit_factor){a, k, false}, (struct fit_factor){b, k, true}, m, n, k, false,
                 c, n);
}

void fit_mul_nn(const float *a, const float *b, uint32_t m, uint32_t n, uint32_t k, float *c) {
    fit_multiply((struct fit_factor){a, k, false}, (struct fit_factor){b, n, false}, m, n, k, false,
                 c, n);
}

/* In f64 its kernels round otherwise at the edges of a part, and LAPACK's routines cut sums: such
 * work runs on one thread, between these two. */
static int one_thread(void) {
    int threads = openblas_get_num_threads();
    openblas_set_num_threads(1);
    return threads;
}

static void all_threads(int threads) {
    openblas_set_num_threads(threads);
}

/* ---- sums ---- */

void fit_gram_open(struct fit_gram *g, uint32_t d) {
    *g = (struct fit_gram){.d = d};
    g->sum = mem_calloc(d, sizeof *g->sum);
    g->gram = mem_calloc((size_t)d * d, sizeof *g->gram);
}

void fit_gram_close(struct fit_gram *g) {
    free(g->sum);
    free(g->gram);
    *g = (struct fit_gram){0};
}

void fit_gram_add(struct fit_gram *g, const float *x, uint32_t rows) {
    uint32_t d = g->d;
    float *part = mem_alloc((size_t)d * d * sizeof *part);
    for (uint32_t first = 0; first < rows; first += CHUNK_ROWS) {
        uint32_t n = rows - first < CHUNK_ROWS ? rows - first : CHUNK_ROWS;
        const float *at = x + (size_t)first * d;
        for (uint32_t r = 0; r < n; r += PIECE) {
            uint32_t some = n - r < PIECE ? n - r : PIECE;
            cblas_ssyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)d, (int)some, 1,
                        at + (size_t)r * d, (int)d, r > 0 ? 1 : 0, part, (int)d);
        }
        for (uint32_t i = 0; i < d; i++) {
            for (uint32_t j = i; j < d; j++) {
                g->gram[(size_t)i * d + j] += (double)part[(size_t)i * d + j];
            }
        }
        for (uint32_t r = 0; r < n; r++) {
            for (uint32_t i = 0; i < d; i++) {
                g->sum[i] += (double)at[(size_t)r * d + i];
            }
        }
    }
    g->n += rows;
    free(part);
}

void fit_cross_open(struct fit_cross *c, uint32_t d, uint32_t e) {
    *c = (struct fit_cross){.d = d, .e = e};
    c->sum_y = mem_calloc(e, sizeof *c->sum_y);
    c->cross = mem_calloc((size_t)d * e, sizeof *c->cross);
}

void fit_cross_close(struct fit_cross *c) {
    free(c->sum_y);
    free(c->cross);
    *c = (struct fit_cross){0};
}

void fit_cross_add(struct fit_cross *c, const float *x, const float *y, uint32_t rows) {
    size_t size = (size_t)c->d * c->e;
    float *part = mem_alloc(size * sizeof *part);
    for (uint32_t first = 0; first < rows; first += CHUNK_ROWS) {
        uint32_t n = rows - first < CHUNK_ROWS ? rows - first : CHUNK_ROWS;
        const float *ys = y + (size_t)first * c->e;
        fit_multiply((struct fit_factor){x + (size_t)first * c->d, c->d, true},
                     (struct fit_factor){ys, c->e, false}, c->d, c->e, n, false, part, c->e);
        for (size_t i = 0; i < size; i++) {
            c->cross[i] += (double)part[i];
        }
        for (uint32_t r = 0; r < n; r++) {
            for (uint32_t i = 0; i < c->e; i++) {
                c->sum_y[i] += (double)ys[(size_t)r * c->e + i];
            }
        }
    }
    free(part);
}

/* Covariance-like matrix [d, d] of centred rows, both triangles. */
static double *centred_gram(const struct fit_gram *g) {
    uint32_t d = g->d;
    double *m = mem_alloc((size_t)d * d * sizeof *m);
    for (uint32_t i = 0; i < d; i++) {
        for (uint32_t j = i; j < d; j++) {
            double v = g->gram[(size_t)i * d + j] - g->sum[i] * g->sum[j] / g->n;
            m[(size_t)i * d + j] = m[(size_t)j * d + i] = v;
        }
    }
    return m;
}

/* ---- factors ---- */

enum { CHOLESKY_BLOCK = 64 };

/* Factor the block [n, n] at `a`, rows `stride` apart, into U^T U: U takes its upper triangle. */
static bool cholesky_block(double *a, uint32_t n, size_t stride) {
    for (uint32_t k = 0; k < n; k++) {
        double *row = a + k * stride;
        if (!(row[k] > 0) || !isfinite(row[k])) {
            return false;
        }
        double root = sqrt(row[k]);
        for (uint32_t j = k; j < n; j++) {
            row[j] /= root;
        }
        for (uint32_t i = k + 1; i < n; i++) {
            for (uint32_t j = i; j < n; j++) {
                a[i * stride + j] -= row[i] * row[j];
            }
        }
    }
    return true;
}

/* The same for a whole matrix [n, n]. */
static bool cholesky(double *a, uint32_t n) {
    for (uint32_t k = 0; k < n; k += CHOLESKY_BLOCK) {
        uint32_t size = n - k < CHOLESKY_BLOCK ? n - k : CHOLESKY_BLOCK, rest = n - k - size;
        double *at = a + (size_t)k * n + k, *right = at + size;
        if (!cholesky_block(at, size, n)) {
            return false;
        }
        if (rest > 0) {
            cblas_dtrsm(CblasRowMajor, CblasLeft, CblasUpper, CblasTrans, CblasNonUnit, (int)size,
                        (int)rest, 1, at, (int)n, right, (int)n);
            cblas_dsyrk(CblasRowMajor, CblasUpper, CblasTrans, (int)rest, (int)size, -1, right,
                        (int)n, 1, right + (size_t)size * n, (int)n);
        }
    }
    return true;
}

/* ---- reduced-rank ridge ---- */

/* w [d, e] = (gram + lambda tr/d I)^-1 c; destroys neither. */
static int solve_ridge(const double *gram, uint32_t d, double lambda, const double *c, uint32_t e,
                       double *w, struct err *err) {
    double trace = 0;
    for (uint32_t i = 0; i < d; i++) {
        trace += gram[(size_t)i * d + i];
    }
    double *a = mem_alloc((size_t)d * d * sizeof *a);
    memcpy(a, gram, (size_t)d * d * sizeof *a);
    /* The floor keeps rows that never vary solvable: their coefficients are zero. */
    double ridge = lambda * trace / d + 1e-12;
    for (uint32_t i = 0; i < d; i++) {
        a[(size_t)i * d + i] += ridge;
    }
    memcpy(w, c, (size_t)d * e * sizeof *w);
    int threads = one_thread();
    bool ok = cholesky(a, d);
    if (ok) { /* U^T U w = c */
        cblas_dtrsm(CblasRowMajor, CblasLeft, CblasUpper, CblasTrans, CblasNonUnit, (int)d, (int)e,
                    1, a, (int)d, w, (int)e);
        cblas_dtrsm(CblasRowMajor, CblasLeft, CblasUpper, CblasNoTrans, CblasNonUnit, (int)d,
                    (int)e, 1, a, (int)d, w, (int)e);
    }
    all_threads(threads);
    free(a);
    return ok ? 0 : err_set(err, "ridge fit of %u columns failed: no positive definite sums", d);
}

/* Leading `m` eigenvectors of symmetric `a` [n, n] (destroyed) as rows of `vectors` [m, n], largest
 * first. */
static int leading_vectors(double *a, uint32_t n, uint32_t m, double *vectors, struct err *err) {
    double *values = mem_alloc(n * sizeof *values), *z = mem_alloc((size_t)n * m * sizeof *z);
    int *support = mem_alloc(2 * (size_t)m * sizeof *support), found = 0;
    int threads = one_thread();
    int info = LAPACKE_dsyevr(LAPACK_ROW_MAJOR, 'V', 'I', 'U', (int)n, a, (int)n, 0, 0,
                              (int)(n - m + 1), (int)n, 0, &found, values, z, (int)m, support);
    all_threads(threads);
    for (uint32_t i = 0; info == 0 && i < m; i++) {
        uint32_t col = m - 1 - i; /* ascending in z */
        /* The sign of an eigenvector is arbitrary: make the component of greatest size positive. */
        uint32_t top = 0;
        for (uint32_t j = 0; j < n; j++) {
            if (fabs(z[(size_t)j * m + col]) > fabs(z[(size_t)top * m + col])) {
                top = j;
            }
        }
        double sign = z[(size_t)top * m + col] < 0 ? -1 : 1;
        for (uint32_t j = 0; j < n; j++) {
            vectors[(size_t)i * n + j] = sign * z[(size_t)j * m + col];
        }
    }
    free(values);
    free(z);
    free(support);
    return info == 0 ? 0 : err_set(err, "eigenvectors of %u columns failed (LAPACK %d)", n, info);
}

int fit_low_rank(const struct fit_gram *g, const struct fit_cross *c, double lambda, uint32_t rank,
                 float *in, float *out, float *bias, struct err *err) {
    uint32_t d = c->d, e = c->e;
    int status = -1;
    double *gram = centred_gram(g), *w = mem_alloc((size_t)d * e * sizeof *w);
    double *cross = mem_alloc((size_t)d * e * sizeof *cross);
    double *gw = mem_alloc((size_t)d * e * sizeof *gw), *m = mem_alloc((size_t)e * e * sizeof *m);
    double *v = mem_alloc((size_t)rank * e * sizeof *v),
           *wv = mem_alloc((size_t)d * rank * sizeof *wv);
    for (uint32_t i = 0; i < d; i++) {
        for (uint32_t j = 0; j < e; j++) {
            cross[(size_t)i * e + j] = c->cross[(size_t)i * e + j] - g->sum[i] * c->sum_y[j] / g->n;
        }
    }
    if (solve_ridge(gram, d, lambda, cross, e, w, err) < 0) {
        goto out;
    }
    int threads = one_thread();
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)d, (int)e, (int)d, 1, gram, (int)d,
                w, (int)e, 0, gw, (int)e);
    cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (int)e, (int)e, (int)d, 1, w, (int)e, gw,
                (int)e, 0, m, (int)e);
    all_threads(threads);
    if (leading_vectors(m, e, rank, v, err) < 0) {
        goto out;
    }
    one_thread();
    cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)d, (int)rank, (int)e, 1, w, (int)e, v,
                (int)e, 0, wv, (int)rank);
    all_threads(threads);
    for (uint32_t r = 0; r < rank; r++) {
        for (uint32_t i = 0; i < d; i++) {
            in[(size_t)r * d + i] = (float)wv[(size_t)i * rank + r];
        }
        for (uint32_t j = 0; j < e; j++) {
            out[(size_t)j * rank + r] = (float)v[(size_t)r * e + j];
        }
    }
    for (uint32_t j = 0; j < e; j++) {
        double b = c->sum_y[j] / g->n;
        for (uint32_t r = 0; r < rank; r++) {
            for (uint32_t i = 0; i < d; i++) {
                b -= v[(size_t)r * e + j] * wv[(size_t)i * rank + r] * g->sum[i] / g->n;
            }
        }
        bias[j] = (float)b;
    }
    status = 0;
out:
    free(gram);
    free(w);
    free(cross);
    free(gw);
    free(m);
    free(v);
    free(wv);
    return status;
}

int fit_principal(const struct fit_gram *g, uint32_t m, float *basis, struct err *err) {
    double *gram = centred_gram(g), *v = mem_alloc((size_t)m * g->d * sizeof *v);
    int status = leading_vectors(gram, g->d, m, v, err);
    for (size_t i = 0; status == 0 && i < (size_t)m * g->d; i++) {
        basis[i] = (float)v[i];
    }
    free(gram);
    free(v);
    return status;
}

/* ---- small ridge ---- */

int fit_ridge(const float *z, const float *y, uint32_t n, uint32_t m, uint32_t e, double lambda,
              float *beta, float *intercept, float *residual, struct err *err) {
    struct fit_gram g;
    struct fit_cross c;
    fit_gram_open(&g, m);
    fit_cross_open(&c, m, e);
    fit_gram_add(&g, z, n);
    fit_cross_add(&c, z, y, n);
    double *gram = centred_gram(&g), *w = mem_alloc((size_t)m * e * sizeof *w);
    double *cross = mem_alloc((size_t)m * e * sizeof *cross);
    for (uint32_t i = 0; i < m; i++) {
        for (uint32_t j = 0; j < e; j++) {
            cross[(size_t)i * e + j] = c.cross[(size_t)i * e + j] - g.sum[i] * c.sum_y[j] / g.n;
        }
    }
    int status = solve_ridge(gram, m, lambda, cross, e, w, err);
    for (uint32_t j = 0; status == 0 && j < e; j++) {
        double b = c.sum_y[j] / g.n, rest = 0;
        for (uint32_t i = 0; i < m; i++) {
            beta[(size_t)j * m + i] = (float)w[(size_t)i * e + j];
            b -= w[(size_t)i * e + j] * g.sum[i] / g.n;
        }
        intercept[j] = (float)b;
        for (uint32_t r = 0; r < n; r++) {
            double guess = b;
            for (uint32_t i = 0; i < m; i++) {
                guess += w[(size_t)i * e + j] * (double)z[(size_t)r * m + i];
            }
            double d = (double)y[(size_t)r * e + j] - guess;
            rest += d * d;
        }
        residual[j] = (float)(rest / n);
    }
    free(gram);
    free(w);
    free(cross);
    fit_gram_close(&g);
    fit_cross_close(&c);
    return status;
}

/* ---- feedback ---- */

int fit_feedback(const struct fit_gram *g, uint32_t first, uint32_t n, double damp, float *coef,
                 float *gain, struct err *err) {
    /* With rows and columns in the opposite order, A D^1/2 is a Cholesky factor. */
    double *a = mem_calloc((size_t)n * n, sizeof *a), trace = 0;
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t j = i; j < n; j++) {
            a[(size_t)(n - 1 - j) * n + (n - 1 - i)] =
                g->gram[(size_t)(first + i) * g->d + first + j];
        }
        trace += a[(size_t)(n - 1 - i) * n + (n - 1 - i)];
    }
    double more = trace > 0 ? damp * trace / n : 1;
    for (uint32_t i = 0; i < n; i++) {
        a[(size_t)i * n + i] += more;
    }
    int threads = one_thread();
    bool ok = cholesky(a, n);
    all_threads(threads);
    for (uint32_t k = 0; k < n && ok; k++) {
        const double *row = a + (size_t)(n - 1 - k) * n;
        double root = row[n - 1 - k];
        gain[k] = (float)(root * root);
        for (uint32_t j = 0; j < n; j++) {
            coef[(size_t)k * n + j] = j <= k ? (float)(row[n - 1 - j] / root) : 0;
        }
    }
    free(a);
    return ok ? 0 : err_set(err, "a Gram matrix of %u columns is not positive definite", n);
}
