#include "prep/gguf/gguf_family.h"

#include <inttypes.h>
#include <string.h>

#include "prep/gguf/gguf_config.h"

/* ---- what all have ---- */

const struct gguf_key gguf_keys[] = {
    {"embedding_length", "hidden_size", GGUF_NEED, 0},
    {"block_count", "num_hidden_layers", GGUF_NEED, 0},
    {"context_length", "max_position_embeddings", GGUF_NEED, 0},
    {"attention.head_count", "num_attention_heads", GGUF_NEED, 0},
    {"attention.head_count_kv", "num_key_value_heads", GGUF_TAKE, 0},
    {"attention.key_length", "head_dim", GGUF_TAKE, 0},
    {"attention.value_length", NULL, GGUF_LEAVE, 0}, /* shapes of values are checked */
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps", GGUF_NEED, 0},
    {"attention.causal", NULL, GGUF_SAME, 1},
    {"feed_forward_length", "intermediate_size", GGUF_TAKE, 0},
    {"expert_count", "num_experts", GGUF_NEED, 0},
    {"expert_used_count", "num_experts_per_tok", GGUF_NEED, 0},
    {"vocab_size", NULL, GGUF_LEAVE, 0},
    {"rope.freq_base", NULL, GGUF_LEAVE, 0},
    {"rope.dimension_count", NULL, GGUF_LEAVE, 0},
    {"rope.scale_linear", NULL, GGUF_SAME, 1},
    {"rope.scaling.type", NULL, GGUF_LEAVE, 0},
    {"rope.scaling.factor", NULL, GGUF_LEAVE, 0},
    {"rope.scaling.original_context_length", NULL, GGUF_LEAVE, 0},
    {"rope.scaling.finetuned", NULL, GGUF_LEAVE, 0},
    {"rope.scaling.attn_factor", NULL, GGUF_LEAVE, 0},
    {"rope.scaling.yarn_attn_factor", NULL, GGUF_LEAVE, 0},
    {"rope.scaling.yarn_ext_factor", NULL, GGUF_SAME, 1},
    {"rope.scaling.yarn_beta_fast", NULL, GGUF_LEAVE, 0},
    {"rope.scaling.yarn_beta_slow", NULL, GGUF_LEAVE, 0},
    {.key = NULL},
};

