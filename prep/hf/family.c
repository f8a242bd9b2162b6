#include "prep/hf/family.h"

static const struct family *const families[] = {
    &family_afmoe,          &family_axk1,          &family_bailing_moe,    &family_bailing_moe_v2,
    &family_cohere2_moe,    &family_dbrx,          &family_deepseek,       &family_deepseek_v2,
    &family_deepseek_v3,    &family_deepseek_v32,  &family_dots1,          &family_ernie4_5_moe,
    &family_exaone_moe,     &family_flex_olmo,     &family_flint,          &family_gemma4,
    &family_glm4_moe,       &family_glm4_moe_lite, &family_glm4v_moe,      &family_glm_moe_dsa,
    &family_gpt_oss,        &family_granitemoe,    &family_granitemoe_swa, &family_granitemoeshared,
    &family_hunyuan_v1_moe, &family_hy_v3,         &family_kolibri1,       &family_laguna,
    &family_llama4,         &family_mellum,        &family_mimo_v2_flash,  &family_minimax_m2,
    &family_mistral4,       &family_mixtral,       &family_olmoe,          &family_phimoe,
    &family_qwen2_moe,      &family_qwen3_5_moe,   &family_qwen3_moe,      &family_qwen3_next,
    &family_qwen3_omni_moe, &family_qwen3_vl_moe,  &family_sarvam_mla,     &family_sarvam_moe,
    &family_smallthinker,   &family_solar_open,    &family_step3p7,
};

const struct family *family_at(size_t i) {
    return i < sizeof families / sizeof *families ? families[i] : NULL;
}

char *family_list(void) {
    struct buf text = {0};
    for (size_t i = 0; family_at(i); i++) {
        buf_printf(&text, "%s%s", i ? ", " : "", family_at(i)->name);
    }
    return text.data;
}

