#include "prep/hf/settle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "prep/hf/hf_config.h"
#include "prep/hf/hf_keys.h"
#include "prep/hf/hf_rope.h"

int settle_refuse(const struct settle *s, const char *key, const json_t *v, const char *expected,
                  struct err *err) {
    char text[64];
    return err_set(err, "%s: %s is %s, expected %s", s->path, key, hf_keys_text(v, text), expected);
}

int settle_only(const struct settle *s, enum family_key_id key, double value, struct err *err) {
    if (s->value[key] != value) {
        return err_set(err, "%s: %s is %g, expected %g in the %s family", s->path,
                       s->given[key] ? s->given[key] : hf_config_key(key), s->value[key], value,
                       s->family->name);
    }
    return 0;
}

int settle_choose(const struct settle *s, const char *key, const char *const *words,
                  uint32_t *which, struct err *err) {
    const json_t *v = json_object_get(s->root, key);
    const char *said = json_string_value(v);
    char expected[128] = "";
    size_t at = 0;
    if (!v || json_is_null(v)) {
        return 0;
    }
    for (uint32_t i = 0; words[i]; i++) {
        if (said && strcmp(said, words[i]) == 0) {
            *which = i;
            return 0;
        }
        at += (size_t)snprintf(expected + at, at < sizeof expected ? sizeof expected - at : 0,
                               "%s\"%s\"", i > 0 ? " or " : "", words[i]);
    }
    return settle_refuse(s, key, v, expected, err);
}

int settle_word(const struct settle *s, const char *key, const char *word, struct err *err) {
    uint32_t which;
    return settle_choose(s, key, (const char *const[]){word, NULL}, &which, err);
}

int settle_true(const struct settle *s, const char *key, struct err *err) {
    const json_t *v = json_object_get(s->root, key);
    return !v || json_is_null(v) || json_is_true(v) ? 0 : settle_refuse(s, key, v, "true", err);
}

int settle_ling_words(const struct settle *s, struct err *err) {
    const char *shared = "moe_shared_expert_intermediate_size";
    const json_t *v = json_object_get(s->root, shared);
    if (v && !json_is_null(v) && json_integer_value(v) != (json_int_t)settle_shared_dim(s)) {
        return settle_refuse(s, shared, v, "that of an expert, for each shared one", err);
    }
    return settle_word(s, "score_function", "sigmoid", err) < 0 ||
                   settle_true(s, "moe_router_enable_expert_bias", err) < 0 ||
                   settle_true(s, "use_rmsnorm", err) < 0
               ? -1
               : settle_only(s, KEY_QKV_BIAS, 0, err);
}

int settle_only_number(const struct settle *s, const char *key, uint32_t number, struct err *err) {
    const json_t *v = json_object_get(s->root, key);
    bool list = json_is_array(v);
    if (!v || json_is_null(v) || (list && json_array_size(v) == 0)) {
        return 0;
    }
    if (list && json_array_size(v) != s->arch->n_layers) {
        return settle_refuse(s, key, v, "a number for each layer", err);
    }
    for (size_t i = 0; i < (list ? json_array_size(v) : 1); i++) {
        const json_t *e = list ? json_array_get(v, i) : v;
        if (!json_is_integer(e) || json_integer_value(e) != (json_int_t)number) {
            char expected[48];
            snprintf(expected, sizeof expected, "%u in every layer", number);
            return settle_refuse(s, key, v, expected, err);
        }
    }
    return 0;
}

/* The list under a key, or NULL where the file has none. */
static int find_list(const struct settle *s, const char *key, const json_t **list,
                     const char *expected, struct err *err) {
    const json_t *v = json_object_get(s->root, key);
    *list = json_is_array(v) ? v : NULL;
    return !v || json_is_null(v) || *list ? 0 : settle_refuse(s, key, v, expected, err);
}