#define LAYER "blk.{L}."
const struct family_name gguf_names[] = {
    {SLOT_EMBED, "token_embd.weight"},
    {SLOT_OUT_NORM, "output_norm.weight"},
    {SLOT_HEAD, "output.weight"},
    {SLOT_ATTN_NORM, LAYER "attn_norm.weight"},
    {SLOT_Q, LAYER "attn_q.weight"},
    {SLOT_K, LAYER "attn_k.weight"},
    {SLOT_V, LAYER "attn_v.weight"},
    {SLOT_O, LAYER "attn_output.weight"},
    {SLOT_Q_BIAS, LAYER "attn_q.bias"},
    {SLOT_K_BIAS, LAYER "attn_k.bias"},
    {SLOT_V_BIAS, LAYER "attn_v.bias"},
    {SLOT_O_BIAS, LAYER "attn_output.bias"},
    {SLOT_Q_NORM, LAYER "attn_q_norm.weight"},
    {SLOT_K_NORM, LAYER "attn_k_norm.weight"},
    {SLOT_SINKS, LAYER "attn_sinks.weight"},
    {SLOT_LATENT_Q_A, LAYER "attn_q_a.weight"},
    {SLOT_LATENT_Q_NORM, LAYER "attn_q_a_norm.weight"},
    {SLOT_LATENT_Q_NOPE, LAYER "attn_q_b.weight", HF_LATENT_Q_NOPE},
    {SLOT_LATENT_Q_NOPE, LAYER "attn_q.weight", HF_LATENT_Q_NOPE},
    {SLOT_LATENT_Q_ROPE, LAYER "attn_q_b.weight", HF_LATENT_Q_ROPE},
    {SLOT_LATENT_Q_ROPE, LAYER "attn_q.weight", HF_LATENT_Q_ROPE},
    {SLOT_LATENT_KV, LAYER "attn_kv_a_mqa.weight", HF_LATENT_KV},
    {SLOT_LATENT_KV_NORM, LAYER "attn_kv_a_norm.weight"},
    {SLOT_LATENT_K_ROPE, LAYER "attn_kv_a_mqa.weight", HF_LATENT_K_ROPE},
    /* Split since 2025; whole before. */
    {SLOT_LATENT_K_UP, LAYER "attn_k_b.weight", HF_LATENT_K_HEADS},
    {SLOT_LATENT_K_UP, LAYER "attn_kv_b.weight", HF_LATENT_K_UP},
    {SLOT_LATENT_V_UP, LAYER "attn_v_b.weight", HF_LATENT_V_HEADS},
    {SLOT_LATENT_V_UP, LAYER "attn_kv_b.weight", HF_LATENT_V_UP},
    {SLOT_LATENT_OUT, LAYER "attn_output.weight"},
    {SLOT_FFN_NORM, LAYER "ffn_norm.weight"},
    {SLOT_FFN_NORM, LAYER "post_attention_norm.weight"},
    {SLOT_ROUTER, LAYER "ffn_gate_inp.weight"},
    {SLOT_ROUTER_BIAS, LAYER "ffn_gate_inp.bias"},
    {SLOT_ROUTER_SELECT, LAYER "exp_probs_b.bias"},
    {SLOT_ROUTER_SELECT, LAYER "exp_probs_b"},
    {SLOT_MLP_GATE, LAYER "ffn_gate.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_UP, LAYER "ffn_up.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_DOWN, LAYER "ffn_down.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_GATE, LAYER "ffn_gate_shexp.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_UP, LAYER "ffn_up_shexp.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_DOWN, LAYER "ffn_down_shexp.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_SWITCH, LAYER "ffn_gate_inp_shexp.weight"},
    /* Experts in one tensor; gate and up in one; or, until 2024, one for each expert. */
    {SLOT_EXPERT_GATE, LAYER "ffn_gate_exps.weight", HF_EXPERTS},
    {SLOT_EXPERT_UP, LAYER "ffn_up_exps.weight", HF_EXPERTS},
    {SLOT_EXPERT_DOWN, LAYER "ffn_down_exps.weight", HF_EXPERTS},
    {SLOT_EXPERT_GATE, LAYER "ffn_gate_up_exps.weight", HF_EXPERTS_FIRST},
    {SLOT_EXPERT_UP, LAYER "ffn_gate_up_exps.weight", HF_EXPERTS_SECOND},
    {SLOT_EXPERT_GATE, LAYER "ffn_gate.{E}.weight"},
    {SLOT_EXPERT_UP, LAYER "ffn_up.{E}.weight"},
    {SLOT_EXPERT_DOWN, LAYER "ffn_down.{E}.weight"},
    {SLOT_EXPERT_GATE_BIAS, LAYER "ffn_gate_exps.bias"},
    {SLOT_EXPERT_UP_BIAS, LAYER "ffn_up_exps.bias"},
    {SLOT_EXPERT_DOWN_BIAS, LAYER "ffn_down_exps.bias"},
    {.pattern = NULL},
};

/* Queries and keys of heads that llama.cpp turns in pairs. */
static const struct family_name pairs[] = {
    {SLOT_Q, LAYER "attn_q.weight", HF_PAIRS},
    {SLOT_K, LAYER "attn_k.weight", HF_PAIRS},
    {.pattern = NULL},
};

static const struct family_name none[] = {{.pattern = NULL}};

/* Experts are chosen by a softmax, and weights are not scaled. */
#define SOFTMAX                                                                                    \
    {"expert_gating_func", NULL, GGUF_SAME, 1}, {"expert_weights_scale", NULL, GGUF_SAME, 1}, {    \
        "expert_group_count", NULL, GGUF_SAME, 1                                                   \
    }

/* ---- families ---- */

