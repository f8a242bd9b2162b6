/*
 * family_hunyuan_v1_moe: Hunyuan-A13B. Queries and keys are normed by head after they are turned;
 * every layer has experts and one that is shared. Published files say of many things layer by layer
 * what is the same in all layers.
 */
#include "prep/hf/settle.h"

static const struct family_key
    keys[] =
        {
            {KEY_VOCAB, 290943},  {KEY_DIM, 4096},
            {KEY_MLP_DIM, 11008}, /* of an expert, and of the shared one */
            {KEY_LAYERS, 32},     {KEY_HEADS, 32},
            {KEY_KV_HEADS, 0},    {KEY_HEAD_DIM, 0},
            {KEY_CONTEXT, 2048},  {KEY_NORM_EPS, 1e-5},
            {KEY_TIED, 0},        {KEY_ATTENTION_BIAS, 0},
            {KEY_QK_NORM, 1}, /* publishers write down that it has its norms */
            {KEY_NORM_TOPK, 1},   {KEY_EXPERTS, 1},
            {KEY_ACTIVE, 1},      {KEY_END},
};

/* The second half is of pictures, classifiers, training, and of layers that share keys, which
 * use_cla would say. */
static const char *const reads[] = {"attention_head_dim",
                                    "moe_intermediate_size",
                                    "num_shared_expert",
                                    "norm_type",
                                    "use_mixed_mlp_moe",
                                    "use_rotary_pos_emb",
                                    "anyres_pooling_size",
                                    "cla_share_factor",
                                    "dense_list",
                                    "eod_token_id",
                                    "im_end_id",
                                    "im_newline_id",
                                    "im_start_id",
                                    "image_token_id",
                                    "mask_init_id",
                                    "num_media_embeds",
                                    "org_vocab_size",
                                    "pad_id",
                                    "pool_type",
                                    "text_end_id",
                                    "text_start_id",
                                    "anyres_vit_max_image_size",
                                    NULL};

#define LAYER FAMILY_LAYER
static const struct family_name names[] = {
    {SLOT_Q_NORM, LAYER "self_attn.query_layernorm.weight"},
    {SLOT_K_NORM, LAYER "self_attn.key_layernorm.weight"},
    {SLOT_ROUTER, LAYER "mlp.gate.wg.weight"},
    {SLOT_MLP_GATE, LAYER "mlp.shared_mlp.gate_proj.weight"},
    {SLOT_MLP_UP, LAYER "mlp.shared_mlp.up_proj.weight"},
    {SLOT_MLP_DOWN, LAYER "mlp.shared_mlp.down_proj.weight"},
    {.pattern = NULL},
};

static int check_layers(const struct settle *s, struct err *err) {
    return settle_only_number(s, "moe_intermediate_size", settle_u32(s, KEY_MLP_DIM), err) < 0 ||
                   settle_only_number(s, "num_shared_expert", 1, err) < 0 ||
                   settle_only_number(s, "attention_head_dim", s->kinds[0].att.head_dim, err) < 0 ||
                   settle_only(s, KEY_QK_NORM, 1, err) < 0 ||
                   settle_only(s, KEY_NORM_TOPK, 1, err) < 0 ||
                   settle_word(s, "norm_type", "rms", err) < 0 ||
                   settle_true(s, "use_mixed_mlp_moe", err) < 0 ||
                   settle_true(s, "use_rotary_pos_emb", err) < 0
               ? -1
               : 0;
}

static int settle(struct settle *s, struct err *err) {
    if (check_layers(s, err) < 0) {
        return -1;
    }
    s->arch->ffn_dim = settle_u32(s, KEY_MLP_DIM);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.qk_norm = ARCH_QK_NORM_HEAD;
        k->att.qk_norm_late = 1;
        k->shared_dim = settle_u32(s, KEY_MLP_DIM);
        k->route.renorm = ROUTE_RENORM_SUM;
    }
    return settle_rope(s, err);
}

const struct family family_hunyuan_v1_moe = {
    .name = "hunyuan_v1_moe",
    .types = {"hunyuan_v1_moe"},
    .architectures = {"HunYuanMoEV1ForCausalLM"},
    .eos = 2,
    .rope = {.theta = 1e4},
    .keys = keys,
    .reads = reads,
    .names = names,
    .settle = settle,
};
