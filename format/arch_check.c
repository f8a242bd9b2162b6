/*
 * arch_check: whether the fields of a struct arch are in their ranges, and fit together.
 */
#include "format/arch.h"

#include <stdio.h>
#include <string.h>

#include "format/arch_fields.h"

enum { MAX_STOP_IDS = 1024 };

/* Largest count of parameters: every size in bytes then stays far inside 64 bits. */
static const uint64_t max_params = UINT64_C(1) << 47;

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
    if (r->v_from_k && attention_head_out(r) != r->head_dim) {
        return err_set(err, "v_from_k = 1 needs v_head_dim = head_dim = %u, got %u", r->head_dim,
                       r->v_dim);
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
              source->att.head_dim != k->att.head_dim || source->att.v_dim != k->att.v_dim ||
              source->att.window != k->att.window || source->att.chunk != k->att.chunk))) {
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
