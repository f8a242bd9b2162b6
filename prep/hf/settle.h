/*
 * settle: what the functions of families (struct family) have in common: lists by layer, windows,
 * rotary sets.
 *
 * Owns: struct settle, the model on its way from config.json's keys to struct arch; readers of the
 * lists that several families have.
 * Leaves to others: single keys (hf_config), RoPE's formulas (hf_rope).
 * Threads: one object belongs to one thread.
 */
#ifndef PREP_HF_SETTLE_H
#define PREP_HF_SETTLE_H

#include <jansson.h>

#include "prep/hf/family.h"

struct settle {
    const struct family *family;
    const json_t *root; /* the text model's object, borrowed */
    const char *path;   /* of the file, for messages */
    double value[KEY_COUNT];
    const char *given[KEY_COUNT]; /* the file has the key, spelled so; NULL: it has not */
    struct arch *arch;            /* what does not differ between layers is set */
    struct layer_kind *kinds;     /* [n_layers] of each layer */
};

static inline uint32_t settle_u32(const struct settle *s, enum family_key_id key) {
    return (uint32_t)s->value[key];
}
static inline float settle_f32(const struct settle *s, enum family_key_id key) {
    return (float)s->value[key];
}

/* "PATH: KEY is VALUE, expected EXPECTED". Returns -1. */
int settle_refuse(const struct settle *s, const char *key, const json_t *v, const char *expected,
                  struct err *err);
/* The key must have this value, or not be there. */
int settle_only(const struct settle *s, enum family_key_id key, double value, struct err *err);

/* Which of a list of words (ends with NULL) a key has: *which stays what it is where the key is not
 * there, or null. */
int settle_choose(const struct settle *s, const char *key, const char *const *words,
                  uint32_t *which, struct err *err);
/* A key that says in a word what every model of the family does: it has this word, or null, or is
 * not there. */
int settle_word(const struct settle *s, const char *key, const char *word, struct err *err);
/* The same of a flag, which must be true. */
int settle_true(const struct settle *s, const char *key, struct err *err);

/* A key, or each layer's entry in its list, must be this number; or it is not there, null, or a
 * list of nothing. */
int settle_only_number(const struct settle *s, const char *key, uint32_t number, struct err *err);

/* What Ling's files and those of its kin say in words of what all of them do: scores by a sigmoid
 * with a bias, RMSNorms, no bias on projections, shared experts as wide as others. */
int settle_ling_words(const struct settle *s, struct err *err);

/* A list of 0 and 1 under `key`, at least one a layer: flags [n_layers]. Without it nothing is
 * written and *given is false. */
int settle_flags(const struct settle *s, const char *key, bool *flags, bool *given,
                 struct err *err);

/* A list of words: `type` [n_layers] gets the index of each layer's in `words` (ends with NULL).
 * Where the file has no list nothing is written and *given is false. And the list layer_types. */
int settle_layer_words(const struct settle *s, const char *key, const char *const *words,
                       uint32_t *type, bool *given, struct err *err);
int settle_layer_types(const struct settle *s, const char *const *words, uint32_t *type,
                       bool *given, struct err *err);

/* mlp_layer_types, where the file has it: which layers have experts ("sparse"), which are dense. */
int settle_mlp_types(struct settle *s, struct err *err);

/* decoder_sparse_step and mlp_only_layers: which layers have experts. */
int settle_sparse(struct settle *s, struct err *err);

/* The first layers are dense (KEY_DENSE_FIRST), the others have experts, and beside these shared
 * ones, which are one MLP of KEY_SHARED_EXPERTS times KEY_EXPERT_DIM neurons. */
void settle_dense_first(struct settle *s);
uint32_t settle_shared_dim(const struct settle *s);

/* Experts are scored by a sigmoid and chosen by these scores with a bias, from the best groups
 * where there are such; weights are the scores, which KEY_NORM_TOPK and KEY_ROUTE_SCALE may change.
 */
struct route_rule settle_sigmoid_route(const struct settle *s);
/* How weights are renormalised in families where KEY_NORM_TOPK asks for it, but one expert that is
 * chosen alone keeps its weight. */
uint32_t settle_renorm_many(const struct settle *s);

/* sliding_window, of a model whose layers slide: *window is 0 where it is null. A window of 0
 * tokens, which would hide a token from itself, is refused. */
