/*
 * Every inner kernel of every instruction set that this processor has, against the codecs'
 * definition and sums in double precision; those on quantised inputs are in test_dot_quant.
 */
#include <float.h>
#include <math.h>

#include "tests/util/test_util_dot.h"

static const uint32_t row_counts[] = {1, 2, 3, 4, 5, 8, 9, 16, 21};

/* ---- encoded rows --------------------------------------------------------------------------- */

static void check_decode(const struct place *p, const struct weight *w) {
    float *got = test_guard(p->cols * sizeof *got);
    for (uint32_t r = 0; r < p->rows; r++) {
        float *want = kernels_decode(w, r);
        p->isa->codec[p->codec->id].decode(weight_row(w, r), p->cols, 0, p->cols, got);
        check_same(p, "decode", got, want, p->cols);
        for (uint32_t first = CODEC_GROUP; first < p->cols; first += 5 * CODEC_GROUP) {
            uint32_t n = p->cols - first;
            n = n > 3 * CODEC_GROUP && first % 64 ? 3 * CODEC_GROUP : n;
            float *end = got + p->cols - n;
            p->isa->codec[p->codec->id].decode(weight_row(w, r), p->cols, first, n, end);
            check_same(p, "decode of a part", end, want + first, n);
        }
        free(want);
    }
    test_guard_free(got, p->cols * sizeof *got);
}

/* Shapes of a loop over rows, of which each gives the same bits. */
static const struct {
    uint32_t together;
    ptrdiff_t ahead_bytes;
} shapes[] = {{0, 0}, {1, 1024}, {2, 4096}, {4, 0}, {8, 16384}, {8, -640}};

static struct dot_rows shaped(const struct weight *w, uint32_t first, uint32_t n, size_t shape) {
    struct dot_rows rows = dot_rows_of(w, first, n);
    rows.together = shapes[shape].together;
    rows.ahead_bytes = shapes[shape].ahead_bytes;
    return rows;
}

/* A dot product by the words of dot.h, in plain steps. */
static float defined_dot(const struct dot_isa *isa, const float *row, const float *x, uint32_t n) {
    enum { MOST = 16 };
    const uint32_t lanes = strcmp(isa->name, "avx512") == 0 ? 16 : 8;
    const bool fused = strcmp(isa->name, "scalar") != 0;
    float acc[DOT_SUMS][MOST] = {{0}}, sum[MOST];
    for (uint32_t i = 0; i < n; i++) {
        float *a = &acc[i / lanes % DOT_SUMS][i % lanes];
        *a = fused ? fmaf(row[i], x[i], *a) : *a + row[i] * x[i];
    }
    for (uint32_t l = 0; l < lanes; l++) {
        sum[l] = (acc[0][l] + acc[1][l]) + (acc[2][l] + acc[3][l]);
    }
    for (uint32_t half = lanes / 2; half > 0; half /= 2) {
        for (uint32_t l = 0; l < half; l++) {
            sum[l] += sum[l + half];
        }
    }
    return sum[0];
}

static void check_dot(const struct place *p, const struct weight *w, const float *x) {
    const struct dot_codec *k = &p->isa->codec[p->codec->id];
    float *got = test_guard(p->rows * sizeof *got), *shaped_got = test_guard(p->rows * sizeof *got);
    struct dot_rows rows = dot_rows_of(w, 0, p->rows);
    k->dot(&rows, x, got);
    for (size_t s = 0; s < TEST_COUNT(shapes); s++) {
        rows = shaped(w, 0, p->rows, s);
        memset(shaped_got, 0xff, p->rows * sizeof *got);
        k->dot(&rows, x, shaped_got);
        check_same(p, "dot in another shape", shaped_got, got, p->rows);
    }
    for (uint32_t r = 0; r < p->rows; r++) {
        double size;
        float *row = kernels_decode(w, r), defined = defined_dot(p->isa, row, x, p->cols);
        double want = kernels_dot(row, x, p->cols, &size);
        check_close(p, "dot", r, got[r], want, kernels_dot_tolerance(p->cols, size));
        check_same(p, "dot by definition", &got[r], &defined, 1);
        free(row);
    }
    test_guard_free(got, p->rows * sizeof *got);
    test_guard_free(shaped_got, p->rows * sizeof *got);
}

