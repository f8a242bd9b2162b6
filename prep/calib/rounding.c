#include "prep/calib/rounding.h"

#include <stdlib.h>
#include <string.h>

enum {
    PANEL = 128,    /* columns whose feedback from all columns before is one product */
    ITEM_ROWS = 16, /* rows of an item, side by side in the inner loops */
};

/* ---- along rows ---- */

struct along {
    const struct codec *codec;
    const struct codec_steps *steps;
    const struct rounding_factors *f;
    const float *w;
    uint32_t rows, first, n; /* all rows; the panel's columns */
    struct codec_row *row;   /* [rows] */
    float *error;            /* [rows, f->n] what was missed so far: weight - value */
    float *target;        /* [rows, PANEL] what the panel's columns take over from those before */
    double *kept, *plain; /* [rows] e H e^T */
    uint8_t *const *out;
};

/* Rows' headers, and what plain rounding misses. */
static void along_begin(void *ctx, uint32_t item, uint32_t worker) {
    struct along *a = ctx;
    const uint32_t n = a->f->n;
    (void)worker;
    for (uint32_t r = item * ITEM_ROWS; r < a->rows && r < (item + 1) * ITEM_ROWS; r++) {
        const float *w = a->w + (size_t)r * n;
        float *error = a->error + (size_t)r * n;
        a->codec->encode_row(w, n, a->out[r]);
        a->codec->decode_row(a->out[r], n, error);
        for (uint32_t k = 0; k < n; k++) {
            error[k] = w[k] - error[k];
        }
    }
}

/* Add the panel's part of e H e^T, where `target` has A's share of each of its columns. */
static void along_measure(void *ctx, uint32_t item, uint32_t worker) {
    struct along *a = ctx;
    (void)worker;
    for (uint32_t r = item * ITEM_ROWS; r < a->rows && r < (item + 1) * ITEM_ROWS; r++) {
        for (uint32_t k = 0; k < a->n; k++) {
            double v = (double)a->target[(size_t)r * PANEL + k];
            a->plain[r] += (double)a->f->gain[a->first + k] * v * v;
        }
    }
}

/* Round group `g` of up to ITEM_ROWS rows, of which `t` holds the targets of the panel's columns,
 * those of a column side by side; pass the errors on to the panel's later columns. */
static void along_group(struct along *a, uint32_t g, uint32_t r0, uint32_t n,
                        float (*t)[ITEM_ROWS]) {
    const uint32_t at = g * CODEC_GROUP - a->first, dim = a->f->n;
    struct codec_grid grids[ITEM_ROWS] = {0};
    uint8_t codes[CODEC_GROUP][ITEM_ROWS] = {0};
    for (uint32_t r = 0; r < n; r++) {
        float x[CODEC_GROUP];
        for (uint32_t i = 0; i < CODEC_GROUP; i++) {
            x[i] = t[at + i][r];
        }
        a->steps->fit(x, dim, g, &a->row[r0 + r], a->out[r0 + r], &grids[r]);
    }
    for (uint32_t i = at; i < at + CODEC_GROUP; i++) {
        const uint32_t k = a->first + i;
        float value[ITEM_ROWS] = {0}, error[ITEM_ROWS] = {0};
        a->steps->round(t[i], grids, ITEM_ROWS, codes[i - at], value);
        for (uint32_t r = 0; r < n; r++) {
            float missed = t[i][r] - value[r];
            a->kept[r0 + r] += (double)a->f->gain[k] * (double)missed * (double)missed;
            error[r] = a->w[(size_t)(r0 + r) * dim + k] - value[r];
            a->error[(size_t)(r0 + r) * dim + k] = error[r];
        }
        for (uint32_t j = i + 1; j < a->n; j++) {
            const float c = a->f->coef[(size_t)(a->first + j) * dim + k];
            for (uint32_t r = 0; r < ITEM_ROWS; r++) {
                t[j][r] += c * error[r];
            }
        }
    }
    for (uint32_t r = 0; r < n; r++) {
        uint8_t row[CODEC_GROUP];
        for (uint32_t i = 0; i < CODEC_GROUP; i++) {
            row[i] = codes[i][r];
        }
        a->steps->put(row, g, a->out[r0 + r]);
    }
}

