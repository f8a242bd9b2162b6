#include "prep/hf/hf_numbers.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prep/gguf/gguf_block.h"

#define COUNT(list) (sizeof(list) / sizeof *(list))

enum { MOST_GROUP = 32, GROUP_BYTES = 8 /* that all groups are multiples of */ };

/* ---- the table ---- */

struct number_format {
    const char *name, *dtype;
    const char *tensor;          /* what the tensor's name ends with, */
    const char *scales, *global; /* and what stands in its place; NULL: there is none */
    const char *scale_types;     /* dtypes that scales may have */
    uint32_t group;      /* numbers of a row that share a scale, and lie two in a byte; 0: blocks */
    bool divided;        /* by the global scale */
    bool kept;           /* the codec takes no more bytes */
    enum codec_id codec; /* that holds the numbers */
};

#define ANY "F32, BF16, F16, F8_E8M0, U8"
#define FP8(tensor, scales)                                                                        \
    { "FP8", "F8_E4M3", tensor, scales, NULL, ANY, 0, false, false, CODEC_F32 }
#define NVFP4(tensor, global, divided)                                                             \
    { "NVFP4", "U8", tensor, "_scale", global, "F8_E4M3", 16, divided, false, CODEC_F32 }
#define MXFP4(tensor, scales)                                                                      \
    { "MXFP4", "U8", tensor, scales, NULL, "U8, F8_E8M0", 32, false, true, CODEC_BF16 }
static const struct number_format formats[] = {
    {"BF16", "BF16", "", .kept = true, .codec = CODEC_BF16},
    {"F16", "F16", "", .kept = true, .codec = CODEC_F16},
    {"F32", "F32", "", .kept = true, .codec = CODEC_F32},
    FP8("", "_scale_inv"),
    FP8("", "_scale"),
    FP8(".weight", ".qscale_weight"),
    NVFP4("", "_scale_2", false),
    NVFP4("_packed", "_global_scale", true),
    MXFP4("_packed", "_scale"),
    MXFP4("_blocks", "_scales"),
};

/* All types of GGUF that are in blocks. MXFP4 is a small number times a power of two. */
static const struct number_format in_blocks = {.name = "blocks", .codec = CODEC_F32};
static const struct number_format in_mxfp4_blocks = {.name = "MXFP4", .codec = CODEC_BF16};

/* Tensors that say how activations, keys and values are to be rounded, by their endings. */
static const char *const of_activations[] = {
    ".input_scale",    ".activation_scale",  "_activation_scale", ".input_global_scale",
    ".input_scale_ub", ".output_scale",      ".qscale_act",       ".q_scale",
    ".k_scale",        ".v_scale",           ".kv_scale",         ".prob_scale",
    ".attn_scale",     ".prob_output_scale",
};

/* ---- names ---- */

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

bool hf_numbers_of_activations(const char *name) {
    size_t i = 0;
    while (i < COUNT(of_activations) && !ends_with(name, of_activations[i])) {
        i++;
    }
    return i < COUNT(of_activations);
}

bool hf_numbers_row(size_t i, struct hf_numbers_row *row) {
    if (i >= COUNT(formats)) {
        return false;
    }
    const struct number_format *f = &formats[i];
    *row = (struct hf_numbers_row){f->name, f->dtype, f->tensor, f->scales, f->global};
    return true;
}

/* Whether a tensor's name is that of a format. */
static bool is_named(const struct number_format *f, const struct st_tensor *t) {
    bool own = f->tensor[0] == '_' || (!ends_with(t->name, "_packed") &&
                                       !ends_with(t->name, "_blocks")); /* have rows of their own */
    return own && ends_with(t->name, f->tensor);
}

/* Whether a tensor can be of a format, as far as it alone tells. */
static bool may_be(const struct number_format *f, const struct st_tensor *t) {
    return is_named(f, t) && strcmp(f->dtype, t->dtype_name) == 0;
}

/* The name of the tensor beside `t` that has `end` in place of the format's ending. To free(). */
static char *name_beside(const struct number_format *f, const struct st_tensor *t,
                         const char *end) {
    return mem_printf("%.*s%s", (int)(strlen(t->name) - strlen(f->tensor)), t->name, end);
}

static const struct st_tensor *find_beside(const struct safetensors *st,
                                           const struct number_format *f, const struct st_tensor *t,
                                           const char *end) {
    char *name = name_beside(f, t, end);
    const struct st_tensor *beside = st_find(st, name);
    free(name);
    return beside;
}