/* A vector with a single 1 finds a column that went missing or was taken for another. */
static void check_dot_columns(const struct place *p, const struct weight *w) {
    float *x = test_guard(p->cols * sizeof *x), got;
    float *row = kernels_decode(w, 0);
    struct dot_rows rows = dot_rows_of(w, 0, 1);
    memset(x, 0, p->cols * sizeof *x);
    for (uint32_t c = 0; c<p->cols; c += p->cols> 128 ? 13 : 1) {
        x[c] = 1;
        p->isa->codec[p->codec->id].dot(&rows, x, &got);
        check_close(p, "dot with a unit vector", c, got, row[c], 0);
        x[c] = 0;
    }
    free(row);
    test_guard_free(x, p->cols * sizeof *x);
}

static void check_axpy(const struct place *p, const struct weight *w, const float *a,
                       const float *y0) {
    const struct dot_codec *k = &p->isa->codec[p->codec->id];
    size_t bytes = p->cols * sizeof(float);
    float *got = test_guard(bytes), *split = test_guard(bytes);
    double *want = mem_calloc(p->cols, sizeof *want), *size = mem_calloc(p->cols, sizeof *size);
    memcpy(got, y0, bytes);
    memcpy(split, y0, bytes);
    struct dot_rows rows = dot_rows_of(w, 0, p->rows);
    k->axpy(&rows, a, got);
    for (size_t s = 0; s < TEST_COUNT(shapes); s++) {
        memcpy(split, y0, bytes);
        rows = shaped(w, 0, p->rows, s);
        k->axpy(&rows, a, split);
        check_same(p, "axpy in another shape", split, got, p->cols);
    }
    memcpy(split, y0, bytes);
    for (uint32_t c = 0; c < p->cols; c++) {
        want[c] = y0[c];
        size[c] = fabs((double)y0[c]);
    }
    for (uint32_t r = 0; r < p->rows; r++) {
        float *row = kernels_decode(w, r);
        rows = dot_rows_of(w, r, 1);
        k->axpy(&rows, a + r, split);
        for (uint32_t c = 0; c < p->cols; c++) {
            want[c] += (double)a[r] * row[c];
            size[c] += fabs((double)a[r] * row[c]);
        }
        free(row);
    }
    for (uint32_t c = 0; c < p->cols; c++) {
        check_close(p, "axpy", c, got[c], want[c], kernels_dot_tolerance(8 * p->rows, size[c]));
    }
    check_same(p, "axpy row by row", split, got, p->cols);
    free(want);
    free(size);
    test_guard_free(got, bytes);
    test_guard_free(split, bytes);
}

static void check_codec(const struct place *p, struct test_rng *rng) {
    struct weight w = kernels_weight(rng, p->codec, p->kind, p->rows, p->cols, p->rows % 2);
    enum kind kinds[] = {KIND_NORMAL, p->kind == KIND_TINY ? KIND_TINY : KIND_SPIKY};
    float *y = kernels_vector(rng, p->kind, p->cols);
    check_decode(p, &w);
    const bool dots = p->isa->codec[p->codec->id].dot != NULL;
    if (dots) {
        check_dot_columns(p, &w);
    }
    for (size_t i = 0; i < TEST_COUNT(kinds); i++) {
        float *x = kernels_vector(rng, kinds[i], p->cols),
              *a = kernels_vector(rng, kinds[i], p->rows);
        if (dots) {
            check_dot(p, &w, x);
            check_axpy(p, &w, a, y);
        }
        test_guard_free(x, p->cols * sizeof *x);
        test_guard_free(a, p->rows * sizeof *a);
    }
    test_guard_free(y, p->cols * sizeof *y);
    kernels_free_weight(&w);
}

