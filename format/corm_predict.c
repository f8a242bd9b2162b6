#include "format/corm_predict.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGN = 64, MAX_RANK = 4096, ANY = 0 };

/* What a kind may look like; 0 = free within limits. */
struct kind_rule {
    const char *name;
    bool by_ahead; /* one a lookahead; else one a layer */
};
static const struct kind_rule rules[PREDICT_KINDS] = {
    [PREDICT_MEAN_OUT] = {"mean_out", false},
    [PREDICT_EXPERT_IN] = {"expert_in", true},
    [PREDICT_EXPERT_OUT] = {"expert_out", true},
    [PREDICT_EXPERT_BIAS] = {"expert_bias", true},
    [PREDICT_RANK_P] = {"rank_p", true},
    [PREDICT_CHUNK_BASIS] = {"chunk_basis", false},
    [PREDICT_CHUNK_PRIOR] = {"chunk_prior", false},
    [PREDICT_CHUNK_BETA] = {"chunk_beta", false},
    [PREDICT_LOSS_DROP] = {"loss_drop", false},
    [PREDICT_SCORES] = {"scores", false},
};

const char *corm_predict_kind_name(uint32_t kind) {
    return kind < PREDICT_KINDS ? rules[kind].name : NULL;
}

/* Expected rows and columns of a kind; ANY where the entry decides. */
static void expected_shape(uint32_t kind, const struct arch *a, uint32_t chunks, uint32_t levels,
                           uint64_t *rows, uint64_t *cols) {
    uint64_t e = a->n_experts, d = a->dim;
    const uint64_t shapes[PREDICT_KINDS][2] = {
        [PREDICT_MEAN_OUT] = {e, d},         [PREDICT_EXPERT_IN] = {ANY, d},
        [PREDICT_EXPERT_OUT] = {e, ANY},     [PREDICT_EXPERT_BIAS] = {1, e},
        [PREDICT_RANK_P] = {1, ANY},         [PREDICT_CHUNK_BASIS] = {ANY, d},
        [PREDICT_CHUNK_PRIOR] = {e, chunks}, [PREDICT_CHUNK_BETA] = {e * chunks, ANY},
        [PREDICT_LOSS_DROP] = {1, levels},   [PREDICT_SCORES] = {1, ANY},
    };
    *rows = shapes[kind][0];
    *cols = shapes[kind][1];
}

static int check_entry(const struct corm_predict_entry *e, uint32_t i, size_t size,
                       const struct arch *a, uint32_t chunks, uint32_t levels, struct err *err) {
    const char *name = corm_predict_kind_name(e->kind);
    const struct codec *codec = codec_by_id(e->codec);
    if (!name)
        return err_set(err, "predictors: entry %u: unknown kind %u", i, e->kind);
    if (!codec)
        return err_set(err, "predictors: %s of layer %u: unknown codec %u", name, e->layer,
                       e->codec);
    if (e->layer >= a->n_layers || e->ahead > PREDICT_MAX_AHEAD)
        return err_set(err, "predictors: %s: layer %u, ahead %u: the model has %u layers", name,
                       e->layer, e->ahead, a->n_layers);
    uint64_t rows, cols, bytes, end;
    expected_shape(e->kind, a, chunks, levels, &rows, &cols);
    if ((rows != ANY && e->rows != rows) || (cols != ANY && e->cols != cols) || e->rows == 0 ||
        e->cols == 0 || (rows == ANY && e->rows > MAX_RANK) ||
        (cols == ANY && e->cols > MAX_RANK) || !codec_fits(codec, e->cols))
        return err_set(err, "predictors: %s of layer %u: shape [%u, %u], expected [%llu, %llu]",
                       name, e->layer, e->rows, e->cols, (unsigned long long)rows,
                       (unsigned long long)cols);
    if (!size_mul(e->rows, codec_row_bytes(codec, e->cols), &bytes) ||
        !size_add(e->offset, bytes, &end) || end > size || e->offset % ALIGN != 0)
        return err_set(err, "predictors: %s of layer %u lies outside the section", name, e->layer);
    return 0;
}

