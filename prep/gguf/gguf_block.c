#include "prep/gguf/gguf_block.h"

#include <string.h>

#define COUNT(list) (sizeof(list) / sizeof *(list))

static float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return f16_to_f32(h);
}

static uint32_t u32_at(const uint8_t *p) {
    uint32_t u;
    memcpy(&u, p, sizeof u);
    return u;
}

/* ---- blocks of 32 ---- */

/* Byte i of 16 has number i in its low nibble and number 16 + i in its high one. */
static void q4_0(const uint8_t *src, float *dst) {
    const float d = half_at(src);
    for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)((src[2 + i] & 15) - 8);
        dst[16 + i] = d * (float)((src[2 + i] >> 4) - 8);
    }
}

static void q4_1(const uint8_t *src, float *dst) {
    const float d = half_at(src), m = half_at(src + 2);
    for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)(src[4 + i] & 15) + m;
        dst[16 + i] = d * (float)(src[4 + i] >> 4) + m;
    }
}

/* The same nibbles; the fifth bits of all 32 numbers come before them. */
static void q5_0(const uint8_t *src, float *dst) {
    const float d = half_at(src);
    const uint32_t high = u32_at(src + 2);
    for (int i = 0; i < 16; i++) {
        int low = src[6 + i] & 15, top = src[6 + i] >> 4;
        dst[i] = d * (float)((low | (int)(high >> i & 1) << 4) - 16);
        dst[16 + i] = d * (float)((top | (int)(high >> (16 + i) & 1) << 4) - 16);
    }
}

static void q5_1(const uint8_t *src, float *dst) {
    const float d = half_at(src), m = half_at(src + 2);
    const uint32_t high = u32_at(src + 4);
    for (int i = 0; i < 16; i++) {
        int low = src[8 + i] & 15, top = src[8 + i] >> 4;
        dst[i] = d * (float)(low | (int)(high >> i & 1) << 4) + m;
        dst[16 + i] = d * (float)(top | (int)(high >> (16 + i) & 1) << 4) + m;
    }
}

static void q8_0(const uint8_t *src, float *dst) {
    const float d = half_at(src);
    for (int i = 0; i < 32; i++) {
        dst[i] = (float)(int8_t)src[2 + i] * d;
    }
}

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};

static void iq4_nl(const uint8_t *src, float *dst) {
    const float d = half_at(src);
    for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)iq4_values[src[2 + i] & 15];
        dst[16 + i] = d * (float)iq4_values[src[2 + i] >> 4];
    }
}

