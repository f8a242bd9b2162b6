/*
 * arch: see arch.h. The table of the fields of struct arch, their ranges, and the rules that tie
 * several fields together. What is made of the table on disk and for people is in arch_meta.c, the
 * tensor slots are in arch_slots.c, rope sets in arch_rope.c.
 */
#include "format/arch.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/arch_fields.h"

enum { FAMILY_MAX_BYTES = 64, MAX_STOP_IDS = 1024 };

/* Largest count of parameters: every size in bytes then stays far inside 64 bits. */
static const uint64_t max_params = UINT64_C(1) << 47;

/* ---- fields ---- */

#define MODEL(name, ty, lo, hi)                                                                    \
    {                                                                                              \
        .key = #name, .of = FIELD_OF_MODEL, .type = ty, .at = offsetof(struct arch, name),         \
        .min = lo, .max = hi                                                                       \
    }
#define U32(name, lo, hi) MODEL(name, FIELD_U32, lo, hi)
#define F32(name, lo, hi) MODEL(name, FIELD_F32, lo, hi)
#define ARRAY(name, ty, lo, hi, len)                                                               \
    {                                                                                              \
        .key = #name, .of = FIELD_ARRAY, .type = ty, .at = offsetof(struct arch, name), .min = lo, \
        .max = hi, .length_at = offsetof(struct arch, len)                                         \
    }
/* A number that old archives lack. */
#define LATER(name, ty, lo, hi, without)                                                           \
    {                                                                                              \
        .key = #name, .of = FIELD_OF_MODEL, .type = ty, .at = offsetof(struct arch, name),         \
        .min = lo, .max = hi, .optional = true, .missing = without                                 \
    }
/* Members of struct layer_kind. */
#define KIND(name, member, ty, lo, hi)                                                             \
    {                                                                                              \
        .key = name, .of = FIELD_OF_KIND, .type = ty, .at = offsetof(struct layer_kind, member),   \
        .min = lo, .max = hi                                                                       \
    }
#define KIND_LATER(name, member, ty, lo, hi, without)                                              \
    {                                                                                              \
        .key = name, .of = FIELD_OF_KIND, .type = ty, .at = offsetof(struct layer_kind, member),   \
        .min = lo, .max = hi, .optional = true, .missing = without                                 \
    }
#define BY_LAYER(name, member, hi)                                                                 \
    {                                                                                              \
        .key = name, .of = FIELD_BY_LAYER, .type = FIELD_U32,                                      \
        .at = offsetof(struct layer_kind, member), .min = 0, .max = hi                             \
    }
#define HINT(name, lo, hi) LATER(name, FIELD_F32, lo, hi, -1)

