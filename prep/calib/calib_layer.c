#include "prep/calib/calib_layer.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- rows kept for later layers ---- */

void calib_past_alloc(struct calib_past *p, uint32_t rows, uint32_t dim, uint32_t n_experts) {
    size_t n = (size_t)rows * dim;
    p->feature = mem_calloc(n, sizeof *p->feature);
    p->residual = mem_calloc(n, sizeof *p->residual);
    p->quasi = mem_calloc(n, sizeof *p->quasi);
    p->mean_out = mem_calloc((size_t)n_experts * dim, sizeof *p->mean_out);
}

void calib_past_free(struct calib_past *p) {
    free(p->feature);
    free(p->residual);
    free(p->quasi);
    free(p->mean_out);
    fit_gram_close(&p->gram);
    *p = (struct calib_past){0};
}

void calib_widen(const uint16_t *rows, uint32_t dim, uint32_t first, uint32_t n, float *out) {
    const uint16_t *at = rows + (size_t)first * dim;
    for (size_t i = 0; i < (size_t)n * dim; i++) {
        out[i] = bf16_to_f32(at[i]);
    }
}

static void narrow(const float *rows, size_t n, uint16_t *out) {
    for (size_t i = 0; i < n; i++) {
        out[i] = f32_to_bf16(rows[i]);
    }
}

/* ---- while the layer runs ---- */

void calib_layer_begin(struct calib *c, uint32_t layer) {
    c->layer = layer;
    c->spill_bytes = 0;
    for (uint32_t e = 0; e < c->arch->n_experts; e++) {
        struct calib_expert *x = &c->experts[e];
        x->n = x->n_train = x->n_spills = 0;
        memset(x->energy, 0, c->arch->ffn_dim * sizeof *x->energy);
        memset(x->sum_out, 0, c->arch->dim * sizeof *x->sum_out);
    }
    struct calib_past *p = calib_past_of(c, layer);
    fit_gram_close(&p->gram);
    p->filled = true;
    p->mean_decided = false;
    p->moe = arch_is_moe(c->arch, layer);
}

void calib_tap(void *ctx, enum tap tap, uint32_t layer, const float *data, const struct batch *b,
               uint32_t cols, const int32_t *ids) {
    struct calib *c = ctx;
    size_t first = c->batch_first, n = (size_t)b->rows * cols;
    struct calib_past *p = calib_past_of(c, layer);
    switch (tap) {
    case TAP_ATTN_IN:
        if (layer == 0) { /* for layer 0 the embedding is the source, and this its feature */
            narrow(data, n, c->embedded.feature + first * cols);
        }
        break;
    case TAP_FFN_RESIDUAL:
        narrow(data, n, p->residual + first * cols);
        break;
    case TAP_FFN_IN:
        narrow(data, n, p->feature + first * cols);
        break;
    case TAP_ROUTER:
        memcpy(c->router + first * cols, data, n * sizeof *data);
        break;
    case TAP_EXPERT_WEIGHTS:
        memcpy(c->route_w + first * cols, data, n * sizeof *data);
        memcpy(c->routes + first * cols, ids, n * sizeof *ids);
        break;
    default:
        break;
    }
}

static void reserve_uses(struct calib_expert *x, uint32_t more) {
    x->rows = mem_grow(x->rows, (size_t)x->n + more, &x->cap, sizeof *x->rows);
}

/* ---- energies in the spill file ---- */

/* Append c->energy [n, ffn_dim]. */
static int spill(struct calib *c, struct calib_expert *x, uint32_t n, struct err *err) {
    size_t bytes = (size_t)n * c->arch->ffn_dim * sizeof *c->energy;
    x->spills = mem_grow(x->spills, (size_t)x->n_spills + 1, &x->cap_spills, sizeof *x->spills);
    x->spills[x->n_spills++] = (struct calib_spill){c->spill_bytes, n};
    if (lseek(c->spill_fd, (off_t)c->spill_bytes, SEEK_SET) < 0) {
        return err_errno(err, errno, "%s: activations", c->opt->spill_path);
    }
    c->spill_bytes += bytes;
    return file_write_all(c->spill_fd, c->energy, bytes, c->opt->spill_path, err);
}

int calib_unspill(struct calib *c, const struct calib_spill *s, struct err *err) {
    size_t bytes = (size_t)s->n * c->arch->ffn_dim * sizeof *c->energy;
    return file_read_at(c->spill_fd, c->energy, bytes, s->offset, c->opt->spill_path, err);
}

