#include "prep/hf/hf_config.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "prep/hf/hf_generation.h"
#include "prep/hf/hf_keys.h"
#include "prep/hf/hf_quant.h"
#include "prep/hf/settle.h"

enum { HF_MAX_CONFIG_BYTES = 16 << 20, MAX_SPELLINGS = 7 };

/* ---- keys ---- */

enum key_kind { KIND_U32, KIND_BOOL, KIND_REAL };
#define FALLBACK (-1.0) /* what null means: as if the key were not there */

/* Spellings of a key mean the same in every family: what one family counts otherwise than another
 * is a key of its own. */
static const struct key {
    const char *name[MAX_SPELLINGS]; /* the first is the one that messages use */
    enum key_kind kind;
    double null;
    /* 0 in a file is no way to say "none": transformers takes it as the number that it is, which no
     * model can have been trained with. Only null, or a missing key, is one. */
    bool positive;
    bool lists; /* a list that gives each layer the same number says what the number says */
} keys[KEY_COUNT] = {
    [KEY_VOCAB] = {{"vocab_size"}, KIND_U32, FALLBACK, true},
    [KEY_DIM] = {{"hidden_size", "d_model"}, KIND_U32, FALLBACK, true},
    [KEY_MLP_DIM] = {{"intermediate_size"}, KIND_U32, FALLBACK},
    [KEY_DENSE_DIM] = {{"intermediate_size_mlp"}, KIND_U32, FALLBACK, true},
    [KEY_PREFIX_DIM] = {{"prefix_dense_intermediate_size"}, KIND_U32, FALLBACK, true},
    [KEY_LAYERS] = {{"num_hidden_layers", "n_layers"}, KIND_U32, FALLBACK},
    [KEY_HEADS] = {{"num_attention_heads", "n_heads"}, KIND_U32, FALLBACK},
    [KEY_KV_HEADS] = {{"num_key_value_heads", "kv_n_heads", "num_attention_groups"},
                      KIND_U32,
                      0,
                      true},
    [KEY_HEAD_DIM] = {{"head_dim"}, KIND_U32, 0, true},
    [KEY_CONTEXT] = {{"max_position_embeddings", "max_seq_len"}, KIND_U32, FALLBACK, true},
    [KEY_NORM_EPS] = {{"rms_norm_eps", "layernorm_epsilon"}, KIND_REAL, FALLBACK, true},
    [KEY_LAYER_NORM_EPS] = {{"layer_norm_eps"}, KIND_REAL, FALLBACK, true},
    [KEY_TIED] = {{"tie_word_embeddings"}, KIND_BOOL, FALLBACK},
    [KEY_EXPERTS] = {{"num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts",
                      "moe_num_primary_experts"},
                     KIND_U32,
                     FALLBACK,
                     .lists = true},
    [KEY_ACTIVE] = {{"num_experts_per_tok", "experts_per_token", "moe_topk", "moe_k",
                     "top_k_experts", "moe_top_k", "moe_num_active_primary_experts"},
                    KIND_U32,
                    FALLBACK,
                    .lists = true},
    [KEY_EXPERT_DIM] = {{"moe_intermediate_size", "ffn_hidden_size", "moe_ffn_hidden_size"},
                        KIND_U32,
                        FALLBACK},
    [KEY_SHARED_DIM] = {{"shared_expert_intermediate_size", "shared_intermediate_size",
                         "share_expert_dim", "share_expert_dims"},
                        KIND_U32,
                        FALLBACK},
    [KEY_SPARSE_STEP] = {{"decoder_sparse_step"}, KIND_U32, FALLBACK},
    [KEY_NORM_TOPK] = {{"norm_topk_prob", "route_norm"}, KIND_BOOL, FALLBACK},
    [KEY_QKV_BIAS] = {{"qkv_bias", "use_qkv_bias"}, KIND_BOOL, FALLBACK},
    [KEY_ATTENTION_BIAS] = {{"attention_bias"}, KIND_BOOL, FALLBACK},
    [KEY_QK_NORM] = {{"use_qk_norm"}, KIND_BOOL, FALLBACK},
    [KEY_CLIP_QKV] = {{"clip_qkv"}, KIND_REAL, 0, true},
    [KEY_WINDOW] = {{"sliding_window", "sliding_window_size"}, KIND_U32, 0},
    [KEY_USE_WINDOW] = {{"use_sliding_window"}, KIND_BOOL, 0},
    [KEY_MAX_WINDOW_LAYERS] = {{"max_window_layers"}, KIND_U32, FALLBACK},
    [KEY_SWIGLU_LIMIT] = {{"swiglu_limit"}, KIND_REAL, FALLBACK, true},
    [KEY_SWIGLU_ALPHA] = {{"swiglu_alpha"}, KIND_REAL, FALLBACK},
    [KEY_FULL_INTERVAL] = {{"full_attention_interval"}, KIND_U32, FALLBACK, true},
    [KEY_GLOBAL_INTERVAL] = {{"global_attn_every_n_layers"}, KIND_U32, FALLBACK, true},
    [KEY_WINDOW_PATTERN] = {{"sliding_window_pattern"}, KIND_U32, FALLBACK, true},
    [KEY_PREFIX_WINDOW_PATTERN] = {{"prefix_dense_sliding_window_pattern"},
                                   KIND_U32,
                                   FALLBACK,
                                   true},
    [KEY_UNTURNED_INTERVAL] = {{"no_rope_layer_interval"}, KIND_U32, FALLBACK, true},
    [KEY_CHUNK] = {{"attention_chunk_size"}, KIND_U32, 0, true},
    [KEY_TEMPER] = {{"attn_scale"}, KIND_REAL, FALLBACK},
    [KEY_TEMPER_TOK] = {{"floor_scale"}, KIND_REAL, FALLBACK, true},
    [KEY_OUTPUT_GATE] = {{"attn_output_gate"}, KIND_BOOL, FALLBACK},
    [KEY_DELTA_K_HEADS] = {{"linear_num_key_heads"}, KIND_U32, FALLBACK},
    [KEY_DELTA_V_HEADS] = {{"linear_num_value_heads"}, KIND_U32, FALLBACK},
    [KEY_DELTA_K_DIM] = {{"linear_key_head_dim"}, KIND_U32, FALLBACK},
    [KEY_DELTA_V_DIM] = {{"linear_value_head_dim"}, KIND_U32, FALLBACK},
    [KEY_DELTA_CONV] = {{"linear_conv_kernel_dim"}, KIND_U32, FALLBACK},
    [KEY_MOE_BLOCK] = {{"enable_moe_block"}, KIND_BOOL, 0},
    [KEY_LAYER_INPUT_DIM] = {{"hidden_size_per_layer_input"}, KIND_U32, 0},
    [KEY_GLOBAL_HEAD_DIM] = {{"global_head_dim"}, KIND_U32, FALLBACK, true},
    [KEY_GLOBAL_KV_HEADS] = {{"num_global_key_value_heads"}, KIND_U32, 0, true},
    [KEY_K_EQ_V] = {{"attention_k_eq_v"}, KIND_BOOL, 0},
    [KEY_SHARED_KV_LAYERS] = {{"num_kv_shared_layers"}, KIND_U32, 0},
    [KEY_DOUBLE_MLP] = {{"use_double_wide_mlp"}, KIND_BOOL, 0},
    [KEY_LOGIT_CAP] = {{"final_logit_softcapping"}, KIND_REAL, 0, true},
    [KEY_DENSE_FIRST] = {{"first_k_dense_replace", "num_dense_layers"}, KIND_U32, FALLBACK},
    [KEY_SHARED_EXPERTS] = {{"n_shared_experts", "num_shared_experts", "moe_num_shared_experts"},
                            KIND_U32,
                            0},
    [KEY_GROUPS] = {{"n_group"}, KIND_U32, FALLBACK, true},
    [KEY_TOP_GROUPS] = {{"topk_group"}, KIND_U32, FALLBACK, true},
    [KEY_ROUTE_SCALE] = {{"routed_scaling_factor", "route_scale", "router_scaling_factor",
                          "moe_routed_scaling_factor", "moe_router_scaling_factor"},
                         KIND_REAL,
                         FALLBACK,
                         true},
    [KEY_ROTARY_DIM] = {{"rotary_dim"}, KIND_U32, 0, true},
    [KEY_MOE_START] = {{"moe_layer_start_index"}, KIND_U32, FALLBACK},
    [KEY_MOE_INTERVAL] = {{"moe_layer_interval"}, KIND_U32, FALLBACK, true},
    [KEY_MOE_STEP] = {{"interleave_moe_layer_step"}, KIND_U32, FALLBACK, true},
    [KEY_MOE_FREQ] = {{"moe_layer_freq"}, KIND_U32, FALLBACK, true},
    [KEY_ROUTE_CAP] = {{"moe_router_logit_softcapping"}, KIND_REAL, FALLBACK},
    [KEY_ROUTE_SOFTMAX] = {{"moe_primary_router_apply_softmax"}, KIND_BOOL, FALLBACK},
    [KEY_MIXER_EPS] = {{"router_jitter_noise"}, KIND_REAL, FALLBACK},
    [KEY_NORM_MIN] = {{"moe_norm_min"}, KIND_REAL, FALLBACK},
    [KEY_EMBED_SCALE] = {{"embedding_multiplier"}, KIND_REAL, FALLBACK, true},
    [KEY_ATTENTION_SCALE] = {{"attention_multiplier"}, KIND_REAL, FALLBACK, true},
    [KEY_BRANCH_SCALE] = {{"residual_multiplier"}, KIND_REAL, FALLBACK, true},
    [KEY_LOGIT_DIVISOR] = {{"logits_scaling"}, KIND_REAL, FALLBACK, true},
    [KEY_LOGIT_SCALE] = {{"logit_scale"}, KIND_REAL, FALLBACK, true},
    [KEY_HEAD_BIAS] = {{"lm_head_bias"}, KIND_BOOL, FALLBACK},
    [KEY_UNIT_HEAD] = {{"norm_head"}, KIND_BOOL, FALLBACK},
    [KEY_LATENT_RANK] = {{"kv_lora_rank"}, KIND_U32, FALLBACK, true},
    [KEY_LATENT_Q_RANK] = {{"q_lora_rank"}, KIND_U32, 0, true},
    [KEY_LATENT_NOPE_DIM] = {{"qk_nope_head_dim"}, KIND_U32, FALLBACK, true},
    [KEY_LATENT_ROPE_DIM] = {{"qk_rope_head_dim"}, KIND_U32, FALLBACK, true},
    [KEY_VALUE_SCALE] = {{"attention_value_scale"}, KIND_REAL, 1, true},
    [KEY_INDEX_TOPK] = {{"index_topk"}, KIND_U32, FALLBACK, true},
    [KEY_V_DIM] = {{"v_head_dim"}, KIND_U32, FALLBACK, true},
    [KEY_MUP] = {{"mup_enabled"}, KIND_BOOL, FALLBACK},
    [KEY_FURTHER_LAYERS] = {{"num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules"},
                            KIND_U32,
                            0},
};

