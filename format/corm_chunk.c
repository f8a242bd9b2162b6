/*
 * corm_chunk: see corm_chunk.h.
 *
 * Of a 16-bit weight one byte compresses well (bf16: the exponent, about 2.6 bits; f16: sign,
 * exponent and two bits, about 5.5) and the other one not at all. Planes keep the second as it is,
 * first in the chunk, and give the first to zstd alone: mixed in one frame they would share a
 * Huffman table and lose most of the gain. Matches do not pay in such data, so zstd is told to do
 * entropy coding only: that is smaller AND faster to decode than its usual levels. bf16 has
 * something better still: corm_exponents, practically as small, decodes several times faster and
 * can be used as it is stored. So bf16 becomes planes only where somebody asks for zstd.
 */
#include "format/corm_chunk.h"

#include <stdlib.h>
#include <string.h>

#include <zstd.h>

#include "format/corm_exponents.h"

enum {
    LEVEL_PLANE = -100,       /* practically no search for matches */
    LEVEL_BLOCKS = 1,         /* quantized weights: higher levels gain nothing */
    LEVEL_MOST = 19,          /* ... but a frame: these take gains below a 64th, too */
    LITERALS_ALWAYS_CODED = 1 /* ZSTD_ps_enable, which only the static-linking header names */
};

static bool has_two_bytes(const struct codec *codec) {
    return codec->id == CODEC_BF16 || codec->id == CODEC_F16;
}

bool corm_chunk_may_be(uint32_t encoding, const struct codec *codec) {
    switch (encoding) {
    case CORM_ENCODING_RAW:
        return true;
    case CORM_ENCODING_ZSTD:
        return !has_two_bytes(codec);
    case CORM_ENCODING_PLANES:
        return has_two_bytes(codec);
    case CORM_ENCODING_EXPONENTS:
        return codec->id == CODEC_BF16;
    default:
        return false;
    }
}

/* ---- planes ---- */

/* bf16 is sign, 8 bits of exponent, 7 of fraction: rotated left by one, the exponent is the upper
 * byte. */
static inline uint16_t rotate_left(uint16_t v) {
    return (uint16_t)(v << 1 | v >> 15);
}

static inline uint16_t rotate_right(uint16_t v) {
    return (uint16_t)(v >> 1 | v << 15);
}

/* Weights are loaded and stored with memcpy: chunks are bytes, of any alignment. */
static inline uint16_t load(const uint8_t *weights, size_t i) {
    uint16_t v;
    memcpy(&v, weights + i * 2, sizeof v);
    return v;
}

static inline void store(uint8_t *weights, size_t i, uint16_t v) {
    memcpy(weights + i * 2, &v, sizeof v);
}

static void split_bf16(const uint8_t *restrict src, size_t n, uint8_t *restrict low,
                       uint8_t *restrict high) {
    for (size_t i = 0; i < n; i++) {
        uint16_t v = rotate_left(load(src, i));
        low[i] = (uint8_t)v;
        high[i] = (uint8_t)(v >> 8);
    }
}

static void split_f16(const uint8_t *restrict src, size_t n, uint8_t *restrict low,
                      uint8_t *restrict high) {
    for (size_t i = 0; i < n; i++) {
        uint16_t v = load(src, i);
        low[i] = (uint8_t)v;
        high[i] = (uint8_t)(v >> 8);
    }
}

static void merge_bf16(const uint8_t *restrict low, const uint8_t *restrict high, size_t n,
                       uint8_t *restrict dst) {
    for (size_t i = 0; i < n; i++) {
        store(dst, i, rotate_right((uint16_t)(low[i] | high[i] << 8)));
    }
}

static void merge_f16(const uint8_t *restrict low, const uint8_t *restrict high, size_t n,
                      uint8_t *restrict dst) {
    for (size_t i = 0; i < n; i++) {
        store(dst, i, (uint16_t)(low[i] | high[i] << 8));
    }
}

/* ---- compressing ---- */

struct corm_packer {
    const struct codec *codec;
    ZSTD_CCtx *zstd;
    uint8_t *plane;     /* [raw bytes / 2] */
    uint8_t *frame;     /* of PLANES and ZSTD, in the worst case */
    uint8_t *exponents; /* of EXPONENTS */
    size_t capacity;    /* raw bytes that the buffers are made for */
};

