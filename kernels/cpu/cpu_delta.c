/*
 * cpu_delta: the gated delta net: the causal convolution before it, and its recurrence.
 *
 * The convolution's items are rows. The recurrence's items are value heads, each of which walks the
 * rows of the call one after the other: so a row's result does not depend on how rows are shared
 * out over calls.
 */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* ---- convolution ---------------------------------------------------------------------------- */

struct conv {
    const struct cpu *c;
    const float *kernel, *x, *tail;
    float *y;
    uint32_t conv, cols, rows;
};

/* What came `back` rows before row r: a row of the call, or of the tail. */
static const float *row_before(const struct conv *s, uint32_t r, uint32_t back) {
    return r >= back ? s->x + (size_t)(r - back) * s->cols
                     : s->tail + (size_t)(s->conv - 1 + r - back) * s->cols;
}

static void conv_item(void *ctx, uint32_t r, uint32_t worker) {
    const struct conv *s = ctx;
    static const struct ffn_rule silu = {.act = FFN_SILU};
    float *y = s->y + (size_t)r * s->cols;
    (void)worker;
    memset(y, 0, s->cols * sizeof *y);
    for (uint32_t j = 0; j < s->conv; j++) {
        const float *in = row_before(s, r, s->conv - 1 - j);
        for (uint32_t c = 0; c < s->cols; c++) {
            y[c] += s->kernel[(size_t)c * s->conv + j] * in[c];
        }
    }
    s->c->isa->act_mul(&silu, y, NULL, s->cols);
}

void cpu_delta_conv(void *self, const struct delta_rule *rule, const struct weight *kernel,
                    const float *x, uint32_t rows, float *tail, float *y) {
    struct conv s = {.c = self,
                     .kernel = weight_floats(kernel),
                     .x = x,
                     .tail = tail,
                     .y = y,
                     .conv = rule->conv,
                     .cols = delta_qkv_dim(rule),
                     .rows = rows};
    cpu_run(self, conv_item, &s, rows, (uint64_t)rows * s.cols * (rule->conv + 8));
    const uint32_t keep = rule->conv - 1, kept = rows < keep ? keep - rows : 0;
    memmove(tail, tail + (size_t)(keep - kept) * s.cols, (size_t)kept * s.cols * sizeof *tail);
    memcpy(tail + (size_t)kept * s.cols, x + (size_t)(rows - (keep - kept)) * s.cols,
           (size_t)(keep - kept) * s.cols * sizeof *tail);
}

/* ---- recurrence ----------------------------------------------------------------------------- */

struct delta {
    const struct cpu *c;
    const struct delta_rule *rule;
    const float *rate, *dt_bias, *norm;
    const float *qkv, *z, *a, *b;
    float *state, *out;
    uint32_t rows;
    float eps;
};

/* y [n] = x / |x|, times `factor`. */
static void unit_vector(const struct cpu *c, const float *x, uint32_t n, float factor, float *y) {
    float scale = 1.0f / sqrtf(c->isa->sum_squares(x, n) + 1e-6f);
    for (uint32_t i = 0; i < n; i++) {
        y[i] = x[i] * scale * factor;
    }
}

static float softplus(float x) {
    return x > 20.0f ? x : log1pf(expf(x)); /* as torch has it */
}

/* out [n] = rmsnorm(out) * silu(z) */
static void gated_norm(const struct delta *s, const float *z, float *out) {
    const uint32_t n = s->rule->v_dim;
    float mean = s->c->isa->sum_squares(out, n) / (float)n, scale = 1.0f / sqrtf(mean + s->eps);
    for (uint32_t i = 0; i < n; i++) {
        out[i] = s->norm[i] * (out[i] * scale) * (z[i] / (1.0f + expf(-z[i])));
    }
}

static void delta_item(void *ctx, uint32_t head, uint32_t worker) {
    const struct delta *s = ctx;
    const struct delta_rule *d = s->rule;
    const uint32_t k_head = head / (d->n_v_heads / d->n_k_heads), cols = delta_qkv_dim(d);
    const size_t k_cols = (size_t)d->n_k_heads * d->k_dim, v_cols = delta_v_dim(d);
    float *S = s->state + (size_t)head * d->k_dim * d->v_dim;
    float *q = s->c->workers[worker].heads, *k = q + d->k_dim;
    for (uint32_t r = 0; r < s->rows; r++) {
        const float *row = s->qkv + (size_t)r * cols;
        const float *v = row + 2 * k_cols + (size_t)head * d->v_dim;
        const size_t at = (size_t)r * d->n_v_heads + head;
        float *out = s->out + (size_t)r * v_cols + (size_t)head * d->v_dim;
        float decay = expf(-s->rate[head] * softplus(s->a[at] + s->dt_bias[head]));
        float strength = 1.0f / (1.0f + expf(-s->b[at]));
        unit_vector(s->c, row + (size_t)k_head * d->k_dim, d->k_dim, 1.0f / sqrtf((float)d->k_dim),
                    q);
        unit_vector(s->c, row + k_cols + (size_t)k_head * d->k_dim, d->k_dim, 1.0f, k);
        s->c->isa->delta_step(S, d->k_dim, d->v_dim, q, k, v, decay, strength, out);
        gated_norm(s, s->z + (size_t)r * v_cols + (size_t)head * d->v_dim, out);
    }
}

void cpu_delta_net(void *self, const struct delta_rule *rule, const struct delta_weights *w,
                   float eps, const float *qkv, const float *z, const float *a, const float *b,
                   uint32_t rows, float *state, float *out) {
    struct delta s = {.c = self,
                      .rule = rule,
                      .rate = weight_floats(&w->rate),
                      .dt_bias = weight_floats(&w->dt_bias),
                      .norm = weight_floats(&w->norm),
                      .qkv = qkv,
                      .z = z,
                      .a = a,
                      .b = b,
                      .state = state,
                      .out = out,
                      .rows = rows,
                      .eps = eps};
    cpu_run(self, delta_item, &s, rule->n_v_heads,
            (uint64_t)rows * rule->n_v_heads * rule->k_dim * rule->v_dim * 4);
}
