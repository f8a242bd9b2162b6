/*
 * family_mistral4: Mistral Small 4, alone or inside the model that sees. Latent attention, whose
 * scores grow with the position of the query; experts are chosen by a softmax from the best groups,
 * beside shared ones. What sees is not read.
 */
#include "prep/hf/settle.h"

static const struct family_key keys[] = {
    {KEY_VOCAB, 131072},       {KEY_DIM, 4096},
    {KEY_MLP_DIM, 12288},      {KEY_LAYERS, 36},
    {KEY_HEADS, 32},           {KEY_KV_HEADS, 0},
    {KEY_HEAD_DIM, 128},       {KEY_CONTEXT, 1048576},
    {KEY_NORM_EPS, 1e-6},      {KEY_TIED, 0},
    {KEY_ATTENTION_BIAS, 0},   {KEY_LATENT_RANK, 256},
    {KEY_LATENT_Q_RANK, 1024}, {KEY_LATENT_NOPE_DIM, 64},
    {KEY_LATENT_ROPE_DIM, 64}, {KEY_V_DIM, 128},
    {KEY_DENSE_FIRST, 0},      {KEY_EXPERTS, 128},
    {KEY_ACTIVE, 4},           {KEY_EXPERT_DIM, 2048},
    {KEY_SHARED_EXPERTS, 1},   {KEY_GROUPS, 1},
    {KEY_TOP_GROUPS, 1},       {KEY_NORM_TOPK, 1},
    {KEY_ROUTE_SCALE, 1},      {KEY_END},
};

static const char *const reads[] = {SETTLE_LATENT_READS, NULL};
static const char *const skipped[] = {"vision_tower.*", "multi_modal_projector.*",
                                      "model.vision_tower.*", "model.multi_modal_projector.*",
                                      NULL};

static int settle(struct settle *s, struct err *err) {
    const struct route_rule route = {.renorm = settle_u32(s, KEY_NORM_TOPK),
                                     .groups = settle_u32(s, KEY_GROUPS),
                                     .top_groups = settle_u32(s, KEY_TOP_GROUPS),
                                     .group_score = ROUTE_GROUP_TOP_TWO,
                                     .eps = 1e-20f,
                                     .scale = settle_f32(s, KEY_ROUTE_SCALE)};
    settle_dense_first(s);
    for (uint32_t l = 0; l < s->arch->n_layers; l++) {
        s->kinds[l].route = route;
    }
    return settle_latent(s, err);
}

const struct family family_mistral4 = {
    .name = "mistral4",
    .types = {"mistral4", "mistral3"}, /* the latter is what sees, with other texts, too */
    .architectures = {"Mistral4ForCausalLM", "Mistral3ForConditionalGeneration"},
    .wrapped = true,
    .eos = 2,
    .rope = {.theta = 1e4,
             .fallback = "{\"rope_type\": \"yarn\", \"factor\": 128, \"mscale\": 1,"
                         " \"mscale_all_dim\": 1, \"original_max_position_embeddings\": 8192,"
                         " \"llama_4_scaling_beta\": 0.1}",
             .query_scaled = true},
    .keys = keys,
    .reads = reads,
    .names = family_common,
    .skipped = skipped,
    .settle = settle,
};
