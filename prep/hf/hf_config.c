#include "prep/hf/hf_config.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "prep/hf/hf_keys.h"
#include "prep/hf/hf_rope.h"

/* ---- families ---- */

static const struct family {
    enum hf_family id;
    const char *model_type;
    const char *architecture;
    double default_theta;
    enum arch_qk_norm qk_norm;
} families[HF_FAMILIES] = {
    {HF_MIXTRAL, "mixtral", "MixtralForCausalLM", 1e6, ARCH_QK_NORM_NONE},
    {HF_OLMOE, "olmoe", "OlmoeForCausalLM", 1e4, ARCH_QK_NORM_FULL},
    {HF_QWEN2_MOE, "qwen2_moe", "Qwen2MoeForCausalLM", 1e4, ARCH_QK_NORM_NONE},
    {HF_QWEN3_MOE, "qwen3_moe", "Qwen3MoeForCausalLM", 1e4, ARCH_QK_NORM_HEAD},
};

const char *hf_supported_families(void) {
    return "mixtral, olmoe, qwen2_moe, qwen3_moe";
}

static size_t family_index(enum hf_family id) {
    size_t i = 0;
    while (families[i].id != id) {
        i++;
    }
    return i;
}

/* ---- keys ---- */

/* The file's values before they are turned into an arch. Lists are borrowed from the JSON tree. */
struct values {
    uint32_t vocab, hidden, intermediate, layers, heads, kv_heads, head_dim, max_pos;
    uint32_t experts, active, moe_intermediate, shared_intermediate, sparse_step;
    uint32_t norm_topk, qkv_bias, attention_bias, tied;
    uint32_t use_window, window, max_window_layers;
    double eps, clip;
};

enum key_kind { KEY_U32, KEY_BOOL, KEY_REAL };

/* A family that lacks the key: the file may only hold null, false or 0 under it. */
#define NONE HF_NO_NUMBER

static const struct key {
    const char *name[4]; /* spellings; the first is the one that messages use */
    enum key_kind kind;
    size_t at;
    double
        fallback[HF_FAMILIES]; /* without the key: mixtral, olmoe, qwen2_moe, qwen3_moe; or NONE */
    double null;               /* what null means; NONE = the fallback */
} keys[] = {
#define AT(field) offsetof(struct values, field)
    {{"vocab_size"}, KEY_U32, AT(vocab), {32000, 50304, 151936, 151936}, NONE},
    {{"hidden_size"}, KEY_U32, AT(hidden), {4096, 2048, 2048, 2048}, NONE},
    {{"intermediate_size"}, KEY_U32, AT(intermediate), {14336, 2048, 5632, 6144}, NONE},
    {{"num_hidden_layers"}, KEY_U32, AT(layers), {32, 16, 24, 24}, NONE},
    {{"num_attention_heads"}, KEY_U32, AT(heads), {32, 16, 16, 32}, NONE},
    {{"num_key_value_heads"}, KEY_U32, AT(kv_heads), {8, 0, 16, 4}, 0}, /* 0 = as many as heads */
    {{"head_dim"}, KEY_U32, AT(head_dim), {0, 0, 0, 0}, 0},             /* 0 = hidden / heads */
    {{"max_position_embeddings"}, KEY_U32, AT(max_pos), {131072, 4096, 32768, 32768}, NONE},
    {{"rms_norm_eps"}, KEY_REAL, AT(eps), {1e-5, 1e-5, 1e-6, 1e-6}, NONE},
    {{"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"},
     KEY_U32,
     AT(experts),
     {8, 64, 60, 128},
     NONE},
    {{"num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts"},
     KEY_U32,
     AT(active),
     {2, 8, 4, 8},
     NONE},
    {{"moe_intermediate_size"}, KEY_U32, AT(moe_intermediate), {NONE, NONE, 1408, 768}, NONE},
    {{"shared_expert_intermediate_size"},
     KEY_U32,
     AT(shared_intermediate),
     {NONE, NONE, 5632, NONE},
     NONE},
    {{"decoder_sparse_step"}, KEY_U32, AT(sparse_step), {NONE, NONE, 1, 1}, NONE},
    {{"norm_topk_prob"}, KEY_BOOL, AT(norm_topk), {1, 0, 0, 0}, NONE},
    {{"qkv_bias"}, KEY_BOOL, AT(qkv_bias), {NONE, NONE, 1, NONE}, NONE},
    {{"attention_bias"}, KEY_BOOL, AT(attention_bias), {NONE, 0, NONE, 0}, NONE},
    {{"clip_qkv"}, KEY_REAL, AT(clip), {NONE, 0, NONE, NONE}, 0},
    {{"tie_word_embeddings"}, KEY_BOOL, AT(tied), {0, 0, 0, 0}, 0},
    {{"sliding_window"}, KEY_U32, AT(window), {0, NONE, 4096, 4096}, 0}, /* 0 = off */
    {{"use_sliding_window"}, KEY_BOOL, AT(use_window), {NONE, NONE, 0, 0}, 0},
#undef AT
};
enum { KEY_COUNT = sizeof keys / sizeof *keys };

