#include "prep/hf/hf_forward.h"

#include <stdlib.h>
#include <string.h>

void hf_forward_open(struct hf_forward *h, const struct hf_model *model, struct backend *be,
                     uint32_t max_rows) {
    const struct arch *a = hf_arch(model);
    size_t expert = (size_t)a->ffn_dim * a->dim;
    *h = (struct hf_forward){.model = model, .be = be};
    for (int i = 0; i < 3; i++) {
        h->parts[i] = mem_alloc(expert * sizeof(float));
    }
    h->neurons = mem_alloc_aligned(3 * expert * sizeof(float));
    h->first_use = mem_calloc((size_t)a->n_experts + 1, sizeof *h->first_use);
    h->uses = mem_calloc((size_t)max_rows * a->n_active, sizeof *h->uses);
}

void hf_forward_close(struct hf_forward *h) {
    arena_free(&h->vectors);
    for (int i = 0; i < 3; i++) {
        free(h->parts[i]);
    }
    free(h->neurons);
    free(h->first_use);
    free(h->uses);
    *h = (struct hf_forward){0};
}

static int get_weight(void *ctx, enum slot_id slot, uint32_t layer, struct weight *out,
                      struct err *err) {
    struct hf_forward *h = ctx;
    *out = hf_weight(h->model, slot, layer, 0);
    if (slot_at(slot)->store != SLOT_STORE_EXACT) {
        return 0;
    }
    float *f32 = arena_alloc(&h->vectors, (size_t)out->rows * out->cols * sizeof(float));
    if (hf_tensor_rows(h->model, slot, layer, 0, 0, out->rows, f32, err) < 0) {
        return -1;
    }
    out->codec = codec_by_id(CODEC_F32);
    out->stride_bytes = out->cols * sizeof(float);
    out->data = (const uint8_t *)f32;
    return 0;
}

struct weight_source hf_forward_source(struct hf_forward *h) {
    return (struct weight_source){h, get_weight};
}

static int run_experts(void *ctx, uint32_t layer, const struct layer_weights *lw, const float *x,
                       const struct batch *b, const int32_t *host_ids, float *parts,
                       struct err *err) {
    struct hf_forward *h = ctx;
    const struct arch *a = hf_arch(h->model);
    size_t dim = a->dim;
    const struct expert_layer common = forward_expert_layer(a, layer, lw, codec_by_id(CODEC_F32));
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
        struct ffn_chunk chunk = {.data = (const uint8_t *)h->neurons, .n_neurons = a->ffn_dim};
        struct expert_job job = {e, &chunk, 1, h->uses + h->first_use[e], n_uses};
        h->be->ops->experts(h->be->self, &common, &job, 1, x, parts);
    }
    return 0;
}

struct experts_hook hf_forward_experts(struct hf_forward *h) {
    return (struct experts_hook){h, run_experts};
}
