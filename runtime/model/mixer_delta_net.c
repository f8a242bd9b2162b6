/*
 * mixer_delta_net: the gated delta net (struct delta_rule of format/arch.h).
 *
 * The state is a matrix for each value head, and the last inputs of the convolution. Both stand for
 * the last token only, so that a sequence that is cut back has to be computed again.
 */
#include "runtime/model/mixer.h"

static const struct delta_rule *rule_of(const struct arch *a, uint32_t layer) {
    return &arch_kind(a, layer)->delta;
}

static size_t scratch(const struct arch *a, uint32_t layer) {
    const struct delta_rule *r = rule_of(a, layer);
    return 2 * (size_t)delta_qkv_dim(r) + 2 * (size_t)delta_v_dim(r) + 2 * (size_t)r->n_v_heads;
}

static void limits(const struct arch *a, uint32_t layer, struct backend_limits *l) {
    const struct delta_rule *r = rule_of(a, layer);
    mixer_raise(&l->max_in, delta_qkv_dim(r));
    mixer_raise(&l->delta_k_dim, r->k_dim);
    mixer_raise(&l->delta_v_dim, r->v_dim);
}

static void shape(const struct arch *a, uint32_t layer, const struct state_size *size,
                  struct layer_state *out) {
    const struct delta_rule *r = rule_of(a, layer);
    (void)size;
    out->tail_bytes = (size_t)(r->conv - 1) * delta_qkv_dim(r) * sizeof(float);
    out->recurrent_bytes = (size_t)r->n_v_heads * r->k_dim * r->v_dim * sizeof(float);
}

static bool holds(const struct arch *a, uint32_t layer, const struct state *s, uint32_t n_tok) {
    (void)a;
    (void)layer;
    return n_tok == s->end && !s->torn;
}

static bool supported(const struct backend *be) {
    return be->ops->delta_net != NULL;
}

static void run(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                const struct batch *b) {
    const struct arch *a = f->arch;
    const struct delta_rule *r = rule_of(a, layer);
    const struct backend_ops *op = f->be->ops;
    void *be = f->be->self;
    static const struct weight none = {0};
    const struct delta_weights vectors = {lw->w[SLOT_DELTA_RATE], lw->w[SLOT_DELTA_DT_BIAS],
                                          lw->w[SLOT_DELTA_NORM]};
    const size_t cols = delta_qkv_dim(r), v_dim = delta_v_dim(r), heads = r->n_v_heads;
    size_t used = 0;
    float *in = mixer_take(f, &used, cols), *qkv = mixer_take(f, &used, cols);
    float *z = mixer_take(f, &used, v_dim), *y = mixer_take(f, &used, v_dim);
    float *beta = mixer_take(f, &used, heads), *decay = mixer_take(f, &used, heads);
    op->matmul(be, &lw->w[SLOT_DELTA_QKV], &none, f->in, b->rows, in);
    op->matmul(be, &lw->w[SLOT_DELTA_Z], &none, f->in, b->rows, z);
    op->matmul(be, &lw->w[SLOT_DELTA_B], &none, f->in, b->rows, beta);
    op->matmul(be, &lw->w[SLOT_DELTA_A], &none, f->in, b->rows, decay);
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const struct span *s = &b->spans[i];
        const struct layer_state *st = &s->state->layers[layer];
        const size_t first = s->first;
        op->delta_conv(be, r, &lw->w[SLOT_DELTA_CONV], in + first * cols, s->rows, st->tail,
                       qkv + first * cols);
        op->delta_net(be, r, &vectors, a->norm_eps, qkv + first * cols, z + first * v_dim,
                      decay + first * heads, beta + first * heads, s->rows, st->recurrent,
                      y + first * v_dim);
        mixer_keep(s, layer);
    }
    op->matmul(be, &lw->w[SLOT_DELTA_OUT], &none, y, b->rows, f->out);
}

const struct mixer_ops mixer_delta_net = {
    .name = "gated delta net",
    .scratch = scratch,
    .limits = limits,
    .shape = shape,
    .holds = holds,
    .supported = supported,
    .run = run,
};