static int refuse_value(const char *path, const char *key, const json_t *v, const char *expected,
                        struct err *err) {
    char text[64];
    return err_set(err, "%s: %s is %s, expected %s", path, key, hf_keys_text(v, text), expected);
}

/* Whether the file's value of a key can be read as its kind; then `*value` is it. */
static bool key_value(const struct key *k, const json_t *v, double *value) {
    switch (k->kind) {
    case KEY_U32:
        *value = (double)json_integer_value(v);
        return json_is_integer(v) && *value >= 0 && *value <= INT32_MAX;
    case KEY_BOOL:
        *value = json_is_true(v);
        return json_is_boolean(v);
    case KEY_REAL:
        *value = json_number_value(v);
        return json_is_number(v) && isfinite(*value) && *value >= 0;
    }
    return false;
}

static const char *const kind_text[] = {"a non-negative integer", "true or false",
                                        "a non-negative number"};

/* Read one row of the key table, in whichever spelling the file has it. */
static int read_key(struct values *out, const struct key *k, size_t family, const json_t *root,
                    const char *path, struct err *err) {
    double fallback = k->fallback[family], value = fallback == NONE ? 0 : fallback;
    const char *seen = NULL;
    for (size_t i = 0; i < 4 && k->name[i]; i++) {
        const json_t *v = json_object_get(root, k->name[i]);
        double this_value = k->null == NONE ? value : k->null;
        if (!v) {
            continue;
        }
        if (fallback == NONE) {
            if (!hf_keys_neutral(v, 0)) {
                char expected[96];
                snprintf(expected, sizeof expected, "no such key in the %s family",
                         families[family].model_type);
                return refuse_value(path, k->name[i], v, expected, err);
            }
            continue;
        }
        if (!json_is_null(v) && !key_value(k, v, &this_value)) {
            return refuse_value(path, k->name[i], v, kind_text[k->kind], err);
        }
        if (seen && this_value != value) {
            return err_set(err, "%s: %s and %s contradict each other", path, seen, k->name[i]);
        }
        seen = k->name[i];
        value = this_value;
    }
    if (k->kind == KEY_REAL) {
        memcpy((char *)out + k->at, &value, sizeof value);
    } else {
        uint32_t n = (uint32_t)value;
        memcpy((char *)out + k->at, &n, sizeof n);
    }
    return 0;
}

/* Keys that are read, but through no row of the table: in this file or in hf_rope. */
static const char *const other_keys[] = {
    "architectures",
    "model_type",
    "hidden_act",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "eos_token_id",
    "layer_types",
    "mlp_only_layers",
    "max_window_layers",
    "use_qk_norm",
    "partial_rotary_factor",
    "original_max_position_embeddings",
};

static bool is_read(const char *name) {
    for (size_t i = 0; i < sizeof other_keys / sizeof *other_keys; i++) {
        if (strcmp(other_keys[i], name) == 0) {
            return true;
        }
    }
    for (size_t i = 0; i < KEY_COUNT; i++) {
        for (size_t k = 0; k < 4 && keys[i].name[k]; k++) {
            if (strcmp(keys[i].name[k], name) == 0) {
                return true;
            }
        }
    }
    return false;
}

/* ---- from values to arch ---- */

static int find_family(struct hf_config *out, const json_t *root, const char *path,
                       struct err *err) {
    const json_t *architectures = json_object_get(root, "architectures");
    const char *architecture = json_string_value(json_array_get(architectures, 0));
    const char *model_type = json_string_value(json_object_get(root, "model_type"));
    for (size_t i = 0; i < HF_FAMILIES; i++) {
        bool same_type = model_type && strcmp(model_type, families[i].model_type) == 0;
        bool same = architecture ? strcmp(architecture, families[i].architecture) == 0 : same_type;
        if (same && model_type && !same_type) {
            return err_set(err, "%s: model_type \"%s\" does not belong to architecture %s", path,
                           model_type, architecture);
        }
        if (same) {
            out->family = families[i].id;
            return 0;
        }
    }
    if (!architecture && !model_type) {
        return err_set(err, "%s: neither architectures nor model_type says what the model is",
                       path);
    }
    return err_set(err, "%s: %s \"%s\" is not supported; supported families: %s", path,
                   architecture ? "architecture" : "model_type",
                   architecture ? architecture : model_type, hf_supported_families());
}