static const struct gguf_key expert_width[] = {
    {"expert_feed_forward_length", "intermediate_size", GGUF_TAKE, 0},
    SOFTMAX,
    {.key = NULL},
};

static const struct gguf_key qwen2moe_keys[] = {
    {"expert_feed_forward_length", "moe_intermediate_size", GGUF_NEED, 0},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size", GGUF_NEED, 0},
    {"expert_weights_norm", NULL, GGUF_SAME, 0},
    SOFTMAX,
    {.key = NULL},
};

static int qwen2moe(struct gguf_reading *r, struct err *err) {
    (void)err;
    gguf_set_flag(r, "qkv_bias", gguf_has(r, 0, "attn_q.bias"));
    return 0;
}

static const struct gguf_key qwen3moe_keys[] = {
    {"expert_feed_forward_length", "moe_intermediate_size", GGUF_NEED, 0},
    {"expert_weights_norm", NULL, GGUF_SAME, 1},
    SOFTMAX,
    {.key = NULL},
};

static int attention_bias(struct gguf_reading *r, struct err *err) {
    (void)err;
    gguf_set_flag(r, "attention_bias", gguf_has(r, 0, "attn_q.bias"));
    return 0;
}

static const struct gguf_key gpt_oss_keys[] = {
    {"expert_feed_forward_length", "intermediate_size", GGUF_NEED, 0},
    {"attention.sliding_window", "sliding_window", GGUF_NEED, 0},
    {.key = NULL},
};

/* Its frequencies are not rounded to whole components, in the checkpoint. */
static int gpt_oss(struct gguf_reading *r, struct err *err) {
    json_t *rope = json_object_get(r->config, "rope_parameters");
    if (strcmp(json_string_value(json_object_get(rope, "rope_type")), "yarn") == 0) {
        json_object_set_new(rope, "truncate", json_false());
    }
    return attention_bias(r, err);
}

/* ---- experts by a sigmoid, some of them shared, the first layers dense ---- */

#define SHARED_EXPERTS                                                                             \
    {"expert_feed_forward_length", "moe_intermediate_size", GGUF_NEED, 0},                         \
        {"expert_shared_count", "n_shared_experts", GGUF_TAKE, 0},                                 \
        {"expert_weights_scale", "routed_scaling_factor", GGUF_TAKE, 0},                           \
        {"expert_weights_norm", "norm_topk_prob", GGUF_TAKE_FLAG, 0},                              \
        {"expert_group_count", "n_group", GGUF_TAKE, 0},                                           \
        {"expert_group_used_count", "topk_group", GGUF_TAKE, 0}, {                                 \
        "leading_dense_block_count", "first_k_dense_replace", GGUF_NEED, 0                         \
    }

static const struct gguf_key glm4moe_keys[] = {
    SHARED_EXPERTS,
    {"expert_gating_func", NULL, GGUF_SAME, 2},
    {"nextn_predict_layers", "num_nextn_predict_layers", GGUF_TAKE, 0},
    {.key = NULL},
};

/* Layers that predict further tokens count among the model's there. */
static int further_layers(struct gguf_reading *r, struct err *err) {
    int64_t layers, further;
    if (gguf_whole(r, "block_count", 0, &layers, err) < 0 ||
        gguf_whole(r, "nextn_predict_layers", 0, &further, err) < 0) {
        return -1;
    }
    if (further >= layers) {
        return err_set(err, "%s: %s.nextn_predict_layers is %" PRId64 " of %" PRId64 " layers",
                       r->g->path, r->family->arch, further, layers);
    }
    gguf_set_integer(r, "num_hidden_layers", layers - further);
    return 0;
}

static int glm4moe(struct gguf_reading *r, struct err *err) {
    gguf_set_flag(r, "use_qk_norm", gguf_has(r, 0, "attn_q_norm.weight"));
    return attention_bias(r, err) < 0 ? -1 : further_layers(r, err);
}

