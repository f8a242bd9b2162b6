#include "format/corm_predict.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, MAX_COLS = 4096, ANY = 0 };

struct kind_rule {
    const char *name;
    bool by_ahead; /* several a layer, by lookahead; else one, with ahead 0 */
    bool is_f32;   /* read as floats where it lies (a bias, a table), and finite; else any codec */
};
static const struct kind_rule rules[PREDICT_KINDS] = {
    [PREDICT_MEAN_OUT] = {"mean_out", false, false},
    [PREDICT_EXPERT_IN] = {"expert_in", true, false},
    [PREDICT_EXPERT_OUT] = {"expert_out", true, false},
    [PREDICT_EXPERT_BIAS] = {"expert_bias", true, true},
    [PREDICT_RANK_P] = {"rank_p", true, true},
    [PREDICT_CHUNK_BASIS] = {"chunk_basis", false, false},
    [PREDICT_CHUNK_PRIOR] = {"chunk_prior", false, true},
    [PREDICT_CHUNK_BETA] = {"chunk_beta", false, false},
    [PREDICT_LOSS_DROP] = {"loss_drop", false, true},
    [PREDICT_SCORES] = {"scores", false, true},
    [PREDICT_CHUNK_GATES] = {"chunk_gates", false, false},
    [PREDICT_CHUNK_GATE_BETA] = {"chunk_gate_beta", false, false},
    [PREDICT_CHUNK_GATE_BIAS] = {"chunk_gate_bias", false, true},
};

const char *corm_predict_kind_name(uint32_t kind) {
    return kind < PREDICT_KINDS ? rules[kind].name : NULL;
}

/* Expected rows and columns of a kind; ANY where the entry decides. */
static void expected_shape(uint32_t kind, const struct arch *a, uint32_t chunks, uint32_t levels,
                           uint64_t *rows, uint64_t *cols) {
    uint64_t e = a->n_experts, d = a->dim;
    const uint64_t shapes[PREDICT_KINDS][2] = {
        [PREDICT_MEAN_OUT] = {e, d},          [PREDICT_EXPERT_IN] = {ANY, d},
        [PREDICT_EXPERT_OUT] = {e, ANY},      [PREDICT_EXPERT_BIAS] = {1, e},
        [PREDICT_RANK_P] = {1, ANY},          [PREDICT_CHUNK_BASIS] = {ANY, d},
        [PREDICT_CHUNK_PRIOR] = {e, chunks},  [PREDICT_CHUNK_BETA] = {e * chunks, ANY},
        [PREDICT_LOSS_DROP] = {1, levels},    [PREDICT_SCORES] = {1, ANY},
        [PREDICT_CHUNK_GATES] = {ANY, d},     [PREDICT_CHUNK_GATE_BETA] = {e * chunks, ANY},
        [PREDICT_CHUNK_GATE_BIAS] = {e, ANY},
    };
    *rows = shapes[kind][0];
    *cols = shapes[kind][1];
}

/* A projection has no more directions than what it projects: so scratch of the model's width
 * serves. */
static bool shape_fits(const struct corm_predict_entry *e, uint64_t rows, uint64_t cols,
                       const struct arch *a) {
    bool is_projection = e->kind != PREDICT_RANK_P && e->kind != PREDICT_SCORES;
    uint32_t most_cols = is_projection ? a->dim : MAX_COLS;
    uint64_t most_rows = e->kind == PREDICT_CHUNK_GATES ? (uint64_t)a->n_experts * a->dim : a->dim;
    return e->rows > 0 && e->cols > 0 && (rows == ANY ? e->rows <= most_rows : e->rows == rows) &&
           (cols == ANY && e->kind != PREDICT_LOSS_DROP ? e->cols <= most_cols : e->cols == cols);
}

static int check_values(const struct corm_predict_entry *e, const uint8_t *data, struct err *err) {
    for (uint64_t i = 0; i < (uint64_t)e->rows * e->cols; i++) {
        float v;
        memcpy(&v, data + i * sizeof v, sizeof v);
        if (!isfinite(v) || (e->kind == PREDICT_LOSS_DROP && !(v >= 0 && v < 1))) {
            return err_set(err, "predictors: %s of layer %u: value %llu is %g", rules[e->kind].name,
                           e->layer, (unsigned long long)i, (double)v);
        }
    }
    return 0;
}