static int refuse_dtype(const struct st_tensor *t, const char *list, struct err *err) {
    return err_set(err, "%s: tensor \"%s\": dtype %s is not supported; supported: %s", t->file,
                   t->name, t->dtype_name, list);
}

static int refuse_missing(const struct st_tensor *t, const char *names, struct err *err) {
    return err_set(err, "%s: tensor %s is missing: the scales of \"%s\"", t->file, names, t->name);
}

/* Add a word to a list, unless it is in there. */
static void add_once(struct buf *list, const char *between, const char *word) {
    size_t gap = strlen(between), len = strlen(word);
    bool there = false;
    for (const char *p = list->data; list->len && !there && (p = strstr(p, word)); p++) {
        const size_t before = (size_t)(p - list->data);
        const bool begins = before == 0 || (before >= gap && strncmp(p - gap, between, gap) == 0);
        there = begins && (p[len] == '\0' || strncmp(p + len, between, gap) == 0);
    }
    if (!there) {
        buf_printf(list, "%s%s", list->len ? between : "", word);
    }
}

/* No format has the dtype of a tensor: tell which ones those of its name have. */
static int refuse_tensor(const struct st_tensor *t, struct err *err) {
    struct buf plain = {0}, scaled = {0};
    for (size_t i = 0; i < COUNT(formats); i++) {
        if (is_named(&formats[i], t)) {
            add_once(formats[i].scales ? &scaled : &plain, ", ", formats[i].dtype);
        }
    }
    buf_printf(&plain, "%swith scales %s", plain.len ? ", and " : "", scaled.data);
    int rc = refuse_dtype(t, plain.data, err);
    buf_free(&plain);
    buf_free(&scaled);
    return rc;
}

/* No format has the tensors that there are: tell what the nearest one lacks. That is the scale of
 * all where its other scales are there, then scales of a dtype that it has, then scales. */
static int refuse(const struct st_tensor *t, const struct safetensors *st, struct err *err) {
    struct buf names = {0}, types = {0}; /* that scales could have */
    const struct st_tensor *other = NULL;
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < COUNT(formats); i++) {
        const struct number_format *f = &formats[i];
        const struct st_tensor *scales = may_be(f, t) ? find_beside(st, f, t, f->scales) : NULL;
        bool fits = scales && strstr(f->scale_types, scales->dtype_name);
        if (scales && !fits) {
            other = other ? other : scales;
            if (other == scales) {
                add_once(&types, ", ", f->scale_types);
            }
        } else if (may_be(f, t)) {
            char *name = name_beside(f, t, fits ? f->global : f->scales);
            char *quoted = mem_printf("\"%s\"", name);
            if (fits) {
                rc = refuse_missing(t, quoted, err);
            } else {
                add_once(&names, " or ", quoted);
            }
            free(name);
            free(quoted);
        }
    }
    if (rc == 0) {
        rc = other       ? refuse_dtype(other, types.data, err)
             : names.len ? refuse_missing(t, names.data, err)
                         : refuse_tensor(t, err);
    }
    buf_free(&names);
    buf_free(&types);
    return rc;
}

int hf_numbers_find(struct hf_numbers *n, const struct safetensors *st, const char *name,
                    struct hf_blocks blocks, struct err *err) {
    *n = (struct hf_numbers){.blocks = blocks, .tensor = st_find(st, name)};
    if (!n->tensor) {
        char *packed = mem_printf("%s_packed", name);
        n->tensor = st_find(st, packed);
        free(packed);
    }
    n->block = n->tensor ? gguf_block_by_name(n->tensor->dtype_name) : NULL;
    if (n->block) {
        n->format = strcmp(n->block->name, "MXFP4") == 0 ? &in_mxfp4_blocks : &in_blocks;
        return 1;
    }
    for (size_t i = 0; n->tensor && i < COUNT(formats); i++) {
        const struct number_format *f = &formats[i];
        if (!may_be(f, n->tensor)) {
            continue;
        }
        n->scales = f->scales ? find_beside(st, f, n->tensor, f->scales) : NULL;
        n->global = f->global ? find_beside(st, f, n->tensor, f->global) : NULL;
        bool scaled = n->scales && strstr(f->scale_types, n->scales->dtype_name);
        if ((scaled || !f->scales) && (n->global || !f->global)) {
            n->format = f;
            return 1;
        }
    }
    return n->tensor ? refuse(n->tensor, st, err) : 0;
}

