#include "runtime/model/forward.h"

#include <stdlib.h>
#include <string.h>

#include <math.h>

/* ---- weights ---- */

static int bind_scope(struct layer_weights *out, const struct arch *arch, enum slot_scope scope,
                      uint32_t layer, const struct weight_source *src, struct backend *be,
                      struct err *err) {
    for (int id = 0; id < SLOT_COUNT; id++) {
        const struct slot *s = slot_at((enum slot_id)id);
        if (s->scope != scope || !slot_present(s, arch, layer)) {
            continue;
        }
        struct weight host;
        if (src->get(src->ctx, s->id, layer, &host, err) < 0) {
            return -1;
        }
        out->w[id] = be->ops->place(be->self, &host);
    }
    return 0;
}

int forward_bind_layer(struct layer_weights *out, const struct arch *arch, uint32_t layer,
                       const struct weight_source *src, struct backend *be, struct err *err) {
    memset(out, 0, sizeof *out);
    return bind_scope(out, arch, SLOT_OF_LAYER, layer, src, be, err);
}

int forward_bind_model(struct layer_weights *out, const struct arch *arch,
                       const struct weight_source *src, struct backend *be, struct err *err) {
    memset(out, 0, sizeof *out);
    if (bind_scope(out, arch, SLOT_OF_MODEL, 0, src, be, err) < 0) {
        return -1;
    }
    if (arch->tied) {
        out->w[SLOT_HEAD] = out->w[SLOT_EMBED];
    }
    return 0;
}

/* ---- scratch ---- */

static uint32_t widest_mlp(const struct arch *a) {
    uint32_t widest = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        uint32_t n = arch_mlp_dim(a, l);
        widest = n > widest ? n : widest;
    }
    return widest;
}

struct backend_limits forward_limits(const struct arch *a, uint32_t max_rows, uint32_t ctx_tok) {
    uint32_t mlp = widest_mlp(a), q = arch_q_dim(a), cols = a->dim;
    cols = mlp > cols ? mlp : cols;
    cols = q > cols ? q : cols;
    uint32_t in = cols;
    cols = a->vocab > cols ? a->vocab : cols;
    return (struct backend_limits){
        .max_rows = max_rows,
        .max_cols = cols,
        .max_in = in,
        .max_ffn = a->ffn_dim,
        .max_active = a->n_active,
        .max_experts = a->n_experts,
        .max_ctx_tok = ctx_tok,
        .n_heads = a->n_heads,
        .head_dim = a->head_dim,
    };
}

/* One row a scratch block: how wide it is for this model. Every block is [max_rows, width]. */
struct block {
    float **at;
    size_t width;
};
enum { N_BLOCKS = 16 };

static void list_blocks(struct forward *f, const struct arch *a, struct block out[N_BLOCKS]) {
    size_t q = arch_q_dim(a), kv = arch_kv_dim(a), mlp = widest_mlp(a), k = a->n_active;
    const struct block blocks[N_BLOCKS] = {
        {&f->x, a->dim},
        {&f->norm, a->dim},
        {&f->q, q},
        {&f->k, kv},
        {&f->v, kv},
        {&f->att, q},
        {&f->out, a->dim},
        {&f->cs, a->rope_dim},
        {&f->gate, mlp},
        {&f->up, mlp},
        {&f->mlp, a->dim},
        {&f->parts, k * a->dim},
        {&f->logits_router, a->n_experts},
        {&f->weights, k},
        {&f->sw, 1},
        {(float **)&f->ids, k}, /* int32: the same size */
    };
    memcpy(out, blocks, sizeof blocks);
}

size_t forward_scratch_bytes(const struct arch *arch, uint32_t max_rows) {
    struct forward f;
    struct block blocks[N_BLOCKS];
    list_blocks(&f, arch, blocks);
    size_t floats = 0;
    for (int i = 0; i < N_BLOCKS; i++) {
        floats += blocks[i].width;
    }
    return floats * max_rows * sizeof(float);
}

void forward_open(struct forward *f, const struct arch *arch, struct backend *be, uint32_t max_rows,
                  struct experts_hook experts, struct tap_hook tap) {
    *f = (struct forward){
        .arch = arch, .be = be, .max_rows = max_rows, .experts = experts, .tap = tap};
    struct block blocks[N_BLOCKS];
    list_blocks(f, arch, blocks);
    for (int i = 0; i < N_BLOCKS; i++) {
        *blocks[i].at = be->ops->alloc(be->self, blocks[i].width * max_rows * sizeof(float));
    }
    f->host_ids = mem_calloc((size_t)max_rows * arch->n_active, sizeof(int32_t));
}

void forward_close(struct forward *f) {
    if (!f->be) {
        return;
    }
    struct block blocks[N_BLOCKS];
    list_blocks(f, f->arch, blocks);
    for (int i = 0; i < N_BLOCKS; i++) {
        f->be->ops->free(f->be->self, *blocks[i].at);
    }
    free(f->host_ids);
    *f = (struct forward){0};
}