const char *hf_config_key(enum family_key_id id) {
    return keys[id].name[0];
}

/* Whether the file's value of a key can be read as its kind; then `*value` is it. */
static bool key_value(const struct key *k, const json_t *v, double *value) {
    const double least = !k->positive ? 0 : k->kind == KIND_U32 ? 1 : FLT_MIN;
    switch (k->kind) {
    case KIND_U32:
        *value = (double)json_integer_value(v);
        return json_is_integer(v) && *value >= least && *value <= INT32_MAX;
    case KIND_BOOL:
        *value = json_is_true(v);
        return json_is_boolean(v);
    case KIND_REAL:
        *value = json_number_value(v);
        return json_is_number(v) && isfinite(*value) && *value >= least;
    }
    return false;
}

static const char *const kind_text[] = {"a non-negative integer", "true or false",
                                        "a non-negative number"};
static const char *const positive_text[] = {"a positive integer", "true or false",
                                            "a positive number"};

/* What messages expect of a key. */
static const char *expected(const struct key *k, char text[64]) {
    bool or_null = k->positive && k->null != FALLBACK;
    snprintf(text, 64, "%s%s", (k->positive ? positive_text : kind_text)[k->kind],
             or_null ? ", or null" : "");
    return text;
}

/* The number that a list of n_layers repeats, or the value itself. */
static const json_t *repeated(const struct key *k, const json_t *v, double n_layers) {
    size_t i = 0, n = k->lists ? json_array_size(v) : 0;
    while (i < n && json_equal(json_array_get(v, i), json_array_get(v, 0))) {
        i++;
    }
    return n > 0 && i == n && (double)n == n_layers ? json_array_get(v, 0) : v;
}