int settle_flags(const struct settle *s, const char *key, bool *flags, bool *given,
                 struct err *err) {
    static const char expected[] = "a list of 0 and 1, one a layer";
    const json_t *list = json_object_get(s->root, key);
    *given = list && !hf_keys_neutral(list, 0);
    for (uint32_t l = 0; *given && l < s->arch->n_layers; l++) {
        const json_t *v = json_array_get(list, l);
        const json_int_t flag = json_integer_value(v);
        if (!json_is_integer(v) || (flag != 0 && flag != 1)) {
            return settle_refuse(s, key, list, expected, err);
        }
        flags[l] = flag == 1;
    }
    return 0;
}

int settle_layer_words(const struct settle *s, const char *key, const char *const *words,
                       uint32_t *type, bool *given, struct err *err) {
    const json_t *list;
    if (find_list(s, key, &list, "a list of words, one a layer", err) < 0) {
        return -1;
    }
    *given = list != NULL;
    if (list && json_array_size(list) != s->arch->n_layers) {
        return err_set(err, "%s: %s must be a list of %u entries, one a layer", s->path, key,
                       s->arch->n_layers);
    }
    for (uint32_t l = 0; list && l < s->arch->n_layers; l++) {
        const char *word = json_string_value(json_array_get(list, l));
        uint32_t k = 0;
        while (words[k] && (!word || strcmp(word, words[k]) != 0)) {
            k++;
        }
        if (!words[k]) {
            return err_set(err, "%s: %s entry %u (\"%.40s\") is neither %s nor %s", s->path, key, l,
                           word ? word : "?", words[0], words[1]);
        }
        type[l] = k;
    }
    return 0;
}

int settle_layer_types(const struct settle *s, const char *const *words, uint32_t *type,
                       bool *given, struct err *err) {
    return settle_layer_words(s, "layer_types", words, type, given, err);
}

int settle_mlp_types(struct settle *s, struct err *err) {
    static const char *const words[] = {"dense", "sparse", NULL};
    uint32_t n = s->arch->n_layers, n_moe = 0, *type = mem_calloc(n, sizeof *type);
    bool given;
    int rc = settle_layer_words(s, "mlp_layer_types", words, type, &given, err);
    for (uint32_t l = 0; rc == 0 && given && l < n; l++) {
        s->kinds[l].moe = type[l];
        n_moe += type[l];
    }
    for (uint32_t l = 0; rc == 0 && given && l < n; l++) {
        s->kinds[l].dense_dim = n_moe < n ? settle_u32(s, KEY_MLP_DIM) : 0;
    }
    free(type);
    return rc;
}

int settle_sparse(struct settle *s, struct err *err) {
    const json_t *dense;
    uint32_t n_layers = s->arch->n_layers, step = settle_u32(s, KEY_SPARSE_STEP);
    if (find_list(s, "mlp_only_layers", &dense, "a list of layers", err) < 0) {
        return -1;
    }
    if (step == 0) {
        return err_set(err, "%s: decoder_sparse_step must be at least 1", s->path);
    }
    for (uint32_t l = 0; l < n_layers; l++) {
        s->kinds[l].moe = (l + 1) % step == 0;
    }
    for (size_t i = 0; i < json_array_size(dense); i++) {
        const json_t *l = json_array_get(dense, i);
        if (!json_is_integer(l)) {
            return settle_refuse(s, "mlp_only_layers", dense, "a list of layers", err);
        }
        if (json_integer_value(l) >= 0 && json_integer_value(l) < (json_int_t)n_layers) {
            s->kinds[json_integer_value(l)].moe = 0;
        }
    }
    uint32_t n_dense = 0;
    for (uint32_t l = 0; l < n_layers; l++) {
        n_dense += !s->kinds[l].moe;
    }
    for (uint32_t l = 0; l < n_layers; l++) {
        s->kinds[l].dense_dim = n_dense > 0 ? settle_u32(s, KEY_MLP_DIM) : 0;
    }
    return 0;
}