static void set_parameter(ZSTD_CCtx *zstd, ZSTD_cParameter what, int value) {
    size_t rc = ZSTD_CCtx_setParameter(zstd, what, value);
    if (ZSTD_isError(rc)) {
        die("zstd %s: parameter %d: %s", ZSTD_versionString(), (int)what, ZSTD_getErrorName(rc));
    }
}

static int usual_level(const struct codec *codec) {
    return has_two_bytes(codec) ? LEVEL_PLANE : LEVEL_BLOCKS;
}

struct corm_packer *corm_packer_new(const struct codec *codec) {
    struct corm_packer *p = mem_calloc(1, sizeof *p);
    p->codec = codec;
    p->zstd = ZSTD_createCCtx();
    if (!p->zstd) {
        die_memory(0);
    }
    set_parameter(p->zstd, ZSTD_c_compressionLevel, usual_level(codec));
    if (has_two_bytes(codec)) {
        /* Where a zstd does not know it, frames are only larger; but 1.3.9 and later do. */
        (void)ZSTD_CCtx_setParameter(p->zstd, ZSTD_c_experimentalParam5, LITERALS_ALWAYS_CODED);
    }
    return p;
}

void corm_packer_free(struct corm_packer *p) {
    if (p) {
        ZSTD_freeCCtx(p->zstd);
        free(p->plane);
        free(p->frame);
        free(p->exponents);
        free(p);
    }
}

static void reserve(struct corm_packer *p, size_t raw_bytes) {
    if (raw_bytes <= p->capacity) {
        return;
    }
    free(p->plane);
    free(p->frame);
    free(p->exponents);
    p->plane = mem_alloc_aligned(raw_bytes / 2);
    p->frame = mem_alloc_aligned(raw_bytes / 2 + ZSTD_compressBound(raw_bytes));
    p->exponents =
        p->codec->id == CODEC_BF16 ? mem_alloc(corm_exponents_bound(raw_bytes / 2)) : NULL;
    p->capacity = raw_bytes;
}

static struct corm_packed pack_exponents(struct corm_packer *p, const uint8_t *raw, size_t bytes) {
    reserve(p, bytes);
    size_t n = corm_exponents_pack(raw, bytes / 2, p->exponents);
    return (struct corm_packed){CORM_ENCODING_EXPONENTS, p->exponents, n};
}

/* PLANES or ZSTD. */
static struct corm_packed pack_frame(struct corm_packer *p, enum corm_encoding encoding,
                                     const uint8_t *raw, size_t bytes) {
    reserve(p, bytes);
    const uint8_t *input = raw;
    size_t kept = 0, input_bytes = bytes;
    if (encoding == CORM_ENCODING_PLANES) {
        kept = input_bytes = bytes / 2;
        input = p->plane;
        if (p->codec->id == CODEC_BF16) {
            split_bf16(raw, bytes / 2, p->frame, p->plane);
        } else {
            split_f16(raw, bytes / 2, p->frame, p->plane);
        }
    }
    size_t n = ZSTD_compress2(p->zstd, p->frame + kept, ZSTD_compressBound(input_bytes), input,
                              input_bytes);
    if (ZSTD_isError(n)) {
        die("zstd cannot compress %zu bytes: %s", input_bytes, ZSTD_getErrorName(n));
    }
    return (struct corm_packed){encoding, p->frame, kept + n};
}

struct corm_packed corm_packer_pack_as(struct corm_packer *p, enum corm_encoding encoding,
                                       const uint8_t *raw, size_t bytes) {
    return encoding == CORM_ENCODING_EXPONENTS ? pack_exponents(p, raw, bytes)
                                               : pack_frame(p, encoding, raw, bytes);
}