static const struct gguf_key deepseek2_keys[] = {
    SHARED_EXPERTS,
    {"expert_gating_func", NULL, GGUF_LEAVE, 0},
    {"nextn_predict_layers", NULL, GGUF_LEAVE, 0},
    {"attention.q_lora_rank", "q_lora_rank", GGUF_TAKE, 0},
    {"attention.kv_lora_rank", "kv_lora_rank", GGUF_NEED, 0},
    {"rope.dimension_count", "qk_rope_head_dim", GGUF_NEED, 0},
    {"attention.key_length_mla", NULL, GGUF_LEAVE, 0},
    {"attention.value_length_mla", NULL, GGUF_LEAVE, 0},
    {"rope.scaling.yarn_log_multiplier", NULL, GGUF_LEAVE, 0},
    {.key = NULL},
};

/* Models with groups of experts, whose older files do not say so. */
static const struct {
    int64_t gating, experts, groups, used;
    const char *name;
} grouped[] = {{2, 256, 8, 4, "DeepSeek-V3"}, {1, 160, 8, 3, "DeepSeek-V2"}};

/* What a file does not say of how experts are chosen is as llama.cpp takes it, which is other than
 * the family's own: all experts are one group, weights are neither renormalised nor scaled. */
static int choosing(struct gguf_reading *r, int64_t gating, int64_t *groups, struct err *err) {
    int64_t experts, used;
    if (gguf_whole(r, "expert_count", 0, &experts, err) < 0 ||
        gguf_whole(r, "expert_group_count", 0, groups, err) < 0 ||
        gguf_whole(r, "expert_group_used_count", 0, &used, err) < 0) {
        return -1;
    }
    for (size_t i = 0; *groups == 0 && i < sizeof grouped / sizeof *grouped; i++) {
        if (grouped[i].gating == gating && grouped[i].experts == experts) {
            return err_set(
                err,
                "%s: key \"%s.expert_group_count\" is missing: %s itself, which has %" PRId64
                " experts, has %" PRId64 " groups of which %" PRId64
                " are used, and older files do not say so: convert it anew",
                r->g->path, r->family->arch, grouped[i].name, experts, grouped[i].groups,
                grouped[i].used);
        }
    }
    if (*groups > 1 && used == 0) {
        return err_set(err,
                       "%s: key \"%s.expert_group_used_count\" is missing, of %" PRId64 " groups",
                       r->g->path, r->family->arch, *groups);
    }
    if (*groups <= 1) {
        *groups = 1;
        gguf_set_integer(r, "n_group", 1);
        gguf_set_integer(r, "topk_group", 1);
    }
    if (!json_object_get(r->config, "norm_topk_prob")) {
        gguf_set_flag(r, "norm_topk_prob", false);
    }
    if (!json_object_get(r->config, "routed_scaling_factor")) {
        gguf_set_real(r, "routed_scaling_factor", 1);
    }
    return 0;
}

/* Widths of keys and values are those of heads in keys that end with _mla, where the file has them:
 * in it keys and values are the latent then. Which of the two families it is, the scores say. */
static int deepseek2(struct gguf_reading *r, struct err *err) {
    int64_t key, value, turned, gating, groups, heads, q_rank;
    if (gguf_whole(r, "attention.key_length", 0, &key, err) < 0 ||
        gguf_whole(r, "attention.key_length_mla", key, &key, err) < 0 ||
        gguf_whole(r, "attention.value_length", 0, &value, err) < 0 ||
        gguf_whole(r, "attention.value_length_mla", value, &value, err) < 0 ||
        gguf_whole(r, "rope.dimension_count", 0, &turned, err) < 0 ||
        gguf_whole(r, "expert_gating_func", 1, &gating, err) < 0 ||
        gguf_whole(r, "attention.q_lora_rank", 0, &q_rank, err) < 0 ||
        gguf_whole(r, "attention.head_count", 0, &heads, err) < 0) {
        return -1;
    }
    if (key <= turned || value == 0 || (gating != 1 && gating != 2)) {
        return err_set(err,
                       "%s: %s: key_length %" PRId64 ", value_length %" PRId64
                       ", rope.dimension_count %" PRId64 ", expert_gating_func %" PRId64
                       ": expected keys wider than what is turned of them, and 1 or 2",
                       r->g->path, r->family->arch, key, value, turned, gating);
    }
    if (choosing(r, gating, &groups, err) < 0) {
        return -1;
    }
    json_object_del(r->config, "head_dim");
    if (q_rank == 0) {
        json_object_del(r->config, "q_lora_rank");
        json_object_set_new(r->config, "q_lora_rank", json_null());
    }
    gguf_set_integer(r, "num_key_value_heads", heads);
    gguf_set_integer(r, "qk_nope_head_dim", key - turned);
    gguf_set_integer(r, "v_head_dim", value);
    if (gating == 1) {
        json_object_set_new(r->config, "model_type", json_string("deepseek_v2"));
        json_object_set_new(r->config, "architectures", json_pack("[s]", "DeepseekV2ForCausalLM"));
        json_object_set_new(r->config, "topk_method",
                            json_string(groups > 1 ? "group_limited_greedy" : "greedy"));
    }
    return further_layers(r, err);
}