/* Read one of the family's keys, in whichever spelling the file has it. */
static int read_key(struct settle *s, const struct family_key *f, struct err *err) {
    const struct key *k = &keys[f->id];
    const char *seen = NULL;
    double value = f->fallback;
    for (size_t i = 0; i < MAX_SPELLINGS && k->name[i]; i++) {
        const json_t *v = json_object_get(s->root, k->name[i]);
        double this_value = k->null == FALLBACK ? value : k->null;
        char text[64];
        if (!v) {
            continue;
        }
        if (!json_is_null(v) && !key_value(k, repeated(k, v, s->value[KEY_LAYERS]), &this_value)) {
            return settle_refuse(s, k->name[i], v, expected(k, text), err);
        }
        if (seen && this_value != value) {
            return err_set(err, "%s: %s and %s contradict each other", s->path, seen, k->name[i]);
        }
        seen = k->name[i];
        value = this_value;
    }
    s->value[f->id] = value;
    s->given[f->id] = seen;
    return 0;
}

/* Keys that are read for every family, but through no row of the table. */
static const char *const common_keys[] = {
    "architectures",
    "model_type",
    "hidden_act",
    "hidden_activation",
    "rope_theta",
    "rope_scaling",
    "rope_parameters",
    "partial_rotary_factor",
    "original_max_position_embeddings",
    "eos_token_id",
    "quantization_config",
};