static void test_codecs(void **state) {
    struct test_rng rng = {1};
    (void)state;
    const struct dot_isa *isa;
    for (size_t i = 0; (isa = dot_isa_at(i)); i++) {
        const struct codec *codec;
        for (size_t c = 0; (codec = codec_at(c)); c++) {
            const struct dot_codec *k = &isa->codec[codec->id];
            const bool scales = codec_has_scales(codec->id);
            if (!k->dot != scales || !k->axpy != scales || !k->decode ||
                !k->decode_spread != scales) {
                fail_msg("%s: the table has no row for %s", isa->name, codec->name);
            }
            for (size_t n = 0; n < DOT_COLS; n++) {
                for (int kind = 0; kind < KIND_COUNT && codec_fits(codec, dot_cols[n]); kind++) {
                    uint32_t rows = row_counts[(n + (size_t)kind) % TEST_COUNT(row_counts)];
                    struct place p = {isa, codec, (enum kind)kind, rows, dot_cols[n]};
                    check_codec(&p, &rng);
                }
            }
        }
    }
}

/* ---- decoded panels ------------------------------------------------------------------------- */

/* The panel of a matrix, rows `stride` floats apart. */
static float *panel_of(const struct weight *w, size_t stride) {
    float *panel = test_guard(((w->rows - 1) * stride + w->cols) * sizeof *panel);
    for (uint32_t r = 0; r < w->rows; r++) {
        float *row = kernels_decode(w, r);
        memcpy(panel + r * stride, row, w->cols * sizeof *row);
        free(row);
    }
    return panel;
}

/* Spread rows and vectors give what tile gave, `want`; no float past a spread row is touched, and
 * all of it is written. */
static void check_spread(const struct place *p, const struct weight *w, float *const *x,
                         uint32_t n_x, const float *want, size_t y_stride) {
    const struct dot_codec *k = &p->isa->codec[p->codec->id];
    const size_t floats = dot_spread_floats(p->cols), bytes = floats * sizeof(float);
    float *panel = test_guard(p->rows * bytes), *xs[16], *one = test_guard(bytes);
    size_t out_floats = (n_x - 1) * y_stride + p->rows;
    float *out = test_guard(out_floats * sizeof *out);
    for (uint32_t r = 0; r < p->rows; r++) {
        float *row = kernels_decode(w, r);
        p->isa->spread(row, p->cols, panel + r * floats);
        if (k->decode_spread) {
            k->decode_spread(weight_row(w, r), p->cols, one);
            check_same(p, "decode_spread", one, panel + r * floats,
                       strcmp(p->isa->name, "scalar") == 0 ? p->cols : floats);
        }
        free(row);
    }
    for (uint32_t j = 0; j < n_x; j++) {
        xs[j] = test_guard(bytes);
        p->isa->spread(x[j], p->cols, xs[j]);
    }
    p->isa->tile_spread(panel, p->rows, p->cols, (const float *const *)xs, n_x, out, y_stride);
    for (uint32_t j = 0; j < n_x; j++) {
        check_same(p, "tile_spread", out + j * y_stride, want + j * y_stride, p->rows);
        test_guard_free(xs[j], bytes);
    }
    test_guard_free(panel, p->rows * bytes);
    test_guard_free(one, bytes);
    test_guard_free(out, out_floats * sizeof *out);
}

/* tile must give the bits of dot, mix_on those of axpy, and mix those of axpy into zeros and one
 * addition, all on decoded rows. */
