/*
 * arch: what a model is, written once.
 *
 * Owns: struct arch, which has every number and flag that changes the arithmetic of a supported
 * decoder; the field table, which stores it in an archive's metadata section and reads it back; and
 * THE tensor-slot table, which says what tensors a model has, their scope, and their shapes as
 * functions of the fields.
 * Leaves to others: Hugging Face spelling (prep/hf), bytes of tensors (corm_read, corm_write),
 * running.
 * Threads: constant tables; a struct arch is immutable after arch_check.
 *
 * A model is an embedding, layers, a final norm and an output head. Each layer adds to the residual
 * stream what its mixer makes of a norm of it, and then what its feed-forward part makes of another
 * norm of it. A small table of layer kinds says what differs between the layers of a model, and
 * each layer names its kind. A kind is a set of rules, one struct for each part of the layer.
 * Operations take a rule whole, so that a model that adds a number to a rule changes no signature.
 *
 * The rules hold numbers of 32 bits and nothing else, so that two kinds are alike where their bytes
 * are.
 */
#ifndef FORMAT_ARCH_H
#define FORMAT_ARCH_H

#include "format/base.h"
#include "format/codec.h"

enum {
    ARCH_MAX_LAYERS = 1024,
    ARCH_MAX_DIM = 1 << 17,
    ARCH_MAX_HEAD_DIM = 4096,
    ARCH_MAX_KINDS = 64,
    ARCH_MAX_ROPES = 8,
    ARCH_MAX_EXPERTS = 4096,
    ARCH_MAX_ACTIVE = 64,
    ARCH_MAX_GROUPS = 64,
    ARCH_MAX_CONV = 16,
};

/* ---- rules ---- */

enum arch_post_norm {
    ARCH_POST_NORM_NONE = 0,
    ARCH_POST_NORM_TOO = 1,  /* a branch's output has a norm of its own before it is added */
    ARCH_POST_NORM_ONLY = 2, /* the same, and what the branch reads has none */
    ARCH_POST_NORM_FFN = 3,  /* as TOO, of the feed-forward branch alone */
};

/* What stands around the two branches (mixer, feed-forward) of a layer, each of which reads a norm
 * of the residual stream and is added to it. */
struct block_rule {
    uint32_t post_norm; /* enum arch_post_norm */
    /* 1 = the always-on MLP of a layer with experts stands beside them: it reads a norm of its
     * own, and each of the two has a norm of its own behind it before they are added. */
    uint32_t dense_beside;
    uint32_t layer_scale; /* 1 = the residual stream is multiplied by a number after the layer */
    float branch_scale;   /* of what each branch adds; 0 = 1 */
    uint32_t parallel;    /* 1 = both branches read one norm of the stream before the layer */
};

enum mixer_id {
    MIXER_ATTENTION = 0, /* softmax attention with grouped queries */
    MIXER_DELTA_NET = 1, /* gated delta net (arXiv 2412.06464), a recurrence */
    MIXER_LATENT = 2,    /* attention to one latent a token (arXiv 2405.04434, MLA) */
    MIXER_COUNT,
};

enum arch_qk_norm {
    ARCH_QK_NORM_NONE = 0,
    ARCH_QK_NORM_HEAD = 1,  /* RMSNorm over each head's head_dim */
    ARCH_QK_NORM_FULL = 2,  /* RMSNorm over the whole projection, all heads together */
    ARCH_QK_NORM_PLAIN = 3, /* as HEAD, without a weight */
};

/* What the heads' outputs are multiplied by, of a projection of what attention reads. */
enum arch_gate {
    ARCH_GATE_NONE = 0,
    ARCH_GATE_SIGMOID = 1,       /* the sigmoid of a number for each component */
    ARCH_GATE_HEAD_SIGMOID = 2,  /* the sigmoid of a number for each head */
    ARCH_GATE_SOFTPLUS = 3,      /* log(1 + exp(a number for each component)) */
    ARCH_GATE_HEAD_SOFTPLUS = 4, /* log(1 + exp(a number for each head)) */
};

