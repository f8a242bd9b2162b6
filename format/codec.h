/*
 * codec: how one row of weights is stored, in the archive and in memory.
 *
 * Owns: the codec table (ids are fixed by docs/FORMAT.md), the row layouts, and the scalar encode
 * and decode functions that DEFINE each codec: every kernel is compared with codec->decode_row.
 * Leaves to others: which tensor gets which codec (prep/pack), fast arithmetic on encoded rows
 * (kernels).
 * Threads: the table is constant; all functions are pure.
 *
 * A row is `cols` weights along the input dimension and decodes alone. Rows of a matrix follow one
 * another at codec_row_bytes(codec, cols), without padding. All numbers are little-endian.
 *
 *   f32   cols x f32
 *   bf16  cols x u16, the upper half of an f32
 *   f16   cols x u16, IEEE half
 *   q8    int8 q[cols], f16 scale[cols / 32]                        w = q * scale          8.5 bits
 *   q4    u8 nibbles[cols / 2], u8 sc[cols / 32], u8 mn[cols / 32],
 *         f32 S, f32 M              w = q * (S * sc) - M * mn     4.5 bits + 8 bytes a row
 *
 * Group g covers columns 32g .. 32g+31. In q4, byte j of group g's 16 bytes holds column 32g+j in
 * its low nibble and column 32g+16+j in its high nibble. `S * sc` and `M * mn` are rounded to f32
 * each, then q * d - m is computed in f32 as one multiplication and one subtraction (no fusing):
 * the scalar truth.
 */
#ifndef FORMAT_CODEC_H
#define FORMAT_CODEC_H

#include "format/base.h"

enum { CODEC_GROUP = 32 }; /* columns that share a scale, in codecs that have scales */

enum codec_id {
    CODEC_F32 = 1,
    CODEC_BF16 = 2,
    CODEC_F16 = 3,
    CODEC_Q8 = 4,
    CODEC_Q4 = 5,
};
enum { CODEC_IDS = CODEC_Q4 + 1 }; /* the greatest id and one more: length of an array by id */

struct codec {
    enum codec_id id;
    const char *name;
    uint32_t block_cols;      /* cols must be a multiple of this */
    uint32_t block_bytes;     /* bytes per block_cols columns */
    uint32_t row_extra_bytes; /* bytes a row beyond its blocks */
    bool lossless_bf16;       /* decode(encode(x)) == x for every bf16-representable x */
    float max_abs;            /* the greatest magnitude that a row may hold: its range */
    /* Encode `cols` finite weights `src` into `dst` (codec_row_bytes long, any alignment). */
    void (*encode_row)(const float *src, uint32_t cols, void *dst);
    /* Decode a whole row into `dst` [cols]. The definition of the codec. */
    void (*decode_row)(const void *src, uint32_t cols, float *dst);
};

/* The table's row for an id or a name; NULL where there is none. */
const struct codec *codec_by_id(uint32_t id);
const struct codec *codec_by_name(const char *name);
/* Row `i` of the table, NULL past its end: for listing and for tests over all codecs. */
const struct codec *codec_at(size_t i);

/* What a row with scales is made of, so that kernels need not know the codec by its name: first the
 * codes of all groups, codec_code_bytes for each; behind them
 *   without minimums   f16 scale[groups]: codes are signed, w = code * scale
 *   with minimums      u8 sc[groups], u8 mn[groups], f32 S, f32 M: codes are not negative,
 *                      w = code * (S * sc) - M * mn */
static inline uint32_t codec_code_bytes(enum codec_id id) {
    return id == CODEC_Q8 ? 32 : id == CODEC_Q4 ? 16 : 0;
}
static inline bool codec_has_scales(enum codec_id id) {
    return codec_code_bytes(id) > 0;
}
static inline bool codec_has_minimums(enum codec_id id) {
    return id == CODEC_Q4;
}
/* Where a row's scales begin. */
static inline size_t codec_scales_at(enum codec_id id, uint32_t cols) {
    return (size_t)cols * codec_code_bytes(id) / CODEC_GROUP;
}

