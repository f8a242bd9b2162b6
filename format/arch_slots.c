/*
 * arch_slots: THE tensor-slot table of arch.h, and the counts that follow from it.
 */
#include "format/arch.h"

uint32_t arch_mlp_dim(const struct arch *a, uint32_t layer) {
    const struct layer_kind *k = arch_kind(a, layer);
    return k->moe ? k->shared_dim : k->dense_dim;
}

uint32_t arch_moe_layers(const struct arch *a) {
    uint32_t n = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        n += arch_is_moe(a, l);
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
/* The same of a layer's kind, `k`. */
#define KIND_SHAPE(name, expression)                                                               \
    static uint32_t name(const struct arch *a, uint32_t layer) {                                   \
        const struct layer_kind *k = arch_kind(a, layer);                                          \
        return expression;                                                                         \
    }

static bool attends(const struct layer_kind *k) {
    return k->mixer == MIXER_ATTENTION;
}
/* Whether a layer makes keys and values of its own, and values from a projection of their own. */
static bool has_keys(const struct arch *a, uint32_t layer) {
    return attends(arch_kind(a, layer)) && arch_kv_layer(a, layer) == layer;
}
static bool has_values(const struct arch *a, uint32_t layer) {
    return has_keys(a, layer) && !arch_kind(a, layer)->att.v_from_k;
}
static bool is_delta(const struct layer_kind *k) {
    return k->mixer == MIXER_DELTA_NET;
}
static bool is_latent(const struct layer_kind *k) {
    return k->mixer == MIXER_LATENT;
}
/* Of latent attention: so many rows for each head. */
static uint32_t latent_heads(const struct layer_kind *k, uint32_t rows) {
    return is_latent(k) ? k->latent.n_heads * rows : 0;
}

SHAPE(one, 1)
SHAPE(dim, a->dim)
SHAPE(vocab, a->vocab)
SHAPE(n_experts, a->n_experts)
SHAPE(ffn_dim, a->ffn_dim)
SHAPE(head_rows, a->tied ? 0 : a->vocab)
SHAPE(head_bias_rows, a->head_bias)
SHAPE(norm_bias_rows, a->norm == ARCH_NORM_LAYER_BIAS)

KIND_SHAPE(q_dim, attention_q_dim(&k->att))
KIND_SHAPE(k_dim, attention_k_dim(&k->att))
KIND_SHAPE(v_dim, attention_v_dim(&k->att))
KIND_SHAPE(out_dim, attention_out_dim(&k->att))
KIND_SHAPE(n_heads, k->att.n_heads)
KIND_SHAPE(gate_dim, attention_gate_dim(&k->att))
KIND_SHAPE(q_norm_cols, k->att.qk_norm == ARCH_QK_NORM_HEAD ? k->att.head_dim : q_dim(a, layer))
KIND_SHAPE(k_norm_cols, k->att.qk_norm == ARCH_QK_NORM_HEAD ? k->att.head_dim : k_dim(a, layer))
KIND_SHAPE(q_rows, attends(k) ? q_dim(a, layer) : 0)
KIND_SHAPE(o_rows, attends(k) ? a->dim : 0)
KIND_SHAPE(q_bias_rows, attends(k) && k->att.qkv_bias)
KIND_SHAPE(o_bias_rows, attends(k) && k->att.o_bias)
KIND_SHAPE(q_norm_rows, attends(k) && (k->att.qk_norm == ARCH_QK_NORM_HEAD ||
                                       k->att.qk_norm == ARCH_QK_NORM_FULL))
KIND_SHAPE(attn_gate_rows, attends(k) ? gate_dim(a, layer) : 0)
KIND_SHAPE(sinks_rows, attends(k) && k->att.sinks)
SHAPE(k_rows, has_keys(a, layer) ? k_dim(a, layer) : 0)
SHAPE(v_rows, has_values(a, layer) ? v_dim(a, layer) : 0)
SHAPE(k_bias_rows, has_keys(a, layer) && q_bias_rows(a, layer))
SHAPE(v_bias_rows, has_values(a, layer) && q_bias_rows(a, layer))
SHAPE(k_norm_rows, has_keys(a, layer) && q_norm_rows(a, layer))

KIND_SHAPE(attn_norm_rows, k->block.post_norm != ARCH_POST_NORM_ONLY)
KIND_SHAPE(ffn_norm_rows, k->block.post_norm != ARCH_POST_NORM_ONLY && !k->block.parallel)
KIND_SHAPE(attn_post_norm_rows,
           k->block.post_norm != ARCH_POST_NORM_NONE && k->block.post_norm != ARCH_POST_NORM_FFN)
KIND_SHAPE(ffn_post_norm_rows, k->block.post_norm != ARCH_POST_NORM_NONE)
SHAPE(attn_norm_bias_rows, attn_norm_rows(a, layer) && norm_bias_rows(a, layer))
SHAPE(ffn_norm_bias_rows, ffn_norm_rows(a, layer) && norm_bias_rows(a, layer))
KIND_SHAPE(beside_rows, k->moe && k->block.dense_beside)
KIND_SHAPE(layer_scale_rows, k->block.layer_scale)

SHAPE(mlp_dim, arch_mlp_dim(a, layer))
SHAPE(mlp_down_rows, arch_mlp_dim(a, layer) ? a->dim : 0)
KIND_SHAPE(switch_rows, k->moe && k->shared_gate)
KIND_SHAPE(router_rows, k->moe ? a->n_experts : 0)
KIND_SHAPE(router_norm_rows, k->moe && k->route.input == ROUTE_OWN_NORM)
KIND_SHAPE(router_bias_rows, k->moe && k->route.logit_bias)
KIND_SHAPE(router_select_rows, k->moe && k->route.selection_bias)
KIND_SHAPE(router_factor_rows, k->moe && k->route.factor)
KIND_SHAPE(expert_rows, k->moe ? a->ffn_dim : 0)
KIND_SHAPE(expert_down_rows, k->moe ? a->dim : 0)
KIND_SHAPE(expert_bias_rows, k->moe && k->ffn.bias ? a->n_experts : 0)

KIND_SHAPE(delta_v, delta_v_dim(&k->delta))
KIND_SHAPE(delta_heads, k->delta.n_v_heads)
KIND_SHAPE(delta_head, k->delta.v_dim)
KIND_SHAPE(delta_conv, k->delta.conv)
KIND_SHAPE(delta_one, is_delta(k))
KIND_SHAPE(delta_qkv_rows, is_delta(k) ? delta_qkv_dim(&k->delta) : 0)
KIND_SHAPE(delta_v_rows, is_delta(k) ? delta_v_dim(&k->delta) : 0)
KIND_SHAPE(delta_head_rows, is_delta(k) ? k->delta.n_v_heads : 0)
KIND_SHAPE(delta_out_rows, is_delta(k) ? a->dim : 0)

KIND_SHAPE(latent_rank, k->latent.rank)
KIND_SHAPE(latent_q_rank, k->latent.q_rank)
KIND_SHAPE(latent_q_cols, k->latent.q_rank ? k->latent.q_rank : a->dim)
KIND_SHAPE(latent_nope, k->latent.nope_dim)
KIND_SHAPE(latent_one, is_latent(k))
KIND_SHAPE(latent_q_a_rows, is_latent(k) ? k->latent.q_rank : 0)
KIND_SHAPE(latent_q_norm_rows, is_latent(k) && k->latent.q_rank > 0)
KIND_SHAPE(latent_q_nope_rows, latent_heads(k, k->latent.nope_dim))
KIND_SHAPE(latent_q_rope_rows, latent_heads(k, k->latent.rope_dim))
KIND_SHAPE(latent_kv_rows, is_latent(k) ? k->latent.rank : 0)
KIND_SHAPE(latent_k_rope_rows, is_latent(k) ? k->latent.rope_dim : 0)
KIND_SHAPE(latent_k_up_rows, latent_heads(k, k->latent.rank))
KIND_SHAPE(latent_v_up_rows, latent_heads(k, k->latent.v_dim))
KIND_SHAPE(latent_out_rows, is_latent(k) ? a->dim : 0)

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
    SLOT(SLOT_ATTN_NORM, "attn_norm", LAYER, EXACT, attn_norm_rows, dim),
    SLOT(SLOT_Q, "q", LAYER, TRUNK, q_rows, dim),
    SLOT(SLOT_K, "k", LAYER, TRUNK, k_rows, dim),
    SLOT(SLOT_V, "v", LAYER, TRUNK, v_rows, dim),
    SLOT(SLOT_O, "o", LAYER, TRUNK, o_rows, out_dim),
    SLOT(SLOT_Q_BIAS, "q_bias", LAYER, EXACT, q_bias_rows, q_dim),
    SLOT(SLOT_K_BIAS, "k_bias", LAYER, EXACT, k_bias_rows, k_dim),
    SLOT(SLOT_V_BIAS, "v_bias", LAYER, EXACT, v_bias_rows, v_dim),
    SLOT(SLOT_O_BIAS, "o_bias", LAYER, EXACT, o_bias_rows, dim),
    SLOT(SLOT_Q_NORM, "q_norm", LAYER, EXACT, q_norm_rows, q_norm_cols),
    SLOT(SLOT_K_NORM, "k_norm", LAYER, EXACT, k_norm_rows, k_norm_cols),
    SLOT(SLOT_FFN_NORM, "ffn_norm", LAYER, EXACT, ffn_norm_rows, dim),
    SLOT(SLOT_ROUTER, "router", LAYER, KEEP, router_rows, dim),
    SLOT(SLOT_MLP_GATE, "mlp_gate", LAYER, TRUNK, mlp_dim, dim),
    SLOT(SLOT_MLP_UP, "mlp_up", LAYER, TRUNK, mlp_dim, dim),
    SLOT(SLOT_MLP_DOWN, "mlp_down", LAYER, TRUNK, mlp_down_rows, mlp_dim),
    SLOT(SLOT_MLP_SWITCH, "mlp_switch", LAYER, EXACT, switch_rows, dim),
    SLOT(SLOT_EXPERT_GATE, "expert_gate", EXPERT, EXPERT, expert_rows, dim),
    SLOT(SLOT_EXPERT_UP, "expert_up", EXPERT, EXPERT, expert_rows, dim),
    SLOT(SLOT_EXPERT_DOWN, "expert_down", EXPERT, EXPERT, expert_down_rows, ffn_dim),
    SLOT(SLOT_ATTN_GATE, "attn_gate", LAYER, TRUNK, attn_gate_rows, dim),
    SLOT(SLOT_SINKS, "sinks", LAYER, EXACT, sinks_rows, n_heads),
    SLOT(SLOT_ATTN_POST_NORM, "attn_post_norm", LAYER, EXACT, attn_post_norm_rows, dim),
    SLOT(SLOT_FFN_POST_NORM, "ffn_post_norm", LAYER, EXACT, ffn_post_norm_rows, dim),
    SLOT(SLOT_MLP_NORM, "mlp_norm", LAYER, EXACT, beside_rows, dim),
    SLOT(SLOT_MLP_POST_NORM, "mlp_post_norm", LAYER, EXACT, beside_rows, dim),
    SLOT(SLOT_MOE_POST_NORM, "moe_post_norm", LAYER, EXACT, beside_rows, dim),
    SLOT(SLOT_ROUTER_NORM, "router_norm", LAYER, EXACT, router_norm_rows, dim),
    SLOT(SLOT_ROUTER_BIAS, "router_bias", LAYER, EXACT, router_bias_rows, n_experts),
    SLOT(SLOT_ROUTER_SELECT, "router_select", LAYER, EXACT, router_select_rows, n_experts),
    SLOT(SLOT_ROUTER_FACTOR, "router_factor", LAYER, EXACT, router_factor_rows, n_experts),
    SLOT(SLOT_EXPERT_GATE_BIAS, "expert_gate_bias", LAYER, EXACT, expert_bias_rows, ffn_dim),
    SLOT(SLOT_EXPERT_UP_BIAS, "expert_up_bias", LAYER, EXACT, expert_bias_rows, ffn_dim),
    SLOT(SLOT_EXPERT_DOWN_BIAS, "expert_down_bias", LAYER, EXACT, expert_bias_rows, dim),
    SLOT(SLOT_LAYER_SCALE, "layer_scale", LAYER, EXACT, layer_scale_rows, one),
    SLOT(SLOT_DELTA_QKV, "delta_qkv", LAYER, TRUNK, delta_qkv_rows, dim),
    SLOT(SLOT_DELTA_Z, "delta_z", LAYER, TRUNK, delta_v_rows, dim),
    SLOT(SLOT_DELTA_B, "delta_b", LAYER, KEEP, delta_head_rows, dim),
    SLOT(SLOT_DELTA_A, "delta_a", LAYER, KEEP, delta_head_rows, dim),
    SLOT(SLOT_DELTA_CONV, "delta_conv", LAYER, EXACT, delta_qkv_rows, delta_conv),
    SLOT(SLOT_DELTA_RATE, "delta_rate", LAYER, EXACT, delta_one, delta_heads),
    SLOT(SLOT_DELTA_DT_BIAS, "delta_dt_bias", LAYER, EXACT, delta_one, delta_heads),
    SLOT(SLOT_DELTA_NORM, "delta_norm", LAYER, EXACT, delta_one, delta_head),
    SLOT(SLOT_DELTA_OUT, "delta_out", LAYER, TRUNK, delta_out_rows, delta_v),
    SLOT(SLOT_OUT_NORM_BIAS, "out_norm_bias", MODEL, EXACT, norm_bias_rows, dim),
    SLOT(SLOT_ATTN_NORM_BIAS, "attn_norm_bias", LAYER, EXACT, attn_norm_bias_rows, dim),
    SLOT(SLOT_FFN_NORM_BIAS, "ffn_norm_bias", LAYER, EXACT, ffn_norm_bias_rows, dim),
    SLOT(SLOT_HEAD_BIAS, "head_bias", MODEL, EXACT, head_bias_rows, vocab),
    SLOT(SLOT_LATENT_Q_A, "latent_q_a", LAYER, TRUNK, latent_q_a_rows, dim),
    SLOT(SLOT_LATENT_Q_NORM, "latent_q_norm", LAYER, EXACT, latent_q_norm_rows, latent_q_rank),
    SLOT(SLOT_LATENT_Q_NOPE, "latent_q_nope", LAYER, TRUNK, latent_q_nope_rows, latent_q_cols),
    SLOT(SLOT_LATENT_Q_ROPE, "latent_q_rope", LAYER, TRUNK, latent_q_rope_rows, latent_q_cols),
    SLOT(SLOT_LATENT_KV, "latent_kv", LAYER, TRUNK, latent_kv_rows, dim),
    SLOT(SLOT_LATENT_KV_NORM, "latent_kv_norm", LAYER, EXACT, latent_one, latent_rank),
    SLOT(SLOT_LATENT_K_ROPE, "latent_k_rope", LAYER, TRUNK, latent_k_rope_rows, dim),
    SLOT(SLOT_LATENT_K_UP, "latent_k_up", LAYER, TRUNK, latent_k_up_rows, latent_nope),
    SLOT(SLOT_LATENT_V_UP, "latent_v_up", LAYER, TRUNK, latent_v_up_rows, latent_rank),
    SLOT(SLOT_LATENT_OUT, "latent_out", LAYER, TRUNK, latent_out_rows, latent_v_up_rows),
};