/* Causal softmax attention; query head h reads key head h / (n_heads / n_kv_heads). */
struct attention_rule {
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t v_dim;            /* of a value, and of a head's output; 0 = head_dim */
    float v_scale;             /* values are multiplied by it; 0 = 1 */
    uint32_t qkv_bias, o_bias; /* 0 or 1 */
    uint32_t qk_norm;          /* enum arch_qk_norm */
    uint32_t qk_norm_late;     /* 0 = before RoPE, 1 = after it */
    uint32_t v_norm;           /* 1 = RMSNorm without a weight over each value head */
    uint32_t v_from_k;         /* 1 = values are (v_norm of) the key projection before its norm */
    uint32_t gate;             /* enum arch_gate */
    uint32_t sinks;  /* 1 = each head's softmax has one more score, which no value goes with */
    uint32_t window; /* key j is visible to query i iff i - window < j <= i; 0 = all up to i */
    uint32_t chunk;  /* key j is visible to query i iff j <= i and both are in one chunk of so many
                        positions, counted from 0; 0 = no chunks. Not beside a window */
    uint32_t rope;   /* which of the model's rope sets turns queries and keys */
    float clip_qkv;  /* clamp q, k, v to +-this after the norms, before RoPE; 0 = off */
    float scale;     /* of the scores; 0 = 1 / sqrt(head_dim) */
    /* Scores of the query at position i are multiplied by 1 + temper * log(1 + floor((i + 1) /
     * temper_tok)) besides; 0 = not. */
    float temper, temper_tok;
};

/* The gated delta net. Its key heads serve n_v_heads / n_k_heads value heads each. */
struct delta_rule {
    uint32_t n_k_heads, n_v_heads;
    uint32_t k_dim, v_dim; /* of a head */
    uint32_t conv;         /* tokens that the causal convolution of q, k and v looks at */
};

/* Latent attention. A token leaves a latent of `rank` numbers behind, which is its value in every
 * head, and a key of rope_dim numbers that knows its position, the same in every head. A head's key
 * is k_up of the latent and that; its output is v_up of what it attends to. As k_up can be applied
 * to the query instead, nothing else of a token is ever computed. */
struct latent_rule {
    uint32_t n_heads;
    uint32_t q_rank;             /* width of what queries are made of; 0 = of the layer's input */
    uint32_t rank;               /* width of a latent */
    uint32_t nope_dim, rope_dim; /* of a head's query: what knows no position, and what does */
    uint32_t v_dim;              /* of a head's output */
    uint32_t rope;               /* which of the model's rope sets turns queries and keys */
    float norm_eps;              /* of the norms of latents; 0 = the model's */
    float scale;                 /* of the scores; 0 = 1 / sqrt(nope_dim + rope_dim) */
    /* Scores of the query at position p also times 1 + query_beta log(1 + floor(p / query_tok)) */
    float query_beta; /* 0 = off */
    uint32_t query_tok;
};

/* What the router reads. */
enum route_input {
    ROUTE_EXPERT_INPUT = 0, /* what the experts read */
    ROUTE_OWN_NORM = 1,     /* a norm of its own of the residual stream */
    ROUTE_LAYER_INPUT = 2,  /* the residual stream before the layer */
};
/* What experts are chosen by, computed from the router's logits. */
enum route_score {
    ROUTE_SOFTMAX = 0,
    ROUTE_SIGMOID = 1,
    ROUTE_SQRT_SOFTPLUS = 2, /* sqrt(log(1 + exp(logit))) */
    /* SparseMixer (arXiv 2409.12136): the score of the expert that is chosen as number j is its
     * softmax among those not chosen before it whose logits z, beside its own y, have
     * (y - z) / max(|z|, y) <= 2 eps. */
    ROUTE_SPARSE_MIXER = 3,
};
/* What the weights of the chosen experts are divided by. */
enum route_renorm {
    ROUTE_RENORM_NONE = 0,
    ROUTE_RENORM_SUM = 1,   /* their sum + eps */
    ROUTE_RENORM_FLOOR = 2, /* their sum, or eps where that is more */
};
enum route_group_score {
    ROUTE_GROUP_MAX = 0,     /* a group is as good as its best expert */
    ROUTE_GROUP_TOP_TWO = 1, /* as the sum of its two best */
};

/* Which experts a row uses, and with what weights. The choice goes by the scores, for a softmax
 * without selection bias and without groups that are as good as two experts, and for the sparse
 * mixer, by the logits themselves; the weights are the chosen experts' scores. */