static bool is_read(const void *ctx, const char *name) {
    const struct settle *s = ctx;
    const char *const *reads = s->family->reads;
    if (hf_keys_among(name, common_keys, sizeof common_keys / sizeof *common_keys) ||
        (reads && hf_keys_among(name, reads, SIZE_MAX))) {
        return true;
    }
    for (const struct family_key *f = s->family->keys; f->id != KEY_END; f++) {
        if (hf_keys_among(name, keys[f->id].name, MAX_SPELLINGS)) {
            return true;
        }
    }
    return false;
}

/* ---- the family ---- */

static bool is_among(const char *name, const char *const names[FAMILY_MAX_NAMES]) {
    return name && hf_keys_among(name, names, FAMILY_MAX_NAMES);
}

static int find_family(const struct family **out, const json_t *root, const char *path,
                       struct err *err) {
    const json_t *architectures = json_object_get(root, "architectures");
    const char *architecture = json_string_value(json_array_get(architectures, 0));
    const char *model_type = json_string_value(json_object_get(root, "model_type"));
    const struct family *f;
    bool known = false; /* the architecture, if not with this type */
    for (size_t i = 0; (f = family_at(i)) != NULL; i++) {
        bool same_type = is_among(model_type, f->types);
        bool same = architecture ? is_among(architecture, f->architectures) : same_type;
        if (same && (!model_type || same_type)) {
            *out = f;
            return 0;
        }
        known |= same;
    }
    if (known) {
        return err_set(err, "%s: model_type \"%s\" does not belong to architecture %s", path,
                       model_type, architecture);
    }
    if (!architecture && !model_type) {
        return err_set(err, "%s: neither architectures nor model_type says what the model is",
                       path);
    }
    char *list = family_list();
    err_set(err, "%s: %s \"%.80s\" is not supported; supported families: %s", path,
            architecture ? "architecture" : "model_type", architecture ? architecture : model_type,
            list);
    free(list);
    return -1;
}

