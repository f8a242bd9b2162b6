/*
 * family: what a family of models is, as Hugging Face spells it.
 *
 * Owns: struct family, which is rows: names of types, of tensors and how each is read, keys of
 * config.json with the family's defaults, tensors to leave out; and one function for the rest. Each
 * family is a file, family_<name>.c, and a line in the table of family.c.
 * Leaves to others: reading keys (hf_config), finding tensors (hf_names), layouts (hf_matrix), what
 * families' functions have in common (settle).
 * Threads: constant tables.
 */
#ifndef PREP_HF_FAMILY_H
#define PREP_HF_FAMILY_H

#include "prep/hf/hf_matrix.h"

struct settle;

/* ---- tensors ---- */

enum family_when { FAMILY_ALWAYS, FAMILY_DENSE_LAYER, FAMILY_MOE_LAYER };

/* A tensor that may hold a slot. {L} and {E} stand for layer and expert; what of the checkpoint's
 * names stands before "model." or "lm_head." is hf_names' affair. */
struct family_name {
    enum slot_id slot;
    const char *pattern; /* NULL ends a list */
    enum hf_layout layout;
    enum hf_value value;
    enum family_when when;
};

#define FAMILY_LAYER "model.layers.{L}."

/* ---- keys ---- */

/* Numbers of config.json; hf_config has their spellings. */
enum family_key_id {
    KEY_END, /* ends a list */
    KEY_VOCAB,
    KEY_DIM,
    KEY_MLP_DIM,
    KEY_DENSE_DIM,  /* of layers without experts, where KEY_MLP_DIM is an expert's */
    KEY_PREFIX_DIM, /* the same of those at the beginning */
    KEY_LAYERS,
    KEY_HEADS,
    KEY_KV_HEADS, /* 0 = as many as heads */
    KEY_HEAD_DIM, /* 0 = dim / heads */
    KEY_CONTEXT,
    KEY_NORM_EPS,
    KEY_LAYER_NORM_EPS,
    KEY_TIED,
    KEY_EXPERTS,
    KEY_ACTIVE,
    KEY_EXPERT_DIM,
    KEY_SHARED_DIM,
    KEY_SPARSE_STEP,
    KEY_NORM_TOPK,
    KEY_QKV_BIAS,
    KEY_ATTENTION_BIAS,
    KEY_QK_NORM,
    KEY_CLIP_QKV,
    KEY_WINDOW, /* 0 = none */
    KEY_USE_WINDOW,
    KEY_MAX_WINDOW_LAYERS,
    KEY_SWIGLU_LIMIT,
    KEY_SWIGLU_ALPHA,
    KEY_FULL_INTERVAL,
    KEY_GLOBAL_INTERVAL,
    KEY_WINDOW_PATTERN,        /* of so many layers the last one does not slide */
    KEY_PREFIX_WINDOW_PATTERN, /* the same of the dense layers at the beginning */
    KEY_UNTURNED_INTERVAL,     /* every so many layers one does not know positions */
    KEY_CHUNK,                 /* 0 = none */
    KEY_TEMPER,
    KEY_TEMPER_TOK,
    KEY_OUTPUT_GATE,
    KEY_DELTA_K_HEADS,
    KEY_DELTA_V_HEADS,
    KEY_DELTA_K_DIM,
    KEY_DELTA_V_DIM,
    KEY_DELTA_CONV,
    KEY_MOE_BLOCK,
    KEY_LAYER_INPUT_DIM,
    KEY_GLOBAL_HEAD_DIM,
    KEY_GLOBAL_KV_HEADS,
    KEY_K_EQ_V,
    KEY_SHARED_KV_LAYERS,
    KEY_DOUBLE_MLP,
    KEY_LOGIT_CAP,
    KEY_DENSE_FIRST, /* layers without experts at the beginning */
    KEY_SHARED_EXPERTS,
    KEY_GROUPS,
    KEY_TOP_GROUPS,
    KEY_ROUTE_SCALE,
    KEY_ROTARY_DIM, /* components of a head that are turned; 0: partial_rotary_factor says it */
    KEY_MOE_START,  /* the first layer that may have experts */
    KEY_MOE_INTERVAL,
    KEY_MOE_STEP,
    KEY_MOE_FREQ,
    KEY_NORM_MIN,
    KEY_MUP, /* embeddings are multiplied by sqrt(dim) */
    KEY_EMBED_SCALE,
    KEY_ATTENTION_SCALE,
    KEY_BRANCH_SCALE,
    KEY_LOGIT_DIVISOR,
    KEY_LOGIT_SCALE,
    KEY_HEAD_BIAS,
    KEY_UNIT_HEAD, /* the output head counts with columns of length one */
    KEY_ROUTE_CAP,
    KEY_ROUTE_SOFTMAX,
    KEY_MIXER_EPS, /* of the sparse mixer */
    KEY_LATENT_RANK,
    KEY_LATENT_Q_RANK, /* 0 = queries are made of the layer's input */
    KEY_LATENT_NOPE_DIM,
    KEY_LATENT_ROPE_DIM,
    KEY_V_DIM,          /* of a head's output */
    KEY_VALUE_SCALE,    /* null = 1 */
    KEY_INDEX_TOPK,     /* tokens that an indexer chooses */
    KEY_FURTHER_LAYERS, /* behind the model's: they predict further tokens and are left out */
    KEY_COUNT,
};