struct route_rule {
    uint32_t input;              /* enum route_input */
    uint32_t score;              /* enum route_score */
    uint32_t by_logits;          /* 1 = the choice goes by the logits in any case */
    uint32_t logit_bias;         /* 1 = a bias is added to the logits */
    uint32_t selection_bias;     /* 1 = a bias is added to the scores for the choice alone, or to
                                    the logits where it goes by these */
    uint32_t renorm;             /* enum route_renorm */
    uint32_t groups, top_groups; /* experts are chosen from the best top_groups of equal groups; 0
                                    = from all */
    uint32_t group_score;        /* enum route_group_score */
    uint32_t factor;             /* 1 = each expert's weight has a factor of its own */
    uint32_t on_input; /* 1 = what the one chosen expert reads is multiplied by its weight,
                                    and not what it gives */
    float eps;         /* of renorm, or of the sparse mixer */
    float scale;       /* of all weights, at last */
    float logit_cap;   /* logits, with their bias, become cap * tanh(logits / cap); 0 = off */
};

enum ffn_act {
    FFN_SILU = 0,       /* silu(g) u, silu(z) = z / (1 + exp(-z)) */
    FFN_GELU_TANH = 1,  /* gelu(g) u, gelu(z) = z / 2 (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) */
    FFN_SWIGLU_OAI = 2, /* min(g, limit) sigmoid(alpha min(g, limit)) (clamp(u, limit) + 1) */
    FFN_RELU = 3,       /* max(g, 0) u */
    FFN_SILU_LIMIT = 4, /* min(silu(g), limit) clamp(u, limit); a limit of 0 is none */
};

/* An MLP or expert is the sum over its neurons i of act(gate_i . x, up_i . x) down_i. */
struct ffn_rule {
    uint32_t act;  /* enum ffn_act */
    uint32_t bias; /* 1 = experts have a bias on gate, up and down */
    float limit;   /* of gate and up, for the activations that have one */
    float alpha;
};

struct layer_kind {
    struct block_rule block;
    uint32_t mixer; /* enum mixer_id */
    struct attention_rule att;
    struct delta_rule delta;
    struct latent_rule latent;
    uint32_t moe; /* 1 = the layer has routed experts */
    struct route_rule route;
    struct ffn_rule ffn;
    uint32_t dense_dim;   /* neurons of the MLP of a layer without experts */
    uint32_t shared_dim;  /* neurons of the always-on MLP of a layer with experts; 0 = none */
    uint32_t shared_gate; /* 1 = its output is multiplied by sigmoid(gate . x) */
    float shared_scale;   /* of its output; 0 = 1 */
    float shared_limit;   /* of that MLP in place of ffn.limit, for FFN_SILU_LIMIT; 0 = none */
};

/* ---- the model ---- */

/* How the residual stream is normed, before branches and at the end. */
enum arch_norm {
    ARCH_NORM_RMS = 0,
    ARCH_NORM_LAYER = 1,      /* LayerNorm: less the mean, over the standard deviation */
    ARCH_NORM_LAYER_BIAS = 2, /* the same with a bias */
};

struct arch {
    char *family; /* the importer's table row, for people: "mixtral" */
    uint32_t n_layers, dim, vocab;
    uint32_t norm;          /* enum arch_norm */
    uint32_t head_bias;     /* 1 = the output head has a bias */
    uint32_t ctx_max_tok;   /* positions the model was trained for; a hint, not a limit of the
                             arithmetic */
    uint32_t ctx_limit_tok; /* of longer contexts the model computes what no rule says, so that
                               they are refused; 0 = of none */
    float norm_eps;
    float embed_scale;  /* embeddings are multiplied by it */
    float logit_scale;  /* logits are multiplied by it; 0 = 1 */
    float logit_cap;    /* then they become cap * tanh(logits / cap); 0 = off */
    uint32_t n_experts; /* routed experts of a MoE layer */
    uint32_t n_active;  /* experts a token uses */
    uint32_t ffn_dim;   /* neurons of a routed expert */
    uint32_t tied;      /* 1 = the output head is the embedding matrix */

    struct layer_kind *kinds; /* [n_kinds] */
    uint32_t n_kinds;
    uint32_t *kind;     /* [n_layers] index into kinds */
    uint32_t *kv_layer; /* [n_kv_layer] whose keys and values an attention layer reads; empty: each
                           layer its own */
    uint32_t n_kv_layer;