void settle_dense_first(struct settle *s) {
    uint32_t dense = settle_u32(s, KEY_DENSE_FIRST);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].moe = l >= dense;
        s->kinds[l].dense_dim = dense > 0 ? settle_u32(s, KEY_MLP_DIM) : 0;
        s->kinds[l].shared_dim = settle_shared_dim(s);
    }
}

/* A size that 32 bits do not hold stays too large for a model. */
uint32_t settle_shared_dim(const struct settle *s) {
    double dim = s->value[KEY_SHARED_EXPERTS] * s->value[KEY_EXPERT_DIM];
    return dim < UINT32_MAX ? (uint32_t)dim : UINT32_MAX;
}

uint32_t settle_renorm_many(const struct settle *s) {
    return settle_u32(s, KEY_NORM_TOPK) && s->arch->n_active > 1 ? ROUTE_RENORM_SUM : 0;
}

struct route_rule settle_sigmoid_route(const struct settle *s) {
    return (struct route_rule){.score = ROUTE_SIGMOID,
                               .selection_bias = 1,
                               .renorm = settle_u32(s, KEY_NORM_TOPK),
                               .groups = settle_u32(s, KEY_GROUPS),
                               .top_groups = settle_u32(s, KEY_TOP_GROUPS),
                               .group_score = ROUTE_GROUP_TOP_TWO,
                               .eps = 1e-20f,
                               .scale = settle_f32(s, KEY_ROUTE_SCALE)};
}

int settle_window_key(const struct settle *s, uint32_t *window, struct err *err) {
    const char *key = hf_config_key(KEY_WINDOW);
    const json_t *v = json_object_get(s->root, key);
    *window = settle_u32(s, KEY_WINDOW);
    return json_is_integer(v) && *window == 0
               ? settle_refuse(s, key, v, "a positive integer, or null for no window", err)
               : 0;
}

int settle_windows(struct settle *s, uint32_t window,
                   bool (*slides)(const struct settle *s, uint32_t layer), bool obeys,
                   struct err *err) {
    static const char *const words[] = {"full_attention", "sliding_attention", NULL};
    uint32_t n = s->arch->n_layers, *type = mem_calloc(n, sizeof *type);
    bool given;
    int rc = settle_layer_types(s, words, type, &given, err);
    for (uint32_t l = 0; rc == 0 && l < n; l++) {
        bool rule = window > 0 && (!slides || slides(s, l));
        bool listed = given ? type[l] == 1 : rule;
        if (listed != rule && (!obeys || window == 0)) {
            rc = err_set(err,
                         "%s: layer_types entry %u (\"%s\") contradicts what the other keys say of "
                         "sliding windows",
                         s->path, l, words[type[l]]);
        }
        s->kinds[l].att.window = listed ? window : 0;
    }
    free(type);
    return rc;
}

int settle_rope(struct settle *s, struct err *err) {
    struct hf_rope_ask ask = {.head_dim = s->kinds[0].att.head_dim, .key = KEY_HEAD_DIM};
    uint32_t rope;
    if (hf_rope_add(s, &ask, &rope, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].att.rope = rope;
    }
    return 0;
}

int settle_heads_by_layer(struct settle *s, const char *key, struct err *err) {
    static const char expected[] = "a list of positive integers, one a layer";
    const json_t *list;
    if (find_list(s, key, &list, expected, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; list && l < s->arch->n_layers; l++) {
        const json_int_t n = json_integer_value(json_array_get(list, l));
        if (json_array_size(list) != s->arch->n_layers || n < 1 || n > INT32_MAX) {
            return settle_refuse(s, key, list, expected, err);
        }
        s->kinds[l].att.n_heads = (uint32_t)n;
    }
    return 0;
}

int settle_rope_types(struct settle *s, const uint32_t *slides, enum family_key_id full_key,
                      struct err *err) {
    static const char *const types[] = {"full_attention", "sliding_attention"};
    uint32_t rope[2] = {0}, first[2] = {UINT32_MAX, UINT32_MAX};
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct attention_rule *r = &s->kinds[l].att;
        const uint32_t t = slides ? slides[l] : r->window > 0;
        if (first[t] == UINT32_MAX) {
            const struct hf_rope_ask ask = {.head_dim = r->head_dim,
                                            .key = t == 0 ? full_key : KEY_HEAD_DIM,
                                            .layer_type = types[t]};
            first[t] = l;
            if (hf_rope_add(s, &ask, &rope[t], err) < 0) {
                return -1;
            }
        }
        if (r->head_dim != s->kinds[first[t]].att.head_dim) {
            return err_set(err, "%s: head_dim of layer %u is %u, of layer %u of the same type %u",
                           s->path, l, r->head_dim, first[t], s->kinds[first[t]].att.head_dim);
        }
        r->rope = rope[t];
    }
    return 0;
}