static inline bool codec_fits(const struct codec *c, uint32_t cols) {
    return cols % c->block_cols == 0;
}
static inline size_t codec_row_bytes(const struct codec *c, uint32_t cols) {
    return (size_t)(cols / c->block_cols) * c->block_bytes + c->row_extra_bytes;
}

/* The numbers of q4's encoder: what it searches a group's fit by. Its fast forms
 * (kernels/cpu/encode.h) take the same steps, for the same bytes. Limits are relative to a row's
 * greatest magnitude: the greatest error of a weight that the search may accept, and the one that
 * is left once scales and minimums are coded in 8 bits. Half a step of the widest possible group
 * (-amax .. amax) is 1/15 = 0.067. */
enum {
    CODEC_Q4_MAX = 15,    /* the greatest code */
    CODEC_Q4_SUMS = 8,    /* partial sums over a group: weight i goes to sum i % 8 */
    CODEC_Q4_REFITS = 2,  /* steps of least squares from each beginning */
    CODEC_Q4_STEPS = 255, /* of scales and minimums */
};
#define CODEC_Q4_NARROW                                                                            \
    { 1.0f, 0.9f } /* beginnings: parts of a group's range */
#define CODEC_Q4_SEARCH_LIMIT 0.09f
#define CODEC_Q4_TOLERANCE 0.1f

/*
 * Encoding in steps, for rounding that looks beyond its row (prep/calib/rounding): first what the
 * row as a whole has, by its weights as they are; then the scales of a group, by its weights as
 * they have become; then weight after weight. Where no weight changes on the way, the row becomes
 * that of encode_row, byte for byte.
 */
struct codec_row {
    float units[2];  /* of a group's scale and minimum */
    float limits[2]; /* greatest errors that are accepted: while searching, at last */
};
/* What a group's codes stand for. */
struct codec_grid {
    float step, offset; /* code * step - offset */
    float inverse;      /* of step; 0 where that is 0 */
};
struct codec_steps {
    enum codec_id id;
    /* Into `dst`, a row of `cols` weights. */
    void (*begin)(const float *src, uint32_t cols, void *dst, struct codec_row *row);
    /* Fit group g to `x` [CODEC_GROUP], into `dst`. Touches bytes of this group alone. */
    void (*fit)(const float *x, uint32_t cols, uint32_t g, const struct codec_row *row, void *dst,
                struct codec_grid *grid);
    /* The nearest code of each of `n` weights in a grid of its own, and what it stands for. */
    void (*round)(const float *x, const struct codec_grid *grids, uint32_t n, uint8_t *codes,
                  float *values);
    /* Store the codes [CODEC_GROUP] of group g. Touches bytes of this group alone. */
    void (*put)(const uint8_t *codes, uint32_t g, void *dst);
};
/* NULL where a codec has none. */
const struct codec_steps *codec_steps_of(const struct codec *c);

/*
 * The only handle on a weight matrix [rows, cols], row-major; row r starts at data + r *
 * stride_bytes. A stride wider than the row lets a matrix be a view into interleaved storage (the
 * gate rows of a chunk are every third row). `data` is borrowed from whatever holds the bytes
 * (archive map, cache slot, checkpoint map). Where `data` is NULL, the model does not have this
 * matrix.
 */
struct weight {
    const struct codec *codec;
    uint32_t rows, cols;
    size_t stride_bytes;
    const uint8_t *data;
};

static inline const uint8_t *weight_row(const struct weight *w, uint32_t row) {
    return w->data + (size_t)row * w->stride_bytes;
}

/* The numbers of a matrix in f32 without padding, such as a vector; NULL where there is no data. */
static inline const float *weight_floats(const struct weight *w) {
    return (const float *)(const void *)w->data;
}

/* The greatest |decode(encode(x)) - x| that is allowed for a row whose greatest magnitude is
 * `amax`. encode_row keeps to it for every row of finite weights inside the codec's range. (Weights
 * beyond max_abs saturate; whoever encodes what people made checks them first.) Relative to amax it
 * is 2^-8 for bf16, 2^-11 for f16, half of 1/127 for q8 and 1/10 for q4; for f16 and q8 half the
 * smallest f16 is added. */
float codec_tolerance(const struct codec *c, float amax);

#endif
