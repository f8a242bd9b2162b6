/*
 * family_cohere2_moe: Command A+. The two branches of a layer read one norm, a LayerNorm without
 * bias. Layers that slide are turned, components 2i and 2i + 1 of a head together; full ones do not
 * know positions. Shared experts are added to the chosen ones, or averaged with them. Also inside a
 * model that sees.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 256000},
    {KEY_DIM, 8192},
    {KEY_MLP_DIM, 22528}, /* of an expert */
    {KEY_PREFIX_DIM, 0},  /* 0 = as an expert */
    {KEY_LAYERS, 40},
    {KEY_HEADS, 64},
    {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 128},
    {KEY_CONTEXT, 8192},
    {KEY_NORM_EPS, 0}, /* 0 = LayerNorms with the next one */
    {KEY_LAYER_NORM_EPS, 1e-5},
    {KEY_TIED, 1},
    {KEY_LOGIT_SCALE, 0.0625},
    {KEY_ATTENTION_BIAS, 0},
    {KEY_WINDOW, 4096},
    {KEY_WINDOW_PATTERN, 4},
    {KEY_PREFIX_WINDOW_PATTERN, 1},
    {KEY_DENSE_FIRST, 0},
    {KEY_EXPERTS, 8},
    {KEY_ACTIVE, 2},
    {KEY_SHARED_EXPERTS, 0},
    {KEY_NORM_TOPK, 1},
    {KEY_END},
};

static const char *const reads[] = {"layer_types",
                                    "mlp_layer_types",
                                    "expert_selection_fn",
                                    "shared_expert_combination_strategy",
                                    "norm_type",
                                    "order_of_interleaved_layers",
                                    "position_embedding_type",
                                    "transformer_block_type",
                                    "use_embedding_sharing",
                                    "use_gated_activation",
                                    "use_parallel_block",
                                    NULL};

static const struct family_name names[] = {
    {SLOT_Q, FAMILY_LAYER "self_attn.q_proj.weight", HF_PAIRS},
    {SLOT_K, FAMILY_LAYER "self_attn.k_proj.weight", HF_PAIRS},
    {.pattern = NULL},
};

static const char *const skipped[] = {"model.vision_tower.*", "model.multi_modal_projector.*",
                                      "vision_tower.*", "multi_modal_projector.*", NULL};

/* The dense layers at the beginning have a pattern of their own. */
static bool slides(const struct settle *s, uint32_t layer) {
    const uint32_t dense = settle_u32(s, KEY_DENSE_FIRST);
    return layer < dense ? (layer + 1) % settle_u32(s, KEY_PREFIX_WINDOW_PATTERN) != 0
                         : (layer - dense + 1) % settle_u32(s, KEY_WINDOW_PATTERN) != 0;
}

static int settle_experts(struct settle *s, struct err *err) {
    static const char *const scores[] = {"softmax", "sigmoid", NULL};
    static const char *const sums[] = {"average", "sum", NULL};
    uint32_t sigmoid = 0, sum = 0;
    if (settle_choose(s, "expert_selection_fn", scores, &sigmoid, err) < 0 ||
        settle_choose(s, "shared_expert_combination_strategy", sums, &sum, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        const double shared = s->value[KEY_SHARED_EXPERTS] * s->value[KEY_MLP_DIM];
        const bool halves = shared > 0 && !sum;
        k->shared_dim = shared < UINT32_MAX ? (uint32_t)shared : UINT32_MAX;
        k->shared_scale = halves ? 0.5f : 0;
        /* The softmax of the chosen logits alone is that of all, divided by the chosen ones' sum.
         */
        k->route = (struct route_rule){.score = sigmoid ? ROUTE_SIGMOID : ROUTE_SOFTMAX,
                                       .by_logits = sigmoid,
                                       .renorm = sigmoid ? settle_u32(s, KEY_NORM_TOPK) : 1,
                                       .scale = halves ? 0.5f : 1};
    }
    s->arch->ffn_dim = settle_u32(s, KEY_MLP_DIM);
    return 0;
}

/* Layers with a window are turned, and dense ones where these are all full. */
static int settle_turned(struct settle *s, struct err *err) {
    if (settle_rope(s, err) < 0) {
        return -1;
    }
    const uint32_t none = settle_no_rope(s);
    const bool dense = settle_u32(s, KEY_PREFIX_WINDOW_PATTERN) == 1;
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.rope = k->att.window > 0 || (dense && !k->moe) ? k->att.rope : none;
    }
    return 0;
}

/* What publishers write down of what every model of the family does. */
static int check_words(const struct settle *s, struct err *err) {
    static const char sharing[] = "use_embedding_sharing";
    const json_t *v = json_object_get(s->root, sharing);
    if (v && !json_is_null(v) && json_is_true(v) != (s->arch->tied != 0)) {
        return settle_refuse(s, sharing, v, "what tie_word_embeddings says", err);
    }
    const char *norm = s->arch->norm_eps == 0 ? "layer_norm" : "rms_norm";
    return settle_word(s, "norm_type", norm, err) < 0 ||
                   settle_word(s, "order_of_interleaved_layers", "local_attn_first", err) < 0 ||
                   settle_word(s, "position_embedding_type", "rope_gptj", err) < 0 ||
                   settle_word(s, "transformer_block_type", "parallel", err) < 0 ||
                   settle_true(s, "use_gated_activation", err) < 0 ||
                   settle_true(s, "use_parallel_block", err) < 0
               ? -1
               : settle_only(s, KEY_ATTENTION_BIAS, 0, err);
}

static int settle(struct settle *s, struct err *err) {
    struct arch *a = s->arch;
    const uint32_t dense_dim = settle_u32(s, KEY_PREFIX_DIM);
    uint32_t window;
    if (check_words(s, err) < 0 || settle_window_key(s, &window, err) < 0 ||
        settle_windows(s, window, slides, true, err) < 0 || settle_experts(s, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        s->kinds[l].moe = l >= settle_u32(s, KEY_DENSE_FIRST);
        s->kinds[l].block.parallel = 1;
    }
    if (settle_mlp_types(s, err) < 0 || settle_turned(s, err) < 0) {
        return -1;
    }
    for (uint32_t l = 0; l < a->n_layers; l++) {
        s->kinds[l].dense_dim = dense_dim ? dense_dim : a->ffn_dim;
    }
    if (a->norm_eps == 0) {
        a->norm = ARCH_NORM_LAYER;
        a->norm_eps = settle_f32(s, KEY_LAYER_NORM_EPS);
    }
    a->logit_scale = s->value[KEY_LOGIT_SCALE] != 1 ? settle_f32(s, KEY_LOGIT_SCALE) : 0;
    return 0;
}

const struct family family_cohere2_moe = {
    .name = "cohere2_moe",
    .types = {"cohere2_moe", "cohere2_vision"},
    .architectures = {"Cohere2MoeForCausalLM", "Cohere2VisionForConditionalGeneration"},
    .wrapped = true,
    .eos = 255001,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = names,
    .skipped = skipped,
    .settle = settle,
};