enum slot_id slot_norm_bias(const struct arch *a, enum slot_id norm) {
    if (a->norm != ARCH_NORM_LAYER_BIAS) {
        return SLOT_COUNT;
    }
    return norm == SLOT_OUT_NORM    ? SLOT_OUT_NORM_BIAS
           : norm == SLOT_ATTN_NORM ? SLOT_ATTN_NORM_BIAS
           : norm == SLOT_FFN_NORM  ? SLOT_FFN_NORM_BIAS
                                    : SLOT_COUNT;
}

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

static bool is_expert_bias(uint32_t id) {
    return id == SLOT_EXPERT_GATE_BIAS || id == SLOT_EXPERT_UP_BIAS || id == SLOT_EXPERT_DOWN_BIAS;
}

/* What nothing learns is no parameter: the number that a layer is multiplied by, and the bias that
 * training moves to keep the uses of experts even. */
static bool is_parameter(uint32_t id) {
    return id != SLOT_LAYER_SCALE && id != SLOT_ROUTER_SELECT;
}

/* Sum over all parameters, what belongs to experts counted `experts` times. */
static uint64_t count_params(const struct arch *a, uint32_t experts) {
    uint64_t n = 0;
    for (uint32_t id = 0; id < SLOT_COUNT; id++) {
        const struct slot *s = &slots[id];
        uint32_t layers = s->scope == SLOT_OF_MODEL ? 1 : a->n_layers;
        for (uint32_t l = 0; l < layers; l++) {
            if (is_parameter(id) && slot_present(s, a, l)) {
                uint64_t rows = is_expert_bias(id) ? experts : s->rows(a, l);
                n += (s->scope == SLOT_OF_EXPERT ? experts : 1) * rows * s->cols(a, l);
            }
        }
    }
    return n;
}

uint64_t arch_params(const struct arch *a) {
    return count_params(a, a->n_experts);
}

uint64_t arch_params_active(const struct arch *a) {
    return count_params(a, a->n_active);
}

uint64_t arch_params_embedding(const struct arch *a) {
    return (uint64_t)a->vocab * a->dim;
}