/* Length of each neuron's down row. */
static void down_norms(const float *down, uint32_t ffn_dim, uint32_t dim, float *norms) {
    for (uint32_t i = 0; i < ffn_dim; i++) {
        double s = 0;
        for (uint32_t j = 0; j < dim; j++) {
            s += (double)down[(size_t)i * dim + j] * (double)down[(size_t)i * dim + j];
        }
        norms[i] = (float)sqrt(s);
    }
}

/* y [n, cols] += bias [cols] in each row. */
static void add_bias(float *y, uint32_t n, uint32_t cols, const float *bias) {
    for (size_t i = 0; i < (size_t)n * cols; i++) {
        y[i] += bias[i % cols];
    }
}

/* Activations and outputs of one expert for `n` of its uses in this batch. */
static int run_uses(struct calib *c, uint32_t expert, const uint32_t *uses, uint32_t n,
                    const float *norms, const float *x, float *parts, struct err *err) {
    const struct arch *a = c->arch;
    uint32_t dim = a->dim, ffn = a->ffn_dim, k = a->n_active;
    struct calib_expert *acc = &c->experts[expert];
    for (uint32_t j = 0; j < n; j++) {
        memcpy(c->gathered + (size_t)j * dim, x + (size_t)(uses[j] / k) * dim, dim * sizeof *x);
    }
    const struct expert_layer common = forward_expert_layer(a, c->layer, &c->weights);
    fit_mul_nt(c->gathered, c->gate, n, ffn, dim, c->act);
    fit_mul_nt(c->gathered, c->up, n, ffn, dim, c->act_up);
    if (common.rule.bias) {
        add_bias(c->act, n, ffn, common.gate_bias + (size_t)expert * ffn);
        add_bias(c->act_up, n, ffn, common.up_bias + (size_t)expert * ffn);
    }
    c->be.ops->act_mul(c->be.self, &common.rule, c->act, c->act_up, (size_t)n * ffn);
    fit_mul_nn(c->act, c->down, n, dim, ffn, c->expert_out);
    if (common.rule.bias) {
        add_bias(c->expert_out, n, dim, common.down_bias + (size_t)expert * dim);
    }
    reserve_uses(acc, n);
    for (uint32_t j = 0; j < n; j++) {
        const float *out = c->expert_out + (size_t)j * dim, *act = c->act + (size_t)j * ffn;
        memcpy(parts + (size_t)uses[j] * dim, out, dim * sizeof *out);
        uint32_t row = c->batch_first + uses[j] / k;
        bool train = row < c->n_train;
        uint16_t *energy = c->energy + (size_t)j * ffn;
        for (uint32_t i = 0; i < ffn; i++) {
            float v = act[i] * norms[i];
            energy[i] = f32_to_bf16(v * v);
            acc->energy[i] += train ? (double)bf16_to_f32(energy[i]) : 0;
        }
        acc->rows[acc->n++] = row;
        acc->n_train += train;
        for (uint32_t i = 0; train && i < dim; i++) {
            acc->sum_out[i] += (double)out[i];
        }
    }
    return spill(c, acc, n, err);
}

static int run_expert(struct calib *c, uint32_t expert, const float *x, float *parts,
                      struct err *err) {
    const struct arch *a = c->arch;
    const uint32_t *uses = c->uses + c->first_use[expert];
    uint32_t n = c->first_use[expert + 1] - c->first_use[expert];
    float *norms = mem_alloc(a->ffn_dim * sizeof *norms);
    int status = 0;
    down_norms(c->down, a->ffn_dim, a->dim, norms);
    for (uint32_t first = 0; first < n && status == 0; first += CALIB_SPILL_USES) {
        uint32_t some = n - first < CALIB_SPILL_USES ? n - first : CALIB_SPILL_USES;
        status = run_uses(c, expert, uses + first, some, norms, x, parts, err);
    }
    free(norms);
    return status;
}

static int run_experts(void *ctx, uint32_t layer, const struct layer_weights *lw, const float *x,
                       const struct batch *b, const int32_t *host_ids, float *parts,
                       struct err *err) {
    struct calib *c = ctx;
    const struct arch *a = c->arch;
    (void)lw; /* the calibration's own */
    forward_group_uses(host_ids, b->rows * a->n_active, a->n_experts, c->first_use, c->uses);
    for (uint32_t e = 0; e < a->n_experts; e++) {
        if (c->first_use[e + 1] == c->first_use[e]) {
            continue;
        }
        if (hf_expert(c->model, layer, e, c->gate, c->up, c->down, err) < 0 ||
            run_expert(c, e, x, parts, err) < 0) {
            return -1;
        }
        hf_expert_done(c->model, layer, e);
    }
    return 0;
}

struct experts_hook calib_experts_hook(struct calib *c) {
    return (struct experts_hook){c, run_experts};
}