static void check_panels(const struct place *p, struct test_rng *rng, uint32_t n_x) {
    const struct dot_codec *k = &p->isa->codec[CODEC_F32];
    struct weight w = kernels_weight(rng, p->codec, p->kind, p->rows, p->cols, 0);
    size_t w_stride = p->cols + 3, y_stride = p->rows + 2, h_stride = p->rows + 1;
    float *panel = panel_of(&w, w_stride), *x[16], *y[16],
          *want = mem_calloc(p->cols, sizeof *want);
    size_t out_floats = (n_x - 1) * y_stride + p->rows, h_floats = (n_x - 1) * h_stride + p->rows;
    float *out = test_guard(out_floats * sizeof *out), *one = mem_calloc(p->rows, sizeof *one);
    float *h = kernels_vector(rng, KIND_SPIKY, h_floats), *sum = mem_calloc(p->cols, sizeof *sum);
    for (uint32_t j = 0; j < n_x; j++) {
        x[j] = kernels_vector(rng, KIND_SPIKY, p->cols);
        y[j] = kernels_vector(rng, KIND_NORMAL, p->cols);
    }
    p->isa->tile(panel, w_stride, p->rows, p->cols, (const float *const *)x, n_x, out, y_stride);
    const struct dot_rows rows = {
        (const uint8_t *)panel, w_stride * sizeof(float), p->rows, p->cols, 1, 0};
    for (uint32_t j = 0; j < n_x; j++) {
        k->dot(&rows, x[j], one);
        check_same(p, "tile", out + j * y_stride, one, p->rows);
    }
    check_spread(p, &w, x, n_x, out, y_stride);
    float *mixed[16];
    for (uint32_t j = 0; j < n_x; j++) {
        mixed[j] = test_guard(p->cols * sizeof(float));
        memcpy(mixed[j], y[j], p->cols * sizeof(float));
    }
    p->isa->mix_on(panel, w_stride, p->rows, p->cols, h, h_stride, n_x, mixed);
    for (uint32_t j = 0; j < n_x; j++) {
        memcpy(want, y[j], p->cols * sizeof *want);
        k->axpy(&rows, h + j * h_stride, want);
        check_same(p, "mix_on", mixed[j], want, p->cols);
        memcpy(mixed[j], y[j], p->cols * sizeof(float));
    }
    p->isa->mix(panel, w_stride, p->rows, p->cols, h, h_stride, n_x, mixed);
    for (uint32_t j = 0; j < n_x; j++) {
        memset(sum, 0, p->cols * sizeof *sum);
        k->axpy(&rows, h + j * h_stride, sum);
        for (uint32_t c = 0; c < p->cols; c++) {
            want[c] = y[j][c] + sum[c];
        }
        check_same(p, "mix", mixed[j], want, p->cols);
        test_guard_free(mixed[j], p->cols * sizeof(float));
        test_guard_free(x[j], p->cols * sizeof(float));
        test_guard_free(y[j], p->cols * sizeof(float));
    }
    test_guard_free(panel, ((w.rows - 1) * w_stride + w.cols) * sizeof *panel);
    test_guard_free(out, out_floats * sizeof *out);
    test_guard_free(h, h_floats * sizeof *h);
    free(one);
    free(sum);
    free(want);
    kernels_free_weight(&w);
}

static void test_panels(void **state) {
    struct test_rng rng = {2};
    (void)state;
    const struct dot_isa *isa;
    for (size_t i = 0; (isa = dot_isa_at(i)); i++) {
        const struct codec *codec;
        for (size_t c = 0; (codec = codec_at(c)); c++) {
            for (size_t n = 0; n < DOT_COLS; n++) {
                struct place p = {isa, codec, KIND_NORMAL, row_counts[n % TEST_COUNT(row_counts)],
                                  dot_cols[n]};
                for (uint32_t n_x = 1; n_x <= 14 && codec_fits(codec, p.cols); n_x += 1 + n % 3) {
                    check_panels(&p, &rng, n_x);
                }
            }
        }
    }
}

/* ---- plain floats --------------------------------------------------------------------------- */

