/*
 * dot: the inner loops of the CPU backend, one table per instruction set. Private to kernels/cpu.
 *
 * Owns: arithmetic on encoded rows (by codec) and on plain floats, single-threaded, on plain
 * pointers.
 * Leaves to others: shapes of models, threads and scratch (cpu_*.c), the meaning of a codec
 * (format/codec.h).
 * Threads: the tables are constant; all functions are pure.
 *
 * What keeps results independent of how work is cut up:
 *   - A dot product of floats has DOT_SUMS accumulator vectors of the ISA's width: vector i of the
 *     columns, counted from the row's first, goes to accumulator i mod DOT_SUMS, in order. In the
 *     end ((0 + 1) + (2 + 3)) are added, and then the lanes, the upper half onto the lower one,
 *     again and again. So one row alone keeps the processor busy, and several side by side, or a
 *     tile of decoded panels that goes over its columns once for each accumulator, give the same
 *     bits: dot (encoded rows) and tile (decoded panels).
 *   - axpy and mix add rows in order, element by element.
 *   - Rows are decoded to the very floats that codec->decode_row gives, on every ISA.
 *
 * Rows with scales (codec_has_scales) meet their inputs in integers: the input is quantised too
 * (struct dot_quant), the products of a group are summed exactly, and scales are applied group by
 * group. Group g goes to partial sum g mod DOT_GROUPS, in order, so that scales are used as they
 * lie, many at once; in the end the partial sums are added, the upper half onto the lower one,
 * again and again:
 *   without minimums   y = fma(sum of w.q x.q over the group, w.scale * x.scale, y), each partial
 *                      sum from 0
 *   with minimums      a = fma(sum of w.q x.q, w.sc * x.scale, a) and b = fma(w.mn, x.sum, b)
 *                      likewise; y = w.S * a - w.M * b of the added sums, both products rounded
 * The sum of a block of such rows, each times a number of its own, is made in integers, too: in a
 * group of columns the numbers times the rows' scales, b_r, are quantised over the block's rows as
 * an input's group is, to q_r with scale t, and then, for each column,
 *   without minimums   y = t * (sum over rows of w.q q_r), where b_r = a_r * w.scale
 *   with minimums      y = fma(t, sum over rows of w.q q_r, -m), where b_r = (a_r * w.S) * w.sc and
 *                      m = fma(a_r * w.M, w.mn, m), row after row, from 0
 * All is IEEE arithmetic in f32, fused only where it says fma, so that every ISA gives the bits of
 * the scalar table: qdot and qtile alike.
 *
 * Pointers need no alignment; nothing is read or written past the stated extents. Outputs do not
 * overlap inputs unless a contract says "in place".
 */
#ifndef KERNELS_CPU_DOT_H
#define KERNELS_CPU_DOT_H

#include "format/arch.h"

/* Encoded rows of `cols` columns, stride_bytes apart, and the shape of the loop over them, which
 * changes no bit of what comes out (shape.h finds the fastest).
 * together: so many rows are read side by side, column by column (the kernels take what they can of
 * it); at 0 or 1 one row is read after the other. Some processors foresee a single stream of bytes
 * well and several neighbouring ones badly, others are the faster the more they are given.
 * ahead_bytes: as a kernel reads a byte it asks the cache for the one so much further on, which
 * should be one that is read soon after, wherever it is. 0: it asks for nothing, as is right for
 * rows that are in cache and for a processor whom being asked disturbs in foreseeing by itself. */
struct dot_rows {
    const uint8_t *data;
    size_t stride_bytes;
    uint32_t n, cols;
    uint32_t together;
    ptrdiff_t ahead_bytes;
};

enum {
    DOT_SUMS = 4,        /* accumulator vectors of a dot product of floats */
    DOT_GROUPS = 8,      /* partial sums, by group, of one of integers */
    DOT_BLOCK_ROWS = 32, /* rows of a block that is summed in integers, at most */
};

