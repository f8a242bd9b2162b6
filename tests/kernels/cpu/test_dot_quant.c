/*
 * Inner kernels on quantised inputs, of every instruction set that this processor has: the numbers
 * of the formulas of kernels/cpu/dot.h, which are near the exact products.
 */
#include <math.h>

#include "tests/util/test_util_dot.h"

struct input {
    float *x;
    uint8_t *bytes;
    struct dot_quant quant;
};

static struct input input_of(const struct dot_isa *isa, float *x, uint32_t cols) {
    struct input in = {x, test_guard(dot_quant_bytes(cols)), {0}};
    memset(in.bytes, 0xa5, dot_quant_bytes(cols));
    in.quant = dot_quant_at(in.bytes, cols);
    isa->quantise(x, cols, &in.quant);
    return in;
}

static void free_input(struct input *in, uint32_t cols) {
    test_guard_free(in->bytes, dot_quant_bytes(cols));
}

/* Numbers that quantising must withstand, in one group each. */
static void hard_groups(struct test_rng *rng, float *x, uint32_t cols) {
    for (uint32_t i = 0; i < cols; i++) {
        uint32_t g = i / CODEC_GROUP, at = i % CODEC_GROUP;
        float small = test_f32(rng);
        switch (g % 12) {
        case 0: /* ties */
            x[i] = at == 0 ? 127 : (float)at * 4 - 64.5f;
            break;
        case 1:
            x[i] = at == 7 ? -3.4e38f : small * 1e38f;
            break;
        case 2:
            x[i] = small * 1e-40f;
            break;
        case 3:
            x[i] = at == 3 ? DOT_QUANT_LEAST : small * DOT_QUANT_LEAST;
            break;
        case 4:
            x[i] = at == 31 ? 1e30f : small * 1e-30f;
            break;
        case 5:
            x[i] = at % 2 ? -0.0f : 0.0f;
            break;
        case 6:
            x[i] = at == 9 ? NAN : small;
            break;
        case 7:
            x[i] = at == 30 ? -INFINITY : small;
            break;
        case 8:
            x[i] = nextafterf(DOT_QUANT_LEAST, 0);
            break;
        case 9:
            x[i] = at % 2 ? 1 : -1;
            break;
        default:
            x[i] = small;
        }
    }
}

/* The promise of dot.h, number by number. */
static void check_quant(const struct place *p, const struct input *in) {
    const struct dot_quant *q = &in->quant;
    for (uint32_t g = 0; g < dot_quant_groups(p->cols); g++) {
        if (g >= p->cols / CODEC_GROUP) {
            assert_true(q->scale[g] == 0 && q->sum[g] == 0 && q->offset[g] == 0);
            continue;
        }
        float top = 0;
        int sum = 0;
        bool finite = true;
        for (uint32_t i = g * CODEC_GROUP; i < (g + 1) * CODEC_GROUP; i++) {
            finite = finite && isfinite(in->x[i]);
            top = fabsf(in->x[i]) > top ? fabsf(in->x[i]) : top;
            sum += q->q[i];
        }
        bool zero = !finite || top < DOT_QUANT_LEAST;
        float scale = !finite ? NAN : zero ? 0 : top / 127.0f;
        assert_true(dot_same_or_nan(q->scale[g], scale));
        assert_true(dot_same_or_nan(q->sum[g], (float)sum * scale));
        assert_int_equal(q->offset[g], -128 * sum);
        for (uint32_t i = g * CODEC_GROUP; i < (g + 1) * CODEC_GROUP; i++) {
            int want = zero ? 0 : (int)nearbyintf(in->x[i] * (127.0f / top));
            assert_int_equal(q->q[i], want);
            assert_true(want >= -127 && want <= 127);
        }
    }
}