/* Which layers have experts. A layer is dense where mlp_only_layers lists it or
 * decoder_sparse_step skips it (qwen2_moe and qwen3_moe; the other families have experts
 * everywhere). */
static int fill_moe(struct arch *a, struct layer_kind *kinds, const struct values *v,
                    enum hf_family family, const json_t *root, const char *path, struct err *err) {
    bool rule = family & (HF_QWEN2_MOE | HF_QWEN3_MOE);
    const json_t *dense = json_object_get(root, "mlp_only_layers");
    if (dense && !json_is_null(dense) && (!rule || !json_is_array(dense)) &&
        !hf_keys_neutral(dense, NONE)) {
        return refuse_value(path, "mlp_only_layers", dense,
                            rule ? "a list of layers" : "no such key in this family", err);
    }
    if (rule && v->sparse_step == 0) {
        return err_set(err, "%s: decoder_sparse_step must be at least 1", path);
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        kinds[l].moe = !rule || (v->experts > 0 && (l + 1) % v->sparse_step == 0);
    }
    for (size_t i = 0; rule && i < json_array_size(dense); i++) {
        const json_t *l = json_array_get(dense, i);
        if (!json_is_integer(l)) {
            return refuse_value(path, "mlp_only_layers", dense, "a list of layers", err);
        }
        if (json_integer_value(l) >= 0 && json_integer_value(l) < (json_int_t)a->n_layers) {
            kinds[json_integer_value(l)].moe = 0;
        }
    }
    uint32_t n_moe = 0;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        n_moe += kinds[l].moe;
    }
    if (n_moe == 0 || v->experts == 0) {
        return err_set(
            err, "%s: no layer has routed experts: this is not a mixture-of-experts model", path);
    }
    a->n_experts = v->experts;
    a->n_active = v->active;
    a->ffn_dim = rule ? v->moe_intermediate : v->intermediate;
    for (uint32_t l = 0; l < a->n_layers; l++) {
        kinds[l].route.renorm = v->norm_topk;
        kinds[l].dense_dim = n_moe < a->n_layers ? v->intermediate : 0;
        kinds[l].shared_dim = v->shared_intermediate;
        kinds[l].shared_gate = v->shared_intermediate > 0;
    }
    return 0;
}

/* The layers that slide where layer_types does not say it. mixtral and qwen3_moe: all;
 * qwen2_moe: every other one below max_window_layers (transformers, configuration_qwen2_moe). */
static bool slides(enum hf_family family, uint32_t layer, uint32_t max_window_layers) {
    return family != HF_QWEN2_MOE || (layer % 2 == 0 && layer < max_window_layers);
}

static int fill_window(struct arch *a, struct layer_kind *kinds, const struct values *v,
                       enum hf_family family, const json_t *root, const char *path,
                       struct err *err) {
    bool use = family == HF_MIXTRAL || (v->use_window && family != HF_OLMOE);
    uint32_t window = use ? v->window : 0;
    uint32_t max_layers = 28; /* of qwen2_moe; without meaning elsewhere */
    const json_t *max = json_object_get(root, "max_window_layers");
    if (json_is_integer(max) && json_integer_value(max) >= 0) {
        max_layers =
            (uint32_t)(json_integer_value(max) > ARCH_MAX_LAYERS ? ARCH_MAX_LAYERS
                                                                 : json_integer_value(max));
    } else if (max && !json_is_null(max)) {
        return refuse_value(path, "max_window_layers", max, "a non-negative integer", err);
    }
    const json_t *types = json_object_get(root, "layer_types");
    if (types && !json_is_null(types) &&
        (!json_is_array(types) || json_array_size(types) != a->n_layers)) {
        return err_set(err, "%s: layer_types must be a list of %u entries, one a layer", path,
                       a->n_layers);
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        bool slide = window > 0 && slides(family, l, max_layers);
        if (json_is_array(types)) {
            const char *type = json_string_value(json_array_get(types, l));
            bool full = type && strcmp(type, "full_attention") == 0;
            bool sliding = type && strcmp(type, "sliding_attention") == 0;
            /* Only qwen2_moe obeys the list; elsewhere it may but repeat what the other keys
             * say. */
            if (!(full || sliding) || (family != HF_QWEN2_MOE && sliding != slide) ||
                (sliding && window == 0)) {
                return err_set(err, "%s: layer_types entry %u (\"%.40s\") %s", path, l,
                               type ? type : "?",
                               full || sliding ? "contradicts sliding_window and use_sliding_window"
                                               : "is neither full_attention nor sliding_attention");
            }
            slide = sliding;
        }
        kinds[l].att.window = slide ? window : 0;
    }
    return 0;
}

