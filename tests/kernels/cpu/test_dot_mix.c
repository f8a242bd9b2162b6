/*
 * Sums of a block's rows in integers, of every instruction set that this processor has: the numbers
 * of the formula of kernels/cpu/dot.h, which are near the exact sums.
 */
#include <math.h>

#include "tests/util/test_util_dot.h"

/* What row r's codes of group g are multiplied by and what is taken off, times a: the formula. */
static void scales_at(const struct weight *w, uint32_t r, uint32_t g, float a, float *b, float *m) {
    const uint32_t groups = w->cols / CODEC_GROUP;
    const uint8_t *scales = weight_row(w, r) + codec_scales_at(w->codec->id, w->cols);
    float whole[2];
    uint16_t half;
    if (!codec_has_minimums(w->codec->id)) {
        memcpy(&half, scales + (size_t)g * 2, sizeof half);
        *b = a * f16_to_f32(half);
        return;
    }
    memcpy(whole, scales + (size_t)groups * 2, sizeof whole);
    *b = a * whole[0];
    *b *= (float)scales[g];
    const float taken = a * whole[1];
    *m = fmaf(taken, (float)scales[groups + g], *m);
}

/* out [cols], and in `size` what magnitudes the parts of each sum have. */
static void simple_mix(const struct weight *w, const float *a, float *out, double *size) {
    for (uint32_t g = 0; g < w->cols / CODEC_GROUP; g++) {
        float b[DOT_BLOCK_ROWS], m = 0, top = 0;
        int q[DOT_BLOCK_ROWS] = {0};
        bool finite = true;
        for (uint32_t r = 0; r < w->rows; r++) {
            scales_at(w, r, g, a[r], &b[r], &m);
            finite = finite && isfinite(b[r]);
            top = fabsf(b[r]) > top ? fabsf(b[r]) : top;
        }
        const bool zero = !finite || top < DOT_QUANT_LEAST;
        const float t = !finite ? NAN : zero ? 0 : top / 127.0f;
        for (uint32_t r = 0; r < w->rows && !zero; r++) {
            q[r] = (int)nearbyintf(b[r] * (127.0f / top));
        }
        for (uint32_t c = g * CODEC_GROUP; c < (g + 1) * CODEC_GROUP; c++) {
            int sum = 0;
            size[c] = 0;
            for (uint32_t r = 0; r < w->rows; r++) {
                sum += q[r] * kernels_code(w, r, c);
                size[c] += fabs((double)kernels_code(w, r, c)) * (double)top / 127;
            }
            out[c] = fmaf((float)sum, t, -m);
        }
    }
}

/* Half a step of each row's code, and roundings, away from the sum of the decoded rows. */
static void check_near(const struct place *p, const struct weight *w, const float *a,
                       const float *got, const double *size) {
    double *sum = mem_calloc(p->cols, sizeof *sum), *parts = mem_calloc(p->cols, sizeof *parts);
    for (uint32_t r = 0; r < p->rows; r++) {
        float *row = kernels_decode(w, r);
        for (uint32_t c = 0; c < p->cols; c++) {
            sum[c] += (double)a[r] * (double)row[c];
            parts[c] += fabs((double)a[r] * (double)row[c]);
        }
        free(row);
    }
    for (uint32_t c = 0; c < p->cols; c++) {
        check_close(p, "qmix", c, got[c], sum[c],
                    0.5001 * size[c] + kernels_dot_tolerance(p->rows + 8, 64 * parts[c]));
    }
    free(sum);
    free(parts);
}

/* Numbers that quantising must withstand. */
static void harden(struct test_rng *rng, float *a, uint32_t n) {
    static const float hard[] = {NAN,   -INFINITY, 1e38f, 1e-40f, 0.0f,
                                 -0.0f, 64.5f,     127,   3e-31f, -1e30f};
    for (uint32_t i = 0; i < n; i++) {
        if (test_u64(rng) % 4 == 0) {
            a[i] = hard[test_u64(rng) % TEST_COUNT(hard)];
        }
    }
}

/* All codes the greatest there are, or the least, and all scales those of the first row: the sums
 * of integers become as great as they can. */
static void push_codes(struct weight *w, bool least) {
    const size_t scales_at = codec_scales_at(w->codec->id, w->cols);
    const uint8_t code = w->codec->id == CODEC_Q4 ? 0xff : least ? 0x80 : 0x7f;
    for (uint32_t r = 0; r < w->rows; r++) {
        uint8_t *row = (uint8_t *)(uintptr_t)weight_row(w, r);
        memset(row, code, scales_at);
        memmove(row + scales_at, weight_row(w, 0) + scales_at,
                codec_row_bytes(w->codec, w->cols) - scales_at);
    }
}

