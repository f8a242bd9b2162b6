/*
 * dot_ref: the tables of dot.h in plain C, on any machine: the definition that the other files are
 * compared with. Floats are summed in vectors of 8 lanes, in the same fixed tree as theirs, so that
 * the compiler may use what vectors the base instruction set has; nothing is fused but where dot.h
 * says fma.
 */
#include "kernels/cpu/dot.h"

#include <math.h>
#include <string.h>

#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

enum { LANES = 8, SPAN = DOT_SUMS * LANES };

static float sum_lanes(const float acc[LANES]) {
    return ((acc[0] + acc[4]) + (acc[2] + acc[6])) + ((acc[1] + acc[5]) + (acc[3] + acc[7]));
}

/* The accumulator vectors of a dot product, one after the other. */
static float sum_spans(const float acc[SPAN]) {
    float sum[LANES];
    for (int l = 0; l < LANES; l++) {
        sum[l] = (acc[l] + acc[l + LANES]) + (acc[l + 2 * LANES] + acc[l + 3 * LANES]);
    }
    return sum_lanes(sum);
}

/* acc += products of n numbers, the first of which belong to acc[0]. */
static void add_products(float acc[SPAN], const float *a, const float *b, uint32_t n) {
    uint32_t k = 0;
    for (; k + SPAN <= n; k += SPAN) {
        for (uint32_t l = 0; l < SPAN; l++) {
            acc[l] += a[k + l] * b[k + l];
        }
    }
    for (uint32_t l = 0; k + l < n; l++) {
        acc[l] += a[k + l] * b[k + l];
    }
}

static float dot_floats(const float *a, const float *b, uint32_t n) {
    float acc[SPAN] = {0};
    add_products(acc, a, b, n);
    return sum_spans(acc);
}

/* ---- encoded rows --------------------------------------------------------------------------- */

static uint16_t load_u16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void f32_decode(const uint8_t *row, uint32_t cols, uint32_t first, uint32_t n, float *dst) {
    (void)cols;
    memcpy(dst, row + (size_t)first * 4, (size_t)n * 4);
}

static void bf16_decode(const uint8_t *row, uint32_t cols, uint32_t first, uint32_t n, float *dst) {
    (void)cols;
    for (uint32_t i = 0; i < n; i++) {
        dst[i] = bf16_to_f32(load_u16(row + (size_t)(first + i) * 2));
    }
}

static void f16_decode(const uint8_t *row, uint32_t cols, uint32_t first, uint32_t n, float *dst) {
    (void)cols;
    for (uint32_t i = 0; i < n; i++) {
        dst[i] = f16_to_f32(load_u16(row + (size_t)(first + i) * 2));
    }
}

static void q8_decode(const uint8_t *row, uint32_t cols, uint32_t first, uint32_t n, float *dst) {
    for (uint32_t i = 0; i < n; i += CODEC_GROUP) {
        float d = f16_to_f32(load_u16(row + cols + (size_t)((first + i) / CODEC_GROUP) * 2));
        for (uint32_t j = 0; j < CODEC_GROUP; j++) {
            dst[i + j] = (float)(int8_t)row[first + i + j] * d;
        }
    }
}

static void q4_decode(const uint8_t *row, uint32_t cols, uint32_t first, uint32_t n, float *dst) {
    const uint8_t *sc = row + cols / 2, *mn = sc + cols / CODEC_GROUP;
    float whole[2];
    memcpy(whole, mn + cols / CODEC_GROUP, sizeof whole);
    for (uint32_t i = 0; i < n; i += CODEC_GROUP) {
        uint32_t g = (first + i) / CODEC_GROUP;
        float d = whole[0] * (float)sc[g], m = whole[1] * (float)mn[g];
        const uint8_t *q = row + (size_t)g * (CODEC_GROUP / 2);
        for (uint32_t j = 0; j < CODEC_GROUP / 2; j++) {
            dst[i + j] = (float)(q[j] & 15) * d - m;
            dst[i + j + CODEC_GROUP / 2] = (float)(q[j] >> 4) * d - m;
        }
    }
}

/* The decode functions do a stretch of columns at a time; a stretch is a multiple of SPAN, so that
 * the sums are those of the whole row. */