/* Null is as if the key were not there. */
static bool is_said(const json_t *object, const char *key) {
    const json_t *v = json_object_get(object, key);
    return v && !json_is_null(v);
}

/* The object under `key` out of a wrapper's: with what the wrapper says of the whole checkpoint
 * where it does not say so itself. Wrappers know the fuller list of stop tokens. Without such an
 * object the wrapper itself. A new reference. */
static json_t *unwrap_key(const struct family *f, json_t *root, const char *key, const char *path,
                          struct err *err) {
    static const char *const whole[] = {"quantization_config", "tie_word_embeddings"};
    json_t *inside = json_object_get(root, key);
    if (!inside || json_is_null(inside)) {
        return json_incref(root);
    }
    char value[64];
    if (!json_is_object(inside)) {
        err_set(err, "%s: %s is %s, expected an object", path, key, hf_keys_text(inside, value));
        return NULL;
    }
    const json_t *type = json_object_get(inside, "model_type");
    if (type && !is_among(json_string_value(type), f->types)) {
        err_set(err, "%s: %s is of model_type %s, which does not belong to the %s family", path,
                key, hf_keys_text(type, value), f->name);
        return NULL;
    }
    if (hf_keys_check_wrapper(root, inside, f->name, path, err) < 0) {
        return NULL;
    }
    json_t *text = json_copy(inside);
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
        json_t *v = json_object_get(root, whole[i]);
        if (v && !is_said(text, whole[i])) {
            json_object_set(text, whole[i], v);
        }
    }
    json_t *eos = json_object_get(root, "eos_token_id");
    if (eos && !json_is_null(eos)) {
        json_object_set(text, "eos_token_id", eos);
    }
    return text;
}

/* Put the keys of the family's objects beside the others, where these do not have them. What types
 * the objects are of says nothing. */
static int fold(const struct family *f, json_t *root, const char *path, struct err *err) {
    for (const char *const *name = f->folded; name && *name; name++) {
        json_t *inner = json_object_get(root, *name);
        if (inner && !json_is_object(inner) && !json_is_null(inner)) {
            char value[64];
            return err_set(err, "%s: %s is %s, expected an object", path, *name,
                           hf_keys_text(inner, value));
        }
        if (inner) {
            json_incref(inner);
            json_object_del(root, *name);
            json_object_del(inner, "model_type");
            json_object_update_missing(root, inner);
            json_decref(inner);
        }
    }
    return 0;
}

/* The text model's object, which may be inside that of a part of the model. A new reference. */
static json_t *unwrap(const struct family *f, json_t *root, const char *path, struct err *err) {
    json_t *part = f->part ? unwrap_key(f, root, f->part, path, err) : json_incref(root);
    json_t *text =
        part && f->wrapped ? unwrap_key(f, part, "text_config", path, err) : json_incref(part);
    json_decref(part);
    return text;
}

/* ---- from keys to arch ---- */