#define LAYER FAMILY_LAYER
const struct family_name family_common[] = {
    {SLOT_EMBED, "model.embed_tokens.weight"},
    {SLOT_OUT_NORM, "model.norm.weight"},
    {SLOT_HEAD, "lm_head.weight"},
    {SLOT_OUT_NORM_BIAS, "model.norm.bias"},
    {SLOT_HEAD_BIAS, "lm_head.bias"},
    {SLOT_ATTN_NORM_BIAS, LAYER "input_layernorm.bias"},
    {SLOT_FFN_NORM_BIAS, LAYER "post_attention_layernorm.bias"},
    {SLOT_ATTN_NORM, LAYER "input_layernorm.weight"},
    {SLOT_Q, LAYER "self_attn.q_proj.weight"},
    {SLOT_K, LAYER "self_attn.k_proj.weight"},
    {SLOT_V, LAYER "self_attn.v_proj.weight"},
    {SLOT_O, LAYER "self_attn.o_proj.weight"},
    {SLOT_Q_BIAS, LAYER "self_attn.q_proj.bias"},
    {SLOT_K_BIAS, LAYER "self_attn.k_proj.bias"},
    {SLOT_V_BIAS, LAYER "self_attn.v_proj.bias"},
    {SLOT_O_BIAS, LAYER "self_attn.o_proj.bias"},
    {SLOT_Q_NORM, LAYER "self_attn.q_norm.weight"},
    {SLOT_K_NORM, LAYER "self_attn.k_norm.weight"},
    {SLOT_LATENT_Q_A, LAYER "self_attn.q_a_proj.weight"},
    {SLOT_LATENT_Q_NORM, LAYER "self_attn.q_a_layernorm.weight"},
    {SLOT_LATENT_Q_NOPE, LAYER "self_attn.q_b_proj.weight", HF_LATENT_Q_NOPE},
    {SLOT_LATENT_Q_NOPE, LAYER "self_attn.q_proj.weight", HF_LATENT_Q_NOPE},
    {SLOT_LATENT_Q_ROPE, LAYER "self_attn.q_b_proj.weight", HF_LATENT_Q_ROPE},
    {SLOT_LATENT_Q_ROPE, LAYER "self_attn.q_proj.weight", HF_LATENT_Q_ROPE},
    {SLOT_LATENT_KV, LAYER "self_attn.kv_a_proj_with_mqa.weight", HF_LATENT_KV},
    {SLOT_LATENT_KV_NORM, LAYER "self_attn.kv_a_layernorm.weight"},
    {SLOT_LATENT_K_ROPE, LAYER "self_attn.kv_a_proj_with_mqa.weight", HF_LATENT_K_ROPE},
    {SLOT_LATENT_K_UP, LAYER "self_attn.kv_b_proj.weight", HF_LATENT_K_UP},
    {SLOT_LATENT_V_UP, LAYER "self_attn.kv_b_proj.weight", HF_LATENT_V_UP},
    {SLOT_LATENT_OUT, LAYER "self_attn.o_proj.weight"},
    {SLOT_FFN_NORM, LAYER "post_attention_layernorm.weight"},
    {SLOT_ROUTER, LAYER "mlp.gate.weight"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.gate.e_score_correction_bias"},
    {SLOT_MLP_GATE, LAYER "mlp.gate_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_UP, LAYER "mlp.up_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_DOWN, LAYER "mlp.down_proj.weight", .when = FAMILY_DENSE_LAYER},
    {SLOT_MLP_GATE, LAYER "mlp.shared_expert.gate_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_UP, LAYER "mlp.shared_expert.up_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_DOWN, LAYER "mlp.shared_expert.down_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_GATE, LAYER "mlp.shared_experts.gate_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_UP, LAYER "mlp.shared_experts.up_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_DOWN, LAYER "mlp.shared_experts.down_proj.weight", .when = FAMILY_MOE_LAYER},
    {SLOT_MLP_SWITCH, LAYER "mlp.shared_expert_gate.weight"},
    /* One tensor for each expert as the Hub has them, or those of all experts in one. */
    {SLOT_EXPERT_GATE, LAYER "mlp.experts.{E}.gate_proj.weight"},
    {SLOT_EXPERT_UP, LAYER "mlp.experts.{E}.up_proj.weight"},
    {SLOT_EXPERT_DOWN, LAYER "mlp.experts.{E}.down_proj.weight"},
    {SLOT_EXPERT_GATE, LAYER "mlp.experts.gate_up_proj", HF_EXPERTS_FIRST},
    {SLOT_EXPERT_UP, LAYER "mlp.experts.gate_up_proj", HF_EXPERTS_SECOND},
    {SLOT_EXPERT_DOWN, LAYER "mlp.experts.down_proj", HF_EXPERTS},
    {.pattern = NULL},
};

#define MOE LAYER "block_sparse_moe."
#define FUSED LAYER "mlp.experts."
const struct family_name family_block_sparse[] = {
    {SLOT_ROUTER, MOE "gate.weight"},
    {SLOT_ROUTER, LAYER "mlp.gate.weight"},
    {SLOT_ROUTER, LAYER "mlp.router.weight"},
    {SLOT_ROUTER_SELECT, MOE "e_score_correction_bias"},
    {SLOT_ROUTER_SELECT, LAYER "mlp.e_score_correction_bias"},
    {SLOT_EXPERT_GATE, MOE "experts.{E}.w1.weight"},
    {SLOT_EXPERT_UP, MOE "experts.{E}.w3.weight"},
    {SLOT_EXPERT_DOWN, MOE "experts.{E}.w2.weight"},
    {SLOT_EXPERT_GATE, FUSED "gate_up_proj", HF_EXPERTS_FIRST},
    {SLOT_EXPERT_UP, FUSED "gate_up_proj", HF_EXPERTS_SECOND},
    {SLOT_EXPERT_DOWN, FUSED "down_proj", HF_EXPERTS},
    {.pattern = NULL},
};