enum { STRETCH = 256 };
typedef void decode_fn(const uint8_t *row, uint32_t cols, uint32_t first, uint32_t n, float *dst);

static void dot_by(decode_fn *decode, const struct dot_rows *w, const float *x, float *out) {
    const uint32_t cols = w->cols;
    for (uint32_t r = 0; r < w->n; r++) {
        float acc[SPAN] = {0}, part[STRETCH];
        for (uint32_t k = 0; k < cols; k += STRETCH) {
            uint32_t n = cols - k < STRETCH ? cols - k : STRETCH;
            decode(w->data + r * w->stride_bytes, cols, k, n, part);
            add_products(acc, part, x + k, n);
        }
        out[r] = sum_spans(acc);
    }
}

static void axpy_by(decode_fn *decode, const struct dot_rows *w, const float *a, float *y) {
    const uint32_t cols = w->cols;
    for (uint32_t r = 0; r < w->n; r++) {
        float part[STRETCH];
        for (uint32_t k = 0; k < cols; k += STRETCH) {
            uint32_t n = cols - k < STRETCH ? cols - k : STRETCH;
            decode(w->data + r * w->stride_bytes, cols, k, n, part);
            for (uint32_t i = 0; i < n; i++) {
                y[k + i] += a[r] * part[i];
            }
        }
    }
}

#define REF_DOT(name)                                                                              \
    static void name##_dot(const struct dot_rows *w, const float *x, float *out) {                 \
        dot_by(name##_decode, w, x, out);                                                          \
    }                                                                                              \
    static void name##_axpy(const struct dot_rows *w, const float *a, float *y) {                  \
        axpy_by(name##_decode, w, a, y);                                                           \
    }                                                                                              \
    static void name##_decode_spread(const uint8_t *row, uint32_t cols, float *dst) {              \
        name##_decode(row, cols, 0, cols, dst);                                                    \
    }
REF_DOT(f32)
REF_DOT(bf16)
REF_DOT(f16)

/* ---- quantised inputs ----------------------------------------------------------------------- */

static uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Nearest integer, ties to even, for |x| < 2^22: 1.5 * 2^23 leaves no room for a fraction. */
static int32_t round_small(float x) {
    const float magic = 12582912.0f;
    return (int32_t)((x + magic) - magic);
}

/* q [n] = x [n] in 8 bits with one scale, which is returned, as dot.h says of a group; *sum is that
 * of q. */
static float quantise_some(const float *x, uint32_t n, int8_t *q, int32_t *sum) {
    const uint32_t infinity = 0x7f800000;
    uint32_t top = 0; /* bits of magnitudes are ordered as they are */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t bits = bits_of(x[i]) & 0x7fffffff;
        top = bits > top ? bits : top;
    }
    memset(q, 0, n);
    *sum = 0;
    if (top >= infinity || top < bits_of(DOT_QUANT_LEAST)) {
        return top >= infinity ? NAN : 0;
    }
    float greatest, inverse;
    memcpy(&greatest, &top, sizeof greatest);
    inverse = 127.0f / greatest;
    for (uint32_t i = 0; i < n; i++) {
        q[i] = (int8_t)round_small(x[i] * inverse);
        *sum += q[i];
    }
    return greatest / 127.0f;
}

static void quantise(const float *x, uint32_t cols, const struct dot_quant *out) {
    const uint32_t groups = cols / CODEC_GROUP;
    for (uint32_t g = 0; g < groups; g++) {
        const size_t at = (size_t)g * CODEC_GROUP;
        int32_t sum;
        out->scale[g] = quantise_some(x + at, CODEC_GROUP, out->q + at, &sum);
        out->sum[g] = (float)sum * out->scale[g];
        out->offset[g] = -128 * sum;
    }
    for (size_t g = groups; g < dot_quant_groups(cols); g++) {
        out->scale[g] = out->sum[g] = 0;
        out->offset[g] = 0;
    }
}

/* The codes of group g of a row become integers in `codes`. */
static void group_codes(enum codec_id c, const uint8_t *row, uint32_t g, int32_t *codes) {
    if (c == CODEC_Q8) {
        for (uint32_t i = 0; i < CODEC_GROUP; i++) {
            codes[i] = (int8_t)row[(size_t)g * CODEC_GROUP + i];
        }
        return;
    }
    for (uint32_t i = 0; i < CODEC_GROUP / 2; i++) {
        uint8_t byte = row[(size_t)g * (CODEC_GROUP / 2) + i];
        codes[i] = byte & 15;
        codes[i + CODEC_GROUP / 2] = byte >> 4;
    }
}