static int check_act(const struct settle *s, struct err *err) {
    static const char *const spellings[] = {"hidden_act", "hidden_activation"};
    const char *want = s->family->act ? s->family->act : "silu";
    for (size_t i = 0; i < sizeof spellings / sizeof *spellings; i++) {
        const json_t *v = json_object_get(s->root, spellings[i]);
        const char *name = json_string_value(v);
        bool same = name && (strcmp(name, want) == 0 ||
                             (strcmp(want, "silu") == 0 && strcmp(name, "swish") == 0));
        if (v && !json_is_null(v) && !same) {
            char expected[64];
            snprintf(expected, sizeof expected, "\"%s\"", want);
            return settle_refuse(s, spellings[i], v, expected, err);
        }
    }
    return 0;
}

/* Attention with the keys' heads, and experts, in every layer. */
static int begin_kinds(struct settle *s, struct err *err) {
    struct layer_kind plain = arch_plain_kind();
    uint32_t heads = settle_u32(s, KEY_HEADS), head_dim = settle_u32(s, KEY_HEAD_DIM);
    uint32_t kv_heads = settle_u32(s, KEY_KV_HEADS), dim = s->arch->dim;
    if (heads == 0 || (!head_dim && dim % heads != 0)) {
        return err_set(
            err,
            "%s: num_attention_heads is %u: hidden_size %u must be a multiple of it where "
            "head_dim is not given",
            s->path, heads, dim);
    }
    plain.att.n_heads = heads;
    plain.att.n_kv_heads = kv_heads ? kv_heads : heads;
    plain.att.head_dim = head_dim ? head_dim : dim / heads;
    plain.moe = 1;
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l] = plain;
    }
    return 0;
}

static int check_moe(const struct settle *s, struct err *err) {
    uint32_t n_moe = 0;
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        n_moe += s->kinds[l].moe;
    }
    if (n_moe == 0 || s->arch->n_experts == 0) {
        return err_set(err,
                       "%s: no layer has routed experts: this is not a mixture-of-experts model",
                       s->path);
    }
    return 0;
}

/* The family's keys; first the number of layers, which lists have so many entries as. */
static int read_keys(struct settle *s, struct err *err) {
    for (int pass = 0; pass < 2; pass++) {
        for (const struct family_key *f = s->family->keys; f->id != KEY_END; f++) {
            if ((f->id == KEY_LAYERS) == (pass == 0) && read_key(s, f, err) < 0) {
                return -1;
            }
        }
    }
    return 0;
}

