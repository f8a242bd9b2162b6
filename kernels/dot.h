/*
 * dot: the inner loops of the CPU backend, one table per instruction set. Private to kernels.
 *
 * Owns: arithmetic on encoded rows (by codec) and on plain floats, single-threaded, on plain
 * pointers.
 * Leaves to others: shapes of models, threads and scratch (cpu_*.c), the meaning of a codec
 * (format/codec.h).
 * Threads: the tables are constant; all functions are pure.
 *
 * What keeps results independent of how work is cut up:
 *   - A dot product has ONE accumulator vector, of the ISA's width, that walks the columns in
 *   order, and a
 *     fixed tree that adds its lanes. Speed comes from doing several rows at once, never from
 *     splitting one. So dot (encoded rows) and tile (decoded panels) give the same bits.
 *   - axpy and mix add rows in order, element by element.
 *   - Rows are decoded to the very floats that codec->decode_row gives, on every ISA.
 * Kernels on quantised activations belong here too, as further members of struct dot_codec.
 *
 * Pointers need no alignment; nothing is read or written past the stated extents. Outputs do not
 * overlap inputs unless a contract says "in place".
 */
#ifndef KERNELS_DOT_H
#define KERNELS_DOT_H

#include "format/codec.h"

enum { DOT_CODECS = CODEC_Q4 + 1 }; /* a table has an entry for every codec id */

/* Encoded rows of `cols` columns, stride_bytes apart. As a kernel reads a byte it asks the cache
 * for the one `ahead_bytes` further on, which should be one that is read soon after, wherever it
 * is: the processor by itself foresees little beyond a row. 0 for rows that are in cache. */
struct dot_rows {
    const uint8_t *data;
    size_t stride_bytes;
    uint32_t n, cols;
    ptrdiff_t ahead_bytes;
};
enum { DOT_AHEAD_BYTES = 16 * 1024 }; /* a good distance where rows follow one another */

struct dot_codec {
    /* out[r] = row r . x. */
    void (*dot)(const struct dot_rows *w, const float *x, float *out);
    /* y[c] += a[0] * row 0 [c], then a[1] * row 1 [c], ... */
    void (*axpy)(const struct dot_rows *w, const float *a, float *y);
    /* dst [n] = columns first .. first + n - 1 of a row of `cols`; first is a multiple of
     * CODEC_GROUP, and so is n unless it reaches the row's end. */
    void (*decode)(const uint8_t *row, uint32_t cols, uint32_t first, uint32_t n, float *dst);
};

struct dot_isa {
    const char *name;
    bool (*usable)(void); /* does this processor, and its operating system, have it? */
    struct dot_codec codec[DOT_CODECS];

    /* y[j * y_stride + i] = w row i . x[j]: n_w decoded rows, w_stride floats apart, times n_x
     * vectors. The same bits as dot. */
    void (*tile)(const float *w, size_t w_stride, uint32_t n_w, uint32_t cols,
                 const float *const *x, uint32_t n_x, float *y, size_t y_stride);
    /* y[j][c] += (sum over i in order of h[j * h_stride + i] * w row i [c]): the sum starts from
     * zero and is added to y at the end, as axpy into zeros and a later addition do. */
    void (*mix)(const float *w, size_t w_stride, uint32_t n_w, uint32_t cols, const float *h,
                size_t h_stride, uint32_t n_x, float *const *y);

    float (*sum_squares)(const float *x, size_t n);
    /* Greatest element, -inf where n is 0. */
    float (*max)(const float *x, size_t n);
    /* In place: x[i] = exp(x[i] - max). Returns their sum. */
    float (*exp_sum)(float *x, size_t n, float max);
    /* In place: g[i] = g[i] / (1 + exp(-g[i])) * u[i]. */
    void (*silu_mul)(float *g, const float *u, size_t n);
    /* Round to IEEE halves, to nearest even. */
    void (*to_f16)(const float *x, size_t n, uint16_t *out);
};

extern const struct dot_isa dot_ref;
#ifdef __x86_64__
extern const struct dot_isa dot_avx2, dot_avx512;
#endif

#endif