static void along_round(void *ctx, uint32_t item, uint32_t worker) {
    struct along *a = ctx;
    const uint32_t r0 = item * ITEM_ROWS, left = a->rows - r0,
                   n = left < ITEM_ROWS ? left : ITEM_ROWS;
    float t[PANEL][ITEM_ROWS];
    (void)worker;
    memset(t, 0, sizeof t);
    for (uint32_t r = 0; r < n; r++) {
        const float *w = a->w + (size_t)(r0 + r) * a->f->n + a->first;
        for (uint32_t k = 0; k < a->n; k++) {
            t[k][r] = w[k] + a->target[(size_t)(r0 + r) * PANEL + k];
        }
        if (a->first == 0) {
            a->steps->begin(a->w + (size_t)(r0 + r) * a->f->n, a->f->n, a->out[r0 + r],
                            &a->row[r0 + r]);
        }
    }
    for (uint32_t g = a->first / CODEC_GROUP; g * CODEC_GROUP < a->first + a->n; g++) {
        along_group(a, g, r0, n, t);
    }
}

/* Where plain rounding is not worse, it is taken. */
static void along_end(void *ctx, uint32_t item, uint32_t worker) {
    struct along *a = ctx;
    (void)worker;
    for (uint32_t r = item * ITEM_ROWS; r < a->rows && r < (item + 1) * ITEM_ROWS; r++) {
        if (!(a->kept[r] < a->plain[r])) {
            a->codec->encode_row(a->w + (size_t)r * a->f->n, a->f->n, a->out[r]);
            a->kept[r] = a->plain[r];
        }
    }
}

/* a->target: what the panel's columns take over from the first `n` columns' errors. */
static void pass_on(struct along *a, uint32_t n) {
    const uint32_t dim = a->f->n;
    fit_multiply((struct fit_factor){a->error, dim, false},
                 (struct fit_factor){a->f->coef + (size_t)a->first * dim, dim, true}, a->rows, a->n,
                 n, false, a->target, PANEL);
}

void rounding_along(struct pool *pool, const struct codec *codec, const struct rounding_factors *f,
                    const float *w, uint32_t rows, uint8_t *const *out,
                    struct rounding_error *error) {
    const uint32_t items = (rows + ITEM_ROWS - 1) / ITEM_ROWS;
    struct along a = {
        .codec = codec, .steps = codec_steps_of(codec), .f = f, .w = w, .rows = rows, .out = out};
    a.row = mem_calloc(rows, sizeof *a.row);
    a.error = mem_alloc((size_t)rows * f->n * sizeof *a.error);
    a.target = mem_calloc((size_t)rows * PANEL, sizeof *a.target);
    a.kept = mem_calloc(rows, sizeof *a.kept);
    a.plain = mem_calloc(rows, sizeof *a.plain);
    pool_run(pool, along_begin, &a, items);
    for (uint32_t k = 0; k < f->n; k += PANEL) {
        a.first = k;
        a.n = f->n - k < PANEL ? f->n - k : PANEL;
        pass_on(&a, k + a.n);
        pool_run(pool, along_measure, &a, items);
    }
    memset(a.target, 0, (size_t)rows * PANEL * sizeof *a.target);
    for (uint32_t k = 0; k < f->n; k += PANEL) {
        a.first = k;
        a.n = f->n - k < PANEL ? f->n - k : PANEL;
        if (k > 0) {
            pass_on(&a, k);
        }
        pool_run(pool, along_round, &a, items);
    }
    pool_run(pool, along_end, &a, items);
    for (uint32_t r = 0; r < rows; r++) {
        error->plain += a.plain[r];
        error->kept += a.kept[r];
    }
    free(a.row);
    free(a.error);
    free(a.target);
    free(a.kept);
    free(a.plain);
}