/* E2M1 twice as large as it is, so that the scale is half of its power of two. */
static const int8_t e2m1_twice[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

static void mxfp4(const uint8_t *src, float *dst) {
    const uint32_t bits = src[0] < 2 ? 0x00200000u << src[0] : (uint32_t)(src[0] - 1) << 23;
    float d;
    memcpy(&d, &bits, sizeof d);
    for (int i = 0; i < 16; i++) {
        dst[i] = d * (float)e2m1_twice[src[1 + i] & 15];
        dst[16 + i] = d * (float)e2m1_twice[src[1 + i] >> 4];
    }
}

/* ---- blocks of 256 ---- */

/* 16 groups, a scale (low nibble) and a minimum (high nibble) in a byte for each. Of 32 bytes with
 * four codes each, all first codes come first. */
static void q2_k(const uint8_t *src, float *dst) {
    const uint8_t *codes = src + 16;
    const float d = half_at(src + 80), m = half_at(src + 82);
    for (int i = 0; i < 256; i++) {
        const int group = i / 16, code = codes[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
        const float scale = d * (float)(src[group] & 15), least = m * (float)(src[group] >> 4);
        dst[i] = scale * (float)code - least;
    }
}

/* The lower nibbles of 16 scales of 6 bits, then their upper two bits, four in a byte. */
static int q3_scale(const uint8_t *scales, int group) {
    const int low = group < 8 ? scales[group] & 15 : scales[group - 8] >> 4;
    const int high = scales[8 + group % 4] >> group / 4 * 2 & 3;
    return (low | high << 4) - 32;
}

/* The third bits of the codes come first: bit k of byte j is number 32 k + j's; where it is not
 * set, the code is 4 less. */
static void q3_k(const uint8_t *src, float *dst) {
    const uint8_t *codes = src + 32, *scales = src + 96;
    const float d = half_at(src + 108);
    for (int i = 0; i < 256; i++) {
        const int code = codes[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
        const int high = src[i % 32] >> i / 32 & 1;
        dst[i] = d * (float)q3_scale(scales, i / 16) * (float)(code - (high ? 0 : 4));
    }
}

/* 8 scales and 8 minimums of 6 bits: those of the first four groups in the lower bits of bytes 0-3
 * and 4-7; of the others the lower nibbles are in bytes 8-11, the upper two bits where the first
 * ones leave room. */
static void q4_scale(const uint8_t *p, int group, int *scale, int *least) {
    const int k = group % 4;
    if (group < 4) {
        *scale = p[k] & 63;
        *least = p[4 + k] & 63;
    } else {
        *scale = (p[8 + k] & 15) | (p[k] >> 6) << 4;
        *least = p[8 + k] >> 4 | (p[4 + k] >> 6) << 4;
    }
}

/* Codes of groups 2k and 2k + 1 are the low and the high nibbles of 32 bytes; of Q5_K their fifth
 * bits are bits 2k and 2k + 1 of 32 others (NULL: there are none). */
static void k45(const uint8_t *src, const uint8_t *high, const uint8_t *codes, float *dst) {
    const float d = half_at(src), m = half_at(src + 2);
    for (int group = 0; group < 8; group++) {
        int scale, least;
        q4_scale(src + 4, group, &scale, &least);
        const float s = d * (float)scale, l = m * (float)least;
        for (int i = 0; i < 32; i++) {
            const int nibble = codes[group / 2 * 32 + i] >> group % 2 * 4 & 15;
            const int fifth = high ? high[i] >> group & 1 : 0;
            dst[group * 32 + i] = s * (float)(nibble | fifth << 4) - l;
        }
    }
}

static void q4_k(const uint8_t *src, float *dst) {
    k45(src, NULL, src + 16, dst);
}

static void q5_k(const uint8_t *src, float *dst) {
    k45(src, src + 16, src + 48, dst);
}

/* Two halves of 128 numbers: low nibbles of 64 bytes, then their high nibbles; upper two bits of
 * four runs of 32 in 32 bytes; 16 signed scales for 16 numbers each. */
static void q6_k(const uint8_t *src, float *dst) {
    const float d = half_at(src + 208);
    for (int i = 0; i < 256; i++) {
        const int half = i / 128, at = i % 128;
        const int low = src[half * 64 + at % 64] >> at / 64 * 4 & 15;
        const int high = src[128 + half * 32 + at % 32] >> at / 32 * 2 & 3;
        const float scale = d * (float)(int8_t)src[192 + i / 16];
        dst[i] = scale * (float)((low | high << 4) - 32);
    }
}

/* 8 scales of 6 bits: the upper two bits in 16, then the lower nibbles. */
static void iq4_xs(const uint8_t *src, float *dst) {
    const float d = half_at(src);
    const int high = src[2] | src[3] << 8;
    for (int group = 0; group < 8; group++) {
        const int low = src[4 + group / 2] >> group % 2 * 4 & 15;
        const float scale = d * (float)((low | (high >> 2 * group & 3) << 4) - 32);
        const uint8_t *codes = src + 8 + 16 * group;
        for (int i = 0; i < 16; i++) {
            dst[32 * group + i] = scale * (float)iq4_values[codes[i] & 15];
            dst[32 * group + 16 + i] = scale * (float)iq4_values[codes[i] >> 4];
        }
    }
}

/* ---- the table ---- */

static const struct gguf_block blocks[] = {
    {0, "F32", 1, 4, ST_F32, NULL},
    {1, "F16", 1, 2, ST_F16, NULL},
    {30, "BF16", 1, 2, ST_BF16, NULL},
    {2, "Q4_0", 32, 18, ST_OTHER, q4_0},
    {3, "Q4_1", 32, 20, ST_OTHER, q4_1},
    {6, "Q5_0", 32, 22, ST_OTHER, q5_0},
    {7, "Q5_1", 32, 24, ST_OTHER, q5_1},
    {8, "Q8_0", 32, 34, ST_OTHER, q8_0},
    {10, "Q2_K", 256, 84, ST_OTHER, q2_k},
    {11, "Q3_K", 256, 110, ST_OTHER, q3_k},
    {12, "Q4_K", 256, 144, ST_OTHER, q4_k},
    {13, "Q5_K", 256, 176, ST_OTHER, q5_k},
    {14, "Q6_K", 256, 210, ST_OTHER, q6_k},
    {20, "IQ4_NL", 32, 18, ST_OTHER, iq4_nl},
    {23, "IQ4_XS", 256, 136, ST_OTHER, iq4_xs},
    {39, "MXFP4", 32, 17, ST_OTHER, mxfp4},
    {.id = 9, .name = "Q8_1"},
    {.id = 15, .name = "Q8_K"},
    {.id = 16, .name = "IQ2_XXS"},
    {.id = 17, .name = "IQ2_XS"},
    {.id = 18, .name = "IQ3_XXS"},
    {.id = 19, .name = "IQ1_S"},
    {.id = 21, .name = "IQ3_S"},
    {.id = 22, .name = "IQ2_S"},
    {.id = 24, .name = "I8"},
    {.id = 25, .name = "I16"},
    {.id = 26, .name = "I32"},
    {.id = 27, .name = "I64"},
    {.id = 28, .name = "F64"},
    {.id = 29, .name = "IQ1_M"},
    {.id = 34, .name = "TQ1_0"},
    {.id = 35, .name = "TQ2_0"},
    {.id = 40, .name = "NVFP4"},
};

const struct gguf_block *gguf_block_at(size_t i) {
    return i < COUNT(blocks) ? &blocks[i] : NULL;
}

const struct gguf_block *gguf_block_by_id(uint32_t id) {
    size_t i = 0;
    while (i < COUNT(blocks) && blocks[i].id != id) {
        i++;
    }
    return gguf_block_at(i);
}

const struct gguf_block *gguf_block_by_name(const char *name) {
    size_t i = 0;
    while (i < COUNT(blocks) && (!blocks[i].decode || strcmp(blocks[i].name, name) != 0)) {
        i++;
    }
    return gguf_block_at(i);
}

char *gguf_block_list(void) {
    struct buf text = {0};
    for (size_t i = 0; i < COUNT(blocks) && blocks[i].bytes; i++) {
        buf_printf(&text, "%s%s", i ? ", " : "", blocks[i].name);
    }
    return text.data;
}

void gguf_block_read(const struct gguf_block *b, const uint8_t *data, uint64_t first,
                     uint64_t count, float *dst) {
    float x[GGUF_MAX_BLOCK];
    while (count > 0) {
        const uint64_t skip = first % b->numbers;
        const uint64_t some = b->numbers - skip < count ? b->numbers - skip : count;
        float *to = some == b->numbers ? dst : x;
        b->decode(data + first / b->numbers * b->bytes, to);
        if (to == x) {
            memcpy(dst, x + skip, some * sizeof *x);
        }
        dst += some;
        first += some;
        count -= some;
    }
}