void hf_numbers_tensors(const struct hf_numbers *n,
                        const struct st_tensor *tensors[HF_NUMBERS_TENSORS]) {
    tensors[0] = n->tensor;
    tensors[1] = n->scales;
    tensors[2] = n->global;
}

/* ---- shapes ---- */

static int refuse_shape(const struct st_tensor *t, const char *expected, struct err *err) {
    char got[192];
    return err_set(err, "%s: tensor \"%s\": shape is %s, %s", t->file, t->name,
                   st_shape_text(t, got), expected);
}

static int check_shape(const struct st_tensor *t, const uint64_t *shape, uint32_t n_dims,
                       bool vector, struct err *err) {
    struct st_tensor want = *t;
    want.n_dims = vector ? 1 : n_dims;
    memcpy(want.shape, vector ? shape + n_dims - 1 : shape, want.n_dims * sizeof *shape);
    bool same = t->n_dims == n_dims && memcmp(t->shape, shape, n_dims * sizeof *shape) == 0;
    if (vector && t->n_dims == 1) {
        same = t->shape[0] == shape[n_dims - 1];
    }
    if (!same) {
        char expected[192], text[256];
        snprintf(text, sizeof text, "the configuration implies %s", st_shape_text(&want, expected));
        return refuse_shape(t, text, err);
    }
    return 0;
}

/* Two numbers in a byte, and a scale for each group of a row. */
static int lay_groups(struct hf_numbers *n, const uint64_t *shape, uint32_t n_dims,
                      struct err *err) {
    const uint32_t group = n->format->group;
    uint64_t want[ST_MAX_DIMS];
    memcpy(want, shape, n_dims * sizeof *shape);
    if (n->cols % group != 0) {
        return err_set(err, "%s: tensor \"%s\": %s needs rows of a multiple of %u columns",
                       n->tensor->file, n->tensor->name, n->format->name, group);
    }
    bool apart = ends_with(n->format->tensor, "_blocks"); /* groups are a dimension */
    want[n_dims - 1] = apart ? n->cols / group : n->cols / 2;
    want[n_dims] = group / 2;
    if (check_shape(n->tensor, want, n_dims + apart, false, err) < 0) {
        return -1;
    }
    n->blocks = (struct hf_blocks){.rows = 1, .cols = group};
    n->grid_rows = n->rows;
    n->grid_cols = want[n_dims - 1] = n->cols / group;
    n->grid_step = n->grid_rows * n->grid_cols;
    return check_shape(n->scales, want, n_dims, false, err);
}

static uint64_t ceil_div(uint64_t a, uint64_t b) {
    return b ? a / b + (a % b != 0) : 0;
}

/* How many scales stand below each other and beside each other for a matrix of the tensor; 0: no
 * grid. Dimensions of 1 may be left out where the scales are one for all or for each row. */
static void find_grid(struct hf_numbers *n, uint64_t matrices, uint32_t n_dims) {
    const struct st_tensor *s = n->scales;
    uint64_t elements = 1;
    for (uint32_t d = 0; d < s->n_dims; d++) {
        elements *= s->shape[d] < UINT32_MAX ? s->shape[d] : 0;
    }
    bool one = elements == 1;
    n->grid_rows = n->grid_cols = 0;
    if (one || (s->n_dims == 1 && n_dims == 3 && s->shape[0] == matrices)) {
        n->grid_rows = n->grid_cols = 1;
    } else if (s->n_dims == 1 && n_dims == 2) {
        n->grid_rows = s->shape[0] == n->rows ? n->rows : 0;
        n->grid_cols = 1;
    } else if (s->n_dims == n_dims && (n_dims == 2 || s->shape[0] == matrices)) {
        n->grid_rows = s->shape[n_dims - 2];
        n->grid_cols = s->shape[n_dims - 1];
    }
    if (n->blocks.by_output && n_dims == 3 && n->grid_cols == 1 && n->grid_rows == n->cols) {
        n->grid_rows = 1;
        n->grid_cols = n->cols;
    }
    n->grid_step = one ? 0 : n->grid_rows * n->grid_cols;
}

/* Whether the blocks of a grid follow from the tensor's shape alone: one for all, for each row, for
 * each column or for each 32 of a row; or, where the configuration says nothing of blocks, any that
 * divide both dimensions. */
static bool is_even(const struct hf_numbers *n) {
    enum { MX_GROUP = 32 };
    uint64_t rows = n->grid_rows, cols = n->grid_cols;
    if (rows == 0 || cols == 0 || n->rows % rows != 0 || n->cols % cols != 0) {
        return false;
    }
    return (n->blocks.rows == 0 && !n->blocks.by_output) || (rows == 1 && cols == 1) ||
           (rows == n->rows && (cols == 1 || cols * MX_GROUP == n->cols)) ||
           (rows == 1 && cols == n->cols);
}

