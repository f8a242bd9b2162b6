/*
 * arch: see arch.h. The table of the fields of struct arch, and their ranges. The rules that
 * tie several fields together are in arch_check.c, what is made of the table on disk and for people
 * in arch_meta.c, the tensor slots in arch_slots.c, rope sets in arch_rope.c.
 */
#include "format/arch.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "format/arch_fields.h"

enum { FAMILY_MAX_BYTES = 64 };

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
    KIND_LATER("post_norm", block.post_norm, FIELD_U32, 0, ARCH_POST_NORM_FFN, ARCH_POST_NORM_NONE),
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
    LATER(ctx_limit_tok, FIELD_U32, 0, INT32_MAX, 0),
    KIND_LATER("v_head_dim", att.v_dim, FIELD_U32, 0, ARCH_MAX_HEAD_DIM, 0),
    KIND_LATER("v_scale", att.v_scale, FIELD_F32, 0, 0x1p20, 0),
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