/* exp is promised within 2 ulp, subnormal results and overflow included. */
static void check_exp(const struct place *p, float first, float last, size_t n) {
    float *x = test_guard(n * sizeof *x), *y = test_guard(n * sizeof *y);
    for (size_t i = 0; i < n; i++) {
        x[i] = y[i] = first + (last - first) * (float)i / (float)n;
    }
    p->isa->exp_sum(y, n, 0);
    for (size_t i = 0; i < n; i++) {
        double want = exp((double)x[i]);
        if (!(kernels_ulps(y[i], want) <= 2)) {
            print_error("%s: exp(%a) is %a, expected %a: %.2f ulp\n", p->isa->name, (double)x[i],
                        (double)y[i], want, kernels_ulps(y[i], want));
            fail();
        }
    }
    test_guard_free(x, n * sizeof *x);
    test_guard_free(y, n * sizeof *y);
}

static void check_exp_edges(const struct place *p) {
    static const struct {
        float x, y;
    } edges[] = {
        {-INFINITY, 0}, {-200, 0},  {-1e38f, 0},          {200, INFINITY}, {1e38f, INFINITY},
        {0, 1},         {-0.0f, 1}, {INFINITY, INFINITY}, {1e-40f, 1},     {88.8f, INFINITY},
        {-104.5f, 0}};
    for (size_t i = 0; i < TEST_COUNT(edges); i++) {
        float y = edges[i].x;
        p->isa->exp_sum(&y, 1, 0);
        assert_true(y == edges[i].y);
    }
    float nan = NAN;
    p->isa->exp_sum(&nan, 1, 0);
    assert_true(isnan(nan));
}

static const struct ffn_rule rules[] = {
    {.act = FFN_SILU},
    {.act = FFN_GELU_TANH},
    {.act = FFN_SWIGLU_OAI, .limit = 0.5f, .alpha = 1.702f},
    {.act = FFN_SWIGLU_OAI, .limit = 7, .alpha = 1},
    {.act = FFN_RELU},
    {.act = FFN_SILU_LIMIT, .limit = 0.5f},
    {.act = FFN_SILU_LIMIT},
};

/* act_mul by the formula in double. What exp(-z) is taken of has an error of some ulp of z, which a
 * product with g sigmoid(z) sees where z is large and negative: there it fades with exp(z), so that
 * it stays below 2 ulp of g; where exp(-z) is infinite the result is 0. */
static void check_activation(const struct place *p, const struct ffn_rule *rule, const float *x,
                             const float *u, size_t n) {
    const double limit = rule->limit;
    float *g = test_guard(n * sizeof *g);
    memcpy(g, x, n * sizeof *g);
    p->isa->act_mul(rule, g, u, n);
    for (size_t i = 0; i < n; i++) {
        double gate = x[i], factor = u ? (double)u[i] : 1, z = gate;
        if (rule->act == FFN_GELU_TANH) {
            z = 2 * sqrt(2 / 3.14159265358979323846) * (gate + 0.044715 * gate * gate * gate);
        } else if (rule->act == FFN_SWIGLU_OAI) {
            gate = fmin(gate, limit);
            z = (double)rule->alpha * gate;
            factor = u ? fmax(fmin(factor, limit), -limit) + 1 : 1;
        }
        double want = gate / (1 + exp(-z));
        if (rule->act == FFN_RELU) {
            want = fmax(gate, 0);
        } else if (rule->act == FFN_SILU_LIMIT && limit > 0) {
            want = fmin(want, limit);
            factor = u ? fmax(fmin(factor, limit), -limit) : 1;
        }
        want *= factor;
        double size = rule->act ? fabs(gate * factor) : 0;
        check_close(p, "act_mul", i, g[i], want,
                    FLT_EPSILON * (4 * fabs(want) + 2 * size) + 0x1p-121 * fabs(factor) + 0x1p-149);
    }
    test_guard_free(g, n * sizeof *g);
}