static int refuse_grid(const struct hf_numbers *n, uint64_t want_rows, uint64_t want_cols,
                       struct err *err) {
    char blocks[96] = "", text[256];
    if (n->blocks.rows) {
        snprintf(blocks, sizeof blocks, "for each block of %u x %u (%" PRIu64 " x %" PRIu64 "), ",
                 n->blocks.rows, n->blocks.cols, want_rows, want_cols);
    } else if (!n->blocks.by_output) {
        snprintf(blocks, sizeof blocks, "for each of blocks that divide it evenly, ");
    }
    snprintf(text, sizeof text,
             "expected a scale of [%" PRIu64 ", %" PRIu64
             "] %sfor each row, for each column, for each 32 of a row, or one",
             n->rows, n->cols, blocks);
    return refuse_shape(n->scales, text, err);
}

/* A grid of scales over the last two dimensions, each for a block of the configuration's size, the
 * last ones smaller; or an even one. */
static int lay_blocks(struct hf_numbers *n, const uint64_t *shape, uint32_t n_dims,
                      struct err *err) {
    const struct hf_blocks config = n->blocks;
    uint64_t want_rows = ceil_div(n->rows, config.rows), want_cols = ceil_div(n->cols, config.cols);
    find_grid(n, n_dims == 3 ? shape[0] : 1, n_dims);
    bool told = config.rows && n->grid_rows == want_rows && n->grid_cols == want_cols;
    if (!told && !is_even(n)) {
        return refuse_grid(n, want_rows, want_cols, err);
    }
    n->blocks.rows =
        (uint32_t)(told && config.rows < n->rows ? config.rows : n->rows / n->grid_rows);
    n->blocks.cols =
        (uint32_t)(told && config.cols < n->cols ? config.cols : n->cols / n->grid_cols);
    return check_shape(n->tensor, shape, n_dims, false, err);
}

int hf_numbers_lay(struct hf_numbers *n, const uint64_t *shape, uint32_t n_dims, bool vector,
                   struct err *err) {
    if (!n->scales) {
        return check_shape(n->tensor, shape, n_dims, vector, err);
    }
    n->rows = shape[n_dims - 2];
    n->cols = shape[n_dims - 1];
    if (n->global && (n->global->dtype != ST_F32 || n->global->bytes != sizeof(float))) {
        return err_set(err, "%s: tensor \"%s\": is %s of %" PRIu64 " bytes, expected one F32",
                       n->global->file, n->global->name, n->global->dtype_name, n->global->bytes);
    }
    return (n->format->group ? lay_groups : lay_blocks)(n, shape, n_dims, err);
}

/* ---- reading ---- */

/* F8_E4M3 without its sign: the exponent's first row has no leading 1; the last code is NaN. */
#define E4M3_EIGHT(unit)                                                                           \
    8 * (unit), 9 * (unit), 10 * (unit), 11 * (unit), 12 * (unit), 13 * (unit), 14 * (unit),       \
        15 * (unit)
#define E4M3_HALF(unit)                                                                            \
    0 * (unit), 1 * (unit), 2 * (unit), 3 * (unit), 4 * (unit), 5 * (unit), 6 * (unit),            \
        7 * (unit), E4M3_EIGHT(unit), E4M3_EIGHT(2 * (unit)), E4M3_EIGHT(4 * (unit)),              \
        E4M3_EIGHT(8 * (unit)), E4M3_EIGHT(16 * (unit)), E4M3_EIGHT(32 * (unit)),                  \
        E4M3_EIGHT(64 * (unit)), E4M3_EIGHT(128 * (unit)), E4M3_EIGHT(256 * (unit)),               \
        E4M3_EIGHT(512 * (unit)), E4M3_EIGHT(1024 * (unit)), E4M3_EIGHT(2048 * (unit)),            \
        E4M3_EIGHT(4096 * (unit)), E4M3_EIGHT(8192 * (unit)), 8 * 16384 * (unit),                  \
        9 * 16384 * (unit), 10 * 16384 * (unit), 11 * 16384 * (unit), 12 * 16384 * (unit),         \
        13 * 16384 * (unit), 14 * 16384 * (unit), NAN
static const float e4m3[256] = {E4M3_HALF(0x1p-9f), E4M3_HALF(-0x1p-9f)};

