/*
 * rounding: weights into codes so that what a matrix gives stays close, not the weights themselves.
 *
 * Owns: rounding with error feedback, for a matrix whose inputs are known by their Gram matrix. A
 * weight is rounded after those before it, and takes over what these have missed, as far as their
 * inputs go together with its own. That is the greedy solution of min e H e^T over codes in the
 * order of the columns (LDLQ: Chee et al., QuIP, 2023, which is GPTQ: Frantar et al., 2022, without
 * its inverse).
 * Leaves to others: the factors of H (fit_feedback), scales and codes (codec_steps), which inputs
 * count (calib_round).
 * Threads: called by one thread; OpenBLAS and the pool run inside. Every sum has its order by the
 * sizes alone (fit; the pool's items are independent), so that the bytes are the same for any
 * number of threads.
 *
 * Whatever is rounded is compared with plain rounding (codec->encode_row) in e H e^T, and is the
 * plain one where that is not worse: row by row where errors go along a row, group by group of
 * columns where they go from row to row. So no row or group is worse than plain; and for a diagonal
 * H, which passes nothing on, all bytes are those of encode_row.
 *
 * H is of the inputs in f32. That the kernels round inputs to 8 bits adds noise to its diagonal,
 * some thousandths of it: less than the damping does.
 */
#ifndef PREP_CALIB_ROUNDING_H
#define PREP_CALIB_ROUNDING_H

#include "format/codec.h"
#include "kernels/pool.h"
#include "prep/calib/fit.h"

/* As fit_feedback fills it. */
struct rounding_factors {
    uint32_t n;
    float *coef, *gain;
};

/* Sums of e H e^T over a matrix: plain rounding's, and that of what was written. */
struct rounding_error {
    double plain, kept;
};

/* Both are for codecs that codec_steps_of knows.
 *
 * Errors go along rows: for w [rows, f->n] whose rows are multiplied with an input each, H being
 * the inputs' Gram matrix. Row r is written to out[r]. Adds to `error`.
 */
void rounding_along(struct pool *pool, const struct codec *codec, const struct rounding_factors *f,
                    const float *w, uint32_t rows, uint8_t *const *out,
                    struct rounding_error *error);

/*
 * Errors go from row to row: for w [f->n, cols] whose rows are summed with a factor each, H being
 * the factors' Gram matrix.
 */
void rounding_across(struct pool *pool, const struct codec *codec, const struct rounding_factors *f,
                     const float *w, uint32_t cols, uint8_t *const *out,
                     struct rounding_error *error);

#endif