/* The codes of a row, as the codec itself decodes them where scales are 1 and minimums 0. */
static float *codes_of(const struct weight *w, const uint8_t *row) {
    static const float whole[2] = {1, 0};
    const enum codec_id id = w->codec->id;
    const size_t bytes = codec_row_bytes(w->codec, w->cols), groups = w->cols / CODEC_GROUP;
    float *codes = mem_alloc(w->cols * sizeof *codes);
    uint8_t *copy = mem_alloc(bytes), *scales = copy + codec_scales_at(id, w->cols);
    const uint16_t one = f32_to_f16(1);
    memcpy(copy, row, bytes);
    for (size_t g = 0; g < groups && !codec_has_minimums(id); g++) {
        memcpy(scales + g * 2, &one, sizeof one);
    }
    if (codec_has_minimums(id)) {
        memset(scales, 1, groups);
        memcpy(scales + 2 * groups, whole, sizeof whole);
    }
    w->codec->decode_row(copy, w->cols, codes);
    free(copy);
    return codes;
}

/* One row by the formula of dot.h, in plain steps of its own. */
static float simple_qdot(const struct weight *w, uint32_t r, const struct dot_quant *x) {
    const uint8_t *row = weight_row(w, r), *scales = row + codec_scales_at(w->codec->id, w->cols);
    const bool minimums = codec_has_minimums(w->codec->id);
    uint32_t groups = w->cols / CODEC_GROUP;
    float *codes = codes_of(w, row), y[DOT_GROUPS] = {0}, b[DOT_GROUPS] = {0}, whole[2] = {1, 0};
    for (uint32_t g = 0; g < groups; g++) {
        int sum = 0;
        for (uint32_t i = g * CODEC_GROUP; i < (g + 1) * CODEC_GROUP; i++) {
            sum += (int)codes[i] * x->q[i];
        }
        uint16_t half;
        memcpy(&half, scales + (size_t)g * (minimums ? 1 : 2), sizeof half);
        float d = (minimums ? (float)scales[g] : f16_to_f32(half)) * x->scale[g];
        y[g % DOT_GROUPS] = fmaf((float)sum, d, y[g % DOT_GROUPS]);
        if (minimums) {
            b[g % DOT_GROUPS] = fmaf(scales[groups + g], x->sum[g], b[g % DOT_GROUPS]);
        }
    }
    for (uint32_t half = DOT_GROUPS / 2; half > 0; half /= 2) {
        for (uint32_t i = 0; i < half; i++) {
            y[i] += y[i + half];
            b[i] += b[i + half];
        }
    }
    if (minimums) {
        memcpy(whole, scales + groups * 2, sizeof whole);
        y[0] = whole[0] * y[0] - whole[1] * b[0];
    }
    free(codes);
    return y[0];
}

/* Every ISA: the numbers of the formula, which are near the exact product where all is finite; the
 * same from panels, whatever their rows and inputs. */