uint32_t settle_no_rope(struct settle *s) {
    return arch_add_rope(s->arch, 0, NULL, 1);
}

void settle_unturned(struct settle *s) {
    uint32_t none = UINT32_MAX;
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        if (s->kinds[l].att.window == 0) {
            none = none == UINT32_MAX ? settle_no_rope(s) : none;
            s->kinds[l].att.rope = none;
        }
    }
}

int settle_head_norms(struct settle *s, struct err *err) {
    if (settle_only(s, KEY_QK_NORM, 1, err) < 0 || settle_sparse(s, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.qk_norm = ARCH_QK_NORM_HEAD;
        k->route.renorm = settle_u32(s, KEY_NORM_TOPK);
    }
    return settle_rope(s, err);
}

int settle_shared_experts(struct settle *s, struct err *err) {
    settle_dense_first(s);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.qkv_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.qk_norm = settle_u32(s, KEY_QK_NORM) ? ARCH_QK_NORM_HEAD : ARCH_QK_NORM_NONE;
        k->route = settle_sigmoid_route(s);
    }
    return settle_rope(s, err);
}

int settle_ling(struct settle *s, struct err *err) {
    if (settle_only(s, KEY_NORM_TOPK, 1, err) < 0 || settle_shared_experts(s, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].route.renorm = settle_renorm_many(s);
    }
    return 0;
}

/* Keys that files write beside what they follow from. */
static int check_latent_dims(const struct settle *s, const struct latent_rule *r, struct err *err) {
    static const char *const widths[] = {"qk_head_dim", "q_head_dim"};
    const uint32_t q_dim = r->nope_dim + r->rope_dim, head_dim = settle_u32(s, KEY_HEAD_DIM);
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        const json_t *v = json_object_get(s->root, widths[i]);
        if (v && !json_is_null(v) && json_integer_value(v) != q_dim) {
            return settle_refuse(s, widths[i], v, "qk_nope_head_dim + qk_rope_head_dim", err);
        }
    }
    if (s->given[KEY_HEAD_DIM] && head_dim != r->rope_dim && head_dim != q_dim &&
        head_dim != latent_key_dim(r)) {
        return err_set(err, "%s: head_dim is %u, expected qk_rope_head_dim = %u", s->path, head_dim,
                       r->rope_dim);
    }
    const uint32_t kv_heads = settle_u32(s, KEY_KV_HEADS);
    if (kv_heads != 0 && kv_heads != r->n_heads) {
        return err_set(err,
                       "%s: num_key_value_heads is %u, expected num_attention_heads = %u, as all "
                       "heads share a latent",
                       s->path, kv_heads, r->n_heads);
    }
    return settle_only(s, KEY_ATTENTION_BIAS, 0, err);
}