static int check_entry(const struct corm_predict *p, const struct corm_predict_entry *e,
                       size_t size, const struct arch *a, uint32_t chunks, struct err *err) {
    const char *name = corm_predict_kind_name(e->kind);
    const struct codec *codec = codec_by_id(e->codec);
    if (!name) {
        return err_set(err, "predictors: entry %u: unknown kind %u", (uint32_t)(e - p->entries),
                       e->kind);
    }
    const struct kind_rule *rule = &rules[e->kind];
    if (!codec || (rule->is_f32 && e->codec != CODEC_F32)) {
        return err_set(err, "predictors: %s of layer %u: codec %u is unknown, or not one for it",
                       name, e->layer, e->codec);
    }
    if (e->ahead > (rule->by_ahead ? PREDICT_MAX_AHEAD : 0) || e->layer >= a->n_layers ||
        e->ahead >= a->n_layers - e->layer || !arch_is_moe(a, e->layer) ||
        !arch_is_moe(a, e->layer + e->ahead)) {
        return err_set(err, "predictors: %s: layer %u, ahead %u: the model has no experts there",
                       name, e->layer, e->ahead);
    }
    uint64_t rows, cols, bytes, end;
    expected_shape(e->kind, a, chunks, p->header->n_levels, &rows, &cols);
    if (!shape_fits(e, rows, cols, a) || !codec_fits(codec, e->cols)) {
        return err_set(err,
                       "predictors: %s of layer %u: shape [%u, %u], expected [%llu, %llu] (0: up "
                       "to %u)",
                       name, e->layer, e->rows, e->cols, (unsigned long long)rows,
                       (unsigned long long)cols, a->dim);
    }
    if (!size_mul(e->rows, codec_row_bytes(codec, e->cols), &bytes) ||
        !size_add(e->offset, bytes, &end) || end > size || e->offset % ALIGN != 0) {
        return err_set(err,
                       "predictors: %s of layer %u lies outside the section, or not at a "
                       "multiple of %d",
                       name, e->layer, ALIGN);
    }
    return rule->is_f32 ? check_values(e, p->data + e->offset, err) : 0;
}

/* The order of entries: by kind, layer, ahead. */
static int compare(const struct corm_predict_entry *e, uint32_t kind, uint32_t layer,
                   uint32_t ahead) {
    if (e->kind != kind) {
        return e->kind < kind ? -1 : 1;
    }
    if (e->layer != layer) {
        return e->layer < layer ? -1 : 1;
    }
    return e->ahead < ahead ? -1 : e->ahead > ahead;
}

static int check_order(const struct corm_predict *p, struct err *err) {
    for (uint32_t i = 1; i < p->header->n_entries; i++) {
        const struct corm_predict_entry *e = &p->entries[i];
        if (compare(e - 1, e->kind, e->layer, e->ahead) >= 0) {
            return err_set(err, "predictors: entry %u is not after the one before it", i);
        }
    }
    return 0;
}

/* A correction is whole or absent, and its parts agree on the rank. */
static int check_groups(const struct corm_predict *p, const struct arch *a, struct err *err) {
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t ahead = 0; ahead <= PREDICT_MAX_AHEAD; ahead++) {
            struct weight in = corm_predict_get(p, PREDICT_EXPERT_IN, l, ahead);
            struct weight out = corm_predict_get(p, PREDICT_EXPERT_OUT, l, ahead);
            struct weight bias = corm_predict_get(p, PREDICT_EXPERT_BIAS, l, ahead);
            if (!in.data != !out.data || !in.data != !bias.data || in.rows != out.cols) {
                return err_set(err,
                               "predictors: expert correction of layer %u, ahead %u is incomplete",
                               l, ahead);
            }
        }
        struct weight basis = corm_predict_get(p, PREDICT_CHUNK_BASIS, l, 0);
        struct weight beta = corm_predict_get(p, PREDICT_CHUNK_BETA, l, 0);
        struct weight prior = corm_predict_get(p, PREDICT_CHUNK_PRIOR, l, 0);
        if (!basis.data != !beta.data || basis.rows != beta.cols || (beta.data && !prior.data)) {
            return err_set(err, "predictors: chunk predictor of layer %u is incomplete", l);
        }
        struct weight gates = corm_predict_get(p, PREDICT_CHUNK_GATES, l, 0);
        struct weight gate_beta = corm_predict_get(p, PREDICT_CHUNK_GATE_BETA, l, 0);
        if (!gates.data != !gate_beta.data || (gates.data && !beta.data) ||
            gates.rows != (uint64_t)gate_beta.cols * a->n_experts) {
            return err_set(err, "predictors: gates of the chunk predictor of layer %u do not fit",
                           l);
        }
        struct weight gate_bias = corm_predict_get(p, PREDICT_CHUNK_GATE_BIAS, l, 0);
        if (gate_bias.data && gate_bias.cols != gate_beta.cols) {
            return err_set(err, "predictors: biases of the gates of layer %u do not fit", l);
        }
    }
    return 0;
}