/* Limits keep nothing from being a NaN, in whole vectors and in what is left over. */
static void check_activation_nan(const struct dot_isa *isa) {
    enum { N = 37 };
    for (size_t r = 0; r < TEST_COUNT(rules); r++) {
        for (int form = 0; form < 3; form++) {
            float g[N], u[N];
            for (int i = 0; i < N; i++) {
                g[i] = u[i] = 1;
                g[i] = form < 2 && i % 2 ? NAN : g[i];
                u[i] = form == 2 && i % 2 ? NAN : u[i];
            }
            isa->act_mul(&rules[r], g, form ? u : NULL, N);
            for (int i = 0; i < N; i++) {
                assert_true(isnan(g[i]) == (i % 2 == 1));
            }
        }
    }
}

/* Sums, the maximum and activations over `n` numbers of a kind. */
static void check_floats(const struct place *p, struct test_rng *rng, size_t n) {
    float *x = kernels_vector(rng, p->kind, n), *u = kernels_vector(rng, p->kind, n);
    float *g = test_guard(n * sizeof *g);
    double size, sum = 0, squares = kernels_dot(x, x, n, &size);
    check_close(p, "sum_squares", 0, p->isa->sum_squares(x, n), squares,
                kernels_dot_tolerance(n, size));
    float greatest = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        greatest = x[i] > greatest ? x[i] : greatest;
    }
    assert_true(p->isa->max(x, n) == greatest);

    memcpy(g, x, n * sizeof *g);
    double got = p->isa->exp_sum(g, n, greatest);
    for (size_t i = 0; i < n; i++) {
        sum += g[i];
    }
    check_close(p, "exp_sum", 0, (float)got, sum, kernels_dot_tolerance(n, sum));

    for (size_t i = 0; i < TEST_COUNT(rules); i++) {
        check_activation(p, &rules[i], x, u, n);
        check_activation(p, &rules[i], x, NULL, n);
    }
    test_guard_free(x, n * sizeof *x);
    test_guard_free(u, n * sizeof *u);
    test_guard_free(g, n * sizeof *g);
}

static void test_floats(void **state) {
    struct test_rng rng = {3};
    (void)state;
    const struct dot_isa *isa;
    for (size_t i = 0; (isa = dot_isa_at(i)); i++) {
        struct place p = {.isa = isa};
        check_exp(&p, -110, 90, 200001);
        check_exp(&p, -1, 1, 100003);
        check_exp(&p, 88.70f, 88.73f, 1001);
        check_exp(&p, -104, -87, 10001);
        check_exp_edges(&p);
        check_activation_nan(isa);
        for (int kind = 0; kind < KIND_COUNT; kind++) {
            p.kind = (enum kind)kind;
            for (size_t n = 1; n < 70; n++) {
                check_floats(&p, &rng, n);
            }
            check_floats(&p, &rng, 1003);
        }
        assert_true(p.isa->max(NULL, 0) == -INFINITY);
    }
}

/* Halves are rounded as base's f32_to_f16 does, for every class of float. */
static void test_halves(void **state) {
    struct test_rng rng = {4};
    (void)state;
    enum { N = 4099 };
    float *x = test_guard(N * sizeof *x);
    uint16_t *h = test_guard(N * sizeof *h);
    const struct dot_isa *isa;
    for (size_t i = 0; (isa = dot_isa_at(i)); i++) {
        for (int round = 0; round < 50; round++) {
            for (size_t k = 0; k < N; k++) {
                uint32_t bits = (uint32_t)test_u64(&rng);
                memcpy(&x[k], &bits, sizeof bits);
                x[k] = k % 3 == 0 ? ldexpf(test_f32(&rng), (int)(bits % 48) - 30) : x[k];
            }
            isa->to_f16(x, N, h);
            for (size_t k = 0; k < N; k++) {
                if (isnan(x[k])) {
                    assert_true(isnan(f16_to_f32(h[k])));
                } else {
                    assert_int_equal(h[k], f32_to_f16(x[k]));
                }
            }
        }
    }
    test_guard_free(x, N * sizeof *x);
    test_guard_free(h, N * sizeof *h);
}

