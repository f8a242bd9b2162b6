/*
 * family_gpt_oss: gpt-oss. Sinks, windows in every other layer, biases everywhere, clipped SwiGLU.
 *
 * Rows of gate and up alternate. Experts are MXFP4 as published, (out, in), or BF16 (in, out) as
 * fine-tunes are. Their names say which, since shapes do not where the widths are alike.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 201088},
    {KEY_DIM, 2880},
    {KEY_MLP_DIM, 2880},
    {KEY_LAYERS, 36},
    {KEY_HEADS, 64},
    {KEY_KV_HEADS, 8},
    {KEY_HEAD_DIM, 64},
    {KEY_CONTEXT, 131072},
    {KEY_NORM_EPS, 1e-5},
    {KEY_TIED, 0},
    {KEY_EXPERTS, 128},
    {KEY_ACTIVE, 4},
    {KEY_ATTENTION_BIAS, 1},
    {KEY_WINDOW, 128},
    {KEY_SWIGLU_LIMIT, 7},
    {KEY_SWIGLU_ALPHA, 1.702},
    {KEY_END},
};

static const char *const reads[] = {"layer_types", NULL};

#define EXPERTS FAMILY_LAYER "mlp.experts."
#define GATE_UP EXPERTS "gate_up_proj"
#define DOWN EXPERTS "down_proj"
static const struct family_name names[] = {
    {SLOT_SINKS, FAMILY_LAYER "self_attn.sinks"},
    {SLOT_ROUTER, FAMILY_LAYER "mlp.router.weight"},
    {SLOT_ROUTER_BIAS, FAMILY_LAYER "mlp.router.bias"},
    {SLOT_EXPERT_GATE, GATE_UP "_blocks", HF_EXPERTS_EVEN},
    {SLOT_EXPERT_UP, GATE_UP "_blocks", HF_EXPERTS_ODD},
    {SLOT_EXPERT_DOWN, DOWN "_blocks", HF_EXPERTS},
    {SLOT_EXPERT_GATE, GATE_UP, HF_EXPERTS_EVEN_TURNED},
    {SLOT_EXPERT_UP, GATE_UP, HF_EXPERTS_ODD_TURNED},
    {SLOT_EXPERT_DOWN, DOWN, HF_EXPERTS_TURNED},
    {SLOT_EXPERT_GATE_BIAS, GATE_UP "_bias", HF_COLS_EVEN},
    {SLOT_EXPERT_UP_BIAS, GATE_UP "_bias", HF_COLS_ODD},
    {SLOT_EXPERT_DOWN_BIAS, DOWN "_bias"},
    {.pattern = NULL},
};

static bool slides(const struct settle *s, uint32_t layer) {
    (void)s;
    return layer % 2 == 0;
}

static int settle(struct settle *s, struct err *err) {
    uint32_t window;
    if (settle_window_key(s, &window, err) < 0 ||
        settle_windows(s, window, slides, true, err) < 0) {
        return -1;
    }
    s->arch->ffn_dim = settle_u32(s, KEY_MLP_DIM);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        struct layer_kind *k = &s->kinds[l];
        k->att.qkv_bias = k->att.o_bias = settle_u32(s, KEY_ATTENTION_BIAS);
        k->att.sinks = 1;
        k->route.logit_bias = 1;
        /* The softmax of the chosen logits alone, which is the same. */
        k->route.renorm = ROUTE_RENORM_SUM;
        k->ffn = (struct ffn_rule){.act = FFN_SWIGLU_OAI,
                                   .bias = 1,
                                   .limit = settle_f32(s, KEY_SWIGLU_LIMIT),
                                   .alpha = settle_f32(s, KEY_SWIGLU_ALPHA)};
    }
    return settle_rope(s, err);
}

const struct family family_gpt_oss = {
    .name = "gpt_oss",
    .types = {"gpt_oss"},
    .architectures = {"GptOssForCausalLM"},
    .mxfp4 = true,
    .eos = -1,
    .rope = {.theta = 150000,
             .fallback = "{\"rope_type\": \"yarn\", \"factor\": 32, \"beta_fast\": 32, "
                         "\"beta_slow\": 1, \"truncate\": false, "
                         "\"original_max_position_embeddings\": 4096}"},
    .keys = keys,
    .reads = reads,
    .names = names,
    .settle = settle,
};