/* ---- one layer ---- */

void forward_group_uses(const int32_t *host_ids, uint32_t n_uses, uint32_t n_experts,
                        uint32_t *first_use, uint32_t *uses) {
    memset(first_use, 0, ((size_t)n_experts + 1) * sizeof *first_use);
    for (uint32_t u = 0; u < n_uses; u++) {
        first_use[host_ids[u] + 1]++;
    }
    for (uint32_t i = 0; i < n_experts; i++) {
        first_use[i + 1] += first_use[i];
    }
    for (uint32_t u = 0; u < n_uses; u++) {
        uses[first_use[host_ids[u]]++] = u;
    }
    /* Each start has moved to its end, which is the next one's start. */
    memmove(first_use + 1, first_use, n_experts * sizeof *first_use);
    first_use[0] = 0;
}

static void watch(struct forward *f, enum tap tap, uint32_t layer, const float *data, uint32_t rows,
                  uint32_t cols, const int32_t *ids) {
    if (f->tap.on) {
        f->tap.on(f->tap.ctx, tap, layer, data, rows, cols, ids);
    }
}

/* RMSNorm of queries or keys [rows, heads, head_dim], by head or over the whole projection. */
static void norm_heads(struct forward *f, const struct weight *weight, float *x, uint32_t rows,
                       uint32_t heads) {
    const struct arch *a = f->arch;
    bool by_head = a->qk_norm == ARCH_QK_NORM_HEAD;
    if (a->qk_norm != ARCH_QK_NORM_NONE) {
        f->be->ops->rmsnorm(f->be->self, x, weight, a->norm_eps, by_head ? rows * heads : rows,
                            by_head ? a->head_dim : heads * a->head_dim, x);
    }
}

/* f->out [rows, dim] = attention over f->norm. */
static void attend(struct forward *f, const struct layer_weights *lw, uint32_t layer, struct kv *kv,
                   uint32_t pos0, uint32_t rows) {
    const struct arch *a = f->arch;
    const struct backend_ops *op = f->be->ops;
    void *be = f->be->self;
    op->matmul(be, &lw->w[SLOT_Q], &lw->w[SLOT_Q_BIAS], f->norm, rows, f->q);
    op->matmul(be, &lw->w[SLOT_K], &lw->w[SLOT_K_BIAS], f->norm, rows, f->k);
    op->matmul(be, &lw->w[SLOT_V], &lw->w[SLOT_V_BIAS], f->norm, rows, f->v);
    norm_heads(f, &lw->w[SLOT_Q_NORM], f->q, rows, a->n_heads);
    norm_heads(f, &lw->w[SLOT_K_NORM], f->k, rows, a->n_kv_heads);
    if (a->clip_qkv > 0) {
        op->clamp(be, f->q, (size_t)rows * arch_q_dim(a), a->clip_qkv);
        op->clamp(be, f->k, (size_t)rows * arch_kv_dim(a), a->clip_qkv);
        op->clamp(be, f->v, (size_t)rows * arch_kv_dim(a), a->clip_qkv);
    }
    uint32_t half = a->rope_dim / 2;
    if (f->cs_pos0 != pos0 || f->cs_rows != rows) {
        op->rope_angles(be, pos0, rows, a->rope_inv_freq, half, a->rope_scale, f->cs);
        f->cs_pos0 = pos0;
        f->cs_rows = rows;
    }
    op->rope(be, f->q, rows, a->n_heads, a->head_dim, f->cs, half);
    op->rope(be, f->k, rows, a->n_kv_heads, a->head_dim, f->cs, half);
    op->kv_store(be, kv, f->k, f->v, pos0, rows);
    op->attention(be, f->q, a->n_heads, kv, pos0, rows, a->window[layer],
                  1.0f / sqrtf((float)a->head_dim), f->att);
    op->matmul(be, &lw->w[SLOT_O], &lw->w[SLOT_O_BIAS], f->att, rows, f->out);
}

/* y [rows, dim] = the always-on MLP of f->norm: a dense layer's, or the shared expert. */
static void dense_mlp(struct forward *f, const struct layer_weights *lw, uint32_t rows, float *y) {
    const struct backend_ops *op = f->be->ops;
    void *be = f->be->self;
    static const struct weight none = {0};
    op->matmul(be, &lw->w[SLOT_MLP_GATE], &none, f->norm, rows, f->gate);
    op->matmul(be, &lw->w[SLOT_MLP_UP], &none, f->norm, rows, f->up);
    op->silu_mul(be, f->gate, f->up, (size_t)rows * lw->w[SLOT_MLP_GATE].rows);
    op->matmul(be, &lw->w[SLOT_MLP_DOWN], &none, f->gate, rows, y);
    if (lw->w[SLOT_MLP_SWITCH].data) {
        op->matmul(be, &lw->w[SLOT_MLP_SWITCH], &none, f->norm, rows, f->sw);
        op->gate_rows(be, y, f->sw, rows, f->arch->dim);
    }
}