/* The order in which the metadata section has them. */
const struct arch_field arch_fields[] = {
    {.key = "family",
     .type = FIELD_STRING,
     .at = offsetof(struct arch, family),
     .min = 1,
     .max = FAMILY_MAX_BYTES},
    U32(n_layers, 1, ARCH_MAX_LAYERS),
    U32(dim, 1, ARCH_MAX_DIM),
    U32(vocab, 1, 1 << 24),
    KIND("n_heads", att.n_heads, FIELD_U32, 0, 4096),
    KIND("n_kv_heads", att.n_kv_heads, FIELD_U32, 0, 4096),
    KIND("head_dim", att.head_dim, FIELD_U32, 0, ARCH_MAX_HEAD_DIM),
    U32(ctx_max_tok, 1, INT32_MAX),
    F32(norm_eps, 0x1p-40, 0x1p-3),
    KIND("qkv_bias", att.qkv_bias, FIELD_U32, 0, 1),
    KIND("o_bias", att.o_bias, FIELD_U32, 0, 1),
    KIND("qk_norm", att.qk_norm, FIELD_U32, ARCH_QK_NORM_NONE, ARCH_QK_NORM_PLAIN),
    KIND("clip_qkv", att.clip_qkv, FIELD_F32, 0, 0x1p20),
    BY_LAYER("window", att.window, INT32_MAX),
    {.key = "rope_dim",
     .of = FIELD_ARRAY,
     .type = FIELD_U32,
     .at = offsetof(struct arch, rope_dim),
     .min = 0,
     .max = ARCH_MAX_HEAD_DIM,
     .length_at = offsetof(struct arch, n_ropes),
     .sets_length = true},
    {.key = "rope_inv_freq",
     .of = FIELD_ARRAY,
     .type = FIELD_F32,
     .at = offsetof(struct arch, rope_inv_freq),
     .min = 0,
     .max = 0x1p10,
     .length_at = offsetof(struct arch, n_inv_freq),
     .sets_length = true},
    ARRAY(rope_scale, FIELD_F32, 0x1p-10, 0x1p10, n_ropes),
    BY_LAYER("moe", moe, 1),
    U32(n_experts, 0, ARCH_MAX_EXPERTS),
    U32(n_active, 0, ARCH_MAX_ACTIVE),
    U32(ffn_dim, 0, 1 << 20),
    KIND("norm_topk", route.renorm, FIELD_U32, ROUTE_RENORM_NONE, ROUTE_RENORM_FLOOR),
    KIND("dense_dim", dense_dim, FIELD_U32, 0, 1 << 20),
    KIND("shared_dim", shared_dim, FIELD_U32, 0, 1 << 20),
    KIND("shared_gate", shared_gate, FIELD_U32, 0, 1),
    U32(tied, 0, 1),
    {.key = "stop_ids",
     .of = FIELD_ARRAY,
     .type = FIELD_U32,
     .at = offsetof(struct arch, stop_ids),
     .max = 1 << 24,
     .optional = true,
     .length_at = offsetof(struct arch, n_stop),
     .sets_length = true},
    HINT(gen_temperature, -1, 0x1p10),
    HINT(gen_top_p, -1, 1),
    HINT(gen_top_k, -1, 1 << 24),
    HINT(gen_repeat_penalty, -1, 0x1p10),

    /* What the first families do not need: written only where it differs from the default. */
    LATER(embed_scale, FIELD_F32, 0x1p-20, 0x1p20, 1),
    LATER(logit_scale, FIELD_F32, 0, 0x1p20, 0),
    LATER(logit_cap, FIELD_F32, 0, 0x1p20, 0),
    {.key = "kv_layer",
     .of = FIELD_ARRAY,
     .type = FIELD_U32,
     .at = offsetof(struct arch, kv_layer),
     .max = ARCH_MAX_LAYERS,
     .optional = true,
     .length_at = offsetof(struct arch, n_kv_layer),
     .sets_length = true},
    KIND_LATER("post_norm", block.post_norm, FIELD_U32, 0, ARCH_POST_NORM_ONLY,
               ARCH_POST_NORM_NONE),
    KIND_LATER("dense_beside", block.dense_beside, FIELD_U32, 0, 1, 0),
    KIND_LATER("layer_scale", block.layer_scale, FIELD_U32, 0, 1, 0),
    KIND_LATER("branch_scale", block.branch_scale, FIELD_F32, 0, 0x1p20, 0),
    KIND_LATER("mixer", mixer, FIELD_U32, 0, MIXER_COUNT - 1, MIXER_ATTENTION),
    KIND_LATER("qk_norm_late", att.qk_norm_late, FIELD_U32, 0, 1, 0),
    KIND_LATER("v_norm", att.v_norm, FIELD_U32, 0, 1, 0),
    KIND_LATER("v_from_k", att.v_from_k, FIELD_U32, 0, 1, 0),
    KIND_LATER("attn_gate", att.gate, FIELD_U32, 0, ARCH_GATE_HEAD_SOFTPLUS, ARCH_GATE_NONE),
    KIND_LATER("sinks", att.sinks, FIELD_U32, 0, 1, 0),
    KIND_LATER("rope", att.rope, FIELD_U32, 0, ARCH_MAX_ROPES - 1, 0),
    KIND_LATER("attn_scale", att.scale, FIELD_F32, 0, 0x1p10, 0),
    KIND_LATER("delta_k_heads", delta.n_k_heads, FIELD_U32, 0, 4096, 0),
    KIND_LATER("delta_v_heads", delta.n_v_heads, FIELD_U32, 0, 4096, 0),
    KIND_LATER("delta_k_dim", delta.k_dim, FIELD_U32, 0, 4096, 0),
    KIND_LATER("delta_v_dim", delta.v_dim, FIELD_U32, 0, 4096, 0),
    KIND_LATER("delta_conv", delta.conv, FIELD_U32, 0, ARCH_MAX_CONV, 0),
    KIND_LATER("latent_heads", latent.n_heads, FIELD_U32, 0, 4096, 0),
    KIND_LATER("latent_q_rank", latent.q_rank, FIELD_U32, 0, ARCH_MAX_DIM, 0),
    KIND_LATER("latent_rank", latent.rank, FIELD_U32, 0, ARCH_MAX_HEAD_DIM, 0),
    KIND_LATER("latent_nope_dim", latent.nope_dim, FIELD_U32, 0, ARCH_MAX_HEAD_DIM, 0),
    KIND_LATER("latent_rope_dim", latent.rope_dim, FIELD_U32, 0, ARCH_MAX_HEAD_DIM, 0),
    KIND_LATER("latent_v_dim", latent.v_dim, FIELD_U32, 0, ARCH_MAX_HEAD_DIM, 0),
    KIND_LATER("latent_rope", latent.rope, FIELD_U32, 0, ARCH_MAX_ROPES - 1, 0),
    KIND_LATER("latent_eps", latent.norm_eps, FIELD_F32, 0, 0x1p-3, 0),
    KIND_LATER("latent_scale", latent.scale, FIELD_F32, 0, 0x1p10, 0),
    KIND_LATER("latent_query_beta", latent.query_beta, FIELD_F32, 0, 0x1p10, 0),
    KIND_LATER("latent_query_tok", latent.query_tok, FIELD_U32, 0, INT32_MAX, 0),
    KIND_LATER("route_input", route.input, FIELD_U32, 0, ROUTE_LAYER_INPUT, ROUTE_EXPERT_INPUT),
    KIND_LATER("route_score", route.score, FIELD_U32, 0, ROUTE_SPARSE_MIXER, ROUTE_SOFTMAX),
    KIND_LATER("route_logit_bias", route.logit_bias, FIELD_U32, 0, 1, 0),
    KIND_LATER("route_selection_bias", route.selection_bias, FIELD_U32, 0, 1, 0),
    KIND_LATER("route_groups", route.groups, FIELD_U32, 0, ARCH_MAX_GROUPS, 0),
    KIND_LATER("route_top_groups", route.top_groups, FIELD_U32, 0, ARCH_MAX_GROUPS, 0),
    KIND_LATER("route_group_score", route.group_score, FIELD_U32, 0, ROUTE_GROUP_TOP_TWO,
               ROUTE_GROUP_MAX),
    KIND_LATER("route_factor", route.factor, FIELD_U32, 0, 1, 0),
    KIND_LATER("route_eps", route.eps, FIELD_F32, 0, 1, 0),
    KIND_LATER("route_scale", route.scale, FIELD_F32, 0x1p-20, 0x1p20, 1),
    KIND_LATER("ffn_act", ffn.act, FIELD_U32, 0, FFN_SILU_LIMIT, FFN_SILU),
    KIND_LATER("ffn_bias", ffn.bias, FIELD_U32, 0, 1, 0),
    KIND_LATER("ffn_limit", ffn.limit, FIELD_F32, 0, 0x1p20, 0),
    KIND_LATER("ffn_alpha", ffn.alpha, FIELD_F32, 0, 0x1p10, 0),
    {.key = "rope_long_tok",
     .of = FIELD_ARRAY,
     .type = FIELD_U32,
     .at = offsetof(struct arch, rope_long_tok),
     .max = INT32_MAX,
     .optional = true,
     .length_at = offsetof(struct arch, n_rope_long),
     .sets_length = true},
    {.key = "rope_long_scale",
     .of = FIELD_ARRAY,
     .type = FIELD_F32,
     .at = offsetof(struct arch, rope_long_scale),
     .min = 0x1p-10,
     .max = 0x1p10,
     .optional = true,
     .length_at = offsetof(struct arch, n_rope_long)},
    {.key = "rope_long_inv_freq",
     .of = FIELD_ARRAY,
     .type = FIELD_F32,
     .at = offsetof(struct arch, rope_long_inv_freq),
     .max = 0x1p10,
     .optional = true,
     .length_at = offsetof(struct arch, n_long_inv_freq),
     .sets_length = true},
    {.key = "kind",
     .of = FIELD_ARRAY,
     .type = FIELD_U32,
     .at = offsetof(struct arch, kind),
     .max = ARCH_MAX_KINDS - 1,
     .optional = true,
     .length_at = offsetof(struct arch, n_layers)},
    LATER(norm, FIELD_U32, 0, ARCH_NORM_LAYER_BIAS, ARCH_NORM_RMS),
    LATER(head_bias, FIELD_U32, 0, 1, 0),
    KIND_LATER("parallel", block.parallel, FIELD_U32, 0, 1, 0),
    KIND_LATER("chunk", att.chunk, FIELD_U32, 0, INT32_MAX, 0),
    KIND_LATER("attn_temper", att.temper, FIELD_F32, 0, 0x1p10, 0),
    KIND_LATER("attn_temper_tok", att.temper_tok, FIELD_F32, 0, 0x1p31, 0),
    KIND_LATER("route_by_logits", route.by_logits, FIELD_U32, 0, 1, 0),
    KIND_LATER("route_on_input", route.on_input, FIELD_U32, 0, 1, 0),
    KIND_LATER("route_logit_cap", route.logit_cap, FIELD_F32, 0, 0x1p20, 0),
    KIND_LATER("shared_scale", shared_scale, FIELD_F32, 0, 0x1p20, 0),
    KIND_LATER("shared_limit", shared_limit, FIELD_F32, 0, 0x1p20, 0),
};
const size_t arch_n_fields = sizeof arch_fields / sizeof *arch_fields;
static_assert(sizeof arch_fields / sizeof *arch_fields <= ARCH_FIELDS_MAX, "ARCH_FIELDS_MAX");