    /* Rope sets: how positions turn queries and keys. */
    uint32_t n_ropes;
    uint32_t *rope_dim;   /* [n_ropes] leading components of each head that are rotated (even; 0:
                             none is, and tokens are where they are by the mask alone) */
    float *rope_scale;    /* [n_ropes] factor on cos and sin (YaRN attention factor); 1 = none */
    float *rope_inv_freq; /* [n_inv_freq] radians per position, rope_dim / 2 for each set, scaling
                             already applied by the importer */
    uint32_t n_inv_freq;
    /* Sets that turn otherwise in long contexts (LongRoPE); empty: none does. */
    uint32_t *rope_long_tok;   /* [n_rope_long] 0 or n_ropes: a context of more tokens is turned by
                                  what follows; 0 = never */
    float *rope_long_scale;    /* [n_rope_long] */
    float *rope_long_inv_freq; /* [n_long_inv_freq] as rope_inv_freq */
    uint32_t n_rope_long, n_long_inv_freq;

    uint32_t *stop_ids; /* [n_stop] tokens that end a generation */
    uint32_t n_stop;
    /* Sampling defaults the model's publisher suggests; negative = not given. */
    float gen_temperature, gen_top_p, gen_top_k, gen_repeat_penalty;
};

static inline const struct layer_kind *arch_kind(const struct arch *a, uint32_t layer) {
    return &a->kinds[a->kind[layer]];
}
static inline bool arch_is_moe(const struct arch *a, uint32_t layer) {
    return arch_kind(a, layer)->moe != 0;
}

/* All rules off, each number at the value at which it changes nothing. */
struct layer_kind arch_plain_kind(void);
/* Make `kinds` and `kind` of the kinds of all layers, `by_layer` [n_layers]: each different one
 * once, in the order in which layers need them. n_layers is set. */
void arch_set_kinds(struct arch *a, const struct layer_kind *by_layer);

/* One rope set, borrowed from the arch. */
struct rope_set {
    uint32_t dim;
    const float *inv_freq; /* [dim / 2] */
    float scale;
};
struct rope_set arch_rope(const struct arch *a, uint32_t index);
/* Add a rope set; inv_freq [dim / 2] is copied. Returns its index. */
uint32_t arch_add_rope(struct arch *a, uint32_t dim, const float *inv_freq, float scale);

/* Give set `index` another form for contexts of more than `tok` tokens, tok > 0; inv_freq [dim / 2]
 * is copied. */
void arch_add_long_rope(struct arch *a, uint32_t index, uint32_t tok, const float *inv_freq,
                        float scale);
/* Settle which form of each set turns a context of `ctx_tok` tokens: from now on rope_inv_freq and
 * rope_scale have it. It holds for every token of the context, however few there are yet, because
 * keys that are stored cannot be turned again. */
void arch_settle_ropes(struct arch *a, uint32_t ctx_tok);

/* The longest context of at most n_tok tokens that the model may be given. */
static inline uint32_t arch_limit_ctx(const struct arch *a, uint32_t n_tok) {
    return a->ctx_limit_tok > 0 && a->ctx_limit_tok < n_tok ? a->ctx_limit_tok : n_tok;
}

/* The layer whose keys and values an attention layer reads: its own, or an earlier one's. */
static inline uint32_t arch_kv_layer(const struct arch *a, uint32_t layer) {
    return a->n_kv_layer > 0 ? a->kv_layer[layer] : layer;
}

/* Every rule that ties the fields together (ranges, divisibility, sizes that could overflow), once,
 * for importer and archive alike. The message names the field. */
int arch_check(const struct arch *a, struct err *err);
/* Free what the pointers own and zero the struct. Accepts a zeroed or half-filled one. */
void arch_free(struct arch *a);

/* The metadata section (docs/FORMAT.md, "Metadata"): append `a` to `out`; parse `size` untrusted
 * bytes into a zeroed `a` (arch_check included; on error `a` must still be arch_free'd). A key that
 * is not in the field table is an error unless it begins with "info.". */
void arch_encode(const struct arch *a, struct buf *out);
int arch_decode(struct arch *a, const void *data, size_t size, struct err *err);

/* Walk all fields for printing: calls visit(ctx, key, text value) in table order. */
void arch_describe(const struct arch *a,
                   void (*visit)(void *ctx, const char *key, const char *value), void *ctx);

/* ---- tensor slots ---- */