/* What rows are multiplied by: anything; also what quantising must withstand; or, where sums are to
 * be as great as they can, one number throughout. */
enum numbers { ANY, HARD, GREAT, NUMBERS };

static void check_mix(const struct place *p, struct test_rng *rng, uint32_t n_x,
                      enum numbers numbers) {
    enum { MORE = 5, MOST_X = 40 };
    const struct dot_codec *k = &p->isa->codec[p->codec->id];
    struct weight w = kernels_weight(rng, p->codec, p->kind, p->rows, p->cols, p->rows % 2);
    const struct dot_rows rows = dot_rows_of(&w, 0, p->rows);
    const size_t stride = p->rows + MORE, n_h = (n_x - 1) * stride + p->rows;
    float *h = test_guard(n_h * sizeof *h), *y[MOST_X];
    float *got = test_guard(p->cols * sizeof *got), *want = mem_alloc(p->cols * sizeof *want);
    double *size = mem_alloc(p->cols * sizeof *size);
    for (size_t i = 0; i < n_h; i++) {
        h[i] = test_f32(rng) * (i % 5 == 0 ? 30 : 1);
        h[i] = numbers == GREAT ? (n_x % 2 ? 1.5f : -1.5f) : h[i];
    }
    if (numbers == GREAT) {
        push_codes(&w, n_x % 3 == 0);
    }
    for (uint32_t j = 0; j < n_x; j++) {
        y[j] = test_guard(p->cols * sizeof *y[j]);
        for (uint32_t c = 0; c < p->cols; c++) {
            y[j][c] = (float)(c % 7) - 3;
        }
        if (numbers == HARD) {
            harden(rng, h + j * stride, p->rows);
        }
    }
    k->qmix_on(&rows, h, stride, n_x, y);
    for (uint32_t j = 0; j < n_x; j++) {
        memset(got, 0xff, p->cols * sizeof *got);
        k->qmix(&rows, h + j * stride, got);
        simple_mix(&w, h + j * stride, want, size);
        for (uint32_t c = 0; c < p->cols; c++) {
            const float added = (float)(c % 7) - 3 + want[c];
            if (!dot_same_or_nan(got[c], want[c]) || !dot_same_or_nan(y[j][c], added)) {
                print_error("%s %s, %u rows, %u cols, %s: column %u of sum %u of %u is %a, "
                            "expected %a; added %a, expected %a\n",
                            p->isa->name, p->codec->name, p->rows, p->cols, kind_name(p->kind), c,
                            j, n_x, (double)got[c], (double)want[c], (double)y[j][c],
                            (double)added);
                fail();
            }
        }
        if (numbers != HARD && p->kind != KIND_TINY) {
            check_near(p, &w, h + j * stride, got, size);
        }
        test_guard_free(y[j], p->cols * sizeof *y[j]);
    }
    test_guard_free(h, n_h * sizeof *h);
    test_guard_free(got, p->cols * sizeof *got);
    free(want);
    free(size);
    kernels_free_weight(&w);
}

static void test_mix(void **state) {
    static const uint32_t rows[] = {1, 2, 3, 4, 7, 8, 15, 16, 17, 20, 31, DOT_BLOCK_ROWS};
    static const uint32_t inputs[] = {1, 2, 3, 16, 17, 33};
    struct test_rng rng = {6};
    (void)state;
    const struct dot_isa *isa;
    for (size_t i = 0; (isa = dot_isa_at(i)); i++) {
        const struct codec *codec;
        for (size_t c = 0; (codec = codec_at(c)); c++) {
            const struct dot_codec *k = &isa->codec[codec->id];
            const bool all = k->qmix && k->qmix_on, none = !k->qmix && !k->qmix_on;
            if (codec_has_scales(codec->id) ? !all : !none) {
                fail_msg("%s: the table's row for %s", isa->name, codec->name);
            }
            for (size_t n = 0, turn = 0; all && n < DOT_COLS; n++) {
                for (int kind = 0; kind < KIND_COUNT && codec_fits(codec, dot_cols[n]); kind++) {
                    struct place p = {isa, codec, (enum kind)kind, rows[turn % TEST_COUNT(rows)],
                                      dot_cols[n]};
                    const uint32_t n_x = inputs[test_u64(&rng) % TEST_COUNT(inputs)];
                    check_mix(&p, &rng, n_x, (enum numbers)(test_u64(&rng) % NUMBERS));
                    turn++;
                }
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mix),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
