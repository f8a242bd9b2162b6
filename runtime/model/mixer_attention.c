/*
 * mixer_attention: softmax attention with grouped queries (struct attention_rule of format/arch.h).
 *
 * The state is keys and values. A layer with a window or chunks holds one such and the rows of a
 * call, in a ring; other layers hold the whole context. A layer may read the keys and values of an
 * earlier layer, and then it has none of its own.
 */
#include "runtime/model/mixer.h"

static const struct attention_rule *rule_of(const struct arch *a, uint32_t layer) {
    return &arch_kind(a, layer)->att;
}

static size_t scratch(const struct arch *a, uint32_t layer) {
    const struct attention_rule *r = rule_of(a, layer);
    return (size_t)attention_q_dim(r) + attention_out_dim(r) + attention_k_dim(r) +
           attention_v_dim(r) + attention_gate_dim(r);
}

static void limits(const struct arch *a, uint32_t layer, struct backend_limits *l) {
    const struct attention_rule *r = rule_of(a, layer);
    mixer_raise(&l->max_in, attention_q_dim(r));
    mixer_raise(&l->max_in, attention_out_dim(r));
    mixer_raise(&l->n_heads, r->n_heads);
    mixer_raise(&l->head_dim, r->head_dim);
    mixer_raise(&l->head_dim, attention_head_out(r));
    mixer_raise(&l->other_values, attention_head_out(r) != r->head_dim);
}

static void shape(const struct arch *a, uint32_t layer, const struct state_size *size,
                  struct layer_state *out) {
    const struct attention_rule *r = rule_of(a, layer);
    const uint32_t seen = attention_span(r);
    uint64_t held = seen > 0 ? (uint64_t)seen + size->batch_rows : UINT64_MAX;
    out->kv = (struct kv){.type = size->type,
                          .n_kv_heads = r->n_kv_heads,
                          .head_dim = r->head_dim,
                          .v_dim = r->v_dim,
                          .capacity_tok = held < size->ctx_tok ? (uint32_t)held : size->ctx_tok};
    if (arch_kv_layer(a, layer) != layer) {
        out->kv.capacity_tok = 0;
    } else if (held < size->ctx_tok) {
        out->kept_tok = seen - 1;
    }
}

static uint32_t first_seen(const struct arch *a, uint32_t layer, uint32_t n_tok) {
    return attention_first_seen(rule_of(a, layer), n_tok);
}

/* Without a window or chunks, all positions are held. Else the ring holds those from farthest -
 * capacity on. */
static bool holds(const struct arch *a, uint32_t layer, const struct state *s, uint32_t n_tok) {
    const struct attention_rule *r = rule_of(a, layer);
    uint32_t capacity = s->layers[arch_kv_layer(a, layer)].kv.capacity_tok;
    if (attention_span(r) == 0 || s->farthest <= capacity) {
        return true;
    }
    return first_seen(a, layer, n_tok) >= s->farthest - capacity;
}

static bool supported(const struct backend *be) {
    return be->ops->attention != NULL;
}

/* RMSNorm of queries or keys [rows, heads, head_dim], by head or over the whole projection, at one
 * of the two places where a rule may have it: before they are turned, or after (`late`). */
static void norm_heads(struct forward *f, const struct attention_rule *r,
                       const struct weight *weight, float *x, uint32_t rows, uint32_t heads,
                       uint32_t late) {
    bool by_head = r->qk_norm != ARCH_QK_NORM_FULL;
    if (r->qk_norm != ARCH_QK_NORM_NONE && r->qk_norm_late == late) {
        f->be->ops->rmsnorm(f->be->self, x, weight, f->arch->norm_eps,
                            by_head ? rows * heads : rows,
                            by_head ? r->head_dim : heads * r->head_dim, x);
    }
}

/* Turn queries or keys [rows, heads, head_dim] by their positions, where the layer does. */
static void turn_heads(struct forward *f, const struct attention_rule *r, const struct batch *b,
                       float *x, uint32_t heads) {
    const uint32_t half = arch_rope(f->arch, r->rope).dim / 2;
    if (half > 0) {
        f->be->ops->rope(f->be->self, x, b->rows, heads, r->head_dim, forward_angles(f, r->rope, b),
                         half);
    }
}

/* Keys [rows, k_dim] and values [rows, v_dim] of a layer that has its own. */
struct own_kv {
    float *k, *v;
};

static void project_keys(struct forward *f, const struct attention_rule *r,
                         const struct layer_weights *lw, const struct own_kv *kv, uint32_t rows) {
    const struct backend_ops *op = f->be->ops;
    op->matmul(f->be->self, &lw->w[SLOT_K], &lw->w[SLOT_K_BIAS], f->in, rows, kv->k);
    if (!r->v_from_k) {
        op->matmul(f->be->self, &lw->w[SLOT_V], &lw->w[SLOT_V_BIAS], f->in, rows, kv->v);
    }
}

