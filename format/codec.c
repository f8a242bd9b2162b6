/*
 * codec: see codec.h. The scalar definition of every codec: rows are encoded offline (the search
 * for q4 takes its time there) and decode_row is what every fast kernel is compared with.
 *
 * Encoders are handed finite weights. Should anything else reach them, the result is some valid
 * row: every conversion to an integer is clamped with comparisons that send NaN to the lower bound.
 */
#include "format/codec.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

/* q * d - m must round twice, on every machine. */
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rows are stored as the host holds them");

static const float f16_max = 65504.0f;

/* Ranges. What is rounded may lie half a step beyond the greatest number of a codec. The greatest
 * scale of q8 is f16's; the range of a group of q4 is the difference of two weights. */
#define bf16_max 0x1.fefffep127f
#define f16_rounds_to_max 0x1.ffdffep15f
#define q8_max (127.5f * 65504.0f)

static uint16_t load_u16(const uint8_t *p) {
    uint16_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static void store_u16(uint8_t *p, uint16_t v) {
    memcpy(p, &v, sizeof v);
}

/* ---- f32, bf16, f16 ---- */

static void f32_encode_row(const float *src, uint32_t cols, void *dst) {
    memcpy(dst, src, (size_t)cols * 4);
}

static void f32_decode_row(const void *src, uint32_t cols, float *dst) {
    memcpy(dst, src, (size_t)cols * 4);
}

static void bf16_encode_row(const float *src, uint32_t cols, void *dst) {
    uint8_t *out = dst;
    for (uint32_t i = 0; i < cols; i++) {
        store_u16(out + (size_t)i * 2, f32_to_bf16(src[i]));
    }
}

static void bf16_decode_row(const void *src, uint32_t cols, float *dst) {
    const uint8_t *in = src;
    for (uint32_t i = 0; i < cols; i++) {
        dst[i] = bf16_to_f32(load_u16(in + (size_t)i * 2));
    }
}

/* Weights beyond the range of f16 saturate: an infinity would poison every later sum. */
static float clamp_f16(float x) {
    return x > f16_max ? f16_max : x < -f16_max ? -f16_max : x;
}

static void f16_encode_row(const float *src, uint32_t cols, void *dst) {
    uint8_t *out = dst;
    for (uint32_t i = 0; i < cols; i++) {
        store_u16(out + (size_t)i * 2, f32_to_f16(clamp_f16(src[i])));
    }
}

static void f16_decode_row(const void *src, uint32_t cols, float *dst) {
    const uint8_t *in = src;
    for (uint32_t i = 0; i < cols; i++) {
        dst[i] = f16_to_f32(load_u16(in + (size_t)i * 2));
    }
}

/* ---- q8 ---- */

/* Nearest integer (ties to even) for |x| < 2^22, without a call: adding 1.5 * 2^23 leaves no
 * fraction bits. */
static inline float round_small(float x) {
    const float magic = 12582912.0f;
    return (x + magic) - magic;
}

/* `x` within lo .. hi; NaN becomes lo. */
static inline float clamp(float x, float lo, float hi) {
    x = x > lo ? x : lo;
    return x < hi ? x : hi;
}

/* The scale that q8 stores for a group: amax / 127 as f16, but never so small that the greatest
 * weight would be off by more than half a step (which rounding does to subnormal halves). */
static uint16_t q8_scale(float amax) {
    uint16_t h = f32_to_f16(clamp_f16(amax / 127.0f));
    if (amax > f16_to_f32(h) * 127.5f && f16_to_f32(h) < f16_max) {
        h++;
    }
    return h;
}

static void q8_encode_row(const float *src, uint32_t cols, void *dst) {
    int8_t *q = dst;
    uint8_t *scales = (uint8_t *)dst + cols;
    for (uint32_t g = 0; g < cols / CODEC_GROUP; g++) {
        const float *x = src + (size_t)g * CODEC_GROUP;
        float amax = 0.0f;
        for (int i = 0; i < CODEC_GROUP; i++) {
            amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
        }
        uint16_t h = q8_scale(amax);
        float scale = f16_to_f32(h);
        for (int i = 0; i < CODEC_GROUP; i++) {
            float v = scale > 0.0f ? clamp(x[i] / scale, -127.0f, 127.0f) : 0.0f;
            q[(size_t)g * CODEC_GROUP + i] = (int8_t)round_small(v);
        }
        store_u16(scales + (size_t)g * 2, h);
    }
}

static void q8_decode_row(const void *src, uint32_t cols, float *dst) {
    const int8_t *q = src;
    const uint8_t *scales = (const uint8_t *)src + cols;
    for (uint32_t g = 0; g < cols / CODEC_GROUP; g++) {
        float scale = f16_to_f32(load_u16(scales + (size_t)g * 2));
        for (uint32_t i = g * CODEC_GROUP; i < (g + 1) * CODEC_GROUP; i++) {
            dst[i] = (float)q[i] * scale;
        }
    }
}

/* ---- q4 ---- */

enum { LANES = CODEC_Q4_SUMS }; /* so that the compiler may use vector registers */

/* A group as q * d - m, with d >= 0 and m >= 0. */
struct q4_fit {
    float d, m;
};

struct q4_error {
    float squares; /* sum of squared differences */
    float greatest;
};

/* Sums over the codes of a group and its weights, for the least-squares fit of d and m. */
struct q4_sums {
    float q, qq, qx, x;
};

static inline float q4_code(float x, float inverse_d, float m) {
    return round_small(clamp((x + m) * inverse_d, 0.0f, (float)CODEC_Q4_MAX));
}

static float q4_inverse(float d) {
    return d > 0.0f ? 1.0f / d : 0.0f;
}

static float sum_lanes(const float v[LANES]) {
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

static struct q4_error q4_measure(const float x[CODEC_GROUP], float d, float m) {
    float inverse = q4_inverse(d), squares[LANES] = {0}, greatest[LANES] = {0};
    for (int k = 0; k < CODEC_GROUP; k += LANES) {
        for (int l = 0; l < LANES; l++) {
            float e = q4_code(x[k + l], inverse, m) * d - m - x[k + l];
            squares[l] += e * e;
            e = fabsf(e);
            greatest[l] = e > greatest[l] ? e : greatest[l];
        }
    }
    struct q4_error error = {sum_lanes(squares), 0.0f};
    for (int l = 0; l < LANES; l++) {
        error.greatest = greatest[l] > error.greatest ? greatest[l] : error.greatest;
    }
    return error;
}

static struct q4_sums q4_sum(const float x[CODEC_GROUP], float d, float m) {
    float inverse = q4_inverse(d);
    float q[LANES] = {0}, qq[LANES] = {0}, qx[LANES] = {0}, xs[LANES] = {0};
    for (int k = 0; k < CODEC_GROUP; k += LANES) {
        for (int l = 0; l < LANES; l++) {
            float v = q4_code(x[k + l], inverse, m);
            q[l] += v;
            qq[l] += v * v;
            qx[l] += v * x[k + l];
            xs[l] += x[k + l];
        }
    }
    return (struct q4_sums){sum_lanes(q), sum_lanes(qq), sum_lanes(qx), sum_lanes(xs)};
}

/* The fit that is best for the codes which `f` gives: least squares in d and m, or in d alone where
 * the best m would be negative. */
static struct q4_fit q4_refit(const float x[CODEC_GROUP], struct q4_fit f) {
    const float n = (float)CODEC_GROUP;
    struct q4_sums s = q4_sum(x, f.d, f.m);
    float det = n * s.qq - s.q * s.q;
    if (!(det > 0.0f)) {
        return f;
    }
    struct q4_fit best = {(n * s.qx - s.q * s.x) / det, 0.0f};
    best.m = (best.d * s.q - s.x) / n;
    if (best.m < 0.0f) {
        best = (struct q4_fit){s.qx / s.qq, 0.0f};
    }
    return best.d > 0.0f ? best : f;
}

/* Search the fit of one group: the full range (which holds 0, because m >= 0) and a narrower one,
 * each refined by least squares. Narrowing trades the outermost weights for all others; no weight
 * may pay more than `limit` for it. */
static struct q4_fit q4_search(const float x[CODEC_GROUP], float limit) {
    static const float narrow[] = CODEC_Q4_NARROW;
    float lo = 0.0f, hi = 0.0f;
    for (int i = 0; i < CODEC_GROUP; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
    }
    struct q4_fit best = {(hi - lo) / (float)CODEC_Q4_MAX, -lo};
    float least = INFINITY;
    for (size_t k = 0; k < sizeof narrow / sizeof narrow[0]; k++) {
        struct q4_fit f = {(hi - lo) / (float)CODEC_Q4_MAX * narrow[k], -lo * narrow[k]};
        for (int i = 0; i < CODEC_Q4_REFITS; i++) {
            f = q4_refit(x, f);
        }
        struct q4_error e = q4_measure(x, f.d, f.m);
        if (e.squares < least && e.greatest <= limit) {
            least = e.squares;
            best = f;
        }
    }
    return best;
}

static uint8_t q4_step(float value, float unit) {
    return unit > 0.0f ? (uint8_t)round_small(clamp(value / unit, 0.0f, (float)CODEC_Q4_STEPS)) : 0;
}

/* Code d in units of S, then the m that is best for it in units of M (unless a weight would be off
 * by more than `limit`; then the fit's own). Returns what the decoder will see. */
static struct q4_fit q4_code_fit(const float x[CODEC_GROUP], struct q4_fit f, float S, float M,
                                 float limit, uint8_t *sc, uint8_t *mn) {
    *sc = q4_step(f.d, S);
    float d = S * (float)*sc;
    struct q4_sums s = q4_sum(x, d, f.m);
    *mn = q4_step((d * s.q - s.x) / (float)CODEC_GROUP, M);
    if (!(q4_measure(x, d, M * (float)*mn).greatest <= limit)) {
        *mn = q4_step(f.m, M);
    }
    return (struct q4_fit){d, M * (float)*mn};
}

static void q4_put(const uint8_t *codes, uint32_t g, void *dst) {
    uint8_t *nibbles = (uint8_t *)dst + (size_t)g * (CODEC_GROUP / 2);
    for (int j = 0; j < CODEC_GROUP / 2; j++) {
        nibbles[j] = (uint8_t)(codes[j] | codes[j + CODEC_GROUP / 2] << 4);
    }
}

static uint8_t *q4_scales(void *dst, uint32_t cols) {
    return (uint8_t *)dst + codec_scales_at(CODEC_Q4, cols);
}

static void q4_fit_group(const float *x, uint32_t cols, uint32_t g, const struct codec_row *row,
                         void *dst, struct codec_grid *grid) {
    uint8_t *sc = q4_scales(dst, cols), *mn = sc + cols / CODEC_GROUP;
    struct q4_fit f = q4_code_fit(x, q4_search(x, row->limits[0]), row->units[0], row->units[1],
                                  row->limits[1], &sc[g], &mn[g]);
    *grid = (struct codec_grid){f.d, f.m, q4_inverse(f.d)};
}

static void q4_round(const float *x, const struct codec_grid *grids, uint32_t n, uint8_t *codes,
                     float *values) {
    for (uint32_t i = 0; i < n; i++) {
        float code = q4_code(x[i], grids[i].inverse, grids[i].offset);
        codes[i] = (uint8_t)code;
        values[i] = code * grids[i].step - grids[i].offset;
    }
}

enum { Q4_FITS = 512 }; /* groups whose fits wait; those behind are searched again */

/* The units S and M of a row, and with them its limits. They are known only once all groups are:
 * the first Q4_FITS fits wait in `fits`. */
static struct codec_row q4_units(const float *src, uint32_t cols, struct q4_fit *fits) {
    float amax = 0.0f, S = 0.0f, M = 0.0f;
    for (uint32_t i = 0; i < cols; i++) {
        amax = fabsf(src[i]) > amax ? fabsf(src[i]) : amax;
    }
    for (uint32_t g = 0; g < cols / CODEC_GROUP; g++) {
        struct q4_fit f = q4_search(src + (size_t)g * CODEC_GROUP, CODEC_Q4_SEARCH_LIMIT * amax);
        S = f.d > S ? f.d : S;
        M = f.m > M ? f.m : M;
        if (g < Q4_FITS) {
            fits[g] = f;
        }
    }
    return (struct codec_row){{S / (float)CODEC_Q4_STEPS, M / (float)CODEC_Q4_STEPS},
                              {CODEC_Q4_SEARCH_LIMIT * amax, CODEC_Q4_TOLERANCE * amax}};
}

static void q4_store_units(const struct codec_row *row, uint32_t cols, void *dst) {
    memcpy(q4_scales(dst, cols) + 2 * (cols / CODEC_GROUP), row->units, sizeof row->units);
}

static void q4_begin(const float *src, uint32_t cols, void *dst, struct codec_row *row) {
    struct q4_fit fits[Q4_FITS];
    *row = q4_units(src, cols, fits);
    q4_store_units(row, cols, dst);
}

static void q4_encode_row(const float *src, uint32_t cols, void *dst) {
    struct q4_fit fits[Q4_FITS];
    const struct codec_row row = q4_units(src, cols, fits);
    uint8_t *sc = q4_scales(dst, cols), *mn = sc + cols / CODEC_GROUP, codes[CODEC_GROUP];
    for (uint32_t g = 0; g < cols / CODEC_GROUP; g++) {
        const float *x = src + (size_t)g * CODEC_GROUP;
        struct q4_fit f = g < Q4_FITS ? fits[g] : q4_search(x, row.limits[0]);
        f = q4_code_fit(x, f, row.units[0], row.units[1], row.limits[1], &sc[g], &mn[g]);
        float inverse = q4_inverse(f.d);
        for (int i = 0; i < CODEC_GROUP; i++) {
            codes[i] = (uint8_t)q4_code(x[i], inverse, f.m);
        }
        q4_put(codes, g, dst);
    }
    q4_store_units(&row, cols, dst);
}

static void q4_decode_row(const void *src, uint32_t cols, float *dst) {
    uint32_t groups = cols / CODEC_GROUP;
    const uint8_t *nibbles = src, *sc = nibbles + cols / 2, *mn = sc + groups;
    float S, M;
    memcpy(&S, mn + groups, sizeof S);
    memcpy(&M, mn + groups + sizeof S, sizeof M);
    for (uint32_t g = 0; g < groups; g++) {
        float d = S * (float)sc[g], m = M * (float)mn[g];
        for (uint32_t j = 0; j < CODEC_GROUP / 2; j++) {
            uint8_t b = nibbles[g * (CODEC_GROUP / 2) + j];
            float *out = dst + (size_t)g * CODEC_GROUP + j;
            out[0] = (float)(b & 15) * d - m;
            out[CODEC_GROUP / 2] = (float)(b >> 4) * d - m;
        }
    }
}

/* ---- the table ---- */

enum {
    Q8_GROUP_BYTES = CODEC_GROUP + 2,
    Q4_GROUP_BYTES = CODEC_GROUP / 2 + 2,
    Q4_ROW_BYTES = 8,
};

static const struct codec codecs[] = {
    {CODEC_F32, "f32", 1, 4, 0, true, FLT_MAX, f32_encode_row, f32_decode_row},
    {CODEC_BF16, "bf16", 1, 2, 0, true, bf16_max, bf16_encode_row, bf16_decode_row},
    {CODEC_F16, "f16", 1, 2, 0, false, f16_rounds_to_max, f16_encode_row, f16_decode_row},
    {CODEC_Q8, "q8", CODEC_GROUP, Q8_GROUP_BYTES, 0, false, q8_max, q8_encode_row, q8_decode_row},
    {CODEC_Q4, "q4", CODEC_GROUP, Q4_GROUP_BYTES, Q4_ROW_BYTES, false, FLT_MAX / 2, q4_encode_row,
     q4_decode_row},
};

const struct codec *codec_at(size_t i) {
    return i < sizeof codecs / sizeof codecs[0] ? &codecs[i] : NULL;
}

const struct codec *codec_by_id(uint32_t id) {
    for (size_t i = 0; i < sizeof codecs / sizeof codecs[0]; i++) {
        if ((uint32_t)codecs[i].id == id) {
            return &codecs[i];
        }
    }
    return NULL;
}

const struct codec *codec_by_name(const char *name) {
    for (size_t i = 0; i < sizeof codecs / sizeof codecs[0]; i++) {
        if (strcmp(codecs[i].name, name) == 0) {
            return &codecs[i];
        }
    }
    return NULL;
}

static const struct codec_steps steps[] = {
    {CODEC_Q4, q4_begin, q4_fit_group, q4_round, q4_put},
};

const struct codec_steps *codec_steps_of(const struct codec *c) {
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        if (steps[i].id == c->id) {
            return &steps[i];
        }
    }
    return NULL;
}

float codec_tolerance(const struct codec *c, float amax) {
    switch (c->id) {
    case CODEC_F32:
        return 0.0f;
    case CODEC_BF16: /* half of the last of 8 significant bits */
        return amax * 0x1p-8f;
    case CODEC_F16: /* half of the last of 11 bits; below 2^-14 half of the fixed step 2^-24 */
        return amax * 0x1p-11f + 0x1p-25f;
    case CODEC_Q8: /* half a step; the scale is rounded to 11 bits, or to a multiple of 2^-24 */
        return amax / 127.0f * 0.5f * 1.001f + 0x1p-25f;
    case CODEC_Q4:
        return amax * CODEC_Q4_TOLERANCE;
    }
    die("codec %d has no tolerance", (int)c->id);
}