/* ---- granite ---- */

static const struct gguf_key granitemoe_keys[] = {
    {"expert_feed_forward_length", "intermediate_size", GGUF_TAKE, 0},
    {"expert_shared_feed_forward_length", "shared_intermediate_size", GGUF_TAKE, 0},
    {"attention.scale", "attention_multiplier", GGUF_TAKE, 0},
    {"embedding_scale", "embedding_multiplier", GGUF_TAKE, 0},
    {"residual_scale", "residual_multiplier", GGUF_TAKE, 0},
    {"logit_scale", "logits_scaling", GGUF_TAKE, 0},
    SOFTMAX,
    {.key = NULL},
};

static int granitemoe(struct gguf_reading *r, struct err *err) {
    double shared;
    if (gguf_number(r, "expert_shared_feed_forward_length", 0, &shared, err) < 0) {
        return -1;
    }
    if (shared > 0) {
        json_object_set_new(r->config, "model_type", json_string("granitemoeshared"));
        json_object_set_new(r->config, "architectures",
                            json_pack("[s]", "GraniteMoeSharedForCausalLM"));
    }
    return 0;
}

/* ---- the table ---- */

static const struct gguf_family families[] = {
    {"deepseek2", "deepseek_v3", "DeepseekV3ForCausalLM", NULL, deepseek2_keys, none, deepseek2},
    {"glm4moe", "glm4_moe", "Glm4MoeForCausalLM", NULL, glm4moe_keys, none, glm4moe},
    {"gpt-oss", "gpt_oss", "GptOssForCausalLM", NULL, gpt_oss_keys, none, gpt_oss},
    {"granitemoe", "granitemoe", "GraniteMoeForCausalLM", NULL, granitemoe_keys, pairs, granitemoe},
    {"llama", "mixtral", "MixtralForCausalLM", NULL, expert_width, pairs, NULL},
    {"olmoe", "olmoe", "OlmoeForCausalLM", "{\"norm_topk_prob\": false}", expert_width, none, NULL},
    {"qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM", "{\"norm_topk_prob\": false}", qwen2moe_keys,
     none, qwen2moe},
    {"qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM", "{\"norm_topk_prob\": true}", qwen3moe_keys,
     none, attention_bias},
};

const struct gguf_family *gguf_family_at(size_t i) {
    return i < sizeof families / sizeof *families ? &families[i] : NULL;
}

const struct gguf_family *gguf_family_find(const struct gguf_text *arch) {
    const struct gguf_family *f;
    size_t i = 0;
    while ((f = gguf_family_at(i++)) != NULL &&
           (strlen(f->arch) != arch->bytes || memcmp(f->arch, arch->data, arch->bytes) != 0)) {
    }
    return f;
}

char *gguf_family_list(void) {
    struct buf text = {0};
    for (size_t i = 0; gguf_family_at(i); i++) {
        buf_printf(&text, "%s%s", i ? ", " : "", gguf_family_at(i)->arch);
    }
    return text.data;
}