/* Values and pointers of a struct by offset; memcpy keeps this free of aliasing questions. */
static uint32_t length_of(const struct arch *a, const struct arch_field *f) {
    uint32_t n;
    memcpy(&n, (const char *)a + f->length_at, sizeof n);
    return n;
}

uint32_t arch_field_count(const struct arch *a, const struct arch_field *f) {
    switch (f->of) {
    case FIELD_ARRAY:
        return length_of(a, f);
    case FIELD_OF_KIND:
    case FIELD_BY_LAYER:
        return a->n_kinds;
    case FIELD_OF_MODEL:
        break;
    }
    return 1;
}

void *arch_field_pointer(const struct arch *a, const struct arch_field *f) {
    void *p;
    memcpy(&p, (const char *)a + f->at, sizeof p);
    return p;
}

static char *element_at(const struct arch *a, const struct arch_field *f, uint32_t i) {
    switch (f->of) {
    case FIELD_ARRAY:
        return (char *)arch_field_pointer(a, f) + (size_t)i * 4;
    case FIELD_OF_KIND:
    case FIELD_BY_LAYER:
        return (char *)&a->kinds[i] + f->at;
    case FIELD_OF_MODEL:
        break;
    }
    return (char *)a + f->at;
}

uint32_t arch_field_bits(const struct arch *a, const struct arch_field *f, uint32_t i) {
    uint32_t bits;
    memcpy(&bits, element_at(a, f, i), sizeof bits);
    return bits;
}