/* One row of inputs in 8 bits, by groups of CODEC_GROUP columns. In a group whose greatest
 * magnitude is `top`: scale = top / 127 and q = x * (127 / top) rounded to the nearest, ties to
 * even, so that |q| <= 127. A group below DOT_QUANT_LEAST counts as zeros (scale 0); one that holds
 * a NaN or an infinity has q = 0 and scale NaN, which makes every product with it NaN. Arrays by
 * group are padded to DOT_GROUPS, which may be read and hold zeros. */
struct dot_quant {
    int8_t *q;       /* [cols] */
    float *scale;    /* [groups] */
    float *sum;      /* [groups]: the sum of the group's q, times scale */
    int32_t *offset; /* [groups]: -128 times the sum of the group's q */
};
#define DOT_QUANT_LEAST 0x1p-100f

static inline size_t dot_quant_groups(uint32_t cols) {
    return ((size_t)cols / CODEC_GROUP + DOT_GROUPS - 1) / DOT_GROUPS * DOT_GROUPS;
}
/* Bytes that one quantised row takes, a multiple of 32. */
static inline size_t dot_quant_bytes(uint32_t cols) {
    return (size_t)cols + 3 * sizeof(float) * dot_quant_groups(cols);
}
/* The arrays of a row in dot_quant_bytes(cols) bytes at `p`, aligned for floats. */
static inline struct dot_quant dot_quant_at(void *p, uint32_t cols) {
    size_t groups = dot_quant_groups(cols);
    float *scale = (float *)(void *)((uint8_t *)p + cols);
    return (struct dot_quant){(int8_t *)p, scale, scale + groups,
                              (int32_t *)(void *)(scale + 2 * groups)};
}

/* Floats that a row takes when it is spread: an ISA may lay the columns of each accumulator side by
 * side, so that a tile meets them one after the other and as few lines of cache as there are. */
static inline size_t dot_spread_floats(uint32_t cols) {
    enum { MOST_SPAN = 64 }; /* DOT_SUMS times the widest vector */
    return ((size_t)cols + MOST_SPAN - 1) / MOST_SPAN * MOST_SPAN;
}

/* Rows with scales made ready for many inputs, in a form of the ISA's own. */
enum { DOT_PANEL_ROWS = 32 };
/* Bytes that a panel takes on any ISA. */
static inline size_t dot_panel_bytes(uint32_t cols) {
    return DOT_PANEL_ROWS * ((size_t)cols + 2 * sizeof(float) * (dot_quant_groups(cols) + 1));
}

struct dot_codec {
    /* out[r] = row r . x. NULL for codecs with scales. */
    void (*dot)(const struct dot_rows *w, const float *x, float *out);
    /* y[c] += a[0] * row 0 [c], then a[1] * row 1 [c], ... NULL for codecs with scales. */
    void (*axpy)(const struct dot_rows *w, const float *a, float *y);
    /* dst [n] = columns first .. first + n - 1 of a row of `cols`; first is a multiple of
     * CODEC_GROUP, and so is n unless it reaches the row's end. */
    void (*decode)(const uint8_t *row, uint32_t cols, uint32_t first, uint32_t n, float *dst);
    /* dst [dot_spread_floats(cols)] = a row, decoded and spread. NULL for codecs with scales. */
    void (*decode_spread)(const uint8_t *row, uint32_t cols, float *dst);

