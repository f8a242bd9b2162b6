#include "prep/pack_cost.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SAMPLED_EXPERTS = 64, SAMPLED_NEURONS = 4 };
static const double MANY_BITS = 5;

void pack_cost_read(struct pack_cost *cost, const struct hf_model *m) {
    const struct arch *a = hf_arch(m);
    double bytes = 0, weights = 0;
    memset(cost, 0, sizeof *cost);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        for (uint32_t e = 0; arch_is_moe(a, l) && e < a->n_experts; e++) {
            for (uint32_t s = SLOT_EXPERT_GATE; s <= SLOT_EXPERT_DOWN; s++) {
                const char *numbers = hf_weight_blocks(m, s, l, e);
                bytes += (double)hf_weight_bytes(m, s, l, e);
                weights += (double)a->dim * a->ffn_dim;
                /* No name of a type is part of another's. */
                if (numbers && !(cost->numbers.len && strstr(cost->numbers.data, numbers))) {
                    buf_printf(&cost->numbers, "%s%s", cost->numbers.len ? ", " : "", numbers);
                }
            }
        }
    }
    cost->bits = weights > 0 ? 8 * bytes / weights : 0;
}

const struct codec *pack_cost_codec(const struct pack_cost *cost) {
    return codec_by_id(cost->bits > MANY_BITS ? CODEC_Q8 : CODEC_Q4);
}

/* Sums of squares over rows [n, cols]: of the weights, and of what a codec changes. */
static void add_squares(const struct codec *codec, const float *x, uint32_t n, uint32_t cols,
                        double sums[2]) {
    uint8_t *row = mem_alloc(codec_row_bytes(codec, cols));
    float *back = mem_alloc(cols * sizeof *back);
    for (uint32_t r = 0; r < n; r++, x += cols) {
        codec->encode_row(x, cols, row);
        codec->decode_row(row, cols, back);
        for (uint32_t c = 0; c < cols; c++) {
            const double change = (double)back[c] - (double)x[c];
            sums[0] += (double)x[c] * (double)x[c];
            sums[1] += change * change;
        }
    }
    free(row);
    free(back);
}

int pack_cost_measure(struct pack_cost *cost, const struct hf_model *m, const struct codec *codec,
                      struct err *err) {
    const struct arch *a = hf_arch(m);
    const uint64_t all = (uint64_t)a->n_layers * a->n_experts;
    const uint64_t step = all > SAMPLED_EXPERTS ? all / SAMPLED_EXPERTS : 1;
    const uint32_t n = a->ffn_dim < SAMPLED_NEURONS ? a->ffn_dim : SAMPLED_NEURONS;
    const size_t part = (size_t)n * a->dim;
    float *x = mem_alloc(3 * part * sizeof *x);
    double sums[2] = {0, 0};
    int rc = 0;
    for (uint64_t i = 0; rc == 0 && i < all; i += step) {
        const uint32_t layer = (uint32_t)(i / a->n_experts), expert = (uint32_t)(i % a->n_experts);
        const uint32_t first = (uint32_t)(i * 31 % (a->ffn_dim - n + 1));
        if (!arch_is_moe(a, layer)) {
            continue;
        }
        rc = hf_expert_neurons(m, layer, expert, first, n, x, x + part, x + 2 * part, err);
        if (rc == 0) {
            add_squares(codec, x, 3 * n, a->dim, sums);
        }
        hf_expert_done(m, layer, expert);
    }
    free(x);
    cost->error = sums[0] > 0 ? sqrt(sums[1] / sums[0]) : 0;
    return rc;
}
