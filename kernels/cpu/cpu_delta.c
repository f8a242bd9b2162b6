/*
 * cpu_delta: the gated delta net: the causal convolution before it, and its recurrence.
 *
 * The convolution's items are runs of columns. The recurrence's items are value heads, each of
 * which walks the rows of the call one after the other, some at a time while a part of the state
 * stays in cache: a row's result does not depend on how rows are shared out over calls.
 */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* ---- convolution ---------------------------------------------------------------------------- */

enum { CONV_COLS = 256 }; /* columns of an item */

static const struct ffn_rule silu = {.act = FFN_SILU};

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

/* turned [conv, n] = kernel [n, conv], so that neighbours are multiplied together. */
static inline void turn(const float *kernel, uint32_t conv, uint32_t n, float *turned) {
    for (uint32_t c = 0; c < n; c++) {
        for (uint32_t j = 0; j < conv; j++) {
            turned[(size_t)j * n + c] = kernel[(size_t)c * conv + j];
        }
    }
}

static void conv_item(void *ctx, uint32_t item, uint32_t worker) {
    const struct conv *s = ctx;
    const uint32_t first = item * CONV_COLS, rest = s->cols - first;
    const uint32_t n = rest < CONV_COLS ? rest : CONV_COLS;
    const float *kernel = s->kernel + (size_t)first * s->conv;
    float *turned = s->c->workers[worker].panel; /* [conv, n] */
    if (s->conv == 4) { /* what models have: the compiler then moves vectors */
        turn(kernel, 4, n, turned);
    } else {
        turn(kernel, s->conv, n, turned);
    }
    for (uint32_t r = 0; r < s->rows; r++) {
        float *y = s->y + (size_t)r * s->cols + first;
        memset(y, 0, n * sizeof *y);
        for (uint32_t j = 0; j < s->conv; j++) {
            const float *in = row_before(s, r, s->conv - 1 - j) + first,
                        *k = turned + (size_t)j * n;
            for (uint32_t c = 0; c < n; c++) {
                y[c] += k[c] * in[c];
            }
        }
        s->c->isa->act_mul(&silu, y, NULL, n);
    }
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
    cpu_run(self, conv_item, &s, cpu_ceil_div(s.cols, CONV_COLS),
            (uint64_t)rows * s.cols * (rule->conv + 8));
    if (rule->conv == 1) {
        return; /* there is no tail */
    }
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

/* out [v_dim] = rmsnorm(o) * silu(z) */
static void gated_norm(const struct delta *s, float *o, const float *z, float *out) {
    const uint32_t n = s->rule->v_dim;
    float mean = s->c->isa->sum_squares(o, n) / (float)n, scale = 1.0f / sqrtf(mean + s->eps);
    for (uint32_t i = 0; i < n; i++) {
        o[i] = s->norm[i] * (o[i] * scale);
    }
    memcpy(out, z, n * sizeof *out);
    s->c->isa->act_mul(&silu, out, o, n);
}

/* Rows first .. first + n - 1 of a value head, n <= CPU_DELTA_TOKENS. */
static void delta_rows(const struct delta *s, struct cpu_worker *own, uint32_t head, uint32_t first,
                       uint32_t n) {
    const struct delta_rule *rule = s->rule;
    const uint32_t k_dim = rule->k_dim, v_dim = rule->v_dim, heads = rule->n_v_heads;
    const uint32_t k_head = head / (heads / rule->n_k_heads), k_cols = rule->n_k_heads * k_dim;
    const size_t cols = delta_qkv_dim(rule);
    const float *qkv = s->qkv + first * cols;
    float *q = own->heads, *k = q + (size_t)n * k_dim, *o = k + (size_t)n * k_dim;
    float decay[CPU_DELTA_TOKENS], strength[CPU_DELTA_TOKENS];
    for (uint32_t t = 0; t < n; t++) {
        const size_t at = (size_t)(first + t) * heads + head;
        const float *q_of = qkv + t * cols + (size_t)k_head * k_dim;
        decay[t] = expf(-s->rate[head] * softplus(s->a[at] + s->dt_bias[head]));
        strength[t] = 1.0f / (1.0f + expf(-s->b[at]));
        unit_vector(s->c, q_of, k_dim, 1.0f / sqrtf((float)k_dim), q + (size_t)t * k_dim);
        unit_vector(s->c, q_of + k_cols, k_dim, 1.0f, k + (size_t)t * k_dim);
    }
    const struct dot_delta d = {.k_dim = k_dim,
                                .v_dim = v_dim,
                                .n = n,
                                .q = q,
                                .k = k,
                                .v = qkv + 2 * (size_t)k_cols + (size_t)head * v_dim,
                                .v_stride = cols,
                                .decay = decay,
                                .strength = strength,
                                .out = o};
    s->c->isa->delta_steps(s->state + (size_t)head * k_dim * v_dim, &d);
    for (uint32_t t = 0; t < n; t++) {
        const size_t at = ((size_t)(first + t) * heads + head) * v_dim;
        gated_norm(s, o + (size_t)t * v_dim, s->z + at, s->out + at);
    }
}

static void delta_item(void *ctx, uint32_t head, uint32_t worker) {
    const struct delta *s = ctx;
    for (uint32_t r = 0; r < s->rows; r += CPU_DELTA_TOKENS) {
        uint32_t rest = s->rows - r;
        delta_rows(s, &s->c->workers[worker], head, r,
                   rest < CPU_DELTA_TOKENS ? rest : CPU_DELTA_TOKENS);
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