static float sum_groups(float sums[DOT_GROUPS]) {
    for (int half = DOT_GROUPS / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; i++) {
            sums[i] += sums[i + half];
        }
    }
    return sums[0];
}

static float qdot_row(enum codec_id c, const uint8_t *row, uint32_t cols,
                      const struct dot_quant *x) {
    const uint32_t groups = cols / CODEC_GROUP;
    const uint8_t *scales = row + codec_scales_at(c, cols);
    const bool minimums = codec_has_minimums(c);
    float a[DOT_GROUPS] = {0}, b[DOT_GROUPS] = {0}, whole[2], y;
    for (uint32_t g = 0; g < groups; g++) {
        int32_t codes[CODEC_GROUP], sum = 0;
        const uint32_t i = g % DOT_GROUPS;
        group_codes(c, row, g, codes);
        for (uint32_t k = 0; k < CODEC_GROUP; k++) {
            sum += codes[k] * x->q[(size_t)g * CODEC_GROUP + k];
        }
        float d = minimums ? (float)scales[g] : f16_to_f32(load_u16(scales + (size_t)g * 2));
        a[i] = fmaf((float)sum, d * x->scale[g], a[i]);
        if (minimums) {
            b[i] = fmaf((float)scales[groups + g], x->sum[g], b[i]);
        }
    }
    y = sum_groups(a);
    if (minimums) {
        memcpy(whole, scales + (size_t)groups * 2, sizeof whole);
        y = whole[0] * y - whole[1] * sum_groups(b);
    }
    return y;
}

/* out [CODEC_GROUP] = columns of group g of the sum of a[r] times row r. */
static void qmix_group(enum codec_id c, const struct dot_rows *w, uint32_t g, const float *a,
                       float *out) {
    const uint32_t groups = w->cols / CODEC_GROUP;
    const size_t scales_at = codec_scales_at(c, w->cols);
    int8_t q[DOT_BLOCK_ROWS];
    float factors[DOT_BLOCK_ROWS], minimum = 0;
    int32_t sums[CODEC_GROUP] = {0}, unused;
    for (uint32_t r = 0; r < w->n; r++) {
        const uint8_t *scales = w->data + r * w->stride_bytes + scales_at;
        if (codec_has_minimums(c)) {
            float whole[2];
            memcpy(whole, scales + (size_t)groups * 2, sizeof whole);
            factors[r] = a[r] * whole[0] * (float)scales[g];
            minimum = fmaf(a[r] * whole[1], (float)scales[groups + g], minimum);
        } else {
            factors[r] = a[r] * f16_to_f32(load_u16(scales + (size_t)g * 2));
        }
    }
    const float scale = quantise_some(factors, w->n, q, &unused);
    for (uint32_t r = 0; r < w->n; r++) {
        int32_t codes[CODEC_GROUP];
        group_codes(c, w->data + r * w->stride_bytes, g, codes);
        for (uint32_t k = 0; k < CODEC_GROUP; k++) {
            sums[k] += q[r] * codes[k];
        }
    }
    for (uint32_t k = 0; k < CODEC_GROUP; k++) {
        out[k] = fmaf((float)sums[k], scale, -minimum);
    }
}

/* A panel here is the encoded rows, one after the other. */
static size_t row_bytes(enum codec_id c, uint32_t cols) {
    return codec_row_bytes(codec_by_id(c), cols);
}