int settle_window_key(const struct settle *s, uint32_t *window, struct err *err);

/* Windows of `window` tokens (0 = none) for the layers that slide: as layer_types says, where it is
 * there, else by the rule (NULL: every layer does). Where the family does not obey its list (the
 * rule rules), a list that says otherwise is an error. */
int settle_windows(struct settle *s, uint32_t window,
                   bool (*slides)(const struct settle *s, uint32_t layer), bool obeys,
                   struct err *err);

/* Layers as qwen3_moe has them: queries and keys are normed by head, all four projections have
 * biases or none has, some layers are dense by settle_sparse; one rotary set. */
int settle_head_norms(struct settle *s, struct err *err);

/* Layers as glm4_moe has them: the first ones are dense, the others have shared experts, which are
 * one MLP, beside those that are chosen by biased sigmoids, from the best groups; queries, keys and
 * values have biases or none has, and queries and keys may be normed by head; one rotary set. Of
 * KEY_ATTENTION_BIAS, KEY_QK_NORM, KEY_DENSE_FIRST and KEY_MLP_DIM, what the family lacks is 0. */
int settle_shared_experts(struct settle *s, struct err *err);

/* The same as Ling's second generation has them: weights are renormalised whatever norm_topk_prob
 * says, so that false is an error, but for one expert that is chosen alone. */
int settle_ling(struct settle *s, struct err *err);

/* Layers as qwen3_next has them: a gated delta net, or attention whose output is gated, by
 * layer_types or full_attention_interval; a shared expert behind a gate; one rotary set. The
 * family reads layer_types and output_gate_type, and has KEY_QK_NORM and KEY_OUTPUT_GATE. */
int settle_gated_delta(struct settle *s, struct err *err);

/* Latent attention in all layers, whose last components of queries and keys are turned in pairs.
 * The family has KEY_LATENT_*, KEY_KV_HEADS and KEY_ATTENTION_BIAS, and KEY_HEAD_DIM that is not
 * 0, and reads SETTLE_LATENT_READS. */
int settle_latent(struct settle *s, struct err *err);
#define SETTLE_LATENT_READS "rope_interleave", "qk_head_dim", "q_head_dim"

/* Layers as deepseek_v3 has them: that, experts as settle_sigmoid_route says, the first layers
 * dense. The family reads SETTLE_DEEPSEEK_READS, too. */
int settle_deepseek(struct settle *s, struct err *err);
#define SETTLE_DEEPSEEK_READS SETTLE_LATENT_READS, "topk_method", "scoring_func"

/* Layers as deepseek_v32 has them: those of deepseek_v3, the dense ones by mlp_layer_types where
 * the file has it, whose attention is to the tokens that an indexer chooses: all, in contexts of at
 * most KEY_INDEX_TOPK tokens, which the model is limited to. What the indexer computes is not read.
 * The family reads SETTLE_INDEXED_READS, too, and leaves out SETTLE_INDEXED_SKIPPED. */
int settle_indexed(struct settle *s, struct err *err);
#define SETTLE_INDEXED_READS                                                                       \
    SETTLE_DEEPSEEK_READS, "layer_types", "mlp_layer_types", "index_head_dim", "index_n_heads"
#define SETTLE_INDEXED_SKIPPED "model.layers.*.self_attn.indexer.*"

/* Queries are made of a latent, whose width a key says: null is an error. */
int settle_latent_queries(const struct settle *s, struct err *err);

/* One rotary set for all layers that attend. */
int settle_rope(struct settle *s, struct err *err);
/* The heads of each layer, where the file has a list of them under `key`. */
int settle_heads_by_layer(struct settle *s, const char *key, struct err *err);
/* A set for the layers that slide, and one for full ones, of a family whose objects are by type:
 * slides[l] is 1 or 0, NULL: where there is a window. Layers of one type have heads of one size,
 * which a key says; `full_key` is that of full ones. */
int settle_rope_types(struct settle *s, const uint32_t *slides, enum family_key_id full_key,
                      struct err *err);
/* A set that turns nothing, for layers that do not know positions. */
uint32_t settle_no_rope(struct settle *s);
/* Layers without a window do not know positions. */
void settle_unturned(struct settle *s);

#endif