static int check_header(const struct corm_predict_header *h, size_t size, struct err *err) {
    if (size < sizeof *h) {
        return err_set(err, "predictors: section of %zu bytes is shorter than its header", size);
    }
    if (h->version != PREDICT_VERSION) {
        return err_set(err, "predictors: version %u, this program reads %d", h->version,
                       PREDICT_VERSION);
    }
    if (h->n_levels > PREDICT_MAX_LEVELS || h->reserved != 0 ||
        h->n_entries > (size - sizeof *h) / sizeof(struct corm_predict_entry)) {
        return err_set(err, "predictors: %u entries and %u levels do not fit the section",
                       h->n_entries, h->n_levels);
    }
    for (uint32_t i = 0; i < PREDICT_MAX_LEVELS; i++) {
        if (i < h->n_levels ? !(h->levels[i] > (i ? h->levels[i - 1] : 0)) || h->levels[i] > 100
                            : h->levels[i] != 0) {
            return err_set(err, "predictors: loss levels do not ascend in 0 .. 100 %%");
        }
    }
    return 0;
}

int corm_predict_open(struct corm_predict *p, const void *data, size_t size,
                      const struct arch *arch, uint32_t chunks_per_expert, struct err *err) {
    *p = (struct corm_predict){0};
    if (size == 0) {
        return 0;
    }
    const struct corm_predict_header *h = data;
    if (check_header(h, size, err) < 0) {
        return -1;
    }
    struct corm_predict view = {data, h, (const struct corm_predict_entry *)(h + 1)};
    if (check_order(&view, err) < 0) {
        return -1;
    }
    for (uint32_t i = 0; i < h->n_entries; i++) {
        if (check_entry(&view, &view.entries[i], size, arch, chunks_per_expert, err) < 0) {
            return -1;
        }
    }
    if (check_groups(&view, arch, err) < 0) {
        return -1;
    }
    *p = view;
    return 0;
}

struct weight corm_predict_get(const struct corm_predict *p, enum predict_kind kind, uint32_t layer,
                               uint32_t ahead) {
    uint32_t low = 0, high = p->header ? p->header->n_entries : 0;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        const struct corm_predict_entry *e = &p->entries[middle];
        int order = compare(e, kind, layer, ahead);
        if (order == 0) {
            const struct codec *codec = codec_by_id(e->codec);
            return (struct weight){codec, e->rows, e->cols, codec_row_bytes(codec, e->cols),
                                   p->data + e->offset};
        }
        low = order < 0 ? middle + 1 : low;
        high = order < 0 ? high : middle;
    }
    return (struct weight){0};
}

int corm_predict_level(const struct corm_predict *p, float percent) {
    for (uint32_t i = 0; p->header && i < p->header->n_levels; i++) {
        if (p->header->levels[i] == percent) {
            return (int)i;
        }
    }
    return -1;
}

/* ---- building ---- */

void corm_predict_add(struct corm_predict_builder *b, enum predict_kind kind, uint32_t layer,
                      uint32_t ahead, enum codec_id codec_id, const float *values, uint32_t rows,
                      uint32_t cols) {
    static const char zeros[ALIGN];
    const struct codec *codec = codec_by_id(codec_id);
    size_t row_bytes = codec_row_bytes(codec, cols);
    b->entries = mem_grow(b->entries, (size_t)b->n_entries + 1, &b->cap, sizeof *b->entries);
    b->entries[b->n_entries++] = (struct corm_predict_entry){.kind = kind,
                                                             .layer = layer,
                                                             .ahead = ahead,
                                                             .codec = codec_id,
                                                             .rows = rows,
                                                             .cols = cols,
                                                             .offset = b->body.len};
    uint8_t *row = mem_alloc(row_bytes);
    for (uint32_t r = 0; r < rows; r++) {
        codec->encode_row(values + (size_t)r * cols, cols, row);
        buf_append(&b->body, row, row_bytes);
    }
    free(row);
    buf_append(&b->body, zeros, align_up(b->body.len, ALIGN) - b->body.len);
}

