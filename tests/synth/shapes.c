#include "tests/synth/shapes.h"

#include <math.h>
#include <stdlib.h>

#include "format/base.h"

const char *const shapes_names[SHAPES + 1] = {"gpt-oss-20b",
                                              "qwen3.6-35b-a3b",
                                              "qwen3-30b-a3b",
                                              "mixtral-8x7b",
                                              "gpt-oss-tiny",
                                              "qwen3.6-tiny",
                                              NULL};
const char *const shapes_routings[] = {"planted", "uniform", NULL};

/* How positions turn heads: theta, components, and YaRN (arXiv 2309.00071) where `factor` > 0. */
struct shape_rope {
    double theta;
    uint32_t dim;
    double factor, original, fast, slow;
};

struct shape {
    const char *family;
    uint32_t layers, dim, vocab, ctx;
    float norm_eps;
    /* The last layer of each `period` attends to all tokens; the others are delta nets, or where
     * there is no such rule see a window. */
    uint32_t period, window;
    struct attention_rule att;
    struct delta_rule delta;
    struct shape_rope rope;
    uint32_t experts, active, ffn, shared;
    uint32_t router_bias;
    struct ffn_rule act;
    /* Planted (plant.h). */
    double common, topic, stay, drift;
};

#define GPT_OSS_ATT(heads, kv_heads, width)                                                        \
    {                                                                                              \
        .n_heads = heads, .n_kv_heads = kv_heads, .head_dim = width, .qkv_bias = 1, .o_bias = 1,   \
        .sinks = 1                                                                                 \
    }
#define QWEN_ATT(heads, kv_heads, width)                                                           \
    {                                                                                              \
        .n_heads = heads, .n_kv_heads = kv_heads, .head_dim = width, .qk_norm = ARCH_QK_NORM_HEAD, \
        .gate = 1                                                                                  \
    }
#define GPT_OSS_ACT                                                                                \
    { .act = FFN_SWIGLU_OAI, .bias = 1, .limit = 7, .alpha = 1.702f }

static const struct shape shapes[SHAPES] = {
    {.family = "gpt_oss",
     .layers = 24,
     .dim = 2880,
     .vocab = 201088,
     .ctx = 131072,
     .norm_eps = 1e-5f,
     .period = 2,
     .window = 128,
     .att = GPT_OSS_ATT(64, 8, 64),
     .rope = {150000, 64, 32, 4096, 32, 1},
     .experts = 32,
     .active = 4,
     .ffn = 2880,
     .router_bias = 1,
     .act = GPT_OSS_ACT,
     .common = 0.03,
     .topic = 0.4,
     .stay = 0.95,
     .drift = 0.025},
    {.family = "qwen3_5_moe",
     .layers = 40,
     .dim = 2048,
     .vocab = 248320,
     .ctx = 262144,
     .norm_eps = 1e-6f,
     .period = 4,
     .att = QWEN_ATT(16, 2, 256),
     .delta = {16, 32, 128, 128, 4},
     .rope = {10000000, 64},
     .experts = 256,
     .active = 8,
     .ffn = 512,
     .shared = 512,
     .act = {.act = FFN_SILU},
     .common = 0.03,
     .topic = 0.71,
     .stay = 0.95,
     .drift = 0.02},
    {.family = "qwen3_moe",
     .layers = 48,
     .dim = 2048,
     .vocab = 151936,
     .ctx = 40960,
     .norm_eps = 1e-6f,
     .period = 1,
     .att = {.n_heads = 32, .n_kv_heads = 4, .head_dim = 128, .qk_norm = ARCH_QK_NORM_HEAD},
     .rope = {1000000, 128},
     .experts = 128,
     .active = 8,
     .ffn = 768,
     .act = {.act = FFN_SILU},
     .common = 0.03,
     .topic = 0.71,
     .stay = 0.95,
     .drift = 0.02},
    {.family = "mixtral",
     .layers = 32,
     .dim = 4096,
     .vocab = 32000,
     .ctx = 32768,
     .norm_eps = 1e-5f,
     .period = 1,
     .att = {.n_heads = 32, .n_kv_heads = 8, .head_dim = 128},
     .rope = {1000000, 128},
     .experts = 8,
     .active = 2,
     .ffn = 14336,
     .act = {.act = FFN_SILU},
     .common = 0.03,
     .topic = 0.4,
     .stay = 0.95,
     .drift = 0.025},
    {.family = "gpt_oss",
     .layers = 4,
     .dim = 96,
     .vocab = 1024,
     .ctx = 4096,
     .norm_eps = 1e-5f,
     .period = 2,
     .window = 16,
     .att = GPT_OSS_ATT(8, 2, 16),
     .rope = {150000, 16, 32, 128, 32, 1},
     .experts = 16,
     .active = 4,
     .ffn = 96,
     .router_bias = 1,
     .act = GPT_OSS_ACT,
     .common = 0.1,
     .topic = 0.4,
     .stay = 0.97,
     .drift = 0.03},
    {.family = "qwen3_5_moe",
     .layers = 4,
     .dim = 128,
     .vocab = 1024,
     .ctx = 4096,
     .norm_eps = 1e-6f,
     .period = 4,
     .att = QWEN_ATT(4, 2, 32),
     .delta = {2, 4, 32, 32, 4},
     .rope = {10000000, 8},
     .experts = 32,
     .active = 4,
     .ffn = 64,
     .shared = 64,
     .act = {.act = FFN_SILU},
     .common = 0.1,
     .topic = 0.4,
     .stay = 0.97,
     .drift = 0.03},
};

