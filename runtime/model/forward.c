#include "runtime/model/forward.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/model/mixer.h"
#include "runtime/model/router.h"

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
        if (be->ops->place(be->self, &host, &out->w[id], err) < 0) {
            return -1;
        }
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

/* The maximum of a number over all layers. */
static size_t most(const struct arch *a, size_t (*of)(const struct arch *a, uint32_t layer)) {
    size_t greatest = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        size_t n = of(a, l);
        greatest = n > greatest ? n : greatest;
    }
    return greatest;
}

static size_t mlp_of(const struct arch *a, uint32_t layer) {
    return arch_mlp_dim(a, layer);
}
static size_t mixer_scratch_of(const struct arch *a, uint32_t layer) {
    return mixer_of(a, layer)->scratch(a, layer);
}
struct backend_limits forward_limits(const struct arch *a, uint32_t max_rows, uint32_t ctx_tok) {
    struct backend_limits l = {
        .max_rows = max_rows,
        .max_in = a->dim,
        .max_ffn = a->ffn_dim,
        .max_active = a->n_active,
        .max_experts = a->n_experts,
        .max_ctx_tok = ctx_tok,
    };
    for (uint32_t layer = 0; layer < a->n_layers; layer++) {
        mixer_raise(&l.max_in, arch_mlp_dim(a, layer));
        mixer_of(a, layer)->limits(a, layer, &l);
    }
    l.max_cols = l.max_in;
    mixer_raise(&l.max_cols, a->vocab);
    mixer_raise(&l.max_cols, a->n_experts);
    return l;
}

/* One row of this table for each scratch block, with its width for this model. Every block is
 * [max_rows, width]. */
struct block {
    float **at;
    size_t width;
};
enum { N_BLOCKS = 13 };