double arch_field_number(const struct arch *a, const struct arch_field *f, uint32_t i) {
    uint32_t bits = arch_field_bits(a, f, i);
    float number;
    memcpy(&number, &bits, sizeof number);
    return field_is_float(f) ? (double)number : (double)bits;
}

uint32_t arch_field_missing(const struct arch_field *f) {
    float number = (float)f->missing;
    uint32_t bits = (uint32_t)(int64_t)f->missing;
    if (field_is_float(f)) {
        memcpy(&bits, &number, sizeof bits);
    }
    return bits;
}

void arch_field_set(struct arch *a, const struct arch_field *f, uint32_t i, uint32_t bits) {
    memcpy(element_at(a, f, i), &bits, sizeof bits);
}

/* ---- checks ---- */

static int check_family(const char *s, const struct arch_field *f, struct err *err) {
    size_t len = s ? strlen(s) : 0;
    if (len < f->min || len > f->max) {
        return err_set(err, "%s: a name of 1 to %g bytes is needed, got %zu", f->key, f->max, len);
    }
    for (size_t i = 0; i < len; i++) {
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f) {
            return err_set(err, "%s: holds a control character", f->key);
        }
    }
    return 0;
}

static int check_range(const struct arch *a, const struct arch_field *f, struct err *err) {
    if (f->type == FIELD_STRING) {
        return check_family(arch_field_pointer(a, f), f, err);
    }
    uint32_t n = arch_field_count(a, f);
    if (n > 0 && f->of == FIELD_ARRAY && !arch_field_pointer(a, f)) {
        return err_set(err, "%s: missing (%u values expected)", f->key, n);
    }
    for (uint32_t i = 0; i < n; i++) {
        double v = arch_field_number(a, f, i);
        if (!(v >= f->min && v <= f->max)) { /* also NaN */
            char where[32] = "";
            if (f->of == FIELD_ARRAY || n > 1) {
                snprintf(where, sizeof where, "[%u]", i);
            }
            return err_set(err, "%s%s = %.10g is outside %.10g .. %.10g", f->key, where, v, f->min,
                           f->max);
        }
    }
    return 0;
}