struct corm_packed corm_packer_pack(struct corm_packer *p, enum corm_compress how,
                                    const uint8_t *raw, size_t bytes) {
    assert(how != CORM_COMPRESS_NONE && corm_compress_check(how, p->codec, NULL) == 0);
    if (how != CORM_COMPRESS_ZSTD && p->codec->id == CODEC_BF16) {
        return pack_exponents(p, raw, bytes);
    }
    enum corm_encoding encoding =
        has_two_bytes(p->codec) ? CORM_ENCODING_PLANES : CORM_ENCODING_ZSTD;
    struct corm_packed packed = pack_frame(p, encoding, raw, bytes);
    if (how == CORM_COMPRESS_ZSTD && packed.bytes >= bytes) {
        set_parameter(p->zstd, ZSTD_c_compressionLevel, LEVEL_MOST);
        packed = pack_frame(p, encoding, raw, bytes);
        set_parameter(p->zstd, ZSTD_c_compressionLevel, usual_level(p->codec));
    }
    return packed;
}

/* ---- decoding ---- */

struct corm_decoder {
    ZSTD_DCtx *zstd;
    uint8_t *plane; /* [plane_bytes] */
    size_t plane_bytes;
    void (*exponents)(struct corm_exponents *e, size_t n, uint8_t *dst);
};

struct corm_decoder *corm_decoder_sized(size_t max_raw_bytes) {
    struct corm_decoder *d = mem_calloc(1, sizeof *d);
    d->zstd = ZSTD_createDCtx();
    if (!d->zstd) {
        die_memory(0);
    }
    d->plane_bytes = max_raw_bytes / 2;
    d->plane = mem_alloc_aligned(d->plane_bytes);
    d->exponents = corm_exponents_decode;
    return d;
}

void corm_decoder_use(struct corm_decoder *d,
                      void (*exponents)(struct corm_exponents *e, size_t n, uint8_t *dst)) {
    d->exponents = exponents;
}

void corm_decoder_free(struct corm_decoder *d) {
    if (d) {
        ZSTD_freeDCtx(d->zstd);
        free(d->plane);
        free(d);
    }
}

/* Exactly one frame of exactly `raw_bytes`. */
static int unpack_frame(struct corm_decoder *d, const uint8_t *frame, size_t frame_bytes,
                        uint8_t *dst, size_t raw_bytes, struct err *err) {
    size_t one = ZSTD_findFrameCompressedSize(frame, frame_bytes);
    if (ZSTD_isError(one)) {
        return err_set(err, "zstd: %s", ZSTD_getErrorName(one));
    }
    if (one != frame_bytes) {
        return err_set(err, "zstd: the frame has %zu bytes, expected %zu", one, frame_bytes);
    }
    size_t n = ZSTD_decompressDCtx(d->zstd, dst, raw_bytes, frame, frame_bytes);
    if (ZSTD_isError(n)) {
        return err_set(err, "zstd: %s", ZSTD_getErrorName(n));
    }
    if (n != raw_bytes) {
        return err_set(err, "zstd: the frame holds %zu bytes, expected %zu", n, raw_bytes);
    }
    return 0;
}

int corm_decoder_unpack(struct corm_decoder *d, const struct codec *codec,
                        enum corm_encoding encoding, const uint8_t *stored, size_t stored_bytes,
                        uint8_t *dst, size_t raw_bytes, struct err *err) {
    if (encoding == CORM_ENCODING_RAW) {
        memcpy(dst, stored, raw_bytes);
        return 0;
    }
    if (encoding == CORM_ENCODING_ZSTD) {
        return unpack_frame(d, stored, stored_bytes, dst, raw_bytes, err);
    }
    size_t n = raw_bytes / 2;
    if (encoding == CORM_ENCODING_EXPONENTS) {
        if (corm_exponents_check(stored, stored_bytes, n, err) < 0) {
            return -1;
        }
        struct corm_exponents e = corm_exponents_open(stored, stored_bytes, n);
        d->exponents(&e, n, dst);
        return 0;
    }
    if (n > d->plane_bytes) {
        return err_set(err, "decoder is made for %zu weights, the chunk has %zu", d->plane_bytes,
                       n);
    }
    if (unpack_frame(d, stored + n, stored_bytes - n, d->plane, n, err) < 0) {
        return -1;
    }
    if (codec->id == CODEC_BF16) {
        merge_bf16(stored, d->plane, n, dst);
    } else {
        merge_f16(stored, d->plane, n, dst);
    }
    return 0;
}