/* The component whose wave turns `turns` times within the original context. */
static double yarn_component(const struct shape_rope *r, double turns) {
    return r->dim * log(r->original / (turns * 2 * M_PI)) / (2 * log(r->theta));
}

/* Slow components are stretched by the factor, fast ones kept, those between blended. */
static uint32_t add_rope(struct arch *a, const struct shape_rope *r) {
    uint32_t half = r->dim / 2;
    float *inv_freq = mem_calloc(half, sizeof *inv_freq);
    double scale = 1;
    for (uint32_t i = 0; i < half; i++) {
        inv_freq[i] = (float)pow(r->theta, -(double)i / half);
    }
    if (r->factor > 0) {
        double low = fmax(yarn_component(r, r->fast), 0);
        double high = fmin(yarn_component(r, r->slow), r->dim - 1);
        for (uint32_t i = 0; i < half; i++) {
            double slow = fmin(fmax((i - low) / (high - low), 0), 1);
            inv_freq[i] *= (float)(slow / r->factor + (1 - slow));
        }
        scale = 0.1 * log(r->factor) + 1;
    }
    uint32_t index = arch_add_rope(a, r->dim, inv_freq, (float)scale);
    free(inv_freq);
    return index;
}

static void fill_arch(struct arch *a, const struct shape *s, uint32_t layers) {
    a->family = mem_strdup(s->family);
    a->n_layers = layers ? layers : s->layers;
    a->dim = s->dim;
    a->vocab = s->vocab;
    a->ctx_max_tok = s->ctx;
    a->norm_eps = s->norm_eps;
    a->embed_scale = 1;
    a->n_experts = s->experts;
    a->n_active = s->active;
    a->ffn_dim = s->ffn;
    a->gen_temperature = a->gen_top_p = a->gen_top_k = a->gen_repeat_penalty = -1;
    a->n_stop = 1;
    a->stop_ids = mem_calloc(1, sizeof *a->stop_ids);
    a->stop_ids[0] = s->vocab - LANG_SPECIALS;
    struct layer_kind *kinds = mem_calloc(a->n_layers, sizeof *kinds);
    uint32_t rope = add_rope(a, &s->rope);
    for (uint32_t l = 0; l < a->n_layers; l++) {
        struct layer_kind *k = &kinds[l];
        bool full = (l + 1) % s->period == 0;
        *k = arch_plain_kind();
        if (!full && s->delta.conv > 0) {
            k->mixer = MIXER_DELTA_NET;
            k->delta = s->delta;
        } else {
            k->att = s->att;
            k->att.rope = rope;
            k->att.window = full ? 0 : s->window;
        }
        k->moe = 1;
        k->route.renorm = 1;
        k->route.logit_bias = s->router_bias;
        k->ffn = s->act;
        k->shared_dim = s->shared;
        k->shared_gate = s->shared > 0;
    }
    arch_set_kinds(a, kinds);
    free(kinds);
}

int shapes_open(struct plant *p, int shape, enum shapes_routing routing, uint32_t layers,
                uint64_t seed, struct err *err) {
    const struct shape *s = &shapes[shape];
    struct arch arch = {0};
    /* Neurons' scales as the presets of real models have them; gate and up rows are independent,
     * because rows of random codes are. */
    struct plant_shape planted = {.topics = 32,
                                  .stay = s->stay,
                                  .zipf = 1,
                                  .common = s->common,
                                  .topic = s->topic,
                                  .drift = s->drift,
                                  .attention = 0.35,
                                  .router = 1.5,
                                  .gate_sigma = 0.1,
                                  .up_sigma = 0.15,
                                  .down_sigma = 0.15,
                                  .seed = seed};
    if (routing == SHAPES_UNIFORM) {
        planted.common = planted.topic = 0.01;
        planted.stay = planted.zipf = 0;
        planted.attention = 0.05; /* it carries the past */
    }
    fill_arch(&arch, s, layers);
    return plant_open_arch(p, &planted, &arch, err);
}