int settle_latent(struct settle *s, struct err *err) {
    struct latent_rule r = {.n_heads = settle_u32(s, KEY_HEADS),
                            .q_rank = settle_u32(s, KEY_LATENT_Q_RANK),
                            .rank = settle_u32(s, KEY_LATENT_RANK),
                            .nope_dim = settle_u32(s, KEY_LATENT_NOPE_DIM),
                            .rope_dim = settle_u32(s, KEY_LATENT_ROPE_DIM),
                            .v_dim = settle_u32(s, KEY_V_DIM),
                            .norm_eps = 1e-6f}; /* whatever rms_norm_eps says */
    struct hf_rope_ask ask = {.head_dim = r.rope_dim, .key = KEY_LATENT_ROPE_DIM, .latent = &r};
    if (check_latent_dims(s, &r, err) < 0 || settle_true(s, "rope_interleave", err) < 0 ||
        hf_rope_add(s, &ask, &r.rope, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].mixer = MIXER_LATENT;
        s->kinds[l].att = (struct attention_rule){0};
        s->kinds[l].latent = r;
    }
    return 0;
}

int settle_deepseek(struct settle *s, struct err *err) {
    if (settle_word(s, "topk_method", "noaux_tc", err) < 0 ||
        settle_word(s, "scoring_func", "sigmoid", err) < 0) {
        return -1;
    }
    settle_dense_first(s);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].route = settle_sigmoid_route(s);
    }
    return settle_latent(s, err);
}

int settle_latent_queries(const struct settle *s, struct err *err) {
    const char *key = hf_config_key(KEY_LATENT_Q_RANK);
    return settle_u32(s, KEY_LATENT_Q_RANK) > 0
               ? 0
               : settle_refuse(s, key, json_object_get(s->root, key), "a positive integer", err);
}

int settle_indexed(struct settle *s, struct err *err) {
    static const char *const words[] = {"indexed_attention", "deepseek_sparse_attention", NULL};
    uint32_t *type = mem_calloc(s->arch->n_layers, sizeof *type);
    bool given;
    int rc = settle_layer_types(s, words, type, &given, err);
    free(type);
    s->arch->ctx_limit_tok = settle_u32(s, KEY_INDEX_TOPK);
    return rc < 0 || settle_latent_queries(s, err) < 0 || settle_deepseek(s, err) < 0
               ? -1
               : settle_mlp_types(s, err);
}

/* What every layer of this kind has, whatever the file says: a norm on queries and keys, gates, the
 * delta net's by the SiLU. */
static int check_gates(const struct settle *s, struct err *err) {
    static const char *const same[] = {"swish", "silu", NULL};
    uint32_t which;
    return settle_choose(s, "output_gate_type", same, &which, err) < 0 ||
                   settle_only(s, KEY_QK_NORM, 1, err) < 0
               ? -1
               : settle_only(s, KEY_OUTPUT_GATE, 1, err);
}

int settle_gated_delta(struct settle *s, struct err *err) {
    static const char *const words[] = {"linear_attention", "full_attention", NULL};
    const struct delta_rule delta = {.n_k_heads = settle_u32(s, KEY_DELTA_K_HEADS),
                                     .n_v_heads = settle_u32(s, KEY_DELTA_V_HEADS),
                                     .k_dim = settle_u32(s, KEY_DELTA_K_DIM),
                                     .v_dim = settle_u32(s, KEY_DELTA_V_DIM),
                                     .conv = settle_u32(s, KEY_DELTA_CONV)};
    uint32_t interval = settle_u32(s, KEY_FULL_INTERVAL), n = s->arch->n_layers;
    if (check_gates(s, err) < 0) {
        return -1;
    }
    uint32_t *full = mem_calloc(n, sizeof *full);
    bool given;
    int rc = settle_layer_types(s, words, full, &given, err);
    if (rc == 0) {
        rc = settle_rope(s, err);
    }
    for (uint32_t l = 0; rc == 0 && l < n; l++) {
        struct layer_kind *k = &s->kinds[l];
        if (given ? full[l] : (l + 1) % interval == 0) {
            k->att.qk_norm = ARCH_QK_NORM_HEAD;
            k->att.gate = 1;
        } else {
            k->mixer = MIXER_DELTA_NET;
            k->att = (struct attention_rule){0};
            k->delta = delta;
        }
        k->shared_dim = settle_u32(s, KEY_SHARED_DIM);
        k->shared_gate = k->shared_dim > 0;
    }
    free(full);
    return rc;
}