/* A correction is whole or absent, and its parts agree on the rank. */
static int check_groups(const struct corm_predict *p, const struct arch *a, struct err *err) {
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t ahead = 0; ahead <= PREDICT_MAX_AHEAD; ahead++) {
            struct weight in = corm_predict_get(p, PREDICT_EXPERT_IN, l, ahead);
            struct weight out = corm_predict_get(p, PREDICT_EXPERT_OUT, l, ahead);
            struct weight bias = corm_predict_get(p, PREDICT_EXPERT_BIAS, l, ahead);
            if (!in.data != !out.data || !in.data != !bias.data || in.rows != out.cols)
                return err_set(err,
                               "predictors: expert correction of layer %u, ahead %u is incomplete",
                               l, ahead);
        }
        struct weight basis = corm_predict_get(p, PREDICT_CHUNK_BASIS, l, 0);
        struct weight beta = corm_predict_get(p, PREDICT_CHUNK_BETA, l, 0);
        struct weight prior = corm_predict_get(p, PREDICT_CHUNK_PRIOR, l, 0);
        if (!basis.data != !beta.data || basis.rows != beta.cols || (beta.data && !prior.data))
            return err_set(err, "predictors: chunk predictor of layer %u is incomplete", l);
    }
    return 0;
}

int corm_predict_open(struct corm_predict *p, const void *data, size_t size,
                      const struct arch *arch, uint32_t chunks_per_expert, struct err *err) {
    *p = (struct corm_predict){0};
    if (size == 0)
        return 0;
    const struct corm_predict_header *h = data;
    if (size < sizeof *h)
        return err_set(err, "predictors: section of %zu bytes is shorter than its header", size);
    if (h->version != PREDICT_VERSION)
        return err_set(err, "predictors: version %u, this program reads %d", h->version,
                       PREDICT_VERSION);
    if (h->n_levels > PREDICT_MAX_LEVELS ||
        h->n_entries > (size - sizeof *h) / sizeof(struct corm_predict_entry))
        return err_set(err, "predictors: %u entries and %u levels do not fit the section",
                       h->n_entries, h->n_levels);
    struct corm_predict view = {data, h, (const struct corm_predict_entry *)(h + 1)};
    for (uint32_t i = 0; i < h->n_entries; i++)
        if (check_entry(&view.entries[i], i, size, arch, chunks_per_expert, h->n_levels, err) < 0)
            return -1;
    if (check_groups(&view, arch, err) < 0)
        return -1;
    *p = view;
    return 0;
}

struct weight corm_predict_get(const struct corm_predict *p, enum predict_kind kind, uint32_t layer,
                               uint32_t ahead) {
    for (uint32_t i = 0; p->header && i < p->header->n_entries; i++) {
        const struct corm_predict_entry *e = &p->entries[i];
        if (e->kind == kind && e->layer == layer && e->ahead == ahead) {
            const struct codec *codec = codec_by_id(e->codec);
            return (struct weight){codec, e->rows, e->cols, codec_row_bytes(codec, e->cols),
                                   p->data + e->offset};
        }
    }
    return (struct weight){0};
}

int corm_predict_level(const struct corm_predict *p, float percent) {
    for (uint32_t i = 0; p->header && i < p->header->n_levels; i++)
        if (p->header->levels[i] == percent)
            return (int)i;
    return -1;
}

/* ---- building ---- */

void corm_predict_add(struct corm_predict_builder *b, enum predict_kind kind, uint32_t layer,
                      uint32_t ahead, enum codec_id codec_id, const float *values, uint32_t rows,
                      uint32_t cols) {
    static const char zeros[ALIGN];
    const struct codec *codec = codec_by_id(codec_id);
    size_t row_bytes = codec_row_bytes(codec, cols);
    if (b->n_entries == b->cap) {
        b->cap = b->cap ? 2 * b->cap : 64;
        b->entries = mem_realloc(b->entries, b->cap * sizeof *b->entries);
    }
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
    uint32_t n = b->n_entries + from->n_entries;
    if (n > b->cap) {
        b->cap = 2 * n;
        b->entries = mem_realloc(b->entries, b->cap * sizeof *b->entries);
    }
    for (uint32_t i = 0; i < from->n_entries; i++) {
        b->entries[b->n_entries] = from->entries[i];
        b->entries[b->n_entries++].offset += b->body.len;
    }
    buf_append(&b->body, from->body.data, from->body.len);
    corm_predict_drop(from);
}

void corm_predict_finish(struct corm_predict_builder *b, struct buf *out) {
    static const char zeros[ALIGN];
    struct corm_predict_header h = {PREDICT_VERSION, b->n_entries, b->n_levels, 0, {0}};
    memcpy(h.levels, b->levels, b->n_levels * sizeof *h.levels);
    size_t table = sizeof h + b->n_entries * sizeof *b->entries, body = align_up(table, ALIGN);
    for (uint32_t i = 0; i < b->n_entries; i++)
        b->entries[i].offset += body;
    buf_append(out, &h, sizeof h);
    buf_append(out, b->entries, b->n_entries * sizeof *b->entries);
    buf_append(out, zeros, body - table);
    buf_append(out, b->body.data, b->body.len);
    corm_predict_drop(b);
}