/* f->out [rows, dim] = routed experts of f->norm. */
static int routed_experts(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                          uint32_t rows, struct err *err) {
    const struct arch *a = f->arch;
    const struct backend_ops *op = f->be->ops;
    void *be = f->be->self;
    static const struct weight none = {0};
    op->matmul(be, &lw->w[SLOT_ROUTER], &none, f->norm, rows, f->logits_router);
    watch(f, TAP_ROUTER, layer, f->logits_router, rows, a->n_experts, NULL);
    op->route(be, f->logits_router, rows, a->n_experts, a->n_active, a->norm_topk, f->ids,
              f->weights);
    op->read(be, f->host_ids, f->ids, (size_t)rows * a->n_active * sizeof(int32_t));
    watch(f, TAP_EXPERT_WEIGHTS, layer, f->weights, rows, a->n_active, f->host_ids);
    if (f->experts.run(f->experts.ctx, layer, f->norm, rows, f->host_ids, f->parts, err) < 0) {
        return -1;
    }
    op->combine(be, f->parts, f->weights, rows, a->n_active, a->dim, f->out);
    return 0;
}

void forward_attention(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                       struct kv *kv, uint32_t pos0, uint32_t rows, float *x) {
    const struct arch *a = f->arch;
    const struct backend_ops *op = f->be->ops;
    op->rmsnorm(f->be->self, x, &lw->w[SLOT_ATTN_NORM], a->norm_eps, rows, a->dim, f->norm);
    watch(f, TAP_ATTN_IN, layer, f->norm, rows, a->dim, NULL);
    attend(f, lw, layer, kv, pos0, rows);
    watch(f, TAP_ATTN_OUT, layer, f->out, rows, a->dim, NULL);
    op->add(f->be->self, x, f->out, (size_t)rows * a->dim);
}

int forward_ffn(struct forward *f, const struct layer_weights *lw, uint32_t layer, uint32_t rows,
                float *x, struct err *err) {
    const struct arch *a = f->arch;
    const struct backend_ops *op = f->be->ops;
    void *be = f->be->self;
    size_t n = (size_t)rows * a->dim;
    watch(f, TAP_FFN_RESIDUAL, layer, x, rows, a->dim, NULL);
    op->rmsnorm(be, x, &lw->w[SLOT_FFN_NORM], a->norm_eps, rows, a->dim, f->norm);
    watch(f, TAP_FFN_IN, layer, f->norm, rows, a->dim, NULL);
    bool has_mlp = lw->w[SLOT_MLP_GATE].data != NULL;
    if (a->moe[layer]) {
        if (routed_experts(f, lw, layer, rows, err) < 0) {
            return -1;
        }
        if (has_mlp) {
            dense_mlp(f, lw, rows, f->mlp);
            op->add(be, f->out, f->mlp, n);
        }
    } else {
        dense_mlp(f, lw, rows, f->out);
    }
    watch(f, TAP_FFN_OUT, layer, f->out, rows, a->dim, NULL);
    op->add(be, x, f->out, n);
    watch(f, TAP_LAYER_OUT, layer, x, rows, a->dim, NULL);
    return 0;
}

int forward_layer(struct forward *f, const struct layer_weights *lw, uint32_t layer, struct kv *kv,
                  uint32_t pos0, uint32_t rows, float *x, struct err *err) {
    forward_attention(f, lw, layer, kv, pos0, rows, x);
    return forward_ffn(f, lw, layer, rows, x, err);
}

/* ---- both ends ---- */

void forward_embed(struct forward *f, const struct layer_weights *model, const int32_t *host_ids,
                   uint32_t rows, float *x) {
    f->be->ops->embed(f->be->self, &model->w[SLOT_EMBED], host_ids, rows, x);
    watch(f, TAP_EMBED, 0, x, rows, f->arch->dim, NULL);
}

void forward_logits(struct forward *f, const struct layer_weights *model, const float *x,
                    uint32_t rows, float *logits) {
    const struct arch *a = f->arch;
    static const struct weight none = {0};
    f->be->ops->rmsnorm(f->be->self, x, &model->w[SLOT_OUT_NORM], a->norm_eps, rows, a->dim,
                        f->norm);
    watch(f, TAP_FINAL_NORM, a->n_layers, f->norm, rows, a->dim, NULL);
    f->be->ops->matmul(f->be->self, &model->w[SLOT_HEAD], &none, f->norm, rows, logits);
    watch(f, TAP_LOGITS, a->n_layers, logits, rows, a->vocab, NULL);
}