/* Keys and values of all rows, stored in each sequence's state. */
static void store_keys(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                       const struct batch *b, const struct own_kv *kv) {
    const struct attention_rule *r = rule_of(f->arch, layer);
    const struct backend_ops *op = f->be->ops;
    void *be = f->be->self;
    const size_t k_dim = attention_k_dim(r), v_dim = attention_v_dim(r);
    static const struct weight ones = {0};
    float *k = kv->k, *v = kv->v;
    if (r->v_norm) {
        op->rmsnorm(be, r->v_from_k ? k : v, &ones, f->arch->norm_eps, b->rows * r->n_kv_heads,
                    attention_head_out(r), v);
    }
    if (r->v_scale > 0) {
        op->scale(be, v, b->rows * v_dim, r->v_scale);
    }
    norm_heads(f, r, &lw->w[SLOT_K_NORM], k, b->rows, r->n_kv_heads, 0);
    if (r->clip_qkv > 0) {
        op->clamp(be, k, b->rows * k_dim, r->clip_qkv);
        op->clamp(be, v, b->rows * v_dim, r->clip_qkv);
    }
    turn_heads(f, r, b, k, r->n_kv_heads);
    norm_heads(f, r, &lw->w[SLOT_K_NORM], k, b->rows, r->n_kv_heads, 1);
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const struct span *s = &b->spans[i];
        op->kv_store(be, &s->state->layers[layer].kv, k + s->first * k_dim, v + s->first * v_dim,
                     s->pos, s->rows);
    }
}

/* att [rows, n_heads, width of a value] by the layer's gates, what its projection gives. */
static void gate_heads(struct forward *f, const struct attention_rule *r, uint32_t rows,
                       const float *gate, float *att) {
    const struct backend_ops *op = f->be->ops;
    const uint32_t n = attention_gate_dim(r), of_each = attention_out_dim(r) / n;
    const bool softplus = r->gate == ARCH_GATE_SOFTPLUS || r->gate == ARCH_GATE_HEAD_SOFTPLUS;
    if (r->gate == ARCH_GATE_SIGMOID) {
        op->sigmoid_mul(f->be->self, att, gate, (size_t)rows * n);
    } else {
        op->gate_rows(f->be->self, softplus ? GATE_SOFTPLUS : GATE_SIGMOID, att, gate, rows * n,
                      of_each);
    }
}

/* All products of the layer's input come first: a device does them at once. */
static void run(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                const struct batch *b) {
    const struct arch *a = f->arch;
    const struct attention_rule *r = rule_of(a, layer);
    const struct backend_ops *op = f->be->ops;
    void *be = f->be->self;
    static const struct weight none = {0};
    const size_t q_dim = attention_q_dim(r), out_dim = attention_out_dim(r);
    const uint32_t source = arch_kv_layer(a, layer);
    size_t used = 0;
    float *q = mixer_take(f, &used, q_dim), *att = mixer_take(f, &used, out_dim), *gate = NULL;
    const struct own_kv kv = {mixer_take(f, &used, attention_k_dim(r)),
                              mixer_take(f, &used, attention_v_dim(r))};
    op->matmul(be, &lw->w[SLOT_Q], &lw->w[SLOT_Q_BIAS], f->in, b->rows, q);
    if (source == layer) {
        project_keys(f, r, lw, &kv, b->rows);
    }
    if (r->gate != ARCH_GATE_NONE) {
        gate = mixer_take(f, &used, attention_gate_dim(r));
        op->matmul(be, &lw->w[SLOT_ATTN_GATE], &none, f->in, b->rows, gate);
    }
    norm_heads(f, r, &lw->w[SLOT_Q_NORM], q, b->rows, r->n_heads, 0);
    if (r->clip_qkv > 0) {
        op->clamp(be, q, b->rows * q_dim, r->clip_qkv);
    }
    turn_heads(f, r, b, q, r->n_heads);
    norm_heads(f, r, &lw->w[SLOT_Q_NORM], q, b->rows, r->n_heads, 1);
    if (source == layer) {
        store_keys(f, lw, layer, b, &kv);
    }
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const struct span *s = &b->spans[i];
        op->attention(be, r, &s->state->layers[source].kv, &lw->w[SLOT_SINKS], q + s->first * q_dim,
                      s->pos, s->rows, att + s->first * out_dim);
        mixer_keep(s, layer); /* a ring has room for the rows behind these */
    }
    if (gate) {
        gate_heads(f, r, b->rows, gate, att);
    }
    op->matmul(be, &lw->w[SLOT_O], &lw->w[SLOT_O_BIAS], att, b->rows, f->out);
}

const struct mixer_ops mixer_attention = {
    .name = "attention",
    .scratch = scratch,
    .limits = limits,
    .shape = shape,
    .holds = holds,
    .first_seen = first_seen,
    .supported = supported,
    .run = run,
};