static int fill_attention(struct layer_kind *a, const struct values *v, enum hf_family family,
                          const json_t *root, const char *path, struct err *err) {
    a->att.n_heads = v->heads;
    a->att.n_kv_heads = v->kv_heads ? v->kv_heads : v->heads;
    if (v->heads == 0 || (!v->head_dim && v->hidden % v->heads != 0)) {
        return err_set(
            err,
            "%s: num_attention_heads is %u: hidden_size %u must be a multiple of it where "
            "head_dim is not given",
            path, v->heads, v->hidden);
    }
    a->att.head_dim = v->head_dim ? v->head_dim : v->hidden / v->heads;
    a->att.qkv_bias = family == HF_QWEN2_MOE ? v->qkv_bias : v->attention_bias;
    a->att.o_bias = v->attention_bias;
    a->att.qk_norm = families[family_index(family)].qk_norm;
    a->att.clip_qkv = (float)v->clip;
    /* Publishers of qwen3_moe write down that it has its Q/K norm. */
    const json_t *qk_norm = json_object_get(root, "use_qk_norm");
    if (qk_norm && !json_is_null(qk_norm) &&
        json_is_true(qk_norm) != (a->att.qk_norm != ARCH_QK_NORM_NONE)) {
        return refuse_value(path, "use_qk_norm", qk_norm, a->att.qk_norm ? "true" : "false", err);
    }
    return 0;
}

static int fill_arch(struct hf_config *out, const json_t *root, const char *path, struct err *err) {
    struct arch *a = &out->arch;
    struct values v = {0};
    size_t family = family_index(out->family);
    for (size_t i = 0; i < KEY_COUNT; i++) {
        if (read_key(&v, &keys[i], family, root, path, err)) {
            return -1;
        }
    }
    const json_t *act = json_object_get(root, "hidden_act");
    const char *act_name = json_string_value(act);
    if (act && (!act_name || (strcmp(act_name, "silu") != 0 && strcmp(act_name, "swish") != 0))) {
        return refuse_value(path, "hidden_act", act, "\"silu\"", err);
    }
    /* What sizes the lists below is bounded here; all other ranges are arch_check's. */
    if (v.layers == 0 || v.layers > ARCH_MAX_LAYERS) {
        return err_set(err, "%s: num_hidden_layers is %u, expected 1 .. %d", path, v.layers,
                       ARCH_MAX_LAYERS);
    }
    if (v.head_dim > 1 << 16 || v.hidden > 1 << 24) {
        return err_set(err, "%s: head_dim %u or hidden_size %u is too large", path, v.head_dim,
                       v.hidden);
    }
    a->family = mem_strdup(families[family].model_type);
    a->n_layers = v.layers;
    a->dim = v.hidden;
    a->vocab = v.vocab;
    a->ctx_max_tok = v.max_pos;
    a->norm_eps = (float)v.eps;
    a->tied = v.tied;
    out->tied_given = json_object_get(root, "tie_word_embeddings") != NULL;
    /* Mixtral always renormalises: a file that says otherwise is not Mixtral. */
    if (out->family == HF_MIXTRAL && !v.norm_topk) {
        return err_set(err, "%s: norm_topk_prob false does not belong to the mixtral family", path);
    }
    struct layer_kind base = arch_plain_kind(), *kinds;
    a->embed_scale = 1;
    if (fill_attention(&base, &v, out->family, root, path, err)) {
        return -1;
    }
    kinds = mem_calloc(a->n_layers, sizeof *kinds);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        kinds[l] = base;
    }
    int rc = fill_moe(a, kinds, &v, out->family, root, path, err) ||
                     fill_window(a, kinds, &v, out->family, root, path, err)
                 ? -1
                 : 0;
    arch_set_kinds(a, kinds);
    free(kinds);
    return rc < 0 ? -1
                  : hf_rope_parse(a, base.att.head_dim, root, families[family].default_theta, path,
                                  err);
}

/* ---- generation defaults ---- */

/* Stop tokens of a family whose file names none (the class defaults of transformers). */
static int64_t default_eos(enum hf_family family) {
    return family == HF_MIXTRAL ? 2 : family == HF_OLMOE ? 50279 : -1;
}