static int fill_arch(struct settle *s, struct err *err) {
    struct arch *a = s->arch;
    if (read_keys(s, err) < 0) {
        return -1;
    }
    /* What sizes lists is bounded here and in hf_rope_add; all other ranges are arch_check's. */
    uint32_t layers = settle_u32(s, KEY_LAYERS), dim = settle_u32(s, KEY_DIM);
    if (layers == 0 || layers > ARCH_MAX_LAYERS) {
        return err_set(err, "%s: num_hidden_layers is %u, expected 1 .. %d", s->path, layers,
                       ARCH_MAX_LAYERS);
    }
    if (dim > ARCH_MAX_DIM) {
        return err_set(err, "%s: hidden_size is %u, expected at most %d", s->path, dim,
                       ARCH_MAX_DIM);
    }
    *a = (struct arch){
        .family = mem_strdup(s->family->name),
        .n_layers = layers,
        .dim = dim,
        .vocab = settle_u32(s, KEY_VOCAB),
        .ctx_max_tok = settle_u32(s, KEY_CONTEXT),
        .norm_eps = settle_f32(s, KEY_NORM_EPS),
        .embed_scale = 1,
        .n_experts = settle_u32(s, KEY_EXPERTS),
        .n_active = settle_u32(s, KEY_ACTIVE),
        .ffn_dim = settle_u32(s, KEY_EXPERT_DIM),
        .tied = settle_u32(s, KEY_TIED),
    };
    s->kinds = mem_calloc(layers, sizeof *s->kinds);
    if (check_act(s, err) < 0 || begin_kinds(s, err) < 0 || s->family->settle(s, err) < 0 ||
        check_moe(s, err) < 0) {
        return -1;
    }
    arch_set_kinds(a, s->kinds);
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

int hf_config_build(struct hf_config *out, const struct hf_objects *in, struct err *err) {
    int rc = -1;
    const char *path = in->path;
    json_t *text = NULL;
    struct settle s = {.path = path, .arch = &out->arch};
    if (find_family(&out->family, in->config, path, err) < 0 ||
        hf_quant_read(&out->quant, in->config, path, out->family->mxfp4, err) < 0 ||
        fold(out->family, in->config, path, err) < 0 ||
        !(text = unwrap(out->family, in->config, path, err))) {
        goto out;
    }
    s.family = out->family;
    s.root = text;
    if (hf_quant_read(&out->quant, text, path, s.family->mxfp4, err) < 0) {
        goto out;
    }
    out->tied_given = is_said(text, "tie_word_embeddings");
    if (fill_arch(&s, err) < 0) {
        goto out;
    }
    out->further_layers = settle_u32(&s, KEY_FURTHER_LAYERS);
    out->unit_head = settle_u32(&s, KEY_UNIT_HEAD);
    if (hf_keys_check(text, is_read, &s, out->family->name, path, err) < 0 ||
        hf_generation_fill(&s, in->generation, in->generation_path, &out->stops_named,
                           &out->remarks, err) < 0) {
        goto out;
    }
    rc = arch_check(&out->arch, err) < 0 ? err_prefix(err, "%s", path) : 0;
out:
    free(s.kinds);
    json_decref(text);
    return rc;
}

int hf_config_parse(struct hf_config *out, struct hf_json config, struct hf_json generation,
                    struct err *err) {
    struct hf_objects in = {.path = config.path, .generation_path = generation.path};
    int rc = -1;
    if ((in.config = parse_object(config, err)) &&
        (!generation.text || (in.generation = parse_object(generation, err)))) {
        rc = hf_config_build(out, &in, err);
    }
    json_decref(in.generation);
    json_decref(in.config);
    return rc;
}

/* The text of a file that may be missing: then it has none. */
static int read_file(struct hf_json *file, const char *path, uint8_t **bytes, struct err *err) {
    size_t n = 0;
    int there = file_exists(path, err);
    if (there < 0 || (there && file_read(path, HF_MAX_CONFIG_BYTES, bytes, &n, err) < 0)) {
        return -1;
    }
    *file = (struct hf_json){path, (const char *)*bytes, n};
    return 0;
}

int hf_config_read(struct hf_config *out, const char *dir, struct err *err) {
    static const char *const names[] = {"config.json", "generation_config.json",
                                        "hf_quant_config.json"};
    enum { N = sizeof names / sizeof *names };
    char *paths[N];
    uint8_t *bytes[N] = {NULL};
    struct hf_json files[N];
    int rc = 0;
    for (size_t i = 0; i < N; i++) {
        paths[i] = mem_printf("%s/%s", dir, names[i]);
    }
    if (access(paths[0], F_OK) != 0) {
        rc = err_set(err, "%s: no config.json: not a Hugging Face checkpoint", dir);
    }
    for (size_t i = 0; rc == 0 && i < N; i++) {
        rc = read_file(&files[i], paths[i], &bytes[i], err);
    }
    if (rc == 0) {
        rc = hf_config_parse(out, files[0], files[1], err);
    }
    if (rc == 0 && files[2].text) {
        rc = hf_quant_read_modelopt(&out->quant, files[2].text, files[2].size_bytes, paths[2], err);
    }
    for (size_t i = 0; i < N; i++) {
        free(bytes[i]);
        free(paths[i]);
    }
    return rc;
}

void hf_config_free(struct hf_config *c) {
    arch_free(&c->arch);
    buf_free(&c->remarks);
    memset(c, 0, sizeof *c);
}