/* A key that the family has, and its value without it. */
struct family_key {
    enum family_key_id id;
    double fallback;
};

struct family_rope {
    double theta;         /* without rope_theta */
    double partial;       /* without partial_rotary_factor; 0: no other factor than 1 is known */
    const char *fallback; /* JSON: the object where the file has none; NULL = {} */
    bool by_type;         /* rope_parameters is a map from layer types to objects */
    bool mrope;           /* keys of positions in pictures may stand there: nothing to text */
    bool mscaled;         /* its LongRoPE names the factors on cos and sin; it has no other type */
    bool query_scaled;    /* latent attention's scores may grow with the query's position */
};

/* ---- the family ---- */

enum { FAMILY_MAX_NAMES = 4 };

struct family {
    const char *name; /* in archives, for people */
    /* model_type and architectures that it goes by, those of a wrapper included */
    const char *types[FAMILY_MAX_NAMES], *architectures[FAMILY_MAX_NAMES];
    bool wrapped;     /* it is published inside models that do more than text, too */
    const char *part; /* such a model's part that it is inside of: a key; NULL = none */
    const char *const
        *folded;     /* objects whose keys count as the model's; ends with NULL, or NULL */
    const char *act; /* the activation that hidden_act must name; NULL = "silu" */
    bool unbiased;   /* files may lack the bias on what experts are chosen by */
    bool mxfp4;      /* it has names of MXFP4's tensors, as such a quantization_config says */
    int64_t eos;     /* stop token where no file names one; negative = none */
    struct family_rope rope;
    const struct family_key *keys;
    const char *const *reads; /* keys that `settle` reads by itself; ends with NULL, or NULL */
    /* The rows of a slot, of which the first counts that the checkpoint has; a slot without any has
     * those of family_common. */
    const struct family_name *names;
    const char *const *skipped; /* patterns (fnmatch) of tensors that are not the text model's;
                                   ends with NULL; or NULL */
    /* Complete the kinds of all layers, which have plain attention with the keys' heads, experts,
     * and nothing else; see settle.h. */
    int (*settle)(struct settle *s, struct err *err);
};

/* The families, in order of their names; NULL past the end. */
const struct family *family_at(size_t i);
/* Names that most families share; those of experts and routers as Mixtral has them, of which others
 * take what they have; and Ling's, which Sarvam has too. */
extern const struct family_name family_common[], family_block_sparse[], family_bailing[];
/* "mixtral, olmoe, ..." for messages; to be freed. */
char *family_list(void);

/* The rows of the families: family_<name>.c. */
extern const struct family family_afmoe, family_axk1, family_bailing_moe, family_bailing_moe_v2,
    family_cohere2_moe, family_dbrx, family_deepseek, family_deepseek_v2, family_deepseek_v3,
    family_deepseek_v32, family_dots1, family_ernie4_5_moe, family_exaone_moe, family_flex_olmo,
    family_flint, family_gemma4, family_glm4_moe, family_glm4_moe_lite, family_glm4v_moe,
    family_glm_moe_dsa, family_gpt_oss, family_granitemoe, family_granitemoe_swa,
    family_granitemoeshared, family_hunyuan_v1_moe, family_hy_v3, family_kolibri1, family_laguna,
    family_llama4, family_mellum, family_mimo_v2_flash, family_minimax_m2, family_mistral4,
    family_mixtral, family_olmoe, family_phimoe, family_qwen2_moe, family_qwen3_5_moe,
    family_qwen3_moe, family_qwen3_next, family_qwen3_omni_moe, family_qwen3_vl_moe,
    family_sarvam_mla, family_sarvam_moe, family_smallthinker, family_solar_open, family_step3p7;

#endif
