/*
 * test_util_kernels: see test_util_kernels.h.
 */
#include "tests/util/test_util_kernels.h"

#include <float.h>
#include <math.h>

const char *kind_name(enum kind kind) {
    static const char *const names[KIND_COUNT] = {"normal", "zero", "tiny", "large", "spiky"};
    return names[kind];
}

static float number(struct test_rng *r, enum kind kind) {
    float x = test_f32(r);
    switch (kind) {
    case KIND_ZERO:
        return x < 0 ? -0.0f : 0.0f;
    case KIND_TINY:
        return x * 1e-39f;
    case KIND_LARGE:
        return x * 1e4f;
    case KIND_SPIKY:
        return ldexpf(x, (int)(test_u64(r) % 24) - 12);
    default:
        return x;
    }
}

void kernels_fill(struct test_rng *r, enum kind kind, float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        x[i] = number(r, kind);
    }
}

float *kernels_vector(struct test_rng *r, enum kind kind, size_t n) {
    float *x = test_guard(n * sizeof *x);
    kernels_fill(r, kind, x, n);
    return x;
}

/* A valid encoded row that the encoder need not ever make: any bytes, any scales. */
static void random_row(struct test_rng *r, const struct codec *codec, enum kind kind, uint32_t cols,
                       uint8_t *row) {
    const bool scales = codec_has_scales(codec->id), minimums = codec_has_minimums(codec->id);
    const uint32_t groups = cols / CODEC_GROUP;
    const size_t at = codec_scales_at(codec->id, cols);
    for (uint32_t i = 0; i < cols && !scales; i++) {
        float x = number(r, kind);
        x = kind == KIND_TINY && !codec->lossless_bf16 ? x * 1e34f : x; /* a smaller range */
        codec->encode_row(&x, 1, row + (size_t)i * codec->block_bytes);
    }
    if (!scales) {
        return;
    }
    for (size_t i = 0; i < at + (minimums ? 2 * groups : 0); i++) {
        row[i] = (uint8_t)test_u64(r);
    }
    for (uint32_t g = 0; g < groups && !minimums; g++) {
        float scale = number(r, kind) / 127;
        uint16_t h = f32_to_f16(kind == KIND_TINY ? scale * 1e34f : scale);
        memcpy(row + at + (size_t)g * 2, &h, 2);
    }
    float whole[2] = {number(r, kind) / (15 * 255), number(r, kind) / 255};
    if (minimums) {
        memcpy(row + at + (size_t)groups * 2, whole, sizeof whole);
    }
}

static size_t weight_bytes(const struct weight *w) {
    return (w->rows - 1) * w->stride_bytes + codec_row_bytes(w->codec, w->cols);
}

struct weight kernels_weight(struct test_rng *r, const struct codec *codec, enum kind kind,
                             uint32_t rows, uint32_t cols, size_t gap_bytes) {
    struct weight w = {codec, rows, cols, codec_row_bytes(codec, cols) + gap_bytes, NULL};
    uint8_t *data = test_guard(weight_bytes(&w));
    for (uint32_t i = 0; i < rows; i++) {
        random_row(r, codec, kind, cols, data + i * w.stride_bytes);
    }
    w.data = data;
    return w;
}

void kernels_free_weight(struct weight *w) {
    test_guard_free((uint8_t *)(uintptr_t)w->data, weight_bytes(w));
    w->data = NULL;
}

float *kernels_decode(const struct weight *w, uint32_t row) {
    float *x = mem_alloc(w->cols * sizeof *x);
    w->codec->decode_row(weight_row(w, row), w->cols, x);
    return x;
}

struct weight kernels_row(const float *x, uint32_t cols) {
    return (struct weight){codec_by_id(CODEC_F32), 1, cols, cols * sizeof(float),
                           (const uint8_t *)(const void *)x};
}

double kernels_dot(const float *a, const float *b, size_t n, double *size) {
    double sum = 0;
    *size = 0;
    for (size_t i = 0; i < n; i++) {
        sum += (double)a[i] * b[i];
        *size += fabs((double)a[i] * b[i]);
    }
    return sum;
}

double kernels_dot_tolerance(size_t n, double size) {
    return (double)FLT_EPSILON * (double)(n / 8 + 5) * size + (double)n * 0x1p-149;
}

int kernels_code(const struct weight *w, uint32_t row, uint32_t col) {
    const uint8_t *p = weight_row(w, row);
    if (w->codec->id == CODEC_Q8) {
        return (int8_t)p[col];
    }
    assert_int_equal(w->codec->id, CODEC_Q4);
    const uint32_t g = col / CODEC_GROUP, i = col % CODEC_GROUP, half = CODEC_GROUP / 2;
    const uint8_t byte = p[(size_t)g * half + i % half];
    return i < half ? byte & 15 : byte >> 4;
}

