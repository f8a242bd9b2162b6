#include "prep/hf/hf_forward.h"

#include <stdlib.h>
#include <string.h>

enum { BLOCK_FLOATS = 1 << 18 }; /* decoded at a time */

void hf_forward_open(struct hf_forward *h, const struct hf_model *model, struct backend *be,
                     uint32_t max_rows) {
    const struct arch *a = hf_arch(model);
    *h = (struct hf_forward){.model = model, .be = be};
    h->first_use = mem_calloc((size_t)a->n_experts + 1, sizeof *h->first_use);
    h->uses = mem_calloc((size_t)max_rows * a->n_active, sizeof *h->uses);
}

void hf_forward_drop_layers(struct hf_forward *h) {
    arena_free(&h->decoded[1]);
}

void hf_forward_close(struct hf_forward *h) {
    arena_free(&h->decoded[0]);
    arena_free(&h->decoded[1]);
    for (int i = 0; i < 3; i++) {
        free(h->parts[i]);
    }
    free(h->neurons);
    free(h->first_use);
    free(h->uses);
    *h = (struct hf_forward){0};
}

/* Rows of the slot in the codec of `out`, into memory of the arena. */
static int decode(struct hf_forward *h, enum slot_id slot, uint32_t layer, struct weight *out,
                  struct err *err) {
    size_t row_bytes = codec_row_bytes(out->codec, out->cols);
    bool of_model = slot_at(slot)->scope == SLOT_OF_MODEL;
    uint8_t *data = arena_alloc(&h->decoded[of_model ? 0 : 1], out->rows * row_bytes);
    uint32_t block = BLOCK_FLOATS / out->cols ? BLOCK_FLOATS / out->cols : 1;
    float *rows = mem_alloc((size_t)block * out->cols * sizeof *rows);
    int rc = 0;
    for (uint32_t first = 0; rc == 0 && first < out->rows; first += block) {
        uint32_t n = out->rows - first < block ? out->rows - first : block;
        rc = hf_tensor_rows(h->model, slot, layer, 0, first, n, rows, err);
        for (uint32_t r = 0; rc == 0 && r < n; r++) {
            out->codec->encode_row(rows + (size_t)r * out->cols, out->cols,
                                   data + (first + r) * row_bytes);
        }
    }
    free(rows);
    out->stride_bytes = row_bytes;
    out->data = data;
    return rc;
}

static int get_weight(void *ctx, enum slot_id slot, uint32_t layer, struct weight *out,
                      struct err *err) {
    struct hf_forward *h = ctx;
    *out = hf_weight(h->model, slot, layer, 0);
    bool vector = slot_at(slot)->store == SLOT_STORE_EXACT;
    if (vector) {
        out->codec = codec_by_id(CODEC_F32);
    }
    return vector || !out->data ? decode(h, slot, layer, out, err) : 0;
}

struct weight_source hf_forward_source(struct hf_forward *h) {
    return (struct weight_source){h, get_weight};
}

/* Only who runs experts needs room for one. */
static void make_room(struct hf_forward *h) {
    const struct arch *a = hf_arch(h->model);
    size_t expert = (size_t)a->ffn_dim * a->dim;
    if (h->neurons) {
        return;
    }
    for (int i = 0; i < 3; i++) {
        h->parts[i] = mem_alloc(expert * sizeof(float));
    }
    h->neurons = mem_alloc_aligned(3 * expert * sizeof(float));
}

static int run_experts(void *ctx, uint32_t layer, const struct layer_weights *lw, const float *x,
                       const struct batch *b, const int32_t *host_ids, float *parts,
                       struct err *err) {
    struct hf_forward *h = ctx;
    const struct arch *a = hf_arch(h->model);
    struct expert_layer of = forward_expert_layer(a, layer, lw);
    size_t dim = a->dim;
    make_room(h);
    forward_group_uses(host_ids, b->rows * a->n_active, a->n_experts, h->first_use, h->uses);
    for (uint32_t e = 0; e < a->n_experts; e++) {
        uint32_t n_uses = h->first_use[e + 1] - h->first_use[e];
        if (n_uses == 0) {
            continue;
        }
        if (hf_expert(h->model, layer, e, h->parts[0], h->parts[1], h->parts[2], err) < 0) {
            return -1;
        }
        for (uint32_t i = 0; i < a->ffn_dim; i++) {
            for (int p = 0; p < 3; p++) {
                memcpy(h->neurons + (3 * i + (uint32_t)p) * dim, h->parts[p] + i * dim,
                       dim * sizeof(float));
            }
        }
        struct ffn_chunk chunk = {.data = (const uint8_t *)h->neurons,
                                  .codec = codec_by_id(CODEC_F32),
                                  .n_neurons = a->ffn_dim};
        struct expert_job job = {.expert = e,
                                 .chunks = &chunk,
                                 .n_chunks = 1,
                                 .uses = h->uses + h->first_use[e],
                                 .n_uses = n_uses};
        h->be->ops->experts(h->be->self, &of, &job, 1, x, parts);
    }
    return 0;
}

struct experts_hook hf_forward_experts(struct hf_forward *h) {
    return (struct experts_hook){h, run_experts};
}