#define REF_QUANT(name, id)                                                                        \
    static void name##_qdot(const struct dot_rows *w, const struct dot_quant *x, float *out) {     \
        for (uint32_t r = 0; r < w->n; r++) {                                                      \
            out[r] = qdot_row(id, w->data + r * w->stride_bytes, w->cols, x);                      \
        }                                                                                          \
    }                                                                                              \
    static void name##_qpack(const struct dot_rows *w, uint8_t *panel) {                           \
        size_t bytes = row_bytes(id, w->cols);                                                     \
        for (uint32_t r = 0; r < w->n; r++) {                                                      \
            memcpy(panel + r * bytes, w->data + r * w->stride_bytes, bytes);                       \
        }                                                                                          \
    }                                                                                              \
    static void name##_qtile(const uint8_t *panel, uint32_t n_w, uint32_t cols,                    \
                             const struct dot_quant *x, uint32_t n_x, float *y, size_t y_stride) { \
        for (uint32_t j = 0; j < n_x; j++) {                                                       \
            for (uint32_t i = 0; i < n_w; i++) {                                                   \
                y[j * y_stride + i] = qdot_row(id, panel + i * row_bytes(id, cols), cols, &x[j]);  \
            }                                                                                      \
        }                                                                                          \
    }                                                                                              \
    static void name##_qmix(const struct dot_rows *w, const float *a, float *out) {                \
        for (uint32_t g = 0; g < w->cols / CODEC_GROUP; g++) {                                     \
            qmix_group(id, w, g, a, out + (size_t)g * CODEC_GROUP);                                \
        }                                                                                          \
    }                                                                                              \
    static void name##_qmix_on(const struct dot_rows *w, const float *h, size_t h_stride,          \
                               uint32_t n_x, float *const *y) {                                    \
        for (uint32_t at = 0; at < w->cols; at += CODEC_GROUP) {                                   \
            for (uint32_t j = 0; j < n_x; j++) {                                                   \
                float sum[CODEC_GROUP];                                                            \
                qmix_group(id, w, at / CODEC_GROUP, h + j * h_stride, sum);                        \
                for (uint32_t k = 0; k < CODEC_GROUP; k++) {                                       \
                    y[j][at + k] += sum[k];                                                        \
                }                                                                                  \
            }                                                                                      \
        }                                                                                          \
    }
REF_QUANT(q8, CODEC_Q8)
REF_QUANT(q4, CODEC_Q4)

/* ---- decoded panels ------------------------------------------------------------------------- */

static void tile(const float *w, size_t w_stride, uint32_t n_w, uint32_t cols,
                 const float *const *x, uint32_t n_x, float *y, size_t y_stride) {
    for (uint32_t j = 0; j < n_x; j++) {
        for (uint32_t i = 0; i < n_w; i++) {
            y[j * y_stride + i] = dot_floats(w + i * w_stride, x[j], cols);
        }
    }
}

/* A spread row here is the row. */
static void spread(const float *x, uint32_t cols, float *dst) {
    memcpy(dst, x, cols * sizeof *x);
}

static void tile_spread(const float *w, uint32_t n_w, uint32_t cols, const float *const *x,
                        uint32_t n_x, float *y, size_t y_stride) {
    tile(w, dot_spread_floats(cols), n_w, cols, x, n_x, y, y_stride);
}

static void mix_on(const float *w, size_t w_stride, uint32_t n_w, uint32_t cols, const float *h,
                   size_t h_stride, uint32_t n_x, float *const *y) {
    for (uint32_t j = 0; j < n_x; j++) {
        for (uint32_t i = 0; i < n_w; i++) {
            for (uint32_t c = 0; c < cols; c++) {
                y[j][c] += h[j * h_stride + i] * w[i * w_stride + c];
            }
        }
    }
}

static void mix(const float *w, size_t w_stride, uint32_t n_w, uint32_t cols, const float *h,
                size_t h_stride, uint32_t n_x, float *const *y) {
    for (uint32_t j = 0; j < n_x; j++) {
        for (uint32_t k = 0; k < cols; k += STRETCH) {
            float sum[STRETCH] = {0};
            uint32_t n = cols - k < STRETCH ? cols - k : STRETCH;
            for (uint32_t i = 0; i < n_w; i++) {
                for (uint32_t c = 0; c < n; c++) {
                    sum[c] += h[j * h_stride + i] * w[i * w_stride + k + c];
                }
            }
            for (uint32_t c = 0; c < n; c++) {
                y[j][k + c] += sum[c];
            }
        }
    }
}

/* ---- plain floats --------------------------------------------------------------------------- */

static float sum_squares(const float *x, size_t n) {
    return dot_floats(x, x, (uint32_t)n);
}

