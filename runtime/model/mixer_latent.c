/*
 * mixer_latent: latent attention (struct latent_rule of format/arch.h).
 *
 * The state is one row a token: its latent, and behind it the key that knows its position. k_up is
 * always applied to queries and v_up to what they attend to, so that no keys or values of heads are
 * ever made, however many rows a call has: there is one order of summation.
 */
#include "runtime/model/mixer.h"

static const struct latent_rule *rule_of(const struct arch *a, uint32_t layer) {
    return &arch_kind(a, layer)->latent;
}

static size_t scratch(const struct arch *a, uint32_t layer) {
    const struct latent_rule *r = rule_of(a, layer);
    const size_t heads = r->n_heads;
    return r->q_rank + heads * (r->nope_dim + r->rope_dim + r->v_dim) + latent_key_dim(r) +
           2 * heads * r->rank;
}

static void limits(const struct arch *a, uint32_t layer, struct backend_limits *l) {
    const struct latent_rule *r = rule_of(a, layer);
    mixer_raise(&l->max_in, r->q_rank);
    mixer_raise(&l->max_in, r->n_heads * r->nope_dim);
    mixer_raise(&l->max_in, r->n_heads * r->rope_dim);
    mixer_raise(&l->max_in, r->n_heads * r->v_dim);
    mixer_raise(&l->latent_key_dim, latent_key_dim(r));
    mixer_raise(&l->max_head_in, r->nope_dim);
    mixer_raise(&l->max_head_in, r->rank);
}

static void shape(const struct arch *a, uint32_t layer, const struct state_size *size,
                  struct layer_state *out) {
    const struct latent_rule *r = rule_of(a, layer);
    out->kv = (struct kv){.type = size->type,
                          .n_kv_heads = 1,
                          .head_dim = latent_key_dim(r),
                          .latent_dim = r->rank,
                          .capacity_tok = size->ctx_tok};
}

/* All positions are held, and seen. */
static bool holds(const struct arch *a, uint32_t layer, const struct state *s, uint32_t n_tok) {
    (void)a;
    (void)layer;
    (void)s;
    (void)n_tok;
    return true;
}

static uint32_t first_seen(const struct arch *a, uint32_t layer, uint32_t n_tok) {
    (void)a;
    (void)layer;
    (void)n_tok;
    return 0;
}

static bool supported(const struct backend *be) {
    return be->ops->latent_attention != NULL;
}

/* A product with the rows of `x`; the norm of what comes out, where a slot has its weight; and its
 * heads turned by their positions, where `heads` is not 0. */
struct projection {
    enum slot_id slot, norm;
    uint32_t heads;
};

static void project(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                    const struct batch *b, struct projection p, const float *x, float *y) {
    const struct latent_rule *r = rule_of(f->arch, layer);
    const struct backend_ops *op = f->be->ops;
    const struct weight *w = &lw->w[p.slot], *norm = &lw->w[p.norm];
    const uint32_t half = arch_rope(f->arch, r->rope).dim / 2;
    static const struct weight none = {0};
    op->matmul(f->be->self, w, &none, x, b->rows, y);
    if (p.norm != p.slot) {
        op->rmsnorm(f->be->self, y, norm, r->norm_eps > 0 ? r->norm_eps : f->arch->norm_eps,
                    b->rows, w->rows, y);
    }
    if (p.heads > 0 && half > 0) {
        op->rope(f->be->self, y, b->rows, p.heads, r->rope_dim, forward_angles(f, r->rope, b),
                 half);
    }
}

static void run(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                const struct batch *b) {
    const struct latent_rule *r = rule_of(f->arch, layer);
    const struct backend_ops *op = f->be->ops;
    void *be = f->be->self;
    static const struct weight none = {0};
    const size_t rank = r->rank, rope_dim = r->rope_dim, heads = r->n_heads;
    size_t used = 0;
    float *q_a = mixer_take(f, &used, r->q_rank);
    float *q_nope = mixer_take(f, &used, heads * r->nope_dim);
    float *q_rope = mixer_take(f, &used, heads * rope_dim);
    float *kv = mixer_take(f, &used, rank), *k_rope = mixer_take(f, &used, rope_dim);
    float *q = mixer_take(f, &used, heads * rank), *seen = mixer_take(f, &used, heads * rank);
    float *out = mixer_take(f, &used, heads * r->v_dim);
    const float *q_in = f->in;
    if (r->q_rank > 0) {
        project(f, lw, layer, b, (struct projection){SLOT_LATENT_Q_A, SLOT_LATENT_Q_NORM, 0}, f->in,
                q_a);
        q_in = q_a;
    }
    project(f, lw, layer, b, (struct projection){SLOT_LATENT_Q_NOPE, SLOT_LATENT_Q_NOPE, 0}, q_in,
            q_nope);
    project(f, lw, layer, b,
            (struct projection){SLOT_LATENT_Q_ROPE, SLOT_LATENT_Q_ROPE, r->n_heads}, q_in, q_rope);
    project(f, lw, layer, b, (struct projection){SLOT_LATENT_KV, SLOT_LATENT_KV_NORM, 0}, f->in,
            kv);
    project(f, lw, layer, b, (struct projection){SLOT_LATENT_K_ROPE, SLOT_LATENT_K_ROPE, 1}, f->in,
            k_rope);
    op->matmul_heads(be, &lw->w[SLOT_LATENT_K_UP], r->n_heads, q_nope, b->rows, q);
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const struct span *s = &b->spans[i];
        const struct kv *held = &s->state->layers[layer].kv;
        const size_t first = s->first;
        op->latent_store(be, held, kv + first * rank, k_rope + first * rope_dim, s->pos, s->rows);
        op->latent_attention(be, r, held, q + first * heads * rank,
                             q_rope + first * heads * rope_dim, s->pos, s->rows,
                             seen + first * heads * rank);
        mixer_keep(s, layer);
    }
    op->matmul_heads(be, &lw->w[SLOT_LATENT_V_UP], r->n_heads, seen, b->rows, out);
    op->matmul(be, &lw->w[SLOT_LATENT_OUT], &none, out, b->rows, f->out);
}

const struct mixer_ops mixer_latent = {
    .name = "latent attention",
    .scratch = scratch,
    .limits = limits,
    .shape = shape,
    .holds = holds,
    .first_seen = first_seen,
    .supported = supported,
    .run = run,
};