static int check_attention(const struct arch *a, const struct attention_rule *r, struct err *err) {
    if (r->n_heads == 0 || r->n_kv_heads == 0 || r->n_heads % r->n_kv_heads != 0) {
        return err_set(err, "n_heads = %u is not a multiple of n_kv_heads = %u", r->n_heads,
                       r->n_kv_heads);
    }
    if (r->head_dim == 0 || r->head_dim % 2 != 0) {
        return err_set(err, "head_dim = %u is %s", r->head_dim, r->head_dim ? "odd" : "missing");
    }
    if (r->rope >= a->n_ropes) {
        return err_set(err, "rope = %u, but rope_dim has %u values", r->rope, a->n_ropes);
    }
    uint32_t rope_dim = a->rope_dim[r->rope];
    if (rope_dim % 2 != 0 || rope_dim > r->head_dim) {
        return err_set(err, "rope_dim = %u must be even and at most head_dim = %u", rope_dim,
                       r->head_dim);
    }
    if (r->v_from_k && !r->v_norm) {
        return err_set(err, "v_from_k = 1 needs v_norm = 1");
    }
    if (r->window > 0 && r->chunk > 0) {
        return err_set(err, "window = %u and chunk = %u: at most one of them may be there",
                       r->window, r->chunk);
    }
    if (r->temper > 0 && !(r->temper_tok > 0)) {
        return err_set(err, "attn_temper = %g needs attn_temper_tok", (double)r->temper);
    }
    return 0;
}

static int check_delta(const struct delta_rule *r, struct err *err) {
    if (r->n_k_heads == 0 || r->n_v_heads == 0 || r->n_v_heads % r->n_k_heads != 0) {
        return err_set(err, "delta_v_heads = %u is not a multiple of delta_k_heads = %u",
                       r->n_v_heads, r->n_k_heads);
    }
    if (r->k_dim == 0 || r->v_dim == 0 || r->conv == 0) {
        return err_set(err, "delta_k_dim = %u, delta_v_dim = %u, delta_conv = %u: none may be 0",
                       r->k_dim, r->v_dim, r->conv);
    }
    return 0;
}