/* The two numbers of a byte of E2M1, the low nibble first. */
#define E2M1_ROW(high)                                                                             \
    {0.0f, high}, {0.5f, high}, {1.0f, high}, {1.5f, high}, {2.0f, high}, {3.0f, high},            \
        {4.0f, high}, {6.0f, high}, {-0.0f, high}, {-0.5f, high}, {-1.0f, high}, {-1.5f, high},    \
        {-2.0f, high}, {-3.0f, high}, {-4.0f, high}, {                                             \
        -6.0f, high                                                                                \
    }
static const float e2m1[256][2] = {
    E2M1_ROW(0.0f),  E2M1_ROW(0.5f),  E2M1_ROW(1.0f),  E2M1_ROW(1.5f),
    E2M1_ROW(2.0f),  E2M1_ROW(3.0f),  E2M1_ROW(4.0f),  E2M1_ROW(6.0f),
    E2M1_ROW(-0.0f), E2M1_ROW(-0.5f), E2M1_ROW(-1.0f), E2M1_ROW(-1.5f),
    E2M1_ROW(-2.0f), E2M1_ROW(-3.0f), E2M1_ROW(-4.0f), E2M1_ROW(-6.0f),
};

/* 2^(code - 127); 255 is NaN. */
static float power_of_two(uint8_t code) {
    uint32_t bits = code == 255 ? 0x7fc00000u : code == 0 ? 0x00400000u : (uint32_t)code << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return scale;
}

static float scale_at(const struct st_tensor *t, uint64_t index) {
    float scale;
    if (t->dtype == ST_F8_E4M3) {
        return e4m3[t->data[index]];
    }
    if (t->dtype == ST_U8 || t->dtype == ST_F8_E8M0) {
        return power_of_two(t->data[index]);
    }
    st_read_f32(t, index, 1, &scale);
    return scale;
}

/* "[1, 2]" of an element. Returns `text`. */
static const char *index_text(const struct st_tensor *t, uint64_t element, char text[192]) {
    struct st_tensor at = *t; /* its "shape" becomes the element's index */
    for (uint32_t d = t->n_dims; d-- > 0;) {
        at.shape[d] = element % t->shape[d];
        element /= t->shape[d];
    }
    return st_shape_text(&at, text);
}

int hf_numbers_refuse(const struct hf_numbers *n, uint64_t element, const char *what,
                      struct err *err) {
    const struct st_tensor *t = n->tensor;
    char text[192];
    return err_set(err, "%s: tensor \"%s\": weight %s %s", t->file, t->name,
                   index_text(t, n->format->group ? element / 2 : element, text), what);
}

static int refuse_scale(const struct st_tensor *t, uint64_t index, struct err *err) {
    char text[192];
    return err_set(err, "%s: tensor \"%s\": scale %s is %g, expected a finite positive number",
                   t->file, t->name, index_text(t, index, text), (double)scale_at(t, index));
}

static bool is_scale(float x) {
    return x > 0 && x <= FLT_MAX;
}

static void decode_e4m3(const uint8_t *restrict src, uint64_t n, float scale, float *restrict dst) {
    for (uint64_t i = 0; i < n; i++) {
        dst[i] = e4m3[src[i]] * scale;
    }
}

/* GROUP_BYTES bytes of two numbers each, the low nibble first. */
static void decode_e2m1(const uint8_t *restrict src, float scale, float *restrict dst) {
    for (uint32_t i = 0; i < GROUP_BYTES; i++) {
        dst[2 * i] = e2m1[src[i]][0] * scale;
        dst[2 * i + 1] = e2m1[src[i]][1] * scale;
    }
}

/* Blocks along the rows. */
static int read_blocks(const struct hf_numbers *n, uint64_t first, uint64_t count, float *dst,
                       struct err *err) {
    const uint8_t *src = n->tensor->data + first;
    uint64_t row = first / n->cols, col = first % n->cols;
    for (; count > 0; row++, col = 0) {
        uint64_t scales =
            row / n->rows * n->grid_step + row % n->rows / n->blocks.rows * n->grid_cols;
        for (; col < n->cols && count > 0;) {
            uint64_t block = col / n->blocks.cols, end = (block + 1) * n->blocks.cols;
            uint64_t some = (end < n->cols ? end : n->cols) - col;
            some = some < count ? some : count;
            float scale = scale_at(n->scales, scales + block);
            if (!is_scale(scale)) {
                return refuse_scale(n->scales, scales + block, err);
            }
            decode_e4m3(src, some, scale, dst);
            src += some;
            dst += some;
            col += some;
            count -= some;
        }
    }
    return 0;
}

