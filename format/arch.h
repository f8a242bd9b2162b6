/*
 * arch: what a model is, written once.
 *
 * Owns: struct arch (every number and flag that changes the arithmetic of a supported decoder), the
 * field table that stores it in an archive's metadata section and reads it back, and THE
 * tensor-slot table: which tensors a model has, their scope, and their shapes as functions of the
 * fields.
 * Leaves to others: Hugging Face spelling (prep/hf), bytes of tensors (corm_read, corm_write),
 * running.
 * Threads: constant tables; a struct arch is immutable after arch_check.
 *
 * The architecture that the fields span: embedding; per layer, pre-norm attention (grouped queries,
 * RoPE on the half layout, optional biases, Q/K norm, clipping, sliding window) and a pre-norm
 * feed-forward part that is the sum of an optional always-on gated MLP (dense layer, or shared
 * expert with an optional sigmoid gate) and optional routed experts (softmax router, top-k); final
 * RMSNorm; output head.
 */
#ifndef FORMAT_ARCH_H
#define FORMAT_ARCH_H

#include "format/base.h"
#include "format/codec.h"

enum arch_qk_norm {
    ARCH_QK_NORM_NONE = 0,
    ARCH_QK_NORM_HEAD = 1, /* RMSNorm over each head's head_dim */
    ARCH_QK_NORM_FULL = 2, /* RMSNorm over the whole projection, all heads together */
};

enum { ARCH_MAX_LAYERS = 1024, ARCH_MAX_EXPERTS = 4096, ARCH_MAX_ACTIVE = 64 };

struct arch {
    char *family; /* the importer's table row, for people: "mixtral" */
    uint32_t n_layers, dim, vocab;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t ctx_max_tok; /* positions the model was trained for; a hint, not a limit of the
                             arithmetic */
    float norm_eps;

    uint32_t qkv_bias, o_bias; /* 0 or 1 */
    uint32_t qk_norm;          /* enum arch_qk_norm */
    float clip_qkv;            /* clamp q, k, v to +-this after Q/K norm, before RoPE; 0 = off */
    uint32_t *window;          /* [n_layers] sliding window in tokens (key j visible to query i iff
                                  j > i - window); 0 = all earlier tokens */

    uint32_t rope_dim;    /* leading components of each head that are rotated (even, <= head_dim) */
    float *rope_inv_freq; /* [rope_dim / 2] radians per position, scaling already applied by the
                             importer */
    float rope_scale;     /* factor on cos and sin (YaRN attention factor); 1 = none */

    uint32_t *moe;        /* [n_layers] 1 = the layer has routed experts */
    uint32_t n_experts;   /* routed experts of a MoE layer */
    uint32_t n_active;    /* experts a token uses */
    uint32_t ffn_dim;     /* neurons of a routed expert */
    uint32_t norm_topk;   /* 1 = divide the chosen probabilities by their sum */
    uint32_t dense_dim;   /* neurons of the MLP of a layer without experts */
    uint32_t shared_dim;  /* neurons of the shared expert of a MoE layer; 0 = none */
    uint32_t shared_gate; /* 1 = shared expert's output is multiplied by sigmoid(gate . x) */
    uint32_t tied;        /* 1 = the output head is the embedding matrix */

    uint32_t *stop_ids; /* [n_stop] tokens that end a generation */
    uint32_t n_stop;
    /* Sampling defaults the model's publisher suggests; negative = not given. */
    float gen_temperature, gen_top_p, gen_top_k, gen_repeat_penalty;
};

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

/* Sizes of the always-on MLP (0 = none) and the attention projections. */
uint32_t arch_mlp_dim(const struct arch *a, uint32_t layer);
static inline uint32_t arch_q_dim(const struct arch *a) {
    return a->n_heads * a->head_dim;
}
static inline uint32_t arch_kv_dim(const struct arch *a) {
    return a->n_kv_heads * a->head_dim;
}
/* Number of layers with routed experts. */
uint32_t arch_moe_layers(const struct arch *a);
/* Parameters in all, and those a token uses (embedding counted once in total, as one row when
 * used). */
uint64_t arch_params(const struct arch *a);
uint64_t arch_params_active(const struct arch *a);

#endif