static float max(const float *x, size_t n) {
    float best = -INFINITY;
    for (size_t i = 0; i < n; i++) {
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

static float exp_sum(float *x, size_t n, float greatest) {
    float acc[LANES] = {0};
    for (size_t i = 0; i < n; i++) {
        x[i] = expf(x[i] - greatest);
        acc[i % LANES] += x[i];
    }
    return sum_lanes(acc);
}

static bool has_limit(const struct ffn_rule *rule) {
    return rule->act == FFN_SILU_LIMIT && rule->limit > 0;
}

/* What the rule makes of a gate, and what it multiplies that by. */
static float act(const struct ffn_rule *rule, float g) {
    if (rule->act == FFN_GELU_TANH) {
        /* (1 + tanh(z)) / 2 = 1 / (1 + exp(-2 z)) */
        float z = 0.7978845608f * (g + 0.044715f * g * g * g);
        return g / (1.0f + expf(-2.0f * z));
    }
    if (rule->act == FFN_SWIGLU_OAI) {
        g = g > rule->limit ? rule->limit : g;
        return g / (1.0f + expf(-rule->alpha * g));
    }
    if (rule->act == FFN_RELU) {
        return g < 0.0f ? 0.0f : g; /* a NaN passes */
    }
    g = g / (1.0f + expf(-g));
    return has_limit(rule) && g > rule->limit ? rule->limit : g;
}

static float act_factor(const struct ffn_rule *rule, float u) {
    if (rule->act != FFN_SWIGLU_OAI && !has_limit(rule)) {
        return u;
    }
    u = u > rule->limit ? rule->limit : u;
    u = u < -rule->limit ? -rule->limit : u;
    return rule->act == FFN_SWIGLU_OAI ? u + 1.0f : u;
}

static void act_mul(const struct ffn_rule *rule, float *g, const float *u, size_t n) {
    for (size_t i = 0; i < n; i++) {
        g[i] = act(rule, g[i]) * (u ? act_factor(rule, u[i]) : 1.0f);
    }
}

static void delta_steps(float *S, const struct dot_delta *d) {
    for (uint32_t t = 0; t < d->n; t++) {
        const float *q = d->q + (size_t)t * d->k_dim, *k = d->k + (size_t)t * d->k_dim;
        for (uint32_t j = 0; j < d->v_dim; j++) {
            float m = 0, o = 0;
            for (uint32_t i = 0; i < d->k_dim; i++) {
                float *s = &S[(size_t)i * d->v_dim + j];
                *s *= d->decay[t];
                m = fmaf(k[i], *s, m);
            }
            float change = d->strength[t] * (d->v[t * d->v_stride + j] - m);
            for (uint32_t i = 0; i < d->k_dim; i++) {
                float *s = &S[(size_t)i * d->v_dim + j];
                *s = fmaf(k[i], change, *s);
                o = fmaf(q[i], *s, o);
            }
            d->out[(size_t)t * d->v_dim + j] = o;
        }
    }
}

static void to_f16(const float *x, size_t n, uint16_t *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = f32_to_f16(x[i]);
    }
}

static bool usable(void) {
    return true;
}

const struct dot_isa dot_ref = {
    .name = "scalar",
    .usable = usable,
    .codec =
        {
            [CODEC_F32] = {f32_dot, f32_axpy, f32_decode, f32_decode_spread},
            [CODEC_BF16] = {bf16_dot, bf16_axpy, bf16_decode, bf16_decode_spread},
            [CODEC_F16] = {f16_dot, f16_axpy, f16_decode, f16_decode_spread},
            [CODEC_Q8] = {NULL, NULL, q8_decode, NULL, q8_qdot, q8_qpack, q8_qtile, q8_qmix,
                          q8_qmix_on},
            [CODEC_Q4] = {NULL, NULL, q4_decode, NULL, q4_qdot, q4_qpack, q4_qtile, q4_qmix,
                          q4_qmix_on},
        },
    .tile = tile,
    .spread = spread,
    .tile_spread = tile_spread,
    .mix = mix,
    .mix_on = mix_on,
    .quantise = quantise,
    .sum_squares = sum_squares,
    .max = max,
    .exp_sum = exp_sum,
    .act_mul = act_mul,
    .delta_steps = delta_steps,
    .to_f16 = to_f16,
};