/* ---- from row to row ---- */

struct across {
    const struct codec *codec;
    const struct codec_steps *steps;
    const struct rounding_factors *f;
    const float *w;
    uint32_t cols;
    struct codec_row *row; /* [f->n] */
    float **error;         /* [threads] of [f->n, CODEC_GROUP] */
    uint8_t *const *out;
    double *kept, *plain; /* [groups] e H e^T */
};

static void across_begin(void *ctx, uint32_t item, uint32_t worker) {
    struct across *a = ctx;
    (void)worker;
    a->steps->begin(a->w + (size_t)item * a->cols, a->cols, a->out[item], &a->row[item]);
}

/* Round group `g` of all rows, with or without feedback. Returns e H e^T. */
static double across_group(const struct across *a, uint32_t g, bool feedback, float *error) {
    double sum = 0;
    for (uint32_t k = 0; k < a->f->n; k++) {
        const float *w = a->w + (size_t)k * a->cols + (size_t)g * CODEC_GROUP;
        const float *coef = a->f->coef + (size_t)k * a->f->n;
        float taken[CODEC_GROUP] = {0}, x[CODEC_GROUP], value[CODEC_GROUP];
        struct codec_grid grid, grids[CODEC_GROUP];
        uint8_t codes[CODEC_GROUP];
        for (uint32_t j = 0; j < k; j++) {
            for (uint32_t i = 0; i < CODEC_GROUP; i++) {
                taken[i] += coef[j] * error[(size_t)j * CODEC_GROUP + i];
            }
        }
        for (uint32_t i = 0; i < CODEC_GROUP; i++) {
            x[i] = feedback ? w[i] + taken[i] : w[i];
        }
        a->steps->fit(x, a->cols, g, &a->row[k], a->out[k], &grid);
        for (uint32_t i = 0; i < CODEC_GROUP; i++) {
            grids[i] = grid;
        }
        a->steps->round(x, grids, CODEC_GROUP, codes, value);
        a->steps->put(codes, g, a->out[k]);
        for (uint32_t i = 0; i < CODEC_GROUP; i++) {
            double missed = (double)w[i] + (double)taken[i] - (double)value[i];
            sum += (double)a->f->gain[k] * missed * missed;
            error[(size_t)k * CODEC_GROUP + i] = w[i] - value[i];
        }
    }
    return sum;
}

static void across_round(void *ctx, uint32_t item, uint32_t worker) {
    struct across *a = ctx;
    a->plain[item] = across_group(a, item, false, a->error[worker]);
    a->kept[item] = across_group(a, item, true, a->error[worker]);
    if (!(a->kept[item] < a->plain[item])) {
        a->kept[item] = across_group(a, item, false, a->error[worker]);
    }
}

void rounding_across(struct pool *pool, const struct codec *codec, const struct rounding_factors *f,
                     const float *w, uint32_t cols, uint8_t *const *out,
                     struct rounding_error *error) {
    const uint32_t groups = cols / CODEC_GROUP, threads = pool_threads(pool);
    struct across a = {
        .codec = codec, .steps = codec_steps_of(codec), .f = f, .w = w, .cols = cols, .out = out};
    a.row = mem_calloc(f->n, sizeof *a.row);
    a.error = mem_calloc(threads, sizeof *a.error);
    a.kept = mem_calloc(groups, sizeof *a.kept);
    a.plain = mem_calloc(groups, sizeof *a.plain);
    for (uint32_t t = 0; t < threads; t++) {
        a.error[t] = mem_alloc((size_t)f->n * CODEC_GROUP * sizeof **a.error);
    }
    pool_run(pool, across_begin, &a, f->n);
    pool_run(pool, across_round, &a, groups);
    for (uint32_t g = 0; g < groups; g++) {
        error->plain += a.plain[g];
        error->kept += a.kept[g];
    }
    for (uint32_t t = 0; t < threads; t++) {
        free(a.error[t]);
    }
    free(a.row);
    free(a.error);
    free(a.kept);
    free(a.plain);
}