static int check_latent(const struct arch *a, const struct latent_rule *r, struct err *err) {
    if (r->n_heads == 0 || r->rank == 0 || r->nope_dim == 0 || r->rope_dim == 0 || r->v_dim == 0) {
        return err_set(err,
                       "latent_heads = %u, latent_rank = %u, latent_nope_dim = %u, "
                       "latent_rope_dim = %u, latent_v_dim = %u: none may be 0",
                       r->n_heads, r->rank, r->nope_dim, r->rope_dim, r->v_dim);
    }
    if (r->rope >= a->n_ropes) {
        return err_set(err, "latent_rope = %u, but rope_dim has %u values", r->rope, a->n_ropes);
    }
    uint32_t rope_dim = a->rope_dim[r->rope];
    if (rope_dim % 2 != 0 || rope_dim > r->rope_dim) {
        return err_set(err, "rope_dim = %u must be even and at most latent_rope_dim = %u", rope_dim,
                       r->rope_dim);
    }
    if (r->query_beta > 0 && r->query_tok == 0) {
        return err_set(err, "latent_query_beta = %.6g needs latent_query_tok",
                       (double)r->query_beta);
    }
    return 0;
}

static int check_route(const struct arch *a, const struct route_rule *r, struct err *err) {
    if (r->on_input && a->n_active != 1) {
        return err_set(err, "route_on_input = 1 needs n_active = 1, got %u", a->n_active);
    }
    if (r->score == ROUTE_SPARSE_MIXER && r->renorm != ROUTE_RENORM_NONE) {
        return err_set(err, "route_score = %u needs norm_topk = 0, got %u", r->score, r->renorm);
    }
    if (r->groups == 0) {
        return 0;
    }
    if (a->n_experts % r->groups != 0 || r->top_groups == 0 || r->top_groups > r->groups) {
        return err_set(err,
                       "route_groups = %u, route_top_groups = %u: expected groups that divide "
                       "n_experts = %u, and some of them",
                       r->groups, r->top_groups, a->n_experts);
    }
    return 0;
}

static int check_mixer(const struct arch *a, const struct layer_kind *k, struct err *err) {
    switch ((enum mixer_id)k->mixer) {
    case MIXER_ATTENTION:
        return check_attention(a, &k->att, err);
    case MIXER_DELTA_NET:
        return check_delta(&k->delta, err);
    case MIXER_LATENT:
        return check_latent(a, &k->latent, err);
    case MIXER_COUNT:
        break;
    }
    return err_set(err, "mixer = %u: there is none of this number", k->mixer);
}

static int check_kind(const struct arch *a, const struct layer_kind *k, struct err *err) {
    if (check_mixer(a, k, err) < 0) {
        return -1;
    }
    if (k->moe && (a->n_experts == 0 || a->n_active == 0 || a->ffn_dim == 0)) {
        return err_set(err,
                       "%u layers have experts, but n_experts = %u, n_active = %u, ffn_dim = %u",
                       arch_moe_layers(a), a->n_experts, a->n_active, a->ffn_dim);
    }
    if (!k->moe && k->dense_dim == 0) {
        return err_set(err, "%u layers have no experts, but dense_dim = 0",
                       a->n_layers - arch_moe_layers(a));
    }
    if (k->shared_gate && k->shared_dim == 0) {
        return err_set(err, "shared_gate = 1, but shared_dim = 0");
    }
    if (k->block.dense_beside && (k->shared_dim == 0 || k->shared_gate)) {
        return err_set(err, "dense_beside = 1 needs shared_dim and no shared_gate");
    }
    if (k->moe && k->route.on_input &&
        (k->block.post_norm == ARCH_POST_NORM_ONLY || k->block.parallel)) {
        return err_set(err, "route_on_input = 1 needs a norm before the experts");
    }
    if (k->block.parallel && (k->block.post_norm == ARCH_POST_NORM_ONLY || k->block.dense_beside)) {
        return err_set(err, "parallel = 1 needs a norm before the branches and no dense_beside");
    }
    if (k->block.parallel && k->moe && k->route.input == ROUTE_OWN_NORM) {
        return err_set(err, "parallel = 1 needs a route_input other than %u", k->route.input);
    }
    if (k->ffn.act == FFN_SWIGLU_OAI && !(k->ffn.limit > 0)) {
        return err_set(err, "ffn_act = %u needs ffn_limit", k->ffn.act);
    }
    return k->moe ? check_route(a, &k->route, err) : 0;
}