    /* For codecs with scales, whose inputs are quantised; NULL for the others.
     * out[r] = row r . x. */
    void (*qdot)(const struct dot_rows *w, const struct dot_quant *x, float *out);
    /* Make w (n <= DOT_PANEL_ROWS rows) a panel; `panel` is 64-byte aligned. */
    void (*qpack)(const struct dot_rows *w, uint8_t *panel);
    /* y[j * y_stride + i] = row i . x[j], for n_w rows of a panel made from as many. The same bits
     * as qdot. */
    void (*qtile)(const uint8_t *panel, uint32_t n_w, uint32_t cols, const struct dot_quant *x,
                  uint32_t n_x, float *y, size_t y_stride);
    /* out [cols] = the sum over r of a[r] * row r, n <= DOT_BLOCK_ROWS of them, in integers. Rows
     * are read side by side, each of them in order, however many the shape of `w` says. */
    void (*qmix)(const struct dot_rows *w, const float *a, float *out);
    /* y[j][c] += the same for a = h + j * h_stride, for n_x of them: the same bits as qmix. */
    void (*qmix_on)(const struct dot_rows *w, const float *h, size_t h_stride, uint32_t n_x,
                    float *const *y);
};

/* Tokens of one head of a delta net, one after the other, each of which does to its state
 * S [k_dim, v_dim]: S *= decay; m = S^T k; S += k (x) (strength * (v - m)); out = S^T q. Sums go
 * over k_dim in order, from 0, and are fused, the change of S too: every ISA gives the bits of the
 * scalar table, however many tokens there are. */
struct dot_delta {
    uint32_t k_dim, v_dim, n; /* n >= 1 tokens */
    const float *q, *k;       /* [n, k_dim] */
    const float *v;           /* n rows of v_dim, v_stride floats apart */
    size_t v_stride;
    const float *decay, *strength; /* [n] */
    float *out;                    /* [n, v_dim] */
};

struct dot_isa {
    const char *name;
    bool (*usable)(void);              /* does this processor, and its operating system, have it? */
    struct dot_codec codec[CODEC_IDS]; /* by id, for all codecs of the table */

    /* y[j * y_stride + i] = w row i . x[j]: n_w decoded rows, w_stride floats apart, times n_x
     * vectors. The same bits as dot. */
    void (*tile)(const float *w, size_t w_stride, uint32_t n_w, uint32_t cols,
                 const float *const *x, uint32_t n_x, float *y, size_t y_stride);
    /* dst [dot_spread_floats(cols)] = x, spread. */
    void (*spread)(const float *x, uint32_t cols, float *dst);
    /* The same as tile, with the same bits, of n_w rows one after the other and n_x vectors, all of
     * them spread. Faster where rows are long. */
    void (*tile_spread)(const float *w, uint32_t n_w, uint32_t cols, const float *const *x,
                        uint32_t n_x, float *y, size_t y_stride);
    /* y[j][c] += (sum over i in order of h[j * h_stride + i] * w row i [c]): the sum starts from
     * zero and is added to y at the end, as axpy into zeros and a later addition do. */
    void (*mix)(const float *w, size_t w_stride, uint32_t n_w, uint32_t cols, const float *h,
                size_t h_stride, uint32_t n_x, float *const *y);
    /* The same sum, but starting from y[j][c]: as one axpy. */
    void (*mix_on)(const float *w, size_t w_stride, uint32_t n_w, uint32_t cols, const float *h,
                   size_t h_stride, uint32_t n_x, float *const *y);

    /* Quantise `cols` numbers, a multiple of CODEC_GROUP, into the arrays of `out`. */
    void (*quantise)(const float *x, uint32_t cols, const struct dot_quant *out);
    float (*sum_squares)(const float *x, size_t n);
    /* Greatest element, -inf where n is 0. */
    float (*max)(const float *x, size_t n);
    /* In place: x[i] = exp(x[i] - max). Returns their sum. */
    float (*exp_sum)(float *x, size_t n, float max);
    /* act_mul of backend.h. */
    void (*act_mul)(const struct ffn_rule *rule, float *g, const float *u, size_t n);
    /* The recurrence of delta_net of backend.h. */
    void (*delta_steps)(float *S, const struct dot_delta *d);
    /* Round to IEEE halves, to nearest even. */
    void (*to_f16)(const float *x, size_t n, uint16_t *out);
};

extern const struct dot_isa dot_ref;
#ifdef __x86_64__
extern const struct dot_isa dot_avx2, dot_avx512;
#endif

#endif