enum slot_id {
    SLOT_EMBED,
    SLOT_OUT_NORM,
    SLOT_HEAD,
    SLOT_ATTN_NORM,
    SLOT_Q,
    SLOT_K,
    SLOT_V,
    SLOT_O,
    SLOT_Q_BIAS,
    SLOT_K_BIAS,
    SLOT_V_BIAS,
    SLOT_O_BIAS,
    SLOT_Q_NORM,
    SLOT_K_NORM,
    SLOT_FFN_NORM,
    SLOT_ROUTER,
    SLOT_MLP_GATE, /* the always-on MLP: dense layer, or shared expert of a MoE layer */
    SLOT_MLP_UP,
    SLOT_MLP_DOWN,
    SLOT_MLP_SWITCH, /* [1, dim] sigmoid gate of the shared expert */
    SLOT_EXPERT_GATE,
    SLOT_EXPERT_UP,
    SLOT_EXPERT_DOWN,
    SLOT_ATTN_GATE,      /* projection whose sigmoid multiplies the attention's output */
    SLOT_SINKS,          /* [1, n_heads] */
    SLOT_ATTN_POST_NORM, /* norms behind the branches */
    SLOT_FFN_POST_NORM,
    SLOT_MLP_NORM, /* before and behind an MLP that stands beside experts */
    SLOT_MLP_POST_NORM,
    SLOT_MOE_POST_NORM,
    SLOT_ROUTER_NORM,      /* the router's own norm of the residual stream */
    SLOT_ROUTER_BIAS,      /* [1, n_experts] on the logits */
    SLOT_ROUTER_SELECT,    /* [1, n_experts] on the scores, for the choice alone */
    SLOT_ROUTER_FACTOR,    /* [1, n_experts] on the weights */
    SLOT_EXPERT_GATE_BIAS, /* [n_experts, ffn_dim], neurons in the order of the records */
    SLOT_EXPERT_UP_BIAS,
    SLOT_EXPERT_DOWN_BIAS, /* [n_experts, dim] */
    SLOT_LAYER_SCALE,      /* [1, 1] */
    SLOT_DELTA_QKV,        /* queries, keys, values: [2 n_k_heads k_dim + n_v_heads v_dim, dim] */
    SLOT_DELTA_Z,          /* output gate: [n_v_heads v_dim, dim] */
    SLOT_DELTA_B,          /* writing strength, before its sigmoid: [n_v_heads, dim] */
    SLOT_DELTA_A,          /* decay, before its bias and softplus: [n_v_heads, dim] */
    SLOT_DELTA_CONV,       /* [2 n_k_heads k_dim + n_v_heads v_dim, conv], oldest token first */
    SLOT_DELTA_RATE,       /* [1, n_v_heads]: exp(A_log) */
    SLOT_DELTA_DT_BIAS,    /* [1, n_v_heads] */
    SLOT_DELTA_NORM,       /* [1, v_dim] of each head's output */
    SLOT_DELTA_OUT,        /* [dim, n_v_heads v_dim] */
    SLOT_OUT_NORM_BIAS,    /* [1, dim] of LayerNorms */
    SLOT_ATTN_NORM_BIAS,
    SLOT_FFN_NORM_BIAS,
    SLOT_HEAD_BIAS,      /* [1, vocab] */
    SLOT_LATENT_Q_A,     /* what queries are made of: [q_rank, dim] */
    SLOT_LATENT_Q_NORM,  /* its norm: [1, q_rank] */
    SLOT_LATENT_Q_NOPE,  /* [n_heads nope_dim, q_rank or dim] */
    SLOT_LATENT_Q_ROPE,  /* [n_heads rope_dim, q_rank or dim] */
    SLOT_LATENT_KV,      /* the latent: [rank, dim] */
    SLOT_LATENT_KV_NORM, /* its norm: [1, rank] */
    SLOT_LATENT_K_ROPE,  /* [rope_dim, dim] */
    SLOT_LATENT_K_UP,    /* from a head's query to latents: [n_heads rank, nope_dim] */
    SLOT_LATENT_V_UP,    /* from latents to a head's output: [n_heads v_dim, rank] */
    SLOT_LATENT_OUT,     /* [dim, n_heads v_dim] */
    SLOT_COUNT,
};

enum slot_scope { SLOT_OF_MODEL, SLOT_OF_LAYER, SLOT_OF_EXPERT };

/* How prep may store a slot's tensor. */
enum slot_store {
    SLOT_STORE_EXACT,  /* vectors: always f32 in the archive */
    SLOT_STORE_KEEP,   /* small matrices whose errors cost much (router): as in the checkpoint */
    SLOT_STORE_TRUNK,  /* matrices: the trunk codec */
    SLOT_STORE_EXPERT, /* expert records: the expert codec */
};