/* A layer that reads another's keys and values: one before it, that has its own, of one shape. */
static int check_kv_layers(const struct arch *a, struct err *err) {
    if (a->n_kv_layer == 0) {
        return 0;
    }
    if (a->n_kv_layer != a->n_layers) {
        return err_set(err, "kv_layer: %u values, expected none or %u", a->n_kv_layer, a->n_layers);
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        uint32_t from = a->kv_layer[l];
        const struct layer_kind *k = arch_kind(a, l), *source = from <= l ? arch_kind(a, from) : k;
        if (from > l || a->kv_layer[from] != from ||
            (from != l &&
             (k->mixer != MIXER_ATTENTION || source->mixer != MIXER_ATTENTION ||
              source->att.n_kv_heads != k->att.n_kv_heads ||
              source->att.head_dim != k->att.head_dim || source->att.window != k->att.window ||
              source->att.chunk != k->att.chunk))) {
            return err_set(err,
                           "kv_layer[%u] = %u: expected the layer itself, or an earlier one of the "
                           "same heads, window and chunk that has keys of its own",
                           l, from);
        }
    }
    return 0;
}

/* Long forms are given for all sets or for none. */
static int check_long_ropes(const struct arch *a, struct err *err) {
    if (a->n_rope_long != 0 && a->n_rope_long != a->n_ropes) {
        return err_set(err, "rope_long_tok has %u values, expected none or %u", a->n_rope_long,
                       a->n_ropes);
    }
    uint32_t expected = a->n_rope_long > 0 ? a->n_inv_freq : 0;
    if (a->n_long_inv_freq != expected) {
        return err_set(err, "rope_long_inv_freq has %u values, expected %u", a->n_long_inv_freq,
                       expected);
    }
    return 0;
}

static int check_rules(const struct arch *a, struct err *err) {
    uint64_t inv_freqs = 0;
    for (uint32_t i = 0; i < a->n_ropes; i++) {
        inv_freqs += a->rope_dim[i] / 2;
    }
    if (a->n_ropes > ARCH_MAX_ROPES) {
        return err_set(err, "rope_dim: %u values, at most %d are supported", a->n_ropes,
                       ARCH_MAX_ROPES);
    }
    for (uint32_t i = 0; i < a->n_kinds; i++) {
        if (check_kind(a, &a->kinds[i], err) < 0) {
            return -1;
        }
    }
    if (inv_freqs != a->n_inv_freq) {
        return err_set(err, "rope_inv_freq has %u values, expected %u", a->n_inv_freq,
                       (unsigned)inv_freqs);
    }
    if (a->n_stop > MAX_STOP_IDS) {
        return err_set(err, "stop_ids: %u ids, at most %d are supported", a->n_stop, MAX_STOP_IDS);
    }
    for (uint32_t i = 0; i < a->n_stop; i++) {
        if (a->stop_ids[i] >= a->vocab) {
            return err_set(err, "stop_ids[%u] = %u is not below vocab = %u", i, a->stop_ids[i],
                           a->vocab);
        }
    }
    if (arch_moe_layers(a) > 0 && a->n_active > a->n_experts) {
        return err_set(err, "n_active = %u is above n_experts = %u", a->n_active, a->n_experts);
    }
    if (check_long_ropes(a, err) < 0 || check_kv_layers(a, err) < 0) {
        return -1;
    }
    uint64_t params = arch_params(a);
    if (params > max_params) {
        return err_set(err, "the fields describe %llu parameters, at most 2^47 are supported",
                       (unsigned long long)params);
    }
    return 0;
}

static int check_kind_indexes(const struct arch *a, struct err *err) {
    if (!a->kind || !a->kinds || a->n_kinds == 0 || a->n_kinds > ARCH_MAX_KINDS) {
        return err_set(err, "%u kinds of layers, expected 1 .. %d", a->n_kinds, ARCH_MAX_KINDS);
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        if (a->kind[l] >= a->n_kinds) {
            return err_set(err, "kind[%u] = %u is not below the %u kinds", l, a->kind[l],
                           a->n_kinds);
        }
    }
    return 0;
}