void corm_predict_drop(struct corm_predict_builder *b) {
    free(b->entries);
    buf_free(&b->body);
    *b = (struct corm_predict_builder){0};
}

void corm_predict_merge(struct corm_predict_builder *b, struct corm_predict_builder *from) {
    size_t n = (size_t)b->n_entries + from->n_entries;
    b->entries = mem_grow(b->entries, n, &b->cap, sizeof *b->entries);
    for (uint32_t i = 0; i < from->n_entries; i++) {
        b->entries[b->n_entries] = from->entries[i];
        b->entries[b->n_entries++].offset += b->body.len;
    }
    buf_append(&b->body, from->body.data, from->body.len);
    corm_predict_drop(from);
}

static int by_name(const void *va, const void *vb) {
    const struct corm_predict_entry *b = vb;
    int order = compare(va, b->kind, b->layer, b->ahead);
    if (order == 0) {
        die("%s of layer %u, ahead %u was added twice", rules[b->kind].name, b->layer, b->ahead);
    }
    return order;
}

void corm_predict_finish(struct corm_predict_builder *b, struct buf *out) {
    static const char zeros[ALIGN];
    struct corm_predict_header h = {PREDICT_VERSION, b->n_entries, b->n_levels, 0, {0}};
    memcpy(h.levels, b->levels, b->n_levels * sizeof *h.levels);
    size_t table = sizeof h + b->n_entries * sizeof *b->entries, body = align_up(table, ALIGN);
    for (uint32_t i = 0; i < b->n_entries; i++) {
        b->entries[i].offset += body;
    }
    if (b->n_entries > 1) {
        qsort(b->entries, b->n_entries, sizeof *b->entries, by_name);
    }
    buf_append(out, &h, sizeof h);
    buf_append(out, b->entries, b->n_entries * sizeof *b->entries);
    buf_append(out, zeros, body - table);
    buf_append(out, b->body.data, b->body.len);
    corm_predict_drop(b);
}

uint32_t corm_predict_first_target(const struct arch *a, uint32_t layer) {
    for (uint32_t l = layer + 1; l < a->n_layers && l <= layer + PREDICT_MAX_AHEAD; l++) {
        if (arch_is_moe(a, l)) {
            return arch_is_moe(a, layer) ? l : UINT32_MAX;
        }
    }
    return UINT32_MAX;
}

/* Whether calibration adds a matrix of this name when it has seen `layer`. What it adds at its end
 * is not among them. */
static bool is_of_layer(const struct corm_predict_entry *e, const struct arch *a, uint32_t layer) {
    if (e->kind == PREDICT_LOSS_DROP || e->kind == PREDICT_SCORES || e->layer > layer) {
        return false;
    }
    return e->kind == PREDICT_MEAN_OUT ? corm_predict_first_target(a, e->layer) == layer
                                       : e->ahead == layer - e->layer;
}

int corm_predict_check(const struct corm_predict_builder *b, const struct arch *arch,
                       uint32_t chunks_per_expert, uint32_t layer, struct err *err) {
    enum { MOST_ENTRIES = PREDICT_KINDS * (PREDICT_MAX_AHEAD + 1) };
    for (uint32_t i = 0; i < b->n_entries; i++) {
        const struct corm_predict_entry *e = &b->entries[i];
        bool twice = i >= MOST_ENTRIES;
        for (uint32_t j = 0; j < i && !twice; j++) {
            twice = compare(&b->entries[j], e->kind, e->layer, e->ahead) == 0;
        }
        if (twice || !is_of_layer(e, arch, layer) || e->offset > b->body.len) {
            return err_set(err, "predictors: entry %u is not one of layer %u, or there twice", i,
                           layer);
        }
    }
    struct corm_predict_builder copy = {.n_entries = b->n_entries, .cap = b->n_entries};
    copy.entries = mem_alloc(b->n_entries * sizeof *copy.entries);
    if (b->n_entries > 0) {
        memcpy(copy.entries, b->entries, b->n_entries * sizeof *copy.entries);
    }
    buf_append(&copy.body, b->body.data, b->body.len);
    struct buf section = {0};
    struct corm_predict view;
    corm_predict_finish(&copy, &section);
    int status = corm_predict_open(&view, section.data, section.len, arch, chunks_per_expert, err);
    buf_free(&section);
    return status;
}