/* Groups of a row, of which there are as many for each row. That a group's scale is 0 happens where
 * all of its numbers are small beside those of other rows: they are 0. */
static int read_groups(const struct hf_numbers *n, uint64_t first, uint64_t count, float *dst,
                       struct err *err) {
    const uint32_t group = n->format->group;
    float global = n->global ? scale_at(n->global, 0) : 1, x[MOST_GROUP];
    if (!is_scale(global)) {
        return refuse_scale(n->global, 0, err);
    }
    while (count > 0) {
        uint64_t at = first / group, skip = first % group;
        uint64_t some = group - skip < count ? group - skip : count;
        const uint8_t *src = n->tensor->data + at * (group / 2);
        float scale = scale_at(n->scales, at);
        if (scale != 0 && !is_scale(scale)) {
            return refuse_scale(n->scales, at, err);
        }
        scale = n->format->divided ? scale / global : scale * global;
        float *to = some == group ? dst : x;
        for (uint32_t i = 0; i < group / 2; i += GROUP_BYTES) {
            decode_e2m1(src + i, scale, to + 2 * i);
        }
        if (to == x) {
            memcpy(dst, x + skip, some * sizeof *x);
        }
        dst += some;
        first += some;
        count -= some;
    }
    return 0;
}

int hf_numbers_read(const struct hf_numbers *n, uint64_t first, uint64_t count, float *dst,
                    struct err *err) {
    if (n->scales) {
        return (n->format->group ? read_groups : read_blocks)(n, first, count, dst, err);
    }
    if (n->block) {
        gguf_block_read(n->block, n->tensor->data, first, count, dst);
        return 0;
    }
    st_read_f32(n->tensor, first, count, dst);
    return 0;
}

/* ---- sizes ---- */

/* Whether f32 is more than the numbers need. */
static bool is_narrow(const struct hf_numbers *n, enum st_dtype dtype) {
    return n->tensor->dtype == ST_F32 && n->tensor->holds == dtype;
}

enum codec_id hf_numbers_codec(const struct hf_numbers *n) {
    return is_narrow(n, ST_BF16) ? CODEC_BF16 : is_narrow(n, ST_F16) ? CODEC_F16 : n->format->codec;
}

bool hf_numbers_as_they_lie(const struct hf_numbers *n) {
    return !n->scales && !n->block && hf_numbers_codec(n) == n->format->codec;
}

const char *hf_numbers_blocks(const struct hf_numbers *n) {
    return n->block ? n->block->name : NULL;
}

const char *hf_numbers_unkept(const struct hf_numbers *n) {
    return n->block ? n->block->name : n->format->kept ? NULL : n->format->name;
}

uint64_t hf_numbers_bytes(const struct hf_numbers *n, uint64_t count) {
    if (n->block) {
        return count / n->block->numbers * n->block->bytes;
    }
    if (!n->scales) {
        return count * st_element_bytes(n->tensor->dtype);
    }
    uint64_t numbers = n->format->group ? count / 2 : count;
    uint64_t block = (uint64_t)n->blocks.rows * n->blocks.cols;
    return numbers + count / block * st_element_bytes(n->scales->dtype);
}

void hf_numbers_advise(const struct hf_numbers *n, uint64_t first, uint64_t end,
                       void (*advise)(const struct st_tensor *t, uint64_t first, uint64_t bytes)) {
    if (n->block) {
        const uint64_t from = first / n->block->numbers, to = (end - 1) / n->block->numbers + 1;
        advise(n->tensor, from * n->block->bytes, (to - from) * n->block->bytes);
        return;
    }
    if (!n->scales) {
        uint32_t size = st_element_bytes(n->tensor->dtype);
        advise(n->tensor, first * size, (end - first) * size);
        return;
    }
    uint32_t of_byte = n->format->group ? 2 : 1, size = st_element_bytes(n->scales->dtype);
    uint64_t top = first / n->cols, bottom = (end - 1) / n->cols; /* rows of grids are whole */
    uint64_t from = top / n->rows * n->grid_step + top % n->rows / n->blocks.rows * n->grid_cols;
    uint64_t to =
        bottom / n->rows * n->grid_step + (bottom % n->rows / n->blocks.rows + 1) * n->grid_cols;
    advise(n->tensor, first / of_byte, (end - first) / of_byte);
    advise(n->scales, from * size, (to - from) * size);
}
