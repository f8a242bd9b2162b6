/*
 * arch_slots: THE tensor-slot table of arch.h, and the counts that follow from it.
 */
#include "format/arch.h"

uint32_t arch_mlp_dim(const struct arch *a, uint32_t layer) {
    return a->moe[layer] ? a->shared_dim : a->dense_dim;
}

uint32_t arch_moe_layers(const struct arch *a) {
    uint32_t n = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        n += a->moe[l];
    }
    return n;
}

/* Shapes as functions of the fields. A vector has one row; 0 rows: the model has no such tensor. */
#define SHAPE(name, expression)                                                                    \
    static uint32_t name(const struct arch *a, uint32_t layer) {                                   \
        (void)a;                                                                                   \
        (void)layer;                                                                               \
        return expression;                                                                         \
    }
SHAPE(one, 1)
SHAPE(dim, a->dim)
SHAPE(vocab, a->vocab)
SHAPE(head_rows, a->tied ? 0 : a->vocab)
SHAPE(q_dim, arch_q_dim(a))
SHAPE(kv_dim, arch_kv_dim(a))
SHAPE(qkv_bias_rows, a->qkv_bias)
SHAPE(o_bias_rows, a->o_bias)
SHAPE(qk_norm_rows, a->qk_norm != ARCH_QK_NORM_NONE)
SHAPE(q_norm_cols, a->qk_norm == ARCH_QK_NORM_HEAD ? a->head_dim : arch_q_dim(a))
SHAPE(k_norm_cols, a->qk_norm == ARCH_QK_NORM_HEAD ? a->head_dim : arch_kv_dim(a))
SHAPE(router_rows, a->moe[layer] ? a->n_experts : 0)
SHAPE(mlp_dim, arch_mlp_dim(a, layer))
SHAPE(mlp_down_rows, arch_mlp_dim(a, layer) ? a->dim : 0)
SHAPE(switch_rows, a->moe[layer] && a->shared_gate)
SHAPE(expert_rows, a->moe[layer] ? a->ffn_dim : 0)
SHAPE(expert_down_rows, a->moe[layer] ? a->dim : 0)
SHAPE(ffn_dim, a->ffn_dim)

#define SLOT(slot, text, of, how, r, c)                                                            \
    [slot] = {.id = slot,                                                                          \
              .name = text,                                                                        \
              .scope = SLOT_OF_##of,                                                               \
              .store = SLOT_STORE_##how,                                                           \
              .rows = r,                                                                           \
              .cols = c}
static const struct slot slots[SLOT_COUNT] = {
    SLOT(SLOT_EMBED, "embed", MODEL, TRUNK, vocab, dim),
    SLOT(SLOT_OUT_NORM, "out_norm", MODEL, EXACT, one, dim),
    SLOT(SLOT_HEAD, "head", MODEL, TRUNK, head_rows, dim),
    SLOT(SLOT_ATTN_NORM, "attn_norm", LAYER, EXACT, one, dim),
    SLOT(SLOT_Q, "q", LAYER, TRUNK, q_dim, dim),
    SLOT(SLOT_K, "k", LAYER, TRUNK, kv_dim, dim),
    SLOT(SLOT_V, "v", LAYER, TRUNK, kv_dim, dim),
    SLOT(SLOT_O, "o", LAYER, TRUNK, dim, q_dim),
    SLOT(SLOT_Q_BIAS, "q_bias", LAYER, EXACT, qkv_bias_rows, q_dim),
    SLOT(SLOT_K_BIAS, "k_bias", LAYER, EXACT, qkv_bias_rows, kv_dim),
    SLOT(SLOT_V_BIAS, "v_bias", LAYER, EXACT, qkv_bias_rows, kv_dim),
    SLOT(SLOT_O_BIAS, "o_bias", LAYER, EXACT, o_bias_rows, dim),
    SLOT(SLOT_Q_NORM, "q_norm", LAYER, EXACT, qk_norm_rows, q_norm_cols),
    SLOT(SLOT_K_NORM, "k_norm", LAYER, EXACT, qk_norm_rows, k_norm_cols),
    SLOT(SLOT_FFN_NORM, "ffn_norm", LAYER, EXACT, one, dim),
    SLOT(SLOT_ROUTER, "router", LAYER, KEEP, router_rows, dim),
    SLOT(SLOT_MLP_GATE, "mlp_gate", LAYER, TRUNK, mlp_dim, dim),
    SLOT(SLOT_MLP_UP, "mlp_up", LAYER, TRUNK, mlp_dim, dim),
    SLOT(SLOT_MLP_DOWN, "mlp_down", LAYER, TRUNK, mlp_down_rows, mlp_dim),
    SLOT(SLOT_MLP_SWITCH, "mlp_switch", LAYER, EXACT, switch_rows, dim),
    SLOT(SLOT_EXPERT_GATE, "expert_gate", EXPERT, EXPERT, expert_rows, dim),
    SLOT(SLOT_EXPERT_UP, "expert_up", EXPERT, EXPERT, expert_rows, dim),
    SLOT(SLOT_EXPERT_DOWN, "expert_down", EXPERT, EXPERT, expert_down_rows, ffn_dim),
};

const struct slot *slot_at(enum slot_id id) {
    return &slots[id];
}

bool slot_present(const struct slot *s, const struct arch *a, uint32_t layer) {
    return s->rows(a, layer) > 0;
}

bool slot_next(const struct arch *a, struct slot_place *p) {
    uint32_t id = p->started ? (uint32_t)p->slot + 1 : 0;
    p->layer = p->started ? p->layer : SLOT_LAYER_NONE;
    p->started = true;
    for (;;) {
        for (; id < SLOT_COUNT; id++) {
            enum slot_scope scope = p->layer == SLOT_LAYER_NONE ? SLOT_OF_MODEL : SLOT_OF_LAYER;
            if (slots[id].scope == scope && slot_present(&slots[id], a, p->layer)) {
                p->slot = (enum slot_id)id;
                return true;
            }
        }
        p->layer++; /* SLOT_LAYER_NONE wraps to layer 0 */
        if (p->layer >= a->n_layers) {
            p->layer = a->n_layers;
            p->slot = SLOT_COUNT - 1;
            return false;
        }
        id = 0;
    }
}

/* Sum over all tensors, each expert slot counted `experts` times. */
static uint64_t count_params(const struct arch *a, uint32_t experts) {
    uint64_t n = 0;
    for (uint32_t id = 0; id < SLOT_COUNT; id++) {
        const struct slot *s = &slots[id];
        uint32_t layers = s->scope == SLOT_OF_MODEL ? 1 : a->n_layers;
        uint64_t copies = s->scope == SLOT_OF_EXPERT ? experts : 1;
        for (uint32_t l = 0; l < layers; l++) {
            if (slot_present(s, a, l)) {
                n += copies * s->rows(a, l) * s->cols(a, l);
            }
        }
    }
    return n;
}

uint64_t arch_params(const struct arch *a) {
    return count_params(a, a->n_experts);
}

uint64_t arch_params_active(const struct arch *a) {
    uint64_t embed = (uint64_t)a->vocab * a->dim;
    uint64_t head_reads_embed = a->tied ? embed : 0;
    return count_params(a, a->n_active) - embed + a->dim + head_reads_embed;
}
