/*
 * arch_rope: see arch.h. The rope sets of struct arch, and their forms for long contexts.
 */
#include <string.h>

#include "format/arch.h"

struct rope_set arch_rope(const struct arch *a, uint32_t index) {
    size_t first = 0;
    for (uint32_t i = 0; i < index; i++) {
        first += a->rope_dim[i] / 2;
    }
    return (struct rope_set){a->rope_dim[index], a->rope_inv_freq + first, a->rope_scale[index]};
}

/* Long forms of all sets that there are: of those that had none, the short ones. */
static void complete_long_ropes(struct arch *a) {
    a->rope_long_tok = mem_realloc(a->rope_long_tok, a->n_ropes * sizeof *a->rope_long_tok);
    a->rope_long_scale = mem_realloc(a->rope_long_scale, a->n_ropes * sizeof *a->rope_long_scale);
    a->rope_long_inv_freq =
        mem_realloc(a->rope_long_inv_freq, (a->n_inv_freq + 1) * sizeof *a->rope_long_inv_freq);
    for (; a->n_rope_long < a->n_ropes; a->n_rope_long++) {
        a->rope_long_tok[a->n_rope_long] = 0;
        a->rope_long_scale[a->n_rope_long] = a->rope_scale[a->n_rope_long];
    }
    for (; a->n_long_inv_freq < a->n_inv_freq; a->n_long_inv_freq++) {
        a->rope_long_inv_freq[a->n_long_inv_freq] = a->rope_inv_freq[a->n_long_inv_freq];
    }
}

uint32_t arch_add_rope(struct arch *a, uint32_t dim, const float *inv_freq, float scale) {
    uint32_t i = a->n_ropes++, half = dim / 2;
    a->rope_dim = mem_realloc(a->rope_dim, a->n_ropes * sizeof *a->rope_dim);
    a->rope_scale = mem_realloc(a->rope_scale, a->n_ropes * sizeof *a->rope_scale);
    a->rope_inv_freq =
        mem_realloc(a->rope_inv_freq, (a->n_inv_freq + half + 1) * sizeof *a->rope_inv_freq);
    a->rope_dim[i] = dim;
    a->rope_scale[i] = scale;
    if (half > 0) {
        memcpy(a->rope_inv_freq + a->n_inv_freq, inv_freq, half * sizeof *inv_freq);
    }
    a->n_inv_freq += half;
    if (a->n_rope_long > 0) {
        complete_long_ropes(a);
    }
    return i;
}

void arch_add_long_rope(struct arch *a, uint32_t index, uint32_t tok, const float *inv_freq,
                        float scale) {
    complete_long_ropes(a);
    const struct rope_set set = arch_rope(a, index);
    a->rope_long_tok[index] = tok;
    a->rope_long_scale[index] = scale;
    memcpy(a->rope_long_inv_freq + (set.inv_freq - a->rope_inv_freq), inv_freq,
           set.dim / 2 * sizeof *inv_freq);
}

void arch_settle_ropes(struct arch *a, uint32_t ctx_tok) {
    for (uint32_t i = 0, first = 0; i < a->n_rope_long; first += a->rope_dim[i] / 2, i++) {
        if (a->rope_long_tok[i] > 0 && ctx_tok > a->rope_long_tok[i]) {
            a->rope_scale[i] = a->rope_long_scale[i];
            memcpy(a->rope_inv_freq + first, a->rope_long_inv_freq + first,
                   a->rope_dim[i] / 2 * sizeof *a->rope_inv_freq);
        }
    }
}