static void list_blocks(struct forward *f, const struct arch *a, struct block out[N_BLOCKS]) {
    size_t mlp = most(a, mlp_of), k = a->n_active;
    const struct block blocks[N_BLOCKS] = {
        {&f->x, a->dim},
        {&f->norm, a->dim},
        {&f->out, a->dim},
        {&f->mix, most(a, mixer_scratch_of)},
        {&f->cs, 2 * (size_t)a->n_inv_freq},
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

int forward_supported(const struct arch *a, const struct backend *be, struct err *err) {
    if (a->norm != ARCH_NORM_RMS && !be->ops->layernorm) {
        return err_set(err, "%s: the model has LayerNorms, which this backend cannot do yet",
                       be->name);
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        const struct mixer_ops *m = mixer_of(a, l);
        if (!m->supported(be)) {
            return err_set(err, "%s: layer %u mixes by %s, which this backend cannot do yet",
                           be->name, l, m->name);
        }
    }
    return 0;
}

int forward_open(struct forward *f, const struct arch *arch, struct backend *be, uint32_t max_rows,
                 struct experts_hook experts, struct tap_hook tap, struct err *err) {
    *f = (struct forward){
        .arch = arch, .be = be, .max_rows = max_rows, .experts = experts, .tap = tap};
    struct block blocks[N_BLOCKS];
    list_blocks(f, arch, blocks);
    for (int i = 0; i < N_BLOCKS; i++) {
        *blocks[i].at = be->ops->alloc(be->self, blocks[i].width * max_rows * sizeof(float), err);
        if (!*blocks[i].at) {
            return -1;
        }
    }
    f->host_ids = mem_calloc((size_t)max_rows * arch->n_active, sizeof(int32_t));
    f->row_pos = mem_calloc(max_rows, sizeof *f->row_pos);
    f->cs_pos = mem_calloc((size_t)max_rows * arch->n_ropes, sizeof *f->cs_pos);
    return 0;
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
    free(f->row_pos);
    free(f->cs_pos);
    *f = (struct forward){0};
}

/* ---- one layer ---- */

struct expert_layer forward_expert_layer(const struct arch *a, uint32_t layer,
                                         const struct layer_weights *lw) {
    return (struct expert_layer){
        .dim = a->dim,
        .ffn_dim = a->ffn_dim,
        .n_active = a->n_active,
        .rule = arch_kind(a, layer)->ffn,
        .gate_bias = weight_floats(&lw->w[SLOT_EXPERT_GATE_BIAS]),
        .up_bias = weight_floats(&lw->w[SLOT_EXPERT_UP_BIAS]),
        .down_bias = weight_floats(&lw->w[SLOT_EXPERT_DOWN_BIAS]),
    };
}

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
    /* Each start has been moved to the end of its expert's uses, which is where the next one
     * starts. */
    memmove(first_use + 1, first_use, n_experts * sizeof *first_use);
    first_use[0] = 0;
}

static void watch(struct forward *f, enum tap tap, uint32_t layer, const float *data,
                  const struct batch *b, uint32_t cols, const int32_t *ids) {
    if (f->tap.on) {
        f->tap.on(f->tap.ctx, tap, layer, data, b, cols, ids);
    }
}

/* RMSNorm of something else than the residual stream. */
static void norm_rows(struct forward *f, const struct weight *w, const float *x, uint32_t rows,
                      float *y) {
    f->be->ops->rmsnorm(f->be->self, x, w, f->arch->norm_eps, rows, f->arch->dim, y);
}

const float *forward_norm(const struct forward_site *at, enum slot_id norm, const float *x,
                          uint32_t rows, float *y) {
    static const struct weight none = {0};
    const struct arch *a = at->arch;
    const enum slot_id bias = slot_norm_bias(a, norm);
    if (norm == SLOT_COUNT) {
        return x;
    }
    if (a->norm == ARCH_NORM_RMS || norm == SLOT_ROUTER_NORM) {
        at->be->ops->rmsnorm(at->be->self, x, &at->lw->w[norm], a->norm_eps, rows, a->dim, y);
    } else {
        at->be->ops->layernorm(at->be->self, x, &at->lw->w[norm],
                               bias < SLOT_COUNT ? &at->lw->w[bias] : &none, a->norm_eps, rows,
                               a->dim, y);
    }
    return y;
}

static enum slot_id mixer_norm(const struct arch *a, uint32_t layer) {
    bool has = arch_kind(a, layer)->block.post_norm != ARCH_POST_NORM_ONLY;
    return has ? SLOT_ATTN_NORM : SLOT_COUNT;
}

enum slot_id forward_ffn_norm(const struct arch *a, uint32_t layer) {
    return arch_kind(a, layer)->block.parallel      ? SLOT_ATTN_NORM
           : mixer_norm(a, layer) == SLOT_ATTN_NORM ? SLOT_FFN_NORM
                                                    : SLOT_COUNT;
}

/* Whether the router's logits are those of what the layer was given. */
static bool routes_first(const struct arch *a, uint32_t layer) {
    return arch_kind(a, layer)->moe && arch_kind(a, layer)->route.input == ROUTE_LAYER_INPUT;
}

bool forward_looks_back(const struct arch *a, uint32_t layer) {
    return arch_kind(a, layer)->block.parallel || routes_first(a, layer);
}

const float *forward_angles(struct forward *f, uint32_t rope, const struct batch *b) {
    const struct rope_set set = arch_rope(f->arch, rope);
    /* The blocks of the rope sets lie one behind the other. */
    float *cs = f->cs + (size_t)2 * (size_t)(set.inv_freq - f->arch->rope_inv_freq) * f->max_rows;
    uint32_t *held = f->cs_pos + (size_t)rope * f->max_rows;
    for (uint32_t i = 0; i < b->n_spans; i++) {
        for (uint32_t r = 0; r < b->spans[i].rows; r++) {
            f->row_pos[b->spans[i].first + r] = b->spans[i].pos + r;
        }
    }
    if (f->cs_rows[rope] == b->rows && memcmp(held, f->row_pos, b->rows * sizeof *held) == 0) {
        return cs;
    }
    for (uint32_t i = 0; i < b->n_spans; i++) {
        const struct span *s = &b->spans[i];
        f->be->ops->rope_angles(f->be->self, s->pos, s->rows, set.inv_freq, set.dim / 2, set.scale,
                                cs + (size_t)s->first * set.dim);
    }
    memcpy(held, f->row_pos, b->rows * sizeof *held);
    f->cs_rows[rope] = b->rows;
    return cs;
}

/* y [rows, dim] = the always-on MLP applied to `in`. It is a dense layer's MLP, a shared expert, or
 * an MLP that stands beside the experts. */
static void dense_mlp(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                      const float *in, uint32_t rows, float *y) {
    const struct backend_ops *op = f->be->ops;
    void *be = f->be->self;
    const struct layer_kind *kind = arch_kind(f->arch, layer);
    struct ffn_rule rule = kind->ffn;
    static const struct weight none = {0};
    rule.limit = rule.act == FFN_SILU_LIMIT ? kind->shared_limit : rule.limit;
    op->matmul(be, &lw->w[SLOT_MLP_GATE], &none, in, rows, f->gate);
    op->matmul(be, &lw->w[SLOT_MLP_UP], &none, in, rows, f->up);
    op->act_mul(be, &rule, f->gate, f->up, (size_t)rows * lw->w[SLOT_MLP_GATE].rows);
    op->matmul(be, &lw->w[SLOT_MLP_DOWN], &none, f->gate, rows, y);
    if (lw->w[SLOT_MLP_SWITCH].data) {
        op->matmul(be, &lw->w[SLOT_MLP_SWITCH], &none, in, rows, f->sw);
        op->gate_rows(be, GATE_SIGMOID, y, f->sw, rows, f->arch->dim);
    }
}

/* f->out [rows, dim] = the routed experts applied to f->in; x is the residual stream. */
static int routed_experts(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                          const struct batch *b, const float *x, const float *before,
                          struct err *err) {
    const struct arch *a = f->arch;
    const struct forward_site at = {a, f->be, layer, lw};
    const struct backend_ops *op = f->be->ops;
    const struct route_rule *rule = &arch_kind(a, layer)->route;
    const float *in = f->in;
    if (rule->input == ROUTE_OWN_NORM) {
        in = router_input(&at, x, b->rows, f->out);
    } else if (rule->input == ROUTE_LAYER_INPUT) {
        in = before; /* NULL: forward_mixer has made the logits */
    }
    if (in) {
        watch(f, TAP_ROUTER_IN, layer, in, b, a->dim, NULL);
        router_logits(&at, in, b->rows, f->logits_router);
    }
    watch(f, TAP_ROUTER, layer, f->logits_router, b, a->n_experts, NULL);
    router_choose(&at, f->logits_router, b->rows, f->ids, f->weights);
    in = f->in;
    if (rule->on_input) {
        in = forward_norm(&at, forward_ffn_norm(a, layer), x, b->rows, f->out);
        op->gate_rows(f->be->self, GATE_PLAIN, f->out, f->weights, b->rows, a->dim);
    }
    if (f->experts.host_x && b->decode) {
        op->read_later(f->be->self, f->experts.host_x, in,
                       (size_t)b->rows * a->dim * sizeof(float));
    }
    op->read(f->be->self, f->host_ids, f->ids, (size_t)b->rows * a->n_active * sizeof(int32_t));
    watch(f, TAP_EXPERT_WEIGHTS, layer, f->weights, b, a->n_active, f->host_ids);
    if (f->experts.run(f->experts.ctx, layer, lw, in, b, f->host_ids, f->parts, err) < 0) {
        return -1;
    }
    op->combine(f->be->self, f->parts, rule->on_input ? NULL : f->weights, b->rows, a->n_active,
                a->dim, f->out);
    return 0;
}

/* f->out += the always-on MLP of a layer with experts. */
static void add_mlp(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                    const struct batch *b, const float *x) {
    const float scale = arch_kind(f->arch, layer)->shared_scale;
    if (arch_kind(f->arch, layer)->block.dense_beside) {
        norm_rows(f, &lw->w[SLOT_MOE_POST_NORM], f->out, b->rows, f->out);
        norm_rows(f, &lw->w[SLOT_MLP_NORM], x, b->rows, f->norm);
        dense_mlp(f, lw, layer, f->norm, b->rows, f->mlp);
        norm_rows(f, &lw->w[SLOT_MLP_POST_NORM], f->mlp, b->rows, f->mlp);
    } else {
        dense_mlp(f, lw, layer, f->in, b->rows, f->mlp);
    }
    if (scale > 0) {
        f->be->ops->scale(f->be->self, f->mlp, (size_t)b->rows * f->arch->dim, scale);
    }
    f->be->ops->add(f->be->self, f->out, f->mlp, (size_t)b->rows * f->arch->dim);
}

/* x += what a branch gives, f->out. */
static void add_branch(struct forward *f, uint32_t layer, float *x, size_t n) {
    const float scale = arch_kind(f->arch, layer)->block.branch_scale;
    if (scale > 0) {
        f->be->ops->scale(f->be->self, f->out, n, scale);
    }
    f->be->ops->add(f->be->self, x, f->out, n);
}

void forward_mixer(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                   const struct batch *b, float *x) {
    const struct arch *a = f->arch;
    const struct forward_site at = {a, f->be, layer, lw};
    if (routes_first(a, layer)) {
        router_logits(&at, x, b->rows, f->logits_router);
    }
    f->in = forward_norm(&at, mixer_norm(a, layer), x, b->rows, f->norm);
    watch(f, TAP_ATTN_IN, layer, f->in, b, a->dim, NULL);
    mixer_of(a, layer)->run(f, lw, layer, b);
    watch(f, TAP_ATTN_OUT, layer, f->out, b, a->dim, NULL);
    if (slot_present(slot_at(SLOT_ATTN_POST_NORM), a, layer)) {
        norm_rows(f, &lw->w[SLOT_ATTN_POST_NORM], f->out, b->rows, f->out);
    }
    add_branch(f, layer, x, (size_t)b->rows * a->dim);
    f->mixed = x;
    f->mixed_rows = b->rows;
}

int forward_ffn(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                const struct batch *b, float *x, const float *before, struct err *err) {
    const struct arch *a = f->arch;
    const struct layer_kind *kind = arch_kind(a, layer);
    const struct forward_site at = {a, f->be, layer, lw};
    size_t n = (size_t)b->rows * a->dim;
    if (!before && forward_looks_back(a, layer) && (f->mixed != x || f->mixed_rows != b->rows)) {
        die("layer %u looks back at rows that are not the mixer's last", layer);
    }
    f->mixed = NULL;
    watch(f, TAP_FFN_RESIDUAL, layer, x, b, a->dim, NULL);
    if (before || !arch_kind(a, layer)->block.parallel) { /* else it is what the mixer has read */
        f->in = forward_norm(&at, forward_ffn_norm(a, layer),
                             arch_kind(a, layer)->block.parallel ? before : x, b->rows, f->norm);
    }
    watch(f, TAP_FFN_IN, layer, f->in, b, a->dim, NULL);
    if (!kind->moe) {
        dense_mlp(f, lw, layer, f->in, b->rows, f->out);
    } else {
        if (routed_experts(f, lw, layer, b, x, before, err) < 0) {
            return -1;
        }
        if (lw->w[SLOT_MLP_GATE].data) {
            add_mlp(f, lw, layer, b, x);
        }
    }
    if (kind->block.post_norm) {
        norm_rows(f, &lw->w[SLOT_FFN_POST_NORM], f->out, b->rows, f->out);
    }
    watch(f, TAP_FFN_OUT, layer, f->out, b, a->dim, NULL);
    add_branch(f, layer, x, n);
    if (kind->block.layer_scale) {
        f->be->ops->scale_by(f->be->self, x, n, &lw->w[SLOT_LAYER_SCALE]);
    }
    watch(f, TAP_LAYER_OUT, layer, x, b, a->dim, NULL);
    return 0;
}

int forward_layer(struct forward *f, const struct layer_weights *lw, uint32_t layer,
                  const struct batch *b, float *x, struct err *err) {
    forward_mixer(f, lw, layer, b, x);
    return forward_ffn(f, lw, layer, b, x, NULL, err);
}

/* ---- both ends ---- */

void forward_embed(struct forward *f, const struct layer_weights *model, const int32_t *host_ids,
                   const struct batch *b, float *x) {
    const struct arch *a = f->arch;
    f->be->ops->embed(f->be->self, &model->w[SLOT_EMBED], host_ids, b->rows, x);
    if (a->embed_scale != 1.0f) {
        f->be->ops->scale(f->be->self, x, (size_t)b->rows * a->dim, a->embed_scale);
    }
    watch(f, TAP_EMBED, 0, x, b, a->dim, NULL);
}

void forward_logits(struct forward *f, const struct layer_weights *model, const float *x,
                    uint32_t rows, float *logits) {
    const struct arch *a = f->arch;
    const struct batch b = {.rows = rows};
    const struct forward_site at = {a, f->be, a->n_layers, model};
    forward_norm(&at, SLOT_OUT_NORM, x, rows, f->norm);
    watch(f, TAP_FINAL_NORM, a->n_layers, f->norm, &b, a->dim, NULL);
    f->be->ops->matmul(f->be->self, &model->w[SLOT_HEAD], &model->w[SLOT_HEAD_BIAS], f->norm, rows,
                       logits);
    if (a->logit_scale > 0) {
        f->be->ops->scale(f->be->self, logits, (size_t)rows * a->vocab, a->logit_scale);
    }
    if (a->logit_cap > 0) {
        f->be->ops->softcap(f->be->self, logits, (size_t)rows * a->vocab, a->logit_cap);
    }
    watch(f, TAP_LOGITS, a->n_layers, logits, &b, a->vocab, NULL);
}