static void check_qdot(const struct place *p, const struct weight *w, struct input *in,
                       uint32_t n_in, bool finite) {
    const struct dot_codec *k = &p->isa->codec[p->codec->id];
    size_t y_stride = p->rows + 3, n_y = (n_in - 1) * y_stride + p->rows;
    float *y = test_guard(n_y * sizeof *y), *got = test_guard(p->rows * sizeof *got);
    struct dot_quant quants[16];
    uint8_t *panel = mem_alloc_aligned(dot_panel_bytes(p->cols));
    static const uint32_t together[] = {0, 2, 8};
    static const ptrdiff_t ahead_bytes[] = {0, 1024, 16384};
    struct dot_rows rows = dot_rows_of(w, 0, p->rows);
    for (uint32_t j = 0; j < n_in; j++) {
        quants[j] = in[j].quant;
    }
    memset(panel, 0xff, dot_panel_bytes(p->cols));
    k->qpack(&rows, panel);
    k->qtile(panel, p->rows, p->cols, quants, n_in, y, y_stride);
    for (uint32_t j = 0; j < n_in; j++) {
        /* The shape of the loop changes nothing. */
        rows.together = together[j % TEST_COUNT(together)];
        rows.ahead_bytes = ahead_bytes[j / TEST_COUNT(together) % TEST_COUNT(ahead_bytes)];
        k->qdot(&rows, &quants[j], got);
        for (uint32_t r = 0; r < p->rows; r++) {
            float want = simple_qdot(w, r, &quants[j]), tiled = y[j * y_stride + r];
            if (!dot_same_or_nan(got[r], want) || !dot_same_or_nan(tiled, want)) {
                print_error("%s %s, %u rows, %u cols, %s: row %u with input %u of %u is %a, in a "
                            "panel %a, expected %a\n",
                            p->isa->name, p->codec->name, p->rows, p->cols, kind_name(p->kind), r,
                            j, n_in, (double)got[r], (double)tiled, (double)want);
                fail();
            }
            if (finite && j == 0) {
                double size;
                float *row = kernels_decode(w, r);
                double exact = kernels_dot(row, in[j].x, p->cols, &size);
                /* With minimums it subtracts two sums that may be far greater than what is left. */
                double parts = codec_has_minimums(p->codec->id) ? 64 * size : size;
                check_close(p, "qdot", r, got[r], exact,
                            kernels_quant_error(row, in[j].x, p->cols) +
                                kernels_dot_tolerance(p->cols, parts));
                free(row);
            }
        }
    }
    free(panel);
    test_guard_free(y, n_y * sizeof *y);
    test_guard_free(got, p->rows * sizeof *got);
}

static void check_quant_codec(const struct place *p, struct test_rng *rng, uint32_t n_in) {
    struct weight w = kernels_weight(rng, p->codec, p->kind, p->rows, p->cols, p->rows % 2);
    struct input in[16];
    for (int hard = 0; hard <= 1; hard++) {
        for (uint32_t j = 0; j < n_in; j++) {
            float *x = kernels_vector(rng, j % 2 ? KIND_SPIKY : p->kind, p->cols);
            if (hard) {
                hard_groups(rng, x,
                            p->cols - (j % 2 ? 0 : p->cols / 2 / CODEC_GROUP * CODEC_GROUP));
            }
            in[j] = input_of(p->isa, x, p->cols);
            check_quant(p, &in[j]);
        }
        check_qdot(p, &w, in, n_in, !hard && p->kind != KIND_TINY);
        for (uint32_t j = 0; j < n_in; j++) {
            test_guard_free(in[j].x, p->cols * sizeof(float));
            free_input(&in[j], p->cols);
        }
    }
    kernels_free_weight(&w);
}

static void test_quantised(void **state) {
    static const uint32_t rows[] = {1, 2, 7, 8, 9, 15, 16, 17, 24, 31, DOT_PANEL_ROWS};
    struct test_rng rng = {5};
    (void)state;
    const struct dot_isa *isa;
    for (size_t i = 0; (isa = dot_isa_at(i)); i++) {
        const struct codec *codec;
        for (size_t c = 0; (codec = codec_at(c)); c++) {
            const struct dot_codec *k = &isa->codec[codec->id];
            const bool all = k->qdot && k->qpack && k->qtile, none = !k->qdot && !k->qpack;
            if (codec_has_scales(codec->id) ? !all : !none) {
                fail_msg("%s: the table's row for %s", isa->name, codec->name);
            }
            if (none) {
                continue;
            }
            for (size_t n = 0, turn = 0; n < DOT_COLS; n++) {
                for (int kind = 0; kind < KIND_COUNT && codec_fits(codec, dot_cols[n]); kind++) {
                    struct place p = {isa, codec, (enum kind)kind, rows[turn % TEST_COUNT(rows)],
                                      dot_cols[n]};
                    check_quant_codec(&p, &rng, (uint32_t)(1 + turn % 14));
                    turn++;
                }
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