int arch_check(const struct arch *a, struct err *err) {
    for (size_t i = 0; i < arch_n_fields; i++) {
        if (check_range(a, &arch_fields[i], err) < 0) {
            return -1;
        }
    }
    return check_kind_indexes(a, err) < 0 ? -1 : check_rules(a, err);
}

void arch_free(struct arch *a) {
    for (size_t i = 0; i < arch_n_fields; i++) {
        if (arch_fields[i].of == FIELD_ARRAY || arch_fields[i].type == FIELD_STRING) {
            free(arch_field_pointer(a, &arch_fields[i]));
        }
    }
    free(a->kinds);
    memset(a, 0, sizeof *a);
}

/* ---- kinds ---- */

struct layer_kind arch_plain_kind(void) {
    struct layer_kind kind = {0};
    struct arch a = {.kinds = &kind, .n_kinds = 1};
    for (size_t i = 0; i < arch_n_fields; i++) {
        const struct arch_field *f = &arch_fields[i];
        if (f->of == FIELD_OF_KIND && f->optional) {
            arch_field_set(&a, f, 0, arch_field_missing(f));
        }
    }
    return kind;
}

void arch_set_kinds(struct arch *a, const struct layer_kind *by_layer) {
    a->kind = mem_realloc(a->kind, a->n_layers * sizeof *a->kind);
    a->n_kinds = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        uint32_t k = 0;
        while (k < a->n_kinds && memcmp(&a->kinds[k], &by_layer[l], sizeof *by_layer) != 0) {
            k++;
        }
        if (k == a->n_kinds) {
            a->kinds = mem_realloc(a->kinds, (k + 1) * sizeof *a->kinds);
            a->kinds[a->n_kinds++] = by_layer[l];
        }
        a->kind[l] = k;
    }
}

/* Whether two layers agree in all fields by layer. */
static bool same_layers(uint32_t (*value)(const void *ctx, const struct arch_field *f,
                                          uint32_t layer),
                        const void *ctx, uint32_t a, uint32_t b) {
    bool same = true;
    for (size_t i = 0; same && i < arch_n_fields; i++) {
        const struct arch_field *f = &arch_fields[i];
        same = f->of != FIELD_BY_LAYER || value(ctx, f, a) == value(ctx, f, b);
    }
    return same;
}

uint32_t arch_derive_kinds(uint32_t n_layers,
                           uint32_t (*value)(const void *ctx, const struct arch_field *f,
                                             uint32_t layer),
                           const void *ctx, uint32_t *kind) {
    uint32_t n_kinds = 0, first[ARCH_MAX_KINDS + 1]; /* first layer of each kind */
    for (uint32_t l = 0; l < n_layers && n_kinds <= ARCH_MAX_KINDS; l++) {
        uint32_t k = 0;
        while (k < n_kinds && !same_layers(value, ctx, l, first[k])) {
            k++;
        }
        if (k == n_kinds) {
            first[n_kinds++] = l;
        }
        kind[l] = k;
    }
    return n_kinds;
}

float attention_scale(const struct attention_rule *r) {
    return r->scale > 0 ? r->scale : 1.0f / sqrtf((float)r->head_dim);
}

float attention_scale_at(const struct attention_rule *r, uint32_t pos) {
    float scale = attention_scale(r);
    return r->temper > 0
               ? scale * (log1pf(floorf(((float)pos + 1.0f) / r->temper_tok)) * r->temper + 1.0f)
               : scale;
}

float latent_scale(const struct latent_rule *r, uint32_t pos) {
    float scale = r->scale > 0 ? r->scale : 1.0f / sqrtf((float)(r->nope_dim + r->rope_dim));
    return r->query_beta > 0 ? scale * (1 + r->query_beta * logf(1 + (float)(pos / r->query_tok)))
                             : scale;
}