void kernels_scale(const struct weight *w, uint32_t row, uint32_t group, double *scale,
                   double *minimum) {
    const uint32_t groups = w->cols / CODEC_GROUP;
    const uint8_t *scales = weight_row(w, row) + codec_scales_at(w->codec->id, w->cols);
    float whole[2];
    uint16_t half;
    if (codec_has_minimums(w->codec->id)) {
        memcpy(whole, scales + (size_t)groups * 2, sizeof whole);
        *scale = (double)whole[0] * scales[group];
        *minimum = (double)whole[1] * scales[groups + group];
        return;
    }
    memcpy(&half, scales + (size_t)group * 2, sizeof half);
    *scale = (double)f16_to_f32(half);
    *minimum = 0;
}

double kernels_quant_error(const float *w, const float *x, size_t n) {
    double error = 0;
    for (size_t g = 0; g < n; g += CODEC_GROUP) {
        double top = 0, weights = 0;
        for (size_t i = g; i < g + CODEC_GROUP && i < n; i++) {
            top = fmax(top, fabs((double)x[i]));
            weights += fabs((double)w[i]);
        }
        /* Rounding of x * (127 / top) moves the border between two steps by an ulp of 127. */
        error += weights * (top / 127 * 0.50002 + 0x1p-100);
    }
    return error;
}

double kernels_ulps(float got, double want) {
    if (isnan(got) || isnan(want)) {
        return isnan(got) && isnan(want) ? 0 : INFINITY;
    }
    float near = (float)want;
    if (got == near) {
        return 0;
    }
    float step = nextafterf(fabsf(near), INFINITY) - fabsf(near);
    return fabs((double)got - want) / (step > 0 ? step : 0x1p-149);
}

struct backend_limits kernels_limits(void) {
    return (struct backend_limits){
        .max_rows = 96,
        .max_cols = 4096,
        .max_ffn = 1024,
        .max_active = 8,
        .max_experts = 256,
        .max_packed_bytes = (size_t)FFN_BLOCK * 3 * 4096 * 2,
        .max_ctx_tok = 512,
        .n_heads = 16,
        .head_dim = 128,
        .delta_k_dim = 128,
        .delta_v_dim = 128,
        .latent_key_dim = 576,
        .max_head_in = 512,
    };
}

void kernels_each_product(struct test_rng *r, const struct kernels_products *p) {
    const struct codec *codec;
    for (size_t c = 0; (codec = codec_at(c)); c++) {
        for (size_t s = 0; s < p->n_shapes; s++) {
            const struct kernels_shape *shape = &p->shapes[s];
            for (size_t n = 0; n < p->n_row_counts && codec_fits(codec, shape->cols); n++) {
                enum kind kind = (enum kind)((s + n) % KIND_COUNT);
                struct weight none = {0}, w = kernels_weight(r, codec, kind, shape->rows,
                                                             shape->cols, 3 * (s % 2));
                struct weight bias = kernels_weight(r, codec_by_id(CODEC_F32), kind, 1, w.rows, 0);
                p->check(p->ctx, r, &w, n % 2 ? &bias : &none, kind, p->row_counts[n]);
                kernels_free_weight(&w);
                kernels_free_weight(&bias);
            }
        }
    }
}

void kernels_logits(struct test_rng *r, int pattern, float *logits, size_t n) {
    float near = 3.0f;
    for (size_t i = 0; i < n; i++) {
        float x = test_f32(r);
        near = nextafterf(near, x < 0 ? -INFINITY : INFINITY);
        logits[i] = pattern == 0   ? x * 8
                    : pattern == 1 ? 1.5f
                    : pattern == 2 ? near
                    : pattern == 3 ? floorf(x * 2)
                    : pattern == 4 ? x * 1e4f
                    : x < 0        ? NAN
                                   : x; /* KERNELS_LOGITS_NAN */
    }
}

size_t kernels_open_cpus(struct backend *out, size_t room, const uint32_t *threads,
                         size_t n_threads) {
    struct backend_limits limits = kernels_limits();
    struct err err = {0};
    const char *isa;
    bool usable;
    size_t n = 0;
    for (size_t i = 0; (isa = backend_cpu_isa_at(i, &usable)); i++) {
        for (size_t t = 0; t < n_threads && usable; t++) {
            assert_true(n < room);
            backend_cpu_open(&out[n++], isa, threads[t], &limits, &err);
            assert_no_err(&err);
        }
    }
    return n;
}