/* ---- gated delta net ------------------------------------------------------------------------ */

/* Every table gives the bits of the scalar one, and one token at a time those of all together; what
 * they are is for test_kernels_delta. */
static void check_delta(struct test_rng *rng, uint32_t k_dim, uint32_t v_dim, uint32_t n) {
    const size_t n_state = (size_t)k_dim * v_dim, v_stride = v_dim + 5, n_out = (size_t)n * v_dim;
    const size_t n_v = (n - 1) * v_stride + v_dim;
    float *before = kernels_vector(rng, KIND_NORMAL, n_state), *S = test_guard(n_state * sizeof *S);
    float *q = kernels_vector(rng, KIND_NORMAL, (size_t)n * k_dim),
          *k = kernels_vector(rng, KIND_NORMAL, (size_t)n * k_dim),
          *v = kernels_vector(rng, KIND_NORMAL, n_v),
          *numbers = kernels_vector(rng, KIND_NORMAL, 2 * n);
    float *out = test_guard(n_out * sizeof *out), *want = mem_calloc(n_out, sizeof *want),
          *want_S = mem_calloc(n_state, sizeof *want_S);
    struct place p = {.rows = k_dim, .cols = v_dim};
    for (size_t i = 0; (p.isa = dot_isa_at(i)); i++) {
        struct dot_delta d = {k_dim, v_dim, n, q, k, v, v_stride, numbers, numbers + n, out};
        memcpy(S, before, n_state * sizeof *S);
        memset(out, 0xff, n_out * sizeof *out);
        p.isa->delta_steps(S, &d);
        if (i == 0) {
            memcpy(want, out, n_out * sizeof *want);
            memcpy(want_S, S, n_state * sizeof *S);
        }
        check_same(&p, "delta_steps", out, want, n_out);
        check_same(&p, "state", S, want_S, n_state);
        memcpy(S, before, n_state * sizeof *S);
        memset(out, 0xff, n_out * sizeof *out);
        for (uint32_t t = 0; t < n; t++) {
            struct dot_delta one = {k_dim,
                                    v_dim,
                                    1,
                                    q + t * k_dim,
                                    k + t * k_dim,
                                    v + t * v_stride,
                                    v_stride,
                                    numbers + t,
                                    numbers + n + t,
                                    out + (size_t)t * v_dim};
            p.isa->delta_steps(S, &one);
        }
        check_same(&p, "delta_steps one by one", out, want, n_out);
        check_same(&p, "state one by one", S, want_S, n_state);
    }
    test_guard_free(before, n_state * sizeof *before);
    test_guard_free(S, n_state * sizeof *S);
    test_guard_free(q, (size_t)n * k_dim * sizeof *q);
    test_guard_free(k, (size_t)n * k_dim * sizeof *k);
    test_guard_free(v, n_v * sizeof *v);
    test_guard_free(numbers, 2 * n * sizeof *numbers);
    test_guard_free(out, n_out * sizeof *out);
    free(want);
    free(want_S);
}

static void test_delta(void **state) {
    static const uint32_t k_dims[] = {1, 7, 64}, tokens[] = {1, 2, 3, 9};
    struct test_rng rng = {5};
    (void)state;
    for (uint32_t v_dim = 1; v_dim < 100; v_dim += v_dim < 34 ? 1 : 13) {
        for (size_t i = 0; i < TEST_COUNT(k_dims); i++) {
            for (size_t n = 0; n < TEST_COUNT(tokens); n++) {
                check_delta(&rng, k_dims[i], v_dim, tokens[n]);
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_codecs), cmocka_unit_test(test_panels), cmocka_unit_test(test_floats),
        cmocka_unit_test(test_halves), cmocka_unit_test(test_delta),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