static int add_stop(struct arch *a, const json_t *v, const char *path, struct err *err) {
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= a->vocab) {
        char expected[64];
        snprintf(expected, sizeof expected, "token ids below vocab_size %u", a->vocab);
        return refuse_value(path, "eos_token_id", v, expected, err);
    }
    for (uint32_t i = 0; i < a->n_stop; i++) {
        if (a->stop_ids[i] == (uint32_t)json_integer_value(v)) {
            return 0;
        }
    }
    a->stop_ids = mem_realloc(a->stop_ids, (a->n_stop + 1) * sizeof *a->stop_ids);
    a->stop_ids[a->n_stop++] = (uint32_t)json_integer_value(v);
    return 0;
}

/* An integer or a list. The caller has made sure that it is neither missing nor null. */
static int fill_stops(struct arch *a, const json_t *eos, const char *path, struct err *err) {
    if (!json_is_array(eos)) {
        return add_stop(a, eos, path, err);
    }
    for (size_t i = 0; i < json_array_size(eos); i++) {
        if (i >= 1024 || add_stop(a, json_array_get(eos, i), path, err)) {
            return err_set(err, "%s: eos_token_id lists more than 1024 tokens", path);
        }
    }
    return 0;
}

static int fill_generation(struct arch *a, const json_t *gen, const char *path, struct err *err) {
    const struct {
        const char *key;
        float *out;
    } hints[] = {
        {"temperature", &a->gen_temperature},
        {"top_p", &a->gen_top_p},
        {"top_k", &a->gen_top_k},
        {"repetition_penalty", &a->gen_repeat_penalty},
    };
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++) {
        const json_t *v = json_object_get(gen, hints[i].key);
        *hints[i].out = -1;
        if (!v || json_is_null(v)) {
            continue;
        }
        if (!json_is_number(v) || !(json_number_value(v) >= 0)) {
            return refuse_value(path, hints[i].key, v, "a non-negative number", err);
        }
        *hints[i].out = (float)json_number_value(v);
    }
    if (json_is_false(json_object_get(gen, "do_sample"))) { /* the publisher decodes greedily */
        a->gen_temperature = 0;
    }
    return 0;
}

/* ---- parsing ---- */

static json_t *parse_object(struct hf_json file, struct err *err) {
    json_error_t why;
    json_t *root = json_loadb(file.text, file.size_bytes, JSON_REJECT_DUPLICATES, &why);
    if (!root) {
        err_set(err, "%s: not valid JSON: %s (line %d, column %d)", file.path, why.text, why.line,
                why.column);
        return NULL;
    }
    if (!json_is_object(root)) {
        err_set(err, "%s: must be a JSON object", file.path);
        json_decref(root);
        return NULL;
    }
    return root;
}

static bool has_value(const json_t *root, const char *key) {
    const json_t *v = json_object_get(root, key);
    return v && !json_is_null(v);
}

int hf_config_parse(struct hf_config *out, struct hf_json config, struct hf_json generation,
                    struct err *err) {
    int rc = -1;
    json_t *gen = NULL;
    json_t *root = parse_object(config, err);
    if (!root || (generation.text && !(gen = parse_object(generation, err)))) {
        goto out;
    }
    if (find_family(out, root, config.path, err) || fill_arch(out, root, config.path, err) ||
        hf_keys_check(root, is_read, config.path, &out->warnings, err) ||
        fill_generation(&out->arch, gen, generation.path, err)) {
        goto out;
    }
    struct arch *a = &out->arch;
    int64_t fallback = default_eos(out->family);
    if (has_value(gen, "eos_token_id")) {
        rc = fill_stops(a, json_object_get(gen, "eos_token_id"), generation.path, err);
    } else if (has_value(root, "eos_token_id")) {
        rc = fill_stops(a, json_object_get(root, "eos_token_id"), config.path, err);
    } else {
        rc = 0;
        if (!json_object_get(root, "eos_token_id") && fallback >= 0 && fallback < a->vocab) {
            json_t *id = json_integer(fallback);
            rc = add_stop(a, id, config.path, err);
            json_decref(id);
        }
    }
    if (rc == 0 && arch_check(a, err)) {
        rc = err_prefix(err, "%s", config.path);
    }
out:
    json_decref(gen);
    json_decref(root);
    return rc;
}

void hf_config_free(struct hf_config *c) {
    arch_free(&c->arch);
    buf_free(&c->warnings);
    memset(c, 0, sizeof *c);
}