struct slot {
    enum slot_id id;
    const char *name;
    enum slot_scope scope;
    enum slot_store store;
    /* 0 rows: the model has no such tensor. */
    uint32_t (*rows)(const struct arch *a, uint32_t layer);
    uint32_t (*cols)(const struct arch *a, uint32_t layer);
    /* Vectors are [1, n]. EXPERT_DOWN is [dim, ffn_dim], as the checkpoint has it; records store
     * its transpose, a row per neuron. */
};

/* Row `id` of the table (0 <= id < SLOT_COUNT), in the order in which an archive writes them. */
const struct slot *slot_at(enum slot_id id);

/* Whether layer `layer` of the model has this tensor (for model scope, `layer` is ignored). */
bool slot_present(const struct slot *s, const struct arch *a, uint32_t layer);

/* Walk the trunk's tensors in archive order: model scope first, then layer by layer, slots in table
 * order, only those that the model has. Start with a zeroed struct; false after the last. */
#define SLOT_LAYER_NONE UINT32_MAX /* the layer of model scope */
struct slot_place {
    bool started;
    enum slot_id slot;
    uint32_t layer;
};
bool slot_next(const struct arch *a, struct slot_place *p);

/* Neurons of the always-on MLP (0 = none), and widths of the mixers' projections. */
uint32_t arch_mlp_dim(const struct arch *a, uint32_t layer);
static inline uint32_t attention_q_dim(const struct attention_rule *r) {
    return r->n_heads * r->head_dim;
}
static inline uint32_t attention_k_dim(const struct attention_rule *r) {
    return r->n_kv_heads * r->head_dim;
}
static inline uint32_t attention_head_out(const struct attention_rule *r) {
    return r->v_dim > 0 ? r->v_dim : r->head_dim;
}
static inline uint32_t attention_v_dim(const struct attention_rule *r) {
    return r->n_kv_heads * attention_head_out(r);
}
static inline uint32_t attention_out_dim(const struct attention_rule *r) {
    return r->n_heads * attention_head_out(r);
}
/* Columns of a delta net's queries, keys and values together, and of its values alone. */
static inline uint32_t delta_qkv_dim(const struct delta_rule *r) {
    return 2 * r->n_k_heads * r->k_dim + r->n_v_heads * r->v_dim;
}
static inline uint32_t delta_v_dim(const struct delta_rule *r) {
    return r->n_v_heads * r->v_dim;
}
/* Numbers that gate an attention layer's outputs, for each position. */
static inline uint32_t attention_gate_dim(const struct attention_rule *r) {
    bool by_head = r->gate == ARCH_GATE_HEAD_SIGMOID || r->gate == ARCH_GATE_HEAD_SOFTPLUS;
    return r->gate == ARCH_GATE_NONE ? 0 : by_head ? r->n_heads : attention_out_dim(r);
}
/* The first position whose key the query at `pos` sees, and how many positions are at most between
 * these two, both counted; 0: any number. */
static inline uint32_t attention_first_seen(const struct attention_rule *r, uint32_t pos) {
    return r->chunk > 0                           ? pos - pos % r->chunk
           : r->window > 0 && pos + 1 > r->window ? pos + 1 - r->window
                                                  : 0;
}
static inline uint32_t attention_span(const struct attention_rule *r) {
    return r->chunk > 0 ? r->chunk : r->window;
}
/* The factor on the scores of an attention layer, and of its query at `pos`. */
float attention_scale(const struct attention_rule *r);
float attention_scale_at(const struct attention_rule *r, uint32_t pos);
/* The slot of the bias of a norm of the residual stream; SLOT_COUNT where it has none. */
enum slot_id slot_norm_bias(const struct arch *a, enum slot_id norm);
/* Numbers that a token leaves behind in a layer of latent attention. */
static inline uint32_t latent_key_dim(const struct latent_rule *r) {
    return r->rank + r->rope_dim;
}
/* The factor on the scores of the query at `pos` in a layer of latent attention. */
float latent_scale(const struct latent_rule *r, uint32_t pos);
/* Number of layers with routed experts. */
uint32_t arch_moe_layers(const struct arch *a);
/* Parameters in all; those less the routed experts that a token does not use; those of the
 * embedding, which both hold once and people count or leave out. */
uint64_t arch_params(const struct arch *a);
uint64_t arch_params_active(const struct arch *a);
uint64_t arch_params_embedding(const struct arch *a);

#endif
